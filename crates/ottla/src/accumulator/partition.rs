//! A partition's queue: one open batch that takes records, and the closed batches in the order in
//! which they were closed.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

use super::batch::{BatchMeta, ClosedBatch, OpenBatch, QueuePosition, StampedBatch};
use super::batch_size_estimator::BatchSizeEstimator;
use crate::injected_bugs::inject_bug;
use crate::sync::{Mutex, MutexGuard};
use crate::time::Tick;

/// One partition of a topic. It exists as long as the producer, and is small until its first
/// record.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Partition {
    pub(crate) queue: Mutex<PartitionQueue>,
    pub(crate) topic: Arc<str>,
    /// The topic's estimator of batch sizes.
    pub(crate) estimator: Arc<BatchSizeEstimator>,
    pub(crate) index: i32,
    /// A number that is unique in the producer. The sender uses it as an index, so ids have no
    /// gaps.
    pub(crate) id: u32,
    /// The leader's node id, −1 for none. The partitioner and the callers read it.
    pub(crate) leader: AtomicI32,
    /// The number of batches in the queue when the sender last counted them, or [`NEVER_QUEUED`].
    /// The adaptive partitioner reads it.
    queued_batches: AtomicU32,
    /// Whether the sender holds the lock. It holds it for a few instructions, so a caller that
    /// finds the lock taken need not move to another partition.
    locked_by_sender: AtomicBool,
}

/// The value of [`Partition::queued_batches`] before the partition's first batch.
const NEVER_QUEUED: u32 = u32::MAX;

/// The batches of a partition that are not in flight.
#[derive(Debug, Default)]
pub(crate) struct PartitionQueue {
    /// The batch that takes records. The box is reused for the next batch, so a partition allocates
    /// it once.
    open: Option<Box<Option<OpenBatch>>>,
    pub(crate) batches: VecDeque<QueuedBatch>,
    /// Bytes appended since this partition became the topic's sticky choice.
    pub(crate) sticky_bytes: u32,
    /// Whether the sender tracks the partition, or an event that makes it do so is posted or about
    /// to be. The sender clears it when it finds the queue empty.
    pub(crate) is_tracked_by_sender: bool,
    /// The number of buffers by which `batches` were extended. Batches that are sent again do not
    /// count.
    extensions: u32,
}

/// A batch in a partition's queue. Its position is fixed before its compression begins.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an entry is `Closing` only briefly, then `Closed` replaces it in place"
)]
pub(crate) enum QueuedBatch {
    /// A worker thread or a caller closes the batch, without the partition's lock.
    Closing { number: u64, created: Tick },
    /// The batch was never sent.
    Closed(ClosedBatch),
    /// The batch was sent. It is sent again with the sequence that it has, but not before this
    /// time.
    Retry { batch: Box<StampedBatch>, not_before: Tick },
    /// The batch was too large for a broker. A worker thread splits it, and the parts replace it
    /// here.
    Splitting(SplittingBatch),
}

/// The sender's guard of a partition's lock.
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

/// The properties of a batch that a worker thread is splitting.
///
/// Such a batch counts as in flight: no other batch of its partition may be sent before its parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SplittingBatch {
    pub(crate) number: u64,
    pub(crate) queue_position: QueuePosition,
    pub(crate) created: Tick,
}

impl SplittingBatch {
    pub(crate) fn new(batch: &ClosedBatch) -> SplittingBatch {
        let BatchMeta { number, queue_position, created, .. } = batch.meta;
        SplittingBatch { number, queue_position, created }
    }
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        index: i32,
        id: u32,
        estimator: Arc<BatchSizeEstimator>,
    ) -> Partition {
        Partition {
            queue: Mutex::default(),
            topic,
            estimator,
            index,
            id,
            leader: AtomicI32::new(-1),
            queued_batches: AtomicU32::new(NEVER_QUEUED),
            locked_by_sender: AtomicBool::new(false),
        }
    }

    /// Locks the queue for the sender.
    pub(crate) fn lock_for_sender(&self) -> SenderGuard<'_> {
        self.locked_by_sender.store(true, Relaxed);
        SenderGuard { queue: self.queue.lock(), locked_by_sender: &self.locked_by_sender }
    }

    pub(crate) fn is_locked_by_sender(&self) -> bool {
        self.locked_by_sender.load(Relaxed)
    }

    /// Replaces the batch's `Closing` entry by the closed batch.
    pub(crate) fn fill_closing(&self, batch: ClosedBatch) {
        let batch_number = batch.meta.number;
        let mut queue = self.queue.lock();
        let entry =
            queue.batches.iter_mut().rev().find(
                |b| matches!(b, QueuedBatch::Closing { number, .. } if *number == batch_number),
            );
        if let Some(entry) = entry {
            *entry = QueuedBatch::Closed(batch);
            return;
        }
        drop(queue);
        debug_assert!(false, "the queue has no Closing entry for batch {batch_number}");
    }

    /// Returns the number of queued batches at the last count, or `None` before the first batch.
    pub(crate) fn queued_batches(&self) -> Option<u32> {
        Some(self.queued_batches.load(Relaxed)).filter(|n| *n != NEVER_QUEUED)
    }

    /// Stores the number of queued batches for the partitioner. Returns whether it changed.
    pub(crate) fn update_queued(&self, queue: &PartitionQueue) -> bool {
        let n = queue.len_without_extensions();
        self.queued_batches.swap(n, Relaxed) != n
    }
}

impl QueuedBatch {
    pub(crate) fn created(&self) -> Tick {
        match self {
            QueuedBatch::Closing { created, .. } => *created,
            QueuedBatch::Closed(b) => b.meta.created,
            QueuedBatch::Retry { batch, .. } => batch.closed.meta.created,
            QueuedBatch::Splitting(s) => s.created,
        }
    }

    /// Returns whether another thread is closing or splitting the batch, and will replace this
    /// entry.
    pub(crate) fn is_being_processed(&self) -> bool {
        matches!(self, QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_))
    }

    /// Returns the batch without its sequence, or `None` while another thread processes it.
    pub(crate) fn into_closed(self) -> Option<ClosedBatch> {
        match self {
            QueuedBatch::Closing { .. } | QueuedBatch::Splitting(_) => None,
            QueuedBatch::Closed(b) => Some(b),
            QueuedBatch::Retry { batch, .. } => Some(batch.unstamp()),
        }
    }

    /// Returns the number of buffers by which a batch that was never sent was extended.
    fn extensions(&self) -> u32 {
        match self {
            QueuedBatch::Closed(b) => b.meta.extensions,
            _ => 0,
        }
    }

    fn queue_position(&self) -> QueuePosition {
        match self {
            QueuedBatch::Closing { number, .. } => {
                QueuePosition { batch_number: *number, record_index: 0 }
            }
            QueuedBatch::Closed(b) => b.meta.queue_position,
            QueuedBatch::Retry { batch, .. } => batch.closed.meta.queue_position,
            QueuedBatch::Splitting(s) => s.queue_position,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        match self {
            QueuedBatch::Closing { number, .. } => *number,
            QueuedBatch::Closed(b) => b.meta.number,
            QueuedBatch::Retry { batch, .. } => batch.closed.meta.number,
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

    /// Removes the open batch. The queue does not keep its position.
    pub(crate) fn take_open(&mut self) -> Option<OpenBatch> {
        self.open.as_deref_mut()?.take()
    }

    /// Removes the open batch so that it can be closed without the lock. A `Closing` entry keeps
    /// its position.
    pub(crate) fn close_open(&mut self) -> Option<OpenBatch> {
        let open = self.take_open()?;
        let BatchMeta { number, created, .. } = open.meta;
        self.extensions += open.meta.extensions;
        self.batches.push_back(QueuedBatch::Closing { number, created });
        Some(open)
    }

    /// Makes `batch` the open batch. There must be none.
    pub(crate) fn set_open(&mut self, batch: OpenBatch) {
        match &mut self.open {
            Some(open) => **open = Some(batch),
            none => *none = Some(Box::new(Some(batch))),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open().is_none()
    }

    /// Returns the number of batches, including the open one.
    pub(crate) fn len(&self) -> usize {
        self.batches.len() + usize::from(self.open().is_some())
    }

    /// Returns the number of batches that it would hold if no batch had been extended.
    fn len_without_extensions(&self) -> u32 {
        let extensions_of_open = self.open().map_or(0, |open| open.meta.extensions);
        self.len() as u32 + self.extensions + extensions_of_open
    }

    /// Counts the extensions again, after a change of `batches` by other means than
    /// [`pop_front`](Self::pop_front). What another thread closes now does not count: this is only
    /// a hint for the partitioner.
    pub(crate) fn count_extensions(&mut self) {
        self.extensions = self.batches.iter().map(QueuedBatch::extensions).sum();
    }

    /// Removes the first batch of the closed ones.
    pub(crate) fn pop_front(&mut self) -> Option<QueuedBatch> {
        let first = self.batches.pop_front()?;
        self.extensions = self.extensions.saturating_sub(first.extensions());
        if self.batches.is_empty() {
            // A batch that was being closed during a count is counted too low, and then too high.
            self.extensions = 0;
        }
        Some(first)
    }

    /// Returns whether each queued batch has its size. The sticky partition preferably switches
    /// then, because it leaves no half-empty batch behind (KIP-794).
    pub(crate) fn all_batches_full(&self) -> bool {
        self.open().is_none_or(|open| open.is_full() || open.is_extended())
    }

    /// Inserts a batch by its position.
    ///
    /// A batch that is sent again goes before all batches with later sequences. At the end of the
    /// queue it would follow them, and the broker would reject it with
    /// OUT_OF_ORDER_SEQUENCE_NUMBER.
    pub(crate) fn insert_in_order(&mut self, batch: QueuedBatch) {
        let position = batch.queue_position();
        let next = self.batches.iter().position(|b| b.queue_position() > position);
        let next = inject_bug!(RetryAtBackOfQueue, next);
        self.batches.insert(next.unwrap_or(self.batches.len()), batch);
    }

    /// Replaces a batch's `Splitting` entry by the batch's parts.
    pub(crate) fn replace_with_parts(
        &mut self,
        number: u64,
        parts: impl IntoIterator<Item = QueuedBatch>,
    ) {
        self.batches.retain(|b| !(matches!(b, QueuedBatch::Splitting(_)) && b.number() == number));
        for part in parts {
            self.insert_in_order(part);
        }
    }

    /// Removes all batches except those that another thread processes.
    pub(crate) fn take_all(&mut self) -> (Vec<QueuedBatch>, Option<OpenBatch>) {
        self.take_where(|_, _| true)
    }

    /// Removes the batches for which `matches` returns true, except those that another thread
    /// processes. It is called with a batch's number, and whether the batch was sent before.
    pub(crate) fn take_where(
        &mut self,
        matches: impl Fn(u64, bool) -> bool,
    ) -> (Vec<QueuedBatch>, Option<OpenBatch>) {
        let keep = |b: &QueuedBatch| {
            let is_retry = matches!(b, QueuedBatch::Retry { .. });
            b.is_being_processed() || !matches(b.number(), is_retry)
        };
        let (kept, taken): (Vec<_>, Vec<_>) = self.batches.drain(..).partition(keep);
        self.batches.extend(kept);
        self.count_extensions();
        let take_open = self.open().is_some_and(|b| matches(b.meta.number, false));
        (taken, if take_open { self.take_open() } else { None })
    }

    /// Removes a batch's `Closing` entry, if it still has one: the thread that closed the batch did
    /// not finish. Returns whether it had one.
    pub(crate) fn remove_closing(&mut self, batch_number: u64) -> bool {
        let len = self.batches.len();
        self.batches.retain(
            |b| !matches!(b, QueuedBatch::Closing { number, .. } if *number == batch_number),
        );
        self.batches.len() < len
    }
}
