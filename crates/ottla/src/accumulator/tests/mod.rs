//! The accumulator by itself, in virtual time: callers append, a sender of a few lines looks, drains and
//! settles (CASES A2).

mod drain;
mod append;
mod ready;
mod threads;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::compression::Codec;

use super::append::{AppendResult, AppendState, DeliveryOptions};
use super::batch::{ClosedBatch, Stamp, StampedBatch};
use super::batch_completions::DeliveryListeners;
use super::builtin_partitioner::Partitioning;
use super::caller_context::CallerContext;
use super::completion::{Delivery, Outcome};
use super::drain::DrainedBatches;
use super::event_queue::Event;
use super::partition::{Partition, QueuedBatch};
use super::ready::{DrainContext, DrainPolicy, ReadyTracker, SendPressure};
use super::topics::TopicInfo;
use super::{AccumulatorSettings, RecordAccumulator};
use crate::cluster::{Cluster, Leader, Node, TopicMetadata};
use crate::error::Error;
use crate::network::io::simulated::{Faults, SimMachine};
use crate::producer::{PreparedRecord, Record};
use crate::time::Tick;

const MS: Duration = Duration::from_millis(1);

/// Anything may be drained but what is muted, and no order is kept.
#[derive(Default)]
struct TestDrainPolicy {
    muted: BTreeSet<u32>,
    in_flight: BTreeSet<u32>,
}

impl DrainPolicy for TestDrainPolicy {
    fn can_drain(&self, partition: &Partition, _: bool) -> bool {
        !self.muted.contains(&partition.id)
    }
    fn is_idle(&self, partition: &Partition) -> bool {
        !self.in_flight.contains(&partition.id)
    }
    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch {
        batch.stamp(Stamp::NONE)
    }
}

/// An accumulator on a virtual machine, and a cluster with one topic.
struct AccumulatorFixture {
    machine: SimMachine,
    accumulator: Arc<RecordAccumulator>,
    cluster: Cluster,
    ready: ReadyTracker,
    policy: TestDrainPolicy,
    pressure: SendPressure,
    /// Whether what lingers goes along.
    include_lingering: bool,
}

fn settings() -> AccumulatorSettings {
    AccumulatorSettings {
        batch_size: 1024,
        linger: Duration::ZERO,
        delivery_timeout: 3200 * MS,
        buffer_memory: 10 << 20,
        codec: Codec::None,
        compression_level: 0,
        partitioning: Partitioning::Default { ignore_keys: false },
        adaptive_partitioning: true,
        availability_timeout: Duration::ZERO,
    }
}

impl AccumulatorFixture {
    /// Topic `t`, its partitions led by these nodes.
    fn new(settings: AccumulatorSettings, leaders: &[i32]) -> AccumulatorFixture {
        let machine = SimMachine::new(7, Faults::NONE);
        let callers = CallerContext::new(Arc::new(machine.clone()), true);
        let env = Arc::new(machine.clone());
        let acc = RecordAccumulator::new(
            settings,
            env,
            callers,
            Arc::<DeliveryListeners>::default(),
            None,
        );
        let (active, order, urge) = Default::default();
        let cluster = Cluster::default();
        let mut bed = AccumulatorFixture {
            machine,
            accumulator: acc,
            cluster,
            ready: active,
            policy: order,
            pressure: urge,
            include_lingering: false,
        };
        bed.set_leaders(
            &leaders.iter().map(|&node| Leader { node_id: node, epoch: 100 }).collect::<Vec<_>>(),
        );
        bed
    }

    fn set_leaders(&mut self, leaders: &[Leader]) {
        let leaders = leaders.to_vec();
        for node in leaders.iter().map(|l| l.node_id) {
            self.cluster
                .nodes
                .insert(node, Node { id: node, host: "h".into(), port: 1, rack: None });
        }
        self.cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
        self.accumulator.topics.publish(&self.cluster, &None);
        self.ready.mark_all_dirty();
    }

    fn topic(&self) -> Arc<TopicInfo> {
        self.accumulator.topics.get("t").unwrap()
    }

    fn key(&self, p: i32) -> u32 {
        self.topic().partitions.get(p as usize).unwrap().id
    }

    fn advance_ms(&self, ms: u64) {
        self.machine.advance(self.machine.now().after(Duration::from_millis(ms)));
    }

    fn append(&self, record: Record<'_>) -> Delivery {
        let prepared = PreparedRecord::new(&record, || 0).unwrap();
        let mut watch = DeliveryOptions { callback: None, wants_delivery: true };
        let mut attempt = AppendState::default();
        loop {
            match self
                .accumulator
                .append(&self.topic(), &prepared, &mut watch, &mut attempt)
                .unwrap()
            {
                AppendResult::Appended(delivery) => return delivery.unwrap(),
                AppendResult::NeedsBuffer(size) => {
                    attempt.spare_buffer =
                        Some(self.accumulator.pool.try_allocate(size).unwrap().expect("memory"));
                }
                AppendResult::NeedsChainBuffer(size) => {
                    attempt.spare_buffer = self.accumulator.pool.try_allocate(size).unwrap();
                    attempt.no_chain_buffer = attempt.spare_buffer.is_none();
                }
            }
        }
    }

    fn append_to(&self, partition: i32, value: &[u8]) -> Delivery {
        self.append(Record::to("t").partition(partition).value(value).timestamp(0))
    }

    /// What callers have posted, and what time brings.
    fn refresh(&mut self) {
        let mut mail = Vec::new();
        self.accumulator.events().drain(&mut mail);
        for event in mail {
            match event {
                Event::BatchOpened(p) | Event::BatchClosed(p) => self.ready.insert(p),
                Event::BatchAwaited(p, number) => self.ready.mark_awaited(p, number),
                other => panic!("{other:?}"),
            }
        }
        self.ready.set_pressure(self.pressure);
        let view = DrainContext {
            accumulator: &self.accumulator,
            cluster: &self.cluster,
            now: self.machine.now(),
        };
        self.ready.refresh(view, &self.policy);
        self.ready.assert_consistent(view, &self.policy);
    }

    fn ready_nodes(&mut self) -> Vec<i32> {
        self.refresh();
        self.ready.ready_nodes().collect()
    }

    /// Milliseconds until something is to be looked at; delivery time-outs aside, which are far away.
    fn next_deadline_ms(&mut self) -> u64 {
        self.refresh();
        self.ready.next_deadline().since(self.machine.now()).as_millis() as u64
    }

    fn drain_without_closing(&mut self, node: i32, max: usize) -> DrainedBatches {
        self.refresh();
        let view = DrainContext {
            accumulator: &self.accumulator,
            cluster: &self.cluster,
            now: self.machine.now(),
        };
        self.ready.drain(view, &mut self.policy, (max, self.include_lingering), node)
    }

    fn drain(&mut self, node: i32, max: usize) -> Vec<StampedBatch> {
        let out = self.drain_without_closing(node, max);
        out.to_close.into_iter().for_each(|open| {
            let p = open.meta.partition.clone();
            self.accumulator.close_into_queue(open);
            self.accumulator.post_batch_closed(&p);
        });
        out.batches
    }

    fn drain_partitions(&mut self, node: i32, max: usize) -> Vec<i32> {
        self.drain(node, max).iter().map(|b| b.closed.meta.partition.index).collect()
    }

    fn reenqueue_batch(&mut self, batch: StampedBatch, not_before: Tick) {
        let p = batch.closed.meta.partition.clone();
        p.lock_for_sender().insert_in_order(QueuedBatch::Retry(Box::new(batch), not_before));
        self.ready.insert(p);
    }

    fn expire(&mut self) -> Vec<i32> {
        self.refresh();
        let view = DrainContext {
            accumulator: &self.accumulator,
            cluster: &self.cluster,
            now: self.machine.now(),
        };
        let expired = self.ready.expire(view);
        let batches = expired.into_iter().map(|e| match e {
            super::drain::RemovedBatch::Unsent(b) => b,
            super::drain::RemovedBatch::Sent(b) => b.unstamp(),
        });
        let mut out = Vec::new();
        for mut batch in batches {
            out.push(batch.meta.partition.index);
            batch.complete(Outcome::Failed(Error::closed()));
        }
        out
    }
}

fn acknowledge(mut batch: StampedBatch, base: i64) {
    batch.closed.complete(Outcome::Acknowledged { base_offset: Some(base), log_append_time: None });
}
