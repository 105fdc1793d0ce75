//! Metadata and leaders, tested with the whole producer against the broker's core.
//!
//! Virtual time moves step by step. CASES name the behaviours in docs/CASES.md.
#![allow(clippy::disallowed_types)]

use std::sync::Arc;
use std::time::Duration;

use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::broker_now;

// CASES: SN42.
#[test]
fn leader_hint_of_old_leader_skips_the_backoff() {
    let mut fixture = ProducerFixture::with_nodes(2, &[("retry.backoff.ms", "1000")]);
    fixture.send_and_wait(0, "a");
    let leader = fixture.leader();
    fixture.move_leader(3 - leader);
    let start = fixture.machine.now();
    fixture.send_and_wait(0, "b");
    let elapsed = fixture.machine.now().since(start);
    assert!(elapsed < Duration::from_millis(500), "without a backoff: {elapsed:?}");
    // Without a hint, the producer backs off.
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_LEADER_OR_FOLLOWER))]);
    let start = fixture.machine.now();
    fixture.send_and_wait(0, "c");
    let elapsed = fixture.machine.now().since(start);
    assert!(elapsed >= Duration::from_millis(800), "with a backoff: {elapsed:?}");
    assert_eq!(fixture.logged_values(0), ["a", "b", "c"]);
}

/// A cluster that is restored from a backup keeps the topic's id, and its leader epochs go back.
#[test]
fn leader_epoch_that_goes_back_and_stays_back_is_believed() {
    let mut fixture = ProducerFixture::with_nodes(2, &[]);
    fixture.send_and_wait(0, "a");
    for _ in 0..5 {
        fixture.move_leader(3 - fixture.leader());
    }
    fixture.send_and_wait(0, "b");
    let (old_leader, time) = (fixture.leader(), broker_now(&fixture.machine));
    assert!(fixture.cluster.core.restore_topic("t", 3 - old_leader, time));
    let start = fixture.machine.now();
    fixture.send_and_wait(0, "c");
    let elapsed = fixture.machine.now().since(start);
    // Five metadata responses, with backoffs from 100 ms to 1 s between them.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert_eq!(fixture.logged_values(0), ["a", "b", "c"]);
}

/// The broker reads no request in a pause, so requests in flight wait for it (KIP-219).
#[test]
fn pause_that_the_broker_requests_is_no_request_timeout() {
    for idempotence in ["true", "false"] {
        let settings = [
            ("request.timeout.ms", "300"),
            ("delivery.timeout.ms", "60000"),
            ("batch.size", "0"),
            ("enable.idempotence", idempotence),
        ];
        let mut fixture = ProducerFixture::new(&settings);
        fixture.send_and_wait(0, "a");
        let lost_before = fixture.machine.lost_connections();
        fixture.cluster.core.set_produce_throttle(1, 900);
        let start = fixture.machine.now();
        let deliveries: Vec<_> = ["b", "c", "d", "e"].map(|v| fixture.send(0, v)).into();
        for delivery in &deliveries {
            fixture.wait_for(delivery).unwrap();
        }
        let elapsed = fixture.machine.now().since(start);
        assert!(elapsed >= Duration::from_millis(1_800), "nothing was throttled: {elapsed:?}");
        assert_eq!(fixture.machine.lost_connections(), lost_before, "no request has timed out");
        assert_eq!(fixture.logged_values(0), ["a", "b", "c", "d", "e"]);
    }
}

// CASES: SN6, MD15.
#[test]
fn idle_topic_is_removed_from_metadata_and_added_again() {
    let mut fixture =
        ProducerFixture::new(&[("metadata.max.idle.ms", "5000"), ("metadata.max.age.ms", "1000")]);
    fixture.send_and_wait(0, "a");
    fixture.run_for_ms(20_000);
    fixture.send_and_wait(0, "b");
    assert_eq!(fixture.logged_values(0), ["a", "b"]);
}

// CASES: LR14.
#[test]
fn first_records_to_fifty_topics_wait_for_one_metadata_request_each() {
    let mut fixture = ProducerFixture::new(&[]);
    let names: Vec<String> = (0..50).map(|n| format!("topic-{n}")).collect();
    for name in &names {
        fixture.create_topic(name, 1);
    }
    let start = fixture.machine.now();
    for name in &names {
        fixture.send_to_and_flush(name, 0, "first");
    }
    let elapsed = fixture.machine.now().since(start);
    // The records go one after the other. Each needs a metadata request, at most one backoff after
    // the previous one, and a round trip.
    assert!(elapsed < Duration::from_millis(50 * 150), "{elapsed:?}");
}

// KIP-526.
#[test]
fn first_sends_to_many_topics_cost_linear_work() {
    const TOPICS: usize = 1000;
    let mut fixture = ProducerFixture::new(&[]);
    let names: Vec<String> = (0..TOPICS).map(|n| format!("topic-{n}")).collect();
    for name in &names {
        fixture.create_topic(name, 1);
    }
    for name in &names {
        fixture.send_to_and_flush(name, 0, "first");
    }
    let (copies, published) = fixture.metadata_work();
    assert_eq!(copies, 0, "a response costs what it describes");
    assert!((1000..1010).contains(&published), "each topic is published once: {published}");
    // A request for one topic has about 50 bytes.
    let bytes = fixture.cluster.metadata_request_bytes;
    assert!(bytes < 100 * TOPICS, "each topic is requested once: {bytes} bytes");
}

/// An administrator withdraws a permission by mistake and grants it again.
#[test]
fn topic_error_in_metadata_fails_new_sends_and_not_accepted_records() {
    let mut fixture =
        ProducerFixture::new(&[("linger.ms", "5000"), ("metadata.max.age.ms", "500")]);
    fixture.create_topic("other", 1);
    fixture.send_and_wait(0, "a");
    let accepted = fixture.send(0, "b");
    fixture.cluster.metadata_topic_error = Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    fixture.run_for_ms(1_500);
    let refused = fixture.try_send_to("other");
    fixture.run_for_ms(500);
    assert!(refused.is_err() && fixture.try_send_to("other").is_err());
    fixture.cluster.metadata_topic_error = None;
    fixture.wait_for(&accepted).unwrap();
    assert_eq!(fixture.logged_values(0), ["a", "b"]);
}

/// The cluster is away for longer than `metadata.max.idle.ms` while a caller waits.
#[test]
fn send_that_waits_for_a_topic_outlives_a_long_outage() {
    let settings = [("metadata.max.idle.ms", "5000"), ("metadata.recovery.strategy", "none")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "a");
    fixture.create_topic("late", 1);
    fixture.stop_node_1();
    let producer = fixture.producer.clone();
    let mut send =
        Box::pin(async move { producer.send_async(ottla::Record::to("late").value("b")).await });
    let woken = Arc::new(WakeFlag::default());
    let waker = std::task::Waker::from(woken.clone());
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(send.as_mut().poll(&mut cx).is_pending());
    fixture.run_for_ms(20_000);
    // As an executor does, the test polls only a task that was woken.
    while woken.take() {
        assert!(send.as_mut().poll(&mut cx).is_pending());
        fixture.run_for_ms(100);
    }
    fixture.start_node_1();
    fixture.run_for_ms(10_000);
    assert!(woken.take());
    let std::task::Poll::Ready(delivery) = send.as_mut().poll(&mut cx) else { panic!() };
    fixture.wait_for(&delivery.unwrap()).unwrap();
}

/// A waker that remembers whether it was woken.
#[derive(Default)]
struct WakeFlag(std::sync::atomic::AtomicBool);

impl WakeFlag {
    fn take(&self) -> bool {
        self.0.swap(false, std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::task::Wake for WakeFlag {
    fn wake(self: Arc<WakeFlag>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
