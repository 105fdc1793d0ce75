//! Reads requests and writes responses.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use ottla_protocol::api::ApiKey;
use ottla_protocol::header::{decode_request, encode_response};
use ottla_protocol::messages::{
    ApiVersion, ApiVersionsResponse, InitProducerIdResponse, MetadataRequest, MetadataResponse,
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use ottla_protocol::uuid::Uuid;
use ottla_protocol::wire::Reader;

use crate::Broker;
use crate::transport::Transport;

/// The APIs and their versions. Fetch and FindCoordinator have no handler: librdkafka writes
/// batches of version 2 only to a broker that supports this Fetch as well, and compresses with lz4
/// only for one that supports FindCoordinator.
const APIS: [(ApiKey, i16, i16); 6] = [
    (ApiKey::PRODUCE, 0, 13),
    (ApiKey::FETCH, 4, 18),
    (ApiKey::METADATA, 0, 13),
    (ApiKey::FIND_COORDINATOR, 0, 6),
    (ApiKey::API_VERSIONS, 0, 4),
    (ApiKey::INIT_PRODUCER_ID, 0, 5),
];

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;
const UNKNOWN_TOPIC_ID: i16 = 100;

const NODE_ID: i32 = 1;
const TOPIC_ID: Uuid = Uuid(*b"throughput-sink.");
const BATCH_HEADER_BYTES: usize = 61;
const MAX_FRAME_BYTES: usize = 256 << 20;

pub(crate) struct Connection<T> {
    transport: T,
    broker: Arc<Broker>,
    /// Bytes of the current request that are not yet read.
    remaining: usize,
    /// Responses that are not yet sent.
    output: Vec<u8>,
}

struct Header {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl<T: Transport> Connection<T> {
    pub(crate) fn new(transport: T, broker: Arc<Broker>) -> Connection<T> {
        Connection { transport, broker, remaining: 0, output: Vec::new() }
    }

    /// Handles requests until the client closes the connection.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        loop {
            self.remaining = 4;
            let len = self.i32()? as usize;
            if len > MAX_FRAME_BYTES {
                return Err(invalid(format!("request of {len} bytes")));
            }
            self.remaining = len;
            let header = self.header()?;
            if header.api == ApiKey::PRODUCE {
                self.produce(&header)?;
            } else {
                let body = self.bytes(self.remaining)?;
                let response = self.respond(&header, &Bytes::from(body))?;
                self.output.extend(response);
            }
            if self.remaining > 0 {
                return Err(invalid(format!("{} bytes behind a request", self.remaining)));
            }
        }
    }

    fn header(&mut self) -> io::Result<Header> {
        let header =
            Header { api: ApiKey(self.i16()?), version: self.i16()?, correlation_id: self.i32()? };
        let client_id_len = self.i16()?.max(0);
        self.skip(client_id_len as usize)?;
        if header.api.version(header.version).flexible {
            self.skip_tagged_fields()?;
        }
        Ok(header)
    }

    fn respond(&self, header: &Header, body: &Bytes) -> io::Result<Vec<u8>> {
        let &Header { api, version, correlation_id } = header;
        let broker = &self.broker;
        let is_supported =
            APIS.iter().any(|(key, min, max)| *key == api && (*min..=*max).contains(&version));
        let frame = match api {
            ApiKey::API_VERSIONS => {
                // The client can read the response to a version that it must not use (KIP-511).
                let version = if is_supported { version } else { 0 };
                encode_response(api, version, correlation_id, &api_versions(is_supported))
            }
            ApiKey::METADATA if is_supported => {
                let request = decode_request(&mut Reader::new(body), version)
                    .map_err(|e| invalid(e.to_string()))?;
                encode_response(api, version, correlation_id, &broker.metadata(&request))
            }
            ApiKey::INIT_PRODUCER_ID if is_supported => {
                let producer_id = broker.next_producer_id.fetch_add(1, Relaxed);
                let response = InitProducerIdResponse { producer_id, ..Default::default() };
                encode_response(api, version, correlation_id, &response)
            }
            _ => return Err(invalid(format!("{api:?} of version {version} is not supported"))),
        };
        frame.map_err(|e| invalid(e.to_string()))
    }

    fn produce(&mut self, header: &Header) -> io::Result<()> {
        let &Header { api, version, correlation_id } = header;
        if !(3..=13).contains(&version) {
            return Err(invalid(format!("Produce of version {version} is not supported")));
        }
        let flexible = api.version(version).flexible;
        self.string(flexible)?;
        let acks = self.i16()?;
        self.i32()?;
        let mut response = ProduceResponse::default();
        for _ in 0..self.count(flexible)? {
            response.responses.push(self.produce_topic(version, flexible)?);
        }
        if flexible {
            self.skip_tagged_fields()?;
        }
        self.broker.counts.requests.fetch_add(1, Relaxed);
        if acks != 0 {
            let frame = encode_response(api, version, correlation_id, &response);
            self.output.extend(frame.map_err(|e| invalid(e.to_string()))?);
        }
        Ok(())
    }

    fn produce_topic(&mut self, version: i16, flexible: bool) -> io::Result<TopicProduceResponse> {
        let mut topic = TopicProduceResponse::default();
        let error_code;
        if version >= 13 {
            let mut id = [0; 16];
            self.read(&mut id)?;
            topic.topic_id = Uuid(id);
            error_code = if topic.topic_id == TOPIC_ID { 0 } else { UNKNOWN_TOPIC_ID };
        } else {
            topic.name = self.string(flexible)?;
            let is_known = topic.name == self.broker.topic;
            error_code = if is_known { 0 } else { UNKNOWN_TOPIC_OR_PARTITION };
        }
        for _ in 0..self.count(flexible)? {
            let index = self.i32()?;
            let len = self.count(flexible)?;
            let records = self.batches(len)?;
            if flexible {
                self.skip_tagged_fields()?;
            }
            let end_offset = usize::try_from(index)
                .ok()
                .and_then(|i| self.broker.end_offsets.get(i).filter(|_| error_code == 0));
            topic.partition_responses.push(PartitionProduceResponse {
                index,
                error_code: match end_offset {
                    None if error_code == 0 => UNKNOWN_TOPIC_OR_PARTITION,
                    _ => error_code,
                },
                base_offset: end_offset.map_or(-1, |end| end.fetch_add(records, Relaxed)),
                ..Default::default()
            });
        }
        if flexible {
            self.skip_tagged_fields()?;
        }
        Ok(topic)
    }

    /// Reads batches of together `len` bytes, and returns the number of their records.
    fn batches(&mut self, mut len: usize) -> io::Result<i64> {
        let mut total = 0;
        while len > 0 {
            let mut header = [0; BATCH_HEADER_BYTES];
            self.read(&mut header)?;
            let i32_at = |i: usize| i32::from_be_bytes(header[i..i + 4].try_into().unwrap());
            // The length does not include the base offset and itself.
            let size = i32_at(8) as usize + 12;
            let records = i32_at(57);
            if header[16] != 2 || size < BATCH_HEADER_BYTES || size > len || records < 0 {
                return Err(invalid("batch with an invalid header".to_owned()));
            }
            self.skip(size - BATCH_HEADER_BYTES)?;
            len -= size;
            total += i64::from(records);
            let counts = &self.broker.counts;
            counts.batches.fetch_add(1, Relaxed);
            counts.records.fetch_add(records as u64, Relaxed);
            counts.bytes.fetch_add(size as u64, Relaxed);
        }
        Ok(total)
    }
}

/// The fields of a request.
impl<T: Transport> Connection<T> {
    fn take(&mut self, n: usize) -> io::Result<()> {
        self.remaining = self
            .remaining
            .checked_sub(n)
            .ok_or_else(|| invalid("request shorter than its fields".to_owned()))?;
        Ok(())
    }

    fn read(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        self.take(out.len())?;
        while !out.is_empty() {
            let buffered = self.transport.buffered();
            let n = buffered.len().min(out.len());
            out[..n].copy_from_slice(&buffered[..n]);
            self.transport.consume(n);
            out = &mut out[n..];
            if !out.is_empty() {
                self.flush()?;
                self.transport.receive()?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, mut n: usize) -> io::Result<()> {
        self.take(n)?;
        loop {
            let buffered = self.transport.buffered().len().min(n);
            self.transport.consume(buffered);
            n -= buffered;
            if n == 0 {
                return Ok(());
            }
            if self.transport.buffered().is_empty() {
                self.flush()?;
                n -= self.transport.discard(n)?;
            }
        }
    }

    /// Sends all responses. They wait until the connection has no further request, so that the
    /// responses to several requests leave together.
    fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.transport.send(&self.output)?;
            self.output.clear();
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len.min(self.remaining)];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn i16(&mut self) -> io::Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> io::Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn unsigned_varint(&mut self) -> io::Result<usize> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("varint of more than 5 bytes".to_owned()))
    }

    /// Reads the length of an array or of bytes. Null counts as empty.
    fn count(&mut self, flexible: bool) -> io::Result<usize> {
        if flexible {
            Ok(self.unsigned_varint()?.saturating_sub(1))
        } else {
            Ok(self.i32()?.max(0) as usize)
        }
    }

    /// Reads a string. Null counts as empty.
    fn string(&mut self, flexible: bool) -> io::Result<String> {
        let len = if flexible {
            self.unsigned_varint()?.saturating_sub(1)
        } else {
            self.i16()?.max(0) as usize
        };
        String::from_utf8(self.bytes(len)?).map_err(|e| invalid(e.to_string()))
    }

    fn skip_tagged_fields(&mut self) -> io::Result<()> {
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let len = self.unsigned_varint()?;
            self.skip(len)?;
        }
        Ok(())
    }
}

impl Broker {
    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let named = |name: &Option<String>| name.as_ref().is_some_and(|name| *name == self.topic);
        let topics = match &request.topics {
            None => vec![self.topic_metadata()],
            Some(topics) => topics
                .iter()
                .map(|topic| match &topic.name {
                    name if named(name) || topic.topic_id == TOPIC_ID => self.topic_metadata(),
                    name => MetadataResponseTopic {
                        error_code: match name {
                            Some(_) => UNKNOWN_TOPIC_OR_PARTITION,
                            None => UNKNOWN_TOPIC_ID,
                        },
                        name: name.clone(),
                        topic_id: topic.topic_id,
                        ..Default::default()
                    },
                })
                .collect(),
        };
        MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: NODE_ID,
                host: self.address.ip().to_string(),
                port: self.address.port().into(),
                ..Default::default()
            }],
            cluster_id: Some("throughput-sink".to_owned()),
            controller_id: NODE_ID,
            topics,
            ..Default::default()
        }
    }

    fn topic_metadata(&self) -> MetadataResponseTopic {
        let partition = |index| MetadataResponsePartition {
            partition_index: index,
            leader_id: NODE_ID,
            leader_epoch: 0,
            replica_nodes: vec![NODE_ID],
            isr_nodes: vec![NODE_ID],
            ..Default::default()
        };
        MetadataResponseTopic {
            name: Some(self.topic.clone()),
            topic_id: TOPIC_ID,
            partitions: (0..self.end_offsets.len() as i32).map(partition).collect(),
            ..Default::default()
        }
    }
}

fn api_versions(is_supported: bool) -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: if is_supported { 0 } else { UNSUPPORTED_VERSION },
        api_keys: APIS
            .iter()
            .map(|&(api, min_version, max_version)| ApiVersion {
                api_key: api.0,
                min_version,
                max_version,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}
