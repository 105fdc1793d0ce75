//! Why a JSON value does not fit its message: the path, what was expected and what was found.
//!
//! `prost-reflect` says what serde says, such as "invalid digit found in string". This module looks
//! up the place in the descriptors.

use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    Value as ProtoValue,
};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::value_path::{Step, ValuePath, excerpt, field_path};

/// What the descriptors say about a place.
enum Target {
    Message(MessageDescriptor),
    List(Kind),
    Map {
        key: Kind,
        value: Kind,
    },
    Scalar(Kind),
    /// A place inside a well-known type, or one that no descriptor describes.
    Unknown,
}

/// Returns the message for a JSON text that the deserializer has refused.
pub(super) fn explain(
    root: &MessageDescriptor,
    path: &Path,
    json: &[u8],
    e: &serde_json::Error,
) -> String {
    let root_value = serde_json::from_slice::<Value>(json).ok();
    let mut found = root_value.as_ref();
    let mut target = of_message(root);
    let mut steps = Vec::new();
    for segment in path {
        let step = match segment {
            Segment::Seq { index } => Step::Index(*index),
            Segment::Map { key } => Step::Field(key),
            Segment::Enum { .. } | Segment::Unknown => break,
        };
        found = found.and_then(|value| match step {
            Step::Index(index) => value.get(index),
            Step::Field(key) => value.get(key),
        });
        target = inside(&target, step);
        steps.push(step);
    }
    let text = e.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    let here = || field_path(steps.iter().copied());
    match (&target, found) {
        (Target::Message(message), Some(Value::Object(fields))) if !is_well_known(message) => {
            let Some(unknown) = fields.keys().find(|name| field(message, name).is_none()) else {
                return format!("{}: {reason}", here());
            };
            steps.push(Step::Field(unknown));
            let path = field_path(steps.iter().copied());
            format!("{path}: message {} has no such field{}", message.full_name(), names(message))
        }
        (Target::Map { key, .. }, Some(Value::Object(_))) => {
            format!("{}: expected keys of {} ({reason})", here(), expected_kind(key))
        }
        (Target::Unknown, _) => format!("{}: {reason}", here()),
        (target, Some(found)) if reason.starts_with("invalid type") => {
            format!("{}: expected {}, found {}", here(), expected(target), excerpt(found))
        }
        (target, Some(found)) => {
            let found = excerpt(found);
            format!("{}: expected {}, found {found} ({reason})", here(), expected(target))
        }
        (target, None) => format!("{}: expected {} ({reason})", here(), expected(target)),
    }
}

/// Returns an error if a message lacks a field that proto2 requires. Java refuses such messages.
pub(super) fn missing_required(
    message: &DynamicMessage,
    path: &ValuePath<'_>,
) -> Result<(), String> {
    for field in message.descriptor().fields() {
        if field.cardinality() == Cardinality::Required && !message.has_field(&field) {
            let expected = expected(&of_field(&field));
            let here = ValuePath::Field(path, field.json_name());
            return Err(here.misfit(&expected, "nothing; the field is required"));
        }
    }
    for (field, value) in message.fields() {
        let here = ValuePath::Field(path, field.json_name());
        match value {
            ProtoValue::Message(inner) => missing_required(inner, &here)?,
            ProtoValue::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Some(inner) = item.as_message() {
                        missing_required(inner, &ValuePath::Index(&here, index))?;
                    }
                }
            }
            ProtoValue::Map(entries) => {
                for (key, item) in entries {
                    if let Some(inner) = item.as_message() {
                        missing_required(inner, &ValuePath::Field(&here, &key_text(key)))?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

/// Returns what stands at one step inside a place.
fn inside(target: &Target, step: Step<'_>) -> Target {
    match (target, step) {
        (Target::Message(message), Step::Field(name)) if !is_well_known(message) => {
            field(message, name).map_or(Target::Unknown, |field| of_field(&field))
        }
        (Target::List(kind), Step::Index(_)) => of_kind(kind),
        (Target::Map { value, .. }, Step::Field(_)) => of_kind(value),
        _ => Target::Unknown,
    }
}

fn of_message(message: &MessageDescriptor) -> Target {
    Target::Message(message.clone())
}

fn of_kind(kind: &Kind) -> Target {
    match kind {
        Kind::Message(message) => of_message(message),
        other => Target::Scalar(other.clone()),
    }
}

fn of_field(field: &FieldDescriptor) -> Target {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => Target::Map {
            key: entry.map_entry_key_field().kind(),
            value: entry.map_entry_value_field().kind(),
        },
        kind if field.is_list() => Target::List(kind),
        kind => of_kind(&kind),
    }
}

/// Returns whether a message has a form of its own in JSON.
fn is_well_known(message: &MessageDescriptor) -> bool {
    let name = message.full_name().strip_prefix("google.protobuf.");
    name.is_some_and(|name| {
        name.ends_with("Value")
            || matches!(name, "Any" | "Timestamp" | "Duration" | "FieldMask" | "Struct" | "Empty")
    })
}

fn names(message: &MessageDescriptor) -> String {
    let names: Vec<String> = message.fields().map(|field| field.json_name().to_owned()).collect();
    if names.is_empty() { String::new() } else { format!(", only {}", names.join(", ")) }
}

fn expected(target: &Target) -> String {
    match target {
        Target::Message(message) => expected_message(message),
        Target::List(kind) => format!("repeated {} (an array)", kind_name(kind)),
        Target::Map { key, value } => {
            format!("map<{}, {}> (an object)", kind_name(key), kind_name(value))
        }
        Target::Scalar(kind) => expected_kind(kind),
        Target::Unknown => "another value".to_owned(),
    }
}

fn expected_kind(kind: &Kind) -> String {
    let name = kind_name(kind);
    match kind {
        Kind::Double | Kind::Float => format!("{name} (a number)"),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            format!("{name} (a whole number of 32 bits)")
        }
        Kind::Uint32 | Kind::Fixed32 => format!("{name} (a whole number of 32 bits from 0)"),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            format!("{name} (a whole number of 64 bits)")
        }
        Kind::Uint64 | Kind::Fixed64 => format!("{name} (a whole number of 64 bits from 0)"),
        Kind::Bool => "bool (true or false)".to_owned(),
        Kind::String => name,
        Kind::Bytes => "bytes (a string in base64)".to_owned(),
        Kind::Enum(descriptor) => {
            const MAX_NAMES: usize = 20;
            let values: Vec<_> = descriptor.values().take(MAX_NAMES).collect();
            let values: Vec<&str> = values.iter().map(|value| value.name()).collect();
            let more = if descriptor.values().len() > MAX_NAMES { ", …" } else { "" };
            format!("enum {name}: one of {}{more}", values.join(", "))
        }
        Kind::Message(message) => expected_message(message),
    }
}

fn expected_message(message: &MessageDescriptor) -> String {
    let name = message.full_name();
    let form = match name {
        "google.protobuf.Timestamp" => "a string such as \"2026-01-31T12:00:00Z\"",
        "google.protobuf.Duration" => "a string such as \"1.5s\"",
        "google.protobuf.FieldMask" => "a string such as \"a,b.c\"",
        "google.protobuf.Any" => "an object with the field @type",
        "google.protobuf.ListValue" => "an array",
        "google.protobuf.Value" => "any value",
        "google.protobuf.BoolValue" => "true or false",
        "google.protobuf.StringValue" => "a string",
        "google.protobuf.BytesValue" => "a string in base64",
        "google.protobuf.FloatValue"
        | "google.protobuf.DoubleValue"
        | "google.protobuf.Int32Value"
        | "google.protobuf.Int64Value"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.UInt64Value" => "a number",
        _ => return format!("message {name} (an object)"),
    };
    format!("{name} ({form})")
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(message) => message.full_name(),
        Kind::Enum(descriptor) => descriptor.full_name(),
    }
    .to_owned()
}
