//! Input as bytes: cut into records at a delimiter, each taken apart into headers, key and value.

use std::io::{self, BufRead, Read};

use crate::CliError;
use crate::args::ProduceArgs;
use crate::settings::{read_file, split_property};

/// How a line is taken apart.
#[derive(Debug, Clone)]
pub(crate) struct LineFormat {
    delimiter: Vec<u8>,
    parse_key: bool,
    key_separator: Vec<u8>,
    /// kcat's `-K`: a line without the separator is a value.
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

/// A record, borrowed from its line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsedRecord<'l> {
    pub(crate) key: Option<&'l [u8]>,
    pub(crate) value: Option<&'l [u8]>,
    pub(crate) headers: Vec<(&'l str, Option<&'l [u8]>)>,
}

/// `\n`, `\t`, `\0`, `\\` and `\xHH`.
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
                u8::from_str_radix(&hex, 16)
                    .map_err(|_| CliError::usage(format!("{text:?}: \\x wants two hex digits")))?
            }
            _ => {
                return Err(CliError::usage(format!("{text:?} has an escape that is not known")));
            }
        });
    }
    if out.is_empty() { Err(CliError::usage("a delimiter cannot be empty")) } else { Ok(out) }
}

/// Kafka takes this one as a regular expression. Plain characters and escaped ones mean themselves; anything
/// that would mean more is refused rather than taken for something else.
fn parse_literal(name: &str, text: &[u8]) -> Result<Vec<u8>, CliError> {
    let (mut out, mut escaped) = (Vec::new(), false);
    for &b in text {
        let special = b"[](){}*+?^$|.\\".contains(&b);
        if escaped && !special || !escaped && special && b != b'\\' {
            let shown = String::from_utf8_lossy(text);
            return Err(CliError::usage(format!(
                "{name}={shown} is a regular expression; only plain text is understood"
            )));
        }
        escaped = !escaped && b == b'\\';
        if !escaped {
            out.push(b);
        }
    }
    Ok(out)
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
                "--line-reader {class}: a Java class cannot run here"
            )));
        }
        if let Some(path) = &args.reader_config {
            for (name, value) in ottla::parse_properties(&read_file(path)?) {
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

    /// Separators and marker must be told apart: Kafka's own comparisons.
    fn check_separators(&self) -> Result<(), CliError> {
        let delimiter = ("headers.delimiter", Some(&self.headers_delimiter));
        let separator = ("headers.separator", Some(&self.headers_separator));
        let key_separator = ("headers.key.separator", Some(&self.headers_key_separator));
        let marker = ("null.marker", self.null_marker.as_ref());
        for (one, other) in [
            (delimiter, separator),
            (delimiter, key_separator),
            (separator, key_separator),
            (marker, ("key.separator", Some(&self.key_separator))),
            (marker, separator),
            (marker, delimiter),
            (marker, key_separator),
        ] {
            if one.1.is_some() && one.1 == other.1 {
                return Err(CliError::usage(format!("{} and {} may not be equal", one.0, other.0)));
            }
        }
        Ok(())
    }

    fn is_null(&self, text: &'_ [u8]) -> bool {
        self.null_marker.as_deref() == Some(text) || (self.null_empty && text.is_empty())
    }

    fn non_null<'l>(&self, text: &'l [u8]) -> Option<&'l [u8]> {
        (!self.is_null(text)).then_some(text)
    }

    /// Takes line `number` apart.
    pub(crate) fn parse<'l>(
        &'l self,
        line: &'l [u8],
        number: u64,
    ) -> Result<ParsedRecord<'l>, String> {
        let mut headers: Vec<(&str, Option<&[u8]>)> =
            self.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        let shown = || String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
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
                        shown()
                    ));
                }
            }
        }
        let mut key = self.key.as_deref();
        if self.parse_key {
            match split_bytes_once(rest, &self.key_separator) {
                Some((text, tail)) => {
                    // kcat's -k stands in where -K finds nothing.
                    key = self.non_null(text).or(key.filter(|_| self.key_is_optional));
                    rest = tail;
                }
                None if self.key_is_optional => {}
                None if self.ignore_error => key = None,
                None => {
                    return Err(format!(
                        "No key separator found on line number {number}: '{}'",
                        shown()
                    ));
                }
            }
        }
        Ok(ParsedRecord { key, value: self.non_null(rest), headers })
    }

    fn parse_headers<'l>(
        &self,
        text: &'l [u8],
        number: u64,
        into: &mut Vec<(&'l str, Option<&'l [u8]>)>,
    ) -> Result<(), String> {
        let mut rest = Some(text);
        while let Some(all) = rest {
            let (one, tail) = split_bytes_once(all, &self.headers_separator)
                .map_or((all, None), |(o, t)| (o, Some(t)));
            rest = tail;
            if one.is_empty() && rest.is_none() {
                // Java's split drops an empty pair at the end.
                break;
            }
            let (name, value) = match split_bytes_once(one, &self.headers_key_separator) {
                Some((name, value)) => (name, self.non_null(value)),
                None if self.ignore_error => (one, None),
                None => {
                    let one = String::from_utf8_lossy(one);
                    return Err(format!(
                        "No header key separator found in pair '{one}' on line number {number}"
                    ));
                }
            };
            if self.null_marker.as_deref() == Some(name) {
                return Err(format!(
                    "Header keys should not be equal to the null marker on line number {number}"
                ));
            }
            let name = std::str::from_utf8(name)
                .map_err(|_| format!("a header's name on line number {number} is not UTF-8"))?;
            into.push((name, value));
        }
        Ok(())
    }
}

fn split_bytes_once<'l>(text: &'l [u8], at: &[u8]) -> Option<(&'l [u8], &'l [u8])> {
    let place = text.windows(at.len()).position(|w| w == at)?;
    Some((&text[..place], &text[place + at.len()..]))
}

/// What the next line is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextLine {
    /// It is in the buffer.
    Line,
    /// It is longer than the limit, and was passed over.
    TooLong,
    /// There is none.
    Eof,
}

/// Reads the next record's bytes into `line`, without delimiter; never more than `limit` and some.
pub(crate) fn read_next_line(
    from: &mut impl BufRead,
    format: &LineFormat,
    limit: usize,
    line: &mut Vec<u8>,
) -> io::Result<NextLine> {
    line.clear();
    let delimiter = &format.delimiter;
    let last = delimiter[delimiter.len() - 1];
    let (mut any, mut too_long) = (false, false);
    loop {
        let room = (limit + delimiter.len() + 1).saturating_sub(line.len()) as u64;
        let n = from.by_ref().take(room).read_until(last, line)?;
        any |= n > 0;
        if line.ends_with(delimiter) {
            line.truncate(line.len() - delimiter.len());
            if delimiter == b"\n" && line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(if too_long { NextLine::TooLong } else { NextLine::Line });
        }
        if n == 0 && room > 0 {
            return Ok(match (any, too_long) {
                (true, true) => NextLine::TooLong,
                (true, false) => NextLine::Line,
                _ => NextLine::Eof,
            });
        }
        if line.len() > limit + delimiter.len() {
            // Only the tail matters from here: it may be half a delimiter.
            too_long = true;
            line.drain(..line.len() + 1 - delimiter.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_format(f: impl FnOnce(&mut ProduceArgs)) -> LineFormat {
        let mut args = ProduceArgs::default();
        f(&mut args);
        LineFormat::new(&args).unwrap_or_else(|e| panic!("{}", e.message))
    }

    fn read_lines(input: &[u8], limit: usize, format: &LineFormat) -> Vec<Option<Vec<u8>>> {
        let (mut from, mut line, mut out) =
            (io::BufReader::with_capacity(3, input), Vec::new(), Vec::new());
        loop {
            match read_next_line(&mut from, format, limit, &mut line).unwrap() {
                NextLine::Line => out.push(Some(line.clone())),
                NextLine::TooLong => out.push(None),
                NextLine::Eof => return out,
            }
        }
    }

    #[test]
    fn lines_end_at_newline_one_cr_is_dropped_and_anything_else_passes() {
        let f = line_format(|_| {});
        let some = |s: &[u8]| Some(s.to_vec());
        assert_eq!(
            read_lines(b"a\r\n\n\xff\xfe\x00b\nc\r\r\nlast", 100, &f),
            [some(b"a"), some(b""), some(b"\xff\xfe\x00b"), some(b"c\r"), some(b"last")]
        );
        assert_eq!(read_lines(b"", 100, &f), []);
        assert_eq!(read_lines(b"0123456789x\nab\n", 5, &f), [None, some(b"ab")]);
        assert_eq!(read_lines(b"0123456789", 5, &f), [None]);
        let f = line_format(|a| a.delimiter = Some("--".into()));
        assert_eq!(read_lines(b"a-b--c---d", 100, &f), [some(b"a-b"), some(b"c"), some(b"-d")]);
        assert_eq!(read_lines(b"0123456789--ab--", 5, &f), [None, some(b"ab")]);
    }

    #[test]
    fn e3_keys_headers_and_the_null_marker() {
        let f = line_format(|a| {
            a.property = ["parse.key=true", "parse.headers=true", "null.marker=NULL"]
                .map(String::from)
                .to_vec();
        });
        let p = f.parse(b"h1:v1,h2:NULL\tkey\tvalue\tmore", 1).unwrap();
        assert_eq!(p.headers, [("h1", Some(&b"v1"[..])), ("h2", None)]);
        assert_eq!((p.key, p.value), (Some(&b"key"[..]), Some(&b"value\tmore"[..])));
        let p = f.parse(b"NULL\tNULL\tNULL", 1).unwrap();
        assert_eq!(p, ParsedRecord { key: None, value: None, headers: vec![] });
        let e = f.parse(b"h:v\tno key", 7).unwrap_err();
        assert_eq!(e, "No key separator found on line number 7: 'h:v\tno key'");
        assert!(f.parse(b"NULL:v\tk\tv", 1).unwrap_err().contains("null marker"));
        assert!(f.parse(b"h1\tk\tv", 1).unwrap_err().contains("No header key separator"));
        let f = line_format(|a| {
            a.property = ["parse.key=true", "ignore.error=true"].map(String::from).to_vec();
        });
        assert_eq!(f.parse(b"no key", 1).unwrap().value, Some(&b"no key"[..]));
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
        assert_eq!((p.headers.len(), p.key, p.value), (2, Some(&b"k"[..]), Some(&b"v"[..])));
        let unknown = vec!["parse.kee=true".to_owned()];
        assert!(LineFormat::new(&ProduceArgs { property: unknown, ..Default::default() }).is_err());
    }

    #[test]
    fn e4_keys_headers_and_empty_as_null() {
        let f = line_format(|a| {
            a.key_delimiter = Some(":".into());
            a.null_empty = true;
            a.header = vec!["a=1".into(), "b".into()];
        });
        let p = f.parse(b"k:", 1).unwrap();
        assert_eq!((p.key, p.value), (Some(&b"k"[..]), None));
        assert_eq!(p.headers, [("a", Some(&b"1"[..])), ("b", None)]);
        assert_eq!(f.parse(b"only a value", 1).unwrap().key, None);
        let f = line_format(|a| {
            a.key_delimiter = Some(":".into());
            a.key = Some("other".into());
        });
        assert_eq!(f.parse(b"k:v", 1).unwrap().key, Some(&b"k"[..]));
        assert_eq!(f.parse(b"v", 1).unwrap().key, Some(&b"other"[..]));
        let f = line_format(|a| a.key = Some("fixed".into()));
        assert_eq!(f.parse(b"v", 1).unwrap().key, Some(&b"fixed"[..]));
    }
}
