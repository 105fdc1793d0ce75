//! DescribeQuorum (55): the controllers and their logs (KIP-595, KIP-836).
//!
//! The leader's timestamps are its clock at the time of the response.

use crate::wire::message;

impl_request!(DescribeQuorumRequest => DescribeQuorumResponse, DESCRIBE_QUORUM);

message! {
    /// Requests the state of the quorum.
    pub struct DescribeQuorumRequest {
        /// The topics: `__cluster_metadata`.
        topics: Vec<DescribeQuorumTopic> [0..];
    }
}

message! {
    /// A topic of the quorum.
    pub struct DescribeQuorumTopic {
        /// The name.
        topic_name: String [0..];
        /// The partitions: 0.
        partitions: Vec<DescribeQuorumPartition> [0..];
    }
}

message! {
    /// A partition of the quorum.
    pub struct DescribeQuorumPartition {
        /// The partition number.
        partition_index: i32 [0..];
    }
}

message! {
    /// The state of the quorum.
    pub struct DescribeQuorumResponse {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The topics.
        topics: Vec<DescribeQuorumTopicState> [0..];
    }
}

message! {
    /// The state of a topic.
    pub struct DescribeQuorumTopicState {
        /// The name.
        topic_name: String [0..];
        /// The partitions.
        partitions: Vec<DescribeQuorumPartitionState> [0..];
    }
}

message! {
    /// The state of a partition.
    pub struct DescribeQuorumPartitionState {
        /// The partition number.
        partition_index: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The leader's node id, −1 if unknown.
        leader_id: i32 [0..];
        /// The leader epoch.
        leader_epoch: i32 [0..];
        /// The end of what a majority has.
        high_watermark: i64 [0..];
        /// The controllers that vote.
        current_voters: Vec<QuorumReplicaState> [0..];
        /// The replicas that do not vote: brokers, and controllers that are to join.
        observers: Vec<QuorumReplicaState> [0..];
    }
}

message! {
    /// The log of a replica.
    pub struct QuorumReplicaState {
        /// The node id.
        replica_id: i32 [0..];
        /// The end of its log.
        log_end_offset: i64 [0..];
        /// When it last fetched, in milliseconds since 1970; −1 if unknown.
        last_fetch_timestamp: i64 [1..] = -1;
        /// When it last had the whole log, in milliseconds since 1970; −1 if unknown.
        last_caught_up_timestamp: i64 [1..] = -1;
    }
}
