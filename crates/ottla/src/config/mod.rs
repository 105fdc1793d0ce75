//! The configuration of a producer.
//!
//! [`Properties`] collects values by name from the builder, the command line, a file or the
//! environment and checks each one. [`ProducerConfig`] then converts them all at once and checks
//! them against each other; an error names the conflicting settings. `table` lists all settings.

mod table;
mod setting;
pub(crate) mod parse;
mod choices;
mod compression;
mod partitioning_strategy;
mod aliases;
mod properties;
mod providers;
mod schema_registry;
mod jaas;
pub(crate) mod secret;
pub(crate) mod files;
pub(crate) mod security;
mod accumulator_settings;
mod idempotence;
mod sender_settings;
mod client_settings;
mod transaction_settings;
mod timeouts;
mod producer_config;
mod bootstrap_servers;
mod notices;
mod sources;
#[cfg(test)]
mod documentation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use zeroize::Zeroize;

use crate::error::Error;
pub use accumulator_settings::AccumulatorSettings;
use aliases::AliasTarget;
pub use bootstrap_servers::BootstrapServers;
pub use choices::{Acks, AddressFamily, ClientDnsLookup, SaslMechanism, SecurityProtocol};
pub use client_settings::{ClientSettings, ConnectSettings, MetadataSettings, NetworkSettings};
pub use compression::{Compression, GzipLevel, Lz4Level, ZstdLevel};
#[cfg(test)]
pub(crate) use documentation::push_wrapped;
pub use files::read_to_limit;
pub use partitioning_strategy::PartitioningStrategy;
pub(crate) use producer_config::BackoffRange;
pub use producer_config::{MetricConfig, ProducerConfig};
pub use properties::parse as parse_properties;
use providers::ConfigProviders;
use secret::Secret;
pub use security::SecuritySettings;
pub use sender_settings::SenderSettings;
use setting::{Setting, Support, Type, find_setting, nearest_name};
pub use transaction_settings::TransactionSettings;

/// The source of a value. A setting of another Kafka client, such as `group.id`, is an error from
/// the builder and the command line. From a file or the environment it is a warning, because
/// several clients may share these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The application's code.
    Builder,
    /// An option of a command-line tool.
    CommandLine,
    /// A properties file of this name.
    File(String),
    /// An environment variable.
    Environment,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Builder => f.write_str("the builder"),
            Origin::CommandLine => f.write_str("the command line"),
            Origin::File(name) => f.write_str(name),
            Origin::Environment => f.write_str("the environment"),
        }
    }
}

/// Values of settings by name. Each value is checked when it is set; conflicts between settings are
/// found when the producer is built.
#[derive(Clone, Default)]
pub struct Properties {
    values: BTreeMap<&'static str, String>,
    /// The values in units of 1024 bytes of settings that librdkafka counts so.
    kibibytes: BTreeMap<&'static str, String>,
    /// librdkafka's `compression.level`, which holds for any codec.
    compression_level: Option<String>,
    /// The names in use that only librdkafka has.
    librdkafka_names: BTreeSet<String>,
    /// The settings whose value was set by a name of librdkafka, with that name.
    written_as: BTreeMap<&'static str, String>,
    notices: Vec<String>,
    /// The first error of a value that was set by a call that returns none.
    error: Option<Error>,
    providers: ConfigProviders,
    /// Settings whose values come from providers and may be secrets, with the text that was set.
    from_providers: BTreeMap<&'static str, String>,
    /// Settings of the schema registry's client, which the producer does not use.
    schema_settings: schema_registry::Values,
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self
            .values
            .iter()
            .map(|(name, value)| (name, if self.is_hidden(name) { "[hidden]" } else { value }));
        f.debug_map().entries(entries).finish()
    }
}

impl Drop for Properties {
    fn drop(&mut self) {
        // Freed memory goes to other allocations, so secrets are overwritten first.
        for (name, value) in &mut self.values {
            if is_secret(name) || self.from_providers.contains_key(name) {
                value.zeroize();
            }
        }
    }
}

/// Converts a number of bytes. The result has a fraction if it is no whole number.
fn to_kibibytes(bytes: &str) -> Option<String> {
    bytes.parse::<f64>().ok().map(|bytes| (bytes / 1024.0).to_string())
}

fn is_secret(name: &str) -> bool {
    find_setting(name).is_some_and(|s| matches!(s.value_type, Type::Password))
}

impl Properties {
    /// Creates an empty set of values.
    pub fn new() -> Properties {
        Properties::default()
    }

    /// Sets a value by the name in Kafka, librdkafka or Spring Boot (`spring.kafka.…`). A later
    /// value replaces an earlier one.
    ///
    /// The value may refer to a file or to the environment, as in `${file:/etc/secrets:password}`,
    /// `${directory:/etc/secrets:password}` and `${env:PASSWORD}` (KIP-297). References are
    /// replaced at once, so set `config.providers` before.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the name is unknown (the error suggests
    /// the nearest name), the value is out of range, the setting is not supported, or it belongs to
    /// another Kafka client. An error of a reference names its file and key; no error contains a
    /// value that comes from a provider.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        self.set_from(name, value, &Origin::Builder)
    }

    /// Sets a value as [`set`](Self::set) does. Errors and notices name the origin.
    ///
    /// # Errors
    /// The same as `set`. A setting of another Kafka client is a notice if `origin` is a file or
    /// the environment.
    pub fn set_from(&mut self, name: &str, value: &str, origin: &Origin) -> Result<(), Error> {
        let name = aliases::strip_spring_prefix(name.trim());
        if providers::is_provider_setting(&name) {
            return self.providers.set(&name, value);
        }
        if schema_registry::is_schema_setting(&name) {
            return self.set_schema_setting(&name, value, origin);
        }
        if notices::is_librdkafka_name(&name) {
            self.librdkafka_names.insert(name.clone());
        }
        self.resolve_and_set(&name, value, origin)
    }

    /// Sets a value whose references to providers are resolved.
    fn set_resolved(&mut self, name: &str, value: &str, origin: &Origin) -> Result<(), Error> {
        let name = name.to_owned();
        if matches!(&*name, "compression.codec" | "compression.type") && value.trim() == "inherit" {
            // librdkafka's default for a topic: the setting of the whole producer holds.
            return Ok(());
        }
        if find_setting(&name).is_none() {
            match aliases::find_alias(&name) {
                Some(AliasTarget::SameAs(other)) => {
                    return self.set_alias(&name, other, value, origin);
                }
                Some(AliasTarget::Kibibytes(other)) => {
                    let bytes = value.trim().parse::<i64>().ok().and_then(|n| n.checked_mul(1024));
                    let bytes = bytes.ok_or_else(|| {
                        Error::config(format!(
                            "{name}={value} (from {origin}) is not valid; expected a whole number"
                        ))
                    })?;
                    return self.set_alias(&name, other, &bytes.to_string(), origin);
                }
                Some(AliasTarget::CompressionLevel) => {
                    self.set_compression_level(value.trim().to_owned());
                    return Ok(());
                }
                Some(AliasTarget::Ignored) => {
                    let replacement = notices::replacement(&name);
                    let hint = replacement.map_or(String::new(), |text| format!("; {text}"));
                    self.add_notice(format!("{name} (from {origin}) has no effect{hint}"));
                    return Ok(());
                }
                None => return self.handle_unknown(&name, origin),
            }
        }
        let Some(setting) = find_setting(&name) else {
            return Ok(());
        };
        self.insert(setting, value, origin)
    }

    fn set_alias(
        &mut self,
        alias: &str,
        name: &'static str,
        value: &str,
        origin: &Origin,
    ) -> Result<(), Error> {
        let Some(setting) = find_setting(name) else {
            return Ok(());
        };
        // librdkafka has other words for the default of the operating system and for "never".
        let value = match (alias, value.trim()) {
            ("socket.send.buffer.bytes" | "socket.receive.buffer.bytes", "0") => "-1",
            ("message.timeout.ms", "0") | ("topic.metadata.refresh.interval.ms", "-1") => {
                "2147483647"
            }
            _ => value,
        };
        self.insert(setting, value, origin).map_err(|e| Error::config(format!("{alias}: {e}")))?;
        self.written_as.insert(setting.name, alias.to_owned());
        Ok(())
    }

    fn insert(
        &mut self,
        setting: &'static Setting,
        value: &str,
        origin: &Origin,
    ) -> Result<(), Error> {
        let value = parse::check_value(setting, value, Some(origin))?;
        if value.is_empty() && setting.name == "transactional.id" {
            return Err(Error::config("transactional.id is empty; remove it instead"));
        }
        if setting.name == "partitioner.class" {
            PartitioningStrategy::from_class(value)?;
        }
        let is_default = setting.default.unwrap_or("") == value;
        match setting.support {
            Support::Supported => {}
            _ if is_default => return Ok(()),
            Support::Ignored => self
                .add_notice(format!("{} has no effect: {}", setting.name, setting.documentation)),
            Support::Unsupported => {
                return Err(Error::config(format!(
                    "{} is not supported: {}",
                    setting.name, setting.documentation
                )));
            }
        }
        self.replace(setting.name, value.to_owned());
        Ok(())
    }

    fn replace(&mut self, name: &'static str, value: String) {
        if aliases::has_kibibytes_alias(name)
            && let Some(kibibytes) = to_kibibytes(&value)
        {
            self.kibibytes.insert(name, kibibytes);
        }
        self.written_as.remove(name);
        if let Some(mut old) = self.values.insert(name, value)
            && is_secret(name)
        {
            old.zeroize();
        }
    }

    /// Sets librdkafka's `compression.level`. It replaces the levels of all codecs that were set
    /// before; a level that is set after it takes precedence for its codec.
    fn set_compression_level(&mut self, level: String) {
        self.values.retain(|name, _| !compression::is_level_name(name));
        self.compression_level = Some(level);
    }

    fn handle_unknown(&mut self, name: &str, origin: &Origin) -> Result<(), Error> {
        let may_be_shared = matches!(origin, Origin::File(_) | Origin::Environment);
        if aliases::is_other_client_setting(name) {
            let text = format!("{name} (from {origin}) is a setting of another Kafka client");
            if may_be_shared {
                self.add_notice(format!("{text}; it has no effect on a producer"));
                return Ok(());
            }
            return Err(Error::config(format!("{text}, not of a producer; remove it")));
        }
        let hint = nearest_name(name).map_or(String::new(), |n| format!("; did you mean {n}?"));
        Err(Error::config(format!("unknown setting {name} (from {origin}){hint}")))
    }

    fn add_notice(&mut self, text: String) {
        if !self.notices.contains(&text) {
            self.notices.push(text);
        }
    }

    /// Sets all values in `content`, the content of a properties file in Java's format: UTF-8,
    /// UTF-16 with a byte order mark, or ISO-8859-1. `name` is the name of the file for errors and
    /// warnings.
    ///
    /// # Errors
    /// A malformed escape, with the number of its line, or the same as [`set`](Self::set), for the
    /// first value that fails.
    pub fn load(&mut self, content: impl AsRef<[u8]>, name: &str) -> Result<(), Error> {
        let origin = Origin::File(name.to_owned());
        let values = properties::parse(content)
            .map_err(|e| Error::config(format!("cannot read {name}: {e}")))?;
        // Values may refer to providers that the file lists later.
        let (providers, others): (Vec<_>, Vec<_>) =
            values.into_iter().partition(|(name, _)| providers::is_provider_setting(name));
        for (name, value) in providers.into_iter().chain(others) {
            self.set_from(&name, &value, &origin)?;
        }
        Ok(())
    }

    /// Sets values from environment variables with the prefix `OTTLA_`, such as
    /// `OTTLA_LINGER_MS=20`. Variables that name no setting are ignored: Kubernetes adds
    /// `OTTLA_SERVICE_HOST`, `OTTLA_PORT` and others if a service is called `ottla`. A name that
    /// looks misspelt is a warning.
    ///
    /// # Errors
    /// The same as [`set`](Self::set), for the first value that fails.
    pub fn load_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Error> {
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix("OTTLA_") else { continue };
            let name = rest.to_ascii_lowercase().replace('_', ".");
            if aliases::is_known_name(&name) {
                self.set_from(&name, &value, &Origin::Environment)?;
            } else {
                self.handle_unknown_variable(&variable, &name);
            }
        }
        Ok(())
    }

    fn handle_unknown_variable(&mut self, variable: &str, name: &str) {
        /// Shorter names, such as `OTTLA_HOME`, are similar to some setting by chance.
        const MIN_MISSPELT_LEN: usize = 5;
        let may_be_misspelt =
            name.len() >= MIN_MISSPELT_LEN && !aliases::is_kubernetes_variable(variable);
        match nearest_name(name).filter(|_| may_be_misspelt) {
            Some(nearest) => self.add_notice(format!(
                "{variable} (from the environment) is not a setting and has no effect; did you \
                 mean OTTLA_{}?",
                nearest.to_ascii_uppercase().replace('.', "_")
            )),
            None => tracing::debug!("{variable} (from the environment) is not a setting"),
        }
    }

    /// Returns the value that was set for a setting, by any name that [`set`](Self::set) takes;
    /// not its default. The values of librdkafka's settings that have no effect are not kept.
    pub fn get(&self, name: &str) -> Option<&str> {
        let name = aliases::strip_spring_prefix(name.trim());
        match aliases::find_alias(&name) {
            Some(AliasTarget::SameAs(other)) => self.value(other),
            Some(AliasTarget::Kibibytes(other)) => self.kibibytes.get(other).map(String::as_str),
            Some(AliasTarget::CompressionLevel) => self.compression_level.as_deref(),
            Some(AliasTarget::Ignored) | None => self.value(&name),
        }
    }

    /// Returns the value that was set for a setting, by Kafka's name; not its default.
    fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns the name by which a setting was set, for notices and errors.
    fn written_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.written_as.get(name).map_or(name, String::as_str)
    }

    /// Replaces Kafka's names of TLS settings in an error by those that the user wrote, such as
    /// `ssl.ca.location` for `ssl.truststore.location`.
    pub(super) fn use_written_names(&self, e: Error) -> Error {
        let text = e.to_string();
        let tls = self.written_as.iter().filter(|(name, _)| name.starts_with("ssl."));
        let named = tls.fold(text.clone(), |text, (name, written)| text.replace(name, written));
        if named == text { e } else { Error::config(named) }
    }

    /// Returns the value or the default; empty if there is neither.
    fn get_str(&self, name: &str) -> &str {
        self.value(name).or_else(|| find_setting(name)?.default).unwrap_or("")
    }

    fn get_i64(&self, name: &str) -> i64 {
        // `set` has checked each value, and a test checks each default.
        self.get_str(name).parse().unwrap_or_default()
    }

    fn get_usize(&self, name: &str) -> usize {
        usize::try_from(self.get_i64(name)).unwrap_or_default()
    }

    fn get_duration_ms(&self, name: &str) -> Duration {
        parse::parse_millis(self.get_str(name)).unwrap_or_default()
    }

    fn get_f64(&self, name: &str) -> f64 {
        self.get_str(name).parse().unwrap_or_default()
    }

    /// Returns a value that was set and is not empty.
    fn get_non_empty(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|v| !v.is_empty())
    }

    fn get_secret(&self, name: &str) -> Option<Secret> {
        self.get_non_empty(name).map(Secret::new)
    }

    fn get_bool(&self, name: &str) -> bool {
        parse::parse_bool(self.get_str(name)) == Some(true)
    }
}
