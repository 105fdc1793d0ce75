//! What a seed decides: settings, workload, faults.

use ottla::sim::Faults;
use ottla::{Producer, ProducerBuilder};
use ottla_protocol::wire::Gen;

/// A whole run's choices.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where they come from.
    pub seed: u64,
    /// `acks`.
    pub acks: &'static str,
    /// `enable.idempotence`.
    pub idempotent: bool,
    /// `max.in.flight.requests.per.connection`.
    pub in_flight: u64,
    /// `linger.ms`.
    pub linger_ms: u64,
    /// `batch.size`.
    pub batch_size: u64,
    /// `buffer.memory`.
    pub buffer_memory: u64,
    /// `compression.type`.
    pub codec: &'static str,
    /// `delivery.timeout.ms`.
    pub delivery_ms: u64,
    /// `request.timeout.ms`.
    pub request_ms: u64,
    /// `max.block.ms`.
    pub block_ms: u64,
    /// Partitions of the topic.
    pub partitions: u64,
    /// Virtual callers.
    pub callers: u64,
    /// Records each of them sends.
    pub records: u64,
    /// The most bytes of a value.
    pub value_max: u64,
    /// What the network does.
    pub network: Faults,
    /// One in this many partitions of a request is refused or answered wrongly; 0 for none.
    pub broker_fault: u64,
    /// Virtual milliseconds until the world heals.
    pub heal_after_ms: u64,
}

fn pick<T: Copy>(g: &mut Gen, from: &[T]) -> T {
    from[g.below(from.len() as u64) as usize]
}

impl Scenario {
    /// What this seed decides.
    pub fn new(seed: u64) -> Scenario {
        let g = &mut Gen::new(seed);
        let idempotent = g.below(3) != 0;
        let batch_size = pick(g, &[0, 200, 1000, 4000]);
        let request_ms = pick(g, &[300, 1000, 3000]);
        let linger_ms = pick(g, &[0, 1, 5, 50]);
        Scenario {
            seed,
            acks: if idempotent { "all" } else { pick(g, &["all", "1", "0"]) },
            idempotent,
            in_flight: 1 + g.below(5),
            linger_ms,
            batch_size,
            buffer_memory: pick(g, &[6_000, 20_000, 1_000_000]),
            codec: pick(g, &["none", "none", "gzip", "snappy", "lz4", "zstd"]),
            delivery_ms: request_ms + linger_ms + pick(g, &[0, 500, 5_000, 30_000]),
            request_ms,
            block_ms: pick(g, &[500, 5_000, 60_000]),
            partitions: 1 + g.below(6),
            callers: 1 + g.below(5),
            records: 1 + g.below(60),
            value_max: pick(g, &[10, 100, 1500]),
            network: Faults {
                delay_ns: pick(g, &[0, 1_000_000, 20_000_000, 200_000_000]),
                split: pick(g, &[0, 1, 7, 300]),
                stall: pick(g, &[0, 3, 20]),
                cut: pick(g, &[0, 0, 15, 100]),
            },
            broker_fault: pick(g, &[0, 0, 4, 20]),
            heal_after_ms: pick(g, &[100, 1_000, 10_000]),
        }
    }

    /// The producer they ask for.
    pub fn builder(&self) -> ProducerBuilder {
        Producer::builder()
            .bootstrap_servers("10.0.0.1:9092")
            .client_id("sim")
            .acks(self.acks)
            .idempotence(self.idempotent)
            .compression(self.codec)
            .set("max.in.flight.requests.per.connection", &self.in_flight.to_string())
            .set("linger.ms", &self.linger_ms.to_string())
            .set("batch.size", &self.batch_size.to_string())
            .set("buffer.memory", &self.buffer_memory.to_string())
            .set("delivery.timeout.ms", &self.delivery_ms.to_string())
            .set("request.timeout.ms", &self.request_ms.to_string())
            .set("max.block.ms", &self.block_ms.to_string())
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "200")
    }
}
