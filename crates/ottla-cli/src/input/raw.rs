//! `--format raw`: values that follow each other, each behind its length or all of one size.

use std::io::{self, BufRead, Read};

use crate::args::LengthPrefix;

/// Where a value ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawFraming {
    Prefix(LengthPrefix),
    /// Each value has this size in bytes.
    Size(usize),
}

/// The result of [`read_next_value`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextValue {
    /// The value is in the buffer.
    Value,
    /// The value is null: its length is -1.
    Null,
    /// The value is larger than the limit. It was skipped.
    TooLong,
    /// The input has ended.
    Eof,
}

/// Reads the next value into `value`, which holds at most `limit` bytes.
///
/// An input that ends inside a value is an error: no value behind the gap could be found.
pub(super) fn read_next_value(
    input: &mut dyn BufRead,
    framing: RawFraming,
    limit: usize,
    value: &mut Vec<u8>,
) -> io::Result<NextValue> {
    value.clear();
    if input.fill_buf()?.is_empty() {
        return Ok(NextValue::Eof);
    }
    let len = match framing {
        RawFraming::Size(size) => size as u64,
        RawFraming::Prefix(prefix) => match read_length(input, prefix)? {
            Some(len) => len,
            None => return Ok(NextValue::Null),
        },
    };
    let is_too_long = len > limit as u64;
    // The buffer grows with the bytes that arrive, because the length may be wrong.
    let read = if is_too_long {
        io::copy(&mut Read::take(&mut *input, len), &mut io::sink())?
    } else {
        Read::take(&mut *input, len).read_to_end(value)? as u64
    };
    if read < len {
        let message = format!("the input ends after {read} of a value's {len} bytes");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(if is_too_long { NextValue::TooLong } else { NextValue::Value })
}

/// Reads a length; `None` for null.
fn read_length(input: &mut dyn BufRead, prefix: LengthPrefix) -> io::Result<Option<u64>> {
    let from_bytes = match prefix {
        LengthPrefix::Varint => return read_varint(input).map(Some),
        LengthPrefix::Be32 => i32::from_be_bytes,
        LengthPrefix::Le32 => i32::from_le_bytes,
    };
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(|e| truncated(e, "4 bytes"))?;
    match from_bytes(bytes) {
        -1 => Ok(None),
        len => u64::try_from(len).map(Some).map_err(|_| {
            let message = format!("{len} is no length of a value; expected 0 or more, or -1");
            io::Error::new(io::ErrorKind::InvalidData, message)
        }),
    }
}

/// Reads an unsigned varint, as Protobuf writes it before a delimited message.
fn read_varint(input: &mut dyn BufRead) -> io::Result<u64> {
    let (mut len, mut byte) = (0, [0]);
    for shift in (0..35).step_by(7) {
        input.read_exact(&mut byte).map_err(|e| truncated(e, "a varint"))?;
        len |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(len);
        }
    }
    let message = "a length is longer than 5 bytes; expected a varint of 32 bits";
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

fn truncated(e: io::Error, expected: &str) -> io::Error {
    if e.kind() != io::ErrorKind::UnexpectedEof {
        return e;
    }
    let message = format!("the input ends inside a length; expected {expected}");
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}
