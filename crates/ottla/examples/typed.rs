//! Typed: keys are numbers, values are structs that serde writes as JSON.
//!
//! Run it with `cargo run --example typed -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::serializer::{BigEndianSerializer, from_fn};
use ottla::{Header, Producer};
use serde::Serialize;

#[derive(Serialize)]
struct Order<'a> {
    item: &'a str,
    count: u32,
}

/// Sends two orders.
///
/// # Errors
/// A record was not acknowledged.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let producer = Producer::builder().bootstrap_servers(servers).build()?;
    let json = from_fn(|order: &Order<'_>| serde_json::to_vec(order));
    let orders = producer.typed(BigEndianSerializer, json).topic(topic)?;
    let headers = [Header::new("content-type", "application/json")];
    for (customer, count) in [(7_u64, 3), (8, 1)] {
        let order = Order { item: "apples", count };
        let record = orders.record(&customer, &order).headers(&headers);
        println!("customer {customer}: at {:?}", orders.send(record)?.wait()?.offset());
    }
    producer.close(Duration::from_secs(10))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
