//! The APIs of this crate: key, name, versions and first flexible version.

use std::fmt;

use crate::wire::{Version, Wire};

/// The number of an API. An unknown number is a valid value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKey(pub i16);

/// The description of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// The API's key.
    pub key: ApiKey,
    /// Kafka's name of the API, such as `Produce`.
    pub name: &'static str,
    /// The lowest version that this crate supports.
    pub min_version: i16,
    /// The highest version that this crate supports.
    pub max_version: i16,
    /// The first flexible version (KIP-482); above `max_version` if there is none.
    pub first_flexible_version: i16,
}

/// A request message, with the type of its response.
pub trait Request: Wire {
    /// The request's API.
    const KEY: ApiKey;
    /// The response message.
    type Response: Wire;
}

macro_rules! apis {
    ($(
        $(#[$doc:meta])*
        $konst:ident $name:ident = $key:literal, $min:literal..=$max:literal,
        flexible $flex:literal;
    )*) => {
        #[allow(missing_docs)]
        impl ApiKey {
            $( $(#[$doc])* pub const $konst: ApiKey = ApiKey($key); )*
        }
        /// All APIs of this crate, in order of their keys.
        pub const APIS: &[Api] = &[
            $( Api {
                key: ApiKey($key),
                name: stringify!($name),
                min_version: $min,
                max_version: $max,
                first_flexible_version: $flex,
            }, )*
        ];
    };
}

apis! {
    PRODUCE Produce = 0, 3..=13, flexible 9;
    FETCH Fetch = 1, 4..=18, flexible 12;
    LIST_OFFSETS ListOffsets = 2, 1..=10, flexible 6;
    METADATA Metadata = 3, 0..=13, flexible 9;
    OFFSET_COMMIT OffsetCommit = 8, 2..=10, flexible 8;
    OFFSET_FETCH OffsetFetch = 9, 1..=10, flexible 6;
    FIND_COORDINATOR FindCoordinator = 10, 0..=6, flexible 3;
    JOIN_GROUP JoinGroup = 11, 0..=9, flexible 6;
    HEARTBEAT Heartbeat = 12, 0..=4, flexible 4;
    LEAVE_GROUP LeaveGroup = 13, 0..=5, flexible 4;
    SYNC_GROUP SyncGroup = 14, 0..=5, flexible 4;
    DESCRIBE_GROUPS DescribeGroups = 15, 0..=6, flexible 5;
    LIST_GROUPS ListGroups = 16, 0..=5, flexible 3;
    SASL_HANDSHAKE SaslHandshake = 17, 0..=1, flexible 2;
    API_VERSIONS ApiVersions = 18, 0..=5, flexible 3;
    CREATE_TOPICS CreateTopics = 19, 2..=7, flexible 5;
    DELETE_TOPICS DeleteTopics = 20, 1..=6, flexible 4;
    INIT_PRODUCER_ID InitProducerId = 22, 0..=6, flexible 2;
    OFFSET_FOR_LEADER_EPOCH OffsetForLeaderEpoch = 23, 2..=4, flexible 4;
    ADD_PARTITIONS_TO_TXN AddPartitionsToTxn = 24, 0..=5, flexible 3;
    ADD_OFFSETS_TO_TXN AddOffsetsToTxn = 25, 0..=4, flexible 3;
    END_TXN EndTxn = 26, 0..=5, flexible 3;
    WRITE_TXN_MARKERS WriteTxnMarkers = 27, 1..=2, flexible 1;
    TXN_OFFSET_COMMIT TxnOffsetCommit = 28, 0..=6, flexible 3;
    DESCRIBE_CONFIGS DescribeConfigs = 32, 1..=4, flexible 4;
    SASL_AUTHENTICATE SaslAuthenticate = 36, 0..=2, flexible 2;
    CREATE_PARTITIONS CreatePartitions = 37, 0..=3, flexible 2;
    DESCRIBE_QUORUM DescribeQuorum = 55, 0..=1, flexible 0;
    DESCRIBE_CLUSTER DescribeCluster = 60, 0..=2, flexible 0;
    GET_TELEMETRY_SUBSCRIPTIONS GetTelemetrySubscriptions = 71, 0..=0, flexible 0;
    PUSH_TELEMETRY PushTelemetry = 72, 0..=0, flexible 0;
}

impl ApiKey {
    /// Returns the API's description; `None` for an API that this crate does not support.
    pub fn api(self) -> Option<&'static Api> {
        APIS.iter().find(|a| a.key == self)
    }

    /// Returns Kafka's name of the API, or `unknown`.
    pub fn name(self) -> &'static str {
        self.api().map_or("unknown", |a| a.name)
    }

    /// Returns the version with the encoding that the API uses at it.
    pub fn version(self, number: i16) -> Version {
        Version { number, flexible: self.api().is_some_and(|a| number >= a.first_flexible_version) }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
