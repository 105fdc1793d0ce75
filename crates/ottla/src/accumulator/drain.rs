//! Takes batches out of their lines: one a partition, round a node's partitions from where the last drain
//! ended, up to `max.request.size`; and those whose time is over.

use std::collections::BTreeMap;

use super::batch::{ClosedBatch, OpenBatch, StampedBatch};
use super::marks::Bits;
use super::partition::{Partition, QueuedBatch, SenderGuard, SplittingBatch};
use super::ready::{Active, Order, View, is_over};
use crate::plants::inject_bug;
use ottla_protocol::compression::Codec;

/// Batches a request is given room for at once.
const REQUEST: usize = 64;

/// What a drain took.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// Ready for one request.
    pub(crate) batches: Vec<StampedBatch>,
    /// To be closed off this thread; they announce themselves when done.
    pub(crate) to_close: Vec<OpenBatch>,
    /// To be cut off this thread: their broker is known to refuse batches of their size.
    pub(crate) to_cut: Vec<ClosedBatch>,
}

/// One batch on its way out of the line.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum Out {
    Closed(ClosedBatch),
    Retry(Box<StampedBatch>),
    Open(OpenBatch),
}

/// What a look at the head of a line came to.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum Taken {
    Batch(Out, usize),
    ToClose(OpenBatch),
    ToCut(ClosedBatch),
    /// It does not fit any more.
    TooMuch,
    Nothing,
}

/// A batch that ran out of time.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on its way to its end")]
#[derive(Debug)]
pub(crate) enum Expired {
    /// Never sent, or its last attempt settled that it was not written.
    Unsent(ClosedBatch),
    /// Sent, and put back.
    Sent(Box<StampedBatch>),
}

impl Active {
    /// Takes what `node` may be sent now; all of it was found ready in this round. What only lingers goes along, as
    /// it does with the classic producer, if so told.
    #[inline(never)]
    pub(crate) fn drain(
        &mut self,
        view: View<'_>,
        order: &mut impl Order,
        (max_size, along): (usize, bool),
        node: i32,
    ) -> Drained {
        let mut out = Drained::default();
        let from = self.drained.get(&node).map_or(0, |last| last.wrapping_add(1));
        let (mut size, mut round) = (0, Round { from, next: from, wrapped: false });
        let sets = |s: &Self, from: u32| {
            let next = |of: &BTreeMap<i32, Bits>| of.get(&node).and_then(|keys| keys.next(from));
            let lingering = if along { next(&s.lingering) } else { None };
            [next(&s.ready), lingering].into_iter().flatten().min()
        };
        while let Some(key) = round.next(|from| sets(self, from)) {
            let Some(p) = self.get(key).cloned() else { continue };
            // A first batch larger than the limit still goes, alone.
            let room =
                if out.batches.is_empty() { usize::MAX } else { max_size - size.min(max_size) };
            let taken = take_head(p.lock_for_sender(), &p, view, room);
            self.touch(key);
            match taken {
                Taken::Batch(batch, len) => {
                    size += len;
                    self.drained.insert(node, key);
                    let mut batch = match batch {
                        Out::Closed(b) => order.stamp(b),
                        Out::Retry(b) if inject_bug!(BufferReused) => b.with_corrupted_records(),
                        Out::Retry(b) => *b,
                        Out::Open(open) => {
                            rejoin(&open, view);
                            order.stamp(open.close(None))
                        }
                    };
                    batch.closed.timings.drained_at.get_or_insert(view.now);
                    if out.batches.is_empty() {
                        let ready = self.ready.get(&node).map_or(1, Bits::len);
                        out.batches.reserve(ready.min(REQUEST));
                    }
                    out.batches.push(batch);
                }
                Taken::ToClose(open) => {
                    rejoin(&open, view);
                    out.to_close.push(open);
                }
                Taken::ToCut(batch) => out.to_cut.push(batch),
                Taken::TooMuch => break,
                Taken::Nothing => {}
            }
        }
        out
    }

    /// Takes batches created `delivery.timeout.ms` ago or earlier.
    pub(crate) fn expire(&mut self, view: View<'_>) -> Vec<Expired> {
        let mut expired = Vec::new();
        let timeout = view.acc.settings.delivery_timeout;
        while let Some(key) = self.expiries.pop(view.now) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.expiry = None;
            let p = entry.partition.clone();
            self.touch(key);
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
                expired.extend(taken.and_then(Expired::of));
                expired.extend(open.map(|open| Expired::Unsent(open.abort())));
            }
        }
        expired
    }

    /// Takes everything of some partitions, whatever its time.
    pub(crate) fn take(&mut self, which: impl Fn(&Partition) -> bool) -> Vec<Expired> {
        self.take_where(which, |_| true)
    }

    /// Takes batches up to this number, whatever their time.
    pub(crate) fn take_up_to(&mut self, number: u64) -> Vec<Expired> {
        self.take_where(|_| true, |n| n <= number)
    }

    fn take_where(
        &mut self,
        which: impl Fn(&Partition) -> bool,
        batch: impl Fn(u64) -> bool,
    ) -> Vec<Expired> {
        let mut out = Vec::new();
        let chosen = self.entries.values().filter(|e| which(&e.partition));
        let mut keys: Vec<u32> = chosen.map(|e| e.partition.id).collect();
        keys.sort_unstable();
        for key in keys {
            let Some(p) = self.get(key).cloned() else { continue };
            // What somebody works on stays: it is filled, and seen to then.
            let (line, open) = p.lock_for_sender().take_where(&batch);
            self.touch(key);
            out.extend(line.into_iter().filter_map(Expired::of));
            out.extend(open.map(|b| Expired::Unsent(b.abort())));
        }
        out
    }
}

/// Once round a node's partitions.
struct Round {
    from: u32,
    next: u32,
    wrapped: bool,
}

impl Round {
    fn next(&mut self, at: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        if !self.wrapped {
            if let Some(key) = at(self.next) {
                self.next = key + 1;
                return Some(key);
            }
            (self.wrapped, self.next) = (true, 0);
        }
        let key = at(self.next).filter(|key| *key < self.from)?;
        self.next = key + 1;
        Some(key)
    }
}

impl Expired {
    fn of(slot: QueuedBatch) -> Option<Expired> {
        match slot {
            QueuedBatch::Closed(b) => Some(Expired::Unsent(b)),
            QueuedBatch::Retry(b, _) => Some(Expired::Sent(b)),
            QueuedBatch::Closing(..) | QueuedBatch::Splitting(_) => None,
        }
    }
}

/// Callers that went apart and fill no batches come together again.
fn rejoin(open: &OpenBatch, view: View<'_>) {
    if open.is_half_empty()
        && let Some(topic) = view.acc.topics.get(&open.meta.partition.topic)
    {
        topic.sticky.join();
    }
}

/// Takes the head of a line that was found ready, if it fits.
fn take_head(mut queue: SenderGuard<'_>, p: &Partition, view: View<'_>, room: usize) -> Taken {
    if is_over(&queue, view) {
        return Taken::Nothing;
    }
    let len = match queue.batches.front() {
        Some(QueuedBatch::Closed(b))
            if p.estimator.is_refused(b.wire_len()) && b.meta.record_count > 1 =>
        {
            let Some(QueuedBatch::Closed(b)) = queue.batches.pop_front() else {
                return Taken::Nothing;
            };
            queue.batches.push_front(QueuedBatch::Splitting(SplittingBatch::new(&b)));
            return Taken::ToCut(b);
        }
        Some(QueuedBatch::Closed(b)) => b.wire_len(),
        Some(QueuedBatch::Retry(b, _)) => b.closed.wire_len(),
        Some(QueuedBatch::Closing(..) | QueuedBatch::Splitting(_)) => return Taken::Nothing,
        None => queue.open().map_or(0, OpenBatch::wire_len),
    };
    if queue.batches.is_empty() && view.acc.settings.codec != Codec::None {
        // Compression is not for this thread: keep the place, hand it out.
        return queue.close_open().map_or(Taken::Nothing, Taken::ToClose);
    }
    if len > room {
        return Taken::TooMuch;
    }
    match queue.batches.pop_front() {
        Some(QueuedBatch::Closed(b)) => Taken::Batch(Out::Closed(b), len),
        Some(QueuedBatch::Retry(b, _)) => Taken::Batch(Out::Retry(b), len),
        _ => queue.take_open().map_or(Taken::Nothing, |b| Taken::Batch(Out::Open(b), len)),
    }
}
