//! Runs the command against three real Kafka nodes that it knows by name. One is killed and its
//! name vanishes, as a pod's name does.
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails. It is
//! skipped, too, where it may neither mount nor edit a hosts file.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use ottla_testkit::{HostsFile, Jars, KafkaCluster, node_host_name, print_line};

const RECORDS_PER_SECOND: u64 = 200;
const SECONDS: u64 = 25;
/// The node is killed after this many seconds of sending.
const KILL_AFTER_SECONDS: u64 = 4;
const KILLED_NODE: usize = 2;
const SETTINGS: [&str; 4] =
    ["delivery.timeout.ms=15000", "request.timeout.ms=4000", "linger.ms=5", "acks=all"];

/// Checks that the command names the reason when the only replica of a topic is on the killed node.
fn assert_reports_missing_leader(hosts: &HostsFile, cluster: &KafkaCluster, topic: &str) {
    let mut command = hosts.command(cargo_bin!("ottla"));
    command.args(["produce", "-b", &cluster.named_bootstrap, "-t", topic]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut ottla = command.spawn().unwrap();
    writeln!(ottla.stdin.as_ref().unwrap(), "one").unwrap();
    let lines = BufReader::new(ottla.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    let found = lines.inspect(|line| seen.push(line.clone())).find(|l| l.contains("has no leader"));
    ottla.kill().unwrap();
    ottla.wait().unwrap();
    let line = found.unwrap_or_else(|| panic!("no such line: {seen:?}"));
    assert!(line.contains(topic) && line.contains("the brokers of its replicas run"), "{line}");
}

/// The controller fences the node only after its session has expired. So the first metadata that
/// the client requests after the loss still has the old leaders, and the client must request it
/// again when the name cannot be resolved.
#[test]
fn all_records_are_delivered_although_a_nodes_name_vanishes() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let Some(hosts) = HostsFile::create() else { return };
    let mut cluster = KafkaCluster::start(
        &jars.with_version("4.4.0"),
        "broker.session.timeout.ms=5000\nbroker.heartbeat.interval.ms=1000\n",
    );
    cluster.create_topic("t", 6, &["min.insync.replicas=2"]);
    cluster.create_topic_on_node("unreplicated", KILLED_NODE);
    hosts.set_names(&[1, 2, 3].map(node_host_name));
    let mut command = hosts.command(cargo_bin!("ottla"));
    command.args(["produce", "-b", &cluster.named_bootstrap, "-t", "t"]);
    SETTINGS.iter().for_each(|s| _ = command.args(["-X", s]));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut ottla = command.spawn().unwrap();
    let (mut stdin, mut stderr) = (ottla.stdin.take().unwrap(), ottla.stderr.take().unwrap());
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let count = RECORDS_PER_SECOND * SECONDS;
    for n in 0..count {
        if n == RECORDS_PER_SECOND * KILL_AFTER_SECONDS {
            hosts.set_names(&[1, 3].map(node_host_name));
            cluster.kill_node(KILLED_NODE);
        }
        writeln!(stdin, "{n}").unwrap();
        thread::sleep(Duration::from_millis(1000 / RECORDS_PER_SECOND));
    }
    drop(stdin);
    let (status, stderr) = (ottla.wait().unwrap(), reader.join().unwrap());
    print_line(stderr.trim());
    assert!(status.success(), "{status}: {stderr}");
    assert_reports_missing_leader(&hosts, &cluster, "unreplicated");
    let log = cluster.read_topic("t");
    let mut numbers = BTreeSet::new();
    let mut last_numbers: BTreeMap<i32, u64> = BTreeMap::new();
    for record in log {
        let number = String::from_utf8(record.value.unwrap()).unwrap().parse().unwrap();
        assert!(numbers.insert(number), "record {number} is in the log twice");
        let last = last_numbers.insert(record.partition, number);
        assert!(last.is_none_or(|last| last < number), "record {number} follows {last:?}");
    }
    assert_eq!(numbers.len() as u64, count, "each record is in the log");
}
