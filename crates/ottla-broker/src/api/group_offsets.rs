//! The handlers of OffsetCommit, OffsetFetch and TxnOffsetCommit.

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

/// An offset to commit, with the result for its partition.
struct OffsetToCommit {
    partition: TopicPartition,
    offset: CommittedOffset,
    result: Result<(), ErrorCode>,
}

impl OffsetToCommit {
    fn new(
        core: &Core,
        topic: &str,
        partition: i32,
        offset: CommittedOffset,
        checked: Result<(), ErrorCode>,
    ) -> OffsetToCommit {
        let index = usize::try_from(partition).ok();
        let topic_state = core.topics.by_name.get(topic).zip(index);
        let exists = topic_state.is_some_and(|(t, i)| i < t.partitions.len());
        let result = checked.and_then(|()| {
            if !exists {
                return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            }
            if offset.metadata.len() > METADATA_MAX_BYTES {
                return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
            }
            Ok(())
        });
        let partition = TopicPartition { topic: topic.to_owned(), partition };
        OffsetToCommit { partition, offset, result }
    }

    fn error_code(&self) -> i16 {
        self.result.err().unwrap_or(ErrorCode::NONE).0
    }
}

/// Commits the offsets that may be, or adds them to a producer's transaction.
///
/// If they cannot be written, each gets the error.
fn commit_accepted(
    core: &mut Core,
    group: &str,
    producer: Option<ProducerIdAndEpoch>,
    topics: &mut [(String, Vec<OffsetToCommit>)],
    now: ClockReading,
) {
    let all = topics.iter_mut().flat_map(|(_, offsets)| offsets);
    let mut accepted: Vec<&mut OffsetToCommit> = all.filter(|o| o.result.is_ok()).collect();
    let offsets = accepted.iter().map(|o| (o.partition.clone(), o.offset.clone())).collect();
    if let Err(code) = core.groups.commit_offsets(group, producer, offsets, now) {
        accepted.iter_mut().for_each(|o| o.result = Err(code));
    }
}

pub(crate) fn handle_offset_commit(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let member = MemberRef {
        id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    let checked = core.check_group_coordinator(&request.group_id, ctx.node, ctx.now);
    let checked = checked.and_then(|()| {
        if let Some(group) = core.groups.by_id.get_mut(&request.group_id) {
            return group.classic.check_commit(member, false, ctx.now.mono_ms);
        }
        // A group that does not exist yet has no members.
        let has_member = member.generation >= 0 || !member.id.is_empty();
        if has_member { Err(ErrorCode::ILLEGAL_GENERATION) } else { Ok(()) }
    });
    let topics = request.topics.into_iter().map(|t| {
        let offsets = t.partitions.into_iter().map(|p| {
            let offset = CommittedOffset {
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.unwrap_or_default(),
            };
            OffsetToCommit::new(core, &t.name, p.partition_index, offset, checked)
        });
        let offsets = offsets.collect();
        (t.name, offsets)
    });
    let mut topics: Vec<(String, Vec<OffsetToCommit>)> = topics.collect();
    commit_accepted(core, &request.group_id, None, &mut topics, ctx.now);
    let topics = topics.into_iter().map(|(name, offsets)| {
        let partitions = offsets.iter().map(|o| OffsetCommitResponsePartition {
            partition_index: o.partition.partition,
            error_code: o.error_code(),
            ..Default::default()
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic { name, partitions, ..Default::default() }
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
            let offset = CommittedOffset {
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.unwrap_or_default(),
            };
            OffsetToCommit::new(core, &t.name, p.partition_index, offset, checked)
        });
        let offsets = offsets.collect();
        (t.name, offsets)
    });
    let mut topics: Vec<(String, Vec<OffsetToCommit>)> = topics.collect();
    commit_accepted(core, &request.group_id, Some(producer), &mut topics, ctx.now);
    let topics = topics.into_iter().map(|(name, offsets)| {
        let partitions = offsets.iter().map(|o| TxnOffsetCommitResponsePartition {
            partition_index: o.partition.partition,
            error_code: o.error_code(),
            ..Default::default()
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic { name, partitions, ..Default::default() }
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
    let member = MemberRef {
        id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
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
            let requested = g.topics.map(|topics| {
                let partitions = topics.into_iter().map(|t| (t.name, t.partition_indexes));
                partitions.collect()
            });
            fetch_group_offsets(core, ctx, g.group_id, requested, request.require_stable)
        });
        return OffsetFetchResponse { groups: groups.collect(), ..Default::default() };
    }
    let requested = request.topics.map(|topics| {
        let partitions = topics.into_iter().map(|t| (t.name, t.partition_indexes));
        partitions.collect()
    });
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
        let partitions = partitions.into_iter().map(|number| {
            let partition = TopicPartition { topic: topic.clone(), partition: number };
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
        OffsetFetchResponseTopics { name: topic, partitions, ..Default::default() }
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
