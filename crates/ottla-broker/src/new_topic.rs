//! `NewTopic`: a topic that a test or an application wants the broker to create.
//!
//! [`EmbeddedBroker`](crate::EmbeddedBroker) and its builder take it, and pass it to the [`Core`].

use ottla_protocol::ErrorCode;

use crate::core::{ApiError, ClockReading, Core};
use crate::topics::TopicToCreate;

/// A topic to create, with its replication and its settings (Kafka's `NewTopic`).
///
/// ```
/// use ottla_broker::{EmbeddedBroker, NewTopic};
///
/// // `acks=all` needs two of the three replicas.
/// let orders = NewTopic::new("orders", 6)
///     .replication_factor(3)
///     .config("min.insync.replicas", "2");
/// let broker = EmbeddedBroker::builder().node_count(3).new_topic(orders).start()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) replication_factor: Option<i32>,
    pub(crate) configs: Vec<(String, String)>,
}

impl NewTopic {
    /// Creates a topic with the default replication factor and settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> NewTopic {
        NewTopic { name: name.into(), partitions, replication_factor: None, configs: Vec::new() }
    }

    /// Sets the number of replicas of each partition: 1 to the number of nodes.
    ///
    /// Default: the cluster's [`default_replication_factor`], or the number of nodes if that is
    /// smaller.
    ///
    /// [`default_replication_factor`]: crate::EmbeddedBrokerBuilder::default_replication_factor
    pub fn replication_factor(mut self, replicas: i32) -> Self {
        self.replication_factor = Some(replicas);
        self
    }

    /// Sets a setting of the topic by Kafka's name, such as `max.message.bytes`.
    ///
    /// These settings have an effect; the broker accepts the others of Kafka and only stores them:
    /// - `min.insync.replicas` (default 1): how many in-sync replicas a batch with `acks=all`
    ///   needs. With fewer, the broker responds with NOT_ENOUGH_REPLICAS. As in Kafka, a value
    ///   above the replication factor counts as the replication factor.
    /// - `max.message.bytes` (default 1048588): the largest batch. A larger one fails with
    ///   MESSAGE_TOO_LARGE.
    /// - `message.timestamp.type`: `CreateTime` (default) or `LogAppendTime`.
    /// - `cleanup.policy`: with `compact`, a record without a key fails with INVALID_RECORD. The
    ///   broker never compacts.
    /// - `segment.bytes` (default 1 GiB): the size of a segment, which is a file if the broker has
    ///   a data directory.
    /// - `retention.bytes` (default −1, no limit): the oldest segments are deleted while the others
    ///   have this many bytes, for a broker that runs for long. As in Kafka, the last segment
    ///   stays, and so does what is not committed or what a replica still lacks.
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }
}

impl Core {
    /// Creates a topic.
    ///
    /// # Errors
    /// Kafka's error code, such as TOPIC_ALREADY_EXISTS, INVALID_REPLICATION_FACTOR or
    /// INVALID_CONFIG, and a message.
    pub fn create_new_topic(&mut self, topic: NewTopic, now: ClockReading) -> Result<(), ApiError> {
        let NewTopic { name, partitions, replication_factor, configs } = topic;
        let factor = self.replication_factor(replication_factor)?;
        let id = self.random_uuid();
        let replica_assignment = self.topics.assign_all_replicas(partitions, factor);
        let config_overrides = configs.into_iter().collect();
        let topic = TopicToCreate { id, replica_assignment, config_overrides };
        self.topics.create(&name, topic, now.wall_ms)?;
        self.remove_down_replicas(&name, now);
        Ok(())
    }

    /// Returns the number of replicas of a new topic's partitions.
    pub(crate) fn replication_factor(&self, requested: Option<i32>) -> Result<i32, ApiError> {
        let nodes = self.nodes.count;
        match requested {
            None => Ok(self.config.default_replication_factor.clamp(1, nodes)),
            Some(n) if (1..=nodes).contains(&n) => Ok(n),
            Some(n) => {
                let message =
                    format!("the replication factor is {n}, but there are {nodes} brokers");
                Err(ApiError::new(ErrorCode::INVALID_REPLICATION_FACTOR, message))
            }
        }
    }
}
