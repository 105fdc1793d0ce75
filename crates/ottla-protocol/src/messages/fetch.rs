//! Fetch (1): reads record batches.

use bytes::Bytes;

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(FetchRequest => FetchResponse, FETCH);

message! {
    /// What to read.
    pub struct FetchRequest {
        /// The cluster the asker belongs to; null when it does not know.
        cluster_id: Option<String> [12..] nullable [12..] tag 0;
        /// −1 for a consumer; a follower's node id otherwise.
        replica_id: i32 [4..=14] = -1;
        /// The same, from version 15 (KIP-903).
        replica_state: ReplicaState [15..] tag 1;
        /// Milliseconds to wait for `min_bytes`.
        max_wait_ms: i32 [4..];
        /// Bytes to wait for.
        min_bytes: i32 [4..];
        /// Bytes to answer with at most, the first batch aside.
        max_bytes: i32 [4..] = i32::MAX;
        /// 0 reads everything, 1 only what is committed.
        isolation_level: i8 [4..];
        /// The session (KIP-227), 0 for none.
        session_id: i32 [7..];
        /// The session's epoch, −1 for none.
        session_epoch: i32 [7..] = -1;
        /// What to read, by topic.
        topics: Vec<FetchTopic> [4..];
        /// What the session is to forget.
        forgotten_topics_data: Vec<ForgottenTopic> [7..];
        /// The asker's rack.
        rack_id: String [11..];
    }
}

message! {
    /// A follower, or −1.
    pub struct ReplicaState {
        /// Its node id.
        replica_id: i32 [15..] = -1;
        /// Its epoch.
        replica_epoch: i64 [15..] = -1;
    }
}

message! {
    /// A topic to read.
    pub struct FetchTopic {
        /// Its name, up to version 12.
        topic: String [4..=12];
        /// Its id, from version 13.
        topic_id: Uuid [13..];
        /// Its partitions.
        partitions: Vec<FetchPartition> [4..];
    }
}

message! {
    /// A partition to read.
    pub struct FetchPartition {
        /// Its number.
        partition: i32 [4..];
        /// The leader's epoch as the asker knows it, −1 when unknown.
        current_leader_epoch: i32 [9..] = -1;
        /// The offset to read from.
        fetch_offset: i64 [4..];
        /// The epoch of the last record read, −1 when unknown.
        last_fetched_epoch: i32 [12..] = -1;
        /// A follower's first offset, −1 for a consumer.
        log_start_offset: i64 [5..] = -1;
        /// Bytes to answer with at most, the first batch aside.
        partition_max_bytes: i32 [4..];
        /// The follower's directory.
        replica_directory_id: Uuid [17..] tag 0;
        /// The follower's high watermark.
        high_watermark: i64 [18..] tag 1 = i64::MAX;
    }
}

message! {
    /// A topic the session forgets.
    pub struct ForgottenTopic {
        /// Its name, up to version 12.
        topic: String [7..=12];
        /// Its id, from version 13.
        topic_id: Uuid [13..];
        /// Its partitions.
        partitions: Vec<i32> [7..];
    }
}

message! {
    /// What was read.
    pub struct FetchResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [4..];
        /// Error code, 0 for none.
        error_code: i16 [7..];
        /// The session, 0 for none.
        session_id: i32 [7..];
        /// By topic.
        responses: Vec<FetchableTopicResponse> [4..];
        /// Addresses of the leaders named in `current_leader`.
        node_endpoints: Vec<FetchNodeEndpoint> [16..] tag 0;
    }
}

message! {
    /// A topic's records.
    pub struct FetchableTopicResponse {
        /// Its name, up to version 12.
        topic: String [4..=12];
        /// Its id, from version 13.
        topic_id: Uuid [13..];
        /// By partition.
        partitions: Vec<PartitionData> [4..];
    }
}

message! {
    /// A partition's records.
    pub struct PartitionData {
        /// Its number.
        partition_index: i32 [4..];
        /// Error code, 0 for none.
        error_code: i16 [4..];
        /// The offset behind the last record that is replicated.
        high_watermark: i64 [4..];
        /// The offset behind the last record that is decided.
        last_stable_offset: i64 [4..] = -1;
        /// The first offset the log still has.
        log_start_offset: i64 [5..] = -1;
        /// Where the asker's log parts from the leader's.
        diverging_epoch: FetchEpochEndOffset [12..] tag 0;
        /// The current leader.
        current_leader: FetchLeaderIdAndEpoch [12..] tag 1;
        /// The snapshot to fetch instead.
        snapshot_id: SnapshotId [12..] tag 2;
        /// Transactions that were aborted; null when not asked for.
        aborted_transactions: Option<Vec<AbortedTransaction>> [4..] nullable [4..];
        /// A replica nearer to the asker, −1 for none.
        preferred_read_replica: i32 [11..] = -1;
        /// The batches.
        records: Option<Bytes> [4..] nullable [4..];
    }
}

message! {
    /// Where an epoch ends.
    pub struct FetchEpochEndOffset {
        /// The epoch.
        epoch: i32 [12..] = -1;
        /// The offset behind it.
        end_offset: i64 [12..] = -1;
    }
}

message! {
    /// A partition's leader.
    pub struct FetchLeaderIdAndEpoch {
        /// Its node id.
        leader_id: i32 [12..] = -1;
        /// Its epoch.
        leader_epoch: i32 [12..] = -1;
    }
}

message! {
    /// A snapshot.
    pub struct SnapshotId {
        /// The offset behind it.
        end_offset: i64 [4..] = -1;
        /// Its epoch.
        epoch: i32 [4..] = -1;
    }
}

message! {
    /// A transaction that was aborted.
    pub struct AbortedTransaction {
        /// The producer.
        producer_id: i64 [4..];
        /// Its first offset.
        first_offset: i64 [4..];
    }
}

message! {
    /// Where a node listens.
    pub struct FetchNodeEndpoint {
        /// The node.
        node_id: i32 [16..];
        /// Its host.
        host: String [16..];
        /// Its port.
        port: i32 [16..];
        /// Its rack.
        rack: Option<String> [16..] nullable [16..];
    }
}
