//! What a seed decides: settings, topology, workload, faults. Each choice has a name, so that a scenario can be
//! written down as a seed and what differs from it, and shrunk.

use ottla::sim::Faults;
use ottla::{Producer, ProducerBuilder};
use ottla_protocol::wire::TestRng;

use crate::scenario_events::{ScenarioEvent, random_events};

/// A value of a scenario, written down.
trait ScenarioValue: Sized + PartialEq {
    fn from_text(text: &str) -> Option<Self>;
    fn to_text(&self) -> String;
}

impl ScenarioValue for u64 {
    fn from_text(text: &str) -> Option<u64> {
        text.parse().ok()
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl ScenarioValue for bool {
    fn from_text(text: &str) -> Option<bool> {
        text.parse().ok()
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

const TEXT_VALUES: [&str; 8] = ["all", "1", "0", "none", "gzip", "snappy", "lz4", "zstd"];

impl ScenarioValue for &'static str {
    fn from_text(text: &str) -> Option<&'static str> {
        TEXT_VALUES.into_iter().find(|w| *w == text)
    }
    fn to_text(&self) -> String {
        (*self).to_owned()
    }
}

macro_rules! scenario {
    ($( $(#[$doc:meta])* $name:ident: $ty:ty, )*) => {
        /// A whole run's choices.
        #[derive(Debug, Clone)]
        pub struct Scenario {
            /// Where they come from.
            pub seed: u64,
            /// What happens when.
            pub events: Vec<ScenarioEvent>,
            $( $(#[$doc])* pub $name: $ty, )*
        }

        impl Scenario {
            fn set_field(&mut self, name: &str, value: &str) -> Option<()> {
                match name {
                    $( stringify!($name) => self.$name = ScenarioValue::from_text(value)?, )*
                    _ => return None,
                }
                Some(())
            }

            fn differing_fields(&self, other: &Scenario) -> Vec<String> {
                let mut out = Vec::new();
                $( if self.$name != other.$name {
                    out.push(format!("{}={}", stringify!($name), self.$name.to_text()));
                } )*
                out
            }
        }
    };
}

scenario! {
    /// `acks`.
    acks: &'static str,
    /// `enable.idempotence`.
    idempotent: bool,
    /// `max.in.flight.requests.per.connection`.
    max_in_flight: u64,
    /// `retries`.
    retries: u64,
    /// `linger.ms`.
    linger_ms: u64,
    /// `batch.size`.
    batch_size: u64,
    /// `buffer.memory`.
    buffer_memory: u64,
    /// `compression.type`.
    codec: &'static str,
    /// `delivery.timeout.ms`.
    delivery_timeout_ms: u64,
    /// `request.timeout.ms`.
    request_timeout_ms: u64,
    /// `max.block.ms`.
    max_block_ms: u64,
    /// `max.request.size`.
    max_request_size: u64,
    /// `connections.max.idle.ms`.
    connections_max_idle_ms: u64,
    /// Brokers.
    nodes: u64,
    /// Replicas of each partition.
    replication_factor: u64,
    /// `min.insync.replicas`.
    min_isr: u64,
    /// Topics.
    topics: u64,
    /// Partitions of each topic.
    partitions: u64,
    /// `max.message.bytes` of the topics.
    max_message_bytes: u64,
    /// Virtual callers.
    callers: u64,
    /// Records each of them sends.
    records_per_caller: u64,
    /// The most bytes of a value.
    max_value_len: u64,
    /// The most microseconds between a caller's records, now and then.
    max_pause_us: u64,
    /// The producer is closed then, whatever callers do; 0 for only at the end.
    close_at_ms: u64,
    /// What `close` is given then.
    close_timeout_ms: u64,
    /// The most nanoseconds a segment is under way.
    max_delay_ns: u64,
    /// The most bytes one read or write moves; 0 for as many as there are.
    max_io_bytes: u64,
    /// One in this many writes finds no room; 0 for none.
    stall_one_in: u64,
    /// One in this many segments is the connection's last; 0 for none.
    disconnect_one_in: u64,
    /// The most bytes a socket holds; 0 for any number.
    socket_buffer_bytes: u64,
    /// One in this many partitions of a request is refused or answered wrongly; 0 for none.
    broker_fault_one_in: u64,
    /// Whether brokers now and then say what ends the producer.
    has_fatal_faults: bool,
    /// One in this many answers comes late, by at most twice `request.timeout.ms`; 0 for none.
    late_response_one_in: u64,
    /// One in this many metadata answers is an old one; 0 for none.
    stale_metadata_one_in: u64,
    /// The most milliseconds a follower takes to copy.
    max_replication_lag_ms: u64,
    /// Milliseconds after which a follower that is behind leaves the ISR.
    replica_lag_time_max_ms: u64,
    /// Whether replicas out of sync are made leaders.
    unclean_leader_election: bool,
    /// Virtual milliseconds until the world heals.
    heal_after_ms: u64,
    /// Brokers are known by a name alone, which is not found at first.
    bootstrap_by_name: bool,
    /// So many requests for a producer id are refused.
    producer_id_errors: u64,
    /// The epoch producer ids are given with: near its end, ids run out of them.
    first_epoch: u64,
    /// `linger.awaited`.
    linger_awaited: bool,
    /// `partitioner.availability.timeout.ms`.
    availability_timeout_ms: u64,
    /// `metadata.max.age.ms`.
    metadata_max_age_ms: u64,
    /// Values are of one letter each, so that they compress.
    compressible_values: bool,
    /// What waits is purged then; 0 for never.
    purge_at_ms: u64,
    /// And what is in flight.
    purge_in_flight: bool,
}

fn pick<T: Copy>(g: &mut TestRng, from: &[T]) -> T {
    from[g.next_below(from.len() as u64) as usize]
}

impl Scenario {
    /// What this seed decides.
    pub fn new(seed: u64) -> Scenario {
        let g = &mut TestRng::new(seed);
        let idempotent = g.next_below(3) != 0;
        let request_ms = pick(g, &[300, 1000, 3000]);
        let linger_ms = pick(g, &[0, 1, 5, 50]);
        let nodes = pick(g, &[1, 2, 3, 3]);
        let calm = g.next_below(8) == 0;
        let mut s = Scenario {
            seed,
            events: Vec::new(),
            acks: if idempotent { "all" } else { pick(g, &["all", "1", "0"]) },
            idempotent,
            max_in_flight: 1 + g.next_below(5),
            retries: pick(g, &[i32::MAX as u64, i32::MAX as u64, i32::MAX as u64, 1, 5]),
            linger_ms,
            batch_size: pick(g, &[0, 200, 1000, 4000]),
            buffer_memory: pick(g, &[6_000, 20_000, 1_000_000]),
            codec: pick(g, &["none", "none", "gzip", "snappy", "lz4", "zstd"]),
            delivery_timeout_ms: request_ms + linger_ms + pick(g, &[0, 500, 5_000, 30_000]),
            request_timeout_ms: request_ms,
            max_block_ms: pick(g, &[500, 5_000, 60_000]),
            max_request_size: pick(g, &[3_000, 20_000, 1_048_576]),
            connections_max_idle_ms: pick(g, &[540_000, 540_000, 700]),
            nodes,
            replication_factor: 1 + g.next_below(nodes),
            min_isr: 1 + g.next_below(nodes.min(2)),
            topics: 1 + g.next_below(3),
            partitions: 1 + g.next_below(6),
            max_message_bytes: pick(g, &[1_048_588, 1_048_588, 300, 900]),
            callers: pick(g, &[1, 2, 3, 5, 12]),
            records_per_caller: pick(g, &[3, 10, 20, 60, 60, 250]),
            max_value_len: pick(g, &[10, 100, 1500]),
            max_pause_us: pick(g, &[0, 1_000, 20_000, 200_000]),
            close_at_ms: if g.next_below(10) == 0 { 1 + g.next_below(3_000) } else { 0 },
            close_timeout_ms: pick(g, &[0, 50, 2_000]),
            max_delay_ns: pick(g, &[0, 1_000_000, 20_000_000, 200_000_000]),
            max_io_bytes: pick(g, &[0, 0, 5, 40, 300]),
            stall_one_in: pick(g, &[0, 3, 20]),
            disconnect_one_in: pick(g, &[0, 0, 15, 100]),
            socket_buffer_bytes: pick(g, &[0, 0, 2_000, 300]),
            broker_fault_one_in: pick(g, &[0, 0, 4, 20]),
            has_fatal_faults: g.next_below(25) == 0,
            late_response_one_in: pick(g, &[0, 0, 8, 40]),
            stale_metadata_one_in: pick(g, &[0, 0, 3]),
            max_replication_lag_ms: pick(g, &[0, 3, 50, 800]),
            replica_lag_time_max_ms: pick(g, &[400, 5_000]),
            unclean_leader_election: g.next_below(12) == 0,
            heal_after_ms: pick(g, &[100, 1_000, 10_000, 30_000]),
            bootstrap_by_name: false,
            producer_id_errors: 0,
            first_epoch: 0,
            linger_awaited: true,
            availability_timeout_ms: 0,
            metadata_max_age_ms: 300_000,
            compressible_values: false,
            purge_at_ms: 0,
            purge_in_flight: false,
        };
        if calm {
            (
                s.disconnect_one_in,
                s.broker_fault_one_in,
                s.late_response_one_in,
                s.stale_metadata_one_in,
                s.has_fatal_faults,
            ) = (0, 0, 0, 0, false);
        } else {
            s.events = random_events(g, &s);
            s.bootstrap_by_name = g.next_below(6) == 0;
            s.producer_id_errors = pick(g, &[0, 0, 0, 2]);
            s.first_epoch = pick(g, &[0, 0, 0, i16::MAX as u64 - 1]);
        }
        // From numbers of their own, so that what came before keeps its seeds.
        let g = &mut TestRng::new(!seed);
        s.linger_awaited = g.next_below(3) != 0;
        s.availability_timeout_ms = pick(g, &[0, 0, 1, 50]);
        s.metadata_max_age_ms = pick(g, &[300_000, 300_000, 20_000]);
        s.compressible_values = g.next_below(2) == 0;
        if !calm && g.next_below(8) == 0 {
            s.purge_at_ms = 1 + g.next_below(s.heal_after_ms);
            s.purge_in_flight = g.next_below(2) == 0;
        }
        s
    }

    /// Whether nothing is done to it, and records live long.
    pub fn is_fault_free(&self) -> bool {
        let quiet = (
            self.disconnect_one_in,
            self.broker_fault_one_in,
            self.late_response_one_in,
            self.stale_metadata_one_in,
        ) == (0, 0, 0, 0);
        let roomy = self.max_message_bytes > 1_000_000 && self.delivery_timeout_ms >= 30_000;
        let quick = self.max_replication_lag_ms <= 50
            && self.max_delay_ns <= 20_000_000
            && self.retries > 100;
        quiet
            && roomy
            && quick
            && self.events.is_empty()
            && self.close_at_ms == 0
            && self.purge_at_ms == 0
    }

    /// From a seed, or from what [`written`](Scenario::written) gives: a seed, and what differs from it.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let (seed, rest) = text.split_once(':').unwrap_or((text, ""));
        let seed = seed.parse().map_err(|_| format!("{seed:?} is not a seed"))?;
        let mut s = Scenario::new(seed);
        for part in rest.split(',').filter(|p| !p.is_empty()) {
            let known = match part.split_once('=') {
                Some(("events", kept)) => {
                    let kept: Vec<&str> = kept.split('.').collect();
                    s.events.retain(|e| kept.contains(&e.number.to_string().as_str()));
                    Some(())
                }
                Some((name, value)) => s.set_field(name, value),
                None => None,
            };
            known.ok_or_else(|| format!("{part:?} is nothing a scenario has"))?;
        }
        Ok(s)
    }

    /// The same scenario with another value; `None` if there is no such choice or no such value.
    pub fn with_field(&self, name: &str, value: &str) -> Option<Scenario> {
        let mut s = self.clone();
        s.set_field(name, value)?;
        Some(s)
    }

    /// The scenario in a line: its seed, and what differs from what that decides.
    pub fn to_text(&self) -> String {
        let from = Scenario::new(self.seed);
        let mut parts = self.differing_fields(&from);
        if self.events.len() != from.events.len() {
            let kept: Vec<String> = self.events.iter().map(|e| e.number.to_string()).collect();
            parts.push(format!("events={}", kept.join(".")));
        }
        match parts.as_slice() {
            [] => self.seed.to_string(),
            parts => format!("{}:{}", self.seed, parts.join(",")),
        }
    }

    /// What the network does.
    pub fn network_faults(&self) -> Faults {
        Faults {
            max_delay_ns: self.max_delay_ns,
            max_io_bytes: self.max_io_bytes as usize,
            stall_one_in: self.stall_one_in,
            disconnect_one_in: self.disconnect_one_in,
            window_bytes: self.socket_buffer_bytes as usize,
        }
    }

    /// A topic's name.
    pub fn topic_name(&self, n: u64) -> String {
        format!("t{n}")
    }

    /// The producer they ask for.
    pub fn producer_builder(&self) -> ProducerBuilder {
        Producer::builder()
            .bootstrap_servers(if self.bootstrap_by_name {
                "kafka:9092"
            } else {
                "kafka:9092,10.0.0.1:9092"
            })
            .client_id("sim")
            .acks(self.acks)
            .idempotence(self.idempotent)
            .compression(self.codec)
            .set("max.in.flight.requests.per.connection", &self.max_in_flight.to_string())
            .set("retries", &self.retries.to_string())
            .set("linger.ms", &self.linger_ms.to_string())
            .set("batch.size", &self.batch_size.to_string())
            .set("buffer.memory", &self.buffer_memory.to_string())
            .set("delivery.timeout.ms", &self.delivery_timeout_ms.to_string())
            .set("request.timeout.ms", &self.request_timeout_ms.to_string())
            .set("max.block.ms", &self.max_block_ms.to_string())
            .set("max.request.size", &self.max_request_size.to_string())
            .set("connections.max.idle.ms", &self.connections_max_idle_ms.to_string())
            .set("linger.awaited", &self.linger_awaited.to_string())
            .set("partitioner.availability.timeout.ms", &self.availability_timeout_ms.to_string())
            .set("metadata.max.age.ms", &self.metadata_max_age_ms.to_string())
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "200")
    }
}
