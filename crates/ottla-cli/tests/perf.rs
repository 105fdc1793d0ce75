//! `ottla perf`: the options and the output of kafka-producer-perf-test, and the JSON object.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use ottla_broker::EmbeddedBroker;

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
        (&["--record-size", "1", "--transactional-id", "x"], "not supported yet"),
        (&["--payload-file", "/no/such/file"], "/no/such/file"),
    ] {
        assert_rejected(&[&required[..], args].concat(), reason);
    }
}
