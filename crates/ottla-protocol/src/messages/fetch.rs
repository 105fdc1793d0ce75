//! Fetch (1): reads record batches.

use bytes::Bytes;

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(FetchRequest => FetchResponse, FETCH);

message! {
    /// Requests record batches.
    pub struct FetchRequest {
        /// The id of the cluster that the client expects; null if unknown.
        cluster_id: Option<String> [12..] nullable [12..] tag 0;
        /// The node id of a follower, −1 for a consumer.
        replica_id: i32 [4..=14] = -1;
        /// The follower's node id and epoch, from version 15 (KIP-903).
        replica_state: ReplicaState [15..] tag 1;
        /// Milliseconds for which the broker may wait for `min_bytes`.
        max_wait_ms: i32 [4..];
        /// The smallest response in bytes: the broker waits until it has them.
        min_bytes: i32 [4..];
        /// The largest response in bytes; the first batch may exceed it (KIP-74).
        max_bytes: i32 [4..] = i32::MAX;
        /// The isolation level: 0 reads all records, 1 only those of committed transactions.
        isolation_level: i8 [4..];
        /// The fetch session's id (KIP-227), 0 for none.
        session_id: i32 [7..];
        /// The fetch session's epoch, −1 for none.
        session_epoch: i32 [7..] = -1;
        /// The partitions to read, by topic.
        topics: Vec<FetchTopic> [4..];
        /// The partitions to remove from the fetch session.
        forgotten_topics_data: Vec<ForgottenTopic> [7..];
        /// The client's rack.
        rack_id: String [11..];
    }
}

message! {
    /// The node id and epoch of a follower, −1 for a consumer.
    pub struct ReplicaState {
        /// Its node id.
        replica_id: i32 [15..] = -1;
        /// Its epoch.
        replica_epoch: i64 [15..] = -1;
    }
}

message! {
    /// The partitions of a topic to read.
    pub struct FetchTopic {
        /// The topic's name, up to version 12.
        topic: String [4..=12];
        /// The topic's id, from version 13.
        topic_id: Uuid [13..];
        /// Its partitions.
        partitions: Vec<FetchPartition> [4..];
    }
}

message! {
    /// A partition to read, with the offset.
    pub struct FetchPartition {
        /// The partition number.
        partition: i32 [4..];
        /// The leader epoch that the client knows, −1 for none (KIP-320).
        current_leader_epoch: i32 [9..] = -1;
        /// The offset to read from.
        fetch_offset: i64 [4..];
        /// The leader epoch of the last record that the client has, −1 if unknown.
        last_fetched_epoch: i32 [12..] = -1;
        /// The follower's log start offset, −1 for a consumer.
        log_start_offset: i64 [5..] = -1;
        /// The largest response in bytes; the first batch may exceed it (KIP-74).
        partition_max_bytes: i32 [4..];
        /// The id of the follower's log directory.
        replica_directory_id: Uuid [17..] tag 0;
        /// The follower's high watermark.
        high_watermark: i64 [18..] tag 1 = i64::MAX;
    }
}

message! {
    /// The partitions of a topic to remove from the fetch session.
    pub struct ForgottenTopic {
        /// The topic's name, up to version 12.
        topic: String [7..=12];
        /// The topic's id, from version 13.
        topic_id: Uuid [13..];
        /// Its partitions.
        partitions: Vec<i32> [7..];
    }
}

message! {
    /// The record batches, by topic and partition.
    pub struct FetchResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [4..];
        /// The error code, 0 for none.
        error_code: i16 [7..];
        /// The fetch session's id, 0 for none.
        session_id: i32 [7..];
        /// The results by topic.
        responses: Vec<FetchableTopicResponse> [4..];
        /// The addresses of the nodes in `current_leader`.
        node_endpoints: Vec<FetchNodeEndpoint> [16..] tag 0;
    }
}

message! {
    /// The record batches of a topic.
    pub struct FetchableTopicResponse {
        /// The topic's name, up to version 12.
        topic: String [4..=12];
        /// The topic's id, from version 13.
        topic_id: Uuid [13..];
        /// The results by partition.
        partitions: Vec<PartitionData> [4..];
    }
}

message! {
    /// The record batches of a partition.
    pub struct PartitionData {
        /// The partition number.
        partition_index: i32 [4..];
        /// The error code, 0 for none.
        error_code: i16 [4..];
        /// The high watermark: the offset after the last record that every in-sync replica has.
        high_watermark: i64 [4..];
        /// The last stable offset: all transactions before it are committed or aborted.
        last_stable_offset: i64 [4..] = -1;
        /// The log start offset.
        log_start_offset: i64 [5..] = -1;
        /// The end of the last epoch that the client's log and the leader's log share.
        diverging_epoch: FetchEpochEndOffset [12..] tag 0;
        /// The current leader, if the broker does not lead the partition.
        current_leader: FetchLeaderIdAndEpoch [12..] tag 1;
        /// The snapshot that a follower is to fetch in place of the log.
        snapshot_id: SnapshotId [12..] tag 2;
        /// The aborted transactions; null if not requested.
        aborted_transactions: Option<Vec<AbortedTransaction>> [4..] nullable [4..];
        /// The node id of a replica that is nearer to the client, −1 for none (KIP-392).
        preferred_read_replica: i32 [11..] = -1;
        /// The record batches.
        records: Option<Bytes> [4..] nullable [4..];
    }
}

message! {
    /// An epoch and its end offset.
    pub struct FetchEpochEndOffset {
        /// The epoch.
        epoch: i32 [12..] = -1;
        /// The offset after the last record.
        end_offset: i64 [12..] = -1;
    }
}

message! {
    /// The leader of a partition.
    pub struct FetchLeaderIdAndEpoch {
        /// Its node id.
        leader_id: i32 [12..] = -1;
        /// Its epoch.
        leader_epoch: i32 [12..] = -1;
    }
}

message! {
    /// The id of a snapshot.
    pub struct SnapshotId {
        /// The offset after the last record.
        end_offset: i64 [4..] = -1;
        /// Its epoch.
        epoch: i32 [4..] = -1;
    }
}

message! {
    /// An aborted transaction.
    pub struct AbortedTransaction {
        /// The producer id.
        producer_id: i64 [4..];
        /// The transaction's first offset.
        first_offset: i64 [4..];
    }
}

message! {
    /// The address of a node.
    pub struct FetchNodeEndpoint {
        /// The node id.
        node_id: i32 [16..];
        /// The host.
        host: String [16..];
        /// The port.
        port: i32 [16..];
        /// The rack; null for none.
        rack: Option<String> [16..] nullable [16..];
    }
}
