//! A partition's line: an open batch that takes records, and closed ones in the order they were closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use super::batch::{ClosedBatch, OpenBatch, StampedBatch};
use crate::plants::plant;
use crate::sync::Mutex;
use crate::time::Tick;

/// One partition of one topic; there for as long as the producer.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) index: i32,
    /// Dense, unique in the producer: what the sender files it under.
    pub(crate) key: u32,
    /// The leader's node id, −1 for none: for whoever chooses a partition.
    pub(crate) leader: AtomicI32,
    pub(crate) queue: Mutex<Queue>,
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) open: Option<Box<OpenBatch>>,
    pub(crate) line: VecDeque<Slot>,
    /// Whether the sender knows that there is something.
    pub(crate) announced: bool,
    /// Bytes appended since the sticky choice fell here.
    pub(crate) sticky: usize,
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
}

impl Partition {
    pub(crate) fn new(topic: Arc<str>, index: i32, key: u32) -> Partition {
        Partition { topic, index, key, leader: AtomicI32::new(-1), queue: Mutex::default() }
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
}

impl Slot {
    pub(crate) fn created(&self) -> Tick {
        match self {
            Slot::Closing(_, created) => *created,
            Slot::Closed(b) => b.meta.created,
            Slot::Retry(b, _) => b.closed.meta.created,
        }
    }

    /// The batch, without its place in the order; `None` while somebody is closing it.
    pub(crate) fn into_closed(self) -> Option<ClosedBatch> {
        match self {
            Slot::Closing(..) => None,
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
        }
    }

    pub(crate) fn number(&self) -> u64 {
        match self {
            Slot::Closing(n, _) => *n,
            Slot::Closed(b) => b.meta.number,
            Slot::Retry(b, _) => b.closed.meta.number,
        }
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none() && self.line.is_empty()
    }

    /// Whether every batch but what is in flight is full: the classic condition for a sticky switch.
    pub(crate) fn all_full(&self) -> bool {
        self.open.as_ref().is_none_or(|b| b.is_full())
    }

    /// Puts a batch back in front of everything with a later sequence.
    pub(crate) fn put_back(&mut self, batch: Box<StampedBatch>, not_before: Tick) {
        let place = batch.closed.meta.place;
        let behind = self.line.iter().position(|s| s.place() > place && !plant!(RetryAtTheEnd));
        self.line.insert(behind.unwrap_or(self.line.len()), Slot::Retry(batch, not_before));
    }
}
