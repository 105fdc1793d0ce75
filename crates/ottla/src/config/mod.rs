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

use crate::accumulator::partitioner::Spread;
use crate::error::Error;
use crate::metrics::Span;
use aliases::Meaning;
pub use properties::parse as parse_properties;
use secret::Secret;
use security::Security;
pub use table::markdown;
use table::{Fate, Setting, Type, find, nearest};

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
    level: Option<String>,
    notices: Vec<String>,
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|(name, value)| {
            let secret = find(name).is_some_and(|s| matches!(s.kind, Type::Password));
            (name, if secret { "[hidden]" } else { value.as_str() })
        });
        f.debug_map().entries(shown).finish()
    }
}

impl Drop for Properties {
    fn drop(&mut self) {
        // Secrets do not stay behind in memory that others get.
        for (name, value) in &mut self.values {
            if find(name).is_some_and(|s| matches!(s.kind, Type::Password)) {
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
        let name = aliases::without_spring(name.trim());
        if find(&name).is_none() {
            match aliases::meaning(&name) {
                Some(Meaning::Same(other)) => return self.set_alias(&name, other, value),
                Some(Meaning::Kib(other)) => {
                    let bytes = value.trim().parse::<i64>().ok().and_then(|n| n.checked_mul(1024));
                    let bytes = bytes
                        .ok_or_else(|| Error::config(format!("{name}={value} is not a number")))?;
                    return self.set_alias(&name, other, &bytes.to_string());
                }
                Some(Meaning::Partitioner) => return self.set_partitioner(value),
                Some(Meaning::Level) => {
                    self.level = Some(value.trim().to_owned());
                    return Ok(());
                }
                Some(Meaning::Idle) => {
                    self.notice(format!("{name} (from {origin}) has no meaning here"));
                    return Ok(());
                }
                None => return self.unknown(&name, origin),
            }
        }
        let Some(setting) = find(&name) else {
            return Ok(());
        };
        self.put(setting, value)
    }

    fn set_alias(&mut self, alias: &str, name: &'static str, value: &str) -> Result<(), Error> {
        let Some(setting) = find(name) else {
            return Ok(());
        };
        // 0 is librdkafka's way to leave a socket's buffer to the system.
        let value =
            if name.ends_with(".buffer.bytes") && value.trim() == "0" { "-1" } else { value };
        self.put(setting, value).map_err(|e| Error::config(format!("{alias}: {e}")))
    }

    fn set_partitioner(&mut self, value: &str) -> Result<(), Error> {
        match value.trim() {
            "murmur2" | "murmur2_random" => Ok(()),
            other => Err(Error::config(format!(
                "partitioner={other} would spread keys otherwise than Kafka's murmur2, and is not there yet"
            ))),
        }
    }

    fn put(&mut self, setting: &'static Setting, value: &str) -> Result<(), Error> {
        let value = parse::check(setting, value)?;
        if value.is_empty() && setting.name == "transactional.id" {
            return Err(Error::config("transactional.id is empty; leave it out instead"));
        }
        let by_default = setting.default.unwrap_or("") == value;
        match setting.fate {
            Fate::Honoured => {}
            _ if by_default => return Ok(()),
            Fate::Idle => self.notice(format!("{} has no effect: {}", setting.name, setting.about)),
            Fate::Refused => {
                return Err(Error::config(format!(
                    "{} cannot be honoured: {}",
                    setting.name, setting.about
                )));
            }
        }
        if let Some(mut old) = self.values.insert(setting.name, value.to_owned())
            && matches!(setting.kind, Type::Password)
        {
            old.zeroize();
        }
        Ok(())
    }

    fn unknown(&mut self, name: &str, origin: &Origin) -> Result<(), Error> {
        let lenient = matches!(origin, Origin::File(_) | Origin::Environment);
        if aliases::is_foreign(name) {
            let text = format!("{name} (from {origin}) is a setting of another client");
            if lenient {
                self.notice(format!("{text}; it has no effect on a producer"));
                return Ok(());
            }
            return Err(Error::config(format!("{text}, not of a producer")));
        }
        let hint = nearest(name).map_or(String::new(), |n| format!("; did you mean {n}?"));
        Err(Error::config(format!("unknown setting {name} (from {origin}){hint}")))
    }

    fn notice(&mut self, text: String) {
        if !self.notices.contains(&text) {
            self.notices.push(text);
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
    pub fn notices(&self) -> Vec<String> {
        let mut all = self.notices.clone();
        all.extend(security::without_effect(self));
        all
    }

    /// A value that was set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).or_else(|| find(name)?.default).unwrap_or("")
    }

    fn number(&self, name: &str) -> i64 {
        // Checked when it was set; a default is checked by a test.
        self.text(name).parse().unwrap_or_default()
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or_default()
    }

    fn ms(&self, name: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.number(name)).unwrap_or_default())
    }

    fn real(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// A value that was set, and is not empty.
    fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.filled(name).map(Secret::new)
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).eq_ignore_ascii_case("true")
    }
}

/// A producer's settings as they are meant: checked against each other, defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct ProducerConfig {
    pub(crate) bootstrap: Vec<(String, u16)>,
    pub(crate) security: Security,
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
    pub(crate) receive_max: usize,
    pub(crate) codec: Codec,
    pub(crate) level: i32,
    pub(crate) spread: Spread,
    pub(crate) adaptive: bool,
    pub(crate) availability: Duration,
    pub(crate) linger_awaited: bool,
    pub(crate) rack: Option<String>,
    pub(crate) metrics: Span,
    pub(crate) retry_backoff: (Duration, Duration),
    pub(crate) reconnect_backoff: (Duration, Duration),
    pub(crate) setup_timeout: (Duration, Duration),
    pub(crate) metadata_max_age: Duration,
    pub(crate) metadata_max_idle: Duration,
    pub(crate) rebootstrap: Option<Duration>,
    pub(crate) connections_max_idle: Option<Duration>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) receive_buffer: Option<usize>,
}

static CLIENTS: AtomicU64 = AtomicU64::new(0);

impl ProducerConfig {
    /// What the values mean together.
    pub(crate) fn new(p: &Properties) -> Result<ProducerConfig, Error> {
        let security = Security::new(p)?;
        let servers = p.get("bootstrap.servers");
        let servers = servers.ok_or_else(|| {
            Error::config("bootstrap.servers is missing; name a broker as host:port")
        })?;
        let (acks, idempotent) = acks_and_idempotence(p)?;
        let (codec, level) = compression(p)?;
        let linger = p.ms("linger.ms").min(Duration::from_millis(i32::MAX as u64));
        let request_timeout = p.ms("request.timeout.ms");
        let buffer = |name| usize::try_from(p.number(name)).ok();
        let pair = |first: &str, max: &str| {
            let (low, high) = (p.ms(first), p.ms(max));
            // Set alone, the first is the cap as well (as Kafka has it for reconnects).
            if p.get(first).is_some() && p.get(max).is_none() {
                (low, low.max(high))
            } else {
                (low, high)
            }
        };
        let reconnect = match (p.get("reconnect.backoff.ms"), p.get("reconnect.backoff.max.ms")) {
            (Some(_), None) => (p.ms("reconnect.backoff.ms"), p.ms("reconnect.backoff.ms")),
            _ => pair("reconnect.backoff.ms", "reconnect.backoff.max.ms"),
        };
        Ok(ProducerConfig {
            bootstrap: parse::servers(servers, p.text("security.protocol"))?,
            security,
            client_id: match p.text("client.id") {
                "" => format!("producer-{}", CLIENTS.fetch_add(1, Ordering::Relaxed) + 1),
                id if id.len() > i16::MAX as usize => {
                    return Err(Error::config("client.id is too long"));
                }
                id => id.to_owned(),
            },
            acks,
            idempotent,
            max_in_flight: p.size("max.in.flight.requests.per.connection"),
            retries: u32::try_from(p.number("retries")).unwrap_or(u32::MAX),
            batch_size: p.size("batch.size"),
            buffer_memory: u64::try_from(p.number("buffer.memory")).unwrap_or_default(),
            linger,
            max_block: p.ms("max.block.ms"),
            delivery_timeout: delivery_timeout(p, linger, request_timeout)?,
            request_timeout,
            max_request_size: p.size("max.request.size"),
            receive_max: p.size("receive.message.max.bytes"),
            codec,
            level,
            spread: spread(p)?,
            adaptive: p.flag("partitioner.adaptive.partitioning.enable"),
            availability: p.ms("partitioner.availability.timeout.ms"),
            linger_awaited: p.flag("linger.awaited"),
            rack: rack(p)?,
            metrics: Span {
                samples: p.size("metrics.num.samples"),
                window: p.ms("metrics.sample.window.ms"),
            },
            retry_backoff: pair("retry.backoff.ms", "retry.backoff.max.ms"),
            reconnect_backoff: reconnect,
            setup_timeout: pair(
                "socket.connection.setup.timeout.ms",
                "socket.connection.setup.timeout.max.ms",
            ),
            metadata_max_age: p.ms("metadata.max.age.ms"),
            metadata_max_idle: p.ms("metadata.max.idle.ms"),
            rebootstrap: p
                .text("metadata.recovery.strategy")
                .eq_ignore_ascii_case("rebootstrap")
                .then(|| p.ms("metadata.recovery.rebootstrap.trigger.ms")),
            connections_max_idle: u64::try_from(p.number("connections.max.idle.ms"))
                .ok()
                .map(Duration::from_millis),
            send_buffer: buffer("send.buffer.bytes"),
            receive_buffer: buffer("receive.buffer.bytes"),
        })
    }
}

/// PC1: what speaks against idempotence turns it off, unless it was asked for: then it is a conflict.
fn acks_and_idempotence(p: &Properties) -> Result<(i16, bool), Error> {
    let acks = match p.text("acks") {
        "0" => 0,
        "1" => 1,
        _ => -1,
    };
    let asked = p.get("enable.idempotence").is_some() && p.flag("enable.idempotence");
    let mut idempotent = p.flag("enable.idempotence");
    let against = [
        (acks != -1, format!("acks={}; it needs acks=all", p.text("acks"))),
        (p.number("retries") == 0, "retries=0; it needs to send again".to_owned()),
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
    let in_flight = p.number("max.in.flight.requests.per.connection");
    if idempotent && in_flight > 5 {
        return Err(Error::config(format!(
            "To use the idempotent producer, max.in.flight.requests.per.connection must be set to at most 5. \
             Current value is {in_flight}. (Or set enable.idempotence=false.)"
        )));
    }
    Ok((acks, idempotent))
}

/// PC3: at least linger and request time-out together; raised to that where it was not set.
fn delivery_timeout(
    p: &Properties,
    linger: Duration,
    request: Duration,
) -> Result<Duration, Error> {
    let given = p.ms("delivery.timeout.ms");
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

fn compression(p: &Properties) -> Result<(Codec, i32), Error> {
    let codec = Codec::from_name(p.text("compression.type")).unwrap_or(Codec::None);
    let name = format!("compression.{codec}.level");
    let level = match (&p.level, codec) {
        (_, Codec::None | Codec::Snappy) => 0,
        (Some(level), _) if level != "-1" && p.get(&name).is_none() => {
            let Some(setting) = find(&name) else {
                return Ok((codec, 0));
            };
            let level = parse::check(setting, level);
            level
                .map_err(|e| Error::config(format!("compression.level: {e}")))?
                .parse()
                .unwrap_or_default()
        }
        _ => p.number(&name) as i32,
    };
    Compressor::new(codec, level)
        .map_err(|e| Error::config(format!("compression.type={codec}: {e}")))?;
    Ok((codec, level))
}

/// The rack to prefer: asked for, it must be named (BI5).
fn rack(p: &Properties) -> Result<Option<String>, Error> {
    if !p.flag("partitioner.rack.aware") || spread(p)? == Spread::RoundRobin {
        return Ok(None);
    }
    match p.text("client.rack") {
        "" => Err(Error::config("partitioner.rack.aware=true needs client.rack, which is empty")),
        rack => Ok(Some(rack.to_owned())),
    }
}

fn spread(p: &Properties) -> Result<Spread, Error> {
    let ignore_keys = p.flag("partitioner.ignore.keys");
    match p.text("partitioner.class").rsplit('.').next().unwrap_or("") {
        "" | "null" => Ok(Spread::Default { ignore_keys }),
        "RoundRobinPartitioner" => Ok(Spread::RoundRobin),
        // Removed from Kafka in 4.0, and what the default does since 3.3.
        "DefaultPartitioner" => Ok(Spread::Default { ignore_keys }),
        "UniformStickyPartitioner" => Ok(Spread::Default { ignore_keys: true }),
        other => Err(Error::config(format!(
            "partitioner.class={other} is a Java class that cannot run here; give each record its partition \
             instead"
        ))),
    }
}
