//! Tests of consumer groups and their offsets through the core.
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use bytes::Bytes;
use ottla_broker::{BrokerConfig, CoordinatorType, HandleResult};
use ottla_protocol::ErrorCode;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::*;
use support::groups::*;
use support::*;

#[test]
fn offsets_are_committed_by_members_and_by_clients_without_a_group() {
    let mut b = BrokerFixture::new(1, 2);
    assert_eq!(fetch(&mut b, false), Ok(-1));
    assert_eq!(commit(&mut b, NO_MEMBER, 0, 5), Ok(()));
    assert_eq!(fetch(&mut b, true), Ok(5));
    let id = join_alone(&mut b);
    let member = |generation| CommitMember { id: &id, generation };
    assert_eq!(commit(&mut b, member(1), 0, 6), Ok(()));
    assert_eq!(commit(&mut b, member(0), 0, 9), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(commit(&mut b, NO_MEMBER, 0, 9), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let other = CommitMember { id: "x", generation: 1 };
    assert_eq!(commit(&mut b, other, 0, 9), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let unknown = Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(commit(&mut b, member(1), 9, 9), unknown);
    assert_eq!(fetch(&mut b, false), Ok(6));
}

#[test]
fn all_offsets_of_a_group_are_returned_without_a_list_of_topics() {
    let mut b = BrokerFixture::new(1, 2);
    for partition in 0..2 {
        commit(&mut b, NO_MEMBER, partition, 5).unwrap();
    }
    let request = OffsetFetchRequest { group_id: "g".into(), ..Default::default() };
    let topics = b.send(1, &request, 7).topics;
    let partitions: Vec<i32> = topics[0].partitions.iter().map(|p| p.partition_index).collect();
    assert_eq!((topics.len(), partitions), (1, vec![0, 1]));
}

#[test]
fn offsets_of_a_transaction_are_pending_until_its_marker() {
    for (committed, expected) in [(true, 7), (false, -1)] {
        let mut b = BrokerFixture::new(1, 1);
        let p = b.init().unwrap();
        assert_eq!(
            commit_in_transaction(&mut b, p, NO_MEMBER, 3),
            Err(ErrorCode::INVALID_TXN_STATE),
            "the group is not in the transaction"
        );
        assert_eq!(
            commit_in_transaction(&mut b, p, NO_MEMBER, 4),
            Err(ErrorCode::TRANSACTION_ABORTABLE)
        );
        add_offsets(&mut b, p).unwrap();
        assert_eq!(commit_in_transaction(&mut b, p, NO_MEMBER, 3), Ok(()));
        assert_eq!(fetch(&mut b, false), Ok(-1));
        assert_eq!(fetch(&mut b, true), Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
        b.end(p, committed).unwrap();
        assert_eq!(fetch(&mut b, true), Ok(expected));
    }
}

#[test]
fn v2_adds_the_group_by_txn_offset_commit_and_rejects_late_ones() {
    let mut b = BrokerFixture::new(1, 2);
    let p = b.init().unwrap();
    assert_eq!(commit_in_transaction(&mut b, p, NO_MEMBER, 5), Ok(()));
    let next = b.end_v2(p, true).unwrap();
    assert_eq!(fetch(&mut b, true), Ok(7));
    let fenced = Err(ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(commit_in_transaction(&mut b, p, NO_MEMBER, 5), fenced);
    assert_eq!(commit_in_transaction(&mut b, next, NO_MEMBER, 5), Ok(()));
}

#[test]
fn commit_without_a_generation_is_accepted_while_the_group_has_no_members() {
    for is_transactional in [false, true] {
        let mut b = BrokerFixture::new(1, 2);
        let p = b.init().unwrap();
        let commit = |b: &mut BrokerFixture, member: CommitMember<'_>| {
            if is_transactional {
                commit_in_transaction(b, p, member, 5)
            } else {
                commit(b, member, 0, 5)
            }
        };
        // Neither a missing group nor an empty one looks at the member id.
        let named = CommitMember { id: "x", generation: -1 };
        for _ in 0..2 {
            assert_eq!(commit(&mut b, named), Ok(()));
        }
        let with_generation = CommitMember { id: "x", generation: 0 };
        assert_eq!(commit(&mut b, with_generation), Err(ErrorCode::UNKNOWN_MEMBER_ID));
        join_alone(&mut b);
        assert_eq!(commit(&mut b, named), Err(ErrorCode::UNKNOWN_MEMBER_ID));
        let expected = if is_transactional { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) };
        assert_eq!(commit(&mut b, NO_MEMBER), expected);
    }
}

/// Brokers before 3.6 do not verify transactions. The epochs in the log are their only check.
#[test]
fn offsets_of_an_older_epoch_are_rejected_without_verification() {
    let mut config = BrokerConfig::default();
    (config.transaction_version, config.verifies_transactions) = (1, false);
    let mut b = BrokerFixture::open(config);
    let old = b.init().unwrap();
    add_offsets(&mut b, old).unwrap();
    assert_eq!(commit_in_transaction(&mut b, old, NO_MEMBER, 3), Ok(()));
    assert_eq!(b.init(), Err(ErrorCode::CONCURRENT_TRANSACTIONS), "the abort comes first");
    let late = Err(ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(commit_in_transaction(&mut b, old, NO_MEMBER, 3), late, "after the marker");
    let new = b.init().unwrap();
    add_offsets(&mut b, new).unwrap();
    assert_eq!(commit_in_transaction(&mut b, new, NO_MEMBER, 3), Ok(()));
    assert_eq!(commit_in_transaction(&mut b, old, NO_MEMBER, 3), late, "in the next transaction");
    b.end(new, true).unwrap();
    assert_eq!(fetch(&mut b, true), Ok(7));
}

// KIP-447.
#[test]
fn txn_offset_commit_of_a_former_member_is_rejected() {
    let mut b = BrokerFixture::new(1, 2);
    let id = join_alone(&mut b);
    let p = b.init().unwrap();
    let member = |generation| CommitMember { id: &id, generation };
    assert_eq!(commit_in_transaction(&mut b, p, member(1), 5), Ok(()));
    let illegal = Err(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(commit_in_transaction(&mut b, p, member(0), 5), illegal);
    let other = CommitMember { id: "x", generation: 1 };
    let unknown = Err(ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(commit_in_transaction(&mut b, p, other, 5), unknown);
}

#[test]
fn join_waits_in_the_core_and_a_stopped_node_drops_it() {
    let mut b = BrokerFixture::new(2, 2);
    let id = join_alone(&mut b);
    let node = group_coordinator(&mut b);
    let second = b.send(node, &join_request(""), 5).member_id;
    let HandleResult::Delayed { id: request, .. } = b.send_request(node, &join_request(&second), 5)
    else {
        panic!("the first member has not joined again")
    };
    let now = b.now();
    assert_eq!(b.core.try_complete(request, now), None);
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: id.clone(),
        ..Default::default()
    };
    let code = b.send(node, &heartbeat, 3).error_code;
    assert_eq!(ErrorCode(code), ErrorCode::REBALANCE_IN_PROGRESS);
    let first = b.send(node, &join_request(&id), 5);
    assert_eq!((first.generation_id, first.members.len()), (2, 2));
    let Some(HandleResult::SendResponse(frame)) = b.core.try_complete(request, now) else {
        panic!("every member has joined")
    };
    let joined = decode_response::<JoinGroupRequest>(&Bytes::from(frame).slice(4..), 5).unwrap();
    assert_eq!((joined.generation_id, joined.leader), (2, id.clone()));

    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 2,
        member_id: id.clone(),
        ..Default::default()
    };
    assert_eq!(b.send(node, &sync, 3).error_code, 0);
    let HandleResult::Delayed { id: request, .. } = b.send_request(node, &join_request(&id), 5)
    else {
        panic!("the second member has not joined again")
    };
    b.core.stop_node(node, now);
    assert!(matches!(b.core.try_complete(request, now), Some(HandleResult::CloseConnection(_))));
    b.advance(30_000);
    let other = group_coordinator(&mut b);
    assert_ne!(other, node);
    let code = b.send(other, &heartbeat, 3).error_code;
    assert_eq!(ErrorCode(code), ErrorCode::UNKNOWN_MEMBER_ID, "both sessions have timed out");
}

#[test]
fn moved_coordinator_ends_waits_and_keeps_the_members() {
    let mut b = BrokerFixture::new(2, 2);
    let first = join_alone(&mut b);
    let node = group_coordinator(&mut b);
    let second = b.send(node, &join_request(""), 5).member_id;
    let HandleResult::Delayed { id: request, .. } = b.send_request(node, &join_request(&second), 5)
    else {
        panic!("the first member has not joined again")
    };
    b.advance(9_000);
    let (now, other) = (b.now(), node % 2 + 1);
    assert!(b.core.move_coordinator(CoordinatorType::Group, "g", other, now));
    let Some(HandleResult::SendResponse(frame)) = b.core.try_complete(request, now) else {
        panic!("the old coordinator does not know the group any more")
    };
    let joined = decode_response::<JoinGroupRequest>(&Bytes::from(frame).slice(4..), 5).unwrap();
    assert_eq!(ErrorCode(joined.error_code), ErrorCode::NOT_COORDINATOR);
    // The session of the first member was renewed.
    b.advance(9_000);
    let HandleResult::Delayed { id: request, .. } = b.send_request(other, &join_request(&first), 5)
    else {
        panic!("the second member has not joined at the new coordinator")
    };
    assert_eq!(b.send(other, &join_request(&second), 5).generation_id, 2);
    let now = b.now();
    assert!(matches!(b.core.try_complete(request, now), Some(HandleResult::SendResponse(_))));
}

#[test]
fn requests_to_another_node_or_outside_of_the_rules_are_rejected() {
    let mut b = BrokerFixture::new(2, 2);
    let node = group_coordinator(&mut b);
    let other = node % 2 + 1;
    let not_coordinator = ErrorCode::NOT_COORDINATOR.0;
    assert_eq!(b.send(other, &join_request(""), 5).error_code, not_coordinator);
    let leave = LeaveGroupRequest { group_id: "g".into(), ..Default::default() };
    assert_eq!(b.send(other, &leave, 4).error_code, not_coordinator);
    assert_eq!(b.send(node, &leave, 2).error_code, ErrorCode::UNKNOWN_MEMBER_ID.0);
    for version in [0, 7] {
        let short = JoinGroupRequest { session_timeout_ms: 5_999, ..join_request("") };
        let code = b.send(node, &short, version).error_code;
        assert_eq!(ErrorCode(code), ErrorCode::INVALID_SESSION_TIMEOUT);
    }
    let unnamed = JoinGroupRequest { group_id: String::new(), ..join_request("") };
    assert_eq!(b.send(node, &unnamed, 5).error_code, ErrorCode::INVALID_GROUP_ID.0);
}

#[test]
fn groups_are_listed_and_described() {
    let mut b = BrokerFixture::new(1, 2);
    let id = join_alone(&mut b);
    let listed = b.send(1, &ListGroupsRequest::default(), 5).groups;
    assert_eq!(
        (listed.len(), &*listed[0].group_state, &*listed[0].group_type),
        (1, "Stable", "classic")
    );
    let empty = ListGroupsRequest { states_filter: vec!["Empty".into()], ..Default::default() };
    assert_eq!(b.send(1, &empty, 5).groups, []);
    let request =
        DescribeGroupsRequest { groups: vec!["g".into(), "none".into()], ..Default::default() };
    let described = b.send(1, &request, 6).groups;
    assert_eq!((&*described[0].protocol_data, &described[0].members[0].member_id), ("range", &id));
    assert_eq!(ErrorCode(described[1].error_code), ErrorCode::GROUP_ID_NOT_FOUND);
    assert_eq!(b.send(1, &request, 5).groups[1].group_state, "Dead");
}

#[test]
fn last_offset_counts_if_a_request_names_a_partition_twice() {
    let mut b = BrokerFixture::new(1, 2);
    let offset = |partition_index, committed_offset| OffsetCommitRequestPartition {
        partition_index,
        committed_offset,
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![offset(0, 5), offset(9, 6), offset(0, 7)],
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let partitions = b.send(1, &request, 8).topics[0].partitions.clone();
    let codes = partitions.iter().map(|p| (p.partition_index, ErrorCode(p.error_code)));
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let expected = [(0, ErrorCode::NONE), (9, unknown), (0, ErrorCode::NONE)];
    assert_eq!(codes.collect::<Vec<_>>(), expected);
    assert_eq!(fetch(&mut b, false), Ok(7));
}
