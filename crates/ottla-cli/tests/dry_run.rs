//! `ottla produce --dry-run`, against the embedded broker.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::collections::BTreeMap;
use std::process::Output;

use ottla_broker::{EmbeddedBroker, NewTopic};
use process::{assert_fails, run_ottla};

fn dry_run(args: &[&str], input: &[u8]) -> (Output, String) {
    let out = run_ottla(&[&["produce", "--dry-run"], args].concat(), input);
    let text = String::from_utf8(out.stderr.clone()).unwrap();
    (out, text)
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn partitions_of_keyed_records_are_those_of_the_real_load() {
    let broker = EmbeddedBroker::builder().topic("orders", 6).start().unwrap();
    let server = broker.bootstrap_servers();
    let input: String = (0..5000).map(|i| format!("key {}:value {i}\n", i % 97)).collect();
    let args = ["-b", &server, "-t", "orders", "-K", ":", "-z", "lz4"];
    let (out, text) = dry_run(&args, input.as_bytes());
    assert!(out.status.success(), "{text}");
    assert_eq!(broker.records("orders").unwrap().len(), 0);

    let out = run_ottla(&[&["produce"], &args[..]].concat(), input.as_bytes());
    assert!(out.status.success());
    let mut by_partition = BTreeMap::from_iter((0..6).map(|p| (p, 0)));
    for record in broker.records("orders").unwrap() {
        *by_partition.entry(record.partition).or_insert(0) += 1;
    }
    let list: Vec<String> = by_partition.iter().map(|(p, n)| format!("{p}: {n}")).collect();
    assert_contains(
        &text,
        &[
            "dry run, nothing was sent: 5000 records of ",
            "0 would fail",
            "topic orders: 6 partitions (cleanup.policy=delete, max.message.bytes=1048588",
            "5000 records in ",
            &format!("records by partition: {}", list.join(", ")),
            "with headers (lz4)",
        ],
    );
}

#[test]
fn records_that_the_topic_would_refuse_fail() {
    let small = NewTopic::new("small", 1).config("max.message.bytes", "500");
    let compacted = NewTopic::new("compacted", 1).config("cleanup.policy", "compact");
    let broker = EmbeddedBroker::builder().new_topic(small).new_topic(compacted).start().unwrap();
    let server = broker.bootstrap_servers();
    let long = format!("short\n{}\n", "x".repeat(600));
    let (out, text) = dry_run(&["-b", &server, "-t", "small"], long.as_bytes());
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_contains(&text, &["1 would fail", "MESSAGE_TOO_LARGE"]);
    let (out, text) = dry_run(&["-b", &server, "-t", "compacted"], b"no key\n");
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_contains(&text, &["1 would fail", "INVALID_RECORD"]);
}

#[test]
fn topic_that_is_missing_fails_or_would_be_created() {
    let builder = EmbeddedBroker::builder().topic("known", 2);
    let broker = builder.auto_create_topics(false).start().unwrap();
    let server = broker.bootstrap_servers();
    let args = ["produce", "--dry-run", "-b", &server, "-t", "unknown"];
    let expected = ["topic unknown: UNKNOWN_TOPIC_OR_PARTITION", "kafka-topics --create"];
    assert_fails(&args, b"a\n", 1, &expected);
    let input = b"{\"topic\":\"unknown\",\"value\":1}\n{\"topic\":\"known\",\"value\":2}\n";
    let args = ["-b", &server, "--format", "json", "--on-error", "skip"];
    let (out, text) = dry_run(&args, input);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_contains(
        &text,
        &["topic known: 2 partitions", "1 record in 1 batch", "1 would fail", "topic unknown: "],
    );

    let broker = EmbeddedBroker::builder().default_partitions(5).start().unwrap();
    let (out, text) = dry_run(&["-b", &broker.bootstrap_servers(), "-t", "new"], b"a\n");
    assert!(out.status.success(), "{text}");
    assert_contains(
        &text,
        &["topic new: 5 partitions (", "does not exist; the first record creates it"],
    );
    assert!(broker.with_core(|core, _| core.describe_partition("new", 0).is_none()));
}

#[test]
fn first_bad_record_is_named_and_others_on_request() {
    let input = b"{\"value\":1}\n{\"value\":2}\n{\"values\":3}\n{\"value\":4}\nnothing\n";
    let (out, text) = dry_run(&["-t", "t", "--format", "json"], input);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_contains(&text, &["line 3", "values", "reading stopped at this record", "2 records"]);
    let args = ["-t", "t", "--format", "json", "--on-error", "skip"];
    let (out, text) = dry_run(&args, input);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_contains(&text, &["3 records of ", "2 would fail", "line 3", "line 5"]);
}

#[test]
fn many_partitions_are_summarized() {
    let broker = EmbeddedBroker::builder().topic("wide", 100).start().unwrap();
    let args = ["-b", &broker.bootstrap_servers(), "-t", "wide", "-p", "42"];
    let (out, text) = dry_run(&args, b"a\nb\n");
    assert!(out.status.success(), "{text}");
    let expected = "0 at least, 0 in the median, 2 at most (partition 42); 99 partitions get none";
    assert_contains(&text, &[expected]);
}

#[test]
fn cluster_that_does_not_respond_is_an_error_with_the_way_out() {
    let args = ["produce", "--dry-run", "-b", "127.0.0.1:1", "-t", "t"];
    let expected = ["cannot ask the cluster for its topics: 127.0.0.1:1: ", "--embedded"];
    assert_fails(&args, b"a\n", 1, &expected);
    let args = ["produce", "--dry-run", "--json", "-t", "t"];
    assert_fails(&args, b"", 2, &["--dry-run", "--json"]);
}
