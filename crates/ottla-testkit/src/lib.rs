//! A real Kafka for tests: jars from Maven Central, a broker on ports the system picked in a directory under
//! `target/`, Kafka's own tools, and a Java consumer that hands every record over.
//!
//! Whatever a test starts here ends with it, by its own process id, also when the test panics.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::Write;

mod certificates;
mod cluster;
mod kafka;
mod oidc;
mod legacy_kafka;
mod reader;
mod secure;

pub use certificates::{CertificateAuthority, Identity};
pub use cluster::KafkaCluster;
pub use kafka::{Jars, Kafka, pick_free_ports, target_dir};
pub use legacy_kafka::LegacyKafka;
pub use oidc::TokenEndpoint;
pub use reader::ConsumerRecord;
pub use secure::{Listener, SecureKafka};

/// A line for people, also where a test's own output is kept back: a table that the suite is to show.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
