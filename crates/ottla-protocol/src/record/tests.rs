use crate::record::{BatchHeader, BatchView, RecordBody};
use crate::wire::TestRng;
use proptest::prelude::*;

struct OwnedRecord {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn random_record(g: &mut TestRng) -> OwnedRecord {
    let field = |g: &mut TestRng| (g.next_below(4) != 0).then(|| g.next_bytes().to_vec());
    let headers = (0..g.next_below(3)).map(|_| (g.next_string(), field(g))).collect();
    OwnedRecord {
        timestamp: g.next_u64() as i64 >> g.next_below(64),
        key: field(g),
        value: field(g),
        headers,
    }
}

/// Numbers around the bounds of one, two and three bytes, in a buffer with and without spare bytes.
#[test]
fn record_with_short_or_long_numbers_has_the_bytes_of_kafka() {
    use crate::wire::varint::{put_i32, put_i64};
    let fields: Vec<Option<Vec<u8>>> = [0, 1, 63, 64, 8178, 8183, 8192, 9000]
        .map(|n| Some(vec![b'x'; n]))
        .into_iter()
        .chain([None])
        .collect();
    let put_field = |out: &mut Vec<u8>, field: &Option<Vec<u8>>| {
        put_i32(out, field.as_ref().map_or(-1, |f| f.len() as i32));
        out.extend(field.iter().flatten());
    };
    let deltas = [0, 63, 64, -64, -65, 8191, 8192, -8192, -8193, i64::MAX, i64::MIN];
    for (key, value) in fields.iter().flat_map(|k| fields.iter().map(move |v| (k, v))) {
        for timestamp_delta in deltas {
            for offset_delta in [0, 63, 64, 8191, 8192, i32::MAX] {
                let mut body = vec![0];
                put_i64(&mut body, timestamp_delta);
                put_i32(&mut body, offset_delta);
                put_field(&mut body, key);
                put_field(&mut body, value);
                body.push(0);
                let mut expected = Vec::new();
                put_i32(&mut expected, body.len() as i32);
                expected.extend(body);

                let headers = std::iter::empty::<(&str, Option<&[u8]>)>();
                let record = RecordBody::new(key.as_deref(), value.as_deref(), headers);
                let layout = record.measure(offset_delta, timestamp_delta);
                assert_eq!(layout.len(), expected.len());
                for spare in [0, 100] {
                    let mut out = Vec::with_capacity(expected.len() + spare);
                    record.encode(&mut out, layout);
                    assert!(out == expected, "{timestamp_delta} {offset_delta}");
                    out.clear();
                    let offset = record.encode_without_value(&mut out, layout);
                    out.splice(offset..offset, value.iter().flatten().copied());
                    assert!(out == expected, "{timestamp_delta} {offset_delta}, value apart");
                }
            }
        }
    }
}

// CASES: RC5, RC6.
proptest! {
    /// Null and empty fields stay distinct, headers keep their order, timestamps may be negative.
    #[test]
    fn batches_round_trip(seed: u64) {
        let mut g = TestRng::new(seed);
        let count = 1 + g.next_below(20);
        let records: Vec<OwnedRecord> = (0..count).map(|_| random_record(&mut g)).collect();
        let base_timestamp = records[0].timestamp;
        let mut body = Vec::new();
        for (i, r) in records.iter().enumerate() {
            let headers = r.headers.iter().map(|(k, v)| (k.as_str(), v.as_deref()));
            let record = RecordBody::new(r.key.as_deref(), r.value.as_deref(), headers);
            let delta = r.timestamp.wrapping_sub(base_timestamp);
            let len_before = body.len();
            record.encode(&mut body, record.measure(i as i32, delta));
            prop_assert_eq!(body.len() - len_before, record.len(i as i32, delta));
        }
        let header = BatchHeader {
            base_offset: 100,
            partition_leader_epoch: 3,
            attributes: 0,
            last_offset_delta: records.len() as i32 - 1,
            base_timestamp,
            max_timestamp: records.iter().map(|r| r.timestamp).max().unwrap(),
            producer_id: 1,
            producer_epoch: 2,
            base_sequence: i32::MAX - 1,
            record_count: records.len() as i32,
        };
        let mut bytes = header.encode(&body).to_vec();
        bytes.extend(&body);
        let view = BatchView::parse(&bytes).unwrap();
        view.verify().unwrap();
        prop_assert_eq!(view.header(), &header);
        let decoded = view.records(usize::MAX).unwrap();
        let decoded = decoded.to_vec().unwrap();
        prop_assert_eq!(decoded.len(), records.len());
        for (i, (r, original)) in decoded.iter().zip(&records).enumerate() {
            prop_assert_eq!(r.offset, 100 + i as i64);
            prop_assert_eq!(r.timestamp, original.timestamp);
            prop_assert_eq!(r.key, original.key.as_deref());
            prop_assert_eq!(r.value, original.value.as_deref());
            let headers: Vec<_> =
                original.headers.iter().map(|(k, v)| (k.as_bytes(), v.as_deref())).collect();
            prop_assert_eq!(&r.headers, &headers);
        }
    }
}
