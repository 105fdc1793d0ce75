//! Tests against bytes that Java's client has written (CASES B3, B4, B5).

use bytes::Bytes;

use super::{from_hex, to_hex};
use crate::Uuid;
use crate::header::encode_request;
use crate::messages::*;
use crate::record::{BatchHeader, BatchView, Batches, RecordBody, attributes};

const ONE_RECORD_BATCH: &str = concat!(
    "000000000000000000000040ffffffff0244c98e4f00000000000000000000000003e800000000000003e8ffff",
    "ffffffffffffffffffffffff000000011c000000066b65790a76616c756500",
);
const THREE_RECORD_BATCH: &str = concat!(
    "00000000000000000000004effffffff02e9f7831800000000000200000000000003e800000000000003ed0000",
    "00000000303900070000002a0000000314000000046b310476310010000a02010476320010001304046b330100",
);
const TRANSACTIONAL_BATCH: &str = concat!(
    "000000000000000000000048ffffffff021a68c43600100000000000000174876e800000000174876e80000000",
    "000000002651000f00000926000000012c00000006666f6f066261720404683104763104683201",
);
const EMPTY_KEY_VALUE_BATCH: &str = concat!(
    "000000000000000000000038ffffffff028258987a00000000000000000000000000000000000000000000ffff",
    "ffffffffffffffffffffffff000000010c000000000000",
);

struct TestRecord<'a> {
    timestamp: i64,
    key: Option<&'a str>,
    value: Option<&'a str>,
    headers: &'a [(&'a str, Option<&'a [u8]>)],
}

fn test_record<'a>(timestamp: i64, key: Option<&'a str>, value: Option<&'a str>) -> TestRecord<'a> {
    TestRecord { timestamp, key, value, headers: &[] }
}

fn encode_batch(
    records: &[TestRecord<'_>],
    attributes: i16,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
) -> Vec<u8> {
    let mut body = Vec::new();
    for (i, r) in records.iter().enumerate() {
        let record = RecordBody::new(
            r.key.map(str::as_bytes),
            r.value.map(str::as_bytes),
            r.headers.iter().copied(),
        );
        let delta = r.timestamp - records[0].timestamp;
        let len_before = body.len();
        record.encode(&mut body, record.measure(i as i32, delta));
        assert_eq!(body.len() - len_before, record.len(i as i32, delta));
        assert!(record.size_upper_bound() >= record.len(i as i32, delta) + 61);
    }
    let header = BatchHeader {
        base_offset: 0,
        partition_leader_epoch: -1,
        attributes,
        last_offset_delta: records.len() as i32 - 1,
        base_timestamp: records[0].timestamp,
        max_timestamp: records.iter().map(|r| r.timestamp).max().unwrap(),
        producer_id,
        producer_epoch,
        base_sequence,
        record_count: records.len() as i32,
    };
    let mut out = header.encode(&body).to_vec();
    out.extend(body);
    out
}

// CASES: B3 (G1 to G4).
#[test]
fn batches_are_encoded_as_by_java() {
    let one_record = encode_batch(&[test_record(1000, Some("key"), Some("value"))], 0, -1, -1, -1);
    assert_eq!(to_hex(&one_record), ONE_RECORD_BATCH);
    let three_records = encode_batch(
        &[
            test_record(1000, Some("k1"), Some("v1")),
            test_record(1005, None, Some("v2")),
            test_record(990, Some("k3"), None),
        ],
        0,
        12345,
        7,
        42,
    );
    assert_eq!(to_hex(&three_records), THREE_RECORD_BATCH);
    let headers: &[(&str, Option<&[u8]>)] = &[("h1", Some(b"v1")), ("h2", None)];
    let record =
        TestRecord { timestamp: 1_600_000_000_000, key: Some("foo"), value: Some("bar"), headers };
    assert_eq!(
        to_hex(&encode_batch(&[record], attributes::TRANSACTIONAL_FLAG_MASK, 9809, 15, 2342)),
        TRANSACTIONAL_BATCH
    );
    assert_eq!(
        to_hex(&encode_batch(&[test_record(0, Some(""), Some(""))], 0, -1, -1, -1)),
        EMPTY_KEY_VALUE_BATCH
    );
}

// CASES: B3 (G2, G3).
#[test]
fn batches_of_java_are_decoded() {
    let bytes = from_hex(THREE_RECORD_BATCH);
    let batch = BatchView::parse(&bytes).unwrap();
    batch.verify().unwrap();
    let records = batch.records(1000).unwrap();
    let records = records.to_vec().unwrap();
    assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [1000, 1005, 990]);
    assert_eq!(records[1].key, None);
    assert_eq!(records[2].value, None);
    assert_eq!(batch.header().base_sequence, 42);
    let bytes = from_hex(TRANSACTIONAL_BATCH);
    let batch = BatchView::parse(&bytes).unwrap();
    let records = batch.records(1000).unwrap();
    let headers = &records.to_vec().unwrap()[0].headers.clone();
    assert_eq!(headers, &[(&b"h1"[..], Some(&b"v1"[..])), (&b"h2"[..], None)]);
}

// CASES: B3 (G5 to G8).
#[test]
fn compressed_batches_of_java_are_decoded_with_every_codec() {
    for (name, hex) in [
        (
            "snappy",
            "000000000000000000000066ffffffff02b05a1e1c00020000000000000000000003e80000000000000\
             3e8ffffffffffffffffffffffffffff0000000182534e41505059000000000100000001000000213224\
             62000000066b6579506115010062150115132c616262626262626262626200",
        ),
        (
            "lz4",
            "000000000000000000000061ffffffff028b6c37bb00030000000000000000000003e80000000000000\
             3e8ffffffffffffffffffffffffffff0000000104224d1860408221000000a562000000066b65795061\
             010015620100051300c061626262626262626262620000000000",
        ),
        (
            "gzip",
            "000000000000000000000056ffffffff02d42ba88100010000000000000000000003e80000000000000\
             3e8ffffffffffffffffffffffffffff000000011f8b08000000000000ff4b62606060cb4ead0c488483\
             2438c026c60000df267cce32000000",
        ),
        (
            "zstd",
            "000000000000000000000053ffffffff0268b5f16300040000000000000000000003e80000000000000\
             3e8ffffffffffffffffffffffffffff0000000128b52ffd0058b400007062000000066b657950616261\
             62000414000672ac0b010000",
        ),
    ] {
        let bytes = from_hex(hex);
        let batch = BatchView::parse(&bytes).unwrap();
        batch.verify().unwrap();
        assert_eq!(batch.codec().unwrap().name(), name);
        let records = batch.records(1000).unwrap();
        let records = records.to_vec().unwrap();
        assert_eq!(records[0].key, Some(&b"key"[..]));
        let value = b"aaaaaaaaaabbbbbbbbbb".repeat(2);
        assert_eq!(records[0].value, Some(&value[..]), "{name}");
    }
}

fn encode_produce_request(version: i16, topic_id: Uuid) -> Vec<u8> {
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30000,
        topic_data: vec![TopicProduceData {
            name: "t".into(),
            topic_id,
            partition_data: vec![PartitionProduceData {
                index: 3,
                records: Some(Bytes::from(from_hex(ONE_RECORD_BATCH))),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    encode_request(&request, version, 2, Some("c")).unwrap()
}

// CASES: B4.
#[test]
fn produce_requests_are_encoded_as_by_java() {
    assert_eq!(
        to_hex(&encode_produce_request(8, Uuid::ZERO)),
        format!(
            "000000720000000800000002000163ffffffff000075300000000100017400000001000000030000004\
             c{ONE_RECORD_BATCH}"
        )
    );
    assert_eq!(
        to_hex(&encode_produce_request(12, Uuid::ZERO)),
        format!(
            "0000006b0000000c000000020001630000ffff0000753002027402000000034d{ONE_RECORD_BATCH}0\
             00000"
        )
    );
    let id = Uuid([1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(
        to_hex(&encode_produce_request(13, id)),
        format!(
            "000000790000000d000000020001630000ffff000075300201020304050607081112131415161718020\
             00000034d{ONE_RECORD_BATCH}000000"
        )
    );
}

fn encode_to_hex<R: crate::Request>(body: &R, version: i16, correlation_id: i32) -> String {
    to_hex(&encode_request(body, version, correlation_id, Some("c")).unwrap())
}

// CASES: B4.
#[test]
fn other_requests_are_encoded_as_by_java() {
    let versions = ApiVersionsRequest {
        client_software_name: "x-y".into(),
        client_software_version: "1.0".into(),
        ..Default::default()
    };
    assert_eq!(encode_to_hex(&versions, 0, 1), "0000000b0012000000000001000163");
    assert_eq!(
        encode_to_hex(&versions, 4, 1),
        "0000001500120004000000010001630004782d7904312e3000"
    );
    assert_eq!(
        encode_to_hex(&versions, 5, 1),
        "0000001a00120005000000010001630004782d7904312e3000ffffffff00"
    );
    let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let metadata = |topics| MetadataRequest { topics, ..Default::default() };
    assert_eq!(
        encode_to_hex(&metadata(Some(vec![topic])), 12, 3),
        "000000230003000c00000003000163000200000000000000000000000000000000027400010000"
    );
    assert_eq!(encode_to_hex(&metadata(None), 12, 3), "000000100003000c000000030001630000010000");
    assert_eq!(
        encode_to_hex(&metadata(Some(vec![])), 12, 3),
        "000000100003000c000000030001630001010000"
    );
    let init = InitProducerIdRequest { transaction_timeout_ms: i32::MAX, ..Default::default() };
    assert_eq!(
        encode_to_hex(&init, 5, 4),
        "0000001c001600050000000400016300007fffffffffffffffffffffffffff00"
    );
    let init = InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: 60000,
        producer_id: 9,
        producer_epoch: 1,
        ..Default::default()
    };
    assert_eq!(
        encode_to_hex(&init, 5, 4),
        "0000001e0016000500000004000163000374780000ea600000000000000009000100"
    );
    let find = FindCoordinatorRequest {
        key_type: 1,
        coordinator_keys: vec!["tx".into()],
        ..Default::default()
    };
    assert_eq!(encode_to_hex(&find, 6, 6), "00000012000a00060000000600016300010203747800");
    let add = AddPartitionsToTxnRequest {
        transactional_id: "tx".into(),
        producer_id: 9,
        producer_epoch: 1,
        topics: vec![AddPartitionsToTxnTopic {
            name: "t".into(),
            partitions: vec![3],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(
        encode_to_hex(&add, 3, 7),
        "000000230018000300000007000163000374780000000000000009000102027402000000030000"
    );
    let end = EndTxnRequest {
        transactional_id: "tx".into(),
        producer_id: 9,
        producer_epoch: 1,
        committed: true,
        ..Default::default()
    };
    assert_eq!(
        encode_to_hex(&end, 5, 5),
        "0000001b001a00050000000500016300037478000000000000000900010100"
    );
    let handshake = SaslHandshakeRequest { mechanism: "PLAIN".into(), ..Default::default() };
    assert_eq!(encode_to_hex(&handshake, 1, 8), "0000001200110001000000080001630005504c41494e");
    let plain =
        SaslAuthenticateRequest { auth_bytes: Bytes::from_static(b"\0u\0p"), ..Default::default() };
    assert_eq!(encode_to_hex(&plain, 2, 9), "00000012002400020000000900016300050075007000");
}

// CASES: B5.
#[test]
fn crc32c_equals_that_of_java() {
    let ascending: Vec<u8> = (0..32).collect();
    for (bytes, expected) in [
        (&b""[..], 0u32),
        (b"a", 0xc1d0_4330),
        (b"abc", 0x364b_3fb7),
        (b"123456789", 0xe306_9283),
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
        (b"The quick brown fox jumps over the lazy dog", 0x2262_0404),
    ] {
        assert_eq!(crc32c::crc32c(bytes), expected);
    }
}

// CASES: B2.
#[test]
fn size_upper_bound_equals_that_of_java() {
    let no_headers = std::iter::empty();
    assert_eq!(crate::record::size_upper_bound(Some(b"key"), Some(b"value"), no_headers), Some(93));
}

// CASES: RC3.
#[test]
fn checksum_covers_the_bytes_from_the_attributes_on() {
    let good = from_hex(THREE_RECORD_BATCH);
    for (offset, is_covered) in [(7, false), (15, false), (26, true), (60, true), (70, true)] {
        let mut bad = good.clone();
        bad[offset] ^= 1;
        let batch = BatchView::parse(&bad).unwrap();
        assert_eq!(batch.verify().is_err(), is_covered, "byte {offset}");
    }
    let mut short = good.clone();
    short[8..12].copy_from_slice(&10i32.to_be_bytes());
    assert!(BatchView::parse(&short).is_err());
    let twice = [good.clone(), good].concat();
    assert_eq!(Batches::new(&twice).map(|b| b.unwrap().bytes().len()).sum::<usize>(), 180);
}

// CASES: RC4.
#[test]
fn wrong_record_count_is_an_error() {
    for count in [2i32, 5, -1, i32::MAX] {
        let mut bad = from_hex(THREE_RECORD_BATCH);
        bad[57..61].copy_from_slice(&count.to_be_bytes());
        let batch = BatchView::parse(&bad).unwrap();
        let records = batch.records(1000).unwrap();
        let e = records.to_vec().unwrap_err().to_string();
        assert!(e.contains("records than the header counts"), "{count}: {e}");
    }
}

// CASES: RC5.
#[test]
fn damaged_and_truncated_batches_do_not_panic() {
    let good = from_hex(TRANSACTIONAL_BATCH);
    for at in 61..good.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            crate::fuzz::read_batches(&bad);
        }
    }
    for len in 0..good.len() {
        assert!(BatchView::parse(&good[..len]).is_err(), "truncated to {len} bytes");
    }
}
