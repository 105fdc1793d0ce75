//! Tests that the broker deletes old segments (`retention.bytes`).
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use std::path::Path;

use ottla_broker::NewTopic;
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;
use support::*;

const WITHOUT_ID: TestProducer = TestProducer { id: -1, epoch: -1 };

/// Replaces the topic by one whose segments have about three batches, and that keeps one of them.
fn with_retention(mut b: BrokerFixture) -> BrokerFixture {
    let batch_bytes = record_batch(WITHOUT_ID, -1, "value", 0).len();
    b.core.delete_topic("t").unwrap();
    let topic = NewTopic::new("t", 1)
        .config("segment.bytes", (3 * batch_bytes).to_string())
        .config("retention.bytes", batch_bytes.to_string());
    let now = b.now();
    b.core.create_new_topic(topic, now).unwrap();
    b
}

fn append(b: &mut BrokerFixture, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        let records = record_batch(WITHOUT_ID, -1, &format!("{offset:05}"), 0);
        assert_eq!(b.produce_batch(None, 0, records, 9), Ok(offset));
    }
}

fn earliest_offset(b: &mut BrokerFixture) -> i64 {
    let p = ListOffsetsPartition { timestamp: -2, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![p], ..Default::default() };
    let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
    let leader = b.core.describe_partition("t", 0).unwrap().leader;
    b.send(leader, &request, 7).topics[0].partitions[0].offset
}

/// Checks that what is left are the records from `start` on, and that clients learn where they
/// begin.
fn assert_starts_at(b: &mut BrokerFixture, start: i64, end: i64) {
    assert_eq!(earliest_offset(b), start);
    assert_eq!(b.latest_offset(0, READ_UNCOMMITTED), end);
    let before = b.fetch_from(0, start - 1, READ_UNCOMMITTED);
    assert_eq!(before.error_code, ErrorCode::OFFSET_OUT_OF_RANGE.0);
    let fetched = b.fetch_from(0, start, READ_UNCOMMITTED);
    assert_eq!((fetched.error_code, fetched.log_start_offset), (0, start));
    let offsets: Vec<i64> =
        b.core.batches("t", 0).unwrap().iter().map(|batch| batch.base_offset).collect();
    assert_eq!(offsets, (start..end).collect::<Vec<i64>>());
}

fn segment_files(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir.join("t-0")).unwrap().map(|e| e.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "log")).count()
}

#[test]
fn old_segments_in_memory_are_deleted() {
    let mut b = with_retention(BrokerFixture::new(1, 2));
    append(&mut b, 0..3);
    assert_eq!(earliest_offset(&mut b), 0);
    // The last segment alone has what is to be kept.
    append(&mut b, 3..100);
    assert_starts_at(&mut b, 99, 100);
    append(&mut b, 100..102);
    assert_starts_at(&mut b, 99, 102);
}

#[test]
fn old_segments_on_disk_are_deleted_and_offsets_continue_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut b = with_retention(BrokerFixture::open_dir(dir.path(), 1, 2));
    append(&mut b, 0..100);
    assert_eq!(segment_files(dir.path()), 1);
    let mut b = b.restart(dir_config(dir.path(), 1, 2), 10);
    assert_starts_at(&mut b, 99, 100);
    append(&mut b, 100..103);
    assert_starts_at(&mut b, 102, 103);
}

#[test]
fn segments_that_a_replica_lacks_are_kept_until_it_has_them() {
    let mut b = with_retention(BrokerFixture::new(2, 2));
    let leader = b.core.describe_partition("t", 0).unwrap().leader;
    let (follower, now) = (3 - leader, b.now());
    b.core.set_replication_paused(follower, true, now);
    append(&mut b, 0..10);
    assert_eq!(earliest_offset(&mut b), 0);
    let now = b.now();
    b.core.set_replication_paused(follower, false, now);
    b.advance(1000);
    append(&mut b, 10..11);
    assert_starts_at(&mut b, 9, 11);
    let now = b.now();
    b.core.stop_node(leader, now);
    assert_starts_at(&mut b, 9, 11);
}

#[test]
fn segments_of_an_open_transaction_are_kept() {
    let mut b = with_retention(BrokerFixture::new(1, 2));
    let p = b.init().unwrap();
    b.produce(p, 0, 0, "a", 12).unwrap();
    append(&mut b, 1..10);
    assert_eq!(earliest_offset(&mut b), 0);
    b.end_v2(p, true).unwrap();
    append(&mut b, 11..12);
    assert!(earliest_offset(&mut b) > 0);
}
