//! A scenario: the settings, topology, workload and faults of one run, all chosen by a seed.
//!
//! Each choice is a named field. So a scenario can be written as a seed and the fields that differ
//! from it, and `shrink` can make a failing one smaller.
//!
//! The order of the random draws in [`Scenario::new`] is part of what a seed means. A new draw goes
//! to the end, so that known seeds keep their meaning.

use ottla::sim::Faults;
use ottla::{Producer, ProducerBuilder};
use ottla_protocol::wire::TestRng;

use crate::scenario_events::{
    ScenarioEvent, ScenarioEventKind, insert_restoration, insert_transaction_events, random_events,
};

/// A field's value that can be written as text.
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
        /// Every choice of a run.
        #[derive(Debug, Clone)]
        pub struct Scenario {
            /// The seed of the choices.
            pub seed: u64,
            /// Whether transactional producers run.
            pub is_transactional: bool,
            /// The faults that happen at a given time, in order.
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
    /// The number of brokers.
    nodes: u64,
    /// The number of replicas of each partition.
    replication_factor: u64,
    /// `min.insync.replicas`.
    min_isr: u64,
    /// The number of topics.
    topics: u64,
    /// The number of partitions of each topic.
    partitions: u64,
    /// `max.message.bytes` of the topics.
    max_message_bytes: u64,
    /// The number of virtual callers.
    callers: u64,
    /// The number of records that each caller sends.
    records_per_caller: u64,
    /// The largest random part of a value, in bytes.
    max_value_len: u64,
    /// The longest pause of a caller between two records, in microseconds.
    max_pause_us: u64,
    /// When the producer is closed while callers still send; 0 for only at the end.
    close_at_ms: u64,
    /// The timeout of that close.
    close_timeout_ms: u64,
    /// The longest time that a segment is in flight, in nanoseconds.
    max_delay_ns: u64,
    /// The most bytes that one read or write moves; 0 for no limit.
    max_io_bytes: u64,
    /// One write in this many finds the socket full; 0 for none.
    stall_one_in: u64,
    /// One segment in this many is the last of its connection; 0 for none.
    disconnect_one_in: u64,
    /// The most bytes that a socket holds; 0 for no limit.
    socket_buffer_bytes: u64,
    /// One produced batch in this many gets an error from the broker; 0 for none.
    broker_fault_one_in: u64,
    /// Whether brokers sometimes return an error that is fatal to the producer.
    has_fatal_faults: bool,
    /// One response in this many is late, by at most twice `request.timeout.ms`; 0 for none.
    late_response_one_in: u64,
    /// One metadata response in this many is an old one; 0 for none.
    stale_metadata_one_in: u64,
    /// The longest time that a follower takes to copy a batch.
    max_replication_lag_ms: u64,
    /// `replica.lag.time.max.ms`: a follower that is behind for longer leaves the ISR.
    replica_lag_time_max_ms: u64,
    /// Whether a replica outside the ISR may become leader.
    unclean_leader_election: bool,
    /// When every fault ends, in virtual time.
    heal_after_ms: u64,
    /// Whether `bootstrap.servers` holds only a host name, whose lookup fails at first.
    bootstrap_by_name: bool,
    /// The number of InitProducerId requests that fail at first.
    producer_id_errors: u64,
    /// The epoch of new producer ids; one near the maximum makes a producer run out of epochs.
    first_epoch: u64,
    /// `linger.awaited`.
    linger_awaited: bool,
    /// `partitioner.availability.timeout.ms`.
    availability_timeout_ms: u64,
    /// `metadata.max.age.ms`.
    metadata_max_age_ms: u64,
    /// Whether values repeat one character, so that they compress well.
    compressible_values: bool,
    /// When the producer is purged; 0 for never.
    purge_at_ms: u64,
    /// Whether that purge includes records in flight.
    purge_in_flight: bool,
    /// Whether the brokers' addresses are host names: of several addresses, of which some are
    /// dead, and gone while the broker is down.
    brokers_by_name: bool,
    /// Whether a restarted broker knows only the last batch of each producer.
    restores_last_batch_only: bool,
    /// The interval at which the brokers request the client's metrics (KIP-714); 0 for none.
    metrics_push_ms: u64,
    /// `batch.size.max`.
    batch_size_max: u64,
    /// The number of transactional ids.
    transactional_ids: u64,
    /// The number of instances of the application. Instances with the same id fence each other.
    instances: u64,
    /// The number of transactions that each instance tries.
    transactions: u64,
    /// The most records of a transaction.
    records_per_transaction: u64,
    /// The cluster's `transaction.version`: 1 or 2.
    transaction_version: u64,
    /// `transaction.timeout.ms`.
    transaction_timeout_ms: u64,
    /// One transactional or Produce request in this many is lost, refused or late; 0 for none.
    request_fault_one_in: u64,
    /// Whether requests may arrive after the client has given them up.
    has_late_requests: bool,
    /// How long a new coordinator loads its state.
    coordinator_load_ms: u64,
    /// The longest time until the coordinator writes a transaction marker.
    max_marker_delay_ms: u64,
}

/// What the text of a seed with transactions begins with.
const TRANSACTIONS_PREFIX: &str = "t";
/// Makes the draws of transactions independent of the other draws of the seed.
const TRANSACTION_SEEDS: u64 = 0x7a6e_5ac7_0000_0000;

fn pick<T: Copy>(rng: &mut TestRng, choices: &[T]) -> T {
    choices[rng.next_below(choices.len() as u64) as usize]
}

impl Scenario {
    /// Returns the scenario of a seed.
    pub fn new(seed: u64) -> Scenario {
        let rng = &mut TestRng::new(seed);
        let idempotent = rng.next_below(3) != 0;
        let request_timeout_ms = pick(rng, &[300, 1000, 3000]);
        let linger_ms = pick(rng, &[0, 1, 5, 50]);
        let nodes = pick(rng, &[1, 2, 3, 3]);
        let is_fault_free = rng.next_below(8) == 0;
        let mut s = Scenario {
            seed,
            is_transactional: false,
            events: Vec::new(),
            acks: if idempotent { "all" } else { pick(rng, &["all", "1", "0"]) },
            idempotent,
            max_in_flight: 1 + rng.next_below(5),
            retries: pick(rng, &[i32::MAX as u64, i32::MAX as u64, i32::MAX as u64, 1, 5]),
            linger_ms,
            batch_size: pick(rng, &[0, 200, 1000, 4000]),
            buffer_memory: pick(rng, &[6_000, 20_000, 1_000_000]),
            codec: pick(rng, &["none", "none", "gzip", "snappy", "lz4", "zstd"]),
            delivery_timeout_ms: request_timeout_ms
                + linger_ms
                + pick(rng, &[0, 500, 5_000, 30_000]),
            request_timeout_ms,
            max_block_ms: pick(rng, &[500, 5_000, 60_000]),
            max_request_size: pick(rng, &[3_000, 20_000, 1_048_576]),
            connections_max_idle_ms: pick(rng, &[540_000, 540_000, 700]),
            nodes,
            replication_factor: 1 + rng.next_below(nodes),
            min_isr: 1 + rng.next_below(nodes.min(2)),
            topics: 1 + rng.next_below(3),
            partitions: 1 + rng.next_below(6),
            max_message_bytes: pick(rng, &[1_048_588, 1_048_588, 300, 900]),
            callers: pick(rng, &[1, 2, 3, 5, 12]),
            records_per_caller: pick(rng, &[3, 10, 20, 60, 60, 250]),
            max_value_len: pick(rng, &[10, 100, 1500]),
            max_pause_us: pick(rng, &[0, 1_000, 20_000, 200_000]),
            close_at_ms: if rng.next_below(10) == 0 { 1 + rng.next_below(3_000) } else { 0 },
            close_timeout_ms: pick(rng, &[0, 50, 2_000]),
            max_delay_ns: pick(rng, &[0, 1_000_000, 20_000_000, 200_000_000]),
            max_io_bytes: pick(rng, &[0, 0, 5, 40, 300]),
            stall_one_in: pick(rng, &[0, 3, 20]),
            disconnect_one_in: pick(rng, &[0, 0, 15, 100]),
            socket_buffer_bytes: pick(rng, &[0, 0, 2_000, 300]),
            broker_fault_one_in: pick(rng, &[0, 0, 4, 20]),
            has_fatal_faults: rng.next_below(25) == 0,
            late_response_one_in: pick(rng, &[0, 0, 8, 40]),
            stale_metadata_one_in: pick(rng, &[0, 0, 3]),
            max_replication_lag_ms: pick(rng, &[0, 3, 50, 800]),
            replica_lag_time_max_ms: pick(rng, &[400, 5_000]),
            unclean_leader_election: rng.next_below(12) == 0,
            heal_after_ms: pick(rng, &[100, 1_000, 10_000, 30_000]),
            bootstrap_by_name: false,
            producer_id_errors: 0,
            first_epoch: 0,
            linger_awaited: true,
            availability_timeout_ms: 0,
            metadata_max_age_ms: 300_000,
            compressible_values: false,
            purge_at_ms: 0,
            purge_in_flight: false,
            brokers_by_name: false,
            restores_last_batch_only: false,
            metrics_push_ms: 0,
            batch_size_max: 0,
            transactional_ids: 0,
            instances: 0,
            transactions: 0,
            records_per_transaction: 0,
            transaction_version: 2,
            transaction_timeout_ms: 60_000,
            request_fault_one_in: 0,
            has_late_requests: false,
            coordinator_load_ms: 0,
            max_marker_delay_ms: 0,
        };
        if is_fault_free {
            s.disconnect_one_in = 0;
            s.broker_fault_one_in = 0;
            s.late_response_one_in = 0;
            s.stale_metadata_one_in = 0;
            s.has_fatal_faults = false;
        } else {
            s.events = random_events(rng, &s);
            s.bootstrap_by_name = rng.next_below(6) == 0;
            s.producer_id_errors = pick(rng, &[0, 0, 0, 2]);
            s.first_epoch = pick(rng, &[0, 0, 0, i16::MAX as u64 - 1]);
        }
        // A second generator: fields that were added later do not change the draws above.
        let rng = &mut TestRng::new(!seed);
        s.linger_awaited = rng.next_below(3) != 0;
        s.availability_timeout_ms = pick(rng, &[0, 0, 1, 50]);
        s.metadata_max_age_ms = pick(rng, &[300_000, 300_000, 20_000]);
        s.compressible_values = rng.next_below(2) == 0;
        if !is_fault_free && rng.next_below(8) == 0 {
            s.purge_at_ms = 1 + rng.next_below(s.heal_after_ms);
            s.purge_in_flight = rng.next_below(2) == 0;
        }
        s.brokers_by_name = !is_fault_free && rng.next_below(3) == 0;
        s.restores_last_batch_only = rng.next_below(2) == 0;
        if !is_fault_free && rng.next_below(4) == 0 {
            insert_restoration(rng, &mut s);
        }
        s.metrics_push_ms = pick(rng, &[0, 0, 0, 20, 500]);
        s.batch_size_max = pick(rng, &[0, 3000, 20_000, 262_144]);
        s
    }

    /// Returns the scenario of a seed with transactional producers.
    ///
    /// Cluster, network and settings are those of [`new`](Scenario::new), with the settings that
    /// transactions need, and without the events that legitimately remove committed records.
    pub fn with_transactions(seed: u64) -> Scenario {
        let mut s = Scenario::new(seed);
        let is_fault_free = s.events.is_empty() && s.broker_fault_one_in == 0;
        let rng = &mut TestRng::new(seed ^ TRANSACTION_SEEDS);
        s.is_transactional = true;
        (s.acks, s.idempotent, s.unclean_leader_election) = ("all", true, false);
        (s.close_at_ms, s.purge_at_ms) = (0, 0);
        s.retries = i32::MAX as u64;
        s.events.retain(|e| !e.kind.removes_records() && !e.kind.suspends_machines());
        s.heal_after_ms = s.heal_after_ms.max(1_000 + rng.next_below(4_000));
        s.transactional_ids = pick(rng, &[1, 1, 2]);
        s.instances = s.transactional_ids + pick(rng, &[0, 0, 1]);
        s.transactions = pick(rng, &[3, 6, 12, 25]);
        s.records_per_transaction = pick(rng, &[1, 3, 8, 30]);
        s.transaction_version = 1 + rng.next_below(2);
        s.transaction_timeout_ms = pick(rng, &[1_000, 5_000, 60_000, 60_000]);
        s.request_fault_one_in = pick(rng, &[0, 5, 12, 40]);
        s.has_late_requests = rng.next_below(3) != 0;
        s.coordinator_load_ms = pick(rng, &[0, 0, 100, 700]);
        s.max_marker_delay_ms = pick(rng, &[0, 0, 5, 200]);
        s.has_fatal_faults &= rng.next_below(2) == 0;
        if is_fault_free {
            (s.request_fault_one_in, s.has_late_requests) = (0, false);
            s.instances = s.transactional_ids;
            s.transaction_timeout_ms = 60_000;
        } else {
            insert_transaction_events(rng, &mut s);
        }
        s
    }

    /// Returns the scenario of a seed, with or without transactions.
    fn of_seed(seed: u64, is_transactional: bool) -> Scenario {
        if is_transactional { Scenario::with_transactions(seed) } else { Scenario::new(seed) }
    }

    /// Returns whether the run has no faults and enough time to deliver every record.
    pub fn is_fault_free(&self) -> bool {
        let has_no_random_faults = self.disconnect_one_in == 0
            && self.broker_fault_one_in == 0
            && self.late_response_one_in == 0
            && self.stale_metadata_one_in == 0;
        let has_wide_limits =
            self.max_message_bytes > 1_000_000 && self.delivery_timeout_ms >= 30_000;
        let is_fast = self.max_replication_lag_ms <= 50
            && self.max_delay_ns <= 20_000_000
            && self.retries > 100;
        has_no_random_faults
            && has_wide_limits
            && is_fast
            && self.events.is_empty()
            && self.request_fault_one_in == 0
            && self.close_at_ms == 0
            && self.purge_at_ms == 0
    }

    /// Returns whether the leader epochs of a topic go back and stay back.
    pub fn has_restoration(&self) -> bool {
        self.events.iter().any(|e| matches!(e.kind, ScenarioEventKind::RestoreTopic { .. }))
    }

    /// Parses a seed, or the text of [`to_text`](Scenario::to_text). The text of a seed with
    /// transactions begins with `t`.
    ///
    /// # Errors
    /// Names the part that is no seed, field or value.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let (seed, rest) = text.split_once(':').unwrap_or((text, ""));
        let (is_transactional, number) = match seed.strip_prefix(TRANSACTIONS_PREFIX) {
            Some(number) => (true, number),
            None => (false, seed),
        };
        let number = number.parse().map_err(|_| format!("invalid seed: {seed:?}"))?;
        let mut s = Scenario::of_seed(number, is_transactional);
        for part in rest.split(',').filter(|p| !p.is_empty()) {
            let parsed = match part.split_once('=') {
                Some(("events", numbers)) => {
                    let numbers: Vec<&str> = numbers.split('.').collect();
                    s.events.retain(|e| numbers.contains(&e.number.to_string().as_str()));
                    Some(())
                }
                Some((name, value)) => s.set_field(name, value),
                None => None,
            };
            parsed.ok_or_else(|| format!("unknown scenario field or invalid value: {part:?}"))?;
        }
        Ok(s)
    }

    /// Returns the scenario with another value for one field.
    ///
    /// Returns `None` if there is no such field or the value is invalid.
    pub fn with_field(&self, name: &str, value: &str) -> Option<Scenario> {
        let mut s = self.clone();
        s.set_field(name, value)?;
        Some(s)
    }

    /// Returns the scenario as one line: its seed, and each field that differs from the seed's.
    pub fn to_text(&self) -> String {
        let original = Scenario::of_seed(self.seed, self.is_transactional);
        let mut parts = self.differing_fields(&original);
        if self.events.len() != original.events.len() {
            let numbers: Vec<String> = self.events.iter().map(|e| e.number.to_string()).collect();
            parts.push(format!("events={}", numbers.join(".")));
        }
        let prefix = if self.is_transactional { TRANSACTIONS_PREFIX } else { "" };
        match parts.as_slice() {
            [] => format!("{prefix}{}", self.seed),
            parts => format!("{prefix}{}:{}", self.seed, parts.join(",")),
        }
    }

    /// Returns the random faults of the network.
    pub fn network_faults(&self) -> Faults {
        Faults {
            max_delay_ns: self.max_delay_ns,
            max_io_bytes: self.max_io_bytes as usize,
            stall_one_in: self.stall_one_in,
            disconnect_one_in: self.disconnect_one_in,
            window_bytes: self.socket_buffer_bytes as usize,
        }
    }

    /// Returns the name of the topic with this index.
    pub fn topic_name(&self, index: u64) -> String {
        format!("t{index}")
    }

    /// Returns a builder with the scenario's settings.
    pub fn producer_builder(&self) -> ProducerBuilder {
        Producer::builder()
            .bootstrap_servers(if self.bootstrap_by_name {
                "kafka:9092"
            } else {
                "kafka:9092,10.0.0.1:9092"
            })
            .client_id("sim")
            .set("acks", self.acks)
            .idempotence(self.idempotent)
            .set("compression.type", self.codec)
            .set("max.in.flight.requests.per.connection", self.max_in_flight.to_string())
            .set("retries", self.retries.to_string())
            .set("linger.ms", self.linger_ms.to_string())
            .set("batch.size", self.batch_size.to_string())
            .set("batch.size.max", self.batch_size_max.to_string())
            .set("buffer.memory", self.buffer_memory.to_string())
            .set("delivery.timeout.ms", self.delivery_timeout_ms.to_string())
            .set("request.timeout.ms", self.request_timeout_ms.to_string())
            .set("max.block.ms", self.max_block_ms.to_string())
            .set("max.request.size", self.max_request_size.to_string())
            .set("connections.max.idle.ms", self.connections_max_idle_ms.to_string())
            .set("linger.awaited", self.linger_awaited.to_string())
            .set("partitioner.availability.timeout.ms", self.availability_timeout_ms.to_string())
            .set("metadata.max.age.ms", self.metadata_max_age_ms.to_string())
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "200")
    }
}
