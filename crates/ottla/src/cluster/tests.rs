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
    let mut c = Cluster::default();
    c.merge(&metadata_response(10, 1), all, |_, _| {});
    assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
    c.merge(&metadata_response(9, 2), all, |_, _| {});
    assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
    c.merge(&metadata_response(11, 2), all, |_, _| {});
    assert_eq!(c.leader("t", 0), Leader { node_id: -1, epoch: 11 });
    assert_eq!(c.leader("t", 5), Leader::NONE);
}

// CASES: MD10.
#[test]
fn node_missing_from_a_response_leads_no_partition() {
    let all = |_: &str| true;
    let mut c = Cluster::default();
    c.merge(&metadata_response(10, 1), all, |_, _| {});
    let mut stale = metadata_response(9, 2);
    stale.brokers[0].node_id = 2;
    c.merge(&stale, all, |_, _| {});
    assert_eq!(
        c.leader("t", 0),
        Leader { node_id: -1, epoch: 10 },
        "the epoch is known, the address is not"
    );
    c.merge(&metadata_response(10, 1), all, |_, _| {});
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
    let mut c = Cluster::default();
    c.merge(&two_nodes(10, 1), all, |_, _| {});
    for _ in 1..OLDER_EPOCH_RESPONSES {
        c.merge(&two_nodes(3, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
    }
    // A newer response in between proves that the older ones came from brokers that lag behind.
    c.merge(&two_nodes(10, 1), all, |_, _| {});
    for _ in 1..OLDER_EPOCH_RESPONSES {
        c.merge(&two_nodes(3, 2), all, |_, _| {});
        assert_eq!(c.leader("t", 0), Leader { node_id: 1, epoch: 10 });
    }
    c.merge(&two_nodes(3, 2), all, |_, _| {});
    assert_eq!(c.leader("t", 0), Leader { node_id: 2, epoch: 3 });
    for _ in 0..2 * OLDER_EPOCH_RESPONSES {
        c.merge(&two_nodes(2, -1), all, |_, _| {});
    }
    assert_eq!(c.leader("t", 0).epoch, 3, "no leader is nothing to believe");
}

// CASES: MD6.
#[test]
fn recreated_topic_keeps_its_epochs_only_with_the_same_id() {
    let all = |_: &str| true;
    let mut c = Cluster::default();
    c.merge(&metadata_response(10, 1), all, |_, _| {});
    let mut deleted = metadata_response(0, 1);
    deleted.topics[0].error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
    c.merge(&deleted, all, |_, _| {});
    assert_eq!(c.leader("t", 0), Leader::NONE);
    let mut returned = c.clone();
    returned.merge(&metadata_response(9, 1), all, |_, _| {});
    assert_eq!(returned.leader("t", 0).epoch, 10, "an older epoch is ignored");
    let mut other = metadata_response(0, 1);
    other.topics[0].topic_id = Uuid([2; 16]);
    let mut recreated = c.clone();
    recreated.merge(&other, all, |_, _| {});
    assert_eq!(recreated.leader("t", 0), Leader { node_id: 1, epoch: 0 });
}

// CASES: MD12.
#[test]
fn leader_hint_counts_if_it_is_newer_and_its_node_has_an_address() {
    let mut c = Cluster::default();
    c.merge(&metadata_response(10, 1), |_: &str| true, |_, _| {});
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
        let changes = c.apply_leader_hints(std::slice::from_ref(&h), nodes);
        assert!(changes.is_empty() && c.leader("t", 0).epoch == 10, "{h:?}");
    }
    for unknown in [hint("t", 7, 2, 11), hint("u", 0, 2, 11), hint("t", i32::MAX, 2, 11)] {
        assert!(c.apply_leader_hints(std::slice::from_ref(&unknown), &nodes).is_empty());
        assert!(c.topics.len() == 1 && c.nodes.len() == 1);
    }
    let changes = c.apply_leader_hints(&[hint("t", 0, 2, 11)], &nodes);
    assert_eq!(c.leader("t", 0), Leader { node_id: 2, epoch: 11 });
    assert_eq!(c.nodes[&2], node);
    assert!(changes.nodes && changes.topics.iter().map(|t| &**t).eq(["t"]));
    let [change] = &changes.leaders[..] else { panic!("{changes:?}") };
    assert_eq!((change.partition, change.old.node_id), (0, 1));
    assert_eq!(change.new, Leader { node_id: 2, epoch: 11 });
}

#[test]
fn invalid_partition_number_is_ignored() {
    for number in [i32::MAX, 1_000_000, -1] {
        let mut response = metadata_response(1, 1);
        response.topics[0].partitions[0].partition_index = number;
        let mut c = Cluster::default();
        c.merge(&response, |_| true, |_, _| {});
        assert!(!c.topics.contains_key("t"), "{number}");
    }
}

#[test]
fn response_changes_what_it_describes_differently() {
    let all = |_: &str| true;
    let names = |changes: &ClusterChanges| -> Vec<String> {
        changes.topics.iter().map(|t| t.to_string()).collect()
    };
    let response_with = |name: &str, leader| {
        let mut response = metadata_response(10, leader);
        response.topics[0].name = Some(name.into());
        let second = MetadataResponseBroker { node_id: 2, ..response.brokers[0].clone() };
        response.brokers.push(second);
        response
    };
    let mut c = Cluster::default();
    let changes = c.merge(&response_with("t", 1), all, |_, _| {});
    assert!(changes.nodes && names(&changes) == ["t"] && changes.leaders.is_empty());
    let changes = c.merge(&response_with("u", 2), all, |_, _| {});
    assert!(!changes.nodes && names(&changes) == ["u"], "{changes:?}");
    let changes = c.merge(&response_with("u", 2), all, |_, _| {});
    assert!(changes.is_empty(), "{changes:?}");
    let changes = c.merge(&response_with("u", 1), all, |_, _| {});
    assert!(names(&changes) == ["u"] && changes.leaders.len() == 1, "{changes:?}");
    // Node 1 leaves: it led both topics, and the response describes one.
    let mut lost = response_with("u", 2);
    lost.brokers.remove(0);
    let changes = c.merge(&lost, all, |_, _| {});
    assert!(changes.nodes && names(&changes) == ["t", "u"], "{changes:?}");
    assert_eq!((c.leader("t", 0).node_id, c.leader("u", 0).node_id), (-1, 2));
    assert!(c.retain_topics(|name| name == "u").iter().map(|t| &**t).eq(["t"]));
    assert_eq!(c.topics.len(), 1);
}
