//! DescribeConfigs (32): the settings of topics and brokers.

use crate::wire::message;

impl_request!(DescribeConfigsRequest => DescribeConfigsResponse, DESCRIBE_CONFIGS);

message! {
    /// Requests the settings of topics or brokers.
    pub struct DescribeConfigsRequest {
        /// The topics and brokers.
        resources: Vec<DescribeConfigsResource> [1..];
        /// Whether the response is to contain the sources of the values.
        include_synonyms: bool [1..];
        /// Whether the response is to contain the documentation of the settings.
        include_documentation: bool [3..];
    }
}

message! {
    /// A topic or broker whose settings are requested.
    pub struct DescribeConfigsResource {
        /// The type: 2 topic, 4 broker.
        resource_type: i8 [1..];
        /// The name.
        resource_name: String [1..];
        /// The names of the requested settings; null for all.
        configuration_keys: Option<Vec<String>> [1..] nullable [1..];
    }
}

message! {
    /// The settings, by resource.
    pub struct DescribeConfigsResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [1..];
        /// The results by resource.
        results: Vec<DescribeConfigsResult> [1..];
    }
}

message! {
    /// The settings of a topic or broker.
    pub struct DescribeConfigsResult {
        /// The error code, 0 for none.
        error_code: i16 [1..];
        /// The broker's error message; null for none.
        error_message: Option<String> [1..] nullable [1..];
        /// The type: 2 topic, 4 broker.
        resource_type: i8 [1..];
        /// The name.
        resource_name: String [1..];
        /// The settings.
        configs: Vec<DescribeConfigsResourceResult> [1..];
    }
}

message! {
    /// A setting and its value.
    pub struct DescribeConfigsResourceResult {
        /// The name.
        name: String [1..];
        /// The value.
        value: Option<String> [1..] nullable [1..];
        /// Whether the setting cannot be changed.
        read_only: bool [1..];
        /// The source of the value: 1 set on the topic, 5 a default.
        config_source: i8 [1..] = -1;
        /// Whether the value is secret, such as a password.
        is_sensitive: bool [1..];
        /// The sources of the value.
        synonyms: Vec<DescribeConfigsSynonym> [1..];
        /// The setting's type.
        config_type: i8 [3..];
        /// The setting's documentation.
        documentation: Option<String> [3..] nullable [3..];
    }
}

message! {
    /// A source of a value.
    pub struct DescribeConfigsSynonym {
        /// The name.
        name: String [1..];
        /// The value.
        value: Option<String> [1..] nullable [1..];
        /// The source, as in `config_source`.
        source: i8 [1..];
    }
}
