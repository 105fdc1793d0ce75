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
use crate::collections::HashMap;
use crate::time::Tick;

/// The limits of all topics that had a batch rejected.
#[derive(Debug)]
pub(super) struct BatchSizeDiscovery {
    topics: HashMap<Arc<str>, TopicLimits>,
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
    pub(super) fn new(limit_max_age: Duration, batch_size: usize) -> BatchSizeDiscovery {
        BatchSizeDiscovery { topics: HashMap::default(), limit_max_age, batch_size }
    }

    /// Lowers the limit of a topic: a batch of `size` bytes was too large.
    pub(super) fn on_rejected(
        &mut self,
        topic: &Arc<str>,
        topic_id: Uuid,
        estimator: &Arc<BatchSizeEstimator>,
        size: usize,
        now: Tick,
    ) {
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

    /// Records that a batch of `size` bytes was accepted. Has no effect for a topic without limit.
    pub(super) fn on_accepted(&mut self, topic: &str, topic_id: Uuid, size: usize) {
        let Some(limits) = self.topics.get_mut(topic) else { return };
        if limits.topic_id != topic_id {
            limits.estimator.set_limit(usize::MAX, usize::MAX);
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
                    limits.estimator.set_limit(usize::MAX, usize::MAX);
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
            self.estimator.set_limit(EMPTY_BATCH_LEN + gap / 4, self.smallest_rejected);
            self.estimator.set_probe(0);
            return;
        }
        // An accepted small batch proves nothing about larger ones. So the limit stays at a
        // quarter of the rejected size until a batch above that is accepted.
        let quarter = EMPTY_BATCH_LEN + (self.smallest_rejected - EMPTY_BATCH_LEN) / 4;
        self.estimator.set_limit(self.largest_accepted.max(quarter), self.smallest_rejected);
        let middle = self.largest_accepted + gap / 2;
        let is_worth_a_probe = gap > self.largest_accepted / 16;
        self.estimator.set_probe(if is_worth_a_probe { middle } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC_ID: Uuid = Uuid([1; 16]);

    fn discovery(
        limit_max_age_s: u64,
        batch_size: usize,
    ) -> (BatchSizeDiscovery, Arc<BatchSizeEstimator>) {
        let limit_max_age = Duration::from_secs(limit_max_age_s);
        (BatchSizeDiscovery::new(limit_max_age, batch_size), Arc::default())
    }

    /// Sends `n` full batches to a broker with this limit. Returns the number of rejected batches
    /// and the size of the last accepted one.
    fn send_batches(
        limit: usize,
        discovery: &mut BatchSizeDiscovery,
        estimator: &Arc<BatchSizeEstimator>,
        n: usize,
        now: Tick,
    ) -> (usize, usize) {
        let topic: Arc<str> = "t".into();
        let (mut rejected, mut last_accepted) = (0, 0);
        for _ in 0..n {
            let size = estimator.uncompressed_limit(262_144, false) + EMPTY_BATCH_LEN;
            if size > limit {
                rejected += 1;
                discovery.on_rejected(&topic, TOPIC_ID, estimator, size, now);
            } else {
                discovery.on_accepted("t", TOPIC_ID, size);
                last_accepted = size;
            }
        }
        (rejected, last_accepted)
    }

    #[test]
    fn limit_is_found_in_few_steps_and_found_again_after_it_changes() {
        let (mut discovery, estimator) = discovery(300, 262_144);
        let (rejected, last) = send_batches(20_000, &mut discovery, &estimator, 10_000, Tick(0));
        assert!(rejected < 10, "{rejected}");
        assert!((18_000..=20_000).contains(&last), "{last}");
        // The broker's limit is raised: batches grow again step by step.
        let mut now = Tick(0);
        for _ in 0..8 {
            now = now.after(Duration::from_secs(300));
            assert!(discovery.raise_limit(now) > now);
            send_batches(usize::MAX, &mut discovery, &estimator, 100, now);
        }
        assert_eq!(estimator.uncompressed_limit(262_144, false), 262_144 - EMPTY_BATCH_LEN);
        assert!(!estimator.has_limit());
        // The broker's limit is lowered below sizes that were accepted.
        send_batches(100_000, &mut discovery, &estimator, 1000, now);
        let (rejected, last) = send_batches(5_000, &mut discovery, &estimator, 1000, now);
        assert!(rejected < 12 && last > 4_000 && last <= 5_000, "{rejected} {last}");
    }

    #[test]
    fn accepted_small_batch_does_not_lower_the_limit() {
        let (mut discovery, estimator) = discovery(1, 1 << 20);
        discovery.on_rejected(&"t".into(), TOPIC_ID, &estimator, 1_000_000, Tick(0));
        discovery.on_accepted("t", TOPIC_ID, 100);
        assert_eq!(estimator.limit(), EMPTY_BATCH_LEN + (1_000_000 - EMPTY_BATCH_LEN) / 4);
        discovery.on_rejected(&"t".into(), TOPIC_ID, &estimator, 1000, Tick(0));
        assert_eq!(
            estimator.limit(),
            EMPTY_BATCH_LEN + (1000 - EMPTY_BATCH_LEN) / 4,
            "a rejected batch still lowers it"
        );
    }

    #[test]
    fn recreated_topic_starts_without_a_limit() {
        let (mut discovery, estimator) = discovery(1, 1000);
        discovery.on_rejected(&"t".into(), TOPIC_ID, &estimator, 900, Tick(0));
        assert!(estimator.has_limit());
        discovery.on_accepted("t", Uuid([2; 16]), 400);
        assert!(!estimator.has_limit());
        assert_eq!(discovery.raise_limit(Tick(0)), Tick::NEVER);
    }
}
