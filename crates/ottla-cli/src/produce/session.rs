//! One run of `ottla produce`: its producer, its threads, and its end in order.
//!
//! Three threads work on a [`Session`]: the main thread reads and sends (`send_loop.rs`), one
//! thread waits for signals, one supervises. The supervisor warns if no broker is connected, and
//! stops the reading after a signal or an error that every further record would meet, also while no
//! record comes. The producer's own sender thread completes the records and calls
//! [`DeliveryStats::on_delivery`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{ErrorCode, ErrorKind, Producer, Properties};
use signal_hook::iterator::Signals;

use super::OnError;
use super::checkpoint::{Checkpoint, StartPosition};
use super::checkpoint_saver::CheckpointSaver;
use super::delivery_stats::DeliveryStats;
use super::dry_run::DryRun;
use super::progress::Progress;
use crate::args::ProduceArgs;
use crate::console::{self, report};
use crate::live::{self, LiveConfig, LiveGuard};
use crate::rate::Rate;
use crate::signals::{self, INTERRUPTED_STATUS};
use crate::{CliError, FAILED, OK, error_text, settings, start_thread};

/// Time without a connection after which the command prints the reason.
const CONNECTION_WARNING_DELAY: Duration = Duration::from_secs(2);

/// Time between two checks of the connections, until a record is acknowledged.
const HEALTH_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The same after the time for the warning. The input may be idle for hours.
const LATER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the command stops before its input ends.
enum StopReason {
    Signal,
    /// The error that every further record would meet.
    Error(String),
}

/// What a [`Session`] needs to know of the options and settings.
pub(super) struct SessionConfig {
    /// The topic of every record; `None` if each record names its topic.
    pub(super) topic: Option<String>,
    /// The partition of every record, below 0 for the partitioner's choice; `None` if a record may
    /// name its partition.
    pub(super) partition: Option<i32>,
    pub(super) max_records: u64,
    pub(super) sync: bool,
    pub(super) on_error: OnError,
    pub(super) acks_zero: bool,
    pub(super) rate: Option<Rate>,
    pub(super) decompresses: bool,
    close_timeout: Duration,
    bootstrap_servers: String,
    /// The embedded broker's log, if it is deleted at the end.
    pub(super) temporary_log_dir: Option<PathBuf>,
    /// Where the first input is read from.
    pub(super) start: StartPosition,
}

impl SessionConfig {
    pub(super) fn new(
        args: &ProduceArgs,
        properties: &Properties,
        on_error: OnError,
    ) -> SessionConfig {
        let delivery_timeout_ms = settings::number(properties, "delivery.timeout.ms", 120_000);
        SessionConfig {
            topic: args.topic.clone(),
            partition: args.partition,
            max_records: args.count.unwrap_or(u64::MAX),
            sync: args.sync,
            on_error,
            acks_zero: properties.get("acks") == Some("0"),
            rate: args.load.rate,
            decompresses: !args.input.no_decompress,
            // By then every record has been acknowledged or has expired.
            close_timeout: Duration::from_millis(delivery_timeout_ms) + Duration::from_secs(5),
            bootstrap_servers: properties.get("bootstrap.servers").unwrap_or_default().to_owned(),
            temporary_log_dir: None,
            start: StartPosition::default(),
        }
    }
}

/// One run of the command, shared by its threads.
pub(super) struct Session {
    pub(super) config: SessionConfig,
    pub(super) producer: Producer,
    pub(super) stats: Arc<DeliveryStats>,
    /// The main thread must read no further record.
    pub(super) is_stopping: AtomicBool,
    /// The main thread has read a record that the producer has not accepted yet.
    pub(super) is_sending: AtomicBool,
    /// A thread has started to close the producer.
    is_finishing: AtomicBool,
    pub(super) records_read: AtomicU64,
    pub(super) progress: Progress,
    checkpoint: Option<CheckpointSaver>,
    pub(super) dry_run: Option<Arc<DryRun>>,
}

/// Returns whether every further record would fail with this error of a batch, too.
///
/// If the records name their topics, the errors of a topic concern only its records.
fn concerns_all_records(e: &ottla::Error, has_one_topic: bool) -> bool {
    use ErrorKind as K;
    let is_of_topic = matches!(e.kind(), K::InvalidTopic | K::Authorization)
        && e.code() != Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
    let concerns_all = is_of_topic && has_one_topic
        || e.code() == Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED)
        || matches!(e.kind(), K::Authentication | K::Config);
    e.is_fatal() || concerns_all
}

impl Session {
    /// Builds the producer and starts the threads.
    pub(super) fn start(
        config: SessionConfig,
        properties: Properties,
        stats: DeliveryStats,
        checkpoint: Option<Checkpoint>,
        dry_run: Option<DryRun>,
    ) -> Result<Arc<Session>, CliError> {
        let stats = Arc::new(stats);
        let (stop, stop_reasons) = mpsc::channel();
        let has_one_topic = config.topic.is_some();
        let (handler_stats, handler_stop) = (stats.clone(), stop.clone());
        let dry_run = dry_run.map(Arc::new);
        let handler_dry_run = dry_run.clone();
        let producer = Producer::builder()
            .properties(properties)
            .delivery_handler(move |report| {
                if let Some(dry_run) = &handler_dry_run {
                    dry_run.on_delivery(report);
                }
                let mut stop_reason = handler_stats.on_delivery(report);
                if let Err(e) = report.result
                    && concerns_all_records(e, has_one_topic)
                {
                    stop_reason = Some(error_text(e));
                }
                if let Some(reason) = stop_reason {
                    let _ = handler_stop.send(StopReason::Error(reason));
                }
            })
            .build()
            .map_err(|e| CliError::build(&e))?;
        let checkpoint = checkpoint.map(|c| CheckpointSaver::new(c, stats.clone()));
        let session = Arc::new(Session {
            config,
            producer,
            stats,
            is_stopping: AtomicBool::new(false),
            is_sending: AtomicBool::new(false),
            is_finishing: AtomicBool::new(false),
            records_read: AtomicU64::new(0),
            progress: Progress::hidden(),
            checkpoint,
            dry_run,
        });
        let signals = signals::install()?;
        if session.checkpoint.is_some() {
            let (session, stop) = (session.clone(), stop.clone());
            start_thread("checkpoint", move || session.save_checkpoints(&stop))?;
        }
        start_thread("signals", move || forward_signals(signals, &stop))?;
        let supervised = session.clone();
        start_thread("supervisor", move || supervised.supervise(&stop_reasons))?;
        Ok(session)
    }

    /// Writes checkpoints until the load ends. Without them it must not go on.
    fn save_checkpoints(&self, stop: &Sender<StopReason>) {
        if let Some(saver) = &self.checkpoint
            && let Err(reason) = saver.run()
        {
            let _ = stop.send(StopReason::Error(reason));
        }
    }

    /// Covers the terminal with the view of `--live`. The progress bar follows it.
    pub(super) fn start_live_view(
        self: &Arc<Self>,
        args: &ProduceArgs,
    ) -> Result<LiveGuard, CliError> {
        let topic = args
            .topic
            .as_deref()
            .map_or("topics of the records".into(), |topic| format!("topic {topic}"));
        let (stats, session) = (self.stats.clone(), self.clone());
        live::start(LiveConfig {
            title: format!("ottla produce - {topic}"),
            producer: self.producer.clone(),
            results: Arc::new(move || stats.results()),
            expected_records: args.count,
            on_leave: Box::new(move || session.progress.show()),
        })
    }

    /// Ends the session at the first reason to stop.
    fn supervise(self: &Arc<Self>, stop_reasons: &Receiver<StopReason>) {
        let Some(reason) = self.wait_for_stop_reason(stop_reasons) else { return };
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

    /// Waits for a reason to stop. Warns once if no broker is connected.
    fn wait_for_stop_reason(&self, stop_reasons: &Receiver<StopReason>) -> Option<StopReason> {
        let (started, mut has_warned) = (Instant::now(), false);
        loop {
            let interval = if has_warned { LATER_CHECK_INTERVAL } else { HEALTH_CHECK_INTERVAL };
            match stop_reasons.recv_timeout(interval) {
                Ok(reason) => return Some(reason),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.stats.acknowledged() > 0 {
                return stop_reasons.recv().ok();
            }
            // A record that waits for metadata fails with this reason. Without one the input is
            // idle, and the command would wait for the next record.
            if let Some(reason) = self.producer.health().bootstrap_error
                && !self.is_sending.load(Ordering::SeqCst)
            {
                return Some(StopReason::Error(reason));
            }
            if !has_warned && started.elapsed() >= CONNECTION_WARNING_DELAY {
                has_warned = true;
                self.warn_if_not_connected();
            }
        }
    }

    /// Finishes the session and ends the process while the main thread may block in a read.
    fn stop(&self, reason: StopReason) -> ! {
        if matches!(reason, StopReason::Signal) {
            report!("interrupted: sending the records read so far; interrupt again to quit");
        }
        // A closed producer would refuse the record that the main thread is sending.
        while self.is_sending.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        let mut status = self.finish();
        if let StopReason::Error(reason) = reason {
            let records = self.records_read.load(Ordering::SeqCst);
            report!("ottla: {reason}; reading stopped after record {records}");
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
        console::exit(status);
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

    /// Closes the producer, prints the summary and returns the exit status.
    ///
    /// The main thread and the one of [`stop`](Session::stop) call this. The first one finishes
    /// and ends the process; the second one waits for that.
    pub(super) fn finish(&self) -> u8 {
        if self.is_finishing.swap(true, Ordering::SeqCst) {
            park_forever();
        }
        if let Err(e) = self.producer.close(self.config.close_timeout) {
            report!("ottla: {}", error_text(&e));
        }
        self.progress.finish();
        let summary = match &self.dry_run {
            None => self.stats.summary(self.config.acks_zero),
            Some(dry_run) => self.stats.dry_run_summary() + &dry_run.summary(&self.producer),
        };
        console::write_stderr(format_args!("{summary}"));
        let saved = self.checkpoint.as_ref().map_or(Ok(()), CheckpointSaver::finish);
        if let Err(reason) = &saved {
            report!("ottla: {reason}");
        }
        if saved.is_ok() && self.stats.is_all_acknowledged() { OK } else { FAILED }
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
pub(super) fn park_forever() -> ! {
    loop {
        thread::park();
    }
}
