//! The handlers of OffsetCommit, OffsetFetch and TxnOffsetCommit.

use std::collections::BTreeMap;

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use crate::api::{RequestContext, offsets_partition};
use crate::coordinators::CoordinatorType;
use crate::core::{ClockReading, Core};
use crate::group::{CommittedOffset, GroupOffsets, MemberRef};
use crate::transaction::{ProducerIdAndEpoch, TRANSACTIONS_V2, TopicPartition};

/// The longest metadata of an offset in bytes (Kafka's `offset.metadata.max.bytes`).
const METADATA_MAX_BYTES: usize = 4096;
/// The first version of TxnOffsetCommit whose clients know TRANSACTION_ABORTABLE.
const ABORTABLE_VERSION: i16 = 4;
/// The first version of TxnOffsetCommit that adds the group to the transaction.
const ADD_GROUP_VERSION: i16 = 5;

/// The results of a topic's partitions.
struct TopicResults {
    name: String,
    partitions: Vec<(i32, Result<(), ErrorCode>)>,
}

/// Commits the offsets that are accepted, or adds them to a producer's transaction.
///
/// `checked` is the result of the checks that concern the whole request.
fn commit_offsets(
    core: &mut Core,
    group: &str,
    producer: Option<ProducerIdAndEpoch>,
    checked: Result<(), ErrorCode>,
    topics: impl Iterator<Item = (String, impl Iterator<Item = (i32, CommittedOffset)>)>,
    now: ClockReading,
) -> Vec<TopicResults> {
    // A name is copied only for a partition that exists: with a long name, a request of a few
    // megabytes would take gigabytes otherwise.
    let mut accepted = BTreeMap::new();
    let results = topics.map(|(name, offsets)| {
        let partition_count = core.partition_count(&name);
        let check = |(partition, offset): (i32, CommittedOffset)| {
            let result = checked.and_then(|()| check_offset(partition, &offset, partition_count));
            if result.is_ok() {
                accepted.insert(TopicPartition { topic: name.clone(), partition }, offset);
            }
            (partition, result)
        };
        let partitions = offsets.map(check).collect();
        TopicResults { name, partitions }
    });
    let mut results: Vec<TopicResults> = results.collect();
    let accepted = accepted.into_iter().collect();
    if let Err(code) = core.groups.commit_offsets(group, producer, accepted, now) {
        let all = results.iter_mut().flat_map(|t| &mut t.partitions);
        all.filter(|(_, result)| result.is_ok()).for_each(|(_, result)| *result = Err(code));
    }
    results
}

fn check_offset(
    partition: i32,
    offset: &CommittedOffset,
    partition_count: usize,
) -> Result<(), ErrorCode> {
    if usize::try_from(partition).is_ok_and(|index| index < partition_count) {
        if offset.metadata.len() > METADATA_MAX_BYTES {
            return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
        }
        return Ok(());
    }
    Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

fn to_error_code(result: Result<(), ErrorCode>) -> i16 {
    result.err().unwrap_or(ErrorCode::NONE).0
}

pub(crate) fn handle_offset_commit(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let instance_id = request.group_instance_id.as_deref();
    let member = MemberRef::new(&request.member_id, instance_id, request.generation_id);
    let checked = core.check_group_coordinator(&request.group_id, ctx.node, ctx.now);
    let checked = checked.and_then(|()| {
        if let Some(group) = core.groups.by_id.get_mut(&request.group_id) {
            return group.classic.check_commit(member, false, ctx.now.mono_ms);
        }
        // A group that does not exist yet has no generation. The member id does not matter.
        if member.generation >= 0 { Err(ErrorCode::ILLEGAL_GENERATION) } else { Ok(()) }
    });
    let topics = request.topics.into_iter().map(|t| {
        let offsets = t.partitions.into_iter().map(|p| {
            let (offset, leader_epoch) = (p.committed_offset, p.committed_leader_epoch);
            let metadata = p.committed_metadata.unwrap_or_default();
            (p.partition_index, CommittedOffset { offset, leader_epoch, metadata })
        });
        (t.name, offsets)
    });
    let results = commit_offsets(core, &request.group_id, None, checked, topics, ctx.now);
    let topics = results.into_iter().map(|t| {
        let partitions = t.partitions.into_iter().map(|(partition_index, result)| {
            let error_code = to_error_code(result);
            OffsetCommitResponsePartition { partition_index, error_code, ..Default::default() }
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic { name: t.name, partitions, ..Default::default() }
    });
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

pub(crate) fn handle_txn_offset_commit(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let producer = ProducerIdAndEpoch { id: request.producer_id, epoch: request.producer_epoch };
    let checked = check_txn_offset_commit(core, ctx, &request, producer);
    let topics = request.topics.into_iter().map(|t| {
        let offsets = t.partitions.into_iter().map(|p| {
            let (offset, leader_epoch) = (p.committed_offset, p.committed_leader_epoch);
            let metadata = p.committed_metadata.unwrap_or_default();
            (p.partition_index, CommittedOffset { offset, leader_epoch, metadata })
        });
        (t.name, offsets)
    });
    let group = &request.group_id;
    let results = commit_offsets(core, group, Some(producer), checked, topics, ctx.now);
    let topics = results.into_iter().map(|t| {
        let partitions = t.partitions.into_iter().map(|(partition_index, result)| {
            let error_code = to_error_code(result);
            TxnOffsetCommitResponsePartition { partition_index, error_code, ..Default::default() }
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic { name: t.name, partitions, ..Default::default() }
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

/// Checks coordinator, member and transaction of a TxnOffsetCommit.
fn check_txn_offset_commit(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &TxnOffsetCommitRequest,
    producer: ProducerIdAndEpoch,
) -> Result<(), ErrorCode> {
    core.check_group_coordinator(&request.group_id, ctx.node, ctx.now)?;
    let instance_id = request.group_instance_id.as_deref();
    let member = MemberRef::new(&request.member_id, instance_id, request.generation_id);
    match core.groups.by_id.get_mut(&request.group_id) {
        Some(group) => {
            group.classic.check_commit(member, true, ctx.now.mono_ms)?;
            if group.offsets.has_ongoing_txn(producer) {
                return Ok(());
            }
        }
        None if member.generation >= 0 => return Err(ErrorCode::ILLEGAL_GENERATION),
        None => {}
    }
    let version = ctx.header.api_version;
    let id = &request.transactional_id;
    let partition = offsets_partition(&request.group_id);
    let node = core.coordinators.node(CoordinatorType::Transaction, id)?;
    let joined = if version >= ADD_GROUP_VERSION {
        let partitions = [partition].into();
        core.add_partitions_to_txn(node, id, producer, &partitions, TRANSACTIONS_V2, ctx.now)
    } else if core.config.verifies_transactions {
        core.verify_partition_in_txn(node, id, producer, &partition, ctx.now)
    } else {
        Ok(())
    };
    joined.map_err(|code| match code {
        ErrorCode::PRODUCER_FENCED => ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::TRANSACTION_ABORTABLE if version < ABORTABLE_VERSION => {
            ErrorCode::INVALID_TXN_STATE
        }
        // The code would concern the group's coordinator, which is this node.
        ErrorCode::NOT_COORDINATOR => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::CONCURRENT_TRANSACTIONS if version < ADD_GROUP_VERSION => {
            ErrorCode::COORDINATOR_NOT_AVAILABLE
        }
        other => other,
    })
}

pub(crate) fn handle_offset_fetch(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if ctx.header.api_version >= 8 {
        let groups = request.groups.into_iter().map(|g| {
            let names = |t: OffsetFetchRequestTopics| (t.name, t.partition_indexes);
            let requested = g.topics.map(|topics| topics.into_iter().map(names).collect());
            fetch_group_offsets(core, ctx, g.group_id, requested, request.require_stable)
        });
        return OffsetFetchResponse { groups: groups.collect(), ..Default::default() };
    }
    let names = |t: OffsetFetchRequestTopic| (t.name, t.partition_indexes);
    let requested = request.topics.map(|topics| topics.into_iter().map(names).collect());
    let fetched =
        fetch_group_offsets(core, ctx, request.group_id, requested, request.require_stable);
    let topics = fetched.topics.into_iter().map(|t| {
        let partitions = t.partitions.into_iter().map(|p| OffsetFetchResponsePartition {
            partition_index: p.partition_index,
            committed_offset: p.committed_offset,
            committed_leader_epoch: p.committed_leader_epoch,
            metadata: p.metadata,
            // Version 1 has no error code of the group.
            error_code: if p.error_code == 0 && ctx.header.api_version < 2 {
                fetched.error_code
            } else {
                p.error_code
            },
            ..Default::default()
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopic { name: t.name, partitions, ..Default::default() }
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: fetched.error_code,
        ..Default::default()
    }
}

/// Returns the offsets of a group; `requested` is `None` for all of them.
fn fetch_group_offsets(
    core: &Core,
    ctx: &RequestContext<'_>,
    group_id: String,
    requested: Option<Vec<(String, Vec<i32>)>>,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let no_offsets = GroupOffsets::default();
    let offsets = core.groups.by_id.get(&group_id).map_or(&no_offsets, |g| &g.offsets);
    let requested = requested.unwrap_or_else(|| by_topic(offsets.partitions()));
    let checked = core.check_group_coordinator(&group_id, ctx.node, ctx.now);
    let topics = requested.into_iter().map(|(topic, partitions)| {
        let mut partition = TopicPartition { topic, partition: 0 };
        let partitions = partitions.into_iter().map(|number| {
            partition.partition = number;
            let is_unstable = require_stable && offsets.is_unstable(&partition);
            let found = offsets.get(&partition).filter(|_| checked.is_ok() && !is_unstable);
            OffsetFetchResponsePartitions {
                partition_index: number,
                committed_offset: found.map_or(-1, |o| o.offset),
                committed_leader_epoch: found.map_or(-1, |o| o.leader_epoch),
                metadata: Some(found.map(|o| o.metadata.clone()).unwrap_or_default()),
                error_code: if is_unstable { ErrorCode::UNSTABLE_OFFSET_COMMIT.0 } else { 0 },
                ..Default::default()
            }
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopics { name: partition.topic, partitions, ..Default::default() }
    });
    OffsetFetchResponseGroup {
        topics: topics.collect(),
        error_code: checked.err().unwrap_or(ErrorCode::NONE).0,
        group_id,
        ..Default::default()
    }
}

fn by_topic(partitions: Vec<TopicPartition>) -> Vec<(String, Vec<i32>)> {
    let mut topics: Vec<(String, Vec<i32>)> = Vec::new();
    for p in partitions {
        match topics.last_mut() {
            Some((topic, numbers)) if *topic == p.topic => numbers.push(p.partition),
            _ => topics.push((p.topic, vec![p.partition])),
        }
    }
    topics
}
