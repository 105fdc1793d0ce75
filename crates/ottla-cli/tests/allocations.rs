//! Counts the allocations for each record, of the caller and of the sender thread.
//!
//! The broker runs in another process. All threads of this one belong to the test or the producer.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::alloc::System;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use ottla::{BatchReport, Producer};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A broker in another process. Dropping it ends the process.
struct BrokerProcess {
    child: Child,
    address: String,
}

impl BrokerProcess {
    fn start() -> BrokerProcess {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
            .args(["broker", "--listen", "127.0.0.1:0", "--topic", "t:12"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        BrokerProcess { child, address: line.trim().to_owned() }
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the caller keeps a `Delivery` for each record, or a handler gets each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notification {
    DeliveryHandler,
    Delivery,
}

/// Returns the allocations for each record of 100 bytes, after a warm-up.
fn measure_allocations(notification: Notification) -> f64 {
    let broker = BrokerProcess::start();
    // One request at a time. A request then carries several batches, independent of how the system
    // schedules the threads.
    let mut builder =
        Producer::builder().bootstrap_servers(&broker.address).batch_size(16_384).max_in_flight(1);
    if notification == Notification::DeliveryHandler {
        builder = builder.delivery_handler(|r: &BatchReport<'_>| assert!(r.result.is_ok()));
    }
    let producer = builder.build().unwrap();
    let topic = producer.topic("t").unwrap();
    let value = [b'v'; 100];
    let send = |records: u64| {
        for token in 0..records {
            let record = topic.record().value(&value).timestamp(1_700_000_000_000).token(token);
            match notification {
                Notification::Delivery => drop(topic.send(record).unwrap()),
                Notification::DeliveryHandler => topic.enqueue(record).unwrap(),
            }
        }
        producer.flush().unwrap();
    };
    // After this, all buffers that batches reuse are allocated.
    send(300_000);
    let measure = || {
        let (records, region) = (300_000, Region::new(GLOBAL));
        send(records);
        let change = region.change();
        (change.allocations + change.reallocations) as f64 / records as f64
    };
    // The minimum of three runs, because unfavourable scheduling only adds allocations.
    (0..3).map(|_| measure()).fold(f64::MAX, f64::min)
}

#[test]
fn record_needs_no_allocation_of_its_own() {
    for notification in [Notification::DeliveryHandler, Notification::Delivery] {
        let allocations = measure_allocations(notification);
        println!("{allocations:.4} allocations a record with {notification:?}");
        assert!(allocations <= 0.02, "{allocations:.4} allocations a record: {notification:?}");
    }
}
