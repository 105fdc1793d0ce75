//! The options of `ottla verifiable-producer`: those of Kafka's VerifiableProducer.

use std::path::PathBuf;

use clap::Args;

pub(super) const VERIFIABLE_PRODUCER_NOTES: &str = "\
The options and the output are those of Kafka's VerifiableProducer, which Kafka's system tests \
use. Each line of the output is a JSON object with the time in milliseconds and a name: \
startup_complete, producer_send_success, producer_send_error, shutdown_complete, tool_data. The \
producer has retries=0 unless a file of settings says otherwise. Environment variables do not set \
anything.

A signal ends the run: no further record is sent, and the last lines follow when each record is \
acknowledged or has failed. A second signal ends the command at once.

Exit status, as Kafka's tool: 0 after the last line, although records may have failed; 1 if \
standard output cannot be written, and for a wrong option or setting.";

#[derive(Debug, Args)]
pub(crate) struct VerifiableProducerArgs {
    /// The topic.
    #[arg(long)]
    pub(crate) topic: String,
    /// Brokers for the first connection: host:port, separated by commas.
    #[arg(long, value_name = "H:P,…")]
    pub(crate) bootstrap_server: String,
    /// Number of records to send; -1 for no limit.
    #[arg(long, value_name = "N", default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) max_messages: i64,
    /// Records a second, about; -1 for no limit, and with 0 the command stops sending at once.
    #[arg(long, value_name = "N", default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) throughput: i64,
    /// The setting acks.
    #[arg(
        long,
        value_name = "ACKS",
        default_value = "-1",
        allow_hyphen_values = true,
        value_parser = ["0", "1", "-1"]
    )]
    pub(crate) acks: String,
    /// The timestamp of the first record in milliseconds; -1 for the current time. After each
    /// record it grows by the time since the start.
    #[arg(long, value_name = "MS", default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) message_create_time: i64,
    /// A number that stands before each value, with a dot between them.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) value_prefix: Option<i32>,
    /// Keys are the numbers from 0 to N - 1, then from 0 again; default: no keys.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeating_keys: Option<u32>,
    /// A file of producer settings. They override the options.
    #[arg(long, value_name = "FILE")]
    pub(crate) command_config: Option<PathBuf>,
    /// Deprecated: the same as --command-config.
    #[arg(long = "producer.config", value_name = "FILE", conflicts_with = "command_config")]
    pub(crate) producer_config: Option<PathBuf>,
}
