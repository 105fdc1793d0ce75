//! The events that callers post to the sender, and the wakeup that ends the sender's sleep.
//!
//! Callers post per batch. Only a call that waits, or that must not wait, posts per record: for
//! memory, a topic or a delivery. The protocol prevents lost wakeups:
//!
//! - To post: push the event under the lock and unlock. If `sleep_deadline` is later than the
//!   event's deadline, set it to 0; if this thread changed it, wake the sender.
//! - To sleep: publish `sleep_deadline`, then take the lock. If an event is there, do not sleep.
//!
//! The lock orders the two sides. A caller that pushes an event after the sender has looked sees
//! the `sleep_deadline` that the sender published before it looked. `loom_tests.rs` checks this.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::sync::OnceLock;

use ottla_protocol::Uuid;

use super::lifecycle::LifecycleCell;
use crate::env::Wakeup;
use crate::snapshot::Snapshot;
use crate::sync::Mutex;
use crate::time::Tick;
use crate::wakeup::call_request::CallRequest;
use crate::wakeup::pending_posts::PendingPosts;
use crate::wakeup::transaction_call::TransactionCall;
use crate::wakeup::waiters::{DeadlineWaiter, FlushCompletion};

/// An event for the sender. It names a partition by its id: the events know nothing of batches.
#[derive(Debug)]
pub(crate) enum Event {
    /// The partition with this id was empty and has an open batch.
    BatchOpened(u32),
    /// A batch of the partition with this id is ready to drain: it was closed or extended.
    BatchReady(u32),
    /// A batch failed while a thread closed it: the thread panicked.
    BatchLost { partition_id: u32, batch_number: u64 },
    /// A caller waits for a record of this batch.
    BatchAwaited { partition_id: u32, batch_number: u64 },
    /// A batch that was too large for a broker was split: the sender has a new split outcome.
    BatchSplit,
    /// The application purges the queued batches up to this number, and the ones in flight if
    /// `include_in_flight`.
    Purge { up_to_batch: u64, include_in_flight: bool },
    /// A caller waits for memory, or was refused memory.
    MemoryWanted,
    /// A caller needs the metadata of a topic.
    TopicWanted(Arc<str>),
    /// A caller waits, at most until the deadline.
    Waiter { deadline: Tick, waiter: Arc<DeadlineWaiter> },
    /// The application flushes all batches that exist now.
    Flush(Arc<FlushCompletion>),
    /// The application makes a transactional call.
    Transaction(Box<TransactionCall>),
    /// A caller asks what the sender does.
    Snapshot(CallRequest<Snapshot>),
    /// A caller needs the client instance id of KIP-714.
    ClientInstanceId(CallRequest<Uuid>),
    /// The application closes the producer. The lifecycle has the deadline.
    Close,
}

impl Event {
    /// Returns whether the event concerns every partition that has a batch.
    pub(crate) fn is_for_all_partitions(&self) -> bool {
        match self {
            Event::Flush(_) | Event::Close | Event::Purge { .. } | Event::Snapshot(_) => true,
            // The begin and the end of a transaction separate the records before and after it.
            Event::Transaction(call) => !matches!(**call, TransactionCall::SendFailed(_)),
            _ => false,
        }
    }
}

/// The queue of events for the sender, and whether the sender sleeps.
#[repr(align(128))]
pub(crate) struct EventQueue {
    events: Mutex<Vec<Event>>,
    lifecycle: Arc<LifecycleCell>,
    /// When the sleeping sender wakes without an event, in nanoseconds; 0 while it is awake.
    sleep_deadline: AtomicU64,
    wakeup: OnceLock<Arc<dyn Wakeup>>,
    /// The nodes that can take no request while the sender sleeps. Bit `n` is for the nodes whose
    /// id modulo 64 is `n`.
    busy_nodes: AtomicU64,
    /// The nodes whose next response will wake the sender soon; bits as in `busy_nodes`.
    responding_nodes: AtomicU64,
    /// The posts that other threads will make.
    pub(crate) pending_posts: Arc<PendingPosts>,
}

impl EventQueue {
    pub(crate) fn new(lifecycle: Arc<LifecycleCell>) -> EventQueue {
        EventQueue {
            lifecycle,
            events: Mutex::default(),
            sleep_deadline: AtomicU64::new(0),
            wakeup: OnceLock::new(),
            busy_nodes: AtomicU64::new(0),
            responding_nodes: AtomicU64::new(0),
            pending_posts: Arc::default(),
        }
    }

    pub(crate) fn set_wakeup(&self, wakeup: Arc<dyn Wakeup>) {
        let _ = self.wakeup.set(wakeup);
    }

    /// Posts an event. Wakes the sender if it would sleep past `deadline`.
    ///
    /// # Errors
    /// Returns the event if the sender has ended.
    pub(crate) fn post(&self, event: Event, deadline: Tick) -> Result<(), Event> {
        self.post_if(event, deadline, || true)
    }

    /// Posts an event. Wakes the sender if it would sleep past `deadline` and `should_wake` returns
    /// true.
    ///
    /// A full batch for a busy node uses this: it does not wake the sender while the node cannot
    /// take a request, because the node's next response wakes the sender anyway. `should_wake` is
    /// called after the event is in the queue. If it were called before, its result could be older
    /// than the sender's last look at the queue, and then no thread would wake the sender.
    ///
    /// # Errors
    /// Returns the event if the sender has ended.
    pub(crate) fn post_if(
        &self,
        event: Event,
        deadline: Tick,
        should_wake: impl FnOnce() -> bool,
    ) -> Result<(), Event> {
        {
            let mut events = self.events.lock();
            // Under the lock: an event that is pushed before `take_all` is taken by it, and a later
            // one finds the lifecycle closed.
            if self.lifecycle.is_closed() {
                return Err(event);
            }
            events.push(event);
        }
        if !should_wake() {
            return Ok(());
        }
        // Compare-and-swap, and only if the sender sleeps past this event's deadline. A plain swap
        // could take a deadline that is early enough for this event. The next caller would then
        // read 0, believe that the sender is awake, and not wake it for an earlier deadline.
        let take_later = |sleep_deadline: u64| (sleep_deadline > deadline.0).then_some(0);
        if self.sleep_deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, take_later).is_ok()
            && let Some(wakeup) = self.wakeup.get()
        {
            wakeup.wake();
        }
        Ok(())
    }

    /// Appends the events posted since `events` was drained, and moves announcements to the front.
    /// Returns whether `events` has the announcement of every batch that its flushes, closes and
    /// purges concern. If not, the sender must look at every partition.
    ///
    /// A flush must include each record that its caller appended before. The caller may have
    /// appended to a batch that another caller opened. The first caller has then posted nothing for
    /// this batch, and the other caller's `BatchOpened` may still be pending. The count of pending
    /// announcements shows this. If the drain adds another flush, close or purge, the count was
    /// read too early for it.
    pub(crate) fn drain_with_pending(&self, events: &mut Vec<Event>) -> bool {
        // Read before the drain: an announcement that ended before this read is in the queue.
        let none_pending = !self.pending_posts.has_announcements();
        let drained_before = events.len();
        self.drain(events);
        let complete =
            none_pending && !events[drained_before..].iter().any(Event::is_for_all_partitions);
        events.sort_by_key(|e| !matches!(e, Event::BatchOpened(_)));
        complete
    }

    /// Returns whether a node can take no request. A full batch for it does not wake the sender.
    pub(crate) fn is_busy(&self, node: i32) -> bool {
        has_node_bit(&self.busy_nodes, node)
    }

    /// Returns whether a node's response will wake the sender soon. A full batch for it waits until
    /// then.
    pub(crate) fn is_responding(&self, node: i32) -> bool {
        has_node_bit(&self.responding_nodes, node)
    }

    /// Stores which nodes can take no request. The sender calls it before
    /// [`begin_sleep`](Self::begin_sleep). Nodes that share a bit are busy only if all of them are.
    pub(crate) fn set_busy(&self, nodes: impl Iterator<Item = (i32, bool)>) {
        self.busy_nodes.store(node_bits(nodes), Ordering::Relaxed);
    }

    /// Stores which nodes will respond soon. The sender calls it before
    /// [`begin_sleep`](Self::begin_sleep), whose deadline must not be later than "soon".
    pub(crate) fn set_responding(&self, nodes: impl Iterator<Item = (i32, bool)>) {
        self.responding_nodes.store(node_bits(nodes), Ordering::Relaxed);
    }

    /// Removes and returns the events that were not drained. The lifecycle is closed, so no event
    /// follows.
    pub(crate) fn take_all(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock())
    }

    /// Publishes that the sender sleeps until `deadline`. Returns false if there are events, in
    /// which case the sender must not sleep.
    pub(crate) fn begin_sleep(&self, deadline: Tick) -> bool {
        // The store must come before the lock: see the module's description of the protocol.
        self.sleep_deadline.store(deadline.0.max(1), Ordering::Release);
        let is_empty = self.events.lock().is_empty();
        if !is_empty {
            self.sleep_deadline.store(0, Ordering::Relaxed);
        }
        is_empty
    }

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.lock().is_empty()
    }

    /// Publishes that the sender is awake. Callers then post without waking it.
    pub(crate) fn set_awake(&self) {
        self.sleep_deadline.store(0, Ordering::Relaxed);
    }

    /// Appends the queued events to `into`. If `into` is empty, the queue keeps its allocation.
    pub(crate) fn drain(&self, into: &mut Vec<Event>) {
        let mut events = self.events.lock();
        if into.is_empty() {
            std::mem::swap(&mut *events, into);
        } else {
            into.append(&mut events);
        }
    }
}

fn has_node_bit(bits: &AtomicU64, node: i32) -> bool {
    node >= 0 && bits.load(Ordering::Relaxed) & (1 << (node & 63)) != 0
}

/// Returns the bits of the nodes for which the value is true for each node that shares the bit.
fn node_bits(nodes: impl Iterator<Item = (i32, bool)>) -> u64 {
    let (mut set, mut unset) = (0u64, 0u64);
    for (node, is_set) in nodes.filter(|(node, _)| *node >= 0) {
        *(if is_set { &mut set } else { &mut unset }) |= 1 << (node & 63);
    }
    set & !unset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wakeup::lifecycle::Lifecycle;

    #[derive(Default)]
    struct CountingWakeup {
        wakes: AtomicU64,
    }

    impl Wakeup for CountingWakeup {
        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn sender_is_woken_once_and_only_for_events_due_before_its_sleep_ends() {
        let lifecycle = Arc::<LifecycleCell>::default();
        let (queue, wakeup) =
            (EventQueue::new(lifecycle.clone()), Arc::new(CountingWakeup::default()));
        queue.set_wakeup(wakeup.clone());
        let wakes = || wakeup.wakes.load(Ordering::SeqCst);
        queue.post(Event::MemoryWanted, Tick(5)).unwrap();
        assert_eq!(wakes(), 0, "the sender is awake");
        assert!(!queue.begin_sleep(Tick(100)), "there is an event");
        let mut events = Vec::new();
        queue.drain(&mut events);
        assert!(queue.begin_sleep(Tick(100)));
        queue.post(Event::MemoryWanted, Tick(100)).unwrap();
        assert_eq!(wakes(), 0, "the sleep ends in time for this event");
        queue.post(Event::MemoryWanted, Tick(99)).unwrap();
        queue.post(Event::MemoryWanted, Tick(0)).unwrap();
        assert_eq!(wakes(), 1, "the first event woke the sender, the second need not");
        queue.set_responding([(1, true), (2, false), (65, false), (3, true)].into_iter());
        let responding = [1, 2, 3, 65, -1].map(|node| queue.is_responding(node));
        assert_eq!(responding, [false, false, true, false, false], "1 and 65 share a bit");
        lifecycle.transition(&Lifecycle::Closed);
        assert_eq!(queue.take_all().len(), 3);
        assert!(queue.post(Event::MemoryWanted, Tick(0)).is_err(), "the queue is closed");
    }
}
