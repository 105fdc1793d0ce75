//! The log events of the whole producer, in virtual time: what `docs/EVENTS.md` promises about
//! their fields and their number.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ottla::{BoxError, Interceptor, MutableRecord, Record as KafkaRecord};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::producer_fixture::ProducerFixture;

/// An event as it was logged.
#[derive(Debug, Clone)]
pub(crate) struct LoggedEvent {
    pub(crate) name: &'static str,
    /// The fields without the message.
    pub(crate) fields: BTreeMap<&'static str, String>,
}

impl Visit for LoggedEvent {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() != "message" {
            self.fields.insert(field.name(), format!("{value:?}"));
        }
    }
}

/// A subscriber that records the events of this crate.
#[derive(Clone, Default)]
pub(crate) struct EventRecorder(Arc<Mutex<Vec<LoggedEvent>>>);

impl EventRecorder {
    /// Runs `f`, and returns the events that it logged.
    pub(crate) fn record(f: impl FnOnce()) -> Vec<LoggedEvent> {
        // With a single subscriber, tracing asks only the current thread whether a new event is
        // enabled. Then a parallel test that reaches an event first would disable it for this
        // thread.
        let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let recorder = EventRecorder::default();
        tracing::subscriber::with_default(recorder.clone(), f);
        std::mem::take(&mut recorder.0.lock().unwrap())
    }
}

impl Subscriber for EventRecorder {
    fn enabled(&self, m: &Metadata<'_>) -> bool {
        m.target().starts_with("ottla") && !m.target().starts_with("ottla_")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let name = event.metadata().name();
        if name.starts_with("ottla.") {
            let mut logged = LoggedEvent { name, fields: BTreeMap::new() };
            event.record(&mut logged);
            self.0.lock().unwrap().push(logged);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn events_match_docs_and_are_rate_limited() {
    let events = EventRecorder::record(|| {
        let mut fixture = ProducerFixture::with_nodes(
            2,
            &[("delivery.timeout.ms", "3000"), ("request.timeout.ms", "1000")],
        );
        fixture.send_and_wait(0, "a");
        let leader = fixture.leader();
        fixture.move_leader(3 - leader);
        fixture.send_and_wait(0, "b");
        fixture.cluster.core.set_produce_throttle(3 - leader, 10);
        fixture.send_and_wait(0, "c");
        fixture.drop_connections();
        fixture.send_and_wait(0, "d");
        fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS)); 100]);
        let expired = fixture.send(0, "e");
        assert!(fixture.wait_for(&expired).is_err());
        fixture.cluster.core.clear_fault_injector();
        fixture.run_for_ms(1000);
        fixture.send_and_wait(0, "f");
    });
    let names = [
        "ottla.connected",
        "ottla.disconnected",
        "ottla.metadata",
        "ottla.leader_changed",
        "ottla.throttled",
        "ottla.producer_id",
        "ottla.epoch_bumped",
        "ottla.batch_expired",
    ];
    assert_documented(&events, &names);
    let is_bump =
        |e: &&LoggedEvent| e.fields.contains_key("epoch") && e.fields.contains_key("partitions");
    let bumps = events.iter().filter(is_bump).count();
    assert_eq!(bumps, 1, "one bump is one event: {events:#?}");
    let disconnects = count(&events, "ottla.disconnected");
    assert!(disconnects <= 20, "at most one a second for each broker: {disconnects}");
}

/// Checks that these events were logged, and that `docs/EVENTS.md` has all their fields.
pub(crate) fn assert_documented(events: &[LoggedEvent], names: &[&str]) {
    let page = include_str!("../../../docs/EVENTS.md");
    for name in names {
        let row = page
            .lines()
            .find(|l| l.starts_with(&format!("| `{name}`")))
            .unwrap_or_else(|| panic!("{name} is not documented"));
        let event = events.iter().find(|e| e.name == *name);
        let event = event.unwrap_or_else(|| panic!("no event {name}: {events:#?}"));
        for field in event.fields.keys().filter(|f| **f != "suppressed") {
            assert!(row.contains(&format!("`{field}`")), "{name}: {field} is not documented");
        }
    }
}

pub(crate) fn count(events: &[LoggedEvent], name: &str) -> usize {
    events.iter().filter(|e| e.name == name).count()
}

/// Returns the field `suppressed` of each event with this name.
fn suppressed(events: &[LoggedEvent], name: &str) -> Vec<String> {
    let events = events.iter().filter(|e| e.name == name);
    events.map(|e| e.fields["suppressed"].clone()).collect()
}

/// An interceptor that fails for every record.
struct Failing;

impl Interceptor for Failing {
    fn on_send(&self, _: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        Err("no trace id".into())
    }
}

/// A closed producer without a handler logged a line for each of 2,000 batches.
#[test]
fn batches_that_fail_without_a_listener_are_one_event_a_second() {
    let events = EventRecorder::record(|| {
        let mut fixture = ProducerFixture::new(&[]);
        fixture.send_and_wait(0, "warm");
        let fault = Some(FailBeforeAppend(ErrorCode::POLICY_VIOLATION));
        // Each record is a batch.
        fixture.push_batch_faults(&[fault; 100]);
        (0..100).for_each(|i| drop(fixture.send(i % 2, "v")));
        fixture.flush();
        fixture.run_for_ms(1000);
        fixture.push_batch_faults(&[fault]);
        drop(fixture.send(0, "v"));
        fixture.flush();
    });
    assert_eq!(suppressed(&events, "ottla.batch_failed"), ["0", "99"]);
}

#[test]
fn panics_of_callbacks_and_failures_of_interceptors_are_one_event_a_second() {
    let mut totals = None;
    let events = EventRecorder::record(|| {
        let mut fixture = ProducerFixture::with_builder(&[], |b| b.interceptor(Failing));
        fixture.send_and_wait(0, "warm");
        let send = |fixture: &ProducerFixture| {
            let record = KafkaRecord::to("t").partition(0).value("v");
            fixture.producer.send_with_callback(record, |_| panic!("in the application")).unwrap();
        };
        (0..100).for_each(|_| send(&fixture));
        fixture.flush();
        fixture.run_for_ms(1000);
        send(&fixture);
        fixture.flush();
        totals = Some(fixture.producer.totals());
    });
    assert_eq!(suppressed(&events, "ottla.callback_panicked"), ["0", "99"]);
    let failures = suppressed(&events, "ottla.interceptor_failed");
    assert_eq!(failures.len(), 2, "{failures:?}");
    let totals = totals.unwrap();
    assert_eq!((totals.callback_panic_total, totals.interceptor_error_total), (101, 102));
}

#[test]
fn metadata_responses_are_one_event_a_second_for_each_broker() {
    let events = EventRecorder::record(|| {
        let mut fixture = ProducerFixture::new(&[]);
        for i in 0..50 {
            let topic = format!("new-{i}");
            fixture.create_topic(&topic, 1);
            let delivery = fixture.send_to(&topic, 0, "v");
            fixture.wait_for(&delivery).unwrap();
        }
        assert!(fixture.machine.now().0 < 3_000_000_000, "within two seconds of virtual time");
    });
    let logged = count(&events, "ottla.metadata");
    assert!((1..=4).contains(&logged), "{logged} events for 50 new topics");
}
