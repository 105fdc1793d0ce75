//! The settings of a producer in the form that its parts use: typed, with defaults filled in and
//! checked against each other, grouped by the part that takes them.

use std::fmt;
use std::time::Duration;

use super::accumulator_settings::AccumulatorSettings;
use super::aliases::AliasTarget;
use super::client_settings::{ClientSettings, NetworkSettings};
use super::parse::format_millis;
use super::security::SecuritySettings;
use super::sender_settings::SenderSettings;
use super::setting::{Support, find_setting, setting_names};
use super::{Properties, aliases, to_kibibytes};
use crate::error::Error;

/// All settings of a producer, checked against each other, with defaults filled in.
///
/// Each part of the producer has a group of settings and takes it whole. A setting that two parts
/// use is in both groups. It is made from [`Properties`] or by
/// [`ProducerBuilder::build_config`](crate::ProducerBuilder::build_config), and
/// [`Producer::config`](crate::Producer::config) returns that of a producer.
///
/// ```
/// use std::time::Duration;
///
/// use ottla::{Acks, Compression, Producer, ProducerConfig, Properties};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let mut properties = Properties::new();
/// properties.load("bootstrap.servers=broker:9092\nacks=1\nlinger.ms=0.5", "app.properties")?;
/// let config = ProducerConfig::try_from(properties)?;
/// assert_eq!(config.accumulator().linger, Duration::from_micros(500));
/// assert_eq!((config.sender().acks, config.sender().idempotent), (Acks::Leader, false));
/// assert!(config.to_string().contains("compression.type=none"));
///
/// let config =
///     Producer::builder().config(config).compression(Compression::zstd()).build_config()?;
/// assert_eq!(config.get("compression.codec").as_deref(), Some("zstd"));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    properties: Properties,
    pub(crate) max_block: Duration,
    pub(crate) accumulator: AccumulatorSettings,
    pub(crate) sender: SenderSettings,
    pub(crate) client: ClientSettings,
    pub(crate) network: NetworkSettings,
    pub(crate) security: SecuritySettings,
    pub(crate) metrics: MetricConfig,
}

impl ProducerConfig {
    /// Converts the values and checks them against each other.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): a required value is missing, or values
    /// conflict; the error names the settings.
    pub fn new(p: &Properties) -> Result<ProducerConfig, Error> {
        let config = p.check().and_then(|()| ProducerConfig::check(p));
        config.map_err(|e| p.use_written_names(p.hide_provider_values(e)))
    }

    /// Names the settings in an error of the connections' security as the user wrote them.
    pub(crate) fn use_written_names(&self, e: Error) -> Error {
        self.properties.use_written_names(e)
    }

    fn check(p: &Properties) -> Result<ProducerConfig, Error> {
        Ok(ProducerConfig {
            security: SecuritySettings::new(p)?,
            client: ClientSettings::new(p)?,
            sender: SenderSettings::new(p)?,
            accumulator: AccumulatorSettings::new(p)?,
            network: NetworkSettings::new(p),
            metrics: MetricConfig::new(p),
            max_block: p.get_duration_ms("max.block.ms"),
            properties: p.clone(),
        })
    }

    /// Returns the time that `send` may wait for metadata and memory together (`max.block.ms`).
    pub fn max_block(&self) -> Duration {
        self.max_block
    }

    /// Returns the settings that decide how records become batches.
    pub fn accumulator(&self) -> &AccumulatorSettings {
        &self.accumulator
    }

    /// Returns the settings that decide how batches are sent.
    pub fn sender(&self) -> &SenderSettings {
        &self.sender
    }

    /// Returns the settings of connections and requests.
    pub fn client(&self) -> &ClientSettings {
        &self.client
    }

    /// Returns the settings of sockets.
    pub fn network(&self) -> &NetworkSettings {
        &self.network
    }

    /// Returns how connections are secured.
    pub fn security(&self) -> &SecuritySettings {
        &self.security
    }

    /// Returns the windows of all metrics.
    pub fn metrics(&self) -> &MetricConfig {
        &self.metrics
    }

    /// Returns the values that were set, as they were written.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    pub(crate) fn into_properties(self) -> Properties {
        self.properties
    }

    /// Returns a sentence for each setting that has no effect or may surprise, as
    /// [`Properties::notices`] does.
    pub fn notices(&self) -> Vec<String> {
        self.properties.notices()
    }

    /// Returns the value of a setting as text, by any name that [`Properties::set`] takes. A value
    /// that was not set is the default, or what follows from other settings.
    ///
    /// Returns `None` if the client does not use the setting, or if it has neither value nor
    /// default. The text of a secret is `[hidden]`.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = aliases::strip_spring_prefix(name.trim());
        match aliases::find_alias(&name) {
            Some(AliasTarget::SameAs(other)) => self.get_by_setting(other),
            Some(AliasTarget::Kibibytes(other)) => to_kibibytes(&self.get_by_setting(other)?),
            Some(AliasTarget::CompressionLevel) => {
                self.accumulator.compression.level().map(|level| level.to_string())
            }
            Some(AliasTarget::Ignored) => None,
            None => self.get_by_setting(&name),
        }
    }

    fn get_by_setting(&self, name: &str) -> Option<String> {
        let setting = find_setting(name).filter(|s| s.support == Support::Supported)?;
        let value = match setting.name {
            "acks" => self.sender.acks.as_str().into(),
            "client.id" => self.client.client_id.as_str().into(),
            "delivery.timeout.ms" => format_millis(self.sender.delivery_timeout),
            "max.in.flight.requests.per.connection" => self.sender.max_in_flight.to_string(),
            "linger.ms" => format_millis(self.accumulator.linger),
            "request.timeout.ms" => format_millis(self.sender.request_timeout),
            "enable.idempotence" => self.sender.idempotent.to_string(),
            "partitioner.class" => self.accumulator.partitioning.as_str().into(),
            "reconnect.backoff.max.ms" => format_millis(self.client.connect.backoff_max),
            "retry.backoff.max.ms" => format_millis(self.sender.retry_backoff_max),
            "security.protocol" => self.security.protocol.as_str().into(),
            name => match self.accumulator.compression.level() {
                Some(level) if name == self.accumulator.compression.level_name() => {
                    level.to_string()
                }
                _ => self.properties.value(name).or(setting.default)?.into(),
            },
        };
        Some(if self.properties.is_hidden(setting.name) { "[hidden]".to_owned() } else { value })
    }
}

/// Prints each setting that the client uses and its value, one a line, as a properties file.
/// Secrets are hidden. Settings without a value are left out, and so are those of TLS and SASL that
/// `security.protocol` does not use.
impl fmt::Display for ProducerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.security.protocol;
        let mut names: Vec<&str> = setting_names().collect();
        names.retain(|name| protocol.uses_tls() || !name.starts_with("ssl."));
        names.retain(|name| protocol.uses_sasl() || !name.starts_with("sasl."));
        names.sort_unstable();
        for name in names {
            if let Some(value) = self.get(name) {
                writeln!(f, "{name}={value}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<Properties> for ProducerConfig {
    type Error = Error;

    fn try_from(properties: Properties) -> Result<ProducerConfig, Error> {
        ProducerConfig::new(&properties)
    }
}

impl TryFrom<&Properties> for ProducerConfig {
    type Error = Error;

    fn try_from(properties: &Properties) -> Result<ProducerConfig, Error> {
        ProducerConfig::new(properties)
    }
}

/// The windows from which rates, averages and maxima are computed (Kafka's `MetricConfig`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricConfig {
    /// The number of windows (`metrics.num.samples`).
    pub samples: usize,
    /// The length of a window (`metrics.sample.window.ms`).
    pub window: Duration,
}

impl MetricConfig {
    fn new(p: &Properties) -> MetricConfig {
        MetricConfig {
            samples: p.get_usize("metrics.num.samples"),
            window: p.get_duration_ms("metrics.sample.window.ms"),
        }
    }
}

/// A duration that doubles with each failure in a row, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackoffRange {
    /// The duration after the first failure.
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
}

impl BackoffRange {
    /// Returns a range whose maximum is never below an initial value that was set alone.
    pub(super) fn new(p: &Properties, initial_name: &str, max_name: &str) -> BackoffRange {
        let (initial, max) = (p.get_duration_ms(initial_name), p.get_duration_ms(max_name));
        if p.value(initial_name).is_some() && p.value(max_name).is_none() {
            BackoffRange { initial, max: initial.max(max) }
        } else {
            BackoffRange { initial, max }
        }
    }
}
