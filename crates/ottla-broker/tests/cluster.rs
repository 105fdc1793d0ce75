//! Tests of a cluster through its core: replication, leaders, the ISR and the high watermark.
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use bytes::Bytes;
use ottla_broker::{BrokerConfig, Core, HandleResult, LocalAddress, MoveLeaderOptions, NewTopic};
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::messages::*;
use ottla_protocol::record::BatchHeader;
use ottla_protocol::{ErrorCode, Request};
use support::{TestProducer, clock_at};

struct ClusterFixture {
    core: Core,
    now_ms: u64,
}

const NO_PRODUCER: TestProducer = TestProducer { id: -1, epoch: -1 };
const PRODUCER: TestProducer = TestProducer { id: 7, epoch: 0 };

/// Returns a batch of one record, which is in no transaction.
fn record_batch(producer: TestProducer, sequence: i32, value: &str) -> Bytes {
    support::record_batch(producer, sequence, value, 0)
}

const COPY_FIRST: MoveLeaderOptions = MoveLeaderOptions { copy_first: true, allow_unclean: false };
const WITHOUT_COPY: MoveLeaderOptions =
    MoveLeaderOptions { copy_first: false, allow_unclean: false };
const UNCLEAN: MoveLeaderOptions = MoveLeaderOptions { copy_first: false, allow_unclean: true };

impl ClusterFixture {
    fn new(nodes: i32, min_isr: &str) -> ClusterFixture {
        let mut config = BrokerConfig::default();
        (config.node_count, config.auto_create_topics) = (nodes, false);
        ClusterFixture::open(config, min_isr)
    }

    fn open(config: BrokerConfig, min_isr: &str) -> ClusterFixture {
        let mut core = Core::new(config, clock_at(0)).unwrap();
        core.set_replica_lag_time_max(100);
        let topic = NewTopic::new("t", 1).config("min.insync.replicas", min_isr);
        let _ = core.create_new_topic(topic, clock_at(0));
        ClusterFixture { core, now_ms: 0 }
    }

    fn send_request<R: Request>(&mut self, node: i32, request: &R, version: i16) -> HandleResult {
        let frame = encode_request(request, version, 7, Some("c")).unwrap();
        let frame = Bytes::from(frame).slice(4..);
        let local = LocalAddress { host: "h".into(), port: 9092 };
        self.core.handle_at_node(node, &frame, &local, self.now_ms, clock_at(self.now_ms))
    }

    fn send_for_response<R: Request>(
        &mut self,
        node: i32,
        request: &R,
        version: i16,
    ) -> R::Response {
        match self.send_request(node, request, version) {
            HandleResult::SendResponse(out) => {
                decode_response::<R>(&Bytes::from(out).slice(4..), version).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    fn produce(&mut self, node: i32, acks: i16, records: Bytes) -> HandleResult {
        self.send_request(node, &produce_request(acks, records), 9)
    }

    /// Returns the error and base offset of a Produce that completes at once.
    fn produce_completed(&mut self, node: i32, acks: i16, records: Bytes) -> (ErrorCode, i64) {
        error_and_offset(&self.send_for_response(node, &produce_request(acks, records), 9))
    }

    /// Sends a Produce with `acks=all` and returns the id under which it waits for replicas.
    fn produce_delayed(&mut self, node: i32, records: Bytes) -> u64 {
        match self.produce(node, -1, records) {
            HandleResult::Delayed { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn try_complete_produce(&mut self, id: u64) -> Option<(ErrorCode, i64)> {
        let result = self.core.try_complete(id, clock_at(self.now_ms))?;
        let HandleResult::SendResponse(out) = result else { panic!("{result:?}") };
        let frame = Bytes::from(out).slice(4..);
        Some(error_and_offset(&decode_response::<ProduceRequest>(&frame, 9).unwrap()))
    }

    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.core.tick(clock_at(self.now_ms));
    }

    fn describe_partition(&self) -> (i32, Vec<i32>, Vec<i64>) {
        let mut p = self.core.describe_partition("t", 0).unwrap();
        p.isr.sort_unstable();
        (p.leader, p.isr, p.log_end_offsets.into_values().collect())
    }

    /// Returns the latest offset that a consumer gets from a node, which is the high watermark.
    fn high_watermark_at(&mut self, node: i32) -> Result<i64, ErrorCode> {
        let partition = ListOffsetsPartition {
            partition_index: 0,
            timestamp: -1,
            current_leader_epoch: -1,
            ..Default::default()
        };
        let topic = ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request =
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let p = self.send_for_response(node, &request, 4).topics[0].partitions[0].clone();
        if p.error_code == 0 { Ok(p.offset) } else { Err(ErrorCode(p.error_code)) }
    }
}

fn produce_request(acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData { index: 0, records: Some(records), ..Default::default() };
    let topic =
        TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 1000, topic_data: vec![topic], ..Default::default() }
}

fn error_and_offset(r: &ProduceResponse) -> (ErrorCode, i64) {
    let p = &r.responses[0].partition_responses[0];
    (ErrorCode(p.error_code), p.base_offset)
}

#[test]
fn followers_replicate_and_only_the_leader_serves_clients() {
    let mut c = ClusterFixture::new(3, "2");
    assert_eq!(
        c.produce_completed(1, -1, record_batch(NO_PRODUCER, -1, "a")),
        (ErrorCode::NONE, 0)
    );
    assert_eq!(c.describe_partition(), (1, vec![1, 2, 3], vec![1, 1, 1]));
    assert_eq!(
        c.produce_completed(2, -1, record_batch(NO_PRODUCER, -1, "b")).0,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        "a follower rejects Produce"
    );
    assert_eq!(c.high_watermark_at(1), Ok(1));
    assert_eq!(c.high_watermark_at(3), Err(ErrorCode::NOT_LEADER_OR_FOLLOWER));
}

#[test]
fn acks_all_waits_for_the_isr_and_acks_1_does_not() {
    let mut c = ClusterFixture::new(3, "1");
    c.core.set_fetch_delay(|_| 30);
    assert_eq!(c.produce_completed(1, 1, record_batch(NO_PRODUCER, -1, "a")), (ErrorCode::NONE, 0));
    assert_eq!(
        c.high_watermark_at(1),
        Ok(0),
        "consumers do not see a record before it is replicated"
    );
    let HandleResult::Delayed { id, deadline_ms } =
        c.produce(1, -1, record_batch(NO_PRODUCER, -1, "b"))
    else {
        panic!("a request with acks=all waits for the followers")
    };
    assert_eq!(deadline_ms, 1000);
    c.advance(29);
    assert_eq!(c.try_complete_produce(id), None);
    c.advance(1);
    assert_eq!(c.try_complete_produce(id), Some((ErrorCode::NONE, 1)));
    assert_eq!(c.high_watermark_at(1), Ok(2));
}

#[test]
fn lagging_follower_leaves_the_isr_and_rejoins() {
    let mut c = ClusterFixture::new(3, "2");
    c.core.set_replication_paused(2, true, clock_at(0));
    c.core.set_replication_paused(3, true, clock_at(0));
    let id = c.produce_delayed(1, record_batch(NO_PRODUCER, -1, "a"));
    c.advance(100);
    assert_eq!(c.describe_partition().1, [1]);
    assert_eq!(
        c.try_complete_produce(id),
        Some((ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, 0)),
        "the batch is appended, but to fewer replicas than required"
    );
    assert_eq!(
        c.produce_completed(1, -1, record_batch(NO_PRODUCER, -1, "b")).0,
        ErrorCode::NOT_ENOUGH_REPLICAS
    );
    c.core.set_replication_paused(2, false, clock_at(c.now_ms));
    c.advance(0);
    assert_eq!(c.describe_partition(), (1, vec![1, 2], vec![1, 1, 0]));
    assert_eq!(
        c.produce_completed(1, -1, record_batch(NO_PRODUCER, -1, "b")),
        (ErrorCode::NONE, 1)
    );
}

#[test]
fn delayed_produce_expires_with_request_timed_out() {
    let mut c = ClusterFixture::new(2, "1");
    c.core.set_replica_lag_time_max(5_000);
    c.core.set_replication_paused(2, true, clock_at(0));
    let id = c.produce_delayed(1, record_batch(NO_PRODUCER, -1, "a"));
    c.advance(999);
    assert_eq!(c.try_complete_produce(id), None);
    c.advance(1);
    assert_eq!(c.try_complete_produce(id).unwrap().0, ErrorCode::REQUEST_TIMED_OUT);
}

// CASES: B7.
#[test]
fn new_leader_has_the_producer_state_of_its_log() {
    let mut c = ClusterFixture::new(2, "1");
    for i in 0..7 {
        assert_eq!(
            c.produce_completed(1, -1, record_batch(PRODUCER, i, "v")),
            (ErrorCode::NONE, i64::from(i))
        );
    }
    c.core.stop_node(1, clock_at(0));
    assert_eq!(c.describe_partition(), (2, vec![2], vec![7, 7]));
    assert_eq!(
        c.produce_completed(2, -1, record_batch(PRODUCER, 2, "v")),
        (ErrorCode::NONE, 2),
        "a retry of one of the last five batches is a duplicate"
    );
    assert_eq!(
        c.produce_completed(2, -1, record_batch(PRODUCER, 1, "v")).0,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        "an older batch is not recognized"
    );
    assert_eq!(c.produce_completed(2, -1, record_batch(PRODUCER, 7, "v")), (ErrorCode::NONE, 7));
    c.core.start_node(1, clock_at(0));
    assert_eq!(c.describe_partition(), (2, vec![1, 2], vec![8, 8]));
}

#[test]
fn unreplicated_batches_and_their_sequences_are_lost_with_the_leader() {
    let mut c = ClusterFixture::new(2, "1");
    assert_eq!(c.produce_completed(1, -1, record_batch(PRODUCER, 0, "a")).0, ErrorCode::NONE);
    c.core.set_fetch_delay(|_| 50);
    assert_eq!(c.produce_completed(1, 1, record_batch(PRODUCER, 1, "b")).0, ErrorCode::NONE);
    let id = c.produce_delayed(1, record_batch(PRODUCER, 2, "c"));
    assert!(c.core.move_leader("t", 0, 2, WITHOUT_COPY, clock_at(0)));
    assert_eq!(
        c.try_complete_produce(id),
        Some((ErrorCode::NOT_LEADER_OR_FOLLOWER, 2)),
        "the offset shows that the old leader appended the batch"
    );
    c.advance(50);
    assert_eq!(
        c.describe_partition(),
        (2, vec![1, 2], vec![1, 1]),
        "the old leader truncates its log"
    );
    assert_eq!(
        c.produce_completed(2, 1, record_batch(PRODUCER, 2, "c")).0,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
    );
    assert_eq!(c.produce_completed(2, 1, record_batch(PRODUCER, 1, "B")), (ErrorCode::NONE, 1));
    c.advance(50);
    assert!(c.core.move_leader("t", 0, 1, COPY_FIRST, clock_at(c.now_ms)));
    assert_eq!(
        c.produce_completed(1, 1, record_batch(PRODUCER, 1, "B")),
        (ErrorCode::NONE, 1),
        "the retry is a duplicate on the next leader"
    );
}

#[test]
fn leader_move_with_copy_first_loses_no_records() {
    let mut c = ClusterFixture::new(2, "1");
    c.core.set_fetch_delay(|_| 50);
    assert_eq!(c.produce_completed(1, 1, record_batch(NO_PRODUCER, -1, "a")).0, ErrorCode::NONE);
    assert!(c.core.move_leader("t", 0, 2, COPY_FIRST, clock_at(0)));
    assert_eq!(c.describe_partition().2, [1, 1]);
}

#[test]
fn last_in_sync_replica_leads_again_unless_an_unclean_election_happens() {
    let mut c = ClusterFixture::new(2, "1");
    c.core.set_replication_paused(2, true, clock_at(0));
    assert_eq!(c.produce_completed(1, 1, record_batch(NO_PRODUCER, -1, "a")).0, ErrorCode::NONE);
    c.advance(100);
    c.core.stop_node(1, clock_at(c.now_ms));
    assert_eq!(c.describe_partition(), (-1, vec![1], vec![1, 0]));
    assert_eq!(c.high_watermark_at(2), Err(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert!(!c.core.move_leader("t", 0, 2, WITHOUT_COPY, clock_at(c.now_ms)));
    c.core.start_node(1, clock_at(c.now_ms));
    assert_eq!(c.describe_partition().0, 1, "the node returns with its log and leads");
    c.core.stop_node(1, clock_at(c.now_ms));
    assert!(c.core.move_leader("t", 0, 2, UNCLEAN, clock_at(c.now_ms)));
    c.core.set_replication_paused(2, false, clock_at(c.now_ms));
    assert_eq!(c.produce_completed(2, 1, record_batch(NO_PRODUCER, -1, "b")), (ErrorCode::NONE, 0));
    c.core.start_node(1, clock_at(c.now_ms));
    c.advance(0);
    assert_eq!(
        c.describe_partition(),
        (2, vec![1, 2], vec![1, 1]),
        "an unclean election loses an acknowledged record"
    );
}

/// The log of every replica is then the leader's, so an epoch that is used again is no conflict.
#[test]
fn restored_topic_keeps_its_id_and_log_and_begins_its_epochs_again() {
    let mut config = BrokerConfig::default();
    (config.node_count, config.auto_create_topics) = (2, false);
    let mut core = Core::new(config, clock_at(0)).unwrap();
    core.set_initial_leader_epoch(100);
    core.create_topic("t", 1, clock_at(0)).unwrap();
    let mut c = ClusterFixture { core, now_ms: 0 };
    c.core.set_replication_paused(2, true, clock_at(0));
    assert_eq!(c.produce_completed(1, 1, record_batch(NO_PRODUCER, -1, "a")).0, ErrorCode::NONE);
    let request = MetadataRequest { topics: None, ..Default::default() };
    let before = c.send_for_response(1, &request, 12).topics.remove(0);
    assert_eq!((before.partitions[0].leader_id, before.partitions[0].leader_epoch), (1, 100));
    assert!(c.core.restore_topic("t", 2, clock_at(0)));
    let after = c.send_for_response(1, &request, 12).topics.remove(0);
    assert_eq!((after.partitions[0].leader_id, after.partitions[0].leader_epoch), (2, 0));
    assert_eq!(after.topic_id, before.topic_id);
    assert_eq!(c.describe_partition().2, [1, 1]);
    assert_eq!(
        c.produce_completed(1, 1, record_batch(NO_PRODUCER, -1, "b")).0,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
    );
    assert_eq!(c.produce_completed(2, 1, record_batch(NO_PRODUCER, -1, "b")), (ErrorCode::NONE, 1));
    assert!(!c.core.restore_topic("t", 1, clock_at(0)), "the epoch is 0 already");
}

#[test]
fn metadata_has_live_brokers_and_new_leaders() {
    let mut c = ClusterFixture::new(3, "2");
    c.core.stop_node(1, clock_at(0));
    let request = MetadataRequest { topics: None, ..Default::default() };
    let m = c.send_for_response(2, &request, 9);
    let nodes: Vec<i32> = m.brokers.iter().map(|b| b.node_id).collect();
    assert_eq!((nodes, m.controller_id), (vec![2, 3], 2));
    let p = &m.topics[0].partitions[0];
    assert_eq!((p.leader_id, p.leader_epoch), (2, 1));
    assert_eq!((&p.replica_nodes[..], &p.isr_nodes[..]), (&[1, 2, 3][..], &[2, 3][..]));
    assert_eq!(p.offline_replicas, [1]);
    assert!(
        matches!(c.send_request(1, &request, 9), HandleResult::CloseConnection(_)),
        "a stopped node closes the connection"
    );
}

#[test]
fn directory_is_recovered_only_with_the_same_number_of_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let config = |nodes| {
        let mut config = BrokerConfig::default();
        (config.node_count, config.data_dir) = (nodes, Some(dir.path().to_owned()));
        config
    };
    let mut c = ClusterFixture::open(config(3), "2");
    for i in 0..3 {
        assert_eq!(c.produce_completed(1, -1, record_batch(PRODUCER, i, "v")).0, ErrorCode::NONE);
    }
    c.core.set_replication_paused(3, true, clock_at(0));
    assert_eq!(c.produce_completed(1, 1, record_batch(PRODUCER, 3, "v")).0, ErrorCode::NONE);
    drop(c);
    let mut c = ClusterFixture::open(config(3), "2");
    let (leader, isr, ends) = c.describe_partition();
    assert_eq!((isr, ends), (vec![1, 2, 3], vec![4, 4, 4]));
    assert_eq!(
        c.produce_completed(leader, -1, record_batch(PRODUCER, 3, "v")),
        (ErrorCode::NONE, 3),
        "the retry is a duplicate after the restart"
    );
    assert_eq!(
        c.produce_completed(leader, -1, record_batch(PRODUCER, 4, "v")),
        (ErrorCode::NONE, 4)
    );
    drop(c);
    for wrong in [1, 2] {
        let e = Core::new(config(wrong), clock_at(0)).unwrap_err();
        assert!(e.to_string().contains("another number of nodes"), "{e}");
    }
}

#[test]
fn stopped_nodes_are_not_in_the_isr_of_a_new_topic() {
    let mut c = ClusterFixture::new(3, "1");
    c.core.stop_node(1, clock_at(0));
    c.core.create_topic("new", 3, clock_at(0)).unwrap();
    for p in 0..3 {
        let p = c.core.describe_partition("new", p).unwrap();
        assert!(p.leader > 1 && !p.isr.contains(&1), "{p:?}");
    }
    c.core.start_node(1, clock_at(0));
    c.advance(0);
    assert_eq!(c.core.describe_partition("new", 0).unwrap().isr.len(), 3);
}

#[test]
fn leader_move_with_copy_first_keeps_the_isr() {
    let mut c = ClusterFixture::new(3, "2");
    c.core.set_fetch_delay(|_| 50);
    assert_eq!(c.produce_completed(1, 1, record_batch(NO_PRODUCER, -1, "a")).0, ErrorCode::NONE);
    assert!(c.core.move_leader("t", 0, 2, COPY_FIRST, clock_at(0)));
    assert_eq!(c.describe_partition(), (2, vec![1, 2, 3], vec![1, 1, 0]));
}

#[test]
fn leader_epoch_increases_across_a_restart_without_appends() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = BrokerConfig::default();
    (config.node_count, config.data_dir) = (2, Some(dir.path().to_owned()));
    let epoch = |c: &mut ClusterFixture| {
        let request = MetadataRequest { topics: None, ..Default::default() };
        c.send_for_response(1, &request, 9).topics[0].partitions[0].leader_epoch
    };
    let mut c = ClusterFixture::open(config.clone(), "1");
    for to in [2, 1, 2] {
        assert!(c.core.move_leader("t", 0, to, COPY_FIRST, clock_at(0)));
    }
    let before = epoch(&mut c);
    drop(c);
    let mut c = ClusterFixture::open(config, "1");
    assert!(epoch(&mut c) > before);
}

#[test]
fn minimum_timestamp_is_appended_without_panic() {
    let mut c = ClusterFixture::new(1, "1");
    let mut bytes = record_batch(NO_PRODUCER, -1, "a").to_vec();
    let header = ottla_protocol::record::BatchHeaderView::parse(&bytes).unwrap().header;
    let (base_timestamp, max_timestamp) = (i64::MIN, i64::MIN);
    let old = BatchHeader { base_timestamp, max_timestamp, ..header };
    let records = bytes.split_off(ottla_protocol::record::BATCH_HEADER_LEN);
    let batch = [&old.encode(&records)[..], &records].concat();
    assert_eq!(c.produce_completed(1, 1, batch.into()).0, ErrorCode::NONE);
}
