//! The public API over real sockets, against the embedded broker.
//!
//! The tests are in this crate because it depends on both the producer and the broker.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use ottla::serializer::{BigEndianSerializer, BytesSerializer, NullableSerializer};
use ottla::{
    Acknowledgement, BoxError, Delivery, Error, ErrorKind, Header, Interceptor, MutableRecord,
    OwnedRecord, Producer, Record, RecordMetadata, TypedRecord,
};
use ottla_broker::{EmbeddedBroker, NewTopic, ProduceFault};
use ottla_protocol::ErrorCode;
use ottla_testkit::reserve_ports;

use common::{TIMEOUT, block_on, producer_builder, start_broker};

#[test]
fn delivery_is_small_and_futures_are_send() {
    assert_eq!(size_of::<Delivery>(), 16);
    assert!(size_of::<Result<Delivery, Error>>() <= 24);
    fn assert_send_sync<T: Send + Sync + Unpin + 'static>() {}
    assert_send_sync::<Delivery>();
    assert_send_sync::<Producer>();
    // A multi-threaded runtime's `spawn` requires `Send` of each future.
    fn assert_send<F: Future + Send>(_: F) {}
    let futures = |p: &Producer| {
        assert_send(p.send_async(Record::to("t")));
        assert_send(p.send_with_callback_async(Record::to("t"), |_| ()));
        assert_send(p.flush_async());
        assert_send(p.partitions_for_async("t"));
        assert_send(p.close_async(TIMEOUT));
    };
    let _: &dyn Fn(&Producer) = &futures;
}

#[test]
fn blocking_async_and_typed_sends_reach_the_log() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker).build().unwrap();
    let headers = [Header::new("a", b"1"), Header::null("a")];
    let sent = producer.send(Record::to("t").partition(1).value("x").headers(&headers)).unwrap();
    let m = sent.wait().unwrap();
    assert_eq!((m.topic(), m.partition(), m.offset()), ("t", 1, Some(0)));
    assert!(m.timestamp() > 1_600_000_000_000);
    let m = block_on(async {
        producer.send_async(Record::to("t").partition(1).value("y")).await.unwrap().await
    });
    assert_eq!(m.unwrap().offset(), Some(1));
    let typed = producer.typed(BigEndianSerializer, NullableSerializer(BytesSerializer));
    let typed_record = TypedRecord::new("t", &7_i64, &Some("v"));
    let a = typed.send(typed_record).unwrap().wait().unwrap();
    let tombstone = TypedRecord::new("t", &7_i64, &None::<&str>);
    let b = block_on(typed.send_async(tombstone)).unwrap().wait().unwrap();
    assert_eq!(a.partition(), b.partition());
    assert_eq!(producer.partitions_for("t").unwrap().len(), 3);
    assert_eq!(block_on(producer.partitions_for_async("t")).unwrap()[0].leader, Some(1));
}

#[test]
fn try_send_fails_instead_of_waiting() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker)
        .buffer_memory(20_000)
        .linger(Duration::from_secs(60))
        .build()
        .unwrap();
    // Two such values need more than the memory, with a first buffer of any size.
    let value = [0; 12_000];
    let record = Record::to("t").value(&value).token(5);
    let e = producer.try_send(record).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoMetadata);
    // The failed call has requested the metadata, so it arrives.
    producer.partitions_for("t").unwrap();
    producer.try_send(record.partition(0)).unwrap();
    let e = producer.try_send(record.partition(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Full, "{e}");
    producer.close(TIMEOUT).unwrap();
    assert_eq!(producer.try_send(record).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.send(record).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.available_memory(), 20_000);
}

#[derive(Default)]
struct InterceptorCalls {
    sent_count: AtomicU32,
    outcomes: Mutex<Vec<Result<Option<i64>, ErrorKind>>>,
}

/// Adds a header to each record, and records the outcomes.
struct RecordingInterceptor(Arc<InterceptorCalls>);

impl Interceptor for RecordingInterceptor {
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        self.0.sent_count.fetch_add(1, Ordering::SeqCst);
        record.headers.push(Header::new("spy", "was here"));
        Ok(())
    }

    fn on_acknowledgement(&self, acknowledgement: &Acknowledgement<'_>) {
        let outcome =
            acknowledgement.result.as_ref().map(RecordMetadata::offset).map_err(Error::kind);
        self.0.outcomes.lock().unwrap().push(outcome);
    }
}

/// Changes each record, then fails or panics.
struct FailingInterceptor;

impl Interceptor for FailingInterceptor {
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        record.value = Some(b"ruined"[..].into());
        if record.key.is_some() { panic!("bad") } else { Err("bad".into()) }
    }

    fn on_acknowledgement(&self, _: &Acknowledgement<'_>) {
        panic!("bad");
    }
}

// CASES: KP4, KP13.
#[test]
fn rejected_record_reaches_callback_once_and_failing_interceptors_are_skipped() {
    let (broker, calls) = (start_broker(3), Arc::<InterceptorCalls>::default());
    let producer = producer_builder(&broker)
        .interceptor(FailingInterceptor)
        .interceptor(RecordingInterceptor(calls.clone()))
        .build()
        .unwrap();
    let (sender, results) = mpsc::channel();
    let large = vec![0; 2_000_000];
    let first_sender = sender.clone();
    let callback = move |r| first_sender.send(r).unwrap();
    let e = producer.send_with_callback(Record::to("t").value(&large), callback).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::RecordTooLarge);
    let e = results.recv_timeout(TIMEOUT).unwrap().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::RecordTooLarge);
    let good = Record::to("t").key("k").value("good");
    block_on(producer.send_with_callback_async(good, move |r| sender.send(r).unwrap())).unwrap();
    let metadata = results.recv_timeout(TIMEOUT).unwrap().unwrap();
    producer.close(TIMEOUT).unwrap();
    assert!(results.recv().is_err(), "each callback is called once");
    assert_eq!(calls.sent_count.load(Ordering::SeqCst), 2);
    assert_eq!(*calls.outcomes.lock().unwrap(), [Err(ErrorKind::RecordTooLarge), Ok(Some(0))]);
    assert_eq!(producer.totals().interceptor_error_total, 4);
    let batches = broker.with_core(|core, _| core.batches("t", metadata.partition()).unwrap());
    let view = ottla_protocol::record::BatchView::parse(&batches[0].bytes).unwrap();
    let records = view.records(1000).unwrap();
    let records = records.to_vec().unwrap();
    assert_eq!(records[0].value, Some(&b"good"[..]), "a failing interceptor's change is dropped");
    assert_eq!(records[0].headers, [(&b"spy"[..], Some(&b"was here"[..]))]);
}

// CASES: KP7, KP8.
#[test]
fn blocking_calls_in_a_callback_fail_instead_of_waiting() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker).build().unwrap();
    let (sender, results) = mpsc::channel();
    let inner = producer.clone();
    let callback = move |_| {
        let flushed = inner.flush().map_err(|e| e.kind());
        let delivery = inner.send(Record::to("t").value("from a callback")).unwrap();
        let waited = delivery.wait().map_err(|e| e.kind()).map(|_| ());
        let closed = inner.close(TIMEOUT);
        sender.send((flushed, waited, closed.is_ok())).unwrap();
        panic!("a callback's panic must not reach the sender");
    };
    producer.send_with_callback(Record::to("t").value("x"), callback).unwrap();
    let (flushed, waited, is_closed) = results.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(flushed, Err(ErrorKind::WouldDeadlock));
    assert_eq!(waited, Err(ErrorKind::WouldDeadlock));
    assert!(is_closed);
    producer.close(TIMEOUT).unwrap();
    producer.close(TIMEOUT).unwrap();
    assert_eq!(producer.totals().callback_panic_total, 1);
    assert_eq!(producer.available_memory(), 33_554_432);
}

// CASES: KP7, LR12.
#[test]
fn flush_does_not_wait_for_linger() {
    let broker = start_broker(3);
    let builder = producer_builder(&broker).linger(Duration::from_secs(50));
    // By default an awaited record does not linger, so this test turns that off.
    let producer = builder.set("linger.awaited", "false").build().unwrap();
    let sent: Vec<Delivery> =
        (0..10).map(|i| producer.send(Record::to("t").value(&i.to_string())).unwrap()).collect();
    producer.flush().unwrap();
    assert!(sent.iter().all(|d| matches!(d.try_result(), Some(Ok(_)))));
    let lingering = producer.send(Record::to("t").value("x")).unwrap();
    let lingering = lingering.wait_timeout(Duration::from_millis(100)).unwrap_err();
    block_on(producer.flush_async()).unwrap();
    lingering.wait().unwrap();
}

#[test]
fn dropped_producer_sends_its_queued_records() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker).linger(Duration::from_secs(50)).build().unwrap();
    let delivery = producer.send(Record::to("t").value("x")).unwrap();
    drop(producer);
    assert!(matches!(delivery.try_result(), Some(Ok(_))), "{:?}", delivery.try_result());
}

#[test]
fn disconnects_and_retriable_errors_cause_no_loss_and_no_duplicates() {
    let broker = start_broker(3);
    let mut n = 0;
    broker.with_core(|core, _| {
        core.set_fault_injector(move |_, _| {
            n += 1;
            match n % 7 {
                3 => Some(ProduceFault::FailBeforeAppend(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
                5 => Some(ProduceFault::FailAfterAppend(ErrorCode::REQUEST_TIMED_OUT)),
                _ => None,
            }
        });
    });
    let producer = producer_builder(&broker)
        .set("retry.backoff.ms", "5")
        .set("reconnect.backoff.ms", "5")
        .build()
        .unwrap();
    let mut sent = Vec::new();
    for i in 0..2000 {
        sent.push(producer.send(Record::to("t").value(&i.to_string())).unwrap());
        if i % 300 == 150 {
            producer.flush().unwrap();
            broker.close_connections();
        }
    }
    for delivery in sent {
        delivery.wait().unwrap();
    }
    let mut values = std::collections::BTreeSet::new();
    for p in 0..3 {
        for batch in broker.with_core(|core, _| core.batches("t", p).unwrap()) {
            let view = ottla_protocol::record::BatchView::parse(&batch.bytes).unwrap();
            for r in view.records(1 << 20).unwrap().to_vec().unwrap() {
                assert!(values.insert(r.value.unwrap().to_vec()), "duplicate: {r:?}");
            }
        }
    }
    assert_eq!(values.len(), 2000);
}

// CASES: LR3.
#[test]
fn invalid_record_and_its_batch_mates_get_different_errors() {
    let broker = start_broker(3);
    let compacted = NewTopic::new("compacted", 1).config("cleanup.policy", "compact");
    broker.create_topic(compacted).unwrap();
    let producer = producer_builder(&broker).linger(Duration::from_secs(50)).build().unwrap();
    let keyed = producer.send(Record::to("compacted").key("k").value("v")).unwrap();
    let keyless = producer.send(Record::to("compacted").value("v")).unwrap();
    producer.flush().unwrap();
    let (keyed, keyless) = (keyed.wait().unwrap_err(), keyless.wait().unwrap_err());
    assert_eq!(
        (keyed.code(), keyless.code()),
        (Some(ErrorCode::INVALID_RECORD), Some(ErrorCode::INVALID_RECORD))
    );
    assert!(keyless.to_string().contains("requires a key"), "{keyless}");
    assert!(keyed.to_string().contains("another record of the same batch"), "{keyed}");
    producer
        .send(Record::to("compacted").key("k").value("v"))
        .unwrap()
        .wait_timeout(Duration::ZERO)
        .unwrap_err();
    producer.close(TIMEOUT).unwrap();
}

#[test]
fn record_too_large_for_its_topic_has_one_kind_here_and_at_the_broker() {
    let broker = start_broker(3);
    broker.create_topic(NewTopic::new("small", 1).config("max.message.bytes", "1000")).unwrap();
    let producer = producer_builder(&broker).build().unwrap();
    let e = producer.send(Record::to("small").value(&[0; 5000])).unwrap().wait().unwrap_err();
    assert_eq!(
        (e.kind(), e.code()),
        (ErrorKind::RecordTooLarge, Some(ErrorCode::MESSAGE_TOO_LARGE))
    );
    let message = e.to_string();
    assert!(message.contains("make the record smaller") && !message.contains("lower"), "{e}");
    let e = producer.send(Record::to("small").value(&[0; 2_000_000])).unwrap_err();
    assert_eq!((e.kind(), e.code()), (ErrorKind::RecordTooLarge, None));
    producer.close(TIMEOUT).unwrap();
}

/// Returns the error of a record whose attempts fail until `end` is called.
fn error_of_unfinished_record(end: impl FnOnce(&Producer)) -> Error {
    let broker = start_broker(3);
    broker.with_core(|core, _| {
        let fault = ProduceFault::FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS);
        core.set_fault_injector(move |_, _| Some(fault));
    });
    let producer = producer_builder(&broker).set("retry.backoff.ms", "5").build().unwrap();
    let delivery = producer.send(Record::to("t").value("x")).unwrap();
    while producer.totals().record_retry_total < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    end(&producer);
    delivery.wait().unwrap_err()
}

#[test]
fn purged_and_closed_records_have_timings_and_the_last_broker_error() {
    let purge = |p: &Producer| p.purge(ottla::PurgeScope::QueuedAndInFlight).unwrap();
    let close = |p: &Producer| drop(p.close(Duration::ZERO));
    for (e, kind) in [
        (error_of_unfinished_record(purge), ErrorKind::Purged),
        (error_of_unfinished_record(close), ErrorKind::Closed),
    ] {
        assert_eq!((e.kind(), e.code()), (kind, None));
        assert!(e.timings().unwrap().attempts >= 2, "{e:?}");
        assert_eq!(e.last_broker_error().unwrap().code(), Some(ErrorCode::NOT_ENOUGH_REPLICAS));
    }
}

/// Sends a record by each of the nine methods of a type, which returns `(sent, results)`.
macro_rules! send_by_every_method {
    ($target:expr, $record:expr) => {{
        let (sender, results) = mpsc::channel::<Result<RecordMetadata, Error>>();
        let callback = || {
            let sender = sender.clone();
            move |result| sender.send(result).unwrap()
        };
        let deliveries = [
            $target.send($record),
            $target.try_send($record),
            block_on($target.send_async($record)),
        ];
        let others = [
            $target.send_with_callback($record, callback()),
            $target.try_send_with_callback($record, callback()),
            block_on($target.send_with_callback_async($record, callback())),
            $target.enqueue($record),
            $target.try_enqueue($record),
            block_on($target.enqueue_async($record)),
        ];
        drop(sender);
        let deliveries = deliveries.map(|sent| sent.and_then(Delivery::wait));
        (deliveries.into_iter().chain(results).collect::<Vec<_>>(), others)
    }};
}

#[test]
fn four_types_have_the_same_nine_send_methods() {
    let broker = start_broker(3);
    let tokens = Arc::<Mutex<Vec<u64>>>::default();
    let seen = tokens.clone();
    let handler = move |r: &ottla::BatchReport<'_>| seen.lock().unwrap().extend(r.tokens);
    let producer = producer_builder(&broker).delivery_handler(handler).build().unwrap();
    let topic = producer.topic("t").unwrap();
    let typed = producer.typed(BigEndianSerializer, BytesSerializer);
    let typed_topic = typed.topic("t").unwrap();
    let owned = OwnedRecord::to("t").key("k").value("v").token(1);
    let headers = [Header::new("trace-id", "42")];
    let typed_record = TypedRecord::new("t", &7_u64, "v").headers(&headers).timestamp(9);
    let typed_record = typed_record.partition(2).token(2);
    let all = [
        send_by_every_method!(producer, owned.as_record()),
        send_by_every_method!(topic, topic.record().key("k").token(3)),
        send_by_every_method!(typed, typed_record),
        send_by_every_method!(typed_topic, typed_topic.record(&7, "v").token(4)),
    ];
    for (results, others) in &all {
        assert_eq!(results.len(), 6, "three deliveries and three callbacks");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert!(others.iter().all(Result::is_ok), "{others:?}");
    }
    let metadata = all[2].0[0].as_ref().unwrap();
    assert_eq!((metadata.partition(), metadata.timestamp()), (2, 9));
    let report = producer.close(TIMEOUT);
    assert!(report.is_ok());
    let mut tokens = std::mem::take(&mut *tokens.lock().unwrap());
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2, 3, 4].map(|token| [token; 9]).concat());
}

#[test]
fn every_send_method_reports_a_rejected_record_once() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker).build().unwrap();
    let topic = producer.topic("t").unwrap();
    let (results, others) = send_by_every_method!(topic, Record::to("other"));
    assert_eq!(results.len(), 6);
    assert!(results.iter().all(|r| r.as_ref().unwrap_err().kind() == ErrorKind::InvalidRecord));
    assert!(others.iter().all(|r| r.as_ref().unwrap_err().kind() == ErrorKind::InvalidRecord));
    let refusing = ottla::serializer::from_fn(|_: &str| Err::<Vec<u8>, _>("no"));
    let typed = producer.typed(BytesSerializer, refusing);
    let (results, others) = send_by_every_method!(typed, TypedRecord::new("t", "k", "v"));
    assert_eq!(results.len(), 6);
    assert!(results.iter().all(|r| r.as_ref().unwrap_err().kind() == ErrorKind::Serialization));
    assert!(others.iter().all(|r| r.as_ref().unwrap_err().kind() == ErrorKind::Serialization));
}

#[test]
fn topic_handle_exists_before_the_cluster_does() {
    let [port] = reserve_ports();
    let address = format!("127.0.0.1:{port}");
    let producer = Producer::builder()
        .bootstrap_servers(&address)
        .set("reconnect.backoff.ms", "5")
        .max_block(TIMEOUT)
        .build()
        .unwrap();
    let topic = producer.topic("t").unwrap();
    assert_eq!((topic.name(), topic.partition_count()), ("t", 0));
    let record = topic.record().key("k");
    assert_eq!(topic.try_send(record).unwrap_err().kind(), ErrorKind::NoMetadata);
    assert_eq!(topic.try_send(topic.record()).unwrap_err().kind(), ErrorKind::NoMetadata);
    let sending = thread::spawn({
        let topic = topic.clone();
        move || topic.send(topic.record().value("x")).unwrap().wait().unwrap()
    });
    let broker = EmbeddedBroker::builder().listen(&address).topic("t", 3).start().unwrap();
    assert_eq!(sending.join().unwrap().topic(), "t");
    assert_eq!(topic.partition_count(), 3);
    assert_eq!(producer.topic("t").unwrap().partition_count(), 3);
    topic.try_send(record).unwrap().wait().unwrap();
    assert_eq!(producer.topic("bad name").unwrap_err().kind(), ErrorKind::InvalidTopic);
    producer.close(TIMEOUT).unwrap();
    assert_eq!(producer.topic("u").unwrap_err().kind(), ErrorKind::Closed);
    drop(broker);
}

// CASES: KP2.
#[test]
fn missing_topic_error_names_the_brokers_last_error() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker).max_block(Duration::from_millis(400)).build().unwrap();
    let e = producer.send(Record::to("nowhere").value("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::MetadataTimeout);
    assert!(e.to_string().contains("UNKNOWN_TOPIC_OR_PARTITION"), "{e}");
    assert!(e.is_retriable() && !e.is_fatal());
    let e = block_on(producer.send_async(Record::to("nowhere").value("x"))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::MetadataTimeout, "an async call times out, too");
    assert_eq!(
        producer.send(Record::to("t").timestamp(-1).value("x")).unwrap_err().kind(),
        ErrorKind::InvalidRecord
    );
}

#[test]
fn close_times_out_despite_a_blocked_handler() {
    let broker = start_broker(3);
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let producer = producer_builder(&broker)
        .delivery_handler(move |_| {
            let _ = blocked.lock().unwrap().recv();
        })
        .build()
        .unwrap();
    producer.send(Record::to("t").value("x")).unwrap();
    start_flush(&producer);
    producer.close(Duration::from_millis(300)).unwrap();
    drop(unblock);
}

/// Starts a flush and does not wait for it.
fn start_flush(producer: &Producer) {
    let mut flush = std::pin::pin!(producer.flush_async());
    let _ = flush.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

#[test]
fn round_robin_uses_partitions_equally() {
    let broker = EmbeddedBroker::builder().topic("two", 2).start().unwrap();
    let producer = producer_builder(&broker)
        .set("partitioner.class", "RoundRobinPartitioner")
        .build()
        .unwrap();
    let mut counts = [0; 2];
    for _ in 0..100 {
        let delivery = producer.send(Record::to("two").value("x")).unwrap();
        counts[delivery.partition() as usize] += 1;
    }
    assert_eq!(counts, [50, 50]);
}

#[test]
fn callback_can_send_to_a_topic_once_its_metadata_has_arrived() {
    let broker = EmbeddedBroker::builder().topic("t", 1).topic("dead", 1).start().unwrap();
    let producer = producer_builder(&broker).build().unwrap();
    let (sender, results) = mpsc::channel();
    for _ in 0..100 {
        let (inner, sender) = (producer.clone(), sender.clone());
        let callback = move |_| {
            let sent = inner.send(Record::to("dead").value("failed record"));
            sender.send(sent.map(|_| ()).map_err(|e| e.kind())).unwrap();
        };
        producer.send_with_callback(Record::to("t").value("x"), callback).unwrap();
        match results.recv_timeout(TIMEOUT).unwrap() {
            Ok(()) => return,
            Err(kind) => assert_eq!(kind, ErrorKind::NoMetadata),
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("the topic's metadata never arrived");
}

/// The sender of an idle producer sleeps until its metadata is old.
#[test]
fn idle_producer_does_not_loop() {
    let broker = start_broker(3);
    let producer = producer_builder(&broker).build().unwrap();
    producer.send(Record::to("t").value("x")).unwrap().wait().unwrap();
    thread::sleep(Duration::from_millis(300));
    let before = producer.totals().loop_total;
    thread::sleep(Duration::from_secs(2));
    let rounds = producer.totals().loop_total - before;
    assert!(rounds <= 1, "{rounds} loops in two idle seconds");
}
