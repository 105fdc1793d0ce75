//! OffsetFetch (9): reads the offsets of groups.

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(OffsetFetchRequest => OffsetFetchResponse, OFFSET_FETCH);

message! {
    /// Requests the offsets of groups.
    pub struct OffsetFetchRequest {
        /// The group, up to version 7.
        group_id: String [1..=7];
        /// The partitions of the group, by topic; null for all.
        topics: Option<Vec<OffsetFetchRequestTopic>> [1..=7] nullable [2..=7];
        /// The groups, from version 8.
        groups: Vec<OffsetFetchRequestGroup> [8..];
        /// Whether the broker reports offsets of open transactions as unstable (KIP-447).
        require_stable: bool [7..];
    }
}

message! {
    /// The partitions of a topic.
    pub struct OffsetFetchRequestTopic {
        /// The topic's name.
        name: String [1..=7];
        /// The partition numbers.
        partition_indexes: Vec<i32> [1..=7];
    }
}

message! {
    /// A group with its partitions.
    pub struct OffsetFetchRequestGroup {
        /// The group.
        group_id: String [8..];
        /// The member's id (KIP-848); null for none.
        member_id: Option<String> [9..] nullable [9..];
        /// The member's epoch, −1 for none.
        member_epoch: i32 [9..] = -1;
        /// The partitions, by topic; null for all.
        topics: Option<Vec<OffsetFetchRequestTopics>> [8..] nullable [8..];
    }
}

message! {
    /// The partitions of a topic of a group.
    pub struct OffsetFetchRequestTopics {
        /// The topic's name, up to version 9.
        name: String [8..=9];
        /// The topic's id, from version 10.
        topic_id: Uuid [10..];
        /// The partition numbers.
        partition_indexes: Vec<i32> [8..];
    }
}

message! {
    /// The offsets of groups.
    pub struct OffsetFetchResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [3..];
        /// The offsets by topic, up to version 7.
        topics: Vec<OffsetFetchResponseTopic> [1..=7];
        /// The error code of the group, 0 for none.
        error_code: i16 [2..=7];
        /// The offsets by group, from version 8.
        groups: Vec<OffsetFetchResponseGroup> [8..];
    }
}

message! {
    /// The offsets of a topic.
    pub struct OffsetFetchResponseTopic {
        /// The topic's name.
        name: String [1..=7];
        /// The offsets by partition.
        partitions: Vec<OffsetFetchResponsePartition> [1..=7];
    }
}

message! {
    /// The offset of a partition.
    pub struct OffsetFetchResponsePartition {
        /// The partition number.
        partition_index: i32 [1..=7];
        /// The committed offset, −1 for none.
        committed_offset: i64 [1..=7];
        /// The leader epoch of the last record read, −1 if unknown.
        committed_leader_epoch: i32 [5..=7] = -1;
        /// The client's metadata; null for none.
        metadata: Option<String> [1..=7] nullable [1..=7];
        /// The error code, 0 for none.
        error_code: i16 [1..=7];
    }
}

message! {
    /// The offsets of a group.
    pub struct OffsetFetchResponseGroup {
        /// The group.
        group_id: String [8..];
        /// The offsets by topic.
        topics: Vec<OffsetFetchResponseTopics> [8..];
        /// The error code, 0 for none.
        error_code: i16 [8..];
    }
}

message! {
    /// The offsets of a topic of a group.
    pub struct OffsetFetchResponseTopics {
        /// The topic's name, up to version 9.
        name: String [8..=9];
        /// The topic's id, from version 10.
        topic_id: Uuid [10..];
        /// The offsets by partition.
        partitions: Vec<OffsetFetchResponsePartitions> [8..];
    }
}

message! {
    /// The offset of a partition of a group.
    pub struct OffsetFetchResponsePartitions {
        /// The partition number.
        partition_index: i32 [8..];
        /// The committed offset, −1 for none.
        committed_offset: i64 [8..];
        /// The leader epoch of the last record read, −1 if unknown.
        committed_leader_epoch: i32 [8..] = -1;
        /// The client's metadata; null for none.
        metadata: Option<String> [8..] nullable [8..];
        /// The error code, 0 for none.
        error_code: i16 [8..];
    }
}
