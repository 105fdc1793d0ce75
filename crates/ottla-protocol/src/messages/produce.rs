//! Produce (0): appends record batches to partitions.

use bytes::Bytes;

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(ProduceRequest => ProduceResponse, PRODUCE);

message! {
    /// Appends record batches.
    pub struct ProduceRequest {
        /// The transactional id; null without a transaction.
        transactional_id: Option<String> [3..] nullable [3..];
        /// The replicas that have the batches before the response: 0, 1, or −1 for the ISR.
        acks: i16 [3..];
        /// Milliseconds for which the broker may wait for the replicas.
        timeout_ms: i32 [3..];
        /// The batches by topic.
        topic_data: Vec<TopicProduceData> [3..];
    }
}

message! {
    /// The batches of a topic.
    pub struct TopicProduceData {
        /// The topic's name, up to version 12.
        name: String [3..=12];
        /// The topic's id, from version 13 (KIP-516).
        topic_id: Uuid [13..];
        /// The batches by partition.
        partition_data: Vec<PartitionProduceData> [3..];
    }
}

message! {
    /// The batch of a partition.
    pub struct PartitionProduceData {
        /// The partition number.
        index: i32 [3..];
        /// The record batch.
        records: Option<Bytes> [3..] nullable [3..];
    }
}

message! {
    /// The results, by topic and partition.
    pub struct ProduceResponse {
        /// The results by topic.
        responses: Vec<TopicProduceResponse> [3..];
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [3..];
        /// The addresses of the nodes in `current_leader` (KIP-951).
        node_endpoints: Vec<ProduceNodeEndpoint> [10..] tag 0;
    }
}

message! {
    /// The results of a topic.
    pub struct TopicProduceResponse {
        /// The topic's name, up to version 12.
        name: String [3..=12];
        /// The topic's id, from version 13.
        topic_id: Uuid [13..];
        /// The results by partition.
        partition_responses: Vec<PartitionProduceResponse> [3..];
    }
}

message! {
    /// The result of a partition.
    pub struct PartitionProduceResponse {
        /// The partition number.
        index: i32 [3..];
        /// The error code, 0 for none.
        error_code: i16 [3..];
        /// The offset of the batch's first record, −1 if unknown.
        base_offset: i64 [3..];
        /// The broker's time in milliseconds since the Unix epoch with LogAppendTime, else −1.
        log_append_time_ms: i64 [3..] = -1;
        /// The log start offset, −1 if unknown.
        log_start_offset: i64 [5..] = -1;
        /// The invalid records (KIP-467).
        record_errors: Vec<BatchIndexAndErrorMessage> [8..];
        /// The broker's error message; null for none.
        error_message: Option<String> [8..] nullable [8..];
        /// The current leader, if the broker does not lead the partition (KIP-951).
        current_leader: ProduceLeaderIdAndEpoch [10..] tag 0;
    }
}

message! {
    /// An invalid record.
    pub struct BatchIndexAndErrorMessage {
        /// The record's index in the batch.
        batch_index: i32 [8..];
        /// The reason; null for none.
        batch_index_error_message: Option<String> [8..] nullable [8..];
    }
}

message! {
    /// The leader of a partition.
    pub struct ProduceLeaderIdAndEpoch {
        /// The leader's node id, −1 if unknown.
        leader_id: i32 [10..] = -1;
        /// The leader epoch, −1 if unknown.
        leader_epoch: i32 [10..] = -1;
    }
}

message! {
    /// The address of a node.
    pub struct ProduceNodeEndpoint {
        /// The node id.
        node_id: i32 [10..];
        /// The host.
        host: String [10..];
        /// The port.
        port: i32 [10..];
        /// The rack; null for none.
        rack: Option<String> [10..] nullable [10..];
    }
}
