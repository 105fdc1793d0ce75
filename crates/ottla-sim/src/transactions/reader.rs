//! A consumer with `isolation.level=read_committed`, and one of committed offsets.
//!
//! It fetches with Kafka's requests, directly from the nodes: its own connections have no faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use ottla_broker::{ClockReading, CoordinatorType, Core, HandleResult, LocalAddress};
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::messages::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchTopic, OffsetFetchRequest,
    OffsetFetchRequestTopic, PartitionData,
};
use ottla_protocol::record::{BatchView, Batches, ControlRecordType, EndTransactionMarker};
use ottla_protocol::{ErrorCode, Request};

use crate::environment::group_id;
use crate::scenario::Scenario;

const FETCH_VERSION: i16 = 12;
const OFFSET_FETCH_VERSION: i16 = 7;
const MAX_DECOMPRESSED_BYTES: usize = 1 << 30;

/// A partition: the topic's name and the number.
pub(super) type PartitionKey = (String, i32);

/// What has been read of a partition.
#[derive(Debug, Default)]
pub(super) struct ReadPartition {
    next_offset: i64,
    /// The offset and value of each record, in the order of the log.
    pub(super) records: Vec<(i64, Vec<u8>)>,
    /// The last stable offset and the high watermark of the last fetch.
    pub(super) end_offsets: (i64, i64),
}

/// The reader.
#[derive(Debug, Default)]
pub(super) struct CommittedReader {
    pub(super) partitions: BTreeMap<PartitionKey, ReadPartition>,
    /// The committed offsets of each group's partitions, each time that one has changed: the
    /// number of the transactional id, the partition of `t0` and the offset.
    pub(super) offsets: Vec<(u64, i32, i64)>,
}

impl CommittedReader {
    /// Reads what is new.
    ///
    /// # Errors
    /// A batch cannot be decoded.
    pub(super) fn poll(
        &mut self,
        core: &mut Core,
        s: &Scenario,
        now: ClockReading,
    ) -> Result<(), String> {
        for topic in (0..s.topics).map(|topic| s.topic_name(topic)) {
            let count = core.describe_topic(&topic).map_or(0, |t| t.partitions);
            for partition in 0..count {
                let key = (topic.clone(), partition);
                while self.fetch(core, &key, now)? {}
            }
        }
        for id in 0..s.transactional_ids {
            self.fetch_offsets(core, s, id, now);
        }
        Ok(())
    }

    /// Fetches once. Returns whether there may be more.
    fn fetch(
        &mut self,
        core: &mut Core,
        key: &PartitionKey,
        now: ClockReading,
    ) -> Result<bool, String> {
        let read = self.partitions.entry(key.clone()).or_default();
        let Some(leader) = core.describe_partition(&key.0, key.1).map(|p| p.leader) else {
            return Ok(false);
        };
        let partition = FetchPartition {
            partition: key.1,
            current_leader_epoch: -1,
            fetch_offset: read.next_offset,
            partition_max_bytes: i32::MAX,
            ..Default::default()
        };
        let topic =
            FetchTopic { topic: key.0.clone(), partitions: vec![partition], ..Default::default() };
        let request =
            FetchRequest { isolation_level: 1, topics: vec![topic], ..Default::default() };
        let Some(response) = exchange(core, leader, &request, FETCH_VERSION, now) else {
            return Ok(false);
        };
        let data = response.responses.into_iter().flat_map(|t| t.partitions).next();
        let Some(data) = data.filter(|d| d.error_code == ErrorCode::NONE.0) else {
            return Ok(false);
        };
        read.end_offsets = (data.last_stable_offset, data.high_watermark);
        read.add(data).map_err(|e| format!("{}-{}: {e}", key.0, key.1))
    }

    fn fetch_offsets(&mut self, core: &mut Core, s: &Scenario, id: u64, now: ClockReading) {
        let last = s.partitions as i32 - 1;
        for (partition, offset) in committed_offsets(core, &group_id(id), "t0", &[0, last], now) {
            if self.committed_offset(id, partition) != offset {
                self.offsets.push((id, partition, offset));
            }
        }
    }

    /// Returns the committed offset that was read last; −1 for none.
    pub(super) fn committed_offset(&self, id: u64, partition: i32) -> i64 {
        let of_partition = self.offsets.iter().rev().find(|(i, p, _)| (*i, *p) == (id, partition));
        of_partition.map_or(-1, |(_, _, offset)| *offset)
    }
}

impl ReadPartition {
    /// Adds the records of a response, as a consumer does. Returns whether there were batches.
    fn add(&mut self, data: PartitionData) -> Result<bool, String> {
        let mut aborted: Vec<AbortedTransaction> = data.aborted_transactions.unwrap_or_default();
        aborted.sort_by_key(|t| t.first_offset);
        let mut aborted: VecDeque<AbortedTransaction> = aborted.into();
        let mut active = BTreeSet::new();
        let records = data.records.unwrap_or_default();
        let mut has_batches = false;
        for view in Batches::new(&records) {
            let batch = view.map_err(|e| e.to_string())?;
            let header = *batch.header();
            let last_offset = header.base_offset + i64::from(header.last_offset_delta);
            if last_offset < self.next_offset {
                continue;
            }
            has_batches = true;
            while let Some(t) = aborted.front()
                && t.first_offset <= last_offset
            {
                active.insert(t.producer_id);
                aborted.pop_front();
            }
            if batch.is_control() {
                let marker =
                    EndTransactionMarker::decode_batch(&batch).map_err(|e| e.to_string())?;
                if marker.is_some_and(|m| m.control_type == ControlRecordType::Abort) {
                    active.remove(&header.producer_id);
                }
            } else if !(batch.is_transactional() && active.contains(&header.producer_id)) {
                self.add_records(&batch)?;
            }
            self.next_offset = last_offset + 1;
        }
        Ok(has_batches)
    }

    fn add_records(&mut self, batch: &BatchView<'_>) -> Result<(), String> {
        let views = batch.records(MAX_DECOMPRESSED_BYTES).map_err(|e| e.to_string())?;
        for r in views.to_vec().map_err(|e| e.to_string())? {
            self.records.push((r.offset, r.value.unwrap_or_default().to_vec()));
        }
        Ok(())
    }
}

/// Returns the partitions of a topic, each with the offset that a group has committed or −1.
/// Returns none while the group has no coordinator.
pub(crate) fn committed_offsets(
    core: &mut Core,
    group: &str,
    topic: &str,
    partitions: &[i32],
    now: ClockReading,
) -> Vec<(i32, i64)> {
    let Some(node) = core.coordinator(CoordinatorType::Group, group) else { return Vec::new() };
    let topic = OffsetFetchRequestTopic {
        name: topic.to_owned(),
        partition_indexes: partitions.to_vec(),
        ..Default::default()
    };
    let group_id = group.to_owned();
    let request = OffsetFetchRequest { group_id, topics: Some(vec![topic]), ..Default::default() };
    let response = exchange(core, node, &request, OFFSET_FETCH_VERSION, now);
    let topics = response.filter(|r| r.error_code == 0).map(|r| r.topics).unwrap_or_default();
    let partitions = topics.into_iter().flat_map(|t| t.partitions);
    partitions.map(|p| (p.partition_index, p.committed_offset)).collect()
}

/// Sends a request to a node and returns the response, if there is one.
fn exchange<R: Request>(
    core: &mut Core,
    node: i32,
    request: &R,
    version: i16,
    now: ClockReading,
) -> Option<R::Response> {
    let frame = encode_request(request, version, 1, Some("reader")).ok()?;
    let frame = Bytes::from(frame).slice(4..);
    let local = LocalAddress { host: String::new(), port: 0 };
    match core.handle_at_node(node, &frame, &local, now.mono_ms, now) {
        HandleResult::SendResponse(response) => {
            decode_response::<R>(&Bytes::from(response).slice(4..), version).ok()
        }
        _ => None,
    }
}
