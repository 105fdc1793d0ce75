//! Tests of `ottla verifiable-producer` against the embedded broker, and beside Kafka's own tool.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::process::{ChildStdout, Command, Stdio};

use ottla_broker::{EmbeddedBroker, ErrorCode, ProduceFault};
use ottla_testkit::Jars;
use process::broker::ChildGuard;
use process::{assert_fails, read_until, run_ottla, send_signal};
use serde_json::{Value, json};

const KAFKA_TOOL: &str = "org.apache.kafka.tools.VerifiableProducer";

fn one_partition() -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", 1).start().unwrap()
}

fn arguments<'a>(server: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--topic", "t", "--bootstrap-server", server], more].concat()
}

/// Returns the lines of the output. Lines of a log are no JSON.
fn parse_lines(output: &str) -> Vec<Value> {
    output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Runs the command, which must succeed.
fn run(server: &str, more: &[&str]) -> Vec<Value> {
    let out = run_ottla(&[&["verifiable-producer"], &arguments(server, more)[..]].concat(), b"");
    let (stdout, stderr) =
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(0), "{stdout}{stderr}");
    let lines = parse_lines(&stdout);
    assert_eq!(lines.len(), stdout.lines().count(), "each line is JSON: {stdout}");
    lines
}

/// Starts the command, which a signal ends although the test runner may ignore it.
fn spawn_verifiable(server: &str, more: &[&str]) -> (ChildGuard, BufReader<ChildStdout>) {
    let child = Command::new("env")
        .arg("--default-signal=TERM")
        .arg(assert_cmd::cargo::cargo_bin!("ottla"))
        .arg("verifiable-producer")
        .args(arguments(server, more))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = ChildGuard(child);
    let stdout = BufReader::new(child.0.stdout.take().unwrap());
    (child, stdout)
}

fn names(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["name"].as_str().unwrap()).collect()
}

// CASES: E1.
#[test]
fn each_record_gets_a_line_with_its_place_in_the_log() {
    let broker = one_partition();
    let keys = ["--repeating-keys", "3", "--value-prefix", "7"];
    let more = ["--max-messages", "50", "--message-create-time", "1000000", "--acks", "1"];
    let lines = run(&broker.bootstrap_servers(), &[&keys[..], &more].concat());
    let expected = [&["startup_complete"], &["producer_send_success"; 50][..]];
    let expected = [expected.concat(), vec!["shutdown_complete", "tool_data"]].concat();
    assert_eq!(names(&lines), expected);
    let records = broker.records("t").unwrap();
    assert_eq!(records.len(), 50);
    for (n, (line, record)) in lines[1..].iter().zip(&records).enumerate() {
        let (key, value) = ((n % 3).to_string(), format!("7.{n}"));
        let expected = json!({
            "timestamp": line["timestamp"], "name": "producer_send_success", "key": key,
            "value": value, "topic": "t", "partition": 0, "offset": n,
        });
        assert_eq!(*line, expected);
        assert_eq!(record.offset, n as i64);
        assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
    }
    assert_eq!(records[0].timestamp, 1_000_000);
    assert!(records.windows(2).all(|pair| pair[0].timestamp <= pair[1].timestamp));
    let summary = &lines[lines.len() - 1];
    assert_eq!((&summary["sent"], &summary["acked"]), (&json!(50), &json!(50)));
    assert_eq!(summary["target_throughput"], json!(-1));
    assert!(summary["avg_throughput"].as_f64().unwrap() > 0.0);
}

/// The producer does not retry: the lines must show each fault of the cluster.
// CASES: E1.
#[test]
fn failed_record_gets_a_line_with_the_class_of_javas_exception() {
    let broker = one_partition();
    broker.with_core(|core, _now| {
        core.set_fault_injector(|_topic, _partition| {
            Some(ProduceFault::FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS))
        });
    });
    let lines = run(&broker.bootstrap_servers(), &["--max-messages", "1"]);
    let expected = ["startup_complete", "producer_send_error", "shutdown_complete", "tool_data"];
    assert_eq!(names(&lines), expected);
    let error = &lines[1];
    assert_eq!(
        (&error["key"], &error["value"], &error["topic"]),
        (&Value::Null, &json!("0"), &json!("t"))
    );
    let class = "class org.apache.kafka.common.errors.NotEnoughReplicasException";
    assert_eq!(error["exception"], json!(class));
    assert!(error["message"].as_str().unwrap().contains("NOT_ENOUGH_REPLICAS"), "{error}");
    assert_eq!((&lines[3]["sent"], &lines[3]["acked"]), (&json!(1), &json!(0)));
    assert_eq!(broker.records("t").unwrap(), []);
}

/// As with Kafka's tool, whose producer refuses such a record as well.
// CASES: E1.
#[test]
fn record_that_the_producer_refuses_gets_one_line() {
    let broker = one_partition();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max.request.size=40\n").unwrap();
    let config = file.path().display().to_string();
    let more = ["--max-messages", "2", "--command-config", &config];
    let lines = run(&broker.bootstrap_servers(), &more);
    let errors = ["producer_send_error"; 2];
    let expected = [&["startup_complete"], &errors[..], &["shutdown_complete", "tool_data"]];
    assert_eq!(names(&lines), expected.concat());
    let class = "class org.apache.kafka.common.errors.RecordTooLargeException";
    for (n, line) in lines[1..3].iter().enumerate() {
        let value = json!(n.to_string());
        assert_eq!((&line["exception"], &line["value"]), (&json!(class), &value));
    }
}

// CASES: E1.
#[test]
fn signal_ends_an_endless_run_with_all_lines() {
    let broker = one_partition();
    let server = broker.bootstrap_servers();
    // With a rate of 0 the command sleeps without end after its second record.
    for (throughput, until) in [("0", "\"value\":\"0\""), ("1000", "\"value\":\"20\"")] {
        let before = broker.records("t").unwrap().len();
        let (mut child, mut stdout) = spawn_verifiable(&server, &["--throughput", throughput]);
        let mut output = read_until(&mut stdout, until);
        send_signal(&child.0, "-TERM");
        stdout.read_to_string(&mut output).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(0), "{output}");
        let lines = parse_lines(&output);
        let acked = names(&lines).iter().filter(|n| **n == "producer_send_success").count();
        assert_eq!(names(&lines)[lines.len() - 2..], ["shutdown_complete", "tool_data"]);
        let summary = &lines[lines.len() - 1];
        assert_eq!((&summary["acked"], &summary["sent"]), (&json!(acked), &json!(acked)));
        assert_eq!(broker.records("t").unwrap().len(), before + acked);
    }
}

#[test]
fn signal_ends_the_wait_for_metadata() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max.block.ms=3600000\n").unwrap();
    let config = file.path().display().to_string();
    let more = ["--max-messages", "1", "--command-config", &config];
    let (child, mut stdout) = spawn_verifiable("127.0.0.1:1", &more);
    let mut output = read_until(&mut stdout, "startup_complete");
    send_signal(&child.0, "-TERM");
    stdout.read_to_string(&mut output).unwrap();
    let lines = parse_lines(&output);
    let ends = ["shutdown_complete", "tool_data"];
    assert_eq!(names(&lines)[lines.len() - 2..], ends, "{output}");
    assert_eq!(lines[lines.len() - 1]["acked"], json!(0));
}

#[test]
fn wrong_options_are_refused() {
    // As Kafka's tool: 1 for every error.
    let command = ["verifiable-producer", "--topic", "t"];
    assert_fails(&command, b"", 1, &["--bootstrap-server"]);
    let with_server = [&command[..], &["--bootstrap-server", "127.0.0.1:1"]].concat();
    assert_fails(&[&with_server[..], &["--acks", "2"]].concat(), b"", 1, &["--acks"]);
    let missing = [&with_server[..], &["--command-config", "/nonexistent/file"]].concat();
    assert_fails(&missing, b"", 1, &["/nonexistent/file"]);
}

// CASES: E1.
#[test]
fn help_is_printed_without_arguments() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    let output = command.arg("verifiable-producer").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("--max-messages") && text.contains("--throughput"), "{text}");
}

/// Leaves out the timestamp and the text of a line. The rest must be equal for both tools.
fn comparable(mut line: Value) -> Value {
    let fields = line.as_object_mut().unwrap();
    assert!(fields.remove("timestamp").unwrap().as_i64().unwrap() > 1_700_000_000_000);
    for field in ["avg_throughput", "message"] {
        if let Some(value) = fields.get_mut(field) {
            let is_number = value.is_number();
            *value = json!({ "is_number": is_number });
        }
    }
    line
}

// CASES: E1.
#[test]
fn output_equals_that_of_kafkas_tool() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max.request.size=1000\nretries=3\nretry.backoff.ms=1\n").unwrap();
    let config = file.path().display().to_string();
    let fault = |code: i16| Some(ErrorCode(code));
    let cases = [
        (vec!["--max-messages", "30"], None),
        (vec!["--max-messages", "20", "--acks", "0", "--repeating-keys", "4"], None),
        (vec!["--max-messages", "20", "--acks", "1", "--value-prefix", "-5"], None),
        (vec!["--max-messages", "5", "--command-config", &config, "--throughput", "1000"], None),
        (vec!["--max-messages", "3"], fault(ErrorCode::NOT_ENOUGH_REPLICAS.0)),
        (vec!["--max-messages", "3"], fault(ErrorCode::TOPIC_AUTHORIZATION_FAILED.0)),
        (vec!["--max-messages", "3"], fault(ErrorCode::INVALID_RECORD.0)),
        (vec!["--max-messages", "3"], fault(ErrorCode::KAFKA_STORAGE_ERROR.0)),
        (vec!["--max-messages", "1"], fault(ErrorCode::MESSAGE_TOO_LARGE.0)),
    ];
    for (more, code) in cases {
        let [ours, javas] = [true, false].map(|is_ours| {
            let broker = one_partition();
            broker.with_core(|core, _now| {
                core.set_fault_injector(move |_, _| code.map(ProduceFault::FailBeforeAppend));
            });
            let server = broker.bootstrap_servers();
            let lines = if is_ours {
                run(&server, &more)
            } else {
                parse_lines(&jars.run_tool(KAFKA_TOOL, &arguments(&server, &more)))
            };
            lines.into_iter().map(comparable).collect::<Vec<_>>()
        });
        assert_eq!(ours, javas, "{more:?} {code:?}");
        let kinds: BTreeSet<&str> = names(&ours).into_iter().collect();
        assert_eq!(kinds.contains("producer_send_error"), code.is_some());
    }
}
