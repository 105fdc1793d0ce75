//! The crate's one error type.

use std::fmt;
use std::sync::Arc;

use crate::registry::Subject;

/// The category of a [`SchemaError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchemaErrorKind {
    /// A setting is missing or wrong.
    Config,
    /// No registry could be reached, or each one failed with a status from 500 up or 429.
    Unavailable,
    /// The registry rejected the request: [`SchemaError::code`] is its error code.
    Rejected,
    /// The registry's response is not what its API describes.
    InvalidResponse,
    /// A schema cannot be parsed or used.
    InvalidSchema,
    /// A value does not fit its schema.
    InvalidValue,
}

/// Why a schema could not be found or registered, or a value could not be serialized.
///
/// It is cheap to clone. `Display` is a message for people, which says what to do.
///
/// ```
/// use ottla_schema::{SchemaError, SchemaErrorKind};
///
/// fn is_temporary(e: &SchemaError) -> bool {
///     e.kind() == SchemaErrorKind::Unavailable
/// }
/// ```
#[derive(Clone)]
pub struct SchemaError(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: SchemaErrorKind,
    message: String,
    code: Option<i32>,
}

impl SchemaError {
    pub(crate) fn new(kind: SchemaErrorKind, message: impl Into<String>) -> SchemaError {
        SchemaError(Arc::new(Inner { kind, message: message.into(), code: None }))
    }

    pub(crate) fn config(message: impl Into<String>) -> SchemaError {
        SchemaError::new(SchemaErrorKind::Config, message)
    }

    #[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
    pub(crate) fn value(message: impl Into<String>) -> SchemaError {
        SchemaError::new(SchemaErrorKind::InvalidValue, message)
    }

    pub(crate) fn schema(message: impl Into<String>) -> SchemaError {
        SchemaError::new(SchemaErrorKind::InvalidSchema, message)
    }

    /// Creates the error of a registry that responded with an error code and a message.
    pub(crate) fn rejected(code: i32, message: impl Into<String>) -> SchemaError {
        let inner =
            Inner { kind: SchemaErrorKind::Rejected, message: message.into(), code: Some(code) };
        SchemaError(Arc::new(inner))
    }

    /// Puts the subject in front of the message.
    pub(crate) fn of_subject(&self, subject: &Subject) -> SchemaError {
        let message = format!("subject {subject}: {}", self.0.message);
        SchemaError(Arc::new(Inner { message, ..(*self.0).clone() }))
    }

    /// Returns the error's category.
    pub fn kind(&self) -> SchemaErrorKind {
        self.0.kind
    }

    /// Returns the registry's error code, such as 40401 for an unknown subject and 409 for an
    /// incompatible schema.
    pub fn code(&self) -> Option<i32> {
        self.0.code
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaError")
            .field("kind", &self.0.kind)
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .finish()
    }
}

impl std::error::Error for SchemaError {}
