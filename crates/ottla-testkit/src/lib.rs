//! A real Kafka for tests: the jars from Maven Central, brokers, Kafka's tools and its consumer.
//! And franz-go's `kfake`, a broker of another origin, librdkafka, and Prometheus's reader.
//!
//! Brokers listen on ports that no other test gets, and keep their files under `target/`. Each
//! process that a test starts is ended by its process id, also when the test panics.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::Write;

mod certificates;
mod cluster;
mod hosts;
mod kafka;
mod kfake;
mod oidc;
mod legacy_kafka;
mod ports;
mod python;
mod reader;
mod secure;
mod skip;
mod srfake;

pub use certificates::{CertificateAuthority, Identity};
pub use cluster::{KafkaCluster, node_host_name};
pub use hosts::HostsFile;
pub use kafka::{Jars, Kafka, target_dir};
pub use kfake::{Kfake, KfakeRecord, run_franz_go_client};
pub use legacy_kafka::LegacyKafka;
pub use oidc::{ClientCredentials, TokenEndpoint};
pub use ports::reserve_ports;
pub use python::{Librdkafka, PythonPackage};
pub use reader::ConsumerRecord;
pub use secure::{Listener, SecureKafka};
pub use skip::{SKIPPED_TESTS_FILE, is_ci, read_skipped_tests, skip_test};
pub use srfake::FakeSchemaRegistry;

/// Prints a line that is visible although the test harness captures the test's output.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
