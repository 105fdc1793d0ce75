//! Handles the events that callers post to the sender, their deadlines, and metadata updates.

use std::sync::Arc;

use super::Sender;
use super::producer_state::ProducerIdState;
use crate::error::Error;
use crate::network::io::Io;
use crate::sync::atomic::Ordering;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;

/// The number of waiters below which the map of deadlines is not pruned.
const MIN_WAITERS_TO_PRUNE: usize = 1024;

/// Orders waiting callers by deadline; the id makes the key unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaiterKey {
    deadline: Tick,
    id: u64,
}

impl<I: Io> Sender<I> {
    /// Handles the events that were posted since the last round.
    pub(super) fn handle_events(&mut self, now: Tick) {
        self.accumulator.events().set_awake();
        let mut events = std::mem::take(&mut self.event_buffer);
        self.accumulator.events().drain(&mut events);
        if events.iter().any(Event::is_for_all_partitions) {
            self.track_nonempty_partitions(&mut events);
        }
        for event in events.drain(..) {
            match event {
                Event::BatchOpened(id) => self.track_partition(id),
                Event::BatchClosed(id) => {
                    self.purge_closed(id);
                    self.track_partition(id);
                }
                Event::BatchAwaited { partition_id, batch_number } => {
                    self.track_partition(partition_id);
                    self.ready.mark_awaited(partition_id, batch_number);
                }
                Event::BatchSplit => {
                    for outcome in self.split_outcomes.take() {
                        self.reenqueue_parts(outcome);
                    }
                }
                Event::Purge { up_to_batch, include_in_flight } => {
                    self.purge(up_to_batch, include_in_flight);
                }
                // The event only has to start a round, which sees the waiters of the pool.
                Event::MemoryWanted => {}
                Event::TopicWanted(name) => {
                    self.client.add_topic(&name, now);
                    // The topic may be known, but without the partition that a caller waits for.
                    self.client.request_metadata(now);
                }
                Event::Waiter { deadline, waiter } => {
                    self.last_deadline_id += 1;
                    let key = WaiterKey { deadline, id: self.last_deadline_id };
                    self.waiter_deadlines.insert(key, waiter);
                }
                Event::Flush(completion) => self.begin_flush(completion),
                // The event only has to start a round: `maybe_shut_down` reads the lifecycle.
                Event::Close => {}
            }
        }
        self.event_buffer = events;
    }

    /// Lets the next [`refresh`](super::ready::ReadyTracker::refresh) evaluate a partition.
    fn track_partition(&mut self, id: u32) {
        if !self.ready.mark_dirty(id)
            && let Some(p) = self.accumulator.topics.partition(id)
        {
            self.ready.insert(p);
        }
    }

    /// Wakes callers whose deadline has expired. Returns the next deadline.
    ///
    /// The sender keeps these deadlines, because the future of an async caller has no timer and
    /// cannot wake itself. Memory that is granted to an expired caller goes to the next one.
    pub(super) fn wake_expired_waiters(&mut self, now: Tick) -> Tick {
        // A caller that is done drops its half of the waiter. Then the sender's is the only one.
        if self.waiter_deadlines.len() > MIN_WAITERS_TO_PRUNE
            && self.last_deadline_id.is_multiple_of(MIN_WAITERS_TO_PRUNE as u64)
        {
            self.waiter_deadlines.retain(|_, waiter| Arc::strong_count(waiter) > 1);
        }
        while let Some(first) = self.waiter_deadlines.first_entry() {
            // Without this check, the sender would wake for callers that were served long ago.
            let is_done = Arc::strong_count(first.get()) == 1;
            if first.key().deadline > now && !is_done {
                return first.key().deadline;
            }
            let waiter = first.remove();
            if is_done {
                continue;
            }
            self.accumulator.pool.revoke(waiter.pool_waiter_id.load(Ordering::Relaxed));
            waiter.wake();
        }
        Tick::NEVER
    }

    /// Makes sure that a flush, close or purge sees every partition that has records.
    ///
    /// A caller may append to a batch that another caller has opened. It posts nothing, and the
    /// opener's event may not be in the queue yet. `drain_with_pending` returns whether no opener
    /// is between its append and its post. Otherwise, all partitions are examined.
    fn track_nonempty_partitions(&mut self, events: &mut Vec<Event>) {
        if self.accumulator.events().drain_with_pending(events) {
            return;
        }
        for p in self.accumulator.topics.all_partitions() {
            let mut queue = p.lock_for_sender();
            let has_records = !queue.is_empty();
            queue.is_tracked_by_sender |= has_records;
            drop(queue);
            if has_records {
                self.ready.insert(p);
            }
        }
    }

    /// Publishes new topics to callers, and fails what metadata errors make impossible.
    pub(super) fn handle_metadata_update(&mut self) {
        let update = self.client.take_metadata_update();
        if update.updated {
            let cluster = self.client.cluster();
            self.accumulator.topics.publish(&cluster, &self.accumulator.settings.rack);
            if self.accumulator.settings.adaptive_partitioning {
                self.ready.reset_load_stats(cluster.topics.keys().cloned());
            }
        }
        if let Some(e) = update.authentication_error {
            self.accumulator.topics.notify_error_all(&e);
            // A producer that never had an id cannot send anything, so its batches fail
            // (CASES SA5). With an id, another broker or new credentials may still deliver them
            // within the delivery timeout.
            let is_without_id = matches!(
                self.producer_state.producer_id,
                ProducerIdState::Needed { .. } | ProducerIdState::Requested
            );
            if is_without_id && !self.producer_state.has_had_producer_id() {
                self.abort_undrained_batches(&e);
            }
        }
        for (name, code) in update.topic_errors {
            let location = format!("topic {name} at {}", update.responder);
            let e = Error::broker(code, None, &location);
            if !e.is_retriable() {
                self.client.remove_topic(&name);
                self.abort_undrained_batches_in(&e, |p| *p.topic == *name);
            }
            self.accumulator.topics.notify_error(&name, &e);
        }
    }
}
