//! A handler in the style of axum: it responds when a broker has acknowledged the record.
//!
//! Run it with `cargo run --example request_handler -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::{Error as KafkaError, Producer, RecordStatus, Topic};

/// What all handlers share, like axum's `State`.
#[derive(Clone)]
struct App {
    orders: Topic,
}

/// An HTTP status.
#[derive(Debug, PartialEq)]
enum Response {
    Created,
    /// Nothing was written: the client may try again.
    ServiceUnavailable,
    /// The order may have been written.
    GatewayTimeout,
}

/// Writes one order and waits for its result.
async fn post_order(app: App, body: String) -> Response {
    let sent = async {
        let delivery = app.orders.send_async(app.orders.record().value(&body)).await?;
        delivery.await
    };
    match sent.await {
        Ok(_) => Response::Created,
        Err(e) => response_for(&e),
    }
}

fn response_for(e: &KafkaError) -> Response {
    match e.record_status() {
        RecordStatus::NotPersisted => Response::ServiceUnavailable,
        RecordStatus::PossiblyPersisted => Response::GatewayTimeout,
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
        created += i32::from(request.await? == Response::Created);
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
