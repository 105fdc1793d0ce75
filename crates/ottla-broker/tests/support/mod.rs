//! A broker without network, and a producer that sends it one request at a time.
#![allow(dead_code)]

pub(crate) mod groups;

use std::path::Path;

use bytes::Bytes;
use ottla_broker::{BrokerConfig, ClockReading, Core, HandleResult, LocalAddress};
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::messages::*;
use ottla_protocol::record::{BatchHeader, BatchView, Batches, RecordBody, attributes};
use ottla_protocol::{ErrorCode, Request};

/// A broker and the time.
pub(crate) struct BrokerFixture {
    pub(crate) core: Core,
    pub(crate) now_ms: u64,
    /// When the process began: its monotonic clock counts from here.
    started_at_ms: u64,
}

pub(crate) fn clock_at(ms: u64) -> ClockReading {
    ClockReading { mono_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
}

/// A producer: what it sends in its requests and batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TestProducer {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// A partition as a `read_committed` consumer sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FetchedPartition {
    pub(crate) values: Vec<String>,
    pub(crate) last_stable_offset: i64,
    /// The producer ids of the aborted transactions.
    pub(crate) aborted: Vec<i64>,
}

pub(crate) const READ_UNCOMMITTED: i8 = 0;
pub(crate) const READ_COMMITTED: i8 = 1;

impl BrokerFixture {
    /// Creates a cluster with the topic `t` of three partitions.
    pub(crate) fn new(nodes: i32, transaction_version: i16) -> BrokerFixture {
        let mut config = BrokerConfig::default();
        (config.node_count, config.transaction_version) = (nodes, transaction_version);
        BrokerFixture::open(config)
    }

    pub(crate) fn open(config: BrokerConfig) -> BrokerFixture {
        let mut core = Core::new(config, clock_at(0)).unwrap();
        let _ = core.create_topic("t", 3, clock_at(0));
        BrokerFixture { core, now_ms: 0, started_at_ms: 0 }
    }

    /// Opens a cluster that keeps its state in a directory.
    pub(crate) fn open_dir(dir: &Path, nodes: i32, transaction_version: i16) -> BrokerFixture {
        BrokerFixture::open(dir_config(dir, nodes, transaction_version))
    }

    /// Ends the process at once, and starts another one after `pause_ms`.
    pub(crate) fn restart(self, config: BrokerConfig, pause_ms: u64) -> BrokerFixture {
        let started_at_ms = self.now_ms + pause_ms;
        drop(self.core);
        let wall_ms = clock_at(started_at_ms).wall_ms;
        let core = Core::new(config, ClockReading { mono_ms: 0, wall_ms }).unwrap();
        BrokerFixture { core, now_ms: started_at_ms, started_at_ms }
    }

    pub(crate) fn now(&self) -> ClockReading {
        let wall_ms = clock_at(self.now_ms).wall_ms;
        ClockReading { mono_ms: self.now_ms - self.started_at_ms, wall_ms }
    }

    pub(crate) fn send_request<R: Request>(
        &mut self,
        node: i32,
        request: &R,
        version: i16,
    ) -> HandleResult {
        let frame = encode_request(request, version, 7, Some("c")).unwrap();
        let frame = Bytes::from(frame).slice(4..);
        let local = LocalAddress { host: "h".into(), port: 9092 };
        let now = self.now();
        self.core.handle_at_node(node, &frame, &local, now.mono_ms, now)
    }

    pub(crate) fn send<R: Request>(&mut self, node: i32, request: &R, version: i16) -> R::Response {
        match self.send_request(node, request, version) {
            HandleResult::SendResponse(out) => {
                decode_response::<R>(&Bytes::from(out).slice(4..), version).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        let now = self.now();
        self.core.tick(now);
    }

    /// Returns the coordinator of the transactional id `tx`.
    pub(crate) fn coordinator(&mut self) -> i32 {
        let request =
            FindCoordinatorRequest { key: "tx".into(), key_type: 1, ..Default::default() };
        let up = (1..=self.core.node_count()).find(|n| self.core.is_up(*n)).unwrap();
        self.send(up, &request, 3).node_id
    }

    pub(crate) fn init_request(
        &mut self,
        request: &InitProducerIdRequest,
    ) -> Result<TestProducer, ErrorCode> {
        let node = self.coordinator();
        let r = self.send(node, request, 5);
        let producer = TestProducer { id: r.producer_id, epoch: r.producer_epoch };
        to_result(r.error_code).map(|()| producer)
    }

    /// Sends InitProducerId for the transactional id `tx`, with a time-out of one second.
    pub(crate) fn init(&mut self) -> Result<TestProducer, ErrorCode> {
        self.init_request(&init_request(1000))
    }

    pub(crate) fn add_partition(
        &mut self,
        p: TestProducer,
        partition: i32,
    ) -> Result<(), ErrorCode> {
        let node = self.coordinator();
        let r = self.send(node, &add_partitions_request(p, &[partition]), 3);
        to_result(r.results[0].results[0].error_code)
    }

    pub(crate) fn end(&mut self, p: TestProducer, committed: bool) -> Result<(), ErrorCode> {
        let node = self.coordinator();
        to_result(self.send(node, &end_request(p, committed), 4).error_code)
    }

    /// Ends a transaction as a client with transactions V2 does.
    pub(crate) fn end_v2(
        &mut self,
        p: TestProducer,
        committed: bool,
    ) -> Result<TestProducer, ErrorCode> {
        let node = self.coordinator();
        let r = self.send(node, &end_request(p, committed), 5);
        let next = TestProducer { id: r.producer_id, epoch: r.producer_epoch };
        to_result(r.error_code).map(|()| next)
    }

    /// Produces a record of a transaction, with Produce of the given version.
    pub(crate) fn produce(
        &mut self,
        p: TestProducer,
        partition: i32,
        sequence: i32,
        value: &str,
        version: i16,
    ) -> Result<i64, ErrorCode> {
        let records = record_batch(p, sequence, value, attributes::TRANSACTIONAL_FLAG_MASK);
        self.produce_batch(Some("tx"), partition, records, version)
    }

    pub(crate) fn produce_batch(
        &mut self,
        transactional_id: Option<&str>,
        partition: i32,
        records: Bytes,
        version: i16,
    ) -> Result<i64, ErrorCode> {
        let leader = self.core.describe_partition("t", partition).unwrap().leader;
        let request = produce_request(transactional_id, partition, records);
        let r = self.send(leader, &request, version);
        let r = &r.responses[0].partition_responses[0];
        to_result(r.error_code).map(|()| r.base_offset)
    }

    pub(crate) fn fetch(&mut self, partition: i32, isolation_level: i8) -> FetchedPartition {
        let data = self.fetch_from(partition, 0, isolation_level);
        let aborted = data.aborted_transactions.unwrap_or_default();
        FetchedPartition {
            values: values(&data.records.unwrap_or_default()),
            last_stable_offset: data.last_stable_offset,
            aborted: aborted.iter().map(|txn| txn.producer_id).collect(),
        }
    }

    pub(crate) fn fetch_from(
        &mut self,
        partition: i32,
        offset: i64,
        isolation_level: i8,
    ) -> PartitionData {
        let leader = self.core.describe_partition("t", partition).unwrap().leader;
        let p = FetchPartition {
            partition,
            fetch_offset: offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: "t".into(), partitions: vec![p], ..Default::default() };
        let request = FetchRequest {
            max_bytes: 1 << 20,
            isolation_level,
            topics: vec![topic],
            ..Default::default()
        };
        self.send(leader, &request, 11).responses[0].partitions[0].clone()
    }

    /// Returns the latest offset of a partition, as ListOffsets reports it.
    pub(crate) fn latest_offset(&mut self, partition: i32, isolation_level: i8) -> i64 {
        let leader = self.core.describe_partition("t", partition).unwrap().leader;
        let p = ListOffsetsPartition {
            partition_index: partition,
            timestamp: -1,
            ..Default::default()
        };
        let topic =
            ListOffsetsTopic { name: "t".into(), partitions: vec![p], ..Default::default() };
        let request =
            ListOffsetsRequest { isolation_level, topics: vec![topic], ..Default::default() };
        self.send(leader, &request, 7).topics[0].partitions[0].offset
    }

    /// Returns the markers in a partition's log: the producer's epoch, and whether it commits.
    pub(crate) fn markers(&self, partition: i32) -> Vec<(i16, bool)> {
        let batches = self.core.batches("t", partition).unwrap();
        let markers = batches.iter().filter_map(|b| {
            let batch = BatchView::parse(&b.bytes).unwrap();
            if !batch.is_control() {
                return None;
            }
            let marker = ottla_protocol::record::EndTransactionMarker::decode_batch(&batch);
            let committed = marker.unwrap().unwrap().control_type
                == ottla_protocol::record::ControlRecordType::Commit;
            Some((batch.header().producer_epoch, committed))
        });
        markers.collect()
    }
}

pub(crate) fn dir_config(dir: &Path, nodes: i32, transaction_version: i16) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    (config.node_count, config.transaction_version) = (nodes, transaction_version);
    config.data_dir = Some(dir.to_owned());
    config
}

pub(crate) fn to_result(code: i16) -> Result<(), ErrorCode> {
    if code == 0 { Ok(()) } else { Err(ErrorCode(code)) }
}

pub(crate) fn produce_request(
    transactional_id: Option<&str>,
    partition: i32,
    records: Bytes,
) -> ProduceRequest {
    let data =
        PartitionProduceData { index: partition, records: Some(records), ..Default::default() };
    let topic =
        TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest {
        transactional_id: transactional_id.map(str::to_owned),
        acks: 1,
        timeout_ms: 1000,
        topic_data: vec![topic],
        ..Default::default()
    }
}

pub(crate) fn init_request(timeout_ms: i32) -> InitProducerIdRequest {
    InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: timeout_ms,
        ..Default::default()
    }
}

pub(crate) fn add_partitions_request(
    p: TestProducer,
    partitions: &[i32],
) -> AddPartitionsToTxnRequest {
    AddPartitionsToTxnRequest {
        transactional_id: "tx".into(),
        producer_id: p.id,
        producer_epoch: p.epoch,
        topics: vec![AddPartitionsToTxnTopic {
            name: "t".into(),
            partitions: partitions.to_vec(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn end_request(p: TestProducer, committed: bool) -> EndTxnRequest {
    EndTxnRequest {
        transactional_id: "tx".into(),
        producer_id: p.id,
        producer_epoch: p.epoch,
        committed,
        ..Default::default()
    }
}

/// Returns a batch of one record.
pub(crate) fn record_batch(p: TestProducer, sequence: i32, value: &str, attributes: i16) -> Bytes {
    let mut records = Vec::new();
    let no_headers = std::iter::empty::<(&str, Option<&[u8]>)>();
    let body = RecordBody::new(None, Some(value.as_bytes()), no_headers);
    body.encode(&mut records, body.measure(0, 0));
    let header = BatchHeader {
        base_offset: 0,
        partition_leader_epoch: -1,
        attributes,
        last_offset_delta: 0,
        base_timestamp: 1_700_000_000_000,
        max_timestamp: 1_700_000_000_000,
        producer_id: p.id,
        producer_epoch: p.epoch,
        base_sequence: sequence,
        record_count: 1,
    };
    [&header.encode(&records)[..], &records].concat().into()
}

/// Returns the values of the records that are no markers.
fn values(records: &[u8]) -> Vec<String> {
    let batches = Batches::new(records).map(Result::unwrap).filter(|b| !b.is_control());
    let values = batches.flat_map(|b| {
        let records = b.records(1 << 20).unwrap();
        let values = records.to_vec().unwrap().into_iter();
        values.map(|r| String::from_utf8_lossy(r.value.unwrap()).into_owned()).collect::<Vec<_>>()
    });
    values.collect()
}
