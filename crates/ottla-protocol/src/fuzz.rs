//! One entry point a decoder: hand it any bytes and it must neither panic nor take memory out of
//! proportion. The test suite feeds mutated messages; `fuzz/` has the same functions for `cargo fuzz`.

use bytes::Bytes;

use crate::api::{APIS, ApiKey, Request};
use crate::compression::{Codec, decompress};
use crate::header::{RequestHeader, decode_request, decode_response};
use crate::messages::*;
use crate::record::Batches;
use crate::wire::{Gen, Reader, Wire};

/// Every request of this crate: calls `$go` with each type.
#[macro_export]
macro_rules! for_each_request {
    ($go:ident) => {
        $go!(
            ProduceRequest,
            FetchRequest,
            ListOffsetsRequest,
            MetadataRequest,
            FindCoordinatorRequest,
            SaslHandshakeRequest,
            ApiVersionsRequest,
            CreateTopicsRequest,
            DeleteTopicsRequest,
            InitProducerIdRequest,
            OffsetForLeaderEpochRequest,
            AddPartitionsToTxnRequest,
            EndTxnRequest,
            DescribeConfigsRequest,
            SaslAuthenticateRequest,
            CreatePartitionsRequest,
            DescribeClusterRequest,
            GetTelemetrySubscriptionsRequest,
            PushTelemetryRequest
        )
    };
}

/// Reads `frame` as a request: header, then body.
pub fn request(frame: &Bytes) {
    let mut r = Reader::new(frame);
    let Ok(header) = RequestHeader::decode(&mut r) else {
        return;
    };
    macro_rules! go {
        ($($ty:ident),*) => { match header.api {
            $( <$ty as Request>::KEY => drop(decode_request::<$ty>(&mut r, header.version)), )*
            _ => {}
        } };
    }
    for_each_request!(go);
}

/// Reads `frame` as a response to `api` at `version`.
pub fn response(api: ApiKey, version: i16, frame: &Bytes) {
    macro_rules! go {
        ($($ty:ident),*) => { match api {
            $( <$ty as Request>::KEY => drop(decode_response::<$ty>(frame, version)), )*
            _ => {}
        } };
    }
    for_each_request!(go);
}

/// Reads `bytes` as record batches.
pub fn batches(bytes: &[u8]) {
    for batch in Batches::new(bytes) {
        let Ok(batch) = batch else { return };
        let _ = batch.verify();
        if let Ok(records) = batch.records(1 << 20) {
            let _ = records.collect();
        }
    }
}

/// Decompresses `bytes` with each codec.
pub fn compressed(bytes: &[u8]) {
    for codec in Codec::ALL {
        let _ = decompress(codec, bytes, 1 << 20);
    }
}

/// The first two bytes choose what the rest is read as.
pub fn any(input: &[u8]) {
    let [kind, version, rest @ ..] = input else {
        return;
    };
    let frame = Bytes::copy_from_slice(rest);
    match kind % 32 {
        0 => batches(rest),
        1 => compressed(rest),
        2 => request(&frame),
        n => {
            let api = APIS[usize::from(n) % APIS.len()];
            let versions = (api.max - api.min + 1) as u8;
            response(api.key, api.min + i16::from(version % versions), &frame);
        }
    }
}

/// A valid message of a random API, version and content: its request and response frames.
pub fn sample(g: &mut Gen) -> (ApiKey, i16, Vec<u8>, Vec<u8>) {
    let api = APIS[g.below(APIS.len() as u64) as usize];
    let version = api.min + g.below((api.max - api.min + 1) as u64) as i16;
    macro_rules! go {
        ($($ty:ident),*) => { match api.key {
            $( <$ty as Request>::KEY => frames::<$ty>(g, version), )*
            _ => (Vec::new(), Vec::new()),
        } };
    }
    let (request, response) = for_each_request!(go);
    (api.key, version, request, response)
}

fn frames<R: Request>(g: &mut Gen, version: i16) -> (Vec<u8>, Vec<u8>) {
    let v = R::KEY.version(version);
    let (request, response) = (R::arbitrary(g, v), R::Response::arbitrary(g, v));
    (
        crate::header::request_frame(&request, version, 1, Some("fuzz")).unwrap_or_default(),
        crate::header::response_frame(R::KEY, version, 1, &response).unwrap_or_default(),
    )
}
