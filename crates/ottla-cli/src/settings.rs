//! Translates the options of `ottla produce` into producer settings.

use std::fs;
use std::path::Path;

use ottla::{Origin, Properties};

use crate::CliError;
use crate::args::ProduceArgs;
use crate::console::report;

pub(crate) fn read_file(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path)
        .map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))
}

/// Splits `key=value` at the first `=`.
pub(crate) fn split_property(text: &str) -> Result<(&str, &str), CliError> {
    text.split_once('=').ok_or_else(|| CliError::usage(format!("{text:?} is not key=value")))
}

/// Collects the producer's settings: environment, files, properties, options. A later source
/// overrides an earlier one.
///
/// `embedded` is the embedded broker's address, if there is one.
pub(crate) fn producer_properties(
    args: &ProduceArgs,
    embedded: Option<&str>,
) -> Result<Properties, CliError> {
    let mut p = Properties::new();
    let usage = |e: ottla::Error| CliError::usage(e.to_string());
    p.set("client.id", "console-producer", &Origin::CommandLine).map_err(usage)?;
    // A variable that is not Unicode cannot be a setting.
    let variables = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    p.load_environment(variables).map_err(usage)?;
    for path in args.command_config.iter().chain(&args.producer_config) {
        p.load(&read_file(path)?, &path.display().to_string()).map_err(usage)?;
    }
    let mut set = |name: &str, value: &str| p.set(name, value, &Origin::CommandLine).map_err(usage);
    for property in args.command_property.iter().chain(&args.producer_property) {
        let (name, value) = split_property(property)?;
        // kcat marks topic settings with this prefix.
        set(name.strip_prefix("topic.").unwrap_or(name), value)?;
    }
    for (name, value) in [
        ("bootstrap.servers", args.bootstrap_server.as_deref().or(embedded)),
        ("compression.type", args.compression_codec.as_deref()),
        ("batch.size", args.max_partition_memory_bytes.as_deref().or(args.batch_size.as_deref())),
        ("retries", args.message_send_max_retries.as_deref()),
        ("retry.backoff.ms", args.retry_backoff_ms.as_deref()),
        ("linger.ms", args.timeout.as_deref()),
        ("acks", args.request_required_acks.as_deref()),
        ("request.timeout.ms", args.request_timeout_ms.as_deref()),
        ("metadata.max.age.ms", args.metadata_expiry_ms.as_deref()),
        ("max.block.ms", args.max_block_ms.as_deref()),
        ("buffer.memory", args.max_memory_bytes.as_deref()),
        ("send.buffer.bytes", args.socket_buffer_size.as_deref()),
    ] {
        if let Some(value) = value {
            set(name, value)?;
        }
    }
    if p.get("bootstrap.servers").is_none() {
        return Err(CliError::usage(
            "no broker is given: use --bootstrap-server host:port, or --embedded to start a broker \
             in this process",
        ));
    }
    Ok(p)
}

/// Prints a warning for each deprecated option in use, as kafka-console-producer does.
pub(crate) fn warn_deprecated(args: &ProduceArgs) {
    let options = [
        ("--max-partition-memory-bytes", args.max_partition_memory_bytes.is_some(), "--batch-size"),
        ("--producer-property", !args.producer_property.is_empty(), "--command-property"),
        ("--producer.config", args.producer_config.is_some(), "--command-config"),
        ("--property", !args.property.is_empty(), "--reader-property"),
    ];
    for (deprecated, is_used, replacement) in options {
        if is_used {
            report!("Warning: {deprecated} is deprecated; use {replacement} instead.");
        }
    }
}
