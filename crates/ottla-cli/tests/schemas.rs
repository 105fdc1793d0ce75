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
        let broker =
            EmbeddedBroker::builder().topic("t", 1).topic("u", 1).topic("v", 1).start().unwrap();
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

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Returns the values of topic `t`.
    fn values(&self) -> Vec<Vec<u8>> {
        self.records("t").into_iter().map(|(_, value)| value.unwrap()).collect()
    }

    /// Returns keys and values of a topic.
    fn records(&self, topic: &str) -> Vec<KeyAndValue> {
        let records = self.broker.records(topic).unwrap().into_iter();
        records.map(|r| (r.key.map(|k| k.to_vec()), r.value.map(|v| v.to_vec()))).collect()
    }
}

/// Deserializes values of topic `t` with Python. `format` is avro, protobuf or json.
fn deserialize(python: &Librdkafka, format: &str, url: &str, values: &[Vec<u8>]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/deserialize.py");
    let hex = |value: &Vec<u8>| {
        value.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    let out =
        python.command(&script).args([format, url]).args(values.iter().map(hex)).output().unwrap();
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
    let values = fixture.values();
    let found = deserialize(&python, "avro", &fixture.registry.url, &values);
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

const ITEM_PROTO: &str = "syntax = \"proto3\"; package shop; message Item { double price = 1; }";
const ORDER_PROTO: &str = r#"syntax = "proto3"; package shop;
    message Item { double price = 1; }
    message Order { int64 id = 1; string note = 2; repeated Item items = 3; }"#;

#[test]
fn protobuf_is_read_by_pythons_deserializer() {
    let Some(fixture) = Fixture::start() else { return };
    let schema = fixture.write("order.proto", ORDER_PROTO);
    let input = concat!(
        "{\"id\": 1, \"note\": \"café\", \"items\": [{\"price\": 12.5}, {}]}\n",
        "{\"id\": \"-9007199254740993\"}\n",
    );
    let args = ["-t", "t", "--value-schema", &schema, "--value-message", "shop.Order"];
    fixture.produce(&args, input);
    let values = fixture.values();
    // The index: one number, and it is 1.
    assert_eq!((values[0][0], &values[0][5..9]), (0, &[2, 2, 8, 1][..]));
    let Some(python) = Librdkafka::find_or_install_with_schemas() else { return };
    let found = deserialize(&python, "protobuf", &fixture.registry.url, &values);
    assert_eq!(
        found,
        [
            json!({"id": "1", "note": "café", "items": [{"price": 12.5}, {}]}),
            json!({"id": "-9007199254740993"}),
        ]
    );
}

#[test]
fn protobuf_imports_files_and_subjects() {
    let Some(fixture) = Fixture::start() else { return };
    let item = fixture.write("item.proto", ITEM_PROTO);
    let order = r#"syntax = "proto3"; package shop; import "shop/item.proto";
        import "google/protobuf/timestamp.proto";
        message Order { Item item = 1; google.protobuf.Timestamp at = 2; }"#;
    let order = fixture.write("order.proto", order);
    let input = "{\"item\": {}, \"at\": \"1970-01-01T00:00:05Z\"}\n";
    let schema = ["-t", "t", "--value-schema", &order];
    let file = format!("shop/item.proto={item}");
    fixture.produce(&[&schema[..], &["--schema-reference", &file]].concat(), input);
    // Now it is registered under the path of the import, and the order under the topic.
    let subject = "shop/item.proto=shop/item.proto:1";
    let no_register = ["-X", "auto.register.schemas=false", "--schema-reference"];
    fixture.produce(&[&schema[..], &no_register, &[subject]].concat(), input);
    fixture.produce(&[&schema[..], &no_register, &[&file]].concat(), input);
    fixture.produce(&["-t", "t", "--value-schema", "t-value"], input);
    let values = fixture.values();
    assert_eq!(values[0][5..], [0, 10, 0, 18, 2, 8, 5]);
    assert_eq!(values.len(), 4);
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    fixture.assert_fails(&schema, input, 2, &["shop/item.proto", "each import needs a reference"]);
}

#[test]
fn misfits_of_protobuf_go_to_the_file_of_on_error() {
    let Some(fixture) = Fixture::start() else { return };
    let schema = fixture.write("order.proto", ORDER_PROTO);
    let rejected = fixture.path("rejected.json");
    let input = "{\"id\": 1}\n{\"items\": [{\"price\": 1}, {\"price\": true}]}\n{\"x\": 1}\n";
    let message = ["-t", "t", "--value-schema", &schema, "--value-message", "Order"];
    let expected = "line 2, value: field items[1].price: expected double (a number), found true";
    fixture.assert_fails(&message, input, 1, &[expected]);
    let args = [&message[..], &["--on-error", &rejected]].concat();
    fixture.assert_fails(&args, input, 1, &[&rejected]);
    assert_eq!(fixture.records("t").len(), 2);
    let lines = std::fs::read_to_string(&rejected).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines[0]["error"].as_str().unwrap().contains(expected), "{lines:?}");
    let unknown = "field x: message shop.Order has no such field, only id, note, items";
    assert!(lines[1]["error"].as_str().unwrap().contains(unknown), "{lines:?}");
    let args = ["-t", "t", "--value-schema", &schema, "--value-message", "Orders"];
    let expected = "--value-schema: the schema's file does not define the message Orders, only";
    fixture.assert_fails(&args, input, 2, &[expected]);
    let avro = fixture.path("order.avsc");
    let args = ["-t", "t", "--value-schema", &avro, "--value-message", "Order"];
    fixture.assert_fails(&args, input, 2, &["the schema has the type AVRO, not PROTOBUF"]);
}

const ORDER_JSON: &str = r#"{"title": "Order", "type": "object", "required": ["id"],
    "properties": {"id": {"type": "integer"}, "tags": {"type": "array", "items":
    {"type": "string"}}}}"#;

#[test]
fn json_with_a_schema_is_read_by_pythons_deserializer() {
    let Some(fixture) = Fixture::start() else { return };
    let schema = fixture.write("order.json", ORDER_JSON);
    let input = "{\"id\": 1, \"tags\": [\"café\"]}\n{\"id\": -2, \"more\": 0.5}\n";
    fixture.produce(&["-t", "t", "--value-schema", &schema], input);
    fixture.produce(&["-t", "t", "--value-schema", "t-value"], "{\"id\": 3}\n");
    let values = fixture.values();
    assert_eq!((values[2][0], &values[2][5..]), (0, &b"{\"id\": 3}"[..]));
    assert_eq!(values[0][..5], values[2][..5]);
    let Some(python) = Librdkafka::find_or_install_with_schemas() else { return };
    let found = deserialize(&python, "json", &fixture.registry.url, &values);
    let expected =
        [json!({"id": 1, "tags": ["café"]}), json!({"id": -2, "more": 0.5}), json!({"id": 3})];
    assert_eq!(found, expected);
}

#[test]
fn misfits_of_a_json_schema_go_to_the_file_of_on_error() {
    let Some(fixture) = Fixture::start() else { return };
    let schema = fixture.write("order.json", ORDER_JSON);
    let rejected = fixture.path("rejected.json");
    let input = "{\"id\": 1}\n{\"id\": 2, \"tags\": [\"a\", 5]}\n{\"tags\": []}\n";
    let args = ["-t", "t", "--value-schema", &schema, "--on-error", &rejected];
    fixture.assert_fails(&args, input, 1, &[&rejected]);
    assert_eq!(fixture.records("t").len(), 1);
    let lines = std::fs::read_to_string(&rejected).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for (line, expected) in lines.iter().zip([
        "line 2, value: field tags[1]: expected string, found 5",
        "line 3, value: field id: expected a value, found nothing; the field is required",
    ]) {
        assert!(line["error"].as_str().unwrap().contains(expected), "{line}");
    }
    assert_eq!(lines.len(), 2);
    let remote = r#"{"properties": {"a": {"$ref": "http://localhost:1/a.json"}}}"#;
    let remote = fixture.write("remote.json", remote);
    let expected = "no reference of the name http://localhost:1/a.json; nothing else is requested";
    fixture.assert_fails(&["-t", "t", "--value-schema", &remote], "{}\n", 2, &[expected]);
    let args = ["-t", "t", "--value-schema", &schema, "--value-message", "Order"];
    fixture.assert_fails(&args, "{}\n", 2, &["the schema has the type JSON, not PROTOBUF"]);
}

/// Returns the texts of a page's code blocks of a language.
fn code_blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("\n```{language}\n");
    let blocks = page.split(&start).skip(1);
    blocks.map(|rest| rest.split_once("```").expect("the block ends").0).collect()
}

#[test]
fn examples_of_the_page_run() {
    let Some(fixture) = Fixture::start() else { return };
    let page = include_str!("../../../docs/SCHEMAS.md");
    std::fs::create_dir(fixture.path("shop")).unwrap();
    let [avro] = code_blocks(page, "json")[..] else { panic!("one schema of Avro") };
    let [order, item] = code_blocks(page, "proto")[..] else { panic!("two files of Protobuf") };
    for (name, text) in
        [("order.avsc", avro), ("shop/order.proto", order), ("shop/item.proto", item)]
    {
        fixture.write(name, text);
    }
    let by_bike = [&[14, 2, 14][..], b"by bike", &[4, 4, 210]].concat();
    let protobuf = [&[0, 8, 7, 18, 9, 9][..], &2.5_f64.to_le_bytes(), &[26, 2, 8, 5]].concat();
    let [payment, amount] = code_blocks(page, "jsonc")[..] else { panic!("two JSON Schemas") };
    fixture.write("payment.json", payment);
    fixture.write("amount.json", amount);
    let json = br#"{"id": 7, "amount": 2.50}"#.to_vec();
    let server = fixture.broker.bootstrap_servers();
    let ottla = assert_cmd::cargo::cargo_bin!("ottla").display().to_string();
    let examples = code_blocks(page, "sh");
    let expected = [("t", by_bike), ("u", protobuf), ("v", json)];
    assert_eq!(examples.len(), expected.len());
    for (example, (topic, expected)) in examples.into_iter().zip(expected) {
        let command = example
            .replace("localhost:9092", &server)
            .replace("http://localhost:8081", &fixture.registry.url)
            .replace("-t orders", &format!("-t {topic}"))
            .replace("ottla produce", &format!("'{ottla}' produce"));
        let shell = std::process::Command::new("sh")
            .args(["-c", &command])
            .current_dir(fixture.dir.path())
            .output()
            .unwrap();
        assert!(shell.status.success(), "{command}\n{}", String::from_utf8_lossy(&shell.stderr));
        let (_, value) = fixture.records(topic).remove(0);
        assert_eq!(value.unwrap()[5..], expected[..], "{command}");
    }
}
