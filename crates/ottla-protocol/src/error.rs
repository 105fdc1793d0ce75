//! What can go wrong between bytes and messages; raised by [`crate::wire`], shown by everyone above.

use std::fmt;

/// Bytes from a peer that are not what the protocol says, with the place they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// What was wrong.
    pub kind: DecodeErrorKind,
    /// The message or structure being read; empty while still inside a primitive.
    pub message: &'static str,
    /// The field being read; empty while still inside a primitive.
    pub field: &'static str,
    /// Bytes from the start of the frame (or batch) to the offending value.
    pub offset: usize,
}

/// The rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// Fewer bytes left than the value needs.
    Truncated {
        /// Bytes the value needs.
        needed: usize,
        /// Bytes that are left.
        remaining: usize,
    },
    /// A length or count below zero where null has no meaning, or below −1.
    NegativeLength(i64),
    /// An array claims more elements than there are bytes behind it.
    CountExceedsBytes {
        /// The count on the wire.
        count: u64,
        /// Bytes that are left.
        remaining: usize,
    },
    /// Null where this version of the field cannot be null.
    UnexpectedNull,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// A varint longer than its type allows.
    VarintTooLong,
    /// Bytes after the end of the message.
    TrailingBytes(usize),
    /// A version this crate does not know for the message.
    UnsupportedVersion(i16),
    /// A tagged field given twice or out of ascending order.
    TagOutOfOrder(u32),
    /// A rule of the record batch format, in words.
    InvalidBatch(&'static str),
    /// A checksum that does not match.
    ChecksumMismatch {
        /// What the batch says.
        stated: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Compressed bytes that do not decompress, or to more than the bound.
    Compression(String),
}

impl DecodeError {
    /// An error at `offset`, not yet placed in a message.
    pub fn new(kind: DecodeErrorKind, offset: usize) -> DecodeError {
        DecodeError { kind, message: "", field: "", offset }
    }

    /// Names the message and field, unless an inner structure already did.
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
        use DecodeErrorKind as K;
        match self {
            K::Truncated { needed, remaining: left } => {
                write!(f, "needs {needed} bytes, {left} are left")
            }
            K::NegativeLength(n) => write!(f, "negative length {n}"),
            K::CountExceedsBytes { count, remaining: left } => {
                write!(f, "count {count} with only {left} bytes behind it")
            }
            K::UnexpectedNull => f.write_str("null where null is not allowed"),
            K::InvalidUtf8 => f.write_str("not UTF-8"),
            K::VarintTooLong => f.write_str("varint longer than its type"),
            K::TrailingBytes(n) => write!(f, "{n} bytes after the end of the message"),
            K::UnsupportedVersion(v) => write!(f, "version {v} is not known"),
            K::TagOutOfOrder(t) => write!(f, "tagged field {t} twice or out of order"),
            K::InvalidBatch(what) => f.write_str(what),
            K::ChecksumMismatch { stated, computed } => {
                write!(f, "checksum {computed:08x} where the batch states {stated:08x}")
            }
            K::Compression(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A message that the chosen version cannot carry; always the caller's mistake, never a peer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or array longer than its length field can say.
    #[error("{length} is too long for its length field")]
    TooLong {
        /// The length that did not fit.
        length: usize,
    },
    /// Null in a field that cannot be null at this version.
    #[error("{field} cannot be null at version {version}")]
    NullNotAllowed {
        /// The field.
        field: &'static str,
        /// The version being written.
        version: i16,
    },
}
