//! A log shipper: sends each line with its number as token, and keeps a checkpoint: the number of
//! lines from the start that are all acknowledged. After a restart it would continue there.
//!
//! Run it with `cargo run --release --example log_shipper -- localhost:9092 logs < FILE`.

#![allow(clippy::disallowed_types, reason = "an application has no checked mutex")]

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, BufRead};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ottla::{BatchReport, Producer};

/// How far the shipper is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Lines 1 to this number are acknowledged.
    pub checkpoint: u64,
    /// Acknowledged lines after a line that is not. Partitions complete independently.
    later: BTreeSet<u64>,
    /// Lines that failed, with the reason.
    pub failed: Vec<(u64, String)>,
}

impl Progress {
    fn on_batch(&mut self, batch: &BatchReport<'_>) {
        for record in batch.records() {
            match record.result {
                Ok(_) => {
                    self.later.insert(record.token);
                }
                Err(e) => self.failed.push((record.token, e.to_string())),
            }
        }
        while self.later.remove(&(self.checkpoint + 1)) {
            self.checkpoint += 1;
        }
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends all lines, and returns how far it got.
///
/// # Errors
/// A line cannot be read, or the producer cannot be built.
pub fn ship(
    servers: &str,
    topic: &str,
    lines: impl BufRead,
) -> Result<Arc<Mutex<Progress>>, Box<dyn Error>> {
    let progress = Arc::<Mutex<Progress>>::default();
    let handler_progress = progress.clone();
    let producer = Producer::builder()
        .bootstrap_servers(servers)
        .linger(Duration::from_millis(20))
        // On the producer's thread: it must not wait, so a real shipper writes its checkpoint file
        // elsewhere.
        .delivery_handler(move |batch| lock(&handler_progress).on_batch(batch))
        .build()?;
    let topic = producer.topic(topic)?;
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line?;
        // Blocks while `buffer.memory` is full. A refused record is in no report.
        if let Err(e) = topic.enqueue(topic.record().value(&line).token(number)) {
            lock(&progress).failed.push((number, e.to_string()));
        }
    }
    let report = producer.close(Duration::from_secs(30))?;
    if report.undelivered > 0 {
        eprintln!("{} lines were not acknowledged in time", report.undelivered);
    }
    Ok(progress)
}

/// Ships a thousand lines.
///
/// # Errors
/// The producer cannot be built.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let text: String = (1..=1000).map(|n| format!("line {n}\n")).collect();
    let progress = ship(servers, topic, text.as_bytes())?;
    let progress = lock(&progress);
    assert_eq!((progress.checkpoint, progress.failed.len()), (1000, 0));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    let topic = args.next().unwrap_or_else(|| "logs".into());
    let progress = ship(&servers, &topic, io::stdin().lock())?;
    println!("{:?}", lock(&progress));
    Ok(())
}
