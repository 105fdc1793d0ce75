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
use crate::accumulator::split::Cut;
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
    /// Somebody waits for a record of the partition's batch of this number.
    Awaited(Arc<Partition>, u64),
    /// A batch that was too large has been cut.
    Cut(Box<Cut>),
    /// What waits in batches up to this number is to fail, and what is in flight too if so told.
    Purge { to: u64, in_flight: bool },
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

impl Event {
    /// Whether it concerns every partition that holds something.
    pub(crate) fn concerns_all(&self) -> bool {
        matches!(self, Event::Flush(_) | Event::Close(_) | Event::Purge { .. })
    }
}

/// The mailbox.
#[repr(align(128))]
pub(crate) struct Mailbox {
    events: Mutex<Letters>,
    /// When the sleeping sender wakes by itself, in nanoseconds; 0 while it is awake.
    sleeps_to: AtomicU64,
    bell: OnceLock<Arc<dyn Bell>>,
    /// Nodes that can take no request while the sender sleeps: a bit for each remainder of 64.
    busy: AtomicU64,
    /// Callers between having filled a partition that was empty and having said so.
    announcing: AtomicU64,
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        let (events, bell) = Default::default();
        let (sleeps_to, busy, announcing) = Default::default();
        Mailbox { events, sleeps_to, bell, busy, announcing }
    }
}

#[derive(Default)]
struct Letters {
    list: Vec<Event>,
    /// The sender is gone; nobody reads any more.
    closed: bool,
}

impl Mailbox {
    pub(crate) fn hang(&self, bell: Arc<dyn Bell>) {
        let _ = self.bell.set(bell);
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
        if !rings() {
            return Ok(());
        }
        if self.sleeps_to.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).is_ok()
            && let Some(bell) = self.bell.get()
            && !silent
        {
            bell.ring();
        }
        Ok(())
    }

    /// A caller is about to announce a partition; said under that partition's lock.
    pub(crate) fn announcing(&self) {
        self.announcing.fetch_add(1, Ordering::Relaxed);
    }

    /// It has.
    pub(crate) fn announced(&self) {
        // After the post: whoever sees none on its way finds it in the mailbox.
        self.announcing.fetch_sub(1, Ordering::Release);
    }

    /// To mail that was taken, adds what was posted since, and puts announcements in front of everything. False
    /// if one may still be on its way that belongs to what was taken: somebody is announcing just now, or what
    /// came late depends on announcements, too.
    pub(crate) fn gather(&self, mail: &mut Vec<Event>) -> bool {
        let quiet = self.announcing.load(Ordering::Acquire) == 0;
        let taken = mail.len();
        self.take(mail);
        let complete = quiet && !mail[taken..].iter().any(Event::concerns_all);
        mail.sort_by_key(|e| !matches!(e, Event::Opened(_)));
        complete
    }

    /// Whether a node can take no request just now; a full batch for it is no reason to wake.
    pub(crate) fn is_busy(&self, node: i32) -> bool {
        node >= 0 && self.busy.load(Ordering::Relaxed) & (1 << (node & 63)) != 0
    }

    /// Which nodes can take no request, before the sender [sleeps](Self::sleep). Nodes of one remainder are
    /// busy when all of them are.
    pub(crate) fn set_busy(&self, nodes: impl Iterator<Item = (i32, bool)>) {
        let (mut busy, mut idle) = (0u64, 0u64);
        for (node, is_busy) in nodes.filter(|n| n.0 >= 0) {
            *(if is_busy { &mut busy } else { &mut idle }) |= 1 << (node & 63);
        }
        self.busy.store(busy & !idle, Ordering::Relaxed);
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

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn has_mail(&self) -> bool {
        !self.events.lock().list.is_empty()
    }

    /// The sender is awake.
    pub(crate) fn awake(&self) {
        self.sleeps_to.store(0, Ordering::Relaxed);
    }

    /// Takes what is there, leaving `into`'s old buffer for the next.
    pub(crate) fn take(&self, into: &mut Vec<Event>) {
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
    struct Count(AtomicU64);
    impl Bell for Count {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_bell_rings_once_and_only_for_what_is_due_before_the_sender_wakes() {
        let (mailbox, bell) = (Mailbox::default(), Arc::new(Count::default()));
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
