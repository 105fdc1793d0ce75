//! Encodes a JSON value as Avro binary, by Avro's JSON encoding and what is unambiguous besides.

use serde_json::{Map, Value};

use super::compiled::{Branch, CompiledSchema, Field, Node, NodeId};
use super::decimal::parse_decimal;
use crate::value_path::{ValuePath, excerpt};

/// Appends the encoded value to `out`. After an error, `out` has a part of it.
pub(super) fn encode_json(
    schema: &CompiledSchema,
    node: NodeId,
    value: &Value,
    path: &ValuePath<'_>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let misfit = |expected: &str| Err(path.misfit(expected, &excerpt(value)));
    match (&schema.nodes[node], value) {
        (Node::Null, Value::Null) => {}
        (Node::Null, _) => return misfit("null"),
        (Node::Boolean, Value::Bool(value)) => out.push(u8::from(*value)),
        (Node::Boolean, _) => return misfit("boolean"),
        (Node::Int, value) => match value.as_i64().and_then(|n| i32::try_from(n).ok()) {
            Some(number) => put_long(out, i64::from(number)),
            None => return misfit("int (a whole number of 32 bits)"),
        },
        (Node::Long, value) => match value.as_i64() {
            Some(number) => put_long(out, number),
            None => return misfit("long (a whole number of 64 bits)"),
        },
        (Node::Float, value) => match number(value) {
            Some(number) => out.extend_from_slice(&(number as f32).to_le_bytes()),
            None => return misfit("float"),
        },
        (Node::Double, value) => match number(value) {
            Some(number) => out.extend_from_slice(&number.to_le_bytes()),
            None => return misfit("double"),
        },
        (Node::String, Value::String(text)) => put_bytes(out, text.as_bytes()),
        (Node::String, _) => return misfit("string"),
        (Node::Uuid, value) => match value.as_str().filter(|text| parse_uuid(text).is_some()) {
            Some(text) => put_bytes(out, text.as_bytes()),
            None => return misfit("a UUID, such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        },
        (Node::UuidBytes { has_length }, value) => {
            let text = value.as_str().unwrap_or_default();
            let bytes = parse_uuid(text).map(Vec::from).or_else(|| latin1(text));
            let Some(bytes) = bytes.filter(|bytes| bytes.len() == 16) else {
                return misfit("a UUID, or its 16 bytes as characters up to U+00FF");
            };
            if *has_length {
                put_long(out, 16);
            }
            out.extend_from_slice(&bytes);
        }
        (Node::Bytes, value) => match value.as_str().and_then(latin1) {
            Some(bytes) => put_bytes(out, &bytes),
            None => return misfit("bytes (a string of characters up to U+00FF)"),
        },
        (Node::Fixed { name, size }, value) => {
            match value.as_str().and_then(latin1).filter(|bytes| bytes.len() == *size) {
                Some(bytes) => out.extend_from_slice(&bytes),
                None => {
                    return misfit(&format!(
                        "fixed {name} (a string of {size} characters up to U+00FF)"
                    ));
                }
            }
        }
        (Node::Decimal { precision, scale, size, .. }, value) => {
            let bytes = match value {
                Value::String(text) => latin1(text).filter(|b| size.is_none_or(|s| s == b.len())),
                Value::Number(number) => {
                    parse_decimal(&number.to_string(), *precision, *scale, *size)
                }
                _ => None,
            };
            match (bytes, size) {
                (Some(bytes), None) => put_bytes(out, &bytes),
                (Some(bytes), Some(_)) => out.extend_from_slice(&bytes),
                (None, _) => {
                    return misfit(&format!(
                        "decimal ({precision} digits, {scale} of them after the point; or a \
                         string with the bytes of the unscaled number)"
                    ));
                }
            }
        }
        (Node::Enum { name, symbols }, value) => {
            let symbol = value.as_str().and_then(|text| symbols.iter().position(|s| s == text));
            match symbol {
                Some(index) => put_long(out, index as i64),
                None => return misfit(&format!("enum {name}: one of {}", symbols.join(", "))),
            }
        }
        (Node::Array(items), Value::Array(values)) => {
            if !values.is_empty() {
                put_long(out, values.len() as i64);
                for (i, value) in values.iter().enumerate() {
                    encode_json(schema, *items, value, &ValuePath::Index(path, i), out)?;
                }
            }
            out.push(0);
        }
        (Node::Array(_), _) => return misfit("array"),
        (Node::Map(values), Value::Object(entries)) => {
            if !entries.is_empty() {
                put_long(out, entries.len() as i64);
                for (key, value) in entries {
                    put_bytes(out, key.as_bytes());
                    encode_json(schema, *values, value, &ValuePath::Field(path, key), out)?;
                }
            }
            out.push(0);
        }
        (Node::Map(_), _) => return misfit("map (an object)"),
        (Node::Record { name, fields }, Value::Object(object)) => {
            encode_record(schema, (name, fields), object, path, out)?;
        }
        (Node::Record { name, .. }, _) => return misfit(&format!("record {name} (an object)")),
        (Node::Union(branches), value) => encode_union(schema, branches, value, path, out)?,
    }
    Ok(())
}

fn encode_record(
    schema: &CompiledSchema,
    (name, fields): (&str, &[Field]),
    object: &Map<String, Value>,
    path: &ValuePath<'_>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut known = 0;
    for field in fields {
        match (object.get(&field.name), &field.default) {
            (Some(value), _) => {
                known += 1;
                let path = ValuePath::Field(path, &field.name);
                encode_json(schema, field.node, value, &path, out)?;
            }
            (None, Some(default)) => out.extend_from_slice(default),
            (None, None) => {
                let path = ValuePath::Field(path, &field.name);
                return Err(format!(
                    "{path}: expected {}, found nothing; the field has no default",
                    describe(schema, field.node)
                ));
            }
        }
    }
    if known < object.len() {
        let unknown = object.keys().find(|key| fields.iter().all(|field| field.name != **key));
        let path = ValuePath::Field(path, unknown.map_or("", String::as_str));
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        return Err(format!("{path}: record {name} has no such field, only {}", names.join(", ")));
    }
    Ok(())
}

/// Encodes a value of a union: tagged with its type, or plain if only one type fits.
fn encode_union(
    schema: &CompiledSchema,
    branches: &[Branch],
    value: &Value,
    path: &ValuePath<'_>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if let Value::Object(object) = value
        && let Some((tag, tagged)) = object.iter().next().filter(|_| object.len() == 1)
        && let Some(i) = branches.iter().position(|b| b.name == *tag && b.name != "null")
    {
        put_long(out, i as i64);
        return encode_json(schema, branches[i].node, tagged, path, out);
    }
    let mut fitting = (0..branches.len()).filter(|i| may_fit(schema, branches[*i].node, value));
    match (fitting.next(), fitting.next()) {
        (Some(i), None) => {
            put_long(out, i as i64);
            encode_json(schema, branches[i].node, value, path, out)
        }
        (Some(a), Some(b)) => {
            let (a, b) = (&branches[a].name, &branches[b].name);
            Err(format!(
                "{path}: {} fits {a} and {b} of the union; write {{\"{a}\": …}} or {{\"{b}\": …}}",
                excerpt(value)
            ))
        }
        (None, _) => {
            // With one type besides null, its own error says more.
            let mut others = branches.iter().filter(|b| b.name != "null");
            if let (Some(only), None) = (others.next(), others.next())
                && !value.is_null()
            {
                return encode_json(schema, only.node, value, path, &mut Vec::new());
            }
            let names: Vec<&str> = branches.iter().map(|b| b.name.as_str()).collect();
            Err(path.misfit(&format!("one of {}", names.join(", ")), &excerpt(value)))
        }
    }
}

/// Returns whether a plain value may belong to a branch of a union. It looks at the value itself
/// and not at the values inside it: trying all branches at each level would take time exponential
/// in the depth.
fn may_fit(schema: &CompiledSchema, node: NodeId, value: &Value) -> bool {
    match (&schema.nodes[node], value) {
        (Node::Array(_), Value::Array(_)) | (Node::Map(_), Value::Object(_)) => true,
        (Node::Record { fields, .. }, Value::Object(object)) => {
            let has = |field: &&Field| object.contains_key(&field.name);
            object.len() == fields.iter().filter(has).count()
                && fields.iter().all(|field| field.default.is_some() || has(&field))
        }
        (Node::Array(_) | Node::Map(_) | Node::Record { .. } | Node::Union(_), _) => false,
        // A scalar has no values inside it.
        _ => encode_json(schema, node, value, &ValuePath::Root, &mut Vec::new()).is_ok(),
    }
}

/// Returns what a node expects, for a message.
fn describe(schema: &CompiledSchema, node: NodeId) -> String {
    match &schema.nodes[node] {
        Node::Null => "null".into(),
        Node::Boolean => "boolean".into(),
        Node::Int => "int".into(),
        Node::Long => "long".into(),
        Node::Float => "float".into(),
        Node::Double => "double".into(),
        Node::String => "string".into(),
        Node::Uuid | Node::UuidBytes { .. } => "a UUID".into(),
        Node::Bytes => "bytes".into(),
        Node::Fixed { name, .. } => format!("fixed {name}"),
        Node::Decimal { .. } => "decimal".into(),
        Node::Enum { name, .. } => format!("enum {name}"),
        Node::Array(_) => "array".into(),
        Node::Map(_) => "map".into(),
        Node::Union(branches) => {
            let names: Vec<&str> = branches.iter().map(|b| b.name.as_str()).collect();
            format!("one of {}", names.join(", "))
        }
        Node::Record { name, .. } => format!("record {name}"),
    }
}

/// Appends a zigzag varint.
pub(super) fn put_long(out: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

/// Returns a number. As in Java's decoder, a string may be a number that JSON cannot write.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" | "INF" => Some(f64::INFINITY),
            "-Infinity" | "-INF" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the bytes of a text whose characters are U+0000 to U+00FF.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let has_form = text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    if !has_form {
        return None;
    }
    let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
    Some(number.to_be_bytes())
}
