//! Handles the events that callers post to the sender, their deadlines, and metadata updates.

use ottla_protocol::Uuid;

use super::Sender;
use crate::cluster::ClusterChanges;
use crate::error::Error;
use crate::network::io::Io;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;

impl<I: Io> Sender<I> {
    /// Handles the events that were posted since the last round.
    pub(super) fn handle_events(&mut self, now: Tick) {
        self.accumulator.events().set_awake();
        let mut events = std::mem::take(&mut self.buffers.events);
        self.accumulator.events().drain(&mut events);
        if events.iter().any(Event::is_for_all_partitions) {
            self.track_nonempty_partitions(&mut events);
        }
        for event in events.drain(..) {
            match event {
                Event::BatchOpened(id) => self.track_partition(id),
                Event::BatchReady(id) => {
                    self.purge_closed(id);
                    self.track_partition(id);
                }
                Event::BatchLost { partition_id, batch_number } => {
                    self.flushes.batch_completed(batch_number);
                    self.track_partition(partition_id);
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
                    // The topic may be known, but without the partition that a caller waits for.
                    self.client.request_topic(&name, now);
                }
                Event::Waiter { deadline, waiter } => {
                    self.waiter_deadlines.insert(deadline, waiter);
                }
                Event::Flush(completion) => self.begin_flush(completion),
                Event::Transaction(call) => self.handle_transaction_call(*call),
                Event::Snapshot(request) => self.buffers.snapshot_requests.push(request),
                Event::ClientInstanceId(request) => self.telemetry.await_instance_id(request),
                Event::Close => self.is_close_handled = true,
            }
        }
        self.buffers.events = events;
    }

    /// Lets the next [`refresh`](super::ready::ReadyTracker::refresh) evaluate a partition.
    fn track_partition(&mut self, id: u32) {
        if !self.ready.mark_dirty(id)
            && let Some(p) = self.accumulator.topics.partition(id)
        {
            self.ready.insert(p);
        }
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

    /// Takes over the topics that have changed; all of them if brokers have changed.
    ///
    /// A response costs what it describes: the first sends to many topics get a response each.
    fn publish_changes(&mut self, changes: ClusterChanges) {
        let cluster = self.client.cluster();
        let mut changed = changes.topics;
        if changes.nodes {
            changed.extend(cluster.topics.keys().cloned());
            self.ready.mark_all_dirty();
        }
        let topics = &self.accumulator.topics;
        topics.publish(&cluster, changed.iter(), &self.accumulator.settings.rack);
        for topic in changed.iter().filter_map(|name| topics.get(name)) {
            let id = cluster.topics.get(&topic.name).map_or(Uuid::ZERO, |metadata| metadata.id);
            // Also the partitions that are not visible: they may have batches.
            for partition in topic.partitions.iter_all() {
                self.producer_state.update_topic_id(partition.id, id);
                self.ready.mark_dirty(partition.id);
            }
        }
        self.stall_report.known(|topic| cluster.topics.contains_key(topic));
        if self.accumulator.settings.adaptive_partitioning {
            let known = changed.into_iter().filter(|name| cluster.topics.contains_key(name));
            self.ready.load_stats.reset(known);
        }
    }

    /// Publishes new topics to callers, and fails what metadata errors make impossible.
    pub(super) fn handle_metadata_update(&mut self) {
        let update = self.client.take_metadata_update();
        if update.updated {
            self.publish_changes(update.changes);
        }
        for e in update.bootstrap_error.iter().chain(&update.authentication_error) {
            self.accumulator.topics.notify_error_all(e);
            if let Some(transactions) = &mut self.producer_state.transactions {
                transactions.fail_calls_for_an_id(e);
            }
        }
        if let Some(e) = update.authentication_error {
            // A producer that never had an id cannot send anything, so its batches fail
            // (CASES SA5). With an id, another broker or new credentials may still deliver them
            // within the delivery timeout.
            if self.producer_state.needs_producer_id() && !self.producer_state.has_had_producer_id()
            {
                self.abort_undrained_batches(&e);
            }
        }
        for (name, code) in update.topic_errors {
            let location = format!("topic {name} at {}", update.responder);
            let e = Error::broker(code, None, &location);
            // As in Java, only waiting sends fail. Accepted records wait for their topic to recover
            // (a permission may be withdrawn by mistake) or for their timeout.
            if !e.is_retriable() && !self.client.cluster().topics.contains_key(&*name) {
                self.client.remove_topic(&name);
            } else {
                self.report_stalled_topic(&name, e.to_string(), code);
            }
            self.accumulator.topics.notify_error(&name, &e);
        }
    }
}
