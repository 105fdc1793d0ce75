//! Configuration: values by name, from builder, command line, file or environment, become once what they
//! mean ([`ProducerConfig`]). A conflict names both settings.

mod aliases;
mod jaas;
mod parse;
mod properties;
pub(crate) mod secret;
pub(crate) mod security;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_protocol::compression::{Codec, Compressor};
use zeroize::Zeroize;

use crate::accumulator::builtin_partitioner::Partitioning;
use crate::error::Error;
use crate::metrics::MetricConfig;
use aliases::AliasTarget;
pub use properties::parse as parse_properties;
use secret::Secret;
use security::SecuritySettings;
pub use table::configuration_markdown;
use table::{Setting, Support, Type, find_setting, nearest_name};

/// Where a value comes from; decides how strictly a name is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The application's code.
    Builder,
    /// An option of a command.
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

/// Values by name, checked one by one; not yet against each other.
#[derive(Clone, Default)]
pub struct Properties {
    values: BTreeMap<&'static str, String>,
    /// librdkafka's `compression.level`.
    compression_level: Option<String>,
    warnings: Vec<String>,
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|(name, value)| {
            let secret = find_setting(name).is_some_and(|s| matches!(s.value_type, Type::Password));
            (name, if secret { "[hidden]" } else { value.as_str() })
        });
        f.debug_map().entries(shown).finish()
    }
}

impl Drop for Properties {
    fn drop(&mut self) {
        // Secrets do not stay behind in memory that others get.
        for (name, value) in &mut self.values {
            if find_setting(name).is_some_and(|s| matches!(s.value_type, Type::Password)) {
                value.zeroize();
            }
        }
    }
}

impl Properties {
    /// No values yet.
    pub fn new() -> Properties {
        Properties::default()
    }

    /// Sets a value by Kafka's or librdkafka's name; a later value replaces an earlier one.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): an unknown name (with the nearest), a value outside
    /// its range, a setting that cannot be honoured, or, from builder and command line, another client's.
    pub fn set(&mut self, name: &str, value: &str, origin: &Origin) -> Result<(), Error> {
        let name = aliases::strip_spring_prefix(name.trim());
        if find_setting(&name).is_none() {
            match aliases::find_alias(&name) {
                Some(AliasTarget::SameAs(other)) => return self.set_alias(&name, other, value),
                Some(AliasTarget::Kibibytes(other)) => {
                    let bytes = value.trim().parse::<i64>().ok().and_then(|n| n.checked_mul(1024));
                    let bytes = bytes
                        .ok_or_else(|| Error::config(format!("{name}={value} is not a number")))?;
                    return self.set_alias(&name, other, &bytes.to_string());
                }
                Some(AliasTarget::Partitioner) => return self.check_partitioner(value),
                Some(AliasTarget::CompressionLevel) => {
                    self.compression_level = Some(value.trim().to_owned());
                    return Ok(());
                }
                Some(AliasTarget::Ignored) => {
                    self.add_warning(format!("{name} (from {origin}) has no meaning here"));
                    return Ok(());
                }
                None => return self.handle_unknown(&name, origin),
            }
        }
        let Some(setting) = find_setting(&name) else {
            return Ok(());
        };
        self.insert(setting, value)
    }

    fn set_alias(&mut self, alias: &str, name: &'static str, value: &str) -> Result<(), Error> {
        let Some(setting) = find_setting(name) else {
            return Ok(());
        };
        // 0 is librdkafka's way to leave a socket's buffer to the system.
        let value =
            if name.ends_with(".buffer.bytes") && value.trim() == "0" { "-1" } else { value };
        self.insert(setting, value).map_err(|e| Error::config(format!("{alias}: {e}")))
    }

    fn check_partitioner(&mut self, value: &str) -> Result<(), Error> {
        match value.trim() {
            "murmur2" | "murmur2_random" => Ok(()),
            other => Err(Error::config(format!(
                "partitioner={other} would spread keys otherwise than Kafka's murmur2, and is not there yet"
            ))),
        }
    }

    fn insert(&mut self, setting: &'static Setting, value: &str) -> Result<(), Error> {
        let value = parse::check_value(setting, value)?;
        if value.is_empty() && setting.name == "transactional.id" {
            return Err(Error::config("transactional.id is empty; leave it out instead"));
        }
        let by_default = setting.default.unwrap_or("") == value;
        match setting.support {
            Support::Supported => {}
            _ if by_default => return Ok(()),
            Support::Ignored => self
                .add_warning(format!("{} has no effect: {}", setting.name, setting.documentation)),
            Support::Unsupported => {
                return Err(Error::config(format!(
                    "{} cannot be honoured: {}",
                    setting.name, setting.documentation
                )));
            }
        }
        if let Some(mut old) = self.values.insert(setting.name, value.to_owned())
            && matches!(setting.value_type, Type::Password)
        {
            old.zeroize();
        }
        Ok(())
    }

    fn handle_unknown(&mut self, name: &str, origin: &Origin) -> Result<(), Error> {
        let lenient = matches!(origin, Origin::File(_) | Origin::Environment);
        if aliases::is_other_client_setting(name) {
            let text = format!("{name} (from {origin}) is a setting of another client");
            if lenient {
                self.add_warning(format!("{text}; it has no effect on a producer"));
                return Ok(());
            }
            return Err(Error::config(format!("{text}, not of a producer")));
        }
        let hint = nearest_name(name).map_or(String::new(), |n| format!("; did you mean {n}?"));
        Err(Error::config(format!("unknown setting {name} (from {origin}){hint}")))
    }

    fn add_warning(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Sets everything in the text of a properties file (Java's format).
    ///
    /// # Errors
    /// Those of [`set`](Self::set).
    pub fn load(&mut self, text: &str, name: &str) -> Result<(), Error> {
        let origin = Origin::File(name.to_owned());
        for (name, value) in properties::parse(text) {
            self.set(&name, &value, &origin)?;
        }
        Ok(())
    }

    /// Sets from variables like `OTTLA_LINGER_MS=20`.
    ///
    /// # Errors
    /// Those of [`set`](Self::set).
    pub fn load_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Error> {
        for (name, value) in variables {
            if let Some(rest) = name.strip_prefix("OTTLA_") {
                self.set(
                    &rest.to_ascii_lowercase().replace('_', "."),
                    &value,
                    &Origin::Environment,
                )?;
            }
        }
        Ok(())
    }

    /// What was accepted but has no effect, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = self.warnings.clone();
        all.extend(security::unused_setting_warnings(self));
        all
    }

    /// A value that was set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn get_str(&self, name: &str) -> &str {
        self.get(name).or_else(|| find_setting(name)?.default).unwrap_or("")
    }

    fn get_i64(&self, name: &str) -> i64 {
        // Checked when it was set; a default is checked by a test.
        self.get_str(name).parse().unwrap_or_default()
    }

    fn get_usize(&self, name: &str) -> usize {
        usize::try_from(self.get_i64(name)).unwrap_or_default()
    }

    fn get_duration_ms(&self, name: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.get_i64(name)).unwrap_or_default())
    }

    fn get_f64(&self, name: &str) -> f64 {
        self.get_str(name).parse().unwrap_or_default()
    }

    /// A value that was set, and is not empty.
    fn get_non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    fn get_secret(&self, name: &str) -> Option<Secret> {
        self.get_non_empty(name).map(Secret::new)
    }

    fn get_bool(&self, name: &str) -> bool {
        self.get_str(name).eq_ignore_ascii_case("true")
    }
}

/// A producer's settings as they are meant: checked against each other, defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct ProducerConfig {
    pub(crate) bootstrap_servers: Vec<(String, u16)>,
    pub(crate) security: SecuritySettings,
    pub(crate) client_id: String,
    pub(crate) acks: i16,
    pub(crate) idempotent: bool,
    pub(crate) max_in_flight: usize,
    pub(crate) retries: u32,
    pub(crate) batch_size: usize,
    pub(crate) buffer_memory: u64,
    pub(crate) linger: Duration,
    pub(crate) max_block: Duration,
    pub(crate) delivery_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) max_request_size: usize,
    pub(crate) receive_message_max_bytes: usize,
    pub(crate) codec: Codec,
    pub(crate) compression_level: i32,
    pub(crate) partitioning: Partitioning,
    pub(crate) adaptive_partitioning: bool,
    pub(crate) partition_availability_timeout: Duration,
    pub(crate) linger_awaited: bool,
    pub(crate) client_rack: Option<String>,
    pub(crate) metric_config: MetricConfig,
    pub(crate) retry_backoff: (Duration, Duration),
    pub(crate) reconnect_backoff: (Duration, Duration),
    pub(crate) connection_setup_timeout: (Duration, Duration),
    pub(crate) metadata_max_age: Duration,
    pub(crate) metadata_max_idle: Duration,
    pub(crate) rebootstrap_trigger: Option<Duration>,
    pub(crate) connections_max_idle: Option<Duration>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) receive_buffer: Option<usize>,
}

static CLIENT_ID_SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl ProducerConfig {
    /// What the values mean together.
    pub(crate) fn new(p: &Properties) -> Result<ProducerConfig, Error> {
        let security = SecuritySettings::new(p)?;
        let servers = p.get("bootstrap.servers");
        let servers = servers.ok_or_else(|| {
            Error::config("bootstrap.servers is missing; name a broker as host:port")
        })?;
        let (acks, idempotent) = configure_acks(p)?;
        let (codec, level) = configure_compression(p)?;
        let linger = p.get_duration_ms("linger.ms").min(Duration::from_millis(i32::MAX as u64));
        let request_timeout = p.get_duration_ms("request.timeout.ms");
        let buffer = |name| usize::try_from(p.get_i64(name)).ok();
        let pair = |first: &str, max: &str| {
            let (low, high) = (p.get_duration_ms(first), p.get_duration_ms(max));
            // Set alone, the first is the cap as well (as Kafka has it for reconnects).
            if p.get(first).is_some() && p.get(max).is_none() {
                (low, low.max(high))
            } else {
                (low, high)
            }
        };
        let reconnect = match (p.get("reconnect.backoff.ms"), p.get("reconnect.backoff.max.ms")) {
            (Some(_), None) => (
                p.get_duration_ms("reconnect.backoff.ms"),
                p.get_duration_ms("reconnect.backoff.ms"),
            ),
            _ => pair("reconnect.backoff.ms", "reconnect.backoff.max.ms"),
        };
        Ok(ProducerConfig {
            bootstrap_servers: parse::parse_bootstrap_servers(
                servers,
                p.get_str("security.protocol"),
            )?,
            security,
            client_id: match p.get_str("client.id") {
                "" => {
                    format!("producer-{}", CLIENT_ID_SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1)
                }
                id if id.len() > i16::MAX as usize => {
                    return Err(Error::config("client.id is too long"));
                }
                id => id.to_owned(),
            },
            acks,
            idempotent,
            max_in_flight: p.get_usize("max.in.flight.requests.per.connection"),
            retries: u32::try_from(p.get_i64("retries")).unwrap_or(u32::MAX),
            batch_size: p.get_usize("batch.size"),
            buffer_memory: u64::try_from(p.get_i64("buffer.memory")).unwrap_or_default(),
            linger,
            max_block: p.get_duration_ms("max.block.ms"),
            delivery_timeout: configure_delivery_timeout(p, linger, request_timeout)?,
            request_timeout,
            max_request_size: p.get_usize("max.request.size"),
            receive_message_max_bytes: p.get_usize("receive.message.max.bytes"),
            codec,
            compression_level: level,
            partitioning: configure_partitioning(p)?,
            adaptive_partitioning: p.get_bool("partitioner.adaptive.partitioning.enable"),
            partition_availability_timeout: p
                .get_duration_ms("partitioner.availability.timeout.ms"),
            linger_awaited: p.get_bool("linger.awaited"),
            client_rack: configure_rack(p)?,
            metric_config: MetricConfig {
                samples: p.get_usize("metrics.num.samples"),
                window: p.get_duration_ms("metrics.sample.window.ms"),
            },
            retry_backoff: pair("retry.backoff.ms", "retry.backoff.max.ms"),
            reconnect_backoff: reconnect,
            connection_setup_timeout: pair(
                "socket.connection.setup.timeout.ms",
                "socket.connection.setup.timeout.max.ms",
            ),
            metadata_max_age: p.get_duration_ms("metadata.max.age.ms"),
            metadata_max_idle: p.get_duration_ms("metadata.max.idle.ms"),
            rebootstrap_trigger: p
                .get_str("metadata.recovery.strategy")
                .eq_ignore_ascii_case("rebootstrap")
                .then(|| p.get_duration_ms("metadata.recovery.rebootstrap.trigger.ms")),
            connections_max_idle: u64::try_from(p.get_i64("connections.max.idle.ms"))
                .ok()
                .map(Duration::from_millis),
            send_buffer: buffer("send.buffer.bytes"),
            receive_buffer: buffer("receive.buffer.bytes"),
        })
    }
}

/// PC1: what speaks against idempotence turns it off, unless it was asked for: then it is a conflict.
fn configure_acks(p: &Properties) -> Result<(i16, bool), Error> {
    let acks = match p.get_str("acks") {
        "0" => 0,
        "1" => 1,
        _ => -1,
    };
    let asked = p.get("enable.idempotence").is_some() && p.get_bool("enable.idempotence");
    let mut idempotent = p.get_bool("enable.idempotence");
    let against = [
        (acks != -1, format!("acks={}; it needs acks=all", p.get_str("acks"))),
        (p.get_i64("retries") == 0, "retries=0; it needs to send again".to_owned()),
    ];
    for (speaks, what) in against {
        if idempotent && speaks {
            if asked {
                return Err(Error::config(format!(
                    "enable.idempotence=true conflicts with {what}"
                )));
            }
            idempotent = false;
        }
    }
    let in_flight = p.get_i64("max.in.flight.requests.per.connection");
    if idempotent && in_flight > 5 {
        return Err(Error::config(format!(
            "To use the idempotent producer, max.in.flight.requests.per.connection must be set to at most 5. \
             Current value is {in_flight}. (Or set enable.idempotence=false.)"
        )));
    }
    Ok((acks, idempotent))
}

/// PC3: at least linger and request time-out together; raised to that where it was not set.
fn configure_delivery_timeout(
    p: &Properties,
    linger: Duration,
    request: Duration,
) -> Result<Duration, Error> {
    let given = p.get_duration_ms("delivery.timeout.ms");
    let least = (linger + request).min(Duration::from_millis(i32::MAX as u64));
    if given >= least {
        return Ok(given);
    }
    if p.get("delivery.timeout.ms").is_some() {
        return Err(Error::config(format!(
            "delivery.timeout.ms={} must be at least linger.ms + request.timeout.ms = {}",
            given.as_millis(),
            least.as_millis()
        )));
    }
    Ok(least)
}

fn configure_compression(p: &Properties) -> Result<(Codec, i32), Error> {
    let codec = Codec::from_name(p.get_str("compression.type")).unwrap_or(Codec::None);
    let name = format!("compression.{codec}.level");
    let level = match (&p.compression_level, codec) {
        (_, Codec::None | Codec::Snappy) => 0,
        (Some(level), _) if level != "-1" && p.get(&name).is_none() => {
            let Some(setting) = find_setting(&name) else {
                return Ok((codec, 0));
            };
            let level = parse::check_value(setting, level);
            level
                .map_err(|e| Error::config(format!("compression.level: {e}")))?
                .parse()
                .unwrap_or_default()
        }
        _ => p.get_i64(&name) as i32,
    };
    Compressor::new(codec, level)
        .map_err(|e| Error::config(format!("compression.type={codec}: {e}")))?;
    Ok((codec, level))
}

/// The rack to prefer: asked for, it must be named (BI5).
fn configure_rack(p: &Properties) -> Result<Option<String>, Error> {
    if !p.get_bool("partitioner.rack.aware")
        || configure_partitioning(p)? == Partitioning::RoundRobin
    {
        return Ok(None);
    }
    match p.get_str("client.rack") {
        "" => Err(Error::config("partitioner.rack.aware=true needs client.rack, which is empty")),
        rack => Ok(Some(rack.to_owned())),
    }
}

fn configure_partitioning(p: &Properties) -> Result<Partitioning, Error> {
    let ignore_keys = p.get_bool("partitioner.ignore.keys");
    match p.get_str("partitioner.class").rsplit('.').next().unwrap_or("") {
        "" | "null" => Ok(Partitioning::Default { ignore_keys }),
        "RoundRobinPartitioner" => Ok(Partitioning::RoundRobin),
        // Removed from Kafka in 4.0, and what the default does since 3.3.
        "DefaultPartitioner" => Ok(Partitioning::Default { ignore_keys }),
        "UniformStickyPartitioner" => Ok(Partitioning::Default { ignore_keys: true }),
        other => Err(Error::config(format!(
            "partitioner.class={other} is a Java class that cannot run here; give each record its partition \
             instead"
        ))),
    }
}
