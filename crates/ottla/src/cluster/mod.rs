//! What is known of brokers, topics and leaders: an immutable snapshot, replaced whole by each metadata
//! answer.

use std::sync::Arc;

use ottla_protocol::messages::{MetadataResponse, MetadataResponseBroker, MetadataResponseTopic};
use ottla_protocol::{ErrorCode, Uuid};

use crate::collections::HashMap;

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    /// Where it stands, if the cluster says so.
    pub(crate) rack: Option<Arc<str>>,
}

impl Node {
    /// Whether an answer names a broker that there can be.
    pub(crate) fn is_valid(told: &MetadataResponseBroker) -> bool {
        told.node_id >= 0 && (1..=i32::from(u16::MAX)).contains(&told.port) && !told.host.is_empty()
    }
}

/// A partition's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The leader's node id; −1 for none.
    pub(crate) node_id: i32,
    /// Its epoch; −1 when unknown.
    pub(crate) epoch: i32,
}

impl Leader {
    pub(crate) const NONE: Leader = Leader { node_id: -1, epoch: -1 };
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicMetadata {
    pub(crate) id: Uuid,
    /// By partition number.
    pub(crate) leaders: Vec<Leader>,
}

/// The snapshot.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) id: Option<Arc<str>>,
    pub(crate) nodes: HashMap<i32, Node>,
    pub(crate) topics: HashMap<Arc<str>, TopicMetadata>,
    /// Topics that were there and are gone: should one come back as the same, a broker that lags behind is still
    /// known by its epochs (MD6).
    deleted_topics: HashMap<Arc<str>, TopicMetadata>,
}

/// Who leads a partition, as a broker says that does not (KIP-951).
#[derive(Debug, Clone)]
pub(crate) struct LeaderHint {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) leader: Leader,
}

impl Cluster {
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Leader {
        self.topics
            .get(topic)
            .and_then(|t| t.leaders.get(usize::try_from(partition).ok()?).copied())
            .unwrap_or(Leader::NONE)
    }

    /// The next snapshot: what `answer` says, and of topics it does not speak of, what was known. Per-topic
    /// errors are handed to `error`.
    pub(crate) fn merge_with(
        &self,
        answer: &MetadataResponse,
        keep: impl Fn(&str) -> bool,
        mut error: impl FnMut(&str, ErrorCode),
    ) -> Cluster {
        let nodes: HashMap<i32, Node> = answer
            .brokers
            .iter()
            .filter(|b| Node::is_valid(b))
            .filter_map(|b| {
                let port = u16::try_from(b.port).ok()?;
                let (host, rack) = (b.host.as_str().into(), b.rack.as_deref().map(Into::into));
                Some((b.node_id, Node { id: b.node_id, host, port, rack }))
            })
            .collect();
        let kept = |all: &HashMap<Arc<str>, TopicMetadata>| -> HashMap<Arc<str>, TopicMetadata> {
            let kept = all.iter().filter(|(name, _)| keep(name));
            kept.map(|(name, info)| (name.clone(), info.clone())).collect()
        };
        let (mut topics, mut gone) = (kept(&self.topics), kept(&self.deleted_topics));
        for t in &answer.topics {
            let Some(name) = t.name.as_deref() else {
                continue;
            };
            if !keep(name) {
                continue;
            }
            let code = ErrorCode(t.error_code);
            if !code.is_none() {
                error(name, code);
                // A deleted topic has no leaders; its batches wait for it, or for their timeout.
                let none = [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::UNKNOWN_TOPIC_ID];
                if none.contains(&code)
                    && let Some((name, info)) = topics.remove_entry(name)
                {
                    // Without an id nobody can tell whether it is the same when it comes back.
                    if !info.id.is_zero() {
                        gone.insert(name, info);
                    }
                }
                continue;
            }
            let before = gone.remove(name);
            let info = merge_topic_metadata(t, topics.get(name).or(before.as_ref()));
            if info.leaders.is_empty() {
                before.map(|info| gone.insert(name.into(), info));
                // A topic has partitions: as it is told, there is nothing to be done with it.
                error(name, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
                continue;
            }
            topics.insert(name.into(), info);
        }
        // Whoever leads without an address cannot be spoken to, also where an answer that lags behind left the node out:
        // a partition without a leader asks for metadata again.
        for leader in topics.values_mut().flat_map(|t| &mut t.leaders) {
            if !nodes.contains_key(&leader.node_id) {
                leader.node_id = -1;
            }
        }
        let id = answer.cluster_id.as_deref().map(Into::into).or_else(|| self.id.clone());
        Cluster { id, nodes, topics, deleted_topics: gone }
    }

    /// Nothing of the nodes, everything of the topics.
    pub(crate) fn without_nodes(&self) -> Cluster {
        let (id, topics, gone) =
            (self.id.clone(), self.topics.clone(), self.deleted_topics.clone());
        Cluster { id, nodes: HashMap::default(), topics, deleted_topics: gone }
    }

    /// The next snapshot with these leaders, at these addresses: of partitions that are known, where the epoch is
    /// newer and the node is one whose address is known or told (MD12). `None` where there is no such.
    pub(crate) fn with_leader_hints(
        &self,
        hints: &[LeaderHint],
        nodes: &[Node],
    ) -> Option<Cluster> {
        let mut next: Option<Cluster> = None;
        for hint in hints {
            let known = self.leader(&hint.topic, hint.partition);
            let told = nodes.iter().find(|n| n.id == hint.leader.node_id);
            let has_address = told.is_some() || self.nodes.contains_key(&hint.leader.node_id);
            let Some(index) = usize::try_from(hint.partition).ok() else { continue };
            if hint.leader.epoch <= known.epoch || !has_address {
                continue;
            }
            let next = next.get_or_insert_with(|| {
                let (id, nodes) = (self.id.clone(), self.nodes.clone());
                Cluster {
                    id,
                    nodes,
                    topics: self.topics.clone(),
                    deleted_topics: self.deleted_topics.clone(),
                }
            });
            let topic = next.topics.get_mut(&hint.topic);
            if let Some(place) = topic.and_then(|t| t.leaders.get_mut(index)) {
                *place = hint.leader;
                if let Some(node) = told {
                    next.nodes.insert(node.id, node.clone());
                }
            }
        }
        next
    }

    /// Partitions whose leader is another than in `before`: topic, number, both.
    pub(crate) fn leader_changes_since<'c>(
        &'c self,
        before: &'c Cluster,
    ) -> impl Iterator<Item = (&'c Arc<str>, i32, Leader, Leader)> {
        self.topics.iter().flat_map(move |(name, info)| {
            let old = before.topics.get(name).map_or(&[][..], |t| &t.leaders[..]);
            let moved = old.iter().zip(&info.leaders).enumerate();
            let moved = moved.filter(|(_, (old, new))| old.node_id != new.node_id);
            moved.map(move |(i, (old, new))| (name, i as i32, *old, *new))
        })
    }
}

fn merge_topic_metadata(
    t: &MetadataResponseTopic,
    before: Option<&TopicMetadata>,
) -> TopicMetadata {
    let before = before.filter(|b| b.id == t.topic_id);
    let mut leaders: Vec<Leader> = before.map(|b| b.leaders.clone()).unwrap_or_default();
    for p in &t.partitions {
        // Brokers name every partition of a topic: a number far past how many the answer holds is nonsense, and
        // must not size a vector.
        let Ok(index) = usize::try_from(p.partition_index) else {
            continue;
        };
        if index >= t.partitions.len() + MAX_MISSING_PARTITIONS {
            continue;
        }
        if index >= leaders.len() {
            leaders.resize(index + 1, Leader::NONE);
        }
        let old = leaders[index];
        // An answer from a broker that lags behind says less than what is known (MD4).
        if p.leader_epoch == -1 || p.leader_epoch >= old.epoch {
            leaders[index] = Leader { node_id: p.leader_id, epoch: p.leader_epoch };
        }
    }
    TopicMetadata { id: t.topic_id, leaders }
}

/// Partitions below the greatest that an answer may leave out.
const MAX_MISSING_PARTITIONS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::messages::MetadataResponsePartition;

    fn metadata_response(epoch: i32, leader: i32) -> MetadataResponse {
        MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: 1,
                host: "a".into(),
                port: 9092,
                ..Default::default()
            }],
            topics: vec![MetadataResponseTopic {
                name: Some("t".into()),
                topic_id: Uuid([1; 16]),
                partitions: vec![MetadataResponsePartition {
                    leader_id: leader,
                    leader_epoch: epoch,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn md4_an_older_leader_epoch_is_ignored_and_md10_a_leader_without_address_is_none() {
        let all = |_: &str| true;
        let c = Cluster::default().merge_with(&metadata_response(10, 1), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
        let c = c.merge_with(&metadata_response(9, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
        let c = c.merge_with(&metadata_response(11, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: -1, epoch: 11 });
        assert_eq!(c.leader("t", 5), Leader::NONE);
    }

    #[test]
    fn md10_a_node_that_an_answer_leaves_out_leads_nothing() {
        let all = |_: &str| true;
        let c = Cluster::default().merge_with(&metadata_response(10, 1), all, |_, _| {});
        let mut old = metadata_response(9, 2);
        old.brokers[0].node_id = 2;
        let c = c.merge_with(&old, all, |_, _| {});
        assert_eq!(
            c.leader("t", 0),
            Leader { node_id: -1, epoch: 10 },
            "known, and not to be reached"
        );
        let c = c.merge_with(&metadata_response(10, 1), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
    }

    #[test]
    fn md6_a_topic_that_comes_back_is_known_by_its_epochs() {
        let all = |_: &str| true;
        let c = Cluster::default().merge_with(&metadata_response(10, 1), all, |_, _| {});
        let mut none = metadata_response(0, 1);
        none.topics[0].error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
        let c = c.merge_with(&none, all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader::NONE);
        let back = c.merge_with(&metadata_response(9, 1), all, |_, _| {});
        assert_eq!(back.leader("t", 0).epoch, 10, "an old answer says less than what is known");
        let mut other = metadata_response(0, 1);
        other.topics[0].topic_id = Uuid([2; 16]);
        let made_anew = c.merge_with(&other, all, |_, _| {});
        assert_eq!(made_anew.leader("t", 0), Leader { node_id: 1, epoch: 0 });
    }

    #[test]
    fn md12_a_hint_counts_where_it_is_newer_and_leads_somewhere() {
        let c = Cluster::default().merge_with(&metadata_response(10, 1), |_: &str| true, |_, _| {});
        let hint = |topic: &str, partition, node, epoch| LeaderHint {
            topic: topic.into(),
            partition,
            leader: Leader { node_id: node, epoch },
        };
        let node = Node { id: 2, host: "b".into(), port: 9093, rack: None };
        let nodes = [node.clone()];
        for (h, nodes) in [
            (hint("t", 0, 2, 10), &nodes[..]),
            (hint("t", 0, 2, 9), &nodes),
            (hint("t", 0, 2, 11), &[]),
            (hint("t", -1, 2, 11), &nodes),
        ] {
            assert!(c.with_leader_hints(std::slice::from_ref(&h), nodes).is_none(), "{h:?}");
        }
        for stranger in [hint("t", 7, 2, 11), hint("u", 0, 2, 11), hint("t", i32::MAX, 2, 11)] {
            let same = c.with_leader_hints(std::slice::from_ref(&stranger), &nodes);
            assert!(same.is_none_or(|n| n.topics == c.topics && n.nodes == c.nodes));
        }
        let next = c.with_leader_hints(&[hint("t", 0, 2, 11)], &nodes).unwrap();
        assert_eq!(next.leader("t", 0), Leader { node_id: 2, epoch: 11 });
        assert_eq!(next.nodes[&2], node);
        let moved: Vec<_> =
            next.leader_changes_since(&c).map(|(_, p, a, b)| (p, a.node_id, b.node_id)).collect();
        assert_eq!(moved, [(0, 1, 2)]);
    }

    #[test]
    fn a_partition_number_that_is_nonsense_sizes_nothing() {
        for nonsense in [i32::MAX, 1_000_000, -1] {
            let mut a = metadata_response(1, 1);
            a.topics[0].partitions[0].partition_index = nonsense;
            let c = Cluster::default().merge_with(&a, |_| true, |_, _| {});
            assert!(!c.topics.contains_key("t"), "{nonsense}");
        }
    }
}
