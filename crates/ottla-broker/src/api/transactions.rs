//! The handlers of the transaction APIs: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn,
//! EndTxn and WriteTxnMarkers.
//!
//! They translate between messages and [`crate::transaction`], with the error codes that each
//! version of a client understands.

use std::collections::BTreeSet;

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use crate::api::RequestContext;
use crate::coordinators::{OFFSETS_TOPIC, coordinator_partition};
use crate::core::Core;
use crate::transaction::{
    EndTxn, MarkerRequest, ProducerIdAndEpoch, TRANSACTIONS_V2, TopicPartition,
};

/// Returns the error code of a result for a client.
///
/// Versions before `fenced_version` do not know PRODUCER_FENCED: they get INVALID_PRODUCER_EPOCH.
fn to_error_code<T>(result: &Result<T, ErrorCode>, version: i16, fenced_version: i16) -> i16 {
    match result {
        Ok(_) => 0,
        Err(ErrorCode::PRODUCER_FENCED) if version < fenced_version => {
            ErrorCode::INVALID_PRODUCER_EPOCH.0
        }
        Err(code) => code.0,
    }
}

pub(crate) fn handle_init_producer_id(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    let result = match core.producer_ids.errors.pop() {
        Some(code) => Err(code),
        None => init_producer_id(core, ctx, request),
    };
    let error_code = to_error_code(&result, ctx.header.api_version, 4);
    let ProducerIdAndEpoch { id, epoch } =
        result.unwrap_or(ProducerIdAndEpoch { id: -1, epoch: -1 });
    InitProducerIdResponse {
        error_code,
        producer_id: id,
        producer_epoch: epoch,
        ..Default::default()
    }
}

fn init_producer_id(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &InitProducerIdRequest,
) -> Result<ProducerIdAndEpoch, ErrorCode> {
    let Some(transactional_id) = &request.transactional_id else {
        let (id, epoch) = (core.issue_producer_id(), core.producer_ids.initial_epoch);
        return Ok(ProducerIdAndEpoch { id, epoch });
    };
    let expected = match (request.producer_id, request.producer_epoch) {
        (-1, -1) => None,
        (-1, _) | (_, -1) => return Err(ErrorCode::INVALID_REQUEST),
        (id, epoch) => Some(ProducerIdAndEpoch { id, epoch }),
    };
    let timeout_ms = request.transaction_timeout_ms;
    core.init_transactional_id(ctx.node, transactional_id, timeout_ms, expected, ctx.now)
}

pub(crate) fn handle_add_partitions_to_txn(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let version = ctx.header.api_version;
    if version >= 4 {
        let results = request.transactions.into_iter().map(|txn| AddPartitionsToTxnResult {
            topic_results: add_partitions(core, ctx, &txn),
            transactional_id: txn.transactional_id,
            ..Default::default()
        });
        return AddPartitionsToTxnResponse {
            results_by_transaction: results.collect(),
            ..Default::default()
        };
    }
    let txn = AddPartitionsToTxnTransaction {
        transactional_id: request.transactional_id,
        producer_id: request.producer_id,
        producer_epoch: request.producer_epoch,
        topics: request.topics,
        ..Default::default()
    };
    let results = add_partitions(core, ctx, &txn);
    AddPartitionsToTxnResponse { results, ..Default::default() }
}

/// Adds the partitions of a transaction, or verifies that it has them. All or none are added.
fn add_partitions(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    txn: &AddPartitionsToTxnTransaction,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let version = ctx.header.api_version;
    let producer = ProducerIdAndEpoch { id: txn.producer_id, epoch: txn.producer_epoch };
    let partition_counts: Vec<usize> =
        txn.topics.iter().map(|t| core.partition_count(&t.name)).collect();
    let exists = |partition: i32, count: usize| usize::try_from(partition).is_ok_and(|i| i < count);
    let mut topics = txn.topics.iter().zip(&partition_counts);
    let all_exist = topics.all(|(t, count)| t.partitions.iter().all(|p| exists(*p, *count)));
    let id = &txn.transactional_id;
    let added = if all_exist && !txn.verify_only {
        // A name is copied only for a partition that exists, and each partition is inserted by
        // itself: a request that repeats one must not take a multiple of its own size.
        let mut partitions = BTreeSet::new();
        for t in &txn.topics {
            for partition in &t.partitions {
                let topic = t.name.clone();
                partitions.insert(TopicPartition { topic, partition: *partition });
            }
        }
        core.add_partitions_to_txn(ctx.node, id, producer, &partitions, 0, ctx.now)
    } else {
        Err(ErrorCode::OPERATION_NOT_ATTEMPTED)
    };
    let result_of = |partition: &TopicPartition, count: usize| -> Result<(), ErrorCode> {
        if !exists(partition.partition, count) {
            return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        if !all_exist || !txn.verify_only {
            return added;
        }
        match core.verify_partition_in_txn(ctx.node, id, producer, partition, ctx.now) {
            Err(ErrorCode::TRANSACTION_ABORTABLE) if version < 5 => {
                Err(ErrorCode::INVALID_TXN_STATE)
            }
            result => result,
        }
    };
    let results = txn.topics.iter().zip(&partition_counts).map(|(t, count)| {
        let mut partition = TopicPartition { topic: t.name.clone(), partition: 0 };
        let results = t.partitions.iter().map(|p| {
            partition.partition = *p;
            AddPartitionsToTxnPartitionResult {
                partition_index: *p,
                error_code: to_error_code(&result_of(&partition, *count), version, 2),
                ..Default::default()
            }
        });
        let results = results.collect();
        AddPartitionsToTxnTopicResult { name: partition.topic, results, ..Default::default() }
    });
    results.collect()
}

pub(crate) fn handle_add_offsets_to_txn(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let producer = ProducerIdAndEpoch { id: request.producer_id, epoch: request.producer_epoch };
    let partition = offsets_partition(&request.group_id);
    let result = if request.group_id.is_empty() {
        Err(ErrorCode::INVALID_REQUEST)
    } else {
        let id = &request.transactional_id;
        core.add_partitions_to_txn(ctx.node, id, producer, &[partition].into(), 0, ctx.now)
    };
    let error_code = to_error_code(&result, ctx.header.api_version, 2);
    AddOffsetsToTxnResponse { error_code, ..Default::default() }
}

/// Returns the partition of the internal topic that has a group's offsets.
pub(crate) fn offsets_partition(group: &str) -> TopicPartition {
    TopicPartition { topic: OFFSETS_TOPIC.to_owned(), partition: coordinator_partition(group) }
}

pub(crate) fn handle_end_txn(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: &EndTxnRequest,
) -> EndTxnResponse {
    let version = ctx.header.api_version;
    let end = EndTxn {
        producer: ProducerIdAndEpoch { id: request.producer_id, epoch: request.producer_epoch },
        committed: request.committed,
        client_version: if version >= 5 { TRANSACTIONS_V2 } else { 0 },
    };
    let result = core.end_txn(ctx.node, &request.transactional_id, end, ctx.now);
    let error_code = to_error_code(&result, version, 2);
    let ProducerIdAndEpoch { id, epoch } =
        result.unwrap_or(ProducerIdAndEpoch { id: -1, epoch: -1 });
    EndTxnResponse { error_code, producer_id: id, producer_epoch: epoch, ..Default::default() }
}

/// Handles WriteTxnMarkers, which `kafka-transactions abort` sends to end a hanging transaction.
pub(crate) fn handle_write_txn_markers(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let markers = request.markers.into_iter().map(|marker| {
        let request = MarkerRequest {
            producer: ProducerIdAndEpoch { id: marker.producer_id, epoch: marker.producer_epoch },
            committed: marker.transaction_result,
            coordinator_epoch: marker.coordinator_epoch,
            transaction_version: marker.transaction_version.into(),
        };
        let topics = marker.topics.into_iter().map(|t| {
            let mut target = TopicPartition { topic: t.name, partition: 0 };
            let partitions = t.partition_indexes.into_iter().map(|partition| {
                target.partition = partition;
                let written = core.append_marker(ctx.node, &target, request, ctx.now);
                WritableTxnMarkerPartitionResult {
                    partition_index: partition,
                    error_code: written.err().unwrap_or(ErrorCode::NONE).0,
                    ..Default::default()
                }
            });
            let partitions = partitions.collect();
            WritableTxnMarkerTopicResult { name: target.topic, partitions, ..Default::default() }
        });
        WritableTxnMarkerResult {
            producer_id: marker.producer_id,
            topics: topics.collect(),
            ..Default::default()
        }
    });
    WriteTxnMarkersResponse { markers: markers.collect(), ..Default::default() }
}
