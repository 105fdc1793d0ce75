//! Takes batches out of their lines: one a partition, round a node's partitions from where the last drain
//! ended, up to `max.request.size`; and those whose time is over.

use std::collections::BTreeMap;

use super::batch::{ClosedBatch, OpenBatch, StampedBatch};
use super::deadline_queue::BitSet;
use super::partition::{Partition, QueuedBatch, SenderGuard, SplittingBatch};
use super::ready::{DrainContext, DrainPolicy, ReadyTracker, is_expired};
use crate::injected_bugs::inject_bug;
use ottla_protocol::compression::Codec;

/// Batches a request is given room for at once.
const INITIAL_REQUEST_CAPACITY: usize = 64;

/// What a drain took.
#[derive(Debug, Default)]
pub(crate) struct DrainedBatches {
    /// Ready for one request.
    pub(crate) batches: Vec<StampedBatch>,
    /// To be closed off this thread; they announce themselves when done.
    pub(crate) to_close: Vec<OpenBatch>,
    /// To be cut off this thread: their broker is known to refuse batches of their size.
    pub(crate) to_split: Vec<ClosedBatch>,
}

/// One batch on its way out of the line.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum DrainedBatch {
    Closed(ClosedBatch),
    Retry(Box<StampedBatch>),
    Open(OpenBatch),
}

/// What a look at the head of a line came to.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum HeadAction {
    Drain(DrainedBatch, usize),
    Close(OpenBatch),
    Split(ClosedBatch),
    /// It does not fit any more.
    TooLarge,
    Skip,
}

/// A batch that ran out of time.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on its way to its end")]
#[derive(Debug)]
pub(crate) enum RemovedBatch {
    /// Never sent, or its last attempt settled that it was not written.
    Unsent(ClosedBatch),
    /// Sent, and put back.
    Sent(Box<StampedBatch>),
}

impl ReadyTracker {
    /// Takes what `node` may be sent now; all of it was found ready in this round. What only lingers goes along, as
    /// it does with the classic producer, if so told.
    #[inline(never)]
    pub(crate) fn drain(
        &mut self,
        view: DrainContext<'_>,
        order: &mut impl DrainPolicy,
        (max_size, along): (usize, bool),
        node: i32,
    ) -> DrainedBatches {
        let mut out = DrainedBatches::default();
        let from = self.drain_index.get(&node).map_or(0, |last| last.wrapping_add(1));
        let (mut size, mut round) = (0, RoundRobin { start: from, next: from, wrapped: false });
        let sets = |s: &Self, from: u32| {
            let next =
                |of: &BTreeMap<i32, BitSet>| of.get(&node).and_then(|keys| keys.next_set_bit(from));
            let lingering = if along { next(&s.lingering_by_node) } else { None };
            [next(&s.ready_by_node), lingering].into_iter().flatten().min()
        };
        while let Some(key) = round.next(|from| sets(self, from)) {
            let Some(p) = self.get(key).cloned() else { continue };
            // A first batch larger than the limit still goes, alone.
            let room =
                if out.batches.is_empty() { usize::MAX } else { max_size - size.min(max_size) };
            let taken = take_head(p.lock_for_sender(), &p, view, room);
            self.mark_dirty(key);
            match taken {
                HeadAction::Drain(batch, len) => {
                    size += len;
                    self.drain_index.insert(node, key);
                    let mut batch = match batch {
                        DrainedBatch::Closed(b) => order.stamp(b),
                        DrainedBatch::Retry(b) if inject_bug!(BufferReused) => {
                            b.with_corrupted_records()
                        }
                        DrainedBatch::Retry(b) => *b,
                        DrainedBatch::Open(open) => {
                            merge_stripes_if_idle(&open, view);
                            order.stamp(open.close(None))
                        }
                    };
                    batch.closed.timings.drained_at.get_or_insert(view.now);
                    if out.batches.is_empty() {
                        let ready = self.ready_by_node.get(&node).map_or(1, BitSet::len);
                        out.batches.reserve(ready.min(INITIAL_REQUEST_CAPACITY));
                    }
                    out.batches.push(batch);
                }
                HeadAction::Close(open) => {
                    merge_stripes_if_idle(&open, view);
                    out.to_close.push(open);
                }
                HeadAction::Split(batch) => out.to_split.push(batch),
                HeadAction::TooLarge => break,
                HeadAction::Skip => {}
            }
        }
        out
    }

    /// Takes batches created `delivery.timeout.ms` ago or earlier.
    pub(crate) fn expire(&mut self, view: DrainContext<'_>) -> Vec<RemovedBatch> {
        let mut expired = Vec::new();
        let timeout = view.accumulator.settings.delivery_timeout;
        while let Some(key) = self.expiries.pop_due(view.now) {
            let Some(entry) = self.partitions.get_mut(&key) else { continue };
            entry.expiry = None;
            let p = entry.partition.clone();
            self.mark_dirty(key);
            loop {
                let mut queue = p.lock_for_sender();
                let created = match (queue.batches.front(), queue.open()) {
                    // Whoever works on it is about to be done.
                    (Some(slot), _) if slot.is_being_processed() => break,
                    (Some(slot), _) => slot.created(),
                    (None, Some(open)) => open.meta.created,
                    (None, None) => break,
                };
                if created.after(timeout) > view.now {
                    break;
                }
                let taken = queue.batches.pop_front();
                let open = if taken.is_none() { queue.take_open() } else { None };
                drop(queue);
                expired.extend(taken.and_then(RemovedBatch::from_queued));
                expired.extend(open.map(|open| RemovedBatch::Unsent(open.abort())));
            }
        }
        expired
    }

    /// Takes everything of some partitions, whatever its time.
    pub(crate) fn remove(&mut self, which: impl Fn(&Partition) -> bool) -> Vec<RemovedBatch> {
        self.remove_where(which, |_| true)
    }

    /// Takes batches up to this number, whatever their time.
    pub(crate) fn remove_up_to(&mut self, number: u64) -> Vec<RemovedBatch> {
        self.remove_where(|_| true, |n| n <= number)
    }

    fn remove_where(
        &mut self,
        which: impl Fn(&Partition) -> bool,
        batch: impl Fn(u64) -> bool,
    ) -> Vec<RemovedBatch> {
        let mut out = Vec::new();
        let chosen = self.partitions.values().filter(|e| which(&e.partition));
        let mut keys: Vec<u32> = chosen.map(|e| e.partition.id).collect();
        keys.sort_unstable();
        for key in keys {
            let Some(p) = self.get(key).cloned() else { continue };
            // What somebody works on stays: it is filled, and seen to then.
            let (line, open) = p.lock_for_sender().take_where(&batch);
            self.mark_dirty(key);
            out.extend(line.into_iter().filter_map(RemovedBatch::from_queued));
            out.extend(open.map(|b| RemovedBatch::Unsent(b.abort())));
        }
        out
    }
}

/// Once round a node's partitions.
struct RoundRobin {
    start: u32,
    next: u32,
    wrapped: bool,
}

impl RoundRobin {
    fn next(&mut self, at: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        if !self.wrapped {
            if let Some(key) = at(self.next) {
                self.next = key + 1;
                return Some(key);
            }
            (self.wrapped, self.next) = (true, 0);
        }
        let key = at(self.next).filter(|key| *key < self.start)?;
        self.next = key + 1;
        Some(key)
    }
}

impl RemovedBatch {
    fn from_queued(slot: QueuedBatch) -> Option<RemovedBatch> {
        match slot {
            QueuedBatch::Closed(b) => Some(RemovedBatch::Unsent(b)),
            QueuedBatch::Retry(b, _) => Some(RemovedBatch::Sent(b)),
            QueuedBatch::Closing(..) | QueuedBatch::Splitting(_) => None,
        }
    }
}

/// Callers that went apart and fill no batches come together again.
fn merge_stripes_if_idle(open: &OpenBatch, view: DrainContext<'_>) {
    if open.is_half_empty()
        && let Some(topic) = view.accumulator.topics.get(&open.meta.partition.topic)
    {
        topic.sticky_partition.merge_stripes();
    }
}

/// Takes the head of a line that was found ready, if it fits.
fn take_head(
    mut queue: SenderGuard<'_>,
    p: &Partition,
    view: DrainContext<'_>,
    room: usize,
) -> HeadAction {
    if is_expired(&queue, view) {
        return HeadAction::Skip;
    }
    let len = match queue.batches.front() {
        Some(QueuedBatch::Closed(b))
            if p.estimator.is_rejected(b.wire_len()) && b.meta.record_count > 1 =>
        {
            let Some(QueuedBatch::Closed(b)) = queue.batches.pop_front() else {
                return HeadAction::Skip;
            };
            queue.batches.push_front(QueuedBatch::Splitting(SplittingBatch::new(&b)));
            return HeadAction::Split(b);
        }
        Some(QueuedBatch::Closed(b)) => b.wire_len(),
        Some(QueuedBatch::Retry(b, _)) => b.closed.wire_len(),
        Some(QueuedBatch::Closing(..) | QueuedBatch::Splitting(_)) => return HeadAction::Skip,
        None => queue.open().map_or(0, OpenBatch::wire_len),
    };
    if queue.batches.is_empty() && view.accumulator.settings.codec != Codec::None {
        // Compression is not for this thread: keep the place, hand it out.
        return queue.close_open().map_or(HeadAction::Skip, HeadAction::Close);
    }
    if len > room {
        return HeadAction::TooLarge;
    }
    match queue.batches.pop_front() {
        Some(QueuedBatch::Closed(b)) => HeadAction::Drain(DrainedBatch::Closed(b), len),
        Some(QueuedBatch::Retry(b, _)) => HeadAction::Drain(DrainedBatch::Retry(b), len),
        _ => queue
            .take_open()
            .map_or(HeadAction::Skip, |b| HeadAction::Drain(DrainedBatch::Open(b), len)),
    }
}
