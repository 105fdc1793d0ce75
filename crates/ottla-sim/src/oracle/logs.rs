//! The cluster's logs at the end of a run, decoded for the checks.

use std::collections::BTreeMap;

use ottla_broker::{AppendedBatch, Core, LogBatch};
use ottla_protocol::record::Batches;

/// The decoding of one batch fails above this size; no test batch comes near it.
const MAX_DECOMPRESSED_BYTES: usize = 1 << 30;

/// A partition of a topic. The id distinguishes a recreated topic from its predecessor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogId {
    pub(super) topic: String,
    pub(super) topic_id: [u8; 16],
    pub(super) partition: i32,
}

/// The raw logs, and everything that any leader ever appended.
#[derive(Default)]
pub(crate) struct ClusterLogs {
    /// Each log as it was at the end of the run or when its topic was deleted.
    snapshots: BTreeMap<LogId, Vec<LogBatch>>,
    /// Every append of any leader. A later leader may have truncated it.
    journal: Vec<AppendedBatch>,
}

/// A record in a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoggedRecord {
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Vec<u8>,
}

/// The offsets at which a leader ever appended a value, by value.
pub(super) type OffsetsByValue = BTreeMap<Vec<u8>, Vec<i64>>;

/// The decoded logs.
pub(crate) struct DecodedLogs {
    pub(super) logs: BTreeMap<LogId, Vec<LoggedRecord>>,
    /// Everything that any leader ever appended, by topic name and partition.
    pub(super) appended_offsets: BTreeMap<(String, i32), OffsetsByValue>,
}

impl ClusterLogs {
    /// Copies the logs of a topic as they are now.
    pub(crate) fn snapshot_topic(&mut self, core: &Core, topic: &str) {
        let Some(description) = core.describe_topic(topic) else { return };
        let (topic_id, partitions) = (description.id, description.partitions);
        for partition in 0..partitions {
            let batches = core.batches(topic, partition).unwrap_or_default();
            let id = LogId { topic: topic.to_owned(), topic_id: topic_id.0, partition };
            self.snapshots.insert(id, batches);
        }
    }

    pub(crate) fn set_journal(&mut self, journal: Vec<AppendedBatch>) {
        self.journal = journal;
    }

    /// Decodes every log.
    ///
    /// # Errors
    /// Returns the error of the first batch that does not decode.
    pub(crate) fn decode(&self) -> Result<DecodedLogs, String> {
        let mut logs = BTreeMap::new();
        for (id, batches) in &self.snapshots {
            let mut records = Vec::new();
            for batch in batches {
                decode_records(&batch.bytes, 0, &mut records)
                    .map_err(|e| format!("invalid log of {}-{}: {e}", id.topic, id.partition))?;
            }
            logs.insert(id.clone(), records);
        }
        let mut appended_offsets: BTreeMap<(String, i32), OffsetsByValue> = BTreeMap::new();
        for append in &self.journal {
            let mut records = Vec::new();
            decode_records(&append.records, append.base_offset, &mut records)?;
            let by_value =
                appended_offsets.entry((append.topic.clone(), append.partition)).or_default();
            for record in records {
                by_value.entry(record.value).or_default().push(record.offset);
            }
        }
        Ok(DecodedLogs { logs, appended_offsets })
    }
}

fn decode_records(
    bytes: &[u8],
    base_offset: i64,
    records: &mut Vec<LoggedRecord>,
) -> Result<(), String> {
    for view in Batches::new(bytes) {
        let view = view.map_err(|e| e.to_string())?;
        let views = view.records(MAX_DECOMPRESSED_BYTES).map_err(|e| e.to_string())?;
        for r in views.to_vec().map_err(|e| e.to_string())? {
            records.push(LoggedRecord {
                offset: base_offset + r.offset,
                timestamp: r.timestamp,
                headers: (r.headers.iter())
                    .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)))
                    .collect(),
                key: r.key.map(<[u8]>::to_vec),
                value: r.value.unwrap_or_default().to_vec(),
            });
        }
    }
    Ok(())
}

impl DecodedLogs {
    /// Returns the logs of a partition under every id that its topic had.
    fn partition_logs<'r>(
        &'r self,
        topic: &'r str,
        partition: i32,
    ) -> impl Iterator<Item = &'r [LoggedRecord]> + 'r {
        let is_partition = move |id: &LogId| id.topic == topic && id.partition == partition;
        self.logs.iter().filter(move |(id, _)| is_partition(id)).map(|(_, log)| log.as_slice())
    }

    /// Returns whether a value is in the log of a partition.
    pub(super) fn contains(&self, topic: &str, partition: i32, value: &[u8]) -> bool {
        self.partition_logs(topic, partition).any(|log| log.iter().any(|r| r.value == value))
    }
}
