//! `ottla perf`: the options and the output of kafka-producer-perf-test, and the JSON object.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use ottla_broker::{
    ApiKey, EmbeddedBroker, ErrorCode, InterceptorGuard, ProduceFault, ResponseAction,
    TransactionStatus,
};

const TIMEOUT: Duration = Duration::from_secs(60);

fn perf_output(broker: &EmbeddedBroker, args: &[&str]) -> Output {
    let mut c = Command::cargo_bin("ottla").expect("the binary is built");
    c.args(["perf", "--bootstrap-server", &broker.bootstrap_servers(), "--topic", "t"]).args(args);
    c.timeout(TIMEOUT).output().unwrap()
}

/// Returns whether the command succeeded, and its standard output.
fn run_perf(broker: &EmbeddedBroker, args: &[&str]) -> (bool, String) {
    let out = perf_output(broker, args);
    (out.status.success(), String::from_utf8(out.stdout).unwrap())
}

fn start_broker() -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", 3).auto_create_topics(false).start().unwrap()
}

/// Replaces each number by `9`, or by `9.n` if it has n decimals, so that lines can be compared.
fn mask_numbers(line: &str) -> String {
    let mut out = String::new();
    let (mut decimals, mut in_number) = (None, false);
    for c in line.chars().chain(['\n']) {
        match c {
            '0'..='9' => {
                decimals = decimals.map(|n: usize| n + 1);
                in_number = true;
            }
            '.' if in_number && decimals.is_none() => decimals = Some(0),
            c => {
                if in_number {
                    out.push('9');
                    if let Some(n) = decimals {
                        // A full stop at the end of a sentence has no digits after it.
                        out += &if n == 0 { ".".to_owned() } else { format!(".{n}") };
                    }
                }
                (decimals, in_number) = (None, false);
                out.push(c);
            }
        }
    }
    out.trim_end().to_owned()
}

/// The masked total line. `50th` becomes `9th`, and `99.9th` becomes `9.1th`.
const TOTAL_LINE: &str = "9 records sent, 9.6 records/sec (9.2 MB/sec), 9.2 ms avg latency, \
                          9.2 ms max latency, 9 ms 9th, 9 ms 9th, 9 ms 9th, 9 ms 9.1th.";
/// The masked line of an interval.
const WINDOW_LINE: &str = "9 records sent, 9.1 records/sec (9.2 MB/sec), 9.1 ms avg latency, \
                           9.1 ms max latency.";

#[test]
fn output_lines_have_the_format_of_kafkas_tool() {
    let broker = start_broker();
    let common = ["--num-records", "3000", "--throughput", "-1", "--record-size", "100"];
    let (ok, out) = run_perf(&broker, &common);
    assert!(ok && out.starts_with("3000 records sent, "), "{out}");
    assert_eq!(out.lines().map(mask_numbers).collect::<Vec<_>>(), [TOTAL_LINE], "{out}");
    // At this rate the run lasts for several intervals, so each prints a line.
    let slow = [
        "--num-records",
        "600",
        "--throughput",
        "1000",
        "--record-size",
        "10",
        "--reporting-interval",
        "100",
    ];
    let (ok, out) = run_perf(&broker, &slow);
    assert!(ok, "{out}");
    let first = mask_numbers(out.lines().next().unwrap());
    assert_eq!(first, WINDOW_LINE);
    assert!(out.lines().count() >= 3, "{out}");
}

#[test]
fn warm_up_is_announced_and_the_steady_state_has_its_own_total() {
    let args = [
        "--num-records",
        "600",
        "--warmup-records",
        "200",
        "--throughput",
        "1000",
        "--payload-monotonic",
        "--reporting-interval",
        "50",
    ];
    let (ok, out) = run_perf(&start_broker(), &args);
    let lines: Vec<&str> = out.lines().collect();
    assert!(ok, "{out}");
    assert_eq!(
        lines[0],
        "Warmup first 200 records. Steady state results will print after the complete test \
         summary."
    );
    assert_eq!(lines.iter().filter(|l| **l == "In steady state.").count(), 1, "{out}");
    assert!(lines[lines.len() - 2].starts_with("600 records sent, "), "{out}");
    assert!(lines[lines.len() - 1].starts_with("400 steady state records sent, "), "{out}");
}

#[test]
fn json_object_has_the_fields_of_the_benchmarks_with_any_path() {
    let broker = start_broker();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [b'v'; 1000]).unwrap();
    let payload = file.path().to_str().unwrap();
    for path in ["handle", "name", "delivery", "callback"] {
        let args = [
            "--records",
            "2000",
            "--warmup",
            "500",
            "--payload-file",
            payload,
            "--size",
            "100",
            "--acks",
            "all",
            "--linger-ms",
            "5",
            "--batch-bytes",
            "16384",
            "--compression",
            "lz4",
            "--idempotent",
            "true",
            "--in-flight",
            "5",
            "--keyed",
            "true",
            "--rate",
            "0",
            "--buffer-memory",
            "33554432",
            "--threads",
            "2",
            "--json",
            "--path",
            path,
        ];
        let (ok, out) = run_perf(&broker, &args);
        assert!(ok, "{out}");
        let json: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        for field in [
            "client",
            "version",
            "records",
            "bytes",
            "wall_s",
            "rec_per_s",
            "mb_per_s",
            "user_s",
            "sys_s",
            "cpu_us_per_rec",
            "p50_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "max_rss_kb",
            "errors",
        ] {
            assert!(!json[field].is_null(), "{field} in {json}");
        }
        assert_eq!((&json["records"], &json["errors"]), (&2000.into(), &0.into()), "{json}");
        assert_eq!(json["bytes"], 2000 * 108);
    }
    let (ok, out) = run_perf(
        &broker,
        &[
            "--records",
            "1",
            "--rate",
            "0",
            "--record-size",
            "1",
            "--json",
            "--acks",
            "0",
            "--idempotent",
            "true",
        ],
    );
    assert!(ok && out.contains("unsupported"), "{out}");
}

/// Counts the transactions that end, while the guard lives.
fn count_ended(broker: &EmbeddedBroker) -> (Arc<AtomicU64>, InterceptorGuard) {
    let count = Arc::<AtomicU64>::default();
    let counter = count.clone();
    let guard = broker.intercept_responses(move |response, frame| {
        counter.fetch_add(u64::from(response.api == ApiKey::END_TXN), Ordering::Relaxed);
        ResponseAction::Send(frame)
    });
    (count, guard)
}

/// Returns how many records of the topic are committed, and asserts that no other ones exist.
fn committed_records(broker: &EmbeddedBroker) -> usize {
    let records = broker.records("t").unwrap();
    assert!(records.iter().all(|r| r.transaction == TransactionStatus::Committed));
    records.len()
}

#[test]
fn transactions_end_after_a_number_of_records_and_at_the_end() {
    let broker = start_broker();
    let (ended, _guard) = count_ended(&broker);
    let args = ["--records", "25", "--warmup", "5", "--record-size", "10", "--rate", "0"];
    let transactional = ["--transactional-id", "perf", "--transaction-records", "10", "--json"];
    let (ok, out) = run_perf(&broker, &[&args[..], &transactional].concat());
    assert!(ok, "{out}");
    assert_eq!(committed_records(&broker), 30);
    let json: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&json["records"], &json["transactions"]), (&25.into(), &3.into()), "{json}");
    for field in ["transactions_per_s", "commit_p50_ms", "commit_p99_ms"] {
        assert!(json[field].as_f64().unwrap() > 0.0, "{field} in {json}");
    }
    // The transaction of the warm-up, and those of 10, 10 and 5 records.
    assert_eq!(ended.load(Ordering::Relaxed), 4);
}

#[test]
fn transactions_end_after_a_duration() {
    let broker = start_broker();
    let (ended, _guard) = count_ended(&broker);
    // The last record is due after 800 ms, so several transactions of 100 ms end.
    let args = ["--num-records", "80", "--throughput", "100", "--record-size", "10"];
    let (ok, out) = run_perf(&broker, &[&args[..], &["--transaction-duration-ms", "100"]].concat());
    assert!(ok && out.starts_with("80 records sent, "), "{out}");
    assert_eq!(committed_records(&broker), 80);
    let ended = ended.load(Ordering::Relaxed);
    assert!((2..=8).contains(&ended), "{ended} transactions");
}

#[test]
fn transactional_id_of_the_settings_begins_transactions() {
    let broker = start_broker();
    let (ended, _guard) = count_ended(&broker);
    let args = ["--num-records", "80", "--throughput", "-1", "--record-size", "10"];
    let id = ["--command-property", "transactional.id=settings"];
    let (ok, out) = run_perf(&broker, &[&args[..], &id].concat());
    assert!(ok, "{out}");
    assert_eq!((committed_records(&broker), ended.load(Ordering::Relaxed)), (80, 1));
}

#[test]
fn records_that_fail_make_the_commit_fail() {
    let broker = start_broker();
    broker.with_core(|core, _now| {
        core.set_fault_injector(|_topic, _partition| {
            Some(ProduceFault::FailBeforeAppend(ErrorCode::INVALID_RECORD))
        });
    });
    let args = ["--num-records", "80", "--throughput", "-1", "--record-size", "10"];
    let out = perf_output(&broker, &[&args[..], &["--transaction-records", "40"]].concat());
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("a transaction was not committed"), "{stderr}");
}

#[test]
fn metrics_are_printed_in_the_format_of_kafkas_tool() {
    let args =
        ["--num-records", "100", "--throughput", "-1", "--record-size", "10", "--print-metrics"];
    let (ok, out) = run_perf(&start_broker(), &args);
    assert!(ok, "{out}");
    let (_, table) = out.split_once("\n\n").unwrap();
    let mut lines = table.lines();
    let header = lines.next().unwrap();
    assert!(header.starts_with("Metric Name") && header.ends_with("   Value"), "{header}");
    let rows: Vec<&str> = lines.collect();
    assert!(rows.is_sorted(), "{table}");
    let sent = rows.iter().find(|r| {
        r.starts_with("producer-metrics:record-send-total:{client-id=perf-producer-client}")
    });
    assert!(sent.unwrap().ends_with(" : 100.000"), "{sent:?}");
    assert!(rows.iter().any(|r| r.starts_with(
        "producer-topic-metrics:byte-rate:{client-id=perf-producer-client, topic=t}"
    )));
}

#[test]
fn invalid_options_are_rejected_with_a_reason() {
    let broker = start_broker();
    let assert_rejected = |args: &[&str], reason: &str| {
        let out = perf_output(&broker, args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(reason), "{args:?}: {stderr}");
    };
    let required = ["--num-records", "10", "--throughput", "-1"];
    assert_rejected(&required, "exactly one of");
    assert_rejected(
        &["--num-records", "0", "--throughput", "-1", "--record-size", "1"],
        "--num-records",
    );
    assert_rejected(&["--num-records", "1", "--record-size", "1"], "--throughput");
    assert_rejected(
        &["--num-records", "1", "--throughput", "0", "--record-size", "1"],
        "would never finish",
    );
    for (args, reason) in [
        (&["--record-size", "1", "--payload-monotonic"][..], "exactly one of"),
        (&["--record-size", "0"], "--record-size"),
        (&["--record-size", "1", "--warmup-records", "10"], "fewer than"),
        (&["--record-size", "1", "--command-property", "linger.ms"], "not key=value"),
        (
            &["--record-size", "1", "--command-property", "a=b", "--producer-props", "c=d"],
            "cannot be used with",
        ),
        (&["--record-size", "1", "--record-key-range", "5"], "--key-distribution"),
        (&["--record-size", "1", "--transactional-id", ""], "--transactional-id"),
        (&["--record-size", "1", "--transaction-duration-ms", "0"], "--transaction-duration-ms"),
        (
            &["--record-size", "1", "--transaction-records", "1", "--transaction-duration-ms", "1"],
            "cannot be used with",
        ),
        (&["--record-size", "1", "--transactional-id", "x", "--threads", "2"], "--threads"),
        (&["--record-size", "1", "--transactional-id", "x", "--acks", "1"], "transactional.id"),
        (&["--payload-file", "/no/such/file"], "/no/such/file"),
    ] {
        assert_rejected(&[&required[..], args].concat(), reason);
    }
}
