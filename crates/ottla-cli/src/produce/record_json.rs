//! Writes records as JSON objects that `--format json` reads: the results of `--json`.

use base64::Engine;
use ottla::Header;

use crate::input::{BASE64, InputRecord, push_json_string};

/// Returns the members `"key":…,"value":…,"headers":[…]` of a record's object.
pub(super) fn content(record: &InputRecord<'_>) -> Box<[u8]> {
    let len =
        |bytes: &Option<_>| bytes.as_ref().map_or(0, |b: &std::borrow::Cow<'_, [u8]>| b.len());
    let mut out = Vec::with_capacity(len(&record.key) + len(&record.value) + 64);
    push_bytes(&mut out, "key", record.key.as_deref());
    out.push(b',');
    push_bytes(&mut out, "value", record.value.as_deref());
    out.extend(br#","headers":["#);
    for (i, header) in record.headers.iter().enumerate() {
        out.extend(if i == 0 { &b"{"[..] } else { b",{" });
        push_header(&mut out, header);
        out.push(b'}');
    }
    out.push(b']');
    out.into_boxed_slice()
}

fn push_header(out: &mut Vec<u8>, header: &Header<'_>) {
    out.extend(br#""key":"#);
    push_json_string(out, &header.key);
    out.push(b',');
    push_bytes(out, "value", header.value.as_deref());
}

/// Appends `"name":"text"`, or `"name_base64":"…"` if the bytes are not UTF-8.
pub(super) fn push_bytes(out: &mut Vec<u8>, name: &str, bytes: Option<&[u8]>) {
    let text = match bytes.map(std::str::from_utf8) {
        None => None,
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => {
            let encoded = BASE64.encode(bytes.unwrap_or_default());
            out.extend(format!("\"{name}_base64\":\"{encoded}\"").as_bytes());
            return;
        }
    };
    out.extend(format!("\"{name}\":").as_bytes());
    match text {
        Some(text) => push_json_string(out, text),
        None => out.extend(b"null"),
    }
}

/// Appends `"name":"text"`.
pub(super) fn push_text(out: &mut Vec<u8>, name: &str, text: &str) {
    push_bytes(out, name, Some(text.as_bytes()));
}

/// Appends `"name":value` for a number or a boolean, or null.
pub(super) fn push_value(out: &mut Vec<u8>, name: &str, value: Option<impl std::fmt::Display>) {
    match value {
        Some(value) => out.extend(format!("\"{name}\":{value}").as_bytes()),
        None => out.extend(format!("\"{name}\":null").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::args::{InputArgs, InputFormat, ProduceArgs};
    use crate::input::{JsonParts, RecordReader};

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop_oneof![
            Just(None),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Some),
            any::<String>().prop_map(|text| Some(text.into_bytes())),
        ]
    }

    proptest! {
        #[test]
        fn each_record_reads_back_unchanged(
            key in bytes(),
            value in bytes(),
            headers in prop::collection::vec((any::<String>(), bytes()), 0..4),
        ) {
            let record = InputRecord {
                key: key.as_deref().map(Cow::Borrowed),
                value: value.as_deref().map(Cow::Borrowed),
                headers: headers.iter().map(|(k, v)| Header::maybe(k, v.as_deref())).collect(),
                ..InputRecord::default()
            };
            let line = [b"{\"topic\":\"t\",", &*content(&record), b"}\n"].concat();
            let input = InputArgs { format: InputFormat::Json, ..InputArgs::default() };
            let args = ProduceArgs { input, ..ProduceArgs::default() };
            let mut reader = RecordReader::new(&args, 1 << 20).ok().unwrap();
            reader.read(&mut &line[..]).unwrap();
            let mut read = reader.parse().map_err(|e| TestCaseError::fail(e.reason().to_owned()))?;
            read.serialized = JsonParts::default();
            let topic = read.topic.take();
            prop_assert_eq!(topic.as_deref(), Some("t"));
            prop_assert_eq!(read, record);
        }
    }
}
