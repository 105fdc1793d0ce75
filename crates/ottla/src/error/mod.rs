//! The crate's one error type: its kind, the status of the record, whether a retry may help, and a
//! message for people.
//!
//! Every module creates these errors. `send` returns them, and a [`Delivery`](crate::Delivery), a
//! callback or the delivery handler passes them on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ErrorCode;

/// Whether a record that was not acknowledged may be in the partition's log.
///
/// The status only moves from `NotPersisted` to `PossiblyPersisted`, with one exception: the leader
/// reports `OUT_OF_ORDER_SEQUENCE_NUMBER` for the batch right after the last acknowledged one. This
/// proves that the leader did not append the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordStatus {
    /// The record is in no log: no complete request with it left this process, or the broker
    /// rejected each request before it appended. Sending the record again creates no duplicate.
    NotPersisted,
    /// The record may be in the log: the client sent a request with it and got no response, or the
    /// response does not rule it out. Sending the record again may create a duplicate.
    PossiblyPersisted,
}

/// The category of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is wrong, unknown, or unsupported. The message names the setting.
    Config,
    /// The record breaks a rule and was not sent: its topic, its partition or its timestamp.
    InvalidRecord,
    /// The record is larger than `max.request.size` or `buffer.memory`.
    RecordTooLarge,
    /// A [`Serializer`](crate::Serializer) failed. Its error is this error's `source`.
    Serialization,
    /// Kafka does not allow this topic name, or clients may not write to this topic.
    InvalidTopic,
    /// The metadata for the record's topic or partition did not arrive within `max.block.ms`.
    MetadataTimeout,
    /// `buffer.memory` stayed exhausted for `max.block.ms`.
    BufferExhausted,
    /// `buffer.memory` is exhausted, and the call must not wait: a `try_send`, or a `send` inside a
    /// callback. The name is that of the standard library's `TrySendError::Full`.
    Full,
    /// The producer does not know the topic yet, and the call must not wait. The producer has
    /// requested the topic's metadata.
    NoMetadata,
    /// No broker acknowledged the record within `delivery.timeout.ms`.
    DeliveryTimeout,
    /// Reserved for waits with a timeout of their own; no call returns it yet.
    /// [`Delivery::wait_timeout`](crate::Delivery::wait_timeout) returns the delivery instead.
    WaitTimeout,
    /// A broker rejected the request with this error code of the protocol.
    Broker(i16),
    /// The application discarded the record with [`Producer::purge`](crate::Producer::purge).
    Purged,
    /// A connection failed, and the record has no retries left.
    Network,
    /// The broker does not authorize this principal (`TOPIC_AUTHORIZATION_FAILED`,
    /// `CLUSTER_AUTHORIZATION_FAILED`).
    Authorization,
    /// The broker rejected the client's password, token or certificate, or the client rejected the
    /// broker's certificate.
    Authentication,
    /// The producer is closed, or was closed while the call or the record waited.
    Closed,
    /// The application made a blocking call inside a callback. There it could wait without end: the
    /// callback blocks the thread that delivers the results.
    WouldDeadlock,
    /// The process was forked; this copy of the producer has no threads.
    Forked,
    /// A bug of this crate, or the operating system provides no thread. Please report it.
    Internal,
}

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    status: RecordStatus,
    retriable: bool,
    fatal: bool,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    timings: Option<DeliveryTimings>,
}

/// The time that an unacknowledged record spent in each stage, from `send` to its failure.
///
/// [`Error::timings`] returns it. Its `Display` form lists the stages that took a millisecond or
/// more, as in `4.000 s waiting for memory, 26.000 s in flight`.
///
/// ```
/// fn log_failure(e: &ottla::Error) {
///     match e.timings() {
///         Some(t) => eprintln!("{e}: {} attempts, {t}", t.attempts),
///         None => eprintln!("{e}: the producer never accepted the record"),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryTimings {
    /// The number of produce requests that carried the record.
    pub attempts: u32,
    /// The node id of the broker that received the last of these requests.
    pub last_broker: Option<i32>,
    /// Time that `send` waited for memory before it could open the record's batch.
    pub memory_wait: Duration,
    /// Time in an open batch, for more records (`linger.ms`).
    pub linger: Duration,
    /// Time during which the partition had no leader.
    pub leaderless: Duration,
    /// Time between attempts (`retry.backoff.ms`).
    pub backoff: Duration,
    /// Time during which the broker throttled this client (KIP-219).
    pub throttled: Duration,
    /// Time in requests that waited for a response.
    pub in_flight: Duration,
    /// The rest: time behind other batches, or without a connection or a producer id.
    pub queued: Duration,
}

impl fmt::Display for DeliveryTimings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = [
            (self.memory_wait, "waiting for memory"),
            (self.linger, "lingering"),
            (self.leaderless, "without a leader"),
            (self.backoff, "backing off"),
            (self.throttled, "throttled"),
            (self.in_flight, "in flight"),
            (self.queued, "queued"),
        ];
        let mut separator = "";
        let noticeable = |(time, _): &(Duration, &str)| *time >= Duration::from_millis(1);
        for (time, stage) in stages.into_iter().filter(noticeable) {
            write!(f, "{separator}{:.3} s {stage}", time.as_secs_f64())?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("no time spent")?;
        }
        Ok(())
    }
}

/// Returns a number with its noun: `1 attempt`, `2 attempts`.
pub(crate) fn counted(n: impl fmt::Display, noun: &str) -> String {
    let n = n.to_string();
    let ending = if n == "1" { "" } else { "s" };
    format!("{n} {noun}{ending}")
}

/// The error of every call and of every record.
///
/// One pointer, cheap to clone: all records of a batch share one error. [`kind`](Error::kind) is
/// its category, [`record_status`](Error::record_status) says whether the record may be in the
/// log, and `Display` is a message for people.
///
/// ```
/// use ottla::{Error, ErrorKind, RecordStatus};
///
/// enum Action {
///     SendAgain,
///     CheckForDuplicate,
///     NewProducer,
///     Report,
/// }
///
/// fn action(e: &Error) -> Action {
///     match (e.kind(), e.record_status()) {
///         _ if e.is_fatal() => Action::NewProducer,
///         (ErrorKind::RecordTooLarge | ErrorKind::InvalidRecord, _) => Action::Report,
///         (_, RecordStatus::PossiblyPersisted) => Action::CheckForDuplicate,
///         (_, RecordStatus::NotPersisted) if e.is_retriable() => Action::SendAgain,
///         _ => Action::Report,
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// The error of [`Producer::send`](crate::Producer::send): the producer did not accept the record.
///
/// Its [`record_status`](Error::record_status) is always [`RecordStatus::NotPersisted`].
pub type SendError = Error;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            status: RecordStatus::NotPersisted,
            retriable: matches!(
                kind,
                ErrorKind::BufferExhausted
                    | ErrorKind::MetadataTimeout
                    | ErrorKind::Full
                    | ErrorKind::NoMetadata
                    | ErrorKind::DeliveryTimeout
                    | ErrorKind::Network
                    | ErrorKind::WaitTimeout
            ),
            fatal: matches!(kind, ErrorKind::Closed | ErrorKind::Internal | ErrorKind::Forked),
            message: message.into(),
            source: None,
            timings: None,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, message)
    }

    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the producer is closed")
    }

    /// Creates an error from a broker's error code.
    ///
    /// `broker_message` is the text of the response; without one, the code's description is used.
    /// `location` says which request of which partition or broker failed.
    pub(crate) fn broker(code: ErrorCode, broker_message: Option<&str>, location: &str) -> Error {
        let kind = match code {
            ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
                ErrorKind::Authorization
            }
            ErrorCode::INVALID_TOPIC_EXCEPTION => ErrorKind::InvalidTopic,
            code => ErrorKind::Broker(code.0),
        };
        let reason = match (broker_message, code.description()) {
            (Some(message), _) if !message.is_empty() => message,
            (_, "") => "the broker gave no explanation",
            (_, description) => description,
        };
        let mut e = Error::new(kind, format!("{location}: {code}: {reason}"));
        e.edit(|i| i.retriable = code.is_retriable());
        e
    }

    /// Changes the error. Other owners of the same error keep theirs: this one becomes a copy.
    fn edit(&mut self, f: impl FnOnce(&mut Inner)) {
        f(Arc::make_mut(&mut self.0));
    }

    #[must_use]
    pub(crate) fn with_status(mut self, status: RecordStatus) -> Error {
        self.edit(|i| i.status = status);
        self
    }

    #[must_use]
    pub(crate) fn into_fatal(mut self) -> Error {
        self.edit(|i| i.fatal = true);
        self
    }

    #[must_use]
    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.edit(|i| i.source = Some(source.into().into()));
        self
    }

    /// Puts the location in front of the message, unless the message names it already.
    #[must_use]
    pub(crate) fn with_location(mut self, location: &str) -> Error {
        // A message that names `t-10` does not name `t-1`.
        let is_whole_name = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
        let is_named = self.0.message.split(location).skip(1).any(is_whole_name);
        if !is_named {
            self.edit(|i| i.message = format!("{location}: {}", i.message));
        }
        self
    }

    #[must_use]
    pub(crate) fn with_timings(mut self, timings: DeliveryTimings) -> Error {
        self.edit(|i| i.timings = Some(timings));
        self
    }

    /// Returns how long the record spent in each stage; `None` if the producer did not accept it.
    pub fn timings(&self) -> Option<&DeliveryTimings> {
        self.0.timings.as_ref()
    }

    /// Returns the error's category.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the record may be in the log although it was not acknowledged.
    pub fn record_status(&self) -> RecordStatus {
        self.0.status
    }

    /// Returns whether the same call may succeed later without any change.
    ///
    /// If the [`record_status`](Self::record_status) is [`RecordStatus::PossiblyPersisted`],
    /// sending the record again may create a duplicate.
    pub fn is_retriable(&self) -> bool {
        self.0.retriable
    }

    /// Returns whether this producer can send no more records. Create a new one.
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }

    /// Returns whether the application must abort the open transaction.
    ///
    /// Always false: this producer does not support transactions yet.
    pub fn requires_abort(&self) -> bool {
        false
    }

    /// Returns the broker's error code if the kind is [`ErrorKind::Broker`].
    pub fn code(&self) -> Option<i16> {
        match self.0.kind {
            ErrorKind::Broker(code) => Some(code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if self.0.status == RecordStatus::PossiblyPersisted {
            f.write_str(" (the record may be in the log)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("status", &self.0.status)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}
