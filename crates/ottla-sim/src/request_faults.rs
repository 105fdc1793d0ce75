//! Faults of transactional requests: an error response, a lost request, a lost response, or a
//! request that arrives late.
//!
//! `sim_cluster.rs` takes a fault at each transactional request that arrives at a node.

use std::collections::VecDeque;

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, encode_response};
use ottla_protocol::messages::{
    AddOffsetsToTxnResponse, AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, AddPartitionsToTxnTopicResult, Coordinator, EndTxnResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdResponse,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
};
use ottla_protocol::wire::Wire;
use ottla_protocol::{ApiKey, ErrorCode, Reader};

/// What happens to a transactional request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// The node responds with this code and does nothing else.
    Respond(ErrorCode),
    /// The connection breaks before the node has the request.
    LoseRequest,
    /// The connection breaks after the node has handled the request.
    LoseResponse,
    /// As `LoseRequest`, but the request arrives later: a network may deliver it.
    DelayRequest,
    /// As `LoseResponse`, and the request arrives a second time later.
    RepeatRequest,
}

/// The faults of the next transactional requests.
#[derive(Debug, Default)]
pub(crate) struct RequestFaults {
    /// The faults by API; each is for one request.
    planned: VecDeque<(ApiKey, RequestFault)>,
    /// Requests that arrive late, with the node that they are for.
    pub(crate) late: VecDeque<(i32, Bytes)>,
    /// The APIs of the transactional requests that arrived.
    pub(crate) arrived: Vec<ApiKey>,
}

impl RequestFaults {
    /// Plans a fault for the next request of an API that has none yet.
    pub(crate) fn push(&mut self, api: ApiKey, fault: RequestFault) {
        self.planned.push_back((api, fault));
    }

    /// Notes a request that has arrived, and returns its fault.
    pub(crate) fn take(&mut self, frame: &Bytes) -> Option<(RequestHeader, RequestFault)> {
        let header = RequestHeader::decode(&mut Reader::new(frame)).ok()?;
        if !is_transactional(header.api_key) {
            return None;
        }
        self.arrived.push(header.api_key);
        let position = self.planned.iter().position(|(api, _)| *api == header.api_key)?;
        let (_, fault) = self.planned.remove(position)?;
        Some((header, fault))
    }
}

fn is_transactional(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::FIND_COORDINATOR
            | ApiKey::INIT_PRODUCER_ID
            | ApiKey::ADD_PARTITIONS_TO_TXN
            | ApiKey::ADD_OFFSETS_TO_TXN
            | ApiKey::TXN_OFFSET_COMMIT
            | ApiKey::END_TXN
    )
}

/// Returns the response to a transactional request that reports this code for all that it concerns.
pub(crate) fn error_response(header: &RequestHeader, frame: &Bytes, code: ErrorCode) -> Vec<u8> {
    let encoder = Encoder { header, code: code.0 };
    match header.api_key {
        ApiKey::FIND_COORDINATOR => encoder.find_coordinator(frame),
        ApiKey::INIT_PRODUCER_ID => encoder.encode(&InitProducerIdResponse {
            error_code: code.0,
            producer_id: -1,
            ..Default::default()
        }),
        ApiKey::ADD_PARTITIONS_TO_TXN => encoder.add_partitions(frame),
        ApiKey::ADD_OFFSETS_TO_TXN => {
            encoder.encode(&AddOffsetsToTxnResponse { error_code: code.0, ..Default::default() })
        }
        ApiKey::TXN_OFFSET_COMMIT => encoder.txn_offset_commit(frame),
        _ => encoder.encode(&EndTxnResponse {
            error_code: code.0,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        }),
    }
}

struct Encoder<'h> {
    header: &'h RequestHeader,
    code: i16,
}

impl Encoder<'_> {
    fn encode<T: Wire>(&self, body: &T) -> Vec<u8> {
        let h = self.header;
        encode_response(h.api_key, h.api_version, h.correlation_id, body).expect("it is small")
    }

    fn request<T: Wire>(&self, frame: &Bytes) -> T {
        let mut reader = Reader::new(frame);
        let header = RequestHeader::decode(&mut reader).expect("it was decoded before");
        T::decode(&mut reader, header.api_key.version(header.api_version))
            .expect("the producer encoded it")
    }

    fn find_coordinator(&self, frame: &Bytes) -> Vec<u8> {
        let request: FindCoordinatorRequest = self.request(frame);
        let coordinators = request.coordinator_keys.into_iter();
        let coordinators = coordinators.map(|key| Coordinator {
            key,
            node_id: -1,
            error_code: self.code,
            ..Default::default()
        });
        self.encode(&FindCoordinatorResponse {
            error_code: self.code,
            node_id: -1,
            coordinators: coordinators.collect(),
            ..Default::default()
        })
    }

    fn add_partitions(&self, frame: &Bytes) -> Vec<u8> {
        let request: AddPartitionsToTxnRequest = self.request(frame);
        let results = request.topics.into_iter().map(|topic| AddPartitionsToTxnTopicResult {
            name: topic.name,
            results: (topic.partitions.into_iter())
                .map(|partition_index| AddPartitionsToTxnPartitionResult {
                    partition_index,
                    error_code: self.code,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
        self.encode(&AddPartitionsToTxnResponse {
            results: results.collect(),
            ..Default::default()
        })
    }

    fn txn_offset_commit(&self, frame: &Bytes) -> Vec<u8> {
        let request: TxnOffsetCommitRequest = self.request(frame);
        let topics = request.topics.into_iter().map(|topic| TxnOffsetCommitResponseTopic {
            name: topic.name,
            partitions: (topic.partitions.into_iter())
                .map(|p| TxnOffsetCommitResponsePartition {
                    partition_index: p.partition_index,
                    error_code: self.code,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
        self.encode(&TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() })
    }
}
