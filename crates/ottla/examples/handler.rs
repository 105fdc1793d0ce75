//! A million records by the cheapest way to hear of each: one handler for the producer, a token a record:
//! `cargo run --release --example handler -- localhost:9092 orders`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ottla::{Producer, Record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    let topic = args.next().unwrap_or_else(|| "orders".into());
    let failed = Arc::new(AtomicU64::new(0));
    let count = failed.clone();
    let producer = Producer::builder()
        .bootstrap_servers(&servers)
        .delivery_handler(move |batch| {
            if batch.result.is_err() {
                count.fetch_add(batch.tokens.len() as u64, Relaxed);
            }
        })
        .build()?;
    let value = [b'x'; 100];
    for i in 0..1_000_000 {
        producer.send(Record::to(&topic).value(&value).token(i))?;
    }
    producer.close(Duration::from_secs(60))?;
    println!("{} acknowledged, {} failed", 1_000_000 - failed.load(Relaxed), failed.load(Relaxed));
    Ok(())
}
