//! Work that is counted by instruction: one thread, the virtual machine, a broker's core that answers, hashes of a
//! fixed seed. `cargo xtask counts` runs it under callgrind with so many rounds and twice as many, and prints the
//! difference.

use std::time::Duration;

use ottla::sim::{Faults, SimMachine, SimSender, build};
use ottla::{BatchReport, Producer, Record, Topic};
use ottla_broker::{BrokerConfig, Core};

use crate::scenario::Scenario;
use crate::sim_cluster::{SimCluster, broker_now, node_address};

/// What is counted: records of 100 bytes in full batches, or a batch of one record a round in a topic of so many
/// partitions.
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
            let made = core.create_topic(&topic, count, broker_now(&machine));
            made.map_err(|(code, why)| format!("{code}: {why}"))?;
        }
        let builder = Producer::builder()
            .bootstrap_servers("10.0.0.1:9092")
            .set("linger.ms", "0")
            .set("batch.size", batch_size)
            .delivery_handler(|r: &BatchReport<'_>| assert!(r.result.is_ok()));
        let (producer, mut sender) = build(builder, &machine).map_err(|e| e.to_string())?;
        sender.send_producer_data();
        let servers = SimCluster::new(core, &Scenario::new(0));
        Ok(InstructionWorkload { machine, cluster: servers, producer, sender })
    }

    fn run_round(&mut self) {
        self.cluster.serve(&self.machine);
        poll_and_handle(&mut self.sender);
        send_producer_data(&mut self.sender);
        let later = self.machine.now().after(Duration::from_micros(10));
        self.machine.advance(later);
    }

    fn open_topic(&mut self, name: &str) -> Topic {
        let producer = self.producer.clone();
        let mut asked = std::pin::pin!(producer.topic_async(name));
        loop {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            if let std::task::Poll::Ready(Ok(topic)) = asked.as_mut().poll(&mut cx) {
                return topic;
            }
            self.run_round();
        }
    }

    /// Until nothing waits any more.
    fn run_until_idle(&mut self) {
        while self.producer.available_memory() < 32 << 20 {
            self.run_round();
        }
    }
}

/// So many partitions, in topics of as many as a broker allows.
fn topic_partition_counts(partitions: i32) -> impl Iterator<Item = (String, i32)> {
    const MAX_PARTITIONS_PER_TOPIC: i32 = 10_000;
    let count = (partitions + MAX_PARTITIONS_PER_TOPIC - 1) / MAX_PARTITIONS_PER_TOPIC;
    (0..count).map(move |n| {
        (format!("t{n}"), MAX_PARTITIONS_PER_TOPIC.min(partitions - n * MAX_PARTITIONS_PER_TOPIC))
    })
}

// What callgrind is told to look into, by name.

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

/// Runs so many rounds of what has this name.
///
/// # Errors
/// An unknown name.
pub fn run_workload(what: &str, rounds: u64) -> Result<(), String> {
    let (partitions, batch_size, full) = match what {
        "records" => (1, "16384", true),
        "one-partition" => (1, "0", false),
        "many-partitions" => (100_000, "0", false),
        other => return Err(format!("{other:?} is nothing that is counted")),
    };
    let mut counted = InstructionWorkload::new(partitions, batch_size)?;
    // All of them are known to the producer; one is sent to.
    let known: Vec<Topic> =
        topic_partition_counts(partitions).map(|(name, _)| counted.open_topic(&name)).collect();
    let topic = known.last().ok_or("no topic")?;
    let there: i32 = known.iter().map(Topic::partition_count).sum();
    assert_eq!(there, partitions);
    let value = [b'v'; 100];
    let warm = if full { 3000 } else { 300 };
    for n in 0..warm + rounds {
        let record = topic.record().partition(0).value(&value).timestamp(1_700_000_000_000);
        append(topic, record.token(n));
        // A batch's worth a turn, or a record.
        if !full || n % 151 == 150 {
            counted.run_round();
        }
    }
    counted.run_until_idle();
    // Nobody drives the sender from here on: a close would wait for it.
    counted.sender.abort();
    Ok(())
}
