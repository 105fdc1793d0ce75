//! Metadata (3): brokers, topics, partitions and their leaders.

use crate::uuid::Uuid;
use crate::wire::message;

impl_request!(MetadataRequest => MetadataResponse, METADATA);

message! {
    /// Requests the brokers and the description of topics.
    pub struct MetadataRequest {
        /// The topics; null, or an empty list at version 0, requests all topics.
        topics: Option<Vec<MetadataRequestTopic>> [0..] nullable [1..] = Some(Vec::new());
        /// Whether the broker may create missing topics.
        allow_auto_topic_creation: bool [4..] = true;
        /// Whether the response is to contain the operations that the client may do on the cluster.
        include_cluster_authorized_operations: bool [8..=10];
        /// Whether the response is to contain the operations that the client may do on each topic.
        include_topic_authorized_operations: bool [8..];
    }
}

message! {
    /// A requested topic.
    pub struct MetadataRequestTopic {
        /// The topic's id; zero if it is requested by name.
        topic_id: Uuid [10..];
        /// The topic's name; null if it is requested by id.
        name: Option<String> [0..] nullable [10..] = Some(String::new());
    }
}

message! {
    /// The brokers and topics of the cluster.
    pub struct MetadataResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [3..];
        /// The live brokers.
        brokers: Vec<MetadataResponseBroker> [0..];
        /// The cluster's id; null if unknown.
        cluster_id: Option<String> [2..] nullable [2..];
        /// The controller's node id, −1 if unknown.
        controller_id: i32 [1..] = -1;
        /// The requested topics.
        topics: Vec<MetadataResponseTopic> [0..];
        /// The allowed operations as a bit set; the minimum i32 if not requested.
        cluster_authorized_operations: i32 [8..=10] = i32::MIN;
        /// The error of the whole request, such as REBOOTSTRAP_REQUIRED (KIP-1102); 0 for none.
        error_code: i16 [13..];
    }
}

message! {
    /// A broker and its address.
    pub struct MetadataResponseBroker {
        /// The broker's node id.
        node_id: i32 [0..];
        /// The broker's host.
        host: String [0..];
        /// The broker's port.
        port: i32 [0..];
        /// The broker's rack; null for none.
        rack: Option<String> [1..] nullable [1..];
    }
}

message! {
    /// The description of a topic.
    pub struct MetadataResponseTopic {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The topic's name; null for an unknown id.
        name: Option<String> [0..] nullable [12..] = Some(String::new());
        /// The topic's id.
        topic_id: Uuid [10..];
        /// Whether the topic is internal to Kafka.
        is_internal: bool [1..];
        /// The topic's partitions.
        partitions: Vec<MetadataResponsePartition> [0..];
        /// The allowed operations as a bit set; the minimum i32 if not requested.
        topic_authorized_operations: i32 [8..] = i32::MIN;
    }
}

message! {
    /// The description of a partition.
    pub struct MetadataResponsePartition {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The partition number.
        partition_index: i32 [0..];
        /// The leader's node id, −1 for none.
        leader_id: i32 [0..];
        /// The leader epoch (KIP-320), −1 if unknown.
        leader_epoch: i32 [7..] = -1;
        /// The node ids of all replicas.
        replica_nodes: Vec<i32> [0..];
        /// The node ids of the in-sync replicas.
        isr_nodes: Vec<i32> [0..];
        /// The node ids of the offline replicas.
        offline_replicas: Vec<i32> [5..];
    }
}
