//! What `Producer::snapshot` reports, tested with the whole producer against the broker's core: one
//! test for each reason why a partition waits.
#![allow(clippy::disallowed_types)]

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use ottla::{
    BrokerSnapshot, BrokerState, Error, ErrorKind, PartitionSnapshot, QueueState, Record, Snapshot,
};
use ottla_broker::ProduceFault::FailBeforeAppend;
use ottla_protocol::ErrorCode;

use crate::producer_fixture::ProducerFixture;
use crate::sim_cluster::broker_now;

impl ProducerFixture {
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let producer = self.producer.clone();
        self.block_on(producer.snapshot_async()).unwrap()
    }

    /// Returns the snapshot of a partition of `t`, which must have records.
    fn partition(&mut self, partition: i32) -> PartitionSnapshot {
        let mut partitions = self.snapshot().partitions;
        partitions.retain(|p| p.topic == "t" && p.partition == partition);
        assert_eq!(partitions.len(), 1, "{partitions:?}");
        partitions.remove(0)
    }

    /// Returns the snapshot of a node.
    fn broker(&mut self, id: i32) -> BrokerSnapshot {
        let brokers = self.snapshot().brokers;
        let found = brokers.iter().find(|b| b.id == Some(id));
        found.unwrap_or_else(|| panic!("no broker {id}: {brokers:?}")).clone()
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn producer_without_records_has_connections_and_free_memory_only() {
    let mut fixture = ProducerFixture::new(&[("buffer.memory", "100000")]);
    fixture.send_and_wait(0, "a");
    fixture.run_for_ms(10);
    let snapshot = fixture.snapshot();
    assert_eq!((snapshot.partitions.len(), snapshot.awaited_topics.len()), (0, 0));
    let memory = snapshot.memory;
    assert_eq!((memory.total_bytes, memory.available_bytes), (100_000, 100_000));
    assert_eq!((memory.waiting_callers, memory.awaited_bytes), (0, 0));
    let broker = fixture.broker(1);
    assert_eq!((broker.state, broker.requests_in_flight), (BrokerState::Ready, 0));
    assert_eq!((&*broker.host, broker.port), ("10.0.0.1", 9092));
    assert_eq!((broker.throttle_left, &broker.last_error), (Duration::ZERO, &None));
    assert!(broker.last_round_trip.is_some_and(|t| t < ms(1000)), "{broker:?}");
}

#[test]
fn open_batch_lingers_for_the_rest_of_its_linger_time() {
    let mut fixture = ProducerFixture::new(&[("linger.ms", "1000"), ("batch.size", "1000")]);
    fixture.send_and_flush("a");
    let _delivery = fixture.send(1, "b");
    fixture.run_for_ms(400);
    let p = fixture.partition(1);
    let QueueState::Lingering(left) = p.state else { panic!("{p:?}") };
    assert!(left > ms(550) && left <= ms(600), "{left:?}");
    assert!(p.oldest_batch_age >= ms(400) && p.oldest_batch_age < ms(450), "{p:?}");
    assert_eq!((p.queued_batches, p.in_flight_batches, p.leader), (1, 0, Some(1)));
    // A batch's header has 61 bytes.
    assert!(p.queued_bytes > 61 && p.queued_bytes < 100, "{p:?}");
    assert_eq!((p.attempts, p.last_error), (0, None));
}

#[test]
fn failed_batch_is_in_backoff_with_the_brokers_error() {
    let backoff = [("retry.backoff.ms", "10000"), ("retry.backoff.max.ms", "10000")];
    let mut fixture = ProducerFixture::new(&backoff);
    fixture.send_and_wait(0, "a");
    fixture.push_batch_faults(&[Some(FailBeforeAppend(ErrorCode::NOT_ENOUGH_REPLICAS))]);
    let _delivery = fixture.send(0, "b");
    fixture.run_for_ms(1000);
    let p = fixture.partition(0);
    let QueueState::BackingOff(left) = p.state else { panic!("{p:?}") };
    assert!(left > ms(6_900) && left <= ms(9_000), "{left:?}");
    assert_eq!((p.queued_batches, p.in_flight_batches, p.attempts), (1, 0, 1));
    assert!(p.last_error.as_ref().is_some_and(|e| e.contains("NOT_ENOUGH_REPLICAS")), "{p:?}");
}

#[test]
fn sent_batch_is_in_flight_until_its_response() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.hold_responses();
    let delivery = fixture.send(0, "b");
    fixture.run_for_ms(500);
    let p = fixture.partition(0);
    assert_eq!((p.state, p.queued_batches, p.in_flight_batches), (QueueState::InFlight, 0, 1));
    assert!(p.in_flight_bytes > 61 && p.queued_bytes == 0 && p.attempts == 1, "{p:?}");
    assert!(p.oldest_batch_age >= ms(490), "{p:?}");
    let broker = fixture.broker(1);
    assert!(broker.state == BrokerState::Ready && broker.requests_in_flight > 0, "{broker:?}");
    assert!(broker.oldest_request_age.is_some_and(|age| age >= ms(490)), "{broker:?}");
    fixture.release_responses();
    fixture.wait_for(&delivery).unwrap();
    assert_eq!(fixture.snapshot().partitions, []);
    let round_trip = fixture.broker(1).last_round_trip.unwrap();
    // The last request may be one for metadata, which was sent a little later.
    assert!(round_trip >= ms(400), "{round_trip:?}");
}

#[test]
fn batch_behind_the_first_of_an_epoch_is_muted() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.create_topic("other", 1);
    fixture.send_to_and_flush("other", 0, "a");
    fixture.send_and_wait(1, "a");
    fixture.hold_responses();
    let _deliveries = [fixture.send(0, "b"), fixture.send(0, "c"), fixture.send(0, "d")];
    let p = fixture.partition(0);
    assert_eq!((p.state, p.queued_batches, p.in_flight_batches), (QueueState::Muted, 2, 1));
}

#[test]
fn ready_partition_of_a_broker_with_the_most_requests_in_flight_waits_for_it() {
    let mut fixture = ProducerFixture::new(&[("max.in.flight.requests.per.connection", "1")]);
    fixture.send_and_wait(0, "a");
    fixture.send_and_wait(1, "a");
    fixture.hold_responses();
    let _sent = fixture.send(0, "b");
    fixture.wait_for_batches(1);
    let _deliveries = [fixture.send(0, "c"), fixture.send(1, "d")];
    let partitions = fixture.snapshot().partitions;
    let states: Vec<_> = partitions.iter().map(|p| (p.partition, p.state)).collect();
    assert_eq!(states, [(0, QueueState::Muted), (1, QueueState::BrokerBusy)]);
}

#[test]
fn partition_of_a_throttling_broker_waits_for_the_rest_of_the_throttle() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    fixture.cluster.core.set_produce_throttle(1, 5000);
    fixture.send_and_wait(0, "b");
    let _delivery = fixture.send(0, "c");
    fixture.run_for_ms(1000);
    let p = fixture.partition(0);
    let QueueState::Throttled(left) = p.state else { panic!("{p:?}") };
    assert!(left > ms(3_900) && left <= ms(4_000), "{left:?}");
    let broker = fixture.broker(1);
    assert!(broker.throttle_left > ms(3_900) && broker.throttle_left <= left, "{broker:?}");
    assert_eq!(broker.state, BrokerState::Ready);
}

#[test]
fn partition_of_a_lost_broker_waits_for_its_connection_and_the_broker_has_the_error() {
    let mut fixture = ProducerFixture::new(&[("metadata.recovery.strategy", "none")]);
    fixture.send_and_wait(0, "a");
    fixture.stop_node_1();
    let delivery = fixture.send(0, "b");
    fixture.run_for_ms(2000);
    assert_eq!(fixture.partition(0).state, QueueState::BrokerNotReady);
    let broker = fixture.broker(1);
    assert!(broker.state != BrokerState::Ready && broker.last_error.is_some(), "{broker:?}");
    fixture.start_node_1();
    fixture.wait_for(&delivery).unwrap();
    let broker = fixture.broker(1);
    assert_eq!(broker.state, BrokerState::Ready);
    assert!(broker.last_error.is_some(), "the last error stays visible");
}

#[test]
fn partition_without_a_leader_waits_for_one() {
    let mut fixture = ProducerFixture::with_nodes(3, &[("metadata.max.age.ms", "100")]);
    fixture.send_and_wait(0, "a");
    // Both replicas stop, and another node serves the metadata.
    let time = broker_now(&fixture.machine);
    let replicas = fixture.cluster.core.describe_partition("t", 0).unwrap().isr;
    for node in replicas {
        fixture.cluster.core.stop_node(node, time);
    }
    let _delivery = fixture.send(0, "b");
    fixture.run_until(|f| f.partition(0).leader.is_none());
    assert_eq!(fixture.partition(0).state, QueueState::LeaderUnknown);
}

#[test]
fn idempotent_producer_without_an_id_waits_for_it() {
    let mut fixture = ProducerFixture::new(&[("retry.backoff.ms", "10000")]);
    fixture.cluster.core.set_producer_id_errors(&[ErrorCode::COORDINATOR_LOAD_IN_PROGRESS; 9]);
    let _delivery = fixture.send(0, "a");
    fixture.run_for_ms(1000);
    let p = fixture.partition(0);
    assert_eq!((p.state, p.queued_batches), (QueueState::ProducerIdUnknown, 1));
}

#[test]
fn partition_with_a_lost_sequence_waits_for_a_new_epoch() {
    let mut fixture = ProducerFixture::with_nodes(2, &[("metadata.max.age.ms", "2000")]);
    // The other node has a connection, too, and serves the metadata.
    fixture.send_and_wait(0, "a");
    fixture.send_and_wait(1, "a");
    let leader = fixture.leader();
    fixture.hold_responses_of(leader);
    let _delivery = fixture.send(0, "b");
    fixture.wait_for_batches(1);
    // The topic is created again while a batch is in flight.
    let time = broker_now(&fixture.machine);
    fixture.cluster.core.delete_topic("t").unwrap();
    fixture.cluster.core.create_topic("t", 2, time).unwrap();
    fixture.run_for_ms(2500);
    let delivery = fixture.send(0, "c");
    let p = fixture.partition(0);
    assert_eq!((p.state, p.queued_batches, p.in_flight_batches), (QueueState::EpochBump, 1, 1));
    fixture.release_responses_of(leader);
    fixture.wait_for(&delivery).unwrap();
}

#[test]
fn partition_that_is_not_in_the_transaction_yet_waits_for_the_coordinator() {
    let mut fixture = ProducerFixture::new(&[("transactional.id", "t-1")]);
    fixture.cluster.core.set_transaction_version(1);
    let producer = fixture.producer.clone();
    fixture.block_on(producer.init_transactions_async()).unwrap();
    let mut transaction = fixture.block_on(producer.begin_transaction_async()).unwrap();
    fixture.block_on(producer.partitions_for_async("t")).unwrap();
    fixture.hold_responses();
    let delivery = fixture.send(0, "a");
    let p = fixture.partition(0);
    assert_eq!((p.state, p.queued_batches, p.in_flight_batches), (QueueState::Transaction, 1, 0));
    fixture.release_responses();
    fixture.wait_for(&delivery).unwrap();
    fixture.block_on(transaction.commit_async()).unwrap();
}

#[test]
fn batch_that_a_thread_compresses_waits_for_the_thread() {
    let settings = [("compression.type", "gzip"), ("batch.size", "4000"), ("linger.ms", "0")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_wait(0, "a");
    fixture.hold_work();
    let delivery = fixture.send(0, "b");
    fixture.run_for_ms(100);
    let p = fixture.partition(0);
    assert_eq!((p.state, p.queued_batches, p.queued_bytes), (QueueState::Closing, 1, 0));
    fixture.release_work();
    fixture.wait_for(&delivery).unwrap();
}

#[test]
fn callers_that_wait_for_memory_are_counted_with_what_they_wait_for() {
    let settings = [("buffer.memory", "2000"), ("batch.size", "1000"), ("linger.ms", "60000")];
    let mut fixture = ProducerFixture::new(&settings);
    fixture.send_and_flush("a");
    fixture.hold_responses();
    let value = "v".repeat(900);
    let _deliveries = [fixture.send(0, &value), fixture.send(0, &value)];
    let producer = fixture.producer.clone();
    let record = Record::to("t").partition(0).value(&*value);
    let mut waiting = pin!(producer.send_async(record));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let memory = fixture.snapshot().memory;
    assert_eq!((memory.total_bytes, memory.waiting_callers), (2000, 1));
    assert!(memory.awaited_bytes > 0 && memory.awaited_bytes <= 1000, "{memory:?}");
    fixture.release_responses();
    fixture.block_on(waiting).unwrap();
    assert_eq!(fixture.snapshot().memory.waiting_callers, 0);
}

#[test]
fn callers_that_wait_for_a_topic_are_counted_with_the_last_error() {
    let mut fixture = ProducerFixture::new(&[]);
    let producer = fixture.producer.clone();
    {
        let send = || Box::pin(producer.send_async(Record::to("missing")));
        let mut waiting = [send(), send()];
        for _ in 0..3 {
            for future in &mut waiting {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(future.as_mut().poll(&mut cx).is_pending());
            }
            fixture.run_for_ms(200);
        }
        for future in &mut waiting {
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let awaited = fixture.snapshot().awaited_topics;
        assert_eq!(awaited.len(), 1, "{awaited:?}");
        assert_eq!((&*awaited[0].topic, awaited[0].waiting_callers), ("missing", 2));
        let error = awaited[0].last_error.as_ref().unwrap();
        assert!(error.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{error}");
    }
    assert_eq!(fixture.snapshot().awaited_topics, [], "the callers have gone");
}

#[test]
fn snapshot_fails_once_the_producer_is_closed_also_for_those_that_wait() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    let producer = fixture.producer.clone();
    let mut waiting = pin!(producer.snapshot_async());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    fixture.close(Duration::ZERO);
    let kind = |result: Result<Snapshot, Error>| result.unwrap_err().kind();
    assert_eq!(kind(fixture.block_on(waiting)), ErrorKind::Closed);
    assert_eq!(kind(producer.snapshot()), ErrorKind::Closed);
    assert!(producer.snapshot_timeout(ms(1)).is_err());
}

#[test]
fn snapshot_inside_a_callback_is_refused() {
    let mut fixture = ProducerFixture::new(&[]);
    fixture.send_and_wait(0, "a");
    let (seen, producer) = (Arc::new(Mutex::new(None)), fixture.producer.clone());
    let (result, inner) = (seen.clone(), producer.clone());
    let record = Record::to("t").partition(0).value("b");
    let callback = move |_| *result.lock().unwrap() = Some(inner.snapshot());
    fixture.block_on(producer.send_with_callback_async(record, callback)).unwrap();
    fixture.flush();
    let error = seen.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
}

#[test]
fn snapshot_whose_caller_has_gone_changes_nothing() {
    let mut fixture = ProducerFixture::new(&[]);
    let producer = fixture.producer.clone();
    {
        let mut abandoned = pin!(producer.snapshot_async());
        assert!(abandoned.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let rounds = producer.totals().loop_total;
    fixture.send_and_wait(0, "a");
    assert!(producer.totals().loop_total > rounds);
    assert_eq!(fixture.snapshot().partitions, []);
}
