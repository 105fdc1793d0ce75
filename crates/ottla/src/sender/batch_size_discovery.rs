//! Discovers the largest batch that the brokers of a topic accept, similar to MTU discovery.
//!
//! `responses.rs` and `split.rs` report accepted and rejected batches (MESSAGE_TOO_LARGE). The
//! result goes into the topic's [`BatchSizeEstimator`], which callers read when they open a batch.
//! New batches stay below the smallest rejected size. One batch at a time probes the middle
//! between the largest accepted and the smallest rejected size, until the two are close. The limit
//! rises again with time, since the topic's `max.message.bytes` may be raised.

use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::Uuid;
use ottla_protocol::record::BATCH_HEADER_LEN;

use crate::accumulator::batch_size_estimator::BatchSizeEstimator;
use crate::accumulator::partition::Partition;
use crate::collections::HashMap;
use crate::time::Tick;

/// The limits of all topics that had a batch rejected.
#[derive(Debug)]
pub(crate) struct BatchSizeDiscovery {
    topics: HashMap<Arc<str>, TopicLimits>,
    /// The largest wire size that a broker has accepted, by partition id; 0 for none.
    largest_accepted: Vec<u32>,
    /// How long a limit counts before it is raised (`metadata.max.age.ms`).
    limit_max_age: Duration,
    /// No batch is larger than this, so a limit above twice this size is dropped.
    batch_size: usize,
}

/// The limits of one topic, in bytes on the wire.
#[derive(Debug)]
struct TopicLimits {
    topic_id: Uuid,
    estimator: Arc<BatchSizeEstimator>,
    /// `EMPTY_BATCH_LEN` until a batch is accepted.
    largest_accepted: usize,
    smallest_rejected: usize,
    next_raise_at: Tick,
    /// Batches that were acknowledged since the last probe was scheduled.
    acks_since_probe: u32,
}

/// The length of a batch without records. Stands for "no batch was accepted yet".
const EMPTY_BATCH_LEN: usize = BATCH_HEADER_LEN;
/// After this number of acknowledged batches without a larger accepted size, the probe is repeated.
const ACKS_BETWEEN_PROBES: u32 = 16;

impl BatchSizeDiscovery {
    pub(crate) fn new(limit_max_age: Duration, batch_size: usize) -> BatchSizeDiscovery {
        BatchSizeDiscovery {
            topics: HashMap::default(),
            largest_accepted: Vec::new(),
            limit_max_age,
            batch_size,
        }
    }

    /// Returns whether a broker has rejected a batch of this size or a smaller one.
    pub(super) fn is_rejected(&self, p: &Partition, size: usize) -> bool {
        // The estimator's limit is read without a lookup, and few topics have one.
        p.estimator.has_limit() && size > self.largest_not_rejected(&p.topic)
    }

    /// Returns the largest size that no broker has rejected for the topic.
    pub(super) fn largest_not_rejected(&self, topic: &str) -> usize {
        self.topics.get(topic).map_or(usize::MAX, |limits| limits.smallest_rejected - 1)
    }

    /// Returns the largest size that a broker has accepted for one of these partitions.
    pub(super) fn largest_accepted(&self, partition_ids: impl Iterator<Item = u32>) -> Option<u32> {
        let sizes = partition_ids.filter_map(|id| self.largest_accepted.get(id as usize).copied());
        sizes.max().filter(|size| *size > 0)
    }

    /// Lowers the limit of a topic: a batch of `size` bytes was too large.
    pub(crate) fn on_rejected(&mut self, p: &Partition, topic_id: Uuid, size: usize, now: Tick) {
        let (topic, estimator) = (&p.topic, &p.estimator);
        let next_raise_at = now.after(self.limit_max_age);
        let new_limits = || TopicLimits {
            topic_id,
            estimator: estimator.clone(),
            largest_accepted: EMPTY_BATCH_LEN,
            smallest_rejected: usize::MAX,
            next_raise_at,
            acks_since_probe: 0,
        };
        let limits = self.topics.entry(topic.clone()).or_insert_with(new_limits);
        if limits.topic_id != topic_id {
            // A topic that was created again may have a different max.message.bytes.
            *limits = new_limits();
        }
        limits.smallest_rejected = limits.smallest_rejected.min(size);
        if limits.largest_accepted >= limits.smallest_rejected {
            // The broker's limit was lowered, so the sizes accepted before prove nothing now.
            limits.largest_accepted = EMPTY_BATCH_LEN;
        }
        limits.next_raise_at = next_raise_at;
        limits.update_estimator();
    }

    /// Records that a batch of `size` bytes was accepted.
    pub(super) fn on_accepted(&mut self, p: &Partition, topic_id: Uuid, size: usize) {
        let id = p.id as usize;
        if id >= self.largest_accepted.len() {
            self.largest_accepted.resize(id + 1, 0);
        }
        self.largest_accepted[id] = self.largest_accepted[id].max(size as u32);
        if p.estimator.has_limit() {
            self.confirm(&p.topic, topic_id, size);
        }
    }

    /// Lets an accepted batch confirm or raise the limit of its topic.
    fn confirm(&mut self, topic: &str, topic_id: Uuid, size: usize) {
        let Some(limits) = self.topics.get_mut(topic) else { return };
        if limits.topic_id != topic_id {
            limits.estimator.set_limit(usize::MAX);
            limits.estimator.set_probe(0);
            self.topics.remove(topic);
            return;
        }
        limits.acks_since_probe += 1;
        if size > limits.largest_accepted {
            limits.largest_accepted = size;
            limits.smallest_rejected = limits.smallest_rejected.max(size + 1);
            limits.update_estimator();
        } else if limits.acks_since_probe >= ACKS_BETWEEN_PROBES
            && !limits.estimator.is_probe_pending()
        {
            limits.update_estimator();
        }
    }

    /// Doubles limits that have not been confirmed for `limit_max_age`, and drops those that no
    /// batch can reach. Returns when to call it again.
    pub(super) fn raise_limit(&mut self, now: Tick) -> Tick {
        let (max_age, batch_size, mut next) = (self.limit_max_age, self.batch_size, Tick::NEVER);
        self.topics.retain(|_, limits| {
            if limits.next_raise_at <= now {
                limits.smallest_rejected = limits.smallest_rejected.saturating_mul(2);
                limits.next_raise_at = now.after(max_age);
                if limits.smallest_rejected > batch_size.saturating_mul(2) {
                    limits.estimator.set_limit(usize::MAX);
                    limits.estimator.set_probe(0);
                    return false;
                }
                limits.update_estimator();
            }
            next = next.min(limits.next_raise_at);
            true
        });
        next
    }
}

impl TopicLimits {
    /// Publishes the limits to the callers that open batches.
    fn update_estimator(&mut self) {
        self.acks_since_probe = 0;
        let gap = self.smallest_rejected.saturating_sub(self.largest_accepted);
        if self.largest_accepted == EMPTY_BATCH_LEN {
            // Several batches may be in flight before the first response. With a quarter of the
            // rejected size, few of them are rejected. A probe would risk more rejections.
            self.estimator.set_limit(EMPTY_BATCH_LEN + gap / 4);
            self.estimator.set_probe(0);
            return;
        }
        // An accepted small batch proves nothing about larger ones. So the limit stays at a
        // quarter of the rejected size until a batch above that is accepted.
        let quarter = EMPTY_BATCH_LEN + (self.smallest_rejected - EMPTY_BATCH_LEN) / 4;
        self.estimator.set_limit(self.largest_accepted.max(quarter));
        let middle = self.largest_accepted + gap / 2;
        let is_worth_a_probe = gap > self.largest_accepted / 16;
        self.estimator.set_probe(if is_worth_a_probe { middle } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC_ID: Uuid = Uuid([1; 16]);

    fn discovery(limit_max_age_s: u64, batch_size: usize) -> (BatchSizeDiscovery, Partition) {
        let limit_max_age = Duration::from_secs(limit_max_age_s);
        let partition = Partition::new("t".into(), 0, 7, Arc::default());
        (BatchSizeDiscovery::new(limit_max_age, batch_size), partition)
    }

    /// Sends `n` full batches to a broker with this limit. Returns the number of rejected batches
    /// and the size of the last accepted one.
    fn send_batches(
        limit: usize,
        discovery: &mut BatchSizeDiscovery,
        p: &Partition,
        n: usize,
        now: Tick,
    ) -> (usize, usize) {
        let (mut rejected, mut last_accepted) = (0, 0);
        for _ in 0..n {
            let size = p.estimator.uncompressed_limit(262_144, false) + EMPTY_BATCH_LEN;
            if size > limit {
                rejected += 1;
                discovery.on_rejected(p, TOPIC_ID, size, now);
            } else {
                discovery.on_accepted(p, TOPIC_ID, size);
                last_accepted = size;
            }
        }
        (rejected, last_accepted)
    }

    #[test]
    fn limit_is_found_in_few_steps_and_found_again_after_it_changes() {
        let (mut discovery, p) = discovery(300, 262_144);
        let (rejected, last) = send_batches(20_000, &mut discovery, &p, 10_000, Tick(0));
        assert!(rejected < 10, "{rejected}");
        assert!((18_000..=20_000).contains(&last), "{last}");
        // The broker's limit is raised: batches grow again step by step.
        let mut now = Tick(0);
        for _ in 0..8 {
            now = now.after(Duration::from_secs(300));
            assert!(discovery.raise_limit(now) > now);
            send_batches(usize::MAX, &mut discovery, &p, 100, now);
        }
        assert_eq!(p.estimator.uncompressed_limit(262_144, false), 262_144 - EMPTY_BATCH_LEN);
        assert!(!p.estimator.has_limit());
        // The broker's limit is lowered below sizes that were accepted.
        send_batches(100_000, &mut discovery, &p, 1000, now);
        let (rejected, last) = send_batches(5_000, &mut discovery, &p, 1000, now);
        assert!(rejected < 12 && last > 4_000 && last <= 5_000, "{rejected} {last}");
    }

    #[test]
    fn accepted_small_batch_does_not_lower_the_limit() {
        let (mut discovery, p) = discovery(1, 1 << 20);
        discovery.on_rejected(&p, TOPIC_ID, 1_000_000, Tick(0));
        discovery.on_accepted(&p, TOPIC_ID, 100);
        assert_eq!(p.estimator.limit(), EMPTY_BATCH_LEN + (1_000_000 - EMPTY_BATCH_LEN) / 4);
        discovery.on_rejected(&p, TOPIC_ID, 1000, Tick(0));
        assert_eq!(
            p.estimator.limit(),
            EMPTY_BATCH_LEN + (1000 - EMPTY_BATCH_LEN) / 4,
            "a rejected batch still lowers it"
        );
    }

    #[test]
    fn recreated_topic_starts_without_a_limit() {
        let (mut discovery, p) = discovery(1, 1000);
        discovery.on_rejected(&p, TOPIC_ID, 900, Tick(0));
        assert!(p.estimator.has_limit());
        discovery.on_accepted(&p, Uuid([2; 16]), 400);
        assert!(!p.estimator.has_limit());
        assert_eq!(discovery.raise_limit(Tick(0)), Tick::NEVER);
    }

    #[test]
    fn size_is_rejected_from_the_smallest_rejected_one_on() {
        let (mut discovery, p) = discovery(1, 10_000);
        assert!(!discovery.is_rejected(&p, usize::MAX - 1));
        discovery.on_rejected(&p, TOPIC_ID, 3000, Tick(0));
        assert!(discovery.is_rejected(&p, 3000) && !discovery.is_rejected(&p, 2999));
        assert_eq!(discovery.largest_not_rejected("t"), 2999);
        let other = Partition::new("u".into(), 0, 8, Arc::default());
        assert!(!discovery.is_rejected(&other, 3000), "each topic has its own limit");
    }

    #[test]
    fn largest_accepted_size_is_known_without_a_limit() {
        let (mut discovery, p) = discovery(1, 10_000);
        assert_eq!(discovery.largest_accepted([p.id].into_iter()), None);
        discovery.on_accepted(&p, TOPIC_ID, 500);
        discovery.on_accepted(&p, TOPIC_ID, 400);
        assert_eq!(discovery.largest_accepted([3, p.id, 99].into_iter()), Some(500));
    }
}
