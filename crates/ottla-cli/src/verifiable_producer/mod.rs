//! `ottla verifiable-producer`: sends the numbers from 0 on and prints the result of each record.
//!
//! Options and output are those of Kafka's VerifiableProducer. Kafka's system tests, and other
//! tests that read its output, can run this command in its place.

mod java_exception;
mod output;
mod throttler;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla::{Origin, Producer, Properties, Record};

use crate::args::VerifiableProducerArgs;
use crate::console::{output_status, report};
use crate::settings::{check_not_transactional, read_file};
use crate::signals::{self, INTERRUPTED_STATUS};
use crate::{CliError, limits, start_thread};
use output::{Event, Output, wall_ms};
use throttler::{StopSignal, ThroughputThrottler};

/// How long the producer may take to send what is left. Each record ends earlier, by
/// `delivery.timeout.ms`.
const CLOSE_TIMEOUT: Duration = Duration::MAX;

pub(crate) fn run(args: &VerifiableProducerArgs) -> Result<u8, CliError> {
    let properties = producer_properties(args)?;
    limits::check_address_space(&properties)?;
    let built = Producer::builder().properties(properties).build();
    let producer = built.map_err(|e| CliError::build(&e))?;
    let stop = Arc::new(StopSignal::default());
    stop_at_signal(&producer, &stop)?;
    let run = VerifiableRun {
        args,
        producer: &producer,
        output: Arc::new(Output::new(stop.clone())),
        stop: &stop,
        started_at: Instant::now(),
        started_ms: wall_ms(),
    };
    run.output.print(&Event::StartupComplete);
    let sent = run.send_records();
    // Each record's line comes before the call returns.
    let closed = producer.close(CLOSE_TIMEOUT);
    run.output.print(&Event::ShutdownComplete);
    run.print_summary(sent);
    closed.map_err(|e| CliError::failed(crate::error_with_reference(&e)))?;
    output_status(run.output.result())
}

/// At the first signal no further record is sent. The second one ends the process at once.
fn stop_at_signal(producer: &Producer, stop: &Arc<StopSignal>) -> Result<(), CliError> {
    let (mut signals, producer, stop) = (signals::install()?, producer.clone(), stop.clone());
    start_thread("signals", move || {
        let mut received = signals.forever();
        received.next();
        report!("interrupted: waiting for the records sent so far; interrupt again to quit");
        stop.set();
        // The sending thread may wait for metadata or memory. The close ends its wait.
        start_close(producer);
        received.next();
        std::process::exit(INTERRUPTED_STATUS);
    })
    .map(drop)
}

/// Closes the producer on a thread of its own, so that the caller can wait for a second signal.
fn start_close(producer: Producer) {
    let close = move || drop(producer.close(CLOSE_TIMEOUT));
    if let Err(e) = start_thread("close", close) {
        report!("ottla: {}", e.message);
    }
}

/// Collects the producer's settings: options, then the file, which overrides them.
fn producer_properties(args: &VerifiableProducerArgs) -> Result<Properties, CliError> {
    let mut p = Properties::new();
    let usage = |e: ottla::Error| CliError::usage(e.to_string());
    for (name, value) in [
        ("bootstrap.servers", args.bootstrap_server.as_str()),
        ("acks", &args.acks),
        ("retries", "0"),
    ] {
        p.set_from(name, value, &Origin::CommandLine).map_err(usage)?;
    }
    if args.producer_config.is_some() {
        report!("Warning: --producer.config is deprecated; use --command-config instead.");
    }
    if let Some(path) = args.command_config.as_ref().or(args.producer_config.as_ref()) {
        p.load(&read_file(path)?, &path.display().to_string()).map_err(usage)?;
    }
    check_not_transactional(&p)?;
    Ok(p)
}

struct VerifiableRun<'a> {
    args: &'a VerifiableProducerArgs,
    producer: &'a Producer,
    output: Arc<Output>,
    stop: &'a StopSignal,
    started_at: Instant,
    started_ms: i64,
}

impl VerifiableRun<'_> {
    /// Sends records until the last one or a signal. Returns how many.
    fn send_records(&self) -> u64 {
        let max = u64::try_from(self.args.max_messages).unwrap_or(u64::MAX);
        let mut throttler = ThroughputThrottler::new(self.args.throughput, self.started_at);
        let mut create_time = self.args.message_create_time;
        for n in 0..max {
            if self.stop.is_set() {
                return n;
            }
            let sent_at = Instant::now();
            self.send(n, (self.args.message_create_time != -1).then_some(create_time));
            // Kafka's tool adds the time since the start after each record, not the time since the
            // record before.
            create_time = create_time.saturating_add(wall_ms() - self.started_ms);
            throttler.throttle(n, sent_at, self.stop);
        }
        max
    }

    fn send(&self, n: u64, timestamp: Option<i64>) {
        let key = self.args.repeating_keys.map(|keys| (n % u64::from(keys)).to_string());
        let value = match self.args.value_prefix {
            Some(prefix) => format!("{prefix}.{n}"),
            None => n.to_string(),
        };
        let mut record =
            Record::to(&self.args.topic).maybe_key(key.as_deref().map(str::as_bytes)).value(&value);
        if let Some(timestamp) = timestamp {
            record = record.timestamp(timestamp);
        }
        let (output, topic) = (self.output.clone(), self.args.topic.clone());
        let (sent_key, sent_value) = (key.clone(), value.clone());
        // The callback gets the error of a record that is not accepted, too.
        let _ = self.producer.send_with_callback(record, move |result| {
            output.print_result(&topic, sent_key.as_deref(), &sent_value, result);
        });
    }

    fn print_summary(&self, sent: u64) {
        let ms = (self.started_at.elapsed().as_millis() as u64).max(1);
        let acked = self.output.acked();
        self.output.print(&Event::ToolData {
            sent,
            acked,
            target_throughput: self.args.throughput,
            avg_throughput: 1000.0 * acked as f64 / ms as f64,
        });
    }
}
