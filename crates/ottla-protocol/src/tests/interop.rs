//! Compares the encoding of each message at each version with the crate `kafka-protocol`.
//!
//! That crate must decode the bytes and encode the same bytes again.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as reference;
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;

use super::to_hex;
use crate::api::Request;
use crate::messages::*;
use crate::wire::{Reader, TestRng, Wire, Writer};

fn check_round_trip<T: Wire + PartialEq + std::fmt::Debug>(
    key: crate::ApiKey,
    version: i16,
    seed: u64,
) -> Bytes {
    let v = key.version(version);
    let message = T::arbitrary(&mut TestRng::new(seed), v);
    let mut w = Writer::new();
    message.encode(&mut w, v);
    let bytes = Bytes::from(w.finish().unwrap());
    let mut r = Reader::new(&bytes);
    assert_eq!(T::decode(&mut r, v).unwrap(), message, "{key:?} v{version}");
    r.finish().unwrap();
    bytes
}

fn assert_same_encoding<X: Encodable + Decodable>(bytes: &Bytes, version: i16, name: &str) {
    let mut input = bytes.clone();
    let decoded = X::decode(&mut input, version)
        .unwrap_or_else(|e| panic!("{name} v{version}: {e}\n{}", to_hex(bytes)));
    assert!(input.is_empty(), "{name} v{version}: {} bytes remain", input.len());
    let mut encoded = BytesMut::new();
    decoded.encode(&mut encoded, version).unwrap();
    assert_eq!(to_hex(&encoded), to_hex(bytes), "{name} v{version}");
}

macro_rules! compare_messages {
    ($($req:ident, $resp:ident, up to $max:literal;)*) => {
        fn compare(seed: u64) {
            $( {
                let key = <$req as Request>::KEY;
                let api = key.api().unwrap();
                for version in api.min_version..=api.max_version {
                    let request = check_round_trip::<$req>(key, version, seed);
                    let response = check_round_trip::<$resp>(key, version, seed ^ 1);
                    if version <= $max {
                        let names = (stringify!($req), stringify!($resp));
                        assert_same_encoding::<reference::$req>(&request, version, names.0);
                        assert_same_encoding::<reference::$resp>(&response, version, names.1);
                    }
                }
            } )*
        }
    };
}

// `up to`: the highest version of the API that `kafka-protocol` 0.18 supports.
compare_messages! {
    ProduceRequest, ProduceResponse, up to 13;
    FetchRequest, FetchResponse, up to 18;
    ListOffsetsRequest, ListOffsetsResponse, up to 10;
    MetadataRequest, MetadataResponse, up to 13;
    OffsetCommitRequest, OffsetCommitResponse, up to 9;
    OffsetFetchRequest, OffsetFetchResponse, up to 9;
    FindCoordinatorRequest, FindCoordinatorResponse, up to 6;
    JoinGroupRequest, JoinGroupResponse, up to 9;
    HeartbeatRequest, HeartbeatResponse, up to 4;
    LeaveGroupRequest, LeaveGroupResponse, up to 5;
    SyncGroupRequest, SyncGroupResponse, up to 5;
    DescribeGroupsRequest, DescribeGroupsResponse, up to 6;
    ListGroupsRequest, ListGroupsResponse, up to 5;
    SaslHandshakeRequest, SaslHandshakeResponse, up to 1;
    ApiVersionsRequest, ApiVersionsResponse, up to 4;
    CreateTopicsRequest, CreateTopicsResponse, up to 7;
    DeleteTopicsRequest, DeleteTopicsResponse, up to 6;
    InitProducerIdRequest, InitProducerIdResponse, up to 5;
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, up to 4;
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, up to 5;
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, up to 4;
    EndTxnRequest, EndTxnResponse, up to 5;
    WriteTxnMarkersRequest, WriteTxnMarkersResponse, up to 1;
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, up to 5;
    DescribeConfigsRequest, DescribeConfigsResponse, up to 4;
    SaslAuthenticateRequest, SaslAuthenticateResponse, up to 2;
    CreatePartitionsRequest, CreatePartitionsResponse, up to 3;
    DescribeQuorumRequest, DescribeQuorumResponse, up to 1;
    DescribeClusterRequest, DescribeClusterResponse, up to 2;
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse, up to 0;
    PushTelemetryRequest, PushTelemetryResponse, up to 0;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn messages_equal_those_of_kafka_protocol_at_every_version(seed: u64) {
        compare(seed);
    }
}
