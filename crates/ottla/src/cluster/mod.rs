//! The cluster's brokers, topics and leaders, as the metadata responses describe them.
//!
//! The client changes the snapshot in place: a response costs what it describes, not what the
//! client knows (KIP-526). The accumulator publishes the changes to callers as topics, and the
//! sender looks up leaders in the snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use ottla_protocol::messages::{MetadataResponse, MetadataResponseBroker, MetadataResponseTopic};
use ottla_protocol::{ErrorCode, Uuid};

use crate::collections::HashMap;
use crate::injected_bugs::inject_bug;

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

    /// Removes a node that has no address, and keeps the epoch.
    fn remove_unless_in(&mut self, nodes: &HashMap<i32, Node>) {
        if !nodes.contains_key(&self.node_id) {
            self.node_id = -1;
        }
    }
}

/// A topic's id and the leaders of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicMetadata {
    pub(crate) id: Uuid,
    /// The leaders, indexed by partition number.
    pub(crate) leaders: Vec<Leader>,
}

impl TopicMetadata {
    /// Returns a partition's leader; `None` for an unknown partition.
    fn leader(&self, partition: i32) -> Option<Leader> {
        self.leaders.get(usize::try_from(partition).ok()?).copied()
    }
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

/// A partition that moved to a new leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaderChange {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) old: Leader,
    pub(crate) new: Leader,
}

/// The changes of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct ClusterChanges {
    /// The topics that are new, changed or gone.
    pub(crate) topics: BTreeSet<Arc<str>>,
    /// Whether a broker is new, changed or gone. This may concern every topic.
    pub(crate) nodes: bool,
    /// The partitions of known topics that have another leader.
    pub(crate) leaders: Vec<LeaderChange>,
}

impl ClusterChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty() && !self.nodes
    }

    /// Adds later changes.
    pub(crate) fn append(&mut self, mut later: ClusterChanges) {
        self.topics.append(&mut later.topics);
        self.nodes |= later.nodes;
        self.leaders.append(&mut later.leaders);
    }

    fn add_leaders(&mut self, topic: &Arc<str>, old: &[Leader], new: &[Leader]) {
        for (partition, (old, new)) in old.iter().zip(new).enumerate() {
            if old.node_id != new.node_id {
                let (topic, partition) = (topic.clone(), partition as i32);
                self.leaders.push(LeaderChange { topic, partition, old: *old, new: *new });
            }
        }
    }
}

impl Cluster {
    /// Returns a partition's leader; [`Leader::NONE`] for an unknown partition.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Leader {
        self.topics.get(topic).and_then(|t| t.leader(partition)).unwrap_or(Leader::NONE)
    }

    /// Applies a metadata response.
    ///
    /// Topics that the response does not contain keep their metadata. Topics for which `is_wanted`
    /// returns false are ignored. `on_topic_error` receives the error of each topic that has one.
    pub(crate) fn merge(
        &mut self,
        response: &MetadataResponse,
        is_wanted: impl Fn(&str) -> bool,
        mut on_topic_error: impl FnMut(&str, ErrorCode),
    ) -> ClusterChanges {
        let mut changes = self.replace_nodes(valid_nodes(response));
        for topic in &response.topics {
            let Some(name) = topic.name.as_deref().filter(|name| is_wanted(name)) else {
                continue;
            };
            let code = ErrorCode(topic.error_code);
            if !code.is_none() {
                on_topic_error(name, code);
                // A deleted topic has no leaders: its batches wait for its return or their timeout.
                let means_deleted =
                    [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::UNKNOWN_TOPIC_ID];
                if means_deleted.contains(&code)
                    && let Some((name, metadata)) = self.topics.remove_entry(name)
                {
                    changes.topics.insert(name.clone());
                    // Without an id, a topic that returns cannot be recognised as the same one.
                    if !metadata.id.is_zero() {
                        self.deleted_topics.insert(name, metadata);
                    }
                }
            } else if !self.merge_topic(name, topic, &mut changes) {
                // Every topic has partitions. A topic without any is as good as an unknown one.
                on_topic_error(name, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            }
        }
        if let Some(id) = response.cluster_id.as_deref() {
            self.id = Some(id.into());
        }
        changes
    }

    /// Applies the metadata of one topic. Returns false if it describes no partition.
    fn merge_topic(
        &mut self,
        name: &str,
        topic: &MetadataResponseTopic,
        changes: &mut ClusterChanges,
    ) -> bool {
        let deleted = self.deleted_topics.remove(name);
        let before = self.topics.get(name).or(deleted.as_ref());
        let mut metadata = merge_topic_metadata(topic, before, &mut self.older_epochs);
        if metadata.leaders.is_empty() {
            if let Some(deleted) = deleted {
                self.deleted_topics.insert(name.into(), deleted);
            }
            return false;
        }
        // A leader without an address cannot be connected to (CASES MD10). A response from a broker
        // that lags behind may leave out a node that leads with a newer epoch. Such a partition
        // counts as leaderless, so that it requests metadata again. Without this, the simulation
        // found a partition that stayed silent for five minutes (`metadata.max.age.ms`).
        metadata.leaders.iter_mut().for_each(|leader| leader.remove_unless_in(&self.nodes));
        match self.topics.remove_entry(name) {
            Some((name, known)) => {
                if known != metadata {
                    changes.add_leaders(&name, &known.leaders, &metadata.leaders);
                    changes.topics.insert(name.clone());
                }
                self.topics.insert(name, metadata);
            }
            None => {
                let name: Arc<str> = name.into();
                changes.topics.insert(name.clone());
                self.topics.insert(name, metadata);
            }
        }
        true
    }

    /// Replaces the nodes. Partitions whose leader is gone have no leader then.
    fn replace_nodes(&mut self, nodes: HashMap<i32, Node>) -> ClusterChanges {
        let mut changes = ClusterChanges { nodes: nodes != self.nodes, ..Default::default() };
        // Without any node, the client has forgotten them, and any leader may be gone.
        let may_be_gone =
            self.nodes.is_empty() || self.nodes.keys().any(|id| !nodes.contains_key(id));
        self.nodes = nodes;
        if may_be_gone {
            for (name, topic) in &mut self.topics {
                let is_gone = |leader: &Leader| {
                    leader.node_id >= 0 && !self.nodes.contains_key(&leader.node_id)
                };
                if !topic.leaders.iter().any(is_gone) {
                    continue;
                }
                let old = topic.leaders.clone();
                topic.leaders.iter_mut().for_each(|leader| leader.remove_unless_in(&self.nodes));
                changes.add_leaders(name, &old, &topic.leaders);
                changes.topics.insert(name.clone());
            }
        }
        changes
    }

    /// Forgets the topics that are not wanted. Returns their names.
    pub(crate) fn retain_topics(&mut self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<Arc<str>> {
        let mut forgotten = BTreeSet::new();
        self.topics.retain(|name, _| is_wanted(name) || !forgotten.insert(name.clone()));
        self.deleted_topics.retain(|name, _| is_wanted(name));
        self.older_epochs.retain(|(name, _), _| is_wanted(name));
        forgotten
    }

    /// Forgets all nodes.
    pub(crate) fn forget_nodes(&mut self) -> ClusterChanges {
        self.nodes.clear();
        ClusterChanges { nodes: true, ..Default::default() }
    }

    /// Returns whether a hint counts (KIP-951, CASES MD12): its partition is known, its epoch is
    /// newer than the known one, and the address of its node is known or among `nodes`.
    pub(crate) fn is_newer_leader(&self, hint: &LeaderHint, nodes: &[Node]) -> bool {
        let has_address = self.nodes.contains_key(&hint.leader.node_id)
            || nodes.iter().any(|n| n.id == hint.leader.node_id);
        let known = self.topics.get(&hint.topic).and_then(|topic| topic.leader(hint.partition));
        has_address && known.is_some_and(|known| hint.leader.epoch > known.epoch)
    }

    /// Applies the leaders that count, at the addresses in `nodes`.
    pub(crate) fn apply_leader_hints(
        &mut self,
        hints: &[LeaderHint],
        nodes: &[Node],
    ) -> ClusterChanges {
        let mut changes = ClusterChanges::default();
        for hint in hints {
            // Then the partition is known, and its number not negative.
            if !self.is_newer_leader(hint, nodes) {
                continue;
            }
            let known = self.topics.get_mut(&hint.topic);
            let Some(leader) = known.and_then(|t| t.leaders.get_mut(hint.partition as usize))
            else {
                continue;
            };
            let old = std::mem::replace(leader, hint.leader);
            changes.topics.insert(hint.topic.clone());
            if old.node_id != hint.leader.node_id {
                changes.leaders.push(LeaderChange {
                    topic: hint.topic.clone(),
                    partition: hint.partition,
                    old,
                    new: hint.leader,
                });
            }
            if let Some(node) = nodes.iter().find(|n| n.id == hint.leader.node_id) {
                changes.nodes |= self.nodes.insert(node.id, node.clone()).as_ref() != Some(node);
            }
        }
        changes
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
    let is_believed =
        inject_bug!(OlderEpochNeverBelieved, older.responses >= OLDER_EPOCH_RESPONSES);
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
mod tests;
