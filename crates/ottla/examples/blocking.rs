//! Sends ten records and waits for the result of each.
//!
//! Run it with `cargo run --example blocking -- localhost:9092 orders`.

use std::time::Duration;

use ottla::{Producer, Record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    let topic = args.next().unwrap_or_else(|| "orders".into());
    let producer = Producer::builder().bootstrap_servers(&servers).build()?;
    let deliveries = (0..10)
        .map(|i| producer.send(Record::to(&topic).key(&format!("customer-{i}")).value("3 apples")))
        .collect::<Result<Vec<_>, _>>()?;
    for delivery in deliveries {
        let metadata = delivery.wait()?;
        println!("{}-{} at {:?}", metadata.topic(), metadata.partition(), metadata.offset());
    }
    producer.close(Duration::from_secs(10))?;
    Ok(())
}
