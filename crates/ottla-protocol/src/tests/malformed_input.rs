//! Damaged input of every kind: an error that names its place, in time and memory bounded by the input.

use bytes::Bytes;

use crate::api::{APIS, ApiKey};
use crate::fuzz;
use crate::header::{decode_response, encode_response};
use crate::messages::*;
use crate::wire::TestRng;
use crate::{DecodeErrorKind, Uuid};

#[test]
fn a_count_of_two_thousand_million_is_an_error_at_once() {
    // correlation id, then a topics count of 2^31-1 and 42 bytes of anything.
    let mut frame = vec![0, 0, 0, 1];
    frame.extend(i32::MAX.to_be_bytes());
    frame.extend([0; 42]);
    let e = decode_response::<ProduceRequest>(&Bytes::from(frame), 3).unwrap_err();
    assert_eq!(
        e.to_string(),
        "ProduceResponse.responses at byte 4: count 2147483647 with only 42 bytes behind it"
    );
}

#[test]
fn every_array_of_every_response_refuses_a_huge_count() {
    // Walk every response byte by byte, writing a huge count there: nothing may panic, and what still
    // decodes must have been no count.
    let mut g = TestRng::new(7);
    for _ in 0..300 {
        let (api, version, _, response) = fuzz::generate_message(&mut g);
        for at in 4..response.len().saturating_sub(4).min(400) {
            let mut bad = response[4..].to_vec();
            bad[at - 4..at].copy_from_slice(&i32::MAX.to_be_bytes());
            fuzz::read_response(api, version, &Bytes::from(bad));
        }
    }
}

#[test]
fn truncation_at_every_offset_is_an_error_that_names_its_place() {
    let response = MetadataResponse {
        brokers: vec![MetadataResponseBroker { host: "h".into(), ..Default::default() }],
        topics: vec![MetadataResponseTopic {
            name: Some("t".into()),
            topic_id: Uuid([7; 16]),
            partitions: vec![MetadataResponsePartition {
                isr_nodes: vec![1, 2],
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    for version in 0..=13 {
        let frame = encode_response(ApiKey::METADATA, version, 9, &response).unwrap();
        let body = Bytes::from(frame).slice(4..);
        assert!(decode_response::<MetadataRequest>(&body, version).is_ok());
        for cut in 0..body.len() {
            let e = decode_response::<MetadataRequest>(&body.slice(..cut), version).unwrap_err();
            assert!(!e.message.is_empty() && !e.field.is_empty(), "v{version} cut at {cut}: {e}");
            assert!(e.offset <= cut, "v{version} cut at {cut}: {e}");
        }
        let mut longer = body.to_vec();
        longer.push(0);
        let e = decode_response::<MetadataRequest>(&Bytes::from(longer), version).unwrap_err();
        assert_eq!(e.kind, DecodeErrorKind::TrailingBytes(1), "v{version}");
    }
}

#[test]
fn an_unknown_version_is_refused_by_number() {
    let e = decode_response::<MetadataRequest>(&Bytes::from_static(&[0; 20]), 99).unwrap_err();
    assert_eq!(e.kind, DecodeErrorKind::UnsupportedVersion(99));
}

#[test]
fn every_decoder_survives_mutated_messages() {
    let mut g = TestRng::new(11);
    for _ in 0..3000 {
        let (api, version, request, response) = fuzz::generate_message(&mut g);
        for frame in [&request, &response] {
            let mut bad = frame[4..].to_vec();
            for _ in 0..=g.next_below(4) {
                match g.next_below(3) {
                    0 if !bad.is_empty() => {
                        let at = g.next_below(bad.len() as u64) as usize;
                        bad[at] = g.next_u64() as u8;
                    }
                    1 => bad.truncate(g.next_below(bad.len() as u64 + 1) as usize),
                    _ => bad.extend(g.next_bytes()),
                }
            }
            let bad = Bytes::from(bad);
            fuzz::read_request(&bad);
            fuzz::read_response(api, version, &bad);
        }
    }
    for _ in 0..20_000 {
        let input: Vec<u8> = (0..g.next_below(200)).map(|_| g.next_u64() as u8).collect();
        fuzz::read_any(&input);
    }
    assert_eq!(APIS.len(), 19, "a new API wants a line in `for_each_request!`");
}
