//! The terminal of `--live`: its modes, the frames that are written to it, and its keys.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::CliError;

/// The alternate screen, an invisible cursor, no wrapping at the right margin.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// How long the end of the view waits for a terminal that takes no bytes.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// The size if the terminal does not tell it.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// A terminal whose modes are restored by [`leave`](Tty::leave).
///
/// Frames and keys use `/dev/tty`, so that standard input, output and error can be pipes or files.
pub(super) struct Tty {
    /// Does not block, so that a terminal that is stopped or slow does not delay the run.
    file: File,
    original: Termios,
    /// Bytes of the last frame that the terminal has not taken yet.
    pending: Vec<u8>,
}

/// What a person wants of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Leave,
    Up,
    Down,
    Messages,
}

impl Tty {
    /// Opens the terminal and shows an empty screen.
    pub(super) fn enter() -> Result<Tty, CliError> {
        let file = open()?;
        let failed = |e: Errno| CliError::usage(format!("--live cannot use the terminal: {e}"));
        let original = tcgetattr(&file).map_err(failed)?;
        let mut tty = Tty { file, original, pending: Vec::new() };
        tty.resume()
            .map_err(|e| CliError::usage(format!("--live cannot use the terminal: {e}")))?;
        Ok(tty)
    }

    /// Returns another handle to the terminal, for reading keys.
    pub(super) fn keyboard(&self) -> io::Result<Keyboard> {
        Ok(Keyboard(self.file.try_clone()?))
    }

    /// Sets the modes, and shows an empty screen.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        let mut modes = self.original.clone();
        // Keys arrive one by one and are not shown. Ctrl-C, Ctrl-Z and Ctrl-\ stay signals, which
        // the terminal also sends to the other processes of a pipeline.
        modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        modes.input_flags.remove(InputFlags::IXON);
        tcsetattr(&self.file, SetArg::TCSANOW, &modes)?;
        self.pending.clear();
        self.write(ENTER)
    }

    /// Restores the modes and shows what was on the screen before.
    pub(super) fn leave(&mut self) {
        self.pending.extend(LEAVE);
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while self.write(&[]).is_ok() && !self.pending.is_empty() && Instant::now() < deadline {
            let mut descriptors = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut descriptors, PollTimeout::from(100_u8));
        }
        let _ = tcsetattr(&self.file, SetArg::TCSANOW, &self.original);
    }

    /// Returns whether the terminal has taken the last frame.
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        self.write(&[]).map(|()| self.pending.is_empty())
    }

    /// Writes as much as the terminal takes at once, and keeps the rest for later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend(bytes);
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Opens the terminal of the process. Refuses one that cannot show the view.
pub(super) fn open() -> Result<File, CliError> {
    let term = std::env::var("TERM").unwrap_or_default();
    if term.is_empty() || term == "dumb" {
        return Err(CliError::usage(format!(
            "--live needs a terminal that can move its cursor, and TERM is {term:?}; remove --live \
             or set TERM"
        )));
    }
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open("/dev/tty").map_err(|e| {
        CliError::usage(format!(
            "--live needs a terminal: cannot open /dev/tty: {e}; remove --live, or use ssh -t to \
             have one"
        ))
    })
}

/// Returns the columns and rows of the terminal.
pub(super) fn size() -> (u16, u16) {
    match ratatui::crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns, rows),
        _ => DEFAULT_SIZE,
    }
}

/// Reads the keys that are pressed.
pub(super) struct Keyboard(File);

impl Keyboard {
    /// Waits for keys, at most `timeout` milliseconds. An error means that the terminal has gone.
    pub(super) fn read(&mut self, timeout: u8) -> io::Result<Vec<Key>> {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::from(timeout)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let mut bytes = [0; 64];
        match self.0.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => Ok(keys(&bytes[..n])),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }
}

/// Returns the keys in what a terminal sends. Other keys are ignored.
fn keys(mut bytes: &[u8]) -> Vec<Key> {
    const SEQUENCES: [(&[u8], Key); 9] = [
        (b"\x1b[A", Key::Up),
        (b"\x1bOA", Key::Up),
        (b"\x1b[B", Key::Down),
        (b"\x1bOB", Key::Down),
        (b"k", Key::Up),
        (b"j", Key::Down),
        (b"m", Key::Messages),
        (b"q", Key::Leave),
        (b"Q", Key::Leave),
    ];
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let found = SEQUENCES.iter().find(|(sequence, _)| bytes.starts_with(sequence));
        let len = match found {
            Some((sequence, key)) => {
                keys.push(*key);
                sequence.len()
            }
            None => unknown_sequence_len(bytes),
        };
        bytes = &bytes[len..];
    }
    keys
}

/// Returns the length of the first key, so that the characters of an unknown sequence are no keys.
fn unknown_sequence_len(bytes: &[u8]) -> usize {
    match bytes {
        [0x1b, b'[', rest @ ..] => {
            let end = rest.iter().position(|b| (0x40..=0x7e).contains(b));
            2 + end.map_or(rest.len(), |end| end + 1)
        }
        [0x1b, b'O', _, ..] => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_characters_and_both_forms_of_arrows() {
        assert_eq!(
            keys(b"\x1b[A\x1bOBjkm"),
            [Key::Up, Key::Down, Key::Down, Key::Up, Key::Messages]
        );
        assert_eq!(keys(b"xq"), [Key::Leave]);
    }

    #[test]
    fn characters_inside_unknown_sequences_are_no_keys() {
        // F5, a mouse report, shift with an arrow, F1, and a sequence that is not complete.
        assert_eq!(keys(b"\x1b[15~\x1b[<0;1;1m\x1b[1;2q\x1bOq"), []);
        assert_eq!(keys(b"\x1b[1;2"), []);
        assert_eq!(keys(b"\x1b[1;2Aq"), [Key::Leave]);
    }
}
