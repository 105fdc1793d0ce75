//! Standard input, output and error, which other programs and terminals hold the other end of.
//!
//! The whole command prints with [`print_line!`] and [`report!`]. `print!` and its relatives panic
//! if the reader has gone, so `clippy` refuses them in this crate.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use indicatif::ProgressBar;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::live::{self, Stream};
use crate::{CliError, OK};

/// Prints a line to standard output. The arguments are those of `println!`.
macro_rules! print_line {
    ($($argument:tt)*) => {
        $crate::console::write_stdout(format_args!($($argument)*))
    };
}

/// Prints a line to standard error, if it still has a reader. The arguments are those of
/// `eprintln!`.
macro_rules! report {
    ($($argument:tt)*) => {
        $crate::console::write_stderr(format_args!("{}\n", format_args!($($argument)*)))
    };
}

pub(crate) use {print_line, report};

/// The progress bar that standard error shows. Each line is printed above it.
static PROGRESS_BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Shows a progress bar. Only the first call of the process has an effect.
pub(crate) fn show_progress_bar(bar: &ProgressBar) {
    let _ = PROGRESS_BAR.set(bar.clone());
}

fn without_progress_bar<T>(print: impl FnOnce() -> T) -> T {
    match PROGRESS_BAR.get() {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// How output to a terminal looks, or to what may be one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputStyle {
    /// The locale is UTF-8.
    pub(crate) unicode: bool,
    pub(crate) colours: bool,
}

impl OutputStyle {
    /// Reads the environment. Only a terminal has colours.
    pub(crate) fn new(is_terminal: bool) -> OutputStyle {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let is_dumb = variable("TERM").is_none_or(|term| term == "dumb");
        OutputStyle {
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            colours: is_terminal && !is_dumb && variable("NO_COLOR").is_none(),
        }
    }
}

/// Writes a line to standard output. [`print_line!`] calls it.
pub(crate) fn write_stdout(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut text = line.to_string();
    text.push('\n');
    if live::capture(Stream::Stdout, text.as_bytes()) {
        return Ok(());
    }
    without_progress_bar(|| {
        let mut stdout = Blocking(io::stdout());
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    })
}

/// Writes text to standard error. [`report!`] calls it.
///
/// An error is ignored: there is no other place to report it, and the records matter more.
pub(crate) fn write_stderr(text: fmt::Arguments<'_>) {
    // One write for each line: the lines of several threads and processes stay whole.
    let mut buffer = String::new();
    let _ = buffer.write_fmt(text);
    let _ = StderrWriter.write_all(buffer.as_bytes());
}

/// The log's writer: standard error. It ignores errors.
pub(crate) struct StderrWriter;

impl Write for StderrWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if live::capture(Stream::Stderr, bytes) {
            return Ok(bytes.len());
        }
        without_progress_bar(|| {
            let _ = Blocking(io::stderr()).write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends the process from any thread.
pub(crate) fn exit(status: i32) -> ! {
    // `exit` runs no destructor, and the terminal would stay as the view has set it.
    live::leave();
    std::process::exit(status)
}

/// Returns the exit status of a command whose result is its output.
///
/// A reader that closes the pipe early, such as `head`, is not an error.
pub(crate) fn output_status(result: io::Result<()>) -> Result<u8, CliError> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(CliError::failed(format!(
            "cannot write to standard output: {e}; the output is incomplete"
        ))),
        _ => Ok(OK),
    }
}

/// A stream that blocks, whether its descriptor does or not.
///
/// `O_NONBLOCK` belongs to the open file, which processes share: another program that sets it, such
/// as Node.js or ssh, sets it for the command's terminal or pipe, too.
#[derive(Debug)]
pub(crate) struct Blocking<T>(pub(crate) T);

impl<T: AsFd> Blocking<T> {
    /// Repeats a call until it returns something else than `WouldBlock` and `Interrupted`.
    fn retry(
        &mut self,
        events: PollFlags,
        mut call: impl FnMut(&mut T) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match call(&mut self.0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let mut descriptors = [PollFd::new(self.0.as_fd(), events)];
                    match poll(&mut descriptors, PollTimeout::NONE) {
                        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<T: AsFd + Read> Read for Blocking<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::POLLIN, |stream| stream.read(buffer))
    }
}

impl<T: AsFd + Write> Write for Blocking<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(PollFlags::POLLOUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.retry(PollFlags::POLLOUT, |stream| stream.flush().map(|()| 0)).map(|_| ())
    }
}

/// Opens standard input.
///
/// `io::stdin` reports a descriptor that is not open for reading as the end of the input. The
/// records would be missing without an error.
pub(crate) fn open_stdin() -> io::Result<Blocking<File>> {
    let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(Blocking(File::from(descriptor)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn non_blocking_stream_reads_and_writes_as_a_blocking_one() {
        // More than the socket buffers, so that both sides find it full and empty.
        const LEN: usize = 4 << 20;
        let (reader, writer) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        writer.set_nonblocking(true).unwrap();
        let sent: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        let received = thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut received = Vec::new();
                Blocking(reader).read_to_end(&mut received).unwrap();
                received
            });
            let mut writer = Blocking(writer);
            writer.write_all(&sent).unwrap();
            writer.flush().unwrap();
            drop(writer);
            reading.join().unwrap()
        });
        assert!(received == sent, "{} of {LEN} bytes", received.len());
    }
}
