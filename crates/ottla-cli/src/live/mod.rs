//! `--live`: a view of the run on the whole terminal.
//!
//! One thread collects figures, draws and reads keys. Meanwhile the output of the command goes to
//! a [`Transcript`], which is printed when the view ends. The view can end at any time, from any
//! thread: [`leave`] restores the terminal. The run does not depend on it.

mod terminal;
mod transcript;
mod figures;
mod draw;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use ottla::Producer;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use signal_hook::consts::{SIGCONT, SIGTSTP};
use signal_hook::{flag, low_level};

use crate::console::OutputStyle;
use crate::run_results::ResultsSource;
use crate::{CliError, start_thread};
use draw::{Screen, draw, last_first_partition};
use figures::FigureCollector;
use terminal::{Key, Keyboard, Tty, size};
pub(crate) use transcript::Stream;
use transcript::Transcript;

/// Time between two frames.
const FRAME_INTERVAL: Duration = Duration::from_millis(250);
/// Milliseconds to wait for a key before the signals are looked at.
const KEY_TIMEOUT: u8 = 50;
/// The lines of the output that a frame gets.
const MAX_SHOWN_MESSAGES: usize = 200;

/// The view that covers the terminal; `None` if there is none, or none any more.
static VIEW: Mutex<Option<ActiveView>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

struct ActiveView {
    tty: Tty,
    transcript: Transcript,
    /// SIGTSTP has its default effect from now on.
    has_left: Arc<AtomicBool>,
    on_leave: Box<dyn FnOnce() + Send>,
}

/// What the view is about.
pub(crate) struct LiveConfig {
    /// The command and the topic.
    pub(crate) title: String,
    pub(crate) producer: Producer,
    pub(crate) results: ResultsSource,
    /// The number of records that the run will send, if that is known.
    pub(crate) expected_records: Option<u64>,
    /// Called when the view has ended, before the end of the run or at it.
    pub(crate) on_leave: Box<dyn FnOnce() + Send>,
}

/// Ends the view when the run ends, however it ends.
pub(crate) struct LiveGuard(());

impl Drop for LiveGuard {
    fn drop(&mut self) {
        leave();
    }
}

/// Checks that there is a terminal for the view.
pub(crate) fn check_terminal() -> Result<(), CliError> {
    terminal::open().map(|_| ())
}

/// Covers the terminal with the view. Fails if there is no terminal for it.
pub(crate) fn start(config: LiveConfig) -> Result<LiveGuard, CliError> {
    PANIC_HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            print(info);
        }));
    });
    let signals = Signals::install()?;
    let tty = Tty::enter()?;
    let keyboard = tty.keyboard();
    let collector = FigureCollector::new(config.producer, config.results, config.expected_records);
    let has_left = signals.has_left.clone();
    let (transcript, on_leave) = (Transcript::new(), config.on_leave);
    *lock() = Some(ActiveView { tty, transcript, has_left, on_leave });
    let guard = LiveGuard(());
    let keyboard =
        keyboard.map_err(|e| CliError::failed(format!("--live cannot read the terminal: {e}")))?;
    let thread = ViewThread {
        title: config.title,
        collector,
        keyboard,
        signals,
        style: OutputStyle::new(true),
        display: None,
        first_partition: 0,
        only_messages: false,
    };
    start_thread("live", move || thread.run())?;
    Ok(guard)
}

/// Ends the view, if there is one: restores the terminal and prints what the view has covered.
pub(crate) fn leave() {
    let mut view = lock();
    let Some(mut active) = view.take() else { return };
    active.tty.leave();
    active.has_left.store(true, Ordering::SeqCst);
    // The lock keeps later output behind this one. There is no place to report an error.
    let _ = active.transcript.print();
    drop(view);
    (active.on_leave)();
}

/// Takes an output of the command if the view covers the terminal to which it goes.
pub(crate) fn capture(stream: Stream, bytes: &[u8]) -> bool {
    lock().as_mut().is_some_and(|view| view.transcript.push(stream, bytes))
}

/// Returns whether a view covers the terminal.
pub(crate) fn is_active() -> bool {
    lock().is_some()
}

fn lock() -> MutexGuard<'static, Option<ActiveView>> {
    VIEW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals of job control.
struct Signals {
    /// Ctrl-Z was pressed.
    stop: Arc<AtomicBool>,
    /// The process was stopped. The shell has set the terminal's modes meanwhile.
    resumed: Arc<AtomicBool>,
    has_left: Arc<AtomicBool>,
}

impl Signals {
    fn install() -> Result<Signals, CliError> {
        let failed =
            |e: io::Error| CliError::failed(format!("cannot install the signal handlers: {e}"));
        let signals = Signals { stop: flag_of(), resumed: flag_of(), has_left: flag_of() };
        flag::register_conditional_default(SIGTSTP, signals.has_left.clone()).map_err(failed)?;
        flag::register(SIGTSTP, signals.stop.clone()).map_err(failed)?;
        flag::register(SIGCONT, signals.resumed.clone()).map_err(failed)?;
        Ok(signals)
    }
}

/// Returns the last lines of the output, the oldest first; `None` if no frame can be drawn now.
fn next_frame_messages() -> io::Result<Option<Vec<String>>> {
    let mut view = lock();
    let Some(view) = view.as_mut() else { return Ok(None) };
    // A terminal that is slower than the frames gets fewer of them.
    if !view.tty.is_ready()? {
        return Ok(None);
    }
    let last = view.transcript.recent().rev().take(MAX_SHOWN_MESSAGES);
    let mut messages: Vec<String> = last.map(str::to_owned).collect();
    messages.reverse();
    Ok(Some(messages))
}

fn flag_of() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// Collects the bytes of a frame, and writes them at once if the view still covers the terminal.
struct FrameWriter(Vec<u8>);

impl Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.0);
        lock().as_mut().map_or(Ok(()), |view| view.tty.write(&bytes))
    }
}

/// What is on the terminal, and its size.
struct Display {
    terminal: Terminal<CrosstermBackend<FrameWriter>>,
    size: (u16, u16),
}

impl Display {
    /// An empty screen.
    fn new(size: (u16, u16)) -> io::Result<Display> {
        const CLEAR: &[u8] = b"\x1b[0m\x1b[2J";
        let viewport = Viewport::Fixed(Rect::new(0, 0, size.0, size.1));
        let backend = CrosstermBackend::new(FrameWriter(CLEAR.to_vec()));
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport })?;
        Ok(Display { terminal, size })
    }
}

/// The thread that draws.
struct ViewThread {
    title: String,
    collector: FigureCollector,
    keyboard: Keyboard,
    signals: Signals,
    style: OutputStyle,
    display: Option<Display>,
    first_partition: usize,
    only_messages: bool,
}

impl ViewThread {
    fn run(mut self) {
        // An error means that the terminal has gone.
        let _ = self.show();
        leave();
    }

    /// Draws until the view ends.
    fn show(&mut self) -> io::Result<()> {
        let mut next_frame = Instant::now();
        while is_active() {
            self.handle_signals()?;
            if Instant::now() >= next_frame {
                self.draw()?;
                next_frame = Instant::now() + FRAME_INTERVAL;
            }
            for key in self.keyboard.read(KEY_TIMEOUT)? {
                match key {
                    Key::Leave => return Ok(()),
                    Key::Up => self.first_partition = self.first_partition.saturating_sub(1),
                    Key::Down => self.first_partition += 1,
                    Key::Messages => self.only_messages = !self.only_messages,
                }
                next_frame = Instant::now();
            }
        }
        Ok(())
    }

    /// Stops the process after Ctrl-Z, and takes the terminal again when it continues.
    fn handle_signals(&mut self) -> io::Result<()> {
        if self.signals.stop.swap(false, Ordering::SeqCst) {
            if let Some(view) = lock().as_mut() {
                view.tty.leave();
            }
            low_level::emulate_default_handler(SIGTSTP)?;
        }
        if self.signals.resumed.swap(false, Ordering::SeqCst) {
            self.display = None;
            if let Some(view) = lock().as_mut() {
                view.tty.resume()?;
            }
        }
        Ok(())
    }

    fn draw(&mut self) -> io::Result<()> {
        let figures = self.collector.collect();
        self.first_partition = self.first_partition.min(last_first_partition(figures));
        let Some(messages) = next_frame_messages()? else { return Ok(()) };
        let size = size();
        let mut display = match self.display.take() {
            Some(display) if display.size == size => display,
            _ => Display::new(size)?,
        };
        let screen = Screen {
            title: &self.title,
            figures,
            messages: &messages,
            first_partition: self.first_partition,
            only_messages: self.only_messages,
            style: self.style,
        };
        display.terminal.draw(|frame| draw(frame, &screen))?;
        self.display = Some(display);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use hdrhistogram::Histogram;
    use portable_pty::{CommandBuilder, PtySize, native_pty_system};

    use super::*;
    use crate::console::report;
    use crate::run_results::RunResults;

    /// Set for the process whose thread panics.
    const IN_TERMINAL: &str = "OTTLA_TEST_IN_TERMINAL";

    fn results() -> RunResults {
        let latency_us = Histogram::new(3).expect("valid digits");
        RunResults { acknowledged: 0, failed: 0, possibly_persisted: None, bytes: 0, latency_us }
    }

    /// Shows the view until a thread of this process panics.
    fn panic_behind_the_view() {
        let producer = Producer::builder().bootstrap_servers("127.0.0.1:1").build().unwrap();
        let guard = start(LiveConfig {
            title: "a run".into(),
            producer,
            results: Arc::new(results),
            expected_records: None,
            on_leave: Box::new(|| {}),
        });
        assert!(guard.is_ok(), "the process has a terminal");
        report!("a message before");
        let panicked = std::thread::spawn(|| panic!("a bug")).join();
        assert!(panicked.is_err() && !is_active());
        report!("a message after");
    }

    #[test]
    fn panic_of_any_thread_restores_the_terminal_and_is_printed() {
        if std::env::var_os(IN_TERMINAL).is_some() {
            return panic_behind_the_view();
        }
        let size = PtySize { rows: 24, cols: 80, ..PtySize::default() };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
        let name = "live::tests::panic_of_any_thread_restores_the_terminal_and_is_printed";
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        command.env(IN_TERMINAL, "1");
        command.env("TERM", "xterm");
        let mut output = pty.master.try_clone_reader().unwrap();
        let mut child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        // On Linux the read fails when the process has ended.
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            bytes.extend(&buffer[..n]);
        }
        assert!(child.wait().unwrap().success());
        let mut parser = vt100::Parser::default();
        parser.process(&bytes);
        let screen = parser.screen().contents();
        assert!(bytes.windows(8).any(|w| w == b"\x1b[?1049h"), "no view:\n{screen}");
        assert!(!parser.screen().alternate_screen() && !parser.screen().hide_cursor());
        let texts = ["a message before", "a bug", "a message after"];
        let places = texts.map(|text| screen.find(text).unwrap_or(usize::MAX));
        assert!(places.is_sorted() && places[2] < usize::MAX, "{screen}");
    }
}
