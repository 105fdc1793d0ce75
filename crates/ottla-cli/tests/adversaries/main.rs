//! Brokers that misbehave, over real sockets: whatever they answer, every record ends once, none is claimed that no
//! log holds, none is stored twice with idempotence, memory comes back, and errors say where, why and what to do.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod faults;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Error, Producer, Record, RecordStatus};
use ottla_broker::{EmbeddedBroker, InterceptorGuard, ResponseAction};
use ottla_protocol::ApiKey;
use ottla_protocol::record::Batches;
use ottla_testkit::print_line;

use faults::{
    AllAcknowledged, Expectation, NoneAcknowledged, faults, intercept_api, intercept_first,
};

const TOPIC: &str = "adversity";
const PARTITIONS: i32 = 2;
const BUFFER_MEMORY: u64 = 4 << 20;

/// How a record ended.
#[derive(Debug)]
enum RecordOutcome {
    /// In this partition, at this offset where it was told.
    Acknowledged(i32, Option<i64>),
    Failed(Error),
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
}

const FULL_RUN: RunConfig =
    RunConfig { records: 20, request_timeout_ms: 400, delivery_timeout_ms: 2000 };
const SHORT_RUN: RunConfig =
    RunConfig { records: 4, request_timeout_ms: 150, delivery_timeout_ms: 500 };

fn build_producer(
    broker: &EmbeddedBroker,
    idempotent: bool,
    pace: &RunConfig,
    ends: &RecordOutcomes,
) -> Producer {
    let heard = ends.clone();
    let mut b = Producer::builder().bootstrap_servers(&broker.bootstrap_servers());
    for (name, value) in [
        ("enable.idempotence", idempotent.to_string()),
        ("buffer.memory", BUFFER_MEMORY.to_string()),
        ("retry.backoff.ms", "5".into()),
        ("retry.backoff.max.ms", "20".into()),
        ("reconnect.backoff.ms", "5".into()),
        ("reconnect.backoff.max.ms", "20".into()),
        ("socket.connection.setup.timeout.ms", pace.request_timeout_ms.to_string()),
        ("request.timeout.ms", pace.request_timeout_ms.to_string()),
        ("delivery.timeout.ms", pace.delivery_timeout_ms.to_string()),
        ("max.block.ms", pace.delivery_timeout_ms.to_string()),
        ("linger.ms", "1".into()),
    ] {
        b = b.set(name, &value);
    }
    b.delivery_handler(move |report| {
        let mut heard = heard.lock().unwrap();
        for (i, token) in report.tokens.iter().enumerate() {
            let end = match &report.result {
                Ok(base) => {
                    RecordOutcome::Acknowledged(report.partition, base.map(|b| b + i as i64))
                }
                Err(e) => RecordOutcome::Failed((*e).clone()),
            };
            assert!(heard.insert(*token, end).is_none(), "record {token} ended twice");
        }
    })
    .build()
    .unwrap()
}

type RecordOutcomes = Arc<Mutex<HashMap<u64, RecordOutcome>>>;

/// What the logs hold: partition, offset and number of each record, by number.
fn read_logs(broker: &EmbeddedBroker) -> BTreeMap<u64, Vec<(i32, i64)>> {
    let mut out: BTreeMap<u64, Vec<(i32, i64)>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let batches = broker.with_core(|core, _| core.batches(TOPIC, partition)).unwrap();
        for batch in batches {
            for view in Batches::new(&batch.bytes) {
                for r in view.unwrap().records(1 << 30).unwrap().to_vec().unwrap() {
                    let n = String::from_utf8_lossy(r.value.unwrap()).parse().unwrap();
                    out.entry(n).or_default().push((partition, r.offset));
                }
            }
        }
    }
    out
}

/// Sends some records to a broker, and judges what became of them.
fn send_and_check(
    name: &str,
    broker: &EmbeddedBroker,
    idempotent: bool,
    pace: &RunConfig,
) -> RunSummary {
    send_and_check_with(name, broker, idempotent, pace, true)
}

/// The same, where the broker may tell offsets that are none.
fn send_and_check_with(
    name: &str,
    broker: &EmbeddedBroker,
    idempotent: bool,
    pace: &RunConfig,
    offsets: bool,
) -> RunSummary {
    let (begun, ends) = (Instant::now(), RecordOutcomes::default());
    let producer = build_producer(broker, idempotent, pace, &ends);
    let (mut out, mut accepted) = (RunSummary::default(), 0);
    for n in 0..pace.records {
        let value = n.to_string();
        match producer.send(Record::to(TOPIC).key(&value).value(&value).token(n)) {
            Ok(_) => accepted += 1,
            Err(e) => {
                out.not_persisted += 1;
                // What ends the producer as a whole names the broker alone.
                assert!(e.is_fatal() || e.to_string().contains(TOPIC), "{name}: {e}");
                out.errors.push(e.to_string());
                if out.not_persisted == 2 {
                    // The rest would wait as long, each.
                    break;
                }
            }
        }
        if n % 5 == 4 {
            // So that there is more than one request.
            thread::sleep(Duration::from_millis(3));
        }
    }
    let flushed = producer.flush();
    assert!(flushed.is_ok(), "{name}: {flushed:?}");
    let by = Instant::now() + Duration::from_secs(5);
    while producer.available_memory() != BUFFER_MEMORY {
        // Bytes that the socket holds come back when the connection ends.
        assert!(
            Instant::now() < by,
            "{name}: {} bytes did not come back",
            BUFFER_MEMORY - producer.available_memory()
        );
        thread::sleep(Duration::from_millis(1));
    }
    let _ = producer.close(Duration::from_secs(5));
    let (log, ends) = (read_logs(broker), ends.lock().unwrap());
    assert_eq!(ends.len(), accepted, "{name}: every record ends");
    for (n, end) in ends.iter() {
        let at = log.get(n).map_or(&[][..], Vec::as_slice);
        assert!(!idempotent || at.len() <= 1, "{name}: record {n} is there {} times", at.len());
        match end {
            RecordOutcome::Acknowledged(partition, offset) => {
                out.acknowledged += 1;
                let there = at.iter().any(|(p, o)| {
                    p == partition && offset.is_none_or(|told| told == *o || !offsets)
                });
                assert!(
                    there,
                    "{name}: record {n} was acknowledged at {partition}:{offset:?} and is at {at:?}"
                );
            }
            RecordOutcome::Failed(e) => {
                let text = e.to_string();
                let place = text.contains(&format!("{TOPIC}-"));
                assert!(place || e.is_fatal(), "{name}: no topic and partition in {text}");
                if e.record_status() == RecordStatus::NotPersisted {
                    out.not_persisted += 1;
                    assert!(
                        at.is_empty(),
                        "{name}: record {n} is there, and was said not to be: {text}"
                    );
                } else {
                    out.possibly_persisted += 1;
                }
                out.errors.push(text);
            }
        }
    }
    out.elapsed = begun.elapsed();
    out
}

fn start_broker(nodes: i32) -> EmbeddedBroker {
    EmbeddedBroker::builder().node_count(nodes).topic(TOPIC, PARTITIONS).start().unwrap()
}

fn print_row(name: &str, idempotent: bool, o: &RunSummary) {
    let said = o.errors.last().map_or("", String::as_str);
    print_line(&format!(
        "{name:<42} {:<5} {:>5} {:>6} {:>6} {:>6}  {}",
        if idempotent { "yes" } else { "no" },
        o.acknowledged,
        o.not_persisted,
        o.possibly_persisted,
        o.elapsed.as_millis(),
        said.chars().take(400).collect::<String>()
    ));
}

#[test]
fn whatever_a_broker_answers_records_end_once_and_truly() {
    print_line(&format!(
        "{:<42} {:<5} {:>5} {:>6} {:>6} {:>6}  what is said",
        "fault", "idem.", "acked", "not", "maybe", "ms"
    ));
    let count = faults().len();
    let rows: Mutex<BTreeMap<(usize, bool), (String, RunSummary)>> = Mutex::default();
    let next = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= 2 * count {
                        return;
                    }
                    let (i, idempotent) = (n / 2, n.is_multiple_of(2));
                    let (name, must, act) = faults().swap_remove(i);
                    let broker = start_broker(1);
                    let rule: InterceptorGuard = broker.intercept_responses(act);
                    let o = send_and_check(name, &broker, idempotent, &FULL_RUN);
                    drop(rule);
                    match must {
                        AllAcknowledged => assert_eq!(o.acknowledged, 20, "{name}: {o:?}"),
                        NoneAcknowledged => {
                            assert_eq!(o.acknowledged, 0, "{name}: {o:?}");
                            for e in &o.errors {
                                assert!(
                                    e.contains("127.0.0.1:")
                                        || e.contains("no leader")
                                        || e.contains("out of its answer"),
                                    "{name}: no broker in {e}"
                                );
                            }
                        }
                        Expectation::AnyOutcome => {}
                    }
                    rows.lock().unwrap().insert((i, idempotent), (name.to_owned(), o));
                }
            });
        }
    });
    for ((_, idempotent), (name, o)) in rows.into_inner().unwrap() {
        print_row(&name, idempotent, &o);
    }
}

/// One fault at every byte of each answer of a small exchange.
fn fault_at_every_byte(
    what: &str,
    act: impl Fn(usize, Vec<u8>) -> Option<ResponseAction> + Send + Sync + Copy + 'static,
) {
    let apis = [ApiKey::API_VERSIONS, ApiKey::METADATA, ApiKey::INIT_PRODUCER_ID, ApiKey::PRODUCE];
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    let total: Mutex<RunSummary> = Mutex::default();
    let cases = AtomicUsize::new(0);
    // Longer than any of the answers.
    const MAX_RESPONSE_BYTES: usize = 240;
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= MAX_RESPONSE_BYTES * apis.len() {
                        return;
                    }
                    let (k, api) = (n / apis.len(), apis[n % apis.len()]);
                    let (past, seen) =
                        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
                    let (over, asked) = (past.clone(), seen.clone());
                    let broker = start_broker(1);
                    let rule = broker.intercept_responses(intercept_first(api, move |_, frame| {
                        asked.store(1, Ordering::SeqCst);
                        let whole = frame.clone();
                        act(k, frame).unwrap_or_else(|| {
                            over.store(1, Ordering::SeqCst);
                            ResponseAction::Send(whole)
                        })
                    }));
                    let name = format!("{what} at byte {k} of {}", api.name());
                    let idempotent = api == ApiKey::INIT_PRODUCER_ID || k.is_multiple_of(2);
                    let o = send_and_check_with(
                        &name,
                        &broker,
                        idempotent,
                        &SHORT_RUN,
                        what == "reset",
                    );
                    drop(rule);
                    if past.load(Ordering::SeqCst) == 0 {
                        cases.fetch_add(1, Ordering::SeqCst);
                    }
                    assert_eq!(seen.load(Ordering::SeqCst), 1, "{name}: it came to that");
                    let mut t = total.lock().unwrap();
                    t.acknowledged += o.acknowledged;
                    t.not_persisted += o.not_persisted;
                    t.possibly_persisted += o.possibly_persisted;
                }
            });
        }
    });
    let (t, cases) = (total.into_inner().unwrap(), cases.into_inner());
    print_line(&format!(
        "{what}: {cases} places, {} acknowledged, {} not written, {} possibly, {:.1} s",
        t.acknowledged,
        t.not_persisted,
        t.possibly_persisted,
        begun.elapsed().as_secs_f64()
    ));
    assert!(cases > 150, "{cases}");
}

#[test]
fn a_reset_after_every_byte() {
    fault_at_every_byte("reset", |k, mut frame| {
        (k < frame.len()).then(|| {
            frame.truncate(k);
            ResponseAction::SendAndClose(frame)
        })
    });
}

/// Superset of every array's count: the count's first byte is one of them, whether its length is fixed or not.
#[test]
fn a_count_of_two_thousand_million_at_every_byte() {
    fault_at_every_byte("fixed count", |k, mut frame| {
        let at = frame.get_mut(8 + k..12 + k)?;
        at.copy_from_slice(&i32::MAX.to_be_bytes());
        Some(ResponseAction::Send(frame))
    });
    fault_at_every_byte("compact count", |k, mut frame| {
        frame.get(8 + k)?;
        frame.splice(8 + k..9 + k, [0xff, 0xff, 0xff, 0xff, 0x07]);
        let size = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        Some(ResponseAction::Send(frame))
    });
}

#[test]
fn sn42_leaders_that_move_on_each_request() {
    for idempotent in [true, false] {
        let broker = start_broker(3);
        let (tell, moved) = mpsc::channel();
        let rule =
            broker.intercept_responses(intercept_api(ApiKey::PRODUCE, move |_, call, frame| {
                let _ = tell.send(call.node);
                ResponseAction::Send(frame)
            }));
        let o = thread::scope(|s| {
            let broker = &broker;
            s.spawn(move || {
                for (n, node) in moved.iter().enumerate() {
                    broker.with_core(|core, now| {
                        core.move_leader(
                            TOPIC,
                            n as i32 % PARTITIONS,
                            node % 3 + 1,
                            (true, false),
                            now,
                        );
                    });
                }
            });
            let o = send_and_check("moving leaders", broker, idempotent, &FULL_RUN);
            // The rule's end is the thread's, too.
            drop(rule);
            o
        });
        print_row("leaders that move on each request", idempotent, &o);
        assert_eq!(o.acknowledged, 20, "{o:?}");
    }
}
