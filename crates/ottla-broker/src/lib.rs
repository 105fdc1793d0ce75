//! A small Kafka broker for development and tests: a core without I/O on the network (frames in, frames out,
//! time given), segment files in Kafka's own format, and a TCP front.
//!
//! ```
//! let broker = ottla_broker::EmbeddedBroker::start()?;
//! println!("clients begin at {}", broker.bootstrap());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! It is one node or several, with leaders, replicas and what can go wrong among them; it has no groups and no transactions, and what it does not serve it does not advertise.
//! Nothing in it is meant for production.

#![forbid(unsafe_code)]

mod response_interceptor;
mod core;
mod api;
mod append;
mod cluster;
mod partition;
mod purgatory;
mod producer_state_manager;
mod topics;
mod log;
mod socket_server;

pub use crate::core::{
    AppendedBatch, BrokerConfig, ClockReading, Core, HandleResult, LocalAddress, ProduceFault,
};
pub use crate::log::LogBatch;
pub use crate::response_interceptor::{InterceptedResponse, InterceptorGuard, ResponseAction};
pub use crate::socket_server::{EmbeddedBroker, EmbeddedBrokerBuilder};
