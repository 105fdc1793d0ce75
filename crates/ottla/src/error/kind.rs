//! The categories of errors, and whether a failed record may be in the log.

use std::fmt;

use ottla_protocol::ErrorCode;

/// Whether a record that was not acknowledged may be in the partition's log.
///
/// The status only moves from `NotPersisted` to `PossiblyPersisted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordStatus {
    /// The record is in no log: no complete request with it left this process, or the broker
    /// rejected each request before it appended. Sending the record again creates no duplicate.
    NotPersisted,
    /// The record may be in the log: the client sent a request with it and got no response, or the
    /// response does not rule it out. Sending the record again may create a duplicate.
    PossiblyPersisted,
}

impl RecordStatus {
    /// Returns the status as text for counters: `not_persisted` or `possibly_persisted`.
    pub fn as_str(self) -> &'static str {
        match self {
            RecordStatus::NotPersisted => "not_persisted",
            RecordStatus::PossiblyPersisted => "possibly_persisted",
        }
    }
}

impl fmt::Display for RecordStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Defines [`ErrorKind`]: each kind with its documentation and its name in counters.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The category of an [`Error`](crate::Error).
        ///
        /// [`as_str`](ErrorKind::as_str) and `Display` give a short name that does not change
        /// between versions, for counting failures by reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds of this version.
            #[cfg(test)]
            pub(super) const ALL: &[ErrorKind] = &[$(ErrorKind::$kind),*];

            /// Returns the name of the kind: lower case with underscores, like
            /// `delivery_timeout`.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorKind::$kind => $name,)* }
            }
        }
    };
}

error_kinds! {
    /// A setting is wrong, unknown, or unsupported. The message names the setting.
    Config = "config",
    /// The record breaks a rule: its topic, its partition or its timestamp, or a rule of the broker
    /// (`INVALID_RECORD`, `INVALID_TIMESTAMP`).
    InvalidRecord = "invalid_record",
    /// The record is larger than `max.request.size` or `buffer.memory`, or a broker rejected its
    /// batch as larger than the topic's `max.message.bytes`.
    RecordTooLarge = "record_too_large",
    /// A [`Serializer`](crate::serializer::Serializer) failed. Its error is this error's `source`.
    Serialization = "serialization",
    /// Kafka does not allow this topic name, or clients may not write to this topic.
    InvalidTopic = "invalid_topic",
    /// The metadata for the record's topic or partition did not arrive within `max.block.ms`.
    MetadataTimeout = "metadata_timeout",
    /// `buffer.memory` stayed exhausted for `max.block.ms`.
    BufferExhausted = "buffer_exhausted",
    /// `buffer.memory` is exhausted, and the call must not wait: a `try_send`, or a `send` inside a
    /// callback.
    Full = "full",
    /// The producer does not know the topic yet, and the call must not wait. The producer has
    /// requested the topic's metadata.
    NoMetadata = "no_metadata",
    /// No broker acknowledged the record within `delivery.timeout.ms`.
    DeliveryTimeout = "delivery_timeout",
    /// A broker rejected the request. [`Error::code`](crate::Error::code) returns its error code.
    Broker = "broker",
    /// A broker rejected the record's batch because of other records in it (KIP-467). Nothing is
    /// wrong with this record: it can be sent again.
    BatchRejected = "batch_rejected",
    /// The application discarded the record with [`Producer::purge`](crate::Producer::purge).
    Purged = "purged",
    /// A connection failed, and the record has no retries left.
    Network = "network",
    /// The broker does not authorize this principal (`TOPIC_AUTHORIZATION_FAILED`,
    /// `CLUSTER_AUTHORIZATION_FAILED`).
    Authorization = "authorization",
    /// The broker rejected the client's password, token or certificate, or the client rejected the
    /// broker's certificate.
    Authentication = "authentication",
    /// The call is not allowed in the transaction's present state: a record was sent, or a
    /// transaction begun, where the five calls of a transactional producer do not allow it.
    InvalidTransactionState = "invalid_transaction_state",
    /// An earlier error has failed the transaction: [`Error::requires_abort`] is true. The error
    /// that failed it is this error's `source`.
    ///
    /// [`Error::requires_abort`]: crate::Error::requires_abort
    TransactionFailed = "transaction_failed",
    /// The transaction was aborted before the record was sent.
    TransactionAborted = "transaction_aborted",
    /// A transactional call did not end within `max.block.ms`. `init_transactions`, `commit` and
    /// `abort` continue in the background; the same call can be made again and then waits for it.
    /// After `begin_transaction` no transaction has begun, and it can be made again. After
    /// `send_offsets` the offsets may still be added: abort the transaction.
    TransactionTimeout = "transaction_timeout",
    /// Another producer with the same transactional id has taken over (`PRODUCER_FENCED`,
    /// `INVALID_PRODUCER_EPOCH`). This producer can do nothing more.
    Fenced = "fenced",
    /// The producer is closed, or was closed while the call or the record waited.
    Closed = "closed",
    /// The application made a blocking call inside a callback. There it could wait without end: the
    /// callback blocks the thread that delivers the results.
    WouldDeadlock = "would_deadlock",
    /// The process was forked; this copy of the producer has no threads.
    Forked = "forked",
    /// A bug of this crate, or the operating system provides no thread. Please report it.
    Internal = "internal",
}

impl ErrorKind {
    /// Returns the category of a broker's refusal.
    pub(super) fn of_code(code: ErrorCode) -> ErrorKind {
        match code {
            ErrorCode::TOPIC_AUTHORIZATION_FAILED
            | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
            | ErrorCode::GROUP_AUTHORIZATION_FAILED
            | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => ErrorKind::Authorization,
            ErrorCode::SASL_AUTHENTICATION_FAILED | ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                ErrorKind::Authentication
            }
            ErrorCode::PRODUCER_FENCED => ErrorKind::Fenced,
            ErrorCode::INVALID_TOPIC_EXCEPTION => ErrorKind::InvalidTopic,
            ErrorCode::INVALID_RECORD | ErrorCode::INVALID_TIMESTAMP => ErrorKind::InvalidRecord,
            ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => {
                ErrorKind::RecordTooLarge
            }
            _ => ErrorKind::Broker,
        }
    }

    /// Returns whether the same call may succeed later, for errors that no broker caused.
    pub(super) fn is_retriable(self) -> bool {
        matches!(
            self,
            ErrorKind::BufferExhausted
                | ErrorKind::MetadataTimeout
                | ErrorKind::Full
                | ErrorKind::NoMetadata
                | ErrorKind::DeliveryTimeout
                | ErrorKind::Network
                | ErrorKind::BatchRejected
                | ErrorKind::TransactionTimeout
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
