//! From librdkafka: the settings of rust-rdkafka's own example, unchanged, and what is added.
//!
//! Run it with `cargo run --example librdkafka_settings -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::{Header, Producer, ProducerBuilder, Record};

/// As in rust-rdkafka's `examples/simple_producer.rs`.
const SETTINGS: [(&str, &str); 2] =
    [("produce.offset.report", "true"), ("message.timeout.ms", "5000")];

/// Returns the builder of a producer with these settings.
pub fn builder(servers: &str) -> ProducerBuilder {
    Producer::builder()
        .properties(SETTINGS.into_iter().collect())
        .bootstrap_servers(servers)
        // librdkafka's default: each key stays with its partition.
        .set("partitioner", "consistent_random")
}

async fn send_all(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let builder = builder(servers);
    for notice in builder.notices() {
        eprintln!("{notice}");
    }
    let producer = builder.build()?;
    let headers = [Header::new("header_key", "header_value")];
    let mut deliveries = Vec::new();
    for i in 0..5 {
        let (key, value) = (format!("Key {i}"), format!("Message {i}"));
        let record = Record::to(topic).key(&key).value(&value).headers(&headers);
        deliveries.push(producer.send_async(record).await?);
    }
    for delivery in deliveries {
        let metadata = delivery.await?;
        println!("{}-{} at {:?}", metadata.topic(), metadata.partition(), metadata.offset());
    }
    producer.close_async(Duration::from_secs(5)).await?;
    Ok(())
}

/// Sends five records.
///
/// # Errors
/// A record was not acknowledged.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?
        .block_on(send_all(servers, topic))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
