//! `ottla perf`: a load generator with the options and the output of kafka-producer-perf-test.
//!
//! With `--json` it prints one object, which benchmarks compare with that of other clients.

mod clock;
mod load;
mod stats;
mod transactions;
mod usage;
mod report;
mod sweep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ottla::{BatchReport, Delivery, Origin, Producer, Properties, Record, Topic};

use crate::args::{PerfArgs, SendMethod};
use crate::console::{self, output_status, print_line, report};
use crate::live::{self, LiveConfig, LiveGuard};
use crate::settings::{read_file, set_properties};
use crate::signals::{self, INTERRUPTED_STATUS};
use crate::{CliError, FAILED, error_with_reference, limits, start_thread};
use clock::Clock;
use load::{ThroughputThrottler, Workload};
use report::{ReportFiles, RunData, Sampler, Totals, counts};
use stats::PerfStats;
use sweep::Sweep;
pub(crate) use sweep::SweepRange;
use transactions::{PerfTransactions, TransactionLimit};
use usage::{ResourceUsage, UsageMeter};

/// With `--path delivery`: the number of deliveries that are kept before the oldest is awaited.
const MAX_PENDING_DELIVERIES: usize = 100_000;

pub(crate) fn run(args: &PerfArgs) -> Result<u8, CliError> {
    if !args.compare.is_empty() {
        return report::compare(args);
    }
    check_args(args)?;
    let reports = ReportFiles::check(&args.report)?;
    if args.live {
        live::check_terminal()?;
    }
    let workload = Workload::new(args)?;
    let clock = Clock::start();
    let stats = Arc::new(PerfStats::new(args, clock, &workload.record_sizes()));
    let handler_stats = stats.clone();
    let mut properties = producer_properties(args)?;
    let transaction_limit = TransactionLimit::from_args(args, &mut properties)?;
    limits::check_address_space(&properties)?;
    let built = Producer::builder()
        .properties(properties)
        .delivery_handler(move |r: &BatchReport<'_>| handler_stats.on_delivery(r))
        .build();
    let producer = match built {
        Ok(producer) => producer,
        // The benchmarks of other clients report an unsupported setting in the same way.
        Err(e) if args.json => {
            let reason = serde_json::json!({"client": "ottla", "unsupported": e.to_string()});
            return output_status(print_line!("{reason}"));
        }
        Err(e) => return Err(CliError::build(&e)),
    };
    stop_at_signal(&stats)?;
    let view = args.live.then(|| start_live_view(args, &producer, &stats)).transpose()?;
    let failed = |e: ottla::Error| CliError::failed(error_with_reference(&e));
    if transaction_limit.is_some() {
        producer.init_transactions().map_err(failed)?;
    }
    // The load starts when the topic is known.
    producer.partitions_for(args.topic()).map_err(failed)?;
    let topic = producer.topic(args.topic()).map_err(failed)?;
    let (workload, producer, topic) = (&workload, &producer, &topic);
    let run = PerfRun { args, workload, stats: &stats, producer, topic, transaction_limit };
    let mut data = report::begin_run(args, producer);
    if let Some(range) = args.sweep {
        let sweep = Sweep::run(args, range, &run)?;
        if args.json {
            stats.print(format_args!("{}", sweep.to_json()));
        } else {
            stats.print(format_args!("{}", sweep.summary()));
        }
        data.sweep = sweep.steps;
    } else {
        run.send_and_print(&mut data, view)?;
    }
    reports.write(&[data])?;
    if args.print_metrics {
        stats.print(format_args!("{}", stats::metrics_table(&producer.metrics())));
    }
    producer.close(Duration::from_secs(60)).map_err(failed)?;
    let status = output_status(stats.output_result())?;
    Ok(if stats.errors() == 0 { status } else { FAILED })
}

/// At the first signal no further record is sent, and the results so far are printed. The second
/// one ends the process at once.
fn stop_at_signal(stats: &Arc<PerfStats>) -> Result<(), CliError> {
    let (mut signals, stats) = (signals::install()?, stats.clone());
    start_thread("signals", move || {
        let mut received = signals.forever();
        received.next();
        report!("interrupted: waiting for the records sent so far; interrupt again to quit");
        stats.stop();
        received.next();
        console::exit(INTERRUPTED_STATUS);
    })?;
    Ok(())
}

fn start_live_view(
    args: &PerfArgs,
    producer: &Producer,
    stats: &Arc<PerfStats>,
) -> Result<LiveGuard, CliError> {
    let (results, progress) = (stats.clone(), stats.clone());
    live::start(LiveConfig {
        title: format!("ottla perf - topic {}", args.topic()),
        producer: producer.clone(),
        results: Arc::new(move || results.results()),
        expected_records: Some(args.num_records()),
        on_leave: Box::new(move || progress.show_progress_bar()),
    })
}

/// Checks what the table of options cannot express.
fn check_args(args: &PerfArgs) -> Result<(), CliError> {
    if args.sweep.is_none() && args.warmup_records >= args.num_records() && !args.json {
        return Err(CliError::usage("--warmup-records must be fewer than --num-records"));
    }
    if args.throughput == Some(0.0) {
        return Err(CliError::usage("--throughput 0 would never finish; use -1 for no limit"));
    }
    Ok(())
}

/// Collects the producer's settings: files, properties, options. A later source overrides an
/// earlier one.
fn producer_properties(args: &PerfArgs) -> Result<Properties, CliError> {
    let mut p = Properties::new();
    let usage = |e: ottla::Error| CliError::usage(e.to_string());
    p.set_from("client.id", "perf-producer-client", &Origin::CommandLine).map_err(usage)?;
    for path in args.command_config.iter().chain(&args.producer_config) {
        p.load(&read_file(path)?, &path.display().to_string()).map_err(usage)?;
    }
    set_properties(&mut p, args.command_property.iter().chain(&args.producer_props))?;
    let mut set =
        |name: &str, value: &str| p.set_from(name, value, &Origin::CommandLine).map_err(usage);
    for (name, value) in [
        ("bootstrap.servers", &args.bootstrap_server),
        ("acks", &args.acks),
        ("linger.ms", &args.linger_ms),
        ("batch.size", &args.batch_bytes),
        ("compression.type", &args.compression),
        ("enable.idempotence", &args.idempotent),
        ("max.in.flight.requests.per.connection", &args.in_flight),
        ("buffer.memory", &args.buffer_memory),
        ("transactional.id", &args.transactional_id),
    ] {
        if let Some(value) = value {
            set(name, value)?;
        }
    }
    if p.get("bootstrap.servers").is_none() {
        return Err(CliError::usage(
            "no broker is given: use --bootstrap-server host:port, or set bootstrap.servers with \
             --command-property or --command-config",
        ));
    }
    Ok(p)
}

/// What the sending threads share.
struct PerfRun<'a> {
    args: &'a PerfArgs,
    workload: &'a Workload,
    stats: &'a Arc<PerfStats>,
    producer: &'a Producer,
    topic: &'a Topic,
    transaction_limit: Option<TransactionLimit>,
}

impl PerfRun<'_> {
    /// Sends all records, prints their results and adds them to the data of the report.
    fn send_and_print(&self, data: &mut RunData, view: Option<LiveGuard>) -> Result<(), CliError> {
        let (args, stats, rate) = (self.args, self.stats, self.args.offered_rate());
        let failed = |e: ottla::Error| CliError::failed(error_with_reference(&e));
        let from = if args.json {
            // All records of the warm-up complete before the measurement starts. Without --json
            // they are part of the run, as in Kafka's tool.
            self.send(0, args.warmup_records, rate)?;
            self.producer.flush().map_err(failed)?;
            stats.reset();
            args.warmup_records
        } else {
            0
        };
        let sampler = self.start_sampler()?;
        let meter = UsageMeter::start();
        let to = if args.json { from + args.num_records() } else { args.num_records() };
        self.send(from, to, rate)?;
        self.producer.flush().map_err(failed)?;
        let usage = meter.stop();
        drop(view);
        if args.json {
            stats.print(format_args!("{}", stats.to_json(&usage)));
        } else {
            stats.print_total();
        }
        if let Some(sampler) = sampler {
            data.samples = sampler.finish();
            self.add_totals(data, &usage);
        }
        Ok(())
    }

    /// Starts the thread that takes samples, if there will be a report.
    fn start_sampler(&self) -> Result<Option<Sampler>, CliError> {
        if self.args.report.is_empty() {
            return Ok(None);
        }
        let stats = self.stats.clone();
        Sampler::start(self.producer.clone(), Arc::new(move || stats.results())).map(Some)
    }

    fn add_totals(&self, data: &mut RunData, usage: &ResourceUsage) {
        let results = self.stats.results();
        data.totals = Totals {
            records: results.acknowledged,
            failed: results.failed,
            bytes: results.bytes,
            wall_s: usage.wall_s,
            user_s: usage.user_s,
            sys_s: usage.sys_s,
            max_rss_kb: usage.max_rss_kb,
        };
        data.latency_us = counts(&results.latency_us);
    }

    /// Sends the records `from..to` at a rate. With several threads, thread `t` sends every n-th
    /// record.
    fn send(&self, from: u64, to: u64, rate: Option<f64>) -> Result<(), CliError> {
        let threads = self.args.threads;
        let throttler = ThroughputThrottler::start(rate, &self.stats.clock());
        if threads == 1 {
            return self.send_records(from, (from..to).step_by(1), throttler);
        }
        thread::scope(|scope| {
            let senders: Vec<_> = (0..threads)
                .map(|t| {
                    let records = (from + t..to).step_by(threads as usize);
                    let thread = thread::Builder::new().name(format!("perf-{t}"));
                    thread
                        .spawn_scoped(scope, move || self.send_records(from, records, throttler))
                        .map_err(|e| {
                            // The threads that have started would send their whole part.
                            self.stats.stop();
                            CliError::failed(format!("cannot start sending thread {t}: {e}"))
                        })
                })
                .collect();
            senders.into_iter().try_for_each(|s| {
                s?.join().unwrap_or_else(|_| Err(CliError::failed("a sending thread panicked")))
            })
        })
    }

    fn send_records(
        &self,
        from: u64,
        records: impl Iterator<Item = u64>,
        throttler: ThroughputThrottler,
    ) -> Result<(), CliError> {
        let rejected = |e: ottla::Error| {
            CliError::failed(format!("a record was rejected: {}", error_with_reference(&e)))
        };
        let (mut clock, workload) = (self.stats.clock(), self.workload);
        let mut transactions =
            PerfTransactions::new(self.transaction_limit, self.producer, self.stats);
        let mut pending = VecDeque::new();
        let mut text = String::new();
        for i in records.take_while(|_| self.stats.is_sending()) {
            transactions.begin_if_needed()?;
            // The clock is read once for each record: for its timestamp, its token and the start
            // of its latency.
            let sent_at = throttler.wait_until_due(i - from, &clock);
            let key = workload.key(i);
            let value = workload.value(i, &mut text);
            if workload.has_variable_size() {
                self.stats.add_sent_value(value.len());
            }
            let (record, shared) = (Record::to(self.topic.name()), workload.share(value));
            let record = match &shared {
                Some(value) => record.value_from_bytes(value),
                None => record.value(value),
            };
            let record = record
                .maybe_key(key.as_ref().map(|k| &k[..]))
                .timestamp(clock.wall_ms(sent_at))
                .token(sent_at);
            match self.args.path {
                SendMethod::Handle => self.topic.enqueue(record).map_err(rejected)?,
                SendMethod::Name => drop(self.producer.send(record).map_err(rejected)?),
                SendMethod::Callback => {
                    // It captures a value, as an application's callback does. The box of a closure
                    // without captures would need no allocation.
                    let callback = move |result: Result<_, ottla::Error>| {
                        std::hint::black_box((sent_at, result.is_ok()));
                    };
                    self.topic.send_with_callback(record, callback).map_err(rejected)?;
                }
                SendMethod::Delivery => {
                    pending.push_back(self.topic.send(record).map_err(rejected)?);
                    if pending.len() >= MAX_PENDING_DELIVERIES {
                        // The delivery handler counts the result.
                        let _ = pending.pop_front().map(Delivery::wait);
                    }
                }
            }
            transactions.commit_if_due()?;
        }
        transactions.commit()?;
        pending.into_iter().for_each(|d| drop(d.wait()));
        Ok(())
    }
}
