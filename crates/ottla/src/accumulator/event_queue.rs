//! What callers tell the sender, per batch and never per record, and the bell that wakes it.
//!
//! To post: push under the lock; unlock; if the sender sleeps to a later time than the event is due, take
//! that away from it and, if it was still later, ring. To sleep: publish the time; take the lock; if anything
//! is there, do not sleep. The lock orders the two sides: a poster that pushes after the sender looked sees
//! the time it published.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::sync::OnceLock;

use crate::accumulator::partition::Partition;
use crate::accumulator::split::SplitOutcome;
use crate::accumulator::waiters::{DeadlineWaiter, FlushCompletion};
use crate::injected_bugs::inject_bug;
use crate::sync::Mutex;
use crate::time::{Tick, Wakeup};

/// What a caller tells the sender.
#[derive(Debug)]
pub(crate) enum Event {
    /// A partition that had nothing has an open batch.
    BatchOpened(Arc<Partition>),
    /// A batch was closed and waits to be drained.
    BatchClosed(Arc<Partition>),
    /// Somebody waits for a record of the partition's batch of this number.
    BatchAwaited(Arc<Partition>, u64),
    /// A batch that was too large has been cut.
    Split(Box<SplitOutcome>),
    /// What waits in batches up to this number is to fail, and what is in flight too if so told.
    Purge { up_to_batch: u64, include_in_flight: bool },
    /// A caller waits for memory.
    MemoryWanted,
    /// A topic is wanted.
    TopicWanted(Arc<str>),
    /// A caller waits until then.
    Waiter(Tick, Arc<DeadlineWaiter>),
    /// Everything that is there now is to go out.
    Flush(Arc<FlushCompletion>),
    /// No more is coming; what is not settled by then fails.
    Close(Tick),
}

impl Event {
    /// Whether it concerns every partition that holds something.
    pub(crate) fn is_for_all_partitions(&self) -> bool {
        matches!(self, Event::Flush(_) | Event::Close(_) | Event::Purge { .. })
    }
}

/// The mailbox.
#[repr(align(128))]
pub(crate) struct EventQueue {
    events: Mutex<QueuedEvents>,
    /// When the sleeping sender wakes by itself, in nanoseconds; 0 while it is awake.
    sleep_deadline: AtomicU64,
    wakeup: OnceLock<Arc<dyn Wakeup>>,
    /// Nodes that can take no request while the sender sleeps: a bit for each remainder of 64.
    busy_nodes: AtomicU64,
    /// Callers between having filled a partition that was empty and having said so.
    pending_announcements: AtomicU64,
}

impl Default for EventQueue {
    fn default() -> EventQueue {
        let (events, bell) = Default::default();
        let (sleeps_to, busy, announcing) = Default::default();
        EventQueue {
            events,
            sleep_deadline: sleeps_to,
            wakeup: bell,
            busy_nodes: busy,
            pending_announcements: announcing,
        }
    }
}

#[derive(Default)]
struct QueuedEvents {
    list: Vec<Event>,
    /// The sender is gone; nobody reads any more.
    closed: bool,
}

impl EventQueue {
    pub(crate) fn set_wakeup(&self, bell: Arc<dyn Wakeup>) {
        let _ = self.wakeup.set(bell);
    }

    /// Posts an event that is due then; rings only if the sender would sleep past it. The event comes back
    /// when nobody reads any more.
    pub(crate) fn post(&self, event: Event, due: Tick) -> Result<(), Event> {
        self.post_if(event, due, || true)
    }

    /// As [`post`](Self::post), but rings only if `rings` says so once the event is there: asked earlier, the
    /// answer could be from before the sender looked, and nobody would tell it.
    pub(crate) fn post_if(
        &self,
        event: Event,
        due: Tick,
        rings: impl FnOnce() -> bool,
    ) -> Result<(), Event> {
        let silent = matches!(event, Event::BatchOpened(_)) && inject_bug!(LostWakeup);
        {
            let mut events = self.events.lock();
            if events.closed {
                return Err(event);
            }
            events.list.push(event);
        }
        // Only a time that is later than the event may be taken: taking an earlier one would leave the next poster
        // to believe that the sender is awake.
        let later = |at: u64| (at > due.0).then_some(0);
        if !rings() {
            return Ok(());
        }
        if self.sleep_deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).is_ok()
            && let Some(bell) = self.wakeup.get()
            && !silent
        {
            bell.wake();
        }
        Ok(())
    }

    /// A caller is about to announce a partition; said under that partition's lock.
    pub(crate) fn begin_announcement(&self) {
        self.pending_announcements.fetch_add(1, Ordering::Relaxed);
    }

    /// It has.
    pub(crate) fn end_announcement(&self) {
        // After the post: whoever sees none on its way finds it in the mailbox.
        self.pending_announcements.fetch_sub(1, Ordering::Release);
    }

    /// To mail that was taken, adds what was posted since, and puts announcements in front of everything. False
    /// if one may still be on its way that belongs to what was taken: somebody is announcing just now, or what
    /// came late depends on announcements, too.
    pub(crate) fn drain_with_pending(&self, mail: &mut Vec<Event>) -> bool {
        let quiet = self.pending_announcements.load(Ordering::Acquire) == 0;
        let taken = mail.len();
        self.drain(mail);
        let complete = quiet && !mail[taken..].iter().any(Event::is_for_all_partitions);
        mail.sort_by_key(|e| !matches!(e, Event::BatchOpened(_)));
        complete
    }

    /// Whether a node can take no request just now; a full batch for it is no reason to wake.
    pub(crate) fn is_busy(&self, node: i32) -> bool {
        node >= 0 && self.busy_nodes.load(Ordering::Relaxed) & (1 << (node & 63)) != 0
    }

    /// Which nodes can take no request, before the sender [sleeps](Self::sleep). Nodes of one remainder are
    /// busy when all of them are.
    pub(crate) fn set_busy(&self, nodes: impl Iterator<Item = (i32, bool)>) {
        let (mut busy, mut idle) = (0u64, 0u64);
        for (node, is_busy) in nodes.filter(|n| n.0 >= 0) {
            *(if is_busy { &mut busy } else { &mut idle }) |= 1 << (node & 63);
        }
        self.busy_nodes.store(busy & !idle, Ordering::Relaxed);
    }

    /// Nobody reads any more; what was not read.
    pub(crate) fn close(&self) -> Vec<Event> {
        let mut events = self.events.lock();
        events.closed = true;
        std::mem::take(&mut events.list)
    }

    /// The sender is about to sleep until then. False: there is mail, so it must not.
    pub(crate) fn begin_sleep(&self, until: Tick) -> bool {
        self.sleep_deadline.store(until.0.max(1), Ordering::Release);
        let empty = self.events.lock().list.is_empty();
        if !empty {
            self.sleep_deadline.store(0, Ordering::Relaxed);
        }
        empty
    }

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.lock().list.is_empty()
    }

    /// The sender is awake.
    pub(crate) fn set_awake(&self) {
        self.sleep_deadline.store(0, Ordering::Relaxed);
    }

    /// Takes what is there, leaving `into`'s old buffer for the next.
    pub(crate) fn drain(&self, into: &mut Vec<Event>) {
        let mut events = self.events.lock();
        if into.is_empty() {
            std::mem::swap(&mut events.list, into);
        } else {
            into.append(&mut events.list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct CountingWakeup(AtomicU64);
    impl Wakeup for CountingWakeup {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_bell_rings_once_and_only_for_what_is_due_before_the_sender_wakes() {
        let (mailbox, bell) = (EventQueue::default(), Arc::new(CountingWakeup::default()));
        mailbox.set_wakeup(bell.clone());
        let rung = || bell.0.load(Ordering::SeqCst);
        mailbox.post(Event::MemoryWanted, Tick(5)).unwrap();
        assert_eq!(rung(), 0, "the sender is awake");
        assert!(!mailbox.begin_sleep(Tick(100)), "there is mail");
        let mut events = Vec::new();
        mailbox.drain(&mut events);
        assert!(mailbox.begin_sleep(Tick(100)));
        mailbox.post(Event::MemoryWanted, Tick(100)).unwrap();
        assert_eq!(rung(), 0, "it wakes in time by itself");
        mailbox.post(Event::MemoryWanted, Tick(99)).unwrap();
        mailbox.post(Event::MemoryWanted, Tick(0)).unwrap();
        assert_eq!(rung(), 1, "one ring is enough");
        assert_eq!(mailbox.close().len(), 3);
        assert!(mailbox.post(Event::MemoryWanted, Tick(0)).is_err(), "nobody reads any more");
    }
}
