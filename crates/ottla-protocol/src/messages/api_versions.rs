//! ApiVersions (18): the API versions that a broker supports (KIP-35, KIP-511).

use crate::wire::message;

impl_request!(ApiVersionsRequest => ApiVersionsResponse, API_VERSIONS);

message! {
    /// Requests the API versions that the broker supports.
    pub struct ApiVersionsRequest {
        /// The name of the client software.
        client_software_name: String [3..];
        /// The version of the client software.
        client_software_version: String [3..];
        /// The id of the cluster that the client expects; null if unknown.
        cluster_id: Option<String> [5..] nullable [5..];
        /// The id of the node that the client expects; −1 if unknown.
        node_id: i32 [5..] = -1;
    }
}

message! {
    /// The API versions that the broker supports.
    pub struct ApiVersionsResponse {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The supported APIs.
        api_keys: Vec<ApiVersion> [0..];
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The features that the broker supports.
        supported_features: Vec<SupportedFeatureKey> [3..] tag 0;
        /// The epoch of the finalized features, −1 if unknown.
        finalized_features_epoch: i64 [3..] tag 1 = -1;
        /// The features that the cluster has finalized (KIP-584).
        finalized_features: Vec<FinalizedFeatureKey> [3..] tag 2;
        /// Whether the controller is ready for a migration from ZooKeeper.
        zk_migration_ready: bool [3..] tag 3;
    }
}

message! {
    /// The supported versions of an API.
    pub struct ApiVersion {
        /// The API's key.
        api_key: i16 [0..];
        /// The lowest supported version.
        min_version: i16 [0..];
        /// The highest supported version.
        max_version: i16 [0..];
    }
}

message! {
    /// A feature that the broker supports.
    pub struct SupportedFeatureKey {
        /// The feature's name.
        name: String [3..];
        /// The lowest level.
        min_version: i16 [3..];
        /// The highest level.
        max_version: i16 [3..];
    }
}

message! {
    /// A feature that the cluster has finalized.
    pub struct FinalizedFeatureKey {
        /// The feature's name.
        name: String [3..];
        /// The highest level.
        max_version_level: i16 [3..];
        /// The lowest level.
        min_version_level: i16 [3..];
    }
}
