//! `ottla produce`: lines in, records out, a summary at the end.

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
use crate::{CliError, FAILED, OK, settings};

/// When it is told that nothing is connected.
const CONNECTION_WARNING_DELAY: Duration = Duration::from_secs(2);

pub(crate) fn run(args: ProduceArgs) -> Result<u8, CliError> {
    let format = LineFormat::new(&args)?;
    // Checked before a broker is started or a byte is sent.
    let inputs = args.files.iter().map(|f| check_input(f)).collect::<Result<Vec<_>, _>>()?;
    ottla::validate_topic_name(&args.topic).map_err(|e| CliError::usage(e.to_string()))?;
    settings::producer_properties(&args, Some("127.0.0.1:1").filter(|_| args.embedded))?;
    let (broker, temporary) = start_embedded_broker(&args)?;
    let address = broker.as_ref().map(EmbeddedBroker::bootstrap_servers);
    let properties = settings::producer_properties(&args, address.as_deref())?;
    for notice in properties.warnings() {
        eprintln!("note: {notice}");
    }
    let temporary_log = temporary.as_ref().map(|t| t.path().to_owned());
    let session = Arc::new(Session::new(&args, properties, temporary_log)?);
    session.watch_signals()?;
    session.watch_connection();
    let outcome = session.send_all(inputs, &format);
    let status = session.finish();
    if let (Some(_), Some(dir)) = (&broker, &args.data_dir) {
        eprintln!("the log is in {}", dir.display());
    }
    drop(broker);
    outcome.map(|()| status)
}

fn start_embedded_broker(
    args: &ProduceArgs,
) -> Result<(Option<EmbeddedBroker>, Option<tempfile::TempDir>), CliError> {
    if !args.embedded {
        return Ok((None, None));
    }
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(
            tempfile::tempdir()
                .map_err(|e| CliError::usage(format!("no temporary directory: {e}")))?,
        ),
    };
    let dir = args.data_dir.as_deref().or(temporary.as_ref().map(tempfile::TempDir::path));
    let mut builder = EmbeddedBroker::builder();
    if let Some(dir) = dir {
        builder = builder.data_dir(dir);
    }
    let broker = builder
        .start()
        .map_err(|e| CliError::usage(format!("the embedded broker does not start: {e}")))?;
    Ok((Some(broker), temporary))
}

/// An input that is there, and how long it is if that is known.
type Input = (PathBuf, Option<u64>);

/// Whether a file can be read; it is opened in its turn, so that there may be many.
fn check_input(path: &Path) -> Result<Input, CliError> {
    if path == Path::new("-") {
        return Ok((path.to_owned(), None));
    }
    let meta = File::open(path).and_then(|f| f.metadata());
    let meta = meta.map_err(|e| CliError::usage(format!("{}: {e}", path.display())))?;
    if meta.is_dir() {
        return Err(CliError::usage(format!("{}: is a directory", path.display())));
    }
    Ok((path.to_owned(), meta.is_file().then_some(meta.len())))
}

fn open_input(path: &Path) -> Result<Box<dyn BufRead>, CliError> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(256 * 1024, io::stdin())));
    }
    let file =
        File::open(path).map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?;
    Ok(Box::new(BufReader::with_capacity(256 * 1024, file)))
}

/// One run, shared with the threads that watch it.
struct Session {
    producer: Producer,
    stats: Arc<DeliveryStats>,
    topic: String,
    partition: Option<i32>,
    max_records: u64,
    sync: bool,
    acks_zero: bool,
    max_line_bytes: usize,
    close_timeout: Duration,
    interrupted: AtomicBool,
    /// A line is between reading and acceptance.
    sending: AtomicBool,
    lines_read: AtomicU64,
    finished: AtomicBool,
    progress_bar: ProgressBar,
    bootstrap_servers: String,
    /// The embedded broker's log, where it is not to be kept.
    temporary_log_dir: Option<PathBuf>,
}

impl Session {
    fn new(
        args: &ProduceArgs,
        properties: Properties,
        temporary_log: Option<PathBuf>,
    ) -> Result<Session, CliError> {
        let number = |name: &str, default: u64| {
            properties.get(name).and_then(|v| v.trim().parse().ok()).unwrap_or(default)
        };
        let line_max = number("max.request.size", 1_048_576) as usize;
        let close_within =
            Duration::from_millis(number("delivery.timeout.ms", 120_000)) + Duration::from_secs(5);
        let acks_zero = properties.get("acks") == Some("0");
        let bootstrap = properties.get("bootstrap.servers").unwrap_or_default().to_owned();
        let stats = Arc::new(DeliveryStats::new(args.json));
        let heard = stats.clone();
        let producer = Producer::builder()
            .properties(properties)
            .delivery_handler(move |report| heard.on_delivery(report))
            .build()
            .map_err(|e| CliError::usage(e.to_string()))?;
        Ok(Session {
            producer,
            stats,
            topic: args.topic.clone(),
            partition: args.partition.filter(|p| *p >= 0),
            max_records: args.count.unwrap_or(u64::MAX),
            sync: args.sync,
            acks_zero,
            max_line_bytes: line_max,
            close_timeout: close_within,
            interrupted: AtomicBool::new(false),
            sending: AtomicBool::new(false),
            lines_read: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            progress_bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            bootstrap_servers: bootstrap,
            temporary_log_dir: temporary_log,
        })
    }

    /// The first signal flushes and reports; the second quits.
    fn watch_signals(self: &Arc<Self>) -> Result<(), CliError> {
        let mut signals = Signals::new([SIGINT, SIGTERM])
            .map_err(|e| CliError::usage(format!("no signals: {e}")))?;
        let session = self.clone();
        thread::spawn(move || {
            let mut seen = signals.forever();
            if seen.next().is_none() {
                return;
            }
            // Reading may block for ever, so the end is made here.
            session.interrupted.store(true, Ordering::SeqCst);
            let ending = session.clone();
            thread::spawn(move || {
                eprintln!("interrupted: sending what was read (once more quits)");
                // A line that was read is sent like the others, however long that waits.
                while ending.sending.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(5));
                }
                let status = ending.finish();
                ending.quit(i32::from(status));
            });
            if seen.next().is_some() {
                session.quit(130);
            }
        });
        Ok(())
    }

    /// Ends the process from a thread that is not the first.
    fn quit(&self, status: i32) -> ! {
        if let Some(dir) = &self.temporary_log_dir {
            let _ = std::fs::remove_dir_all(dir);
        }
        std::process::exit(status);
    }

    /// If nothing is connected after a while, says once to whom and why not.
    fn watch_connection(self: &Arc<Self>) {
        let session = Arc::downgrade(self);
        thread::spawn(move || {
            thread::sleep(CONNECTION_WARNING_DELAY);
            let Some(session) = session.upgrade() else {
                return;
            };
            let health = session.producer.health();
            let idle = health.connected.is_empty() && session.stats.acknowledged() == 0;
            if idle && !session.finished.load(Ordering::SeqCst) {
                let all: Vec<String> =
                    health.failing.iter().map(|(who, why)| format!("{who}: {why}")).collect();
                let why = if all.is_empty() {
                    format!("{}: no answer yet", session.bootstrap_servers)
                } else {
                    all.join("; ")
                };
                eprintln!(
                    "not connected after {} s, still trying: {why}",
                    CONNECTION_WARNING_DELAY.as_secs()
                );
            }
        });
    }

    fn send_all(&self, mut inputs: Vec<Input>, format: &LineFormat) -> Result<(), CliError> {
        if inputs.is_empty() {
            inputs.push(check_input(Path::new("-"))?);
        }
        self.start_progress_bar(&inputs);
        let prompt =
            io::stdin().is_terminal() && inputs.len() == 1 && inputs[0].0 == Path::new("-");
        let mut line = Vec::new();
        for (path, _) in inputs {
            let mut from = open_input(&path)?;
            loop {
                if self.interrupted.load(Ordering::SeqCst) {
                    park_forever();
                }
                if self.lines_read.load(Ordering::Relaxed) >= self.max_records {
                    return Ok(());
                }
                if prompt {
                    eprint!(">");
                    let _ = io::stderr().flush();
                }
                let next = read_next_line(&mut from, format, self.max_line_bytes, &mut line);
                let next = next.map_err(|e| CliError::failed(format!("reading stopped: {e}")))?;
                if next == NextLine::Eof {
                    break;
                }
                let number = self.lines_read.fetch_add(1, Ordering::Relaxed) + 1;
                self.progress_bar.inc(line.len() as u64 + 1);
                if next == NextLine::TooLong {
                    let why = format!(
                        "line {number} is longer than max.request.size ({})",
                        self.max_line_bytes
                    );
                    self.stats.record_unreadable_line(&self.topic, &why);
                    continue;
                }
                self.sending.store(true, Ordering::SeqCst);
                let sent = self.send_line(&line, number, format);
                self.sending.store(false, Ordering::SeqCst);
                sent?;
            }
        }
        Ok(())
    }

    fn send_line(&self, line: &[u8], number: u64, format: &LineFormat) -> Result<(), CliError> {
        let parsed = match format.parse(line, number) {
            Ok(parsed) => parsed,
            Err(why) => {
                self.stats.record_unreadable_line(&self.topic, &why);
                return Err(CliError::failed(format!("{why}; reading stopped there")));
            }
        };
        let headers: Vec<Header<'_>> =
            parsed.headers.iter().map(|(key, value)| Header { key, value: *value }).collect();
        let token = self.stats.current_token();
        let mut record = Record::to(&self.topic)
            .maybe_key(parsed.key)
            .maybe_value(parsed.value)
            .headers(&headers)
            .timestamp(self.stats.timestamp(token))
            .token(token);
        if let Some(partition) = self.partition {
            record = record.partition(partition);
        }
        match self.producer.send(record) {
            Ok(delivery) => {
                self.stats.add_bytes(line.len());
                if self.sync {
                    // The handler has counted it, however it ended.
                    let _ = delivery.wait();
                }
                Ok(())
            }
            Err(e) => {
                self.stats.record_rejected(&self.topic, &e);
                use ottla::ErrorKind as K;
                // What is wrong with one record may not be with the next; what is wrong with the topic or the
                // cluster is.
                match e.kind() {
                    K::RecordTooLarge
                    | K::InvalidRecord
                    | K::Serialization
                    | K::BufferExhausted => Ok(()),
                    _ => Err(CliError::failed(format!("{e}; reading stopped at line {number}"))),
                }
            }
        }
    }

    fn start_progress_bar(&self, inputs: &[Input]) {
        if !io::stderr().is_terminal() {
            return;
        }
        self.progress_bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let template = match inputs.iter().map(|i| i.1).sum::<Option<u64>>() {
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

    /// Sends what was accepted, tells what became of it; the status. Whoever comes second waits for the first.
    fn finish(&self) -> u8 {
        if self.finished.swap(true, Ordering::SeqCst) {
            park_forever();
        }
        if let Err(e) = self.producer.close(self.close_timeout) {
            eprintln!("ottla: {e}");
        }
        self.progress_bar.finish_and_clear();
        eprint!("{}", self.stats.summary(self.acks_zero));
        if self.stats.is_all_acknowledged() { OK } else { FAILED }
    }
}

/// Another thread ends the process.
fn park_forever() -> ! {
    loop {
        thread::park();
    }
}
