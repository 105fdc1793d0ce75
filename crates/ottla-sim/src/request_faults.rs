//! Faults of transactional and Produce requests: an error response, a lost request, a lost
//! response, or a request that arrives late.
//!
//! `sim_cluster.rs` takes a fault at each such request that arrives at a node. A test plans its
//! faults; a scenario draws them at random.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ottla::sim::Tick;
use ottla_protocol::header::{RequestHeader, encode_response};
use ottla_protocol::messages::{
    AddOffsetsToTxnResponse, AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, AddPartitionsToTxnTopicResult, Coordinator, EndTxnResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdResponse,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
};
use ottla_protocol::wire::{TestRng, Wire};
use ottla_protocol::{ApiKey, ErrorCode, Reader};

/// What happens to a transactional request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// The node responds with this code and does nothing else.
    Respond(ErrorCode),
    /// The node responds with this code for one partition and another one for the others, and does
    /// nothing else.
    #[cfg_attr(not(test), allow(dead_code, reason = "only a test plans it"))]
    RespondByPartition { partition: i32, code: ErrorCode, others: ErrorCode },
    /// The connection breaks before the node has the request.
    LoseRequest,
    /// The connection breaks after the node has handled the request.
    LoseResponse,
    /// As `LoseRequest`, but the request arrives later: a network may deliver it.
    DelayRequest,
    /// As `LoseResponse`, and the request arrives a second time later.
    RepeatRequest,
}

impl RequestFault {
    /// Returns the fault's name in the counts of a run.
    pub(crate) fn name(self, api: ApiKey) -> String {
        let api = api.name();
        match self {
            RequestFault::Respond(code) | RequestFault::RespondByPartition { code, .. } => {
                format!("{api} refused: {code}")
            }
            RequestFault::LoseRequest => format!("{api} request lost"),
            RequestFault::LoseResponse => format!("{api} response lost"),
            RequestFault::DelayRequest => format!("{api} request delayed"),
            RequestFault::RepeatRequest => format!("{api} request repeated"),
        }
    }
}

/// A request that arrives late, on a connection that is gone by then.
#[derive(Debug)]
pub(crate) struct LateRequest {
    /// The node that it is for.
    pub(crate) node: i32,
    pub(crate) frame: Bytes,
    due: LateDelivery,
}

/// When a late request arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LateDelivery {
    /// The test says when.
    ByTest,
    At(Tick),
    /// After this number of further requests of a client, by its `client.id`. So it arrives in
    /// the middle of the client's next transaction.
    AfterRequests {
        client_id: String,
        count: u64,
    },
}

/// Random faults of requests.
#[derive(Debug)]
pub(crate) struct RandomRequestFaults {
    pub(crate) rng: TestRng,
    /// One request in this many has a fault.
    pub(crate) one_in: u64,
    /// Whether requests may arrive late.
    pub(crate) has_late_requests: bool,
    /// Whether responses may report an error that is fatal to the producer.
    pub(crate) has_fatal_errors: bool,
}

/// The faults of the next transactional and Produce requests.
#[derive(Debug, Default)]
pub(crate) struct RequestFaults {
    /// The faults by API; each is for one request.
    planned: VecDeque<(ApiKey, RequestFault)>,
    pub(crate) random: Option<RandomRequestFaults>,
    pub(crate) late: VecDeque<LateRequest>,
    /// The APIs of the transactional requests that arrived.
    pub(crate) arrived: Vec<ApiKey>,
}

impl RequestFaults {
    /// Plans a fault for the next request of an API that has none yet.
    #[cfg(test)]
    pub(crate) fn push(&mut self, api: ApiKey, fault: RequestFault) {
        self.planned.push_back((api, fault));
    }

    /// Notes a request that has arrived, and returns its fault.
    pub(crate) fn take(&mut self, frame: &Bytes) -> Option<(RequestHeader, RequestFault)> {
        let header = RequestHeader::decode(&mut Reader::new(frame)).ok()?;
        let is_transactional = is_transactional(header.api_key);
        if !is_transactional && (self.random.is_none() || header.api_key != ApiKey::PRODUCE) {
            return None;
        }
        if let Some(random) = &mut self.random {
            let client_id = header.client_id.as_deref().unwrap_or_default();
            self.late.iter_mut().for_each(|late| late.count_request(client_id));
            return random.draw(header.api_key).map(|fault| (header, fault));
        }
        self.arrived.push(header.api_key);
        let position = self.planned.iter().position(|(api, _)| *api == header.api_key)?;
        let (_, fault) = self.planned.remove(position)?;
        Some((header, fault))
    }

    /// Keeps a request that arrives late.
    pub(crate) fn add_late(&mut self, node: i32, frame: Bytes, now: Tick) {
        let due = match &mut self.random {
            None => LateDelivery::ByTest,
            Some(random) => random.draw_delivery(&frame, now),
        };
        self.late.push_back(LateRequest { node, frame, due });
    }

    /// Takes a late request whose time has come.
    pub(crate) fn take_due(&mut self, now: Tick) -> Option<LateRequest> {
        let is_due = |late: &LateRequest| match &late.due {
            LateDelivery::ByTest => false,
            LateDelivery::At(at) => *at <= now,
            LateDelivery::AfterRequests { count, .. } => *count == 0,
        };
        let position = self.late.iter().position(is_due)?;
        self.late.remove(position)
    }

    /// Returns when the next late request arrives.
    pub(crate) fn next_late_at(&self) -> Option<Tick> {
        let times = self.late.iter().filter_map(|late| match &late.due {
            LateDelivery::At(at) => Some(*at),
            LateDelivery::AfterRequests { count: 0, .. } => Some(Tick(0)),
            _ => None,
        });
        times.min()
    }

    /// Ends the random faults: what is still in flight arrives now.
    pub(crate) fn heal(&mut self) {
        if self.random.take().is_some() {
            self.late.iter_mut().for_each(|late| late.due = LateDelivery::At(Tick(0)));
        }
    }
}

impl LateRequest {
    fn count_request(&mut self, of: &str) {
        if let LateDelivery::AfterRequests { client_id, count } = &mut self.due
            && client_id == of
        {
            *count = count.saturating_sub(1);
        }
    }
}

impl RandomRequestFaults {
    /// The longest delay of a late request, and the most requests that arrive before it.
    const MAX_DELAY_MS: u64 = 4_000;
    const MAX_REQUESTS_BEFORE: u64 = 12;

    fn draw(&mut self, api: ApiKey) -> Option<RequestFault> {
        // A client that waits for its coordinator or its id does nothing else.
        let is_start = matches!(api, ApiKey::FIND_COORDINATOR | ApiKey::INIT_PRODUCER_ID);
        let one_in = if is_start { 4 * self.one_in } else { self.one_in };
        if self.rng.next_below(one_in) != 0 {
            return None;
        }
        let choice = self.rng.next_below(if self.has_late_requests { 8 } else { 4 });
        Some(match choice {
            // The faults of batches have a generator of their own.
            0 | 1 if api != ApiKey::PRODUCE => RequestFault::Respond(self.draw_code(api)),
            0 | 2 => RequestFault::LoseRequest,
            1 | 3 => RequestFault::LoseResponse,
            4 | 5 => RequestFault::DelayRequest,
            _ => RequestFault::RepeatRequest,
        })
    }

    /// Draws an error that a broker may report without any effect of the request.
    fn draw_code(&mut self, api: ApiKey) -> ErrorCode {
        const FATAL: [ErrorCode; 3] = [
            ErrorCode::PRODUCER_FENCED,
            ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            ErrorCode::UNKNOWN_SERVER_ERROR,
        ];
        if self.has_fatal_errors && self.rng.next_below(8) == 0 {
            return FATAL[self.rng.next_below(3) as usize];
        }
        let codes: &[ErrorCode] = match api {
            ApiKey::FIND_COORDINATOR => {
                &[ErrorCode::COORDINATOR_NOT_AVAILABLE, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS]
            }
            ApiKey::ADD_PARTITIONS_TO_TXN => &[
                ErrorCode::NOT_COORDINATOR,
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
                ErrorCode::CONCURRENT_TRANSACTIONS,
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                ErrorCode::TOPIC_AUTHORIZATION_FAILED,
            ],
            ApiKey::ADD_OFFSETS_TO_TXN => &[
                ErrorCode::NOT_COORDINATOR,
                ErrorCode::COORDINATOR_NOT_AVAILABLE,
                ErrorCode::CONCURRENT_TRANSACTIONS,
                ErrorCode::GROUP_AUTHORIZATION_FAILED,
            ],
            ApiKey::TXN_OFFSET_COMMIT => &[
                ErrorCode::NOT_COORDINATOR,
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
                ErrorCode::REQUEST_TIMED_OUT,
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                ErrorCode::ILLEGAL_GENERATION,
            ],
            _ => &[
                ErrorCode::NOT_COORDINATOR,
                ErrorCode::COORDINATOR_NOT_AVAILABLE,
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
                ErrorCode::CONCURRENT_TRANSACTIONS,
            ],
        };
        codes[self.rng.next_below(codes.len() as u64) as usize]
    }

    fn draw_delivery(&mut self, frame: &Bytes, now: Tick) -> LateDelivery {
        let header = RequestHeader::decode(&mut Reader::new(frame)).ok();
        match header.and_then(|h| h.client_id) {
            Some(client_id) if self.rng.next_below(3) != 0 => {
                let count = 1 + self.rng.next_below(Self::MAX_REQUESTS_BEFORE);
                LateDelivery::AfterRequests { client_id, count }
            }
            _ => {
                let delay_ms = self.rng.next_below(Self::MAX_DELAY_MS);
                LateDelivery::At(now.after(Duration::from_millis(delay_ms)))
            }
        }
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

/// Returns the response to a transactional request that reports an error instead of its work, if
/// that is the fault.
pub(crate) fn error_response(
    header: &RequestHeader,
    frame: &Bytes,
    fault: RequestFault,
) -> Option<Vec<u8>> {
    let (partition, code, others) = match fault {
        RequestFault::Respond(code) => (-1, code, code),
        RequestFault::RespondByPartition { partition, code, others } => (partition, code, others),
        _ => return None,
    };
    let encoder = Encoder { header, partition, code: code.0, others: others.0 };
    Some(encoder.encode_error(frame))
}
struct Encoder<'h> {
    header: &'h RequestHeader,
    /// The partition with `code`; the others have the other one.
    partition: i32,
    code: i16,
    others: i16,
}

impl Encoder<'_> {
    fn encode_error(&self, frame: &Bytes) -> Vec<u8> {
        match self.header.api_key {
            ApiKey::FIND_COORDINATOR => self.find_coordinator(frame),
            ApiKey::INIT_PRODUCER_ID => self.encode(&InitProducerIdResponse {
                error_code: self.code,
                producer_id: -1,
                ..Default::default()
            }),
            ApiKey::ADD_PARTITIONS_TO_TXN => self.add_partitions(frame),
            ApiKey::ADD_OFFSETS_TO_TXN => {
                let error_code = self.code;
                self.encode(&AddOffsetsToTxnResponse { error_code, ..Default::default() })
            }
            ApiKey::TXN_OFFSET_COMMIT => self.txn_offset_commit(frame),
            _ => self.encode(&EndTxnResponse {
                error_code: self.code,
                producer_id: -1,
                producer_epoch: -1,
                ..Default::default()
            }),
        }
    }

    fn code_of(&self, partition: i32) -> i16 {
        if partition == self.partition { self.code } else { self.others }
    }

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
                    error_code: self.code_of(partition_index),
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
                    error_code: self.code_of(p.partition_index),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
        self.encode(&TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() })
    }
}
