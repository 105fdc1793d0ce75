//! Limits of the system: the command says which one is too low. It does not panic, hang or end
//! without a message.
#![allow(missing_docs, clippy::disallowed_methods)]
#![cfg(target_os = "linux")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs the command under limits that the shell sets first.
fn run_limited(shell: &str, limits: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new("timeout")
        .args(["60", "/bin/sh", "-c", &format!("{limits}; {shell} \"$0\" \"$@\"")])
        .arg(assert_cmd::cargo::cargo_bin!("ottla"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Checks that the command has succeeded, or failed with a message that contains one of the texts.
/// Returns whether it has succeeded.
fn succeeds_or_explains(context: &str, out: &Output, explanations: &[&str]) -> bool {
    let stderr = String::from_utf8_lossy(&out.stderr);
    let explained = explanations.iter().any(|text| stderr.contains(text));
    let code = out.status.code();
    assert!(!stderr.contains("panicked"), "{context}: {stderr}");
    let is_explained_failure = matches!(code, Some(1 | 2)) && explained;
    assert!(code == Some(0) || is_explained_failure, "{context}: {code:?}: {stderr}");
    code == Some(0)
}

const PRODUCE: [&str; 6] = ["produce", "--embedded", "-t", "t", "--max-block-ms", "1000"];

#[test]
fn too_few_open_files_are_reported() {
    let mut successes = 0;
    // From the fewest that the dynamic linker and the shell need.
    for limit in 5..=26 {
        let limits = format!("ulimit -n {limit}");
        let out = run_limited("exec", &limits, &PRODUCE, b"a\nb\n");
        let explanations = ["Too many open files", "No file descriptors available"];
        successes += u32::from(succeeds_or_explains(&limits, &out, &explanations));
    }
    assert!((1..22).contains(&successes), "{successes} runs");
}

#[test]
fn too_little_address_space_is_reported() {
    let lines: Vec<u8> = (0..100_000).flat_map(|i| format!("{i:0100}\n").into_bytes()).collect();
    let mut successes = 0;
    for (limit_kib, codec) in [
        // The unoptimised command itself takes 37,000. With less, the dynamic linker ends it.
        (50_000, "none"),
        (60_000, "gzip"),
        (130_000, "gzip"),
        (200_000, "zstd"),
        (400_000, "none"),
    ] {
        let limits = format!("ulimit -v {limit_kib}");
        let args = [&PRODUCE[..], &["-z", codec]].concat();
        let out = run_limited("exec", &limits, &args, &lines);
        successes += u32::from(succeeds_or_explains(
            &limits,
            &out,
            &["the limit on address space is too low"],
        ));
    }
    assert!((2..5).contains(&successes), "{successes} runs");
}

#[test]
fn too_few_threads_are_reported() {
    // The limit does not apply to root, and for other users it counts all their threads.
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" || Command::new("setpriv").arg("--version").output().is_err() {
        ottla_testkit::skip_test("a limit on threads needs root and setpriv (util-linux)");
        return;
    }
    let mut successes = 0;
    for limit in 1..=12 {
        // The shells of some systems have no `ulimit -u`.
        let shell = format!(
            "exec prlimit --nproc={limit} setpriv --reuid 54321 --regid 54321 --clear-groups"
        );
        let out = run_limited(&shell, "true", &PRODUCE, b"a\nb\n");
        let explanations = ["Resource temporarily unavailable"];
        successes += u32::from(succeeds_or_explains(&shell, &out, &explanations));
    }
    assert!((1..12).contains(&successes), "{successes} runs");
}

#[test]
fn full_disk_is_reported_once_and_keeps_the_log_valid() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    let mut args = vec!["produce", "--embedded", "--data-dir", &data_dir, "-t", "t"];
    args.extend(["-X", "delivery.timeout.ms=3000", "-X", "request.timeout.ms=1000"]);
    args.extend(["--batch-size", "4096"]);
    let lines: Vec<u8> = (0..20_000).flat_map(|i| format!("{i:0100}\n").into_bytes()).collect();
    // The limit on the size of a file stands for a disk: the write fails, and a part is written.
    let out = run_limited("exec", "ulimit -f 200", &args, &lines);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    let log = "data/t-0/00000000000000000000.log: File too large";
    assert_eq!(stderr.matches("append failed: ").count(), 1, "{stderr}");
    assert!(stderr.contains(&format!("KAFKA_STORAGE_ERROR: {}", dir.path().display())), "{stderr}");
    assert!(stderr.contains(log), "{stderr}");
    // Each reason is listed once, not once for each time that a record has spent somewhere.
    assert!(!stderr.contains(" s queued"), "{stderr}");
    let acknowledged = stderr.lines().find_map(|l| l.split_once(" records acknowledged"));
    let acknowledged: u64 = acknowledged.unwrap().0.parse().unwrap();
    assert!((1..20_000).contains(&acknowledged), "{stderr}");
    // The log has whole batches only, and the next broker continues it.
    args.push("--json");
    let out = run_limited("exec", "true", &args, b"next\n");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["offset"], acknowledged, "{json}");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(!stderr.contains("truncated"), "{stderr}");
}

#[test]
fn data_directory_that_cannot_be_written_is_named() {
    let args = ["produce", "--embedded", "--data-dir", "/proc/no-such-dir", "-t", "t"];
    let out = run_limited("exec", "true", &args, b"x\n");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot use the directory /proc/no-such-dir: "), "{stderr}");
}
