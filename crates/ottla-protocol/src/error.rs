//! The errors of decoding and encoding. [`crate::wire`] and [`crate::record`] return them.

use std::fmt;

/// Bytes from a peer that break a rule of the protocol, with their location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The broken rule.
    pub kind: DecodeErrorKind,
    /// The message or structure that was read; empty for a primitive outside a message.
    pub message: &'static str,
    /// The field that was read; empty for a primitive outside a message.
    pub field: &'static str,
    /// Bytes from the start of the frame or batch to the invalid value.
    pub offset: usize,
}

/// A rule of the protocol that the bytes break.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The value needs more bytes than remain.
    Truncated {
        /// Bytes the value needs.
        needed: usize,
        /// Bytes that remain.
        remaining: usize,
    },
    /// A length or count below −1.
    NegativeLength(i64),
    /// The count of an array exceeds the bytes that remain.
    CountExceedsBytes {
        /// The count on the wire.
        count: u64,
        /// Bytes that remain.
        remaining: usize,
    },
    /// The field is null, and this version does not allow null.
    UnexpectedNull,
    /// A string is not valid UTF-8.
    InvalidUtf8,
    /// A varint is longer than its type allows.
    VarintTooLong,
    /// Bytes follow the end of the message.
    TrailingBytes(usize),
    /// This crate does not support the version of the message.
    UnsupportedVersion(i16),
    /// A tagged field is duplicate or not in ascending order.
    TagOutOfOrder(u32),
    /// The batch breaks a rule of its format; the text names the rule.
    InvalidBatch(&'static str),
    /// The batch's checksum does not match its bytes.
    ChecksumMismatch {
        /// The checksum in the batch's header.
        stated: u32,
        /// The checksum of the batch's bytes.
        computed: u32,
    },
    /// The bytes cannot be decompressed, or exceed the limit when decompressed.
    Compression(String),
}

impl DecodeError {
    /// Creates an error without a message and field.
    pub fn new(kind: DecodeErrorKind, offset: usize) -> DecodeError {
        DecodeError { kind, message: "", field: "", offset }
    }

    /// Sets the message and field, unless an inner structure has set them.
    #[must_use]
    pub fn with_location(mut self, message: &'static str, field: &'static str) -> DecodeError {
        if self.message.is_empty() {
            self.message = message;
            self.field = field;
        }
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            write!(f, "{}.{} ", self.message, self.field)?;
        }
        write!(f, "at byte {}: {}", self.offset, self.kind)
    }
}

impl fmt::Display for DecodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, remaining } => {
                write!(f, "truncated: {needed} bytes needed, {remaining} remain")
            }
            Self::NegativeLength(n) => write!(f, "negative length {n}"),
            Self::CountExceedsBytes { count, remaining } => {
                write!(f, "the count is {count}, but only {remaining} bytes remain")
            }
            Self::UnexpectedNull => f.write_str("null is not allowed"),
            Self::InvalidUtf8 => f.write_str("the string is not valid UTF-8"),
            Self::VarintTooLong => f.write_str("the varint is too long for its type"),
            Self::TrailingBytes(n) => write!(f, "{n} bytes follow the end of the message"),
            Self::UnsupportedVersion(v) => write!(f, "version {v} is not supported"),
            Self::TagOutOfOrder(tag) => {
                write!(f, "tagged field {tag} is duplicate or out of order")
            }
            Self::InvalidBatch(rule) => f.write_str(rule),
            Self::ChecksumMismatch { stated, computed } => {
                write!(f, "checksum mismatch: expected {stated:08x}, got {computed:08x}")
            }
            Self::Compression(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A message that cannot be encoded at the chosen version: an error of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or array is too long for its length field.
    #[error("length {length} is too large for its field")]
    TooLong {
        /// The length of the string or array.
        length: usize,
    },
    /// A field is null, and the version does not allow null.
    #[error("{field} cannot be null at version {version}")]
    NullNotAllowed {
        /// The field.
        field: &'static str,
        /// The version of the message.
        version: i16,
    },
}
