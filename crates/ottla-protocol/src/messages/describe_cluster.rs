//! DescribeCluster (60): the cluster's id, controller and brokers.

use crate::wire::message;

impl_request!(DescribeClusterRequest => DescribeClusterResponse, DESCRIBE_CLUSTER);

message! {
    /// Requests the description of the cluster.
    pub struct DescribeClusterRequest {
        /// Whether the response is to contain the operations that the client may do.
        include_cluster_authorized_operations: bool [0..];
        /// The type of the endpoints: 1 brokers, 2 controllers.
        endpoint_type: i8 [1..] = 1;
        /// Whether the response is to contain fenced brokers.
        include_fenced_brokers: bool [2..];
    }
}

message! {
    /// The description of the cluster.
    pub struct DescribeClusterResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The broker's error message; null for none.
        error_message: Option<String> [0..] nullable [0..];
        /// The type of the endpoints: 1 brokers, 2 controllers.
        endpoint_type: i8 [1..] = 1;
        /// The cluster's id.
        cluster_id: String [0..];
        /// The controller's node id, −1 if unknown.
        controller_id: i32 [0..] = -1;
        /// The brokers.
        brokers: Vec<DescribeClusterBroker> [0..];
        /// The allowed operations as a bit set; the minimum i32 if not requested.
        cluster_authorized_operations: i32 [0..] = i32::MIN;
    }
}

message! {
    /// A broker and its address.
    pub struct DescribeClusterBroker {
        /// The broker's node id.
        broker_id: i32 [0..];
        /// The broker's host.
        host: String [0..];
        /// The broker's port.
        port: i32 [0..];
        /// The broker's rack; null for none.
        rack: Option<String> [0..] nullable [0..];
        /// Whether the broker is fenced.
        is_fenced: bool [2..];
    }
}
