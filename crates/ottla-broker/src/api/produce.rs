//! The handler of Produce: it appends through [`crate::append`].
//!
//! With `acks=all` the request then waits in [`crate::purgatory`].

use ottla_protocol::messages::*;
use ottla_protocol::{DecodeError, ErrorCode};

use crate::api::RequestContext;
use crate::append::{AppendError, LogAppendInfo, append_records_to_leader};
use crate::core::{AppendedBatch, Core, HandleResult, ProduceFault};
use crate::purgatory::{DelayedProduce, ProducePartitionStatus, ResponseIndex};

/// Handles Produce: appends each partition's batch, then responds or waits for the replicas.
pub(crate) fn handle_produce(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: ProduceRequest,
) -> Result<HandleResult, DecodeError> {
    let version = ctx.header.api_version;
    let transactional_id = request.transactional_id.as_deref();
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
                Some(name) => append_partition(core, ctx, transactional_id, name, &p, request.acks),
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
    let throttle_time_ms = core.produce_throttle(ctx.node);
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
    Ok(core.try_complete(id, ctx.now).unwrap_or(HandleResult::Delayed { id, deadline_ms }))
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
    ctx: &RequestContext<'_>,
    transactional_id: Option<&str>,
    name: &str,
    p: &PartitionProduceData,
    acks: i16,
) -> Result<LogAppendInfo, AppendError> {
    core.leader_partition(ctx.node, name, p.index).map_err(error_from_code)?;
    core.join_transaction(ctx, transactional_id, name, p).map_err(error_from_code)?;
    let fault = core.next_fault(name, p.index);
    if let Some(ProduceFault::FailBeforeAppend(code)) = fault {
        return Err(error_from_code(code));
    }
    let Core { topics, nodes, .. } = core;
    let topic = topics.by_name.get_mut(name);
    let topic = topic.ok_or_else(|| error_from_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))?;
    let (config, min_isr) = (topic.config.clone(), topic.min_isr());
    let partition = &mut topic.partitions[p.index as usize];
    if acks == -1 && (partition.isr.len() as i32) < min_isr {
        return Err(error_from_code(ErrorCode::NOT_ENOUGH_REPLICAS));
    }
    let records = p.records.as_deref().unwrap_or_default();
    let appended =
        append_records_to_leader(partition, &config, records, ctx.header.api_version, ctx.now)?;
    nodes.replicate(partition, ctx.now);
    if let Some(bytes) = config.retention_bytes
        && let Err(e) = partition.delete_old_segments(bytes)
    {
        tracing::warn!(partition = partition.name(), "old segments not deleted: {e}");
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
            log_start_offset: a.log_start_offset,
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
