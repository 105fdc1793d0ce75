//! Kafka's error codes: names, whether they are retriable, and descriptions for producers.
//!
//! The error messages of `ottla` contain the descriptions.

use std::fmt;

/// An error code of Kafka's protocol; 0 is no error. An unknown code is a valid value.
///
/// ```
/// use ottla_protocol::ErrorCode;
///
/// let code = ErrorCode(6);
/// assert_eq!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
/// assert!(code.is_retriable() && code.is_invalid_metadata());
/// assert_eq!(ErrorCode(4321).to_string(), "error code 4321");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i16);

struct ErrorCodeInfo {
    code: i16,
    name: &'static str,
    retriable: bool,
    invalid_metadata: bool,
    description: &'static str,
}

macro_rules! error_codes {
    // `NAME = code, R M; "description" |`: R for retriable, M for invalid metadata.
    ($(
        $name:ident = $code:literal
        $(, $retriable:ident $($metadata:ident)?)?
        $(; $description:literal)? |
    )*) => {
        #[allow(missing_docs)]
        impl ErrorCode {
            $( pub const $name: ErrorCode = ErrorCode($code); )*
        }
        const ERROR_CODES: &[ErrorCodeInfo] = &[$( ErrorCodeInfo {
            code: $code,
            name: stringify!($name),
            retriable: error_codes!(@flag $($retriable)?),
            invalid_metadata: error_codes!(@flag $($($metadata)?)?),
            description: error_codes!(@text $($description)?),
        }, )*];
    };
    (@flag) => { false };
    (@flag $any:ident) => { true };
    (@text) => { "" };
    (@text $description:literal) => { $description };
}

error_codes! {
    UNKNOWN_SERVER_ERROR = -1;
        "the broker failed for a reason that it does not report; see its log" |
    OFFSET_OUT_OF_RANGE = 1 |
    CORRUPT_MESSAGE = 2, R;
        "the batch was damaged in transit, or a record breaks a rule of the topic" |
    UNKNOWN_TOPIC_OR_PARTITION = 3, R M;
        "the topic or partition does not exist on this broker; create it or check the name" |
    INVALID_FETCH_SIZE = 4 |
    LEADER_NOT_AVAILABLE = 5, R M; "the partition has no leader at the moment" |
    NOT_LEADER_OR_FOLLOWER = 6, R M; "the broker no longer leads the partition" |
    REQUEST_TIMED_OUT = 7, R; "not enough replicas had the batch within the request's timeout" |
    BROKER_NOT_AVAILABLE = 8 |
    REPLICA_NOT_AVAILABLE = 9, R M; "a replica is not available" |
    MESSAGE_TOO_LARGE = 10;
        "the batch is larger than the topic's max.message.bytes" |
    STALE_CONTROLLER_EPOCH = 11 |
    OFFSET_METADATA_TOO_LARGE = 12 |
    NETWORK_EXCEPTION = 13, R M; "the connection closed before the response arrived" |
    COORDINATOR_LOAD_IN_PROGRESS = 14, R; "the coordinator is still loading" |
    COORDINATOR_NOT_AVAILABLE = 15, R; "the coordinator is not available" |
    NOT_COORDINATOR = 16, R; "the broker is not the coordinator" |
    INVALID_TOPIC_EXCEPTION = 17;
        "the topic name is invalid, or clients may not write to the topic" |
    RECORD_LIST_TOO_LARGE = 18;
        "the batch is larger than the topic's segment.bytes" |
    NOT_ENOUGH_REPLICAS = 19, R; "the in-sync replicas are fewer than min.insync.replicas" |
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20, R;
        "the batch is appended, but to fewer replicas than min.insync.replicas" |
    INVALID_REQUIRED_ACKS = 21; "acks must be -1, 0 or 1" |
    ILLEGAL_GENERATION = 22 |
    INCONSISTENT_GROUP_PROTOCOL = 23 |
    INVALID_GROUP_ID = 24 |
    UNKNOWN_MEMBER_ID = 25 |
    INVALID_SESSION_TIMEOUT = 26 |
    REBALANCE_IN_PROGRESS = 27 |
    INVALID_COMMIT_OFFSET_SIZE = 28 |
    TOPIC_AUTHORIZATION_FAILED = 29;
        "the principal may not write to the topic; grant it WRITE on the topic" |
    GROUP_AUTHORIZATION_FAILED = 30 |
    CLUSTER_AUTHORIZATION_FAILED = 31;
        "the principal may not do this on the cluster; grant it IDEMPOTENT_WRITE" |
    INVALID_TIMESTAMP = 32; "a record's timestamp is too far from the broker's clock" |
    UNSUPPORTED_SASL_MECHANISM = 33; "the broker does not support this SASL mechanism" |
    ILLEGAL_SASL_STATE = 34; "a SASL request arrived in the wrong order" |
    UNSUPPORTED_VERSION = 35; "the broker does not support this version of the API" |
    TOPIC_ALREADY_EXISTS = 36 |
    INVALID_PARTITIONS = 37 |
    INVALID_REPLICATION_FACTOR = 38 |
    INVALID_REPLICA_ASSIGNMENT = 39 |
    INVALID_CONFIG = 40 |
    NOT_CONTROLLER = 41, R |
    INVALID_REQUEST = 42; "the broker considers the request invalid" |
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43;
        "the topic's message format does not support these records" |
    POLICY_VIOLATION = 44; "a policy of the broker forbids the request" |
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45;
        "a batch before this one is missing from the partition's log" |
    DUPLICATE_SEQUENCE_NUMBER = 46; "the partition's log already has these records" |
    INVALID_PRODUCER_EPOCH = 47; "the log has a newer epoch of this producer id" |
    INVALID_TXN_STATE = 48; "the state of the transaction does not allow this" |
    INVALID_PRODUCER_ID_MAPPING = 49;
        "the broker does not know the producer id, or another transactional id has it" |
    INVALID_TRANSACTION_TIMEOUT = 50 |
    CONCURRENT_TRANSACTIONS = 51, R; "the transaction before is still being completed" |
    TRANSACTION_COORDINATOR_FENCED = 52 |
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53; "the principal may not use the transactional id" |
    SECURITY_DISABLED = 54 |
    OPERATION_NOT_ATTEMPTED = 55 |
    KAFKA_STORAGE_ERROR = 56, R M; "a disk of the broker failed" |
    LOG_DIR_NOT_FOUND = 57 |
    SASL_AUTHENTICATION_FAILED = 58; "the broker rejected the credentials" |
    UNKNOWN_PRODUCER_ID = 59; "the partition no longer has the state of this producer" |
    REASSIGNMENT_IN_PROGRESS = 60 |
    DELEGATION_TOKEN_AUTH_DISABLED = 61 |
    DELEGATION_TOKEN_NOT_FOUND = 62 |
    DELEGATION_TOKEN_OWNER_MISMATCH = 63 |
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED = 64 |
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65 |
    DELEGATION_TOKEN_EXPIRED = 66 |
    INVALID_PRINCIPAL_TYPE = 67 |
    NON_EMPTY_GROUP = 68 |
    GROUP_ID_NOT_FOUND = 69 |
    FETCH_SESSION_ID_NOT_FOUND = 70, R |
    INVALID_FETCH_SESSION_EPOCH = 71, R |
    LISTENER_NOT_FOUND = 72, R M |
    TOPIC_DELETION_DISABLED = 73 |
    FENCED_LEADER_EPOCH = 74, R M; "the client knows an older leader than the broker" |
    UNKNOWN_LEADER_EPOCH = 75, R |
    UNSUPPORTED_COMPRESSION_TYPE = 76;
        "the broker or this version of Produce does not support the codec" |
    STALE_BROKER_EPOCH = 77 |
    OFFSET_NOT_AVAILABLE = 78, R |
    MEMBER_ID_REQUIRED = 79 |
    PREFERRED_LEADER_NOT_AVAILABLE = 80, R |
    GROUP_MAX_SIZE_REACHED = 81 |
    FENCED_INSTANCE_ID = 82 |
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83, R |
    ELECTION_NOT_NEEDED = 84, R |
    NO_REASSIGNMENT_IN_PROGRESS = 85 |
    GROUP_SUBSCRIBED_TO_TOPIC = 86 |
    INVALID_RECORD = 87; "a record failed the broker's validation" |
    UNSTABLE_OFFSET_COMMIT = 88, R |
    THROTTLING_QUOTA_EXCEEDED = 89, R; "a quota was exceeded" |
    PRODUCER_FENCED = 90; "another producer with the same transactional id has taken over" |
    RESOURCE_NOT_FOUND = 91 |
    DUPLICATE_RESOURCE = 92 |
    UNACCEPTABLE_CREDENTIAL = 93 |
    INCONSISTENT_VOTER_SET = 94 |
    INVALID_UPDATE_VERSION = 95 |
    FEATURE_UPDATE_FAILED = 96 |
    PRINCIPAL_DESERIALIZATION_FAILURE = 97 |
    SNAPSHOT_NOT_FOUND = 98 |
    POSITION_OUT_OF_RANGE = 99 |
    UNKNOWN_TOPIC_ID = 100, R M;
        "the broker does not know the topic id; the topic may have been recreated" |
    DUPLICATE_BROKER_REGISTRATION = 101 |
    BROKER_ID_NOT_REGISTERED = 102 |
    INCONSISTENT_TOPIC_ID = 103, R M; "the topic id does not match the topic's name" |
    INCONSISTENT_CLUSTER_ID = 104 |
    TRANSACTIONAL_ID_NOT_FOUND = 105 |
    FETCH_SESSION_TOPIC_ID_ERROR = 106, R |
    INELIGIBLE_REPLICA = 107 |
    NEW_LEADER_ELECTED = 108 |
    OFFSET_MOVED_TO_TIERED_STORAGE = 109 |
    FENCED_MEMBER_EPOCH = 110 |
    UNRELEASED_INSTANCE_ID = 111 |
    UNSUPPORTED_ASSIGNOR = 112 |
    STALE_MEMBER_EPOCH = 113 |
    MISMATCHED_ENDPOINT_TYPE = 114 |
    UNSUPPORTED_ENDPOINT_TYPE = 115 |
    UNKNOWN_CONTROLLER_ID = 116 |
    UNKNOWN_SUBSCRIPTION_ID = 117 |
    TELEMETRY_TOO_LARGE = 118 |
    INVALID_REGISTRATION = 119 |
    TRANSACTION_ABORTABLE = 120; "the transaction can only be aborted" |
    INVALID_RECORD_STATE = 121 |
    SHARE_SESSION_NOT_FOUND = 122, R |
    INVALID_SHARE_SESSION_EPOCH = 123, R |
    FENCED_STATE_EPOCH = 124 |
    INVALID_VOTER_KEY = 125 |
    DUPLICATE_VOTER = 126 |
    VOTER_NOT_FOUND = 127 |
    INVALID_REGULAR_EXPRESSION = 128 |
    REBOOTSTRAP_REQUIRED = 129; "the client has to connect to its bootstrap servers again" |
    STREAMS_INVALID_TOPOLOGY = 130 |
    STREAMS_INVALID_TOPOLOGY_EPOCH = 131 |
    STREAMS_TOPOLOGY_FENCED = 132 |
    SHARE_SESSION_LIMIT_REACHED = 133, R |
}

impl ErrorCode {
    /// No error.
    pub const NONE: ErrorCode = ErrorCode(0);

    fn info(self) -> Option<&'static ErrorCodeInfo> {
        ERROR_CODES.iter().find(|r| r.code == self.0)
    }

    /// Returns whether this is no error.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns whether this crate knows the code.
    pub fn is_known(self) -> bool {
        self.is_none() || self.info().is_some()
    }

    /// Returns Kafka's name of the code; `None` for an unknown code.
    pub fn name(self) -> Option<&'static str> {
        if self.is_none() { Some("NONE") } else { self.info().map(|r| r.name) }
    }

    /// Returns whether the same request may succeed later; false for an unknown code.
    pub fn is_retriable(self) -> bool {
        self.info().is_some_and(|r| r.retriable)
    }

    /// Returns whether the client's metadata is out of date (Kafka's `InvalidMetadataException`).
    pub fn is_invalid_metadata(self) -> bool {
        self.info().is_some_and(|r| r.invalid_metadata)
    }

    /// Returns a description for a producer's user; empty for codes that producers do not receive.
    pub fn description(self) -> &'static str {
        self.info().map_or("", |r| r.description)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name().unwrap_or("?"), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CASES: B6.
    #[test]
    fn retriable_and_invalid_metadata_flags_equal_those_of_java() {
        let retriable =
            [2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 72, 74, 75, 89, 100, 103];
        let metadata = [3, 5, 6, 9, 13, 56, 72, 74, 100, 103];
        let not_retriable = [
            -1, 10, 17, 18, 21, 29, 30, 31, 32, 33, 34, 35, 42, 43, 44, 45, 46, 47, 48, 49, 50, 53,
            58, 59, 76, 87, 90, 120, 129,
        ];
        for code in retriable {
            assert!(ErrorCode(code).is_retriable(), "{:?}", ErrorCode(code));
            assert_eq!(
                ErrorCode(code).is_invalid_metadata(),
                metadata.contains(&code),
                "{:?}",
                ErrorCode(code)
            );
        }
        for code in not_retriable {
            assert!(!ErrorCode(code).is_retriable(), "{:?}", ErrorCode(code));
            assert!(ErrorCode(code).is_known(), "{code}");
        }
    }

    #[test]
    fn unknown_code_is_not_retriable_and_displays_its_number() {
        let code = ErrorCode(4321);
        assert!(!code.is_known() && !code.is_retriable());
        assert_eq!(code.to_string(), "error code 4321");
        assert_eq!(ErrorCode::NOT_LEADER_OR_FOLLOWER.to_string(), "NOT_LEADER_OR_FOLLOWER");
    }
}
