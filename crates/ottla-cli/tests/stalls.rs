//! The command is connected, but no record moves or can move: it says why, and ends where waiting
//! is of no use.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::io::Write;

use ottla_broker::{EmbeddedBroker, InterceptedResponse, ProduceFault, ResponseAction};
use ottla_protocol::header::{decode_response, encode_response};
use ottla_protocol::messages::{MetadataRequest, ProduceRequest};
use ottla_protocol::{ErrorCode, Request};

use process::{RunningOttla, assert_fails, read_until, send_signal, spawn_ottla};

fn produce_args<'a>(address: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["produce", "-b", address, "-t", "t"], more].concat()
}

/// Changes the responses to requests of one kind.
fn change_response<R: Request>(
    call: &InterceptedResponse<'_>,
    frame: Vec<u8>,
    change: impl Fn(&mut R::Response),
) -> ResponseAction {
    if call.api != R::KEY {
        return ResponseAction::Send(frame);
    }
    let body = bytes::Bytes::copy_from_slice(&frame[4..]);
    let mut response = decode_response::<R>(&body, call.version).unwrap();
    change(&mut response);
    let frame = encode_response(call.api, call.version, call.correlation_id, &response);
    ResponseAction::Send(frame.unwrap())
}

/// Starts the command on a broker that takes no record. Returns the line that says why.
fn read_stall(broker: &EmbeddedBroker, expected: &str) -> String {
    let address = broker.bootstrap_servers();
    let RunningOttla { mut child, mut stdin, mut stderr } =
        spawn_ottla(&produce_args(&address, &[]));
    stdin.write_all(b"one\n").unwrap();
    let output = read_until(&mut stderr, expected);
    let line = output.lines().find(|l| l.contains(expected)).unwrap().to_owned();
    assert!(line.contains("topic t"), "{output}");
    assert!(line.contains("no record was acknowledged for 3 s"), "{output}");
    assert!(line.contains("; waiting for "), "{output}");
    child.kill().unwrap();
    child.wait().unwrap();
    line
}

#[test]
fn rejected_records_are_reported_with_the_reason() {
    for (code, waits_for) in [
        (ErrorCode::KAFKA_STORAGE_ERROR, "the broker's disk"),
        (ErrorCode::NOT_ENOUGH_REPLICAS, "min.insync.replicas"),
    ] {
        let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
        broker.with_core(|core, _| {
            core.set_fault_injector(move |_, _| Some(ProduceFault::FailBeforeAppend(code)));
        });
        let line = read_stall(&broker, &code.to_string());
        assert!(line.contains(waits_for), "{line}");
    }
}

#[test]
fn missing_topic_is_reported() {
    let broker = EmbeddedBroker::builder().auto_create_topics(false).start().unwrap();
    let line = read_stall(&broker, "UNKNOWN_TOPIC_OR_PARTITION");
    assert!(line.contains("check its name, or create it"), "{line}");
}

#[test]
fn topic_without_a_leader_is_reported() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    let _guard = broker.intercept_responses(|call, frame| {
        change_response::<MetadataRequest>(call, frame, |response| {
            for partition in response.topics.iter_mut().flat_map(|t| &mut t.partitions) {
                partition.error_code = ErrorCode::LEADER_NOT_AVAILABLE.0;
                partition.leader_id = -1;
            }
        })
    });
    let line = read_stall(&broker, "has no leader");
    assert!(line.contains("check that the brokers of its replicas run"), "{line}");
}

#[test]
fn throttled_client_is_reported() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    // The response to the first request requests a pause of a minute.
    let _guard = broker.intercept_responses(|call, frame| {
        change_response::<ProduceRequest>(call, frame, |r| r.throttle_time_ms = 60_000)
    });
    let address = broker.bootstrap_servers();
    let RunningOttla { mut child, mut stdin, mut stderr } =
        spawn_ottla(&produce_args(&address, &["--sync"]));
    stdin.write_all(b"one\ntwo\n").unwrap();
    let output = read_until(&mut stderr, "throttles this client");
    assert!(output.contains("check the quotas"), "{output}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn records_that_move_again_are_not_reported() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    let mut failures = 3;
    broker.with_core(|core, _| {
        core.set_fault_injector(move |_, _| {
            failures -= 1;
            (failures >= 0)
                .then_some(ProduceFault::FailBeforeAppend(ErrorCode::KAFKA_STORAGE_ERROR))
        });
    });
    let address = broker.bootstrap_servers();
    let RunningOttla { child, mut stdin, mut stderr } =
        spawn_ottla(&produce_args(&address, &["--json"]));
    stdin.write_all(b"one\n").unwrap();
    // Longer than the time to the first report.
    std::thread::sleep(std::time::Duration::from_secs(4));
    send_signal(&child, "-TERM");
    let output = read_until(&mut stderr, "acknowledged, ");
    assert!(!output.contains("waiting for"), "{output}");
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn refused_producer_id_ends_the_reading_and_names_both_ways_out() {
    for code in
        [ErrorCode::CLUSTER_AUTHORIZATION_FAILED, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED]
    {
        let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
        broker.with_core(|core, _| core.set_producer_id_errors(&[code; 1000]));
        let address = broker.bootstrap_servers();
        let RunningOttla { child, mut stdin, mut stderr } =
            spawn_ottla(&produce_args(&address, &[]));
        // The input stays open: the command does not wait for another line.
        stdin.write_all(b"one\ntwo\n").unwrap();
        let output = read_until(&mut stderr, "reading stopped");
        for text in [&*code.to_string(), "IDEMPOTENT_WRITE", "enable.idempotence=false"] {
            assert!(output.contains(text), "{text} is missing in: {output}");
        }
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
        drop(stdin);
    }
}

#[test]
fn fatal_error_ends_the_reading_of_a_million_lines() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    broker.with_core(|core, _| {
        let code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED;
        core.set_fault_injector(move |_, _| Some(ProduceFault::FailBeforeAppend(code)));
    });
    let lines = "line\n".repeat(1_000_000);
    let address = broker.bootstrap_servers();
    let args = produce_args(&address, &["--json"]);
    let out = process::run_ottla(&args, lines.as_bytes());
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("CLUSTER_AUTHORIZATION_FAILED"), "{stderr}");
    assert!(stderr.contains("reading stopped"), "{stderr}");
    let failed = String::from_utf8_lossy(&out.stdout).lines().count();
    assert!(failed < 1_000_000, "{failed} results");
}

#[test]
fn rejected_compressed_batch_names_the_setting() {
    for code in [
        ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        ErrorCode::INVALID_RECORD,
    ] {
        let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
        broker.with_core(|core, _| {
            core.set_fault_injector(move |_, _| Some(ProduceFault::FailBeforeAppend(code)));
        });
        let address = broker.bootstrap_servers();
        let expected = [&*code.to_string(), "compressed", "compression.type"].map(str::to_owned);
        let expected = expected.each_ref().map(String::as_str);
        let value = "x".repeat(1000);
        assert_fails(&produce_args(&address, &["-z", "gzip"]), value.as_bytes(), 1, &expected);
        let out = process::run_ottla(&produce_args(&address, &[]), value.as_bytes());
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!stderr.contains("compression.type"), "not compressed: {stderr}");
    }
}
