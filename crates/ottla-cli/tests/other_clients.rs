//! franz-go's and librdkafka's producers, group consumers and transactions against the embedded
//! broker.
//!
//! Without Go or Python the tests report that they are skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::path::Path;

use ottla_broker::{EmbeddedBroker, TransactionStatus};
use ottla_testkit::{Librdkafka, run_franz_go_client};

/// Records that the clients send to the topic `in`: with five codecs, then to two group members.
const RECORDS: usize = 5 * 20 + 100;

fn start_broker(transaction_version: i16) -> EmbeddedBroker {
    let builder = EmbeddedBroker::builder().node_count(3).topic("in", 4).topic("out", 2);
    builder.transaction_version(transaction_version).start().unwrap()
}

/// Checks what the client has printed, and what is in the logs after it has copied the topic `in`
/// to `out` by transactions, the first of which it aborted.
fn check(broker: &EmbeddedBroker, output: &str) {
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines[0], ["sent", "100"], "{output}");
    let shared: Vec<usize> = lines[1][1..].iter().map(|n| n.parse().unwrap()).collect();
    assert!(lines[1][0] == "shared" && shared.iter().all(|n| *n > 0), "{output}");
    assert_eq!(shared.iter().sum::<usize>(), 100, "no record comes again after a commit");
    let values = |topic: &str, status: TransactionStatus| {
        let mut records = broker.records(topic).unwrap();
        records.retain(|r| r.transaction == status);
        let values = records.iter().map(|r| r.value.clone().unwrap());
        (records.len(), values.collect::<BTreeSet<_>>())
    };
    let (sent, sent_values) = values("in", TransactionStatus::None);
    assert_eq!((sent, sent_values.len()), (RECORDS, RECORDS), "each record once");
    let (copied, copied_values) = values("out", TransactionStatus::Committed);
    assert_eq!((copied, copied_values), (RECORDS, sent_values), "each record is copied once");
    assert!(values("out", TransactionStatus::Aborted).0 > 0, "one transaction was aborted");
    assert_eq!(values("out", TransactionStatus::Open).0, 0);
}

#[test]
fn franz_go_produces_consumes_in_groups_and_copies_by_transactions() {
    for transaction_version in [1, 2] {
        let broker = start_broker(transaction_version);
        let Some(output) = run_franz_go_client(&broker.bootstrap_servers()) else { return };
        check(&broker, &output);
    }
}

#[test]
fn librdkafka_produces_consumes_in_groups_and_copies_by_transactions() {
    let Some(librdkafka) = Librdkafka::find_or_install() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/librdkafka/client.py");
    for transaction_version in [1, 2] {
        let broker = start_broker(transaction_version);
        let mut command = librdkafka.command(&script);
        let out = command.arg(broker.bootstrap_servers()).output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{stdout}{stderr}");
        check(&broker, &stdout);
    }
}
