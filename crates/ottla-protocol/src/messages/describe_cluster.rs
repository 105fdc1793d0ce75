//! DescribeCluster (60).

use crate::wire::message;

impl_request!(DescribeClusterRequest => DescribeClusterResponse, DESCRIBE_CLUSTER);

message! {
    /// Asks about the cluster.
    pub struct DescribeClusterRequest {
        /// Whether to tell what the asker may do.
        include_cluster_authorized_operations: bool [0..];
        /// 1 brokers, 2 controllers.
        endpoint_type: i8 [1..] = 1;
        /// Whether to name fenced brokers.
        include_fenced_brokers: bool [2..];
    }
}

message! {
    /// The cluster.
    pub struct DescribeClusterResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// What the broker says about the error.
        error_message: Option<String> [0..] nullable [0..];
        /// 1 brokers, 2 controllers.
        endpoint_type: i8 [1..] = 1;
        /// Its id.
        cluster_id: String [0..];
        /// The controller, −1 when unknown.
        controller_id: i32 [0..] = -1;
        /// The brokers.
        brokers: Vec<DescribeClusterBroker> [0..];
        /// Bit set of allowed operations; the least i32 when not asked for.
        cluster_authorized_operations: i32 [0..] = i32::MIN;
    }
}

message! {
    /// A broker.
    pub struct DescribeClusterBroker {
        /// Its node id.
        broker_id: i32 [0..];
        /// Its host.
        host: String [0..];
        /// Its port.
        port: i32 [0..];
        /// Its rack.
        rack: Option<String> [0..] nullable [0..];
        /// Fenced.
        is_fenced: bool [2..];
    }
}
