//! Parses Java's properties format as `java.util.Properties.load` does: comments, continuation
//! lines and escapes. [`Properties::load`](super::Properties::load) and the `file` configuration
//! provider call it.
//!
//! Two points differ from Java. A file that is valid UTF-8 is read as UTF-8, not as ISO-8859-1,
//! because most editors write UTF-8. An escape that is half of a surrogate pair is an error.

use std::borrow::Cow;

use crate::error::Error;

/// Parses the content of a file in Java's properties format. Returns names and values in the order
/// of the file; a name that occurs twice is returned twice.
///
/// The content may be UTF-8, UTF-16 with a byte order mark, or ISO-8859-1 (anything else).
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) if a `\u` escape is malformed, with its line
/// number, or if the encoding cannot be read. The error never contains a value.
pub fn parse(content: impl AsRef<[u8]>) -> Result<Vec<(String, String)>, Error> {
    let text = decode(content.as_ref())?;
    logical_lines(&text).iter().map(LogicalLine::split_name_value).collect()
}

/// Decodes the content of a file by its byte order mark, or else as UTF-8 or ISO-8859-1.
fn decode(content: &[u8]) -> Result<Cow<'_, str>, Error> {
    match content {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            Err(Error::config("the file is encoded as UTF-32; save it as UTF-8"))
        }
        [0xff, 0xfe, rest @ ..] => decode_utf16(rest, u16::from_le_bytes).map(Cow::Owned),
        [0xfe, 0xff, rest @ ..] => decode_utf16(rest, u16::from_be_bytes).map(Cow::Owned),
        // Without this check a name would contain a NUL before or after each character.
        [0, 1..=0x7f, 0, 1..=0x7f, ..] | [1..=0x7f, 0, 1..=0x7f, 0, ..] => Err(Error::config(
            "the file is encoded as UTF-16 without a byte order mark; save it as UTF-8",
        )),
        _ => Ok(match std::str::from_utf8(content) {
            Ok(text) => Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)),
            // Each byte of ISO-8859-1 is the code point of its character.
            Err(_) => Cow::Owned(content.iter().map(|b| char::from(*b)).collect()),
        }),
    }
}

fn decode_utf16(content: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, Error> {
    let (pairs, odd) = content.as_chunks::<2>();
    let text: Result<String, _> =
        char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect();
    text.ok().filter(|_| odd.is_empty()).ok_or_else(|| {
        Error::config("the file begins as UTF-16, but is not valid UTF-16; save it as UTF-8")
    })
}

/// Java's whitespace in a properties file; other Unicode whitespace is part of a name or value.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// Removes the blanks at the start of a text.
fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

/// A line after its continuation lines are joined, without comments and empty lines.
#[derive(Default)]
struct LogicalLine {
    text: String,
    /// For each physical line: where its text begins in `text`, and its number in the file.
    parts: Vec<(usize, usize)>,
}

/// Splits a text at the ends of its lines: `\n`, `\r` and `\r\n`.
fn physical_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let Some(end) = current.find(['\n', '\r']) else {
            rest = None;
            return Some(current);
        };
        let len = if current[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&current[end + len..]);
        Some(&current[..end])
    })
}

/// Joins continued lines. A line that ends in an odd number of backslashes continues in the next
/// one; an even number is escaped backslashes.
fn logical_lines(text: &str) -> Vec<LogicalLine> {
    let mut out = Vec::new();
    let mut current = LogicalLine::default();
    for (i, line) in physical_lines(text).enumerate() {
        let line = skip_blanks(line);
        // As in Java, `#` in a continuation line begins a comment only if the lines before it had
        // no text.
        let is_comment = current.text.is_empty() && line.starts_with(['#', '!']);
        let line = if is_comment { "" } else { line };
        let slashes = line.len() - line.trim_end_matches('\\').len();
        let is_continued = slashes % 2 == 1;
        current.parts.push((current.text.len(), i + 1));
        current.text.push_str(if is_continued { &line[..line.len() - 1] } else { line });
        if !is_continued {
            let finished = std::mem::take(&mut current);
            if !finished.text.is_empty() {
                out.push(finished);
            }
        }
    }
    // The last line may end in a backslash.
    if !current.text.is_empty() {
        out.push(current);
    }
    out
}

impl LogicalLine {
    /// Splits a line into name and value. The name ends at the first `=`, `:` or blank that is not
    /// escaped.
    fn split_name_value(&self) -> Result<(String, String), Error> {
        let mut escaped = false;
        let end = self.text.char_indices().find(|(_, c)| {
            let is_end = !escaped && (matches!(c, '=' | ':') || is_blank(*c));
            escaped = !escaped && *c == '\\';
            is_end
        });
        let end = end.map_or(self.text.len(), |(i, _)| i);
        let rest = skip_blanks(&self.text[end..]);
        let rest = skip_blanks(rest.strip_prefix(['=', ':']).unwrap_or(rest));
        Ok((self.unescape(0, end)?, self.unescape(self.text.len() - rest.len(), self.text.len())?))
    }

    /// Replaces the escapes in a part of the line.
    fn unescape(&self, start: usize, end: usize) -> Result<String, Error> {
        let text = &self.text[start..end];
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            let position = start + text.len() - chars.as_str().len();
            match chars.next() {
                Some('t') => out.push('\t'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('f') => out.push('\u{c}'),
                Some('u') => {
                    let (code, rest) = parse_unicode_escape(chars.as_str())
                        .map_err(|reason| self.escape_error(position, reason))?;
                    out.push(code);
                    chars = rest.chars();
                }
                Some(other) => out.push(other),
                None => {}
            }
        }
        Ok(out)
    }

    /// Returns an error for the escape at `position`. It does not contain the text, which may be a
    /// password.
    fn escape_error(&self, position: usize, reason: &str) -> Error {
        let part = self.parts.iter().rev().find(|(start, _)| *start < position);
        let line = part.map_or(0, |(_, number)| *number);
        Error::config(format!(
            "line {line}: malformed escape: \\u {reason}; write \\\\ for a backslash, as in \
             C:\\\\users, or use / in paths"
        ))
    }
}

/// Parses the text after `\u`: four hexadecimal digits, or a pair of surrogates. Returns the
/// character and the rest of the text.
fn parse_unicode_escape(text: &str) -> Result<(char, &str), &'static str> {
    let (first, rest) = parse_hex(text).ok_or("is not followed by four hexadecimal digits")?;
    let second = rest.strip_prefix("\\u").and_then(parse_hex);
    let (units, rest) = match second {
        Some((second, rest)) if matches!(first, 0xd800..0xdc00) => ([first, second], rest),
        _ => ([first, 0], rest),
    };
    match char::decode_utf16(units).next() {
        Some(Ok(c)) => Ok((c, rest)),
        _ => Err("is half of a surrogate pair without the other half"),
    }
}

fn parse_hex(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    // `from_str_radix` would accept a sign.
    let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten().map(|code| (code, rest))
}

#[cfg(test)]
mod tests;
