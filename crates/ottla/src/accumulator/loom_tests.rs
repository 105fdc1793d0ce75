//! Every order in which a few threads may go, by loom: `cargo xtask loom`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use super::buffer_pool::BufferPool;
use super::event_queue::{Event, EventQueue};
use super::partition::Partition;
use super::waiters::{FlushCompletion, FlushFuture};
use crate::error::Error;
use crate::time::{Tick, Wakeup};

/// What ends a sleep: the poll of the real sender.
struct NotifyWakeup(Notify);

impl Wakeup for NotifyWakeup {
    fn wake(&self) {
        self.0.notify();
    }
}

fn check_model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

fn new_event_queue() -> (Arc<EventQueue>, Arc<NotifyWakeup>) {
    let (events, wakeup) = (Arc::new(EventQueue::default()), Arc::new(NotifyWakeup(Notify::new())));
    events.set_wakeup(wakeup.clone());
    (events, wakeup)
}

/// The sender's loop, until it has had so much drained. It never wakes by itself in time: whoever is not rung for is
/// lost, and loom finds a thread that waits for ever.
fn run_sender(events: &EventQueue, wakeup: &NotifyWakeup, count: usize) {
    let mut had = 0;
    loop {
        events.set_awake();
        let mut drained = Vec::new();
        events.drain(&mut drained);
        had += drained.len();
        if had >= count {
            return;
        }
        if events.begin_sleep(Tick(100)) {
            wakeup.0.wait();
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    check_model(|| {
        let (events, wakeup) = new_event_queue();
        let posters: Vec<_> = [0, 50]
            .into_iter()
            .map(|due| {
                let events = events.clone();
                thread::spawn(move || events.post(Event::MemoryWanted, Tick(due)).unwrap())
            })
            .collect();
        run_sender(&events, &wakeup, 2);
        posters.into_iter().for_each(|p| p.join().unwrap());
    });
}

/// A full batch for a node that can take nothing does not wakeup; that the node can take something again does, and
/// the two never miss each other.
#[test]
fn what_does_not_ring_for_a_busy_node_is_seen_when_it_is_free() {
    check_model(|| {
        let (events, wakeup) = new_event_queue();
        let busy = Arc::new(AtomicBool::new(true));
        let caller = {
            let events = events.clone();
            thread::spawn(move || {
                let rings = || !events.is_busy(1);
                events.post_if(Event::MemoryWanted, Tick(0), rings).unwrap();
            })
        };
        let network = {
            let (busy, wakeup) = (busy.clone(), wakeup.clone());
            thread::spawn(move || {
                busy.store(false, Ordering::Release);
                wakeup.wake();
            })
        };
        let mut seen = 0;
        loop {
            events.set_awake();
            let mut drained = Vec::new();
            events.drain(&mut drained);
            seen += drained.len();
            let is_busy = busy.load(Ordering::Acquire);
            if seen > 0 && !is_busy {
                break;
            }
            events.set_busy([(1, is_busy)].into_iter());
            if events.begin_sleep(Tick(u64::MAX)) {
                wakeup.0.wait();
            }
        }
        caller.join().unwrap();
        network.join().unwrap();
    });
}

/// A caller appends to a batch whose opener is still on its way to say so, and flushes: the sender knows of the
/// batch, or knows that it must look.
#[test]
fn a_flush_finds_the_batch_that_is_not_announced_yet() {
    check_model(|| {
        let (events, wakeup) = new_event_queue();
        let opened = Arc::new(loom::sync::Mutex::new(false));
        let opener = {
            let (events, opened) = (events.clone(), opened.clone());
            thread::spawn(move || {
                {
                    let mut opened = opened.lock().unwrap();
                    *opened = true;
                    events.begin_announcement();
                }
                let partition = Partition::new("t".into(), 0, 0, Default::default());
                events.post(Event::BatchOpened(Arc::new(partition)), Tick(0)).unwrap();
                events.end_announcement();
            })
        };
        let flusher = {
            let (events, opened) = (events.clone(), opened.clone());
            thread::spawn(move || {
                let appended = *opened.lock().unwrap();
                events.post(Event::Flush(Arc::default()), Tick(0)).unwrap();
                appended
            })
        };
        let (mut opened_seen, mut complete) = (false, false);
        loop {
            events.set_awake();
            let mut drained = Vec::new();
            events.drain(&mut drained);
            let flush = drained.iter().any(|e| matches!(e, Event::Flush(_)));
            if flush {
                complete = events.drain_with_pending(&mut drained);
            }
            // Only what stands in front of the flush is known to it.
            let before = drained.iter().take_while(|e| !matches!(e, Event::Flush(_)));
            opened_seen |= before.into_iter().any(|e| matches!(e, Event::BatchOpened(_)));
            if flush {
                break;
            }
            if events.begin_sleep(Tick(u64::MAX)) {
                wakeup.0.wait();
            }
        }
        let appended = flusher.join().unwrap();
        opener.join().unwrap();
        // Not complete means: look at every partition.
        assert!(!appended || opened_seen || !complete, "a flush missed a batch");
    });
}

#[test]
fn a_flush_is_told_to_whoever_waits_for_it() {
    check_model(|| {
        let flush = Arc::<FlushCompletion>::default();
        let teller = {
            let flush = flush.clone();
            thread::spawn(move || flush.complete())
        };
        block_on(FlushFuture(flush));
        teller.join().unwrap();
    });
}

/// Two wait, one for all of it and one for a part; one holds all. Both are served, and all comes back.
#[test]
fn memory_reaches_everyone_who_waits_for_it() {
    check_model(|| {
        let pool = BufferPool::new(2, 1);
        let held = pool.try_allocate(2).unwrap().unwrap();
        let waiters: Vec<_> = [2, 1]
            .into_iter()
            .map(|size| {
                let pool = pool.clone();
                thread::spawn(move || drop(block_on(pool.allocate(size)).unwrap()))
            })
            .collect();
        drop(held);
        waiters.into_iter().for_each(|w| w.join().unwrap());
        assert_eq!((pool.balance(), pool.waiting()), (2, 0));
    });
}

/// Whoever gives up waiting gives back what was gathered or granted, whatever comes at that moment, and the next
/// one gets it.
#[test]
fn memory_of_one_who_gives_up_goes_to_the_next() {
    check_model(|| {
        let pool = BufferPool::new(2, 1);
        let held = pool.try_allocate(1).unwrap().unwrap();
        let gives_up = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut wait = pool.allocate(2);
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(buf) = Pin::new(&mut wait).poll(&mut cx) {
                    drop(buf.unwrap());
                }
            })
        };
        let next = {
            let pool = pool.clone();
            thread::spawn(move || drop(block_on(pool.allocate(2)).unwrap()))
        };
        drop(held);
        gives_up.join().unwrap();
        next.join().unwrap();
        assert_eq!((pool.balance(), pool.waiting()), (2, 0));
    });
}

#[test]
fn closing_the_pool_wakes_who_waits_or_is_about_to() {
    check_model(|| {
        let pool = BufferPool::new(1, 1);
        let held = pool.try_allocate(1).unwrap().unwrap();
        let ended = Arc::new(AtomicU32::new(0));
        let waiter = {
            let (pool, ended) = (pool.clone(), ended.clone());
            thread::spawn(move || {
                assert!(block_on(pool.allocate(1)).is_err());
                ended.fetch_add(1, Ordering::Relaxed);
            })
        };
        pool.close(&Error::closed());
        waiter.join().unwrap();
        drop(held);
        assert_eq!((ended.load(Ordering::Relaxed), pool.balance()), (1, 1));
    });
}
