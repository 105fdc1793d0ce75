//! Completes flushes: a flush waits for the batches that exist when it begins, by their numbers.

use std::sync::Arc;

use super::Sender;
use crate::collections::HashSet;
use crate::injected_bugs::inject_bug;
use crate::network::io::Io;
use crate::wakeup::waiters::FlushCompletion;

/// A flush and the batches that it waits for.
pub(super) struct PendingFlush {
    pub(super) completion: Arc<FlushCompletion>,
    /// The numbers of the batches that are not completed yet.
    pub(super) incomplete_batches: HashSet<u64>,
}

impl<I: Io> Sender<I> {
    /// Begins a flush: it waits for every batch that exists now, and for no later one.
    pub(super) fn begin_flush(&mut self, completion: Arc<FlushCompletion>) {
        let mut incomplete_batches: HashSet<u64> = (self.in_flight_batches.values())
            .flat_map(|f| &f.batches)
            .filter(|b| !b.closed.is_completed())
            .map(|b| b.closed.meta.number)
            .collect();
        for p in self.ready.iter() {
            let queue = p.lock_for_sender();
            incomplete_batches.extend(queue.batches.iter().map(|b| b.number()));
            incomplete_batches.extend(queue.open().map(|b| b.meta.number));
        }
        let last = incomplete_batches.iter().copied().max().unwrap_or(0);
        self.flush_up_to = self.flush_up_to.max(last);
        self.pending_flushes.push(PendingFlush { completion, incomplete_batches });
    }

    /// Removes a completed batch from all flushes.
    pub(super) fn batch_completed(&mut self, number: u64) {
        for flush in &mut self.pending_flushes {
            flush.incomplete_batches.remove(&number);
        }
    }

    /// Makes the flushes that wait for a split batch wait for its parts (CASES RA13).
    pub(super) fn batch_split(&mut self, number: u64, parts: impl Iterator<Item = u64> + Clone) {
        for flush in &mut self.pending_flushes {
            let is_awaited = flush.incomplete_batches.remove(&number);
            if inject_bug!(FlushIgnoresSplit, is_awaited) {
                flush.incomplete_batches.extend(parts.clone());
            }
        }
    }

    /// Completes the flushes that have no incomplete batch left.
    pub(super) fn complete_flushes(&mut self) {
        if self.pending_flushes.is_empty() {
            return;
        }
        self.pending_flushes.retain(|flush| {
            let is_complete = flush.incomplete_batches.is_empty();
            if is_complete {
                flush.completion.complete();
            }
            !is_complete
        });
    }
}
