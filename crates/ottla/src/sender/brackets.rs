//! What sizes of batches a topic's brokers take: the largest that was accepted, the smallest that was refused
//! with MESSAGE_TOO_LARGE. New batches stay below; one at a time tries the middle, until little is left
//! between the two. The bracket widens as time goes by, since a limit may be raised, and is forgotten with
//! the topic's id.

use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::Uuid;
use ottla_protocol::record::BATCH_HEADER_LEN;

use crate::accumulator::sizing::BatchSizeEstimator;
use crate::collections::HashMap;
use crate::time::Tick;

/// All topics that had a batch refused.
#[derive(Debug)]
pub(super) struct Brackets {
    topics: HashMap<Arc<str>, Bracket>,
    /// How long what was refused counts (`metadata.max.age.ms`).
    step: Duration,
    /// No batch is made larger than this.
    batch_size: usize,
}

/// One topic's.
#[derive(Debug)]
struct Bracket {
    id: Uuid,
    sizing: Arc<BatchSizeEstimator>,
    accepted: usize,
    refused: usize,
    /// When it widens.
    until: Tick,
    /// Batches acknowledged since one was sent to try.
    since_probe: u32,
}

/// What was accepted while nothing was: a batch without records.
const NONE: usize = BATCH_HEADER_LEN;
/// Acknowledgements after which a trial that taught nothing is repeated.
const PATIENCE: u32 = 16;

impl Brackets {
    pub(super) fn new(step: Duration, batch_size: usize) -> Brackets {
        Brackets { topics: HashMap::default(), step, batch_size }
    }

    /// A batch of this size was too large.
    pub(super) fn refused(
        &mut self,
        (topic, id, sizing): (&Arc<str>, Uuid, &Arc<BatchSizeEstimator>),
        size: usize,
        now: Tick,
    ) {
        let until = now.after(self.step);
        let fresh = || {
            let (sizing, refused) = (sizing.clone(), usize::MAX);
            Bracket { id, sizing, accepted: NONE, refused, until, since_probe: 0 }
        };
        let b = self.topics.entry(topic.clone()).or_insert_with(fresh);
        if b.id != id {
            *b = fresh();
        }
        b.refused = b.refused.min(size);
        if b.accepted >= b.refused {
            // The limit was lowered: what was accepted is no guide any more.
            b.accepted = NONE;
        }
        b.until = until;
        b.publish();
    }

    /// A batch of this size was taken.
    pub(super) fn accepted(&mut self, topic: &str, id: Uuid, size: usize) {
        let Some(b) = self.topics.get_mut(topic) else { return };
        if b.id != id {
            b.sizing.set_limit(usize::MAX, usize::MAX);
            b.sizing.set_probe(0);
            self.topics.remove(topic);
            return;
        }
        b.since_probe += 1;
        if size > b.accepted {
            b.accepted = size;
            b.refused = b.refused.max(size + 1);
            b.publish();
        } else if b.since_probe >= PATIENCE && !b.sizing.is_probing() {
            b.publish();
        }
    }

    /// What was refused long ago may be taken now; when to look again.
    pub(super) fn widen(&mut self, now: Tick) -> Tick {
        let (step, most, mut next) = (self.step, self.batch_size, Tick::NEVER);
        self.topics.retain(|_, b| {
            if b.until <= now {
                b.refused = b.refused.saturating_mul(2);
                b.until = now.after(step);
                if b.refused > most.saturating_mul(2) {
                    b.sizing.set_limit(usize::MAX, usize::MAX);
                    b.sizing.set_probe(0);
                    return false;
                }
                b.publish();
            }
            next = next.min(b.until);
            true
        });
        next
    }
}

impl Bracket {
    /// Tells those who open batches. Until one was accepted each tries a quarter of what was refused, since
    /// several are under way at once; after that, all keep to what is safe, and one tries the middle.
    fn publish(&mut self) {
        self.since_probe = 0;
        let gap = self.refused.saturating_sub(self.accepted);
        let middle = self.accepted + gap / 2;
        if self.accepted == NONE {
            self.sizing.set_limit(NONE + gap / 4, self.refused);
            self.sizing.set_probe(0);
            return;
        }
        // A small batch that was taken says nothing of larger ones.
        self.sizing.set_limit(self.accepted.max(NONE + (self.refused - NONE) / 4), self.refused);
        let worth_it = self.refused - self.accepted > self.accepted / 16;
        self.sizing.set_probe(if worth_it { middle } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(
        limit: usize,
        b: &mut Brackets,
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
                b.refused((&topic, Uuid([1; 16]), s), size, now);
            } else {
                b.accepted("t", Uuid([1; 16]), size);
                last = size;
            }
        }
        (refusals, last)
    }

    #[test]
    fn the_limit_is_found_in_a_few_steps_and_found_again_when_it_moves() {
        let step = Duration::from_secs(300);
        let (mut b, s) = (Brackets::new(step, 262_144), Arc::<BatchSizeEstimator>::default());
        let (refusals, last) = batches(20_000, &mut b, &s, 10_000, Tick(0));
        assert!(refusals < 10, "{refusals}");
        assert!((18_000..=20_000).contains(&last), "{last}");
        // The limit is raised: step by step batches grow again.
        let mut now = Tick(0);
        for _ in 0..8 {
            now = now.after(step);
            assert!(b.widen(now) > now);
            batches(usize::MAX, &mut b, &s, 100, now);
        }
        assert_eq!(s.uncompressed_limit(262_144, false), 262_144 - 61);
        assert!(!s.has_limit());
        // And lowered below what was accepted.
        batches(100_000, &mut b, &s, 1000, now);
        let (refusals, last) = batches(5_000, &mut b, &s, 1000, now);
        assert!(refusals < 12 && last > 4_000 && last <= 5_000, "{refusals} {last}");
    }

    #[test]
    fn a_small_batch_that_was_taken_does_not_make_all_of_them_small() {
        let (mut b, s) =
            (Brackets::new(Duration::from_secs(1), 1 << 20), Arc::<BatchSizeEstimator>::default());
        b.refused((&"t".into(), Uuid([1; 16]), &s), 1_000_000, Tick(0));
        b.accepted("t", Uuid([1; 16]), 100);
        assert_eq!(s.limit(), 61 + (1_000_000 - 61) / 4);
        b.refused((&"t".into(), Uuid([1; 16]), &s), 1000, Tick(0));
        assert_eq!(s.limit(), 61 + (1000 - 61) / 4, "what is refused still draws it down");
    }

    #[test]
    fn a_topic_of_another_id_is_another_topic() {
        let (mut b, s) =
            (Brackets::new(Duration::from_secs(1), 1000), Arc::<BatchSizeEstimator>::default());
        b.refused((&"t".into(), Uuid([1; 16]), &s), 900, Tick(0));
        assert!(s.has_limit());
        b.accepted("t", Uuid([2; 16]), 400);
        assert!(!s.has_limit());
        assert_eq!(b.widen(Tick(0)), Tick::NEVER);
    }
}
