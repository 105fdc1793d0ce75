//! Tests Kafka's own consumers and transactional producer against the embedded broker.
//!
//! Without a JDK and Maven the tests report that they are skipped; with `CI=true` they fail.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use ottla::{Producer, Record};
use ottla_broker::EmbeddedBroker;
use ottla_testkit::Jars;
use process::broker::ChildGuard;
use process::send_signal;

const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";

/// Sends values `prefix0`, `prefix1`, ... to the topic `t`.
fn send_values(broker: &EmbeddedBroker, prefix: &str, count: usize) {
    let builder = Producer::builder().bootstrap_servers(broker.bootstrap_servers());
    let producer = builder.build().unwrap();
    let deliveries: Vec<_> = (0..count)
        .map(|n| {
            let (key, value) = (format!("k{n}"), format!("{prefix}{n}"));
            producer.send(Record::to("t").key(&key).value(&value)).unwrap()
        })
        .collect();
    for delivery in deliveries {
        delivery.wait().unwrap();
    }
}

/// Returns the arguments of a console consumer in the group `g` that ends after `idle_ms` without
/// a record.
fn consumer_args<'a>(server: &'a str, idle_ms: &'a str) -> Vec<&'a str> {
    let group = ["--topic", "t", "--group", "g", "--from-beginning", "--timeout-ms", idle_ms];
    let committed = ["--isolation-level", "read_committed"];
    [&["--bootstrap-server", server][..], &group, &committed].concat()
}

fn read_as_group(jars: &Jars, server: &str) -> Vec<String> {
    let output = jars.run_tool(CONSOLE_CONSUMER, &consumer_args(server, "5000"));
    output.lines().map(str::to_owned).collect()
}

fn describe_group(jars: &Jars, server: &str, extra: &[&str]) -> String {
    let args = [&["--bootstrap-server", server, "--describe", "--group", "g"][..], extra].concat();
    jars.run_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &args)
}

#[test]
fn java_consumer_reads_all_partitions_and_resumes_from_its_offsets() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let broker = EmbeddedBroker::builder().node_count(3).topic("t", 3).start().unwrap();
    let server = broker.bootstrap_servers();
    send_values(&broker, "a", 50);
    assert_eq!(read_as_group(&jars, &server).len(), 50);
    send_values(&broker, "b", 10);
    let second = read_as_group(&jars, &server);
    assert!(second.len() == 10 && second.iter().all(|v| v.starts_with('b')), "{second:?}");
    let described = describe_group(&jars, &server, &[]);
    let lags: Vec<&str> = (described.lines().filter(|l| l.starts_with("g ")))
        .filter_map(|l| l.split_whitespace().nth(5))
        .collect();
    assert_eq!(lags, ["0", "0", "0"], "{described}");
}

/// A console consumer in the group `g`, and its output line by line.
struct GroupConsumer {
    process: ChildGuard,
    lines: Receiver<String>,
}

/// How long the test waits for a record. A consumer that starts on a slow machine takes long.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

impl GroupConsumer {
    fn start(jars: &Jars, server: &str) -> GroupConsumer {
        let idle_ms = IDLE_LIMIT.as_millis().to_string();
        let mut command = jars.tool_command(CONSOLE_CONSUMER, &consumer_args(server, &idle_ms));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut process = ChildGuard(child);
        let stdout = BufReader::new(process.0.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        GroupConsumer { process, lines }
    }
}

/// Reads until the consumers have `count` values together, and lets both leave the group.
fn read_shared(consumers: [GroupConsumer; 2], count: usize) -> [Vec<String>; 2] {
    let (mut values, started_at) = ([Vec::new(), Vec::new()], Instant::now());
    while values.iter().map(Vec::len).sum::<usize>() < count {
        assert!(started_at.elapsed() < IDLE_LIMIT, "the consumers got {values:?} only");
        for (consumer, values) in consumers.iter().zip(&mut values) {
            values.extend(consumer.lines.recv_timeout(Duration::from_millis(50)));
            values.extend(consumer.lines.try_iter());
        }
    }
    // A consumer that gets SIGTERM commits its offsets and leaves the group.
    consumers.iter().for_each(|c| send_signal(&c.process.0, "-TERM"));
    for (mut consumer, values) in consumers.into_iter().zip(&mut values) {
        values.extend(consumer.lines.iter());
        consumer.process.0.wait().unwrap();
    }
    values
}

#[test]
fn java_consumers_of_a_group_share_the_partitions_and_take_over() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let broker = EmbeddedBroker::builder().topic("t", 4).start().unwrap();
    let server = broker.bootstrap_servers();
    let consumers = [(); 2].map(|()| GroupConsumer::start(&jars, &server));
    // Both are in the group when each has two of the four partitions.
    let has_two_members = || {
        let members = describe_group(&jars, &server, &["--members"]);
        members.lines().filter(|l| l.starts_with("g ") && l.trim_end().ends_with(" 2")).count() == 2
    };
    assert!((0..10).any(|_| has_two_members()), "the second consumer did not join in time");
    send_values(&broker, "shared", 100);
    let [first, second] = read_shared(consumers, 100);
    assert!(!first.is_empty() && !second.is_empty(), "one consumer got everything");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for value in first.iter().chain(&second) {
        *counts.entry(value).or_default() += 1;
    }
    assert_eq!(counts.len(), 100);
    assert!(counts.values().all(|n| *n == 1), "a record was read twice: {counts:?}");
    send_values(&broker, "after", 20);
    assert_eq!(read_as_group(&jars, &server).len(), 20, "both consumers have left the group");
}

#[test]
fn java_transactional_producer_commits_with_both_transaction_versions() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    for version in [1, 2] {
        let broker = EmbeddedBroker::builder()
            .node_count(3)
            .topic("t", 3)
            .transaction_version(version)
            .start()
            .unwrap();
        let server = broker.bootstrap_servers();
        let transactions = ["--transactional-id", "tx", "--transaction-duration-ms", "20"];
        let records = ["--topic", "t", "--num-records", "5000", "--payload-monotonic"];
        // The limit makes the run last about a second, which is longer than many transactions.
        let server_args = ["--bootstrap-server", &server, "--throughput", "5000"];
        let args = [&server_args[..], &records, &transactions];
        jars.run_tool("org.apache.kafka.tools.ProducerPerformance", &args.concat());
        let mut values = read_as_group(&jars, &server);
        assert_eq!(values.len(), 5000, "transaction.version={version}");
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 5000, "a record was read twice");
        let batches = broker.with_core(|core, _now| {
            (0..3).flat_map(|p| core.batches("t", p).unwrap()).collect::<Vec<_>>()
        });
        let markers = batches
            .iter()
            .filter(|b| ottla_protocol::record::BatchView::parse(&b.bytes).unwrap().is_control());
        // A transaction has at most one marker in each of the three partitions.
        assert!(markers.count() > 3, "the producer used several transactions");
    }
}
