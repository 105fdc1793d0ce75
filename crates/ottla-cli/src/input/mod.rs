//! The input of `ottla produce`: files in one of four formats, read record by record.
//!
//! The send loop calls [`RecordReader::start_input`] for each input, then [`RecordReader::read`]
//! and [`RecordReader::parse`] for each record.

mod options;
mod file;
mod stream;
mod decompress;
mod read_line;
mod lines;
mod json;
mod json_bytes;
mod json_headers;
mod json_scan;
mod csv;
mod raw;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::{self, BufRead};

use ottla::Header;

use crate::CliError;
use crate::args::{InputFormat, LengthPrefix, ProduceArgs};
use csv::{CsvReader, NextRow};
pub(crate) use file::Input;
pub(crate) use json::{BASE64, start_of};
use lines::LineFormat;
use raw::{NextValue, RawFraming, read_next_value};
use read_line::{NextLine, read_next_line};
pub(crate) use stream::InputStream;

/// A record that borrows from the input's buffer what it can.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct InputRecord<'a> {
    pub(crate) topic: Option<Cow<'a, str>>,
    pub(crate) partition: Option<i32>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Cow<'a, [u8]>>,
    pub(crate) value: Option<Cow<'a, [u8]>>,
    pub(crate) headers: Vec<Header<'a>>,
    /// The parts that are bytes in base64, which no schema serializes.
    pub(crate) serialized: JsonParts,
}

/// Parts of a record: those that are JSON texts, for example.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JsonParts {
    pub(crate) key: bool,
    pub(crate) value: bool,
}

/// The result of [`RecordReader::read`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextRecord {
    /// A record can be parsed.
    Record,
    /// The next text cannot be a record.
    Error(InputError),
    /// The input has ended.
    Eof,
}

/// Why a text of the input cannot be sent. The reason names its line, or the number of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InputError {
    /// Its record would be larger than `max.request.size`.
    TooLong(String),
    /// It is no record.
    Invalid(String),
}

impl From<String> for InputError {
    fn from(reason: String) -> InputError {
        InputError::Invalid(reason)
    }
}

impl InputError {
    pub(crate) fn reason(&self) -> &str {
        match self {
            InputError::TooLong(reason) | InputError::Invalid(reason) => reason,
        }
    }

    fn with_line(self, number: u64) -> InputError {
        let with_line = |reason| format!("line {number}, {reason}");
        match self {
            InputError::TooLong(reason) => InputError::TooLong(with_line(reason)),
            InputError::Invalid(reason) => InputError::Invalid(with_line(reason)),
        }
    }
}

/// What ends a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordEnd<'a> {
    Delimiter(&'a [u8]),
    /// Line ends, of which any number may follow each other.
    LineEnds,
    /// The record's length.
    Length,
}

enum Format {
    Lines(LineFormat),
    Json,
    Csv(Box<CsvReader>),
    Raw(RawFraming),
}

/// What the options say about every record, for the formats other than lines.
struct RecordDefaults {
    key: Option<Vec<u8>>,
    headers: Vec<Header<'static>>,
    null_empty: bool,
}

/// Reads the records of all inputs. It has one record at a time.
pub(crate) struct RecordReader {
    format: Format,
    defaults: RecordDefaults,
    /// With `--format json`, the parts whose strings stay JSON.
    json_parts: JsonParts,
    max_request_size: usize,
    /// The current record's text; the reader of CSV has its own.
    buffer: Vec<u8>,
    is_null: bool,
    /// The current record's line in its input, or its number in a raw input. The first is 1.
    number: u64,
}

impl RecordReader {
    /// Checks the options of the input. `max_request_size` limits a record's size.
    pub(crate) fn new(
        args: &ProduceArgs,
        max_request_size: usize,
    ) -> Result<RecordReader, CliError> {
        let options = &args.input;
        options::check(args)?;
        let lines = LineFormat::new(args)?;
        let defaults = RecordDefaults {
            key: args.key.as_ref().map(|key| key.clone().into_bytes()),
            headers: lines.constant_headers(),
            null_empty: args.null_empty,
        };
        let format = match options.format {
            InputFormat::Lines => Format::Lines(lines),
            InputFormat::Json => Format::Json,
            InputFormat::Csv => Format::Csv(Box::new(CsvReader::new(
                options::csv_delimiter(options)?,
                options.key_column.clone(),
                options.csv_value.unwrap_or_default(),
            ))),
            InputFormat::Raw => Format::Raw(match options.value_size {
                Some(size) => RawFraming::Size(size as usize),
                None => RawFraming::Prefix(options.length_prefix.unwrap_or(LengthPrefix::Be32)),
            }),
        };
        Ok(RecordReader {
            format,
            defaults,
            json_parts: JsonParts::default(),
            max_request_size,
            buffer: Vec::new(),
            is_null: false,
            number: 0,
        })
    }

    /// Says which keys and values have a schema, and stay JSON texts.
    pub(crate) fn set_json_parts(&mut self, parts: JsonParts) {
        self.json_parts = parts;
    }

    /// Prepares for the records of an input, and reads the header line of CSV.
    pub(crate) fn start_input(&mut self, input: &mut dyn BufRead) -> io::Result<()> {
        self.number = 0;
        let limit = self.max_text_bytes();
        match &mut self.format {
            Format::Csv(csv) => csv.read_header_line(input, limit),
            _ => Ok(()),
        }
    }

    /// Returns the longest text of a record. Escapes and base64 make it longer than the record.
    fn max_text_bytes(&self) -> usize {
        const FIELD_NAMES_BYTES: usize = 64 << 10;
        let longest_escape = match &self.format {
            Format::Lines(_) | Format::Raw(_) => return self.max_request_size,
            // `\u0000` is one byte.
            Format::Json => 6,
            Format::Csv(_) => 2,
        };
        self.max_request_size.saturating_mul(longest_escape).saturating_add(FIELD_NAMES_BYTES)
    }

    /// Reads the text of the next record.
    pub(crate) fn read(&mut self, input: &mut dyn BufRead) -> io::Result<NextRecord> {
        let limit = self.max_text_bytes();
        let is_whole_size = limit == self.max_request_size;
        let longer = || match is_whole_size {
            true => format!("longer than max.request.size ({limit})"),
            false => format!("longer than {limit} bytes, which max.request.size allows"),
        };
        let too_long = |unit: &str, number: u64| {
            NextRecord::Error(InputError::TooLong(format!("{unit} {number} is {}", longer())))
        };
        match &mut self.format {
            Format::Csv(csv) => {
                let next = csv.read_row(input, limit)?;
                self.number = csv.line_number();
                Ok(match next {
                    NextRow::Row => NextRecord::Record,
                    NextRow::TooLong => too_long("line", self.number),
                    NextRow::OpenQuote { is_too_long } => {
                        let mut reason =
                            format!("line {}: the input ends inside a quoted field", self.number);
                        if is_too_long {
                            reason += &format!(", and the row is {}", longer());
                        }
                        NextRecord::Error(InputError::Invalid(reason))
                    }
                    NextRow::Eof => NextRecord::Eof,
                })
            }
            Format::Raw(framing) => {
                self.number += 1;
                let next = read_next_value(input, *framing, limit, &mut self.buffer);
                let next = next
                    .map_err(|e| io::Error::new(e.kind(), format!("value {}: {e}", self.number)))?;
                self.is_null = next == NextValue::Null;
                Ok(match next {
                    NextValue::Value | NextValue::Null => NextRecord::Record,
                    NextValue::TooLong => too_long("value", self.number),
                    NextValue::Eof => {
                        self.number -= 1;
                        NextRecord::Eof
                    }
                })
            }
            Format::Lines(_) | Format::Json => {
                let (delimiter, skips_blank_lines) = match &self.format {
                    Format::Lines(lines) => (lines.delimiter(), false),
                    _ => (&b"\n"[..], true),
                };
                loop {
                    self.number += 1;
                    let next = read_next_line(input, delimiter, limit, &mut self.buffer)?;
                    return Ok(match next {
                        NextLine::Line
                            if skips_blank_lines && self.buffer.trim_ascii().is_empty() =>
                        {
                            continue;
                        }
                        NextLine::Line => NextRecord::Record,
                        NextLine::TooLong => too_long("line", self.number),
                        NextLine::Eof => {
                            self.number -= 1;
                            NextRecord::Eof
                        }
                    });
                }
            }
        }
    }

    /// Returns the text of the current record as it stands in the input.
    pub(crate) fn text(&self) -> &[u8] {
        match &self.format {
            Format::Csv(csv) => csv.line(),
            _ => &self.buffer,
        }
    }

    /// Returns what [`number`](RecordReader::number) counts.
    pub(crate) fn unit(&self) -> &'static str {
        if matches!(self.format, Format::Raw(_)) { "value" } else { "line" }
    }

    /// Returns the current record's line in its input, or its number in a raw input.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn record_end(&self) -> RecordEnd<'_> {
        match &self.format {
            Format::Lines(lines) => RecordEnd::Delimiter(lines.delimiter()),
            Format::Json => RecordEnd::Delimiter(b"\n"),
            Format::Csv(_) => RecordEnd::LineEnds,
            Format::Raw(_) => RecordEnd::Length,
        }
    }

    /// Returns the lines, or values, of the current input up to the end of the current record.
    pub(crate) fn lines_read(&self) -> u64 {
        match &self.format {
            Format::Csv(csv) => csv.line_ends(),
            _ => self.number,
        }
    }

    /// Continues behind this many lines, or values, of the current input.
    pub(crate) fn resume_after(&mut self, lines: u64) {
        self.number = lines;
        if let Format::Csv(csv) = &mut self.format {
            csv.set_line_ends(lines);
        }
    }

    /// Parses the current record. The reason of an error names line and field.
    pub(crate) fn parse(&self) -> Result<InputRecord<'_>, InputError> {
        let mut record = match &self.format {
            Format::Lines(lines) => return Ok(lines.parse(&self.buffer, self.number)?),
            Format::Json => {
                let is_first = self.number == 1;
                let line = without_byte_order_mark(&self.buffer, is_first);
                json::parse(line, self.max_request_size, self.json_parts)
                    .map_err(|e| e.with_line(self.number))?
            }
            Format::Csv(csv) => csv.parse(self.number)?,
            Format::Raw(_) => InputRecord {
                value: (!self.is_null).then_some(Cow::Borrowed(&self.buffer[..])),
                ..InputRecord::default()
            },
        };
        self.defaults.apply(&mut record);
        Ok(record)
    }
}

impl RecordDefaults {
    fn apply<'a>(&'a self, record: &mut InputRecord<'a>) {
        if self.null_empty {
            record.key = record.key.take().filter(|key| !key.is_empty());
            record.value = record.value.take().filter(|value| !value.is_empty());
        }
        if record.key.is_none() {
            record.key = self.key.as_deref().map(Cow::Borrowed);
        }
        if !self.headers.is_empty() {
            record.headers.splice(0..0, self.headers.iter().cloned());
        }
    }
}

fn without_byte_order_mark(line: &[u8], is_first: bool) -> &[u8] {
    match line.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) if is_first => rest,
        _ => line,
    }
}

/// Appends a string in quotes, with JSON's escapes.
pub(crate) fn push_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a `Vec` cannot fail.
    let _ = serde_json::to_writer(out, text);
}
