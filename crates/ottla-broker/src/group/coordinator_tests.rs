//! Tests of the groups that the coordinator keeps, and of its deadline.

use std::path::Path;

use bytes::Bytes;
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::messages::*;
use ottla_protocol::record::{ControlRecordType, EndTransactionMarker};
use ottla_protocol::{ErrorCode, Request};

use super::CommittedOffset;
use crate::coordinators::coordinator_partition;
use crate::core::{BrokerConfig, ClockReading, Core, HandleResult, LocalAddress};
use crate::transaction::{ProducerIdAndEpoch, TopicPartition};

const SESSION_MS: u64 = 10_000;

fn clock_at(ms: u64) -> ClockReading {
    ClockReading { mono_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
}

fn open(data_dir: Option<&Path>) -> Core {
    let data_dir = data_dir.map(Path::to_owned);
    let mut core = Core::new(BrokerConfig { data_dir, ..Default::default() }, clock_at(0)).unwrap();
    let _ = core.create_topic("t", 1, clock_at(0));
    core
}

fn handle<R: Request>(core: &mut Core, request: &R, version: i16, at_ms: u64) -> HandleResult {
    let frame = encode_request(request, version, 7, Some("c")).unwrap();
    let local = LocalAddress { host: "h".into(), port: 9092 };
    core.handle(&Bytes::from(frame).slice(4..), &local, at_ms, clock_at(at_ms))
}

fn send<R: Request>(core: &mut Core, request: &R, version: i16, at_ms: u64) -> R::Response {
    let HandleResult::SendResponse(frame) = handle(core, request, version, at_ms) else {
        panic!("the request waits")
    };
    decode_response::<R>(&Bytes::from(frame).slice(4..), version).unwrap()
}

fn join_request(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: SESSION_MS as i32,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    }
}

/// Joins as the only member of a new group, in the version that needs no second request.
fn join_and_sync(core: &mut Core, at_ms: u64) -> String {
    let joined = send(core, &join_request(""), 3, at_ms);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: joined.member_id.clone(),
        ..Default::default()
    };
    assert_eq!(send(core, &sync, 1, at_ms).error_code, 0);
    joined.member_id
}

fn leave(core: &mut Core, member_id: &str) {
    let leave = LeaveGroupRequest {
        group_id: "g".into(),
        member_id: member_id.into(),
        ..Default::default()
    };
    assert_eq!(send(core, &leave, 1, 0).error_code, 0);
}

fn commit(core: &mut Core) {
    let partition = OffsetCommitRequestPartition { committed_offset: 5, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![partition],
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id: -1,
        topics: vec![topic],
        ..Default::default()
    };
    assert_eq!(send(core, &request, 7, 0).topics[0].partitions[0].error_code, 0);
}

#[test]
fn refused_join_creates_no_group() {
    let mut core = open(None);
    let requests = [
        (join_request("x"), ErrorCode::UNKNOWN_MEMBER_ID),
        (
            JoinGroupRequest { protocols: Vec::new(), ..join_request("") },
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
    ];
    for (request, expected) in requests {
        assert_eq!(ErrorCode(send(&mut core, &request, 5, 0).error_code), expected);
        assert!(core.groups.by_id.is_empty());
    }
    let pending = send(&mut core, &join_request(""), 5, 0);
    assert_eq!(ErrorCode(pending.error_code), ErrorCode::MEMBER_ID_REQUIRED);
    assert_eq!(core.groups.by_id.len(), 1, "the member may join with its id");
    core.tick(clock_at(SESSION_MS));
    assert!(core.groups.by_id.is_empty());
    assert_eq!(core.next_deadline(), None);
}

#[test]
fn group_without_members_and_offsets_is_removed_also_from_the_log() {
    for ends_by_leave in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut core = open(Some(dir.path()));
        let id = join_and_sync(&mut core, 0);
        if ends_by_leave {
            leave(&mut core, &id);
        } else {
            core.tick(clock_at(SESSION_MS));
        }
        assert!(core.groups.by_id.is_empty());
        drop(core);
        let mut core = open(Some(dir.path()));
        assert!(core.groups.by_id.is_empty(), "the log says that the group is removed");
        join_and_sync(&mut core, 0);
        drop(core);
        assert_eq!(open(Some(dir.path())).groups.by_id.len(), 1);
    }
}

#[test]
fn group_with_offsets_is_kept_until_their_topic_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = open(Some(dir.path()));
    commit(&mut core);
    let id = join_and_sync(&mut core, 0);
    leave(&mut core, &id);
    drop(core);
    let mut core = open(Some(dir.path()));
    assert_eq!(core.groups.by_id["g"].classic.generation, 2);
    core.delete_topic("t").unwrap();
    assert!(core.groups.by_id.is_empty());
    drop(core);
    assert!(open(Some(dir.path())).groups.by_id.is_empty());
}

#[test]
fn deadline_moves_on_with_the_heartbeats() {
    let mut core = open(None);
    let id = join_and_sync(&mut core, 0);
    assert_eq!(core.next_deadline(), Some(SESSION_MS));
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: id,
        ..Default::default()
    };
    assert_eq!(send(&mut core, &heartbeat, 3, 4_000).error_code, 0);
    core.tick(clock_at(SESSION_MS));
    assert_eq!(core.groups.by_id["g"].classic.members.len(), 1);
    assert_eq!(core.next_deadline(), Some(SESSION_MS + 4_000));
    core.tick(clock_at(SESSION_MS + 4_000));
    assert_eq!((core.groups.by_id.len(), core.next_deadline()), (0, None));
}

#[test]
fn member_whose_connection_closes_while_it_waits_times_out() {
    let mut core = open(None);
    join_and_sync(&mut core, 0);
    let HandleResult::Delayed { id, .. } = handle(&mut core, &join_request(""), 3, 1_000) else {
        panic!("the first member has not joined again")
    };
    core.tick(clock_at(SESSION_MS));
    assert_eq!(core.groups.by_id["g"].classic.members.len(), 1, "the first one is dead");
    let joined = core.try_complete(id, clock_at(SESSION_MS));
    assert!(matches!(joined, Some(HandleResult::SendResponse(_))));
    let HandleResult::Delayed { id, .. } = handle(&mut core, &join_request(""), 3, 11_000) else {
        panic!("the other member has not joined again")
    };
    core.cancel(id);
    core.cancel(id + 1);
    core.tick(clock_at(11_000 + SESSION_MS));
    assert_eq!((core.groups.by_id.len(), core.next_deadline()), (0, None));
}

#[test]
fn group_whose_only_offsets_are_aborted_is_removed() {
    let mut core = open(None);
    let producer = ProducerIdAndEpoch { id: 7, epoch: 0 };
    let partition = TopicPartition { topic: "t".into(), partition: 0 };
    let offset = CommittedOffset { offset: 5, leader_epoch: -1, metadata: String::new() };
    let offsets = vec![(partition, offset)];
    core.groups.commit_offsets("g", Some(producer), offsets, clock_at(0)).unwrap();
    let marker =
        EndTransactionMarker { control_type: ControlRecordType::Abort, coordinator_epoch: 0 };
    let number = coordinator_partition("g");
    core.groups.end_transaction(number + 1, producer, marker, clock_at(0)).unwrap();
    assert_eq!(core.groups.by_id.len(), 1, "the marker is for the groups of another partition");
    core.groups.end_transaction(number, producer, marker, clock_at(0)).unwrap();
    assert!(core.groups.by_id.is_empty());
}
