//! Counts the allocations for each record, of the caller and of the sender thread.
//!
//! The broker runs in another process. All threads of this one belong to the test or the producer.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::alloc::System;

use ottla::{BatchReport, Producer};
use process::broker::BrokerProcess;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Whether the caller keeps a `Delivery` for each record, or a handler gets each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notification {
    DeliveryHandler,
    Delivery,
}

/// Returns the allocations for each record of 100 bytes, after a warm-up.
fn measure_allocations(notification: Notification) -> f64 {
    let broker = BrokerProcess::start(&["--topic", "t:12"]);
    // One request at a time. A request then carries several batches, independent of how the system
    // schedules the threads.
    let mut builder =
        Producer::builder().bootstrap_servers(&broker.server).batch_size(16_384).max_in_flight(1);
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
