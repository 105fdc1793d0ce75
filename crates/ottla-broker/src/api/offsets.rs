//! The handlers of ListOffsets and OffsetForLeaderEpoch.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;
use ottla_protocol::record::BatchView;

use crate::api::RequestContext;
use crate::api::fetch::{check_leader_epoch, is_read_committed};
use crate::core::Core;
use crate::log::Log;

/// The largest size in bytes to which a batch is decompressed for a timestamp lookup.
const MAX_LOOKUP_BYTES: usize = 256 << 20;

pub(crate) fn handle_list_offsets(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let read_committed = is_read_committed(request.isolation_level);
    let topics = request.topics.into_iter().map(|t| {
        let partitions = t.partitions.iter().map(|p| {
            let leader = core.leader_partition(ctx.node, &t.name, p.partition_index);
            let result = leader.and_then(|leader| {
                check_leader_epoch(leader, p.current_leader_epoch)?;
                let log = &leader.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
                let end_offset = if read_committed {
                    leader.last_stable_offset()
                } else {
                    leader.high_watermark
                };
                let found = fetch_offset_for_timestamp(log, end_offset, p.timestamp)?;
                Ok((found, leader.leader_epoch))
            });
            let (code, found, epoch) = match result {
                Ok((found, epoch)) => (ErrorCode::NONE, found, epoch),
                Err(code) => (code, TimestampAndOffset::NONE, -1),
            };
            ListOffsetsPartitionResponse {
                partition_index: p.partition_index,
                error_code: code.0,
                timestamp: found.timestamp,
                offset: found.offset,
                leader_epoch: if found.offset >= 0 { epoch } else { -1 },
                ..Default::default()
            }
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse { name: t.name, partitions, ..Default::default() }
    });
    ListOffsetsResponse { topics: topics.collect(), ..Default::default() }
}

/// The result of an offset lookup, as Kafka's `TimestampAndOffset`; −1 for no value.
#[derive(Clone, Copy)]
struct TimestampAndOffset {
    timestamp: i64,
    offset: i64,
}

impl TimestampAndOffset {
    const NONE: TimestampAndOffset = TimestampAndOffset { timestamp: -1, offset: -1 };

    fn offset(offset: i64) -> TimestampAndOffset {
        TimestampAndOffset { timestamp: -1, offset }
    }
}

// The special timestamps of ListOffsets, named as in Kafka's `ListOffsetsRequest`.
const LATEST_TIMESTAMP: i64 = -1;
const EARLIEST_TIMESTAMP: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL_TIMESTAMP: i64 = -4;

/// Finds the first record before `end_offset` with a timestamp of `timestamp` or later.
///
/// Special timestamps stand for the start, the end, and the record with the highest timestamp.
fn fetch_offset_for_timestamp(
    log: &Log,
    end_offset: i64,
    timestamp: i64,
) -> Result<TimestampAndOffset, ErrorCode> {
    let storage_error = |_| ErrorCode::KAFKA_STORAGE_ERROR;
    let batch = match timestamp {
        EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP => {
            return Ok(TimestampAndOffset::offset(log.log_start_offset()));
        }
        LATEST_TIMESTAMP => return Ok(TimestampAndOffset::offset(end_offset)),
        MAX_TIMESTAMP => log.batch_with_max_timestamp(end_offset).map_err(storage_error)?,
        // The other negative values concern remote storage, which this broker does not have.
        t if t < 0 => return Ok(TimestampAndOffset::NONE),
        t => log.find_batch_by_timestamp(t, end_offset).map_err(storage_error)?,
    };
    let Some(batch) = batch else {
        return Ok(TimestampAndOffset::NONE);
    };
    let corrupt = |_| ErrorCode::CORRUPT_MESSAGE;
    let view = BatchView::parse(&batch.bytes).map_err(corrupt)?;
    let max_timestamp = view.header().max_timestamp;
    let records = view.records(MAX_LOOKUP_BYTES).map_err(corrupt)?;
    let mut found = None;
    records
        .try_for_each(|r| {
            let is_match = if timestamp == MAX_TIMESTAMP {
                r.timestamp == max_timestamp
            } else {
                r.timestamp >= timestamp
            };
            if is_match && found.is_none() {
                found = Some(TimestampAndOffset { timestamp: r.timestamp, offset: r.offset });
            }
            Ok(())
        })
        .map_err(corrupt)?;
    Ok(found.unwrap_or(TimestampAndOffset::NONE))
}

pub(crate) fn handle_offset_for_leader_epoch(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|t| {
        let partitions = t.partitions.iter().map(|p| {
            let leader = core.leader_partition(ctx.node, &t.topic, p.partition);
            let result = leader.and_then(|leader| {
                check_leader_epoch(leader, p.current_leader_epoch)?;
                let log = &leader.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
                Ok(match p.leader_epoch {
                    // The current epoch ends at the log end offset, even if it has no batch yet.
                    e if e == leader.leader_epoch => Some((e, log.log_end_offset())),
                    e => log.end_offset_for_epoch(e).filter(|_| e < leader.leader_epoch),
                })
            });
            let (code, leader_epoch, end_offset) = match result {
                Ok(Some((epoch, end))) => (ErrorCode::NONE, epoch, end),
                Ok(None) => (ErrorCode::NONE, -1, -1),
                Err(code) => (code, -1, -1),
            };
            EpochEndOffset {
                error_code: code.0,
                partition: p.partition,
                leader_epoch,
                end_offset,
                ..Default::default()
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult { topic: t.topic, partitions, ..Default::default() }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}
