//! The crate's one error type: its kind, the status of the record, whether a retry may help, and a
//! message for people.
//!
//! Every module creates these errors. `send` returns them, and a [`Delivery`](crate::Delivery), a
//! callback or the delivery handler passes them on.

mod kind;
mod reference;
mod timings;

use std::fmt;
use std::sync::Arc;

use ottla_protocol::ErrorCode;

pub use kind::{ErrorKind, RecordStatus};
pub use reference::error_reference;
pub use timings::DeliveryTimings;

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    /// The code with which a broker rejected the request.
    code: Option<ErrorCode>,
    status: RecordStatus,
    retriable: bool,
    fatal: bool,
    requires_abort: bool,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// Why the last attempt before this error failed.
    last_broker_error: Option<Error>,
    timings: Option<DeliveryTimings>,
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
/// its category, [`code`](Error::code) is the broker's error code,
/// [`record_status`](Error::record_status) says whether the record may be in the log, and `Display`
/// is a message for people. The message never contains the text of the `source`.
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

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            code: None,
            status: RecordStatus::NotPersisted,
            retriable: kind.is_retriable(),
            fatal: matches!(
                kind,
                ErrorKind::Closed | ErrorKind::Internal | ErrorKind::Forked | ErrorKind::Fenced
            ),
            requires_abort: kind == ErrorKind::TransactionFailed,
            message: message.into(),
            source: None,
            last_broker_error: None,
            timings: None,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, message)
    }

    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the producer is closed")
    }

    /// Creates the error of a refusal with this code. The message has to name the code.
    pub(crate) fn with_code(code: ErrorCode, message: impl Into<String>) -> Error {
        let mut e = Error::new(ErrorKind::of_code(code), message);
        e.edit(|i| {
            i.code = Some(code);
            i.retriable = code.is_retriable();
        });
        e
    }

    /// Creates the error of a failed authentication, with the code of a refusal of the SASL login.
    pub(crate) fn authentication(code: Option<ErrorCode>, message: String) -> Error {
        let mut e = Error::new(ErrorKind::Authentication, message);
        e.edit(|i| i.code = code);
        e
    }

    /// Creates the error of a record whose batch was rejected with this code because of other
    /// records.
    pub(crate) fn batch_rejected(code: ErrorCode, message: impl Into<String>) -> Error {
        let mut e = Error::new(ErrorKind::BatchRejected, message);
        e.edit(|i| i.code = Some(code));
        e
    }

    /// Creates an error from a broker's response.
    ///
    /// `broker_message` is the text of the response; without one, the code's description is used.
    /// `location` says which request of which partition or broker failed.
    pub(crate) fn broker(code: ErrorCode, broker_message: Option<&str>, location: &str) -> Error {
        let reason = match (broker_message, code.description()) {
            (Some(message), _) if !message.is_empty() => message,
            (_, "") => "the broker gave no explanation",
            (_, description) => description,
        };
        Error::with_code(code, format!("{location}: {code}: {reason}"))
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

    /// Changes the kind, and keeps what else is known.
    #[must_use]
    pub(crate) fn into_kind(mut self, kind: ErrorKind) -> Error {
        self.edit(|i| i.kind = kind);
        self
    }

    /// Creates the error of calls in a transaction that `cause` has failed.
    pub(crate) fn transaction_failed(cause: &Error) -> Error {
        let message = "the transaction has failed and can only be aborted";
        let mut error = Error::new(ErrorKind::TransactionFailed, message);
        error.edit(|i| {
            i.code = cause.0.code;
            i.source = Some(Arc::new(cause.clone()));
        });
        error
    }

    /// Adds the cause. `Display` must not contain its text, or programs that print the whole chain
    /// print it twice.
    #[must_use]
    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.edit(|i| i.source = Some(source.into().into()));
        self
    }

    /// Adds the error of the last attempt before this one. It is also the `source`, unless the
    /// message contains it already.
    #[must_use]
    pub(crate) fn with_last_broker_error(mut self, last: &Error) -> Error {
        let is_printed = self.0.message.contains(&last.0.message);
        self.edit(|i| {
            if i.source.is_none() && !is_printed {
                i.source = Some(Arc::new(last.clone()));
            }
            i.last_broker_error = Some(last.clone());
        });
        self
    }

    /// Returns whether both errors have the same message: one is a copy of the other.
    pub(crate) fn is_copy_of(&self, other: &Error) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.message == other.0.message
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

    /// Returns whether the transaction has failed, so that only
    /// [`Transaction::abort`](crate::Transaction::abort) can end it (KIP-1050). The producer can
    /// begin another transaction after that.
    ///
    /// The error's `source` is the error that failed the transaction.
    pub fn requires_abort(&self) -> bool {
        self.0.requires_abort
    }

    /// Returns the code with which a broker rejected the request, for every kind of refusal. A
    /// failed SASL login has one, a rejected certificate has none.
    ///
    /// ```
    /// # fn count(_kind: &str, _code: &str) {}
    /// /// Counts failures by reason, with few different labels.
    /// fn on_failure(e: &ottla::Error) {
    ///     let code = e.code().or_else(|| e.last_broker_error()?.code());
    ///     count(e.kind().as_str(), code.and_then(|code| code.name()).unwrap_or("none"));
    /// }
    /// ```
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// Returns why the last attempt to send the record failed, if this error came after it: the
    /// broker's refusal, or the reason why the connection ended.
    ///
    /// A record that fails with [`ErrorKind::DeliveryTimeout`], [`ErrorKind::Closed`] or
    /// [`ErrorKind::Purged`] has one if it was sent before. A call that fails with
    /// [`ErrorKind::MetadataTimeout`] has one if a broker reported an error for the topic.
    pub fn last_broker_error(&self) -> Option<&Error> {
        self.0.last_broker_error.as_ref()
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
            .field("code", &self.0.code)
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

#[cfg(test)]
mod tests;
