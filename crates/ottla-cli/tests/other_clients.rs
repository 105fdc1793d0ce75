//! franz-go's and librdkafka's producers, group consumers and transactions, and kcat's group
//! consumers against the embedded broker.
//!
//! Without Go, Python or kcat the tests report that they are skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use ottla::{Producer, Record};
use ottla_broker::{EmbeddedBroker, TransactionStatus};
use ottla_testkit::{Librdkafka, run_franz_go_client, skip_test};

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

/// Sends values `prefix0`, `prefix1`, ... to the topic `in`.
fn send_values(servers: &str, prefix: &str, count: usize) {
    let producer = Producer::builder().bootstrap_servers(servers).build().unwrap();
    for n in 0..count {
        let partition = i32::try_from(n % 4).unwrap();
        let value = format!("{prefix}{n}");
        producer.send(Record::to("in").partition(partition).value(&value)).unwrap();
    }
    producer.flush().unwrap();
}

/// Reads as a member of the group `g` until `count` records are read. kcat then commits its offsets
/// and leaves the group.
fn run_kcat_group(servers: &str, count: usize) -> std::io::Result<Output> {
    let earliest = ["-X", "auto.offset.reset=earliest", "-X", "isolation.level=read_committed"];
    let args = ["60", "kcat", "-b", servers, "-q", "-c", &count.to_string(), "-G", "g"];
    Command::new("timeout").args(args).args(earliest).arg("in").output()
}

#[test]
fn kcat_consumes_in_a_group_and_resumes_from_its_offsets() {
    if Command::new("kcat").arg("-V").output().is_err() {
        return skip_test("a group consumer of kcat needs kcat (apt-get install kcat)");
    }
    let broker = start_broker(2);
    let servers = broker.bootstrap_servers();
    let mut read = BTreeSet::new();
    for (prefix, count) in [("first", 100), ("second", 50)] {
        send_values(&servers, prefix, count);
        let out = run_kcat_group(&servers, count).unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        let values: Vec<&str> = text.lines().collect();
        assert_eq!(values.len(), count, "{text}");
        assert!(values.iter().all(|v| v.starts_with(prefix)), "it resumes: {text}");
        read.extend(values.into_iter().map(str::to_owned));
    }
    assert_eq!(read.len(), 150, "each record once");
}
