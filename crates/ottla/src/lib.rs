//! A Kafka producer in pure Rust.
//!
//! It follows the design of Kafka's Java producer and uses its names. [`Producer::send`] appends a
//! record to its partition's batch, and one thread of the producer sends the batches. A record's
//! result reaches the application through a [`Delivery`], a callback, or one
//! [handler](ProducerBuilder::delivery_handler) for the whole producer. The producer is idempotent
//! by default: its retries write no record twice and keep the order of each partition (KIP-98).
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ottla::{Compression, Producer, Record};
//!
//! # fn main() -> Result<(), ottla::Error> {
//! let producer = Producer::builder()
//!     .bootstrap_servers("localhost:9092")
//!     .compression(Compression::lz4())
//!     .build()?;
//! let delivery = producer.send(Record::to("orders").key("customer-7").value("3 apples"))?;
//! let metadata = delivery.wait()?;
//! println!("{}-{} at {:?}", metadata.topic(), metadata.partition(), metadata.offset());
//! producer.close(Duration::from_secs(10))?;
//! # Ok(()) }
//! ```
//!
//! In async code, [`Producer::send_async`] waits without blocking, and a [`Delivery`] is a future.
//! They need no runtime and work with any.
//!
//! # Ways to send
//!
//! | result to | blocks | never waits | async |
//! |---|---|---|---|
//! | [`Delivery`] | [`send`] | [`try_send`] | [`send_async`] |
//! | closure | [`send_with_callback`] | [`try_send_with_callback`] | [`send_with_callback_async`] |
//! | [token](Record::token) | [`enqueue`] | [`try_enqueue`] | [`enqueue_async`] |
//!
//! The first row's methods return a [`Delivery`] for the record's result. The second row's take a
//! callback for it. With the third row's, only the [delivery
//! handler](ProducerBuilder::delivery_handler) receives it, with the record's token.
//!
//! [`send`]: Producer::send
//! [`try_send`]: Producer::try_send
//! [`send_async`]: Producer::send_async
//! [`send_with_callback`]: Producer::send_with_callback
//! [`try_send_with_callback`]: Producer::try_send_with_callback
//! [`send_with_callback_async`]: Producer::send_with_callback_async
//! [`enqueue`]: Producer::enqueue
//! [`try_enqueue`]: Producer::try_enqueue
//! [`enqueue_async`]: Producer::enqueue_async
//!
//! [`Producer`], [`Topic`], [`TypedProducer`] and [`TypedTopic`] all have these nine methods. The
//! handler, if there is one, and the interceptors receive every result besides. A record that the
//! call does not accept fails with the call's error, and its callback receives the error, too.
//!
//! # Transactions
//!
//! A producer with a [`transactional.id`](ProducerBuilder::transactional_id) sends records in
//! transactions: consumers with `isolation.level=read_committed` see all records of a
//! [`Transaction`] or none. [`Producer::init_transactions`] has an example.
//!
//! # Errors
//!
//! Every call and every record fails with an [`Error`]. It says what failed, whether a retry may
//! help, whether the record may be in the log ([`RecordStatus`]), and how long the record spent in
//! each stage ([`DeliveryTimings`]).
//!
//! # Memory
//!
//! Accepted records occupy at most `buffer.memory` until they are acknowledged or fail; `send`
//! waits for free memory. The limit covers the buffers of batches and, once a batch is closed, its
//! tokens and boxed callbacks. Splitting a batch may exceed the limit briefly: allocations then
//! wait until usage is back under it.
//!
//! The limit does not cover, each with its own bound:
//! - receive buffers: one response and 64 KiB per connection;
//! - metadata of the topics in use;
//! - codec contexts: 8, each with buffers of at most 256 KiB between batches, and of up to 64 times
//!   `batch.size` while it compresses;
//! - the tokens of open batches: 8 bytes per record, and 4 MiB of spare room for later batches;
//! - the [`Delivery`] values that the application keeps: 16 bytes each, and one result per batch.
//!
//! # Features
//!
//! - `gzip`, `snappy`, `lz4`, `zstd` (on by default): codecs, all in Rust.
//! - `lz4-hc`: lz4 levels other than 9, with the C library.
//! - `zstd-c`: every zstd level, with the C library; without it, levels -7 to 4.
//! - `tls`: TLS with rustls. It needs a cryptography provider: one of the next three, or one that
//!   the application has installed as rustls' default, which then takes precedence.
//! - `tls-graviola`: Rust and assembler; x86-64 with AES, AVX2 and ADX, or AArch64 with AES.
//! - `tls-ring`, `tls-aws-lc-rs`: any CPU; they need a C compiler.
//! - `oidc`: OAUTHBEARER tokens from an OpenID Connect provider (KIP-768).
//! - `prometheus`: `prometheus_text` writes the metrics in the text format of Prometheus.
//! - `metrics`: `record_metrics` sets the metrics in the recorder of the crate `metrics`.
//! - `opentelemetry`: `OpenTelemetryInterceptor` makes spans, and `register_opentelemetry_metrics`
//!   observes the metrics.
//! - `bytes`: [`Record`] and [`OwnedRecord`] take values of the crate `bytes` without a copy.
//! - `unstable-sim`: access to the sender and its machine for simulations. Its API may change in
//!   any release.

#![forbid(unsafe_code)]

mod time;
mod env;
mod sync;
mod collections;
#[cfg_attr(not(any(test, feature = "unstable-sim")), allow(dead_code, unreachable_pub))]
mod injected_bugs;
mod error;
mod log_limiter;
mod metrics;
mod snapshot;
mod config;
mod record;
mod consumer_offsets;
mod wakeup;
mod delivery;
mod cluster;
mod producer;
mod accumulator;
mod sender;
mod client;
mod network;
mod probe;
mod registry_access;
#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
mod exporters;
#[cfg(any(test, feature = "unstable-sim"))]
pub mod sim;

#[cfg(feature = "prometheus")]
pub use self::metrics::prometheus_text;
pub use self::metrics::{Metric, MetricValue, Totals};
pub use client::Health;
pub use client::sasl::token::{OAuthBearerToken, TokenError};
pub use config::{
    AccumulatorSettings, Acks, AddressFamily, BootstrapServers, ClientDnsLookup, ClientSettings,
    Compression, ConnectSettings, GzipLevel, Lz4Level, MetadataSettings, MetricConfig,
    NetworkSettings, Origin, PartitioningStrategy, ProducerConfig, Properties, SaslMechanism,
    SecurityProtocol, SecuritySettings, SenderSettings, TransactionSettings, ZstdLevel,
};
pub use consumer_offsets::{ConsumerGroupMetadata, OffsetAndMetadata};
pub use delivery::batch_completions::{BatchReport, RecordReport};
pub use delivery::interceptor::{Acknowledgement, Interceptor, MutableRecord};
pub use delivery::result::{Delivery, RecordError, RecordMetadata};
pub use error::{DeliveryTimings, Error, ErrorKind, RecordStatus};
#[cfg(feature = "metrics")]
pub use exporters::record_metrics;
#[cfg(feature = "opentelemetry")]
pub use exporters::{OpenTelemetryInterceptor, register_opentelemetry_metrics};
/// The same type as `ottla_broker::ErrorCode`: a test can compare the code of an error with the one
/// that it has injected.
pub use ottla_protocol::ErrorCode;
/// The client instance id of [`Producer::client_instance_id`].
pub use ottla_protocol::Uuid;
pub use producer::{
    CloseReport, PartitionInfo, Partitioner, Partitions, Producer, ProducerBuilder, PurgeScope,
    Topic, Transaction, TypedProducer, TypedRecord, TypedTopic,
};
pub use record::{BoxError, Header, OwnedRecord, Record, SerializedSizes, serializer};
pub use snapshot::{
    AwaitedTopic, BrokerSnapshot, BrokerState, MemorySnapshot, PartitionSnapshot, QueueState,
    Snapshot, TransactionSnapshot, TransactionState,
};

/// What the command and the development tools need. It is not part of the public API, and may
/// change in any release.
#[doc(hidden)]
pub mod tools {
    pub use crate::config::{parse_properties, read_to_limit};
    pub use crate::error::error_reference;
    pub use crate::probe::{
        CertificateDetails, Probe, ProbeConnection, ProbeError, SaslDetails, TlsDetails,
    };
    pub use crate::producer::validate_topic_name;
    #[cfg(feature = "tls")]
    pub use crate::registry_access::RegistryTls;
    pub use crate::registry_access::schema_registry_settings;
}
