//! The cluster's brokers, topics and leaders: an immutable snapshot that each metadata response
//! replaces.
//!
//! The client creates the snapshots. The accumulator publishes them to callers as topics, and the
//! sender looks up leaders in them.

use std::sync::Arc;

use ottla_protocol::messages::{MetadataResponse, MetadataResponseBroker, MetadataResponseTopic};
use ottla_protocol::{ErrorCode, Uuid};

use crate::collections::HashMap;

/// A broker's id and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    /// The broker's rack, if the cluster has racks.
    pub(crate) rack: Option<Arc<str>>,
}

impl Node {
    /// Returns whether a response names a broker that the client can connect to.
    pub(crate) fn is_valid(broker: &MetadataResponseBroker) -> bool {
        broker.node_id >= 0
            && (1..=i32::from(u16::MAX)).contains(&broker.port)
            && !broker.host.is_empty()
    }
}

/// A partition's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The leader's node id; −1 for none.
    pub(crate) node_id: i32,
    /// The leader epoch (KIP-320); −1 if unknown.
    pub(crate) epoch: i32,
}

impl Leader {
    pub(crate) const NONE: Leader = Leader { node_id: -1, epoch: -1 };
}

/// A topic's id and the leaders of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicMetadata {
    pub(crate) id: Uuid,
    /// The leaders, indexed by partition number.
    pub(crate) leaders: Vec<Leader>,
}

/// A snapshot of the cluster's metadata.
#[derive(Debug, Default, Clone)]
pub(crate) struct Cluster {
    pub(crate) id: Option<Arc<str>>,
    pub(crate) nodes: HashMap<i32, Node>,
    pub(crate) topics: HashMap<Arc<str>, TopicMetadata>,
    /// The last metadata of deleted topics (CASES MD6). If such a topic returns with the same id,
    /// its leader epochs expose a response from a broker that lags behind.
    deleted_topics: HashMap<Arc<str>, TopicMetadata>,
    /// The partitions whose last responses had an older leader epoch than the known one.
    older_epochs: HashMap<(Arc<str>, i32), OlderEpoch>,
}

/// Responses in a row that named the same leader with an older epoch than the known one.
#[derive(Debug, Clone, Copy)]
struct OlderEpoch {
    leader: Leader,
    responses: u32,
}

/// A partition's new leader, from a produce response of a broker that does not lead it (KIP-951).
#[derive(Debug, Clone)]
pub(crate) struct LeaderHint {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) leader: Leader,
}

/// A partition that moved to a new leader between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaderChange<'c> {
    pub(crate) topic: &'c Arc<str>,
    pub(crate) partition: i32,
    pub(crate) old: Leader,
    pub(crate) new: Leader,
}

impl Cluster {
    /// Returns a partition's leader; [`Leader::NONE`] for an unknown partition.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Leader {
        self.topics
            .get(topic)
            .and_then(|t| t.leaders.get(usize::try_from(partition).ok()?).copied())
            .unwrap_or(Leader::NONE)
    }

    /// Returns the snapshot after a metadata response.
    ///
    /// Topics that the response does not contain keep their metadata. Topics for which `keep`
    /// returns false are dropped. `on_topic_error` receives the error of each topic that has one.
    pub(crate) fn merge_with(
        &self,
        response: &MetadataResponse,
        keep: impl Fn(&str) -> bool,
        mut on_topic_error: impl FnMut(&str, ErrorCode),
    ) -> Cluster {
        let nodes = valid_nodes(response);
        let retained = |all: &HashMap<Arc<str>, TopicMetadata>| -> HashMap<_, _> {
            let kept = all.iter().filter(|(name, _)| keep(name));
            kept.map(|(name, metadata)| (name.clone(), metadata.clone())).collect()
        };
        let mut topics = retained(&self.topics);
        let mut deleted_topics = retained(&self.deleted_topics);
        let mut older_epochs = self.older_epochs.clone();
        older_epochs.retain(|(name, _), _| keep(name));
        for topic in &response.topics {
            let Some(name) = topic.name.as_deref() else {
                continue;
            };
            if !keep(name) {
                continue;
            }
            let code = ErrorCode(topic.error_code);
            if !code.is_none() {
                on_topic_error(name, code);
                // A deleted topic has no leaders: its batches wait for its return or their timeout.
                let means_deleted =
                    [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::UNKNOWN_TOPIC_ID];
                if means_deleted.contains(&code)
                    && let Some((name, metadata)) = topics.remove_entry(name)
                {
                    // Without an id, a topic that returns cannot be recognised as the same one.
                    if !metadata.id.is_zero() {
                        deleted_topics.insert(name, metadata);
                    }
                }
                continue;
            }
            let deleted = deleted_topics.remove(name);
            let before = topics.get(name).or(deleted.as_ref());
            let metadata = merge_topic_metadata(topic, before, &mut older_epochs);
            if metadata.leaders.is_empty() {
                if let Some(deleted) = deleted {
                    deleted_topics.insert(name.into(), deleted);
                }
                // Every topic has partitions. A topic without any is as good as an unknown one.
                on_topic_error(name, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
                continue;
            }
            topics.insert(name.into(), metadata);
        }
        // A leader without an address cannot be connected to (CASES MD10). A response from a broker
        // that lags behind may leave out a node that leads with a newer epoch. Such a partition
        // counts as leaderless, so that it requests metadata again. Without this, the simulation
        // found a partition that stayed silent for five minutes (`metadata.max.age.ms`).
        for leader in topics.values_mut().flat_map(|t| &mut t.leaders) {
            if !nodes.contains_key(&leader.node_id) {
                leader.node_id = -1;
            }
        }
        let id = response.cluster_id.as_deref().map(Into::into).or_else(|| self.id.clone());
        Cluster { id, nodes, topics, deleted_topics, older_epochs }
    }

    /// Returns a snapshot with the same topics and without nodes.
    pub(crate) fn without_nodes(&self) -> Cluster {
        Cluster { nodes: HashMap::default(), ..self.clone() }
    }

    /// Returns the snapshot with these leaders, at the addresses in `nodes` (KIP-951, CASES MD12).
    ///
    /// A hint counts if its partition is known, its epoch is newer than the known one, and the
    /// address of its node is known or among `nodes`. `None` if no hint counts.
    pub(crate) fn with_leader_hints(
        &self,
        hints: &[LeaderHint],
        nodes: &[Node],
    ) -> Option<Cluster> {
        let mut next: Option<Cluster> = None;
        for hint in hints {
            let known = self.leader(&hint.topic, hint.partition);
            let hinted_node = nodes.iter().find(|n| n.id == hint.leader.node_id);
            let has_address =
                hinted_node.is_some() || self.nodes.contains_key(&hint.leader.node_id);
            let Some(index) = usize::try_from(hint.partition).ok() else { continue };
            if hint.leader.epoch <= known.epoch || !has_address {
                continue;
            }
            let next = next.get_or_insert_with(|| self.clone());
            let topic = next.topics.get_mut(&hint.topic);
            if let Some(leader) = topic.and_then(|t| t.leaders.get_mut(index)) {
                *leader = hint.leader;
                if let Some(node) = hinted_node {
                    next.nodes.insert(node.id, node.clone());
                }
            }
        }
        next
    }

    /// Returns the partitions whose leader is a different node than in `before`.
    pub(crate) fn leader_changes_since<'c>(
        &'c self,
        before: &'c Cluster,
    ) -> impl Iterator<Item = LeaderChange<'c>> {
        self.topics.iter().flat_map(move |(topic, metadata)| {
            let old = before.topics.get(topic).map_or(&[][..], |t| &t.leaders[..]);
            let leaders = old.iter().zip(&metadata.leaders).enumerate();
            let moved = leaders.filter(|(_, (old, new))| old.node_id != new.node_id);
            moved.map(move |(i, (old, new))| LeaderChange {
                topic,
                partition: i as i32,
                old: *old,
                new: *new,
            })
        })
    }
}

fn valid_nodes(response: &MetadataResponse) -> HashMap<i32, Node> {
    let valid = response.brokers.iter().filter(|b| Node::is_valid(b));
    let nodes = valid.filter_map(|b| {
        let port = u16::try_from(b.port).ok()?;
        let (host, rack) = (b.host.as_str().into(), b.rack.as_deref().map(Into::into));
        Some((b.node_id, Node { id: b.node_id, host, port, rack }))
    });
    nodes.collect()
}

/// Returns a topic's metadata after a response. Leaders with an older epoch than the known one are
/// ignored, provided that it is the same topic (by its id).
fn merge_topic_metadata(
    topic: &MetadataResponseTopic,
    before: Option<&TopicMetadata>,
    older_epochs: &mut HashMap<(Arc<str>, i32), OlderEpoch>,
) -> TopicMetadata {
    let before = before.filter(|b| b.id == topic.topic_id);
    let mut leaders: Vec<Leader> = before.map(|b| b.leaders.clone()).unwrap_or_default();
    for p in &topic.partitions {
        let Ok(index) = usize::try_from(p.partition_index) else {
            continue;
        };
        // A broker lists every partition of a topic. A number far beyond their count is invalid: it
        // must not make this vector grow to gigabytes.
        if index >= topic.partitions.len() + MAX_MISSING_PARTITIONS {
            continue;
        }
        if index >= leaders.len() {
            leaders.resize(index + 1, Leader::NONE);
        }
        let old = leaders[index];
        let new = Leader { node_id: p.leader_id, epoch: p.leader_epoch };
        let key = || (Arc::from(topic.name.as_deref().unwrap_or_default()), p.partition_index);
        if new.epoch == -1 || new.epoch >= old.epoch {
            leaders[index] = new;
            if !older_epochs.is_empty() {
                older_epochs.remove(&key());
            }
        } else if new.node_id >= 0 && is_older_epoch_believed(older_epochs, key(), new) {
            leaders[index] = new;
        }
    }
    TopicMetadata { id: topic.topic_id, leaders }
}

/// Counts a response with an older leader epoch than the known one. Returns whether to believe it.
///
/// A broker that lags behind reports an older epoch (CASES MD4), but only for a while. After an
/// unclean election or in a restored cluster, epochs begin again, and no newer one comes.
fn is_older_epoch_believed(
    older_epochs: &mut HashMap<(Arc<str>, i32), OlderEpoch>,
    partition: (Arc<str>, i32),
    leader: Leader,
) -> bool {
    let older =
        older_epochs.entry(partition.clone()).or_insert(OlderEpoch { leader, responses: 0 });
    older.responses = if older.leader == leader { older.responses + 1 } else { 1 };
    older.leader = leader;
    let is_believed = older.responses >= OLDER_EPOCH_RESPONSES;
    if is_believed {
        older_epochs.remove(&partition);
    }
    is_believed
}

/// The client believes an older leader epoch after this number of responses in a row with it.
const OLDER_EPOCH_RESPONSES: u32 = 5;

/// The number of partitions below the highest that a response may leave out.
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

    // CASES: MD4, MD10.
    #[test]
    fn older_leader_epoch_is_ignored_and_leader_without_address_is_none() {
        let all = |_: &str| true;
        let c = Cluster::default().merge_with(&metadata_response(10, 1), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
        let c = c.merge_with(&metadata_response(9, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
        let c = c.merge_with(&metadata_response(11, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: -1, epoch: 11 });
        assert_eq!(c.leader("t", 5), Leader::NONE);
    }

    // CASES: MD10.
    #[test]
    fn node_missing_from_a_response_leads_no_partition() {
        let all = |_: &str| true;
        let c = Cluster::default().merge_with(&metadata_response(10, 1), all, |_, _| {});
        let mut stale = metadata_response(9, 2);
        stale.brokers[0].node_id = 2;
        let c = c.merge_with(&stale, all, |_, _| {});
        assert_eq!(
            c.leader("t", 0),
            Leader { node_id: -1, epoch: 10 },
            "the epoch is known, the address is not"
        );
        let c = c.merge_with(&metadata_response(10, 1), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
    }

    /// An unclean election or a restored cluster may begin again with older epochs.
    #[test]
    fn older_leader_epoch_that_stays_is_believed() {
        let all = |_: &str| true;
        let two_nodes = |epoch, leader| {
            let mut response = metadata_response(epoch, leader);
            let second = MetadataResponseBroker { node_id: 2, ..response.brokers[0].clone() };
            response.brokers.push(second);
            response
        };
        let mut c = Cluster::default().merge_with(&two_nodes(10, 1), all, |_, _| {});
        for _ in 1..OLDER_EPOCH_RESPONSES {
            c = c.merge_with(&two_nodes(3, 2), all, |_, _| {});
            assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
        }
        // A newer response in between proves that the older ones came from brokers that lag behind.
        c = c.merge_with(&two_nodes(10, 1), all, |_, _| {});
        for _ in 1..OLDER_EPOCH_RESPONSES {
            c = c.merge_with(&two_nodes(3, 2), all, |_, _| {});
            assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
        }
        c = c.merge_with(&two_nodes(3, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 2, epoch: 3 });
        for _ in 0..2 * OLDER_EPOCH_RESPONSES {
            c = c.merge_with(&two_nodes(2, -1), all, |_, _| {});
        }
        assert_eq!(c.leader("t", 0).epoch, 3, "no leader is nothing to believe");
    }

    // CASES: MD6.
    #[test]
    fn recreated_topic_keeps_its_epochs_only_with_the_same_id() {
        let all = |_: &str| true;
        let c = Cluster::default().merge_with(&metadata_response(10, 1), all, |_, _| {});
        let mut deleted = metadata_response(0, 1);
        deleted.topics[0].error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
        let c = c.merge_with(&deleted, all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader::NONE);
        let returned = c.merge_with(&metadata_response(9, 1), all, |_, _| {});
        assert_eq!(returned.leader("t", 0).epoch, 10, "an older epoch is ignored");
        let mut other = metadata_response(0, 1);
        other.topics[0].topic_id = Uuid([2; 16]);
        let recreated = c.merge_with(&other, all, |_, _| {});
        assert_eq!(recreated.leader("t", 0), Leader { node_id: 1, epoch: 0 });
    }

    // CASES: MD12.
    #[test]
    fn leader_hint_counts_if_it_is_newer_and_its_node_has_an_address() {
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
        for unknown in [hint("t", 7, 2, 11), hint("u", 0, 2, 11), hint("t", i32::MAX, 2, 11)] {
            let same = c.with_leader_hints(std::slice::from_ref(&unknown), &nodes);
            assert!(same.is_none_or(|n| n.topics == c.topics && n.nodes == c.nodes));
        }
        let next = c.with_leader_hints(&[hint("t", 0, 2, 11)], &nodes).unwrap();
        assert_eq!(next.leader("t", 0), Leader { node_id: 2, epoch: 11 });
        assert_eq!(next.nodes[&2], node);
        let changes: Vec<_> = next.leader_changes_since(&c).collect();
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].partition, changes[0].old.node_id), (0, 1));
        assert_eq!(changes[0].new, Leader { node_id: 2, epoch: 11 });
    }

    #[test]
    fn invalid_partition_number_is_ignored() {
        for number in [i32::MAX, 1_000_000, -1] {
            let mut response = metadata_response(1, 1);
            response.topics[0].partitions[0].partition_index = number;
            let c = Cluster::default().merge_with(&response, |_| true, |_, _| {});
            assert!(!c.topics.contains_key("t"), "{number}");
        }
    }
}
