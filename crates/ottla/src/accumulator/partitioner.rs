//! Which partition a record goes to: the one it names, murmur2 of its key, or the sticky one (KIP-480,
//! KIP-794), which stays until a batch's worth of bytes went there.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use ottla_protocol::murmur2::partition_for_key;

use super::topics::Topic;
use crate::error::{Error, ErrorKind};

/// How records without a partition are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// By key where there is one (unless keys are ignored), else sticky.
    Default { ignore_keys: bool },
    /// One after the other, whatever the key (`RoundRobinPartitioner`).
    RoundRobin,
}

/// A topic's sticky choice.
#[derive(Debug)]
pub(crate) struct Sticky {
    current: AtomicU32,
    turn: AtomicU32,
}

impl Default for Sticky {
    fn default() -> Sticky {
        Sticky { current: AtomicU32::new(UNSET), turn: AtomicU32::new(0) }
    }
}

const UNSET: u32 = u32::MAX;

/// A choice, and whether it is the sticky one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Named by the record, its key, or its turn.
    Fixed(usize),
    /// The sticky one; may move.
    Sticky(usize),
}

/// Chooses. `partitions` is how many the topic has.
pub(crate) fn choose(
    topic: &Topic,
    explicit: Option<i32>,
    key: Option<&[u8]>,
    spread: Spread,
    random: impl FnMut() -> u64,
) -> Result<Choice, Error> {
    let partitions = topic.partitions.load().len();
    if let Some(p) = explicit {
        return match usize::try_from(p) {
            Ok(p) if p < partitions => Ok(Choice::Fixed(p)),
            _ => Err(Error::new(
                ErrorKind::InvalidRecord,
                format!("topic {} has no partition {p}, only 0 to {}", topic.name, partitions - 1),
            )),
        };
    }
    match (spread, key) {
        (Spread::RoundRobin, _) => {
            let turn = topic.sticky.turn.fetch_add(1, Relaxed) as usize;
            Ok(Choice::Fixed(available(topic, turn)))
        }
        (Spread::Default { ignore_keys: false }, Some(key)) => {
            Ok(Choice::Fixed(partition_for_key(key, partitions as u32) as usize))
        }
        _ => Ok(Choice::Sticky(sticky(topic, random))),
    }
}

/// The sticky partition, drawn if there is none yet.
fn sticky(topic: &Topic, mut random: impl FnMut() -> u64) -> usize {
    match topic.sticky.current.load(Relaxed) {
        p if (p as usize) < topic.partitions.load().len() => p as usize,
        // None yet, or one that the topic has no more.
        gone => {
            let drawn = available(topic, random() as usize);
            let set = topic.sticky.current.compare_exchange(gone, drawn as u32, Relaxed, Relaxed);
            set.map_or_else(|other| other as usize, |_| drawn)
        }
    }
}

/// Moves on from `from`, once, whoever else tries.
pub(crate) fn switch(topic: &Topic, from: usize, random: u64) {
    let drawn = available(topic, random as usize) as u32;
    let _ = topic.sticky.current.compare_exchange(from as u32, drawn, Relaxed, Relaxed);
}

/// Whether the choice should move, after this many bytes: BI2's rule.
pub(crate) fn is_worn(bytes: usize, limit: usize, all_full: bool) -> bool {
    (bytes >= limit && all_full) || bytes >= 2 * limit
}

/// The `n`th partition with a leader, counting round; of all partitions when none has one (BI3).
fn available(topic: &Topic, n: usize) -> usize {
    let partitions = topic.partitions.load();
    let led = |p: &&std::sync::Arc<super::partition::Partition>| p.leader.load(Relaxed) != -1;
    match partitions.iter().filter(led).count() {
        0 => n % partitions.len().max(1),
        count => partitions.iter().filter(led).nth(n % count).map_or(0, |p| p.index as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accumulator::topics::Topics;
    use crate::cluster::{Cluster, Leader, TopicInfo};

    fn topic(leaders: &[i32]) -> std::sync::Arc<Topic> {
        let topics = Topics::default();
        let mut cluster = Cluster::default();
        let leaders = leaders.iter().map(|&node| Leader { node, epoch: 0 }).collect();
        cluster.topics.insert("t".into(), TopicInfo { id: Default::default(), leaders });
        topics.publish(&cluster);
        topics.get("t").unwrap()
    }

    const DEFAULT: Spread = Spread::Default { ignore_keys: false };

    #[test]
    fn bi3_partitions_without_a_leader_are_never_drawn_while_one_has_one() {
        let t = topic(&[1, -1, 1]);
        for n in 0..100 {
            assert_ne!(available(&t, n), 1);
        }
        let t = topic(&[-1, -1]);
        assert_eq!((0..100).map(|n| available(&t, n)).max(), Some(1));
    }

    #[test]
    fn bi6_keys_go_over_all_partitions_and_explicit_wins() {
        let t = topic(&[1, -1, 1]);
        let go = |explicit, key: Option<&[u8]>, spread| choose(&t, explicit, key, spread, || 0);
        assert_eq!(go(None, Some(b"a"), DEFAULT).unwrap(), Choice::Fixed(1));
        assert_eq!(go(None, Some(b""), DEFAULT).unwrap(), Choice::Fixed(0));
        assert_eq!(go(Some(2), Some(b"a"), DEFAULT).unwrap(), Choice::Fixed(2));
        assert!(matches!(go(None, None, DEFAULT).unwrap(), Choice::Sticky(_)));
        let ignoring = Spread::Default { ignore_keys: true };
        assert!(matches!(go(None, Some(b"a"), ignoring).unwrap(), Choice::Sticky(_)));
        for wrong in [-1, 3] {
            let e = go(Some(wrong), None, DEFAULT).unwrap_err();
            assert!(e.to_string().contains("only 0 to 2"), "{e}");
        }
    }

    #[test]
    fn bi7_round_robin_skips_what_has_no_leader() {
        let t = topic(&[1, -1, 1]);
        let mut counts = [0; 3];
        for _ in 0..100 {
            if let Ok(Choice::Fixed(p)) = choose(&t, None, None, Spread::RoundRobin, || 0) {
                counts[p] += 1;
            }
        }
        assert_eq!(counts, [50, 0, 50]);
    }

    #[test]
    fn bi2_a_choice_wears_out_at_the_limit_when_full_and_at_twice_the_limit_anyhow() {
        assert!(!is_worn(2, 3, true) && is_worn(3, 3, true));
        assert!(!is_worn(5, 3, false) && is_worn(6, 3, false));
    }

    #[test]
    fn a_topic_recreated_with_fewer_partitions_is_spread_over_those_it_has() {
        let topics = Topics::default();
        let publish = |n: usize| {
            let mut cluster = Cluster::default();
            let leaders = vec![Leader { node: 1, epoch: 0 }; n];
            cluster.topics.insert("t".into(), TopicInfo { id: Default::default(), leaders });
            topics.publish(&cluster);
            topics.get("t").unwrap()
        };
        let t = publish(6);
        assert_eq!(choose(&t, None, None, DEFAULT, || 5).unwrap(), Choice::Sticky(5));
        let last = t.partitions.load()[5].key;
        let t = publish(3);
        assert!(matches!(choose(&t, None, None, DEFAULT, || 5).unwrap(), Choice::Sticky(0..3)));
        assert!((0..50).all(|n| available(&t, n) < 3));
        let t = publish(6);
        assert_eq!(t.partitions.load()[5].key, last, "its order goes on");
    }
}
