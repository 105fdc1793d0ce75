//! Tokens at full speed: one handler for all batches, a token for each record, and a topic handle.
//!
//! Run it with `cargo run --release --example tokens -- localhost:9092 orders`.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ottla::Producer;

const RECORDS: u64 = 1_000_000;

/// Sends `records` records.
///
/// # Errors
/// The producer did not accept a record.
pub fn send(servers: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let counter = acknowledged.clone();
    let producer = Producer::builder()
        .bootstrap_servers(servers)
        .delivery_handler(move |batch| match batch.result {
            Ok(_) => {
                counter.fetch_add(batch.tokens.len() as u64, Relaxed);
            }
            Err(_) => {
                for record in batch.records() {
                    if let Err(e) = record.result {
                        eprintln!("record {} failed: {e}", record.token);
                    }
                }
            }
        })
        .build()?;
    let topic = producer.topic(topic)?;
    let value = [b'x'; 100];
    for token in 0..records {
        topic.enqueue(topic.record().value(&value).token(token))?;
    }
    let report = producer.close(Duration::from_secs(60))?;
    println!("{} acknowledged, {} left", acknowledged.load(Relaxed), report.undelivered);
    Ok(())
}

/// Sends a million records.
///
/// # Errors
/// The producer did not accept a record.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    send(servers, topic, RECORDS)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
