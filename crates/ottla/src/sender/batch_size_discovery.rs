//! What sizes of batches a topic's brokers take: the largest that was accepted, the smallest that was refused
//! with MESSAGE_TOO_LARGE. New batches stay below; one at a time tries the middle, until little is left
//! between the two. The bracket widens as time goes by, since a limit may be raised, and is forgotten with
//! the topic's id.

use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::Uuid;
use ottla_protocol::record::BATCH_HEADER_LEN;

use crate::accumulator::batch_size_estimator::BatchSizeEstimator;
use crate::collections::HashMap;
use crate::time::Tick;

/// All topics that had a batch refused.
#[derive(Debug)]
pub(super) struct BatchSizeDiscovery {
    topics: HashMap<Arc<str>, TopicLimits>,
    /// How long what was refused counts (`metadata.max.age.ms`).
    limit_max_age: Duration,
    /// No batch is made larger than this.
    batch_size: usize,
}

/// One topic's.
#[derive(Debug)]
struct TopicLimits {
    topic_id: Uuid,
    estimator: Arc<BatchSizeEstimator>,
    largest_accepted: usize,
    smallest_rejected: usize,
    /// When it widens.
    next_raise_at: Tick,
    /// Batches acknowledged since one was sent to try.
    acks_since_probe: u32,
}

/// What was accepted while nothing was: a batch without records.
const EMPTY_BATCH_LEN: usize = BATCH_HEADER_LEN;
/// Acknowledgements after which a trial that taught nothing is repeated.
const ACKS_BETWEEN_PROBES: u32 = 16;

impl BatchSizeDiscovery {
    pub(super) fn new(step: Duration, batch_size: usize) -> BatchSizeDiscovery {
        BatchSizeDiscovery { topics: HashMap::default(), limit_max_age: step, batch_size }
    }

    /// A batch of this size was too large.
    pub(super) fn on_rejected(
        &mut self,
        (topic, id, sizing): (&Arc<str>, Uuid, &Arc<BatchSizeEstimator>),
        size: usize,
        now: Tick,
    ) {
        let until = now.after(self.limit_max_age);
        let fresh = || {
            let (sizing, refused) = (sizing.clone(), usize::MAX);
            TopicLimits {
                topic_id: id,
                estimator: sizing,
                largest_accepted: EMPTY_BATCH_LEN,
                smallest_rejected: refused,
                next_raise_at: until,
                acks_since_probe: 0,
            }
        };
        let b = self.topics.entry(topic.clone()).or_insert_with(fresh);
        if b.topic_id != id {
            *b = fresh();
        }
        b.smallest_rejected = b.smallest_rejected.min(size);
        if b.largest_accepted >= b.smallest_rejected {
            // The limit was lowered: what was accepted is no guide any more.
            b.largest_accepted = EMPTY_BATCH_LEN;
        }
        b.next_raise_at = until;
        b.update_estimator();
    }

    /// A batch of this size was taken.
    pub(super) fn on_accepted(&mut self, topic: &str, id: Uuid, size: usize) {
        let Some(b) = self.topics.get_mut(topic) else { return };
        if b.topic_id != id {
            b.estimator.set_limit(usize::MAX, usize::MAX);
            b.estimator.set_probe(0);
            self.topics.remove(topic);
            return;
        }
        b.acks_since_probe += 1;
        if size > b.largest_accepted {
            b.largest_accepted = size;
            b.smallest_rejected = b.smallest_rejected.max(size + 1);
            b.update_estimator();
        } else if b.acks_since_probe >= ACKS_BETWEEN_PROBES && !b.estimator.is_probing() {
            b.update_estimator();
        }
    }

    /// What was refused long ago may be taken now; when to look again.
    pub(super) fn raise_limit(&mut self, now: Tick) -> Tick {
        let (step, most, mut next) = (self.limit_max_age, self.batch_size, Tick::NEVER);
        self.topics.retain(|_, b| {
            if b.next_raise_at <= now {
                b.smallest_rejected = b.smallest_rejected.saturating_mul(2);
                b.next_raise_at = now.after(step);
                if b.smallest_rejected > most.saturating_mul(2) {
                    b.estimator.set_limit(usize::MAX, usize::MAX);
                    b.estimator.set_probe(0);
                    return false;
                }
                b.update_estimator();
            }
            next = next.min(b.next_raise_at);
            true
        });
        next
    }
}

impl TopicLimits {
    /// Tells those who open batches. Until one was accepted each tries a quarter of what was refused, since
    /// several are under way at once; after that, all keep to what is safe, and one tries the middle.
    fn update_estimator(&mut self) {
        self.acks_since_probe = 0;
        let gap = self.smallest_rejected.saturating_sub(self.largest_accepted);
        let middle = self.largest_accepted + gap / 2;
        if self.largest_accepted == EMPTY_BATCH_LEN {
            self.estimator.set_limit(EMPTY_BATCH_LEN + gap / 4, self.smallest_rejected);
            self.estimator.set_probe(0);
            return;
        }
        // A small batch that was taken says nothing of larger ones.
        self.estimator.set_limit(
            self.largest_accepted
                .max(EMPTY_BATCH_LEN + (self.smallest_rejected - EMPTY_BATCH_LEN) / 4),
            self.smallest_rejected,
        );
        let worth_it = self.smallest_rejected - self.largest_accepted > self.largest_accepted / 16;
        self.estimator.set_probe(if worth_it { middle } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_batches(
        limit: usize,
        b: &mut BatchSizeDiscovery,
        s: &Arc<BatchSizeEstimator>,
        n: usize,
        now: Tick,
    ) -> (usize, usize) {
        let topic: Arc<str> = "t".into();
        let (mut refusals, mut last) = (0, 0);
        for _ in 0..n {
            let size = s.uncompressed_limit(262_144, false) + 61;
            if size > limit {
                refusals += 1;
                b.on_rejected((&topic, Uuid([1; 16]), s), size, now);
            } else {
                b.on_accepted("t", Uuid([1; 16]), size);
                last = size;
            }
        }
        (refusals, last)
    }

    #[test]
    fn the_limit_is_found_in_a_few_steps_and_found_again_when_it_moves() {
        let step = Duration::from_secs(300);
        let (mut b, s) =
            (BatchSizeDiscovery::new(step, 262_144), Arc::<BatchSizeEstimator>::default());
        let (refusals, last) = send_batches(20_000, &mut b, &s, 10_000, Tick(0));
        assert!(refusals < 10, "{refusals}");
        assert!((18_000..=20_000).contains(&last), "{last}");
        // The limit is raised: step by step batches grow again.
        let mut now = Tick(0);
        for _ in 0..8 {
            now = now.after(step);
            assert!(b.raise_limit(now) > now);
            send_batches(usize::MAX, &mut b, &s, 100, now);
        }
        assert_eq!(s.uncompressed_limit(262_144, false), 262_144 - 61);
        assert!(!s.has_limit());
        // And lowered below what was accepted.
        send_batches(100_000, &mut b, &s, 1000, now);
        let (refusals, last) = send_batches(5_000, &mut b, &s, 1000, now);
        assert!(refusals < 12 && last > 4_000 && last <= 5_000, "{refusals} {last}");
    }

    #[test]
    fn a_small_batch_that_was_taken_does_not_make_all_of_them_small() {
        let (mut b, s) = (
            BatchSizeDiscovery::new(Duration::from_secs(1), 1 << 20),
            Arc::<BatchSizeEstimator>::default(),
        );
        b.on_rejected((&"t".into(), Uuid([1; 16]), &s), 1_000_000, Tick(0));
        b.on_accepted("t", Uuid([1; 16]), 100);
        assert_eq!(s.limit(), 61 + (1_000_000 - 61) / 4);
        b.on_rejected((&"t".into(), Uuid([1; 16]), &s), 1000, Tick(0));
        assert_eq!(s.limit(), 61 + (1000 - 61) / 4, "what is refused still draws it down");
    }

    #[test]
    fn a_topic_of_another_id_is_another_topic() {
        let (mut b, s) = (
            BatchSizeDiscovery::new(Duration::from_secs(1), 1000),
            Arc::<BatchSizeEstimator>::default(),
        );
        b.on_rejected((&"t".into(), Uuid([1; 16]), &s), 900, Tick(0));
        assert!(s.has_limit());
        b.on_accepted("t", Uuid([2; 16]), 400);
        assert!(!s.has_limit());
        assert_eq!(b.raise_limit(Tick(0)), Tick::NEVER);
    }
}
