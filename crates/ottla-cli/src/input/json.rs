//! `--format json`: one object a line.
//!
//! The fields are ours, and those of `kcat -C -J`: `payload`, `ts`, `tstype`, `broker`, and headers
//! as a flat array. [`crate::produce`] prints results with the same fields, so that they can be
//! sent again.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{InputError, InputRecord, JsonParts, json_bytes, json_headers, json_scan};

/// Base64 with or without padding.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Defines [`Field`]: each field with its name in the object.
macro_rules! fields {
    ($($field:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field {
            $($field,)*
        }

        impl Field {
            pub(super) const ALL: &[Field] = &[$(Field::$field),*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Field::$field => $name,)* }
            }

            const fn bit(self) -> u32 {
                1 << self as u32
            }

            pub(super) fn from_name(name: &str) -> Option<Field> {
                match name { $($name => Some(Field::$field),)* _ => None }
            }
        }
    };
}

fields! {
    Topic = "topic",
    Partition = "partition",
    Key = "key",
    KeyBase64 = "key_base64",
    Value = "value",
    ValueBase64 = "value_base64",
    Payload = "payload",
    Headers = "headers",
    Timestamp = "timestamp",
    Ts = "ts",
    // These describe a record that was read or sent before. They have no effect.
    Tstype = "tstype",
    Offset = "offset",
    Broker = "broker",
    KeySchemaId = "key_schema_id",
    ValueSchemaId = "value_schema_id",
    Error = "error",
    Source = "source",
    PossiblyPersisted = "possibly_persisted",
    // An object with one of these has no record.
    KeyError = "key_error",
    PayloadError = "payload_error",
    Input = "input",
    InputBase64 = "input_base64",
}

/// The fields that a message about a misspelt field names.
const USUAL_FIELDS: &str = "topic, partition, key, key_base64, value, value_base64, headers, \
                            timestamp, or kcat's payload, ts, tstype, offset and broker";

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Field, E> {
                Field::from_name(name).ok_or_else(|| {
                    let name = excerpt(name);
                    E::custom(format_args!("unknown field {name}; expected {USUAL_FIELDS}"))
                })
            }
        }
        deserializer.deserialize_identifier(NameVisitor)
    }
}

/// The texts of an object's values, as they stand in the line.
#[derive(Debug)]
pub(super) struct RawFields<'a> {
    texts: [&'a str; Field::ALL.len()],
    /// A bit for each field that is given: most are not, and are looked at for each line.
    given: u32,
    /// A bit for each field that is known to be a string without escapes.
    plain: u32,
}

impl<'a> RawFields<'a> {
    pub(super) fn new() -> RawFields<'a> {
        RawFields { texts: [""; Field::ALL.len()], given: 0, plain: 0 }
    }

    pub(super) fn get(&self, field: Field) -> Option<&'a str> {
        (self.given & field.bit() != 0).then(|| self.texts[field as usize])
    }

    /// Sets a field; `false` if the object has it twice.
    pub(super) fn set(&mut self, field: Field, raw: &'a str) -> bool {
        let is_first = self.given & field.bit() == 0;
        self.texts[field as usize] = raw;
        self.given |= field.bit();
        is_first
    }

    /// Says that a field is a string without escapes.
    pub(super) fn set_plain(&mut self, field: Field) {
        self.plain |= field.bit();
    }

    /// Returns the bytes of a field that is known to be a string without escapes.
    fn plain_bytes(&self, field: Field, raw: &'a str) -> Option<&'a [u8]> {
        let is_plain = self.plain & field.bit() != 0;
        is_plain.then(|| &raw.as_bytes()[1..raw.len() - 1])
    }

    /// Returns the field of the two that is given; null counts as not given.
    fn one_of(&self, a: Field, b: Field) -> Result<Option<(Field, &'a str)>, String> {
        self.one_of_given(self.non_null(a), b)
    }

    fn one_of_given(
        &self,
        a: Option<(Field, &'a str)>,
        b: Field,
    ) -> Result<Option<(Field, &'a str)>, String> {
        match (a, self.non_null(b)) {
            (Some((a, _)), Some((b, _))) => {
                let (a, b) = (a.name(), b.name());
                Err(format!("both {a} and {b} are given; expected one of them"))
            }
            (a, b) => Ok(a.or(b)),
        }
    }

    fn non_null(&self, field: Field) -> Option<(Field, &'a str)> {
        self.get(field).filter(|raw| *raw != "null").map(|raw| (field, raw))
    }
}

/// Fills the fields in place: they are too large to be copied for each line.
impl<'de> DeserializeSeed<'de> for &mut RawFields<'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        struct ObjectVisitor<'f, 'de>(&'f mut RawFields<'de>);
        impl<'de> Visitor<'de> for ObjectVisitor<'_, 'de> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                while let Some(field) = map.next_key::<Field>()? {
                    let raw: &RawValue = map.next_value()?;
                    if !self.0.set(field, raw.get()) {
                        return Err(A::Error::duplicate_field(field.name()));
                    }
                }
                Ok(())
            }
        }
        deserializer.deserialize_map(ObjectVisitor(self))
    }
}

/// Parses a line. The result borrows from the line what it can, and `max_record_bytes` limits what
/// it copies.
pub(super) fn parse(
    line: &[u8],
    max_record_bytes: usize,
    json_parts: JsonParts,
) -> Result<InputRecord<'_>, InputError> {
    let Ok(text) = std::str::from_utf8(line) else {
        if json_parts.key || json_parts.value {
            return Err("the line is not UTF-8; with a schema it must be".to_owned().into());
        }
        // kcat writes the bytes of keys, values and headers as they are.
        return Ok(json_bytes::parse(line)?);
    };
    let mut fields = RawFields::new();
    if json_scan::flat_object(text, &mut fields).is_none() {
        fields = RawFields::new();
        let mut json = serde_json::Deserializer::from_str(text);
        let parsed = fields.deserialize(&mut json).and_then(|()| json.end());
        parsed.map_err(|e| syntax_error(&e))?;
    }
    let mut record = parse_fields(&fields)?;
    if let Some((_, raw)) = fields.non_null(Field::Headers) {
        record.headers = json_headers::parse(raw, max_record_bytes)?;
    }
    let value = fields.one_of(Field::Value, Field::Payload)?;
    let value = fields.one_of_given(value, Field::ValueBase64)?;
    record.serialized.value = matches!(value, Some((Field::ValueBase64, _)));
    record.value = value.map(|v| parse_bytes(&fields, v, json_parts.value)).transpose()?;
    let key = fields.one_of(Field::Key, Field::KeyBase64)?;
    record.serialized.key = matches!(key, Some((Field::KeyBase64, _)));
    record.key = key.map(|key| parse_bytes(&fields, key, json_parts.key)).transpose()?;
    check_value_is_given(&fields, record.value.is_some())?;
    Ok(record)
}

/// Parses all fields but key, value and headers.
pub(super) fn parse_fields<'a>(fields: &RawFields<'a>) -> Result<InputRecord<'a>, String> {
    for (field, reason) in [
        (Field::Input, "the object has input that could not be read as a record; correct it first"),
        (Field::InputBase64, "the object has input that could not be read as a record"),
        (Field::KeyError, "kcat could not decode this key"),
        (Field::PayloadError, "kcat could not decode this value"),
    ] {
        if fields.get(field).is_some() {
            return Err(format!("field {}: {reason}", field.name()));
        }
    }
    let mut record = InputRecord::default();
    if let Some(raw) = fields.get(Field::Topic).filter(|raw| *raw != "null") {
        record.topic = Some(parse_text(raw).ok_or_else(|| misfit("topic", "a string", raw))??);
    }
    if let Some(raw) = fields.get(Field::Partition).filter(|raw| *raw != "null" && *raw != "-1") {
        let partition = raw.parse().ok().filter(|p: &i32| *p >= 0);
        let expected = "an integer from 0 to 2147483647, or null";
        record.partition = Some(partition.ok_or_else(|| misfit("partition", expected, raw))?);
    }
    if let Some((field, raw)) = fields.one_of(Field::Timestamp, Field::Ts)? {
        let expected = "milliseconds since 1970 as an integer";
        let timestamp = raw.parse().map_err(|_| misfit(field.name(), expected, raw))?;
        // kcat writes some timestamp for a record that has none.
        let is_known = fields.get(Field::Tstype) != Some("\"unknown\"");
        record.timestamp = is_known.then_some(timestamp);
    }
    Ok(record)
}

/// Refuses an object without a value. A missing value, read as null, would delete a key.
pub(super) fn check_value_is_given(fields: &RawFields<'_>, has_value: bool) -> Result<(), String> {
    let value_fields = [Field::Value, Field::Payload, Field::ValueBase64];
    if has_value || value_fields.iter().any(|field| fields.get(*field).is_some()) {
        return Ok(());
    }
    Err("no value: expected the field value, value_base64 or payload; null for a tombstone".into())
}

/// Returns the bytes of a key or a value: a text, a JSON value as it is written, or base64. With
/// `keeps_json`, a text stays a JSON string.
fn parse_bytes<'a>(
    fields: &RawFields<'a>,
    (field, raw): (Field, &'a str),
    keeps_json: bool,
) -> Result<Cow<'a, [u8]>, String> {
    if matches!(field, Field::KeyBase64 | Field::ValueBase64) {
        return parse_base64(field.name(), raw).map(Cow::Owned);
    }
    if !keeps_json && let Some(bytes) = fields.plain_bytes(field, raw) {
        return Ok(Cow::Borrowed(bytes));
    }
    match parse_text(raw).filter(|_| !keeps_json) {
        Some(text) => text.map(into_bytes).map_err(|e| in_field(field.name(), &e)),
        None => Ok(Cow::Borrowed(raw.as_bytes())),
    }
}

pub(super) fn parse_base64(field: &str, raw: &str) -> Result<Vec<u8>, String> {
    let text = parse_text(raw).ok_or_else(|| misfit(field, "a string of base64, or null", raw))?;
    let text = text.map_err(|e| in_field(field, &e))?;
    BASE64.decode(text.as_bytes()).map_err(|e| in_field(field, &format!("expected base64: {e}")))
}

/// Returns the text of a JSON string; `None` if the value is no string.
pub(super) fn parse_text(raw: &str) -> Option<Result<Cow<'_, str>, String>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Ok(Cow::Borrowed(inner)));
    }
    Some(serde_json::from_str(raw).map(Cow::Owned).map_err(|e| syntax_error(&e)))
}

pub(super) fn into_bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

pub(super) fn misfit(field: &str, expected: &str, found: &str) -> String {
    format!("field {field}: expected {expected}, found {}", excerpt(found))
}

fn in_field(field: &str, reason: &str) -> String {
    format!("field {field}: {reason}")
}

/// Returns serde's message with the column before it. The line is the input's, not serde's.
pub(super) fn syntax_error(e: &serde_json::Error) -> String {
    let (text, column) = (e.to_string(), e.column());
    let place = format!(" at line {} column {column}", e.line());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    format!("column {column}: {reason}")
}

/// Returns the start of a name or a value, for a message.
pub(super) fn excerpt(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 60;
    start_of(text, MAX_CHARS)
}

/// Returns the start of a text. An ellipsis stands for the rest.
pub(crate) fn start_of(text: &str, max_chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}
