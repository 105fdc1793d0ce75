//! `ottla produce --checkpoint`: a load that breaks off continues where it was acknowledged.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ottla_broker::EmbeddedBroker;
use ottla_protocol::wire::TestRng;
use process::{assert_fails, run_ottla};
use tempfile::TempDir;

/// A broker with the topic `t`, and files for loads.
struct LoadFixture {
    broker: EmbeddedBroker,
    server: String,
    dir: TempDir,
}

impl LoadFixture {
    fn start() -> LoadFixture {
        let broker = EmbeddedBroker::builder().topic("t", 3).topic("other", 1).start().unwrap();
        let server = broker.bootstrap_servers();
        LoadFixture { broker, server, dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    fn args(&self, more: &[&str], files: &[&Path]) -> Vec<String> {
        let checkpoint = self.path("checkpoint");
        let options = ["produce", "-b", &self.server, "-t", "t", "--checkpoint"];
        let files = files.iter().map(|f| f.to_str().unwrap());
        let options = options.into_iter().chain([checkpoint.to_str().unwrap()]);
        options.chain(more.iter().copied()).chain(files).map(str::to_owned).collect()
    }

    /// Runs the load and returns what it reports.
    fn run(&self, more: &[&str], files: &[&Path]) -> String {
        let args = self.args(more, files);
        let out = run_ottla(&args.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {stderr}");
        stderr
    }

    fn assert_refused(&self, more: &[&str], files: &[&Path], expected: &str) {
        let args = self.args(more, files);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_fails(&args, b"", 2, &[expected]);
    }

    /// Returns how often each value is in the log.
    fn values(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for record in self.broker.records("t").unwrap() {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            *counts.entry(value).or_default() += 1;
        }
        counts
    }

    fn assert_once_each(&self, expected: &[&str]) {
        let expected = expected.iter().map(|value| ((*value).to_owned(), 1)).collect();
        assert_eq!(self.values(), expected);
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// `TEST_CHECKPOINT_RECORDS=2000000` sends as many records.
#[test]
fn load_that_is_killed_ten_times_sends_every_line() {
    let setting = std::env::var("TEST_CHECKPOINT_RECORDS").ok();
    let records: usize = setting.and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let load = LoadFixture::start();
    let lines: Vec<String> = (0..records).map(|i| format!("line {i:08}")).collect();
    let file = load.write("input", lines.join("\n"));
    // The ten runs end after 4.5 s at the latest, and the load takes longer.
    let rate = (records / 6).to_string();
    let mut rng = TestRng::new(17);
    for _ in 0..10 {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
        command.args(load.args(&["--rate", &rate], &[&file]));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50 + rng.next_below(400)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "the load is not complete");
    }
    let output = load.run(&[], &[&file]);
    assert!(output.contains("continuing") && output.contains("may be stored twice"), "{output}");
    let sent = load.values();
    assert!(sent.keys().eq(lines.iter()), "{} of {records} lines", sent.len());
    let repeated: usize = sent.values().map(|n| n - 1).sum();
    eprintln!("{repeated} of {records} records are there twice");
    // The end of the load is a checkpoint, too.
    let output = load.run(&[], &[&file]);
    assert!(output.contains("nothing is sent twice"), "{output}");
    assert!(output.contains("0 records acknowledged"), "{output}");
}

#[test]
fn load_that_stopped_at_a_limit_continues_behind_it() {
    for (name, archive) in [("plain", false), ("archive", true)] {
        let load = LoadFixture::start();
        let text = |text: &str| if archive { gzip(text.as_bytes()) } else { text.into() };
        let (first, second) =
            (load.write("1", text("a\nb\nc\n")), load.write("2", text("d\ne\nf")));
        let files: [&Path; 2] = [&first, &second];
        for _ in 0..3 {
            load.run(&["-c", "2"], &files);
        }
        load.assert_once_each(&["a", "b", "c", "d", "e", "f"]);
        let output = load.run(&[], &files);
        assert!(
            output.contains("after line 3, which is acknowledged; nothing is sent"),
            "{output}"
        );
        assert!(load.values().len() == 6, "{name}");
    }
}

#[test]
fn every_format_continues_behind_its_last_record() {
    let json = "{\"value\":\"a\"}\n\n{\"value\":\"b\"}\n{\"value\":\"c\"}\n";
    let csv = "k,v\r\n1,\"x\r\ny\"\r\n2,b\r\n3,c\r\n";
    let csv_values = [r#"{"k":"1","v":"x\r\ny"}"#, r#"{"k":"2","v":"b"}"#, r#"{"k":"3","v":"c"}"#];
    let formats: [(&str, &str, &[&str], [&str; 3]); 4] = [
        ("json", json, &[], ["a", "b", "c"]),
        ("csv", csv, &["--key-column", "k"], csv_values),
        ("raw", "aabbcc", &["--value-size", "2"], ["aa", "bb", "cc"]),
        ("lines", "a;;b;;c;;", &["-D", ";;"], ["a", "b", "c"]),
    ];
    for (format, text, options, values) in formats {
        let load = LoadFixture::start();
        let file = load.write("input", text);
        let options = [&["--format", format], options].concat();
        for _ in 0..3 {
            load.run(&[&options[..], &["-c", "1"]].concat(), &[&file]);
        }
        load.run(&options, &[&file]);
        load.assert_once_each(&values);
    }
}

#[test]
fn file_that_has_grown_continues_and_a_changed_one_is_refused() {
    let load = LoadFixture::start();
    let file = load.write("input", "a\nb\n");
    load.run(&[], &[&file]);
    load.write("input", "a\nb\nc\n");
    load.run(&[], &[&file]);
    load.assert_once_each(&["a", "b", "c"]);

    load.write("input", "a\nB\nc\n");
    load.assert_refused(&[], &[&file], "is not the file that was sent: its start has changed");
    load.write("input", "a\nb\n");
    load.assert_refused(&[], &[&file], "is not the file that was sent");
    load.write("input", "a\nb\nc\n");
    let other = load.write("another", "x\n");
    load.assert_refused(&[], &[&other], "input 1 was");
    load.run(&[], &[&file, &other]);
    load.write("input", "a\nb\nc\nd\n");
    load.assert_refused(&[], &[&file, &other], "it has grown by 2 bytes after it was sent");
    load.assert_once_each(&["a", "b", "c", "x"]);
}

#[test]
fn record_without_an_end_continues_when_it_has_one_and_is_refused_when_it_has_grown() {
    let formats: [(&[&str], &str, &str, &[&str]); 5] = [
        (&[], "a\nb", "\nc\n", &["a", "b", "c"]),
        (&[], "a\r\nb", "\r\nc", &["a", "b", "c"]),
        (&["-D", ";;"], "a;;b", ";;c", &["a", "b", "c"]),
        (&["--format", "json"], "{\"value\":1}", "\n{\"value\":2}\n", &["1", "2"]),
        (&["--format", "csv", "--csv-value", "line"], "k\na", "\r\nb", &["a", "b"]),
    ];
    for (options, text, more, values) in formats {
        let load = LoadFixture::start();
        let file = load.write("input", text);
        load.run(options, &[&file]);
        load.write("input", format!("{text}x"));
        let expected = "its last record, which had no end, has grown";
        load.assert_refused(options, &[&file], expected);
        load.write("input", format!("{text}{more}"));
        load.run(options, &[&file]);
        load.assert_once_each(values);
    }
}

#[test]
fn run_that_ended_before_its_first_checkpoint_is_noticed() {
    let load = LoadFixture::start();
    let file = load.write("input", "a\n");
    load.run(&["-c", "0"], &[&file]);
    let checkpoint = load.path("checkpoint");
    let text = std::fs::read_to_string(&checkpoint).unwrap();
    // As after a kill.
    let killed = text.replace("\"has_ended\": true", "\"has_ended\": false");
    assert_ne!(killed, text);
    load.write("checkpoint", killed);
    let output = load.run(&[], &[&file]);
    let notice = "the last run ended before its first checkpoint; what it had sent may be stored";
    assert!(output.contains(notice), "{output}");
}

#[test]
fn checkpoint_of_another_load_is_refused() {
    let load = LoadFixture::start();
    let file = load.write("input", "a\n");
    load.run(&[], &[&file]);
    let args: &[&str] = &["--format", "json"];
    load.assert_refused(args, &[&file], "was read with --format lines, and now with --format json");
    load.assert_refused(&["-D", ";"], &[&file], "a record may end elsewhere");
    let args = load.args(&[], &[&file]).join(" ").replace("-t t", "-t other");
    assert_fails(&args.split(' ').collect::<Vec<_>>(), b"", 2, &["it belongs to the topic t"]);
    load.assert_refused(&[], &[], "a rerun could not read pipes, devices and standard input");
    load.assert_refused(&["-X", "acks=0"], &[&file], "with acks=0 nothing is acknowledged");
    load.write("checkpoint", "{}");
    load.assert_refused(&[], &[&file], "it is no checkpoint file");
    std::fs::remove_file(load.path("checkpoint")).unwrap();
    let checkpoint = load.path("checkpoint");
    std::fs::write(&checkpoint, "a\n").unwrap();
    load.assert_refused(&[], &[&checkpoint], "it is an input; name another file");
}

#[test]
fn failed_record_is_sent_again_unless_it_is_skipped() {
    let load = LoadFixture::start();
    let text = format!("a\n{}\nc\n", "x".repeat(2_000_000));
    let file = load.write("input", text);
    let args = load.args(&[], &[&file]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_fails(&args, b"", 1, &["reading stopped at this record"]);
    assert_fails(&args, b"", 1, &["after line 1, which is acknowledged"]);
    load.assert_once_each(&["a"]);
    let rejected = load.path("rejected");
    let args = load.args(&["--on-error", rejected.to_str().unwrap()], &[&file]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_fails(&args, b"", 1, &["line 2 is longer than max.request.size"]);
    load.assert_once_each(&["a", "c"]);
    let output = load.run(&[], &[&file]);
    assert!(output.contains("after line 3, which is acknowledged; nothing"), "{output}");
}
