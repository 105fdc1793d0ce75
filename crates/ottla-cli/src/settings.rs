//! Translates the options of `ottla produce` into producer settings.

use std::fs;
use std::path::Path;

use ottla::tools::read_to_limit;
use ottla::{Origin, Properties};

use crate::CliError;
use crate::args::ProduceArgs;
use crate::console::{open_stdin, report};

/// Reads a file of settings. The caller must not read it twice: it may be a pipe, as in
/// `-F <(command)` or `-F /dev/stdin`, and the second read would find it empty.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut content = Vec::new();
    let read = if path == Path::new("-") {
        open_stdin().and_then(|stdin| read_to_limit(stdin, &mut content))
    } else {
        fs::File::open(path).and_then(|file| read_to_limit(file, &mut content))
    };
    read.map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))?;
    Ok(content)
}

/// Refuses standard input for two purposes: the first one would read all of it.
pub(crate) fn check_stdin_has_one_use(args: &ProduceArgs) -> Result<(), CliError> {
    let is_input = args.files.is_empty() || args.files.iter().any(|path| is_stdin(path));
    let files = [&args.command_config, &args.producer_config, &args.reader_config];
    let settings = files.into_iter().flatten().filter(|path| is_stdin(path)).count();
    if settings + usize::from(is_input) > 1 && settings > 0 {
        return Err(CliError::usage(if is_input {
            "standard input cannot be both settings and records; name a file for one of them"
        } else {
            "standard input cannot be two files of settings; name a file for one of them"
        }));
    }
    Ok(())
}

/// Returns whether a path is the standard input of this process.
fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
}

/// Splits `key=value` at the first `=`.
pub(crate) fn split_property(text: &str) -> Result<(&str, &str), CliError> {
    text.split_once('=').ok_or_else(|| CliError::usage(format!("{text:?} is not key=value")))
}

/// Collects the producer's settings: environment, files, properties, options. A later source
/// overrides an earlier one. With `--embedded`, the caller sets the broker's address.
pub(crate) fn producer_properties(args: &ProduceArgs) -> Result<Properties, CliError> {
    let mut p = Properties::new();
    let usage = |e: ottla::Error| CliError::usage(e.to_string());
    p.set_from("client.id", "console-producer", &Origin::CommandLine).map_err(usage)?;
    // A variable that is not Unicode cannot be a setting.
    let variables = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    p.load_environment(variables).map_err(usage)?;
    for path in args.command_config.iter().chain(&args.producer_config) {
        p.load(&read_file(path)?, &path.display().to_string()).map_err(usage)?;
    }
    set_properties(&mut p, args.command_property.iter().chain(&args.producer_property))?;
    let mut set =
        |name: &str, value: &str| p.set_from(name, value, &Origin::CommandLine).map_err(usage);
    for (name, value) in [
        ("bootstrap.servers", args.bootstrap_server.as_deref()),
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
        ("schema.registry.url", args.schemas.schema_registry.as_deref()),
    ] {
        if let Some(value) = value {
            set(name, value)?;
        }
    }
    if p.get("bootstrap.servers").is_none() && !args.embedded && !args.load.dry_run {
        return Err(CliError::usage(
            "no broker is given: use --bootstrap-server host:port, or --embedded to start a broker \
             in this process",
        ));
    }
    Ok(p)
}

/// Returns the value of a setting that is a number.
pub(crate) fn number(properties: &Properties, name: &str, default: u64) -> u64 {
    properties.get(name).and_then(|value| value.trim().parse().ok()).unwrap_or(default)
}

/// Returns the names and values of properties of the command line, configuration providers first:
/// values may refer to them.
pub(crate) fn property_pairs<'a>(
    properties: impl Iterator<Item = &'a String>,
) -> Result<Vec<(&'a str, &'a str)>, CliError> {
    let mut pairs = properties.map(|text| split_property(text)).collect::<Result<Vec<_>, _>>()?;
    pairs.sort_by_key(|(name, _)| !is_provider(name));
    for (name, _) in &mut pairs {
        // kcat marks topic settings with this prefix, which is also a part of some names.
        let is_whole = name.starts_with("topic.metadata.") || *name == "topic.blacklist";
        *name = name.strip_prefix("topic.").filter(|_| !is_whole).unwrap_or(*name);
    }
    Ok(pairs)
}

pub(crate) fn is_provider(name: &str) -> bool {
    name.starts_with("config.providers")
}

/// Refuses a transactional producer: the command begins no transaction, so every record would fail.
pub(crate) fn check_not_transactional(properties: &Properties) -> Result<(), CliError> {
    match properties.get("transactional.id") {
        None => Ok(()),
        Some(id) => Err(CliError::usage(format!(
            "transactional.id={id}: this command sends no transactions; remove the setting"
        ))),
    }
}

/// Sets the properties of the command line.
pub(crate) fn set_properties<'a>(
    p: &mut Properties,
    properties: impl Iterator<Item = &'a String>,
) -> Result<(), CliError> {
    for (name, value) in property_pairs(properties)? {
        p.set_from(name, value, &Origin::CommandLine)
            .map_err(|e| CliError::usage(e.to_string()))?;
    }
    Ok(())
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
