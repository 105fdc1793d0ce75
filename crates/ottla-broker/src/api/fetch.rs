//! The handler of Fetch: it reads whole batches, or waits until there are enough.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;
use ottla_protocol::record::Batches;

use crate::api::RequestContext;
use crate::core::{Core, HandleResult};
use crate::log::MinBytes;
use crate::partition::Partition;

/// Handles Fetch: returns whole batches, or waits until `min_bytes` are there.
pub(crate) fn handle_fetch(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: FetchRequest,
) -> HandleResult {
    let version = ctx.header.api_version;
    if request.session_id != 0 {
        let error_code = ErrorCode::FETCH_SESSION_ID_NOT_FOUND.0;
        return ctx
            .send_response::<FetchRequest>(&FetchResponse { error_code, ..Default::default() });
    }
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0);
    let read_committed = is_read_committed(request.isolation_level);
    let mut total_bytes = 0;
    let mut has_error = false;
    let mut responses = Vec::new();
    for t in request.topics {
        let name =
            if version >= 13 { core.topics.topic_name(t.topic_id) } else { Some(t.topic.as_str()) };
        let mut partitions = Vec::new();
        for p in &t.partitions {
            let data = match name.map(|n| core.leader_partition(ctx.node, n, p.partition)) {
                None => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                // Only the first batch of the whole response may exceed the limit.
                Some(leader) => leader.and_then(|leader| {
                    let min = if total_bytes == 0 { MinBytes::OneBatch } else { MinBytes::Zero };
                    let max_bytes = max_bytes.saturating_sub(total_bytes);
                    read_partition(leader, p, read_committed, max_bytes, min)
                }),
            };
            has_error |= data.is_err();
            total_bytes += data.as_ref().map_or(0, |d| d.records.len());
            partitions.push(to_partition_data(p.partition, data));
        }
        let (topic, topic_id) = (t.topic, t.topic_id);
        responses.push(FetchableTopicResponse {
            topic,
            topic_id,
            partitions,
            ..Default::default()
        });
    }
    let deadline_ms = ctx.arrived_ms + u64::try_from(request.max_wait_ms).unwrap_or(0);
    let has_enough = total_bytes >= usize::try_from(request.min_bytes).unwrap_or(0);
    // An error must not wait: the client has to react to it.
    if !has_enough && !has_error && ctx.now.mono_ms < deadline_ms {
        return HandleResult::DelayedFetch { deadline_ms };
    }
    ctx.send_response::<FetchRequest>(&FetchResponse { responses, ..Default::default() })
}

/// Compares the client's leader epoch with the broker's (KIP-320); −1 skips the check.
pub(super) fn check_leader_epoch(p: &Partition, epoch: i32) -> Result<(), ErrorCode> {
    match epoch {
        -1 => Ok(()),
        e if e < p.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
        e if e > p.leader_epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

/// The records that a Fetch reads from a partition.
struct FetchedRecords {
    records: Vec<u8>,
    log_start_offset: i64,
    high_watermark: i64,
    last_stable_offset: i64,
    /// The aborted transactions among the records; empty for `read_uncommitted`.
    aborted_transactions: Vec<AbortedTransaction>,
}

/// Returns whether the consumer reads committed transactions only.
pub(super) fn is_read_committed(isolation_level: i8) -> bool {
    isolation_level == 1
}

fn read_partition(
    p: &Partition,
    request: &FetchPartition,
    read_committed: bool,
    max_bytes: usize,
    min_bytes: MinBytes,
) -> Result<FetchedRecords, ErrorCode> {
    check_leader_epoch(p, request.current_leader_epoch)?;
    let leader = p.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
    let log = &leader.log;
    if !(log.log_start_offset()..=log.log_end_offset()).contains(&request.fetch_offset) {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let max_bytes = max_bytes.min(usize::try_from(request.partition_max_bytes).unwrap_or(0));
    // Consumers read up to the high watermark: records after it can be lost with the leader.
    let (high_watermark, last_stable_offset) = (p.high_watermark, p.last_stable_offset());
    let end = if read_committed { last_stable_offset } else { high_watermark };
    let records = log.read(request.fetch_offset, end, max_bytes, min_bytes).map_err(|e| {
        tracing::error!(partition = p.name(), "read failed: {e}");
        ErrorCode::KAFKA_STORAGE_ERROR
    })?;
    let mut aborted_transactions = Vec::new();
    if read_committed {
        let last_batch = Batches::new(&records).filter_map(Result::ok).last();
        let read_to = last_batch.map_or(request.fetch_offset, |batch| {
            batch.header().base_offset + i64::from(batch.header().last_offset_delta) + 1
        });
        let aborted = &leader.producer_state.transactions;
        aborted_transactions.extend(aborted.aborted_in(request.fetch_offset, read_to).map(|txn| {
            let (producer_id, first_offset) = (txn.producer_id, txn.first_offset);
            AbortedTransaction { producer_id, first_offset, ..Default::default() }
        }));
    }
    Ok(FetchedRecords {
        records,
        log_start_offset: log.log_start_offset(),
        high_watermark,
        last_stable_offset,
        aborted_transactions,
    })
}

fn to_partition_data(
    partition_index: i32,
    data: Result<FetchedRecords, ErrorCode>,
) -> PartitionData {
    match data {
        Ok(data) => PartitionData {
            partition_index,
            high_watermark: data.high_watermark,
            last_stable_offset: data.last_stable_offset,
            log_start_offset: data.log_start_offset,
            aborted_transactions: Some(data.aborted_transactions),
            records: Some(data.records.into()),
            ..Default::default()
        },
        Err(code) => PartitionData {
            partition_index,
            error_code: code.0,
            high_watermark: -1,
            records: Some(bytes::Bytes::new()),
            ..Default::default()
        },
    }
}
