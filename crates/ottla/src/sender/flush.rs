//! Completes flushes: a flush waits for the batches that exist when it begins, by their numbers.

use std::sync::Arc;

use super::Sender;
use crate::collections::HashSet;
use crate::injected_bugs::inject_bug;
use crate::network::io::Io;
use crate::wakeup::waiters::FlushCompletion;

/// A flush and the batches that it waits for.
#[derive(Debug)]
struct PendingFlush {
    completion: Arc<FlushCompletion>,
    /// The numbers of the batches that are not completed yet.
    incomplete_batches: HashSet<u64>,
}

/// The flushes that are not complete.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    pending: Vec<PendingFlush>,
    up_to: u64,
}

impl Flushes {
    /// Begins a flush that waits for these batches, and for no later one.
    fn begin(&mut self, completion: Arc<FlushCompletion>, incomplete_batches: HashSet<u64>) {
        let last = incomplete_batches.iter().copied().max().unwrap_or(0);
        self.up_to = self.up_to.max(last);
        self.pending.push(PendingFlush { completion, incomplete_batches });
    }

    /// Returns the last batch number that a flush has waited for. Batches up to it do not linger.
    pub(super) fn up_to(&self) -> u64 {
        self.up_to
    }

    /// Removes a completed batch from all flushes.
    pub(super) fn batch_completed(&mut self, number: u64) {
        for flush in &mut self.pending {
            flush.incomplete_batches.remove(&number);
        }
    }

    /// Makes the flushes that wait for a split batch wait for its parts (CASES RA13).
    pub(super) fn batch_split(&mut self, number: u64, parts: impl Iterator<Item = u64> + Clone) {
        for flush in &mut self.pending {
            let is_awaited = flush.incomplete_batches.remove(&number);
            if inject_bug!(FlushIgnoresSplit, is_awaited) {
                flush.incomplete_batches.extend(parts.clone());
            }
        }
    }

    /// Completes the flushes that have no incomplete batch left.
    pub(super) fn complete_finished(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.pending.retain(|flush| {
            let is_complete = flush.incomplete_batches.is_empty();
            if is_complete {
                flush.completion.complete();
            }
            !is_complete
        });
    }

    /// Removes and returns all flushes: the sender ends.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Arc<FlushCompletion>> + use<> {
        std::mem::take(&mut self.pending).into_iter().map(|flush| flush.completion)
    }
}

impl<I: Io> Sender<I> {
    /// Begins a flush: it waits for every batch that exists now, and for no later one.
    pub(super) fn begin_flush(&mut self, completion: Arc<FlushCompletion>) {
        let mut incomplete: HashSet<u64> = self.in_flight_batches.incomplete_numbers().collect();
        for p in self.ready.iter() {
            let queue = p.lock_for_sender();
            incomplete.extend(queue.batches.iter().map(|b| b.number()));
            incomplete.extend(queue.open().map(|b| b.meta.number));
        }
        self.flushes.begin(completion, incomplete);
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::wakeup::waiters::FlushFuture;

    struct Flush(FlushFuture);

    impl Flush {
        fn begin(flushes: &mut Flushes, batches: &[u64]) -> Flush {
            let completion = Arc::<FlushCompletion>::default();
            flushes.begin(completion.clone(), batches.iter().copied().collect());
            Flush(FlushFuture { completion })
        }

        fn is_complete(&mut self) -> bool {
            let mut cx = Context::from_waker(Waker::noop());
            Pin::new(&mut self.0).poll(&mut cx).is_ready()
        }
    }

    // CASES: RA13.
    #[test]
    fn flush_waits_for_its_batches_and_for_the_parts_of_a_split_one() {
        let mut flushes = Flushes::default();
        let (mut first, mut second) =
            (Flush::begin(&mut flushes, &[1, 2]), Flush::begin(&mut flushes, &[2]));
        assert_eq!(flushes.up_to(), 2);
        flushes.batch_completed(1);
        flushes.batch_split(2, [3, 4].into_iter());
        flushes.batch_completed(3);
        flushes.complete_finished();
        assert!(!first.is_complete() && !second.is_complete(), "part 4 is incomplete");
        flushes.batch_completed(4);
        flushes.complete_finished();
        assert!(first.is_complete() && second.is_complete());
    }

    #[test]
    fn flush_of_nothing_completes_at_once() {
        let mut flushes = Flushes::default();
        let (mut empty, mut other) =
            (Flush::begin(&mut flushes, &[]), Flush::begin(&mut flushes, &[9]));
        flushes.complete_finished();
        assert!(empty.is_complete() && !other.is_complete());
        assert_eq!(flushes.take_all().count(), 1, "the sender ends");
    }
}
