//! Tests of transactions through the core: the coordinator, markers and `read_committed`.
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use ottla_broker::{
    BrokerConfig, ConsumerRecord, CoordinatorType, MoveLeaderOptions, TransactionStatus,
};
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;
use ottla_protocol::record::attributes;
use support::*;

const V1: i16 = 1;
const V2: i16 = 2;
/// The Produce versions of clients with transactions V1 and V2.
const PRODUCE_V1: i16 = 11;
const PRODUCE_V2: i16 = 12;

const COMMIT: bool = true;
const ABORT: bool = false;

#[test]
fn records_are_read_back_with_the_status_of_their_transaction() {
    let mut b = BrokerFixture::new(1, V2);
    let statuses = |b: &BrokerFixture| {
        let records = b.core.records("t").unwrap();
        let status = |r: &ConsumerRecord| (r.offset, r.transaction, r.is_committed());
        records.iter().map(status).collect::<Vec<_>>()
    };
    let (open, none) = (TransactionStatus::Open, TransactionStatus::None);
    let (committed, aborted) = (TransactionStatus::Committed, TransactionStatus::Aborted);
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    let plain = record_batch(TestProducer { id: -1, epoch: -1 }, -1, "b", 0);
    b.produce_batch(None, 0, plain, PRODUCE_V2).unwrap();
    b.produce(p, 0, 1, "c", PRODUCE_V2).unwrap();
    assert_eq!(statuses(&b), [(0, open, false), (1, none, true), (2, open, false)]);

    let p = b.end_v2(p, COMMIT).unwrap();
    b.produce(p, 0, 0, "d", PRODUCE_V2).unwrap();
    let p = b.end_v2(p, ABORT).unwrap();
    b.produce(p, 0, 0, "e", PRODUCE_V2).unwrap();
    let first = [(0, committed, true), (1, none, true), (2, committed, true)];
    assert_eq!(statuses(&b)[..3], first);
    assert_eq!(statuses(&b)[3..], [(4, aborted, false), (6, open, false)], "3 and 5 are markers");
}

#[test]
fn committed_records_are_visible_to_read_committed_only_after_the_marker() {
    let mut b = BrokerFixture::new(1, V1);
    let p = b.init().unwrap();
    b.add_partition(p, 0).unwrap();
    assert_eq!(b.produce(p, 0, 0, "a", PRODUCE_V1), Ok(0));
    assert_eq!(b.fetch(0, READ_UNCOMMITTED).values, ["a"]);
    let open = b.fetch(0, READ_COMMITTED);
    assert_eq!((open.values.len(), open.last_stable_offset), (0, 0));
    assert_eq!((b.latest_offset(0, READ_COMMITTED), b.latest_offset(0, READ_UNCOMMITTED)), (0, 1));
    assert_eq!(b.end(p, COMMIT), Ok(()));
    let closed = b.fetch(0, READ_COMMITTED);
    assert_eq!(closed.values, ["a"]);
    assert_eq!((closed.last_stable_offset, closed.aborted.len()), (2, 0));
    assert_eq!(b.latest_offset(0, READ_COMMITTED), 2, "the marker takes an offset");
    assert_eq!(b.markers(0), [(0, true)]);
    assert_eq!(b.produce(p, 0, 1, "b", PRODUCE_V1), Err(ErrorCode::TRANSACTION_ABORTABLE));
    b.add_partition(p, 0).unwrap();
    assert_eq!(b.produce(p, 0, 1, "b", PRODUCE_V1), Ok(2), "sequences go on with V1");
}

#[test]
fn aborted_transaction_is_named_to_read_committed_consumers() {
    let mut b = BrokerFixture::new(1, V1);
    let p = b.init().unwrap();
    b.add_partition(p, 0).unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V1).unwrap();
    b.end(p, ABORT).unwrap();
    let fetched = b.fetch(0, READ_COMMITTED);
    assert_eq!((&fetched.aborted[..], fetched.last_stable_offset), (&[p.id][..], 2));
    assert_eq!(b.fetch(0, READ_UNCOMMITTED).aborted, [], "only for read_committed");
    assert_eq!(b.fetch_from(0, 2, READ_COMMITTED).aborted_transactions, Some(vec![]));
    assert_eq!(b.markers(0), [(0, false)]);
}

#[test]
fn v2_adds_partitions_by_produce_and_bumps_the_epoch_with_each_end() {
    let mut b = BrokerFixture::new(1, V2);
    let p = b.init().unwrap();
    assert_eq!(p.epoch, 0);
    assert_eq!(b.produce(p, 0, 0, "a", PRODUCE_V2), Ok(0));
    assert_eq!(b.produce(p, 1, 0, "b", PRODUCE_V2), Ok(0));
    let next = b.end_v2(p, COMMIT).unwrap();
    assert_eq!(next, TestProducer { id: p.id, epoch: 1 });
    assert_eq!((b.markers(0), b.markers(1)), (vec![(1, true)], vec![(1, true)]));
    assert_eq!(b.end_v2(p, COMMIT), Ok(next), "a retry gets the same response");
    assert_eq!(b.end_v2(p, ABORT), Err(ErrorCode::INVALID_TXN_STATE));
    assert_eq!(
        b.produce(p, 0, 1, "late", PRODUCE_V2),
        Err(ErrorCode::INVALID_PRODUCER_EPOCH),
        "a late batch cannot begin a transaction"
    );
    assert_eq!(b.produce(next, 0, 0, "c", PRODUCE_V2), Ok(2), "sequences begin at 0 again");
    assert_eq!(
        b.end_v2(p, COMMIT),
        Err(ErrorCode::PRODUCER_FENCED),
        "the second delivery of an EndTxn does not end the next transaction"
    );
    assert_eq!(b.fetch(0, READ_COMMITTED).values, ["a"]);
    let third = b.end_v2(next, ABORT).unwrap();
    assert_eq!(third.epoch, 2);
    assert_eq!(b.end_v2(third, COMMIT), Err(ErrorCode::INVALID_TXN_STATE), "nothing to commit");
    assert_eq!(b.end_v2(third, ABORT).unwrap().epoch, 3, "an abort of nothing bumps the epoch");
}

#[test]
fn v1_coordinator_ends_the_next_transaction_by_a_late_end_txn() {
    let mut b = BrokerFixture::new(1, V1);
    let p = b.init().unwrap();
    b.add_partition(p, 0).unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V1).unwrap();
    b.end(p, COMMIT).unwrap();
    b.add_partition(p, 0).unwrap();
    b.produce(p, 0, 1, "b", PRODUCE_V1).unwrap();
    b.end(p, COMMIT).unwrap();
    assert_eq!(b.fetch(0, READ_COMMITTED).values, ["a", "b"], "the defect of KAFKA-17754");
}

#[test]
fn second_instance_fences_the_first_and_aborts_its_transaction() {
    for version in [V1, V2] {
        let mut b = BrokerFixture::new(1, version);
        let first = b.init().unwrap();
        b.add_partition(first, 0).unwrap();
        b.produce(first, 0, 0, "a", PRODUCE_V1).unwrap();
        assert_eq!(b.init(), Err(ErrorCode::CONCURRENT_TRANSACTIONS), "the abort comes first");
        assert_eq!(b.markers(0), [(1, false)], "the marker fences the first instance");
        assert_eq!(b.init(), Ok(TestProducer { id: first.id, epoch: 2 }));
        assert_eq!(b.add_partition(first, 0), Err(ErrorCode::PRODUCER_FENCED));
        assert_eq!(b.end(first, COMMIT), Err(ErrorCode::PRODUCER_FENCED));
        assert_eq!(b.end_v2(first, COMMIT), Err(ErrorCode::PRODUCER_FENCED));
        for produce_version in [PRODUCE_V1, PRODUCE_V2] {
            assert_eq!(
                b.produce(first, 0, 1, "b", produce_version),
                Err(ErrorCode::INVALID_PRODUCER_EPOCH)
            );
        }
    }
}

#[test]
fn old_clients_get_invalid_producer_epoch_for_producer_fenced() {
    let mut b = BrokerFixture::new(1, V1);
    let first = b.init().unwrap();
    b.init().unwrap();
    for (version, expected) in
        [(1, ErrorCode::INVALID_PRODUCER_EPOCH), (2, ErrorCode::PRODUCER_FENCED)]
    {
        let added = b.send(1, &add_partitions_request(first, &[0]), version);
        assert_eq!(ErrorCode(added.results[0].results[0].error_code), expected);
        let ended = b.send(1, &end_request(first, COMMIT), version);
        assert_eq!(ErrorCode(ended.error_code), expected);
        let offsets = AddOffsetsToTxnRequest {
            transactional_id: "tx".into(),
            producer_id: first.id,
            producer_epoch: first.epoch,
            group_id: "g".into(),
            ..Default::default()
        };
        assert_eq!(ErrorCode(b.send(1, &offsets, version).error_code), expected);
        let mut init = init_request(1000);
        (init.producer_id, init.producer_epoch) = (first.id, first.epoch + 7);
        let init = b.send(1, &init, version + 2);
        assert_eq!(ErrorCode(init.error_code), expected);
    }
}

#[test]
fn coordinator_aborts_a_transaction_that_times_out() {
    for version in [V1, V2] {
        let mut b = BrokerFixture::new(1, version);
        let p = b.init().unwrap();
        b.add_partition(p, 0).unwrap();
        b.produce(p, 0, 0, "a", PRODUCE_V1).unwrap();
        b.advance(999);
        assert_eq!(b.markers(0), []);
        assert_eq!(b.core.next_deadline(), Some(1000));
        b.advance(1);
        assert_eq!(b.markers(0), [(1, false)]);
        assert_eq!(b.core.next_deadline(), None);
        assert_eq!(b.end(p, COMMIT), Err(ErrorCode::PRODUCER_FENCED));
        assert_eq!(b.end_v2(p, COMMIT), Err(ErrorCode::PRODUCER_FENCED), "KAFKA-20785");
        assert_eq!(b.produce(p, 0, 1, "b", PRODUCE_V1), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
    }
}

#[test]
fn abort_after_the_time_out_succeeds_with_v2() {
    let mut b = BrokerFixture::new(1, V2);
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    b.advance(1000);
    assert_eq!(b.end_v2(p, ABORT), Ok(TestProducer { id: p.id, epoch: 1 }));
}

#[test]
fn late_batch_is_rejected_by_verification_and_hangs_without_it() {
    for (version, expected) in
        [(10, ErrorCode::INVALID_TXN_STATE), (11, ErrorCode::TRANSACTION_ABORTABLE)]
    {
        let mut b = BrokerFixture::new(1, V1);
        let p = b.init().unwrap();
        assert_eq!(b.produce(p, 0, 0, "late", version), Err(expected));
    }
    let mut config = BrokerConfig::default();
    (config.transaction_version, config.verifies_transactions) = (V1, false);
    let mut b = BrokerFixture::open(config);
    let p = b.init().unwrap();
    assert_eq!(b.produce(p, 0, 0, "late", PRODUCE_V1), Ok(0));
    b.advance(60_000);
    assert_eq!(b.fetch(0, READ_COMMITTED).last_stable_offset, 0, "no producer ends it");
    let marker = WritableTxnMarker {
        producer_id: p.id,
        producer_epoch: p.epoch,
        topics: vec![WritableTxnMarkerTopic {
            name: "t".into(),
            partition_indexes: vec![0, 9],
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker], ..Default::default() };
    let written = b.send(1, &request, 1);
    let codes: Vec<i16> =
        written.markers[0].topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0]);
    assert_eq!(b.fetch(0, READ_COMMITTED).last_stable_offset, 2, "kafka-transactions ends it");
}

#[test]
fn transactional_batches_need_an_id_and_must_not_mix_with_others() {
    let mut b = BrokerFixture::new(1, V2);
    let p = b.init().unwrap();
    let transactional = attributes::TRANSACTIONAL_FLAG_MASK;
    assert_eq!(
        b.produce_batch(None, 0, record_batch(p, 0, "a", transactional), PRODUCE_V2),
        Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    );
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    assert_eq!(
        b.produce_batch(None, 0, record_batch(p, 1, "b", 0), PRODUCE_V2),
        Err(ErrorCode::INVALID_TXN_STATE)
    );
    let control = transactional | attributes::CONTROL_FLAG_MASK;
    assert_eq!(
        b.produce_batch(Some("tx"), 0, record_batch(p, 1, "b", control), PRODUCE_V2),
        Err(ErrorCode::INVALID_RECORD),
        "only brokers write markers"
    );
}

#[test]
fn next_transaction_waits_until_the_markers_are_written() {
    for version in [V1, V2] {
        let mut b = BrokerFixture::new(1, version);
        b.core.set_txn_marker_delay(|_: &str, partition| 10 * (partition as u64 + 1));
        let p = b.init().unwrap();
        b.add_partition(p, 0).unwrap();
        b.add_partition(p, 1).unwrap();
        b.produce(p, 0, 0, "a", PRODUCE_V1).unwrap();
        let mut next = p;
        if version == V2 {
            next = b.end_v2(p, COMMIT).unwrap();
        } else {
            b.end(p, COMMIT).unwrap();
        }
        let concurrent = Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        b.advance(10);
        assert_eq!((b.markers(0).len(), b.markers(1).len()), (1, 0), "one step at a time");
        assert_eq!(b.fetch(0, READ_COMMITTED).values, ["a"]);
        assert_eq!(b.init(), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
        assert_eq!(b.add_partition(next, 0), concurrent);
        assert_eq!(b.produce(next, 2, 0, "b", PRODUCE_V2), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
        assert_eq!(b.produce(next, 2, 0, "b", 10), Err(ErrorCode::NOT_ENOUGH_REPLICAS));
        if version == V2 {
            assert_eq!(b.end_v2(p, COMMIT), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
        } else {
            assert_eq!(b.end(p, COMMIT), concurrent);
            assert_eq!(b.end(p, ABORT), Err(ErrorCode::INVALID_TXN_STATE));
        }
        b.advance(10);
        assert_eq!(b.add_partition(next, 0), Ok(()));
    }
}

#[test]
fn producer_resumes_with_its_own_epoch_and_not_with_another() {
    let mut b = BrokerFixture::new(1, V1);
    let p = b.init().unwrap();
    let mut request = init_request(1000);
    (request.producer_id, request.producer_epoch) = (p.id, p.epoch);
    let bumped = TestProducer { id: p.id, epoch: 1 };
    assert_eq!(b.init_request(&request), Ok(bumped));
    assert_eq!(b.init_request(&request), Ok(bumped), "a retry gets the same response");
    request.producer_epoch = 7;
    assert_eq!(b.init_request(&request), Err(ErrorCode::PRODUCER_FENCED));
    (request.producer_id, request.producer_epoch) = (p.id + 1000, 1);
    assert_eq!(b.init_request(&request), Err(ErrorCode::PRODUCER_FENCED));
    request.producer_epoch = -1;
    assert_eq!(b.init_request(&request), Err(ErrorCode::INVALID_REQUEST));
    b.init().unwrap();
    (request.producer_id, request.producer_epoch) = (p.id, bumped.epoch);
    assert_eq!(
        b.init_request(&request),
        Err(ErrorCode::PRODUCER_FENCED),
        "another instance has taken over"
    );
}

#[test]
fn exhausted_epochs_lead_to_a_new_producer_id() {
    let last_epoch = i16::MAX - 1;
    let mut b = BrokerFixture::new(1, V1);
    b.core.set_initial_producer_epoch(last_epoch);
    let p = b.init().unwrap();
    assert_eq!(p.epoch, last_epoch);
    let mut resume = init_request(1000);
    (resume.producer_id, resume.producer_epoch) = (p.id, p.epoch);
    let rotated = b.init_request(&resume).unwrap();
    assert!(rotated.id != p.id && rotated.epoch == 0);
    assert_eq!(b.init_request(&resume), Ok(rotated), "a retry gets the same response");

    let mut b = BrokerFixture::new(1, V2);
    b.core.set_initial_producer_epoch(last_epoch);
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    let next = b.end_v2(p, COMMIT).unwrap();
    assert!(next.id != p.id && next.epoch == 0);
    assert_eq!(b.markers(0), [(i16::MAX, true)]);
    assert_eq!(b.end_v2(p, COMMIT), Ok(next), "a retry gets the same response");
    assert_eq!(b.produce(next, 0, 0, "b", PRODUCE_V2), Ok(2));
}

#[test]
fn requests_outside_of_the_rules_are_rejected() {
    let mut b = BrokerFixture::new(1, V2);
    for timeout_ms in [0, -1, 900_001] {
        let invalid = Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
        assert_eq!(b.init_request(&init_request(timeout_ms)), invalid);
    }
    let empty =
        InitProducerIdRequest { transactional_id: Some(String::new()), ..init_request(1000) };
    assert_eq!(b.init_request(&empty), Err(ErrorCode::INVALID_REQUEST));
    let stranger = TestProducer { id: 5, epoch: 0 };
    let no_mapping = ErrorCode::INVALID_PRODUCER_ID_MAPPING;
    assert_eq!(b.add_partition(stranger, 0), Err(no_mapping));
    assert_eq!(b.end(stranger, COMMIT), Err(no_mapping));
    assert_eq!(b.produce(stranger, 0, 0, "a", PRODUCE_V2), Err(no_mapping));
    let p = b.init().unwrap();
    let other = TestProducer { id: p.id + 1, ..p };
    assert_eq!(b.add_partition(other, 0), Err(no_mapping));
    assert_eq!(b.end(other, COMMIT), Err(no_mapping));
    assert_eq!(b.end_v2(other, COMMIT), Err(no_mapping));
    assert_eq!(b.end(p, COMMIT), Err(ErrorCode::INVALID_TXN_STATE));
    let r = b.send(1, &add_partitions_request(p, &[0, 9]), 3);
    let codes: Vec<i16> = r.results[0].results.iter().map(|r| r.error_code).collect();
    let not_attempted = ErrorCode::OPERATION_NOT_ATTEMPTED.0;
    assert_eq!(codes, [not_attempted, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0]);
}

#[test]
fn brokers_verify_partitions_in_batches() {
    let mut b = BrokerFixture::new(1, V2);
    let p = b.init().unwrap();
    b.add_partition(p, 0).unwrap();
    let transaction = |verify_only, partition| AddPartitionsToTxnTransaction {
        transactional_id: "tx".into(),
        producer_id: p.id,
        producer_epoch: p.epoch,
        verify_only,
        topics: add_partitions_request(p, &[partition]).topics,
        ..Default::default()
    };
    let mut send = |transactions, version| {
        let request = AddPartitionsToTxnRequest { transactions, ..Default::default() };
        let r = b.send(1, &request, version);
        let codes = r
            .results_by_transaction
            .iter()
            .map(|r| ErrorCode(r.topic_results[0].results[0].error_code));
        codes.collect::<Vec<_>>()
    };
    let both = vec![transaction(true, 0), transaction(true, 1)];
    assert_eq!(send(both.clone(), 5), [ErrorCode::NONE, ErrorCode::TRANSACTION_ABORTABLE]);
    assert_eq!(send(both, 4), [ErrorCode::NONE, ErrorCode::INVALID_TXN_STATE]);
    let add = vec![transaction(false, 1), transaction(true, 1)];
    assert_eq!(send(add, 4), [ErrorCode::NONE, ErrorCode::NONE]);
}

#[test]
fn coordinator_moves_when_its_node_stops_and_ends_the_transaction() {
    let mut b = BrokerFixture::new(3, V1);
    let p = b.init().unwrap();
    b.add_partition(p, 0).unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V1).unwrap();
    b.core.set_txn_marker_delay(|_: &str, _| 50);
    let old = b.coordinator();
    b.end(p, COMMIT).unwrap();
    let now = b.now();
    b.core.set_coordinator_load_time(5);
    b.core.stop_node(old, now);
    let new = b.coordinator();
    assert_ne!(new, old);
    assert_eq!(b.end(p, COMMIT), Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS));
    b.advance(60);
    assert_eq!(b.markers(0), [(0, true)], "the new coordinator writes the marker");
    assert_eq!(b.end(p, COMMIT), Ok(()));
    let other = (1..=3).find(|n| *n != old && *n != new).unwrap();
    let ended = b.send(other, &end_request(p, COMMIT), 4);
    assert_eq!(ErrorCode(ended.error_code), ErrorCode::NOT_COORDINATOR);
    let now = b.now();
    assert!(b.core.move_coordinator(CoordinatorType::Transaction, "tx", other, now));
    assert_eq!(b.coordinator(), other);
}

#[test]
fn cleared_delay_of_markers_holds_for_the_next_transaction() {
    let mut b = BrokerFixture::new(1, V2);
    b.core.set_txn_marker_delay(|_: &str, _| 50);
    b.core.clear_txn_marker_delay();
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    b.end_v2(p, COMMIT).unwrap();
    assert_eq!(b.markers(0), [(1, true)], "without a delay, before the response");
}

#[test]
fn marker_that_is_lost_with_its_leader_is_written_again() {
    let mut b = BrokerFixture::new(3, V2);
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    b.core.set_fetch_delay(|_| 50);
    let next = b.end_v2(p, COMMIT).unwrap();
    assert_eq!(b.fetch(0, READ_COMMITTED).last_stable_offset, 0, "the marker is not replicated");
    assert_eq!(b.add_partition(next, 0), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
    let leader = b.core.describe_partition("t", 0).unwrap().leader;
    let without_copy = MoveLeaderOptions::default();
    let now = b.now();
    assert!(b.core.move_leader("t", 0, leader % 3 + 1, without_copy, now));
    assert_eq!(b.markers(0), [(1, true)]);
    b.advance(50);
    assert_eq!(b.fetch(0, READ_COMMITTED).values, ["a"]);
    assert_eq!(b.add_partition(next, 0), Ok(()));
}

#[test]
fn marker_waits_for_a_leader() {
    let mut b = BrokerFixture::new(2, V2);
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", PRODUCE_V2).unwrap();
    let coordinator = b.coordinator();
    let leader = b.core.describe_partition("t", 0).unwrap().leader;
    let now = b.now();
    if coordinator == leader {
        let to = leader % 2 + 1;
        assert!(b.core.move_coordinator(CoordinatorType::Transaction, "tx", to, now));
    }
    b.core.set_replica_lag_time_max(1);
    b.core.set_replication_paused(leader % 2 + 1, true, now);
    b.produce(p, 0, 1, "b", PRODUCE_V2).unwrap();
    b.advance(1);
    let now = b.now();
    b.core.stop_node(leader, now);
    assert_eq!(b.core.describe_partition("t", 0).unwrap().leader, -1);
    let next = b.end_v2(p, COMMIT).unwrap();
    b.advance(500);
    assert_eq!(b.add_partition(next, 0), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
    let now = b.now();
    b.core.start_node(leader, now);
    b.advance(20);
    assert_eq!(b.fetch(0, READ_COMMITTED).values, ["a", "b"]);
}

#[test]
fn finalized_transaction_version_is_advertised_and_can_change() {
    let mut b = BrokerFixture::new(1, V2);
    let features = |b: &mut BrokerFixture| {
        let r = b.send(1, &ApiVersionsRequest::default(), 4);
        let levels = r.finalized_features.iter().map(|f| (f.name.clone(), f.max_version_level));
        (levels.collect::<Vec<_>>(), r.finalized_features_epoch)
    };
    assert_eq!(features(&mut b), (vec![("transaction.version".to_owned(), 2)], 1));
    b.core.set_transaction_version(0);
    assert_eq!(features(&mut b), (vec![], 2));
    let mut config = BrokerConfig::default();
    config.transaction_version = 3;
    let e = ottla_broker::Core::new(config, clock_at(0)).unwrap_err().to_string();
    assert!(e.contains("not 3"), "{e}");
}
