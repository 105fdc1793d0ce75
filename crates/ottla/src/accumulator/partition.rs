//! A partition's line: an open batch that takes records, and closed ones in the order they were closed.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

use super::batch::{ClosedBatch, Meta, OpenBatch, StampedBatch};
use super::sizing::Sizing;
use crate::plants::plant;
use crate::sync::{Guard, Mutex};
use crate::time::Tick;

/// One partition of one topic; there for as long as the producer. One that never had a record is this and no
/// more.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Partition {
    pub(crate) queue: Mutex<Queue>,
    pub(crate) topic: Arc<str>,
    /// What the topic's batches have taught.
    pub(crate) sizing: Arc<Sizing>,
    pub(crate) index: i32,
    /// Dense, unique in the producer: what the sender files it under.
    pub(crate) key: u32,
    /// The leader's node id, −1 for none: for whoever chooses a partition.
    pub(crate) leader: AtomicI32,
    /// Batches that wait here, the open one among them; 0 until the first. For adaptive partitioning.
    queued: AtomicU32,
    /// The sender holds the lock, for a moment: no reason for a caller to go elsewhere.
    visited: AtomicBool,
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The batch that takes records. Its box stays when it leaves: one allocation a partition, not a batch.
    open: Option<Box<Option<OpenBatch>>>,
    pub(crate) line: VecDeque<Slot>,
    /// Bytes appended since the sticky choice fell here.
    pub(crate) sticky: u32,
    /// Whether the sender knows that there is something.
    pub(crate) announced: bool,
}

/// A place in the line. The order is fixed before compression begins.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a slot is being closed for a moment, then filled in place"
)]
pub(crate) enum Slot {
    /// Being closed by somebody, off the lock: its number, and its age.
    Closing(u64, Tick),
    /// Never sent.
    Closed(ClosedBatch),
    /// Sent before; goes out with the sequence it has.
    Retry(Box<StampedBatch>, Tick),
    /// Was too large for a broker, and is being cut into parts that will stand here.
    Splitting(Splitting),
}

/// The sender's hold on a partition.
pub(crate) struct Visit<'p> {
    queue: Guard<'p, Queue>,
    visited: &'p AtomicBool,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.visited.store(false, Relaxed);
    }
}

impl Deref for Visit<'_> {
    type Target = Queue;
    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl DerefMut for Visit<'_> {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}

/// What is known of a batch while somebody cuts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Splitting {
    pub(crate) number: u64,
    pub(crate) place: (u64, u32),
    pub(crate) created: Tick,
}

impl Splitting {
    pub(crate) fn of(batch: &ClosedBatch) -> Splitting {
        let Meta { number, place, created, .. } = batch.meta;
        Splitting { number, place, created }
    }
}

impl Partition {
    pub(crate) fn new(topic: Arc<str>, index: i32, key: u32, sizing: Arc<Sizing>) -> Partition {
        let (leader, queued) = (AtomicI32::new(-1), AtomicU32::new(0));
        let (visited, queue) = Default::default();
        Partition { topic, index, key, leader, sizing, queued, visited, queue }
    }

    /// The lock, for the sender.
    pub(crate) fn visit(&self) -> Visit<'_> {
        self.visited.store(true, Relaxed);
        Visit { queue: self.queue.lock(), visited: &self.visited }
    }

    pub(crate) fn is_visited(&self) -> bool {
        self.visited.load(Relaxed)
    }

    /// Fills the slot that was kept for this batch.
    pub(crate) fn fill(&self, batch: ClosedBatch) {
        let number = batch.meta.number;
        let mut queue = self.queue.lock();
        let slot =
            queue.line.iter_mut().rev().find(|s| matches!(s, Slot::Closing(n, _) if *n == number));
        if let Some(slot) = slot {
            *slot = Slot::Closed(batch);
            return;
        }
        drop(queue);
        debug_assert!(false, "a slot was kept for batch {number}");
    }

    /// Batches that wait, when last counted; `None` if there never was one.
    pub(crate) fn load(&self) -> Option<u32> {
        self.queued.load(Relaxed).checked_sub(1)
    }

    /// Tells those who choose a partition how many wait.
    pub(crate) fn count(&self, queue: &Queue) -> bool {
        let n = queue.len() as u32 + 1;
        self.queued.swap(n, Relaxed) != n
    }
}

impl Slot {
    pub(crate) fn created(&self) -> Tick {
        match self {
            Slot::Closing(_, created) => *created,
            Slot::Closed(b) => b.meta.created,
            Slot::Retry(b, _) => b.closed.meta.created,
            Slot::Splitting(s) => s.created,
        }
    }

    /// Somebody works on it off the lock, and will fill it.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Slot::Closing(..) | Slot::Splitting(_))
    }

    /// The batch, without its place in the order; `None` while somebody works on it.
    pub(crate) fn into_closed(self) -> Option<ClosedBatch> {
        match self {
            Slot::Closing(..) | Slot::Splitting(_) => None,
            Slot::Closed(b) => Some(b),
            Slot::Retry(b, _) => Some(b.unstamp()),
        }
    }

    /// Where it belongs in the line.
    fn place(&self) -> (u64, u32) {
        match self {
            Slot::Closing(n, _) => (*n, 0),
            Slot::Closed(b) => b.meta.place,
            Slot::Retry(b, _) => b.closed.meta.place,
            Slot::Splitting(s) => s.place,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        match self {
            Slot::Closing(n, _) => *n,
            Slot::Closed(b) => b.meta.number,
            Slot::Retry(b, _) => b.closed.meta.number,
            Slot::Splitting(s) => s.number,
        }
    }
}

impl Queue {
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
        self.line.push_back(Slot::Closing(open.meta.number, open.meta.created));
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
        self.line.is_empty() && self.open().is_none()
    }

    /// Batches that wait.
    pub(crate) fn len(&self) -> usize {
        self.line.len() + usize::from(self.open().is_some())
    }

    /// Whether every batch but what is in flight is full: the classic condition for a sticky switch.
    pub(crate) fn all_full(&self) -> bool {
        self.open().is_none_or(OpenBatch::is_full)
    }

    /// Puts what was sent back in front of everything with a later sequence.
    pub(crate) fn put_back(&mut self, slot: Slot) {
        let place = slot.place();
        let behind = self.line.iter().position(|s| s.place() > place && !plant!(RetryAtTheEnd));
        self.line.insert(behind.unwrap_or(self.line.len()), slot);
    }

    /// Puts the parts of a batch where it stood.
    pub(crate) fn replace(&mut self, number: u64, parts: impl IntoIterator<Item = Slot>) {
        self.line.retain(|s| !(matches!(s, Slot::Splitting(_)) && s.number() == number));
        for part in parts {
            self.put_back(part);
        }
    }

    /// Takes everything but what somebody works on.
    pub(crate) fn take_all(&mut self) -> (Vec<Slot>, Option<OpenBatch>) {
        self.take_where(|_| true)
    }

    /// Takes batches of some numbers, but what somebody works on.
    pub(crate) fn take_where(
        &mut self,
        which: impl Fn(u64) -> bool,
    ) -> (Vec<Slot>, Option<OpenBatch>) {
        let keep = |s: &Slot| s.is_away() || !which(s.number());
        let (kept, taken): (Vec<_>, Vec<_>) = self.line.drain(..).partition(keep);
        self.line.extend(kept);
        let open = self.open().is_some_and(|b| which(b.meta.number));
        (taken, if open { self.take_open() } else { None })
    }

    /// Whoever closed a batch did not come to the end of it: nothing stands in its place any more.
    pub(crate) fn forget(&mut self, number: u64) {
        self.line.retain(|s| !matches!(s, Slot::Closing(n, _) if *n == number));
    }
}
