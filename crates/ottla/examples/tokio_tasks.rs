//! Tokio: tasks share a producer, a queue carries owned records, and the end is orderly.
//!
//! Run it with `cargo run --example tokio_tasks -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::{OwnedRecord, Producer};
use tokio::sync::mpsc;

async fn send_all(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let producer = Producer::builder().bootstrap_servers(servers).build()?;
    let (queue, mut records) = mpsc::channel::<OwnedRecord>(100);
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move {
            let mut acknowledged = 0;
            while let Some(record) = records.recv().await {
                // Waits for memory, without blocking the thread, if brokers are slow.
                let delivery = producer.send_async(record.as_record()).await?;
                acknowledged += i32::from(delivery.await.is_ok());
            }
            Ok::<i32, ottla::Error>(acknowledged)
        }
    });
    for i in 0..10 {
        queue.send(OwnedRecord::to(topic).key(format!("{i}")).value("3 apples")).await?;
    }
    drop(queue);
    println!("{} acknowledged", sending.await??);
    // Before the last clone is dropped: the drop would block this thread.
    let report = producer.close_async(Duration::from_secs(10)).await?;
    println!("{} records were left", report.undelivered);
    Ok(())
}

/// Sends the records.
///
/// # Errors
/// The producer did not accept a record.
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
