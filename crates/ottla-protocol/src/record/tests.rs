use crate::record::{BatchHeader, BatchView, RecordBody};
use crate::wire::TestRng;
use proptest::prelude::*;

type OwnedRecord = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn random_record(g: &mut TestRng) -> OwnedRecord {
    let field = |g: &mut TestRng| (g.next_below(4) != 0).then(|| g.next_bytes().to_vec());
    let headers = (0..g.next_below(3)).map(|_| (g.next_string(), field(g))).collect();
    (g.next_u64() as i64 >> g.next_below(64), field(g), field(g), headers)
}

proptest! {
    /// Whatever goes in comes out: nulls apart from empties, headers in order, timestamps of any sign.
    #[test]
    fn rc5_rc6_batches_round_trip(seed: u64) {
        let mut g = TestRng::new(seed);
        let records: Vec<OwnedRecord> = (0..=g.next_below(20)).map(|_| random_record(&mut g)).collect();
        let base = records[0].0;
        let mut body = Vec::new();
        for (i, (ts, key, value, headers)) in records.iter().enumerate() {
            let headers = headers.iter().map(|(k, v)| (k.as_str(), v.as_deref()));
            let one = RecordBody::new(key.as_deref(), value.as_deref(), headers);
            let before = body.len();
            one.encode(&mut body, one.measure(i as i32, ts.wrapping_sub(base)));
            prop_assert_eq!(body.len() - before, one.len(i as i32, ts.wrapping_sub(base)));
        }
        let header = BatchHeader {
            base_offset: 100,
            partition_leader_epoch: 3,
            attributes: 0,
            last_offset_delta: records.len() as i32 - 1,
            base_timestamp: base,
            max_timestamp: records.iter().map(|r| r.0).max().unwrap(),
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
        let read = view.records(usize::MAX).unwrap();
        let read = read.to_vec().unwrap();
        prop_assert_eq!(read.len(), records.len());
        for (i, (r, (ts, key, value, headers))) in read.iter().zip(&records).enumerate() {
            prop_assert_eq!(r.offset, 100 + i as i64);
            prop_assert_eq!(r.timestamp, *ts);
            prop_assert_eq!(r.key, key.as_deref());
            prop_assert_eq!(r.value, value.as_deref());
            let want: Vec<_> = headers.iter().map(|(k, v)| (k.as_bytes(), v.as_deref())).collect();
            prop_assert_eq!(&r.headers, &want);
        }
    }
}
