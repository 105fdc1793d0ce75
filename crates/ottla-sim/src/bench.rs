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
use crate::servers::{Servers, address, now};

/// Longer than anything in a test may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What brokers are to do with the next batches they get, one each; then as they should.
type Script = Arc<Mutex<VecDeque<Option<ProduceFault>>>>;

pub(crate) struct Bench {
    pub(crate) machine: SimMachine,
    pub(crate) producer: Producer,
    pub(crate) servers: Servers,
    sender: SimSender,
    until: Tick,
    script: Script,
    /// When each batch came to a broker, in milliseconds.
    came: Arc<Mutex<Vec<f64>>>,
}

impl Bench {
    /// A producer with these settings, one node, and a topic `t` of two partitions.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Bench {
        Bench::of(1, settings)
    }

    /// The same with so many nodes, and two replicas where there are two.
    pub(crate) fn of(nodes: i32, settings: &[(&str, &str)]) -> Bench {
        Bench::build(nodes, settings, |builder| builder)
    }

    /// One node, and a producer with more than settings.
    pub(crate) fn with(
        settings: &[(&str, &str)],
        more: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> Bench {
        Bench::build(1, settings, more)
    }

    fn build(
        nodes: i32,
        settings: &[(&str, &str)],
        more: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    ) -> Bench {
        let mut s = Scenario::new(0);
        (s.late, s.stale, s.in_flight) = (0, 0, 5);
        let machine = SimMachine::new(1, ottla::sim::Faults::NONE);
        let mut config = BrokerConfig::default();
        (config.node_count, config.default_replication_factor, config.auto_create_topics) =
            (nodes, 2, false);
        let mut core = Core::new(config, now(&machine)).unwrap();
        for node in 1..=nodes {
            core.set_advertised_address(node, &address(node).ip().to_string(), 9092);
            machine.listen(address(node));
        }
        core.create_topic("t", 2, now(&machine)).unwrap();
        let (script, came) = (Script::default(), Arc::<Mutex<Vec<f64>>>::default());
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
        let servers = Servers::new(core, &s);
        Bench { machine, producer, servers, sender, until, script, came }
    }

    /// What is done with the next batches that come.
    pub(crate) fn script(&self, faults: &[Option<ProduceFault>]) {
        self.script.lock().unwrap().extend(faults.iter().copied());
    }

    /// Milliseconds since the start at which batches came to a broker.
    pub(crate) fn came(&self) -> Vec<f64> {
        self.came.lock().unwrap().clone()
    }

    fn step(&mut self, limit: Tick) {
        self.servers.serve(&self.machine);
        self.act(limit);
    }

    fn act(&mut self, limit: Tick) {
        let now = self.machine.now();
        if self.machine.would_wake() || self.until <= now {
            assert!(self.sender.poll_and_handle(), "the sender ended");
            self.until = self.sender.send_producer_data();
            return;
        }
        let servers = self.servers.core.next_deadline().map(|ms| Tick(ms * 1_000_000));
        let next = [self.machine.next_event(), servers].into_iter().flatten();
        let next = next.chain([self.until, limit]).min().unwrap_or(limit);
        self.machine.advance(next.max(Tick(now.0 + 1)));
    }

    /// Goes on until this holds.
    pub(crate) fn until(&mut self, mut done: impl FnMut(&mut Bench) -> bool) {
        let limit = self.machine.now().after(LIMIT);
        // Brokers first, so that an answer can be seen before its client sees it.
        self.servers.serve(&self.machine);
        while !done(self) {
            assert!(self.machine.now() < limit, "it never came about");
            self.act(limit);
            self.servers.serve(&self.machine);
        }
    }

    /// Goes on for so many milliseconds.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.machine.now().after(Duration::from_millis(ms));
        while self.machine.now() < end {
            self.step(end);
        }
    }

    pub(crate) fn finish<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let limit = self.machine.now().after(LIMIT);
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
        self.finish(producer.send_async(record))
    }

    /// Sends a record to another topic.
    pub(crate) fn sent_to(&mut self, topic: &str) -> Result<Delivery, Error> {
        let producer = self.producer.clone();
        self.finish(producer.send_async(Record::to(topic)))
    }

    pub(crate) fn send(&mut self, partition: i32, value: &str) -> Delivery {
        self.try_send(partition, value).unwrap()
    }

    /// Makes another topic.
    pub(crate) fn topic(&mut self, name: &str, partitions: i32) {
        let time = now(&self.machine);
        self.servers.core.create_topic(name, partitions, time).unwrap();
    }

    /// `max.message.bytes` of `t`.
    pub(crate) fn limit(&mut self, bytes: usize) {
        self.servers.core.set_topic_config("t", "max.message.bytes", &bytes.to_string()).unwrap();
    }

    pub(crate) fn send_to(&mut self, topic: &str, partition: i32, value: &str) -> Delivery {
        let producer = self.producer.clone();
        let record = Record::to(topic).partition(partition).value(value);
        self.finish(producer.send_async(record)).unwrap()
    }

    /// Sends a record to another topic that must arrive, whatever its linger.
    pub(crate) fn arrives_at(&mut self, topic: &str, partition: i32, value: &str) {
        let delivery = self.send_to(topic, partition, value);
        self.flush();
        delivery.try_result().unwrap().unwrap();
    }

    /// Sends a record that must arrive, whatever its linger.
    pub(crate) fn arrives_after_flush(&mut self, value: &str) {
        self.arrives_at("t", 0, value);
    }

    /// Closes the producer; returns when that is done.
    pub(crate) fn close(&mut self, timeout: Duration) {
        let producer = self.producer.clone();
        let mut closing = std::pin::pin!(producer.close_async(timeout));
        let _ = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        while self.sender.poll_and_handle() {
            self.until = self.sender.send_producer_data();
        }
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    /// Sends a record that must arrive.
    pub(crate) fn arrives(&mut self, partition: i32, value: &str) -> i64 {
        let delivery = self.send(partition, value);
        self.end(&delivery).unwrap().offset().unwrap()
    }

    pub(crate) fn end(&mut self, delivery: &Delivery) -> Result<RecordMetadata, Error> {
        self.until(|_| delivery.try_result().is_some());
        delivery.try_result().unwrap()
    }

    pub(crate) fn flush(&mut self) {
        let producer = self.producer.clone();
        self.finish(producer.flush_async()).unwrap();
    }

    /// Waits until another batch has come, and loses every connection before its answer arrives.
    pub(crate) fn lose_answer(&mut self) {
        let before = self.came().len();
        self.until(|b| b.came().len() > before);
        self.lose_connections();
    }

    /// Loses every connection, and whatever was under way.
    pub(crate) fn lose_connections(&mut self) {
        self.machine.reset_server(address(1));
        self.servers.forget(1);
        self.machine.listen(address(1));
    }

    /// Holds answers back, or lets them come.
    pub(crate) fn hold_answers(&mut self, held: bool) {
        self.machine.set_link(address(1), Link { down_held: held, ..Link::default() });
    }

    /// What stands in a partition's log: values, and each batch's header.
    pub(crate) fn log(&self, partition: i32) -> (Vec<String>, Vec<BatchHeader>) {
        let (mut values, mut headers) = (Vec::new(), Vec::new());
        for batch in self.servers.core.batches("t", partition).unwrap() {
            let view = BatchView::parse(&batch.bytes).unwrap();
            headers.push(*view.header());
            for r in view.records(1 << 20).unwrap().to_vec().unwrap() {
                values.push(String::from_utf8(r.value.unwrap().to_vec()).unwrap());
            }
        }
        (values, headers)
    }

    pub(crate) fn values(&self, partition: i32) -> Vec<String> {
        self.log(partition).0
    }

    /// Epoch and sequence of each batch in a partition's log.
    pub(crate) fn sequences(&self, partition: i32) -> Vec<(i16, i32)> {
        self.log(partition).1.iter().map(|h| (h.producer_epoch, h.base_sequence)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sender.abort();
    }
}
