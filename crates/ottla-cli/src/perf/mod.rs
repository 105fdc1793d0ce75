//! `ottla perf`: kafka-producer-perf-test's options and lines, and one JSON line to stand beside other clients.

mod load;
mod stats;
mod usage;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ottla::{BatchReport, Delivery, Origin, Producer, Properties, Record, Topic};

use crate::args::{Path, PerfArgs};
use crate::settings::{pair, read};
use crate::{FAILED, OK, Stop};
use load::{Load, Pacer};
use stats::{Clock, Stats};
use usage::Usage;

/// Deliveries kept before the first of them is waited for.
const KEPT: usize = 100_000;

pub(crate) fn run(args: &PerfArgs) -> Result<u8, Stop> {
    if args.warmup_records >= args.num_records && !args.json {
        return Err(Stop::usage("--warmup-records must be fewer than --num-records"));
    }
    if args.transactional_id.is_some() || args.transaction_duration_ms.is_some() {
        return Err(Stop::usage("transactions are not there yet"));
    }
    if args.throughput == Some(0.0) {
        return Err(Stop::usage("--throughput 0 would never come to its end; -1 means no limit"));
    }
    let load = Load::new(args)?;
    let clock = Clock::start();
    let stats = Arc::new(Stats::new(args, clock, load.bytes_a_record()));
    let heard = stats.clone();
    let built = Producer::builder()
        .properties(settings(args)?)
        .delivery_handler(move |r: &BatchReport<'_>| heard.hear(r))
        .build();
    let producer = match built {
        Ok(producer) => producer,
        // As the other drivers say that their client cannot do what was asked.
        Err(e) if args.json => {
            println!("{}", serde_json::json!({"client": "ottla", "unsupported": e.to_string()}));
            return Ok(OK);
        }
        Err(e) => return Err(Stop::usage(e.to_string())),
    };
    let topic = producer.topic(&args.topic).map_err(|e| Stop::failed(e.to_string()))?;
    let run = Run { args, load: &load, stats: &stats, producer: &producer, topic: &topic };
    let flushed = |what: Result<(), ottla::Error>| what.map_err(|e| Stop::failed(e.to_string()));
    let from = if args.json {
        // Like the other drivers: the warm-up is over and done with before anything is measured.
        run.send(0, args.warmup_records)?;
        flushed(producer.flush())?;
        stats.reset();
        args.warmup_records
    } else {
        0
    };
    let usage = Usage::start();
    let to = if args.json { from + args.num_records } else { args.num_records };
    run.send(from, to)?;
    flushed(producer.flush())?;
    let used = usage.stop();
    if args.json {
        println!("{}", stats.json(&used));
    } else {
        stats.total();
    }
    // Not together with `--json`, whose line is the last.
    if args.print_metrics {
        stats::print_metrics(&producer.metrics());
    }
    producer.close(Duration::from_secs(60)).map_err(|e| Stop::failed(e.to_string()))?;
    Ok(if stats.errors() == 0 { OK } else { FAILED })
}

/// Files first, then properties, then options: later ones win.
fn settings(args: &PerfArgs) -> Result<Properties, Stop> {
    let mut p = Properties::new();
    let wrong = |e: ottla::Error| Stop::usage(e.to_string());
    p.set("client.id", "perf-producer-client", &Origin::CommandLine).map_err(wrong)?;
    for path in args.command_config.iter().chain(&args.producer_config) {
        p.load(&read(path)?, &path.display().to_string()).map_err(wrong)?;
    }
    let mut set = |name: &str, value: &str| p.set(name, value, &Origin::CommandLine).map_err(wrong);
    for property in args.command_property.iter().chain(&args.producer_props) {
        let (name, value) = pair(property)?;
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
        return Err(Stop::usage(
            "where to? give --bootstrap-server, --command-property or --command-config",
        ));
    }
    Ok(p)
}

/// What the threads that send share.
struct Run<'a> {
    args: &'a PerfArgs,
    load: &'a Load,
    stats: &'a Arc<Stats>,
    producer: &'a Producer,
    topic: &'a Topic,
}

impl Run<'_> {
    /// Sends these records, by as many threads as there are to be.
    fn send(&self, from: u64, to: u64) -> Result<(), Stop> {
        let (threads, pacer) = (self.args.threads, Pacer::start(self.args, self.stats.clock()));
        if threads == 1 {
            return self.send_each(from, (from..to).step_by(1), pacer);
        }
        thread::scope(|scope| {
            let senders: Vec<_> = (0..threads)
                .map(|t| {
                    let mine = (from + t..to).step_by(threads as usize);
                    scope.spawn(move || self.send_each(from, mine, pacer))
                })
                .collect();
            senders.into_iter().try_for_each(|s| {
                s.join().unwrap_or_else(|_| Err(Stop::failed("a sending thread panicked")))
            })
        })
    }

    fn send_each(
        &self,
        from: u64,
        records: impl Iterator<Item = u64>,
        pacer: Pacer,
    ) -> Result<(), Stop> {
        let refused = |e: ottla::Error| Stop::failed(format!("a record was not accepted: {e}"));
        let (clock, load) = (self.stats.clock(), self.load);
        let mut kept = std::collections::VecDeque::new();
        let mut text = String::new();
        for i in records {
            // One reading of the clock: the record's timestamp, and where its latency begins.
            let at = pacer.due(i - from, clock);
            let key = load.key(i);
            let value = load.value(i, &mut text);
            if load.varies() {
                self.stats.sent(value.len());
            }
            let record = Record::to(self.topic.name())
                .maybe_key(key.as_ref().map(|k| &k[..]))
                .value(value)
                .timestamp(clock.wall_ms(at))
                .token(at);
            match self.args.path {
                Path::Handle => self.topic.enqueue(record).map_err(refused)?,
                Path::Name => drop(self.producer.send(record).map_err(refused)?),
                Path::Callback => {
                    // It has something of its own, as a real one would: that is what its box is for.
                    let callback = move |result: Result<_, ottla::Error>| {
                        std::hint::black_box((at, result.is_ok()));
                    };
                    self.topic.send_with(record, callback).map_err(refused)?;
                }
                Path::Delivery => {
                    kept.push_back(self.topic.send(record).map_err(refused)?);
                    if kept.len() >= KEPT {
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
