//! Reads the input line by line, with a bound on the memory that a line takes.

use std::io::{self, BufRead, Read};

/// The result of [`read_next_line`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextLine {
    /// The line is in the buffer.
    Line,
    /// The line is longer than the limit. It was skipped.
    TooLong,
    /// The input has ended.
    Eof,
}

/// Reads the next line into `line`, without its delimiter.
///
/// The buffer holds at most `limit` bytes and the delimiter, however long the line is.
pub(super) fn read_next_line(
    input: &mut dyn BufRead,
    delimiter: &[u8],
    limit: usize,
    line: &mut Vec<u8>,
) -> io::Result<NextLine> {
    line.clear();
    let last = delimiter[delimiter.len() - 1];
    let (mut has_bytes, mut is_too_long) = (false, false);
    loop {
        let room = (limit + delimiter.len() + 1).saturating_sub(line.len()) as u64;
        let n = read_until(&mut Read::take(&mut *input, room), last, line)?;
        has_bytes |= n > 0;
        if line.ends_with(delimiter) {
            line.truncate(line.len() - delimiter.len());
            if delimiter == b"\n" && line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(if is_too_long { NextLine::TooLong } else { NextLine::Line });
        }
        if n == 0 && room > 0 {
            return Ok(match (has_bytes, is_too_long) {
                (true, true) => NextLine::TooLong,
                (true, false) => NextLine::Line,
                _ => NextLine::Eof,
            });
        }
        if line.len() > limit + delimiter.len() {
            // Keep the last bytes: they may be the first part of the delimiter.
            is_too_long = true;
            line.drain(..line.len() + 1 - delimiter.len());
        }
    }
}

/// As `BufRead::read_until`, with a faster search: that of the standard library takes as long as
/// the rest of a short record.
fn read_until(input: &mut impl BufRead, last: u8, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut read = 0;
    loop {
        let available = match input.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        let end = memchr::memchr(last, available);
        let used = end.map_or(available.len(), |end| end + 1);
        line.extend_from_slice(&available[..used]);
        input.consume(used);
        read += used;
        if end.is_some() || used == 0 {
            return Ok(read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_lines(input: &[u8], limit: usize, delimiter: &str) -> Vec<Option<Vec<u8>>> {
        // A small buffer, so that a delimiter can span two reads.
        let mut input = io::BufReader::with_capacity(3, input);
        let (mut line, mut out) = (Vec::new(), Vec::new());
        loop {
            match read_next_line(&mut input, delimiter.as_bytes(), limit, &mut line).unwrap() {
                NextLine::Line => out.push(Some(line.clone())),
                NextLine::TooLong => out.push(None),
                NextLine::Eof => return out,
            }
        }
    }

    #[test]
    fn line_ends_at_newline_and_loses_one_carriage_return() {
        let some = |s: &[u8]| Some(s.to_vec());
        assert_eq!(
            read_lines(b"a\r\n\n\xff\xfe\x00b\nc\r\r\nlast", 100, "\n"),
            [some(b"a"), some(b""), some(b"\xff\xfe\x00b"), some(b"c\r"), some(b"last")]
        );
        assert_eq!(read_lines(b"", 100, "\n"), []);
        assert_eq!(read_lines(b"0123456789x\nab\n", 5, "\n"), [None, some(b"ab")]);
        assert_eq!(read_lines(b"0123456789", 5, "\n"), [None]);
        assert_eq!(read_lines(b"a-b--c---d", 100, "--"), [some(b"a-b"), some(b"c"), some(b"-d")]);
        assert_eq!(read_lines(b"0123456789--ab--", 5, "--"), [None, some(b"ab")]);
    }
}
