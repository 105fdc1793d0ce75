//! `ottla perf`: kafka-producer-perf-test's options and lines (CASES E2), and the line for other clients' harness.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use assert_cmd::Command;
use ottla_broker::EmbeddedBroker;

fn run_perf(broker: &EmbeddedBroker, args: &[&str]) -> (bool, String) {
    let mut c = Command::cargo_bin("ottla").expect("the binary is built");
    c.args(["perf", "--bootstrap-server", &broker.bootstrap_servers(), "--topic", "t"]).args(args);
    let out = c.timeout(std::time::Duration::from_secs(60)).output().unwrap();
    (out.status.success(), String::from_utf8(out.stdout).unwrap())
}

fn start_broker() -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", 3).auto_create_topics(false).start().unwrap()
}

/// The words and the decimals of a line, with `9` for each run of digits.
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
                        // A full stop at the end of a sentence has no digits behind it.
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

/// `50th` is a number and a suffix to [`shape`], and `99.9th` one with a decimal.
const TOTAL_LINE: &str = "9 records sent, 9.6 records/sec (9.2 MB/sec), 9.2 ms avg latency, 9.2 ms max latency, 9 ms 9th, \
                     9 ms 9th, 9 ms 9th, 9 ms 9.1th.";

#[test]
fn lines_have_the_words_and_decimals_of_kafkas_tool() {
    let b = start_broker();
    let common = ["--num-records", "3000", "--throughput", "-1", "--record-size", "100"];
    let (ok, out) = run_perf(&b, &common);
    assert!(ok && out.starts_with("3000 records sent, "), "{out}");
    assert_eq!(out.lines().map(mask_numbers).collect::<Vec<_>>(), [TOTAL_LINE], "{out}");
    // A window line whenever the interval is over, at a rate that takes a while.
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
    let (ok, out) = run_perf(&b, &slow);
    assert!(ok, "{out}");
    let first = mask_numbers(out.lines().next().unwrap());
    assert_eq!(
        first,
        "9 records sent, 9.1 records/sec (9.2 MB/sec), 9.1 ms avg latency, 9.1 ms max latency."
    );
    assert!(out.lines().count() >= 3, "{out}");
}

#[test]
fn a_warm_up_is_told_and_the_steady_state_has_a_line_of_its_own() {
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
        "Warmup first 200 records. Steady state results will print after the complete test summary."
    );
    assert_eq!(lines.iter().filter(|l| **l == "In steady state.").count(), 1, "{out}");
    assert!(lines[lines.len() - 2].starts_with("600 records sent, "), "{out}");
    assert!(lines[lines.len() - 1].starts_with("400 steady state records sent, "), "{out}");
}

#[test]
fn the_json_line_has_what_the_other_drivers_have_whatever_the_path() {
    let b = start_broker();
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
        let (ok, out) = run_perf(&b, &args);
        assert!(ok, "{out}");
        let line: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
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
            assert!(!line[field].is_null(), "{field} in {line}");
        }
        assert_eq!((&line["records"], &line["errors"]), (&2000.into(), &0.into()), "{line}");
        assert_eq!(line["bytes"], 2000 * 108);
    }
    let (ok, out) = run_perf(
        &b,
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
fn metrics_are_printed_as_kafkas_tool_prints_them() {
    let args =
        ["--num-records", "100", "--throughput", "-1", "--record-size", "10", "--print-metrics"];
    let (ok, out) = run_perf(&start_broker(), &args);
    assert!(ok, "{out}");
    let (_, table) = out.split_once("\n\n").unwrap();
    let mut lines = table.lines();
    let head = lines.next().unwrap();
    assert!(head.starts_with("Metric Name") && head.ends_with("   Value"), "{head}");
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
fn what_cannot_be_is_refused_with_its_reason() {
    let b = start_broker();
    let refused = |args: &[&str], why: &str| {
        let mut c = Command::cargo_bin("ottla").unwrap();
        c.args(["perf", "--topic", "t", "--bootstrap-server", &b.bootstrap_servers()]).args(args);
        let out = c.timeout(std::time::Duration::from_secs(60)).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    };
    let common = ["--num-records", "10", "--throughput", "-1"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    refused(&common, "exactly one of");
    refused(&with(&["--record-size", "1", "--payload-monotonic"]), "exactly one of");
    refused(&with(&["--record-size", "0"]), "--record-size");
    refused(&["--num-records", "0", "--throughput", "-1", "--record-size", "1"], "--num-records");
    refused(&["--num-records", "1", "--record-size", "1"], "--throughput");
    refused(
        &["--num-records", "1", "--throughput", "0", "--record-size", "1"],
        "never come to its end",
    );
    refused(&with(&["--record-size", "1", "--warmup-records", "10"]), "fewer than");
    refused(&with(&["--record-size", "1", "--command-property", "linger.ms"]), "not key=value");
    refused(
        &with(&["--record-size", "1", "--command-property", "a=b", "--producer-props", "c=d"]),
        "cannot be used with",
    );
    refused(&with(&["--record-size", "1", "--record-key-range", "5"]), "--key-distribution");
    refused(&with(&["--record-size", "1", "--transactional-id", "x"]), "not there yet");
    refused(&with(&["--payload-file", "/there/is/none"]), "/there/is/none");
}
