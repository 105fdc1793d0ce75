//! The group `g` without a client: joins and commits, one request at a time.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use super::*;

/// The member of an offset commit: its id and generation.
#[derive(Clone, Copy)]
pub(crate) struct CommitMember<'a> {
    pub(crate) id: &'a str,
    pub(crate) generation: i32,
}

pub(crate) const NO_MEMBER: CommitMember<'_> = CommitMember { id: "", generation: -1 };

pub(crate) fn join_request(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    }
}

/// Joins as the only member and returns its id; the generation is 1.
pub(crate) fn join_alone(b: &mut BrokerFixture) -> String {
    let node = group_coordinator(b);
    let member_id = b.send(node, &join_request(""), 5).member_id;
    let joined = b.send(node, &join_request(&member_id), 5);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: member_id.clone(),
        ..Default::default()
    };
    assert_eq!(b.send(node, &sync, 3).error_code, 0);
    member_id
}

pub(crate) fn group_coordinator(b: &mut BrokerFixture) -> i32 {
    let request = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    let up = (1..=b.core.node_count()).find(|n| b.core.is_up(*n)).unwrap();
    b.send(up, &request, 3).node_id
}

pub(crate) fn commit(
    b: &mut BrokerFixture,
    member: CommitMember<'_>,
    partition: i32,
    offset: i64,
) -> Result<(), ErrorCode> {
    let node = group_coordinator(b);
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id: member.generation,
        member_id: member.id.into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: offset,
                committed_metadata: Some("m".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    to_result(b.send(node, &request, 8).topics[0].partitions[0].error_code)
}

/// Returns the committed offset of partition 0 of `t`; `require_stable` as a KIP-447 consumer.
pub(crate) fn fetch(b: &mut BrokerFixture, require_stable: bool) -> Result<i64, ErrorCode> {
    let node = group_coordinator(b);
    let group = OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: Some(vec![OffsetFetchRequestTopics {
            name: "t".into(),
            partition_indexes: vec![0],
            ..Default::default()
        }]),
        ..Default::default()
    };
    let request = OffsetFetchRequest { groups: vec![group], require_stable, ..Default::default() };
    let fetched = b.send(node, &request, 9).groups[0].clone();
    to_result(fetched.error_code)?;
    let p = &fetched.topics[0].partitions[0];
    to_result(p.error_code).map(|()| p.committed_offset)
}

pub(crate) fn commit_in_transaction(
    b: &mut BrokerFixture,
    p: TestProducer,
    member: CommitMember<'_>,
    version: i16,
) -> Result<(), ErrorCode> {
    let node = group_coordinator(b);
    let request = TxnOffsetCommitRequest {
        transactional_id: "tx".into(),
        group_id: "g".into(),
        producer_id: p.id,
        producer_epoch: p.epoch,
        generation_id: member.generation,
        member_id: member.id.into(),
        topics: vec![TxnOffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![TxnOffsetCommitRequestPartition {
                committed_offset: 7,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    to_result(b.send(node, &request, version).topics[0].partitions[0].error_code)
}

pub(crate) fn add_offsets(b: &mut BrokerFixture, p: TestProducer) -> Result<(), ErrorCode> {
    let node = b.coordinator();
    let request = AddOffsetsToTxnRequest {
        transactional_id: "tx".into(),
        producer_id: p.id,
        producer_epoch: p.epoch,
        group_id: "g".into(),
        ..Default::default()
    };
    to_result(b.send(node, &request, 3).error_code)
}
