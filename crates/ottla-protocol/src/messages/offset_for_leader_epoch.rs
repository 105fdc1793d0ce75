//! OffsetForLeaderEpoch (23): where a leader's epoch ends (KIP-320).

use crate::wire::message;

impl_request!(OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse, OFFSET_FOR_LEADER_EPOCH);

message! {
    /// What to look up.
    pub struct OffsetForLeaderEpochRequest {
        /// −1 for a consumer, −2 for a debugger.
        replica_id: i32 [3..] = -2;
        /// By topic.
        topics: Vec<OffsetForLeaderTopic> [2..];
    }
}

message! {
    /// A topic.
    pub struct OffsetForLeaderTopic {
        /// Its name.
        topic: String [2..];
        /// Its partitions.
        partitions: Vec<OffsetForLeaderPartition> [2..];
    }
}

message! {
    /// A partition.
    pub struct OffsetForLeaderPartition {
        /// Its number.
        partition: i32 [2..];
        /// The leader's epoch as the asker knows it, −1 when unknown.
        current_leader_epoch: i32 [2..] = -1;
        /// The epoch to look up.
        leader_epoch: i32 [2..];
    }
}

message! {
    /// The answer.
    pub struct OffsetForLeaderEpochResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [2..];
        /// By topic.
        topics: Vec<OffsetForLeaderTopicResult> [2..];
    }
}

message! {
    /// A topic's result.
    pub struct OffsetForLeaderTopicResult {
        /// Its name.
        topic: String [2..];
        /// By partition.
        partitions: Vec<EpochEndOffset> [2..];
    }
}

message! {
    /// Where an epoch ends.
    pub struct EpochEndOffset {
        /// Error code, 0 for none.
        error_code: i16 [2..];
        /// The partition.
        partition: i32 [2..];
        /// The epoch, −1 for none.
        leader_epoch: i32 [2..] = -1;
        /// The offset behind it, −1 for none.
        end_offset: i64 [2..] = -1;
    }
}
