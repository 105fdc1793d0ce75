//! `ottla produce`: reads lines, sends them as records and prints a summary.
//!
//! Three threads work on a [`Session`]: the main thread reads and sends, one thread waits for
//! signals, one checks the connection once. The producer's own sender thread completes the records
//! and calls [`DeliveryStats::on_delivery`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ottla::{Header, Producer, Properties, Record};
use ottla_broker::EmbeddedBroker;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::ProduceArgs;
use crate::input::{LineFormat, NextLine, read_next_line};
use crate::report::DeliveryStats;
use crate::{CliError, FAILED, OK, error_text, settings};

/// Time without a connection after which the command prints the reason.
const CONNECTION_WARNING_DELAY: Duration = Duration::from_secs(2);
/// Exit status after a second signal, as shells report SIGINT.
const INTERRUPTED_STATUS: i32 = 130;

pub(crate) fn run(args: ProduceArgs) -> Result<u8, CliError> {
    let format = LineFormat::new(&args)?;
    // All options and files are checked before a broker starts or a record is sent.
    let inputs = args.files.iter().map(|f| check_input(f)).collect::<Result<Vec<_>, _>>()?;
    ottla::validate_topic_name(&args.topic).map_err(|e| CliError::usage(e.to_string()))?;
    settings::warn_deprecated(&args);
    settings::producer_properties(&args, Some("127.0.0.1:1").filter(|_| args.embedded))?;
    let (broker, temporary_dir) = start_embedded_broker(&args)?;
    let address = broker.as_ref().map(EmbeddedBroker::bootstrap_servers);
    let properties = settings::producer_properties(&args, address.as_deref())?;
    for warning in properties.warnings() {
        eprintln!("note: {warning}");
    }
    let temporary_log_dir = temporary_dir.as_ref().map(|t| t.path().to_owned());
    let session = Arc::new(Session::new(&args, properties, temporary_log_dir)?);
    session.watch_signals()?;
    session.watch_connection();
    let result = session.send_all(inputs, &format);
    let status = session.finish();
    if let (Some(_), Some(dir)) = (&broker, &args.data_dir) {
        eprintln!("the log is in {}", dir.display());
    }
    drop(broker);
    result.map(|()| status)
}

/// Starts the broker of `--embedded`. Without `--data-dir` its log is in a temporary directory.
fn start_embedded_broker(
    args: &ProduceArgs,
) -> Result<(Option<EmbeddedBroker>, Option<tempfile::TempDir>), CliError> {
    if !args.embedded {
        return Ok((None, None));
    }
    let no_temporary_dir =
        |e: io::Error| CliError::usage(format!("cannot create a temporary directory: {e}"));
    let temporary_dir = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(no_temporary_dir)?),
    };
    let dir = args.data_dir.as_deref().or(temporary_dir.as_ref().map(tempfile::TempDir::path));
    let mut builder = EmbeddedBroker::builder();
    if let Some(dir) = dir {
        builder = builder.data_dir(dir);
    }
    let broker = builder
        .start()
        .map_err(|e| CliError::usage(format!("the embedded broker did not start: {e}")))?;
    Ok((Some(broker), temporary_dir))
}

/// An input that can be read.
struct Input {
    path: PathBuf,
    /// Its length in bytes; `None` for standard input, pipes and devices.
    len: Option<u64>,
}

impl Input {
    fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }
}

/// Checks that a file can be read.
///
/// The file is closed again and opened when it is read, so the number of files is not limited by
/// the number of open descriptors.
fn check_input(path: &Path) -> Result<Input, CliError> {
    let mut input = Input { path: path.to_owned(), len: None };
    if input.is_stdin() {
        return Ok(input);
    }
    let metadata = File::open(path)
        .and_then(|f| f.metadata())
        .map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))?;
    if metadata.is_dir() {
        return Err(CliError::usage(format!("cannot read {}: it is a directory", path.display())));
    }
    input.len = metadata.is_file().then_some(metadata.len());
    Ok(input)
}

fn open_input(input: &Input) -> Result<Box<dyn BufRead>, CliError> {
    const BUFFER_BYTES: usize = 256 * 1024;
    if input.is_stdin() {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())));
    }
    let file = File::open(&input.path)
        .map_err(|e| CliError::failed(format!("cannot read {}: {e}", input.path.display())))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

/// What a [`Session`] needs to know of the options and settings.
struct SessionConfig {
    topic: String,
    partition: Option<i32>,
    max_records: u64,
    sync: bool,
    acks_zero: bool,
    max_line_bytes: usize,
    close_timeout: Duration,
    bootstrap_servers: String,
    /// The embedded broker's log, if it is deleted at the end.
    temporary_log_dir: Option<PathBuf>,
}

impl SessionConfig {
    fn new(
        args: &ProduceArgs,
        properties: &Properties,
        temporary_log_dir: Option<PathBuf>,
    ) -> SessionConfig {
        let number = |name: &str, default: u64| {
            properties.get(name).and_then(|v| v.trim().parse().ok()).unwrap_or(default)
        };
        let delivery_timeout = Duration::from_millis(number("delivery.timeout.ms", 120_000));
        SessionConfig {
            topic: args.topic.clone(),
            partition: args.partition.filter(|p| *p >= 0),
            max_records: args.count.unwrap_or(u64::MAX),
            sync: args.sync,
            acks_zero: properties.get("acks") == Some("0"),
            max_line_bytes: number("max.request.size", 1_048_576) as usize,
            // By then every record has been acknowledged or has expired.
            close_timeout: delivery_timeout + Duration::from_secs(5),
            bootstrap_servers: properties.get("bootstrap.servers").unwrap_or_default().to_owned(),
            temporary_log_dir,
        }
    }
}

/// One run of the command, shared by its threads.
struct Session {
    config: SessionConfig,
    producer: Producer,
    stats: Arc<DeliveryStats>,
    /// A first signal has arrived: the main thread stops reading.
    is_interrupted: AtomicBool,
    /// The main thread has read a line that the producer has not accepted yet.
    is_sending: AtomicBool,
    /// A thread has started to close the producer.
    is_finishing: AtomicBool,
    lines_read: AtomicU64,
    progress_bar: ProgressBar,
}

impl Session {
    fn new(
        args: &ProduceArgs,
        properties: Properties,
        temporary_log_dir: Option<PathBuf>,
    ) -> Result<Session, CliError> {
        let config = SessionConfig::new(args, &properties, temporary_log_dir);
        let stats = Arc::new(DeliveryStats::new(args.json));
        let handler_stats = stats.clone();
        let producer = Producer::builder()
            .properties(properties)
            .delivery_handler(move |report| handler_stats.on_delivery(report))
            .build()
            .map_err(|e| CliError::usage(e.to_string()))?;
        Ok(Session {
            config,
            producer,
            stats,
            is_interrupted: AtomicBool::new(false),
            is_sending: AtomicBool::new(false),
            is_finishing: AtomicBool::new(false),
            lines_read: AtomicU64::new(0),
            progress_bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        })
    }

    /// Handles SIGINT and SIGTERM. The first one sends what was read and prints the summary, the
    /// second one ends the process at once.
    fn watch_signals(self: &Arc<Self>) -> Result<(), CliError> {
        let mut signals = Signals::new([SIGINT, SIGTERM])
            .map_err(|e| CliError::usage(format!("cannot install the signal handlers: {e}")))?;
        let session = self.clone();
        thread::spawn(move || {
            let mut received = signals.forever();
            if received.next().is_none() {
                return;
            }
            // The main thread may block in a read and never see this flag. Therefore another
            // thread finishes the session, and this one waits for the second signal.
            session.is_interrupted.store(true, Ordering::SeqCst);
            let finishing = session.clone();
            thread::spawn(move || {
                eprintln!("interrupted: sending the records read so far; interrupt again to quit");
                // A closed producer would refuse the line that the main thread is sending.
                while finishing.is_sending.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(5));
                }
                let status = finishing.finish();
                finishing.quit(i32::from(status));
            });
            if received.next().is_some() {
                session.quit(INTERRUPTED_STATUS);
            }
        });
        Ok(())
    }

    /// Ends the process from a thread other than the main thread.
    fn quit(&self, status: i32) -> ! {
        // `exit` runs no destructor, so the `TempDir` in `run` would stay.
        if let Some(dir) = &self.config.temporary_log_dir {
            let _ = std::fs::remove_dir_all(dir);
        }
        std::process::exit(status);
    }

    /// Prints once, if no broker is connected after a while, which brokers failed and why.
    fn watch_connection(self: &Arc<Self>) {
        let session = Arc::downgrade(self);
        thread::spawn(move || {
            thread::sleep(CONNECTION_WARNING_DELAY);
            let Some(session) = session.upgrade() else {
                return;
            };
            let health = session.producer.health();
            let is_idle = health.connected.is_empty() && session.stats.acknowledged() == 0;
            if is_idle && !session.is_finishing.load(Ordering::SeqCst) {
                let failing: Vec<String> = health
                    .failing
                    .iter()
                    .map(|(name, reason)| format!("{name}: {reason}"))
                    .collect();
                let reason = if failing.is_empty() {
                    format!("{}: no response yet", session.config.bootstrap_servers)
                } else {
                    failing.join("; ")
                };
                let seconds = CONNECTION_WARNING_DELAY.as_secs();
                eprintln!("not connected after {seconds} s: {reason}; still trying");
            }
        });
    }

    fn send_all(&self, mut inputs: Vec<Input>, format: &LineFormat) -> Result<(), CliError> {
        if inputs.is_empty() {
            inputs.push(check_input(Path::new("-"))?);
        }
        self.start_progress_bar(&inputs);
        let has_prompt = io::stdin().is_terminal() && inputs.len() == 1 && inputs[0].is_stdin();
        let mut line = Vec::new();
        for input in &inputs {
            let mut reader = open_input(input)?;
            loop {
                if self.is_interrupted.load(Ordering::SeqCst) {
                    park_forever();
                }
                if self.lines_read.load(Ordering::Relaxed) >= self.config.max_records {
                    return Ok(());
                }
                if has_prompt {
                    eprint!(">");
                    let _ = io::stderr().flush();
                }
                let next =
                    read_next_line(&mut reader, format, self.config.max_line_bytes, &mut line)
                        .map_err(|e| {
                            let path = input.path.display();
                            CliError::failed(format!("cannot read {path}: {e}; reading stopped"))
                        })?;
                if next == NextLine::Eof {
                    break;
                }
                let number = self.lines_read.fetch_add(1, Ordering::Relaxed) + 1;
                self.progress_bar.inc(line.len() as u64 + 1);
                if next == NextLine::TooLong {
                    self.record_too_long_line(number);
                    continue;
                }
                self.is_sending.store(true, Ordering::SeqCst);
                let result = self.send_line(&line, number, format);
                self.is_sending.store(false, Ordering::SeqCst);
                result?;
            }
        }
        Ok(())
    }

    fn record_too_long_line(&self, number: u64) {
        let limit = self.config.max_line_bytes;
        let reason = format!("line {number} is longer than max.request.size ({limit})");
        self.stats.record_unreadable_line(&self.config.topic, &reason);
    }

    /// Sends one line. An error ends the reading; a record that fails alone is only counted.
    fn send_line(&self, line: &[u8], number: u64, format: &LineFormat) -> Result<(), CliError> {
        let topic = &self.config.topic;
        let parsed = match format.parse(line, number) {
            Ok(parsed) => parsed,
            Err(reason) => {
                self.stats.record_unreadable_line(topic, &reason);
                return Err(CliError::failed(format!("{reason}; reading stopped at this line")));
            }
        };
        let headers: Vec<Header<'_>> =
            parsed.headers.iter().map(|(key, value)| Header { key, value: *value }).collect();
        let token = self.stats.current_token();
        let mut record = Record::to(topic)
            .maybe_key(parsed.key)
            .maybe_value(parsed.value)
            .headers(&headers)
            .timestamp(self.stats.timestamp(token))
            .token(token);
        if let Some(partition) = self.config.partition {
            record = record.partition(partition);
        }
        match self.producer.send(record) {
            Ok(delivery) => {
                self.stats.add_bytes(line.len());
                if self.config.sync {
                    // The delivery handler counts the result, also that of a failed record.
                    let _ = delivery.wait();
                }
                Ok(())
            }
            Err(e) => {
                self.stats.record_rejected(topic, &e);
                use ottla::ErrorKind as K;
                // These errors concern one record. Any other error concerns the topic or the
                // cluster, so every further record would fail as well.
                match e.kind() {
                    K::RecordTooLarge
                    | K::InvalidRecord
                    | K::Serialization
                    | K::BufferExhausted => Ok(()),
                    _ => {
                        let reason = error_text(&e);
                        Err(CliError::failed(format!("{reason}; reading stopped at line {number}")))
                    }
                }
            }
        }
    }

    fn start_progress_bar(&self, inputs: &[Input]) {
        if !io::stderr().is_terminal() {
            return;
        }
        self.progress_bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let template = match inputs.iter().map(|i| i.len).sum::<Option<u64>>() {
            Some(total) => {
                self.progress_bar.set_length(total);
                "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
            }
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.progress_bar.set_style(style);
        }
    }

    /// Closes the producer, prints the summary and returns the exit status.
    ///
    /// The main thread and the signal's thread both call this. The first one finishes and ends the
    /// process; the second one waits for that.
    fn finish(&self) -> u8 {
        if self.is_finishing.swap(true, Ordering::SeqCst) {
            park_forever();
        }
        if let Err(e) = self.producer.close(self.config.close_timeout) {
            eprintln!("ottla: {}", error_text(&e));
        }
        self.progress_bar.finish_and_clear();
        eprint!("{}", self.stats.summary(self.config.acks_zero));
        if self.stats.is_all_acknowledged() { OK } else { FAILED }
    }
}

/// Blocks until another thread ends the process.
fn park_forever() -> ! {
    loop {
        thread::park();
    }
}
