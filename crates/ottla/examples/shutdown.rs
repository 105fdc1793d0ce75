//! Shutdown: a service that stops accepting, ends within a limit, and knows each record's result.
//!
//! Run it with `cargo run --example shutdown -- localhost:9092 orders`.

use std::error::Error;
use std::time::Duration;

use ottla::{CloseReport, OwnedRecord, Producer, RecordStatus};
use tokio::sync::mpsc;

/// What became of the records.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// In the log.
    pub acknowledged: usize,
    /// Surely not in the log: they can be sent again, for example after the restart.
    pub to_send_again: Vec<OwnedRecord>,
    /// Perhaps in the log: sending them again may write them twice.
    pub unclear: Vec<OwnedRecord>,
}

/// Sends records until their queue closes, then ends within `limit`.
///
/// # Errors
/// The producer's thread has panicked.
pub async fn serve(
    producer: Producer,
    mut records: mpsc::Receiver<OwnedRecord>,
    limit: Duration,
) -> Result<(CloseReport, Outcomes), ottla::Error> {
    let (mut outcomes, mut sent) = (Outcomes::default(), Vec::new());
    while let Some(record) = records.recv().await {
        match producer.send_async(record.as_record()).await {
            Ok(delivery) => sent.push((record, delivery)),
            Err(e) => {
                eprintln!("a record was not accepted: {e}");
                outcomes.to_send_again.push(record);
            }
        }
    }
    // Afterwards every delivery has its result. Nothing blocks this thread, also not the drop of
    // the producer.
    let report = producer.close_async(limit).await?;
    for (record, delivery) in sent {
        match delivery.await {
            Ok(_) => outcomes.acknowledged += 1,
            Err(e) if e.record_status() == RecordStatus::NotPersisted => {
                outcomes.to_send_again.push(record);
            }
            Err(_) => outcomes.unclear.push(record),
        }
    }
    Ok((report, outcomes))
}

/// Sends `count` records and shuts down.
///
/// # Errors
/// The producer cannot be built, or its thread has panicked.
pub fn send_and_shut_down(
    servers: &str,
    topic: &str,
    count: usize,
    limit: Duration,
) -> Result<(CloseReport, Outcomes), Box<dyn Error>> {
    let producer = Producer::builder().bootstrap_servers(servers).build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let result = runtime.block_on(async {
        let (queue, records) = mpsc::channel(100);
        let service = tokio::spawn(serve(producer, records, limit));
        for number in 0..count {
            queue.send(OwnedRecord::to(topic).value(format!("order {number}"))).await?;
        }
        // The signal to stop: here the queue closes. A service would select on a signal as well.
        drop(queue);
        Ok::<_, Box<dyn Error>>(service.await??)
    })?;
    Ok(result)
}

/// Sends the records and shuts down.
///
/// # Errors
/// The producer cannot be built, or its thread has panicked.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let (report, outcomes) = send_and_shut_down(servers, topic, 10, Duration::from_secs(10))?;
    println!("{} acknowledged, {} undelivered", outcomes.acknowledged, report.undelivered);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "orders".into()))
}
