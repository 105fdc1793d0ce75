//! Workloads whose instructions callgrind counts.
//!
//! They run on one thread, on the virtual machine, against a broker's core. Nothing in them is
//! random, so a count repeats exactly. `cargo xtask instructions` runs each with n and with 2n
//! rounds and prints the difference, which leaves the start-up out.

use std::time::Duration;

use ottla::sim::{Faults, SimMachine, SimSender, build};
use ottla::{BatchReport, Producer, Record, Topic};
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
    fn new(partitions: i32, batch_size: &str) -> Result<InstructionWorkload, String> {
        let machine = SimMachine::new(1, Faults::NONE);
        let mut core =
            Core::new(BrokerConfig::default(), broker_now(&machine)).map_err(|e| e.to_string())?;
        core.set_advertised_address(1, &node_address(1).ip().to_string(), 9092);
        machine.listen(node_address(1));
        for (topic, count) in topic_partition_counts(partitions) {
            core.create_topic(&topic, count, broker_now(&machine)).map_err(|e| e.to_string())?;
        }
        let builder = Producer::builder()
            .bootstrap_servers("10.0.0.1:9092")
            .set("linger.ms", "0")
            .set("batch.size", batch_size)
            .delivery_handler(|r: &BatchReport<'_>| assert!(r.result.is_ok()));
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

/// Runs a workload.
///
/// `records` sends records of 100 bytes in full batches. `one-partition` and `many-partitions` send
/// one record a batch, to a topic with 1 partition or to one of many with 100,000 in all.
/// `new-topics` sends the first record to another topic in each round.
///
/// # Errors
/// Returns a text if there is no workload with this name.
pub fn run_workload(name: &str, rounds: u64) -> Result<(), String> {
    let (partitions, batch_size, has_full_batches) = match name {
        "records" => (1, "16384", true),
        "one-partition" => (1, "0", false),
        "many-partitions" => (100_000, "0", false),
        "new-topics" => return send_to_new_topics(rounds),
        other => {
            return Err(format!(
                "unknown workload {other:?}; \
                 expected records, one-partition, many-partitions or new-topics"
            ));
        }
    };
    let mut workload = InstructionWorkload::new(partitions, batch_size)?;
    // The producer knows every topic, but sends to one partition only: the cost of a loop must not
    // depend on the idle ones.
    let topics: Vec<Topic> =
        topic_partition_counts(partitions).map(|(name, _)| workload.open_topic(&name)).collect();
    let topic = topics.last().ok_or("no topic")?;
    assert_eq!(topics.iter().map(Topic::partition_count).sum::<i32>(), partitions);
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
    // No thread runs the sender any more, so dropping the producer would wait for it forever.
    workload.sender.abort();
    Ok(())
}

fn send_to_new_topics(count: u64) -> Result<(), String> {
    let mut workload = InstructionWorkload::new(1, "0")?;
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
