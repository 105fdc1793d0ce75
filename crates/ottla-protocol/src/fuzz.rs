//! Entry points for fuzzing: one function for each decoder.
//!
//! With any bytes, a decoder must not panic, and must not use much more memory than the input has.
//! The unit tests call these functions with mutated messages, `fuzz/` calls them from `cargo fuzz`.

use bytes::Bytes;

use crate::api::{APIS, ApiKey, Request};
use crate::compression::{Codec, decompress};
use crate::coordinator_records::*;
use crate::error::EncodeError;
use crate::header::{RequestHeader, decode_request, decode_response};
use crate::messages::*;
use crate::record::Batches;
use crate::wire::{Reader, TestRng, Version, Wire};

/// Calls the macro `$callback` with the types of all requests.
#[macro_export]
macro_rules! for_each_request {
    ($callback:ident) => {
        $callback!(
            ProduceRequest,
            FetchRequest,
            ListOffsetsRequest,
            MetadataRequest,
            OffsetCommitRequest,
            OffsetFetchRequest,
            FindCoordinatorRequest,
            JoinGroupRequest,
            HeartbeatRequest,
            LeaveGroupRequest,
            SyncGroupRequest,
            DescribeGroupsRequest,
            ListGroupsRequest,
            SaslHandshakeRequest,
            ApiVersionsRequest,
            CreateTopicsRequest,
            DeleteTopicsRequest,
            InitProducerIdRequest,
            OffsetForLeaderEpochRequest,
            AddPartitionsToTxnRequest,
            AddOffsetsToTxnRequest,
            EndTxnRequest,
            WriteTxnMarkersRequest,
            TxnOffsetCommitRequest,
            DescribeConfigsRequest,
            SaslAuthenticateRequest,
            CreatePartitionsRequest,
            DescribeQuorumRequest,
            DescribeClusterRequest,
            GetTelemetrySubscriptionsRequest,
            PushTelemetryRequest
        )
    };
}

/// Decodes `frame` as a request: header, then body.
pub fn read_request(frame: &Bytes) {
    let mut r = Reader::new(frame);
    let Ok(header) = RequestHeader::decode(&mut r) else {
        return;
    };
    macro_rules! dispatch {
        ($($ty:ident),*) => { match header.api_key {
            $( <$ty as Request>::KEY => drop(decode_request::<$ty>(&mut r, header.api_version)), )*
            _ => {}
        } };
    }
    for_each_request!(dispatch);
}

/// Decodes `frame` as a response of an API at a version.
pub fn read_response(api: ApiKey, version: i16, frame: &Bytes) {
    macro_rules! dispatch {
        ($($ty:ident),*) => { match api {
            $( <$ty as Request>::KEY => drop(decode_response::<$ty>(frame, version)), )*
            _ => {}
        } };
    }
    for_each_request!(dispatch);
}

/// Decodes `bytes` as record batches.
pub fn read_batches(bytes: &[u8]) {
    for batch in Batches::new(bytes) {
        let Ok(batch) = batch else { return };
        let _ = batch.verify();
        if let Ok(records) = batch.records(1 << 20) {
            let _ = records.to_vec();
        }
    }
}

/// Decodes `bytes` as the key of a coordinator's record, and as each kind of value.
pub fn read_coordinator_record(bytes: &Bytes) {
    let mut r = Reader::new(bytes);
    match decode_key_type(&mut r) {
        Ok(key_type::TRANSACTION_LOG) => {
            let _ = decode_key::<TransactionLogKey>(&mut r);
            // The type of offsets before Kafka 0.9 has the same number, in another topic.
            let _ = decode_key::<OffsetCommitKey>(&mut Reader::new(&bytes.slice(2..)));
        }
        Ok(key_type::OFFSET_COMMIT) => drop(decode_key::<OffsetCommitKey>(&mut r)),
        Ok(key_type::GROUP_METADATA) => drop(decode_key::<GroupMetadataKey>(&mut r)),
        Ok(_) | Err(_) => {}
    }
    let _ = decode_value::<TransactionLogValue>(bytes);
    let _ = decode_value::<OffsetCommitValue>(bytes);
    let _ = decode_value::<GroupMetadataValue>(bytes);
}

/// Decompresses `bytes` with each codec.
pub fn decompress_all(bytes: &[u8]) {
    for codec in Codec::ALL {
        let _ = decompress(codec, bytes, 1 << 20);
    }
}

/// Decodes the input; its first two bytes choose the decoder and the version.
pub fn read_any(input: &[u8]) {
    let [kind, version, rest @ ..] = input else {
        return;
    };
    let frame = Bytes::copy_from_slice(rest);
    match kind % 64 {
        0 => read_batches(rest),
        1 => decompress_all(rest),
        2 => read_request(&frame),
        3 => read_coordinator_record(&frame),
        n => {
            let api = APIS[usize::from(n) % APIS.len()];
            let versions = (api.max_version - api.min_version + 1) as u8;
            read_response(api.key, api.min_version + i16::from(version % versions), &frame);
        }
    }
}

/// A valid request and response of a random API and version.
#[derive(Debug)]
pub struct GeneratedMessage {
    /// The API.
    pub api: ApiKey,
    /// The version of both messages.
    pub version: i16,
    /// The request frame, with its length.
    pub request: Vec<u8>,
    /// The response frame, with its length.
    pub response: Vec<u8>,
}

/// Generates a request and a response with random content.
pub fn generate_message(g: &mut TestRng) -> GeneratedMessage {
    let api = APIS[g.next_below(APIS.len() as u64) as usize];
    let version =
        api.min_version + g.next_below((api.max_version - api.min_version + 1) as u64) as i16;
    macro_rules! dispatch {
        ($($ty:ident),*) => { match api.key {
            $( <$ty as Request>::KEY => generate_frames::<$ty>(g, version), )*
            _ => (Vec::new(), Vec::new()),
        } };
    }
    let (request, response) = for_each_request!(dispatch);
    GeneratedMessage { api: api.key, version, request, response }
}

/// Generates keys and values of coordinators' records, with random content.
pub fn generate_coordinator_records(g: &mut TestRng) -> Vec<Vec<u8>> {
    const KEY: Version = Version { number: 0, flexible: false };
    let generated = [
        encode_key(key_type::TRANSACTION_LOG, &TransactionLogKey::arbitrary(g, KEY)),
        encode_key(key_type::OFFSET_COMMIT, &OffsetCommitKey::arbitrary(g, KEY)),
        encode_key(key_type::GROUP_METADATA, &GroupMetadataKey::arbitrary(g, KEY)),
        generate_value::<TransactionLogValue>(g),
        generate_value::<OffsetCommitValue>(g),
        generate_value::<GroupMetadataValue>(g),
    ];
    generated.into_iter().flatten().collect()
}

fn generate_value<T: CoordinatorValue>(g: &mut TestRng) -> Result<Vec<u8>, EncodeError> {
    let number = T::WRITTEN_VERSION;
    encode_value(&T::arbitrary(g, Version { number, flexible: number >= T::FIRST_FLEXIBLE }))
}

fn generate_frames<R: Request>(g: &mut TestRng, version: i16) -> (Vec<u8>, Vec<u8>) {
    let v = R::KEY.version(version);
    let (request, response) = (R::arbitrary(g, v), R::Response::arbitrary(g, v));
    (
        crate::header::encode_request(&request, version, 1, Some("fuzz")).unwrap_or_default(),
        crate::header::encode_response(R::KEY, version, 1, &response).unwrap_or_default(),
    )
}
