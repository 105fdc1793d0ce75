//! Behaviours of metadata, connections and topics, by their numbers in the acceptance cases: the whole producer
//! against the broker's core, step by step in virtual time.
#![allow(clippy::disallowed_types)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode as E;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::producer_fixture::ProducerFixture;

#[test]
fn sn42_a_leader_that_moved_is_followed_at_once_by_what_the_old_one_says() {
    let mut b = ProducerFixture::with_nodes(2, &[("retry.backoff.ms", "1000")]);
    b.send_and_wait(0, "a");
    let leader = b.cluster.core.describe_partition("t", 0).unwrap().0;
    let time = crate::sim_cluster::broker_now(&b.machine);
    assert!(b.cluster.core.move_leader("t", 0, 3 - leader, (true, false), time));
    let at = b.machine.now();
    b.send_and_wait(0, "b");
    let took = b.machine.now().since(at);
    assert!(took < Duration::from_millis(500), "without a backoff: {took:?}");
    // Without a hint the backoff holds.
    b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_LEADER_OR_FOLLOWER))]);
    let at = b.machine.now();
    b.send_and_wait(0, "c");
    let took = b.machine.now().since(at);
    assert!(took >= Duration::from_millis(800), "with a backoff: {took:?}");
    assert_eq!(b.logged_values(0), ["a", "b", "c"]);
}

#[test]
fn sn6_md15_a_topic_nobody_produces_to_is_forgotten_and_comes_back() {
    let mut b =
        ProducerFixture::new(&[("metadata.max.idle.ms", "5000"), ("metadata.max.age.ms", "1000")]);
    b.send_and_wait(0, "a");
    b.run_for_ms(20_000);
    b.send_and_wait(0, "b");
    assert_eq!(b.logged_values(0), ["a", "b"]);
}

#[test]
fn lr14_the_first_records_to_fifty_topics_wait_for_each_other_as_little_as_can_be() {
    let mut b = ProducerFixture::new(&[]);
    let names: Vec<String> = (0..50).map(|n| format!("topic-{n}")).collect();
    for name in &names {
        b.create_topic(name, 1);
    }
    let at = b.machine.now();
    for name in &names {
        b.send_to_and_flush(name, 0, "first");
    }
    let took = b.machine.now().since(at);
    // One after the other: each needs its metadata, whose requests are a backoff apart at most, and a round trip.
    assert!(took < Duration::from_millis(50 * 150), "{took:?}");
}

/// Names of events, with their fields' names.
#[derive(Clone, Default)]
struct EventRecorder(Arc<Mutex<Vec<String>>>);

struct FieldNames(Vec<&'static str>);

impl Visit for FieldNames {
    fn record_debug(&mut self, field: &Field, _: &dyn std::fmt::Debug) {
        self.0.push(field.name());
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
            let mut fields = FieldNames(Vec::new());
            event.record(&mut fields);
            fields.0.retain(|f| *f != "message");
            self.0.lock().unwrap().push(format!("{name} {}", fields.0.join(" ")));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn events_have_the_names_and_fields_of_their_page_and_are_at_most_one_a_second() {
    let page = include_str!("../../../docs/EVENTS.md");
    let heard = EventRecorder::default();
    let mine = heard.clone();
    tracing::subscriber::with_default(mine, || {
        let mut b = ProducerFixture::with_nodes(
            2,
            &[("delivery.timeout.ms", "3000"), ("request.timeout.ms", "1000")],
        );
        b.send_and_wait(0, "a");
        let leader = b.cluster.core.describe_partition("t", 0).unwrap().0;
        let time = crate::sim_cluster::broker_now(&b.machine);
        b.cluster.core.move_leader("t", 0, 3 - leader, (true, false), time);
        b.send_and_wait(0, "b");
        b.cluster.core.set_produce_throttle(3 - leader, 10);
        b.send_and_wait(0, "c");
        b.drop_connections();
        b.send_and_wait(0, "d");
        b.push_batch_faults(&[Some(FailBeforeAppend(E::NOT_ENOUGH_REPLICAS)); 100]);
        let late = b.send(0, "e");
        assert!(b.wait_for(&late).is_err());
        b.cluster.core.clear_fault_injector();
        b.run_for_ms(1000);
        b.send_and_wait(0, "f");
    });
    let heard = heard.0.lock().unwrap();
    for name in [
        "ottla.connected",
        "ottla.disconnected",
        "ottla.metadata",
        "ottla.leader_changed",
        "ottla.throttled",
        "ottla.producer_id",
        "ottla.epoch_bumped",
        "ottla.batch_expired",
    ] {
        let row = page
            .lines()
            .find(|l| l.contains(&format!("`{name}`")))
            .unwrap_or_else(|| panic!("{name}"));
        let one = heard.iter().find(|h| h.starts_with(&format!("{name} ")));
        let one = one.unwrap_or_else(|| panic!("{name} was not told: {heard:#?}"));
        for field in one.split(' ').skip(1).filter(|f| *f != "left_out") {
            assert!(row.contains(&format!("`{field}`")), "{name}: {field} is not on the page");
        }
    }
    let lost = heard.iter().filter(|h| h.starts_with("ottla.disconnected ")).count();
    assert!(lost <= 20, "one a second of a broker: {lost}");
}
