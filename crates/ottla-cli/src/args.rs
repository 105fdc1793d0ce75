//! The options as clap tables. The parser, the help, the man page and the shell completions all
//! come from them.

mod doctor;
mod produce;
mod verifiable_producer;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::perf::SweepRange;
use doctor::DOCTOR_NOTES;
pub(crate) use doctor::DoctorArgs;
use produce::PRODUCE_NOTES;
pub(crate) use produce::{CsvValue, InputArgs, InputFormat, LengthPrefix, ProduceArgs};
use verifiable_producer::VERIFIABLE_PRODUCER_NOTES;
pub(crate) use verifiable_producer::VerifiableProducerArgs;

#[derive(Debug, Parser)]
#[command(
    name = "ottla",
    version,
    about = "Sends records to Kafka, measures a producer's throughput, runs a development broker",
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send records, one a line, from files or standard input.
    #[command(after_help = PRODUCE_NOTES)]
    Produce(Box<ProduceArgs>),
    /// Measure throughput and latency, at full speed or at a given rate.
    #[command(after_help = PERF_NOTES)]
    Perf(Box<PerfArgs>),
    /// Send numbers and print the result of each record, as Kafka's VerifiableProducer does.
    #[command(after_help = VERIFIABLE_PRODUCER_NOTES)]
    VerifiableProducer(VerifiableProducerArgs),
    /// Check settings, connections, the cluster and a topic, and say what to change.
    #[command(after_help = DOCTOR_NOTES)]
    Doctor(DoctorArgs),
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

#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// The address to listen on; with port 0 the system picks a free port.
    #[arg(long, value_name = "H:P", default_value = "127.0.0.1:9092")]
    pub(crate) listen: String,
    /// The address that clients are to connect to; default: the one they have connected to.
    #[arg(long, value_name = "H:P")]
    pub(crate) advertise: Option<String>,
    /// Directory for the logs and for the state of transactions and groups, in Kafka's format;
    /// default: both are kept in memory.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Number of brokers in the cluster; they listen on --listen's port and the ports after it.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(i32).range(1..=100)
    )]
    pub(crate) nodes: i32,
    /// A topic to create at the start; may be given several times.
    #[arg(long, value_name = "NAME:PARTITIONS")]
    pub(crate) topic: Vec<String>,
    /// The feature level transaction.version: 2 for transactions V2 (KIP-890), 0 or 1 for V1.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(i16).range(0..=2)
    )]
    pub(crate) transaction_version: i16,
    /// Print connection events to standard error.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Print all events to standard error.
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
}

const PERF_NOTES: &str = "\
The options and the output are those of kafka-producer-perf-test, and --transaction-records is \
further. With --json the output is one \
JSON object instead. Options are also accepted by the names that the benchmarks of other clients \
use. Environment variables do not set anything.

The latency of a record starts when the command calls send, and ends at the acknowledgement. With \
a rate it starts when the record was due, even if the producer was late.

A report shows throughput, latencies, batches, requests, retries, CPU and memory over time, with \
the settings (secrets are hidden) and the machine. Without --json it includes the warm-up. Its \
file loads nothing from elsewhere.

With transactions, --json adds transactions, transactions_per_s, commit_p50_ms and commit_p99_ms: \
the time that a commit took. A signal commits the open transaction.

Exit status: 0 if every record was acknowledged, 1 if a record failed, 2 for a wrong option or \
setting.";

/// How records are handed to the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SendMethod {
    /// `Topic::enqueue`: a topic handle; the delivery handler gets the results.
    Handle,
    /// `Producer::send`: the topic's name; the delivery handler gets the results.
    Name,
    /// `Topic::send`: a topic handle, and a `Delivery` for each record.
    Delivery,
    /// `Topic::send_with_callback`: a topic handle, and a callback for each record.
    Callback,
}

#[derive(Debug, Args)]
pub(crate) struct PerfArgs {
    /// The topic.
    #[arg(long, required_unless_present = "compare")]
    pub(crate) topic: Option<String>,
    /// Number of records to send.
    #[arg(
        long,
        alias = "records",
        value_name = "N",
        required_unless_present_any = ["compare", "sweep"],
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) num_records: Option<u64>,
    /// Records a second; -1 for no limit.
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        required_unless_present_any = ["rate", "compare", "sweep"]
    )]
    pub(crate) throughput: Option<f64>,
    /// Bytes of each value, filled with A to Z.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    pub(crate) record_size: Option<u32>,
    /// A file of values; each record gets one of them at random.
    #[arg(long, value_name = "FILE")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Delimiter of the values in the payload file.
    #[arg(long, value_name = "TEXT", default_value = "\\n")]
    pub(crate) payload_delimiter: String,
    /// Send each record's number as its value.
    #[arg(long)]
    pub(crate) payload_monotonic: bool,
    /// Brokers for the first connection: host:port, separated by commas.
    #[arg(short = 'b', long, alias = "bootstrap", value_name = "H:P,…")]
    pub(crate) bootstrap_server: Option<String>,
    /// Producer settings, key=value.
    #[arg(long, value_name = "K=V", num_args = 1..)]
    pub(crate) command_property: Vec<String>,
    /// A file of producer settings.
    #[arg(long, value_name = "FILE")]
    pub(crate) command_config: Option<PathBuf>,
    /// Deprecated: the same as --command-property.
    #[arg(long, value_name = "K=V", num_args = 1.., conflicts_with = "command_property")]
    pub(crate) producer_props: Vec<String>,
    /// Deprecated: the same as --command-config.
    #[arg(long = "producer.config", value_name = "FILE", conflicts_with = "command_config")]
    pub(crate) producer_config: Option<PathBuf>,
    /// Print all metrics at the end.
    #[arg(long, conflicts_with = "json")]
    pub(crate) print_metrics: bool,
    /// Number of records at the start that are not measured.
    #[arg(long, alias = "warmup", value_name = "N", default_value_t = 0)]
    pub(crate) warmup_records: u64,
    /// Milliseconds between two lines of progress.
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 5000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) reporting_interval: u64,
    /// Keys are the numbers from 0 to N - 1.
    #[arg(
        long,
        value_name = "N",
        requires = "key_distribution",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) record_key_range: Option<u64>,
    /// How keys are chosen from the range.
    #[arg(long, value_name = "HOW", requires = "record_key_range")]
    pub(crate) key_distribution: Option<KeyDistribution>,
    /// Seed of the random values and keys.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) random_seed: u64,
    /// Send in transactions, with this transactional.id; default with one of the next two options:
    /// a generated one.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) transactional_id: Option<String>,
    /// Commit a transaction at this age; default with a transactional.id: 3000.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) transaction_duration_ms: Option<u64>,
    /// Commit a transaction when it has this number of records.
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "transaction_duration_ms",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) transaction_records: Option<u64>,

    /// How records are handed to the producer.
    #[arg(long, value_enum, default_value = "handle")]
    pub(crate) path: SendMethod,
    /// Show totals, brokers, waiting partitions and messages on the whole terminal during the run;
    /// q leaves this view, not the run.
    #[arg(long)]
    pub(crate) live: bool,
    /// Write a report when the run has ended: a page with charts if the name ends in .html, the
    /// data for --compare if it ends in .json; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,
    /// The name of the run in its report [default: topic and time].
    #[arg(long, value_name = "TEXT", requires = "report")]
    pub(crate) report_name: Option<String>,
    /// Send nothing: compare the data of earlier runs, as a table and in the page of --report.
    #[arg(
        long,
        value_name = "FILE.json",
        num_args = 1..,
        conflicts_with_all = ["topic", "num_records", "live", "json", "sweep"]
    )]
    pub(crate) compare: Vec<PathBuf>,
    /// Send at rising rates, in records a second, and print the latency at each; ends at a rate
    /// that is not sustained. Latencies begin when records are due.
    #[arg(
        long,
        value_name = "FROM..TO",
        conflicts_with_all = ["num_records", "throughput", "rate", "warmup_records", "live"]
    )]
    pub(crate) sweep: Option<SweepRange>,
    /// The highest 99th percentile of the latency, in milliseconds; the sweep finds the highest
    /// rate under it.
    #[arg(
        long,
        value_name = "MS",
        requires = "sweep",
        value_parser = parse_limit_ms
    )]
    pub(crate) sweep_p99: Option<f64>,
    /// Number of rates of a sweep. Further ones follow, to find the highest one.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        requires = "sweep",
        value_parser = clap::value_parser!(u32).range(2..=100)
    )]
    pub(crate) sweep_steps: u32,
    /// Seconds at each rate of a sweep.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 10,
        requires = "sweep",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) sweep_seconds: u64,
    /// Print one JSON object with the results, and no other line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Bytes of each value in the payload file, which then has no delimiters.
    #[arg(
        long,
        value_name = "BYTES",
        requires = "payload_file",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) size: Option<u32>,
    /// The setting acks.
    #[arg(long, value_name = "ACKS", allow_hyphen_values = true)]
    pub(crate) acks: Option<String>,
    /// The setting linger.ms.
    #[arg(long, value_name = "MS")]
    pub(crate) linger_ms: Option<String>,
    /// The setting batch.size.
    #[arg(long, value_name = "BYTES")]
    pub(crate) batch_bytes: Option<String>,
    /// The setting compression.type.
    #[arg(long, value_name = "CODEC")]
    pub(crate) compression: Option<String>,
    /// The setting enable.idempotence.
    #[arg(long, value_name = "BOOL")]
    pub(crate) idempotent: Option<String>,
    /// The setting max.in.flight.requests.per.connection.
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<String>,
    /// The setting buffer.memory.
    #[arg(long, value_name = "BYTES")]
    pub(crate) buffer_memory: Option<String>,
    /// Whether each record has a key of 8 bytes that no other record has.
    #[arg(long, value_name = "BOOL", default_value = "false", action = clap::ArgAction::Set)]
    pub(crate) keyed: bool,
    /// Records a second, each at the millisecond when it is due; 0 for no limit.
    #[arg(long, value_name = "N", conflicts_with = "throughput")]
    pub(crate) rate: Option<u64>,
    /// Number of threads that send.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=64)
    )]
    pub(crate) threads: u64,
}

impl PerfArgs {
    /// Returns the topic, which every run has.
    pub(crate) fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or_default()
    }

    /// Returns the number of records; 0 for a sweep, which counts by rate and time.
    pub(crate) fn num_records(&self) -> u64 {
        self.num_records.unwrap_or_default()
    }

    /// Returns the rate of the load in records a second; `None` for no limit.
    pub(crate) fn offered_rate(&self) -> Option<f64> {
        self.rate.map(|rate| rate as f64).or(self.throughput).filter(|rate| *rate > 0.0)
    }
}

fn parse_limit_ms(text: &str) -> Result<f64, String> {
    let ms: f64 = text.parse().map_err(|_| "expected a number of milliseconds".to_owned())?;
    if (0.001..=3_600_000.0).contains(&ms) {
        Ok(ms)
    } else {
        Err("expected a number from 0.001 to 3600000".into())
    }
}

/// How keys are chosen from the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyDistribution {
    /// Records have no keys.
    None,
    /// Each number in order, then from 0 again.
    Range,
    /// A random number.
    Random,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn clap_accepts_the_table() {
        super::Cli::command().debug_assert();
    }
}
