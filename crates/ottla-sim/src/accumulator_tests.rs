//! Memory, linger, splits, purges and flushes, tested with the whole producer against the broker's
//! core.
//!
//! Virtual time moves step by step. CASES name the behaviours in docs/CASES.md.
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
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::node_address;

fn poll_is_ready(delivery: &mut Delivery) -> bool {
    Pin::new(delivery).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Eight lingering batches use all memory. A waiting caller makes the sender send them early, so it
/// gets its memory within one round trip.
#[test]
fn waiting_caller_gets_memory_although_eight_batches_linger() {
    let mut fixture = ProducerFixture::new(&[
        ("linger.ms", "60000"),
        ("batch.size", "1000"),
        ("buffer.memory", "8000"),
        ("linger.awaited", "false"),
    ]);
    fixture.create_topic("wide", 9);
    let latency = Faults { max_delay_ns: 1_000_000, ..Faults::NONE };
    fixture.send_to_and_flush("wide", 0, "warm");
    fixture.machine.set_faults(latency);
    let start = fixture.machine.now();
    let sent: Vec<_> = (0..9).map(|p| fixture.send_to("wide", p, "v")).collect();
    let elapsed = fixture.machine.now().since(start);
    assert!(elapsed < Duration::from_millis(5), "one round trip: {elapsed:?}");
    drop(sent);
}

#[test]
fn awaited_sends_do_not_linger() {
    let mut times_ms = Vec::new();
    for linger in ["0", "5"] {
        let mut fixture = ProducerFixture::new(&[("linger.ms", linger), ("batch.size", "16384")]);
        fixture.send_and_wait(0, "warm");
        fixture.machine.set_faults(Faults { max_delay_ns: 1_000_000, ..Faults::NONE });
        let start = fixture.machine.now();
        for _ in 0..1000 {
            let delivery = fixture.send(0, "v");
            fixture.block_on(delivery).unwrap();
        }
        times_ms.push(fixture.machine.now().since(start).as_millis());
    }
    let (without_linger, with_linger) = (times_ms[0], times_ms[1]);
    assert!(with_linger <= without_linger + without_linger / 10, "{times_ms:?}");
    let settings = [("linger.ms", "5"), ("linger.awaited", "false"), ("batch.size", "16384")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "warm");
    let start = fixture.machine.now();
    for _ in 0..20 {
        let delivery = fixture.send(0, "v");
        fixture.block_on(delivery).unwrap();
    }
    assert!(
        fixture.machine.now().since(start) >= Duration::from_millis(100),
        "linger.awaited=false: each lingers"
    );
}

#[test]
fn thousand_concurrent_awaited_sends_share_few_batches() {
    let mut fixture = ProducerFixture::new(&[("linger.ms", "5"), ("batch.size", "16384")]);
    fixture.create_topic("wide", 12);
    fixture.send_to_and_flush("wide", 0, "warm");
    fixture.machine.set_faults(Faults { max_delay_ns: 1_000_000, ..Faults::NONE });
    let before = fixture.producer.totals();
    let mut sent: Vec<_> = (0..1000).map(|i| fixture.send_to("wide", i % 12, "v")).collect();
    sent.retain_mut(|delivery| !poll_is_ready(delivery));
    while !sent.is_empty() {
        fixture.run_for_ms(1);
        sent.retain_mut(|delivery| !poll_is_ready(delivery));
    }
    let batches = fixture.producer.totals().batch_total - before.batch_total;
    assert!(batches <= 3 * 12, "{batches} batches for 12 partitions");
    assert!(
        fixture.producer.totals().request_total - before.request_total <= 6,
        "the batches share requests"
    );
}

/// `linger.awaited` only concerns deliveries that a task awaits.
// CASES: RA3.
#[test]
fn records_that_are_not_awaited_still_linger() {
    let mut fixture = ProducerFixture::new(&[("linger.ms", "5"), ("batch.size", "16384")]);
    fixture.send_and_wait(0, "warm");
    let before = fixture.producer.totals().batch_total;
    let sent: Vec<_> = (0..4).map(|_| (fixture.send(0, "v"), fixture.run_for_ms(1))).collect();
    assert_eq!(fixture.producer.totals().batch_total, before, "nothing is sent within 4 ms");
    fixture.run_for_ms(2);
    assert_eq!(fixture.producer.totals().batch_total, before + 1);
    drop(sent);
}

// CASES: SN5.
#[test]
fn record_sent_from_expiry_handler_gets_a_new_batch() {
    let handler_producer: Arc<Mutex<Option<Producer>>> = Arc::default();
    let expired_count = Arc::new(AtomicU32::new(0));
    let (producer, count) = (handler_producer.clone(), expired_count.clone());
    let settings = [("delivery.timeout.ms", "300"), ("request.timeout.ms", "299")];
    let mut fixture = ProducerFixture::with_builder(&settings, move |builder| {
        builder.delivery_handler(move |r: &BatchReport<'_>| {
            let is_expired = r.result.is_err_and(|e| e.kind() == ErrorKind::DeliveryTimeout);
            if is_expired
                && count.fetch_add(1, Ordering::SeqCst) < 10
                && let Some(p) = &*producer.lock().unwrap()
            {
                p.try_send(Record::to("t").partition(0).value("again")).unwrap();
            }
        })
    });
    *handler_producer.lock().unwrap() = Some(fixture.producer.clone());
    fixture.send_and_wait(0, "a");
    fixture.hold_responses();
    let first: Vec<_> = (0..10).map(|_| fixture.send(0, "first")).collect();
    fixture.run_until(|_| first.iter().all(|delivery| delivery.try_result().is_some()));
    assert_eq!(expired_count.load(Ordering::SeqCst), 10, "all ten batches expired");
    fixture.release_responses();
    fixture.run_until(|f| f.logged_values(0).iter().filter(|v| *v == "again").count() == 10);
    *handler_producer.lock().unwrap() = None;
}

// CASES: SN33.
#[test]
fn sender_wakes_for_next_deadline_and_sleeps_otherwise() {
    let settings =
        [("delivery.timeout.ms", "1500"), ("request.timeout.ms", "1400"), ("linger.ms", "50")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "a");
    fixture.run_for_ms(1);
    let rounds = |fixture: &ProducerFixture| fixture.producer.totals().loop_total;
    let before = rounds(&fixture);
    fixture.run_for_ms(1000);
    // The deadlines of callers that got their memory are still in the sender's heap.
    assert!(
        rounds(&fixture) - before <= 4,
        "no record waits, yet it made {} loops",
        rounds(&fixture) - before
    );
    fixture.hold_responses();
    let delivery = fixture.send(0, "b");
    let before = rounds(&fixture);
    fixture.run_for_ms(1400);
    assert!(
        rounds(&fixture) - before <= 6,
        "linger and send need 6 loops, not {}",
        rounds(&fixture) - before
    );
    let e = fixture.wait_for(&delivery).unwrap_err();
    assert_eq!(e.record_status(), RecordStatus::PossiblyPersisted, "{e}");
}

/// KAFKA-19012: a batch expires while its request is half written, and a new batch is filled at
/// once. If the buffer were reused too early, the rest of the request would carry the new batch's
/// bytes. So the memory is returned only when the socket has released it.
#[test]
fn expired_batch_half_written_keeps_its_buffer() {
    for is_disconnected in [false, true] {
        let mut fixture = ProducerFixture::new(&[
            ("delivery.timeout.ms", "301"),
            ("request.timeout.ms", "300"),
            ("linger.ms", "1"),
            ("batch.size", "1000"),
            ("buffer.memory", "2000"),
            ("max.block.ms", "5000"),
            ("max.in.flight.requests.per.connection", "1"),
            ("enable.idempotence", "false"),
        ]);
        fixture.send_and_wait(0, "warm");
        fixture.run_for_ms(200);
        fixture.hold_responses();
        let before = fixture.send(0, "before");
        fixture.run_for_ms(5);
        let first = fixture.send(1, &"A".repeat(800));
        fixture.run_for_ms(150);
        // The batch waits for "before", so only a part of its request is written before it expires.
        fixture.machine.set_faults(Faults { window_bytes: 300, ..Faults::NONE });
        fixture.machine.set_link(node_address(1), Link { reads_paused: true, ..Link::default() });
        fixture.wait_for(&before).unwrap();
        let e = fixture.wait_for(&first).unwrap_err();
        assert_eq!(
            (e.kind(), e.record_status()),
            (ErrorKind::DeliveryTimeout, RecordStatus::PossiblyPersisted),
            "{e}"
        );
        if is_disconnected {
            fixture.drop_connections();
        }
        // The socket still holds the first buffer. The pool has one other for these two records.
        let second = fixture.send(0, &"B".repeat(800));
        fixture.machine.set_link(node_address(1), Link::default());
        let third = fixture.send(0, &"C".repeat(800));
        fixture.wait_for(&second).unwrap();
        fixture.wait_for(&third).unwrap();
        assert_eq!(fixture.logged_values(0)[2..], ["B".repeat(800), "C".repeat(800)]);
        let written = if is_disconnected { vec![] } else { vec!["A".repeat(800)] };
        assert_eq!(fixture.logged_values(1), written, "complete and unchanged, or not at all");
        fixture.run_for_ms(1000);
        assert_eq!(fixture.producer.available_memory(), 2000);
    }
}

/// Four full batches use the whole pool, and the broker rejects each as too large. A split does not
/// wait in the pool's queue, so all of them succeed.
#[test]
fn full_pool_can_still_split() {
    let mut fixture = ProducerFixture::new(&[
        ("batch.size", "1000"),
        ("buffer.memory", "4000"),
        ("linger.ms", "5"),
        ("compression.type", "zstd"),
    ]);
    fixture.create_topic("wide", 4);
    fixture.send_to_and_flush("wide", 0, "warm");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE)); 4]);
    let values: Vec<String> = (0..24).map(|i| format!("{i:02}").repeat(70)).collect();
    let sent: Vec<_> =
        values.iter().enumerate().map(|(i, v)| fixture.send_to("wide", i as i32 % 4, v)).collect();
    for delivery in &sent {
        fixture.wait_for(delivery).unwrap();
    }
    fixture.run_for_ms(10);
    assert!(fixture.producer.totals().batch_split_total >= 4);
    assert_eq!(fixture.producer.available_memory(), 4000);
}

// CASES: RA13.
#[test]
fn flush_waits_for_parts_of_a_split_batch() {
    let mut fixture = ProducerFixture::new(&[("batch.size", "4000"), ("linger.ms", "60000")]);
    fixture.send_and_flush("warm");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::MESSAGE_TOO_LARGE))]);
    let sent: Vec<_> = (0..4).map(|i| fixture.send(0, &format!("{i}").repeat(300))).collect();
    fixture.flush();
    assert!(sent.iter().all(|delivery| delivery.try_result().unwrap().is_ok()));
}

#[test]
fn batch_size_follows_the_topics_limit_down_and_up() {
    let mut fixture = ProducerFixture::new(&[
        ("batch.size", "262144"),
        ("linger.ms", "5"),
        ("metadata.max.age.ms", "60000"),
        ("delivery.timeout.ms", "600000"),
    ]);
    fixture.set_max_message_bytes(20_000);
    let value = "v".repeat(950);
    let splits = |fixture: &ProducerFixture| fixture.producer.totals().batch_split_total;
    let send = |fixture: &mut ProducerFixture, batches: u64| {
        let target = fixture.producer.totals().batch_total + batches;
        let producer = fixture.producer.clone();
        while fixture.producer.totals().batch_total < target {
            for _ in 0..400 {
                let record = Record::to("t").partition(0).value(&value);
                drop(fixture.block_on(producer.send_async(record)).unwrap());
            }
            fixture.flush();
        }
    };
    send(&mut fixture, 10_000);
    let splits = splits(&fixture);
    assert!(splits < 20, "{splits} splits");
    let record_counts = |fixture: &ProducerFixture| {
        fixture.read_log(0).headers.iter().map(|h| h.record_count).collect::<Vec<_>>()
    };
    let counts = record_counts(&fixture);
    let limited = counts[counts.len() - 5];
    assert!((18..=20).contains(&limited), "close to the limit of 20: {limited} records");
    fixture.set_max_message_bytes(1_048_588);
    for _ in 0..8 {
        fixture.run_for_ms(60_000);
        send(&mut fixture, 40);
    }
    let later_counts = record_counts(&fixture);
    let max = later_counts[counts.len()..].iter().max().unwrap();
    assert!(*max > 200, "batches grow again, up to {max} records");
}

// CASES: RA15.
#[test]
fn purge_leaves_batches_in_flight_unless_they_are_included() {
    for scope in [PurgeScope::Queued, PurgeScope::QueuedAndInFlight] {
        let mut fixture = ProducerFixture::new(&[("linger.ms", "1"), ("batch.size", "1000")]);
        fixture.send_and_wait(0, "warm");
        fixture.hold_responses();
        let in_flight = fixture.send(0, "flying");
        fixture.run_for_ms(2);
        let queued: Vec<_> = (0..50).map(|i| fixture.send(i % 2, "waiting")).collect();
        let errors_before = fixture.producer.totals().record_error_total;
        fixture.producer.purge(scope).unwrap();
        fixture.run_until(|_| queued.iter().all(|delivery| delivery.try_result().is_some()));
        for delivery in &queued {
            let e = delivery.try_result().unwrap().unwrap_err();
            assert_eq!(
                (e.kind(), e.record_status()),
                (ErrorKind::Purged, RecordStatus::NotPersisted),
                "{e}"
            );
        }
        if scope == PurgeScope::Queued {
            assert!(in_flight.try_result().is_none());
            fixture.release_responses();
            fixture.wait_for(&in_flight).unwrap();
            assert_eq!(fixture.producer.totals().record_error_total - errors_before, 50);
        } else {
            let e = fixture.wait_for(&in_flight).unwrap_err();
            assert_eq!(
                (e.kind(), e.record_status()),
                (ErrorKind::Purged, RecordStatus::PossiblyPersisted),
                "{e}"
            );
            fixture.release_responses();
        }
        fixture.send_and_wait(0, "after");
        fixture.run_for_ms(10);
        assert_eq!(fixture.producer.available_memory(), 32 << 20);
    }
}

// CASES: RA14.
#[test]
fn forced_close_completes_each_record_once() {
    let completed = Arc::new(AtomicU32::new(0));
    let count = completed.clone();
    let mut fixture = ProducerFixture::with_builder(
        &[("linger.ms", "1"), ("batch.size", "1000")],
        move |builder| {
            builder.delivery_handler(move |r: &BatchReport<'_>| {
                count.fetch_add(r.tokens.len() as u32, Ordering::SeqCst);
            })
        },
    );
    fixture.send_and_wait(0, "warm");
    fixture.hold_responses();
    let mut sent = Vec::new();
    for i in 0..100 {
        sent.push(fixture.send(i % 2, "v"));
        if i == 50 {
            // The records so far are drained, the others are not.
            fixture.run_for_ms(2);
        }
    }
    fixture.close(Duration::ZERO);
    for delivery in &sent {
        let e = delivery.try_result().unwrap().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Closed, "{e}");
    }
    assert_eq!(completed.load(Ordering::SeqCst), 101, "the handler received each record once");
}

// CASES: RA12.
#[test]
fn dropped_flush_future_has_no_effect_on_later_records() {
    let mut fixture = ProducerFixture::new(&[("linger.ms", "60000"), ("batch.size", "1000")]);
    fixture.send_and_flush("warm");
    fixture.hold_responses();
    let delivery = fixture.send(0, "v");
    {
        let producer = fixture.producer.clone();
        let mut flush = std::pin::pin!(producer.flush_async());
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        fixture.run_for_ms(1000);
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    fixture.release_responses();
    fixture.wait_for(&delivery).unwrap();
    let later = fixture.send(0, "later");
    fixture.run_for_ms(1000);
    assert!(later.try_result().is_none(), "a record after the dropped flush lingers");
    fixture.flush();
    assert!(later.try_result().is_some());
}

/// A partitioner that returns its number: 50 stands for no choice, 99 panics.
struct FixedPartitioner(i32);
impl Partitioner for FixedPartitioner {
    fn partition(&self, record: &Record<'_>, partitions: &Partitions<'_>) -> Option<i32> {
        assert!(record.topic_name() != "t" || partitions.count() == 2);
        assert!(self.0 != 99, "the partitioner panics on purpose");
        (self.0 != 50).then_some(self.0)
    }
}

// CASES: KP6.
#[test]
fn invalid_partition_of_custom_partitioner_is_rejected() {
    for (choice, expected) in [(1, Some(1)), (50, None), (-1, None), (2, None), (99, None)] {
        let mut fixture = ProducerFixture::with_builder(&[], |builder| {
            builder.partitioner(FixedPartitioner(choice))
        });
        let producer = fixture.producer.clone();
        let sent = fixture.block_on(producer.send_async(Record::to("t").value("v")));
        match (sent, expected) {
            (Ok(delivery), Some(p)) => assert_eq!(delivery.partition(), p),
            (Ok(_), None) => assert_eq!(choice, 50, "the built-in partitioner chooses"),
            (Err(e), _) => {
                assert!([-1, 2, 99].contains(&choice));
                assert_eq!(e.kind(), ErrorKind::InvalidRecord, "{e}");
            }
        }
        let explicit = fixture.block_on(producer.send_async(Record::to("t").partition(0))).unwrap();
        assert_eq!(explicit.partition(), 0, "the record's own partition comes first");
    }
}
