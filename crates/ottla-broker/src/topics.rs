//! Topics and partitions, and where they stand on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ottla_protocol::{ErrorCode, Uuid};

use crate::log::Log;
use crate::partition::{Partition, Replica};
use crate::producer_state_manager::ProducerStateManager;

/// One topic.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) config_overrides: BTreeMap<String, String>,
    pub(crate) config: TopicConfig,
}

impl TopicState {
    /// Replicas a partition has.
    pub(crate) fn replication_factor(&self) -> i32 {
        self.partitions.first().map_or(0, |p| p.replicas.len() as i32)
    }
}

/// The settings of a topic that decide something here.
#[derive(Debug, Clone)]
pub(crate) struct TopicConfig {
    pub(crate) max_message_bytes: usize,
    pub(crate) min_insync_replicas: i32,
    pub(crate) compacted: bool,
    pub(crate) log_append_time: bool,
    segment_bytes: u64,
}

/// Settings a topic can be given, with Kafka's defaults. Those about cleaning are kept and shown; nothing is
/// ever cleaned here.
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
    /// What the settings mean; or which is wrong.
    pub(crate) fn new(settings: &BTreeMap<String, String>) -> Result<TopicConfig, String> {
        let get = |name: &str| {
            let default = TOPIC_CONFIG_DEFAULTS.iter().find(|s| s.0 == name).map_or("", |s| s.1);
            settings.get(name).map_or(default, String::as_str).to_owned()
        };
        for (name, value) in settings {
            if !TOPIC_CONFIG_DEFAULTS.iter().any(|s| s.0 == name) {
                return Err(format!("Unknown topic config name: {name}"));
            }
            let numeric =
                TOPIC_CONFIG_DEFAULTS.iter().any(|s| s.0 == name && s.1.parse::<f64>().is_ok());
            if numeric && value.parse::<f64>().is_err() {
                return Err(format!("Invalid value {value} for configuration {name}"));
            }
        }
        let number = |name: &str| get(name).parse::<i64>().unwrap_or_default();
        Ok(TopicConfig {
            max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or_default(),
            min_insync_replicas: number("min.insync.replicas") as i32,
            compacted: get("cleanup.policy").split(',').any(|p| p.trim() == "compact"),
            log_append_time: get("message.timestamp.type") == "LogAppendTime",
            segment_bytes: u64::try_from(number("segment.bytes")).unwrap_or(u64::MAX),
        })
    }
}

/// All topics, in memory or under a directory.
#[derive(Debug, Default)]
pub(crate) struct TopicStore {
    pub(crate) by_name: BTreeMap<String, TopicState>,
    data_dir: Option<PathBuf>,
    node_count: i32,
    /// Held while the directory is used: two brokers over one log would ruin it.
    dir_lock: Option<File>,
}

/// Kafka's rule for topic names.
pub(crate) fn is_valid_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Partitions a topic may have here.
pub(crate) const MAX_PARTITIONS: i32 = 10_000;

impl TopicStore {
    /// What a directory holds, recovered; nothing without one.
    pub(crate) fn open(dir: Option<PathBuf>, nodes: i32, now_ms: i64) -> io::Result<TopicStore> {
        let mut topics = TopicStore {
            by_name: BTreeMap::new(),
            data_dir: dir,
            node_count: nodes,
            dir_lock: None,
        };
        let Some(dir) = topics.data_dir.clone() else {
            return Ok(topics);
        };
        fs::create_dir_all(&dir)?;
        let lock = File::create(dir.join(".lock"))?;
        if let Err(e) = lock.try_lock() {
            return Err(io::Error::other(format!(
                "{}: another broker uses it ({e})",
                dir.display()
            )));
        }
        topics.dir_lock = Some(lock);
        check_node_count(&dir, nodes)?;
        // Per topic, for each partition the nodes that hold it.
        let mut found: BTreeMap<String, BTreeMap<i32, Vec<i32>>> = BTreeMap::new();
        for node in 1..=nodes {
            let home = topics.node_dir(node).unwrap_or_else(|| dir.clone());
            fs::create_dir_all(&home)?;
            for (topic, n) in list_partition_dirs(&home)? {
                found.entry(topic).or_default().entry(n).or_default().push(node);
            }
        }
        for (name, held) in found {
            let settings = read_config_overrides(&dir, &name)?;
            let first = held.get(&0).and_then(|nodes| topics.node_dir(*nodes.first()?));
            let read = first.ok_or_else(|| io::Error::other("there is no partition 0"));
            let id = match read.and_then(|home| read_topic_id(&home.join(format!("{name}-0")))) {
                Ok(id) => id,
                Err(e) => {
                    tracing::warn!(topic = name, "passed over: {e}");
                    continue;
                }
            };
            let config = TopicConfig::new(&settings).map_err(io::Error::other)?;
            let mut topic =
                TopicState { id, partitions: Vec::new(), config_overrides: settings, config };
            let count = held.keys().max().map_or(0, |n| n + 1);
            let place = |n: i32| held.get(&n).cloned().unwrap_or_else(|| vec![1]);
            topics.open_partitions(&name, &mut topic, count, place, now_ms)?;
            topics.by_name.insert(name, topic);
        }
        Ok(topics)
    }

    /// Where a node keeps its logs: the directory itself where there is only one.
    fn node_dir(&self, node: i32) -> Option<PathBuf> {
        let dir = self.data_dir.as_ref()?;
        Some(if self.node_count == 1 { dir.clone() } else { dir.join(format!("node-{node}")) })
    }

    /// The nodes for a partition that nobody assigned: one behind the other, round the cluster.
    pub(crate) fn assign_replicas(&self, partition: i32, replication: i32) -> Vec<i32> {
        let count = replication.clamp(1, self.node_count);
        (0..count).map(|i| (partition + i) % self.node_count + 1).collect()
    }

    fn open_partitions(
        &self,
        name: &str,
        topic: &mut TopicState,
        to: i32,
        place: impl Fn(i32) -> Vec<i32>,
        now_ms: i64,
    ) -> io::Result<()> {
        for n in topic.partitions.len() as i32..to {
            let full = format!("{name}-{n}");
            let mut replicas = Vec::new();
            for node in place(n) {
                let mut producers = ProducerStateManager::default();
                let dir = self.node_dir(node).map(|home| home.join(&full));
                let log = match &dir {
                    None => Log::in_memory(),
                    Some(dir) => {
                        fs::create_dir_all(dir)?;
                        let text = format!("version: 0\ntopic_id: {}", topic.id);
                        write_if_missing(&dir.join("partition.metadata"), &text)?;
                        Log::open(dir, topic.config.segment_bytes, |header, base| {
                            producers.on_appended(&header.header, base, now_ms);
                        })?
                    }
                };
                replicas.push(Replica::new(node, log, producers, dir));
            }
            // A cluster that comes up again has had other leaders; one node keeps its epoch.
            let last = replicas.iter().map(Replica::latest_epoch).max().unwrap_or(-1);
            let epoch = if replicas.len() > 1 { last + 1 } else { last.max(0) };
            let mut partition = Partition::new(full, replicas, epoch);
            partition.schedule_fetches(|_| true, |_| 0, 0, now_ms)?;
            topic.partitions.push(partition);
        }
        Ok(())
    }

    /// Makes a topic.
    pub(crate) fn create(
        &mut self,
        name: &str,
        places: &[Vec<i32>],
        settings: BTreeMap<String, String>,
        (id, now_ms): (Uuid, i64),
        validate_only: bool,
    ) -> Result<(), (ErrorCode, String)> {
        let partitions = i32::try_from(places.len()).unwrap_or(i32::MAX);
        if !is_valid_topic_name(name) {
            return Err((
                ErrorCode::INVALID_TOPIC_EXCEPTION,
                format!("{name:?} is not a topic name"),
            ));
        }
        if self.by_name.contains_key(name) {
            return Err((
                ErrorCode::TOPIC_ALREADY_EXISTS,
                format!("Topic '{name}' already exists."),
            ));
        }
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            let message = format!("partitions must be 1 to {MAX_PARTITIONS}, not {partitions}");
            return Err((ErrorCode::INVALID_PARTITIONS, message));
        }
        let config = TopicConfig::new(&settings).map_err(|e| (ErrorCode::INVALID_CONFIG, e))?;
        if validate_only {
            return Ok(());
        }
        let mut topic =
            TopicState { id, partitions: Vec::new(), config_overrides: settings, config };
        let place = |n: i32| places[n as usize].clone();
        let made = self.open_partitions(name, &mut topic, partitions, place, now_ms);
        let made = made.and_then(|()| self.write_config_overrides(name, &topic));
        made.map_err(|e| (ErrorCode::KAFKA_STORAGE_ERROR, e.to_string()))?;
        self.by_name.insert(name.to_owned(), topic);
        Ok(())
    }

    /// Gives a topic more partitions.
    pub(crate) fn create_partitions(
        &mut self,
        name: &str,
        to: i32,
        now_ms: i64,
        validate_only: bool,
    ) -> Result<(), (ErrorCode, String)> {
        let Some(mut topic) = self.by_name.remove(name) else {
            return Err((
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                "This topic does not exist.".to_owned(),
            ));
        };
        let has = topic.partitions.len() as i32;
        let result = if to <= has || to > MAX_PARTITIONS {
            let message = format!("the topic has {has} partitions; {to} is not more, or too many");
            Err((ErrorCode::INVALID_PARTITIONS, message))
        } else if validate_only {
            Ok(())
        } else {
            let replication = topic.replication_factor();
            let place = |n: i32| self.assign_replicas(n, replication);
            let grown = self.open_partitions(name, &mut topic, to, place, now_ms);
            grown.map_err(|e| (ErrorCode::KAFKA_STORAGE_ERROR, e.to_string()))
        };
        self.by_name.insert(name.to_owned(), topic);
        result
    }

    /// Changes a setting of a topic.
    pub(crate) fn set_config(
        &mut self,
        name: &str,
        setting: &str,
        value: &str,
    ) -> Result<(), (ErrorCode, String)> {
        let Some(mut topic) = self.by_name.remove(name) else {
            let message = "This topic does not exist.".to_owned();
            return Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message));
        };
        let mut settings = topic.config_overrides.clone();
        settings.insert(setting.to_owned(), value.to_owned());
        let result = match TopicConfig::new(&settings) {
            Ok(config) => {
                (topic.config_overrides, topic.config) = (settings, config);
                let written = self.write_config_overrides(name, &topic);
                written.map_err(|e| (ErrorCode::KAFKA_STORAGE_ERROR, e.to_string()))
            }
            Err(e) => Err((ErrorCode::INVALID_CONFIG, e)),
        };
        self.by_name.insert(name.to_owned(), topic);
        result
    }

    /// Deletes a topic.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), (ErrorCode, String)> {
        let Some(topic) = self.by_name.remove(name) else {
            return Err((
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                "This topic does not exist.".to_owned(),
            ));
        };
        let Some(dir) = &self.data_dir else { return Ok(()) };
        let remove = |path: PathBuf| {
            if path.exists() { fs::remove_dir_all(path) } else { Ok(()) }
        };
        // The first partition last: a topic that is half deleted is still one that can be opened.
        for p in topic.partitions.iter().rev() {
            for home in p.assigned_replicas().into_iter().filter_map(|node| self.node_dir(node)) {
                remove(home.join(p.name()))
                    .map_err(|e| (ErrorCode::KAFKA_STORAGE_ERROR, e.to_string()))?;
            }
        }
        let _ = fs::remove_file(config_path(dir, name));
        Ok(())
    }

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

/// Partitions in a node's directory.
fn list_partition_dirs(home: &Path) -> io::Result<Vec<(String, i32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts = name.rsplit_once('-').and_then(|(t, n)| Some((t, n.parse::<i32>().ok()?)));
        if let Some((topic, n)) = parts
            && entry.path().join("partition.metadata").exists()
        {
            found.push((topic.to_owned(), n));
        }
    }
    Ok(found)
}

/// A directory of one node is not one of several, and the other way round.
fn check_node_count(dir: &Path, nodes: i32) -> io::Result<()> {
    let several = dir.join("node-1").is_dir();
    let wrong =
        if nodes == 1 { several } else { !several && !list_partition_dirs(dir)?.is_empty() };
    let beyond = nodes > 1 && dir.join(format!("node-{}", nodes + 1)).is_dir();
    if wrong || beyond {
        let why = format!("{}: it was written by another number of nodes", dir.display());
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// Writes a file that is not there yet, whole or not at all.
fn write_if_missing(path: &Path, text: &str) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let half = path.with_extension("half");
    fs::write(&half, text)?;
    fs::rename(half, path)
}

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
    id.ok_or_else(|| io::Error::other(format!("{}: no topic id", dir.display())))
}
