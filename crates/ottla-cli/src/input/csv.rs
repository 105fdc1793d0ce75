//! `--format csv`: RFC 4180 with a header line.
//!
//! The parser is that of the crate `csv`, used through `csv_core`: it says how many bytes belong
//! to a row, so the row's own text can be the value.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, BufRead};

use csv_core::ReadRecordResult;

use super::InputRecord;
use crate::args::CsvValue;

/// Reads rows and makes a record of each.
#[derive(Debug)]
pub(super) struct CsvReader {
    core: csv_core::Reader,
    delimiter: u8,
    key_column: Option<String>,
    value: CsvValue,
    /// The columns of the current input, from its header line.
    columns: Vec<String>,
    key_index: Option<usize>,
    row: Row,
    /// The line ends of the current input so far.
    line_ends: u64,
}

/// The current row.
#[derive(Debug, Default)]
struct Row {
    /// The row as it stands in the input, with its line end.
    text: Vec<u8>,
    /// The bytes of all fields, without quotes. Only the first `fields_len` bytes are in use.
    fields: Vec<u8>,
    fields_len: usize,
    /// The end of each field in `fields`. Only the first `field_count` ends are in use.
    ends: Vec<usize>,
    field_count: usize,
    /// The line on which the row starts. The first is 1.
    number: u64,
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn count_newlines(text: &[u8]) -> u64 {
    text.iter().filter(|b| **b == b'\n').count() as u64
}

/// The result of [`CsvReader::read_row`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextRow {
    /// The row can be parsed.
    Row,
    /// The row has more bytes than the limit. It was skipped.
    TooLong,
    /// The input ended inside a quoted field. The row may be too long besides.
    OpenQuote { is_too_long: bool },
    /// The input has ended.
    Eof,
}

impl Row {
    fn clear(&mut self) {
        self.text.clear();
        (self.fields_len, self.field_count) = (0, 0);
    }

    fn field(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.fields[start..self.ends[i]]
    }

    /// Returns the row's text without its line end.
    fn line(&self) -> &[u8] {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        text.strip_suffix(b"\r").unwrap_or(text)
    }
}

impl CsvReader {
    pub(super) fn new(delimiter: u8, key_column: Option<String>, value: CsvValue) -> CsvReader {
        let core = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        let (columns, key_index) = (Vec::new(), None);
        CsvReader {
            core,
            delimiter,
            key_column,
            value,
            columns,
            key_index,
            row: Row::default(),
            line_ends: 0,
        }
    }

    /// Reads the header line of an input. An empty input has none.
    pub(super) fn read_header_line(
        &mut self,
        input: &mut dyn BufRead,
        limit: usize,
    ) -> io::Result<()> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        self.core = csv_core::ReaderBuilder::new().delimiter(self.delimiter).build();
        (self.columns, self.key_index, self.line_ends) = (Vec::new(), None, 0);
        match self.read_row(input, limit)? {
            NextRow::Eof => return Ok(()),
            NextRow::Row => {}
            _ => return Err(invalid("its first line is no header line of a CSV file".into())),
        }
        let fields = (0..self.row.field_count).map(|i| self.row.field(i).to_owned());
        let columns: Result<Vec<String>, _> = fields.map(String::from_utf8).collect();
        self.columns = columns.map_err(|_| invalid("its header line is not UTF-8".into()))?;
        if let Some(first) = self.columns.first_mut() {
            // Excel writes a byte order mark.
            *first = first.trim_start_matches('\u{feff}').to_owned();
        }
        let mut names = HashSet::with_capacity(self.columns.len());
        if let Some(name) = self.columns.iter().find(|name| !names.insert(name.as_str())) {
            return Err(invalid(format!("its header line has the column {name:?} twice")));
        }
        if let Some(key) = &self.key_column {
            self.key_index = self.columns.iter().position(|name| name == key);
            if self.key_index.is_none() {
                let columns = self.columns.join(", ");
                let reason = format!("its header line has no column {key:?} but {columns}");
                return Err(invalid(reason));
            }
        }
        Ok(())
    }

    /// Reads the next row. Empty lines are skipped.
    pub(super) fn read_row(
        &mut self,
        input: &mut dyn BufRead,
        limit: usize,
    ) -> io::Result<NextRow> {
        self.row.clear();
        self.row.number = self.line_ends + 1;
        let (mut is_too_long, mut is_started) = (false, false);
        loop {
            let bytes = input.fill_buf()?;
            let is_eof = bytes.is_empty();
            // The parser takes the end of the input for the end of a quoted field. A line end
            // instead shows whether the field is open.
            let (result, consumed) = self.parse_bytes(if is_eof { b"\n" } else { bytes });
            if !is_eof {
                let mut text = &bytes[..consumed];
                self.line_ends += count_newlines(text);
                if !is_started {
                    // The parser skips empty lines before the row.
                    let row_start = text.iter().position(|b| !is_line_end(*b));
                    is_started = row_start.is_some();
                    let (blank, rest) = text.split_at(row_start.unwrap_or(consumed));
                    self.row.number += count_newlines(blank);
                    text = rest;
                }
                if is_too_long || self.row.text.len() + text.len() > limit {
                    is_too_long = true;
                    self.row.clear();
                } else {
                    self.row.text.extend_from_slice(text);
                }
                input.consume(consumed);
            }
            match result {
                ReadRecordResult::Record => {
                    return Ok(if is_too_long { NextRow::TooLong } else { NextRow::Row });
                }
                _ if !is_eof => {}
                _ if is_started => return Ok(NextRow::OpenQuote { is_too_long }),
                _ => return Ok(NextRow::Eof),
            }
        }
    }

    /// Parses bytes up to the end of a row, and grows the buffers of the row.
    fn parse_bytes(&mut self, bytes: &[u8]) -> (ReadRecordResult, usize) {
        const LEAST_BYTES: usize = 1024;
        const LEAST_FIELDS: usize = 16;
        let (row, mut consumed) = (&mut self.row, 0);
        loop {
            let (result, read, written, ends) = self.core.read_record(
                &bytes[consumed..],
                &mut row.fields[row.fields_len..],
                &mut row.ends[row.field_count..],
            );
            consumed += read;
            row.fields_len += written;
            row.field_count += ends;
            match result {
                ReadRecordResult::OutputFull => {
                    row.fields.resize((2 * row.fields.len()).max(LEAST_BYTES), 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    row.ends.resize((2 * row.ends.len()).max(LEAST_FIELDS), 0);
                }
                _ => return (result, consumed),
            }
        }
    }

    /// Returns the number of the line on which the current row starts.
    pub(super) fn line_number(&self) -> u64 {
        self.row.number
    }

    /// Returns the line ends of the current input so far.
    pub(super) fn line_ends(&self) -> u64 {
        self.line_ends
    }

    /// Continues behind this many line ends.
    pub(super) fn set_line_ends(&mut self, line_ends: u64) {
        self.line_ends = line_ends;
    }

    /// Returns the text of the current row.
    pub(super) fn line(&self) -> &[u8] {
        self.row.line()
    }

    /// Makes a record of the current row, which starts on line `number`.
    pub(super) fn parse(&self, number: u64) -> Result<InputRecord<'_>, String> {
        let (found, expected) = (self.row.field_count, self.columns.len());
        if found != expected {
            return Err(format!(
                "line {number}: expected {expected} fields, as in the header line, found {found}"
            ));
        }
        let value = match self.value {
            CsvValue::Line => Cow::Borrowed(self.row.line()),
            CsvValue::Json => Cow::Owned(self.as_object(number)?),
        };
        Ok(InputRecord {
            key: self.key_index.map(|i| Cow::Borrowed(self.row.field(i))),
            value: Some(value),
            ..InputRecord::default()
        })
    }

    /// Returns the row as a JSON object with a string for each column.
    fn as_object(&self, number: u64) -> Result<Vec<u8>, String> {
        let mut object = Vec::with_capacity(2 * self.row.text.len());
        for (i, column) in self.columns.iter().enumerate() {
            let field = std::str::from_utf8(self.row.field(i)).map_err(|_| {
                format!("line {number}, field {column}: expected UTF-8, which JSON needs")
            })?;
            object.push(if i == 0 { b'{' } else { b',' });
            crate::input::push_json_string(&mut object, column);
            object.push(b':');
            crate::input::push_json_string(&mut object, field);
        }
        object.push(b'}');
        Ok(object)
    }
}
