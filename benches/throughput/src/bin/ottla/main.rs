//! The driver of Ottla.
//!
//! A thread passes each record to `Topic::enqueue` with a token, and a delivery handler counts the
//! results of whole batches. Large values are passed as `Bytes`, which Ottla does not copy. With
//! `--tasks`, tasks of tokio call `Topic::enqueue_async` instead.

mod options;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use ottla::{Producer, Record, Topic};
use serde_json::json;

use options::Options;
use usage::{Usage, max_rss_kb, process_threads};

fn main() {
    let options = Arc::new(Options::parse());
    options.install_tls_provider();
    let failures = Arc::new(AtomicU64::new(0));
    let producers: Vec<Producer> =
        (0..options.producers).map(|_| build_producer(&options, &failures)).collect();
    let topics: Vec<Topic> = producers
        .iter()
        .map(|producer| {
            producer.partitions_for(&options.topic).expect("find the topic");
            producer.topic(&options.topic).expect("name the topic")
        })
        .collect();
    let run = Run { values: Arc::new(options.read_values()), topics: Arc::new(topics), options };

    let send = |records, rate| {
        run.send(records, rate);
        for producer in &producers {
            producer.flush().expect("flush the producer");
        }
    };
    send(run.options.warmup, 0);
    let idle = run.options.idle();
    let start = Usage::now();
    thread::sleep(idle);
    let idle_usage = Usage::now() - start;

    let start = Usage::now();
    send(run.options.records, run.options.rate);
    let usage = Usage::now() - start;
    println!("{}", run.options.to_json(usage, idle_usage, failures.load(Relaxed)));
    for producer in producers {
        producer.close(Duration::from_secs(10)).expect("close the producer");
    }
}

fn build_producer(options: &Options, failures: &Arc<AtomicU64>) -> Producer {
    let failures = failures.clone();
    let mut builder = Producer::builder().delivery_handler(move |batch| {
        if let Err(e) = batch.result {
            let failed = batch.records().filter(|record| record.result.is_err()).count();
            if failures.fetch_add(failed as u64, Relaxed) == 0 {
                eprintln!("ottla: {e}");
            }
        }
    });
    for (name, value) in options.properties() {
        builder = builder.set(name, value);
    }
    builder.build().expect("build the producer")
}

#[derive(Clone)]
struct Run {
    options: Arc<Options>,
    topics: Arc<Vec<Topic>>,
    values: Arc<Vec<Bytes>>,
}

impl Run {
    /// Passes that many records to the producers, from all threads or tasks.
    fn send(&self, records: u64, rate: u64) {
        if self.options.tasks > 0 {
            return self.send_from_tasks(records);
        }
        let start = Instant::now();
        let threads = self.options.threads;
        thread::scope(|scope| {
            for t in 1..threads {
                scope.spawn(move || self.send_from_thread(t, records, rate, start));
            }
            self.send_from_thread(0, records, rate, start);
        });
    }

    fn send_from_thread(&self, first: u64, records: u64, rate: u64, start: Instant) {
        for i in (first..records).step_by(self.options.threads as usize) {
            if rate > 0 {
                // All records of a millisecond are due at its start.
                let due = start + Duration::from_millis(i * 1000 / rate);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let (topic, key) = (self.topic(i), i.wrapping_mul(KEY_FACTOR).to_be_bytes());
            topic.enqueue(self.record(topic, i, &key)).expect("enqueue a record");
        }
    }

    fn send_from_tasks(&self, records: u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .expect("start a runtime");
        let tasks = self.options.tasks;
        let tasks: Vec<_> = (0..tasks)
            .map(|t| {
                let run = self.clone();
                runtime.spawn(async move {
                    for i in (t..records).step_by(tasks as usize) {
                        let (topic, key) = (run.topic(i), i.wrapping_mul(KEY_FACTOR).to_be_bytes());
                        let record = run.record(topic, i, &key);
                        topic.enqueue_async(record).await.expect("enqueue a record");
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).expect("a task panicked");
        }
    }

    fn topic(&self, i: u64) -> &Topic {
        &self.topics[i as usize % self.topics.len()]
    }

    fn record<'a>(&'a self, topic: &'a Topic, i: u64, key: &'a [u8; 8]) -> Record<'a> {
        let key = self.options.keyed.then_some(&key[..]);
        let value = &self.values[i as usize % self.values.len()];
        let record = topic.record().maybe_key(key).token(i);
        if value.len() >= SHARED_VALUE_BYTES {
            record.value_from_bytes(value)
        } else {
            record.value(value)
        }
    }
}

/// The smallest value to pass as `Bytes`. The library copies smaller ones.
const SHARED_VALUE_BYTES: usize = 4096;

/// An odd factor: all keys are different, and their hashes are spread over the partitions.
const KEY_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Options {
    fn to_json(&self, usage: Usage, idle_usage: Usage, failures: u64) -> serde_json::Value {
        let records = self.records as f64;
        let mut line = json!({
            "client": "ottla",
            "version": env!("CARGO_PKG_VERSION"),
            "records": self.records,
            "size": self.size,
            "keyed": self.keyed,
            "threads": self.threads,
            "tasks": self.tasks,
            "producers": self.producers,
            "compression": self.compression,
            "tls": self.tls_ca.is_some(),
            "rate": self.rate,
            "wall_s": usage.wall_s,
            "rec_per_s": records / usage.wall_s,
            "cpu_us_per_rec": usage.cpu_s * 1e6 / records,
            "switches_per_s": usage.switches as f64 / usage.wall_s,
            "process_threads": process_threads(),
            "max_rss_kb": max_rss_kb(),
            "errors": failures,
        });
        if self.idle_ms > 0 {
            line["idle_switches_per_s"] = json!(idle_usage.switches as f64 / idle_usage.wall_s);
            line["idle_cpu_ms_per_s"] = json!(idle_usage.cpu_s * 1e3 / idle_usage.wall_s);
        }
        line
    }
}
