//! Kafka's wire protocol and nothing else: primitives read within bounds, one file an API, the record
//! batch (v2), compression, checksums, hashes and error codes.
//!
//! Used by the producer (`ottla`) and by the development broker (`ottla-broker`), which so share one
//! truth. Nothing here does I/O. The crate is outside semantic versioning: depend on `ottla` instead.
//!
//! Decoding never believes a length or a count before the bytes behind it are there; every error names
//! the type, the field and the offset ([`DecodeError`]).

pub mod wire;
pub mod error;
pub mod uuid;
pub mod api;
pub mod header;
pub mod messages;
pub mod error_code;
pub mod record;
pub mod compression;
pub mod murmur2;
#[cfg(any(test, fuzzing, feature = "arbitrary"))]
pub mod fuzz;

pub use api::{ApiKey, Request};
pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use error_code::ErrorCode;
pub use uuid::Uuid;
pub use wire::{Reader, Version, Wire, Writer};

#[cfg(test)]
mod tests;
