//! JSON lines that are not UTF-8: kcat writes the bytes of keys, values and headers as they are,
//! and escapes only quotes, backslashes and control characters.

use std::borrow::Cow;
use std::fmt;

use ottla::Header;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::InputRecord;
use super::json::{Field, RawFields, check_value_is_given, parse_fields, syntax_error};
use super::json_headers::new_header;

/// The bytes of a string; `None` for null.
struct StringBytes<'a>(Option<Cow<'a, [u8]>>);

impl<'de: 'a, 'a> Deserialize<'de> for StringBytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = StringBytes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null, because the line is not UTF-8")
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(StringBytes(None))
            }

            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
                d.deserialize_bytes(self)
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(StringBytes(Some(Cow::Borrowed(bytes))))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(StringBytes(Some(Cow::Owned(bytes.to_owned()))))
            }
        }
        deserializer.deserialize_option(BytesVisitor)
    }
}

/// An object whose keys, values and headers need not be UTF-8.
struct ByteFields<'a> {
    others: RawFields<'a>,
    key: Option<Cow<'a, [u8]>>,
    value: Option<Cow<'a, [u8]>>,
    /// A flat array of names and values.
    headers: Vec<StringBytes<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for ByteFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = ByteFields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = ByteFields {
                    others: RawFields::new(),
                    key: None,
                    value: None,
                    headers: Vec::new(),
                };
                while let Some(field) = map.next_key::<Field>()? {
                    // The text of a field that is read here only marks the field as given.
                    let mut raw = "null";
                    match field {
                        Field::Key => fields.key = map.next_value::<StringBytes<'_>>()?.0,
                        Field::Value | Field::Payload => {
                            fields.value = map.next_value::<StringBytes<'_>>()?.0;
                        }
                        Field::Headers => fields.headers = map.next_value()?,
                        _ => raw = map.next_value::<&RawValue>()?.get(),
                    }
                    if !fields.others.set(field, raw) {
                        return Err(A::Error::duplicate_field(field.name()));
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Parses a line that is not UTF-8.
pub(super) fn parse(line: &[u8]) -> Result<InputRecord<'_>, String> {
    let fields: ByteFields<'_> = serde_json::from_slice(line).map_err(|e| syntax_error(&e))?;
    let others = &fields.others;
    let given = |field: Field| others.get(field).is_some();
    if given(Field::Value) && given(Field::Payload) {
        return Err("both value and payload are given; expected one of them".into());
    }
    if given(Field::KeyBase64) || given(Field::ValueBase64) {
        return Err("a line with base64 must be UTF-8".into());
    }
    let mut record = parse_fields(others)?;
    (record.key, record.value) = (fields.key, fields.value);
    check_value_is_given(others, record.value.is_some())?;
    record.headers = parse_headers(fields.headers)?;
    Ok(record)
}

fn parse_headers(elements: Vec<StringBytes<'_>>) -> Result<Vec<Header<'_>>, String> {
    let mut headers = Vec::new();
    let mut elements = elements.into_iter().map(|element| element.0).enumerate();
    while let Some((i, name)) = elements.next() {
        let name = name.map(Cow::into_owned).and_then(|name| String::from_utf8(name).ok());
        let (Some(name), Some((_, value))) = (name, elements.next()) else {
            return Err(format!("field headers[{i}]: expected a name in UTF-8 and its value"));
        };
        headers.push(new_header(Cow::Owned(name), value));
    }
    Ok(headers)
}
