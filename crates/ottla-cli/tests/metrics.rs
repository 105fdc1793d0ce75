//! `--metrics-listen`: a reader written here, which knows only the text format of Prometheus, and
//! Prometheus's own parser read the metrics of a running command. Grafana's dashboard must query
//! only what they have read.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use ottla_testkit::PythonPackage;
use process::{RunningOttla, assert_fails, read_until, spawn_ottla};

/// The samples of one name.
struct Family {
    kind: String,
    has_help: bool,
    samples: Vec<Sample>,
}

struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the text format (version 0.0.4), and panics if a line breaks its rules.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let mut next = || words.next().unwrap_or_else(|| panic!("too short: {line}"));
            let (keyword, name, rest) = (next(), next(), next());
            if keyword == "HELP" {
                assert!(
                    !families.contains_key(name),
                    "the samples of {name} do not stand together"
                );
                let family = Family { kind: String::new(), has_help: true, samples: Vec::new() };
                families.insert(name.to_owned(), family);
                current = name.to_owned();
            } else {
                assert_eq!((keyword, name), ("TYPE", &*current), "{line}");
                assert!(["counter", "gauge"].contains(&rest), "{line}");
                families.get_mut(name).unwrap().kind = rest.to_owned();
            }
            continue;
        }
        let (name, sample) = parse_sample(line);
        assert_eq!(name, current, "a sample without its TYPE: {line}");
        families.get_mut(&name).unwrap().samples.push(sample);
    }
    families
}

fn parse_sample(line: &str) -> (String, Sample) {
    let is_name = |c: char, first: bool| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' || !first && c.is_ascii_digit()
    };
    let (name, mut rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    assert!(name.chars().enumerate().all(|(i, c)| is_name(c, i == 0)), "{line}");
    let mut labels = BTreeMap::new();
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(label.chars().enumerate().all(|(i, c)| is_name(c, i == 0)), "{line}");
        let (mut value, mut chars) = (String::new(), after.chars());
        loop {
            match chars.next().unwrap_or_else(|| panic!("no end of the label: {line}")) {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => value.push('\n'),
                    Some(c @ ('\\' | '"')) => value.push(c),
                    other => panic!("unknown escape {other:?}: {line}"),
                },
                c => value.push(c),
            }
        }
        assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
        match chars.next() {
            Some(',') => rest = chars.as_str(),
            Some('}') => {
                rest = chars.as_str();
                break;
            }
            other => panic!("{other:?} after a label: {line}"),
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = match value {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().unwrap_or_else(|e| panic!("{e}: {line}")),
    };
    (name.to_owned(), Sample { labels, value })
}

/// Starts a command that serves its metrics, and returns the address. Its input stays open.
fn start() -> (RunningOttla, String) {
    let args = ["produce", "--embedded", "-t", "orders", "-X", "client.id=a \"b\\", "--json"];
    let mut ottla = spawn_ottla(&[&args[..], &["--metrics-listen", "127.0.0.1:0"]].concat());
    let line = read_until(&mut ottla.stderr, "metrics at http://");
    let (_, after) = line.split_once("http://").unwrap();
    let (address, path) = after.trim().split_once('/').unwrap();
    assert_eq!(path, "metrics");
    (ottla, address.to_owned())
}

/// Sends a request, and returns the head and the body of the response.
fn request(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    (head.to_owned(), body.to_owned())
}

fn scrape(address: &str) -> BTreeMap<String, Family> {
    let (head, body) = request(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    parse(&body)
}

fn value(families: &BTreeMap<String, Family>, name: &str) -> f64 {
    families[name].samples.iter().map(|s| s.value).sum()
}

#[test]
fn running_command_serves_its_metrics_and_the_dashboard_queries_no_other() {
    let (mut ottla, address) = start();
    ottla.stdin.write_all(b"a\nb\nc\n").unwrap();
    let mut stdout = std::io::BufReader::new(ottla.child.stdout.take().unwrap());
    for _ in 0..3 {
        assert!(stdout.read_line(&mut String::new()).unwrap() > 0, "a record has no result");
    }
    let families = scrape(&address);
    for (name, family) in &families {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        assert_eq!((&*family.kind, family.has_help), (kind, true), "{name}");
        let labels: BTreeSet<_> = family.samples.iter().map(|s| &s.labels).collect();
        assert_eq!(labels.len(), family.samples.len(), "{name} has two equal samples");
        assert!(family.samples.iter().all(|s| s.labels["client_id"] == "a \"b\\"), "{name}");
    }
    assert_eq!(value(&families, "kafka_producer_record_send_total"), 3.0);
    let of_topic = &families["kafka_producer_topic_record_send_total"].samples;
    assert_eq!((&*of_topic[0].labels["topic"], of_topic[0].value), ("orders", 3.0));
    assert!(value(&families, "kafka_producer_node_request_total") >= 3.0);
    assert_eq!(families["kafka_app_info_version"].samples[0].labels["value"], "0.1.0");

    let dashboard = include_str!("../../../docs/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        queries.extend(panel["targets"].as_array().unwrap().iter().map(|t| t["expr"].clone()));
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    queries.extend(variables.iter().map(|v| v["query"].clone()));
    let queries: Vec<&str> = queries.iter().map(|q| q.as_str().unwrap()).collect();
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let names = queries.iter().flat_map(|q| q.split(is_separator));
    let names: BTreeSet<&str> = names.filter(|name| name.starts_with("kafka_")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(families.contains_key(name), "the dashboard queries {name}, which is not served");
    }

    drop(ottla.stdin);
    assert!(ottla.child.wait().unwrap().success());
}

#[test]
fn parser_of_prometheus_reads_the_same_metrics() {
    const SCRIPT: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for s in family.samples:
        print(json.dumps([s.name, family.type, s.labels, repr(float(s.value))]))
";
    let Some(python) = PythonPackage::prometheus_client() else { return };
    let (mut ottla, address) = start();
    ottla.stdin.write_all(b"a\nb\nc\n").unwrap();
    let mut stdout = std::io::BufReader::new(ottla.child.stdout.take().unwrap());
    for _ in 0..3 {
        assert!(stdout.read_line(&mut String::new()).unwrap() > 0, "a record has no result");
    }
    let (_, body) = request(&address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut command = python.command(Path::new("-c"));
    command.arg(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = command.spawn().unwrap();
    reader.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let out = reader.wait_with_output().unwrap();
    assert!(out.status.success(), "the parser rejects:\n{body}");

    let mut samples = BTreeMap::new();
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        let (name, kind, labels, value): (String, String, BTreeMap<String, String>, String) =
            serde_json::from_str(line).unwrap();
        samples.insert((name, labels), (kind, value.parse::<f64>().unwrap()));
    }
    let families = parse(&body);
    let count: usize = families.values().map(|family| family.samples.len()).sum();
    assert_eq!(samples.len(), count, "the parsers count the same samples");
    for (name, family) in &families {
        for sample in &family.samples {
            let (kind, value) = &samples[&(name.clone(), sample.labels.clone())];
            assert_eq!(kind, &family.kind, "{name}");
            let is_equal = *value == sample.value || value.is_nan() && sample.value.is_nan();
            assert!(is_equal, "{name}: {value} and {}", sample.value);
        }
    }
    drop(ottla.stdin);
    assert!(ottla.child.wait().unwrap().success());
}

#[test]
fn wrong_requests_get_an_error_and_do_not_stop_the_server() {
    let (ottla, address) = start();
    let status = |text: &str| request(&address, text).0.lines().next().unwrap().to_owned();
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status("\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    // One byte too much. The server would reset the connection if it left bytes unread.
    let large = format!("GET /{} HTTP/1.1\r\n", "a".repeat(8193 - 16));
    assert_eq!(status(&large), "HTTP/1.1 431 Request Header Fields Too Large");
    // A client that goes away in its request.
    TcpStream::connect(&address).unwrap().write_all(b"GET /met").unwrap();
    let (head, _) = request(&address, "GET /metrics?a=b HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let RunningOttla { mut child, stdin, .. } = ottla;
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn address_that_is_in_use_is_a_wrong_option() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["produce", "--embedded", "-t", "t", "--metrics-listen", &address];
    assert_fails(&args, b"a\n", 2, &["cannot listen on", &address, "--metrics-listen"]);
}
