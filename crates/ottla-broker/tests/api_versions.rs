//! Every version of the APIs of groups and transactions, from a client that shares no code with the
//! broker: the crate `kafka-protocol` encodes the requests and decodes the responses.
//!
//! A round uses the version with the round's number of each API, or the nearest that the broker
//! has. So the rounds together use all versions, each in a session that works.
#![allow(missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange,
};
use ottla_broker::{HandleResult, LocalAddress};
use ottla_protocol::messages as own;
use support::{BrokerFixture, READ_COMMITTED, TestProducer};

/// The APIs of this test, and the versions that `kafka-protocol` has of each.
const APIS: [(ApiKey, VersionRange); 15] = [
    (ApiKey::FindCoordinator, FindCoordinatorRequest::VERSIONS),
    (ApiKey::JoinGroup, JoinGroupRequest::VERSIONS),
    (ApiKey::SyncGroup, SyncGroupRequest::VERSIONS),
    (ApiKey::Heartbeat, HeartbeatRequest::VERSIONS),
    (ApiKey::LeaveGroup, LeaveGroupRequest::VERSIONS),
    (ApiKey::OffsetCommit, OffsetCommitRequest::VERSIONS),
    (ApiKey::OffsetFetch, OffsetFetchRequest::VERSIONS),
    (ApiKey::DescribeGroups, DescribeGroupsRequest::VERSIONS),
    (ApiKey::ListGroups, ListGroupsRequest::VERSIONS),
    (ApiKey::InitProducerId, InitProducerIdRequest::VERSIONS),
    (ApiKey::AddPartitionsToTxn, AddPartitionsToTxnRequest::VERSIONS),
    (ApiKey::AddOffsetsToTxn, AddOffsetsToTxnRequest::VERSIONS),
    (ApiKey::TxnOffsetCommit, TxnOffsetCommitRequest::VERSIONS),
    (ApiKey::EndTxn, EndTxnRequest::VERSIONS),
    (ApiKey::WriteTxnMarkers, WriteTxnMarkersRequest::VERSIONS),
];
/// Rounds from 0 on: no API has a higher version.
const ROUNDS: i16 = 10;

const MEMBER_ID_REQUIRED: i16 = 79;
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// A client that uses one version of each API.
struct ReferenceClient {
    broker: BrokerFixture,
    round: i16,
    /// The versions that the broker and `kafka-protocol` have, by API key.
    ranges: BTreeMap<i16, (i16, i16)>,
    used: BTreeSet<(i16, i16)>,
}

impl ReferenceClient {
    fn new(round: i16) -> ReferenceClient {
        let broker = BrokerFixture::new(1, 2);
        let mut client =
            ReferenceClient { broker, round, ranges: BTreeMap::new(), used: BTreeSet::new() };
        for (key, min, max) in client.supported() {
            if let Some((_, known)) = APIS.iter().find(|(api, _)| *api as i16 == key) {
                client.ranges.insert(key, (min.max(known.min), max.min(known.max)));
            }
        }
        client
    }

    /// Returns the APIs that the broker names, each with the lowest and highest version.
    fn supported(&mut self) -> Vec<(i16, i16, i16)> {
        let response = self.broker.send(1, &own::ApiVersionsRequest::default(), 0);
        let keys = response.api_keys.iter();
        keys.map(|k| (k.api_key, k.min_version, k.max_version)).collect()
    }

    /// Returns the version of this round.
    fn version<R: Request>(&self) -> i16 {
        let (min, max) = self.ranges[&R::KEY];
        self.round.clamp(min, max)
    }

    fn send<R: Request>(&mut self, request: &R) -> R::Response {
        let version = self.version::<R>();
        self.used.insert((R::KEY, version));
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(text("c")));
        let mut frame = BytesMut::new();
        header.encode(&mut frame, R::header_version(version)).unwrap();
        request.encode(&mut frame, version).unwrap();
        let local = LocalAddress { host: "h".into(), port: 9092 };
        let now = self.broker.now();
        let result = self.broker.core.handle(&frame.freeze(), &local, now.mono_ms, now);
        let HandleResult::SendResponse(frame) = result else {
            panic!("API {} version {version}: {result:?}", R::KEY)
        };
        let mut body = Bytes::from(frame).slice(4..);
        let header =
            ResponseHeader::decode(&mut body, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, 7);
        let response = R::Response::decode(&mut body, version).unwrap();
        assert!(body.is_empty(), "API {} version {version}: {body:?}", R::KEY);
        response
    }
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn group() -> GroupId {
    GroupId(text("g"))
}

fn topic() -> TopicName {
    TopicName(text("t"))
}

fn transactional_id() -> TransactionalId {
    TransactionalId(text("tx"))
}

/// The groups of a client, in the order of its session.
impl ReferenceClient {
    fn find_coordinator(&mut self, key: &str, key_type: i8) {
        let version = self.version::<FindCoordinatorRequest>();
        let mut request = FindCoordinatorRequest::default();
        if version >= 1 {
            request.key_type = key_type;
        } else if key_type != GROUP {
            return;
        }
        if version >= 4 {
            request.coordinator_keys = vec![text(key)];
        } else {
            request.key = text(key);
        }
        let response = self.send(&request);
        let found = match response.coordinators.first() {
            Some(c) => (c.error_code, c.node_id.0),
            None => (response.error_code, response.node_id.0),
        };
        assert_eq!((found, version >= 4), ((0, 1), !response.coordinators.is_empty()), "{key}");
    }

    /// Joins as the only member. Returns its id.
    fn join(&mut self) -> StrBytes {
        let version = self.version::<JoinGroupRequest>();
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"subscription"));
        let mut request = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        if version >= 1 {
            request.rebalance_timeout_ms = 10_000;
        }
        if version >= 4 {
            let refused = self.send(&request);
            assert_eq!(refused.error_code, MEMBER_ID_REQUIRED, "KIP-394");
            request.member_id = refused.member_id;
        }
        if version >= 8 {
            request.reason = Some(text("it starts"));
        }
        let joined = self.send(&request);
        assert_eq!((joined.error_code, joined.generation_id), (0, 1), "version {version}");
        assert_eq!(joined.leader, joined.member_id);
        assert_eq!(joined.members.len(), 1);
        assert_eq!(joined.members[0].metadata, "subscription");
        assert_eq!(joined.protocol_name, Some(text("range")));
        joined.member_id
    }

    fn sync_and_heartbeat(&mut self, member: &StrBytes) {
        let version = self.version::<SyncGroupRequest>();
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment(Bytes::from_static(b"assignment"));
        let mut request = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(1)
            .with_member_id(member.clone())
            .with_assignments(vec![assignment]);
        if version >= 5 {
            request.protocol_type = Some(text("consumer"));
            request.protocol_name = Some(text("range"));
        }
        let synced = self.send(&request);
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"assignment"[..]));
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(1)
            .with_member_id(member.clone());
        assert_eq!(self.send(&heartbeat).error_code, 0);
    }

    fn commit_offset(&mut self, member: &StrBytes, offset: i64) {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("m")));
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(1)
            .with_member_id(member.clone())
            .with_topics(vec![topic]);
        assert_eq!(self.send(&request).topics[0].partitions[0].error_code, 0);
    }

    /// Returns the committed offset of partition 0, and its metadata.
    fn fetch_offset(&mut self) -> (i64, Option<StrBytes>) {
        let version = self.version::<OffsetFetchRequest>();
        let mut request = OffsetFetchRequest::default();
        if version >= 8 {
            let topics = OffsetFetchRequestTopics::default()
                .with_name(topic())
                .with_partition_indexes(vec![0]);
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(group())
                .with_topics(Some(vec![topics]));
            request.groups = vec![group];
        } else {
            let topic = OffsetFetchRequestTopic::default()
                .with_name(topic())
                .with_partition_indexes(vec![0]);
            (request.group_id, request.topics) = (group(), Some(vec![topic]));
        }
        let response = self.send(&request);
        assert_eq!(response.error_code, 0);
        if version >= 8 {
            assert_eq!(response.groups[0].error_code, 0);
            let p = &response.groups[0].topics[0].partitions[0];
            assert_eq!(p.error_code, 0);
            return (p.committed_offset, p.metadata.clone());
        }
        let p = &response.topics[0].partitions[0];
        assert_eq!(p.error_code, 0);
        (p.committed_offset, p.metadata.clone())
    }

    fn describe_and_list(&mut self, member: &StrBytes) {
        let request = DescribeGroupsRequest::default().with_groups(vec![group()]);
        let described = self.send(&request).groups.remove(0);
        assert_eq!((described.error_code, described.group_state), (0, text("Stable")));
        let members = described.members;
        assert_eq!((members.len(), &members[0].member_id), (1, member));
        assert_eq!(members[0].member_assignment, "assignment");
        let version = self.version::<ListGroupsRequest>();
        let mut request = ListGroupsRequest::default();
        if version >= 4 {
            request.states_filter = vec![text("Stable")];
        }
        if version >= 5 {
            request.types_filter = vec![text("classic")];
        }
        let listed = self.send(&request);
        assert_eq!((listed.error_code, listed.groups.len()), (0, 1), "version {version}");
        assert_eq!(listed.groups[0].group_id, group());
    }

    fn leave(&mut self, member: StrBytes) {
        let version = self.version::<LeaveGroupRequest>();
        let mut request = LeaveGroupRequest::default().with_group_id(group());
        if version >= 3 {
            request.members = vec![MemberIdentity::default().with_member_id(member)];
        } else {
            request.member_id = member;
        }
        let left = self.send(&request);
        assert_eq!(left.error_code, 0);
        assert_eq!(left.members.len(), usize::from(version >= 3));
        assert!(left.members.iter().all(|m| m.error_code == 0));
        let request = DescribeGroupsRequest::default().with_groups(vec![group()]);
        assert_eq!(self.send(&request).groups[0].group_state, text("Empty"));
    }
}

/// The transactions of a client.
impl ReferenceClient {
    fn init_producer(&mut self) -> TestProducer {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id()))
            .with_transaction_timeout_ms(10_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let response = self.send(&request);
        assert_eq!(response.error_code, 0);
        TestProducer { id: response.producer_id.0, epoch: response.producer_epoch }
    }

    fn add_partition(&mut self, p: TestProducer) {
        let version = self.version::<AddPartitionsToTxnRequest>();
        let topic = AddPartitionsToTxnTopic::default().with_name(topic()).with_partitions(vec![0]);
        let mut request = AddPartitionsToTxnRequest::default();
        if version >= 4 {
            let transaction = AddPartitionsToTxnTransaction::default()
                .with_transactional_id(transactional_id())
                .with_producer_id(ProducerId(p.id))
                .with_producer_epoch(p.epoch)
                .with_topics(vec![topic]);
            request.transactions = vec![transaction];
        } else {
            request.v3_and_below_transactional_id = transactional_id();
            request.v3_and_below_producer_id = ProducerId(p.id);
            request.v3_and_below_producer_epoch = p.epoch;
            request.v3_and_below_topics = vec![topic];
        }
        let response = self.send(&request);
        assert_eq!(response.error_code, 0);
        let topics = match response.results_by_transaction.first() {
            Some(transaction) => &transaction.topic_results,
            None => &response.results_by_topic_v3_and_below,
        };
        assert_eq!(topics[0].results_by_partition[0].partition_error_code, 0);
    }

    fn add_offset(&mut self, p: TestProducer, offset: i64) {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional_id())
            .with_producer_id(ProducerId(p.id))
            .with_producer_epoch(p.epoch)
            .with_group_id(group());
        assert_eq!(self.send(&request).error_code, 0);
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("in a transaction")));
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic())
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(transactional_id())
            .with_group_id(group())
            .with_producer_id(ProducerId(p.id))
            .with_producer_epoch(p.epoch)
            .with_topics(vec![topic]);
        assert_eq!(self.send(&request).topics[0].partitions[0].error_code, 0);
    }

    /// Commits. Returns the producer of the next transaction.
    fn commit(&mut self, p: TestProducer) -> TestProducer {
        let version = self.version::<EndTxnRequest>();
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional_id())
            .with_producer_id(ProducerId(p.id))
            .with_producer_epoch(p.epoch)
            .with_committed(true);
        let response = self.send(&request);
        assert_eq!(response.error_code, 0);
        if version < 5 {
            return p;
        }
        let next = TestProducer { id: response.producer_id.0, epoch: response.producer_epoch };
        assert_eq!(next, TestProducer { epoch: p.epoch + 1, ..p }, "KIP-890");
        next
    }

    /// Ends an open transaction in a partition, as a coordinator does at another node.
    fn write_abort_marker(&mut self, p: TestProducer) {
        if self.round >= 2 {
            return self.write_abort_marker_2(p);
        }
        let topic =
            WritableTxnMarkerTopic::default().with_name(topic()).with_partition_indexes(vec![0]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(p.id))
            .with_producer_epoch(p.epoch)
            .with_transaction_result(false)
            .with_topics(vec![topic]);
        let response = self.send(&WriteTxnMarkersRequest::default().with_markers(vec![marker]));
        assert_eq!(response.markers[0].topics[0].partitions[0].error_code, 0);
    }

    /// Version 2, which `kafka-protocol` does not know.
    fn write_abort_marker_2(&mut self, p: TestProducer) {
        let topic = own::WritableTxnMarkerTopic {
            name: "t".into(),
            partition_indexes: vec![0],
            ..Default::default()
        };
        let marker = own::WritableTxnMarker {
            producer_id: p.id,
            producer_epoch: p.epoch,
            topics: vec![topic],
            ..Default::default()
        };
        let request = own::WriteTxnMarkersRequest { markers: vec![marker], ..Default::default() };
        let response = self.broker.send(1, &request, 2);
        assert_eq!(response.markers[0].topics[0].partitions[0].error_code, 0);
    }
}

#[test]
fn every_version_of_group_and_transaction_apis_is_served() {
    let mut used = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut client = ReferenceClient::new(round);
        client.find_coordinator("g", GROUP);
        let member = client.join();
        client.sync_and_heartbeat(&member);
        client.commit_offset(&member, 5);
        assert_eq!(client.fetch_offset(), (5, Some(text("m"))));
        client.describe_and_list(&member);

        client.find_coordinator("tx", TRANSACTION);
        let p = client.init_producer();
        client.add_partition(p);
        client.broker.produce(p, 0, 0, "committed", 11).unwrap();
        client.add_offset(p, 9);
        assert_eq!(client.fetch_offset().0, 5, "the transaction is open");
        let next = client.commit(p);
        assert_eq!(client.fetch_offset(), (9, Some(text("in a transaction"))));
        client.add_partition(next);
        let sequence = i32::from(next == p);
        client.broker.produce(next, 0, sequence, "aborted", 11).unwrap();
        client.write_abort_marker(next);
        let fetched = client.broker.fetch(0, READ_COMMITTED);
        assert_eq!((fetched.values.len(), &*fetched.aborted), (2, &[next.id][..]));
        client.leave(member);
        used.append(&mut client.used);
    }
    let mut client = ReferenceClient::new(0);
    let ranges = client.ranges.iter();
    let expected: BTreeSet<(i16, i16)> =
        ranges.flat_map(|(key, (min, max))| (*min..=*max).map(|v| (*key, v))).collect();
    assert_eq!((client.ranges.len(), used), (APIS.len(), expected));
    // The versions that `kafka-protocol` does not know.
    let newer = client.supported().into_iter().filter_map(|(key, min, max)| {
        let (_, known) = APIS.iter().find(|(api, _)| *api as i16 == key)?;
        (min < known.min || max > known.max).then_some((key, min, max))
    });
    let write_txn_markers = ApiKey::WriteTxnMarkers as i16;
    assert_eq!(newer.collect::<Vec<_>>(), [(write_txn_markers, 1, 2)], "round 2 has version 2");
}
