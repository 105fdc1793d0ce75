//! Transactions and sequences, tested with the whole producer: cases of the offsets of a consumer
//! group, of errors for single partitions, and of epochs.
//!
//! Virtual time moves step by step. CASES name the behaviours in docs/CASES.md.

use ottla::{
    ConsumerGroupMetadata, Error, ErrorKind, OffsetAndMetadata, RecordStatus, Transaction,
};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::{ApiKey, ErrorCode};

use crate::producer_fixture::ProducerFixture;
use crate::request_faults::RequestFault;
use crate::sim_cluster::{broker_now, node_address};
use crate::transaction_fixture::{
    FAULTS_BEFORE_A_LOOKUP, VERSIONS, initialized, initialized_with, source_of, uninitialized,
};
use crate::transactions::committed_offsets;

const LOADING: ErrorCode = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;

impl ProducerFixture {
    /// Sends the offset 7 of partitions 0 and 1 of `t`.
    fn send_offsets(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let offsets = [OffsetAndMetadata::new("t", 0, 7), OffsetAndMetadata::new("t", 1, 7)];
        let group = ConsumerGroupMetadata::new("g");
        self.block_on(transaction.send_offsets_async(&offsets, &group))
    }

    /// Returns the offsets that the group has committed for partitions 0 and 1 of `t`.
    fn committed_offsets(&mut self) -> [i64; 2] {
        let time = broker_now(&self.machine);
        let committed = committed_offsets(&mut self.cluster.core, "g", "t", &[0, 1], time);
        [committed[0].1, committed[1].1]
    }
}

// CASES: TM10, F4.21.
#[test]
fn offsets_are_committed_with_their_transaction() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        fixture.take_arrived();
        let mut transaction = fixture.begin();
        fixture.send_offsets(&transaction).unwrap();
        let requests: &[ApiKey] = if version == 1 {
            &[ApiKey::ADD_OFFSETS_TO_TXN, ApiKey::FIND_COORDINATOR, ApiKey::TXN_OFFSET_COMMIT]
        } else {
            &[ApiKey::FIND_COORDINATOR, ApiKey::TXN_OFFSET_COMMIT]
        };
        assert_eq!(fixture.take_arrived(), requests);
        assert_eq!(fixture.committed_offsets(), [-1, -1]);
        fixture.commit(&mut transaction).unwrap();
        assert_eq!(fixture.committed_offsets(), [7, 7]);
    }
}

// CASES: TM10.
#[test]
fn only_offsets_with_a_retriable_error_are_sent_again() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        // The broker never sees the offset of partition 1: the first response says that it has it.
        let others = ErrorCode::NONE;
        let fault = RequestFault::RespondByPartition { partition: 0, code: LOADING, others };
        fixture.plan(ApiKey::TXN_OFFSET_COMMIT, fault);
        fixture.send_offsets(&transaction).unwrap();
        fixture.commit(&mut transaction).unwrap();
        assert_eq!(fixture.committed_offsets(), [7, -1]);
    }
}

// CASES: TM11.
#[test]
fn lost_request_for_offsets_is_sent_again_after_find_coordinator() {
    let apis = [
        (1, ApiKey::ADD_OFFSETS_TO_TXN),
        (1, ApiKey::TXN_OFFSET_COMMIT),
        (2, ApiKey::TXN_OFFSET_COMMIT),
    ];
    for (version, api) in apis {
        for fault in FAULTS_BEFORE_A_LOOKUP {
            let mut fixture = initialized(version);
            let mut transaction = fixture.begin();
            fixture.plan(api, fault);
            fixture.send_offsets(&transaction).unwrap();
            fixture.assert_sent_again_after_a_lookup(api, &format!("{version} {fault:?}"));
            fixture.commit(&mut transaction).unwrap();
            assert_eq!(fixture.committed_offsets(), [7, 7], "{version} {fault:?}");
        }
    }
}

// CASES: TM12.
#[test]
fn broker_without_a_version_for_transactions_fails_the_producer() {
    // FindCoordinator 0 finds no coordinators of transactions, InitProducerId 2 bumps no epoch.
    for (api, max_version) in [(ApiKey::FIND_COORDINATOR, 0), (ApiKey::INIT_PRODUCER_ID, 2)] {
        let mut fixture = uninitialized(1, &[]);
        fixture.cluster.max_api_versions.insert(api.0, max_version);
        let e = fixture.init().unwrap_err();
        let code = e.code();
        assert_eq!((e.is_fatal(), code), (true, Some(ErrorCode::UNSUPPORTED_VERSION)), "{e}");
        assert!(e.to_string().contains(api.name()), "{e}");
        let e = fixture.init().unwrap_err();
        assert!(e.is_fatal(), "{e}");
    }
}

// CASES: TM28.
#[test]
fn broker_without_group_metadata_fails_the_producer() {
    let mut fixture = uninitialized(1, &[]);
    fixture.cluster.max_api_versions.insert(ApiKey::TXN_OFFSET_COMMIT.0, 2);
    fixture.init().unwrap();
    let transaction = fixture.begin();
    let e = fixture.send_offsets(&transaction).unwrap_err();
    let code = e.code();
    assert_eq!((e.is_fatal(), code), (true, Some(ErrorCode::UNSUPPORTED_VERSION)), "{e}");
}

// CASES: TM28.
#[test]
fn offsets_of_an_unknown_topic_id_are_sent_again() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        let fault = RequestFault::Respond(ErrorCode::UNKNOWN_TOPIC_ID);
        fixture.plan(ApiKey::TXN_OFFSET_COMMIT, fault);
        fixture.send_offsets(&transaction).unwrap();
        fixture.commit(&mut transaction).unwrap();
        assert_eq!(fixture.committed_offsets(), [7, 7]);
    }
}

// CASES: TM13.
#[test]
fn refused_offsets_fail_the_transaction_or_the_producer() {
    let abortable = [
        ErrorCode::FENCED_INSTANCE_ID,
        ErrorCode::UNKNOWN_MEMBER_ID,
        ErrorCode::ILLEGAL_GENERATION,
        ErrorCode::GROUP_ID_NOT_FOUND,
        ErrorCode::STALE_MEMBER_EPOCH,
        ErrorCode::GROUP_AUTHORIZATION_FAILED,
    ];
    let fatal = [
        ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ErrorCode::INVALID_PRODUCER_EPOCH,
    ];
    for (version, code) in VERSIONS.into_iter().flat_map(|v| abortable.map(|code| (v, code))) {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.plan(ApiKey::TXN_OFFSET_COMMIT, RequestFault::Respond(code));
        let e = fixture.send_offsets(&transaction).unwrap_err();
        assert!(e.requires_abort() && !e.is_fatal(), "{code}: {e}");
        assert!(source_of(&e).contains(&code.to_string()), "{code}: {}", source_of(&e));
        // The offsets are not sent again: nothing is left to wait for.
        fixture.take_arrived();
        fixture.abort_transaction(&mut transaction).unwrap();
        assert!(!fixture.take_arrived().contains(&ApiKey::TXN_OFFSET_COMMIT), "{code}");
        fixture.commit_one("b");
        assert_eq!(fixture.committed_values(), ["b"], "{code}");
        assert_eq!(fixture.committed_offsets(), [-1, -1], "{code}");
    }
    for code in fatal {
        let mut fixture = initialized(2);
        let transaction = fixture.begin();
        fixture.plan(ApiKey::TXN_OFFSET_COMMIT, RequestFault::Respond(code));
        let e = fixture.send_offsets(&transaction).unwrap_err();
        let is_fenced = e.kind() == ErrorKind::Fenced;
        assert_eq!((e.is_fatal(), is_fenced), (true, code == ErrorCode::INVALID_PRODUCER_EPOCH));
    }
}

// CASES: TM15.
#[test]
fn error_of_an_added_partition_names_only_that_partition() {
    let fault = RequestFault::RespondByPartition {
        partition: 1,
        code: ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        others: ErrorCode::OPERATION_NOT_ATTEMPTED,
    };
    for commits in [false, true] {
        let mut fixture = initialized_with(1, &[("linger.ms", "20"), ("batch.size", "1000")]);
        let mut transaction = fixture.begin();
        fixture.plan(ApiKey::ADD_PARTITIONS_TO_TXN, fault);
        let deliveries = [fixture.send(0, "a"), fixture.send(1, "b")];
        let e = if commits {
            fixture.commit(&mut transaction).unwrap_err()
        } else {
            fixture.run_for_ms(100);
            fixture.try_send(0, "c").unwrap_err()
        };
        let source = source_of(&e);
        assert!(e.requires_abort() && source.contains("TOPIC_AUTHORIZATION_FAILED"), "{source}");
        assert!(source.contains("t-1") && !source.contains("t-0"), "{source}");
        fixture.abort_transaction(&mut transaction).unwrap();
        for delivery in deliveries {
            let e = delivery.try_result().unwrap().unwrap_err();
            assert_eq!(e.record_status(), RecordStatus::NotPersisted, "{e}");
        }
        fixture.take_arrived();
        fixture.commit_one("d");
        assert_eq!(fixture.committed_values(), ["d"]);
    }
}

// CASES: TM24.
#[test]
fn last_epoch_of_a_producer_id_is_followed_by_a_new_id() {
    for version in VERSIONS {
        let mut fixture = uninitialized(version, &[]);
        fixture.cluster.core.set_initial_producer_epoch(i16::MAX - 2);
        fixture.init().unwrap();
        for value in ["a", "b", "c"] {
            fixture.commit_one(value);
        }
        assert_eq!(fixture.committed_values(), ["a", "b", "c"]);
        let batches = fixture.read_log(0).headers;
        let data: Vec<_> = batches.iter().filter(|h| h.base_sequence >= 0).collect();
        let ids_and_epochs: Vec<(i64, i16)> =
            data.iter().map(|h| (h.producer_id - data[0].producer_id, h.producer_epoch)).collect();
        let expected = if version == 1 {
            // Version 1 keeps the epoch.
            [(0, i16::MAX - 2), (0, i16::MAX - 2), (0, i16::MAX - 2)]
        } else {
            [(0, i16::MAX - 2), (0, i16::MAX - 1), (1, 0)]
        };
        assert_eq!(ids_and_epochs, expected);
        let restarts = data.iter().filter(|h| h.base_sequence == 0).count();
        assert_eq!(restarts, if version == 1 { 1 } else { 3 }, "an epoch begins at sequence 0");
    }
}

// CASES: SN39.
#[test]
fn second_failed_batch_of_a_transaction_leaves_the_producer_usable() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.send_and_wait(1, "b");
        let fault = Some(FailBeforeAppend(ErrorCode::INVALID_TXN_STATE));
        fixture.push_batch_faults(&[fault, fault]);
        fixture.hold_responses();
        let deliveries = [fixture.send(0, "c"), fixture.send(1, "d")];
        fixture.wait_for_batches(2);
        fixture.release_responses();
        for delivery in deliveries {
            let e = fixture.wait_for(&delivery).unwrap_err();
            assert!(!e.is_fatal(), "{e}");
        }
        fixture.take_arrived();
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert!(e.requires_abort() && source_of(&e).contains("INVALID_TXN_STATE"), "{e}");
        fixture.abort_transaction(&mut transaction).unwrap();
        let requests: &[ApiKey] = if version == 1 {
            &[ApiKey::END_TXN, ApiKey::INIT_PRODUCER_ID]
        } else {
            &[ApiKey::END_TXN]
        };
        assert_eq!(fixture.take_arrived(), requests);
        fixture.commit_one("e");
        assert_eq!(fixture.committed_values(), ["e"]);
    }
}

// CASES: SN39.
#[test]
fn late_error_of_an_expired_batch_does_not_fail_the_producer() {
    for version in VERSIONS {
        let settings = [("delivery.timeout.ms", "1500"), ("request.timeout.ms", "1400")];
        let mut fixture = initialized_with(version, &settings);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        fixture.push_batch_faults(&[
            Some(FailBeforeAppend(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
            Some(FailBeforeAppend(ErrorCode::INVALID_TXN_STATE)),
        ]);
        let delivery = fixture.send(0, "b");
        fixture.wait_for_batches(1);
        fixture.run_for_ms(1);
        fixture.hold_responses();
        let e = fixture.wait_for(&delivery).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::DeliveryTimeout, "{e}");
        fixture.release_responses();
        fixture.run_for_ms(1000);
        let e = fixture.commit(&mut transaction).unwrap_err();
        assert!(e.requires_abort() && !e.is_fatal(), "{e}");
        fixture.abort_transaction(&mut transaction).unwrap();
        fixture.commit_one("c");
        assert_eq!(fixture.committed_values(), ["c"]);
    }
}

// CASES: TM7.
#[test]
fn unknown_producer_id_restarts_the_sequences_under_a_new_epoch() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    // The response has a log start offset, so the broker has forgotten the producer.
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::UNKNOWN_PRODUCER_ID))]);
    let deliveries: Vec<_> = ["b", "c", "d", "e"].iter().map(|v| fixture.send(0, v)).collect();
    for delivery in &deliveries {
        fixture.wait_for(delivery).unwrap();
    }
    assert_eq!(fixture.logged_values(0), ["a", "b", "c", "d", "e"]);
    assert_eq!(fixture.logged_sequences(0), [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]);
}

// CASES: TM8.
#[test]
fn batch_of_the_old_epoch_does_not_disturb_the_new_one() {
    let late_result = [None, Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS))];
    for late_result in late_result {
        let mut fixture = ProducerFixture::new(&[]);
        fixture.send_and_wait(0, "a");
        fixture.send_and_wait(1, "x");
        // The batch of partition 1 is in flight while partition 0 moves to a new epoch.
        fixture.push_batch_faults(&[late_result]);
        let late = fixture.send(1, "y");
        fixture.wait_for_batches(1);
        let fault = Some(FailBeforeAppend(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        fixture.push_batch_faults(&[fault]);
        fixture.send_and_wait(0, "b");
        fixture.wait_for(&late).unwrap();
        fixture.send_and_wait(0, "c");
        fixture.send_and_wait(1, "z");
        assert_eq!(fixture.logged_sequences(0), [(0, 0), (1, 0), (1, 1)]);
        assert_eq!(fixture.logged_sequences(1), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(fixture.logged_values(1), ["x", "y", "z"]);
    }
}

// CASES: TM9.
#[test]
fn batch_after_an_expired_retry_begins_a_new_epoch() {
    let settings = [("delivery.timeout.ms", "1500"), ("request.timeout.ms", "1000")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_LEADER_OR_FOLLOWER))]);
    let expired = fixture.send(0, "b");
    fixture.wait_for_batches(1);
    fixture.run_for_ms(1);
    // The retry is lost with its connection, before the broker has it.
    let link = ottla::sim::Link { up_held: true, ..Default::default() };
    fixture.machine.set_link(node_address(1), link);
    let e = fixture.wait_for(&expired).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DeliveryTimeout, "{e}");
    fixture.drop_connections();
    fixture.release_responses();
    fixture.send_and_wait(0, "c");
    let sequences = fixture.logged_sequences(0);
    assert_eq!(sequences.last(), Some(&(1, 0)), "{sequences:?}");
}

#[test]
fn assigned_producer_id_of_minus_one_fails_a_transactional_producer() {
    let mut fixture = uninitialized(2, &[]);
    fixture.plan(ApiKey::INIT_PRODUCER_ID, RequestFault::Respond(ErrorCode::NONE));
    let e = fixture.init().unwrap_err();
    assert!(e.is_fatal() && e.to_string().contains("producer id -1"), "{e}");
}

#[test]
fn assigned_producer_id_of_minus_one_fails_the_records_that_wait_for_it() {
    let mut fixture = ProducerFixture::new(&[("retry.backoff.max.ms", "1000")]);
    // The first response comes before there is a record, the second one after it.
    for _ in 0..2 {
        fixture.plan(ApiKey::INIT_PRODUCER_ID, RequestFault::Respond(ErrorCode::NONE));
    }
    let delivery = fixture.send(0, "a");
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert!(!e.is_fatal() && e.to_string().contains("producer id -1"), "{e}");
    assert_eq!(e.record_status(), RecordStatus::NotPersisted);
    // The next response has an id.
    fixture.send_and_wait(0, "b");
    assert_eq!(fixture.logged_values(0), ["b"]);
    assert!(fixture.read_log(0).headers[0].producer_id >= 0);
}
