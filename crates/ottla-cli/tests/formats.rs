//! The formats of `ottla produce --format`, through the command and the embedded broker.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::collections::BTreeMap;
use std::process::Output;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ottla_broker::{ConsumerRecord, EmbeddedBroker};
use ottla_protocol::wire::TestRng;
use ottla_testkit::Jars;
use process::{assert_fails, run_ottla};

type KeyAndValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What a record says, without its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: i64,
}

/// Returns the number of generated records; `TEST_FORMAT_RECORDS=1000000` sets it.
fn generated_records() -> u64 {
    std::env::var("TEST_FORMAT_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000)
}

fn broker(topics: &[&str]) -> (EmbeddedBroker, String) {
    let mut builder = EmbeddedBroker::builder();
    for topic in topics {
        builder = builder.topic(*topic, 3);
    }
    let broker = builder.start().unwrap();
    let server = broker.bootstrap_servers();
    (broker, server)
}

fn contents(broker: &EmbeddedBroker, topic: &str) -> BTreeMap<(i32, i64), Content> {
    let bytes = |b: Option<bytes::Bytes>| b.map(|b| b.to_vec());
    let content = |r: ConsumerRecord| Content {
        key: bytes(r.key),
        value: bytes(r.value),
        headers: r.headers.into_iter().map(|(name, value)| (name, bytes(value))).collect(),
        timestamp: r.timestamp,
    };
    let records = broker.records(topic).unwrap().into_iter();
    records.map(|r| ((r.partition, r.offset), content(r))).collect()
}

fn produce(server: &str, args: &[&str], input: &[u8]) -> Output {
    let out = run_ottla(&[&["produce", "-b", server], args].concat(), input);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// Returns bytes that are null, text, text with escapes, or no text at all.
fn random_bytes(rng: &mut TestRng) -> Option<Vec<u8>> {
    Some(match rng.next_below(10) {
        0 => return None,
        1 => Vec::new(),
        2..5 => rng.next_bytes().to_vec(),
        5 => (0..rng.next_below(40)).map(|_| rng.next_below(128) as u8).collect(),
        6 => "snowman \u{2603} \u{1f600} \"\\/\u{7f}\u{2028}".into(),
        _ => format!("value {}", rng.next_u64()).into_bytes(),
    })
}

fn random_content(rng: &mut TestRng, n: u64) -> Content {
    let headers = (0..rng.next_below(4)).map(|i| (format!("h{}", i / 2), random_bytes(rng)));
    Content {
        headers: headers.collect(),
        key: random_bytes(rng),
        value: random_bytes(rng),
        timestamp: 1_700_000_000_000 + n as i64,
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Returns the JSON of a key or a value, in one of the forms that mean these bytes.
fn json_bytes(rng: &mut TestRng, name: &str, bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return format!("\"{name}\":null") };
    match text(bytes) {
        Some(text) if rng.next_below(3) != 0 => {
            format!("\"{name}\":{}", serde_json::Value::from(text))
        }
        _ => format!("\"{name}_base64\":\"{}\"", BASE64_STANDARD.encode(bytes)),
    }
}

fn json_headers(rng: &mut TestRng, headers: &[(String, Option<Vec<u8>>)]) -> String {
    let is_text = |value: &Option<Vec<u8>>| value.as_deref().is_none_or(|v| text(v).is_some());
    let all_text = headers.iter().all(|(_, value)| is_text(value));
    let form = if all_text { rng.next_below(4) } else { 3 };
    let elements = headers.iter().map(|(name, value)| {
        let json = || serde_json::Value::from(value.as_deref().map(|v| text(v).unwrap()));
        match form {
            0 => format!("\"{name}\",{}", json()),
            1 => format!("[\"{name}\",{}]", json()),
            2 => format!("\"{name}\":{}", json()),
            _ => format!("{{\"key\":\"{name}\",{}}}", json_bytes(rng, "value", value.as_deref())),
        }
    });
    let elements: Vec<String> = elements.collect();
    let elements = elements.join(",");
    if form == 2 { format!("{{{elements}}}") } else { format!("[{elements}]") }
}

/// Generates records and their lines. The partition is 0, so that the log has the lines' order.
fn generate(count: u64) -> (Vec<Content>, Vec<u8>) {
    let (mut rng, mut lines) = (TestRng::new(count), Vec::new());
    let mut records = Vec::new();
    for n in 0..count {
        let record = random_content(&mut rng, n);
        let mut members = [
            "\"topic\":\"made\"".to_owned(),
            "\"partition\":0".to_owned(),
            format!("\"timestamp\":{}", record.timestamp),
            json_bytes(&mut rng, "key", record.key.as_deref()),
            json_bytes(&mut rng, "value", record.value.as_deref()),
            format!("\"headers\":{}", json_headers(&mut rng, &record.headers)),
        ];
        let last = members.len() - 1;
        members.swap(rng.next_below(last as u64) as usize, last);
        lines.extend(format!("{{{}}}\n", members.join(", ")).into_bytes());
        records.push(record);
    }
    (records, lines)
}

#[test]
fn generated_json_objects_reach_the_broker_byte_for_byte() {
    let (broker, server) = broker(&["made"]);
    let (records, lines) = generate(generated_records());
    produce(&server, &["--format", "json"], &lines);
    let log: Vec<Content> = contents(&broker, "made").into_values().collect();
    assert_eq!(log.len(), records.len());
    for (i, (found, expected)) in log.iter().zip(&records).enumerate() {
        assert_eq!(found, expected, "record {i}");
    }
}

#[test]
fn generated_json_objects_reach_kafka_byte_for_byte() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let kafka = ottla_testkit::Kafka::start(&jars, "");
    // The timestamps are of 2023, so Kafka's default retention would delete the records.
    kafka.create_topic("made", 1, &["retention.ms=-1"]);
    let (records, lines) = generate(generated_records());
    produce(&kafka.bootstrap, &["--format", "json"], &lines);
    let mut log = kafka.read_topic("made");
    log.sort_by_key(|r| r.offset);
    assert_eq!(log.len(), records.len());
    for (found, expected) in log.into_iter().zip(records) {
        let ottla_testkit::ConsumerRecord { key, value, headers, timestamp, .. } = found;
        assert_eq!(Content { key, value, headers, timestamp }, expected);
    }
}

#[test]
fn results_of_json_can_be_sent_again_unchanged() {
    let (broker, server) = broker(&["made", "copy"]);
    let (_, lines) = generate(500);
    let out = produce(&server, &["--format", "json", "-p", "-1", "--json"], &lines);
    let results = String::from_utf8(out.stdout.clone()).unwrap();
    for line in results.lines() {
        let result: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(result["offset"].is_u64() && result["topic"] == "made", "{line}");
    }
    produce(&server, &["--format", "json", "-t", "copy"], &out.stdout);
    let (made, copy) = (contents(&broker, "made"), contents(&broker, "copy"));
    assert_eq!((made.len(), &copy), (500, &made));
}

#[test]
fn results_of_lines_can_be_sent_again_unchanged() {
    let (broker, server) = broker(&["lines", "copy"]);
    let args = ["-t", "lines", "-K", ":", "-Z", "-H", "h=1", "--json"];
    let out = produce(&server, &args, b"k:v\nno key\nk:\n\xff:\xfe\n");
    produce(&server, &["--format", "json", "-t", "copy"], &out.stdout);
    let (lines, copy) = (contents(&broker, "lines"), contents(&broker, "copy"));
    assert_eq!((lines.len(), &copy), (4, &lines));
}

/// The dump has the form that kcat's `json.c` writes for `kcat -C -J`.
#[test]
fn dump_of_kcat_can_be_sent_again_unchanged() {
    let (broker, server) = broker(&["copy"]);
    let dump = b"{\"topic\":\"t\",\"partition\":2,\"offset\":0,\"tstype\":\"create\",\
        \"ts\":1700000000001,\"broker\":1,\"headers\":[\"h\",\"1\",\"h\",null],\
        \"key\":\"k\",\"payload\":\"a\\n\\\"b\\\"\"}\n\
        {\"topic\":\"t\",\"partition\":2,\"offset\":1,\"tstype\":\"logappend\",\
        \"ts\":1700000000002,\"broker\":1,\"key\":null,\"payload\":\"\xff\\u0000\"}\n\
        {\"topic\":\"t\",\"partition\":0,\"offset\":7,\"tstype\":\"create\",\
        \"ts\":1700000000003,\"broker\":1,\"key\":\"\",\"payload\":null}\n";
    produce(&server, &["--format", "json", "-t", "copy"], dump);
    let content = |key: Option<&[u8]>, value: Option<&[u8]>, timestamp| Content {
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
        timestamp,
    };
    let mut first = content(Some(b"k"), Some(b"a\n\"b\""), 1_700_000_000_001);
    first.headers = vec![("h".into(), Some(b"1".to_vec())), ("h".into(), None)];
    let expected = BTreeMap::from([
        ((2, 0), first),
        ((2, 1), content(None, Some(b"\xff\0"), 1_700_000_000_002)),
        ((0, 0), content(Some(b""), None, 1_700_000_000_003)),
    ]);
    assert_eq!(contents(&broker, "copy"), expected);
}

/// Reads a topic with kcat, where it is installed (Debian's package `kcat`).
#[test]
fn topic_that_kcat_reads_can_be_sent_again_unchanged() {
    let (broker, server) = broker(&["made", "copy"]);
    let (_, lines) = generate(1000);
    produce(&server, &["--format", "json", "-p", "-1"], &lines);
    let kcat = std::process::Command::new("kcat")
        .args(["-C", "-b", &server, "-t", "made", "-J", "-e", "-q", "-o", "beginning"])
        .output();
    let Ok(dump) = kcat else {
        ottla_testkit::skip_test("reading a topic with kcat needs kcat (apt-get install kcat)");
        return;
    };
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    produce(&server, &["--format", "json", "-t", "copy"], &dump.stdout);
    let (made, copy) = (contents(&broker, "made"), contents(&broker, "copy"));
    assert_eq!((made.len(), &copy), (1000, &made));
}

#[test]
fn topic_that_fails_does_not_stop_the_others() {
    let broker = EmbeddedBroker::builder().auto_create_topics(false).topic("good", 1);
    let broker = broker.start().unwrap();
    let server = broker.bootstrap_servers();
    let mut input = String::new();
    for i in 0..50 {
        for topic in ["good", "missing", "not/allowed"] {
            input += &format!("{{\"topic\":\"{topic}\",\"value\":{i}}}\n");
        }
    }
    // Each record of the topic without metadata would wait for this long.
    let args = ["produce", "-b", &server, "--format", "json", "--max-block-ms", "2000"];
    assert_fails(
        &args,
        input.as_bytes(),
        1,
        &["50 records acknowledged", "100 failed", "  50 × ", "missing", "not/allowed"],
    );
    assert_eq!(contents(&broker, "good").len(), 50);
}

#[test]
fn bad_line_ends_the_reading_with_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.json");
    std::fs::write(&file, "{\"value\":1}\n\n{\"value\":2,\"partition\":\"x\"}\n{\"value\":3}\n")
        .unwrap();
    let args = ["produce", "--embedded", "-t", "t", "--format", "json", file.to_str().unwrap()];
    assert_fails(
        &args,
        b"",
        1,
        &[
            "1 records acknowledged",
            "orders.json: line 3, field partition: expected an integer from 0 to 2147483647, or \
             null, found \"x\"; reading stopped at this record",
        ],
    );
    let args = ["produce", "--embedded", "--format", "json"];
    assert_fails(&args, b"{\"value\":1}\n", 1, &["standard input: line 1: no topic: expected"]);
}

#[test]
fn csv_and_raw_files_become_records() {
    let (broker, server) = broker(&["rows", "texts", "values"]);
    let csv = b"id,name\n7,\"Ada \"\"L\"\"\"\n8,Bo\n";
    let keyed = ["--format", "csv", "--key-column", "id", "-p", "0"];
    produce(&server, &[&["-t", "rows"], &keyed[..]].concat(), csv);
    produce(&server, &[&["-t", "texts", "--csv-value", "line"], &keyed[..]].concat(), csv);
    let log = |topic: &str| -> Vec<KeyAndValue> {
        contents(&broker, topic).into_values().map(|c| (c.key, c.value)).collect()
    };
    let record = |key: &str, value: &str| (Some(key.into()), Some(value.into()));
    assert_eq!(
        log("rows"),
        [record("7", r#"{"id":"7","name":"Ada \"L\""}"#), record("8", r#"{"id":"8","name":"Bo"}"#)]
    );
    assert_eq!(log("texts"), [record("7", "7,\"Ada \"\"L\"\"\""), record("8", "8,Bo")]);
    let raw = b"\0\0\0\x02a\n\xff\xff\xff\xff\0\0\0\x01\xff";
    produce(&server, &["-t", "values", "--format", "raw", "-p", "0", "-k", "k"], raw);
    let key = || Some(b"k".to_vec());
    let expected = [(key(), Some(b"a\n".to_vec())), (key(), None), (key(), Some(vec![0xff]))];
    assert_eq!(log("values"), expected);
    let truncated = ["produce", "-b", &server, "-t", "values", "--format", "raw"];
    assert_fails(&truncated, &raw[..14], 1, &["standard input: value 3: the input ends after 0"]);
    let missing = ["produce", "-b", &server, "-t", "t", "--format", "csv", "--key-column", "x"];
    assert_fails(&missing, csv, 1, &["standard input", "no column \"x\" but id, name"]);
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    std::io::Write::write_all(&mut encoder, text).unwrap();
    encoder.finish().unwrap()
}

fn values(broker: &EmbeddedBroker, topic: &str) -> Vec<String> {
    let values = contents(broker, topic).into_values().map(|c| c.value.unwrap());
    values.map(|v| String::from_utf8(v).unwrap()).collect()
}

#[test]
fn archive_is_decompressed_with_any_name() {
    let (broker, server) = broker(&["lines", "csv", "raw"]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("a.txt"), gzip(b"one\ntwo\n")).unwrap();
    std::fs::write(path("b.gz"), b"three\n").unwrap();
    produce(
        &server,
        &["-t", "lines", "-p", "0", &path("a.txt"), &path("b.gz"), "-"],
        &gzip(b"4\n5"),
    );
    assert_eq!(values(&broker, "lines"), ["one", "two", "three", "4", "5"]);
    let csv = gzip(b"k,v\n1,a\n");
    produce(&server, &["-t", "csv", "--format", "csv", "--key-column", "k"], &csv);
    assert_eq!(values(&broker, "csv"), [r#"{"k":"1","v":"a"}"#]);
    let size = csv.len().to_string();
    let raw = ["-t", "raw", "--format", "raw", "--value-size", &size, "--no-decompress"];
    produce(&server, &raw, &csv);
    let sent = contents(&broker, "raw").into_values().next().unwrap();
    assert_eq!(sent.value.unwrap(), csv);
}

#[test]
fn archive_that_is_incomplete_is_an_error_after_its_records() {
    let (broker, server) = broker(&["t"]);
    let lines: String = (0..200_000).map(|i| format!("{i}\n")).collect();
    let archive = gzip(lines.as_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("incomplete.gz");
    std::fs::write(&path, &archive[..archive.len() - 5]).unwrap();
    let file = path.to_str().unwrap();
    let reason = format!("cannot read {file}: the gzip archive is incomplete: its end is missing");
    assert_fails(&["produce", "-b", &server, "-t", "t", file], b"", 1, &[&reason]);
    let sent = values(&broker, "t").len();
    assert!((100_000..=200_000).contains(&sent), "{sent} records");
}

#[test]
fn rate_limits_records_or_bytes() {
    let (broker, server) = broker(&["t"]);
    for rate in ["100000", "100MB"] {
        produce(&server, &["-t", "t", "--rate", rate], b"1\n2\n3\n");
    }
    assert_eq!(values(&broker, "t").len(), 6);
    let args = ["produce", "-b", &server, "-t", "t", "--rate", "0"];
    assert_fails(&args, b"", 2, &["expected records a second such as 500, bytes a second"]);
}

#[test]
fn rate_follows_the_timestamps_of_records() {
    let (broker, server) = broker(&["t"]);
    let line = |timestamp: u64| format!("{{\"value\":1,\"timestamp\":{timestamp}}}\n");
    let day = 24 * 3600 * 1000;
    let input = line(day) + "{\"value\":2}\n" + &line(day + 1000) + &line(0);
    let args = ["-t", "t", "--format", "json", "-p", "0", "--rate"];
    produce(&server, &[&args[..], &["1000x"]].concat(), input.as_bytes());
    assert_eq!(values(&broker, "t").len(), 4);
    let refused = ["produce", "-b", &server, "-t", "t", "--rate", "1x"];
    assert_fails(&refused, b"", 2, &["only records of --format json have timestamps"]);
    // The second record is due after a day. A signal does not wait for it.
    let all = [&["produce", "-b", &server], &args[..], &["1x"]].concat();
    let mut running = process::spawn_ottla(&all);
    std::io::Write::write_all(&mut running.stdin, (line(0) + &line(day)).as_bytes()).unwrap();
    broker.wait_for_records("t", 5, std::time::Duration::from_secs(60)).unwrap();
    process::send_signal(&running.child, "-INT");
    process::read_until(&mut running.stderr, "2 records acknowledged");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}
