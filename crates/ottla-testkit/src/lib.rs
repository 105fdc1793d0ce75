//! A real Kafka for tests: jars from Maven Central, a broker on ports the system picked in a directory under
//! `target/`, Kafka's own tools, and a Java consumer that hands every record over.
//!
//! Whatever a test starts here ends with it, by its own process id, also when the test panics.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod cluster;
mod kafka;
mod reader;

pub use cluster::Cluster;
pub use kafka::{Jars, Kafka, free_ports, target_dir};
pub use reader::ReadRecord;
