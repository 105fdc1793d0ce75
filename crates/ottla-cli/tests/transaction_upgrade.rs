//! Upgrades a real node from Kafka 3.9 to 4.4, and then the feature `transaction.version` from 1
//! to 2, while a producer commits and aborts transactions.
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod request_trace;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Error, ErrorKind, Producer, Record};
use ottla_testkit::{Jars, LegacyKafka, print_line};
use request_trace::take_request_versions;

const FEATURE_COMMAND: &str = "org.apache.kafka.tools.FeatureCommand";
const PROGRESS_TIME: Duration = Duration::from_secs(120);

/// Ends the sending thread also when the test panics: the scope waits for it.
struct StopGuard<'a>(&'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends transactions of three records until `stop` is set, and aborts every fourth one. Returns
/// the values and offsets that were committed.
fn send_transactions(
    producer: &Producer,
    ended: &AtomicU64,
    stop: &AtomicBool,
) -> BTreeSet<(i64, Vec<u8>)> {
    let mut committed = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let number = ended.load(Ordering::Relaxed);
        let mut transaction = repeat_after_timeout(|| producer.begin_transaction()).unwrap();
        let values: Vec<String> = (0..3).map(|n| format!("{number} {n}")).collect();
        let deliveries: Vec<_> = (values.iter())
            .map(|value| producer.send(Record::to("txn").partition(0).value(value)).unwrap())
            .collect();
        if number % 4 == 3 {
            repeat_after_timeout(|| transaction.abort()).unwrap();
        } else {
            repeat_after_timeout(|| transaction.commit()).unwrap();
            for (value, delivery) in values.into_iter().zip(deliveries) {
                let offset = delivery.wait().unwrap().offset().unwrap();
                committed.insert((offset, value.into_bytes()));
            }
        }
        ended.fetch_add(1, Ordering::Relaxed);
    }
    committed
}

/// Repeats a call that timed out: it continues in the background.
fn repeat_after_timeout<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + PROGRESS_TIME;
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::TransactionTimeout => {
                assert!(Instant::now() < deadline, "no progress: {e}");
            }
            result => return result,
        }
    }
}

/// Waits until ten more transactions have ended.
fn wait_for_progress(ended: &AtomicU64) {
    let (start, deadline) = (ended.load(Ordering::Relaxed), Instant::now() + PROGRESS_TIME);
    while ended.load(Ordering::Relaxed) < start + 10 {
        assert!(Instant::now() < deadline, "no progress after {start} transactions");
        thread::sleep(Duration::from_millis(20));
    }
}

// CASES: TM25, F4.20.
#[test]
fn transactions_continue_while_the_brokers_and_transaction_version_are_upgraded() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    request_trace::start();
    let mut kafka = LegacyKafka::start(&jars, "3.9.1");
    let server = ["--bootstrap-server", &kafka.bootstrap.clone()];
    let create = [&server[..], &["--create", "--topic", "txn", "--partitions", "1"]].concat();
    jars.run_tool("org.apache.kafka.tools.TopicCommand", &create);
    let producer = Producer::builder()
        .bootstrap_servers(&kafka.bootstrap)
        .transactional_id("upgrade")
        .set("request.timeout.ms", "5000")
        .build()
        .unwrap();
    repeat_after_timeout(|| producer.init_transactions()).unwrap();
    let (ended, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let committed = thread::scope(|scope| {
        let sender = scope.spawn(|| send_transactions(&producer, &ended, &stop));
        let guard = StopGuard(&stop);
        wait_for_progress(&ended);
        assert_eq!(take_request_versions()["EndTxn"], BTreeSet::from([4]), "Kafka 3.9");
        kafka.restart(&jars, "4.4.0");
        take_request_versions();
        wait_for_progress(&ended);
        // The new version of the broker alone changes nothing.
        let requests = take_request_versions();
        assert!(requests["EndTxn"].iter().all(|v| *v < 5), "{requests:?}");
        assert!(requests.contains_key("AddPartitionsToTxn"), "{requests:?}");
        let upgrade = [&server[..], &["upgrade", "--release-version", "4.0"]].concat();
        print_line(jars.run_tool(FEATURE_COMMAND, &upgrade).trim());
        // A client learns the feature when it connects: the open connection continues with V1.
        take_request_versions();
        wait_for_progress(&ended);
        assert_eq!(take_request_versions()["EndTxn"], BTreeSet::from([4]), "transactions V1");
        kafka.restart(&jars, "4.4.0");
        wait_for_progress(&ended);
        take_request_versions();
        wait_for_progress(&ended);
        let requests = take_request_versions();
        assert_eq!(requests["EndTxn"], BTreeSet::from([5]), "transactions V2");
        assert!(!requests.contains_key("AddPartitionsToTxn"), "{requests:?}");
        drop(guard);
        sender.join().expect("no call fails")
    });
    print_line(&format!("{} transactions", ended.into_inner()));
    let log = jars.read_committed(&kafka.bootstrap, "txn");
    let seen: BTreeSet<_> = log.iter().map(|r| (r.offset, r.value.clone().unwrap())).collect();
    assert_eq!((seen.len(), seen == committed), (log.len(), true), "a consumer sees the commits");
}
