//! Runs every program of `examples/` against the embedded broker, and some against one with faults.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ottla::Producer;
use ottla_broker::{ApiKey, EmbeddedBroker, ErrorCode, NewTopic, ProduceFault, ResponseAction};
use proc_macro2::{TokenStream, TokenTree};

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
#[path = "../examples/transactions.rs"]
mod transactions;
#[path = "../examples/typed.rs"]
mod typed;

type Run = fn(&str, &str) -> Result<(), Box<dyn Error>>;

#[test]
fn every_example_writes_its_records() {
    let examples: [(&str, Run, usize); 10] = [
        ("blocking", blocking::run, 10),
        ("callbacks", callbacks::run, 1000),
        ("librdkafka_settings", librdkafka_settings::run, 5),
        ("log_shipper", log_shipper::run, 1000),
        ("request_handler", request_handler::run, 64),
        ("shutdown", shutdown::run, 10),
        ("tokens", |servers, topic| tokens::send(servers, topic, 10_000), 10_000),
        ("tokio_tasks", tokio_tasks::run, 10),
        // With the record of the aborted transaction.
        ("transactions", transactions::run, 5),
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
fn refused_transfer_leaves_no_committed_record() {
    let broker = EmbeddedBroker::start().unwrap();
    transactions::run(&broker.bootstrap_servers(), "transfers").unwrap();
    let text =
        |bytes: &Option<bytes::Bytes>| String::from_utf8(bytes.as_ref().unwrap().to_vec()).unwrap();
    let (committed, others): (Vec<_>, Vec<_>) =
        broker.records("transfers").unwrap().into_iter().partition(|r| r.is_committed());
    let balances: BTreeMap<_, _> =
        committed.iter().map(|r| (text(&r.key), text(&r.value))).collect();
    assert_eq!(committed.len(), 4);
    assert_eq!(
        balances,
        BTreeMap::from([("anna".into(), "80".into()), ("ben".into(), "20".into())])
    );
    assert_eq!(others.len(), 1, "the record of the refused transfer was acknowledged");
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

#[test]
fn handler_responds_with_the_status_of_each_error() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(check_statuses()).unwrap();
}

async fn check_statuses() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::builder().topic("refused", 1).topic("orders", 1).start()?;
    let producer = Producer::builder().bootstrap_servers(broker.bootstrap_servers()).build()?;
    let app = |topic| producer.topic(topic).map(|orders| request_handler::App { orders });
    let post = |topic, body: &str| {
        let body = body.to_owned();
        let app = app(topic);
        async move { Ok::<u16, Box<dyn Error>>(request_handler::post_order(app?, body).await) }
    };
    assert_eq!(post("orders", "3 apples").await?, 201);
    assert_eq!(post("orders", &"x".repeat(2 << 20)).await?, 413);
    let fault = |code| {
        broker.with_core(|core, _| {
            core.set_fault_injector(move |_, _| Some(ProduceFault::FailBeforeAppend(code)));
        });
    };
    for (code, status) in [
        (ErrorCode::INVALID_RECORD, 400),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, 500),
        (ErrorCode::POLICY_VIOLATION, 500),
        (ErrorCode::MESSAGE_TOO_LARGE, 413),
    ] {
        fault(code);
        assert_eq!(post("refused", "3 apples").await?, status, "{code}");
    }
    broker.with_core(|core, _| core.clear_fault_injector());
    let invalid = producer.topic("no/topic").map(drop).expect_err("an invalid name");
    assert_eq!(request_handler::status(&invalid), 400);
    // The response is lost when the producer closes: the record may be in the log.
    let (requests, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let _guard = broker.intercept_responses(move |response, frame| {
        if response.api == ApiKey::PRODUCE {
            let _ = requests.send(());
            return ResponseAction::Stall;
        }
        ResponseAction::Send(frame)
    });
    let unclear = tokio::spawn(request_handler::post_order(app("orders")?, "1 pear".into()));
    arrived.recv().await.expect("a request");
    let closed = app("orders")?;
    assert_eq!(producer.close_async(Duration::ZERO).await?.possibly_persisted, 1);
    assert_eq!(unclear.await?, 504);
    assert_eq!(request_handler::post_order(closed, "2 plums".into()).await, 503);
    Ok(())
}

/// Adds all names in a program, also those in macros. Comments have none.
fn add_names(tokens: TokenStream, names: &mut BTreeSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                names.insert(name.to_string());
            }
            TokenTree::Group(group) => add_names(group.stream(), names),
            _ => {}
        }
    }
}

/// A user has only what is published: `ottla` and `ottla-broker`, without hidden modules.
#[test]
fn programs_for_users_use_only_the_public_crates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut programs: Vec<_> =
        (fs::read_dir(root.join("examples")).unwrap()).map(|entry| entry.unwrap().path()).collect();
    programs.push(root.join("tests/failover.rs"));
    assert!(programs.len() > 9);
    for path in programs {
        let text = fs::read_to_string(&path).unwrap();
        let mut names = BTreeSet::new();
        add_names(text.parse().unwrap(), &mut names);
        let ours: Vec<&String> = names.iter().filter(|name| name.starts_with("ottla")).collect();
        let allowed = |name: &&String| ["ottla", "ottla_broker"].contains(&name.as_str());
        assert!(ours.iter().all(allowed), "{}: {ours:?}", path.display());
        assert!(names.contains("ottla"), "{}", path.display());
        for hidden in ["sim", "tools", "feature"] {
            assert!(!names.contains(hidden), "{}: {hidden}", path.display());
        }
    }
}

#[test]
fn readme_lists_every_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("../../README.md")).unwrap();
    for entry in fs::read_dir(root.join("examples")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().display().to_string();
        assert!(readme.contains(&format!("\n- `{name}`: ")), "README.md does not list {name}");
    }
}
