//! What is known of brokers, topics and leaders: an immutable snapshot, replaced whole by each metadata
//! answer.

use std::sync::Arc;

use ottla_protocol::messages::{MetadataResponse, MetadataResponseTopic};
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

/// A partition's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The leader's node id; −1 for none.
    pub(crate) node: i32,
    /// Its epoch; −1 when unknown.
    pub(crate) epoch: i32,
}

impl Leader {
    pub(crate) const NONE: Leader = Leader { node: -1, epoch: -1 };
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    pub(crate) id: Uuid,
    /// By partition number.
    pub(crate) leaders: Vec<Leader>,
}

/// The snapshot.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) id: Option<Arc<str>>,
    pub(crate) nodes: HashMap<i32, Node>,
    pub(crate) topics: HashMap<Arc<str>, TopicInfo>,
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
    pub(crate) fn updated(
        &self,
        answer: &MetadataResponse,
        keep: impl Fn(&str) -> bool,
        mut error: impl FnMut(&str, ErrorCode),
    ) -> Cluster {
        let nodes: HashMap<i32, Node> = answer
            .brokers
            .iter()
            .filter_map(|b| {
                let port = u16::try_from(b.port).ok()?;
                let (host, rack) = (b.host.as_str().into(), b.rack.as_deref().map(Into::into));
                Some((b.node_id, Node { id: b.node_id, host, port, rack }))
            })
            .collect();
        let mut topics: HashMap<Arc<str>, TopicInfo> = self
            .topics
            .iter()
            .filter(|(name, _)| keep(name))
            .map(|(name, info)| (name.clone(), info.clone()))
            .collect();
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
                if code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                    || code == ErrorCode::UNKNOWN_TOPIC_ID
                {
                    topics.remove(name);
                }
                continue;
            }
            let info = topic_info(t, topics.get(name));
            topics.insert(name.into(), info);
        }
        // Whoever leads without an address cannot be spoken to, also where an answer that lags behind left the node out:
        // a partition without a leader asks for metadata again.
        for leader in topics.values_mut().flat_map(|t| &mut t.leaders) {
            if !nodes.contains_key(&leader.node) {
                leader.node = -1;
            }
        }
        let id = answer.cluster_id.as_deref().map(Into::into).or_else(|| self.id.clone());
        Cluster { id, nodes, topics }
    }
}

fn topic_info(t: &MetadataResponseTopic, before: Option<&TopicInfo>) -> TopicInfo {
    let before = before.filter(|b| b.id == t.topic_id);
    let mut leaders: Vec<Leader> = before.map(|b| b.leaders.clone()).unwrap_or_default();
    for p in &t.partitions {
        // Brokers name every partition of a topic: a number far past how many the answer holds is nonsense, and
        // must not size a vector.
        let Ok(index) = usize::try_from(p.partition_index) else {
            continue;
        };
        if index >= t.partitions.len() + PARTITIONS_UNNAMED {
            continue;
        }
        if index >= leaders.len() {
            leaders.resize(index + 1, Leader::NONE);
        }
        let old = leaders[index];
        // An answer from a broker that lags behind says less than what is known (MD4).
        if p.leader_epoch == -1 || p.leader_epoch >= old.epoch {
            leaders[index] = Leader { node: p.leader_id, epoch: p.leader_epoch };
        }
    }
    TopicInfo { id: t.topic_id, leaders }
}

/// Partitions below the greatest that an answer may leave out.
const PARTITIONS_UNNAMED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::messages::{MetadataResponseBroker, MetadataResponsePartition};

    fn answer(epoch: i32, leader: i32) -> MetadataResponse {
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
        let c = Cluster::default().updated(&answer(10, 1), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node: 1, epoch: 10 });
        let c = c.updated(&answer(9, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node: 1, epoch: 10 });
        let c = c.updated(&answer(11, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node: -1, epoch: 11 });
        assert_eq!(c.leader("t", 5), Leader::NONE);
    }

    #[test]
    fn md10_a_node_that_an_answer_leaves_out_leads_nothing() {
        let all = |_: &str| true;
        let c = Cluster::default().updated(&answer(10, 1), all, |_, _| {});
        let mut old = answer(9, 2);
        old.brokers[0].node_id = 2;
        let c = c.updated(&old, all, |_, _| {});
        assert_eq!(
            c.leader("t", 0),
            Leader { node: -1, epoch: 10 },
            "known, and not to be reached"
        );
        let c = c.updated(&answer(10, 1), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node: 1, epoch: 10 });
    }

    #[test]
    fn a_partition_number_that_is_nonsense_sizes_nothing() {
        for nonsense in [i32::MAX, 1_000_000, -1] {
            let mut a = answer(1, 1);
            a.topics[0].partitions[0].partition_index = nonsense;
            let c = Cluster::default().updated(&a, |_| true, |_, _| {});
            assert!(c.topics["t"].leaders.is_empty(), "{nonsense}");
        }
    }
}
