//! The options of `ottla produce`.

use std::path::PathBuf;

use clap::Args;

use crate::rate::{Rate, parse_rate};

pub(super) const PRODUCE_NOTES: &str = "\
The options are those of kafka-console-producer and the short options of kcat. An option overrides \
a property, a property overrides a file, and a file overrides an environment variable such as \
OTTLA_LINGER_MS=20 (linger.ms). Other settings keep the producer's default.

A line has the form h1:v1,h2:v2<headers.delimiter>key<key.separator>value. Reader properties, with \
their defaults:
  parse.key              false
  parse.headers          false
  key.separator          \\t
  headers.delimiter      \\t
  headers.separator      ,
  headers.key.separator  :
  ignore.error           false
  null.marker            (not set)

A file, or standard input, that is a gzip, zstd or lz4 archive is decompressed. Its first bytes \
say so, not its name.

The input is bytes, in any encoding. A line ends at \\n. One \\r before the \\n is removed.

With --format json each line is an object with these fields:
  topic         a string; needed without --topic
  partition     an integer; without it the partitioner chooses
  key, value    a string is sent as text, any other JSON value as it is written, null as null
  key_base64, value_base64
                bytes in base64, instead of key or value
  headers       {\"a\": \"1\"}, [\"a\", \"1\"], [[\"a\", \"1\"]] or
                [{\"key\": \"a\", \"value\": \"1\"}]; order and repeated names are
                kept; value_base64 instead of value in the last
  timestamp     milliseconds since 1970; without it the time of sending
The output of `kcat -C -J`, with payload, ts and the rest, and of --json can be sent again as it is.
An unknown field is an error.

With --format csv the first line of each file names the columns.

With --value-schema or --key-schema, values or keys are JSON: they are written in Confluent's wire \
format. The schema of a file is registered under TOPIC-value or TOPIC-key; with the setting \
auto.register.schemas=false it must be registered there. null is a tombstone. value_base64 and \
key_base64 are sent as they are. Settings of the registry, such as basic.auth.user.info, are given \
like those of the producer.

Without --on-error a text that is no record ends the reading, and a record that is rejected alone, \
such as one that is too large, only counts as failed. An error that every record would meet, such \
as a wrong password, always ends the reading. A line of the FILE of --on-error FILE is an object \
that --format json reads, with the fields error, source (file and line, or the number of \
a raw value) and possibly_persisted: if that is true, sending the record again may store it twice. \
A text that is no record stands in the field input; correct it before you send it again.

With --dry-run only metadata and settings are requested from the cluster; without a cluster a \
topic has one partition. The records go through the producer to a broker in this process, which \
has the cluster's partitions and some of its settings (max.message.bytes, cleanup.policy), and \
keeps nothing. Batches may be fuller when brokers are far away. Records without a key go to any \
partition, so their numbers will differ. No schema is registered: one of a file must be registered \
already.

With --live the view needs a terminal: it draws on it and reads keys from it, also if standard \
input, output and error are files or pipes. Messages are printed again after the view. NO_COLOR \
switches colours off.

With --checkpoint FILE, FILE holds how far the input files were acknowledged. It is written ten \
times a second and at the end. A run that finds FILE continues there, also in an archive or in a \
file that has grown by whole records. It does not know the cluster: use one FILE for each. It \
refuses other files, another topic, and options with which records would end elsewhere. If a run \
ends by itself or by one signal, the next one sends nothing twice. If it is killed, what was in \
flight and what was acknowledged in the last tenth of a second is sent again. A failed record \
ends the reading, and the next run begins with it; with --on-error skip or FILE it counts as \
done. FILE.lock keeps a second run away.

SIGINT, SIGTERM, SIGQUIT and SIGHUP (unless it is ignored, as under nohup) end the reading: the \
records read so far are sent, and the summary is printed. A second signal ends the command at once.

Exit status: 0 if every record was acknowledged (with acks=0: written to the socket), 1 if a \
record failed or the input could not be read, 2 for a wrong option or setting, 130 after a second \
signal. Errors name their section of https://github.com/ottla/ottla/blob/main/docs/ERRORS.md.";

#[derive(Debug, Args, Default)]
pub(crate) struct ProduceArgs {
    /// Files to read, in this order; `-` or no file reads standard input.
    pub(crate) files: Vec<PathBuf>,

    /// The topic. With --format json a record can name its topic instead; this option overrides
    /// that.
    #[arg(short = 't', long)]
    pub(crate) topic: Option<String>,
    /// Brokers for the first connection: host:port, separated by commas.
    #[arg(
        short = 'b',
        long,
        value_name = "H:P,…",
        visible_alias = "broker-list",
        conflicts_with = "embedded"
    )]
    pub(crate) bootstrap_server: Option<String>,
    /// Start a broker in this process and send to it.
    #[arg(long)]
    pub(crate) embedded: bool,
    /// Directory for the embedded broker's log, in Kafka's format; default: a temporary directory.
    #[arg(long, value_name = "DIR", requires = "embedded")]
    pub(crate) data_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) schemas: SchemaArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Wait for the acknowledgement of each record before the next record is sent.
    #[arg(long)]
    pub(crate) sync: bool,
    /// Compression codec: none, gzip, snappy, lz4 or zstd; gzip if no value is given.
    #[arg(
        short = 'z',
        long,
        value_name = "CODEC",
        num_args = 0..=1,
        default_missing_value = "gzip"
    )]
    pub(crate) compression_codec: Option<String>,
    /// Maximum bytes of a batch (batch.size).
    #[arg(long, value_name = "BYTES")]
    pub(crate) batch_size: Option<String>,
    /// How often a failed batch is sent again (retries).
    #[arg(long, value_name = "N")]
    pub(crate) message_send_max_retries: Option<String>,
    /// Milliseconds to wait before a retry (retry.backoff.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) retry_backoff_ms: Option<String>,
    /// Milliseconds that a batch waits for more records (linger.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) timeout: Option<String>,
    /// Replicas that must have the record: all, -1, 1 or 0 (acks).
    #[arg(long, value_name = "ACKS", allow_hyphen_values = true)]
    pub(crate) request_required_acks: Option<String>,
    /// Milliseconds to wait for a broker's response (request.timeout.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) request_timeout_ms: Option<String>,
    /// Milliseconds after which metadata is requested again (metadata.max.age.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) metadata_expiry_ms: Option<String>,
    /// Milliseconds that a record may wait for metadata and memory (max.block.ms).
    #[arg(long, value_name = "MS")]
    pub(crate) max_block_ms: Option<String>,
    /// Maximum bytes of records that are not acknowledged yet (buffer.memory).
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_memory_bytes: Option<String>,
    /// Deprecated: the same as --batch-size, which it overrides.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_partition_memory_bytes: Option<String>,
    /// Bytes of the socket's send buffer (send.buffer.bytes).
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) socket_buffer_size: Option<String>,

    /// Class of the line reader; only Kafka's LineMessageReader is supported.
    #[arg(long, value_name = "CLASS")]
    pub(crate) line_reader: Option<String>,
    /// A reader property, key=value; may be given several times.
    #[arg(long, value_name = "K=V")]
    pub(crate) reader_property: Vec<String>,
    /// Deprecated: the same as --reader-property.
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
    /// A file of producer settings, in the format of Java's properties files.
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(crate) command_config: Option<PathBuf>,
    /// Deprecated: the same as --command-config.
    #[arg(long = "producer.config", value_name = "FILE")]
    pub(crate) producer_config: Option<PathBuf>,

    /// The partition of every record, also of one that names its partition; with -1 the partitioner
    /// chooses.
    #[arg(short = 'p', value_name = "N", allow_hyphen_values = true)]
    pub(crate) partition: Option<i32>,
    /// Record delimiter, instead of the end of the line; may contain \n, \t, \0 and \xHH.
    #[arg(short = 'D', value_name = "DELIM")]
    pub(crate) delimiter: Option<String>,
    /// Separator of key and value; a record without it has no key.
    #[arg(short = 'K', value_name = "DELIM")]
    pub(crate) key_delimiter: Option<String>,
    /// The key of every record; with -K: of every record that has no key.
    #[arg(short = 'k', value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// A header of every record, name=value; may be given several times.
    #[arg(short = 'H', value_name = "NAME=VALUE")]
    pub(crate) header: Vec<String>,
    /// Stop after N records.
    #[arg(short = 'c', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Send empty keys and values as null.
    #[arg(short = 'Z')]
    pub(crate) null_empty: bool,
    /// Split files at the delimiter; this is always done, the option exists because kcat has it.
    #[arg(short = 'l')]
    pub(crate) lines: bool,

    /// Print the result of each record to standard output, as one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print connection and metadata events to standard error.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Print all events to standard error.
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
}

/// The format of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum InputFormat {
    /// One record a line: headers, key and value with separators.
    #[default]
    Lines,
    /// One JSON object a line: topic, partition, key, value, headers, timestamp.
    Json,
    /// CSV with a header line (RFC 4180).
    Csv,
    /// Values only, each behind its length or all of one size.
    Raw,
}

/// The value of a record that is a row of CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum CsvValue {
    /// A JSON object with a string for each column.
    #[default]
    Json,
    /// The row's own text, without its line end.
    Line,
}

/// The form of the length before a raw value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LengthPrefix {
    /// 4 bytes, big endian, as Kafka writes it; -1 is null.
    Be32,
    /// 4 bytes, little endian; -1 is null.
    Le32,
    /// A varint, as Protobuf writes it before a delimited message.
    Varint,
}

/// The options for keys and values with a schema.
#[derive(Debug, Args, Default)]
pub(crate) struct SchemaArgs {
    /// The schema of values, which are JSON: a file with an Avro (.avsc), Protobuf (.proto) or
    /// JSON Schema (.json), which is registered, or a subject of the registry.
    #[arg(long, value_name = "FILE|SUBJECT[:VERSION]")]
    pub(crate) value_schema: Option<String>,
    /// The schema of keys, which are JSON.
    #[arg(long, value_name = "FILE|SUBJECT[:VERSION]")]
    pub(crate) key_schema: Option<String>,
    /// The message of the values' Protobuf schema: shop.Order. Without it, the first of the file.
    #[arg(long, value_name = "NAME", requires = "value_schema")]
    pub(crate) value_message: Option<String>,
    /// The message of the keys' Protobuf schema.
    #[arg(long, value_name = "NAME", requires = "key_schema")]
    pub(crate) key_message: Option<String>,
    /// The URL of the schema registry (schema.registry.url); several are separated by commas.
    #[arg(long, value_name = "URL,…")]
    pub(crate) schema_registry: Option<String>,
    /// A schema that the schema in a file uses by NAME (in .proto the path of an import, in .json a
    /// $ref); may be given several times. A FILE is registered under the subject NAME, and may use
    /// the ones before it.
    #[arg(long, value_name = "NAME=FILE|SUBJECT[:VERSION]")]
    pub(crate) schema_reference: Vec<String>,
}

/// The options for loads with bad records or of many hours.
#[derive(Debug, Args, Default)]
pub(crate) struct LoadArgs {
    /// Send nothing: read all records, and print which would fail, how many would go to each
    /// partition, and in how large batches.
    #[arg(
        long,
        conflicts_with_all = [
            "checkpoint", "data_dir", "json", "live", "metrics_listen", "rate", "sync"
        ]
    )]
    pub(crate) dry_run: bool,
    /// What to do with a rejected record, which cannot be parsed, is too large or is refused by the
    /// broker: stop the reading, skip it, or append it to FILE and continue.
    #[arg(long, value_name = "stop|skip|FILE")]
    pub(crate) on_error: Option<PathBuf>,
    /// Send at most N records a second, or bytes with a unit: 500, 20kB, 1.5MB, 8MiB. With 1x
    /// records come as far apart as their timestamps, with 10x ten times as fast.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    pub(crate) rate: Option<Rate>,
    /// Keep in FILE how far the input files were acknowledged, and continue there if FILE exists.
    /// A failed record ends the reading, unless --on-error says otherwise.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Serve the producer's metrics to Prometheus at http://HOST:PORT/metrics; with port 0 the
    /// system picks a free port.
    #[arg(long, value_name = "H:P")]
    pub(crate) metrics_listen: Option<String>,
    /// Show totals, brokers, waiting partitions and messages on the whole terminal during the run;
    /// q leaves this view, not the run.
    #[arg(long)]
    pub(crate) live: bool,
}

/// The options that say how the input is read.
#[derive(Debug, Args, Default)]
pub(crate) struct InputArgs {
    /// The format of the input.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "lines")]
    pub(crate) format: InputFormat,
    /// With --format csv: the column whose text is the key; without it, records have no key.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) key_column: Option<String>,
    /// With --format csv: what the value is [default: json].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) csv_value: Option<CsvValue>,
    /// With --format csv: the character between fields, or \t [default: ,].
    #[arg(long, value_name = "CHAR")]
    pub(crate) csv_delimiter: Option<String>,
    /// With --format raw: the length before each value [default: be32].
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "value_size")]
    pub(crate) length_prefix: Option<LengthPrefix>,
    /// Send the bytes of gzip, zstd and lz4 archives as they are, instead of their contents.
    #[arg(long)]
    pub(crate) no_decompress: bool,
    /// With --format raw: the size of each value, without lengths between them.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) value_size: Option<u32>,
}
