//! A partition's line: an open batch that takes records, and closed ones in the order they were closed.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

use super::batch::{BatchMeta, ClosedBatch, OpenBatch, StampedBatch};
use super::batch_size_estimator::BatchSizeEstimator;
use crate::injected_bugs::inject_bug;
use crate::sync::{Mutex, MutexGuard};
use crate::time::Tick;

/// One partition of one topic; there for as long as the producer. One that never had a record is this and no
/// more.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Partition {
    pub(crate) queue: Mutex<PartitionQueue>,
    pub(crate) topic: Arc<str>,
    /// What the topic's batches have taught.
    pub(crate) estimator: Arc<BatchSizeEstimator>,
    pub(crate) index: i32,
    /// Dense, unique in the producer: what the sender files it under.
    pub(crate) id: u32,
    /// The leader's node id, −1 for none: for whoever chooses a partition.
    pub(crate) leader: AtomicI32,
    /// Batches that wait here, the open one among them; 0 until the first. For adaptive partitioning.
    queued_plus_one: AtomicU32,
    /// The sender holds the lock, for a moment: no reason for a caller to go elsewhere.
    locked_by_sender: AtomicBool,
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct PartitionQueue {
    /// The batch that takes records. Its box stays when it leaves: one allocation a partition, not a batch.
    open: Option<Box<Option<OpenBatch>>>,
    pub(crate) batches: VecDeque<QueuedBatch>,
    /// Bytes appended since the sticky choice fell here.
    pub(crate) sticky_bytes: u32,
    /// Whether the sender knows that there is something.
    pub(crate) announced: bool,
}

/// A place in the line. The order is fixed before compression begins.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a slot is being closed for a moment, then filled in place"
)]
pub(crate) enum QueuedBatch {
    /// Being closed by somebody, off the lock: its number, and its age.
    Closing(u64, Tick),
    /// Never sent.
    Closed(ClosedBatch),
    /// Sent before; goes out with the sequence it has.
    Retry(Box<StampedBatch>, Tick),
    /// Was too large for a broker, and is being cut into parts that will stand here.
    Splitting(SplittingBatch),
}

/// The sender's hold on a partition.
pub(crate) struct SenderGuard<'p> {
    queue: MutexGuard<'p, PartitionQueue>,
    locked_by_sender: &'p AtomicBool,
}

impl Drop for SenderGuard<'_> {
    fn drop(&mut self) {
        self.locked_by_sender.store(false, Relaxed);
    }
}

impl Deref for SenderGuard<'_> {
    type Target = PartitionQueue;
    fn deref(&self) -> &PartitionQueue {
        &self.queue
    }
}

impl DerefMut for SenderGuard<'_> {
    fn deref_mut(&mut self) -> &mut PartitionQueue {
        &mut self.queue
    }
}

/// What is known of a batch while somebody cuts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SplittingBatch {
    pub(crate) number: u64,
    pub(crate) queue_position: (u64, u32),
    pub(crate) created: Tick,
}

impl SplittingBatch {
    pub(crate) fn new(batch: &ClosedBatch) -> SplittingBatch {
        let BatchMeta { number, queue_position: place, created, .. } = batch.meta;
        SplittingBatch { number, queue_position: place, created }
    }
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        index: i32,
        key: u32,
        sizing: Arc<BatchSizeEstimator>,
    ) -> Partition {
        let (leader, queued) = (AtomicI32::new(-1), AtomicU32::new(0));
        let (visited, queue) = Default::default();
        Partition {
            topic,
            index,
            id: key,
            leader,
            estimator: sizing,
            queued_plus_one: queued,
            locked_by_sender: visited,
            queue,
        }
    }

    /// The lock, for the sender.
    pub(crate) fn lock_for_sender(&self) -> SenderGuard<'_> {
        self.locked_by_sender.store(true, Relaxed);
        SenderGuard { queue: self.queue.lock(), locked_by_sender: &self.locked_by_sender }
    }

    pub(crate) fn is_locked_by_sender(&self) -> bool {
        self.locked_by_sender.load(Relaxed)
    }

    /// Fills the slot that was kept for this batch.
    pub(crate) fn fill_closing(&self, batch: ClosedBatch) {
        let number = batch.meta.number;
        let mut queue = self.queue.lock();
        let slot = queue
            .batches
            .iter_mut()
            .rev()
            .find(|s| matches!(s, QueuedBatch::Closing(n, _) if *n == number));
        if let Some(slot) = slot {
            *slot = QueuedBatch::Closed(batch);
            return;
        }
        drop(queue);
        debug_assert!(false, "a slot was kept for batch {number}");
    }

    /// Batches that wait, when last counted; `None` if there never was one.
    pub(crate) fn queued_batches(&self) -> Option<u32> {
        self.queued_plus_one.load(Relaxed).checked_sub(1)
    }

    /// Tells those who choose a partition how many wait.
    pub(crate) fn update_queued(&self, queue: &PartitionQueue) -> bool {
        let n = queue.len() as u32 + 1;
        self.queued_plus_one.swap(n, Relaxed) != n
    }
}

impl QueuedBatch {
    pub(crate) fn created(&self) -> Tick {
        match self {
            QueuedBatch::Closing(_, created) => *created,
            QueuedBatch::Closed(b) => b.meta.created,
            QueuedBatch::Retry(b, _) => b.closed.meta.created,
            QueuedBatch::Splitting(s) => s.created,
        }
    }

    /// Somebody works on it off the lock, and will fill it.
    pub(crate) fn is_being_processed(&self) -> bool {
        matches!(self, QueuedBatch::Closing(..) | QueuedBatch::Splitting(_))
    }

    /// The batch, without its place in the order; `None` while somebody works on it.
    pub(crate) fn into_closed(self) -> Option<ClosedBatch> {
        match self {
            QueuedBatch::Closing(..) | QueuedBatch::Splitting(_) => None,
            QueuedBatch::Closed(b) => Some(b),
            QueuedBatch::Retry(b, _) => Some(b.unstamp()),
        }
    }

    /// Where it belongs in the line.
    fn queue_position(&self) -> (u64, u32) {
        match self {
            QueuedBatch::Closing(n, _) => (*n, 0),
            QueuedBatch::Closed(b) => b.meta.queue_position,
            QueuedBatch::Retry(b, _) => b.closed.meta.queue_position,
            QueuedBatch::Splitting(s) => s.queue_position,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        match self {
            QueuedBatch::Closing(n, _) => *n,
            QueuedBatch::Closed(b) => b.meta.number,
            QueuedBatch::Retry(b, _) => b.closed.meta.number,
            QueuedBatch::Splitting(s) => s.number,
        }
    }
}

impl PartitionQueue {
    pub(crate) fn open(&self) -> Option<&OpenBatch> {
        self.open.as_deref()?.as_ref()
    }

    pub(crate) fn open_mut(&mut self) -> Option<&mut OpenBatch> {
        self.open.as_deref_mut()?.as_mut()
    }

    /// Takes the open batch out, without keeping its place.
    pub(crate) fn take_open(&mut self) -> Option<OpenBatch> {
        self.open.as_deref_mut()?.take()
    }

    /// Takes the open batch out to be closed off the lock; its place is kept.
    pub(crate) fn close_open(&mut self) -> Option<OpenBatch> {
        let open = self.take_open()?;
        self.batches.push_back(QueuedBatch::Closing(open.meta.number, open.meta.created));
        Some(open)
    }

    /// Puts a batch where records are taken; there is none.
    pub(crate) fn set_open(&mut self, batch: OpenBatch) {
        match &mut self.open {
            Some(place) => **place = Some(batch),
            none => *none = Some(Box::new(Some(batch))),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open().is_none()
    }

    /// Batches that wait.
    pub(crate) fn len(&self) -> usize {
        self.batches.len() + usize::from(self.open().is_some())
    }

    /// Whether every batch but what is in flight is full: the classic condition for a sticky switch.
    pub(crate) fn all_batches_full(&self) -> bool {
        self.open().is_none_or(OpenBatch::is_full)
    }

    /// Puts what was sent back in front of everything with a later sequence.
    pub(crate) fn insert_in_order(&mut self, slot: QueuedBatch) {
        let place = slot.queue_position();
        let behind = self
            .batches
            .iter()
            .position(|s| s.queue_position() > place && !inject_bug!(RetryAtBackOfQueue));
        self.batches.insert(behind.unwrap_or(self.batches.len()), slot);
    }

    /// Puts the parts of a batch where it stood.
    pub(crate) fn replace_with_parts(
        &mut self,
        number: u64,
        parts: impl IntoIterator<Item = QueuedBatch>,
    ) {
        self.batches.retain(|s| !(matches!(s, QueuedBatch::Splitting(_)) && s.number() == number));
        for part in parts {
            self.insert_in_order(part);
        }
    }

    /// Takes everything but what somebody works on.
    pub(crate) fn take_all(&mut self) -> (Vec<QueuedBatch>, Option<OpenBatch>) {
        self.take_where(|_| true)
    }

    /// Takes batches of some numbers, but what somebody works on.
    pub(crate) fn take_where(
        &mut self,
        which: impl Fn(u64) -> bool,
    ) -> (Vec<QueuedBatch>, Option<OpenBatch>) {
        let keep = |s: &QueuedBatch| s.is_being_processed() || !which(s.number());
        let (kept, taken): (Vec<_>, Vec<_>) = self.batches.drain(..).partition(keep);
        self.batches.extend(kept);
        let open = self.open().is_some_and(|b| which(b.meta.number));
        (taken, if open { self.take_open() } else { None })
    }

    /// Whoever closed a batch did not come to the end of it: nothing stands in its place any more.
    pub(crate) fn remove_closing(&mut self, number: u64) {
        self.batches.retain(|s| !matches!(s, QueuedBatch::Closing(n, _) if *n == number));
    }
}
