//! Checks the event queue, the buffer pool, flushes and waits for a topic with loom:
//! `cargo xtask loom`. Each test runs every interleaving of a few threads with at most three
//! preemptions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use super::buffer_pool::BufferPool;
use super::topics::TopicInfoMap;
use crate::cluster::{Cluster, Leader, TopicMetadata};
use crate::env::Wakeup;
use crate::time::Tick;
use crate::wakeup::event_queue::{Event, EventQueue};
use crate::wakeup::lifecycle::{Lifecycle, LifecycleCell};
use crate::wakeup::waiters::{DeadlineWaiter, FlushCompletion, FlushFuture};

/// Ends the sleep of [`run_sender`], as the real sender's wakeup ends its poll.
struct NotifyWakeup {
    notify: Notify,
}

impl Wakeup for NotifyWakeup {
    fn wake(&self) {
        self.notify.notify();
    }
}

/// Runs `f` in every interleaving with at most three preemptions. A complete search takes too long.
fn check_model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

fn new_event_queue() -> (Arc<EventQueue>, Arc<NotifyWakeup>) {
    let (queue, notify) = (Arc::new(EventQueue::new(Arc::default())), Notify::new());
    let wakeup = Arc::new(NotifyWakeup { notify });
    queue.set_wakeup(wakeup.clone());
    (queue, wakeup)
}

/// Runs the sender's loop until it has drained `count` events. Its sleep has no timeout: if a
/// wakeup is lost, loom reports a thread that waits without end.
fn run_sender(queue: &EventQueue, wakeup: &NotifyWakeup, count: usize) {
    let mut total = 0;
    loop {
        queue.set_awake();
        let mut events = Vec::new();
        queue.drain(&mut events);
        total += events.len();
        if total >= count {
            return;
        }
        if queue.begin_sleep(Tick(100)) {
            wakeup.notify.wait();
        }
    }
}

#[test]
fn no_wakeup_is_lost() {
    check_model(|| {
        let (queue, wakeup) = new_event_queue();
        let callers: Vec<_> = [0, 50]
            .into_iter()
            .map(|deadline| {
                let queue = queue.clone();
                thread::spawn(move || queue.post(Event::MemoryWanted, Tick(deadline)).unwrap())
            })
            .collect();
        run_sender(&queue, &wakeup, 2);
        callers.into_iter().for_each(|c| c.join().unwrap());
    });
}

/// A full batch does not wake the sender while its node is busy. The network wakes the sender when
/// the node becomes idle. One of the two always reaches the sender.
#[test]
fn full_batch_for_a_busy_node_is_drained_when_the_node_is_idle() {
    check_model(|| {
        let (queue, wakeup) = new_event_queue();
        let busy = Arc::new(AtomicBool::new(true));
        let caller = {
            let queue = queue.clone();
            thread::spawn(move || {
                let is_idle = || !queue.is_busy(1);
                queue.post_if(Event::MemoryWanted, Tick(0), is_idle).unwrap();
            })
        };
        let network = {
            let (busy, wakeup) = (busy.clone(), wakeup.clone());
            thread::spawn(move || {
                busy.store(false, Ordering::Release);
                wakeup.wake();
            })
        };
        let mut total = 0;
        loop {
            queue.set_awake();
            let mut events = Vec::new();
            queue.drain(&mut events);
            total += events.len();
            let is_busy = busy.load(Ordering::Acquire);
            if total > 0 && !is_busy {
                break;
            }
            queue.set_busy([(1, is_busy)].into_iter());
            if queue.begin_sleep(Tick(u64::MAX)) {
                wakeup.notify.wait();
            }
        }
        caller.join().unwrap();
        network.join().unwrap();
    });
}

/// A caller appends to a batch that another caller has opened and not yet announced, then flushes.
/// The sender either has the announcement, or knows that it must look at every partition.
#[test]
fn flush_includes_a_batch_that_is_not_announced_yet() {
    check_model(|| {
        let (queue, wakeup) = new_event_queue();
        let opened = Arc::new(loom::sync::Mutex::new(false));
        let opener = {
            let (queue, opened) = (queue.clone(), opened.clone());
            thread::spawn(move || {
                {
                    let mut opened = opened.lock().unwrap();
                    *opened = true;
                    queue.pending_posts.begin_announcement();
                }
                queue.post(Event::BatchOpened(0), Tick(0)).unwrap();
                queue.pending_posts.end_announcement();
            })
        };
        let flusher = {
            let (queue, opened) = (queue.clone(), opened.clone());
            thread::spawn(move || {
                let appended = *opened.lock().unwrap();
                queue.post(Event::Flush(Arc::default()), Tick(0)).unwrap();
                appended
            })
        };
        let (mut is_batch_known, mut complete) = (false, false);
        loop {
            queue.set_awake();
            let mut events = Vec::new();
            queue.drain(&mut events);
            let has_flush = events.iter().any(|e| matches!(e, Event::Flush(_)));
            if has_flush {
                complete = queue.drain_with_pending(&mut events);
            }
            // The flush includes only the batches whose events come before it.
            let before_flush = events.iter().take_while(|e| !matches!(e, Event::Flush(_)));
            is_batch_known |= before_flush.into_iter().any(|e| matches!(e, Event::BatchOpened(_)));
            if has_flush {
                break;
            }
            if queue.begin_sleep(Tick(u64::MAX)) {
                wakeup.notify.wait();
            }
        }
        let appended = flusher.join().unwrap();
        opener.join().unwrap();
        // If the events are not complete, the sender looks at every partition.
        assert!(!appended || is_batch_known || !complete, "a flush missed a batch");
    });
}

/// The sender ends while one caller flushes and another closes a batch: the flush returns, and not
/// before the batch is completed.
#[test]
fn last_flush_waits_for_a_batch_that_is_being_closed() {
    check_model(|| {
        let queue = Arc::new(EventQueue::new(Arc::default()));
        let is_completed = Arc::new(AtomicBool::new(false));
        let job = queue.pending_posts.begin_job();
        let closer = {
            let is_completed = is_completed.clone();
            thread::spawn(move || {
                is_completed.store(true, Ordering::Relaxed);
                drop(job);
            })
        };
        let sender = {
            let queue = queue.clone();
            thread::spawn(move || queue.pending_posts.sender_ended())
        };
        let completion = Arc::<FlushCompletion>::default();
        queue.pending_posts.add_flush(completion.clone());
        block_on(FlushFuture { completion });
        assert!(is_completed.load(Ordering::Relaxed), "the flush returned before the batch");
        closer.join().unwrap();
        sender.join().unwrap();
    });
}

#[test]
fn completed_flush_wakes_its_caller() {
    check_model(|| {
        let completion = Arc::<FlushCompletion>::default();
        let sender = {
            let completion = completion.clone();
            thread::spawn(move || completion.complete())
        };
        block_on(FlushFuture { completion });
        sender.join().unwrap();
    });
}

/// One waiter needs all memory, another a part of it, and one buffer holds all. Both waiters are
/// served, and all memory returns.
#[test]
fn freed_memory_reaches_all_waiters() {
    check_model(|| {
        let pool = BufferPool::new(2, 1, Arc::default());
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

/// A waiter that is dropped returns the memory that it accumulated or was granted, even if the
/// grant comes at the same moment. The next waiter gets the memory.
#[test]
fn memory_of_a_cancelled_waiter_goes_to_the_next() {
    check_model(|| {
        let pool = BufferPool::new(2, 1, Arc::default());
        let held = pool.try_allocate(1).unwrap().unwrap();
        let cancelled = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut future = pool.allocate(2);
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(buf) = Pin::new(&mut future).poll(&mut cx) {
                    drop(buf.unwrap());
                }
            })
        };
        let next = {
            let pool = pool.clone();
            thread::spawn(move || drop(block_on(pool.allocate(2)).unwrap()))
        };
        drop(held);
        cancelled.join().unwrap();
        next.join().unwrap();
        assert_eq!((pool.balance(), pool.waiting()), (2, 0));
    });
}

#[test]
fn closing_the_pool_fails_current_and_new_waiters() {
    check_model(|| {
        let lifecycle = Arc::<LifecycleCell>::default();
        let pool = BufferPool::new(1, 1, lifecycle.clone());
        let held = pool.try_allocate(1).unwrap().unwrap();
        let failed = Arc::new(AtomicU32::new(0));
        let waiter = {
            let (pool, failed) = (pool.clone(), failed.clone());
            thread::spawn(move || {
                assert!(block_on(pool.allocate(1)).is_err());
                failed.fetch_add(1, Ordering::Relaxed);
            })
        };
        lifecycle.transition(&Lifecycle::Closed);
        pool.fail_waiters();
        waiter.join().unwrap();
        drop(held);
        assert_eq!((failed.load(Ordering::Relaxed), pool.balance()), (1, 1));
    });
}

/// The sender publishes a topic while one caller waits for it and another creates a handle. The
/// first finds the topic or is woken, and both have the same one.
#[test]
fn published_topic_reaches_a_waiting_caller_and_a_new_handle() {
    check_model(|| {
        let topics = Arc::<TopicInfoMap>::default();
        let waiting_caller = {
            let topics = topics.clone();
            thread::spawn(move || {
                let (name, waiter) = ("t".into(), DeadlineWaiter::new(Arc::default()));
                block_on(std::future::poll_fn(|cx| {
                    waiter.register(cx.waker());
                    topics.register(&name, &waiter);
                    topics.get("t").map_or(Poll::Pending, Poll::Ready)
                }))
            })
        };
        let handle_caller = {
            let topics = topics.clone();
            thread::spawn(move || topics.get_or_create("t"))
        };
        let mut cluster = Cluster::default();
        let leaders = vec![Leader { node_id: 1, epoch: 0 }];
        cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
        topics.publish(&cluster, cluster.topics.keys(), &None);
        let (found, created) = (waiting_caller.join().unwrap(), handle_caller.join().unwrap());
        assert!(Arc::ptr_eq(&found, &created) && found.is_known());
    });
}
