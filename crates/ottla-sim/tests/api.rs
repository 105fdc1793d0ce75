//! The public calls over real sockets and the embedded broker: what each promises. They stand in this crate since
//! it may use both the producer and the broker.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use ottla::{
    BigEndianSerializer, BoxError, BytesSerializer, Delivery, Error, ErrorKind, Header,
    Interceptor, MutableRecord, NullableSerializer, Producer, ProducerBuilder, Record,
    RecordMetadata,
};
use ottla_broker::{EmbeddedBroker, ProduceFault};
use ottla_protocol::ErrorCode;

const TIMEOUT: Duration = Duration::from_secs(20);

fn start_broker() -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", 3).auto_create_topics(false).start().unwrap()
}

fn producer_builder(broker: &EmbeddedBroker) -> ProducerBuilder {
    Producer::builder()
        .bootstrap_servers(&broker.bootstrap_servers())
        .max_block(Duration::from_secs(5))
}

struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(out) => return out,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_delivery_is_sixteen_bytes_and_a_result_no_more_than_twenty_four() {
    assert_eq!(size_of::<Delivery>(), 16);
    assert!(size_of::<Result<Delivery, Error>>() <= 24);
    fn assert_send_sync<T: Send + Sync + Unpin + 'static>() {}
    assert_send_sync::<Delivery>();
    assert_send_sync::<Producer>();
    // What a multi-threaded runtime's `spawn` asks of each future.
    fn assert_send<F: Future + Send>(_: F) {}
    let futures = |p: &Producer| {
        assert_send(p.send_async(Record::to("t")));
        assert_send(p.send_with_async(Record::to("t"), |_| ()));
        assert_send(p.flush_async());
        assert_send(p.partitions_for_async("t"));
        assert_send(p.close_async(TIMEOUT));
    };
    let _: &dyn Fn(&Producer) = &futures;
}

#[test]
fn blocking_async_and_typed_sends_reach_the_log() {
    let broker = start_broker();
    let producer = producer_builder(&broker).build().unwrap();
    let headers = [Header::new("a", b"1"), Header { key: "a", value: None }];
    let sent = producer.send(Record::to("t").partition(1).value("x").headers(&headers)).unwrap();
    let m = sent.wait().unwrap();
    assert_eq!((m.topic(), m.partition(), m.offset()), ("t", 1, Some(0)));
    assert!(m.timestamp() > 1_600_000_000_000);
    let m = block_on(async {
        producer.send_async(Record::to("t").partition(1).value("y")).await.unwrap().await
    });
    assert_eq!(m.unwrap().offset(), Some(1));
    let typed = producer.typed(BigEndianSerializer, NullableSerializer(BytesSerializer));
    let a = typed.send("t", &7_i64, &Some("v")).unwrap().wait().unwrap();
    let b = block_on(typed.send_async("t", &7_i64, &None::<&str>)).unwrap().wait().unwrap();
    assert_eq!(a.partition(), b.partition());
    assert_eq!(producer.partitions_for("t").unwrap().len(), 3);
    assert_eq!(block_on(producer.partitions_for_async("t")).unwrap()[0].leader, Some(1));
}

#[test]
fn try_send_gives_the_record_back_with_its_reason() {
    let broker = start_broker();
    let producer = producer_builder(&broker)
        .buffer_memory(20_000)
        .linger(Duration::from_secs(60))
        .build()
        .unwrap();
    let record = Record::to("t").value("x").token(5);
    let e = producer.try_send(record).unwrap_err();
    assert_eq!((e.record, e.error.kind()), (record, ErrorKind::NoMetadata));
    // It was asked for, so it comes.
    producer.partitions_for("t").unwrap();
    producer.try_send(record.partition(0)).unwrap();
    let e = producer.try_send(record.partition(1)).unwrap_err();
    assert_eq!(e.error.kind(), ErrorKind::Full, "{e}");
    producer.close(TIMEOUT).unwrap();
    assert_eq!(producer.try_send(record).unwrap_err().error.kind(), ErrorKind::Closed);
    assert_eq!(producer.send(record).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.available_memory(), 20_000);
}

#[derive(Default)]
struct InterceptorCalls {
    sent_count: AtomicU32,
    outcomes: Mutex<Vec<Result<Option<i64>, ErrorKind>>>,
}

struct RecordingInterceptor(Arc<InterceptorCalls>);

impl Interceptor for RecordingInterceptor {
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        self.0.sent_count.fetch_add(1, Ordering::SeqCst);
        record.headers.push(("spy".into(), Some(b"was here"[..].into())));
        Ok(())
    }

    fn on_acknowledgement(&self, _: &str, _: Option<i32>, result: &Result<RecordMetadata, Error>) {
        let short = result.as_ref().map(RecordMetadata::offset).map_err(Error::kind);
        self.0.outcomes.lock().unwrap().push(short);
    }
}

struct FailingInterceptor;

impl Interceptor for FailingInterceptor {
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        record.value = Some(b"ruined"[..].into());
        if record.key.is_some() { panic!("bad") } else { Err("bad".into()) }
    }

    fn on_acknowledgement(&self, _: &str, _: Option<i32>, _: &Result<RecordMetadata, Error>) {
        panic!("bad");
    }
}

#[test]
fn kp4_kp13_a_refused_record_reaches_callback_and_interceptors_once_and_bad_ones_are_skipped() {
    let (broker, seen) = (start_broker(), Arc::<InterceptorCalls>::default());
    let producer = producer_builder(&broker)
        .interceptor(FailingInterceptor)
        .interceptor(RecordingInterceptor(seen.clone()))
        .build()
        .unwrap();
    let (heard, ends) = mpsc::channel();
    let large = vec![0; 2_000_000];
    let tell = heard.clone();
    let e = producer.send_with(Record::to("t").value(&large), move |r| tell.send(r).unwrap());
    assert_eq!(e.unwrap_err().kind(), ErrorKind::RecordTooLarge);
    assert_eq!(ends.recv_timeout(TIMEOUT).unwrap().unwrap_err().kind(), ErrorKind::RecordTooLarge);
    let good = Record::to("t").key("k").value("good");
    block_on(producer.send_with_async(good, move |r| heard.send(r).unwrap())).unwrap();
    let written = ends.recv_timeout(TIMEOUT).unwrap().unwrap();
    producer.close(TIMEOUT).unwrap();
    assert!(ends.recv().is_err(), "each callback is called once");
    assert_eq!(seen.sent_count.load(Ordering::SeqCst), 2);
    assert_eq!(*seen.outcomes.lock().unwrap(), [Err(ErrorKind::RecordTooLarge), Ok(Some(0))]);
    assert_eq!(producer.totals().interceptor_error_total, 4);
    let batches = broker.with_core(|core, _| core.batches("t", written.partition()).unwrap());
    let view = ottla_protocol::record::BatchView::parse(&batches[0].bytes).unwrap();
    let records = view.records(1000).unwrap();
    let records = records.to_vec().unwrap();
    assert_eq!(records[0].value, Some(&b"good"[..]), "what a bad interceptor did is dropped");
    assert_eq!(records[0].headers, [(&b"spy"[..], Some(&b"was here"[..]))]);
}

#[test]
fn kp7_kp8_inside_a_callback_nothing_waits() {
    let broker = start_broker();
    let producer = producer_builder(&broker).build().unwrap();
    let (heard, ends) = mpsc::channel();
    let inner = producer.clone();
    let call = move |_| {
        let flush = inner.flush().map_err(|e| e.kind());
        let again = inner.send(Record::to("t").value("from a callback")).unwrap();
        let wait = again.wait().map_err(|e| e.kind()).map(|_| ());
        let closed = inner.close(TIMEOUT);
        heard.send((flush, wait, closed.is_ok())).unwrap();
        panic!("a callback's panic is its own");
    };
    producer.send_with(Record::to("t").value("x"), call).unwrap();
    let (flush, wait, closed) = ends.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(
        (flush, wait, closed),
        (Err(ErrorKind::WouldDeadlock), Err(ErrorKind::WouldDeadlock), true)
    );
    producer.close(TIMEOUT).unwrap();
    producer.close(TIMEOUT).unwrap();
    assert_eq!(producer.totals().callback_panic_total, 1);
    assert_eq!(producer.available_memory(), 33_554_432);
}

#[test]
fn kp7_lr12_flush_does_not_wait_for_linger() {
    let broker = start_broker();
    let builder = producer_builder(&broker).linger(Duration::from_secs(50));
    // A record somebody waits for would not linger: here it is to.
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
fn a_producer_that_is_dropped_sends_what_it_has() {
    let broker = start_broker();
    let producer = producer_builder(&broker).linger(Duration::from_secs(50)).build().unwrap();
    let delivery = producer.send(Record::to("t").value("x")).unwrap();
    drop(producer);
    assert!(matches!(delivery.try_result(), Some(Ok(_))), "{:?}", delivery.try_result());
}

#[test]
fn lost_connections_and_retriable_errors_lose_nothing_and_double_nothing() {
    let broker = start_broker();
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
                assert!(values.insert(r.value.unwrap().to_vec()), "twice: {r:?}");
            }
        }
    }
    assert_eq!(values.len(), 2000);
}

#[test]
fn lr3_records_at_fault_have_their_own_reason_and_their_mates_another() {
    let broker = start_broker();
    broker.with_core(|core, now| {
        core.create_topic_with_configs("compacted", 1, &[("cleanup.policy", "compact")], now)
            .unwrap();
    });
    let producer = producer_builder(&broker).linger(Duration::from_secs(50)).build().unwrap();
    let keyed = producer.send(Record::to("compacted").key("k").value("v")).unwrap();
    let keyless = producer.send(Record::to("compacted").value("v")).unwrap();
    producer.flush().unwrap();
    let (keyed, keyless) = (keyed.wait().unwrap_err(), keyless.wait().unwrap_err());
    assert_eq!((keyed.code(), keyless.code()), (Some(87), Some(87)));
    assert!(keyless.to_string().contains("without a key"), "{keyless}");
    assert!(keyed.to_string().contains("another record of the same batch"), "{keyed}");
    producer
        .send(Record::to("compacted").key("k").value("v"))
        .unwrap()
        .wait_timeout(Duration::ZERO)
        .unwrap_err();
    producer.close(TIMEOUT).unwrap();
}

#[test]
fn kp2_a_topic_that_is_not_there_names_the_last_error() {
    let broker = start_broker();
    let producer = producer_builder(&broker).max_block(Duration::from_millis(400)).build().unwrap();
    let e = producer.send(Record::to("nowhere").value("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::MetadataTimeout);
    assert!(e.to_string().contains("UNKNOWN_TOPIC_OR_PARTITION"), "{e}");
    assert!(e.is_retriable() && !e.is_fatal());
    let e = block_on(producer.send_async(Record::to("nowhere").value("x"))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::MetadataTimeout, "an async caller's time ends, too");
    assert_eq!(
        producer.send(Record::to("t").timestamp(-1).value("x")).unwrap_err().kind(),
        ErrorKind::InvalidRecord
    );
}

#[test]
fn a_handler_that_never_returns_does_not_hold_close_for_ever() {
    let broker = start_broker();
    let (stuck, release) = mpsc::channel::<()>();
    let release = Mutex::new(release);
    let producer = producer_builder(&broker)
        .delivery_handler(move |_| {
            let _ = release.lock().unwrap().recv();
        })
        .build()
        .unwrap();
    producer.send(Record::to("t").value("x")).unwrap();
    producer.start_flush();
    producer.close(Duration::from_millis(300)).unwrap();
    drop(stuck);
}

/// Begins a flush without waiting for it.
trait StartFlushExt {
    fn start_flush(&self);
}

impl StartFlushExt for Producer {
    fn start_flush(&self) {
        let mut flush = std::pin::pin!(self.flush_async());
        let _ = flush.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}

#[test]
fn round_robin_starves_no_partition() {
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
fn a_callback_may_send_to_a_topic_it_has_asked_for_before() {
    let broker = EmbeddedBroker::builder().topic("t", 1).topic("dead", 1).start().unwrap();
    let producer = producer_builder(&broker).build().unwrap();
    let (heard, ends) = mpsc::channel();
    for _ in 0..100 {
        let (inner, heard) = (producer.clone(), heard.clone());
        let call = move |_| {
            let sent = inner.send(Record::to("dead").value("letter"));
            heard.send(sent.map(|_| ()).map_err(|e| e.kind())).unwrap();
        };
        producer.send_with(Record::to("t").value("x"), call).unwrap().wait().unwrap();
        match ends.recv_timeout(TIMEOUT).unwrap() {
            Ok(()) => return,
            Err(kind) => assert_eq!(kind, ErrorKind::NoMetadata),
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("the topic never became known");
}

/// Nothing to do is nothing done: no poll, no look at a clock, until metadata is old.
#[test]
fn an_idle_producer_does_not_go_round() {
    let broker = start_broker();
    let producer = producer_builder(&broker).build().unwrap();
    producer.send(Record::to("t").value("x")).unwrap().wait().unwrap();
    thread::sleep(Duration::from_millis(300));
    let before = producer.totals().loop_total;
    thread::sleep(Duration::from_secs(2));
    let rounds = producer.totals().loop_total - before;
    assert!(rounds <= 1, "{rounds} rounds in two idle seconds");
}
