//! Tests of the ready tracker and the drain in virtual time, without a sender (CASES A2).
//!
//! The fixture does the sender's steps: it refreshes the ready tracker, drains and completes. The
//! accumulator's tests use it, too.

mod drain;
mod ready;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::batch_size_discovery::BatchSizeDiscovery;
use super::drain::{DrainRequest, DrainedBatches, RemovedBatch};
use super::producer_state::ProducerState;
use super::ready::{DrainContext, ReadyTracker, SendPressure};
use crate::accumulator::RecordAccumulator;
use crate::accumulator::append::{AppendResult, AppendState};
use crate::accumulator::batch::StampedBatch;
use crate::accumulator::partition::QueuedBatch;
use crate::accumulator::topics::TopicInfo;
use crate::cluster::{Cluster, Leader, Node, TopicMetadata};
use crate::config::{AccumulatorSettings, Compression, PartitioningStrategy};
use crate::delivery::batch_completions::DeliveryListeners;
use crate::delivery::batch_completions::DeliveryOptions;
use crate::delivery::result::{Delivery, Outcome};
use crate::error::Error;
use crate::record::{PreparedRecord, Record};
use crate::sim::{Faults, SimMachine};
use crate::time::Tick;
use crate::wakeup::caller_context::CallerContext;
use crate::wakeup::event_queue::Event;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// An accumulator on a simulated machine, and a cluster with the topic `t`.
pub(crate) struct AccumulatorFixture {
    pub(crate) machine: SimMachine,
    pub(crate) accumulator: Arc<RecordAccumulator>,
    pub(crate) cluster: Cluster,
    pub(crate) ready: ReadyTracker,
    /// Without idempotence. A partition may have one batch in flight (`max.in.flight=1`); the
    /// fixture's drains count none, so nothing is muted until [`mute`](Self::mute).
    pub(crate) producer_state: ProducerState,
    pub(crate) discovery: BatchSizeDiscovery,
    pub(crate) pressure: SendPressure,
    /// Whether drains include lingering batches.
    pub(crate) include_lingering: bool,
}

pub(crate) fn settings() -> AccumulatorSettings {
    AccumulatorSettings {
        batch_size: 1024,
        max_batch_size: 1024,
        linger: Duration::ZERO,
        delivery_timeout: 3200 * MS,
        buffer_memory: 10 << 20,
        linger_awaited: true,
        compression: Compression::None,
        partitioning: PartitioningStrategy::Default,
        adaptive_partitioning: true,
        availability_timeout: Duration::ZERO,
        rack: None,
    }
}

impl AccumulatorFixture {
    /// `leaders` holds the leader's node id of each partition; -1 for none.
    pub(crate) fn new(settings: AccumulatorSettings, leaders: &[i32]) -> AccumulatorFixture {
        let discovery = BatchSizeDiscovery::new(Duration::from_secs(300), settings.batch_size);
        let machine = SimMachine::new(7, Faults::NONE);
        let accumulator = RecordAccumulator::new(
            settings,
            Arc::new(machine.clone()),
            CallerContext::new(Arc::new(machine.clone()), true),
            Arc::<DeliveryListeners>::default(),
        );
        let mut fixture = AccumulatorFixture {
            machine,
            accumulator,
            cluster: Cluster::default(),
            ready: ReadyTracker::default(),
            producer_state: ProducerState::new(false, true),
            discovery,
            pressure: SendPressure::default(),
            include_lingering: false,
        };
        let leaders = leaders.iter().map(|&node_id| Leader { node_id, epoch: 100 });
        fixture.set_leaders(&leaders.collect::<Vec<_>>());
        fixture
    }

    /// Publishes a metadata update with these leaders.
    pub(crate) fn set_leaders(&mut self, leaders: &[Leader]) {
        let leaders = leaders.to_vec();
        for node in leaders.iter().map(|l| l.node_id) {
            self.cluster
                .nodes
                .insert(node, Node { id: node, host: "h".into(), port: 1, rack: None });
        }
        self.cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
        self.accumulator.topics.publish(&self.cluster, self.cluster.topics.keys(), &None);
        self.ready.mark_all_dirty();
    }

    pub(crate) fn topic(&self) -> Arc<TopicInfo> {
        self.accumulator.topics.get("t").unwrap()
    }

    pub(crate) fn key(&self, p: i32) -> u32 {
        self.topic().partitions.get(p as usize).unwrap().id
    }

    pub(crate) fn advance_ms(&self, ms: u64) {
        self.machine.advance(self.machine.now().after(Duration::from_millis(ms)));
    }

    pub(crate) fn append(&self, record: Record<'_>) -> Delivery {
        let prepared = PreparedRecord::new(&record, || 0).unwrap();
        let mut options = DeliveryOptions { wants_delivery: true, ..DeliveryOptions::default() };
        let mut state = AppendState::default();
        loop {
            match self
                .accumulator
                .append(&self.topic(), &prepared, &mut options, &mut state)
                .unwrap()
            {
                AppendResult::Appended => return options.delivery.unwrap(),
                AppendResult::NeedsNewBatch(size) => {
                    state.spare_buffer =
                        Some(self.accumulator.pool.try_allocate(size).unwrap().expect("memory"));
                }
                AppendResult::NeedsChainBuffer(size) => {
                    state.spare_buffer = self.accumulator.pool.try_allocate(size).unwrap();
                    state.no_chain_buffer = state.spare_buffer.is_none();
                }
            }
        }
    }

    pub(crate) fn append_to(&self, partition: i32, value: &[u8]) -> Delivery {
        self.append(Record::to("t").partition(partition).value(value).timestamp(0))
    }

    /// Counts a batch as in flight, which mutes its partition.
    pub(crate) fn mute(&mut self, partition_id: u32) {
        let leader = self.accumulator.topics.partition(partition_id).unwrap().leader.load(Relaxed);
        self.producer_state.add_in_flight_batch(partition_id, leader, false);
        self.ready.mark_dirty(partition_id);
    }

    /// Removes the batch that [`mute`](Self::mute) has counted.
    pub(crate) fn unmute(&mut self, partition_id: u32) {
        self.producer_state.remove_in_flight_batch(partition_id);
        self.ready.mark_dirty(partition_id);
    }

    /// Lets the next refresh evaluate a partition.
    pub(crate) fn track(&mut self, partition_id: u32) {
        self.ready.insert(self.accumulator.topics.partition(partition_id).unwrap());
    }

    /// Handles the events that callers have posted, and refreshes the ready tracker.
    pub(crate) fn refresh(&mut self) {
        let mut events = Vec::new();
        self.accumulator.events().drain(&mut events);
        for event in events {
            match event {
                Event::BatchOpened(id) | Event::BatchReady(id) => self.track(id),
                Event::BatchAwaited { partition_id, batch_number } => {
                    self.track(partition_id);
                    self.ready.mark_awaited(partition_id, batch_number);
                }
                other => panic!("{other:?}"),
            }
        }
        self.ready.set_pressure(self.pressure);
        let cx = DrainContext {
            accumulator: &self.accumulator,
            cluster: &self.cluster,
            now: self.machine.now(),
        };
        self.ready.refresh(cx, &self.producer_state);
        self.ready.assert_consistent(cx, &self.producer_state);
    }

    pub(crate) fn ready_nodes(&mut self) -> Vec<i32> {
        self.refresh();
        self.ready.ready_nodes().collect()
    }

    /// Returns the milliseconds until the next timer. Delivery timeouts are longer in these tests.
    pub(crate) fn next_deadline_ms(&mut self) -> u64 {
        self.refresh();
        self.ready.next_deadline().since(self.machine.now()).as_millis() as u64
    }

    pub(crate) fn drain_without_closing(&mut self, node: i32, max_size: usize) -> DrainedBatches {
        self.refresh();
        let cx = DrainContext {
            accumulator: &self.accumulator,
            cluster: &self.cluster,
            now: self.machine.now(),
        };
        let include_lingering = self.include_lingering;
        let request = DrainRequest { node, max_size, include_lingering };
        self.ready.drain(cx, &mut self.producer_state, &self.discovery, request)
    }

    /// Drains and closes batches as the sender and a worker thread do. A batch that was closed is
    /// returned by the next call.
    pub(crate) fn drain(&mut self, node: i32, max_size: usize) -> Vec<StampedBatch> {
        let out = self.drain_without_closing(node, max_size);
        out.to_close.into_iter().for_each(|open| {
            let p = open.meta.partition.clone();
            self.accumulator.close_into_queue(open);
            self.accumulator.post_batch_ready(&p);
        });
        out.batches
    }

    pub(crate) fn drain_partitions(&mut self, node: i32, max_size: usize) -> Vec<i32> {
        self.drain(node, max_size).iter().map(|b| b.closed.meta.partition.index).collect()
    }

    pub(crate) fn reenqueue_batch(&mut self, batch: StampedBatch, not_before: Tick) {
        let p = batch.closed.meta.partition.clone();
        p.lock_for_sender()
            .insert_in_order(QueuedBatch::Retry { batch: Box::new(batch), not_before });
        self.ready.insert(p);
    }

    /// Fails the expired batches, and returns their partitions.
    pub(crate) fn expire(&mut self) -> Vec<i32> {
        self.refresh();
        let cx = DrainContext {
            accumulator: &self.accumulator,
            cluster: &self.cluster,
            now: self.machine.now(),
        };
        let expired = self.ready.expire(cx);
        let mut partitions = Vec::new();
        for mut batch in expired.into_iter().map(RemovedBatch::into_closed) {
            partitions.push(batch.meta.partition.index);
            batch.complete(Outcome::Failed(Error::closed()));
        }
        partitions
    }
}

pub(crate) fn acknowledge(mut batch: StampedBatch, base_offset: i64) {
    batch
        .closed
        .complete(Outcome::Acknowledged { base_offset: Some(base_offset), log_append_time: None });
}
