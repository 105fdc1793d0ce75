//! `ottla produce --on-error`: what happens to records that are rejected.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::path::Path;

use ottla_broker::{EmbeddedBroker, NewTopic};
use process::{assert_fails, run_ottla, run_ottla_with_stdin};

/// A broker whose topic `small` takes only small batches.
fn start_broker() -> (EmbeddedBroker, String) {
    let small = NewTopic::new("small", 1).config("max.message.bytes", "2000");
    let broker = EmbeddedBroker::builder().new_topic(small).topic("copy", 1).start().unwrap();
    let server = broker.bootstrap_servers();
    (broker, server)
}

fn values(broker: &EmbeddedBroker, topic: &str) -> Vec<Vec<u8>> {
    let records = broker.records(topic).unwrap().into_iter();
    records.map(|r| r.value.unwrap_or_default().to_vec()).collect()
}

fn objects(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One line of each kind: good, refused by the broker, too large for the producer, no record.
fn mixed_lines() -> String {
    let refused = "r".repeat(5_000);
    let too_large = "x".repeat(1_100_000);
    format!(
        "{{\"value\":\"first\"}}\n\
         {{\"key\":\"k\",\"value\":\"{refused}\",\"headers\":[\"h\",null],\"timestamp\":5}}\n\
         {{\"value\":\"{too_large}\"}}\n\
         {{\"value\":\"open\n\
         {{\"value\":\"last\"}}\n"
    )
}

#[test]
fn skipped_records_count_as_failed_and_the_others_are_sent() {
    let (broker, server) = start_broker();
    let args = ["produce", "-b", &server, "-t", "small", "--format", "json", "--on-error", "skip"];
    assert_fails(
        &args,
        mixed_lines().as_bytes(),
        1,
        &[
            "2 records acknowledged",
            "3 failed",
            "standard input: line 4, column 14: EOF while parsing a string",
            "max.request.size (1048576)",
            "MESSAGE_TOO_LARGE",
        ],
    );
    assert_eq!(values(&broker, "small"), [b"first".to_vec(), b"last".to_vec()]);
}

#[test]
fn first_rejected_record_stops_the_reading() {
    let (broker, server) = start_broker();
    let produce = |input: &[u8], expected: &[&str]| {
        let args = ["produce", "-b", &server, "-t", "copy", "--on-error", "stop"];
        assert_fails(&args, input, 1, expected);
    };
    let over_the_limit = [b"a\n", &vec![b'x'; 3_000_000][..], b"\nlast\n"].concat();
    produce(&over_the_limit, &["1 records acknowledged", "reading stopped at this record"]);
    let with_overhead = [b"b\n", &vec![b'x'; 1_048_570][..], b"\nlast\n"].concat();
    produce(&with_overhead, &["1 records acknowledged", "reading stopped at line 2 of standard"]);
    assert_eq!(values(&broker, "copy"), [b"a", b"b"]);
    // The broker's refusal arrives while the command waits for more input.
    let args = ["produce", "-b", &server, "-t", "small", "--on-error", "stop"];
    let mut running = process::spawn_ottla(&args);
    let line = "r".repeat(5_000) + "\n";
    std::io::Write::write_all(&mut running.stdin, line.as_bytes()).unwrap();
    let output = process::read_until(&mut running.stderr, "reading stopped after record 1");
    assert!(output.contains("MESSAGE_TOO_LARGE"), "{output}");
    assert_eq!(running.child.wait().unwrap().code(), Some(1));
}

/// Returns a line of a record that names its topic and partition.
fn line_of_partition(topic: &str, partition: u32, value: u32) -> String {
    format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"value\":{value}}}\n")
}

#[test]
fn record_of_a_missing_partition_does_not_fail_the_other_records_of_its_topic() {
    let (broker, server) = start_broker();
    // The record without a partition shows that the topic itself has not failed.
    let input = line_of_partition("copy", 0, 1)
        + &line_of_partition("copy", 7, 2)
        + &line_of_partition("copy", 0, 3)
        + &line_of_partition("copy", 7, 4)
        + "{\"topic\":\"copy\",\"value\":5}\n";
    let args = ["produce", "-b", &server, "--format", "json", "--max-block-ms", "2000"];
    let missing = "  2 × topic copy has no partition 7, only 0 to 0";
    for more in
        [&[][..], &["-t", "copy"], &["--on-error", "skip"], &["-t", "copy", "--on-error", "skip"]]
    {
        let args = [&args[..], more].concat();
        let expected = ["3 records acknowledged", "2 failed", missing];
        assert_fails(&args, input.as_bytes(), 1, &expected);
    }
    let sent = values(&broker, "copy");
    assert_eq!(sent, [b"1", b"3", b"5"].repeat(4));
    // The partition of -p is that of every record.
    let all = [&args[..], &["-t", "copy", "-p", "7"]].concat();
    assert_fails(&all, input.as_bytes(), 1, &["0 records", "reading stopped at line 1"]);
}

/// Each record would wait for `max.block.ms`, so the test would not end.
#[test]
fn missing_topic_fails_once_for_all_partitions_that_its_records_name() {
    let broker = EmbeddedBroker::builder().auto_create_topics(false).topic("copy", 1);
    let broker = broker.start().unwrap();
    let server = broker.bootstrap_servers();
    let lines = (0..100).map(|i| line_of_partition("missing", i, i));
    let input = lines.collect::<String>() + &line_of_partition("copy", 0, 1);
    let args = ["produce", "-b", &server, "--format", "json", "--max-block-ms", "2000"];
    let expected =
        ["1 records acknowledged", "100 failed", "  100 × no metadata for topic missing"];
    assert_fails(&args, input.as_bytes(), 1, &expected);
    assert_eq!(values(&broker, "copy"), [b"1"]);
}

#[test]
fn rejected_records_are_written_to_a_file_and_can_be_sent_again() {
    let (broker, server) = start_broker();
    let dir = tempfile::tempdir().unwrap();
    let (input, file) = (dir.path().join("in.json"), dir.path().join("bad.json"));
    std::fs::write(&input, mixed_lines()).unwrap();
    let (input, path) = (input.to_str().unwrap(), file.to_str().unwrap());
    let args = ["produce", "-b", &server, "-t", "small", "--format", "json", "--on-error", path];
    assert_fails(
        &[&args[..], &[input]].concat(),
        b"",
        1,
        &[
            "2 records acknowledged",
            "3 failed",
            &format!("2 rejected records are in {path}: send them again with ottla produce"),
            &format!("1 inputs that are no records are in {path}"),
        ],
    );
    let mut rejected = objects(&file);
    rejected.sort_by_key(|object| object["source"].to_string());
    let sources: Vec<&str> = rejected.iter().map(|o| o["source"].as_str().unwrap()).collect();
    assert_eq!(sources, [2, 3, 4].map(|n| format!("{input}: line {n}")));
    let reasons = ["MESSAGE_TOO_LARGE", "max.request.size", "EOF while parsing a string"];
    for (object, reason) in rejected.iter().zip(reasons) {
        assert!(object["error"].as_str().unwrap().contains(reason), "{object}");
    }
    assert_eq!(rejected[0]["possibly_persisted"], false);
    assert_eq!(rejected[2]["input"], "{\"value\":\"open");

    // The third object needs a correction; until then it is reported as what it is.
    let again = ["produce", "-b", &server, "-t", "copy", "--format", "json", "--on-error", "skip"];
    let with_limit = [&again[..], &["-X", "max.request.size=2000000", path]].concat();
    assert_fails(&with_limit, b"", 1, &["the object has input that could not be read"]);
    // The broker refuses the record that is too large for every topic with the default limit.
    let copied = broker.records("copy").unwrap();
    let [record] = &copied[..] else { panic!("{} records", copied.len()) };
    assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(record.value.as_ref().unwrap().len(), 5_000);
    assert_eq!((&record.headers[..], record.timestamp), (&[("h".to_owned(), None)][..], 5));
}

#[test]
fn row_with_an_open_quote_ends_the_reading_or_is_written_with_topic_and_text() {
    let (broker, server) = start_broker();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (open, good, file) = (path("open.csv"), path("good.csv"), path("bad.json"));
    std::fs::write(&open, "id\n1\n\"2\n3\n").unwrap();
    std::fs::write(&good, "id\n4\n").unwrap();
    let args = ["produce", "-b", &server, "-t", "copy", "--format", "csv", "--csv-value", "line"];
    let reason = format!("{open}: line 3: the input ends inside a quoted field");
    let stopped = format!("{reason}; reading stopped at this record");
    let inputs = [&args[..], &[&open, &good]].concat();
    assert_fails(&inputs, b"", 1, &["1 records acknowledged", &stopped]);
    let with_file = [&inputs[..], &["--on-error", &file]].concat();
    assert_fails(&with_file, b"", 1, &["2 records acknowledged", "1 failed"]);
    assert_eq!(values(&broker, "copy"), [b"1", b"1", b"4"]);
    let source = format!("{open}: line 3");
    let expected = serde_json::json!({
        "topic": "copy", "input": "\"2\n3", "error": reason, "source": source,
    });
    assert_eq!(objects(Path::new(&file)), [expected]);
}

/// The reasons are counted, so they stay in memory.
#[test]
fn reason_of_a_failure_has_a_bounded_length() {
    let (_broker, server) = start_broker();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.json");
    let long = "\u{e9}".repeat(300_000);
    let lines = [
        format!("{{\"topic\":\"{long}\",\"value\":1}}"),
        format!("{{\"headers\":{{\"{long}\":\"\\ud800\"}},\"value\":1}}"),
        format!("{{\"value\":2,\"partition\":\"{long}\"}}"),
        format!("[\"{long}\"]"),
        format!("\"{long}\""),
    ];
    let input = lines.join("\n");
    let path = file.to_str().unwrap();
    let args = ["produce", "-b", &server, "--format", "json", "--json", "--on-error", path];
    let out = run_ottla(&args, input.as_bytes());
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(stderr.contains("5 failed") && stderr.contains("is longer than 249"), "{stderr}");
    assert!(stderr.len() < 20_000, "{} bytes", stderr.len());
    let stdout = String::from_utf8(out.stdout).unwrap();
    let printed = stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    let all: Vec<serde_json::Value> = objects(&file).into_iter().chain(printed).collect();
    assert_eq!(all.len(), 10);
    for object in all {
        assert!(object["error"].as_str().unwrap().len() < 5_000);
    }
}

#[test]
fn place_in_a_raw_input_is_the_number_of_the_value() {
    let (_broker, server) = start_broker();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.json");
    let input = [&b"\0\0\0\x01\n"[..], b"\0\0\x13\x88", &[b'r'; 5_000]].concat();
    let args = ["produce", "-b", &server, "-t", "small", "--format", "raw", "--on-error"];
    let with_file = [&args[..], &[file.to_str().unwrap()]].concat();
    assert_fails(&with_file, &input, 1, &["1 records acknowledged", "1 failed"]);
    assert_eq!(objects(&file)[0]["source"], "standard input: value 2");
    let limit = ["stop", "-X", "max.request.size=5000"];
    let expected = ["reading stopped at value 2 of standard input"];
    assert_fails(&[&args[..], &limit].concat(), &input, 1, &expected);
}

/// Unlike a text that is no record, such a record does not end the reading.
#[test]
fn record_that_is_too_long_only_counts_as_failed_in_each_format() {
    let (broker, server) = start_broker();
    let limit = ["produce", "-b", &server, "-t", "copy", "-p", "0", "-X", "max.request.size=200"];
    let shared_name =
        b"{\"value\":1,\"headers\":{\"name\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,\
        17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42]}}\n";
    let long_text = vec![b'x'; 70_000];
    for (format, too_long, last) in [
        ("lines", [&long_text[..], b"\n"].concat(), &b"1\n"[..]),
        ("json", shared_name.to_vec(), b"{\"value\":1}\n"),
        ("json", [b"{\"value\":\"", &long_text[..], b"\"}\n"].concat(), b"{\"value\":1}\n"),
        ("csv", [b"id\n", &long_text[..], b"\n"].concat(), b"1\n"),
        ("raw", [b"\0\x01\0\0", &vec![b'x'; 1 << 16][..]].concat(), b"\0\0\0\x011"),
    ] {
        let args = [&limit[..], &["--format", format]].concat();
        let expected = ["1 records acknowledged", "1 failed", "max.request.size"];
        assert_fails(&args, &[&too_long, last].concat(), 1, &expected);
    }
    assert_eq!(values(&broker, "copy").len(), 5);
}

#[test]
fn bytes_that_are_not_utf8_are_written_as_base64_and_the_file_is_appended_to() {
    let (broker, server) = start_broker();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.json");
    let path = file.to_str().unwrap();
    let args = ["produce", "-b", &server, "-t", "small", "-K", ":", "--on-error", path];
    let value = [b"\xff:\xfe", &vec![b'r'; 5_000][..], b"\n"].concat();
    for _ in 0..2 {
        assert_fails(&args, &value, 1, &["1 rejected records"]);
    }
    let args = ["produce", "-b", &server, "-t", "copy", "--format", "json", path];
    let out = run_ottla(&args, b"");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let copied = broker.records("copy").unwrap();
    assert_eq!(copied.len(), 2);
    for record in copied {
        assert_eq!(record.key.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(record.value.as_deref(), Some(&value[2..value.len() - 1]));
    }
}

#[test]
fn file_that_cannot_be_written_is_an_error_before_the_broker_starts() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("log");
    let embedded = ["produce", "--embedded", "--data-dir", data_dir.to_str().unwrap(), "-t", "t"];
    let missing = [&embedded[..], &["--on-error", "/no/such/file"]].concat();
    assert_fails(&missing, b"a\n", 2, &["cannot write /no/such/file of --on-error: No such file"]);
    assert!(!data_dir.exists());
}

/// The rejected records would be read again and again.
#[test]
fn file_that_is_an_input_under_any_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (input, hard_link, symlink) = (path("in"), path("hard"), path("soft"));
    std::fs::write(&input, "{\n").unwrap();
    std::fs::hard_link(&input, &hard_link).unwrap();
    std::os::unix::fs::symlink(&input, &symlink).unwrap();
    let args = ["produce", "--embedded", "-t", "t", "--format", "json", "--on-error"];
    for file in [&input, &hard_link, &symlink] {
        let named = [&args[..], &[file, &input]].concat();
        assert_fails(&named, b"", 2, &[file, "of --on-error is an input"]);
        let stdin = std::fs::File::open(&input).unwrap();
        let from_stdin = run_ottla_with_stdin(&[&args[..], &[file]].concat(), stdin);
        let stderr = String::from_utf8_lossy(&from_stdin.stderr);
        assert_eq!(from_stdin.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("of --on-error is an input"), "{stderr}");
    }
    assert_eq!(std::fs::read(&input).unwrap(), b"{\n");
    // Output to a device is not read from it.
    let null = std::fs::File::open("/dev/null").unwrap();
    let out = run_ottla_with_stdin(&[&args[..], &["/dev/null"]].concat(), null);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_stops_the_reading_because_rejected_records_would_be_lost() {
    let args = ["produce", "--embedded", "-t", "t", "--format", "json", "--on-error", "/dev/full"];
    let input = "{\"value\":1}\n{\n{\"value\":2}\n";
    let expected =
        ["1 records acknowledged", "cannot write a rejected record to /dev/full: No space"];
    assert_fails(&args, input.as_bytes(), 1, &expected);
}

/// The reading has ended by then, so only the summary can say it.
#[cfg(target_os = "linux")]
#[test]
fn record_that_cannot_be_written_during_the_close_is_not_reported_as_written() {
    let (_broker, server) = start_broker();
    let args = ["produce", "-b", &server, "-t", "small", "--on-error", "/dev/full"];
    let refused = "r".repeat(5_000) + "\n";
    let out = run_ottla(&args, refused.as_bytes());
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    let expected = "cannot write a rejected record to /dev/full: No space left on device \
                    (os error 28); the file lacks some or all of 1 rejected records\n";
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!stderr.contains("are in /dev/full"), "{stderr}");
}
