//! The handlers of Produce, Fetch, ListOffsets and OffsetForLeaderEpoch.
//!
//! Produce appends through [`crate::append`] and waits in [`crate::purgatory`] if `acks=all`.

use ottla_protocol::messages::*;
use ottla_protocol::record::BatchView;
use ottla_protocol::{DecodeError, ErrorCode};

use crate::api::RequestContext;
use crate::append::{AppendError, LogAppendInfo, append_records_to_leader};
use crate::core::{AppendedBatch, Core, HandleResult, ProduceFault};
use crate::log::{Log, MinBytes};
use crate::partition::Partition;
use crate::purgatory::{DelayedProduce, ProducePartitionStatus, ResponseIndex};

/// The largest size in bytes to which a batch is decompressed for a timestamp lookup.
const MAX_LOOKUP_BYTES: usize = 256 << 20;

/// Handles Produce: appends each partition's batch, then responds or waits for the replicas.
pub(crate) fn handle_produce(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: ProduceRequest,
) -> Result<HandleResult, DecodeError> {
    let version = ctx.header.api_version;
    let mut first_error = None;
    let mut responses = Vec::new();
    let mut pending_partitions = Vec::new();
    let mut node_endpoints = Vec::new();
    for t in request.topic_data {
        let name = if version >= 13 {
            core.topics.topic_name(t.topic_id).map(str::to_owned)
        } else {
            Some(t.name.clone())
        };
        let mut partition_responses = Vec::new();
        for p in t.partition_data {
            let result = match &name {
                None => Err(error_from_code(ErrorCode::UNKNOWN_TOPIC_ID)),
                Some(_) if !(-1..=1).contains(&request.acks) => {
                    Err(error_from_code(ErrorCode::INVALID_REQUIRED_ACKS))
                }
                Some(name) => append_partition(core, name, &p, request.acks, ctx),
            };
            if let Err(e) = &result {
                first_error.get_or_insert(e.code);
            }
            if let (Ok(appended), Some(name), -1) = (&result, &name, request.acks) {
                let response_index =
                    ResponseIndex { topic: responses.len(), partition: partition_responses.len() };
                let status = track_replication(core, name, p.index, appended, response_index);
                pending_partitions.extend(status);
            }
            let mut response = to_partition_response(p.index, result);
            if let Some(name) = &name {
                set_current_leader(core, ctx, name, &mut response, &mut node_endpoints);
            }
            partition_responses.push(response);
        }
        let (name, topic_id) = (t.name, t.topic_id);
        responses.push(TopicProduceResponse {
            name,
            topic_id,
            partition_responses,
            ..Default::default()
        });
    }
    if request.acks == 0 {
        // With `acks=0` there is no response: as Kafka does, the broker reports an error by closing
        // the connection, so that the client refreshes its metadata.
        return Ok(match first_error {
            Some(code) => {
                HandleResult::CloseConnection(format!("{code} for a request with acks=0"))
            }
            None => HandleResult::NoResponse,
        });
    }
    let throttle_time_ms = core.nodes.produce_throttle_ms.get(&ctx.node).copied().unwrap_or(0);
    let response =
        ProduceResponse { responses, throttle_time_ms, node_endpoints, ..Default::default() };
    if pending_partitions.is_empty() {
        return Ok(ctx.send_response::<ProduceRequest>(&response));
    }
    let deadline_ms = ctx.now.mono_ms + u64::try_from(request.timeout_ms).unwrap_or(0);
    let id = core.delay_produce(DelayedProduce {
        node: ctx.node,
        version,
        correlation_id: ctx.header.correlation_id,
        deadline_ms,
        response,
        pending_partitions,
    });
    // Without a fetch delay, the followers already have the batch: the response is complete.
    Ok(core
        .try_complete_produce(id, ctx.now)
        .unwrap_or(HandleResult::DelayedProduce { id, deadline_ms }))
}

/// Adds the current leader and its address to a NOT_LEADER_OR_FOLLOWER response (KIP-951).
fn set_current_leader(
    core: &Core,
    ctx: &RequestContext<'_>,
    name: &str,
    response: &mut PartitionProduceResponse,
    node_endpoints: &mut Vec<ProduceNodeEndpoint>,
) {
    let topic = core.topics.by_name.get(name);
    let index = usize::try_from(response.index).ok();
    let partition = topic.zip(index).and_then(|(t, i)| t.partitions.get(i));
    if response.error_code != ErrorCode::NOT_LEADER_OR_FOLLOWER.0 {
        return;
    }
    let Some(p) = partition.filter(|p| core.nodes.is_up(p.leader) && p.leader != ctx.node) else {
        return;
    };
    let (leader_id, leader_epoch) = (p.leader, p.leader_epoch);
    response.current_leader =
        ProduceLeaderIdAndEpoch { leader_id, leader_epoch, ..Default::default() };
    if node_endpoints.iter().all(|n| n.node_id != leader_id) {
        let (host, port) = ctx.advertised_address(core, leader_id);
        node_endpoints.push(ProduceNodeEndpoint {
            node_id: leader_id,
            host,
            port,
            ..Default::default()
        });
    }
}

/// Returns what a request with `acks=all` waits for: the offset that the replicas must reach.
fn track_replication(
    core: &Core,
    name: &str,
    index: i32,
    appended: &LogAppendInfo,
    response_index: ResponseIndex,
) -> Option<ProducePartitionStatus> {
    let t = core.topics.by_name.get(name)?;
    let p = t.partitions.get(usize::try_from(index).ok()?)?;
    Some(ProducePartitionStatus {
        topic: name.to_owned(),
        topic_id: t.id,
        partition: index,
        leader_epoch: p.leader_epoch,
        required_offset: appended.end_offset,
        response_index,
    })
}

fn error_from_code(code: ErrorCode) -> AppendError {
    AppendError { code, message: None, record_errors: Vec::new(), base_offset: -1 }
}

fn append_partition(
    core: &mut Core,
    name: &str,
    p: &PartitionProduceData,
    acks: i16,
    ctx: &RequestContext<'_>,
) -> Result<LogAppendInfo, AppendError> {
    core.leader_partition(ctx.node, name, p.index).map_err(error_from_code)?;
    let fault = core.next_fault(name, p.index);
    if let Some(ProduceFault::FailBeforeAppend(code)) = fault {
        return Err(error_from_code(code));
    }
    let Core { topics, nodes, .. } = core;
    let topic = topics.by_name.get_mut(name);
    let topic = topic.ok_or_else(|| error_from_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))?;
    let (config, replication_factor) = (topic.config.clone(), topic.replication_factor());
    let partition = &mut topic.partitions[p.index as usize];
    // As in Kafka, a topic cannot require more in-sync replicas than it has replicas.
    let min_isr = config.min_insync_replicas.min(replication_factor);
    if acks == -1 && (partition.isr.len() as i32) < min_isr {
        return Err(error_from_code(ErrorCode::NOT_ENOUGH_REPLICAS));
    }
    let records = p.records.as_deref().unwrap_or_default();
    let appended =
        append_records_to_leader(partition, &config, records, ctx.header.api_version, ctx.now)?;
    if let Err(e) = nodes.replicate(partition, ctx.now) {
        tracing::warn!(partition = partition.name(), "replication failed: {e}");
    }
    if let (Some(history), true) = (&mut core.append_history, appended.newly_appended) {
        let records = bytes::Bytes::copy_from_slice(records);
        let (topic, base_offset) = (name.to_owned(), appended.base_offset);
        history.push(AppendedBatch { topic, partition: p.index, base_offset, records });
    }
    match fault {
        // A leader that steps down after the append reports the base offset. Clients read from it
        // that the batch is possibly persisted (CASES B6).
        Some(ProduceFault::FailAfterAppend(code)) => {
            let reports_offset = matches!(
                code,
                ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            );
            let base_offset = if reports_offset { appended.base_offset } else { -1 };
            Err(AppendError { base_offset, ..error_from_code(code) })
        }
        _ => Ok(appended),
    }
}

fn to_partition_response(
    index: i32,
    result: Result<LogAppendInfo, AppendError>,
) -> PartitionProduceResponse {
    match result {
        Ok(a) => PartitionProduceResponse {
            index,
            base_offset: a.base_offset,
            log_append_time_ms: a.log_append_time.unwrap_or(-1),
            log_start_offset: 0,
            ..Default::default()
        },
        Err(e) => PartitionProduceResponse {
            index,
            error_code: e.code.0,
            base_offset: e.base_offset,
            // Brokers that respond with UNKNOWN_PRODUCER_ID report the log start offset: from it,
            // clients derive whether retention deleted the producer's records.
            log_start_offset: if e.code == ErrorCode::UNKNOWN_PRODUCER_ID { 0 } else { -1 },
            error_message: e.message,
            record_errors: (e.record_errors.into_iter())
                .map(|r| BatchIndexAndErrorMessage {
                    batch_index: r.batch_index,
                    batch_index_error_message: Some(r.message),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        },
    }
}

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
                    read_partition(leader, p, max_bytes.saturating_sub(total_bytes), min)
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
fn check_leader_epoch(p: &Partition, epoch: i32) -> Result<(), ErrorCode> {
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
    high_watermark: i64,
}

fn read_partition(
    p: &Partition,
    request: &FetchPartition,
    max_bytes: usize,
    min_bytes: MinBytes,
) -> Result<FetchedRecords, ErrorCode> {
    check_leader_epoch(p, request.current_leader_epoch)?;
    let log = &p.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
    if !(log.log_start_offset()..=log.log_end_offset()).contains(&request.fetch_offset) {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let max_bytes = max_bytes.min(usize::try_from(request.partition_max_bytes).unwrap_or(0));
    // Consumers read up to the high watermark: records after it can be lost with the leader.
    let end = p.high_watermark;
    let records = log.read(request.fetch_offset, end, max_bytes, min_bytes).map_err(|e| {
        tracing::error!(partition = p.name(), "read failed: {e}");
        ErrorCode::KAFKA_STORAGE_ERROR
    })?;
    Ok(FetchedRecords { records, high_watermark: end })
}

fn to_partition_data(
    partition_index: i32,
    data: Result<FetchedRecords, ErrorCode>,
) -> PartitionData {
    match data {
        Ok(data) => PartitionData {
            partition_index,
            high_watermark: data.high_watermark,
            last_stable_offset: data.high_watermark,
            log_start_offset: 0,
            aborted_transactions: Some(Vec::new()),
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

pub(crate) fn handle_list_offsets(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let topics = request.topics.into_iter().map(|t| {
        let partitions = t.partitions.iter().map(|p| {
            let leader = core.leader_partition(ctx.node, &t.name, p.partition_index);
            let result = leader.and_then(|leader| {
                check_leader_epoch(leader, p.current_leader_epoch)?;
                let log = &leader.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
                let found = fetch_offset_for_timestamp(log, leader.high_watermark, p.timestamp)?;
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
