//! A Kafka producer in pure Rust: never loses or misplaces a record, says where each record's time went, and
//! is made to be the fastest there is.
//!
//! It follows the producer that Kafka's own engineers drew and keeps its names. Records are accepted by
//! [`Producer::send`], gathered in batches, and sent by one thread of the producer's own; the end of each
//! reaches its [`Delivery`], a callback, or a handler for the whole producer.
//!
//! ```no_run
//! use ottla::{Producer, Record};
//!
//! # fn main() -> Result<(), ottla::Error> {
//! let producer = Producer::builder()
//!     .bootstrap_servers("localhost:9092")
//!     .compression("lz4")
//!     .build()?;
//! let delivery = producer.send(Record::to("orders").key(b"customer-7").value(b"3 apples"))?;
//! let written = delivery.wait()?;
//! println!("{}-{} at {:?}", written.topic(), written.partition(), written.offset());
//! producer.close(std::time::Duration::from_secs(10))?;
//! # Ok(()) }
//! ```
//!
//! In async code [`Producer::send_async`] waits without blocking, and a [`Delivery`] is a future; no runtime
//! is required, any will do.
//!
//! # Memory
//!
//! Records occupy at most `buffer.memory` from `send` to their end; callers wait beyond that. Counted are batches by
//! their buffers, and, once a batch is closed, its tokens, callbacks and boxes; a batch that has to be split may take
//! the balance below zero by its copies, and nobody is served until that is repaid. Not counted,
//! each with its own bound: receive buffers (one answer and 64 KiB a connection), metadata, codec contexts (8, each
//! with rooms of at most 256 KiB between batches and 64 times `batch.size` while it works), tokens of open batches
//! (8 bytes a record), 4 MiB of rooms for tokens of batches to come, and the [`Delivery`] values the caller keeps.
//!
//! # Features
//!
//! `gzip`, `snappy`, `lz4`, `zstd` (all on by default, all in Rust): codecs. `lz4-hc`, `zstd-c`: lz4 levels other than
//! 9 and zstd levels other than -7 to 4, by the C libraries.
//!
//! `tls` with a provider of its cryptography: `tls-graviola` (Rust and assembler; recent x86-64 and AArch64 only),
//! `tls-ring` or `tls-aws-lc-rs` (both need a C compiler); a rustls provider that the application installed wins.
//! `oidc`: tokens for OAUTHBEARER from an OpenID Connect provider.
//!
//! `unstable-sim`: the seam, for simulations; no promises.

#![forbid(unsafe_code)]

mod time;
mod sync;
mod collections;
#[cfg_attr(not(any(test, feature = "unstable-sim")), allow(dead_code, unreachable_pub))]
mod injected_bugs;
mod error;
mod log_limiter;
mod metrics;
mod config;
mod cluster;
mod producer;
mod accumulator;
mod sender;
mod client;
mod network;
#[cfg(any(test, feature = "unstable-sim"))]
pub mod sim;

pub use accumulator::batch_completions::BatchReport;
pub use accumulator::completion::{Delivery, RecordMetadata};
pub use client::Health;
pub use client::sasl::token::{OAuthBearerToken, TokenError};
pub use config::{Origin, Properties, configuration_markdown, parse_properties};
pub use error::{DeliveryTimings, Error, ErrorKind, RecordStatus, SendError};
pub use metrics::{Metric, MetricValue, Totals};
pub use producer::{
    BigEndianSerializer, BoxError, BytesSerializer, FnSerializer, Header, Interceptor,
    MutableHeader, MutableRecord, NullableSerializer, PartitionInfo, Partitioner, Partitions,
    Producer, ProducerBuilder, PurgeScope, Record, Serializer, Topic, TrySendError, TypedProducer,
    validate_topic_name,
};
