//! Decodes the responses to transactional requests into one form.

use bytes::Bytes;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdRequest, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use ottla_protocol::{DecodeError, ErrorCode};

use super::outcome::Api;
use crate::cluster::Node;
use crate::sender::init_producer_id::assigned_id;
use crate::sender::producer_state::ProducerIdAndEpoch;

/// What a response says.
pub(super) struct ParsedResponse {
    pub(super) code: ErrorCode,
    pub(super) message: Option<String>,
    pub(super) throttle_time_ms: i32,
    /// The producer id and epoch for the next transaction.
    pub(super) producer_id: Option<ProducerIdAndEpoch>,
    pub(super) coordinator: Option<Node>,
    /// The results by topic and partition, of the requests that have them.
    pub(super) partitions: Vec<PartitionResult>,
}

pub(super) struct PartitionResult {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) code: ErrorCode,
}

impl ParsedResponse {
    fn empty() -> ParsedResponse {
        ParsedResponse {
            code: ErrorCode::NONE,
            message: None,
            throttle_time_ms: 0,
            producer_id: None,
            coordinator: None,
            partitions: Vec::new(),
        }
    }

    /// Returns a response with one error for all that it concerns.
    pub(super) fn of_error(code: ErrorCode, message: String) -> ParsedResponse {
        ParsedResponse { code, message: Some(message), ..ParsedResponse::empty() }
    }
}

pub(super) fn parse(api: Api, frame: &Bytes, version: i16) -> Result<ParsedResponse, DecodeError> {
    let mut response = ParsedResponse::empty();
    match api {
        Api::FindCoordinator => {
            parse_coordinator(
                decode_response::<FindCoordinatorRequest>(frame, version)?,
                &mut response,
            );
        }
        Api::InitProducerId => {
            let r = decode_response::<InitProducerIdRequest>(frame, version)?;
            response.throttle_time_ms = r.throttle_time_ms;
            match assigned_id(&r) {
                Ok(assigned) => response.producer_id = Some(assigned),
                Err((code, message)) => (response.code, response.message) = (code, message),
            }
        }
        Api::AddPartitions => {
            let r = decode_response::<AddPartitionsToTxnRequest>(frame, version)?;
            response.throttle_time_ms = r.throttle_time_ms;
            for topic in r.results {
                for p in topic.results {
                    let code = ErrorCode(p.error_code);
                    let (topic, partition) = (topic.name.clone(), p.partition_index);
                    response.partitions.push(PartitionResult { topic, partition, code });
                }
            }
        }
        Api::AddOffsets => {
            let r = decode_response::<AddOffsetsToTxnRequest>(frame, version)?;
            response.code = ErrorCode(r.error_code);
            response.throttle_time_ms = r.throttle_time_ms;
        }
        Api::TxnOffsetCommit => {
            let r = decode_response::<TxnOffsetCommitRequest>(frame, version)?;
            parse_offsets(r, &mut response);
        }
        Api::Commit | Api::Abort => {
            let r = decode_response::<EndTxnRequest>(frame, version)?;
            response.code = ErrorCode(r.error_code);
            response.throttle_time_ms = r.throttle_time_ms;
            let (producer_id, epoch) = (r.producer_id, r.producer_epoch);
            response.producer_id = (producer_id >= 0 && epoch >= 0)
                .then_some(ProducerIdAndEpoch { producer_id, epoch });
        }
    }
    Ok(response)
}

fn parse_coordinator(r: FindCoordinatorResponse, response: &mut ParsedResponse) {
    response.throttle_time_ms = r.throttle_time_ms;
    let (code, message, id, host, port) = match r.coordinators.into_iter().next() {
        Some(c) => (c.error_code, c.error_message, c.node_id, c.host, c.port),
        None => (r.error_code, r.error_message, r.node_id, r.host, r.port),
    };
    response.code = ErrorCode(code);
    response.message = message;
    match u16::try_from(port).ok().filter(|port| *port > 0 && id >= 0 && !host.is_empty()) {
        Some(port) => {
            response.coordinator = Some(Node { id, host: host.as_str().into(), port, rack: None });
        }
        // An address that cannot be right: ask again.
        None if response.code.is_none() => response.code = ErrorCode::COORDINATOR_NOT_AVAILABLE,
        None => {}
    }
}

fn parse_offsets(r: TxnOffsetCommitResponse, response: &mut ParsedResponse) {
    response.throttle_time_ms = r.throttle_time_ms;
    for topic in r.topics {
        for p in topic.partitions {
            response.partitions.push(PartitionResult {
                topic: topic.name.clone(),
                partition: p.partition_index,
                code: ErrorCode(p.error_code),
            });
        }
    }
}
