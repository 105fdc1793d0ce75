//! The output of the command while the live view covers the terminal.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Seek, Write};

use tempfile::SpooledTempFile;

use crate::console::Blocking;

/// The lines that the view can show.
const MAX_RECENT_LINES: usize = 500;
/// The bytes that are kept in memory. More are in a temporary file.
const MAX_MEMORY_BYTES: usize = 1 << 20;

/// Where an output belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// What was written, in its order: the last lines for the view, all for the time after it.
pub(super) struct Transcript {
    /// Each output with a byte for its stream and four bytes for its length.
    spool: SpooledTempFile,
    recent: VecDeque<String>,
    is_stdout_kept: bool,
    is_stderr_kept: bool,
}

impl Transcript {
    /// Keeps the output that goes to a terminal. Other output is only shown.
    pub(super) fn new() -> Transcript {
        Transcript {
            spool: SpooledTempFile::new(MAX_MEMORY_BYTES),
            recent: VecDeque::new(),
            is_stdout_kept: io::stdout().is_terminal(),
            is_stderr_kept: io::stderr().is_terminal(),
        }
    }

    /// Adds an output. Returns whether it is kept; otherwise the caller has to write it.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let is_kept = match stream {
            Stream::Stdout => self.is_stdout_kept,
            Stream::Stderr => self.is_stderr_kept,
        };
        // Results in a file or a pipe are no messages.
        if is_kept || stream == Stream::Stderr {
            for line in String::from_utf8_lossy(bytes).lines() {
                if self.recent.len() == MAX_RECENT_LINES {
                    self.recent.pop_front();
                }
                self.recent.push_back(line.to_owned());
            }
        }
        is_kept && self.spool(stream, bytes).is_ok()
    }

    fn spool(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut entry = Vec::with_capacity(bytes.len() + 5);
        entry.push(u8::from(stream == Stream::Stdout));
        entry.extend((bytes.len() as u32).to_be_bytes());
        entry.extend(bytes);
        self.spool.write_all(&entry)
    }

    /// Returns the last lines, the oldest first.
    pub(super) fn recent(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.recent.iter().map(String::as_str)
    }

    /// Writes all output to where it belongs.
    pub(super) fn print(mut self) -> io::Result<()> {
        self.for_each(|stream, bytes| match stream {
            Stream::Stdout => {
                let mut stdout = Blocking(io::stdout());
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Stream::Stderr => Blocking(io::stderr()).write_all(bytes),
        })
    }

    fn for_each(&mut self, mut f: impl FnMut(Stream, &[u8]) -> io::Result<()>) -> io::Result<()> {
        self.spool.rewind()?;
        let (mut head, mut bytes) = ([0; 5], Vec::new());
        while self.spool.read_exact(&mut head).is_ok() {
            let [stream, len @ ..] = head;
            bytes.resize(u32::from_be_bytes(len) as usize, 0);
            self.spool.read_exact(&mut bytes)?;
            f(if stream == 1 { Stream::Stdout } else { Stream::Stderr }, &bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_keep_their_order_and_stream_also_in_a_file() {
        let mut transcript = Transcript::new();
        (transcript.is_stdout_kept, transcript.is_stderr_kept) = (true, true);
        let long = vec![b'x'; MAX_MEMORY_BYTES];
        for (stream, bytes) in
            [(Stream::Stderr, &b"a\n"[..]), (Stream::Stdout, &long), (Stream::Stderr, b"b\nc\n")]
        {
            assert!(transcript.push(stream, bytes));
        }
        let mut seen = Vec::new();
        let printed = transcript.for_each(|stream, bytes| {
            seen.push((stream, bytes.len()));
            Ok(())
        });
        printed.unwrap();
        let expected =
            [(Stream::Stderr, 2), (Stream::Stdout, MAX_MEMORY_BYTES), (Stream::Stderr, 4)];
        assert_eq!(seen, expected);
        assert_eq!(transcript.recent().rev().take(2).collect::<Vec<_>>(), ["c", "b"]);
    }

    #[test]
    fn output_of_a_pipe_is_left_to_the_caller() {
        let mut transcript = Transcript::new();
        (transcript.is_stdout_kept, transcript.is_stderr_kept) = (false, false);
        assert!(!transcript.push(Stream::Stderr, b"warning\n"));
        assert!(!transcript.push(Stream::Stdout, b"result\n"));
        // The view shows the warning, and a result only if it was meant for the terminal.
        assert_eq!(transcript.recent().collect::<Vec<_>>(), ["warning"]);
    }

    #[test]
    fn view_keeps_a_bounded_number_of_lines() {
        let mut transcript = Transcript::new();
        for i in 0..2 * MAX_RECENT_LINES {
            transcript.push(Stream::Stderr, format!("{i}\n").as_bytes());
        }
        assert_eq!(transcript.recent().count(), MAX_RECENT_LINES);
        assert_eq!(transcript.recent().next(), Some("500"));
    }
}
