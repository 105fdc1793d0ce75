//! One run of `ottla produce`: reads lines, sends them, and ends in order.
//!
//! Three threads work on a [`Session`]: the main thread reads and sends, one thread waits for
//! signals, one supervises. The supervisor warns if no broker is connected, and stops the reading
//! after a signal or an error that every further record would meet. The producer's own sender
//! thread completes the records and calls [`DeliveryStats::on_delivery`].

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ottla::{ErrorKind, Header, Producer, Properties, Record};
use signal_hook::iterator::Signals;

use crate::args::ProduceArgs;
use crate::console::{self, report};
use crate::input::{LineFormat, NextLine, read_next_line};
use crate::produce::Input;
use crate::report::DeliveryStats;
use crate::signals::{self, INTERRUPTED_STATUS};
use crate::{CliError, FAILED, OK, error_text, start_thread};

/// Time without a connection after which the command prints the reason.
const CONNECTION_WARNING_DELAY: Duration = Duration::from_secs(2);

/// Why the command stops before its input ends.
enum StopReason {
    Signal,
    /// The error that every further record would meet.
    Error(String),
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
pub(crate) struct Session {
    config: SessionConfig,
    producer: Producer,
    stats: Arc<DeliveryStats>,
    /// The main thread must read no further line.
    is_stopping: AtomicBool,
    /// The main thread has read a line that the producer has not accepted yet.
    is_sending: AtomicBool,
    /// A thread has started to close the producer.
    is_finishing: AtomicBool,
    lines_read: AtomicU64,
    progress_bar: ProgressBar,
}

/// Returns whether every further record would fail with this error of a batch, too.
///
/// The command sends to one topic, so the topic's errors count.
fn concerns_all_records(e: &ottla::Error) -> bool {
    use ErrorKind as K;
    let kinds = [K::Authentication, K::Authorization, K::InvalidTopic, K::Config];
    e.is_fatal() || kinds.contains(&e.kind())
}

impl Session {
    /// Builds the producer and starts the threads.
    pub(crate) fn start(
        args: &ProduceArgs,
        properties: Properties,
        temporary_log_dir: Option<PathBuf>,
    ) -> Result<Arc<Session>, CliError> {
        let config = SessionConfig::new(args, &properties, temporary_log_dir);
        let stats = Arc::new(DeliveryStats::new(args.json));
        let (stop, stop_reasons) = mpsc::channel();
        let (handler_stats, handler_stop) = (stats.clone(), stop.clone());
        let producer = Producer::builder()
            .properties(properties)
            .delivery_handler(move |report| {
                handler_stats.on_delivery(report);
                if let Err(e) = report.result
                    && concerns_all_records(e)
                {
                    let _ = handler_stop.send(StopReason::Error(error_text(e)));
                }
            })
            .build()
            .map_err(|e| CliError::build(&e))?;
        let session = Arc::new(Session {
            config,
            producer,
            stats,
            is_stopping: AtomicBool::new(false),
            is_sending: AtomicBool::new(false),
            is_finishing: AtomicBool::new(false),
            lines_read: AtomicU64::new(0),
            progress_bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        });
        let signals = signals::install()?;
        start_thread("signals", move || forward_signals(signals, &stop))?;
        let supervised = session.clone();
        start_thread("supervisor", move || supervised.supervise(&stop_reasons))?;
        Ok(session)
    }

    /// Warns once if no broker is connected, and ends the session at the first reason to stop.
    fn supervise(self: &Arc<Self>, stop_reasons: &Receiver<StopReason>) {
        let mut received = stop_reasons.recv_timeout(CONNECTION_WARNING_DELAY);
        if matches!(received, Err(RecvTimeoutError::Timeout)) {
            self.warn_if_not_connected();
            received = stop_reasons.recv().map_err(RecvTimeoutError::from);
        }
        let Ok(reason) = received else { return };
        // The main thread may block in a read and never see this flag. Therefore another thread
        // finishes the session, and this one waits for a second signal.
        self.is_stopping.store(true, Ordering::SeqCst);
        let (session, is_signal) = (self.clone(), matches!(reason, StopReason::Signal));
        let failed = start_thread("finisher", move || session.stop(reason)).is_err();
        if failed {
            // Without a thread, a second signal cannot end the process earlier.
            let status = self.finish();
            self.quit(if is_signal { i32::from(status) } else { i32::from(FAILED) });
        }
        while let Ok(reason) = stop_reasons.recv() {
            if matches!(reason, StopReason::Signal) {
                self.quit(INTERRUPTED_STATUS);
            }
        }
    }

    /// Finishes the session and ends the process while the main thread may block in a read.
    fn stop(&self, reason: StopReason) -> ! {
        if matches!(reason, StopReason::Signal) {
            report!("interrupted: sending the records read so far; interrupt again to quit");
        }
        // A closed producer would refuse the line that the main thread is sending.
        while self.is_sending.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        let mut status = self.finish();
        if let StopReason::Error(reason) = reason {
            let lines = self.lines_read.load(Ordering::SeqCst);
            report!("ottla: {reason}; reading stopped after line {lines}");
            status = FAILED;
        }
        self.quit(i32::from(status))
    }

    /// Ends the process from a thread other than the main thread.
    fn quit(&self, status: i32) -> ! {
        // `exit` runs no destructor, so the `TempDir` in `run` would stay.
        if let Some(dir) = &self.config.temporary_log_dir {
            let _ = std::fs::remove_dir_all(dir);
        }
        std::process::exit(status);
    }

    /// Reports which brokers failed and why, if no broker is connected.
    fn warn_if_not_connected(&self) {
        let health = self.producer.health();
        let is_idle = health.connected.is_empty() && self.stats.acknowledged() == 0;
        if !is_idle || self.is_finishing.load(Ordering::SeqCst) {
            return;
        }
        let failing: Vec<String> =
            health.failing.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        let reason = if failing.is_empty() {
            format!("{}: no response yet", self.config.bootstrap_servers)
        } else {
            failing.join("; ")
        };
        let seconds = CONNECTION_WARNING_DELAY.as_secs();
        report!("not connected after {seconds} s: {reason}; still trying");
    }

    /// Reads and sends all inputs.
    pub(crate) fn send_all(&self, inputs: &[Input], format: &LineFormat) -> Result<(), CliError> {
        self.start_progress_bar(inputs);
        let mut line = Vec::new();
        for input in inputs {
            let mut reader = input.open()?;
            loop {
                if self.is_stopping.load(Ordering::SeqCst) {
                    park_forever();
                }
                if self.lines_read.load(Ordering::Relaxed) >= self.config.max_records {
                    return Ok(());
                }
                if input.is_terminal() {
                    console::write_stderr(format_args!(">"));
                }
                let max_bytes = self.config.max_line_bytes;
                let next =
                    read_next_line(&mut reader, format, max_bytes, &mut line).map_err(|e| {
                        let name = input.name();
                        CliError::failed(format!("cannot read {name}: {e}; reading stopped"))
                    })?;
                if next == NextLine::Eof {
                    if input.is_terminal() {
                        // The next line of output must not follow the prompt.
                        console::write_stderr(format_args!("\n"));
                    }
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
            parsed.headers.iter().map(|(key, value)| Header::maybe(*key, *value)).collect();
        let token = self.stats.clock().current_token();
        let mut record = Record::to(topic)
            .maybe_key(parsed.key)
            .maybe_value(parsed.value)
            .headers(&headers)
            .timestamp(self.stats.clock().timestamp(token))
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
                use ErrorKind as K;
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
        // The bar would wipe out what a person types.
        if !io::stderr().is_terminal() || inputs.iter().any(Input::is_terminal) {
            return;
        }
        self.progress_bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        console::show_progress_bar(&self.progress_bar);
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
    /// The main thread and the one of [`stop`](Session::stop) call this. The first one finishes
    /// and ends the process; the second one waits for that.
    pub(crate) fn finish(&self) -> u8 {
        if self.is_finishing.swap(true, Ordering::SeqCst) {
            park_forever();
        }
        if let Err(e) = self.producer.close(self.config.close_timeout) {
            report!("ottla: {}", error_text(&e));
        }
        self.progress_bar.finish_and_clear();
        console::write_stderr(format_args!("{}", self.stats.summary(self.config.acks_zero)));
        if self.stats.is_all_acknowledged() { OK } else { FAILED }
    }
}

fn forward_signals(mut signals: Signals, stop: &Sender<StopReason>) {
    for _ in signals.forever() {
        if stop.send(StopReason::Signal).is_err() {
            return;
        }
    }
}

/// Blocks until another thread ends the process.
fn park_forever() -> ! {
    loop {
        thread::park();
    }
}
