//! What a producer's sender sees at one moment: [`Snapshot`], for
//! [`Producer::snapshot`](crate::Producer::snapshot).
//!
//! `sender/snapshot.rs` takes it when a caller asks, `client/snapshot.rs` the part of the brokers.

use std::fmt;
use std::time::Duration;

/// What a producer does at one moment: its partitions with the reason why each waits, its
/// connections, the callers that wait, and the transaction.
///
/// ```no_run
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// for p in producer.snapshot()?.partitions {
///     println!("{}-{}: {} batches, {}", p.topic, p.partition, p.queued_batches, p.state);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The partitions with records that are queued or in flight, by topic and number.
    pub partitions: Vec<PartitionSnapshot>,
    /// The brokers that the producer knows, and the bootstrap servers while it uses them.
    pub brokers: Vec<BrokerSnapshot>,
    /// The memory of `buffer.memory`, and the callers that wait for it.
    pub memory: MemorySnapshot,
    /// The topics whose metadata callers wait for, by name.
    pub awaited_topics: Vec<AwaitedTopic>,
    /// The transaction; `None` if the producer is not transactional.
    pub transaction: Option<TransactionSnapshot>,
}

/// A partition with records that are queued or in flight.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// The topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: i32,
    /// The node id of the leader; `None` if it is unknown.
    pub leader: Option<i32>,
    /// What the first queued batch waits for.
    pub state: QueueState,
    /// The batches that are not in flight, including the one that takes records.
    pub queued_batches: usize,
    /// The bytes of these batches, compressed if they are. A batch that a thread closes or splits
    /// counts as zero bytes.
    pub queued_bytes: usize,
    /// The batches in requests without a response.
    pub in_flight_batches: usize,
    /// The bytes of the batches in flight.
    pub in_flight_bytes: usize,
    /// The age of the oldest batch, queued or in flight. A record fails when its batch is
    /// `delivery.timeout.ms` old.
    pub oldest_batch_age: Duration,
    /// The requests that carried the first queued batch; of the oldest one in flight, if none is
    /// queued.
    pub attempts: u32,
    /// Why the last of these requests failed.
    pub last_error: Option<String>,
}

/// What the first queued batch of a partition waits for.
///
/// `Display` writes it as a short text, [`as_str`](QueueState::as_str) as a name that does not
/// change between versions. Times are those that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueState {
    /// For nothing: the sender sends it in its next round.
    Ready,
    /// No batch is queued. Those in flight wait for their responses.
    InFlight,
    /// For more records (`linger.ms`).
    Lingering(Duration),
    /// For the end of the backoff after a failed attempt (`retry.backoff.ms`).
    BackingOff(Duration),
    /// For a thread that compresses or splits it.
    Closing,
    /// For metadata that names a leader of the partition.
    LeaderUnknown,
    /// For the connection to the leader. Its [`BrokerSnapshot`] has the state and the last error.
    BrokerNotReady,
    /// For a response of the leader, which has `max.in.flight.requests.per.connection` requests, or
    /// for its socket to take more bytes.
    BrokerBusy,
    /// For the end of the leader's throttle: the client exceeds a quota.
    Throttled(Duration),
    /// For the responses to the partition's batches in flight: a broker remembers five batches of
    /// an idempotent producer, and a first or retried batch goes alone. With
    /// `max.in.flight.requests.per.connection=1` each batch does (Kafka mutes the partition).
    Muted,
    /// For a producer id (`enable.idempotence`).
    ProducerIdUnknown,
    /// For a new epoch of the producer id, because a batch with a sequence failed. It begins when
    /// no batch of the partition is in flight.
    EpochBump,
    /// For the transaction: the coordinator has not added the partition yet, or the transaction
    /// ends.
    Transaction,
}

/// A broker, or a bootstrap server, and the connection to it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BrokerSnapshot {
    /// The node id; `None` for a bootstrap server.
    pub id: Option<i32>,
    /// The host as the broker advertises it, or as `bootstrap.servers` names it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The state of the connection.
    pub state: BrokerState,
    /// The requests without a response.
    pub requests_in_flight: usize,
    /// The time since the oldest of them was sent.
    pub oldest_request_age: Option<Duration>,
    /// The time from the last request with a response until that response.
    pub last_round_trip: Option<Duration>,
    /// How long the client sends no request, because the broker throttles it. Zero if it does not.
    pub throttle_left: Duration,
    /// Why the last connection failed. A connection that works does not clear it.
    pub last_error: Option<String>,
}

/// The state of the connection to a broker.
///
/// `Display` writes it as a short text, [`as_str`](BrokerState::as_str) as a name that does not
/// change between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerState {
    /// There is no connection: none was needed yet, it was idle or has failed. The client does not
    /// connect before this time has passed.
    Disconnected(Duration),
    /// A thread reads certificate files or fetches a token.
    Preparing,
    /// A thread resolves the host name.
    Resolving,
    /// TCP connects, or TLS shakes hands.
    Connecting,
    /// The SASL exchange runs.
    Authenticating,
    /// The client waits for the versions that the broker supports.
    CheckingApiVersions,
    /// The client may send requests.
    Ready,
}

/// The memory of `buffer.memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemorySnapshot {
    /// The size of `buffer.memory`, in bytes.
    pub total_bytes: u64,
    /// The free bytes. Zero while the parts of a split batch exceed the limit.
    pub available_bytes: u64,
    /// The callers that wait for memory.
    pub waiting_callers: usize,
    /// The bytes that they wait for.
    pub awaited_bytes: u64,
}

/// The state of a transactional producer, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionSnapshot {
    /// The `transactional.id`.
    pub transactional_id: String,
    /// The state.
    pub state: TransactionState,
    /// The producer id; `None` before `init_transactions` has succeeded.
    pub producer_id: Option<i64>,
    /// The epoch of the producer id. A higher one fences the producer.
    pub producer_epoch: Option<i16>,
    /// The node id of the transaction's coordinator; `None` while it has to be looked up.
    pub coordinator: Option<i32>,
    /// The transactional request without a response, such as `EndTxn`.
    pub request_in_flight: Option<&'static str>,
    /// Why the last transactional request has to be sent again; `None` once it has succeeded.
    pub coordinator_error: Option<String>,
    /// Why the transaction has failed ([`AbortableError`](TransactionState::AbortableError)), or
    /// the producer ([`FatalError`](TransactionState::FatalError)).
    pub error: Option<String>,
}

/// The state of a transactional producer, by the names of Kafka's `TransactionManager`.
///
/// `Display` writes it as a short text, [`as_str`](TransactionState::as_str) as a name that does
/// not change between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionState {
    /// `init_transactions` was not called, or failed.
    Uninitialized,
    /// The coordinator assigns a producer id, or a new epoch of it.
    Initializing,
    /// No transaction is open.
    Ready,
    /// A transaction is open and accepts records.
    InTransaction,
    /// A commit waits for the records and then for the coordinator.
    Committing,
    /// As `Committing`, for an abort.
    Aborting,
    /// The transaction has failed and has to be aborted.
    AbortableError,
    /// The producer has failed: only a new one can send records.
    FatalError,
}

impl TransactionState {
    /// Returns the state's name, such as `in_transaction`.
    pub fn as_str(self) -> &'static str {
        match self {
            TransactionState::Uninitialized => "uninitialized",
            TransactionState::Initializing => "initializing",
            TransactionState::Ready => "ready",
            TransactionState::InTransaction => "in_transaction",
            TransactionState::Committing => "committing",
            TransactionState::Aborting => "aborting",
            TransactionState::AbortableError => "abortable_error",
            TransactionState::FatalError => "fatal_error",
        }
    }
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

/// A topic whose metadata callers wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AwaitedTopic {
    /// The name.
    pub topic: String,
    /// The callers that wait.
    pub waiting_callers: usize,
    /// The last error that metadata had for the topic.
    pub last_error: Option<String>,
}

impl QueueState {
    /// Returns the state's name, such as `lingering`.
    pub fn as_str(&self) -> &'static str {
        match self {
            QueueState::Ready => "ready",
            QueueState::InFlight => "in_flight",
            QueueState::Lingering(_) => "lingering",
            QueueState::BackingOff(_) => "backing_off",
            QueueState::Closing => "closing",
            QueueState::LeaderUnknown => "leader_unknown",
            QueueState::BrokerNotReady => "broker_not_ready",
            QueueState::BrokerBusy => "broker_busy",
            QueueState::Throttled(_) => "throttled",
            QueueState::Muted => "muted",
            QueueState::ProducerIdUnknown => "producer_id_unknown",
            QueueState::EpochBump => "epoch_bump",
            QueueState::Transaction => "transaction",
        }
    }

    /// Returns how long the state lasts, if that is known.
    pub fn time_left(&self) -> Option<Duration> {
        match self {
            QueueState::Lingering(left)
            | QueueState::BackingOff(left)
            | QueueState::Throttled(left) => Some(*left),
            _ => None,
        }
    }
}

impl fmt::Display for QueueState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            QueueState::Ready => "ready",
            QueueState::InFlight => "in flight",
            QueueState::Lingering(_) => "lingering",
            QueueState::BackingOff(_) => "in backoff",
            QueueState::Closing => "being compressed",
            QueueState::LeaderUnknown => "leader unknown",
            QueueState::BrokerNotReady => "broker not connected",
            QueueState::BrokerBusy => "broker busy",
            QueueState::Throttled(_) => "throttled",
            QueueState::Muted => "muted by batches in flight",
            QueueState::ProducerIdUnknown => "no producer id yet",
            QueueState::EpochBump => "waiting for a new epoch",
            QueueState::Transaction => "waiting for the transaction",
        };
        f.write_str(text)?;
        self.time_left().map_or(Ok(()), |left| write!(f, " for {}", Milliseconds(left)))
    }
}

impl BrokerState {
    /// Returns the state's name, such as `ready`.
    pub fn as_str(&self) -> &'static str {
        match self {
            BrokerState::Disconnected(_) => "disconnected",
            BrokerState::Preparing => "preparing",
            BrokerState::Resolving => "resolving",
            BrokerState::Connecting => "connecting",
            BrokerState::Authenticating => "authenticating",
            BrokerState::CheckingApiVersions => "checking_api_versions",
            BrokerState::Ready => "ready",
        }
    }
}

impl fmt::Display for BrokerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerState::CheckingApiVersions => f.write_str("checking API versions"),
            BrokerState::Disconnected(left) if !left.is_zero() => {
                write!(f, "disconnected for {}", Milliseconds(*left))
            }
            _ => f.write_str(self.as_str()),
        }
    }
}

/// Formats a time in whole milliseconds, rounded up: a state that lasts is never shown as 0 ms.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0.as_nanos().div_ceil(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_documented() {
        let page = include_str!("../../../docs/MONITORING.md");
        let left = Duration::ZERO;
        for state in [
            QueueState::Ready,
            QueueState::InFlight,
            QueueState::Lingering(left),
            QueueState::BackingOff(left),
            QueueState::Closing,
            QueueState::LeaderUnknown,
            QueueState::BrokerNotReady,
            QueueState::BrokerBusy,
            QueueState::Throttled(left),
            QueueState::Muted,
            QueueState::ProducerIdUnknown,
            QueueState::EpochBump,
            QueueState::Transaction,
        ] {
            assert!(page.contains(&format!("\n| `{}` |", state.as_str())), "{state}");
        }
    }

    #[test]
    fn states_of_transactions_are_documented() {
        let page = include_str!("../../../docs/MONITORING.md");
        for state in [
            TransactionState::Uninitialized,
            TransactionState::Initializing,
            TransactionState::Ready,
            TransactionState::InTransaction,
            TransactionState::Committing,
            TransactionState::Aborting,
            TransactionState::AbortableError,
            TransactionState::FatalError,
        ] {
            assert!(page.contains(&format!("\n| `{}` |", state.as_str())), "{state}");
        }
        assert_eq!(TransactionState::AbortableError.to_string(), "abortable error");
    }

    #[test]
    fn states_are_texts_with_the_time_that_is_left() {
        let left = Duration::from_micros(4_100);
        assert_eq!(QueueState::Lingering(left).to_string(), "lingering for 5 ms");
        assert_eq!(QueueState::Muted.to_string(), "muted by batches in flight");
        assert_eq!(QueueState::Throttled(left).as_str(), "throttled");
        assert_eq!(BrokerState::Disconnected(left).to_string(), "disconnected for 5 ms");
        assert_eq!(BrokerState::Disconnected(Duration::ZERO).to_string(), "disconnected");
        assert_eq!(BrokerState::CheckingApiVersions.to_string(), "checking API versions");
    }
}
