//! Avro: JSON values are encoded as `apache-avro` reads them, errors name the path, and no input
//! panics.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as AvroValue;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::SchemaType;

fn format(schema: &str) -> AvroFormat {
    AvroFormat::new(&Schema::new(SchemaType::Avro, schema), &[]).unwrap()
}

fn encoded(schema: &str, json: &Value) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    format(schema).encode_json(json, &mut out).map(|()| out).map_err(|e| e.to_string())
}

/// Encodes a JSON value and reads it back with `apache-avro`.
fn read_back(schema: &str, json: &Value) -> Result<AvroValue, String> {
    let bytes = encoded(schema, json)?;
    let parsed = AvroSchema::parse_str(schema).unwrap();
    let mut rest = &bytes[..];
    let reader = GenericDatumReader::builder(&parsed).build().unwrap();
    let value = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes too many for {json}", rest.len());
    Ok(value)
}

const ORDER: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
    {"name": "id", "type": "long"},
    {"name": "note", "type": ["null", "string"], "default": null},
    {"name": "size", "type": {"type": "enum", "name": "Size", "symbols": ["S", "M"]},
     "default": "M"},
    {"name": "items", "type": {"type": "array", "items": {"type": "record", "name": "Item",
     "fields": [{"name": "price", "type": "double"}]}}, "default": []},
    {"name": "next", "type": ["null", "Order"], "default": null}]}"#;

#[test]
fn record_is_read_back_with_its_defaults() {
    let value =
        read_back(ORDER, &json!({"id": 7, "items": [{"price": 1.5}], "note": "a"})).unwrap();
    let AvroValue::Record(fields) = value else { panic!("{value:?}") };
    assert_eq!(fields[0], ("id".into(), AvroValue::Long(7)));
    let note = AvroValue::Union(1, Box::new(AvroValue::String("a".into())));
    assert_eq!(fields[1], ("note".into(), note));
    assert_eq!(fields[2], ("size".into(), AvroValue::Enum(1, "M".into())));
    let null = AvroValue::Union(0, Box::new(AvroValue::Null));
    assert_eq!(fields[4], ("next".into(), null));
    // Tagged and plain are the same.
    let tagged = json!({"id": 1, "next": {"shop.Order": {"id": 2, "note": {"string": "x"}}}});
    let plain = json!({"id": 1, "next": {"id": 2, "note": "x"}});
    assert_eq!(encoded(ORDER, &tagged).unwrap(), encoded(ORDER, &plain).unwrap());
}

#[test]
fn errors_name_the_path_and_what_was_expected() {
    for (json, expected) in [
        (json!(5), "the whole value: expected record shop.Order (an object), found 5"),
        (json!({}), "field id: expected long, found nothing; the field has no default"),
        (json!({"id": "7"}), "field id: expected long (a whole number of 64 bits), found \"7\""),
        (
            json!({"id": 1, "items": [{"price": 1}, {"price": null}]}),
            "field items[1].price: expected double, found null",
        ),
        (json!({"id": 1, "note": 3}), "field note: expected string, found 3"),
        (json!({"id": 1, "size": "L"}), "field size: expected enum shop.Size: one of S, M"),
        (json!({"id": 1, "idd": 2}), "field idd: record shop.Order has no such field, only id,"),
        (
            json!({"id": 1, "next": {"id": 2, "note": 3}}),
            "field next.note: expected string, found 3",
        ),
        (
            json!({"id": 1, "next": {"id": null}}),
            "field next.id: expected long (a whole number of 64 bits), found null",
        ),
    ] {
        let e = encoded(ORDER, &json).unwrap_err();
        assert!(e.starts_with(expected), "{json}: {e}");
    }
}

#[test]
fn ambiguous_value_of_a_union_must_be_tagged() {
    let schema = r#"["int", "long", "string"]"#;
    let e = encoded(schema, &json!(5)).unwrap_err();
    assert!(e.contains(r#"5 fits int and long of the union; write {"int": …}"#), "{e}");
    assert_eq!(encoded(schema, &json!({"long": 5})).unwrap(), [2, 10]);
    // Too large for an int, so only one type fits.
    assert_eq!(encoded(schema, &json!(1_i64 << 40)).unwrap()[0], 2);
    assert_eq!(encoded(schema, &json!("a")).unwrap(), [4, 2, b'a']);
    let e = encoded(schema, &json!(null)).unwrap_err();
    assert!(e.contains("expected one of int, long, string, found null"), "{e}");
}

#[test]
fn bytes_and_logical_types_have_avros_json_encoding() {
    assert_eq!(
        encoded(r#"{"type": "map", "values": "bytes"}"#, &json!({"k": "\u{ff}a"})).unwrap(),
        [2, 2, b'k', 4, 0xff, b'a', 0]
    );
    let e = encoded(r#"{"type": "array", "items": "bytes"}"#, &json!(["\u{100}"])).unwrap_err();
    assert!(e.starts_with("field [0]: expected bytes"), "{e}");
    let fixed = r#"{"type": "fixed", "name": "F", "size": 2}"#;
    assert_eq!(encoded(fixed, &json!("\u{80}x")).unwrap(), [0x80, b'x']);
    assert!(encoded(fixed, &json!("abc")).unwrap_err().contains("a string of 2 characters"));
    let decimal = r#"{"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}"#;
    assert_eq!(encoded(decimal, &json!(12.34)).unwrap(), [4, 4, 210]);
    assert_eq!(encoded(decimal, &json!("\u{4}\u{d2}")).unwrap(), [4, 4, 210]);
    assert!(encoded(decimal, &json!(1.234)).unwrap_err().contains("expected decimal (6 digits"));
    let uuid = r#"{"type": "string", "logicalType": "uuid"}"#;
    let text = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    assert_eq!(read_back(uuid, &json!(text)).unwrap(), AvroValue::Uuid(text.parse().unwrap()));
    assert!(encoded(uuid, &json!("12345678")).is_err());
    let timestamp = r#"{"type": "long", "logicalType": "timestamp-millis"}"#;
    assert_eq!(read_back(timestamp, &json!(9)).unwrap(), AvroValue::TimestampMillis(9));
    let nan = encoded("\"double\"", &json!("NaN")).unwrap();
    assert!(f64::from_le_bytes(nan.try_into().unwrap()).is_nan());
}

/// As `KafkaAvroSerializer` writes them, and `KafkaAvroDeserializer` reads them.
#[test]
fn value_that_is_bytes_as_a_whole_has_no_length() {
    assert_eq!(encoded("\"bytes\"", &json!("abc")).unwrap(), b"abc");
    let long = "x".repeat(5000);
    assert_eq!(encoded("\"bytes\"", &json!(long)).unwrap(), long.as_bytes());
}

#[test]
fn referenced_schemas_are_used() {
    let item = r#"{"type": "record", "name": "Item", "namespace": "shop", "fields": [
        {"name": "n", "type": "int"}]}"#;
    let order = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "a", "type": "Item"}, {"name": "b", "type": "shop.Item"}]}"#;
    let schema = |text| Schema::new(SchemaType::Avro, text);
    let references = [("shop.Item".to_owned(), schema(item))];
    let format = AvroFormat::new(&schema(order), &references).unwrap();
    let (json, mut out) = (json!({"a": {"n": 1}, "b": {"n": 2}}), Vec::new());
    format.encode_json(&json, &mut out).unwrap();
    assert_eq!(out, [2, 4]);
    assert_eq!(format.record_name(), Some("shop.Order"));
    #[derive(Serialize)]
    struct Item {
        n: i32,
    }
    #[derive(Serialize)]
    struct Order {
        a: Item,
        b: Item,
    }
    out.clear();
    format.encode(&Order { a: Item { n: 1 }, b: Item { n: 2 } }, &mut out).unwrap();
    assert_eq!(out, [2, 4]);
    let e = AvroFormat::new(&schema(order), &[]).err().unwrap().to_string();
    assert!(e.contains("Avro schema:") && e.contains("Item"), "{e}");
}

#[test]
fn struct_is_written_like_its_json() {
    #[derive(Serialize)]
    struct Item {
        price: f64,
    }
    #[derive(Serialize)]
    enum Size {
        S,
        M,
    }
    #[derive(Serialize)]
    struct Order {
        id: i64,
        note: Option<String>,
        size: Size,
        items: Vec<Item>,
        next: Option<Box<Order>>,
    }
    let items = vec![Item { price: 2.5 }];
    let inner = Order { id: 2, note: None, size: Size::M, items: vec![], next: None };
    let next = Some(Box::new(inner));
    let order = Order { id: 1, note: Some("n".into()), size: Size::S, items, next };
    let (format, mut out) = (format(ORDER), Vec::new());
    format.encode(&order, &mut out).unwrap();
    let json = serde_json::to_value(&order).unwrap();
    assert_eq!(out, encoded(ORDER, &json).unwrap());
    let e = format.encode(&7, &mut out).unwrap_err();
    assert!(e.to_string().contains("does not fit its Avro schema"), "{e}");
}

#[test]
fn wrong_default_is_an_error_of_the_schema() {
    let schema = r#"{"type": "record", "name": "R", "fields": [
        {"name": "a", "type": "int", "default": "x"}]}"#;
    let e = AvroFormat::new(&Schema::new(SchemaType::Avro, schema), &[]).err().unwrap();
    assert_eq!(e.kind(), crate::SchemaErrorKind::InvalidSchema);
    // A default that contains itself has no end.
    let schema = r#"{"type": "record", "name": "R", "fields": [
        {"name": "a", "type": "R", "default": {}}]}"#;
    assert!(AvroFormat::new(&Schema::new(SchemaType::Avro, schema), &[]).is_err());
}

/// Fields of the schemas, and some that they lack.
const NAMES: &[&str] = &["id", "note", "items", "price", "next", "shop.Order", "string", "x"];

fn any_json() -> impl Strategy<Value = Value> {
    crate::test_json::any_json("[a-dS\u{ff}\u{100}]{0,3}", Vec::new(), NAMES)
}

proptest! {
    /// What is accepted can be read back; what is not is an error.
    #[test]
    fn any_json_is_refused_or_can_be_read(json in any_json(), id in any::<i64>()) {
        let _ = read_back(ORDER, &json);
        let mut order = serde_json::Map::new();
        order.insert("id".into(), id.into());
        order.insert("next".into(), json.clone());
        let _ = read_back(ORDER, &Value::Object(order));
        let _ = read_back(r#"["null", "int", "double", {"type": "map", "values": "long"}]"#, &json);
    }

    #[test]
    fn any_text_is_refused_or_encoded(text in ".{0,40}", bytes in any::<Vec<u8>>()) {
        let format = format(ORDER);
        let _ = format.encode_json_text(text.as_bytes(), &mut Vec::new());
        let _ = format.encode_json_text(&bytes, &mut Vec::new());
    }
}

/// Nesting beyond the limit of the JSON parser is an error, not a full stack.
#[test]
fn deep_nesting_is_an_error() {
    let text = "{\"id\":1,\"next\":".repeat(10_000);
    let e = format(ORDER).encode_json_text(text.as_bytes(), &mut Vec::new()).unwrap_err();
    assert!(e.to_string().contains("recursion limit"), "{e}");
}
