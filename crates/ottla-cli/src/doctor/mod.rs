//! `ottla doctor`: finds out why a cluster does not take records.
//!
//! It checks one thing after the other, in the order in which a producer depends on them, and says
//! for each failure what to change. A check whose precondition failed is not made.

mod authorization;
mod clock;
mod cluster;
mod kafka_release;
mod network;
mod report;
mod settings;
mod summary;
mod test_record;
mod topic;
mod topic_lookup;

use ottla::ProducerConfig;
use ottla::tools::{Probe, ProbeConnection};
use ottla_protocol::messages::MetadataResponse;

use crate::args::DoctorArgs;
use crate::console::output_status;
use crate::{CliError, FAILED};
use report::{Failed, Passed, Report};
pub(crate) use summary::cluster_summary;
pub(crate) use topic_lookup::{FoundTopic, TopicLookup};

/// What the checks of the cluster need.
struct Doctor<'a> {
    args: &'a DoctorArgs,
    config: &'a ProducerConfig,
    probe: Probe,
    report: Report,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<u8, CliError> {
    if let Some(topic) = &args.topic {
        ottla::tools::validate_topic_name(topic).map_err(|e| CliError::usage(e.to_string()))?;
    }
    let mut report = Report::new(args.json);
    let mut effective = Vec::new();
    match settings::check(args, &mut report)? {
        Some(config) => {
            effective = settings::effective(&config);
            if args.verbose {
                settings::print(&effective);
            }
            report = check_all(args, &config, report);
        }
        None => {
            report.not_checked("bootstrap servers", "the settings are not usable");
            skip_from_cluster(args, &mut report, NEEDS_SERVER);
        }
    }
    let (passed, written) = report.finish(&effective);
    let status = output_status(written)?;
    Ok(if passed { status } else { FAILED })
}

fn check_all(args: &DoctorArgs, config: &ProducerConfig, mut report: Report) -> Report {
    let uses_tls = config.security().protocol.uses_tls();
    let name = if uses_tls { "trusted certificates and keys" } else { "sockets" };
    let created = Probe::new(config).map_err(|e| Failed::from_error(e.to_string()));
    let probe = match created {
        Ok(probe) if !uses_tls => Some(probe),
        created => report.check(name, || Ok((created?, Passed::new("read")))),
    };
    let Some(probe) = probe else {
        report.not_checked("bootstrap servers", "the certificates or keys are not usable");
        skip_from_cluster(args, &mut report, NEEDS_SERVER);
        return report;
    };
    let mut doctor = Doctor { args, config, probe, report };
    doctor.check_cluster();
    doctor.report
}

/// The reason of what is not checked without a connection.
const NEEDS_SERVER: &str = "it needs a bootstrap server that works";

/// Marks the cluster and all that depends on it as not checked.
fn skip_from_cluster(args: &DoctorArgs, report: &mut Report, reason: &str) {
    report.not_checked("cluster", reason);
    skip_after_cluster(args, report, reason);
}

/// Marks what depends on the metadata as not checked.
fn skip_after_cluster(args: &DoctorArgs, report: &mut Report, reason: &str) {
    if let Some(topic) = &args.topic {
        report.not_checked(format!("topic {topic}"), reason);
    }
    report.not_checked("authorization", reason);
    if args.test_record {
        report.not_checked("test record", reason);
    }
}

impl Doctor<'_> {
    fn check_cluster(&mut self) {
        let Some(mut connection) = self.check_bootstrap_servers() else {
            return skip_from_cluster(self.args, &mut self.report, NEEDS_SERVER);
        };
        let Some(metadata) = self.check_metadata(&mut connection) else {
            return skip_after_cluster(self.args, &mut self.report, "it needs metadata");
        };
        self.check_brokers(&metadata);
        let mut configs = None;
        if self.args.topic.is_some() {
            configs = self.check_topic(&mut connection, &metadata);
        }
        self.check_authorization(&mut connection, &metadata);
        self.check_clock(&mut connection, configs.as_ref());
        self.check_quotas();
        if self.args.test_record {
            self.check_test_record();
        }
    }

    /// Checks each step of each bootstrap server. Returns the first connection that works.
    fn check_bootstrap_servers(&mut self) -> Option<ProbeConnection> {
        let mut working = None;
        for (host, port) in self.config.client().bootstrap_servers.clone() {
            let connection = self.check_server(&host, port);
            match (connection, &working) {
                (Some(connection), None) => working = Some(connection),
                (Some(connection), Some(_)) => self.probe.close(&connection),
                (None, _) => {}
            }
        }
        working
    }

    /// Checks each step of a connection to a bootstrap server.
    fn check_server(&mut self, host: &str, port: u16) -> Option<ProbeConnection> {
        let protocol = self.config.security().protocol;
        let mut steps = vec!["connect"];
        steps.extend(protocol.uses_tls().then_some("TLS"));
        steps.extend(protocol.uses_sasl().then_some("SASL"));
        steps.push("versions");
        let (probe, report) = (&mut self.probe, &mut self.report);
        let server = format!("{host}:{port}");
        let addresses = report.check(format!("resolve {server}"), || network::resolve(host, port));
        let mut connection = None;
        let mut failed = addresses.is_none().then_some("resolve");
        for step in steps {
            let name = format!("{step} {server}");
            if let Some(failed) = failed {
                report.not_checked(name, &format!("{failed} failed"));
                continue;
            }
            let passed = match (step, &mut connection) {
                ("connect", _) => {
                    let addresses = addresses.as_deref().unwrap_or_default();
                    connection = report.check(name, || network::connect(probe, host, addresses));
                    connection.is_some()
                }
                ("TLS", Some(c)) => report.check(name, || network::finish_tls(probe, c)).is_some(),
                ("SASL", Some(c)) => {
                    report.check(name, || network::authenticate(probe, c)).is_some()
                }
                (_, Some(c)) => report.check(name, || network::versions(probe, c)).is_some(),
                (_, None) => false,
            };
            if !passed {
                failed = Some(step);
            }
        }
        match failed {
            None => connection,
            Some(_) => {
                if let Some(connection) = connection {
                    self.probe.close(&connection);
                }
                None
            }
        }
    }
}

/// Returns a number with its noun: `1 broker`, `2 brokers`, `2 batches`.
pub(crate) fn counted(n: usize, noun: &str) -> String {
    let ending = match n {
        1 => "",
        _ if noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{n} {noun}{ending}")
}

/// Returns whether a partition leader, a broker or a coordinator is one of the cluster's brokers.
fn is_broker(metadata: &MetadataResponse, node: i32) -> bool {
    metadata.brokers.iter().any(|b| b.node_id == node)
}
