//! Drives each transition of the producer's lifecycle while an append, a topic lookup, a flush and
//! deliveries are pending: each of them ends, and all memory returns.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ottla::{Delivery, Error, ErrorKind, Record, RecordStatus};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;

/// The size of each record's value; three records do not fit into `buffer.memory`.
const VALUE_SIZE: usize = 1000;

#[derive(Default)]
struct WokenFlag(AtomicBool);

impl Wake for WokenFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A call that waits, and whether it was woken.
struct PendingCall<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<WokenFlag>,
}

impl<T> PendingCall<T> {
    fn new(future: impl Future<Output = T> + 'static) -> PendingCall<T> {
        let mut call = PendingCall { future: Box::pin(future), woken: Arc::default() };
        assert!(call.poll().is_pending());
        call
    }

    fn poll(&mut self) -> Poll<T> {
        let waker = Waker::from(self.woken.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Returns the output of a call that was woken.
    fn finish(mut self) -> T {
        assert!(self.woken.0.load(Ordering::SeqCst), "the call was not woken");
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("the call was woken, but still waits"),
        }
    }
}

/// What is pending when the lifecycle changes.
struct Pending {
    fixture: ProducerFixture,
    all_memory: u64,
    in_flight: Delivery,
    queued: Delivery,
    append: PendingCall<Result<Delivery, Error>>,
    lookup: PendingCall<Result<Delivery, Error>>,
    flush: PendingCall<Result<(), Error>>,
}

impl Pending {
    /// `fault` is the response to the batch in flight, which is held back.
    fn new(fault: Option<ErrorCode>) -> Pending {
        let mut fixture = ProducerFixture::new(&[
            ("buffer.memory", "2500"),
            ("max.in.flight.requests.per.connection", "1"),
            ("metadata.recovery.strategy", "none"),
        ]);
        fixture.send_and_wait(0, "connects");
        let all_memory = fixture.producer.available_memory();
        fixture.push_batch_faults(&[fault.map(FailBeforeAppend)]);
        fixture.hold_responses();
        let value = "v".repeat(VALUE_SIZE);
        let in_flight = fixture.send(0, &value);
        fixture.wait_for_batches(1);
        let queued = fixture.send(0, &value);
        let producer = fixture.producer.clone();
        let append = PendingCall::new(async move {
            let value = "v".repeat(VALUE_SIZE);
            producer.send_async(Record::to("t").partition(0).value(&value)).await
        });
        let producer = fixture.producer.clone();
        let lookup =
            PendingCall::new(async move { producer.send_async(Record::to("unknown")).await });
        let producer = fixture.producer.clone();
        let flush = PendingCall::new(async move { producer.flush_async().await });
        fixture.run_for_ms(10);
        Pending { fixture, all_memory, in_flight, queued, append, lookup, flush }
    }

    /// Checks that the waiting calls have failed with this kind, and returns how the records ended.
    fn finish(self, kind: ErrorKind) -> [Option<(ErrorKind, RecordStatus)>; 2] {
        let Pending { fixture, all_memory, in_flight, queued, append, lookup, flush } = self;
        assert_eq!(append.finish().unwrap_err().kind(), kind);
        assert_eq!(lookup.finish().unwrap_err().kind(), kind);
        flush.finish().unwrap();
        let later = fixture.producer.try_send(Record::to("t")).unwrap_err();
        assert_eq!(later.kind(), kind);
        assert!(fixture.producer.is_closed());
        assert_eq!(fixture.producer.available_memory(), all_memory, "all memory returns");
        [in_flight, queued].map(|delivery| {
            let result = delivery.try_result().expect("the record is completed");
            result.err().map(|e| (e.kind(), e.record_status()))
        })
    }
}

const CLOSED: ErrorKind = ErrorKind::Closed;
const FATAL: ErrorKind = ErrorKind::Authorization;

#[test]
fn closing_producer_sends_what_is_left_and_ends() {
    let mut pending = Pending::new(None);
    pending.fixture.begin_close(Duration::from_secs(10));
    pending.fixture.release_responses();
    pending.fixture.run_until_shutdown();
    assert_eq!(pending.finish(CLOSED), [None, None]);
}

#[test]
fn producer_has_metrics_until_it_is_closed() {
    let mut pending = Pending::new(None);
    pending.fixture.begin_close(Duration::from_secs(10));
    pending.fixture.run_for_ms(10);
    let names: Vec<_> = pending.fixture.producer.metrics().iter().map(|m| m.name).collect();
    assert!(names.contains(&"record-send-total"), "the last records are in flight: {names:?}");
    pending.fixture.release_responses();
    pending.fixture.run_until_shutdown();
    assert!(pending.fixture.producer.metrics().is_empty());
}

#[test]
fn closing_producer_fails_what_is_left_at_the_deadline() {
    let mut pending = Pending::new(None);
    pending.fixture.begin_close(Duration::from_millis(50));
    pending.fixture.run_until_shutdown();
    let expected = [
        Some((CLOSED, RecordStatus::PossiblyPersisted)),
        Some((CLOSED, RecordStatus::NotPersisted)),
    ];
    assert_eq!(pending.finish(CLOSED), expected);
}

#[test]
fn failed_producer_fails_everything_and_ends_with_close() {
    let mut pending = Pending::new(Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED));
    pending.fixture.release_responses();
    let in_flight = pending.fixture.wait_for(&pending.in_flight);
    assert!(in_flight.unwrap_err().is_fatal());
    pending.fixture.run_for_ms(100);
    pending.fixture.begin_close(Duration::from_secs(10));
    pending.fixture.run_until_shutdown();
    let expected = Some((FATAL, RecordStatus::NotPersisted));
    assert_eq!(pending.finish(FATAL), [expected; 2]);
}

#[test]
fn closing_producer_that_fails_ends_at_once() {
    let mut pending = Pending::new(Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED));
    pending.fixture.begin_close(Duration::from_secs(10));
    pending.fixture.run_for_ms(10);
    pending.fixture.release_responses();
    pending.fixture.run_until_shutdown();
    let expected = Some((FATAL, RecordStatus::NotPersisted));
    assert_eq!(pending.finish(FATAL), [expected; 2]);
}

#[test]
fn sender_that_ends_by_itself_fails_everything() {
    let mut pending = Pending::new(None);
    pending.fixture.abort();
    let expected = [
        Some((CLOSED, RecordStatus::PossiblyPersisted)),
        Some((CLOSED, RecordStatus::NotPersisted)),
    ];
    assert_eq!(pending.finish(CLOSED), expected);
}

/// Sends a record and begins to close when it is woken.
struct SendAndClose {
    producer: ottla::Producer,
    accepted: OnceLock<Delivery>,
}

impl Wake for SendAndClose {
    fn wake(self: Arc<Self>) {
        let record = Record::to("t").partition(1).value("accepted");
        let _ = self.accepted.set(self.producer.try_send(record).unwrap());
        let mut closing = Box::pin(self.producer.close_async(Duration::from_secs(10)));
        let _ = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// The sender wakes the caller of a flush after it has handled the events of the round.
#[test]
fn closing_producer_sends_a_record_accepted_in_the_middle_of_a_round() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "connects");
    let _sent = fixture.send(0, "flushed");
    let producer = fixture.producer.clone();
    let caller = Arc::new(SendAndClose { producer: producer.clone(), accepted: OnceLock::new() });
    let mut flush = std::pin::pin!(producer.flush_async());
    let waker = Waker::from(caller.clone());
    assert!(flush.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    fixture.run_until_shutdown();
    let accepted = caller.accepted.get().expect("the flush has woken its caller");
    accepted.try_result().unwrap().unwrap();
}

/// A way to end a producer.
type End = fn(&mut ProducerFixture);

const ENDS: [End; 3] = [
    |fixture| close_and_run(fixture, Duration::ZERO),
    |fixture| close_and_run(fixture, Duration::from_millis(50)),
    ProducerFixture::abort,
];

fn close_and_run(fixture: &mut ProducerFixture, timeout: Duration) {
    fixture.begin_close(timeout);
    fixture.run_until_shutdown();
}

/// Ends the producer while a worker thread compresses or splits the batch of `delivery`, with a
/// flush before the end and one after it.
fn check_flushes_at_end(fixture: &mut ProducerFixture, delivery: &Delivery, end: End) {
    let flush = |fixture: &ProducerFixture| {
        let producer = fixture.producer.clone();
        PendingCall::new(async move { producer.flush_async().await })
    };
    let mut before = flush(fixture);
    end(fixture);
    assert!(fixture.producer.is_closed());
    let after = flush(fixture);
    assert!(delivery.try_result().is_none() && before.poll().is_pending());
    fixture.release_work();
    let error = delivery.try_result().expect("the record is completed").unwrap_err();
    assert_eq!(error.kind(), CLOSED);
    before.finish().unwrap();
    after.finish().unwrap();
}

#[test]
fn flush_waits_for_a_batch_that_is_compressed_while_the_producer_ends() {
    for end in ENDS {
        let mut fixture = ProducerFixture::new(&[("compression.type", "lz4")]);
        fixture.send_and_wait(0, "connects");
        let all_memory = fixture.producer.available_memory();
        fixture.hold_work();
        let delivery = fixture.send(0, "v");
        fixture.run_for_ms(10);
        check_flushes_at_end(&mut fixture, &delivery, end);
        assert_eq!(fixture.producer.available_memory(), all_memory, "all memory returns");
    }
}

#[test]
fn flush_waits_for_a_batch_that_is_split_while_the_producer_ends() {
    for end in ENDS {
        let mut fixture = ProducerFixture::new(&[("batch.size", "16384"), ("linger.ms", "5")]);
        fixture.send_and_flush("connects");
        let all_memory = fixture.producer.available_memory();
        fixture.set_max_message_bytes(200);
        fixture.hold_work();
        let delivery = fixture.send(0, &"v".repeat(100));
        let second = fixture.send(0, &"v".repeat(100));
        fixture.run_for_ms(100);
        check_flushes_at_end(&mut fixture, &delivery, end);
        assert!(second.try_result().unwrap().is_err());
        assert_eq!(fixture.producer.available_memory(), all_memory, "all memory returns");
    }
}
