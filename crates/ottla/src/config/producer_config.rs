//! The settings of a producer in the form that its parts use: typed, with defaults filled in and
//! checked against each other, grouped by the part that takes them.

use std::time::Duration;

use super::Properties;
use super::accumulator_settings::AccumulatorSettings;
use super::client_settings::{ClientSettings, NetworkSettings};
use super::security::SecuritySettings;
use super::sender_settings::SenderSettings;
use crate::error::Error;

/// All settings of a producer, checked against each other, with defaults filled in.
///
/// Each part of the producer has a group of settings and takes it whole. A setting that two parts
/// use is in both groups.
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
        if p.get(initial_name).is_some() && p.get(max_name).is_none() {
            BackoffRange { initial, max: initial.max(max) }
        } else {
            BackoffRange { initial, max }
        }
    }
}

/// Returns `linger.ms`, at most the largest value of a Java `int`, as in Kafka.
pub(super) fn linger(p: &Properties) -> Duration {
    p.get_duration_ms("linger.ms").min(Duration::from_millis(i32::MAX as u64))
}

/// Returns `delivery.timeout.ms`, which must be at least `linger.ms` + `request.timeout.ms`. A
/// default below that is raised; a value below that is an error (CASES PC3).
pub(super) fn delivery_timeout(p: &Properties) -> Result<Duration, Error> {
    let given = p.get_duration_ms("delivery.timeout.ms");
    let min = linger(p) + p.get_duration_ms("request.timeout.ms");
    let min = min.min(Duration::from_millis(i32::MAX as u64));
    if given >= min {
        return Ok(given);
    }
    if p.get("delivery.timeout.ms").is_some() {
        return Err(Error::config(format!(
            "delivery.timeout.ms={} must be at least linger.ms + request.timeout.ms = {}",
            given.as_millis(),
            min.as_millis()
        )));
    }
    Ok(min)
}
