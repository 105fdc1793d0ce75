//! What a transactional producer shows: metrics, events, health and snapshots, in virtual time.

use std::time::Duration;

use ottla::{
    ConsumerGroupMetadata, ErrorKind, MetricValue, OffsetAndMetadata, Transaction, TransactionState,
};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::{ApiKey, ErrorCode};

use crate::event_tests::{EventRecorder, assert_documented, count};
use crate::producer_fixture::ProducerFixture;
use crate::request_faults::RequestFault;
use crate::transaction_fixture::{VERSIONS, initialized, initialized_with, uninitialized};

const LOADING: RequestFault = RequestFault::Respond(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);

impl ProducerFixture {
    fn send_one_offset(&mut self, transaction: &Transaction) {
        let offsets = [OffsetAndMetadata::new("t", 0, 7)];
        let group = ConsumerGroupMetadata::new("g");
        self.block_on(transaction.send_offsets_async(&offsets, &group)).unwrap();
    }

    /// Runs `f` and returns how long it took, in ns.
    fn elapsed_ns(&mut self, f: impl FnOnce(&mut ProducerFixture)) -> u128 {
        let start = self.machine.now();
        f(self);
        self.machine.now().since(start).as_nanos()
    }

    fn producer_metric(&self, name: &str) -> f64 {
        let metrics = self.producer.metrics();
        let metric = metrics.iter().find(|m| m.group == "producer-metrics" && m.name == name);
        match metric.unwrap_or_else(|| panic!("no metric {name}")).value {
            MetricValue::Number(n) => n,
            ref text => panic!("{name} is {text}"),
        }
    }

    /// Returns the state, and the error that the snapshot has.
    fn transaction_state(&mut self) -> (TransactionState, Option<String>) {
        let transaction = self.snapshot().transaction.unwrap();
        (transaction.state, transaction.error)
    }
}

#[test]
fn metrics_count_the_time_of_each_transactional_call() {
    for version in VERSIONS {
        let mut fixture = uninitialized(version, &[]);
        // Each call waits for the backoff after one refused request.
        fixture.plan(ApiKey::INIT_PRODUCER_ID, LOADING);
        let init = fixture.elapsed_ns(|f| f.init().unwrap());
        let mut transaction = fixture.begin();
        fixture.send(0, "a");
        fixture.plan(ApiKey::TXN_OFFSET_COMMIT, LOADING);
        let send_offsets = fixture.elapsed_ns(|f| f.send_one_offset(&transaction));
        fixture.plan(ApiKey::END_TXN, LOADING);
        let commit = fixture.elapsed_ns(|f| f.commit(&mut transaction).unwrap());
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "b");
        fixture.plan(ApiKey::END_TXN, LOADING);
        let abort = fixture.elapsed_ns(|f| f.abort_transaction(&mut transaction).unwrap());
        let transaction = fixture.begin();
        fixture.send_and_wait(0, "c");
        fixture.plan(ApiKey::END_TXN, LOADING);
        drop(transaction);
        // It waits for the abort of the dropped transaction.
        let begin = fixture.elapsed_ns(|f| drop(f.begin()));
        let expected = [
            ("txn-init-time-ns-total", init),
            ("txn-begin-time-ns-total", begin),
            ("txn-send-offsets-time-ns-total", send_offsets),
            ("txn-commit-time-ns-total", commit),
            ("txn-abort-time-ns-total", abort),
        ];
        for (name, elapsed) in expected {
            assert!(elapsed > 0, "{name} V{version}");
            assert_eq!(fixture.producer_metric(name), elapsed as f64, "{name} V{version}");
        }
    }
}

#[test]
fn failed_transaction_and_fenced_producer_are_events() {
    let events = EventRecorder::record(|| {
        let mut fixture = initialized(1);
        fixture.run_for_ms(1_500);
        let mut transaction = fixture.begin();
        fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::INVALID_RECORD))]);
        let delivery = fixture.send(0, "a");
        assert!(fixture.wait_for(&delivery).is_err());
        fixture.abort_transaction(&mut transaction).unwrap();
        let mut transaction = fixture.begin();
        fixture.send(0, "b");
        fixture.plan(ApiKey::END_TXN, RequestFault::Respond(ErrorCode::PRODUCER_FENCED));
        assert_eq!(fixture.commit(&mut transaction).unwrap_err().kind(), ErrorKind::Fenced);
    });
    let names =
        ["ottla.producer_id", "ottla.transaction", "ottla.transaction_failed", "ottla.fatal"];
    assert_documented(&events, &names);
    for once in ["ottla.transaction_failed", "ottla.fatal"] {
        assert_eq!(count(&events, once), 1, "{once}");
    }
    let fields = |name: &str, field: &str| {
        let events = events.iter().filter(|e| e.name == name);
        events.map(|e| e.fields[field].clone()).collect::<Vec<_>>()
    };
    assert_eq!(fields("ottla.producer_id", "epoch"), ["0", "1"], "the abort bumps the epoch");
    let states = [
        "Initializing",
        "Ready",
        "InTransaction",
        "AbortableError",
        "Aborting",
        "Initializing",
        "Ready",
        "InTransaction",
        "Committing",
    ];
    assert_eq!(fields("ottla.transaction", "to"), states);
    assert_eq!(fields("ottla.transaction", "from")[..2], ["Uninitialized", "Initializing"]);
    assert_eq!(fields("ottla.transaction_failed", "transactional_id"), ["\"t-1\""]);
}

#[test]
fn health_and_snapshot_have_the_error_of_a_failed_transaction_until_its_abort() {
    for version in VERSIONS {
        let mut fixture = initialized(version);
        let mut transaction = fixture.begin();
        assert_eq!(fixture.transaction_state(), (TransactionState::InTransaction, None));
        fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::INVALID_RECORD))]);
        let delivery = fixture.send(0, "a");
        assert!(fixture.wait_for(&delivery).is_err());
        let error = fixture.producer.health().transaction_error.unwrap();
        assert!(error.contains("INVALID_RECORD"), "{error}");
        let (state, in_snapshot) = fixture.transaction_state();
        assert_eq!((state, in_snapshot), (TransactionState::AbortableError, Some(error)));
        fixture.abort_transaction(&mut transaction).unwrap();
        assert_eq!(fixture.producer.health().transaction_error, None);
        let snapshot = fixture.snapshot().transaction.unwrap();
        assert_eq!((snapshot.state, snapshot.error), (TransactionState::Ready, None));
        assert_eq!((snapshot.transactional_id.as_str(), snapshot.coordinator), ("t-1", Some(1)));
        assert_eq!(snapshot.producer_epoch, Some(1), "the abort bumps the epoch");
        assert_eq!(fixture.producer.health().fatal_error, None);
    }
}

#[test]
fn health_and_snapshot_have_the_error_of_a_fenced_producer() {
    let mut fixture = initialized(2);
    let mut transaction = fixture.begin();
    fixture.send(0, "a");
    fixture.plan(ApiKey::END_TXN, RequestFault::Respond(ErrorCode::PRODUCER_FENCED));
    let e = fixture.commit(&mut transaction).unwrap_err();
    let health = fixture.producer.health();
    assert_eq!(health.fatal_error.as_deref(), Some(&*e.to_string()));
    assert_eq!((health.transaction_error, health.coordinator_error), (None, None));
    let (state, error) = fixture.transaction_state();
    assert_eq!((state, error), (TransactionState::FatalError, Some(e.to_string())));
    fixture.close(Duration::from_secs(1));
    assert!(fixture.producer.health().fatal_error.is_some(), "also after the close");
}

#[test]
fn call_that_waits_for_a_coordinator_is_explained() {
    for version in VERSIONS {
        let settings = [("max.block.ms", "5000"), ("retry.backoff.ms", "100")];
        let mut fixture = initialized_with(version, &settings);
        let mut transaction = fixture.begin();
        fixture.send_and_wait(0, "a");
        assert_eq!(fixture.producer.health().coordinator_error, None);
        (0..80).for_each(|_| fixture.plan(ApiKey::END_TXN, LOADING));
        let events = EventRecorder::record(|| {
            let e = fixture.commit(&mut transaction).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::TransactionTimeout);
            let reason = "EndTxn is sent again: COORDINATOR_LOAD_IN_PROGRESS at broker 1";
            assert!(e.to_string().contains(reason), "{e}");
            let health = fixture.producer.health().coordinator_error.unwrap();
            assert!(health.starts_with(reason), "{health}");
            let snapshot = fixture.snapshot().transaction.unwrap();
            assert_eq!(snapshot.state, TransactionState::Committing);
            assert_eq!(snapshot.coordinator_error, Some(health));
        });
        assert_documented(&events, &["ottla.transaction_stalled"]);
        assert_eq!(count(&events, "ottla.transaction_stalled"), 1, "after 3 s, not each time");
        fixture.commit(&mut transaction).unwrap();
        assert_eq!(fixture.producer.health().coordinator_error, None);
        assert_eq!(fixture.committed_values(), ["a"]);
    }
}

/// A Produce request that comes before the markers of the last transaction waits for 20 ms.
#[test]
fn transactions_that_follow_at_once_learn_to_wait_for_the_markers_of_the_last_one() {
    let mut fixture = initialized(2);
    fixture.cluster.core.set_txn_marker_delay(|_: &str, _| 4);
    let values: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let mut run = |values: &[String]| {
        fixture.elapsed_ns(|f| values.iter().for_each(|value| f.commit_one(value))) / 1_000_000
    };
    let (first_ms, later_ms) = (run(&values[..20]), run(&values[20..]));
    assert!(later_ms < 20 * 8 && later_ms < first_ms, "{first_ms} ms, then {later_ms} ms");
    fixture.run_for_ms(10);
    assert_eq!(fixture.committed_values(), values);
}

/// The coordinator writes the markers of the last transaction for some milliseconds, and refuses
/// the first request of the next one with CONCURRENT_TRANSACTIONS.
// CASES: TM4.
#[test]
fn offsets_of_the_next_transaction_wait_only_for_the_markers_of_the_last_one() {
    for version in VERSIONS {
        let mut fixture = initialized_with(version, &[("retry.backoff.ms", "1000")]);
        fixture.cluster.core.set_txn_marker_delay(|_: &str, _| 15);
        fixture.commit_one("a");
        for _ in 0..5 {
            let mut transaction = fixture.begin();
            let waited = fixture.elapsed_ns(|f| f.send_one_offset(&transaction));
            assert!(waited < 200_000_000, "V{version}: {waited} ns");
            fixture.commit(&mut transaction).unwrap();
        }
    }
}
