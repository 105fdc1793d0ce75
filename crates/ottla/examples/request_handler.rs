//! A handler in the style of axum: it responds when a broker has acknowledged the record.
//!
//! Run it with `cargo run --example request_handler -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::{Error as KafkaError, ErrorKind, Producer, RecordStatus, Topic};

/// What all handlers share, like axum's `State`.
#[derive(Clone)]
pub struct App {
    /// Where orders go.
    pub orders: Topic,
}

/// Writes one order, waits for its result, and returns the HTTP status.
pub async fn post_order(app: App, body: String) -> u16 {
    let sent = async {
        let delivery = app.orders.send_async(app.orders.record().value(&body)).await?;
        delivery.await
    };
    match sent.await {
        Ok(_) => 201,
        Err(e) => status(&e),
    }
}

/// Returns the HTTP status for an error.
pub fn status(e: &KafkaError) -> u16 {
    match e.kind() {
        // Not known whether the order is in the log: only an idempotent client may repeat it.
        _ if e.record_status() == RecordStatus::PossiblyPersisted => 504,
        ErrorKind::RecordTooLarge => 413,
        ErrorKind::InvalidRecord | ErrorKind::InvalidTopic | ErrorKind::Serialization => 400,
        // This instance shuts down; another one takes the order.
        ErrorKind::Closed => 503,
        _ if e.is_retriable() => 503,
        // A setting, a grant or a credential of this service is wrong, or the producer has failed.
        _ => 500,
    }
}

async fn serve(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let producer = Producer::builder().bootstrap_servers(servers).build()?;
    // The cluster may still be away: the first request waits for it.
    let app = App { orders: producer.topic(topic)? };
    // 64 requests at once. An awaited record does not linger, so each takes one round trip.
    let requests: Vec<_> =
        (0..64).map(|i| tokio::spawn(post_order(app.clone(), format!("order {i}")))).collect();
    let mut created = 0;
    for request in requests {
        created += i32::from(request.await? == 201);
    }
    println!("{created} orders created");
    producer.close_async(Duration::from_secs(10)).await?;
    Ok(())
}

/// Serves 64 requests.
///
/// # Errors
/// The producer cannot be built.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?
        .block_on(serve(servers, topic))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
