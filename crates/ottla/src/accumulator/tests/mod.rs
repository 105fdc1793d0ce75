//! The accumulator by itself, in virtual time: callers append, a sender of a few lines looks, drains and
//! settles (CASES A2).

mod drain;
mod full;
mod ready;
mod threads;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::compression::Codec;

use super::append::{AppendResult, AppendState, DeliveryOptions};
use super::batch::{ClosedBatch, Stamp, StampedBatch};
use super::callers::CallerContext;
use super::completion::{Delivery, Outcome};
use super::drain::Drained;
use super::ends::DeliveryListeners;
use super::mailbox::Event;
use super::partition::{Partition, QueuedBatch};
use super::partitioner::Spread;
use super::ready::{Active, Order, Urge, View};
use super::topics::Topic;
use super::{AccumulatorSettings, RecordAccumulator};
use crate::cluster::{Cluster, Leader, Node, TopicMetadata};
use crate::error::Error;
use crate::network::io::simulated::{Faults, Machine};
use crate::producer::{PreparedRecord, Record};
use crate::time::Tick;

const MS: Duration = Duration::from_millis(1);

/// Anything may be drained but what is muted, and no order is kept.
#[derive(Default)]
struct Free {
    muted: BTreeSet<u32>,
    in_flight: BTreeSet<u32>,
}

impl Order for Free {
    fn may_drain(&self, partition: &Partition, _: bool) -> bool {
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
struct Bed {
    machine: Machine,
    acc: Arc<RecordAccumulator>,
    cluster: Cluster,
    active: Active,
    order: Free,
    urge: Urge,
    /// Whether what lingers goes along.
    along: bool,
}

fn settings() -> AccumulatorSettings {
    AccumulatorSettings {
        batch_size: 1024,
        linger: Duration::ZERO,
        delivery_timeout: 3200 * MS,
        buffer_memory: 10 << 20,
        codec: Codec::None,
        compression_level: 0,
        partitioning: Spread::Default { ignore_keys: false },
        adaptive_partitioning: true,
        availability_timeout: Duration::ZERO,
    }
}

impl Bed {
    /// Topic `t`, its partitions led by these nodes.
    fn new(settings: AccumulatorSettings, leaders: &[i32]) -> Bed {
        let machine = Machine::new(7, Faults::NONE);
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
        let mut bed = Bed { machine, acc, cluster, active, order, urge, along: false };
        bed.lead(
            &leaders.iter().map(|&node| Leader { node_id: node, epoch: 100 }).collect::<Vec<_>>(),
        );
        bed
    }

    fn lead(&mut self, leaders: &[Leader]) {
        let leaders = leaders.to_vec();
        for node in leaders.iter().map(|l| l.node_id) {
            self.cluster
                .nodes
                .insert(node, Node { id: node, host: "h".into(), port: 1, rack: None });
        }
        self.cluster.topics.insert("t".into(), TopicMetadata { id: Default::default(), leaders });
        self.acc.topics.publish(&self.cluster, &None);
        self.active.touch_all();
    }

    fn topic(&self) -> Arc<Topic> {
        self.acc.topics.get("t").unwrap()
    }

    fn key(&self, p: i32) -> u32 {
        self.topic().partitions.get(p as usize).unwrap().id
    }

    fn pass(&self, ms: u64) {
        self.machine.advance(self.machine.now().after(Duration::from_millis(ms)));
    }

    fn append(&self, record: Record<'_>) -> Delivery {
        let prepared = PreparedRecord::new(&record, || 0).unwrap();
        let mut watch = DeliveryOptions { callback: None, wants_delivery: true };
        let mut attempt = AppendState::default();
        loop {
            match self.acc.append(&self.topic(), &prepared, &mut watch, &mut attempt).unwrap() {
                AppendResult::Appended(delivery) => return delivery.unwrap(),
                AppendResult::NeedsBuffer(size) => {
                    attempt.spare_buffer =
                        Some(self.acc.pool.try_allocate(size).unwrap().expect("memory"));
                }
                AppendResult::NeedsChainBuffer(size) => {
                    attempt.spare_buffer = self.acc.pool.try_allocate(size).unwrap();
                    attempt.no_chain_buffer = attempt.spare_buffer.is_none();
                }
            }
        }
    }

    fn to(&self, partition: i32, value: &[u8]) -> Delivery {
        self.append(Record::to("t").partition(partition).value(value).timestamp(0))
    }

    /// What callers have posted, and what time brings.
    fn look(&mut self) {
        let mut mail = Vec::new();
        self.acc.events().drain(&mut mail);
        for event in mail {
            match event {
                Event::BatchOpened(p) | Event::BatchClosed(p) => self.active.insert(p),
                Event::BatchAwaited(p, number) => self.active.awaited(p, number),
                other => panic!("{other:?}"),
            }
        }
        self.active.set_urge(self.urge);
        let view = View { acc: &self.acc, cluster: &self.cluster, now: self.machine.now() };
        self.active.refresh(view, &self.order);
        self.active.check(view, &self.order);
    }

    fn ready(&mut self) -> Vec<i32> {
        self.look();
        self.active.ready_nodes().collect()
    }

    /// Milliseconds until something is to be looked at; delivery time-outs aside, which are far away.
    fn next(&mut self) -> u64 {
        self.look();
        self.active.next().since(self.machine.now()).as_millis() as u64
    }

    fn drain_all(&mut self, node: i32, max: usize) -> Drained {
        self.look();
        let view = View { acc: &self.acc, cluster: &self.cluster, now: self.machine.now() };
        self.active.drain(view, &mut self.order, (max, self.along), node)
    }

    fn drain(&mut self, node: i32, max: usize) -> Vec<StampedBatch> {
        let out = self.drain_all(node, max);
        out.to_close.into_iter().for_each(|open| {
            let p = open.meta.partition.clone();
            self.acc.close_into_queue(open);
            self.acc.post_batch_closed(&p);
        });
        out.batches
    }

    fn partitions(&mut self, node: i32, max: usize) -> Vec<i32> {
        self.drain(node, max).iter().map(|b| b.closed.meta.partition.index).collect()
    }

    fn put_back(&mut self, batch: StampedBatch, not_before: Tick) {
        let p = batch.closed.meta.partition.clone();
        p.lock_for_sender().insert_in_order(QueuedBatch::Retry(Box::new(batch), not_before));
        self.active.insert(p);
    }

    fn expire(&mut self) -> Vec<i32> {
        self.look();
        let view = View { acc: &self.acc, cluster: &self.cluster, now: self.machine.now() };
        let expired = self.active.expire(view);
        let batches = expired.into_iter().map(|e| match e {
            super::drain::Expired::Unsent(b) => b,
            super::drain::Expired::Sent(b) => b.unstamp(),
        });
        let mut out = Vec::new();
        for mut batch in batches {
            out.push(batch.meta.partition.index);
            batch.complete(Outcome::Failed(Error::closed()));
        }
        out
    }
}

fn written(mut batch: StampedBatch, base: i64) {
    batch.closed.complete(Outcome::Acknowledged { base_offset: Some(base), log_append_time: None });
}
