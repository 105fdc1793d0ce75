//! The options of `ottla doctor`.

use std::path::PathBuf;

use clap::Args;

pub(super) const DOCTOR_NOTES: &str = "\
Checks one after the other: the settings; the names, addresses, TLS, login and API versions of \
each bootstrap server; the cluster and each of its brokers at its advertised address; the topic; \
the rights of this client. For each check it prints how long it took and, if it fails, what to \
change. A check that needs the result of a failed one is not made.

Nothing is changed and no record is sent, except with --test-record. Passwords, tokens and keys \
are never printed. Settings come from the same sources as those of ottla produce.

Exit status: 0 if no check failed, 1 if one failed, 2 for a wrong option.";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Brokers for the first connection: host:port, separated by commas.
    #[arg(short = 'b', long, value_name = "H:P,…", visible_alias = "broker-list")]
    pub(crate) bootstrap_server: Option<String>,
    /// A file of producer settings, in the format of Java's properties files.
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(crate) command_config: Option<PathBuf>,
    /// A producer setting, key=value, by Kafka's or librdkafka's name; may be given several times.
    #[arg(short = 'X', long = "command-property", value_name = "K=V")]
    pub(crate) command_property: Vec<String>,
    /// The topic to check.
    #[arg(short = 't', long)]
    pub(crate) topic: Option<String>,
    /// Send one record to the topic, with the key and value `ottla-doctor`.
    #[arg(long, requires = "topic")]
    pub(crate) test_record: bool,
    /// Print one JSON object with all checks and the effective settings.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the effective value of each setting, also of those that are not set.
    #[arg(short = 'v', long, conflicts_with = "json")]
    pub(crate) verbose: bool,
}
