//! Workloads whose instructions callgrind counts.
//!
//! They run on one thread, on the virtual machine, against a broker's core. Nothing in them is
//! random, so a count repeats exactly. `cargo xtask instructions` runs each with n and with 2n
//! rounds and prints the difference, which leaves the start-up out.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ottla::sim::{Faults, SimMachine, SimSender, build};
use ottla::{BatchReport, Error, Producer, Record, Topic, Transaction};
use ottla_broker::{BrokerConfig, Core};

use crate::scenario::Scenario;
use crate::sim_cluster::{SimCluster, broker_now, node_address};

/// A producer and a broker with topics, ready to send.
struct InstructionWorkload {
    machine: SimMachine,
    cluster: SimCluster,
    producer: Producer,
    sender: SimSender,
}

impl InstructionWorkload {
    fn new(w: &WorkloadSettings) -> Result<InstructionWorkload, String> {
        let machine = SimMachine::new(1, Faults::NONE);
        let mut core =
            Core::new(BrokerConfig::default(), broker_now(&machine)).map_err(|e| e.to_string())?;
        core.set_advertised_address(1, &node_address(1).ip().to_string(), 9092);
        machine.listen(node_address(1));
        for (topic, count) in topic_partition_counts(w.partitions) {
            core.create_topic(&topic, count, broker_now(&machine)).map_err(|e| e.to_string())?;
        }
        let mut builder = Producer::builder()
            .bootstrap_servers("10.0.0.1:9092")
            .set("linger.ms", "0")
            .set("batch.size", if w.has_full_batches { "16384" } else { "0" })
            .delivery_handler(|r: &BatchReport<'_>| assert!(r.result.is_ok()));
        if w.is_transactional {
            builder = builder.transactional_id("instructions");
        }
        let (producer, mut sender) = build(builder, &machine).map_err(|e| e.to_string())?;
        sender.send_producer_data();
        let cluster = SimCluster::new(core, &Scenario::new(0));
        Ok(InstructionWorkload { machine, cluster, producer, sender })
    }

    /// Runs the broker and one loop of the sender.
    fn run_round(&mut self) {
        self.cluster.serve(&self.machine);
        poll_and_handle(&mut self.sender);
        send_producer_data(&mut self.sender);
        self.machine.advance(self.machine.now().after(Duration::from_micros(10)));
    }

    fn open_topic(&mut self, name: &str) -> Topic {
        let topic = self.producer.topic(name).expect("the producer is open and the name valid");
        while topic.partition_count() == 0 {
            self.run_round();
        }
        topic
    }

    /// Runs until the future is ready.
    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(output) = polled {
                return output;
            }
            self.run_round();
        }
    }

    /// Begins a transaction.
    fn begin_transaction(&mut self) -> Result<Transaction, Error> {
        let producer = self.producer.clone();
        self.block_on(producer.init_transactions_async())?;
        self.block_on(producer.begin_transaction_async())
    }

    /// Runs until every batch has returned its memory.
    fn run_until_idle(&mut self) {
        while self.producer.available_memory() < 32 << 20 {
            self.run_round();
        }
    }
}

/// Returns topics with this many partitions in all, each as large as a broker allows.
fn topic_partition_counts(partitions: i32) -> impl Iterator<Item = (String, i32)> {
    const MAX_PARTITIONS_PER_TOPIC: i32 = 10_000;
    let count = (partitions + MAX_PARTITIONS_PER_TOPIC - 1) / MAX_PARTITIONS_PER_TOPIC;
    (0..count).map(move |n| {
        (format!("t{n}"), MAX_PARTITIONS_PER_TOPIC.min(partitions - n * MAX_PARTITIONS_PER_TOPIC))
    })
}

// callgrind counts these functions, by name: `MEASUREMENTS` in xtask/src/instructions.rs.
// They are never inlined, so that their names stay.

#[inline(never)]
fn send_producer_data(sender: &mut SimSender) {
    sender.send_producer_data();
}

#[inline(never)]
fn poll_and_handle(sender: &mut SimSender) {
    sender.poll_and_handle();
}

#[inline(never)]
fn append(topic: &Topic, record: Record<'_>) {
    assert!(topic.enqueue(record).is_ok());
}

/// What a workload sends, and to where.
#[derive(Clone, Copy)]
struct WorkloadSettings {
    partitions: i32,
    /// Whether each batch is full, or has one record.
    has_full_batches: bool,
    /// Whether all records are in one transaction.
    is_transactional: bool,
}

impl WorkloadSettings {
    fn named(name: &str) -> Option<WorkloadSettings> {
        let (partitions, has_full_batches, is_transactional) = match name {
            "records" => (1, true, false),
            "transaction" => (1, true, true),
            "one-partition" => (1, false, false),
            "many-partitions" => (100_000, false, false),
            _ => return None,
        };
        Some(WorkloadSettings { partitions, has_full_batches, is_transactional })
    }
}

/// Runs a workload.
///
/// `records` sends records of 100 bytes in full batches, `transaction` does so in a transaction.
/// `one-partition` and `many-partitions` send one record a batch, to a topic with 1 partition or to
/// one of many with 100,000 in all.
/// `new-topics` sends the first record to another topic in each round.
///
/// # Errors
/// Returns a text if there is no workload with this name.
pub fn run_workload(name: &str, rounds: u64) -> Result<(), String> {
    if name == "new-topics" {
        return send_to_new_topics(rounds);
    }
    let settings = WorkloadSettings::named(name).ok_or_else(|| {
        format!(
            "unknown workload {name:?}; \
             expected records, transaction, one-partition, many-partitions or new-topics"
        )
    })?;
    let WorkloadSettings { partitions, has_full_batches, is_transactional } = settings;
    let mut workload = InstructionWorkload::new(&settings)?;
    // The producer knows every topic, but sends to one partition only: the cost of a loop must not
    // depend on the idle ones.
    let topics: Vec<Topic> =
        topic_partition_counts(partitions).map(|(name, _)| workload.open_topic(&name)).collect();
    let topic = topics.last().ok_or("no topic")?;
    assert_eq!(topics.iter().map(Topic::partition_count).sum::<i32>(), partitions);
    let transaction = is_transactional.then(|| workload.begin_transaction()).transpose();
    let transaction = transaction.map_err(|e| e.to_string())?;
    let value = [b'v'; 100];
    let warm_up = if has_full_batches { 3000 } else { 300 };
    for n in 0..warm_up + rounds {
        let record = topic.record().partition(0).value(&value).timestamp(1_700_000_000_000);
        append(topic, record.token(n));
        // 151 records fill a batch of 16,384 bytes.
        if !has_full_batches || n % 151 == 150 {
            workload.run_round();
        }
    }
    workload.run_until_idle();
    if let Some(mut transaction) = transaction {
        workload.block_on(transaction.commit_async()).map_err(|e| e.to_string())?;
    }
    // No thread runs the sender any more, so dropping the producer would wait for it forever.
    workload.sender.abort();
    Ok(())
}

fn send_to_new_topics(count: u64) -> Result<(), String> {
    let settings =
        WorkloadSettings { partitions: 1, has_full_batches: false, is_transactional: false };
    let mut workload = InstructionWorkload::new(&settings)?;
    for n in 0..count {
        let name = format!("new-{n}");
        let time = broker_now(&workload.machine);
        workload.cluster.core.create_topic(&name, 1, time).map_err(|e| e.to_string())?;
        let topic = workload.open_topic(&name);
        append(&topic, topic.record().value("v").token(n));
        workload.run_round();
    }
    workload.run_until_idle();
    workload.sender.abort();
    Ok(())
}
