//! A small Kafka broker for development and tests: one node, or a cluster of nodes in one process.
//!
//! [`EmbeddedBroker`] serves Kafka's protocol over TCP. It drives a [`Core`], which does no network
//! I/O: it takes request frames and the time, and returns response frames. Simulations drive a
//! [`Core`] directly. Logs are in memory, or on disk in Kafka's own segment format.
//!
//! ```
//! let broker = ottla_broker::EmbeddedBroker::start()?;
//! println!("bootstrap.servers={}", broker.bootstrap_servers());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Topics have leaders, replicas, an ISR and a high watermark. Tests can read records back
//! ([`EmbeddedBroker::records`]), stop nodes, delay replication, fail Produce requests and change
//! responses on the wire.
//!
//! The broker coordinates transactions, V1 and V2 (KIP-890). Tests can delay their markers and move
//! their coordinator. It coordinates classic consumer groups, too, and stores their offsets.
//!
//! With a data directory, the state of transactional ids, the members of groups and their offsets
//! survive the end of the process, as in Kafka: a transaction that has ended is completed at the
//! next start, an open one continues or times out.
//!
//! The broker advertises only what it serves, with one exception that Kafka makes, too (Produce
//! versions 0 to 2). It is not meant for production.

#![forbid(unsafe_code)]

mod embedded;
mod listener;
mod socket_server;
mod response_interceptor;
mod core;
mod new_topic;
mod api;
mod append;
mod client_metrics;
mod cluster;
mod consumer_record;
mod coordinators;
mod coordinator_log;
mod group;
mod transaction;
mod partition;
mod purgatory;
mod producer_state_manager;
mod transaction_index;
mod topics;
mod log;

/// The types of other crates that the items of this crate mention.
pub use bytes::Bytes;
/// The same type as `ottla::ErrorCode`: a test can compare the code of an error with the one that
/// it has injected.
pub use ottla_protocol::ErrorCode;
pub use ottla_protocol::{ApiKey, Uuid};

pub use crate::client_metrics::{ClientMetric, ClientMetricsPush, ClientMetricsSubscription};
pub use crate::cluster::{MoveLeaderOptions, PartitionDescription};
pub use crate::consumer_record::{ConsumerRecord, TransactionStatus};
pub use crate::coordinators::CoordinatorType;
pub use crate::core::{
    ApiError, AppendedBatch, BrokerConfig, ClockReading, Core, HandleResult, LocalAddress,
    ProduceFault, TopicDescription,
};
pub use crate::embedded::{EmbeddedBroker, EmbeddedBrokerBuilder};
pub use crate::log::LogBatch;
pub use crate::new_topic::NewTopic;
pub use crate::response_interceptor::{InterceptedResponse, InterceptorGuard, ResponseAction};
