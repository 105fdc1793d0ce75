//! Sends a million records and counts the failures, in the cheapest way: one handler for all
//! batches, and a token for each record.
//!
//! Run it with `cargo run --release --example handler -- localhost:9092 orders`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ottla::Producer;

const RECORDS: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    let topic = args.next().unwrap_or_else(|| "orders".into());
    let failed = Arc::new(AtomicU64::new(0));
    let failed_in_handler = failed.clone();
    let producer = Producer::builder()
        .bootstrap_servers(&servers)
        .delivery_handler(move |batch| {
            if batch.result.is_err() {
                failed_in_handler.fetch_add(batch.tokens.len() as u64, Relaxed);
            }
        })
        .build()?;
    let topic = producer.topic(&topic)?;
    let value = [b'x'; 100];
    for token in 0..RECORDS {
        topic.enqueue(topic.record().value(&value).token(token))?;
    }
    producer.close(Duration::from_secs(60))?;
    let failed = failed.load(Relaxed);
    println!("{} acknowledged, {failed} failed", RECORDS - failed);
    Ok(())
}
