//! Runs every program of `examples/` against the embedded broker, and some against one with faults.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::disallowed_macros)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ottla_broker::{ApiKey, EmbeddedBroker, ErrorCode, NewTopic, ProduceFault, ResponseAction};

#[path = "../examples/blocking.rs"]
mod blocking;
#[path = "../examples/callbacks.rs"]
mod callbacks;
#[path = "../examples/librdkafka_settings.rs"]
mod librdkafka_settings;
#[path = "../examples/log_shipper.rs"]
mod log_shipper;
#[path = "../examples/request_handler.rs"]
mod request_handler;
#[path = "../examples/shutdown.rs"]
mod shutdown;
#[path = "../examples/tokens.rs"]
mod tokens;
#[path = "../examples/tokio_tasks.rs"]
mod tokio_tasks;
#[path = "../examples/typed.rs"]
mod typed;

type Run = fn(&str, &str) -> Result<(), Box<dyn Error>>;

#[test]
fn every_example_writes_its_records() {
    let examples: [(&str, Run, usize); 9] = [
        ("blocking", blocking::run, 10),
        ("callbacks", callbacks::run, 1000),
        ("librdkafka_settings", librdkafka_settings::run, 5),
        ("log_shipper", log_shipper::run, 1000),
        ("request_handler", request_handler::run, 64),
        ("shutdown", shutdown::run, 10),
        ("tokens", |servers, topic| tokens::send(servers, topic, 10_000), 10_000),
        ("tokio_tasks", tokio_tasks::run, 10),
        ("typed", typed::run, 2),
    ];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    assert_eq!(fs::read_dir(dir).unwrap().count(), examples.len(), "every example is run here");
    let broker = EmbeddedBroker::start().unwrap();
    for (topic, run, records) in examples {
        run(&broker.bootstrap_servers(), topic).unwrap();
        assert_eq!(broker.records(topic).unwrap().len(), records, "{topic}");
    }
}

#[test]
fn shutdown_with_a_silent_broker_knows_what_is_unclear() {
    let broker = EmbeddedBroker::start().unwrap();
    let _guard = broker.intercept_responses(|response, frame| match response.api {
        ApiKey::PRODUCE => ResponseAction::Stall,
        _ => ResponseAction::Send(frame),
    });
    // Long enough for a request to leave, and no response ever comes.
    let limit = Duration::from_millis(500);
    let (report, outcomes) =
        shutdown::send_and_shut_down(&broker.bootstrap_servers(), "orders", 10, limit).unwrap();
    assert_eq!((report.undelivered, outcomes.acknowledged), (10, 0));
    assert_eq!(report.possibly_persisted, outcomes.unclear.len() as u64);
    assert_eq!(outcomes.unclear.len() + outcomes.to_send_again.len(), 10);
    // The broker did append what it received: nothing that is in the log is to be sent again.
    let stored = broker.records("orders").unwrap();
    let again: Vec<_> =
        outcomes.to_send_again.iter().map(|r| r.as_record().value_bytes()).collect();
    assert!(stored.iter().all(|r| !again.contains(&r.value.as_deref())));
}

#[test]
fn failures_are_counted_by_reason() {
    let small = NewTopic::new("small", 1).config("max.message.bytes", "20");
    let broker = EmbeddedBroker::builder().topic("refused", 1).new_topic(small).start().unwrap();
    broker.with_core(|core, _| {
        core.set_fault_injector(|topic, _| {
            let fault = ProduceFault::FailBeforeAppend(ErrorCode::POLICY_VIOLATION);
            (topic == "refused").then_some(fault)
        });
    });
    let count = |topic| callbacks::count_results(&broker.bootstrap_servers(), topic).unwrap();
    let all_with = |reason: &str| BTreeMap::from([(reason.to_owned(), 1000)]);
    assert_eq!(count("good"), all_with("acknowledged"));
    assert_eq!(count("refused"), all_with("broker POLICY_VIOLATION"));
    assert_eq!(count("small"), all_with("record_too_large MESSAGE_TOO_LARGE"));
}
