//! `ottla perf`: kafka-producer-perf-test's options and lines, and one JSON line to stand beside other clients.

mod load;
mod stats;
mod usage;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ottla::{BatchReport, Delivery, Origin, Producer, Properties, Record, Topic};

use crate::args::{PerfArgs, SendMethod};
use crate::settings::{read_file, split_property};
use crate::{CliError, FAILED, OK};
use load::{ThroughputThrottler, Workload};
use stats::{Clock, PerfStats};
use usage::UsageMeter;

/// Deliveries kept before the first of them is waited for.
const MAX_PENDING_DELIVERIES: usize = 100_000;

pub(crate) fn run(args: &PerfArgs) -> Result<u8, CliError> {
    if args.warmup_records >= args.num_records && !args.json {
        return Err(CliError::usage("--warmup-records must be fewer than --num-records"));
    }
    if args.transactional_id.is_some() || args.transaction_duration_ms.is_some() {
        return Err(CliError::usage("transactions are not there yet"));
    }
    if args.throughput == Some(0.0) {
        return Err(CliError::usage(
            "--throughput 0 would never come to its end; -1 means no limit",
        ));
    }
    let load = Workload::new(args)?;
    let clock = Clock::start();
    let stats = Arc::new(PerfStats::new(args, clock, load.value_and_key_bytes()));
    let heard = stats.clone();
    let built = Producer::builder()
        .properties(producer_properties(args)?)
        .delivery_handler(move |r: &BatchReport<'_>| heard.on_delivery(r))
        .build();
    let producer = match built {
        Ok(producer) => producer,
        // As the other drivers say that their client cannot do what was asked.
        Err(e) if args.json => {
            println!("{}", serde_json::json!({"client": "ottla", "unsupported": e.to_string()}));
            return Ok(OK);
        }
        Err(e) => return Err(CliError::usage(e.to_string())),
    };
    let topic = producer.topic(&args.topic).map_err(|e| CliError::failed(e.to_string()))?;
    let run = PerfRun { args, load: &load, stats: &stats, producer: &producer, topic: &topic };
    let flushed =
        |what: Result<(), ottla::Error>| what.map_err(|e| CliError::failed(e.to_string()));
    let from = if args.json {
        // Like the other drivers: the warm-up is over and done with before anything is measured.
        run.send(0, args.warmup_records)?;
        flushed(producer.flush())?;
        stats.reset();
        args.warmup_records
    } else {
        0
    };
    let usage = UsageMeter::start();
    let to = if args.json { from + args.num_records } else { args.num_records };
    run.send(from, to)?;
    flushed(producer.flush())?;
    let used = usage.stop();
    if args.json {
        println!("{}", stats.to_json(&used));
    } else {
        stats.print_total();
    }
    // Not together with `--json`, whose line is the last.
    if args.print_metrics {
        stats::print_metrics(&producer.metrics());
    }
    producer.close(Duration::from_secs(60)).map_err(|e| CliError::failed(e.to_string()))?;
    Ok(if stats.errors() == 0 { OK } else { FAILED })
}

/// Files first, then properties, then options: later ones win.
fn producer_properties(args: &PerfArgs) -> Result<Properties, CliError> {
    let mut p = Properties::new();
    let wrong = |e: ottla::Error| CliError::usage(e.to_string());
    p.set("client.id", "perf-producer-client", &Origin::CommandLine).map_err(wrong)?;
    for path in args.command_config.iter().chain(&args.producer_config) {
        p.load(&read_file(path)?, &path.display().to_string()).map_err(wrong)?;
    }
    let mut set = |name: &str, value: &str| p.set(name, value, &Origin::CommandLine).map_err(wrong);
    for property in args.command_property.iter().chain(&args.producer_props) {
        let (name, value) = split_property(property)?;
        set(name, value)?;
    }
    for (name, value) in [
        ("bootstrap.servers", &args.bootstrap_server),
        ("acks", &args.acks),
        ("linger.ms", &args.linger_ms),
        ("batch.size", &args.batch_bytes),
        ("compression.type", &args.compression),
        ("enable.idempotence", &args.idempotent),
        ("max.in.flight.requests.per.connection", &args.in_flight),
        ("buffer.memory", &args.buffer_memory),
    ] {
        if let Some(value) = value {
            set(name, value)?;
        }
    }
    if p.get("bootstrap.servers").is_none() {
        return Err(CliError::usage(
            "where to? give --bootstrap-server, --command-property or --command-config",
        ));
    }
    Ok(p)
}

/// What the threads that send share.
struct PerfRun<'a> {
    args: &'a PerfArgs,
    load: &'a Workload,
    stats: &'a Arc<PerfStats>,
    producer: &'a Producer,
    topic: &'a Topic,
}

impl PerfRun<'_> {
    /// Sends these records, by as many threads as there are to be.
    fn send(&self, from: u64, to: u64) -> Result<(), CliError> {
        let (threads, pacer) =
            (self.args.threads, ThroughputThrottler::start(self.args, self.stats.clock()));
        if threads == 1 {
            return self.send_records(from, (from..to).step_by(1), pacer);
        }
        thread::scope(|scope| {
            let senders: Vec<_> = (0..threads)
                .map(|t| {
                    let mine = (from + t..to).step_by(threads as usize);
                    scope.spawn(move || self.send_records(from, mine, pacer))
                })
                .collect();
            senders.into_iter().try_for_each(|s| {
                s.join().unwrap_or_else(|_| Err(CliError::failed("a sending thread panicked")))
            })
        })
    }

    fn send_records(
        &self,
        from: u64,
        records: impl Iterator<Item = u64>,
        pacer: ThroughputThrottler,
    ) -> Result<(), CliError> {
        let refused = |e: ottla::Error| CliError::failed(format!("a record was not accepted: {e}"));
        let (clock, load) = (self.stats.clock(), self.load);
        let mut kept = std::collections::VecDeque::new();
        let mut text = String::new();
        for i in records {
            // One reading of the clock: the record's timestamp, and where its latency begins.
            let at = pacer.wait_until_due(i - from, clock);
            let key = load.key(i);
            let value = load.value(i, &mut text);
            if load.has_variable_size() {
                self.stats.add_sent_value(value.len());
            }
            let record = Record::to(self.topic.name())
                .maybe_key(key.as_ref().map(|k| &k[..]))
                .value(value)
                .timestamp(clock.wall_ms(at))
                .token(at);
            match self.args.path {
                SendMethod::Handle => self.topic.enqueue(record).map_err(refused)?,
                SendMethod::Name => drop(self.producer.send(record).map_err(refused)?),
                SendMethod::Callback => {
                    // It has something of its own, as a real one would: that is what its box is for.
                    let callback = move |result: Result<_, ottla::Error>| {
                        std::hint::black_box((at, result.is_ok()));
                    };
                    self.topic.send_with(record, callback).map_err(refused)?;
                }
                SendMethod::Delivery => {
                    kept.push_back(self.topic.send(record).map_err(refused)?);
                    if kept.len() >= MAX_PENDING_DELIVERIES {
                        // Failures are counted by the handler.
                        let _ = kept.pop_front().map(Delivery::wait);
                    }
                }
            }
        }
        kept.into_iter().for_each(|d| drop(d.wait()));
        Ok(())
    }
}
