//! The groups and their offsets in `__consumer_offsets`, in Kafka's format.
//!
//! The offsets of a transaction are in a transactional batch, which a marker commits or drops.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use ottla_protocol::coordinator_records::{
    GroupMetadataKey, GroupMetadataMember, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue,
    decode_key, decode_key_type, decode_value, encode_key, encode_value, key_type,
};
use ottla_protocol::messages::JoinGroupRequestProtocol;
use ottla_protocol::record::{BatchView, ControlRecordType, EndTransactionMarker, RecordView};
use ottla_protocol::{DecodeError, EncodeError, ErrorCode, Reader};

use crate::coordinator_log::{CoordinatorBatch, CoordinatorLog, CoordinatorRecord};
use crate::coordinators::{OFFSETS_TOPIC, coordinator_partition};
use crate::core::ClockReading;
use crate::group::classic_group::{ClassicGroup, GroupState, MAX_GENERATION, Member};
use crate::group::coordinator::{Group, GroupCoordinator};
use crate::group::offsets::CommittedOffset;
use crate::transaction::{ProducerIdAndEpoch, TopicPartition};

/// The largest size in bytes to which a batch is decompressed. This broker compresses none.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;
/// The number of records in a batch of a snapshot.
const SNAPSHOT_BATCH: usize = 500;

impl GroupCoordinator {
    /// Reads groups and offsets from the log in a data directory, and keeps them there from now on.
    ///
    /// The members' sessions begin at `now`.
    ///
    /// # Errors
    /// The log cannot be used.
    pub(crate) fn open_log(&mut self, data_dir: &Path, now: ClockReading) -> io::Result<()> {
        let groups = &mut self.by_id;
        let log = CoordinatorLog::open(data_dir, OFFSETS_TOPIC, |batch| read_batch(batch, groups))?;
        for member in groups.values_mut().flat_map(|g| g.classic.members.values_mut()) {
            member.session_deadline_ms = now.mono_ms + member.session_timeout_ms;
        }
        // A record that deletes a group or an offset leaves an entry behind.
        groups.retain(|_, g| !g.is_dead());
        for (id, group) in groups.iter() {
            let number = coordinator_partition(id);
            let open = group.offsets.pending().map(|(p, _)| ((number, p.id), p.epoch));
            self.producer_epochs.extend(open);
        }
        self.log = Some(log);
        self.recompute_deadline();
        Ok(())
    }

    /// Writes offsets to the log, if there is one.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if they cannot be written: they must not be committed then.
    pub(super) fn append_offsets(
        &mut self,
        group: &str,
        producer: Option<ProducerIdAndEpoch>,
        offsets: &[(TopicPartition, CommittedOffset)],
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let records = offsets.iter().map(|(p, offset)| encode_offset(group, p, offset, now));
        let records: Result<Vec<_>, EncodeError> = records.collect();
        let records = records.map_err(|_| ErrorCode::INVALID_COMMIT_OFFSET_SIZE)?;
        log.append(&CoordinatorBatch { producer, records }, now.wall_ms)
    }

    /// Writes to the log that offsets are deleted. If that fails, a restart brings them back.
    pub(super) fn append_deleted_offsets(&mut self, group: &str, partitions: &[TopicPartition]) {
        let Some(log) = self.log.as_mut().filter(|_| !partitions.is_empty()) else { return };
        let keys = partitions.iter().filter_map(|p| encode_offset_key(group, p).ok());
        let records = keys.map(|key| CoordinatorRecord { key, value: None }).collect();
        let _ = log.append(&CoordinatorBatch { producer: None, records }, NO_TIMESTAMP);
    }

    /// Writes the end of a transaction to the log, if there is one.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if it cannot be written.
    pub(super) fn append_marker(
        &mut self,
        producer: ProducerIdAndEpoch,
        marker: EndTransactionMarker,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.append_encoded(marker.encode_batch(producer.id, producer.epoch, now.wall_ms))
    }

    /// Writes to the log that a group is removed.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) fn append_deleted_group(
        &mut self,
        id: &str,
        timestamp: i64,
    ) -> Result<(), ErrorCode> {
        let is_logged = self.by_id.get(id).is_some_and(|g| g.logged_metadata.is_some());
        let Some(log) = self.log.as_mut().filter(|_| is_logged) else { return Ok(()) };
        let key = encode_group_key(id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
        let records = vec![CoordinatorRecord { key, value: None }];
        log.append(&CoordinatorBatch { producer: None, records }, timestamp)
    }

    /// Writes a group's members and generation to the log, if they have changed and the group is
    /// not within a rebalance.
    ///
    /// If that fails, only a restart notices it: then the members join again.
    pub(super) fn append_metadata(&mut self, id: &str, now: ClockReading) {
        let Some(log) = &mut self.log else { return };
        let Some(group) = self.by_id.get_mut(id) else { return };
        let is_written = match group.classic.state {
            GroupState::Stable => true,
            GroupState::Empty => group.classic.generation > 0,
            GroupState::PreparingRebalance | GroupState::CompletingRebalance => false,
        };
        if !is_written {
            return;
        }
        let Ok(record) = encode_group(id, &group.classic) else { return };
        if record.value == group.logged_metadata {
            return;
        }
        let value = record.value.clone();
        let batch = CoordinatorBatch { producer: None, records: vec![record] };
        if log.append(&batch, now.wall_ms).is_ok() {
            group.logged_metadata = value;
        }
    }

    /// Replaces a log that has grown by a snapshot of all groups.
    pub(super) fn compact_log_if_due(&mut self, now: ClockReading) {
        let Some(log) = self.log.as_mut().filter(|log| log.should_compact()) else { return };
        log.compact(&snapshot(&self.by_id, now), now.wall_ms);
    }
}

/// The timestamp of batches whose time is not known.
pub(super) const NO_TIMESTAMP: i64 = -1;

fn snapshot(groups: &BTreeMap<String, Group>, now: ClockReading) -> Vec<CoordinatorBatch> {
    let mut batches = Vec::new();
    let mut add = |producer, records: Vec<CoordinatorRecord>| {
        let to_batch = |records: &[CoordinatorRecord]| CoordinatorBatch {
            producer,
            records: records.to_vec(),
        };
        batches.extend(records.chunks(SNAPSHOT_BATCH).map(to_batch));
    };
    for (id, group) in groups {
        let encode = |(p, offset)| encode_offset(id, p, offset, now).ok();
        let metadata = group.logged_metadata.as_ref().and_then(|_| {
            let key = encode_group_key(id).ok()?;
            Some(CoordinatorRecord { key, value: group.logged_metadata.clone() })
        });
        add(
            None,
            metadata.into_iter().chain(group.offsets.committed().filter_map(encode)).collect(),
        );
        for (producer, offsets) in group.offsets.pending() {
            add(Some(producer), offsets.filter_map(encode).collect());
        }
    }
    batches
}

fn encode_group_key(group: &str) -> Result<Vec<u8>, EncodeError> {
    let key = GroupMetadataKey { group: group.to_owned(), ..Default::default() };
    encode_key(key_type::GROUP_METADATA, &key)
}

fn encode_offset_key(group: &str, p: &TopicPartition) -> Result<Vec<u8>, EncodeError> {
    let key = OffsetCommitKey {
        group: group.to_owned(),
        topic: p.topic.clone(),
        partition: p.partition,
        ..Default::default()
    };
    encode_key(key_type::OFFSET_COMMIT, &key)
}

fn encode_offset(
    group: &str,
    partition: &TopicPartition,
    offset: &CommittedOffset,
    now: ClockReading,
) -> Result<CoordinatorRecord, EncodeError> {
    let value = OffsetCommitValue {
        offset: offset.offset,
        leader_epoch: offset.leader_epoch,
        metadata: offset.metadata.clone(),
        commit_timestamp: now.wall_ms,
        ..Default::default()
    };
    let key = encode_offset_key(group, partition)?;
    Ok(CoordinatorRecord { key, value: Some(encode_value(&value)?) })
}

fn encode_group(id: &str, group: &ClassicGroup) -> Result<CoordinatorRecord, EncodeError> {
    let protocol = group.protocol.clone().unwrap_or_default();
    let to_millis = |ms: u64| i32::try_from(ms).unwrap_or(i32::MAX);
    let members = group.members.iter().map(|(member_id, m)| GroupMetadataMember {
        member_id: member_id.clone(),
        group_instance_id: m.instance_id.clone(),
        client_id: m.client_id.clone(),
        rebalance_timeout: to_millis(m.rebalance_timeout_ms),
        session_timeout: to_millis(m.session_timeout_ms),
        subscription: m.metadata(&protocol),
        assignment: m.assignment.clone(),
        ..Default::default()
    });
    let value = GroupMetadataValue {
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        generation: group.generation,
        protocol: group.protocol.clone(),
        leader: group.leader.clone(),
        members: members.collect(),
        ..Default::default()
    };
    Ok(CoordinatorRecord { key: encode_group_key(id)?, value: Some(encode_value(&value)?) })
}

fn read_batch(batch: &BatchView<'_>, groups: &mut BTreeMap<String, Group>) -> Result<(), String> {
    let to_text = |e: DecodeError| e.to_string();
    let (id, epoch) = (batch.header().producer_id, batch.header().producer_epoch);
    if batch.is_control() {
        if let Some(marker) = EndTransactionMarker::decode_batch(batch).map_err(to_text)? {
            let committed = marker.control_type == ControlRecordType::Commit;
            // A transaction ends in the same way in all groups: one marker is enough for them.
            groups.values_mut().for_each(|g| g.offsets.end_transaction(id, committed));
        }
        return Ok(());
    }
    let producer = batch.is_transactional().then_some(ProducerIdAndEpoch { id, epoch });
    let records = batch.records(MAX_DECOMPRESSED_BYTES).map_err(to_text)?;
    for record in records.to_vec().map_err(to_text)? {
        read_record(&record, producer, groups)
            .map_err(|e| format!("the record at offset {}: {e}", record.offset))?;
    }
    Ok(())
}

fn read_record(
    record: &RecordView<'_>,
    producer: Option<ProducerIdAndEpoch>,
    groups: &mut BTreeMap<String, Group>,
) -> Result<(), String> {
    let to_text = |e: DecodeError| e.to_string();
    let key = Bytes::copy_from_slice(record.key.unwrap_or_default());
    let mut r = Reader::new(&key);
    let value = record.value.map(Bytes::copy_from_slice);
    match decode_key_type(&mut r).map_err(to_text)? {
        key_type::LEGACY_OFFSET_COMMIT | key_type::OFFSET_COMMIT => {
            let key: OffsetCommitKey = decode_key(&mut r).map_err(to_text)?;
            let offsets = &mut groups.entry(key.group).or_default().offsets;
            let partition = TopicPartition { topic: key.topic, partition: key.partition };
            let Some(value) = value else {
                offsets.remove(&partition);
                return Ok(());
            };
            let value: OffsetCommitValue = decode_value(&value).map_err(to_text)?;
            let offset = CommittedOffset {
                offset: value.offset,
                leader_epoch: value.leader_epoch,
                metadata: value.metadata,
            };
            match producer {
                Some(producer) => offsets.add_pending(producer, [(partition, offset)]),
                None => offsets.commit([(partition, offset)]),
            }
        }
        key_type::GROUP_METADATA => {
            let key: GroupMetadataKey = decode_key(&mut r).map_err(to_text)?;
            let group = groups.entry(key.group).or_default();
            group.classic = match &value {
                Some(value) => to_group(decode_value(value).map_err(to_text)?)?,
                None => ClassicGroup::default(),
            };
            group.logged_metadata = value.map(|v| v.to_vec());
        }
        other => return Err(format!("the key has the type {other}, which is not known here")),
    }
    Ok(())
}

fn to_group(value: GroupMetadataValue) -> Result<ClassicGroup, String> {
    if !(0..=MAX_GENERATION).contains(&value.generation) {
        return Err(format!("the generation {} is out of range", value.generation));
    }
    let protocol = value.protocol.clone();
    let members = value.members.into_iter().map(|m| {
        let name = protocol.clone().unwrap_or_default();
        let subscription =
            JoinGroupRequestProtocol { name, metadata: m.subscription, ..Default::default() };
        let session_timeout_ms = u64::try_from(m.session_timeout).unwrap_or(0);
        let member = Member {
            instance_id: m.group_instance_id,
            client_id: m.client_id,
            session_timeout_ms,
            rebalance_timeout_ms: u64::try_from(m.rebalance_timeout).unwrap_or(session_timeout_ms),
            protocols: vec![subscription],
            assignment: m.assignment,
            ..Default::default()
        };
        (m.member_id, member)
    });
    let members: BTreeMap<String, Member> = members.collect();
    Ok(ClassicGroup {
        state: if members.is_empty() { GroupState::Empty } else { GroupState::Stable },
        generation: value.generation,
        protocol_type: Some(value.protocol_type).filter(|t| !t.is_empty()),
        protocol: value.protocol,
        leader: value.leader,
        members,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_that_no_group_has_is_an_error() {
        let value = |generation| GroupMetadataValue { generation, ..Default::default() };
        for generation in [-1, i32::MIN, i32::MAX] {
            let e = to_group(value(generation)).unwrap_err();
            assert_eq!(e, format!("the generation {generation} is out of range"));
        }
        for generation in [0, MAX_GENERATION] {
            assert_eq!(to_group(value(generation)).unwrap().generation, generation);
        }
    }
}
