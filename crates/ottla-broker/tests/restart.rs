//! Tests of what coordinators keep in a data directory over the end of the process.
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use ottla_broker::{CoordinatorType, Core};
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;
use support::groups::*;
use support::*;

/// A directory, and the broker that keeps its state there.
struct RestartFixture {
    dir: tempfile::TempDir,
    nodes: i32,
    version: i16,
}

impl RestartFixture {
    fn new(nodes: i32, version: i16) -> (RestartFixture, BrokerFixture) {
        let dir = tempfile::tempdir().unwrap();
        let b = BrokerFixture::open_dir(dir.path(), nodes, version);
        (RestartFixture { dir, nodes, version }, b)
    }

    fn restart(&self, b: BrokerFixture, pause_ms: u64) -> BrokerFixture {
        b.restart(dir_config(self.dir.path(), self.nodes, self.version), pause_ms)
    }

    /// Returns the only segment of an internal topic.
    fn segment(&self, topic: &str) -> PathBuf {
        let entries = fs::read_dir(self.dir.path().join(format!("{topic}-0"))).unwrap();
        let paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
        assert_eq!(paths.len(), 1, "{paths:?}");
        paths[0].clone()
    }

    fn open_error(&self) -> String {
        Core::new(dir_config(self.dir.path(), self.nodes, self.version), clock_at(0))
            .unwrap_err()
            .to_string()
    }
}

const TRANSACTIONS: &str = "__transaction_state";
const OFFSETS: &str = "__consumer_offsets";

/// Begins a transaction in partition 0 with a record.
fn begin(b: &mut BrokerFixture, version: i16) -> TestProducer {
    let p = b.init().unwrap();
    if version < 2 {
        b.add_partition(p, 0).unwrap();
    }
    b.produce(p, 0, 0, "a", if version < 2 { 11 } else { 12 }).unwrap();
    p
}

#[test]
fn transaction_of_a_killed_broker_times_out_after_the_restart() {
    for (nodes, version) in [(1, 1), (1, 2), (3, 1), (3, 2)] {
        let (f, mut b) = RestartFixture::new(nodes, version);
        let p = begin(&mut b, version);
        b.advance(100);
        let mut b = f.restart(b, 300);
        assert_eq!(b.fetch(0, READ_COMMITTED).last_stable_offset, 0);
        b.advance(500);
        assert_eq!(b.fetch(0, READ_COMMITTED).last_stable_offset, 0, "900 of 1000 ms");
        assert_eq!(b.core.next_deadline(), Some(600));
        b.advance(100);
        let fetched = b.fetch(0, READ_COMMITTED);
        assert_eq!((fetched.last_stable_offset, fetched.aborted), (2, vec![p.id]));
        let end = if version < 2 { b.end(p, true) } else { b.end_v2(p, true).map(|_| ()) };
        assert_eq!(end, Err(ErrorCode::PRODUCER_FENCED));
    }
}

#[test]
fn transaction_that_timed_out_during_the_pause_is_aborted_at_the_first_tick() {
    let (f, mut b) = RestartFixture::new(1, 2);
    let p = begin(&mut b, 2);
    let mut b = f.restart(b, 60_000);
    assert_eq!(b.core.next_deadline(), Some(0));
    b.advance(0);
    assert_eq!(b.fetch(0, READ_COMMITTED).aborted, [p.id]);
}

#[test]
fn producer_commits_its_transaction_after_the_restart() {
    for version in [1, 2] {
        let (f, mut b) = RestartFixture::new(1, version);
        let p = begin(&mut b, version);
        let mut b = f.restart(b, 10);
        b.produce(p, 0, 1, "b", if version < 2 { 11 } else { 12 }).unwrap();
        let end = if version < 2 { b.end(p, true) } else { b.end_v2(p, true).map(|_| ()) };
        assert_eq!(end, Ok(()));
        let fetched = b.fetch(0, READ_COMMITTED);
        assert_eq!((fetched.values, fetched.last_stable_offset), (vec!["a".into(), "b".into()], 3));
    }
}

#[test]
fn prepared_transaction_is_completed_after_the_restart() {
    for (version, committed) in [(1, true), (1, false), (2, true), (2, false)] {
        let (f, mut b) = RestartFixture::new(3, version);
        let p = begin(&mut b, version);
        // No marker is written before the process ends.
        b.core.set_txn_marker_delay(|_: &str, _: i32| 60_000);
        if version < 2 {
            b.end(p, committed).unwrap();
        } else {
            b.end_v2(p, committed).unwrap();
        }
        assert_eq!(b.markers(0), []);
        let mut b = f.restart(b, 10);
        let epoch = if version < 2 { p.epoch } else { p.epoch + 1 };
        assert_eq!(b.markers(0), [(epoch, committed)]);
        let values = b.fetch(0, READ_COMMITTED);
        assert_eq!((values.last_stable_offset, values.aborted.is_empty()), (2, committed));
        // The transaction is complete: the next one begins without a wait.
        let next = b.init().unwrap();
        assert_eq!((next.id, next.epoch), (p.id, epoch + 1));
    }
}

#[test]
fn producer_id_and_epoch_are_kept_over_the_restart_and_fence_the_old_one() {
    let (f, mut b) = RestartFixture::new(1, 1);
    let first = b.init().unwrap();
    let mut b = f.restart(b, 0);
    let second = b.init().unwrap();
    assert_eq!((second.id, second.epoch), (first.id, first.epoch + 1));
    assert_eq!(b.add_partition(first, 0), Err(ErrorCode::PRODUCER_FENCED));
    // Another id is new, though no log of a partition has the ids that were issued.
    let other = InitProducerIdRequest { transactional_id: Some("y".into()), ..init_request(1000) };
    let node = b.core.coordinator(CoordinatorType::Transaction, "y").unwrap();
    let other = b.send(node, &other, 5);
    assert!(other.error_code == 0 && other.producer_id > first.id, "{other:?}");
}

#[test]
fn new_coordinator_is_not_fenced_by_markers_of_the_process_before() {
    let (f, mut b) = RestartFixture::new(2, 2);
    let node = b.coordinator();
    let now = b.now();
    assert!(b.core.move_coordinator(CoordinatorType::Transaction, "tx", node % 2 + 1, now));
    let p = begin(&mut b, 2);
    let p = b.end_v2(p, true).unwrap();
    let mut b = f.restart(b, 0);
    b.produce(p, 0, 0, "b", 12).unwrap();
    b.end_v2(p, true).unwrap();
    assert_eq!(b.markers(0).len(), 2);
    assert_eq!(b.fetch(0, READ_COMMITTED).values, ["a", "b"]);
}

#[test]
fn offsets_of_groups_and_of_open_transactions_are_kept() {
    for committed in [true, false] {
        let (f, mut b) = RestartFixture::new(1, 2);
        commit(&mut b, NO_MEMBER, 0, 3).unwrap();
        let p = b.init().unwrap();
        commit_in_transaction(&mut b, p, NO_MEMBER, 5).unwrap();
        let mut b = f.restart(b, 0);
        assert_eq!(fetch(&mut b, false), Ok(3));
        assert_eq!(fetch(&mut b, true), Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
        b.end_v2(p, committed).unwrap();
        let expected = if committed { 7 } else { 3 };
        assert_eq!(fetch(&mut b, true), Ok(expected));
        let mut b = f.restart(b, 0);
        assert_eq!(fetch(&mut b, true), Ok(expected), "the end of the transaction is kept, too");
    }
}

#[test]
fn prepared_transaction_commits_its_offsets_after_the_restart() {
    let (f, mut b) = RestartFixture::new(1, 1);
    let p = b.init().unwrap();
    add_offsets(&mut b, p).unwrap();
    commit_in_transaction(&mut b, p, NO_MEMBER, 3).unwrap();
    b.core.set_txn_marker_delay(|_: &str, _: i32| 60_000);
    b.end(p, true).unwrap();
    assert_eq!(fetch(&mut b, true), Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
    let mut b = f.restart(b, 0);
    assert_eq!(fetch(&mut b, true), Ok(7));
}

fn heartbeat(b: &mut BrokerFixture, member_id: &str) -> Result<(), ErrorCode> {
    let request = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: member_id.into(),
        ..Default::default()
    };
    let node = group_coordinator(b);
    to_result(b.send(node, &request, 3).error_code)
}

#[test]
fn members_of_a_group_stay_in_it_over_a_restart_until_their_session_times_out() {
    let (f, mut b) = RestartFixture::new(1, 2);
    let id = join_alone(&mut b);
    let mut b = f.restart(b, 60_000);
    b.advance(9_000);
    assert_eq!(heartbeat(&mut b, &id), Ok(()));
    commit(&mut b, CommitMember { id: &id, generation: 1 }, 0, 5).unwrap();
    b.advance(10_000);
    assert_eq!(heartbeat(&mut b, &id), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let mut b = f.restart(b, 0);
    assert_eq!(heartbeat(&mut b, &id), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let node = group_coordinator(&mut b);
    let first = b.send(node, &join_request(""), 5);
    let joined = b.send(node, &join_request(&first.member_id), 5);
    assert_eq!(joined.generation_id, 3, "a generation is never used twice");
    assert_eq!(fetch(&mut b, true), Ok(5));
}

#[test]
fn offsets_of_a_deleted_topic_do_not_come_back() {
    let (f, mut b) = RestartFixture::new(1, 2);
    commit(&mut b, NO_MEMBER, 0, 3).unwrap();
    b.core.delete_topic("t").unwrap();
    let now = b.now();
    b.core.create_topic("t", 3, now).unwrap();
    assert_eq!(fetch(&mut b, false), Ok(-1));
    let mut b = f.restart(b, 0);
    assert_eq!(fetch(&mut b, false), Ok(-1));
}

#[test]
fn clients_cannot_create_the_internal_topics() {
    let (_f, mut b) = RestartFixture::new(1, 2);
    for topic in [TRANSACTIONS, OFFSETS] {
        let now = b.now();
        let e = b.core.create_topic(topic, 1, now).unwrap_err();
        assert_eq!(e.code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
}

#[test]
fn torn_last_write_loses_only_the_last_change() {
    for removed in [1, 30, 70] {
        let (f, mut b) = RestartFixture::new(1, 2);
        commit(&mut b, NO_MEMBER, 0, 3).unwrap();
        let first = b.init().unwrap();
        let sizes = [OFFSETS, TRANSACTIONS].map(|t| f.segment(t).metadata().unwrap().len());
        commit(&mut b, NO_MEMBER, 0, 4).unwrap();
        b.init().unwrap();
        for (topic, size) in [OFFSETS, TRANSACTIONS].into_iter().zip(sizes) {
            let file = fs::OpenOptions::new().write(true).open(f.segment(topic)).unwrap();
            let len = file.metadata().unwrap().len();
            assert!(len - removed > size, "the test removes a part of the last batch");
            file.set_len(len - removed).unwrap();
        }
        let mut b = f.restart(b, 0);
        assert_eq!(fetch(&mut b, false), Ok(3));
        let again = b.init().unwrap();
        assert_eq!((again.id, again.epoch), (first.id, first.epoch + 1));
        commit(&mut b, NO_MEMBER, 0, 5).unwrap();
        let mut b = f.restart(b, 0);
        assert_eq!(fetch(&mut b, false), Ok(5), "the next append follows the last whole batch");
        assert_eq!(b.init().unwrap().epoch, first.epoch + 2);
    }
}

#[test]
fn zeros_at_the_end_are_a_torn_write() {
    let (f, mut b) = RestartFixture::new(1, 2);
    commit(&mut b, NO_MEMBER, 0, 3).unwrap();
    let path = f.segment(OFFSETS);
    let bytes = [fs::read(&path).unwrap(), vec![0; 100]].concat();
    fs::write(&path, bytes).unwrap();
    let mut b = f.restart(b, 0);
    assert_eq!(fetch(&mut b, false), Ok(3));
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_or_foreign_file_is_an_error_that_names_it() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 5] = [
        ("checksum", |bytes| bytes[80] ^= 1),
        // The length of the first batch reaches over the second one.
        ("byte 0", |bytes| bytes[9] = 1),
        ("byte 0", |bytes| *bytes = b"not a log of any broker".to_vec()),
        ("magic", |bytes| *bytes = vec![b'x'; 500]),
        ("out of order", |bytes| bytes[7] = 9),
    ];
    for topic in [OFFSETS, TRANSACTIONS] {
        for (expected, change) in &changes {
            let (f, mut b) = RestartFixture::new(1, 2);
            commit(&mut b, NO_MEMBER, 0, 3).unwrap();
            commit(&mut b, NO_MEMBER, 1, 3).unwrap();
            b.init().unwrap();
            b.init().unwrap();
            drop(b);
            let path = f.segment(topic);
            damage(&path, change);
            let before = fs::read(&path).unwrap();
            let e = f.open_error();
            assert!(e.contains(&*path.to_string_lossy()) && e.contains(expected), "{e}");
            assert!(e.contains("restore the file, or move the directory away"), "{e}");
            assert_eq!(fs::read(&path).unwrap(), before, "the file is left as it is");
        }
    }
}

#[test]
fn log_is_compacted_and_keeps_the_whole_state() {
    let (f, mut b) = RestartFixture::new(1, 2);
    let id = join_alone(&mut b);
    let member = CommitMember { id: &id, generation: 1 };
    let p = b.init().unwrap();
    commit_in_transaction(&mut b, p, NO_MEMBER, 5).unwrap();
    for n in 0..12_000 {
        commit(&mut b, member, 1, n).unwrap();
    }
    let is_compacted = |topic: &str| {
        let path = f.segment(topic);
        path.file_name().unwrap() != "00000000000000000000.log"
            && path.metadata().unwrap().len() < 1 << 20
    };
    assert!(is_compacted(OFFSETS));
    let mut b = f.restart(b, 0);
    assert_eq!(heartbeat(&mut b, &id), Ok(()));
    assert_eq!(fetch(&mut b, true), Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
    let p = b.end_v2(p, true).unwrap();
    let last = (0..12_000).map(|_| b.init().unwrap()).last().unwrap();
    assert!(is_compacted(TRANSACTIONS));
    let mut b = f.restart(b, 0);
    assert_eq!(fetch(&mut b, true), Ok(7));
    let again = b.init().unwrap();
    assert_eq!((again.id, again.epoch), (p.id, last.epoch + 1));
}

#[test]
fn highest_numbers_that_a_client_can_send_do_not_stop_the_next_start() {
    let (f, mut b) = RestartFixture::new(1, 2);
    let p = b.init().unwrap();
    let marker = WritableTxnMarker {
        producer_id: p.id,
        producer_epoch: p.epoch,
        coordinator_epoch: i32::MAX,
        topics: vec![WritableTxnMarkerTopic {
            name: "t".into(),
            partition_indexes: vec![0],
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker], ..Default::default() };
    assert_eq!(b.send(1, &request, 1).markers[0].topics[0].partitions[0].error_code, 0);
    let highest = TestProducer { id: i64::MAX, epoch: 0 };
    b.produce_batch(None, 1, record_batch(highest, 0, "a", 0), 9).unwrap();

    let mut b = f.restart(b, 0);
    let next = b.init().unwrap();
    b.produce(next, 0, 0, "b", 12).unwrap();
    b.end_v2(next, true).unwrap();
    assert_eq!(b.fetch(0, READ_COMMITTED).values, ["b"]);
    for id in ["x", "y"] {
        let id = Some(id.to_owned());
        b.init_request(&InitProducerIdRequest { transactional_id: id, ..init_request(1000) })
            .unwrap();
    }
}

/// Returns the directories of partition 0 of `t`, one for each node.
fn partition_dirs(f: &RestartFixture) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut open = vec![f.dir.path().to_owned()];
    while let Some(dir) = open.pop() {
        if dir.ends_with("t-0") {
            dirs.push(dir);
        } else {
            let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
            open.extend(paths.filter(|path| path.is_dir()));
        }
    }
    assert_eq!(dirs.len(), f.nodes as usize, "{dirs:?}");
    dirs
}

#[test]
fn log_at_the_highest_offset_is_opened_and_takes_no_records() {
    let (f, mut b) = RestartFixture::new(1, 2);
    let p = TestProducer { id: 7, epoch: 0 };
    b.produce_batch(None, 0, record_batch(p, 0, "a", 0), 9).unwrap();
    drop(b);
    let old = partition_dirs(&f)[0].join("00000000000000000000.log");
    damage(&old, |bytes| bytes[..8].copy_from_slice(&i64::MAX.to_be_bytes()));
    fs::rename(&old, old.with_file_name(format!("{:020}.log", i64::MAX))).unwrap();
    let mut b = BrokerFixture::open_dir(f.dir.path(), 1, 2);
    assert_eq!(b.latest_offset(0, READ_UNCOMMITTED), i64::MAX);
    let produced = b.produce_batch(None, 0, record_batch(p, 0, "b", 0), 9);
    assert_eq!(produced, Err(ErrorCode::KAFKA_STORAGE_ERROR));
}

#[test]
fn highest_leader_epoch_in_a_file_does_not_stop_the_start() {
    let (f, mut b) = RestartFixture::new(2, 2);
    let p = TestProducer { id: 7, epoch: 0 };
    b.produce_batch(None, 0, record_batch(p, 0, "a", 0), 9).unwrap();
    drop(b);
    for dir in partition_dirs(&f) {
        damage(&dir.join("00000000000000000000.log"), |bytes| {
            bytes[12..16].copy_from_slice(&i32::MAX.to_be_bytes());
        });
    }
    let mut b = BrokerFixture::open_dir(f.dir.path(), 2, 2);
    let (now, leader) = (b.now(), b.core.describe_partition("t", 0).unwrap().leader);
    b.core.stop_node(leader, now);
    assert_eq!(b.fetch(0, READ_UNCOMMITTED).values, ["a"]);
}
