//! The field `headers` of a JSON object.
//!
//! | form | example |
//! |---|---|
//! | object | `{"a": "1", "b": null}` |
//! | array of objects, as the command writes it | `[{"key": "a", "value": "1"}]` |
//! | array of pairs | `[["a", "1"], ["b", null]]` |
//! | flat array, as kcat writes it | `["a", "1", "b", null]` |
//!
//! Each form keeps the order and headers with the same name. In an object, an array is the list of
//! the values of one name, as kcat's `json_map` writes it.

use std::borrow::Cow;
use std::fmt;

use ottla::Header;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::InputError;
use super::json::{excerpt, into_bytes, misfit, parse_base64, parse_text, syntax_error};

/// The members of an object, in their order, with repeated names.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A string that borrows from the line if it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), raw)) = map.next_entry()? {
                    members.push((name, raw));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Headers, and the bytes of those that share a name in the line.
///
/// Each of them has the name. So they may be much larger than the line.
struct SharedNames<'a> {
    headers: Vec<Header<'a>>,
    bytes: usize,
    max_bytes: usize,
}

/// Parses the field. The error names the header. Headers that share a name in the line have at most
/// `max_bytes`.
pub(super) fn parse(raw: &str, max_bytes: usize) -> Result<Vec<Header<'_>>, InputError> {
    let mut headers = Vec::new();
    match raw.as_bytes().first() {
        Some(b'{') => {
            let mut shared = SharedNames { headers, bytes: 0, max_bytes };
            for (name, value) in parse_members("headers", raw)?.0 {
                shared.push_values(name, value.get())?;
            }
            headers = shared.headers;
        }
        Some(b'[') => parse_array(raw, &mut headers)?,
        _ => return Err(misfit("headers", "an object, an array or null", raw).into()),
    }
    Ok(headers)
}

fn parse_members<'a>(field: &str, raw: &'a str) -> Result<Members<'a>, String> {
    serde_json::from_str(raw).map_err(|e| format!("field {field}, {}", syntax_error(&e)))
}

fn parse_elements<'a>(field: &str, raw: &'a str) -> Result<Vec<&'a RawValue>, String> {
    serde_json::from_str(raw).map_err(|e| format!("field {field}, {}", syntax_error(&e)))
}

impl<'a> SharedNames<'a> {
    /// Adds the header, or one header for each element of an array.
    fn push_values(&mut self, name: Cow<'a, str>, raw: &'a str) -> Result<(), InputError> {
        let field = format!("headers.{}", excerpt(&name));
        if !raw.starts_with('[') {
            self.headers.push(new_header(name, parse_value(&field, raw)?));
            return Ok(());
        }
        for value in parse_elements(&field, raw)? {
            let value = parse_value(&field, value.get())?;
            self.bytes += name.len() + value.as_deref().map_or(0, <[u8]>::len);
            if self.bytes > self.max_bytes {
                let max = self.max_bytes;
                let reason = format!(
                    "field {field}: the headers with several values are larger than \
                     max.request.size ({max})"
                );
                return Err(InputError::TooLong(reason));
            }
            self.headers.push(new_header(name.clone(), value));
        }
        Ok(())
    }
}

fn parse_array<'a>(raw: &'a str, headers: &mut Vec<Header<'a>>) -> Result<(), String> {
    let elements = parse_elements("headers", raw)?;
    let mut elements = elements.iter().map(|e| e.get()).enumerate();
    while let Some((i, element)) = elements.next() {
        let field = format!("headers[{i}]");
        let header = match element.as_bytes().first() {
            Some(b'{') => parse_object(&field, element)?,
            Some(b'[') => match parse_elements(&field, element)?[..] {
                [name, value] => {
                    new_header(parse_name(&field, name.get())?, parse_value(&field, value.get())?)
                }
                _ => return Err(misfit(&field, "an array of a name and a value", element)),
            },
            _ => {
                let name = parse_name(&field, element)?;
                let Some((i, value)) = elements.next() else {
                    let name = excerpt(&name);
                    return Err(format!("field {field}: the name {name} has no value after it"));
                };
                new_header(name, parse_value(&format!("headers[{i}]"), value)?)
            }
        };
        headers.push(header);
    }
    Ok(())
}

/// Parses `{"key": …, "value": …}` or `{"key": …, "value_base64": …}`.
fn parse_object<'a>(field: &str, raw: &'a str) -> Result<Header<'a>, String> {
    let (mut name, mut value, mut has_value) = (None, None, false);
    for (member, raw) in parse_members(field, raw)?.0 {
        let is_repeated = match &*member {
            "key" => name.replace(parse_name(field, raw.get())?).is_some(),
            "value" => {
                value = parse_value(field, raw.get())?;
                std::mem::replace(&mut has_value, true)
            }
            "value_base64" => {
                value = Some(Cow::Owned(parse_base64(field, raw.get())?));
                std::mem::replace(&mut has_value, true)
            }
            other => {
                return Err(misfit(field, "the members key and value or value_base64", other));
            }
        };
        if is_repeated {
            return Err(format!("field {field}: its key or its value is given twice"));
        }
    }
    match name {
        Some(name) if has_value => Ok(new_header(name, value)),
        _ => Err(misfit(field, "the members key and value or value_base64", raw)),
    }
}

fn parse_name<'a>(field: &str, raw: &'a str) -> Result<Cow<'a, str>, String> {
    let text = parse_text(raw).ok_or_else(|| misfit(field, "a header's name as a string", raw))?;
    text.map_err(|e| format!("field {field}: {e}"))
}

/// Returns the bytes of a value: a text, null, or a JSON value as it is written.
fn parse_value<'a>(field: &str, raw: &'a str) -> Result<Option<Cow<'a, [u8]>>, String> {
    if raw == "null" {
        return Ok(None);
    }
    match parse_text(raw) {
        Some(Ok(text)) => Ok(Some(into_bytes(text))),
        Some(Err(e)) => Err(format!("field {field}: {e}")),
        None => Ok(Some(Cow::Borrowed(raw.as_bytes()))),
    }
}

pub(super) fn new_header<'a>(key: Cow<'a, str>, value: Option<Cow<'a, [u8]>>) -> Header<'a> {
    let mut header = Header::null(key);
    header.value = value;
    header
}
