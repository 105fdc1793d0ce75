//! Which nodes have something that may go out, and when to look again. Owned by the sender: it walks the
//! partitions that hold something, never the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Accumulator;
use super::batch::{ClosedBatch, StampedBatch};
use super::partition::{Partition, Queue, Slot};
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::plants::plant;
use crate::time::Tick;

/// The partitions that hold something, in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(super) partitions: BTreeMap<u32, Arc<Partition>>,
    /// Per node, the partition drained last: the next drain begins behind it.
    pub(super) drained: HashMap<i32, u32>,
}

/// The sender's word on what a partition may do, beyond having something.
pub(crate) trait Order {
    /// Whether a batch may leave now; `retry` if it has been sent before.
    fn may_drain(&self, partition: &Partition, retry: bool) -> bool;
    /// Takes the batch's place in the producer's order.
    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch;
}

/// Why lingering batches need not linger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Urge {
    /// Callers wait for memory.
    pub(crate) exhausted: bool,
    /// No more is coming.
    pub(crate) closing: bool,
    /// Batches up to this number are being flushed.
    pub(crate) flush: u64,
}

/// The answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadyNodes {
    pub(crate) nodes: BTreeSet<i32>,
    /// When something not ready now will be.
    pub(crate) next: Option<Tick>,
    /// Topics of batches whose partition has no leader.
    pub(crate) unknown: BTreeSet<Arc<str>>,
}

/// What stands at the head of a partition.
pub(super) enum Head {
    /// It may leave; true if it was sent before.
    Sendable(bool),
    /// It may leave then.
    Later(Tick),
    /// Somebody is closing it, and will say so.
    Closing,
    Nothing,
}

impl Active {
    pub(crate) fn insert(&mut self, partition: Arc<Partition>) {
        self.partitions.insert(partition.key, partition);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.values()
    }

    /// Forgets partitions that hold nothing any more; they announce themselves again.
    pub(crate) fn tidy(&mut self) {
        self.partitions.retain(|_, p| {
            let mut queue = p.queue.lock();
            let keep = !queue.is_empty();
            queue.announced = keep;
            keep
        });
    }

    /// Which nodes are ready now.
    pub(crate) fn ready(
        &self,
        acc: &Accumulator,
        cluster: &Cluster,
        order: &impl Order,
        urge: Urge,
        now: Tick,
    ) -> ReadyNodes {
        let mut out = ReadyNodes::default();
        for p in self.iter() {
            let leader = cluster.leader(&p.topic, p.index);
            if leader.node == -1 {
                out.unknown.insert(p.topic.clone());
                continue;
            }
            let head = head(&p.queue.lock(), acc, urge, now);
            match head {
                Head::Sendable(retry) if order.may_drain(p, retry) => {
                    out.nodes.insert(leader.node);
                }
                Head::Later(at) => out.next = Some(out.next.map_or(at, |n| n.min(at))),
                _ => {}
            }
        }
        out
    }
}

pub(super) fn head(queue: &Queue, acc: &Accumulator, urge: Urge, now: Tick) -> Head {
    match (queue.line.front(), &queue.open) {
        (Some(Slot::Closing(..)), _) => Head::Closing,
        (Some(Slot::Closed(b)), _) if b.not_before > now => Head::Later(b.not_before),
        (Some(Slot::Closed(_)), _) => Head::Sendable(false),
        (Some(Slot::Retry(_, at)), _) if *at > now => {
            Head::Later(if plant!(NoRest) { now } else { *at })
        }
        (Some(Slot::Retry(..)), _) => Head::Sendable(true),
        (None, Some(open)) => {
            let due = open.meta.created.after(acc.settings.linger);
            let urged = urge.exhausted || urge.closing || open.meta.number <= urge.flush;
            if due <= now || urged { Head::Sendable(false) } else { Head::Later(due) }
        }
        (None, None) => Head::Nothing,
    }
}
