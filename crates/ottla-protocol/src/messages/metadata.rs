//! Metadata (3): brokers, topics, partitions and their leaders.

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(MetadataRequest => MetadataResponse, METADATA);

message! {
    /// Asks about topics.
    pub struct MetadataRequest {
        /// The topics; null asks for all, and so does an empty list at version 0.
        topics: Option<Vec<MetadataRequestTopic>> [0..] nullable [1..] = Some(Vec::new());
        /// Whether the broker may create what is missing.
        allow_auto_topic_creation: bool [4..] = true;
        /// Whether to tell what the asker may do with the cluster.
        include_cluster_authorized_operations: bool [8..=10];
        /// Whether to tell what the asker may do with each topic.
        include_topic_authorized_operations: bool [8..];
    }
}

message! {
    /// A topic asked about.
    pub struct MetadataRequestTopic {
        /// Its id; zero when asked by name.
        topic_id: Uuid [10..];
        /// Its name; null when asked by id.
        name: Option<String> [0..] nullable [10..] = Some(String::new());
    }
}

message! {
    /// What the cluster looks like.
    pub struct MetadataResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [3..];
        /// Live brokers.
        brokers: Vec<MetadataResponseBroker> [0..];
        /// The cluster's id.
        cluster_id: Option<String> [2..] nullable [2..];
        /// The controller's node id, −1 when unknown.
        controller_id: i32 [1..] = -1;
        /// The topics asked for.
        topics: Vec<MetadataResponseTopic> [0..];
        /// Bit set of allowed operations; the least i32 when not asked for.
        cluster_authorized_operations: i32 [8..=10] = i32::MIN;
        /// An error of the whole answer (REBOOTSTRAP_REQUIRED, KIP-1102).
        error_code: i16 [13..];
    }
}

message! {
    /// A broker.
    pub struct MetadataResponseBroker {
        /// Its node id.
        node_id: i32 [0..];
        /// Its host.
        host: String [0..];
        /// Its port.
        port: i32 [0..];
        /// Its rack.
        rack: Option<String> [1..] nullable [1..];
    }
}

message! {
    /// A topic.
    pub struct MetadataResponseTopic {
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// Its name; null when asked by an unknown id.
        name: Option<String> [0..] nullable [12..] = Some(String::new());
        /// Its id.
        topic_id: Uuid [10..];
        /// Whether it belongs to Kafka itself.
        is_internal: bool [1..];
        /// Its partitions.
        partitions: Vec<MetadataResponsePartition> [0..];
        /// Bit set of allowed operations; the least i32 when not asked for.
        topic_authorized_operations: i32 [8..] = i32::MIN;
    }
}

message! {
    /// A partition.
    pub struct MetadataResponsePartition {
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// Its number.
        partition_index: i32 [0..];
        /// Its leader's node id, −1 for none.
        leader_id: i32 [0..];
        /// Its leader's epoch (KIP-320), −1 when unknown.
        leader_epoch: i32 [7..] = -1;
        /// All replicas.
        replica_nodes: Vec<i32> [0..];
        /// Replicas in sync.
        isr_nodes: Vec<i32> [0..];
        /// Replicas that are down.
        offline_replicas: Vec<i32> [5..];
    }
}
