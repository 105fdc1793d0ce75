//! How results reach the application: the order of callbacks, interceptors, handler and waiters,
//! what `close` reports, and how many records are outstanding.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use ottla::{
    Acknowledgement, BatchReport, BoxError, ErrorCode, ErrorKind, Header, Interceptor,
    MutableRecord, Record, RecordStatus,
};
use ottla_broker::{EmbeddedBroker, NewTopic, ProduceFault};

use common::{TIMEOUT, block_on, producer_builder, start_broker};

type Events = Arc<Mutex<Vec<String>>>;

/// Notes its calls, with the headers of the records.
struct NotingInterceptor {
    name: &'static str,
    events: Events,
}

impl Interceptor for NotingInterceptor {
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        record.headers.push(Header::owned(self.name, "seen"));
        Ok(())
    }

    fn on_acknowledgement(&self, acknowledgement: &Acknowledgement<'_>) {
        let keys: Vec<&str> = acknowledgement.headers.iter().map(|h| &*h.key).collect();
        let partition = acknowledgement.partition;
        let event = format!("{} {} {partition:?}", self.name, keys.join("+"));
        self.events.lock().unwrap().push(event);
    }

    fn close(&self) {
        self.events.lock().unwrap().push(format!("{} closed", self.name));
    }
}

#[test]
fn interceptors_run_first_then_the_callback_then_the_handler_then_waiters() {
    let (broker, events) = (start_broker(1), Events::default());
    let note = |event: &str| {
        let (events, event) = (events.clone(), event.to_owned());
        move || events.lock().unwrap().push(event.clone())
    };
    let on_batch = note("handler");
    let interceptor = |name| NotingInterceptor { name, events: events.clone() };
    let producer = producer_builder(&broker)
        .linger(Duration::from_millis(50))
        .interceptor(interceptor("first"))
        .interceptor(interceptor("second"))
        .delivery_handler(move |_| on_batch())
        .build()
        .unwrap();
    let headers = [Header::new("own", "1")];
    // One batch: the delivery's waiter and the callback belong to different records of it.
    let waiting = producer.send(Record::to("t").value("a").headers(&headers)).unwrap();
    let callback = note("callback");
    let record = Record::to("t").value("b");
    let slow = move |_| {
        thread::sleep(Duration::from_millis(100));
        callback();
    };
    producer.send_with_callback(record, slow).unwrap();
    waiting.wait().unwrap();
    note("waiter")();
    let rejected = Record::to("t").partition(-1);
    assert!(producer.send(rejected).is_err());
    producer.close(TIMEOUT).unwrap();
    producer.close(TIMEOUT).unwrap();
    let expected = [
        "first own+first+second Some(0)",
        "second own+first+second Some(0)",
        "first first+second Some(0)",
        "second first+second Some(0)",
        "callback",
        "handler",
        "waiter",
        "first first+second Some(-1)",
        "second first+second Some(-1)",
        "first closed",
        "second closed",
    ];
    assert_eq!(*events.lock().unwrap(), expected);
    drop(producer);
    assert_eq!(events.lock().unwrap().len(), expected.len(), "interceptors are closed once");
}

#[test]
fn callback_receives_serialized_sizes() {
    let broker = start_broker(1);
    let producer = producer_builder(&broker).build().unwrap();
    let (sender, results) = mpsc::channel();
    let record = Record::to("t").key("four").value("");
    producer.send_with_callback(record, move |r| sender.send(r).unwrap()).unwrap();
    let sizes = results.recv_timeout(TIMEOUT).unwrap().unwrap().serialized_sizes().unwrap();
    assert_eq!((sizes.key, sizes.value), (Some(4), Some(0)));
    let delivered = producer.send(record).unwrap().wait().unwrap();
    assert_eq!(delivered.serialized_sizes(), None);
}

#[test]
fn batch_report_has_the_own_result_of_each_record() {
    let broker = start_broker(1);
    let compacted = NewTopic::new("compacted", 1).config("cleanup.policy", "compact");
    broker.create_topic(compacted).unwrap();
    let (sender, reports) = mpsc::channel();
    let sender = Mutex::new(sender);
    let producer = producer_builder(&broker)
        .linger(Duration::from_secs(50))
        .delivery_handler(move |batch: &BatchReport<'_>| {
            let result = |r: ottla::RecordReport<'_>| {
                (r.token, r.result.map_err(|e| e.to_string().contains("requires a key")))
            };
            let records: Vec<_> = batch.records().map(result).collect();
            sender.lock().unwrap().send(records).unwrap();
        })
        .build()
        .unwrap();
    let topic = producer.topic("t").unwrap();
    topic.enqueue(topic.record().token(7)).unwrap();
    topic.enqueue(topic.record()).unwrap();
    producer.flush().unwrap();
    let records = reports.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(records, [(7, Ok(Some(0))), (0, Ok(Some(1)))]);
    producer.enqueue(Record::to("compacted").key("k").token(1)).unwrap();
    producer.enqueue(Record::to("compacted").value("no key").token(2)).unwrap();
    producer.flush().unwrap();
    assert_eq!(reports.recv_timeout(TIMEOUT).unwrap(), [(1, Err(false)), (2, Err(true))]);
    producer.close(TIMEOUT).unwrap();
}

/// Starts a broker that appends records of `t` and says that it has too few replicas.
fn broker_without_acknowledgements(fault: ProduceFault) -> EmbeddedBroker {
    let broker = start_broker(1);
    broker.with_core(|core, _| core.set_fault_injector(move |_, _| Some(fault)));
    broker
}

#[test]
fn close_reports_what_was_left() {
    let before = ProduceFault::FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS);
    let after = ProduceFault::FailAfterAppend(ErrorCode::REQUEST_TIMED_OUT);
    for (fault, is_possibly_persisted, is_async) in
        [(before, false, false), (after, true, false), (after, true, true)]
    {
        let broker = broker_without_acknowledgements(fault);
        let producer = producer_builder(&broker)
            .set("retry.backoff.ms", "600000")
            .set("retry.backoff.max.ms", "600000")
            .build()
            .unwrap();
        let sent: Vec<_> =
            (0..3).map(|_| producer.send(Record::to("t").value("x")).unwrap()).collect();
        while producer.totals().record_retry_total < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(producer.outstanding_records(), 3);
        assert!(!producer.flush_timeout(Duration::from_millis(20)).unwrap());
        let close_timeout = Duration::from_millis(50);
        let report = if is_async {
            block_on(producer.close_async(close_timeout)).unwrap()
        } else {
            producer.close(close_timeout).unwrap()
        };
        let unclear = if is_possibly_persisted { 3 } else { 0 };
        assert_eq!((report.undelivered, report.possibly_persisted), (3, unclear));
        assert_eq!(producer.close(TIMEOUT).unwrap(), report, "a second close reports the same");
        assert_eq!(producer.outstanding_records(), 0);
        for delivery in sent {
            let e = delivery.wait().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Closed);
            let status = e.record_status() == RecordStatus::PossiblyPersisted;
            assert_eq!(status, is_possibly_persisted, "{e}");
        }
    }
}

#[test]
fn outstanding_records_counts_open_and_closed_batches() {
    let broker = start_broker(1);
    let producer = producer_builder(&broker).linger(Duration::from_secs(50)).build().unwrap();
    assert_eq!(producer.outstanding_records(), 0);
    drop(producer.send(Record::to("t").value("x")).unwrap());
    drop(producer.send(Record::to("t").value("y")).unwrap());
    assert_eq!(producer.outstanding_records(), 2);
    assert!(producer.flush_timeout(TIMEOUT).unwrap());
    assert_eq!(producer.outstanding_records(), 0);
    assert_eq!(producer.close(TIMEOUT).unwrap(), ottla::CloseReport::default());
}

#[test]
fn close_async_ends_despite_a_blocked_handler_and_counts_its_records() {
    let broker = start_broker(1);
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let producer = producer_builder(&broker)
        .delivery_handler(move |_| {
            let _ = blocked.lock().unwrap().recv();
        })
        .build()
        .unwrap();
    producer.enqueue(Record::to("t").value("x")).unwrap();
    let mut flush = std::pin::pin!(producer.flush_async());
    let _ = flush.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let report = block_on(producer.close_async(Duration::from_millis(100))).unwrap();
    assert_eq!((report.undelivered, report.possibly_persisted), (1, 1));
    drop(unblock);
}
