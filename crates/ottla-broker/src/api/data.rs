//! Produce, Fetch, ListOffsets, OffsetForLeaderEpoch: records in and out.

use ottla_protocol::messages::*;
use ottla_protocol::record::BatchView;
use ottla_protocol::{DecodeError, ErrorCode};

use crate::append::{AppendError, LogAppendInfo, append_records_to_leader};
use crate::core::{AppendedBatch, Core, HandleResult, ProduceFault, RequestContext};
use crate::log::Log;
use crate::partition::Partition;
use crate::purgatory::{DelayedProduce, ProducePartitionStatus};

/// The bound on what is decompressed to look a timestamp up.
const MAX_LOOKUP_BYTES: usize = 256 << 20;

pub(crate) fn handle_produce(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: ProduceRequest,
) -> Result<HandleResult, DecodeError> {
    let version = ctx.header.api_version;
    let mut failed = None;
    let (mut responses, mut waiting, mut node_endpoints) = (Vec::new(), Vec::new(), Vec::new());
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
                failed.get_or_insert(e.code);
            }
            if let (Ok(appended), Some(name), -1) = (&result, &name, request.acks) {
                let place = (responses.len(), partition_responses.len());
                waiting.extend(track_replication(core, name, p.index, appended, place));
            }
            let mut told = to_partition_response(p.index, result);
            if let Some(name) = &name {
                set_current_leader(core, ctx, name, &mut told, &mut node_endpoints);
            }
            partition_responses.push(told);
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
        // Nobody listens: the only way to tell of an error is to hang up.
        return Ok(match failed {
            Some(code) => HandleResult::CloseConnection(format!("acks=0 and {code}")),
            None => HandleResult::NoResponse,
        });
    }
    let throttle_time_ms = core.nodes.produce_throttle_ms.get(&ctx.node).copied().unwrap_or(0);
    let response =
        ProduceResponse { responses, throttle_time_ms, node_endpoints, ..Default::default() };
    if waiting.is_empty() {
        return Ok(ctx.send_response::<ProduceRequest>(&response));
    }
    let until_ms = ctx.now.mono_ms + u64::try_from(request.timeout_ms).unwrap_or(0);
    let (node, correlation_id) = (ctx.node, ctx.header.correlation_id);
    let pending = DelayedProduce {
        node,
        version,
        correlation_id,
        deadline_ms: until_ms,
        response,
        pending_partitions: waiting,
    };
    let ticket = core.delay_produce(pending);
    Ok(core
        .try_complete_produce(ticket, ctx.now)
        .unwrap_or(HandleResult::DelayedProduce(ticket, until_ms)))
}

/// Whoever does not lead a partition tells who does, and where (KIP-951).
fn set_current_leader(
    core: &Core,
    ctx: &RequestContext<'_>,
    name: &str,
    told: &mut PartitionProduceResponse,
    nodes: &mut Vec<ProduceNodeEndpoint>,
) {
    let topic = core.topics.by_name.get(name);
    let index = usize::try_from(told.index).ok();
    let partition = topic.zip(index).and_then(|(t, i)| t.partitions.get(i));
    let moved = told.error_code == ErrorCode::NOT_LEADER_OR_FOLLOWER.0;
    let Some(p) = partition.filter(|p| moved && core.nodes.is_up(p.leader) && p.leader != ctx.node)
    else {
        return;
    };
    let (leader_id, leader_epoch) = (p.leader, p.leader_epoch);
    told.current_leader = ProduceLeaderIdAndEpoch { leader_id, leader_epoch, ..Default::default() };
    if nodes.iter().all(|n| n.node_id != leader_id) {
        let (host, port) = ctx.advertised_address(core, leader_id);
        nodes.push(ProduceNodeEndpoint { node_id: leader_id, host, port, ..Default::default() });
    }
}

/// What has to be copied before `acks=all` is kept.
fn track_replication(
    core: &Core,
    name: &str,
    index: i32,
    appended: &LogAppendInfo,
    place: (usize, usize),
) -> Option<ProducePartitionStatus> {
    let t = core.topics.by_name.get(name)?;
    let p = t.partitions.get(usize::try_from(index).ok()?)?;
    Some(ProducePartitionStatus {
        topic: name.to_owned(),
        topic_id: t.id,
        partition: index,
        leader_epoch: p.leader_epoch,
        required_offset: appended.end_offset,
        response_index: place,
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
    let (config, replication) = (topic.config.clone(), topic.replication_factor());
    let partition = &mut topic.partitions[p.index as usize];
    // As Kafka has it: a topic cannot ask for more than it has.
    if acks == -1 && (partition.isr.len() as i32) < config.min_insync_replicas.min(replication) {
        return Err(error_from_code(ErrorCode::NOT_ENOUGH_REPLICAS));
    }
    let records = p.records.as_deref().unwrap_or_default();
    let appended =
        append_records_to_leader(partition, &config, records, ctx.header.api_version, ctx.now)?;
    if let Err(e) = nodes.replicate(partition, ctx.now) {
        tracing::error!(partition = partition.name(), "a replica failed: {e}");
    }
    if let (Some(journal), true) = (&mut core.append_history, appended.newly_appended) {
        let records = bytes::Bytes::copy_from_slice(records);
        let (topic, base_offset) = (name.to_owned(), appended.base_offset);
        journal.push(AppendedBatch { topic, partition: p.index, base_offset, records });
    }
    match fault {
        // A leader that steps down after appending gives the offset (CASES B6).
        Some(ProduceFault::FailAfterAppend(code)) => {
            let told = matches!(
                code,
                ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            );
            let base_offset = if told { appended.base_offset } else { -1 };
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
            // Brokers that said UNKNOWN_PRODUCER_ID told where the log starts, for the client to judge by.
            log_start_offset: if e.code == ErrorCode::UNKNOWN_PRODUCER_ID { 0 } else { -1 },
            error_message: e.message,
            record_errors: (e.record_errors.into_iter())
                .map(|(batch_index, message)| BatchIndexAndErrorMessage {
                    batch_index,
                    batch_index_error_message: Some(message),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        },
    }
}

/// Fetch: whole batches, or a wait until there are enough.
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
    let max = usize::try_from(request.max_bytes).unwrap_or(0);
    let (mut sum, mut failed, mut responses) = (0usize, false, Vec::new());
    for t in request.topics {
        let name =
            if version >= 13 { core.topics.topic_name(t.topic_id) } else { Some(t.topic.as_str()) };
        let mut partitions = Vec::new();
        for p in &t.partitions {
            let data = match name.map(|n| core.leader_partition(ctx.node, n, p.partition)) {
                None => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                Some(found) => found
                    .and_then(|found| read_partition(found, p, max.saturating_sub(sum), sum == 0)),
            };
            failed |= data.is_err();
            partitions.push(to_partition_data(p.partition, data));
            sum += partitions.last().and_then(|p| p.records.as_ref()).map_or(0, |r| r.len());
        }
        let (topic, topic_id) = (t.topic, t.topic_id);
        responses.push(FetchableTopicResponse {
            topic,
            topic_id,
            partitions,
            ..Default::default()
        });
    }
    let until = ctx.arrived_ms + u64::try_from(request.max_wait_ms).unwrap_or(0);
    let enough = sum >= usize::try_from(request.min_bytes).unwrap_or(0);
    if !enough && !failed && ctx.now.mono_ms < until {
        return HandleResult::DelayedFetch(until);
    }
    ctx.send_response::<FetchRequest>(&FetchResponse { responses, ..Default::default() })
}

fn check_leader_epoch(p: &Partition, theirs: i32) -> Result<(), ErrorCode> {
    match theirs {
        -1 => Ok(()),
        e if e < p.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
        e if e > p.leader_epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

fn read_partition(
    p: &Partition,
    asked: &FetchPartition,
    max: usize,
    first: bool,
) -> Result<(Vec<u8>, i64), ErrorCode> {
    check_leader_epoch(p, asked.current_leader_epoch)?;
    let log = &p.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
    if !(log.log_start_offset()..=log.log_end_offset()).contains(&asked.fetch_offset) {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let max = max.min(usize::try_from(asked.partition_max_bytes).unwrap_or(0));
    // Consumers see what every replica in sync has, and no more.
    let records = log.read(asked.fetch_offset, p.high_watermark, max, first).map_err(|e| {
        tracing::error!(partition = p.name(), "read failed: {e}");
        ErrorCode::KAFKA_STORAGE_ERROR
    })?;
    Ok((records, p.high_watermark))
}

fn to_partition_data(
    partition_index: i32,
    data: Result<(Vec<u8>, i64), ErrorCode>,
) -> PartitionData {
    match data {
        Ok((records, end)) => PartitionData {
            partition_index,
            high_watermark: end,
            last_stable_offset: end,
            log_start_offset: 0,
            aborted_transactions: Some(Vec::new()),
            records: Some(records.into()),
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
            let found =
                core.leader_partition(ctx.node, &t.name, p.partition_index).and_then(|found| {
                    check_leader_epoch(found, p.current_leader_epoch)?;
                    let log = &found.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
                    let (offset, timestamp) =
                        fetch_offset_for_timestamp(log, found.high_watermark, p.timestamp)?;
                    Ok((offset, timestamp, found.leader_epoch))
                });
            let (code, (offset, timestamp, epoch)) = match found {
                Ok(found) => (ErrorCode::NONE, found),
                Err(code) => (code, (-1, -1, -1)),
            };
            ListOffsetsPartitionResponse {
                partition_index: p.partition_index,
                error_code: code.0,
                timestamp,
                offset,
                leader_epoch: if offset >= 0 { epoch } else { -1 },
                ..Default::default()
            }
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse { name: t.name, partitions, ..Default::default() }
    });
    ListOffsetsResponse { topics: topics.collect(), ..Default::default() }
}

/// Offset and timestamp for a question; −1 and −1 for none.
fn fetch_offset_for_timestamp(
    log: &Log,
    end: i64,
    timestamp: i64,
) -> Result<(i64, i64), ErrorCode> {
    let storage = |_| ErrorCode::KAFKA_STORAGE_ERROR;
    let batch = match timestamp {
        // Earliest; earliest in local storage is the same here.
        -2 | -4 => return Ok((log.log_start_offset(), -1)),
        -1 => return Ok((end, -1)),
        -3 => log.batch_with_max_timestamp(end).map_err(storage)?,
        // Latest in remote storage, of which there is none, and whatever else is below zero.
        t if t < 0 => return Ok((-1, -1)),
        t => log.find_batch_by_timestamp(t, end).map_err(storage)?,
    };
    let Some(batch) = batch else {
        return Ok((-1, -1));
    };
    let corrupt = |_| ErrorCode::CORRUPT_MESSAGE;
    let view = BatchView::parse(&batch.bytes).map_err(corrupt)?;
    let greatest = view.header().max_timestamp;
    let records = view.records(MAX_LOOKUP_BYTES).map_err(corrupt)?;
    let mut found = None;
    records
        .try_for_each(|r| {
            let hit =
                if timestamp == -3 { r.timestamp == greatest } else { r.timestamp >= timestamp };
            if hit && found.is_none() {
                found = Some((r.offset, r.timestamp));
            }
            Ok(())
        })
        .map_err(corrupt)?;
    Ok(found.unwrap_or((-1, -1)))
}

pub(crate) fn handle_offset_for_leader_epoch(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|t| {
        let partitions = t.partitions.iter().map(|p| {
            let found = core.leader_partition(ctx.node, &t.topic, p.partition).and_then(|found| {
                check_leader_epoch(found, p.current_leader_epoch)?;
                let log = &found.leader_replica().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?.log;
                Ok(match p.leader_epoch {
                    // The current one ends where the log does.
                    e if e == found.leader_epoch => Some((e, log.log_end_offset())),
                    e => log.end_offset_for_epoch(e).filter(|_| e < found.leader_epoch),
                })
            });
            let (code, leader_epoch, end_offset) = match found {
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
