//! Runs every program of `examples/` against the embedded broker.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::disallowed_macros)]

use std::error::Error;
use std::fs;
use std::path::Path;

use ottla_broker::EmbeddedBroker;

#[path = "../examples/blocking.rs"]
mod blocking;
#[path = "../examples/callbacks.rs"]
mod callbacks;
#[path = "../examples/request_handler.rs"]
mod request_handler;
#[path = "../examples/tokens.rs"]
mod tokens;
#[path = "../examples/tokio_tasks.rs"]
mod tokio_tasks;
#[path = "../examples/typed.rs"]
mod typed;

type Run = fn(&str, &str) -> Result<(), Box<dyn Error>>;

#[test]
fn every_example_writes_its_records() {
    let examples: [(&str, Run, usize); 6] = [
        ("blocking", blocking::run, 10),
        ("callbacks", callbacks::run, 1000),
        ("request_handler", request_handler::run, 64),
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
