//! ApiVersions (18): what a broker speaks (KIP-35, KIP-511).

use crate::wire::message;

impl_request!(ApiVersionsRequest => ApiVersionsResponse, API_VERSIONS);

message! {
    /// Asks what the broker speaks.
    pub struct ApiVersionsRequest {
        /// The client's name.
        client_software_name: String [3..];
        /// The client's version.
        client_software_version: String [3..];
        /// The cluster the client means to reach; null when it does not know.
        cluster_id: Option<String> [5..] nullable [5..];
        /// The node the client means to reach, −1 when it does not know.
        node_id: i32 [5..] = -1;
    }
}

message! {
    /// What the broker speaks.
    pub struct ApiVersionsResponse {
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// The APIs.
        api_keys: Vec<ApiVersion> [0..];
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [1..];
        /// Features the broker can do.
        supported_features: Vec<SupportedFeatureKey> [3..] tag 0;
        /// The epoch of the finalized features, −1 when unknown.
        finalized_features_epoch: i64 [3..] tag 1 = -1;
        /// Features the cluster has settled on (KIP-584).
        finalized_features: Vec<FinalizedFeatureKey> [3..] tag 2;
        /// Whether a migration from ZooKeeper is ready.
        zk_migration_ready: bool [3..] tag 3;
    }
}

message! {
    /// An API's range of versions.
    pub struct ApiVersion {
        /// The API.
        api_key: i16 [0..];
        /// The lowest.
        min_version: i16 [0..];
        /// The highest.
        max_version: i16 [0..];
    }
}

message! {
    /// A feature the broker can do.
    pub struct SupportedFeatureKey {
        /// Its name.
        name: String [3..];
        /// The lowest level.
        min_version: i16 [3..];
        /// The highest level.
        max_version: i16 [3..];
    }
}

message! {
    /// A feature the cluster has settled on.
    pub struct FinalizedFeatureKey {
        /// Its name.
        name: String [3..];
        /// The highest level.
        max_version_level: i16 [3..];
        /// The lowest level.
        min_version_level: i16 [3..];
    }
}
