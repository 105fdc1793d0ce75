//! The topics, their settings and their directories.
//!
//! [`crate::core`] and the admin handlers create and change topics here. The log of each partition
//! is in [`crate::log`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ottla_protocol::{ErrorCode, Uuid};

use crate::coordinators::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::core::{ApiError, ClockReading};
use crate::log::Log;
use crate::partition::{Partition, Replica};
use crate::producer_state_manager::ProducerStateManager;

/// A topic's id, partitions and settings.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<Partition>,
    /// The settings that differ from the defaults, as a client gave them.
    pub(crate) config_overrides: BTreeMap<String, String>,
    pub(crate) config: TopicConfig,
}

impl TopicState {
    /// Returns how many in-sync replicas a batch with `acks=all` needs. As in Kafka, a topic cannot
    /// require more than it has replicas.
    pub(crate) fn min_isr(&self) -> i32 {
        self.config.min_insync_replicas.min(self.replication_factor())
    }

    /// Returns the number of replicas of a partition.
    pub(crate) fn replication_factor(&self) -> i32 {
        self.partitions.first().map_or(0, |p| p.replicas.len() as i32)
    }
}

/// The settings of a topic that this broker uses, parsed.
#[derive(Debug, Clone)]
pub(crate) struct TopicConfig {
    pub(crate) max_message_bytes: usize,
    pub(crate) min_insync_replicas: i32,
    pub(crate) compacted: bool,
    pub(crate) log_append_time: bool,
    /// What the log keeps at least, if it deletes old segments.
    pub(crate) retention_bytes: Option<u64>,
    segment_bytes: u64,
}

/// The topic settings that this broker accepts, with Kafka's defaults.
///
/// Of the settings for retention and compaction only `retention.bytes` has an effect; the broker
/// stores the others.
pub(crate) const TOPIC_CONFIG_DEFAULTS: &[(&str, &str)] = &[
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("delete.retention.ms", "86400000"),
    ("file.delete.delay.ms", "60000"),
    ("flush.messages", "9223372036854775807"),
    ("flush.ms", "9223372036854775807"),
    ("max.compaction.lag.ms", "9223372036854775807"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.type", "CreateTime"),
    ("min.cleanable.dirty.ratio", "0.5"),
    ("min.compaction.lag.ms", "0"),
    ("min.insync.replicas", "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
    ("segment.ms", "604800000"),
];

impl TopicConfig {
    /// Parses settings; the error names an invalid one.
    pub(crate) fn new(overrides: &BTreeMap<String, String>) -> Result<TopicConfig, String> {
        let get = |name: &str| {
            let default = TOPIC_CONFIG_DEFAULTS.iter().find(|s| s.0 == name).map_or("", |s| s.1);
            overrides.get(name).map_or(default, String::as_str).to_owned()
        };
        for (name, value) in overrides {
            if !TOPIC_CONFIG_DEFAULTS.iter().any(|s| s.0 == name) {
                return Err(format!("Unknown topic config name: {name}"));
            }
            let is_numeric =
                TOPIC_CONFIG_DEFAULTS.iter().any(|s| s.0 == name && s.1.parse::<f64>().is_ok());
            if is_numeric && value.parse::<f64>().is_err() {
                return Err(format!("Invalid value {value} for configuration {name}"));
            }
        }
        let number = |name: &str| get(name).parse::<i64>().unwrap_or_default();
        Ok(TopicConfig {
            max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or_default(),
            min_insync_replicas: number("min.insync.replicas") as i32,
            compacted: get("cleanup.policy").split(',').any(|p| p.trim() == "compact"),
            log_append_time: get("message.timestamp.type") == "LogAppendTime",
            retention_bytes: u64::try_from(number("retention.bytes")).ok(),
            segment_bytes: u64::try_from(number("segment.bytes")).unwrap_or(u64::MAX),
        })
    }
}

/// A topic to create, whose replicas have their nodes.
#[derive(Debug)]
pub(crate) struct TopicToCreate {
    pub(crate) id: Uuid,
    /// The nodes of each partition's replicas; the first is the preferred leader.
    pub(crate) replica_assignment: Vec<Vec<i32>>,
    pub(crate) config_overrides: BTreeMap<String, String>,
}

/// All topics, in memory or in a directory.
#[derive(Debug, Default)]
pub(crate) struct TopicStore {
    pub(crate) by_name: BTreeMap<String, TopicState>,
    data_dir: Option<PathBuf>,
    node_count: i32,
    /// The leader epoch of new partitions.
    pub(crate) initial_leader_epoch: i32,
    /// Locked while the broker runs: two brokers would damage each other's logs.
    dir_lock: Option<File>,
}

/// Returns whether Kafka allows the topic name.
pub(crate) fn is_valid_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Returns whether the broker keeps its own state under this name, in a log that clients cannot
/// read.
fn is_internal_topic(name: &str) -> bool {
    [OFFSETS_TOPIC, TRANSACTIONS_TOPIC].contains(&name)
}

/// The largest number of partitions of a topic.
pub(crate) const MAX_PARTITIONS: i32 = 10_000;

impl TopicStore {
    /// Opens the topics of a directory and recovers their logs; without a directory there are none.
    pub(crate) fn open(
        data_dir: Option<PathBuf>,
        node_count: i32,
        now_ms: i64,
    ) -> io::Result<TopicStore> {
        let store = TopicStore { data_dir, node_count, ..TopicStore::default() };
        match store.data_dir.clone() {
            None => Ok(store),
            Some(dir) => store.open_dir(&dir, now_ms).map_err(|e| {
                io::Error::new(e.kind(), format!("cannot use the directory {}: {e}", dir.display()))
            }),
        }
    }

    fn open_dir(self, dir: &Path, now_ms: i64) -> io::Result<TopicStore> {
        let (node_count, mut store) = (self.node_count, self);
        fs::create_dir_all(dir)?;
        let lock = File::create(dir.join(".lock"))?;
        if let Err(e) = lock.try_lock() {
            return Err(io::Error::other(format!("another broker uses it ({e})")));
        }
        store.dir_lock = Some(lock);
        check_node_count(dir, node_count)?;
        for (name, nodes_by_partition) in store.find_topics(dir)? {
            let config_overrides = read_config_overrides(dir, &name)?;
            let first_node = nodes_by_partition.get(&0).and_then(|nodes| nodes.first());
            let id = match first_node.and_then(|node| store.node_dir(*node)) {
                Some(node_dir) => read_topic_id(&node_dir.join(format!("{name}-0"))),
                None => Err(io::Error::other("there is no partition 0")),
            };
            let id = match id {
                Ok(id) => id,
                Err(e) => {
                    tracing::warn!(topic = name, "topic ignored: {e}");
                    continue;
                }
            };
            let config = TopicConfig::new(&config_overrides).map_err(io::Error::other)?;
            let mut topic = TopicState { id, partitions: Vec::new(), config_overrides, config };
            let count = nodes_by_partition.keys().max().map_or(0, |n| n + 1);
            let replicas = |n: i32| nodes_by_partition.get(&n).cloned().unwrap_or_else(|| vec![1]);
            store.open_partitions(&name, &mut topic, count, replicas, now_ms)?;
            store.by_name.insert(name, topic);
        }
        Ok(store)
    }

    /// Finds the topics on disk: for each topic and partition, the nodes that have a replica.
    fn find_topics(&self, dir: &Path) -> io::Result<BTreeMap<String, BTreeMap<i32, Vec<i32>>>> {
        let mut found: BTreeMap<String, BTreeMap<i32, Vec<i32>>> = BTreeMap::new();
        for node in 1..=self.node_count {
            let node_dir = self.node_dir(node).unwrap_or_else(|| dir.to_owned());
            fs::create_dir_all(&node_dir)?;
            for (topic, n) in list_partition_dirs(&node_dir)? {
                found.entry(topic).or_default().entry(n).or_default().push(node);
            }
        }
        Ok(found)
    }

    /// Returns the directory of a node's logs: the data directory itself if there is one node.
    fn node_dir(&self, node: i32) -> Option<PathBuf> {
        let dir = self.data_dir.as_ref()?;
        Some(if self.node_count == 1 { dir.clone() } else { dir.join(format!("node-{node}")) })
    }

    /// Assigns a partition's replicas to nodes in round-robin order.
    pub(crate) fn assign_replicas(&self, partition: i32, replication_factor: i32) -> Vec<i32> {
        let count = replication_factor.clamp(1, self.node_count);
        (0..count).map(|i| (partition + i) % self.node_count + 1).collect()
    }

    /// Assigns the replicas of each partition of a new topic. Too large a number of partitions
    /// stays too large: [`validate_new`](Self::validate_new) refuses it.
    pub(crate) fn assign_all_replicas(&self, partitions: i32, factor: i32) -> Vec<Vec<i32>> {
        let partitions = partitions.clamp(0, MAX_PARTITIONS + 1);
        (0..partitions).map(|n| self.assign_replicas(n, factor)).collect()
    }

    /// Opens or creates the logs of a topic's partitions, up to `count` partitions.
    ///
    /// `assigned_nodes` returns the nodes of a partition's replicas.
    fn open_partitions(
        &self,
        name: &str,
        topic: &mut TopicState,
        count: i32,
        assigned_nodes: impl Fn(i32) -> Vec<i32>,
        now_ms: i64,
    ) -> io::Result<()> {
        for n in topic.partitions.len() as i32..count {
            let partition_name = format!("{name}-{n}");
            let mut replicas = Vec::new();
            for node in assigned_nodes(n) {
                let mut producer_state = ProducerStateManager::default();
                let dir = self.node_dir(node).map(|node_dir| node_dir.join(&partition_name));
                let log = match &dir {
                    None => Log::in_memory(topic.config.segment_bytes),
                    Some(dir) => {
                        fs::create_dir_all(dir)?;
                        let text = format!("version: 0\ntopic_id: {}", topic.id);
                        write_if_missing(&dir.join("partition.metadata"), &text)?;
                        Log::open(dir, topic.config.segment_bytes, |batch, base| {
                            producer_state.on_batch(batch, base, now_ms);
                        })?
                    }
                };
                replicas.push(Replica::new(node, log, producer_state, dir));
            }
            // A restarted cluster elects a leader, and a leader's epoch must be new. A single node
            // keeps its epoch.
            let last_epoch = replicas.iter().map(Replica::latest_epoch).max().unwrap_or(-1);
            let next_epoch = last_epoch.saturating_add(1);
            let epoch = if replicas.len() > 1 { next_epoch } else { last_epoch.max(0) };
            let epoch = epoch.max(self.initial_leader_epoch);
            let mut partition = Partition::new(partition_name, replicas, epoch);
            let now = ClockReading { mono_ms: 0, wall_ms: now_ms };
            partition.schedule_fetches(|_| true, |_| 0, now)?;
            topic.partitions.push(partition);
        }
        Ok(())
    }

    /// Checks a topic before its creation and returns its parsed settings.
    pub(crate) fn validate_new(
        &self,
        name: &str,
        topic: &TopicToCreate,
    ) -> Result<TopicConfig, ApiError> {
        let partitions = i32::try_from(topic.replica_assignment.len()).unwrap_or(i32::MAX);
        if !is_valid_topic_name(name) {
            let message = format!("{name:?} is not a valid topic name");
            return Err(ApiError::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message));
        }
        if is_internal_topic(name) {
            let message = format!("{name} is an internal topic of the broker");
            return Err(ApiError::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message));
        }
        if self.by_name.contains_key(name) {
            let message = format!("Topic '{name}' already exists.");
            return Err(ApiError::new(ErrorCode::TOPIC_ALREADY_EXISTS, message));
        }
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            let message = format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}");
            return Err(ApiError::new(ErrorCode::INVALID_PARTITIONS, message));
        }
        TopicConfig::new(&topic.config_overrides)
            .map_err(|e| ApiError::new(ErrorCode::INVALID_CONFIG, e))
    }

    /// Creates a topic.
    pub(crate) fn create(
        &mut self,
        name: &str,
        topic: TopicToCreate,
        now_ms: i64,
    ) -> Result<(), ApiError> {
        let config = self.validate_new(name, &topic)?;
        let TopicToCreate { id, replica_assignment, config_overrides } = topic;
        let count = replica_assignment.len() as i32;
        let mut topic = TopicState { id, partitions: Vec::new(), config_overrides, config };
        let assigned_nodes = |n: i32| replica_assignment[n as usize].clone();
        self.open_partitions(name, &mut topic, count, assigned_nodes, now_ms)
            .and_then(|()| self.write_config_overrides(name, &topic))
            .map_err(storage_error)?;
        self.by_name.insert(name.to_owned(), topic);
        Ok(())
    }

    /// Checks whether a topic may have `count` partitions.
    pub(crate) fn validate_partition_count(&self, name: &str, count: i32) -> Result<(), ApiError> {
        let topic = self.by_name.get(name).ok_or_else(unknown_topic)?;
        let current = topic.partitions.len() as i32;
        if count <= current || count > MAX_PARTITIONS {
            let message = format!(
                "cannot change {current} partitions to {count}: the number must increase, and \
                 the limit is {MAX_PARTITIONS}"
            );
            return Err(ApiError::new(ErrorCode::INVALID_PARTITIONS, message));
        }
        Ok(())
    }

    /// Raises a topic's number of partitions to `count`.
    pub(crate) fn create_partitions(
        &mut self,
        name: &str,
        count: i32,
        now_ms: i64,
    ) -> Result<(), ApiError> {
        self.validate_partition_count(name, count)?;
        // Removed from the map while its partitions open, which borrows the store.
        let mut topic = self.by_name.remove(name).ok_or_else(unknown_topic)?;
        let factor = topic.replication_factor();
        let assigned_nodes = |n: i32| self.assign_replicas(n, factor);
        let result = self.open_partitions(name, &mut topic, count, assigned_nodes, now_ms);
        self.by_name.insert(name.to_owned(), topic);
        result.map_err(storage_error)
    }

    /// Changes a setting of a topic.
    pub(crate) fn set_config(
        &mut self,
        name: &str,
        config: &str,
        value: &str,
    ) -> Result<(), ApiError> {
        let mut topic = self.by_name.remove(name).ok_or_else(unknown_topic)?;
        let mut overrides = topic.config_overrides.clone();
        overrides.insert(config.to_owned(), value.to_owned());
        let result = match TopicConfig::new(&overrides) {
            Ok(config) => {
                (topic.config_overrides, topic.config) = (overrides, config);
                self.write_config_overrides(name, &topic).map_err(storage_error)
            }
            Err(e) => Err(ApiError::new(ErrorCode::INVALID_CONFIG, e)),
        };
        self.by_name.insert(name.to_owned(), topic);
        result
    }

    /// Deletes a topic and its directories.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), ApiError> {
        let topic = self.by_name.remove(name).ok_or_else(unknown_topic)?;
        let Some(data_dir) = &self.data_dir else { return Ok(()) };
        // Partition 0 is removed last: `open` reads the topic id from it, so a topic that is
        // partly deleted can still be opened and deleted again.
        for p in topic.partitions.iter().rev() {
            for node_dir in p.assigned_replicas().into_iter().filter_map(|n| self.node_dir(n)) {
                let dir = node_dir.join(p.name());
                if dir.exists() {
                    fs::remove_dir_all(dir).map_err(storage_error)?;
                }
            }
        }
        let _ = fs::remove_file(config_path(data_dir, name));
        Ok(())
    }

    /// Returns the producer state of every replica.
    pub(crate) fn producer_states(&self) -> impl Iterator<Item = &ProducerStateManager> {
        let partitions = self.by_name.values().flat_map(|t| &t.partitions);
        partitions.flat_map(|p| &p.replicas).map(|r| &r.producer_state)
    }

    /// Returns the name of the topic with an id.
    pub(crate) fn topic_name(&self, id: Uuid) -> Option<&str> {
        self.by_name.iter().find(|(_, t)| t.id == id).map(|(name, _)| name.as_str())
    }

    fn write_config_overrides(&self, name: &str, topic: &TopicState) -> io::Result<()> {
        let Some(dir) = &self.data_dir else { return Ok(()) };
        let path = config_path(dir, name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let lines: Vec<String> =
            topic.config_overrides.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        fs::write(path, lines.concat())
    }
}

fn unknown_topic() -> ApiError {
    ApiError::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "This topic does not exist.")
}

#[allow(clippy::needless_pass_by_value)]
fn storage_error(e: io::Error) -> ApiError {
    ApiError::new(ErrorCode::KAFKA_STORAGE_ERROR, e.to_string())
}

/// Returns the topic and number of each partition in a node's directory.
fn list_partition_dirs(node_dir: &Path) -> io::Result<Vec<(String, i32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(node_dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts = name.rsplit_once('-').and_then(|(t, n)| Some((t, n.parse::<i32>().ok()?)));
        if let Some((topic, n)) = parts
            && !is_internal_topic(topic)
            && entry.path().join("partition.metadata").exists()
        {
            found.push((topic.to_owned(), n));
        }
    }
    Ok(found)
}

/// Fails if a directory was written by a cluster with another number of nodes.
///
/// One node writes to the data directory itself, several nodes write to `node-1`, `node-2`, ...
fn check_node_count(dir: &Path, nodes: i32) -> io::Result<()> {
    let has_node_dirs = dir.join("node-1").is_dir();
    let has_other_layout = if nodes == 1 {
        has_node_dirs
    } else {
        !has_node_dirs && !list_partition_dirs(dir)?.is_empty()
    };
    let has_more_nodes = nodes > 1 && dir.join(format!("node-{}", nodes + 1)).is_dir();
    if has_other_layout || has_more_nodes {
        let message = format!(
            "{} was written by another number of nodes than {nodes}; use that number or another \
             directory",
            dir.display()
        );
        return Err(io::Error::other(message));
    }
    Ok(())
}

/// Writes a file if it does not exist. The rename makes the write atomic.
fn write_if_missing(path: &Path, text: &str) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let temporary = path.with_extension("half");
    fs::write(&temporary, text)?;
    fs::rename(temporary, path)
}

/// Returns the path of a topic's settings file. Kafka keeps these settings in its metadata log.
fn config_path(dir: &Path, topic: &str) -> PathBuf {
    dir.join("topic-settings").join(topic)
}

fn read_config_overrides(dir: &Path, topic: &str) -> io::Result<BTreeMap<String, String>> {
    match fs::read_to_string(config_path(dir, topic)) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(e),
    }
}

fn read_topic_id(dir: &Path) -> io::Result<Uuid> {
    let text = fs::read_to_string(dir.join("partition.metadata"))?;
    let id =
        text.lines().find_map(|l| l.strip_prefix("topic_id: ")).and_then(|t| Uuid::parse(t.trim()));
    id.ok_or_else(|| {
        io::Error::other(format!("{} has no topic id in partition.metadata", dir.display()))
    })
}
