//! DescribeConfigs (32).

use crate::wire::message;

impl_request!(DescribeConfigsRequest => DescribeConfigsResponse, DESCRIBE_CONFIGS);

message! {
    /// What to describe.
    pub struct DescribeConfigsRequest {
        /// Topics, brokers and so on.
        resources: Vec<DescribeConfigsResource> [1..];
        /// Whether to tell where values come from.
        include_synonyms: bool [1..];
        /// Whether to explain them.
        include_documentation: bool [3..];
    }
}

message! {
    /// A topic or broker.
    pub struct DescribeConfigsResource {
        /// 2 topic, 4 broker.
        resource_type: i8 [1..];
        /// Its name.
        resource_name: String [1..];
        /// Keys to describe; null for all.
        configuration_keys: Option<Vec<String>> [1..] nullable [1..];
    }
}

message! {
    /// The settings.
    pub struct DescribeConfigsResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [1..];
        /// By resource.
        results: Vec<DescribeConfigsResult> [1..];
    }
}

message! {
    /// A resource's settings.
    pub struct DescribeConfigsResult {
        /// Error code, 0 for none.
        error_code: i16 [1..];
        /// What the broker says about the error.
        error_message: Option<String> [1..] nullable [1..];
        /// 2 topic, 4 broker.
        resource_type: i8 [1..];
        /// Its name.
        resource_name: String [1..];
        /// Its settings.
        configs: Vec<DescribeConfigsResourceResult> [1..];
    }
}

message! {
    /// A setting.
    pub struct DescribeConfigsResourceResult {
        /// Its name.
        name: String [1..];
        /// Its value.
        value: Option<String> [1..] nullable [1..];
        /// Fixed.
        read_only: bool [1..];
        /// 1 set on the topic, 5 a default.
        config_source: i8 [1..] = -1;
        /// Not to be shown.
        is_sensitive: bool [1..];
        /// Where values come from.
        synonyms: Vec<DescribeConfigsSynonym> [1..];
        /// Its type.
        config_type: i8 [3..];
        /// What it does.
        documentation: Option<String> [3..] nullable [3..];
    }
}

message! {
    /// Where a value comes from.
    pub struct DescribeConfigsSynonym {
        /// Its name.
        name: String [1..];
        /// Its value.
        value: Option<String> [1..] nullable [1..];
        /// As `config_source`.
        source: i8 [1..];
    }
}
