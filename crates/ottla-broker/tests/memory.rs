//! Tests that a request takes memory in proportion to its own size. Alone in its process: the
//! allocator counts for all threads.
#![allow(missing_docs, clippy::disallowed_methods)]

mod support;

use std::alloc::System;

use ottla_protocol::header::encode_request;
use ottla_protocol::messages::*;
use ottla_protocol::{ErrorCode, Request};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::*;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PARTITIONS: i32 = 10_000;

/// Sends a request, checks what it allocates, and returns the response.
fn send_measured<R: Request>(b: &mut BrokerFixture, request: &R, version: i16) -> R::Response {
    let request_len = encode_request(request, version, 7, Some("c")).unwrap().len();
    let region = Region::new(GLOBAL);
    let response = b.send(1, request, version);
    let allocated = region.change().bytes_allocated;
    assert!(
        allocated < 100 * request_len,
        "{:?}: {allocated} bytes for a request of {request_len}",
        R::KEY
    );
    response
}

#[test]
fn long_topic_name_is_not_copied_for_each_partition() {
    let mut b = BrokerFixture::new(1, 2);
    let p = b.init().unwrap();
    let name = "n".repeat(30_000);
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
    let all: Vec<i32> = (0..PARTITIONS).collect();

    let offset =
        |partition_index| OffsetCommitRequestPartition { partition_index, ..Default::default() };
    let partitions = all.iter().copied().map(offset).collect();
    let topic = OffsetCommitRequestTopic { name: name.clone(), partitions, ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let topics = send_measured(&mut b, &request, 8).topics;
    assert!(topics[0].partitions.iter().all(|p| p.error_code == unknown));

    let offset =
        |partition_index| TxnOffsetCommitRequestPartition { partition_index, ..Default::default() };
    let partitions = all.iter().copied().map(offset).collect();
    let topic =
        TxnOffsetCommitRequestTopic { name: name.clone(), partitions, ..Default::default() };
    let request = TxnOffsetCommitRequest {
        transactional_id: "tx".into(),
        group_id: "g".into(),
        producer_id: p.id,
        producer_epoch: p.epoch,
        topics: vec![topic],
        ..Default::default()
    };
    let topics = send_measured(&mut b, &request, 5).topics;
    assert!(topics[0].partitions.iter().all(|p| p.error_code == unknown));

    let topic = OffsetFetchRequestTopics {
        name: name.clone(),
        partition_indexes: all.clone(),
        ..Default::default()
    };
    let group = OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
    let groups = send_measured(&mut b, &request, 8).groups;
    assert!(groups[0].topics[0].partitions.iter().all(|p| p.committed_offset == -1));

    let mut request = add_partitions_request(p, &all);
    request.topics[0].name.clone_from(&name);
    let results = send_measured(&mut b, &request, 3).results;
    assert!(results[0].results.iter().all(|p| p.error_code == unknown));

    let topic = WritableTxnMarkerTopic { name, partition_indexes: all, ..Default::default() };
    let marker = WritableTxnMarker {
        producer_id: p.id,
        producer_epoch: p.epoch,
        topics: vec![topic],
        ..Default::default()
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker], ..Default::default() };
    let markers = send_measured(&mut b, &request, 1).markers;
    assert!(markers[0].topics[0].partitions.iter().all(|p| p.error_code == unknown));
}
