//! Brokers that send wrong responses, over real sockets.
//!
//! With any response, each record completes once. A record that is reported as acknowledged is in
//! the log. With idempotence no record is in the log twice. All memory is released, and each error
//! names the broker, the reason and a remedy.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod faults;

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Error, ErrorKind, Producer, Record, RecordStatus};
use ottla_broker::{EmbeddedBroker, ResponseAction};
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::record::Batches;
use ottla_protocol::{ApiKey, ErrorCode};
use ottla_testkit::print_line;

use faults::{Expectation, Fault, edit_all, faults, intercept_api, intercept_first};

const TOPIC: &str = "faulty";
const PARTITIONS: i32 = 2;
const BUFFER_MEMORY: u64 = 4 << 20;
/// Scenarios that run at the same time. Most of the time they wait for a timeout.
const THREADS: usize = 8;

/// The outcome of a record, as the delivery handler reports it.
#[derive(Debug)]
enum RecordOutcome {
    Acknowledged { partition: i32, offset: Option<i64> },
    Failed(Error),
}

/// The outcome of each record, by its number.
type RecordOutcomes = Arc<Mutex<HashMap<u64, RecordOutcome>>>;

/// A position in the logs.
#[derive(Debug)]
struct LogPosition {
    partition: i32,
    offset: i64,
}

#[derive(Debug, Default)]
struct RunSummary {
    acknowledged: usize,
    not_persisted: usize,
    possibly_persisted: usize,
    errors: Vec<String>,
    elapsed: Duration,
}

struct RunConfig {
    records: u64,
    request_timeout_ms: u64,
    delivery_timeout_ms: u64,
    /// Whether offsets in acknowledgements must be right. A fault may change the offset itself.
    check_offsets: bool,
}

const FULL_RUN: RunConfig = RunConfig {
    records: 20,
    request_timeout_ms: 400,
    delivery_timeout_ms: 2000,
    check_offsets: true,
};
const SHORT_RUN: RunConfig = RunConfig {
    records: 4,
    request_timeout_ms: 150,
    delivery_timeout_ms: 500,
    check_offsets: true,
};

fn build_producer(
    broker: &EmbeddedBroker,
    idempotent: bool,
    config: &RunConfig,
    outcomes: &RecordOutcomes,
) -> Producer {
    let outcomes = outcomes.clone();
    let mut builder = Producer::builder().bootstrap_servers(broker.bootstrap_servers());
    for (name, value) in [
        ("enable.idempotence", idempotent.to_string()),
        ("buffer.memory", BUFFER_MEMORY.to_string()),
        ("retry.backoff.ms", "5".into()),
        ("retry.backoff.max.ms", "20".into()),
        ("reconnect.backoff.ms", "5".into()),
        ("reconnect.backoff.max.ms", "20".into()),
        ("socket.connection.setup.timeout.ms", config.request_timeout_ms.to_string()),
        ("request.timeout.ms", config.request_timeout_ms.to_string()),
        ("delivery.timeout.ms", config.delivery_timeout_ms.to_string()),
        ("max.block.ms", config.delivery_timeout_ms.to_string()),
        ("linger.ms", "1".into()),
    ] {
        builder = builder.set(name, &value);
    }
    builder
        .delivery_handler(move |report| {
            let mut outcomes = outcomes.lock().unwrap();
            for (i, token) in report.tokens.iter().enumerate() {
                let outcome = match &report.result {
                    Ok(base_offset) => RecordOutcome::Acknowledged {
                        partition: report.partition,
                        offset: base_offset.map(|b| b + i as i64),
                    },
                    Err(e) => RecordOutcome::Failed((*e).clone()),
                };
                let previous = outcomes.insert(*token, outcome);
                assert!(previous.is_none(), "record {token} has completed twice");
            }
        })
        .build()
        .unwrap()
}

/// Returns all positions of each record in the logs, by the record's number.
fn read_logs(broker: &EmbeddedBroker) -> BTreeMap<u64, Vec<LogPosition>> {
    let mut log: BTreeMap<u64, Vec<LogPosition>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let batches = broker.with_core(|core, _| core.batches(TOPIC, partition)).unwrap();
        for batch in batches {
            for view in Batches::new(&batch.bytes) {
                for r in view.unwrap().records(1 << 30).unwrap().to_vec().unwrap() {
                    let number = String::from_utf8_lossy(r.value.unwrap()).parse().unwrap();
                    let position = LogPosition { partition, offset: r.offset };
                    log.entry(number).or_default().push(position);
                }
            }
        }
    }
    log
}

/// Sends records to a broker, and checks the outcome of each against the broker's log.
fn send_and_check(
    name: &str,
    broker: &EmbeddedBroker,
    idempotent: bool,
    config: &RunConfig,
) -> RunSummary {
    let (start, outcomes) = (Instant::now(), RecordOutcomes::default());
    let producer = build_producer(broker, idempotent, config, &outcomes);
    let mut summary = RunSummary::default();
    let accepted = send_records(name, &producer, config.records, &mut summary);
    let flushed = producer.flush();
    assert!(flushed.is_ok(), "{name}: {flushed:?}");
    wait_for_free_memory(name, &producer);
    let _ = producer.close(Duration::from_secs(5));
    let (log, outcomes) = (read_logs(broker), outcomes.lock().unwrap());
    assert_eq!(outcomes.len(), accepted, "{name}: every accepted record completes");
    for (number, outcome) in outcomes.iter() {
        let positions = log.get(number).map_or(&[][..], Vec::as_slice);
        assert!(
            !idempotent || positions.len() <= 1,
            "{name}: record {number} is in the log {} times",
            positions.len()
        );
        let record = format!("{name}: record {number}");
        check_outcome(&record, outcome, positions, config.check_offsets, &mut summary);
    }
    summary.elapsed = start.elapsed();
    summary
}

/// Returns an error's message and those of its sources, which may name the broker.
fn full_text(e: &Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    text
}

/// Sends records and returns how many the producer has accepted.
fn send_records(name: &str, producer: &Producer, records: u64, summary: &mut RunSummary) -> usize {
    let mut accepted = 0;
    for n in 0..records {
        let value = n.to_string();
        match producer.send(Record::to(TOPIC).key(&value).value(&value).token(n)) {
            Ok(_) => accepted += 1,
            Err(e) => {
                summary.not_persisted += 1;
                // A fatal error, or bootstrap servers that are no brokers, concern no topic.
                let is_about_all = e.is_fatal() || e.kind() == ErrorKind::Config;
                assert!(is_about_all || e.to_string().contains(TOPIC), "{name}: {e}");
                summary.errors.push(full_text(&e));
                if summary.not_persisted == 2 {
                    // Each further record would wait for max.block.ms and fail as well.
                    break;
                }
            }
        }
        if n % 5 == 4 {
            // A pause longer than linger.ms, so that there are several requests.
            thread::sleep(Duration::from_millis(3));
        }
    }
    accepted
}

/// Waits until the buffer pool has all its memory again. Bytes of a request that is in the socket
/// are only released when the connection ends.
fn wait_for_free_memory(name: &str, producer: &Producer) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while producer.available_memory() != BUFFER_MEMORY {
        let missing = BUFFER_MEMORY - producer.available_memory();
        assert!(Instant::now() < deadline, "{name}: {missing} bytes are not released");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Checks a record's outcome against its positions in the log, and counts it.
fn check_outcome(
    record: &str,
    outcome: &RecordOutcome,
    positions: &[LogPosition],
    check_offsets: bool,
    summary: &mut RunSummary,
) {
    match outcome {
        RecordOutcome::Acknowledged { partition, offset } => {
            summary.acknowledged += 1;
            let is_in_log = positions.iter().any(|p| {
                let has_offset = offset.is_none_or(|o| o == p.offset);
                p.partition == *partition && (has_offset || !check_offsets)
            });
            assert!(is_in_log, "{record} is acknowledged as {outcome:?} but is at {positions:?}");
        }
        RecordOutcome::Failed(e) => {
            let text = e.to_string();
            let has_partition = text.contains(&format!("{TOPIC}-"));
            assert!(has_partition || e.is_fatal(), "{record}: no topic-partition in {text}");
            if e.record_status() == RecordStatus::NotPersisted {
                summary.not_persisted += 1;
                assert!(
                    positions.is_empty(),
                    "{record} is in the log but was reported as not persisted: {text}"
                );
            } else {
                summary.possibly_persisted += 1;
            }
            summary.errors.push(full_text(e));
        }
    }
}

fn start_broker(nodes: i32) -> EmbeddedBroker {
    EmbeddedBroker::builder().node_count(nodes).topic(TOPIC, PARTITIONS).start().unwrap()
}

fn print_header() {
    print_line(&format!(
        "{:<42} {:<5} {:>5} {:>6} {:>6} {:>6}  last error",
        "fault", "idem.", "acked", "not", "maybe", "ms"
    ));
}

fn print_row(name: &str, idempotent: bool, summary: &RunSummary) {
    let last_error = summary.errors.last().map_or("", String::as_str);
    print_line(&format!(
        "{name:<42} {:<5} {:>5} {:>6} {:>6} {:>6}  {}",
        if idempotent { "yes" } else { "no" },
        summary.acknowledged,
        summary.not_persisted,
        summary.possibly_persisted,
        summary.elapsed.as_millis(),
        last_error.chars().take(400).collect::<String>()
    ));
}

/// Runs `job` for each number below `count`, on several threads.
fn run_in_parallel(count: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..THREADS {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::SeqCst);
                    if i >= count {
                        return;
                    }
                    job(i);
                }
            });
        }
    });
}

fn check_expectation(name: &str, expectation: Expectation, summary: &RunSummary) {
    match expectation {
        Expectation::AllAcknowledged => {
            assert_eq!(summary.acknowledged as u64, FULL_RUN.records, "{name}: {summary:?}");
        }
        Expectation::NoneAcknowledged => {
            assert_eq!(summary.acknowledged, 0, "{name}: {summary:?}");
            for e in &summary.errors {
                let has_broker = e.contains("127.0.0.1:") || e.contains("no leader");
                assert!(has_broker, "{name}: no broker in {e}");
            }
        }
        Expectation::AnyOutcome => {}
    }
}

#[test]
fn records_complete_once_and_correctly_with_any_response() {
    let rows: Mutex<BTreeMap<_, _>> = Mutex::default();
    run_in_parallel(2 * faults().len(), |n| {
        let (i, idempotent) = (n / 2, n.is_multiple_of(2));
        let Fault { name, expectation, interceptor } = faults().swap_remove(i);
        let broker = start_broker(1);
        let guard = broker.intercept_responses(interceptor);
        let summary = send_and_check(name, &broker, idempotent, &FULL_RUN);
        drop(guard);
        check_expectation(name, expectation, &summary);
        rows.lock().unwrap().insert((i, idempotent), (name, summary));
    });
    print_header();
    for ((_, idempotent), (name, summary)) in rows.into_inner().unwrap() {
        print_row(name, idempotent, &summary);
    }
}

/// Applies a fault at each byte of the first response of each API.
///
/// `action` gets the byte's index and the response. It returns `None` if the response has no such
/// byte.
fn apply_at_each_byte(
    fault_name: &str,
    check_offsets: bool,
    action: impl Fn(usize, Vec<u8>) -> Option<ResponseAction> + Send + Sync + Copy + 'static,
) {
    /// Longer than any of the responses.
    const MAX_RESPONSE_BYTES: usize = 240;
    let apis = [ApiKey::API_VERSIONS, ApiKey::METADATA, ApiKey::INIT_PRODUCER_ID, ApiKey::PRODUCE];
    let config = RunConfig { check_offsets, ..SHORT_RUN };
    let (start, cases) = (Instant::now(), AtomicUsize::new(0));
    let total: Mutex<RunSummary> = Mutex::default();
    run_in_parallel(MAX_RESPONSE_BYTES * apis.len(), |n| {
        let (byte, api) = (n / apis.len(), apis[n % apis.len()]);
        let has_response = Arc::new(AtomicBool::new(false));
        let has_fault = Arc::new(AtomicBool::new(false));
        let (response_flag, fault_flag) = (has_response.clone(), has_fault.clone());
        let broker = start_broker(1);
        let guard = broker.intercept_responses(intercept_first(api, move |frame| {
            response_flag.store(true, Ordering::SeqCst);
            let faulty = action(byte, frame.clone());
            fault_flag.store(faulty.is_some(), Ordering::SeqCst);
            faulty.unwrap_or(ResponseAction::Send(frame))
        }));
        let name = format!("{fault_name} at byte {byte} of {}", api.name());
        let idempotent = api == ApiKey::INIT_PRODUCER_ID || byte.is_multiple_of(2);
        let summary = send_and_check(&name, &broker, idempotent, &config);
        drop(guard);
        assert!(has_response.load(Ordering::SeqCst), "{name}: the request was not sent");
        cases.fetch_add(usize::from(has_fault.load(Ordering::SeqCst)), Ordering::SeqCst);
        let mut total = total.lock().unwrap();
        total.acknowledged += summary.acknowledged;
        total.not_persisted += summary.not_persisted;
        total.possibly_persisted += summary.possibly_persisted;
    });
    let (total, cases) = (total.into_inner().unwrap(), cases.into_inner());
    print_line(&format!(
        "{fault_name}: {cases} cases, {} acknowledged, {} not persisted, {} possibly, {:.1} s",
        total.acknowledged,
        total.not_persisted,
        total.possibly_persisted,
        start.elapsed().as_secs_f64()
    ));
    assert!(cases > 150, "only {cases} cases");
}

#[test]
fn connection_closed_after_each_byte_of_a_response() {
    apply_at_each_byte("close", true, |byte, mut frame| {
        (byte < frame.len()).then(|| {
            frame.truncate(byte);
            ResponseAction::SendAndClose(frame)
        })
    });
}

/// Writes a huge array length at every byte, in both encodings, because the test does not know
/// where the array lengths are.
#[test]
fn huge_array_length_at_each_byte_of_a_response() {
    apply_at_each_byte("huge i32 length", false, |byte, mut frame| {
        let field = frame.get_mut(8 + byte..12 + byte)?;
        field.copy_from_slice(&i32::MAX.to_be_bytes());
        Some(ResponseAction::Send(frame))
    });
    apply_at_each_byte("huge compact length", false, |byte, mut frame| {
        frame.get(8 + byte)?;
        frame.splice(8 + byte..9 + byte, [0xff, 0xff, 0xff, 0xff, 0x07]);
        let len = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        Some(ResponseAction::Send(frame))
    });
}

/// A retry would not help until the broker is replaced.
#[test]
fn broker_without_a_usable_produce_version_fails_records_with_a_final_error() {
    let broker = start_broker(1);
    let guard = broker.intercept_responses(edit_all::<ApiVersionsRequest>(|r| {
        r.api_keys.retain(|k| k.api_key != ApiKey::PRODUCE.0);
    }));
    let producer = Producer::builder().bootstrap_servers(broker.bootstrap_servers()).build();
    let producer = producer.unwrap();
    let e = producer.send(Record::to(TOPIC).value("x")).unwrap().wait().unwrap_err();
    assert_eq!(e.code(), Some(ErrorCode::UNSUPPORTED_VERSION), "{e}");
    assert!(!e.is_retriable() && !e.is_fatal(), "{e}");
    assert!(e.to_string().contains("does not support Produce version"), "{e}");
    producer.close(Duration::ZERO).unwrap();
    drop(guard);
}

// CASES: SN42.
#[test]
fn leaders_that_move_on_each_produce_request() {
    for idempotent in [true, false] {
        let broker = start_broker(3);
        let (sender, leaders) = mpsc::channel();
        let guard =
            broker.intercept_responses(intercept_api(ApiKey::PRODUCE, move |_, call, frame| {
                let _ = sender.send(call.node);
                ResponseAction::Send(frame)
            }));
        let summary = thread::scope(|s| {
            let broker = &broker;
            // Another thread moves the leaders: the interceptor runs inside a connection's thread.
            s.spawn(move || {
                for (i, leader) in leaders.iter().enumerate() {
                    let (partition, next) = (i as i32 % PARTITIONS, leader % 3 + 1);
                    broker.with_core(|core, now| {
                        core.move_leader(
                            TOPIC,
                            partition,
                            next,
                            ottla_broker::MoveLeaderOptions {
                                copy_first: true,
                                allow_unclean: false,
                            },
                            now,
                        );
                    });
                }
            });
            let summary = send_and_check("moving leaders", broker, idempotent, &FULL_RUN);
            // Dropping the interceptor closes the channel, which ends the thread.
            drop(guard);
            summary
        });
        print_row("leaders that move on each request", idempotent, &summary);
        assert_eq!(summary.acknowledged as u64, FULL_RUN.records, "{summary:?}");
    }
}
