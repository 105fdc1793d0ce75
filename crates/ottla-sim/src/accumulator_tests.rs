//! What the accumulator does to the whole producer, by the cases' numbers: memory, linger, splitting, purging, in
//! virtual time against the broker's core.
#![allow(clippy::disallowed_types)]

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use ottla::sim::{Faults, Link};
use ottla::{
    BatchReport, Delivery, ErrorKind, Partitioner, Partitions, Producer, PurgeScope, Record,
    RecordStatus,
};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode as E;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::node_address;

fn poll_is_ready(d: &mut Delivery) -> bool {
    Pin::new(d).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// The design's example: nothing is due for a minute, and memory is used up. The one who waits gets his in a round
/// trip.
#[test]
fn the_ninth_partition_gets_its_memory_though_eight_batches_linger() {
    let mut b = ProducerFixture::new(&[
        ("linger.ms", "60000"),
        ("batch.size", "1000"),
        ("buffer.memory", "8000"),
        ("linger.awaited", "false"),
    ]);
    b.create_topic("wide", 9);
    let latency = Faults { max_delay_ns: 1_000_000, ..Faults::NONE };
    b.send_to_and_flush("wide", 0, "warm");
    b.machine.set_faults(latency);
    let from = b.machine.now();
    let sent: Vec<_> = (0..9).map(|p| b.send_to("wide", p, "v")).collect();
    let took = b.machine.now().since(from);
    assert!(took < Duration::from_millis(5), "one round trip: {took:?}");
    drop(sent);
}

#[test]
fn sequential_awaited_sends_take_no_longer_with_a_linger() {
    let mut times = Vec::new();
    for linger in ["0", "5"] {
        let mut b = ProducerFixture::new(&[("linger.ms", linger), ("batch.size", "16384")]);
        b.send_and_wait(0, "warm");
        b.machine.set_faults(Faults { max_delay_ns: 1_000_000, ..Faults::NONE });
        let from = b.machine.now();
        for _ in 0..1000 {
            let d = b.send(0, "v");
            b.block_on(d).unwrap();
        }
        times.push(b.machine.now().since(from).as_millis());
    }
    let (without, with) = (times[0], times[1]);
    assert!(with <= without + without / 10, "{times:?} ms");
    let settings = [("linger.ms", "5"), ("linger.awaited", "false"), ("batch.size", "16384")];
    let mut b = ProducerFixture::new(&settings);
    b.send_and_wait(0, "warm");
    let from = b.machine.now();
    for _ in 0..20 {
        let d = b.send(0, "v");
        b.block_on(d).unwrap();
    }
    assert!(b.machine.now().since(from) >= Duration::from_millis(100), "turned off, each lingers");
}

#[test]
fn a_thousand_that_await_at_once_gather_into_few_batches() {
    let mut b = ProducerFixture::new(&[("linger.ms", "5"), ("batch.size", "16384")]);
    b.create_topic("wide", 12);
    b.send_to_and_flush("wide", 0, "warm");
    b.machine.set_faults(Faults { max_delay_ns: 1_000_000, ..Faults::NONE });
    let before = b.producer.totals();
    let mut sent: Vec<_> = (0..1000).map(|i| b.send_to("wide", i % 12, "v")).collect();
    sent.retain_mut(|d| !poll_is_ready(d));
    while !sent.is_empty() {
        b.run_for_ms(1);
        sent.retain_mut(|d| !poll_is_ready(d));
    }
    let batches = b.producer.totals().batch_total - before.batch_total;
    assert!(batches <= 3 * 12, "{batches} batches for 12 partitions");
    assert!(
        b.producer.totals().request_total - before.request_total <= 6,
        "and they share requests"
    );
}

/// What nobody awaits gathers as ever.
#[test]
fn ra3_records_nobody_awaits_still_linger() {
    let mut b = ProducerFixture::new(&[("linger.ms", "5"), ("batch.size", "16384")]);
    b.send_and_wait(0, "warm");
    let before = b.producer.totals().batch_total;
    let sent: Vec<_> = (0..4).map(|_| (b.send(0, "v"), b.run_for_ms(1))).collect();
    assert_eq!(b.producer.totals().batch_total, before, "4 ms on, nothing has left");
    b.run_for_ms(2);
    assert_eq!(b.producer.totals().batch_total, before + 1);
    drop(sent);
}

#[test]
fn sn5_what_is_sent_from_a_handler_of_an_expiry_is_a_batch_of_its_own() {
    let again: Arc<Mutex<Option<Producer>>> = Arc::default();
    let (producer, seen) = (again.clone(), Arc::new(AtomicU32::new(0)));
    let count = seen.clone();
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "299")];
    let mut b = ProducerFixture::with_builder(&settings, move |builder| {
        builder.delivery_handler(move |r: &BatchReport<'_>| {
            let expired = r.result.is_err_and(|e| e.kind() == ErrorKind::DeliveryTimeout);
            if expired
                && count.fetch_add(1, Ordering::SeqCst) < 10
                && let Some(p) = &*producer.lock().unwrap()
            {
                p.try_send(Record::to("t").partition(0).value("again")).unwrap();
            }
        })
    });
    *again.lock().unwrap() = Some(b.producer.clone());
    b.send_and_wait(0, "a");
    b.hold_responses(true);
    let first: Vec<_> = (0..10).map(|_| b.send(0, "first")).collect();
    b.run_until(|_| first.iter().all(|d| d.try_result().is_some()));
    assert_eq!(seen.load(Ordering::SeqCst), 10, "each of ten batches expired");
    b.hold_responses(false);
    b.run_until(|b| b.logged_values(0).iter().filter(|v| *v == "again").count() == 10);
    *again.lock().unwrap() = None;
}

#[test]
fn sn33_the_sender_wakes_for_the_next_thing_that_is_due_and_rests_otherwise() {
    let settings =
        [("delivery.timeout.ms", "1500"), ("request.timeout.ms", "1400"), ("linger.ms", "50")];
    let mut b = ProducerFixture::new(&settings);
    b.send_and_wait(0, "a");
    b.run_for_ms(1);
    let rounds = |b: &ProducerFixture| b.producer.totals().loop_total;
    let before = rounds(&b);
    b.run_for_ms(1000);
    // Deadlines of callers that were served still lie in its heap.
    assert!(rounds(&b) - before <= 4, "nothing waits: it rests, but for {}", rounds(&b) - before);
    b.hold_responses(true);
    let d = b.send(0, "b");
    let before = rounds(&b);
    b.run_for_ms(1400);
    assert!(rounds(&b) - before <= 6, "linger, send, and no more: {}", rounds(&b) - before);
    let e = b.wait_for(&d).unwrap_err();
    assert_eq!(e.record_status(), RecordStatus::PossiblyPersisted, "{e}");
}

/// KAFKA-19012: a batch ends while its request is half written, and a new batch is filled at once. What is on the
/// wire is the first one's bytes to the last: its memory is not back before the socket has let go of it.
#[test]
fn kafka_19012_what_is_half_written_stays_what_it_was() {
    for torn_down in [false, true] {
        let mut b = ProducerFixture::new(&[
            ("delivery.timeout.ms", "301"),
            ("request.timeout.ms", "300"),
            ("linger.ms", "1"),
            ("batch.size", "1000"),
            ("buffer.memory", "2000"),
            ("max.block.ms", "5000"),
            ("max.in.flight.requests.per.connection", "1"),
            ("enable.idempotence", "false"),
        ]);
        b.send_and_wait(0, "warm");
        b.run_for_ms(200);
        b.hold_responses(true);
        let before = b.send(0, "before");
        b.run_for_ms(5);
        let first = b.send(1, &"A".repeat(800));
        b.run_for_ms(150);
        // Its turn comes late, and its request only goes out in part before its time is over.
        b.machine.set_faults(Faults { window_bytes: 300, ..Faults::NONE });
        b.machine.set_link(node_address(1), Link { reads_paused: true, ..Link::default() });
        b.wait_for(&before).unwrap();
        let e = b.wait_for(&first).unwrap_err();
        assert_eq!(
            (e.kind(), e.record_status()),
            (ErrorKind::DeliveryTimeout, RecordStatus::PossiblyPersisted),
            "{e}"
        );
        if torn_down {
            b.drop_connections();
        }
        // Its buffer is still the socket's: two more fill the other, and then wait.
        let second = b.send(0, &"B".repeat(800));
        b.machine.set_link(node_address(1), Link::default());
        let third = b.send(0, &"C".repeat(800));
        b.wait_for(&second).unwrap();
        b.wait_for(&third).unwrap();
        assert_eq!(b.logged_values(0)[2..], ["B".repeat(800), "C".repeat(800)]);
        let written = if torn_down { vec![] } else { vec!["A".repeat(800)] };
        assert_eq!(b.logged_values(1), written, "to the last byte, or not at all");
        b.run_for_ms(1000);
        assert_eq!(b.producer.available_memory(), 2000);
    }
}

/// A pool of four buffers, all of them full, each refused as too large: parts are charged beside the line, and
/// everything finishes.
#[test]
fn a_pool_that_is_full_can_still_split() {
    let mut b = ProducerFixture::new(&[
        ("batch.size", "1000"),
        ("buffer.memory", "4000"),
        ("linger.ms", "5"),
        ("compression.type", "zstd"),
    ]);
    b.create_topic("wide", 4);
    b.send_to_and_flush("wide", 0, "warm");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE)); 4]);
    let values: Vec<String> = (0..24).map(|i| format!("{i:02}").repeat(70)).collect();
    let sent: Vec<_> =
        values.iter().enumerate().map(|(i, v)| b.send_to("wide", i as i32 % 4, v)).collect();
    for d in &sent {
        b.wait_for(d).unwrap();
    }
    b.run_for_ms(10);
    assert!(b.producer.totals().batch_split_total >= 4);
    assert_eq!(b.producer.available_memory(), 4000);
}

#[test]
fn ra13_a_flush_waits_for_the_parts_of_what_was_split() {
    let mut b = ProducerFixture::new(&[("batch.size", "4000"), ("linger.ms", "60000")]);
    b.send_and_flush("warm");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE))]);
    let sent: Vec<_> = (0..4).map(|i| b.send(0, &format!("{i}").repeat(300))).collect();
    b.flush();
    assert!(sent.iter().all(|d| d.try_result().unwrap().is_ok()));
}

#[test]
fn a_topics_limit_is_found_kept_to_and_found_again_when_it_is_raised() {
    let mut b = ProducerFixture::new(&[
        ("batch.size", "262144"),
        ("linger.ms", "5"),
        ("metadata.max.age.ms", "60000"),
        ("delivery.timeout.ms", "600000"),
    ]);
    b.set_max_message_bytes(20_000);
    let value = "v".repeat(950);
    let refused = |b: &ProducerFixture| b.producer.totals().batch_split_total;
    let send = |b: &mut ProducerFixture, batches: u64| {
        let to = b.producer.totals().batch_total + batches;
        let topic = b.producer.clone();
        while b.producer.totals().batch_total < to {
            for _ in 0..400 {
                let record = Record::to("t").partition(0).value(&value);
                drop(b.block_on(topic.send_async(record)).unwrap());
            }
            b.flush();
        }
    };
    send(&mut b, 10_000);
    let found = refused(&b);
    assert!(found < 20, "{found} refusals");
    let size =
        |b: &ProducerFixture| b.read_log(0).1.iter().map(|h| h.record_count).collect::<Vec<_>>();
    let settled = size(&b);
    let usual = settled[settled.len() - 5];
    assert!((18..=20).contains(&usual), "close to what fits: {usual} records");
    b.set_max_message_bytes(1_048_588);
    for _ in 0..8 {
        b.run_for_ms(60_000);
        send(&mut b, 40);
    }
    let last = size(&b);
    let most = last[settled.len()..].iter().max().unwrap();
    assert!(*most > 200, "batches grow again: {most} records");
}

#[test]
fn ra15_a_purge_fails_what_waits_and_leaves_what_is_in_flight_unless_told() {
    for what in [PurgeScope::Queued, PurgeScope::QueuedAndInFlight] {
        let mut b = ProducerFixture::new(&[("linger.ms", "1"), ("batch.size", "1000")]);
        b.send_and_wait(0, "warm");
        b.hold_responses(true);
        let flying = b.send(0, "flying");
        b.run_for_ms(2);
        let waiting: Vec<_> = (0..50).map(|i| b.send(i % 2, "waiting")).collect();
        let all = b.producer.totals().record_error_total;
        b.producer.purge(what).unwrap();
        b.run_until(|_| waiting.iter().all(|d| d.try_result().is_some()));
        for d in &waiting {
            let e = d.try_result().unwrap().unwrap_err();
            assert_eq!(
                (e.kind(), e.record_status()),
                (ErrorKind::Purged, RecordStatus::NotPersisted),
                "{e}"
            );
        }
        if what == PurgeScope::Queued {
            assert!(flying.try_result().is_none());
            b.hold_responses(false);
            b.wait_for(&flying).unwrap();
            assert_eq!(b.producer.totals().record_error_total - all, 50);
        } else {
            let e = b.wait_for(&flying).unwrap_err();
            let known = (e.kind(), e.record_status());
            assert_eq!(known, (ErrorKind::Purged, RecordStatus::PossiblyPersisted), "{e}");
            b.hold_responses(false);
        }
        b.send_and_wait(0, "after");
        b.run_for_ms(10);
        assert_eq!(b.producer.available_memory(), 32 << 20);
    }
}

#[test]
fn ra14_a_forced_close_ends_each_record_once_drained_or_not() {
    let ended = Arc::new(AtomicU32::new(0));
    let count = ended.clone();
    let mut b = ProducerFixture::with_builder(
        &[("linger.ms", "1"), ("batch.size", "1000")],
        move |builder| {
            builder.delivery_handler(move |r: &BatchReport<'_>| {
                count.fetch_add(r.tokens.len() as u32, Ordering::SeqCst);
            })
        },
    );
    b.send_and_wait(0, "warm");
    b.hold_responses(true);
    let sent: Vec<_> = (0..100)
        .map(|i| {
            (
                b.send(i % 2, "v"),
                i == 50 && {
                    b.run_for_ms(2);
                    true
                },
            )
        })
        .collect();
    b.close(Duration::ZERO);
    for (d, _) in &sent {
        let e = d.try_result().unwrap().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Closed, "{e}");
    }
    assert_eq!(ended.load(Ordering::SeqCst), 101, "the handler heard of each once");
}

#[test]
fn ra12_a_flush_that_is_given_up_leaves_nothing_behind() {
    let mut b = ProducerFixture::new(&[("linger.ms", "60000"), ("batch.size", "1000")]);
    b.send_and_flush("warm");
    b.hold_responses(true);
    let d = b.send(0, "v");
    {
        let producer = b.producer.clone();
        let mut flush = std::pin::pin!(producer.flush_async());
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        b.run_for_ms(1000);
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    b.hold_responses(false);
    b.wait_for(&d).unwrap();
    let later = b.send(0, "later");
    b.run_for_ms(1000);
    assert!(later.try_result().is_none(), "what came later lingers");
    b.flush();
    assert!(later.try_result().is_some());
}

struct FixedPartitioner(i32);
impl Partitioner for FixedPartitioner {
    fn partition(&self, record: &Record<'_>, partitions: &Partitions<'_>) -> Option<i32> {
        assert!(record.topic_name() != "t" || partitions.count() == 2);
        assert!(self.0 != 99, "a partitioner that panics");
        (self.0 != 50).then_some(self.0)
    }
}

#[test]
fn kp6_a_partitioner_of_ones_own_is_asked_and_its_nonsense_refused() {
    for (answer, goes) in [(1, Some(1)), (50, None), (-1, None), (2, None), (99, None)] {
        let mut b = ProducerFixture::with_builder(&[], |builder| {
            builder.partitioner(FixedPartitioner(answer))
        });
        let producer = b.producer.clone();
        let sent = b.block_on(producer.send_async(Record::to("t").value("v")));
        match (sent, goes) {
            (Ok(d), Some(p)) => assert_eq!(d.partition(), p),
            (Ok(_), None) => assert_eq!(answer, 50, "left to the built-in one"),
            (Err(e), _) => {
                assert!([-1, 2, 99].contains(&answer));
                assert_eq!(e.kind(), ErrorKind::InvalidRecord, "{e}");
            }
        }
        let explicit = b.block_on(producer.send_async(Record::to("t").partition(0))).unwrap();
        assert_eq!(explicit.partition(), 0, "a record's own word comes first");
    }
}

/// A failure says how far the record came and where its time went.
#[test]
fn a_failure_tells_where_the_time_went() {
    let mut b = ProducerFixture::new(&[
        ("delivery.timeout.ms", "1000"),
        ("request.timeout.ms", "800"),
        ("linger.ms", "100"),
        ("batch.size", "1000"),
        ("retry.backoff.ms", "50"),
        ("retry.backoff.max.ms", "50"),
    ]);
    b.send_and_wait(0, "warm");
    b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS)); 40]);
    let d = b.send(0, "v");
    let e = b.wait_for(&d).unwrap_err();
    let j = e.timings().expect("it was accepted");
    assert_eq!((j.last_broker, e.kind()), (Some(1), ErrorKind::DeliveryTimeout));
    assert!(j.attempts > 5, "{j:?}");
    assert!((90..=110).contains(&j.linger.as_millis()), "{j:?}");
    assert!((700..=910).contains(&j.backoff.as_millis()), "{j:?}");
    let sum = j.linger + j.backoff + j.leaderless + j.throttled + j.in_flight + j.queued;
    assert!((999..=1002).contains(&sum.as_millis()), "all of its time: {j:?}");
    assert!(e.to_string().contains("s backing off"), "{e}");
}

#[test]
fn metrics_of_the_accumulator_and_the_sender_have_kafkas_names() {
    let mut b =
        ProducerFixture::new(&[("linger.ms", "5"), ("batch.size", "4000"), ("retries", "10")]);
    b.send_and_wait(0, "warm");
    b.push_batch_faults(&[
        Some(FailBeforeAppend(E::NOT_LEADER_OR_FOLLOWER)),
        Some(FailBeforeAppend(E::MESSAGE_TOO_LARGE)),
    ]);
    let sent: Vec<_> = (0..10).map(|_| b.send(0, &"v".repeat(100))).collect();
    for d in &sent {
        b.wait_for(d).unwrap();
    }
    let all = b.producer.metrics();
    let value = |group: &str, name: &str| {
        let found: Vec<_> = all.iter().filter(|m| m.group == group && m.name == name).collect();
        assert_eq!(found.len(), 1, "{group} {name}");
        match found[0].value {
            ottla::MetricValue::Number(n) => n,
            ref text => panic!("{name} is {text}"),
        }
    };
    let of = |name| value("producer-metrics", name);
    assert_eq!(of("record-retry-total"), 10.0);
    assert_eq!(of("batch-split-total"), 1.0);
    assert_eq!(of("record-send-total"), 1.0 + 10.0 + 10.0 + 10.0, "every attempt counts");
    assert_eq!(of("record-error-total"), 0.0);
    assert_eq!(of("buffer-total-bytes"), f64::from(32 << 20));
    assert_eq!(of("buffer-available-bytes"), f64::from(32 << 20));
    assert!(of("record-queue-time-max") >= 5.0 && of("batch-size-max") > 1000.0);
    assert!(of("records-per-request-avg") > 1.0 && of("record-size-max") > 100.0);
    assert!(of("request-latency-avg") >= 0.0 && of("metadata-age") < 600.0);
    let of_topic = |name| value("producer-topic-metrics", name);
    assert_eq!((of_topic("record-retry-total"), of_topic("compression-rate")), (10.0, 1.0));
    assert!(of_topic("byte-total") > 3000.0);
    let of_node =
        all.iter().filter(|m| m.group == "producer-node-metrics" && m.name == "request-total");
    let nodes: Vec<_> = of_node.map(|m| m.tags[1].1.clone()).collect();
    assert_eq!(nodes, ["node--1", "node-1"]);
    let count = all.len() as f64;
    assert_eq!(value("kafka-metrics-count", "count"), count);
}

/// A record for one topic cannot go to another by a handle.
#[test]
fn a_topics_handle_takes_its_own_records_and_tells_the_handler() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    let mut b = ProducerFixture::with_builder(
        &[("linger.ms", "1"), ("batch.size", "1000")],
        move |builder| {
            builder.delivery_handler(move |r: &BatchReport<'_>| {
                list.lock().unwrap().extend_from_slice(r.tokens);
            })
        },
    );
    b.send_and_wait(0, "warm");
    let producer = b.producer.clone();
    let topic = b.block_on(producer.topic_async("t")).unwrap();
    assert_eq!((topic.name(), topic.partition_count()), ("t", 2));
    for token in 1..=20 {
        topic.enqueue(topic.record().partition(0).value("v").token(token)).unwrap();
    }
    let d = topic.send(Record::to("t").partition(0).value("last").token(21)).unwrap();
    b.wait_for(&d).unwrap();
    assert_eq!(heard.lock().unwrap()[1..], (1..=21).collect::<Vec<u64>>());
    let e = topic.enqueue(Record::to("other")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidRecord, "{e}");
}
