//! A producer and its cluster, driven step by step in virtual time: the fixture of the behaviour
//! tests.
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

/// The virtual time after which a wait fails its test.
const TEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The virtual clock's time at the start of a test.
const START: Tick = Tick(1_000_000_000);

/// The faults of the next batches, one each; `None` for no fault. Later batches have no fault.
type BatchFaults = Arc<Mutex<VecDeque<Option<ProduceFault>>>>;

pub(crate) struct ProducerFixture {
    pub(crate) machine: SimMachine,
    pub(crate) producer: Producer,
    pub(crate) cluster: SimCluster,
    sender: SimSender,
    sender_deadline: Tick,
    batch_faults: BatchFaults,
    batch_arrivals_ms: Arc<Mutex<Vec<f64>>>,
}

/// The log of a partition.
pub(crate) struct PartitionLog {
    /// The values of its records.
    pub(crate) values: Vec<String>,
    /// The headers of its batches.
    pub(crate) headers: Vec<BatchHeader>,
}

impl ProducerFixture {
    /// Returns a producer with these settings, one node, and a topic `t` with two partitions.
    pub(crate) fn new(settings: &[(&str, &str)]) -> ProducerFixture {
        ProducerFixture::with_nodes(1, settings)
    }

    /// Returns the same with this number of nodes, and up to two replicas.
    pub(crate) fn with_nodes(nodes: i32, settings: &[(&str, &str)]) -> ProducerFixture {
        ProducerFixture::build(nodes, settings, |builder| builder)
    }

    /// Returns a producer with one node, configured by settings and by the builder's methods.
    pub(crate) fn with_builder(
        settings: &[(&str, &str)],
        configure: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> ProducerFixture {
        ProducerFixture::build(1, settings, configure)
    }

    /// Returns a producer with one node that knows only the last batch of each producer after a
    /// restart.
    pub(crate) fn with_short_snapshots() -> ProducerFixture {
        let mut config = BrokerConfig::default();
        config.restores_last_batch_only = true;
        ProducerFixture::build_with_config(config, &[], |builder| builder)
    }

    fn build(
        nodes: i32,
        settings: &[(&str, &str)],
        configure: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> ProducerFixture {
        let mut config = BrokerConfig::default();
        config.node_count = nodes;
        ProducerFixture::build_with_config(config, settings, configure)
    }

    fn build_with_config(
        mut config: BrokerConfig,
        settings: &[(&str, &str)],
        configure: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> ProducerFixture {
        let mut s = Scenario::new(0);
        s.late_response_one_in = 0;
        s.stale_metadata_one_in = 0;
        s.max_in_flight = 5;
        let machine = SimMachine::new(1, ottla::sim::Faults::NONE);
        let nodes = config.node_count;
        config.default_replication_factor = 2;
        config.auto_create_topics = false;
        let mut core = Core::new(config, broker_now(&machine)).unwrap();
        for node in 1..=nodes {
            core.set_advertised_address(node, &node_address(node).ip().to_string(), 9092);
            machine.listen(node_address(node));
        }
        core.create_topic("t", 2, broker_now(&machine)).unwrap();
        let batch_faults = BatchFaults::default();
        let batch_arrivals_ms = Arc::<Mutex<Vec<f64>>>::default();
        let (faults, arrivals) = (batch_faults.clone(), batch_arrivals_ms.clone());
        let clock = machine.clone();
        core.set_fault_injector(move |_, _| {
            arrivals.lock().unwrap().push((clock.now().0 - START.0) as f64 / 1e6);
            faults.lock().unwrap().pop_front().flatten()
        });
        let mut builder = Producer::builder()
            .bootstrap_servers("10.0.0.1:9092")
            .set("linger.ms", "0")
            .set("batch.size", "0")
            .set("retry.backoff.ms", "50");
        for (name, value) in settings {
            builder = builder.set(name, value);
        }
        let (producer, mut sender) = build(configure(builder), &machine).unwrap();
        let sender_deadline = sender.send_producer_data();
        ProducerFixture {
            machine,
            producer,
            cluster: SimCluster::new(core, &s),
            sender,
            sender_deadline,
            batch_faults,
            batch_arrivals_ms,
        }
    }

    /// Returns how often the client has copied its metadata, and the number of topics published.
    pub(crate) fn metadata_work(&self) -> (u64, u64) {
        self.sender.metadata_work()
    }

    /// Appends to the faults of the next batches.
    pub(crate) fn push_batch_faults(&self, faults: &[Option<ProduceFault>]) {
        self.batch_faults.lock().unwrap().extend(faults.iter().copied());
    }

    /// Returns when each batch arrived at a broker, in milliseconds since the start.
    pub(crate) fn batch_arrivals_ms(&self) -> Vec<f64> {
        self.batch_arrivals_ms.lock().unwrap().clone()
    }

    /// Returns the number of batches that arrived at a broker, retries included.
    pub(crate) fn batch_count(&self) -> usize {
        self.batch_arrivals_ms.lock().unwrap().len()
    }

    fn step(&mut self, limit: Tick) {
        self.cluster.serve(&self.machine);
        self.poll_or_advance(limit);
    }

    /// Runs one loop of the sender, or moves the clock to the next event if the sender sleeps.
    fn poll_or_advance(&mut self, limit: Tick) {
        let now = self.machine.now();
        if self.machine.would_wake() || self.sender_deadline <= now {
            assert!(self.sender.poll_and_handle(), "the sender shut down by itself");
            self.sender_deadline = self.sender.send_producer_data();
            return;
        }
        let cluster_deadline = self.cluster.next_deadline();
        let next = [self.machine.next_event(), cluster_deadline].into_iter().flatten();
        let next = next.chain([self.sender_deadline, limit]).min().unwrap_or(limit);
        self.machine.advance(next.max(Tick(now.0 + 1)));
    }

    /// Runs until the condition holds.
    pub(crate) fn run_until(&mut self, mut condition: impl FnMut(&mut ProducerFixture) -> bool) {
        let limit = self.machine.now().after(TEST_TIMEOUT);
        // The brokers run before the condition, so that a test sees a request they have handled
        // before the client sees its response.
        self.cluster.serve(&self.machine);
        while !condition(self) {
            assert!(self.machine.now() < limit, "the condition did not hold in time");
            self.poll_or_advance(limit);
            self.cluster.serve(&self.machine);
        }
    }

    /// Runs for this number of milliseconds.
    pub(crate) fn run_for_ms(&mut self, ms: u64) {
        let end = self.machine.now().after(Duration::from_millis(ms));
        while self.machine.now() < end {
            self.step(end);
        }
    }

    /// Runs until the future is ready.
    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let limit = self.machine.now().after(TEST_TIMEOUT);
        loop {
            if let Poll::Ready(output) =
                future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return output;
            }
            assert!(self.machine.now() < limit, "the future was not ready in time");
            self.step(limit);
        }
    }

    /// Sends a record to `t`.
    pub(crate) fn try_send(&mut self, partition: i32, value: &str) -> Result<Delivery, Error> {
        let producer = self.producer.clone();
        let record = Record::to("t").partition(partition).value(value);
        self.block_on(producer.send_async(record))
    }

    /// Sends an empty record to a topic.
    pub(crate) fn try_send_to(&mut self, topic: &str) -> Result<Delivery, Error> {
        let producer = self.producer.clone();
        self.block_on(producer.send_async(Record::to(topic)))
    }

    /// Sends a record to `t`, which must be accepted.
    pub(crate) fn send(&mut self, partition: i32, value: &str) -> Delivery {
        self.try_send(partition, value).unwrap()
    }

    pub(crate) fn create_topic(&mut self, name: &str, partitions: i32) {
        let time = broker_now(&self.machine);
        self.cluster.core.create_topic(name, partitions, time).unwrap();
    }

    /// Sets `max.message.bytes` of `t`.
    pub(crate) fn set_max_message_bytes(&mut self, bytes: usize) {
        self.cluster.core.set_topic_config("t", "max.message.bytes", &bytes.to_string()).unwrap();
    }

    /// Sends a record to a topic, which must be accepted.
    pub(crate) fn send_to(&mut self, topic: &str, partition: i32, value: &str) -> Delivery {
        let producer = self.producer.clone();
        let record = Record::to(topic).partition(partition).value(value);
        self.block_on(producer.send_async(record)).unwrap()
    }

    /// Sends a record to a topic and flushes, so that it does not linger; it must succeed.
    pub(crate) fn send_to_and_flush(&mut self, topic: &str, partition: i32, value: &str) {
        let delivery = self.send_to(topic, partition, value);
        self.flush();
        delivery.try_result().unwrap().unwrap();
    }

    /// Sends a record to `t` and flushes, so that it does not linger; it must succeed.
    pub(crate) fn send_and_flush(&mut self, value: &str) {
        self.send_to_and_flush("t", 0, value);
    }

    /// Closes the producer, and runs its sender until it has shut down.
    pub(crate) fn close(&mut self, timeout: Duration) {
        let producer = self.producer.clone();
        let mut closing = std::pin::pin!(producer.close_async(timeout));
        let _ = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        while self.sender.poll_and_handle() {
            self.sender_deadline = self.sender.send_producer_data();
        }
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    /// Begins to close the producer.
    pub(crate) fn begin_close(&self, timeout: Duration) {
        let producer = self.producer.clone();
        let mut closing = Box::pin(async move { producer.close_async(timeout).await });
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    /// Runs until the sender has shut down.
    pub(crate) fn run_until_shutdown(&mut self) {
        let limit = self.machine.now().after(TEST_TIMEOUT);
        loop {
            self.cluster.serve(&self.machine);
            if self.machine.would_wake() || self.sender_deadline <= self.machine.now() {
                if !self.sender.poll_and_handle() {
                    return;
                }
                self.sender_deadline = self.sender.send_producer_data();
                continue;
            }
            assert!(self.machine.now() < limit, "the sender did not shut down in time");
            let next = self.machine.next_event().into_iter().chain([self.sender_deadline, limit]);
            let next = next.min().unwrap_or(limit);
            self.machine.advance(next.max(Tick(self.machine.now().0 + 1)));
        }
    }

    /// Ends the sender at once.
    pub(crate) fn abort(&mut self) {
        self.sender.abort();
    }

    /// Sends a record to `t`, waits for its success and returns its offset.
    pub(crate) fn send_and_wait(&mut self, partition: i32, value: &str) -> i64 {
        let delivery = self.send(partition, value);
        self.wait_for(&delivery).unwrap().offset().unwrap()
    }

    /// Runs until the delivery completes, and returns its result.
    pub(crate) fn wait_for(&mut self, delivery: &Delivery) -> Result<RecordMetadata, Error> {
        self.run_until(|_| delivery.try_result().is_some());
        delivery.try_result().unwrap()
    }

    pub(crate) fn flush(&mut self) {
        let producer = self.producer.clone();
        self.block_on(producer.flush_async()).unwrap();
    }

    /// Runs until this number of further batches has arrived at a broker.
    pub(crate) fn wait_for_batches(&mut self, count: usize) {
        let target = self.batch_count() + count;
        self.run_until(|f| f.batch_count() >= target);
    }

    /// Waits until another batch has arrived, and drops every connection before its response
    /// reaches the client.
    pub(crate) fn lose_response(&mut self) {
        self.wait_for_batches(1);
        self.drop_connections();
    }

    /// Drops every connection to node 1, with all bytes in flight.
    pub(crate) fn drop_connections(&mut self) {
        self.stop_node_1();
        self.start_node_1();
    }

    /// Drops every connection to node 1, and refuses new ones.
    pub(crate) fn stop_node_1(&mut self) {
        self.machine.reset_server(node_address(1));
        self.cluster.drop_connections(1);
    }

    /// Accepts connections to node 1 again.
    pub(crate) fn start_node_1(&mut self) {
        self.machine.listen(node_address(1));
    }

    /// Holds back the responses of node 1.
    pub(crate) fn hold_responses(&mut self) {
        self.hold_responses_of(1);
    }

    /// Holds back the responses of a node.
    pub(crate) fn hold_responses_of(&mut self, node: i32) {
        let link = Link { down_held: true, ..Link::default() };
        self.machine.set_link(node_address(node), link);
    }

    /// Delivers the responses that node 1 held back.
    pub(crate) fn release_responses(&mut self) {
        self.release_responses_of(1);
    }

    /// Delivers the responses that a node held back.
    pub(crate) fn release_responses_of(&mut self, node: i32) {
        self.machine.set_link(node_address(node), Link::default());
    }

    /// Lets no batch finish being compressed or split.
    pub(crate) fn hold_work(&self) {
        self.machine.hold_work();
    }

    /// Finishes what was held.
    pub(crate) fn release_work(&self) {
        self.machine.release_work();
    }

    /// Returns the leader of partition 0 of `t`.
    pub(crate) fn leader(&self) -> i32 {
        self.cluster.core.describe_partition("t", 0).unwrap().leader
    }

    /// Makes a node the leader of partition 0 of `t`, with the complete log.
    pub(crate) fn move_leader(&mut self, to: i32) {
        let time = broker_now(&self.machine);
        let options = ottla_broker::MoveLeaderOptions { copy_first: true, allow_unclean: false };
        assert!(self.cluster.core.move_leader("t", 0, to, options, time));
    }

    /// Returns the log of a partition of `t`.
    pub(crate) fn read_log(&self, partition: i32) -> PartitionLog {
        let mut log = PartitionLog { values: Vec::new(), headers: Vec::new() };
        for batch in self.cluster.core.batches("t", partition).unwrap() {
            let view = BatchView::parse(&batch.bytes).unwrap();
            log.headers.push(*view.header());
            for r in view.records(1 << 20).unwrap().to_vec().unwrap() {
                log.values.push(String::from_utf8(r.value.unwrap().to_vec()).unwrap());
            }
        }
        log
    }

    /// Returns the values in the log of a partition of `t`.
    pub(crate) fn logged_values(&self, partition: i32) -> Vec<String> {
        self.read_log(partition).values
    }

    /// Returns the epoch and the base sequence of each batch in the log of a partition of `t`.
    pub(crate) fn logged_sequences(&self, partition: i32) -> Vec<(i16, i32)> {
        let headers = self.read_log(partition).headers;
        headers.iter().map(|h| (h.producer_epoch, h.base_sequence)).collect()
    }
}

impl Drop for ProducerFixture {
    fn drop(&mut self) {
        self.sender.abort();
    }
}
