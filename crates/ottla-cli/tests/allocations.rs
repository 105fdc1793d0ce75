//! Allocations a record, caller and sender together: all threads of this process are the producer's, since the
//! broker is a process of its own.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::alloc::System;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use ottla::{BatchReport, Producer};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A broker that ends with the test.
struct BrokerProcess(Child, String);

impl BrokerProcess {
    fn start() -> BrokerProcess {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
            .args(["broker", "--listen", "127.0.0.1:0", "--topic", "t:12"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().to_owned();
        BrokerProcess(child, address)
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Allocations a record of 100 bytes, in steady state.
fn measure_allocations(with_delivery: bool) -> f64 {
    let broker = BrokerProcess::start();
    // One request at a time: so it has several batches, however the threads of a busy machine take turns.
    let mut builder =
        Producer::builder().bootstrap_servers(&broker.1).batch_size(16_384).max_in_flight(1);
    if !with_delivery {
        builder = builder.delivery_handler(|r: &BatchReport<'_>| assert!(r.result.is_ok()));
    }
    let producer = builder.build().unwrap();
    let topic = producer.topic("t").unwrap();
    let value = [b'v'; 100];
    let send = |records: u64| {
        for token in 0..records {
            let record = topic.record().value(&value).timestamp(1_700_000_000_000).token(token);
            if with_delivery {
                drop(topic.send(record).unwrap());
            } else {
                topic.enqueue(record).unwrap();
            }
        }
        producer.flush().unwrap();
    };
    // Everything that is kept from batch to batch is there after this.
    send(300_000);
    // The least of three: how threads take turns only ever adds to it.
    let least = |least: f64, _| {
        let (records, region) = (300_000, Region::new(GLOBAL));
        send(records);
        let seen = region.change();
        least.min((seen.allocations + seen.reallocations) as f64 / records as f64)
    };
    (0..3).fold(f64::MAX, least)
}

#[test]
fn a_record_costs_no_allocation_of_its_own() {
    for with_delivery in [false, true] {
        let each = measure_allocations(with_delivery);
        println!("{each:.4} allocations a record, with a delivery each: {with_delivery}");
        assert!(each <= 0.02, "{each:.4} allocations a record, deliveries: {with_delivery}");
    }
}
