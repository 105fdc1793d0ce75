//! Threads and open files of many producers in one process. This file has one test, because it
//! counts those of the whole process.
#![allow(missing_docs, clippy::disallowed_methods)]
#![cfg(target_os = "linux")]

use ottla::{Producer, Record};
use ottla_broker::EmbeddedBroker;

fn count_entries(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Returns the names of the process's threads that belong to producers.
fn producer_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("ottla-")).collect()
}

#[test]
fn hundred_producers_leave_no_thread_and_no_descriptor() {
    let broker = EmbeddedBroker::builder().topic("t", 3).start().unwrap();
    let build = || {
        Producer::builder()
            .bootstrap_servers(broker.bootstrap_servers())
            .set("compression.type", "lz4")
            .build()
            .unwrap()
    };
    let round = |producers: usize| {
        let producers: Vec<Producer> = (0..producers).map(|_| build()).collect();
        let deliveries: Vec<_> = producers
            .iter()
            .flat_map(|p| (0..10).map(|i| p.send(Record::to("t").value(&[i]))))
            .collect();
        deliveries.into_iter().for_each(|d| drop(d.unwrap().wait().unwrap()));
        let most = producer_threads().len();
        for (i, producer) in producers.into_iter().enumerate() {
            // Half of them are closed, the others only dropped.
            if i % 2 == 0 {
                producer.close(std::time::Duration::from_secs(10)).unwrap();
            }
        }
        most
    };
    let wait_for = |what: &str, is_done: &dyn Fn() -> bool| {
        // Worker threads end shortly after their producer, and the broker closes its side last.
        for _ in 0..600 {
            if is_done() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!(
            "{what} left: {:?}, {} open files",
            producer_threads(),
            count_entries("/proc/self/fd")
        );
    };
    // The first producer opens what the process keeps, such as the source of randomness.
    round(1);
    wait_for("threads are", &|| producer_threads().is_empty());
    broker.close_connections();
    wait_for("connections are", &|| count_entries("/proc/self/task") <= 8);
    let files = count_entries("/proc/self/fd");
    let most = round(100);
    assert!(most >= 100, "{most} threads for 100 producers");
    wait_for("threads are", &|| producer_threads().is_empty());
    wait_for("open files are", &|| count_entries("/proc/self/fd") <= files);
}
