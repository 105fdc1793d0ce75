//! `--value-schema` and `--key-schema`: with a registry of franz-go's `srfake`, read back by the
//! deserializers of Python's confluent-kafka.
//!
//! Without Go or Python the tests report that they are skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ottla_broker::EmbeddedBroker;
use ottla_testkit::{FakeSchemaRegistry, Librdkafka};
use process::{assert_fails, run_ottla};
use serde_json::{Value, json};

type KeyAndValue = (Option<Vec<u8>>, Option<Vec<u8>>);

const ORDER: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
    {"name": "id", "type": "long"},
    {"name": "note", "type": ["null", "string"], "default": null},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 8,
     "scale": 2}, "default": "\u0000"},
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "sizes", "type": {"type": "map", "values": "double"}, "default": {}}]}"#;

/// A registry, a broker with the topic `t`, and a directory with `order.avsc`.
struct Fixture {
    registry: FakeSchemaRegistry,
    broker: EmbeddedBroker,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn start() -> Option<Fixture> {
        let registry = FakeSchemaRegistry::start(None)?;
        let broker = EmbeddedBroker::builder().topic("t", 1).topic("u", 1).start().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("order.avsc"), ORDER).unwrap();
        std::fs::write(dir.path().join("key.avsc"), "\"string\"").unwrap();
        Some(Fixture { registry, broker, dir })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn args<'a>(&'a self, server: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["produce", "-b", server, "--schema-registry", &self.registry.url], more].concat()
    }

    fn produce(&self, args: &[&str], input: &str) {
        let server = self.broker.bootstrap_servers();
        let args = self.args(&server, args);
        let out = run_ottla(&args, input.as_bytes());
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn assert_fails(&self, args: &[&str], input: &str, status: i32, expected: &[&str]) {
        let server = self.broker.bootstrap_servers();
        assert_fails(&self.args(&server, args), input.as_bytes(), status, expected);
    }

    /// Returns keys and values of a topic.
    fn records(&self, topic: &str) -> Vec<KeyAndValue> {
        let records = self.broker.records(topic).unwrap().into_iter();
        records.map(|r| (r.key.map(|k| k.to_vec()), r.value.map(|v| v.to_vec()))).collect()
    }
}

/// Deserializes values of topic `t` with Python.
fn deserialize(python: &Librdkafka, url: &str, values: &[Vec<u8>]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/deserialize.py");
    let hex = |value: &Vec<u8>| {
        value.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    let out = python.command(&script).arg(url).args(values.iter().map(hex)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn values_are_read_by_pythons_deserializer() {
    let Some(fixture) = Fixture::start() else { return };
    let Some(python) = Librdkafka::find_or_install_with_schemas() else { return };
    let schema = fixture.path("order.avsc");
    let input = concat!(
        "{\"id\": 1, \"note\": \"café\", \"price\": 12.34, \"tags\": [\"a\", \"b\"]}\n",
        "{\"id\": -9007199254740993, \"note\": {\"string\": \"x\"}, \"sizes\": {\"s\": 0.5}}\n",
    );
    fixture.produce(&["-t", "t", "--value-schema", &schema], input);
    let values: Vec<_> = fixture.records("t").into_iter().map(|(_, v)| v.unwrap()).collect();
    let found = deserialize(&python, &fixture.registry.url, &values);
    assert_eq!(
        found,
        [
            json!({"id": 1, "note": "café", "price": "12.34", "tags": ["a", "b"], "sizes": {}}),
            json!({"id": -9_007_199_254_740_993_i64, "note": "x", "price": "0.00", "tags": [],
                   "sizes": {"s": 0.5}}),
        ]
    );
}

#[test]
fn json_objects_name_their_topic_and_have_keys_with_a_schema() {
    let Some(fixture) = Fixture::start() else { return };
    let (value, key) = (fixture.path("order.avsc"), fixture.path("key.avsc"));
    let input = concat!(
        "{\"topic\": \"t\", \"key\": \"k\", \"value\": {\"id\": 3}}\n",
        "{\"topic\": \"u\", \"key\": \"k\", \"value\": {\"id\": 3}}\n",
        "{\"topic\": \"t\", \"key\": \"k\", \"value\": null}\n",
        "{\"topic\": \"t\", \"key_base64\": \"aw==\", \"value_base64\": \"AAECAwQF\"}\n",
    );
    let args = ["--format", "json", "--value-schema", &value, "--key-schema", &key];
    fixture.produce(&args, input);
    let (t, u) = (fixture.records("t"), fixture.records("u"));
    let (key, value) = (t[0].0.clone().unwrap(), t[0].1.clone().unwrap());
    // A zero byte, the id, the text with its length.
    assert_eq!((key[0], &key[5..]), (0, &[2, b'k'][..]));
    assert_eq!((value[0], &value[5..]), (0, &[6, 0, 2, 0, 0, 0][..]));
    assert_ne!(key[1..5], value[1..5]);
    assert_eq!(u[0].1.as_deref(), Some(&value[..]), "one schema has one id");
    assert_eq!(t[1], (Some(key), None), "null is a tombstone");
    assert_eq!(t[2], (Some(b"k".to_vec()), Some(vec![0, 1, 2, 3, 4, 5])), "sent as it is");
    // A subject of the registry instead of the file.
    fixture.produce(&["-t", "u", "--value-schema", "t-value:1"], "{\"id\": 3}\n");
    assert_eq!(fixture.records("u")[1].1.as_deref(), Some(&value[..]));
}

#[test]
fn misfits_are_named_and_go_to_the_file_of_on_error() {
    let Some(fixture) = Fixture::start() else { return };
    let schema = fixture.path("order.avsc");
    let input = "{\"id\": 1}\n{\"id\": 2, \"tags\": [\"a\", 5]}\n{\"id\": 3}\nnot json\n";
    let expected = "line 2, value: field tags[1]: expected string, found 5";
    let args = ["-t", "t", "--value-schema", &schema];
    fixture.assert_fails(&args, input, 1, &[expected, "reading stopped at this record"]);
    assert_eq!(fixture.records("t").len(), 1);
    let rejected: PathBuf = fixture.dir.path().join("rejected.json");
    let path = rejected.display().to_string();
    fixture.assert_fails(&[&args[..], &["--on-error", &path]].concat(), input, 1, &[&path]);
    assert_eq!(fixture.records("t").len(), 3);
    let lines = std::fs::read_to_string(&rejected).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["input"], "{\"id\": 2, \"tags\": [\"a\", 5]}");
    assert!(lines[0]["error"].as_str().unwrap().contains(expected));
    assert!(lines[1]["error"].as_str().unwrap().contains("the value is not JSON"));
}

#[test]
fn wrong_schemas_are_found_before_the_first_record() {
    let Some(fixture) = Fixture::start() else { return };
    let schema = fixture.path("order.avsc");
    let no_register = ["-t", "t", "--value-schema", &schema, "-X", "auto.register.schemas=false"];
    let expected = "--value-schema: cannot find the schema in subject t-value";
    fixture.assert_fails(&no_register, "{}\n", 2, &[expected]);
    let args = ["-t", "t", "--value-schema", "t-value"];
    fixture.assert_fails(&args, "{}\n", 2, &["get version latest of subject t-value"]);
    let args = ["-t", "t", "--value-schema", "missing.avsc"];
    fixture.assert_fails(&args, "{}\n", 2, &["cannot read missing.avsc"]);
    fixture.assert_fails(&["-t", "t"], "a\n", 2, &["--schema-registry has no effect without"]);
    let args = ["-t", "t", "--format", "raw", "--value-schema", &schema];
    fixture.assert_fails(&args, "", 2, &["--value-schema and --key-schema read JSON"]);
    // A topic without a usable schema does not stop the others.
    let input =
        "{\"topic\": \"u\", \"value\": {\"id\": 1}}\n{\"topic\": \"t\", \"value\": {\"id\": 1}}\n";
    fixture.produce(&["-t", "t", "--value-schema", &schema], "{\"id\": 0}\n");
    let args = [&["--format", "json", "--on-error", "skip"][..], &no_register[2..]].concat();
    fixture.assert_fails(&args, input, 1, &["1 records acknowledged", "1 failed"]);
    assert_eq!(fixture.records("t").len(), 2);
}

/// Returns the text of the first code block of a language.
fn code_block<'a>(page: &'a str, language: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n```{language}\n")).expect("the page has the block");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn example_of_the_page_runs() {
    let Some(fixture) = Fixture::start() else { return };
    let page = include_str!("../../../docs/SCHEMAS.md");
    std::fs::write(fixture.path("order.avsc"), code_block(page, "json")).unwrap();
    let server = fixture.broker.bootstrap_servers();
    let ottla = assert_cmd::cargo::cargo_bin!("ottla").display().to_string();
    let command = code_block(page, "sh")
        .replace("localhost:9092", &server)
        .replace("http://localhost:8081", &fixture.registry.url)
        .replace("-t orders", "-t t")
        .replace("ottla produce", &format!("'{ottla}' produce"));
    let shell = std::process::Command::new("sh")
        .args(["-c", &command])
        .current_dir(fixture.dir.path())
        .output()
        .unwrap();
    assert!(shell.status.success(), "{command}\n{}", String::from_utf8_lossy(&shell.stderr));
    let (_, value) = fixture.records("t").remove(0);
    let expected = [&[14, 2, 14][..], b"by bike", &[4, 4, 210]].concat();
    assert_eq!(value.unwrap()[5..], expected[..]);
}
