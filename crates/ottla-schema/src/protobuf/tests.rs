//! Protobuf: JSON texts become the bytes that `prost` reads, errors name the path, and no input
//! panics.

use proptest::prelude::*;
use prost_reflect::Value as ProtoValue;
use serde_json::{Value, json};

use super::*;
use crate::schema::SchemaType;

const ORDER: &str = r#"syntax = "proto3"; package shop;
    import "item.proto"; import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto"; import "google/protobuf/struct.proto";
    import "google/protobuf/duration.proto"; import "confluent/type/decimal.proto";
    message Order {
        int64 id = 1;
        repeated Item items = 2;
        google.protobuf.Timestamp at = 3;
        map<int32, Item> by_number = 4;
        message Note { string text = 1; message Deep {} }
        Note note = 5;
        enum Size { S = 0; M = 1; }
        Size size = 6;
        bytes data = 7;
        oneof payment { string card = 8; bool cash = 9; }
        google.protobuf.Int32Value count = 10;
        google.protobuf.Value any = 11;
        google.protobuf.Duration wait = 12;
        confluent.type.Decimal total = 13;
        uint32 small = 14;
        Order next = 15;
    }
    message Other { bytes data = 1; }"#;
const ITEM: &str = r#"syntax = "proto3"; package shop; message Item { double price = 1; }"#;

fn schema(text: &str) -> Schema {
    Schema::new(SchemaType::Protobuf, text)
}

fn format() -> ProtobufFormat {
    ProtobufFormat::new(&schema(ORDER), &[("item.proto".to_owned(), schema(ITEM))]).unwrap()
}

fn encoded(format: &ProtobufFormat, json: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    format.encode_json_text(json.as_bytes(), &mut out).map(|()| out).map_err(|e| e.to_string())
}

fn schema_error(text: &str) -> String {
    ProtobufFormat::new(&schema(text), &[]).err().unwrap().to_string()
}

#[test]
fn json_text_becomes_known_bytes() {
    let json = r#"{"id": "7", "items": [{"price": 0.5}], "at": "1970-01-01T00:00:01Z",
        "byNumber": {"3": {}}, "size": "M", "data": "AQI="}"#;
    let half = 0.5_f64.to_le_bytes();
    // The short form of the first message, then the message.
    let start = [&[0, 8, 7, 18, 9, 9][..], &half, &[26, 2, 8, 1]].concat();
    let end = [34, 4, 8, 3, 18, 0, 48, 1, 58, 2, 1, 2];
    assert_eq!(encoded(&format(), json).unwrap(), [&start[..], &end].concat());
    assert_eq!(format().record_name(), Some("shop.Order"));
    assert_eq!(encoded(&format(), "{}").unwrap(), [0]);
    // Names of the file, numbers of enums, and null for nothing.
    let other = r#"{"by_number": {"3": {}}, "size": 1, "note": null}"#;
    assert_eq!(encoded(&format(), other).unwrap(), [0, 34, 4, 8, 3, 18, 0, 48, 1]);
}

#[test]
fn message_is_read_field_by_field_without_its_descriptor() {
    use prost_reflect::prost::encoding::{DecodeContext, WireType, decode_key, int64, skip_field};
    let json = r#"{"id": -9007199254740993, "any": {"a": [1, null]}, "wait": "1.5s", "count": 4,
        "note": {"text": "café"}, "cash": false}"#;
    let bytes = encoded(&format(), json).unwrap();
    let mut rest = &bytes[1..];
    let (mut tags, mut id) = (Vec::new(), 0);
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).unwrap();
        tags.push((tag, wire_type));
        match tag {
            1 => int64::merge(wire_type, &mut id, &mut rest, DecodeContext::default()).unwrap(),
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default()).unwrap(),
        }
    }
    let (varint, delimited) = (WireType::Varint, WireType::LengthDelimited);
    let expected = [
        (1, varint),
        (5, delimited),
        (9, varint),
        (10, delimited),
        (11, delimited),
        (12, delimited),
    ];
    assert_eq!(tags, expected);
    assert_eq!(id, -9_007_199_254_740_993);
    let message = DynamicMessage::decode(format().message, &bytes[1..]).unwrap();
    let note = message.get_field_by_name("note").unwrap();
    let text = note.as_message().unwrap().get_field_by_name("text").unwrap().into_owned();
    assert_eq!(text, ProtoValue::String("café".into()));
}

#[test]
fn errors_name_the_path_and_what_was_expected() {
    for (json, expected) in [
        (
            r#"{"items": [{"price": 1}, {"price": "x"}]}"#,
            "field items[1].price: expected double (a number), found \"x\" (invalid float",
        ),
        (r#"{"idd": 1}"#, "field idd: message shop.Order has no such field, only id, items, at,"),
        (
            r#"{"items": [{"prize": 1}]}"#,
            "field items[0].prize: message shop.Item has no such field, only price",
        ),
        ("5", "the whole value: expected message shop.Order (an object), found 5"),
        ("[]", "the whole value: expected message shop.Order (an object), found an array of 0"),
        (r#"{"id": 1.5}"#, "field id: expected int64 (a whole number of 64 bits), found 1.5"),
        (r#"{"id": true}"#, "field id: expected int64 (a whole number of 64 bits), found true"),
        (r#"{"small": -1}"#, "field small: expected uint32 (a whole number of 32 bits from 0), f"),
        (r#"{"items": {}}"#, "field items: expected repeated shop.Item (an array), found an obj"),
        (r#"{"items": [null]}"#, "field items[0]: expected message shop.Item (an object), found"),
        (r#"{"byNumber": []}"#, "field byNumber: expected map<int32, shop.Item> (an object), f"),
        (r#"{"byNumber": {"x": {}}}"#, "field byNumber: expected keys of int32 (a whole number"),
        (
            r#"{"byNumber": {"7": {"price": []}}}"#,
            "field byNumber.7.price: expected double (a number), found an array of 0",
        ),
        (r#"{"size": "L"}"#, "field size: expected enum shop.Order.Size: one of S, M, found \"L\""),
        (r#"{"data": "?"}"#, "field data: expected bytes (a string in base64), found \"?\""),
        (r#"{"note": {"text": 5}}"#, "field note.text: expected string, found 5"),
        (r#"{"card": "1", "cash": true}"#, "the whole value: multiple fields provided for oneof"),
        (
            r#"{"at": "noon"}"#,
            "field at: expected google.protobuf.Timestamp (a string such as \"2026-01-31T12:00:",
        ),
        (r#"{"at": 5}"#, "field at: expected google.protobuf.Timestamp (a string such as"),
        (r#"{"count": "x"}"#, "field count: expected google.protobuf.Int32Value (a number), f"),
        (r#"{"wait": "1"}"#, "field wait: expected google.protobuf.Duration (a string such as"),
        (r#"{"next": {"next": {"id": []}}}"#, "field next.next.id: expected int64"),
        ("{", "the value is not JSON"),
        ("{} {}", "the value is not JSON"),
        ("", "the value is not JSON"),
    ] {
        let e = encoded(&format(), json).unwrap_err();
        assert!(e.starts_with(expected), "{json}: {e}");
    }
}

#[test]
fn nested_and_later_messages_have_their_index() {
    let format = format();
    // The entries of the map before Note do not count.
    for (name, expected) in [
        ("shop.Order", vec![0]),
        ("shop.Order.Note", vec![4, 0, 0]),
        ("shop.Order.Note.Deep", vec![6, 0, 0, 0]),
        ("shop.Other", vec![2, 2]),
    ] {
        let descriptor = format.pool.get_message_by_name(name).unwrap();
        let mut out = Vec::new();
        format.encode(&DynamicMessage::new(descriptor), &mut out).unwrap();
        assert_eq!(out, expected, "{name}");
        let selected = format.with_message(name).unwrap();
        assert_eq!(selected.record_name(), Some(name));
        assert_eq!(encoded(&selected, "{}").unwrap(), expected, "{name}");
        let short = format.with_message(name.strip_prefix("shop.").unwrap()).unwrap();
        assert_eq!(short.record_name(), Some(name));
    }
    let item = format.pool.get_message_by_name("shop.Item").unwrap();
    let e = format.encode(&DynamicMessage::new(item), &mut Vec::new()).unwrap_err();
    assert!(e.to_string().contains("does not define the message shop.Item"), "{e}");
    let e = format.with_message("Item").err().unwrap().to_string();
    let expected = "message Item, only shop.Order, shop.Other, shop.Order.Note";
    assert!(e.contains(expected), "{e}");
}

#[test]
fn missing_required_field_of_proto2_is_an_error() {
    let text = r#"syntax = "proto2"; message A { required int32 a = 1; repeated A more = 2;
        map<string, A> by_name = 3; optional A next = 4; }"#;
    let format = ProtobufFormat::new(&schema(text), &[]).unwrap();
    assert_eq!(encoded(&format, r#"{"a": 0}"#).unwrap(), [0, 8, 0]);
    let expected = "expected int32 (a whole number of 32 bits), found nothing; the field is";
    for (json, path) in [
        ("{}", "a"),
        (r#"{"a": 1, "more": [{"a": 1}, {}]}"#, "more[1].a"),
        (r#"{"a": 1, "byName": {"k": {}}}"#, "byName.k.a"),
        (r#"{"a": 1, "next": {}}"#, "next.a"),
    ] {
        let e = encoded(&format, json).unwrap_err();
        assert!(e.starts_with(&format!("field {path}: {expected}")), "{json}: {e}");
    }
}

#[test]
fn wrong_schemas_are_errors_with_their_place() {
    for (text, expected) in [
        (ORDER, "import 'item.proto' not found; each import needs a reference of the same name"),
        ("syntax = \"proto3\";", "the file defines no message"),
        ("syntax = \"proto3\";\nmessage {", "Protobuf schema: line:2:9: expected an identifier"),
        ("message A { optional Missing a = 1; }", "name 'Missing' is not defined"),
        (r#"import "ottla.schema.proto"; message A {}"#, "Protobuf schema: "),
        ("", "the file defines no message"),
    ] {
        let e = schema_error(text);
        assert!(e.contains(expected), "{text}: {e}");
    }
}

#[test]
fn confluents_own_imports_need_no_reference() {
    let text = r#"syntax = "proto3"; import "confluent/meta.proto";
        message A { int32 a = 1 [(confluent.field_meta).doc = "a field"]; }"#;
    let format = ProtobufFormat::new(&schema(text), &[]).unwrap();
    assert_eq!(encoded(&format, r#"{"a": 1}"#).unwrap(), [0, 8, 1]);
}

/// A chain of imports, deep brackets and deep JSON are compiled or refused, but never fill the
/// stack.
#[test]
fn depth_is_limited() {
    let file =
        |n: usize| format!("syntax = \"proto3\"; import \"{}.proto\"; message M{n} {{}}", n + 1);
    let mut references: Vec<_> =
        (1..1000).map(|n| (format!("{n}.proto"), schema(&file(n)))).collect();
    references.push(("1000.proto".into(), schema("message Last {}")));
    ProtobufFormat::new(&schema(&file(0)), &references).unwrap();
    for bracket in ["{", "[", "<", "(", "message A {", "option (a) = {a:", "\""] {
        let _ = schema_error(&bracket.repeat(20_000));
    }
    let json = "{\"next\":".repeat(10_000);
    let e = encoded(&format(), &json).unwrap_err();
    assert!(e.contains("recursion limit"), "{e}");
}

/// Fields of the schemas, and some that they lack.
const NAMES: &[&str] = &[
    "id", "items", "price", "at", "byNumber", "7", "note", "size", "data", "cash", "count", "any",
    "wait", "total", "next", "x",
];

fn any_json() -> impl Strategy<Value = Value> {
    crate::test_json::any_json(
        "[0-9SM:TZ.s-]{0,5}",
        vec![
            json!("1970-01-01T00:00:01Z"),
            json!({"@type": "type.googleapis.com/shop.Item", "price": 1}),
        ],
        NAMES,
    )
}

proptest! {
    /// What is accepted can be read back; what is not is an error that names a place.
    #[test]
    fn any_json_is_refused_or_can_be_decoded(json in any_json(), id in any::<i64>()) {
        let format = format();
        let nested = json!({"id": id, "next": json, "items": [json], "byNumber": {"1": json}});
        for value in [json, nested] {
            match encoded(&format, &value.to_string()) {
                Ok(out) => {
                    let message = DynamicMessage::decode(format.message.clone(), &out[1..]);
                    // The entries of a map have no order.
                    prop_assert_eq!(message.unwrap().encoded_len(), out.len() - 1);
                }
                Err(e) => prop_assert!(
                    e.starts_with("field ") || e.starts_with("the whole value: "), "{}", e
                ),
            }
        }
    }

    #[test]
    fn any_text_is_refused_or_encoded(text in ".{0,40}", bytes in any::<Vec<u8>>()) {
        let format = format();
        let _ = format.encode_json_text(text.as_bytes(), &mut Vec::new());
        let _ = format.encode_json_text(&bytes, &mut Vec::new());
    }

    /// Schemas of tokens in any order, and ones with a part removed.
    #[test]
    fn any_schema_is_refused_or_compiled(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "message ", "A ", "{", "}", "syntax = \"proto3\";", "int32 ", "a ", "= ", "1", "0",
                "-", ";", "[", "]", "(", ")", "enum ", "map<", "string", ",", "> ", "oneof ",
                "extensions ", "reserved ", "to ", "max", "extend ", "option ", "default", "group ",
                "1e999", "\"", "'", "/*", "//", "\n", "\\", "\u{0}", "é", "import ", "package ",
                "optional ", "repeated ", "stream ", "service ", "rpc ", "returns ", ".",
                "99999999999999999999",
            ]),
            0..40,
        ),
        removed in (0..ORDER.len(), 0..60_usize),
    ) {
        let _ = ProtobufFormat::new(&schema(&tokens.concat()), &[]);
        let end = (removed.0 + removed.1).min(ORDER.len());
        let text = format!("{}{}", &ORDER[..removed.0], &ORDER[end..]);
        let _ = ProtobufFormat::new(&schema(&text), &[("item.proto".to_owned(), schema(ITEM))]);
    }
}
