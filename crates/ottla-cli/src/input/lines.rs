//! `--format lines`: splits each line into headers, key and value.
//!
//! The format is that of kafka-console-producer's LineMessageReader, extended by kcat's options.

use std::borrow::Cow;

use ottla::Header;

use super::InputRecord;
use crate::CliError;
use crate::args::ProduceArgs;
use crate::settings::{read_file, split_property};

/// The format of a line: the reader properties and kcat's options.
#[derive(Debug, Clone)]
pub(crate) struct LineFormat {
    delimiter: Vec<u8>,
    parse_key: bool,
    key_separator: Vec<u8>,
    /// With kcat's `-K`, a line without the separator is a value without a key.
    key_is_optional: bool,
    parse_headers: bool,
    headers_delimiter: Vec<u8>,
    headers_separator: Vec<u8>,
    headers_key_separator: Vec<u8>,
    ignore_error: bool,
    null_marker: Option<Vec<u8>>,
    null_empty: bool,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Replaces the escapes `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH`.
fn unescape(text: &str) -> Result<Vec<u8>, CliError> {
    let (mut out, mut chars) = (Vec::new(), text.chars());
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        out.push(match chars.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let hex: String = chars.by_ref().take(2).collect();
                u8::from_str_radix(&hex, 16).map_err(|_| {
                    CliError::usage(format!("{text:?}: \\x needs two hexadecimal digits"))
                })?
            }
            _ => {
                return Err(CliError::usage(format!(
                    "{text:?} contains an unknown escape; use \\n, \\r, \\t, \\0, \\\\ or \\xHH"
                )));
            }
        });
    }
    if out.is_empty() { Err(CliError::usage("a delimiter must not be empty")) } else { Ok(out) }
}

/// Parses a property that is a regular expression in Kafka, if it only means plain text.
///
/// Any other expression is an error, because it would match something else than in Kafka.
fn parse_literal(name: &str, text: &[u8]) -> Result<Vec<u8>, CliError> {
    let (mut out, mut is_escaped) = (Vec::new(), false);
    for &b in text {
        let is_special = b"[](){}*+?^$|.\\".contains(&b);
        if is_escaped && !is_special || !is_escaped && is_special && b != b'\\' {
            let text = String::from_utf8_lossy(text);
            return Err(CliError::usage(format!(
                "{name}={text} is a regular expression; only plain text is supported"
            )));
        }
        is_escaped = !is_escaped && b == b'\\';
        if !is_escaped {
            out.push(b);
        }
    }
    Ok(out)
}

/// A property of [`LineFormat`] that marks a position in a line.
#[derive(Clone, Copy)]
struct Separator<'a> {
    property: &'static str,
    bytes: Option<&'a [u8]>,
}

impl<'a> Separator<'a> {
    fn new(property: &'static str, bytes: &'a [u8]) -> Separator<'a> {
        Separator { property, bytes: Some(bytes) }
    }
}

impl LineFormat {
    pub(crate) fn new(args: &ProduceArgs) -> Result<LineFormat, CliError> {
        let mut f = LineFormat {
            delimiter: args.delimiter.as_deref().map_or(Ok(b"\n".to_vec()), unescape)?,
            parse_key: false,
            key_separator: b"\t".to_vec(),
            key_is_optional: false,
            parse_headers: false,
            headers_delimiter: b"\t".to_vec(),
            headers_separator: b",".to_vec(),
            headers_key_separator: b":".to_vec(),
            ignore_error: false,
            null_marker: None,
            null_empty: args.null_empty,
            key: args.key.as_ref().map(|k| k.clone().into_bytes()),
            headers: Vec::new(),
        };
        if let Some(class) = &args.line_reader
            && !class.ends_with("LineMessageReader")
        {
            return Err(CliError::usage(format!(
                "--line-reader {class} is not supported; only LineMessageReader is"
            )));
        }
        if let Some(path) = &args.reader_config {
            let entries = ottla::tools::parse_properties(read_file(path)?);
            let entries = entries
                .map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))?;
            for (name, value) in entries {
                f.set(&name, &value)?;
            }
        }
        for property in args.property.iter().chain(&args.reader_property) {
            let (name, value) = split_property(property)?;
            f.set(name, value)?;
        }
        if let Some(k) = &args.key_delimiter {
            (f.parse_key, f.key_is_optional, f.key_separator) = (true, true, unescape(k)?);
        }
        for header in &args.header {
            let (name, value) =
                header.split_once('=').map_or((header.as_str(), None), |(n, v)| (n, Some(v)));
            f.headers.push((name.to_owned(), value.map(|v| v.as_bytes().to_vec())));
        }
        f.check_separators()?;
        Ok(f)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), CliError> {
        let flag = || match value.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => {
                Err(CliError::usage(format!("reader property {name}={other} is not true or false")))
            }
        };
        let text = || {
            if value.is_empty() {
                Err(CliError::usage(format!("reader property {name} is empty")))
            } else {
                Ok(value.as_bytes().to_vec())
            }
        };
        match name.trim() {
            "parse.key" => self.parse_key = flag()?,
            "key.separator" => self.key_separator = text()?,
            "parse.headers" => self.parse_headers = flag()?,
            "headers.delimiter" => self.headers_delimiter = text()?,
            "headers.separator" => self.headers_separator = parse_literal(name, &text()?)?,
            "headers.key.separator" => self.headers_key_separator = text()?,
            "ignore.error" => self.ignore_error = flag()?,
            "null.marker" => self.null_marker = Some(text()?),
            other => return Err(CliError::usage(format!("unknown reader property {other}"))),
        }
        Ok(())
    }

    /// Refuses equal separators. These are the comparisons that Kafka's LineMessageReader makes.
    fn check_separators(&self) -> Result<(), CliError> {
        let delimiter = Separator::new("headers.delimiter", &self.headers_delimiter);
        let separator = Separator::new("headers.separator", &self.headers_separator);
        let header_key = Separator::new("headers.key.separator", &self.headers_key_separator);
        let key = Separator::new("key.separator", &self.key_separator);
        let marker = Separator { property: "null.marker", bytes: self.null_marker.as_deref() };
        for (a, b) in [
            (delimiter, separator),
            (delimiter, header_key),
            (separator, header_key),
            (marker, key),
            (marker, separator),
            (marker, delimiter),
            (marker, header_key),
        ] {
            if a.bytes.is_some() && a.bytes == b.bytes {
                let (a, b) = (a.property, b.property);
                return Err(CliError::usage(format!("{a} and {b} must not be equal")));
            }
        }
        Ok(())
    }

    fn is_null(&self, text: &[u8]) -> bool {
        self.null_marker.as_deref() == Some(text) || (self.null_empty && text.is_empty())
    }

    fn non_null<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        (!self.is_null(text)).then_some(text)
    }

    pub(super) fn delimiter(&self) -> &[u8] {
        &self.delimiter
    }

    /// Returns the headers that every record has.
    pub(super) fn constant_headers(&self) -> Vec<Header<'static>> {
        let headers = self.headers.iter();
        headers.map(|(n, v)| Header::maybe(n.as_str(), v.as_deref()).into_owned()).collect()
    }

    /// Parses line `number`. The error is Kafka's text where Kafka has one.
    pub(super) fn parse<'a>(
        &'a self,
        line: &'a [u8],
        number: u64,
    ) -> Result<InputRecord<'a>, String> {
        let mut headers: Vec<Header<'_>> =
            self.headers.iter().map(|(n, v)| Header::maybe(n.as_str(), v.as_deref())).collect();
        let excerpt = || excerpt(line);
        let mut rest = line;
        if self.parse_headers {
            match split_bytes_once(rest, &self.headers_delimiter) {
                Some((text, tail)) => {
                    rest = tail;
                    if self.null_marker.as_deref() != Some(text) {
                        self.parse_headers(text, number, &mut headers)?;
                    }
                }
                None if self.ignore_error => {}
                None => {
                    return Err(format!(
                        "No headers delimiter found on line number {number}: '{}'",
                        excerpt()
                    ));
                }
            }
        }
        let mut key = self.key.as_deref();
        if self.parse_key {
            match split_bytes_once(rest, &self.key_separator) {
                Some((text, tail)) => {
                    // With kcat's -K, an empty key falls back to -k.
                    key = self.non_null(text).or(key.filter(|_| self.key_is_optional));
                    rest = tail;
                }
                None if self.key_is_optional => {}
                None if self.ignore_error => key = None,
                None => {
                    return Err(format!(
                        "No key separator found on line number {number}: '{}'",
                        excerpt()
                    ));
                }
            }
        }
        Ok(InputRecord {
            key: key.map(Cow::Borrowed),
            value: self.non_null(rest).map(Cow::Borrowed),
            headers,
            ..InputRecord::default()
        })
    }

    fn parse_headers<'a>(
        &self,
        text: &'a [u8],
        number: u64,
        headers: &mut Vec<Header<'a>>,
    ) -> Result<(), String> {
        let mut rest = Some(text);
        while let Some(current) = rest {
            let (pair, tail) = split_bytes_once(current, &self.headers_separator)
                .map_or((current, None), |(pair, tail)| (pair, Some(tail)));
            rest = tail;
            if pair.is_empty() && rest.is_none() {
                // Java's `String.split` drops an empty pair at the end.
                break;
            }
            let (name, value) = match split_bytes_once(pair, &self.headers_key_separator) {
                Some((name, value)) => (name, self.non_null(value)),
                None if self.ignore_error => (pair, None),
                None => {
                    let pair = excerpt(pair);
                    return Err(format!(
                        "No header key separator found in pair '{pair}' on line number {number}"
                    ));
                }
            };
            if self.null_marker.as_deref() == Some(name) {
                return Err(format!(
                    "Header keys should not be equal to the null marker on line number {number}"
                ));
            }
            let name = std::str::from_utf8(name)
                .map_err(|_| format!("a header key on line number {number} is not UTF-8"))?;
            headers.push(Header::maybe(name, value));
        }
        Ok(())
    }
}

/// Returns the start of a line or of a part of it, for a message.
fn excerpt(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&text[..text.len().min(200)])
}

fn split_bytes_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let i = text.windows(separator.len()).position(|w| w == separator)?;
    Some((&text[..i], &text[i + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(bytes: &'a Option<Cow<'_, [u8]>>) -> Option<&'a str> {
        bytes.as_deref().map(|bytes| std::str::from_utf8(bytes).unwrap())
    }

    fn line_format(f: impl FnOnce(&mut ProduceArgs)) -> LineFormat {
        let mut args = ProduceArgs::default();
        f(&mut args);
        LineFormat::new(&args).unwrap_or_else(|e| panic!("{}", e.message))
    }

    #[test]
    fn console_producer_properties_split_keys_and_headers() {
        let f = line_format(|a| {
            a.property = ["parse.key=true", "parse.headers=true", "null.marker=NULL"]
                .map(String::from)
                .to_vec();
        });
        let p = f.parse(b"h1:v1,h2:NULL\tkey\tvalue\tmore", 1).unwrap();
        assert_eq!(p.headers, [Header::new("h1", "v1"), Header::null("h2")]);
        assert_eq!((text(&p.key), text(&p.value)), (Some("key"), Some("value\tmore")));
        let p = f.parse(b"NULL\tNULL\tNULL", 1).unwrap();
        assert_eq!(p, InputRecord::default());
        let e = f.parse(b"h:v\tno key", 7).unwrap_err();
        assert_eq!(e, "No key separator found on line number 7: 'h:v\tno key'");
        assert!(f.parse(b"NULL:v\tk\tv", 1).unwrap_err().contains("null marker"));
        assert!(f.parse(b"h1\tk\tv", 1).unwrap_err().contains("No header key separator"));
        let f = line_format(|a| {
            a.property = ["parse.key=true", "ignore.error=true"].map(String::from).to_vec();
        });
        assert_eq!(text(&f.parse(b"no key", 1).unwrap().value), Some("no key"));
        for same in
            ["headers.separator=:", "headers.delimiter=,", "null.marker=:", "headers.separator=."]
        {
            let property = vec![same.to_owned()];
            assert!(
                LineFormat::new(&ProduceArgs { property, ..Default::default() }).is_err(),
                "{same}"
            );
        }
        let f = line_format(|a| {
            let all = [
                "parse.headers=true",
                "parse.key=TRUE",
                "key.separator=:",
                "headers.separator=\\|",
            ];
            a.property = all.map(String::from).to_vec();
        });
        let p = f.parse(b"a:1|b:2|\tk:v", 1).unwrap();
        assert_eq!((p.headers.len(), text(&p.key), text(&p.value)), (2, Some("k"), Some("v")));
        let unknown = vec!["parse.kee=true".to_owned()];
        assert!(LineFormat::new(&ProduceArgs { property: unknown, ..Default::default() }).is_err());
    }

    #[test]
    fn kcat_options_set_keys_headers_and_null_values() {
        let f = line_format(|a| {
            a.key_delimiter = Some(":".into());
            a.null_empty = true;
            a.header = vec!["a=1".into(), "b".into()];
        });
        let p = f.parse(b"k:", 1).unwrap();
        assert_eq!((text(&p.key), text(&p.value)), (Some("k"), None));
        assert_eq!(p.headers, [Header::new("a", "1"), Header::null("b")]);
        assert_eq!(f.parse(b"only a value", 1).unwrap().key, None);
        let f = line_format(|a| {
            a.key_delimiter = Some(":".into());
            a.key = Some("other".into());
        });
        assert_eq!(text(&f.parse(b"k:v", 1).unwrap().key), Some("k"));
        assert_eq!(text(&f.parse(b"v", 1).unwrap().key), Some("other"));
        let f = line_format(|a| a.key = Some("fixed".into()));
        assert_eq!(text(&f.parse(b"v", 1).unwrap().key), Some("fixed"));
    }
}
