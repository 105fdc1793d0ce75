//! OffsetForLeaderEpoch (23): the end offset of a leader epoch (KIP-320).

use crate::wire::message;

impl_request!(OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse, OFFSET_FOR_LEADER_EPOCH);

message! {
    /// Requests the end offsets of leader epochs.
    pub struct OffsetForLeaderEpochRequest {
        /// The node id of a follower, −1 for a consumer, −2 for a debugging tool.
        replica_id: i32 [3..] = -2;
        /// By topic.
        topics: Vec<OffsetForLeaderTopic> [2..];
    }
}

message! {
    /// The partitions of a topic.
    pub struct OffsetForLeaderTopic {
        /// The topic's name.
        topic: String [2..];
        /// The partitions.
        partitions: Vec<OffsetForLeaderPartition> [2..];
    }
}

message! {
    /// A partition and the leader epoch to find.
    pub struct OffsetForLeaderPartition {
        /// The partition number.
        partition: i32 [2..];
        /// The leader epoch that the client knows, −1 for none (KIP-320).
        current_leader_epoch: i32 [2..] = -1;
        /// The requested leader epoch.
        leader_epoch: i32 [2..];
    }
}

message! {
    /// The end offsets, by topic and partition.
    pub struct OffsetForLeaderEpochResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [2..];
        /// By topic.
        topics: Vec<OffsetForLeaderTopicResult> [2..];
    }
}

message! {
    /// The results of a topic.
    pub struct OffsetForLeaderTopicResult {
        /// The topic's name.
        topic: String [2..];
        /// The results by partition.
        partitions: Vec<EpochEndOffset> [2..];
    }
}

message! {
    /// The end offset of a leader epoch.
    pub struct EpochEndOffset {
        /// The error code, 0 for none.
        error_code: i16 [2..];
        /// The partition number.
        partition: i32 [2..];
        /// The leader epoch, −1 for none.
        leader_epoch: i32 [2..] = -1;
        /// The offset after the epoch's last record, −1 for none.
        end_offset: i64 [2..] = -1;
    }
}
