//! The broker without network I/O: request frames and the time go in, response frames come out.
//!
//! The TCP server and the simulation drive the same core. [`crate::api`] handles the requests,
//! [`crate::cluster`] the nodes, [`crate::purgatory`] the requests that wait for replicas.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use ottla_protocol::random::SplitMix64;
use ottla_protocol::{ErrorCode, Uuid};

use crate::client_metrics::{ClientMetrics, ClientMetricsSubscription};
use crate::cluster::Nodes;
use crate::coordinators::Coordinators;
use crate::group::GroupCoordinator;
use crate::log::LogBatch;
use crate::new_topic::NewTopic;
use crate::purgatory::DelayedProduce;
use crate::topics::TopicStore;
use crate::transaction::TransactionCoordinator;

/// The configuration of a broker or cluster.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// The directory for logs and for the state of coordinators (Kafka's `log.dirs`); `None` keeps
    /// both in memory.
    pub data_dir: Option<PathBuf>,
    /// The address that clients are to connect to (Kafka's `advertised.listeners`).
    ///
    /// `None` advertises the address that the client has connected to.
    pub advertised_listener: Option<(String, u16)>,
    /// Partitions of an automatically created topic (Kafka's `num.partitions`); default 1.
    pub default_partitions: i32,
    /// Whether a Metadata request for a missing topic creates it (Kafka's
    /// `auto.create.topics.enable`); default true.
    pub auto_create_topics: bool,
    /// The seed of the random topic and cluster ids; default 0.
    pub seed: u64,
    /// The number of nodes, 1 to 100; default 1. Their ids count from 1. One core is the cluster.
    pub node_count: i32,
    /// Replicas of an automatically created topic, at most `node_count` (Kafka's
    /// `default.replication.factor`); default 3.
    pub default_replication_factor: i32,
    /// Whether a node that starts again knows only the last batch of each producer, as a Kafka
    /// broker after a clean shutdown does (its snapshot contains no more); default false.
    ///
    /// Otherwise it knows the last five, as a broker does that has to read its log.
    pub restores_last_batch_only: bool,
    /// The cluster's finalized feature `transaction.version`: 2 for transactions V2 (KIP-890), 0
    /// or 1 for V1; default 2.
    pub transaction_version: i16,
    /// The longest transaction time-out that a producer may request (Kafka's
    /// `transaction.max.timeout.ms`); default 15 minutes.
    pub transaction_max_timeout_ms: i32,
    /// Whether a leader asks the coordinator before it appends the first batch of a transaction
    /// (Kafka's `transaction.partition.verification.enable`); default true. Brokers before Kafka
    /// 3.6 do not ask.
    pub verifies_transactions: bool,
    /// How long the first rebalance of a consumer group waits for more members (Kafka's
    /// `group.initial.rebalance.delay.ms`); default 0.
    pub group_initial_rebalance_delay_ms: u64,
    /// The metrics that the cluster requests from its clients (KIP-714); default `None`, where it
    /// does not offer to receive any.
    pub client_metrics: Option<ClientMetricsSubscription>,
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            data_dir: None,
            advertised_listener: None,
            default_partitions: 1,
            auto_create_topics: true,
            seed: 0,
            node_count: 1,
            default_replication_factor: 3,
            restores_last_batch_only: false,
            transaction_version: 2,
            transaction_max_timeout_ms: 15 * 60 * 1000,
            verifies_transactions: true,
            group_initial_rebalance_delay_ms: 0,
            client_metrics: None,
        }
    }
}

/// The time at which the core is called. The core reads no clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Milliseconds on a monotonic clock, for deadlines.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch, for timestamps.
    pub wall_ms: i64,
}

/// The broker's address that a client has connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAddress {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What the caller of [`Core::handle`] does with a request's connection.
#[derive(Debug, PartialEq, Eq)]
pub enum HandleResult {
    /// Send this response frame, which includes its length.
    SendResponse(Vec<u8>),
    /// Send nothing: the request has no response (`acks=0`).
    NoResponse,
    /// A Fetch waits for more bytes (`min_bytes`).
    ///
    /// Call [`Core::handle`] with the same frame after the next append, and at the deadline.
    DelayedFetch {
        /// The deadline in milliseconds of the monotonic clock.
        deadline_ms: u64,
    },
    /// A Produce is appended and waits for its replicas (`acks=all`), or a JoinGroup or SyncGroup
    /// waits for other members.
    ///
    /// Call [`Core::try_complete`] with the id after other requests, after [`Core::tick`], and at
    /// the deadline. Later requests of the same connection wait until then.
    Delayed {
        /// The id of the waiting request.
        id: u64,
        /// The deadline in milliseconds of the monotonic clock.
        deadline_ms: u64,
    },
    /// Close the connection, for this reason.
    CloseConnection(String),
}

/// A fault for one partition of a Produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProduceFault {
    /// The broker does not append the batch and responds with this error.
    FailBeforeAppend(ErrorCode),
    /// The broker appends the batch and still responds with this error.
    FailAfterAppend(ErrorCode),
}

/// A batch that a leader appended, for the append history.
#[derive(Debug, Clone)]
pub struct AppendedBatch {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the first record.
    pub base_offset: i64,
    /// The batch, as the client sent it.
    pub records: Bytes,
}

/// An error code with its message, as Kafka's `ApiError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Kafka's error code.
    pub code: ErrorCode,
    /// The message for the client.
    pub message: String,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into() }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

/// The result of [`Core::describe_topic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic's id.
    pub id: Uuid,
    /// The number of partitions.
    pub partitions: i32,
}

type FaultInjector = Box<dyn FnMut(&str, i32) -> Option<ProduceFault> + Send>;

/// A broker or a whole cluster: topics, logs, replicas, producer ids and delayed requests.
///
/// ```
/// use bytes::Bytes;
/// use ottla_broker::{BrokerConfig, ClockReading, Core, HandleResult, LocalAddress};
/// use ottla_protocol::header::encode_request;
/// use ottla_protocol::messages::MetadataRequest;
///
/// let now = ClockReading { mono_ms: 0, wall_ms: 1_700_000_000_000 };
/// let mut core = Core::new(BrokerConfig::default(), now)?;
/// core.create_topic("orders", 2, now).expect("a new topic");
///
/// let frame = encode_request(&MetadataRequest::default(), 12, 1, Some("client")).expect("valid");
/// let frame = Bytes::from(frame).slice(4..); // without its length
/// let local = LocalAddress { host: "localhost".into(), port: 9092 };
/// let result = core.handle(&frame, &local, now.mono_ms, now);
/// assert!(matches!(result, HandleResult::SendResponse(_)));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Core {
    pub(crate) config: BrokerConfig,
    pub(crate) topics: TopicStore,
    pub(crate) cluster_id: String,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) nodes: Nodes,
    pub(crate) coordinators: Coordinators,
    pub(crate) transactions: TransactionCoordinator,
    pub(crate) groups: GroupCoordinator,
    pub(crate) client_metrics: ClientMetrics,
    /// Produce requests that wait for replicas, by id.
    pub(crate) produce_purgatory: BTreeMap<u64, DelayedProduce>,
    pub(crate) last_delayed_id: u64,
    /// Batches that leaders appended; `None` until a test requests them.
    pub(crate) append_history: Option<Vec<AppendedBatch>>,
    /// Generates topic and cluster ids.
    random: SplitMix64,
    fault_injector: Option<FaultInjector>,
}

/// The producer ids that InitProducerId returns.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    pub(crate) next: i64,
    pub(crate) issued: u64,
    pub(crate) initial_epoch: i16,
    /// Errors for the next requests; the last one is used first.
    pub(crate) errors: Vec<ErrorCode>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Core({} topics)", self.topics.by_name.len())
    }
}

/// The id of the node that exists in every configuration.
pub(crate) const DEFAULT_NODE_ID: i32 = 1;

impl Core {
    /// Creates a broker and recovers the logs of its directory.
    ///
    /// # Errors
    /// The directory cannot be read or written, another broker uses it, the state of a coordinator
    /// there is damaged, or the number of nodes is out of range or differs from the directory's.
    pub fn new(config: BrokerConfig, now: ClockReading) -> io::Result<Core> {
        if !(1..=100).contains(&config.node_count) {
            let message = format!("a cluster has 1 to 100 nodes, not {}", config.node_count);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if !(0..=2).contains(&config.transaction_version) {
            let version = config.transaction_version;
            let message = format!("the transaction version is 0, 1 or 2, not {version}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut topics = TopicStore::open(config.data_dir.clone(), config.node_count, now.wall_ms)?;
        if config.restores_last_batch_only {
            let partitions = topics.by_name.values_mut().flat_map(|t| &mut t.partitions);
            let replicas = partitions.flat_map(|p| &mut p.replicas);
            replicas.for_each(|r| r.producer_state.keep_last_batches());
        }
        let (version, max_timeout_ms) =
            (config.transaction_version, config.transaction_max_timeout_ms);
        let mut transactions = TransactionCoordinator::new(version, max_timeout_ms);
        let mut groups = GroupCoordinator::default();
        if let Some(dir) = &config.data_dir {
            transactions.open_log(dir, now)?;
            groups.open_log(dir, now)?;
        }
        let mut coordinators = Coordinators::new(config.node_count);
        // An old epoch would fence the new coordinators.
        let max_epoch = topics.producer_states().filter_map(|s| s.max_coordinator_epoch()).max();
        coordinators.set_epoch(max_epoch.map_or(0, |epoch| epoch.saturating_add(1)));
        let max_producer_id = topics.producer_states().filter_map(|s| s.max_producer_id()).max();
        let max_producer_id = max_producer_id.max(transactions.max_producer_id());
        let producer_ids = ProducerIds {
            // Ids must not repeat after a restart. The logs name the ids that have written; the
            // wall clock exceeds the ids that were issued but have not written yet.
            next: max_producer_id.map_or(0, |id| id.saturating_add(1)).max(now.wall_ms),
            issued: 0,
            initial_epoch: 0,
            errors: Vec::new(),
        };
        let mut core = Core {
            random: SplitMix64::new(config.seed),
            nodes: Nodes::new(config.node_count),
            coordinators,
            transactions,
            groups,
            produce_purgatory: BTreeMap::new(),
            last_delayed_id: 0,
            producer_ids,
            client_metrics: ClientMetrics::default(),
            append_history: None,
            config,
            topics,
            cluster_id: String::new(),
            fault_injector: None,
        };
        core.set_client_metrics(core.config.client_metrics.clone());
        core.cluster_id = core.load_cluster_id()?;
        // The process before may have ended while it wrote the markers of a transaction.
        core.resend_txn_markers(now);
        Ok(core)
    }

    /// Reads the cluster id from `meta.properties`, or creates both.
    fn load_cluster_id(&mut self) -> io::Result<String> {
        let new_id = self.random_uuid().to_string();
        let Some(dir) = &self.config.data_dir else {
            return Ok(new_id);
        };
        let path = dir.join("meta.properties");
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Some(id) = text.lines().find_map(|l| l.strip_prefix("cluster.id="))
        {
            return Ok(id.to_owned());
        }
        std::fs::write(
            path,
            format!("version=1\nnode.id={DEFAULT_NODE_ID}\ncluster.id={new_id}\n"),
        )?;
        Ok(new_id)
    }

    pub(crate) fn random_uuid(&mut self) -> Uuid {
        Uuid::from_random(self.random.next_u64(), self.random.next_u64())
    }
}

/// Topics.
impl Core {
    /// Creates a topic with the default replication factor and settings.
    ///
    /// # Errors
    /// Kafka's error code, such as TOPIC_ALREADY_EXISTS, and a message.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        now: ClockReading,
    ) -> Result<(), ApiError> {
        self.create_new_topic(NewTopic::new(name, partitions), now)
    }

    /// Deletes a topic, and the offsets that groups have committed for it.
    ///
    /// # Errors
    /// Kafka's error code, such as UNKNOWN_TOPIC_OR_PARTITION, and a message.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), ApiError> {
        self.topics.delete(name)?;
        self.groups.on_topic_deleted(name);
        Ok(())
    }

    /// Raises a topic's number of partitions to `count`.
    ///
    /// # Errors
    /// Kafka's error code, such as INVALID_PARTITIONS, and a message.
    pub fn create_partitions(
        &mut self,
        name: &str,
        count: i32,
        now: ClockReading,
    ) -> Result<(), ApiError> {
        self.topics.create_partitions(name, count, now.wall_ms)?;
        self.remove_down_replicas(name, now);
        Ok(())
    }

    /// Changes a setting of a topic, such as `max.message.bytes`.
    ///
    /// # Errors
    /// Kafka's error code, such as INVALID_CONFIG, and a message.
    pub fn set_topic_config(
        &mut self,
        name: &str,
        config: &str,
        value: &str,
    ) -> Result<(), ApiError> {
        self.topics.set_config(name, config, value)
    }

    /// Returns a topic's id and its number of partitions.
    pub fn describe_topic(&self, name: &str) -> Option<TopicDescription> {
        let topic = self.topics.by_name.get(name)?;
        Some(TopicDescription { id: topic.id, partitions: topic.partitions.len() as i32 })
    }

    /// Returns a topic's number of partitions; 0 if it does not exist.
    pub(crate) fn partition_count(&self, topic: &str) -> usize {
        self.topics.by_name.get(topic).map_or(0, |t| t.partitions.len())
    }

    /// Returns every batch in a partition's log; nothing if there is no such partition.
    ///
    /// The log is the leader's. Without a leader, it is that of the first replica in the ISR.
    ///
    /// # Errors
    /// The log file cannot be read.
    pub fn batches(&self, topic: &str, partition: i32) -> io::Result<Vec<LogBatch>> {
        let index = usize::try_from(partition).ok();
        let partition =
            self.topics.by_name.get(topic).zip(index).and_then(|(t, i)| t.partitions.get(i));
        let Some(p) = partition else { return Ok(Vec::new()) };
        p.readable_replica().map_or(Ok(Vec::new()), |r| r.log.batches())
    }
}

/// Faults and observations for tests.
impl Core {
    /// Installs a function that chooses a fault, or none, for each partition of each Produce
    /// request. Its arguments are the topic's name and the partition.
    pub fn set_fault_injector(
        &mut self,
        injector: impl FnMut(&str, i32) -> Option<ProduceFault> + Send + 'static,
    ) {
        self.fault_injector = Some(Box::new(injector));
    }

    /// Removes the fault injector.
    pub fn clear_fault_injector(&mut self) {
        self.fault_injector = None;
    }

    pub(crate) fn next_fault(&mut self, topic: &str, partition: i32) -> Option<ProduceFault> {
        self.fault_injector.as_mut()?(topic, partition)
    }

    /// Returns the batches that leaders have appended since the last call, and records from now on.
    ///
    /// The first call returns nothing. The history keeps batches that a later leader truncates.
    pub fn take_append_history(&mut self) -> Vec<AppendedBatch> {
        self.append_history.replace(Vec::new()).unwrap_or_default()
    }

    /// Sets the epoch of producer ids that are issued from now on; default 0.
    ///
    /// A cluster whose clients use transactions can issue higher epochs.
    pub fn set_initial_producer_epoch(&mut self, epoch: i16) {
        self.producer_ids.initial_epoch = epoch;
    }

    /// Sets the leader epoch of partitions that are created from now on; default 0.
    ///
    /// A partition whose leader has often changed has a higher epoch.
    pub fn set_initial_leader_epoch(&mut self, epoch: i32) {
        self.topics.initial_leader_epoch = epoch;
    }

    /// Sets the errors of the next InitProducerId requests, one error for each request.
    pub fn set_producer_id_errors(&mut self, codes: &[ErrorCode]) {
        self.producer_ids.errors = codes.iter().rev().copied().collect();
    }

    /// Returns the number of producer ids that the core has issued.
    pub fn producer_ids_issued(&self) -> u64 {
        self.producer_ids.issued
    }
}
