//! The command line as it is typed: one table for parsing, help, man page and completions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "ottla", version, about = "Records into Kafka", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send records, one a line, from files or standard input.
    #[command(after_help = PRODUCE_NOTES)]
    Produce(Box<ProduceArgs>),
    /// Send records as fast as can be, or at a rate, and tell how fast that was.
    #[command(after_help = PERF_NOTES)]
    Perf(Box<PerfArgs>),
    /// Run a small broker for development and tests.
    Broker(BrokerArgs),
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
}

const PRODUCE_NOTES: &str = "\
Options are those of kafka-console-producer, and kcat's short ones. An option beats a property, a property \
beats a file. Options that are not given leave the producer's own defaults.

Reader properties: parse.key=false, key.separator=\\t, parse.headers=false, headers.delimiter=\\t, \
headers.separator=, headers.key.separator=: ignore.error=false, null.marker (unset). A line is \
h1:v1,h2:v2<headers.delimiter>key<key.separator>value.

Input is bytes: a line ends at \\n, one \\r before it is dropped, anything else passes.

Status: 0 if every record was acknowledged (with acks=0: handed to the socket), 1 if some were not, 2 for \
wrong usage or settings.";

#[derive(Debug, Args, Default)]
pub(crate) struct ProduceArgs {
    /// Files to read, in order; standard input if none, or for `-`.
    pub(crate) files: Vec<PathBuf>,

    /// The topic.
    #[arg(short = 't', long)]
    pub(crate) topic: String,
    /// Brokers to ask first: host:port, separated by commas.
    #[arg(
        short = 'b',
        long,
        value_name = "H:P,…",
        visible_alias = "broker-list",
        conflicts_with = "embedded"
    )]
    pub(crate) bootstrap_server: Option<String>,
    /// Produce into a broker of this process's own.
    #[arg(long)]
    pub(crate) embedded: bool,
    /// Where the embedded broker keeps its log, in Kafka's format; a temporary place if not given.
    #[arg(long, value_name = "DIR", requires = "embedded")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Wait for each record's acknowledgement before the next is sent.
    #[arg(long)]
    pub(crate) sync: bool,
    /// The codec; gzip if no value is given.
    #[arg(short = 'z', long, value_name = "CODEC", num_args = 0..=1, default_missing_value = "gzip")]
    pub(crate) compression_codec: Option<String>,
    /// Bytes of a batch (batch.size).
    #[arg(long, value_name = "BYTES")]
    pub(crate) batch_size: Option<String>,
    /// Times a batch is sent again (retries).
    #[arg(long, value_name = "N")]
    pub(crate) message_send_max_retries: Option<String>,
    /// Milliseconds before something is tried again (retry.backoff.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) retry_backoff_ms: Option<String>,
    /// Milliseconds a batch waits for more records (linger.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) timeout: Option<String>,
    /// Who must have a record: all, -1, 1 or 0 (acks).
    #[arg(long, value_name = "ACKS", allow_hyphen_values = true)]
    pub(crate) request_required_acks: Option<String>,
    /// Milliseconds a broker has to answer (request.timeout.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) request_timeout_ms: Option<String>,
    /// Milliseconds after which metadata is asked for again (metadata.max.age.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) metadata_expiry_ms: Option<String>,
    /// Milliseconds that sending may wait for metadata and memory (max.block.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) max_block_ms: Option<String>,
    /// Bytes that unacknowledged records may occupy (buffer.memory).
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_memory_bytes: Option<String>,
    /// Deprecated: the same as --batch-size, which it overrides.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_partition_memory_bytes: Option<String>,
    /// Bytes of the socket's send buffer (send.buffer.bytes).
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) socket_buffer_size: Option<String>,

    /// The reader of lines; only Kafka's own is there.
    #[arg(long, value_name = "CLASS")]
    pub(crate) line_reader: Option<String>,
    /// A property of the reader, key=value; may be given several times.
    #[arg(long, value_name = "K=V")]
    pub(crate) reader_property: Vec<String>,
    /// The same, by its older name.
    #[arg(long, value_name = "K=V")]
    pub(crate) property: Vec<String>,
    /// A file of reader properties.
    #[arg(long, value_name = "FILE")]
    pub(crate) reader_config: Option<PathBuf>,
    /// A producer setting, key=value, by Kafka's or librdkafka's name; may be given several times.
    #[arg(short = 'X', long = "command-property", value_name = "K=V")]
    pub(crate) command_property: Vec<String>,
    /// Deprecated: the same as --command-property.
    #[arg(long, value_name = "K=V")]
    pub(crate) producer_property: Vec<String>,
    /// A file of producer settings, in Java's properties format.
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(crate) command_config: Option<PathBuf>,
    /// Deprecated: the same as --command-config.
    #[arg(long = "producer.config", value_name = "FILE")]
    pub(crate) producer_config: Option<PathBuf>,

    /// The partition of every record; -1 leaves it to the partitioner.
    #[arg(short = 'p', value_name = "N", allow_hyphen_values = true)]
    pub(crate) partition: Option<i32>,
    /// What separates records, instead of a line's end; \n, \t, \0 and \xHH are understood.
    #[arg(short = 'D', value_name = "DELIM")]
    pub(crate) delimiter: Option<String>,
    /// What separates key from value; a record without it has no key.
    #[arg(short = 'K', value_name = "DELIM")]
    pub(crate) key_delimiter: Option<String>,
    /// The key of every record; with -K, of those that have none.
    #[arg(short = 'k', value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// A header of every record, name=value; may be given several times.
    #[arg(short = 'H', value_name = "NAME=VALUE")]
    pub(crate) header: Vec<String>,
    /// Stop after so many records.
    #[arg(short = 'c', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Empty keys and values are null.
    #[arg(short = 'Z')]
    pub(crate) null_empty: bool,
    /// Files are split by the delimiter: what happens anyway, taken for kcat's sake.
    #[arg(short = 'l')]
    pub(crate) lines: bool,

    /// Print one JSON object a record on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Connection and metadata events on standard error.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Everything on standard error.
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// The address to listen on; port 0 lets the system pick.
    #[arg(long, value_name = "H:P", default_value = "127.0.0.1:9092")]
    pub(crate) listen: String,
    /// The address clients are told; the one they came in by if not given.
    #[arg(long, value_name = "H:P")]
    pub(crate) advertise: Option<String>,
    /// Where logs are kept, in Kafka's format; memory if not given.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How many brokers the cluster has, each on a port of its own: the one given and those behind it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(crate) nodes: i32,
    /// A topic to have from the start; may be given several times.
    #[arg(long, value_name = "NAME:PARTITIONS")]
    pub(crate) topic: Vec<String>,
    /// Connection events on standard error.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Everything on standard error.
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_table_is_sound() {
        super::Cli::command().debug_assert();
    }
}

const PERF_NOTES: &str = "\
Options and output lines are those of kafka-producer-perf-test; with --json the last line is one JSON object, and \
options are those of the drivers that other clients are measured with. Latency runs from the call of send to the \
acknowledgement; at a rate, from the time at which the record was due, whether or not the producer kept up.

Status: 0 if every record was acknowledged, 1 if some were not, 2 for wrong usage or settings.";

/// How records are handed to the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SendMethod {
    /// A topic's handle, tokens, one handler for all.
    Handle,
    /// The topic by its name, tokens, one handler for all.
    Name,
    /// The topic's handle, a delivery for each record, kept until it has ended.
    Delivery,
    /// The topic's handle, a callback for each record.
    Callback,
}

#[derive(Debug, Args)]
pub(crate) struct PerfArgs {
    /// The topic.
    #[arg(long)]
    pub(crate) topic: String,
    /// Records to send.
    #[arg(long, alias = "records", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) num_records: u64,
    /// Records a second; -1 for as many as can be.
    #[arg(long, value_name = "N", allow_hyphen_values = true, required_unless_present = "rate")]
    pub(crate) throughput: Option<f64>,
    /// Bytes of a record, filled with letters.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    pub(crate) record_size: Option<u32>,
    /// Records' values, drawn at random.
    #[arg(long, value_name = "FILE")]
    pub(crate) payload_file: Option<PathBuf>,
    /// What separates values in the payload file.
    #[arg(long, value_name = "TEXT", default_value = "\\n")]
    pub(crate) payload_delimiter: String,
    /// The value is the record's number.
    #[arg(long)]
    pub(crate) payload_monotonic: bool,
    /// Brokers to ask first: host:port, separated by commas.
    #[arg(short = 'b', long, alias = "bootstrap", value_name = "H:P,…")]
    pub(crate) bootstrap_server: Option<String>,
    /// Producer settings, key=value.
    #[arg(long, value_name = "K=V", num_args = 1..)]
    pub(crate) command_property: Vec<String>,
    /// A file of producer settings.
    #[arg(long, value_name = "FILE")]
    pub(crate) command_config: Option<PathBuf>,
    /// Deprecated: --command-property.
    #[arg(long, value_name = "K=V", num_args = 1.., conflicts_with = "command_property")]
    pub(crate) producer_props: Vec<String>,
    /// Deprecated: --command-config.
    #[arg(long = "producer.config", value_name = "FILE", conflicts_with = "command_config")]
    pub(crate) producer_config: Option<PathBuf>,
    /// Print all metrics at the end.
    #[arg(long, conflicts_with = "json")]
    pub(crate) print_metrics: bool,
    /// Records that do not count, sent first.
    #[arg(long, alias = "warmup", value_name = "N", default_value_t = 0)]
    pub(crate) warmup_records: u64,
    /// Milliseconds between lines of progress.
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) reporting_interval: u64,
    /// Keys, where there are any, are the numbers below this.
    #[arg(long, value_name = "N", requires = "key_distribution", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) record_key_range: Option<u64>,
    /// How keys are chosen.
    #[arg(long, value_name = "HOW", requires = "record_key_range")]
    pub(crate) key_distribution: Option<KeyDistribution>,
    /// Begins what is drawn at random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) random_seed: u64,
    /// Transactions are not there yet.
    #[arg(long, value_name = "ID")]
    pub(crate) transactional_id: Option<String>,
    /// Transactions are not there yet.
    #[arg(long, value_name = "MS")]
    pub(crate) transaction_duration_ms: Option<u64>,

    /// How records are handed over.
    #[arg(long, value_enum, default_value = "handle")]
    pub(crate) path: SendMethod,
    /// Nothing but one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Bytes of each value in the payload file, one behind the other.
    #[arg(long, value_name = "BYTES", requires = "payload_file", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: Option<u32>,
    /// acks.
    #[arg(long, value_name = "WHO", allow_hyphen_values = true)]
    pub(crate) acks: Option<String>,
    /// linger.ms.
    #[arg(long, value_name = "MS")]
    pub(crate) linger_ms: Option<String>,
    /// batch.size.
    #[arg(long, value_name = "BYTES")]
    pub(crate) batch_bytes: Option<String>,
    /// compression.type.
    #[arg(long, value_name = "CODEC")]
    pub(crate) compression: Option<String>,
    /// enable.idempotence.
    #[arg(long, value_name = "BOOL")]
    pub(crate) idempotent: Option<String>,
    /// max.in.flight.requests.per.connection.
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<String>,
    /// buffer.memory.
    #[arg(long, value_name = "BYTES")]
    pub(crate) buffer_memory: Option<String>,
    /// Whether each record has a key of 8 bytes, all different.
    #[arg(long, value_name = "BOOL", default_value = "false", action = clap::ArgAction::Set)]
    pub(crate) keyed: bool,
    /// Records a second, each due in its millisecond; 0 for as many as can be.
    #[arg(long, value_name = "N", conflicts_with = "throughput")]
    pub(crate) rate: Option<u64>,
    /// Threads that send.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) threads: u64,
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyDistribution {
    /// No keys.
    None,
    /// One after the other, round the range.
    Range,
    /// Drawn at random.
    Random,
}
