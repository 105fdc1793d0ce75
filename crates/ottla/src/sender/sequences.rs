//! The producer's id and epoch, and each partition's sequences (KIP-98, KIP-360): given at drain, in the
//! order of the line, and kept by a batch until its log is proved to lack it.

use ottla_protocol::Uuid;

use crate::accumulator::batch::{ClosedBatch, Stamp, StampedBatch};
use crate::accumulator::partition::Partition;
use crate::accumulator::ready::Order;
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::Error;
use crate::plants::plant;
use crate::time::Tick;
use std::sync::Arc;

/// Batches a broker remembers for each producer and partition, and so the most in flight there.
const REMEMBERED: u32 = 5;

/// Where the producer's id stands.
#[derive(Debug, Clone)]
pub(crate) enum Id {
    /// Not idempotent.
    Off,
    /// To be asked for, not before then.
    Wanted(Tick),
    /// Asked for.
    Asked,
    /// Held.
    Have {
        /// The id.
        id: i64,
        /// Its epoch.
        epoch: i16,
    },
    /// Cannot be had, for good.
    Refused(Error),
}

/// A partition's place in the order.
#[derive(Debug)]
struct Line {
    id: i64,
    epoch: i16,
    topic: Option<Arc<str>>,
    /// Zero while no broker has told it.
    topic_id: Uuid,
    /// Where its batches in flight went.
    node: i32,
    next: i32,
    /// The sequence behind the last acknowledged batch, if any of this epoch was.
    acked_to: Option<i32>,
    in_flight: u32,
    /// A sequence is lost for good: a new epoch is needed before anything new may go.
    broken: bool,
}

/// All partitions' orders.
#[derive(Debug)]
pub(crate) struct Sequences {
    pub(crate) id: Id,
    lines: HashMap<u32, Line>,
    /// One request in flight in all: then one batch a partition, too, whoever leads it.
    one_at_a_time: bool,
    cluster: Arc<Cluster>,
}

/// The sequence `n` records further on; wraps from 2147483647 to 0.
pub(crate) fn advance(sequence: i32, n: i32) -> i32 {
    (i64::from(sequence) + i64::from(n)).rem_euclid(1 << 31) as i32
}

impl Sequences {
    pub(crate) fn new(idempotent: bool, one_at_a_time: bool) -> Sequences {
        let id = if idempotent { Id::Wanted(Tick(0)) } else { Id::Off };
        Sequences { id, lines: HashMap::default(), one_at_a_time, cluster: Arc::default() }
    }

    /// Topic ids and leaders come from the snapshot of this round. A topic of another id is another log: its
    /// orders start anew, under a new epoch, since sequences of one epoch are never given twice. An id that is
    /// not told (an older broker) says nothing.
    pub(crate) fn follow(&mut self, cluster: Arc<Cluster>) {
        if Arc::ptr_eq(&self.cluster, &cluster) {
            return;
        }
        for line in self.lines.values_mut() {
            let topic = line.topic.as_ref().and_then(|t| cluster.topics.get(t));
            let Some(id) = topic.map(|t| t.id).filter(|id| !id.is_zero()) else { continue };
            if !line.topic_id.is_zero() && line.topic_id != id && line.id >= 0 {
                line.broken = true;
            }
            line.topic_id = id;
        }
        self.cluster = cluster;
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        !matches!(self.id, Id::Off)
    }

    fn line(&mut self, key: u32) -> &mut Line {
        self.lines.entry(key).or_insert(Line {
            id: -1,
            epoch: -1,
            topic: None,
            topic_id: Uuid::ZERO,
            node: -1,
            next: 0,
            acked_to: None,
            in_flight: 0,
            broken: false,
        })
    }

    /// A batch leaves for a broker.
    pub(crate) fn sent(&mut self, key: u32, node: i32) {
        let line = self.line(key);
        line.in_flight += 1;
        line.node = node;
    }

    /// A batch is back, whatever became of it.
    pub(crate) fn returned(&mut self, key: u32) {
        let line = self.line(key);
        debug_assert!(line.in_flight > 0, "more came back than went out");
        line.in_flight = line.in_flight.saturating_sub(1);
    }

    /// A batch was acknowledged.
    pub(crate) fn acknowledged(&mut self, batch: &StampedBatch) {
        let line = self.line(batch.closed.meta.partition.key);
        if batch.stamp.sequence < 0
            || (line.id, line.epoch) != (batch.stamp.producer_id, batch.stamp.epoch)
        {
            return;
        }
        let end = advance(batch.stamp.sequence, batch.closed.meta.count);
        // Answers of one connection come in order; a later batch acknowledged first keeps its place.
        let ahead = line.acked_to.is_none_or(|to| (end.wrapping_sub(to) & i32::MAX) < 1 << 30);
        if ahead {
            line.acked_to = Some(end);
        }
    }

    /// Whether the batch's sequence is the one the log must have next.
    pub(crate) fn is_next(&mut self, batch: &StampedBatch) -> bool {
        let line = self.line(batch.closed.meta.partition.key);
        (line.id, line.epoch) == (batch.stamp.producer_id, batch.stamp.epoch)
            && line.acked_to.unwrap_or(0) == batch.stamp.sequence
    }

    /// A batch with a sequence failed for good, or must have a new one: what follows it needs a new epoch.
    pub(crate) fn broke(&mut self, batch: &StampedBatch) {
        let idempotent = self.is_idempotent();
        let line = self.line(batch.closed.meta.partition.key);
        if idempotent && (line.id, line.epoch) == (batch.stamp.producer_id, batch.stamp.epoch) {
            line.broken = true;
        }
    }

    /// Partitions whose order is broken and that have nothing in flight any more. The epoch is bumped for
    /// them; the caller resequences what stands in their lines.
    pub(crate) fn mend(&mut self, now: Tick) -> Vec<u32> {
        let broken: Vec<u32> = (self.lines.iter())
            .filter(|(_, l)| l.broken && l.in_flight == 0)
            .map(|(key, _)| *key)
            .collect();
        if broken.is_empty() {
            return broken;
        }
        self.id = match self.id.clone() {
            Id::Have { epoch: i16::MAX, .. } => Id::Wanted(now),
            Id::Have { id, epoch } => Id::Have { id, epoch: epoch + 1 },
            other => other,
        };
        if let Id::Have { id, epoch } = self.id {
            tracing::info!(id, epoch, partitions = broken.len(), "producer epoch bumped");
        }
        for key in &broken {
            let line = self.line(*key);
            line.broken = false;
            // No id has this epoch: the next stamp starts a new order.
            (line.id, line.epoch) = (-1, -1);
        }
        broken
    }

    fn topic_id(&self, topic: &str) -> Uuid {
        self.cluster.topics.get(topic).map_or(Uuid::ZERO, |t| t.id)
    }
}

impl Order for Sequences {
    fn may_drain(&self, partition: &Partition, retry: bool) -> bool {
        let line = self.lines.get(&partition.key);
        let in_flight = line.map_or(0, |l| l.in_flight);
        let Id::Have { id, epoch } = self.id else {
            return matches!(self.id, Id::Off) && !(self.one_at_a_time && in_flight > 0);
        };
        let Some(line) = line else { return true };
        // A batch that is sent again goes alone, so that those behind it cannot arrive before it; a new
        // order begins when the old one is out of the network. The first batch of an order goes alone too: a
        // broker that knows nothing of the producer accepts any first sequence, and so would take the second
        // batch where the first was refused (Java's producer has that hole).
        let alone = retry
            || line.acked_to.is_none()
            || self.one_at_a_time
            || (line.id, line.epoch) != (id, epoch)
            // Another leader must not remember newer batches only, while an older one is still on its way to the
            // one before.
            || line.node != self.cluster.leader(&partition.topic, partition.index).node;
        if line.broken {
            false
        } else if alone {
            in_flight == 0
        } else {
            in_flight < REMEMBERED
        }
    }

    fn stamp(&mut self, batch: ClosedBatch) -> StampedBatch {
        let topic_id = self.topic_id(&batch.meta.partition.topic);
        let Id::Have { id, epoch } = self.id else {
            return batch.stamp(Stamp { topic_id, ..Stamp::NONE });
        };
        let line = self.line(batch.meta.partition.key);
        if (line.id, line.epoch) != (id, epoch) {
            (line.id, line.epoch) = (id, epoch);
            (line.next, line.acked_to) = (0, None);
            line.topic = Some(batch.meta.partition.topic.clone());
            line.topic_id = topic_id;
        }
        let sequence = line.next;
        if !(plant!(SequenceTwice) && sequence == 0) {
            line.next = advance(sequence, batch.meta.count);
        }
        batch.stamp(Stamp { producer_id: id, epoch, sequence, topic_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rc2_tm6_sequences_wrap_to_zero() {
        assert_eq!(advance(i32::MAX, 1), 0);
        assert_eq!(advance(i32::MAX - 5, 10), 4);
        assert_eq!(advance(i32::MAX, 100), 99);
        assert_eq!(advance(99, i32::MAX), 98);
    }

    #[test]
    fn at_most_five_in_flight_a_partition_and_one_while_retrying() {
        let mut s = Sequences::new(true, false);
        let p = Partition::new("t".into(), 0, 7);
        assert!(!s.may_drain(&p, false), "no id yet");
        s.id = Id::Have { id: 1, epoch: 0 };
        assert!(s.may_drain(&p, false));
        let line = s.line(7);
        (line.id, line.epoch) = (1, 0);
        s.sent(7, -1);
        assert!(!s.may_drain(&p, false), "the first of an order goes alone");
        s.returned(7);
        s.line(7).acked_to = Some(1);
        for _ in 0..5 {
            assert!(s.may_drain(&p, false));
            s.sent(7, -1);
        }
        assert!(!s.may_drain(&p, false));
        s.returned(7);
        assert!(s.may_drain(&p, false) && !s.may_drain(&p, true));
        (0..4).for_each(|_| s.returned(7));
        assert!(s.may_drain(&p, true));
    }

    #[test]
    fn sn12_a_broken_order_waits_for_the_network_then_bumps_the_epoch_sn19_or_asks_for_an_id() {
        let mut s = Sequences::new(true, false);
        let p = Partition::new("t".into(), 0, 7);
        s.id = Id::Have { id: 1, epoch: 0 };
        let line = s.line(7);
        (line.id, line.epoch, line.in_flight, line.broken) = (1, 0, 1, true);
        assert!(s.mend(Tick(0)).is_empty() && !s.may_drain(&p, false));
        s.returned(7);
        assert_eq!(s.mend(Tick(0)), [7]);
        assert!(matches!(s.id, Id::Have { id: 1, epoch: 1 }) && s.may_drain(&p, false));
        s.id = Id::Have { id: 1, epoch: i16::MAX };
        s.line(7).broken = true;
        s.mend(Tick(9));
        assert!(matches!(s.id, Id::Wanted(Tick(9))));
    }

    fn cluster(id: u8) -> Arc<Cluster> {
        let mut c = Cluster::default();
        let info = crate::cluster::TopicInfo { id: Uuid([id; 16]), leaders: Vec::new() };
        c.topics.insert("t".into(), info);
        Arc::new(c)
    }

    /// Sequences given twice under one epoch would be taken for duplicates: acknowledged, and in no log.
    #[test]
    fn a_topic_id_that_comes_late_keeps_the_order_and_another_one_breaks_it() {
        let mut s = Sequences::new(true, false);
        s.id = Id::Have { id: 1, epoch: 0 };
        let line = s.line(7);
        (line.id, line.epoch, line.next, line.topic) = (1, 0, 3, Some("t".into()));
        s.follow(cluster(0));
        s.follow(cluster(1));
        assert!(!s.line(7).broken && s.line(7).next == 3, "no id, then one: the same log");
        s.follow(cluster(0));
        assert!(!s.line(7).broken, "a broker that does not tell says nothing");
        s.follow(cluster(2));
        assert!(s.line(7).broken);
        assert_eq!(s.mend(Tick(0)), [7]);
        assert!(matches!(s.id, Id::Have { epoch: 1, .. }));
    }
}
