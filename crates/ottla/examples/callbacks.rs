//! Callbacks: each record's result goes to a closure, and failures are counted by reason.
//!
//! Run it with `cargo run --example callbacks -- localhost:9092 orders`.

#![allow(clippy::disallowed_types, reason = "an application has no checked mutex")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::{Producer, Record};

/// Sends the records, and returns how many had which result.
///
/// # Errors
/// The producer did not accept a record.
pub fn count_results(servers: &str, topic: &str) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let producer = Producer::builder().bootstrap_servers(servers).build()?;
    let results = Arc::<Mutex<BTreeMap<String, u64>>>::default();
    for i in 0..1000 {
        let results = results.clone();
        let value = format!("order {i}");
        // The callback runs on the producer's thread, so it must not wait.
        producer.send_with_callback(Record::to(topic).value(&value), move |result| {
            let reason = match &result {
                Ok(_) => "acknowledged".to_owned(),
                Err(e) => {
                    let code = e.code().or_else(|| e.last_broker_error()?.code());
                    format!("{} {}", e.kind(), code.and_then(|c| c.name()).unwrap_or("-"))
                }
            };
            *results.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
        })?;
    }
    producer.close(Duration::from_secs(10))?;
    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *results))
}

/// Sends the records, and prints how many had which result.
///
/// # Errors
/// The producer did not accept a record.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    for (reason, count) in count_results(servers, topic)? {
        println!("{count} {reason}");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
