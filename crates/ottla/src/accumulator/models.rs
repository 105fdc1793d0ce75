//! Every order in which a few threads may go, by loom: `cargo xtask models`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use super::buffer_pool::BufferPool;
use super::mailbox::{Event, Mailbox};
use super::partition::Partition;
use super::waits::{Flush, Flushed};
use crate::error::Error;
use crate::time::{Bell, Tick};

/// What ends a sleep: the poll of the real sender.
struct Ring(Notify);

impl Bell for Ring {
    fn ring(&self) {
        self.0.notify();
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

fn mailbox() -> (Arc<Mailbox>, Arc<Ring>) {
    let (mailbox, ring) = (Arc::new(Mailbox::default()), Arc::new(Ring(Notify::new())));
    mailbox.hang(ring.clone());
    (mailbox, ring)
}

/// The sender's loop, until it has had so much mail. It never wakes by itself in time: whoever is not rung for is
/// lost, and loom finds a thread that waits for ever.
fn sender(mailbox: &Mailbox, ring: &Ring, count: usize) {
    let mut had = 0;
    loop {
        mailbox.awake();
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        had += mail.len();
        if had >= count {
            return;
        }
        if mailbox.sleep(Tick(100)) {
            ring.0.wait();
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let (mailbox, ring) = mailbox();
        let posters: Vec<_> = [0, 50]
            .into_iter()
            .map(|due| {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.post(Event::Starved, Tick(due)).unwrap())
            })
            .collect();
        sender(&mailbox, &ring, 2);
        posters.into_iter().for_each(|p| p.join().unwrap());
    });
}

/// A full batch for a node that can take nothing does not ring; that the node can take something again does, and
/// the two never miss each other.
#[test]
fn what_does_not_ring_for_a_busy_node_is_seen_when_it_is_free() {
    model(|| {
        let (mailbox, ring) = mailbox();
        let busy = Arc::new(AtomicBool::new(true));
        let caller = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let rings = || !mailbox.is_busy(1);
                mailbox.post_if(Event::Starved, Tick(0), rings).unwrap();
            })
        };
        let network = {
            let (busy, ring) = (busy.clone(), ring.clone());
            thread::spawn(move || {
                busy.store(false, Ordering::Release);
                ring.ring();
            })
        };
        let mut seen = 0;
        loop {
            mailbox.awake();
            let mut mail = Vec::new();
            mailbox.take(&mut mail);
            seen += mail.len();
            let is_busy = busy.load(Ordering::Acquire);
            if seen > 0 && !is_busy {
                break;
            }
            mailbox.set_busy([(1, is_busy)].into_iter());
            if mailbox.sleep(Tick(u64::MAX)) {
                ring.0.wait();
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
    model(|| {
        let (mailbox, ring) = mailbox();
        let opened = Arc::new(loom::sync::Mutex::new(false));
        let opener = {
            let (mailbox, opened) = (mailbox.clone(), opened.clone());
            thread::spawn(move || {
                {
                    let mut opened = opened.lock().unwrap();
                    *opened = true;
                    mailbox.announcing();
                }
                let partition = Partition::new("t".into(), 0, 0, Default::default());
                mailbox.post(Event::Opened(Arc::new(partition)), Tick(0)).unwrap();
                mailbox.announced();
            })
        };
        let flusher = {
            let (mailbox, opened) = (mailbox.clone(), opened.clone());
            thread::spawn(move || {
                let appended = *opened.lock().unwrap();
                mailbox.post(Event::Flush(Arc::default()), Tick(0)).unwrap();
                appended
            })
        };
        let (mut opened_seen, mut complete) = (false, false);
        loop {
            mailbox.awake();
            let mut mail = Vec::new();
            mailbox.take(&mut mail);
            let flush = mail.iter().any(|e| matches!(e, Event::Flush(_)));
            if flush {
                complete = mailbox.gather(&mut mail);
            }
            // Only what stands in front of the flush is known to it.
            let before = mail.iter().take_while(|e| !matches!(e, Event::Flush(_)));
            opened_seen |= before.into_iter().any(|e| matches!(e, Event::Opened(_)));
            if flush {
                break;
            }
            if mailbox.sleep(Tick(u64::MAX)) {
                ring.0.wait();
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
    model(|| {
        let flush = Arc::<Flush>::default();
        let teller = {
            let flush = flush.clone();
            thread::spawn(move || flush.finish())
        };
        block_on(Flushed(flush));
        teller.join().unwrap();
    });
}

/// Two wait, one for all of it and one for a part; one holds all. Both are served, and all comes back.
#[test]
fn memory_reaches_everyone_who_waits_for_it() {
    model(|| {
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
        assert_eq!((pool.balance(), pool.queued()), (2, 0));
    });
}

/// Whoever gives up waiting gives back what was gathered or granted, whatever comes at that moment, and the next
/// one gets it.
#[test]
fn memory_of_one_who_gives_up_goes_to_the_next() {
    model(|| {
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
        assert_eq!((pool.balance(), pool.queued()), (2, 0));
    });
}

#[test]
fn closing_the_pool_wakes_who_waits_or_is_about_to() {
    model(|| {
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
