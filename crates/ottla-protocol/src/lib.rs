//! Kafka's wire protocol: messages, record batches (v2), compression, checksums, the murmur2 hash
//! and error codes.
//!
//! The producer (`ottla`) and the development broker (`ottla-broker`) use the same declarations.
//! The crate does no I/O. It is an implementation detail without semantic versioning: depend on
//! `ottla` instead.
//!
//! Decoders check each length and count against the bytes that are there before they use it. Each
//! [`DecodeError`] names the type, the field and the offset.
//!
//! ```
//! use bytes::Bytes;
//! use ottla_protocol::header::{decode_response, encode_request, encode_response};
//! use ottla_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
//! use ottla_protocol::ApiKey;
//!
//! // The client sends a frame: length, request header, body.
//! let request = InitProducerIdRequest { transaction_timeout_ms: i32::MAX, ..Default::default() };
//! let frame = encode_request(&request, 4, 1, Some("client-id"))?;
//! assert_eq!(frame.len(), 4 + i32::from_be_bytes(frame[..4].try_into()?) as usize);
//!
//! // The broker responds with the same correlation id.
//! let response = InitProducerIdResponse { producer_id: 7, ..Default::default() };
//! let frame = Bytes::from(encode_response(ApiKey::INIT_PRODUCER_ID, 4, 1, &response)?);
//! let decoded = decode_response::<InitProducerIdRequest>(&frame.slice(4..), 4)?;
//! assert_eq!(decoded.producer_id, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod wire;
pub mod error;
pub mod uuid;
pub mod api;
pub mod header;
pub mod messages;
pub mod coordinator_records;
pub mod error_code;
pub mod record;
pub mod compression;
pub mod murmur2;
pub mod random;
#[cfg(any(test, fuzzing, feature = "arbitrary"))]
pub mod fuzz;

pub use api::{ApiKey, Request};
pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use error_code::ErrorCode;
pub use uuid::Uuid;
pub use wire::{Reader, Version, Wire, Writer};

#[cfg(test)]
mod tests;
