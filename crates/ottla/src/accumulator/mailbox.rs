//! What callers tell the sender, per batch and never per record, and the bell that wakes it.
//!
//! To post: push under the lock; unlock; if the sender sleeps to a later time than the event is due, take
//! that away from it and, if it was still later, ring. To sleep: publish the time; take the lock; if anything
//! is there, do not sleep. The lock orders the two sides: a poster that pushes after the sender looked sees
//! the time it published.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::accumulator::partition::Partition;
use crate::accumulator::waits::{CallerWait, Flush};
use crate::plants::plant;
use crate::sync::Mutex;
use crate::time::{Bell, Tick};

/// What a caller tells the sender.
#[derive(Debug)]
pub(crate) enum Event {
    /// A partition that had nothing has an open batch.
    Opened(Arc<Partition>),
    /// A batch was closed and waits to be drained.
    Full(Arc<Partition>),
    /// A caller waits for memory.
    Starved,
    /// A topic is wanted.
    Topic(Arc<str>),
    /// A caller waits until then.
    Caller(Tick, Arc<CallerWait>),
    /// Everything that is there now is to go out.
    Flush(Arc<Flush>),
    /// No more is coming; what is not settled by then fails.
    Close(Tick),
}

/// The mailbox.
#[repr(align(128))]
pub(crate) struct Mailbox {
    events: Mutex<Letters>,
    /// When the sleeping sender wakes by itself, in nanoseconds; 0 while it is awake.
    sleeps_to: AtomicU64,
    bell: OnceLock<Arc<dyn Bell>>,
}

#[derive(Default)]
struct Letters {
    list: Vec<Event>,
    /// The sender is gone; nobody reads any more.
    closed: bool,
}

impl Mailbox {
    pub(crate) fn new() -> Mailbox {
        Mailbox { events: Mutex::default(), sleeps_to: AtomicU64::new(0), bell: OnceLock::new() }
    }

    pub(crate) fn hang(&self, bell: Arc<dyn Bell>) {
        let _ = self.bell.set(bell);
    }

    /// Posts an event that is due then; rings only if the sender would sleep past it. The event comes back
    /// when nobody reads any more.
    pub(crate) fn post(&self, event: Event, due: Tick) -> Result<(), Event> {
        let silent = matches!(event, Event::Opened(_)) && plant!(LostWakeUp);
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
        if self.sleeps_to.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).is_ok()
            && let Some(bell) = self.bell.get()
            && !silent
        {
            bell.ring();
        }
        Ok(())
    }

    /// Nobody reads any more; what was not read.
    pub(crate) fn close(&self) -> Vec<Event> {
        let mut events = self.events.lock();
        events.closed = true;
        std::mem::take(&mut events.list)
    }

    /// The sender is about to sleep until then. False: there is mail, so it must not.
    pub(crate) fn sleep(&self, until: Tick) -> bool {
        self.sleeps_to.store(until.0.max(1), Ordering::Release);
        let empty = self.events.lock().list.is_empty();
        if !empty {
            self.sleeps_to.store(0, Ordering::Relaxed);
        }
        empty
    }

    /// The sender is awake.
    pub(crate) fn awake(&self) {
        self.sleeps_to.store(0, Ordering::Relaxed);
    }

    /// Takes what is there, leaving `into`'s old buffer for the next.
    pub(crate) fn take(&self, into: &mut Vec<Event>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut self.events.lock().list, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);
    impl Bell for Count {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_bell_rings_once_and_only_for_what_is_due_before_the_sender_wakes() {
        let (mailbox, bell) = (Mailbox::new(), Arc::new(Count::default()));
        mailbox.hang(bell.clone());
        let rung = || bell.0.load(Ordering::SeqCst);
        mailbox.post(Event::Starved, Tick(5)).unwrap();
        assert_eq!(rung(), 0, "the sender is awake");
        assert!(!mailbox.sleep(Tick(100)), "there is mail");
        let mut events = Vec::new();
        mailbox.take(&mut events);
        assert!(mailbox.sleep(Tick(100)));
        mailbox.post(Event::Starved, Tick(100)).unwrap();
        assert_eq!(rung(), 0, "it wakes in time by itself");
        mailbox.post(Event::Starved, Tick(99)).unwrap();
        mailbox.post(Event::Starved, Tick(0)).unwrap();
        assert_eq!(rung(), 1, "one ring is enough");
        assert_eq!(mailbox.close().len(), 3);
        assert!(mailbox.post(Event::Starved, Tick(0)).is_err(), "nobody reads any more");
    }
}
