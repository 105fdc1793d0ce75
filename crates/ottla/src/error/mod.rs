//! One error for everything: a kind, what is known of the record, whether trying again may help, and a
//! sentence a person can act on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ErrorCode;

/// What is known of a record that was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordStatus {
    /// It is in no log: no request with it left this process whole, or each was refused.
    NotPersisted,
    /// It may be in the log: a request was sent and its answer lost, or the answer leaves it open.
    PossiblyPersisted,
}

/// What went wrong, by who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is wrong, unknown, or cannot be honoured.
    Config,
    /// A record breaks a rule before it is ever sent: topic, partition, timestamp.
    InvalidRecord,
    /// A record is larger than `max.request.size` or `buffer.memory`.
    RecordTooLarge,
    /// A serializer refused.
    Serialization,
    /// The topic is not one Kafka allows.
    InvalidTopic,
    /// What is needed to route the record did not arrive within `max.block.ms`.
    MetadataTimeout,
    /// No memory came free within `max.block.ms`.
    BufferExhausted,
    /// `try_send` would have had to wait for memory.
    Full,
    /// `try_send` does not know the topic yet; it has been asked for.
    NoMetadata,
    /// The record was not acknowledged within `delivery.timeout.ms`.
    DeliveryTimeout,
    /// A wait by the application ended first; the record is still on its way.
    WaitTimeout,
    /// A broker refused with this code (0 is none).
    Broker(i16),
    /// The application gave the record up with [`crate::Producer::purge`].
    Purged,
    /// A connection failed, and trying again is not allowed any more.
    Network,
    /// A broker does not let this principal do it.
    Authorization,
    /// A broker did not accept who we are (a password, a token, a certificate), or we not who it is.
    Authentication,
    /// The producer is closed, or was while this waited.
    Closed,
    /// A blocking call on the producer's own thread, where it could never end.
    WouldDeadlock,
    /// The process was forked; this copy of the producer has no threads.
    Forked,
    /// A bug of this crate; please report it.
    Internal,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    status: RecordStatus,
    retriable: bool,
    fatal: bool,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    timings: Option<DeliveryTimings>,
}

/// How far a record came that was not acknowledged, and where its time went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryTimings {
    /// Requests that carried it.
    pub attempts: u32,
    /// The node that was sent the last of them.
    pub last_broker: Option<i32>,
    /// Its batch was waited for in `send`, for memory.
    pub memory_wait: Duration,
    /// In an open batch, for others to come along.
    pub linger: Duration,
    /// Its partition had no leader.
    pub leaderless: Duration,
    /// Between attempts.
    pub backoff: Duration,
    /// The broker had asked for fewer requests.
    pub throttled: Duration,
    /// In requests.
    pub in_flight: Duration,
    /// Anything else: behind other batches, or for a connection or a producer id.
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
        let mut rest = "";
        for (time, stage) in stages.into_iter().filter(|s| s.0 >= Duration::from_millis(1)) {
            write!(f, "{rest}{:.3} s {stage}", time.as_secs_f64())?;
            rest = ", ";
        }
        if rest.is_empty() {
            f.write_str("no time spent")?;
        }
        Ok(())
    }
}

/// What went wrong. One pointer, cheap to clone: all records of a batch share it.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// What [`crate::Producer::send`] fails with: found before the record was accepted.
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

    /// From a broker's code: its name, its own words or else what it means, and where.
    pub(crate) fn broker(code: ErrorCode, said: Option<&str>, place: &str) -> Error {
        let kind = match code {
            ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
                ErrorKind::Authorization
            }
            ErrorCode::INVALID_TOPIC_EXCEPTION => ErrorKind::InvalidTopic,
            code => ErrorKind::Broker(code.0),
        };
        let why = match (said, code.description()) {
            (Some(said), _) if !said.is_empty() => said,
            (_, "") => "no explanation was given",
            (_, meaning) => meaning,
        };
        let mut e = Error::new(kind, format!("{place}: {code}: {why}"));
        e.edit(|i| i.retriable = code.is_retriable());
        e
    }

    fn edit(&mut self, f: impl FnOnce(&mut Inner)) {
        // One that others hold, too, stays as it is; this is another with the same words.
        if Arc::get_mut(&mut self.0).is_none() {
            let i = &self.0;
            let (kind, certainty, retriable, fatal) = (i.kind, i.status, i.retriable, i.fatal);
            let (message, source) = (i.message.clone(), i.source.clone());
            let journey = i.timings.clone();
            self.0 = Arc::new(Inner {
                kind,
                status: certainty,
                retriable,
                fatal,
                message,
                source,
                timings: journey,
            });
        }
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            f(inner);
        }
    }

    #[must_use]
    pub(crate) fn with_status(mut self, certainty: RecordStatus) -> Error {
        self.edit(|i| i.status = certainty);
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

    /// Says first where it was, if it does not say so.
    #[must_use]
    pub(crate) fn with_location(mut self, place: &str) -> Error {
        // t-1 is not named by t-10.
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
        let named = self.0.message.split(place).skip(1).any(ends);
        if !named {
            self.edit(|i| i.message = format!("{place}: {}", i.message));
        }
        self
    }

    #[must_use]
    pub(crate) fn with_timings(mut self, journey: DeliveryTimings) -> Error {
        self.edit(|i| i.timings = Some(journey));
        self
    }

    /// How far the record came, and where its time went, if it had been accepted.
    pub fn timings(&self) -> Option<&DeliveryTimings> {
        self.0.timings.as_ref()
    }

    /// What went wrong, by who can do something about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the record may be in the log all the same.
    pub fn record_status(&self) -> RecordStatus {
        self.0.status
    }

    /// Whether sending the record again may succeed without anything being changed. A record that was
    /// possibly written would then be there twice.
    pub fn is_retriable(&self) -> bool {
        self.0.retriable
    }

    /// Whether this producer is of no more use.
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }

    /// Whether the open transaction has to be aborted; no transaction is ever open yet.
    pub fn requires_abort(&self) -> bool {
        false
    }

    /// The broker's error code, if a broker refused.
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
            f.write_str(" (it may have been written)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("certainty", &self.0.status)
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
