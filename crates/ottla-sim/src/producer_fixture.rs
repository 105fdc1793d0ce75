//! One producer and a cluster by hand, in virtual time: for tests of one behaviour each.
#![allow(clippy::disallowed_types)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ottla::sim::{Link, SimMachine, SimSender, Tick, build};
use ottla::{Delivery, Error, Producer, ProducerBuilder, Record, RecordMetadata};
use ottla_broker::{BrokerConfig, Core, ProduceFault};
use ottla_protocol::record::{BatchHeader, BatchView};

use crate::scenario::Scenario;
use crate::sim_cluster::{SimCluster, broker_now, node_address};

/// Longer than anything in a test may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(600);

/// What brokers are to do with the next batches they get, one each; then as they should.
type BatchFaults = Arc<Mutex<VecDeque<Option<ProduceFault>>>>;

pub(crate) struct ProducerFixture {
    pub(crate) machine: SimMachine,
    pub(crate) producer: Producer,
    pub(crate) cluster: SimCluster,
    sender: SimSender,
    sender_deadline: Tick,
    batch_faults: BatchFaults,
    /// When each batch came to a broker, in milliseconds.
    batch_arrivals_ms: Arc<Mutex<Vec<f64>>>,
}

impl ProducerFixture {
    /// A producer with these settings, one node, and a topic `t` of two partitions.
    pub(crate) fn new(settings: &[(&str, &str)]) -> ProducerFixture {
        ProducerFixture::with_nodes(1, settings)
    }

    /// The same with so many nodes, and two replicas where there are two.
    pub(crate) fn with_nodes(nodes: i32, settings: &[(&str, &str)]) -> ProducerFixture {
        ProducerFixture::build(nodes, settings, |builder| builder)
    }

    /// One node, and a producer with more than settings.
    pub(crate) fn with_builder(
        settings: &[(&str, &str)],
        more: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> ProducerFixture {
        ProducerFixture::build(1, settings, more)
    }

    fn build(
        nodes: i32,
        settings: &[(&str, &str)],
        more: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> ProducerFixture {
        let mut s = Scenario::new(0);
        (s.late_response_one_in, s.stale_metadata_one_in, s.max_in_flight) = (0, 0, 5);
        let machine = SimMachine::new(1, ottla::sim::Faults::NONE);
        let mut config = BrokerConfig::default();
        (config.node_count, config.default_replication_factor, config.auto_create_topics) =
            (nodes, 2, false);
        let mut core = Core::new(config, broker_now(&machine)).unwrap();
        for node in 1..=nodes {
            core.set_advertised_address(node, &node_address(node).ip().to_string(), 9092);
            machine.listen(node_address(node));
        }
        core.create_topic("t", 2, broker_now(&machine)).unwrap();
        let (script, came) = (BatchFaults::default(), Arc::<Mutex<Vec<f64>>>::default());
        let (next, log, clock) = (script.clone(), came.clone(), machine.clone());
        core.set_fault_injector(move |_, _| {
            log.lock().unwrap().push((clock.now().0 - 1_000_000_000) as f64 / 1e6);
            next.lock().unwrap().pop_front().flatten()
        });
        let mut builder = Producer::builder()
            .bootstrap_servers("10.0.0.1:9092")
            .set("linger.ms", "0")
            .set("batch.size", "0")
            .set("retry.backoff.ms", "50");
        for (name, value) in settings {
            builder = builder.set(name, value);
        }
        let (producer, mut sender) = build(more(builder), &machine).unwrap();
        let until = sender.send_producer_data();
        let servers = SimCluster::new(core, &s);
        ProducerFixture {
            machine,
            producer,
            cluster: servers,
            sender,
            sender_deadline: until,
            batch_faults: script,
            batch_arrivals_ms: came,
        }
    }

    /// What is done with the next batches that come.
    pub(crate) fn push_batch_faults(&self, faults: &[Option<ProduceFault>]) {
        self.batch_faults.lock().unwrap().extend(faults.iter().copied());
    }

    /// Milliseconds since the start at which batches came to a broker.
    pub(crate) fn batch_arrivals_ms(&self) -> Vec<f64> {
        self.batch_arrivals_ms.lock().unwrap().clone()
    }

    fn step(&mut self, limit: Tick) {
        self.cluster.serve(&self.machine);
        self.poll_or_advance(limit);
    }

    fn poll_or_advance(&mut self, limit: Tick) {
        let now = self.machine.now();
        if self.machine.would_wake() || self.sender_deadline <= now {
            assert!(self.sender.poll_and_handle(), "the sender ended");
            self.sender_deadline = self.sender.send_producer_data();
            return;
        }
        let servers = self.cluster.core.next_deadline().map(|ms| Tick(ms * 1_000_000));
        let next = [self.machine.next_event(), servers].into_iter().flatten();
        let next = next.chain([self.sender_deadline, limit]).min().unwrap_or(limit);
        self.machine.advance(next.max(Tick(now.0 + 1)));
    }

    /// Goes on until this holds.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&mut ProducerFixture) -> bool) {
        let limit = self.machine.now().after(TEST_TIMEOUT);
        // Brokers first, so that an answer can be seen before its client sees it.
        self.cluster.serve(&self.machine);
        while !done(self) {
            assert!(self.machine.now() < limit, "it never came about");
            self.poll_or_advance(limit);
            self.cluster.serve(&self.machine);
        }
    }

    /// Goes on for so many milliseconds.
    pub(crate) fn run_for_ms(&mut self, ms: u64) {
        let end = self.machine.now().after(Duration::from_millis(ms));
        while self.machine.now() < end {
            self.step(end);
        }
    }

    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let limit = self.machine.now().after(TEST_TIMEOUT);
        loop {
            if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return out;
            }
            assert!(self.machine.now() < limit, "it never came about");
            self.step(limit);
        }
    }

    pub(crate) fn try_send(&mut self, partition: i32, value: &str) -> Result<Delivery, Error> {
        let producer = self.producer.clone();
        let record = Record::to("t").partition(partition).value(value);
        self.block_on(producer.send_async(record))
    }

    /// Sends a record to another topic.
    pub(crate) fn try_send_to(&mut self, topic: &str) -> Result<Delivery, Error> {
        let producer = self.producer.clone();
        self.block_on(producer.send_async(Record::to(topic)))
    }

    pub(crate) fn send(&mut self, partition: i32, value: &str) -> Delivery {
        self.try_send(partition, value).unwrap()
    }

    /// Makes another topic.
    pub(crate) fn create_topic(&mut self, name: &str, partitions: i32) {
        let time = broker_now(&self.machine);
        self.cluster.core.create_topic(name, partitions, time).unwrap();
    }

    /// `max.message.bytes` of `t`.
    pub(crate) fn set_max_message_bytes(&mut self, bytes: usize) {
        self.cluster.core.set_topic_config("t", "max.message.bytes", &bytes.to_string()).unwrap();
    }

    pub(crate) fn send_to(&mut self, topic: &str, partition: i32, value: &str) -> Delivery {
        let producer = self.producer.clone();
        let record = Record::to(topic).partition(partition).value(value);
        self.block_on(producer.send_async(record)).unwrap()
    }

    /// Sends a record to another topic that must arrive, whatever its linger.
    pub(crate) fn send_to_and_flush(&mut self, topic: &str, partition: i32, value: &str) {
        let delivery = self.send_to(topic, partition, value);
        self.flush();
        delivery.try_result().unwrap().unwrap();
    }

    /// Sends a record that must arrive, whatever its linger.
    pub(crate) fn send_and_flush(&mut self, value: &str) {
        self.send_to_and_flush("t", 0, value);
    }

    /// Closes the producer; returns when that is done.
    pub(crate) fn close(&mut self, timeout: Duration) {
        let producer = self.producer.clone();
        let mut closing = std::pin::pin!(producer.close_async(timeout));
        let _ = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        while self.sender.poll_and_handle() {
            self.sender_deadline = self.sender.send_producer_data();
        }
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    /// Sends a record that must arrive.
    pub(crate) fn send_and_wait(&mut self, partition: i32, value: &str) -> i64 {
        let delivery = self.send(partition, value);
        self.wait_for(&delivery).unwrap().offset().unwrap()
    }

    pub(crate) fn wait_for(&mut self, delivery: &Delivery) -> Result<RecordMetadata, Error> {
        self.run_until(|_| delivery.try_result().is_some());
        delivery.try_result().unwrap()
    }

    pub(crate) fn flush(&mut self) {
        let producer = self.producer.clone();
        self.block_on(producer.flush_async()).unwrap();
    }

    /// Waits until another batch has come, and loses every connection before its answer arrives.
    pub(crate) fn lose_response(&mut self) {
        let before = self.batch_arrivals_ms().len();
        self.run_until(|b| b.batch_arrivals_ms().len() > before);
        self.drop_connections();
    }

    /// Loses every connection, and whatever was under way.
    pub(crate) fn drop_connections(&mut self) {
        self.machine.reset_server(node_address(1));
        self.cluster.drop_connections(1);
        self.machine.listen(node_address(1));
    }

    /// Holds answers back, or lets them come.
    pub(crate) fn hold_responses(&mut self, held: bool) {
        self.machine.set_link(node_address(1), Link { down_held: held, ..Link::default() });
    }

    /// What stands in a partition's log: values, and each batch's header.
    pub(crate) fn read_log(&self, partition: i32) -> (Vec<String>, Vec<BatchHeader>) {
        let (mut values, mut headers) = (Vec::new(), Vec::new());
        for batch in self.cluster.core.batches("t", partition).unwrap() {
            let view = BatchView::parse(&batch.bytes).unwrap();
            headers.push(*view.header());
            for r in view.records(1 << 20).unwrap().to_vec().unwrap() {
                values.push(String::from_utf8(r.value.unwrap().to_vec()).unwrap());
            }
        }
        (values, headers)
    }

    pub(crate) fn logged_values(&self, partition: i32) -> Vec<String> {
        self.read_log(partition).0
    }

    /// Epoch and sequence of each batch in a partition's log.
    pub(crate) fn logged_sequences(&self, partition: i32) -> Vec<(i16, i32)> {
        self.read_log(partition).1.iter().map(|h| (h.producer_epoch, h.base_sequence)).collect()
    }
}

impl Drop for ProducerFixture {
    fn drop(&mut self) {
        self.sender.abort();
    }
}
