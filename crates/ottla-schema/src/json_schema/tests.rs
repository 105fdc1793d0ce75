//! JSON Schema: valid texts are sent as they are, errors name the path, and no input panics.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::SchemaType;

const ORDER: &str = r##"{"title": "Order", "type": "object", "required": ["id"],
    "additionalProperties": false,
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "items": {"type": "array", "maxItems": 3, "items": {"$ref": "item.json"}},
        "size": {"enum": ["S", "M"]},
        "kind": {"const": "order"},
        "note": {"type": ["string", "null"], "maxLength": 5, "pattern": "^[a-z]*$"},
        "at": {"type": "string", "format": "date-time"},
        "payment": {"oneOf": [
            {"type": "object", "required": ["card"], "properties": {"card": {"type": "string"}}},
            {"type": "null"}]},
        "any": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        "7": {"type": "string"},
        "next": {"$ref": "#"}}}"##;
const ITEM: &str = r#"{"type": "object", "properties": {"price": {"type": "number"}}}"#;

fn schema(text: &str) -> Schema {
    Schema::new(SchemaType::Json, text)
}

fn format() -> JsonFormat {
    JsonFormat::new(&schema(ORDER), &[("item.json".to_owned(), schema(ITEM))]).unwrap()
}

fn encoded(format: &JsonFormat, json: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    format.encode_json_text(json.as_bytes(), &mut out).map(|()| out).map_err(|e| e.to_string())
}

#[test]
fn valid_text_is_sent_as_it_is() {
    let text = r#" {"id": 1e0, "items": [ {"price": 1.50} ], "note": null, "next": {"id": 2}}"#;
    assert_eq!(encoded(&format(), text).unwrap(), text.trim().as_bytes());
    assert_eq!(format().record_name(), Some("Order"));
    assert_eq!(JsonFormat::new(&schema("true"), &[]).unwrap().record_name(), None);
}

#[test]
fn value_of_the_application_is_written_as_json() {
    #[derive(Serialize)]
    struct Order {
        id: i64,
        note: Option<&'static str>,
    }
    let mut out = Vec::new();
    format().encode(&Order { id: 3, note: Some("a") }, &mut out).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), json!({"id": 3, "note": "a"}));
    let e = format().encode(&Order { id: -3, note: None }, &mut out).unwrap_err();
    assert_eq!(e.to_string(), "field id: -3 is less than the minimum of 0");
}

#[test]
fn errors_name_the_path_and_what_was_expected() {
    for (text, expected) in [
        (
            r#"{"id": 1, "items": [{}, {"price": "x"}]}"#,
            "field items[1].price: expected number, found \"x\"",
        ),
        (r#"{"id": 1.5}"#, "field id: expected integer, found 1.5"),
        (r#"{"id": -1}"#, "field id: -1 is less than the minimum of 0"),
        ("{}", "field id: expected a value, found nothing; the field is required"),
        ("[]", "the whole value: expected object, found an array of 0"),
        (r#"{"id": 1, "idd": 1}"#, "field idd: the schema has no such field"),
        (r#"{"id": 1, "next": {"id": 1, "x": 1}}"#, "field next.x: the schema has no such field"),
        (r#"{"id": 1, "size": "L"}"#, "field size: expected one of \"S\", \"M\", found \"L\""),
        (r#"{"id": 1, "kind": 5}"#, "field kind: expected \"order\", found 5"),
        (r#"{"id": 1, "note": 5}"#, "field note: expected null or string, found 5"),
        (r#"{"id": 1, "note": "abcdef"}"#, "field note: \"abcdef\" is longer than 5 characters"),
        (r#"{"id": 1, "note": "A"}"#, "field note: expected a match of ^[a-z]*$, found \"A\""),
        (r#"{"id": 1, "at": "noon"}"#, "field at: expected the format date-time, found \"noon\""),
        (r#"{"id": 1, "7": 5}"#, "field 7: expected string, found 5"),
        (
            r#"{"id": 1, "payment": {"card": 5}}"#,
            "field payment.card: expected string, found 5 (the closest of 2 alternatives)",
        ),
        (
            r#"{"id": 1, "payment": {}}"#,
            "field payment.card: expected a value, found nothing; the field is required (the",
        ),
        (r#"{"id": 1, "any": "x"}"#, "field any: expected integer or boolean, found \"x\""),
        (r#"{"id": 1, "items": [{}, {}, {}, {}]}"#, "field items: an array of 4 has more than 3"),
        ("{", "the value is not JSON"),
        ("{} {}", "the value is not JSON"),
        ("", "the value is not JSON"),
    ] {
        let e = encoded(&format(), text).unwrap_err();
        assert!(e.starts_with(expected), "{text}: {e}");
    }
}

#[test]
fn unknown_reference_and_wrong_schema_are_errors() {
    for (text, expected) in [
        (ORDER, "no reference of the name item.json"),
        (r#"{"$ref": "http://localhost:1/x.json"}"#, "no reference of the name http:"),
        (r#"{"$ref": "file:///etc/passwd"}"#, "no reference of the name file:"),
        (r##"{"$ref": "#/definitions/x"}"##, "JSON Schema: "),
        (r#"{"type": 5}"#, "JSON Schema: "),
        (r#"{"properties": {"a": {"type": "int"}}}"#, "(at /properties/a/type)"),
        (r#"{"pattern": "("}"#, "JSON Schema: "),
        (r#"{"$schema": "http://example.com/own"}"#, "JSON Schema: "),
        ("[", "it is not JSON"),
        ("5", "JSON Schema: "),
    ] {
        let e = JsonFormat::new(&schema(text), &[]).err().unwrap().to_string();
        assert!(e.contains(expected), "{text}: {e}");
    }
}

#[test]
fn references_are_found_by_name_and_beside_the_id() {
    for (text, name) in [
        (r#"{"$ref": "a/item.json"}"#, "a/item.json"),
        (r#"{"$ref": "http://example.com/item.json"}"#, "http://example.com/item.json"),
        (
            r#"{"$id": "http://example.com/order.json", "allOf": [{"$ref": "item.json"}]}"#,
            "item.json",
        ),
        (
            r#"{"$id": "http://example.com/order.json", "allOf": [{"$ref": "item.json"}]}"#,
            "http://example.com/item.json",
        ),
    ] {
        let format = JsonFormat::new(&schema(text), &[(name.to_owned(), schema(ITEM))]).unwrap();
        let e = encoded(&format, r#"{"price": "x"}"#).unwrap_err();
        assert_eq!(e, "field price: expected number, found \"x\"", "{text}");
    }
}

#[test]
fn draft_of_the_schema_is_used() {
    // In draft 4 the keyword is a boolean, since draft 6 a number.
    let of = |draft: &str, keyword: &str| {
        let text = format!(
            r#"{{"$schema": "http://json-schema.org/{draft}/schema#", "minimum": 5,
                "exclusiveMinimum": {keyword}}}"#
        );
        JsonFormat::new(&schema(&text), &[])
    };
    assert!(encoded(&of("draft-04", "true").unwrap(), "5").is_err());
    assert!(of("draft-04", "5").is_err());
    assert!(encoded(&of("draft-06", "5").unwrap(), "5").is_err());
    assert!(of("draft-07", "true").is_err());
    for (draft, keyword) in [("2019-09", "items"), ("2020-12", "prefixItems")] {
        let text = format!(
            r#"{{"$schema": "https://json-schema.org/draft/{draft}/schema",
                "{keyword}": [{{"type": "string"}}]}}"#
        );
        let format = JsonFormat::new(&schema(&text), &[]).unwrap();
        assert_eq!(encoded(&format, "[5]").unwrap_err(), "field [0]: expected string, found 5");
    }
    // Without one it is draft 7, which knows `if`.
    let format =
        JsonFormat::new(&schema(r#"{"if": true, "then": {"type": "null"}}"#), &[]).unwrap();
    assert!(encoded(&format, "5").is_err());
}

/// Schemas that contain themselves, costly patterns and deep values end with a result.
#[test]
fn cycles_costly_patterns_and_depth_end() {
    for text in [
        r##"{"$ref": "#"}"##,
        r##"{"allOf": [{"$ref": "#"}]}"##,
        r##"{"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#/definitions/b"},
            "b": {"$ref": "#/definitions/a"}}}"##,
        r##"{"$schema": "https://json-schema.org/draft/2020-12/schema", "$dynamicRef": "#"}"##,
        r#"{"pattern": "^(a+)+$"}"#,
        r#"{"pattern": "^(?=(a+)+b)(a|aa)+$"}"#,
    ] {
        if let Ok(format) = JsonFormat::new(&schema(text), &[]) {
            for value in ["{}", "5", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\""] {
                let _ = encoded(&format, value);
            }
        }
    }
    let e = encoded(&format(), &"{\"next\":".repeat(10_000)).unwrap_err();
    assert!(e.contains("recursion limit"), "{e}");
    let deep = "{\"allOf\":[".repeat(10_000);
    assert!(JsonFormat::new(&schema(&deep), &[]).is_err());
}

/// Fields of the schemas, and some that they lack.
const NAMES: &[&str] = &[
    "id",
    "items",
    "price",
    "next",
    "payment",
    "any",
    "7",
    "a/b~c",
    "$ref",
    "type",
    "properties",
    "allOf",
    "anyOf",
    "not",
    "enum",
    "pattern",
    "format",
    "$id",
    "const",
    "definitions",
    "minimum",
    "required",
    "$schema",
    "if",
    "then",
];

fn any_json() -> impl Strategy<Value = Value> {
    crate::test_json::any_json(
        "[a-cSM#/~0-9-]{0,4}",
        ["#", "#/properties/id", "integer", "object", "date-time", "("].map(Value::from).to_vec(),
        NAMES,
    )
}

proptest! {
    #[test]
    fn any_value_is_refused_with_its_place_or_sent(json in any_json(), text in ".{0,40}") {
        let format = format();
        let _ = encoded(&format, &text);
        for value in [json.clone(), json!({"id": 1, "next": json, "payment": json, "any": json})] {
            let text = value.to_string();
            match encoded(&format, &text) {
                Ok(out) => prop_assert_eq!(out, text.as_bytes()),
                Err(e) => prop_assert!(
                    e.starts_with("field ") || e.starts_with("the whole value: "), "{}", e
                ),
            }
        }
    }

    #[test]
    fn any_schema_is_refused_or_compiled(
        json in any_json(),
        text in ".{0,40}",
        value in any_json(),
    ) {
        let _ = JsonFormat::new(&schema(&text), &[]);
        for json in [json.clone(), json!({"properties": {"a": json}, "allOf": [json]})] {
            if let Ok(format) = JsonFormat::new(&schema(&json.to_string()), &[]) {
                let _ = encoded(&format, &value.to_string());
            }
        }
    }
}
