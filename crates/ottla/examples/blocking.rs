//! Blocking: sends ten records, waits for the result of each, and closes the producer.
//!
//! Run it with `cargo run --example blocking -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::{Producer, Record};

/// Sends the records.
///
/// # Errors
/// A record was not acknowledged.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let producer = Producer::builder().bootstrap_servers(servers).build()?;
    let mut deliveries = Vec::new();
    for i in 0..10 {
        let key = format!("customer-{i}");
        deliveries.push(producer.send(Record::to(topic).key(&key).value("3 apples"))?);
    }
    for delivery in deliveries {
        let metadata = delivery.wait()?;
        println!("{}-{} at {:?}", metadata.topic(), metadata.partition(), metadata.offset());
    }
    let report = producer.close(Duration::from_secs(10))?;
    println!("{} records were left", report.undelivered);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
