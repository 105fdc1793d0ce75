//! One error for everything: a kind, what is known of the record, whether trying again may help, and a
//! sentence a person can act on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ErrorCode;

/// What is known of a record that was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Certainty {
    /// It is in no log: no request with it left this process whole, or each was refused.
    NotWritten,
    /// It may be in the log: a request was sent and its answer lost, or the answer leaves it open.
    PossiblyWritten,
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
    certainty: Certainty,
    retriable: bool,
    fatal: bool,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    journey: Option<Journey>,
}

/// How far a record came that was not acknowledged, and where its time went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Journey {
    /// Requests that carried it.
    pub attempts: u32,
    /// The node that was sent the last of them.
    pub last_broker: Option<i32>,
    /// Its batch was waited for in `send`, for memory.
    pub waiting_for_memory: Duration,
    /// In an open batch, for others to come along.
    pub lingering: Duration,
    /// Its partition had no leader.
    pub without_leader: Duration,
    /// Between attempts.
    pub backing_off: Duration,
    /// The broker had asked for fewer requests.
    pub throttled: Duration,
    /// In requests.
    pub in_flight: Duration,
    /// Anything else: behind other batches, or for a connection or a producer id.
    pub queued: Duration,
}

impl fmt::Display for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = [
            (self.waiting_for_memory, "waiting for memory"),
            (self.lingering, "lingering"),
            (self.without_leader, "without a leader"),
            (self.backing_off, "backing off"),
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
            certainty: Certainty::NotWritten,
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
            journey: None,
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
            let (kind, certainty, retriable, fatal) = (i.kind, i.certainty, i.retriable, i.fatal);
            let (message, source) = (i.message.clone(), i.source.clone());
            let journey = i.journey.clone();
            self.0 =
                Arc::new(Inner { kind, certainty, retriable, fatal, message, source, journey });
        }
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            f(inner);
        }
    }

    #[must_use]
    pub(crate) fn certain(mut self, certainty: Certainty) -> Error {
        self.edit(|i| i.certainty = certainty);
        self
    }

    #[must_use]
    pub(crate) fn fatal(mut self) -> Error {
        self.edit(|i| i.fatal = true);
        self
    }

    #[must_use]
    pub(crate) fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.edit(|i| i.source = Some(source.into().into()));
        self
    }

    /// Says first where it was, if it does not say so.
    #[must_use]
    pub(crate) fn at(mut self, place: &str) -> Error {
        // t-1 is not named by t-10.
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
        let named = self.0.message.split(place).skip(1).any(ends);
        if !named {
            self.edit(|i| i.message = format!("{place}: {}", i.message));
        }
        self
    }

    #[must_use]
    pub(crate) fn after(mut self, journey: Journey) -> Error {
        self.edit(|i| i.journey = Some(journey));
        self
    }

    /// How far the record came, and where its time went, if it had been accepted.
    pub fn journey(&self) -> Option<&Journey> {
        self.0.journey.as_ref()
    }

    /// What went wrong, by who can do something about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the record may be in the log all the same.
    pub fn certainty(&self) -> Certainty {
        self.0.certainty
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
        if self.0.certainty == Certainty::PossiblyWritten {
            f.write_str(" (it may have been written)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("certainty", &self.0.certainty)
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
