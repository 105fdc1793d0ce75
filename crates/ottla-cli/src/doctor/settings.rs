//! Checks the settings: each one alone, and all against each other.

use std::path::Path;
use std::time::Instant;

use ottla::{Origin, ProducerConfig, Properties};

use super::report::{Failed, Passed, Report};
use crate::CliError;
use crate::args::DoctorArgs;
use crate::console::report;
use crate::settings::{is_provider, property_pairs, read_file};

/// Reads all settings and reports every wrong one. Returns the configuration if there is one.
///
/// # Errors
/// The command line names no broker, or no setting can be read.
pub(super) fn check(
    args: &DoctorArgs,
    report: &mut Report,
) -> Result<Option<ProducerConfig>, CliError> {
    let start = Instant::now();
    let mut faults = Vec::new();
    let properties = read(args, &mut faults)?;
    if properties.get("bootstrap.servers").is_none() {
        return Err(CliError::usage(
            "no broker is given: use --bootstrap-server host:port, or bootstrap.servers in a file",
        ));
    }
    let config = ProducerConfig::new(&properties);
    if let Err(e) = &config {
        faults.push(e.to_string());
    }
    let notices = properties.notices();
    let set = properties_in_use(config.as_ref().ok());
    report.check_since(start, "settings", || {
        if faults.is_empty() {
            return Ok(((), Passed { text: set, notes: notices }));
        }
        let text = faults.join(" | ");
        let mut failed = match faults.len() {
            1 => Failed::from_error(text),
            n => Failed::new(format!("{n} faults: {text}"), "correct each of them"),
        };
        failed.notes = notices;
        Err(failed.or_change("correct this setting"))
    });
    // A misspelt setting has no effect, but the others may be enough to go on.
    Ok(config.ok())
}

/// Collects the settings from the environment, the file and the command line. A fault does not end
/// the reading.
fn read(args: &DoctorArgs, faults: &mut Vec<String>) -> Result<Properties, CliError> {
    let mut p = Properties::new();
    let mut note = |result: Result<(), ottla::Error>| {
        if let Err(e) = result {
            faults.push(e.to_string());
        }
    };
    note(p.set_from("client.id", "ottla-doctor", &Origin::CommandLine));
    for (name, value) in std::env::vars_os() {
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) {
            note(p.load_environment([(name, value)]));
        }
    }
    if let Some(path) = &args.command_config {
        let origin = Origin::File(path.display().to_string());
        match entries(path)? {
            Ok(entries) => {
                for (name, value) in entries {
                    note(p.set_from(&name, &value, &origin));
                }
            }
            Err(e) => note(Err(e)),
        }
    }
    for (name, value) in property_pairs(args.command_property.iter())? {
        note(p.set_from(name, value, &Origin::CommandLine));
    }
    if let Some(servers) = &args.bootstrap_server {
        note(p.set_from("bootstrap.servers", servers, &Origin::CommandLine));
    }
    Ok(p)
}

/// The entries of a file, or the fault of its format.
type Entries = Result<Vec<(String, String)>, ottla::Error>;

/// Reads a file of settings, providers first: values may refer to them.
fn entries(path: &Path) -> Result<Entries, CliError> {
    let mut p = Properties::new();
    let content = read_file(path)?;
    Ok(match ottla::tools::parse_properties(&content) {
        Ok(mut entries) => {
            entries.sort_by_key(|(name, _)| !is_provider(name));
            Ok(entries)
        }
        // The library's error names file and line.
        Err(_) => p.load(&content, &path.display().to_string()).map(|()| Vec::new()),
    })
}

/// Returns the effective settings: names and values. Secrets are hidden.
pub(super) fn effective(config: &ProducerConfig) -> Vec<(String, String)> {
    let text = config.to_string();
    let entry = |line: &str| line.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    text.lines().filter_map(entry).collect()
}

/// Prints the effective settings to standard error, so that standard output has only the checks.
pub(super) fn print(effective: &[(String, String)]) {
    for (name, value) in effective {
        report!("    {name}={value}");
    }
}

/// Returns the effective values of the settings that are set.
fn properties_in_use(config: Option<&ProducerConfig>) -> String {
    let Some(config) = config else { return String::new() };
    let is_set = |name: &str| config.properties().get(name).is_some();
    let set: Vec<String> = (effective(config).into_iter())
        .filter(|(name, _)| is_set(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    set.join(", ")
}
