//! Tests of malformed input: the decoder returns an error with its location, and uses time and
//! memory in proportion to the input.

use bytes::Bytes;

use crate::api::{APIS, ApiKey};
use crate::fuzz;
use crate::header::{decode_response, encode_response};
use crate::messages::*;
use crate::wire::TestRng;
use crate::{DecodeErrorKind, Uuid};

#[test]
fn huge_array_count_fails_before_allocation() {
    // A correlation id, an array count of 2^31-1, and 42 bytes.
    let mut frame = vec![0, 0, 0, 1];
    frame.extend(i32::MAX.to_be_bytes());
    frame.extend([0; 42]);
    let e = decode_response::<ProduceRequest>(&Bytes::from(frame), 3).unwrap_err();
    assert_eq!(
        e.to_string(),
        "ProduceResponse.responses at byte 4: the count is 2147483647, but only 42 bytes remain"
    );
}

#[test]
fn huge_number_at_any_offset_does_not_panic() {
    // Some of the overwritten bytes are array counts: they must not cause large allocations.
    let mut g = TestRng::new(7);
    for _ in 0..300 {
        let message = fuzz::generate_message(&mut g);
        let response = &message.response;
        for at in 4..response.len().saturating_sub(4).min(400) {
            let mut bad = response[4..].to_vec();
            bad[at - 4..at].copy_from_slice(&i32::MAX.to_be_bytes());
            fuzz::read_response(message.api, message.version, &Bytes::from(bad));
        }
        for record in fuzz::generate_coordinator_records(&mut g) {
            for at in 4..=record.len() {
                let mut bad = record.clone();
                bad[at - 4..at].copy_from_slice(&i32::MAX.to_be_bytes());
                fuzz::read_coordinator_record(&Bytes::from(bad));
            }
        }
    }
}

#[test]
fn truncation_at_any_offset_is_an_error_with_its_location() {
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
        for len in 0..body.len() {
            let e = decode_response::<MetadataRequest>(&body.slice(..len), version).unwrap_err();
            assert!(!e.message.is_empty() && !e.field.is_empty(), "v{version} {len} bytes: {e}");
            assert!(e.offset <= len, "v{version} {len} bytes: {e}");
        }
        let mut longer = body.to_vec();
        longer.push(0);
        let decoded = decode_response::<MetadataRequest>(&Bytes::from(longer), version);
        assert_eq!(decoded, decode_response::<MetadataRequest>(&body, version), "v{version}");
    }
}

#[test]
fn unknown_version_is_unsupported() {
    let e = decode_response::<MetadataRequest>(&Bytes::from_static(&[0; 20]), 99).unwrap_err();
    assert_eq!(e.kind, DecodeErrorKind::UnsupportedVersion(99));
}

/// Overwrites, removes and appends bytes, up to five times.
fn mutate(bytes: &[u8], g: &mut TestRng) -> Bytes {
    let mut bad = bytes.to_vec();
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
    bad.into()
}

#[test]
fn decoders_do_not_panic_on_mutated_messages() {
    let mut g = TestRng::new(11);
    for _ in 0..3000 {
        let message = fuzz::generate_message(&mut g);
        for frame in [&message.request, &message.response] {
            let bad = mutate(&frame[4..], &mut g);
            fuzz::read_request(&bad);
            fuzz::read_response(message.api, message.version, &bad);
        }
        for record in fuzz::generate_coordinator_records(&mut g) {
            fuzz::read_coordinator_record(&mutate(&record, &mut g));
        }
    }
    for _ in 0..20_000 {
        let input: Vec<u8> = (0..g.next_below(200)).map(|_| g.next_u64() as u8).collect();
        fuzz::read_any(&input);
    }
    assert_eq!(APIS.len(), 31, "a new API needs a line in `for_each_request!`");
}
