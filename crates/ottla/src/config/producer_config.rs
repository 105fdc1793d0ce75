//! The settings of a producer in the form that the client uses: typed, with defaults filled in and
//! checked against each other. The producer's builder creates it from [`Properties`] and hands the
//! parts to accumulator, sender and client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_protocol::compression::{Codec, Compressor};

use super::security::SecuritySettings;
use super::setting::find_setting;
use super::{Properties, parse};
use crate::accumulator::builtin_partitioner::Partitioning;
use crate::error::Error;
use crate::metrics::MetricConfig;

/// More requests in flight than this break the idempotent producer: the broker remembers the
/// sequences of only five batches per producer and partition (KIP-98).
const MAX_IN_FLIGHT_IDEMPOTENT: i64 = 5;

/// A duration that doubles with each failure in a row, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackoffRange {
    /// The duration after the first failure.
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
}

/// The settings of a producer, checked against each other, with defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct ProducerConfig {
    pub(crate) bootstrap_servers: Vec<(String, u16)>,
    pub(crate) security: SecuritySettings,
    pub(crate) client_id: String,
    /// -1 for all in-sync replicas, as in the protocol.
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
    /// Zero disables it.
    pub(crate) partition_availability_timeout: Duration,
    pub(crate) linger_awaited: bool,
    /// Set only if rack-aware partitioning is on.
    pub(crate) client_rack: Option<String>,
    pub(crate) metric_config: MetricConfig,
    pub(crate) retry_backoff: BackoffRange,
    pub(crate) reconnect_backoff: BackoffRange,
    pub(crate) connection_setup_timeout: BackoffRange,
    pub(crate) metadata_max_age: Duration,
    pub(crate) metadata_max_idle: Duration,
    /// `None` if the client never returns to the bootstrap servers.
    pub(crate) rebootstrap_trigger: Option<Duration>,
    /// `None` if idle connections stay open.
    pub(crate) connections_max_idle: Option<Duration>,
    /// In bytes; `None` uses the default of the operating system.
    pub(crate) send_buffer: Option<usize>,
    /// In bytes; `None` uses the default of the operating system.
    pub(crate) receive_buffer: Option<usize>,
}

/// The number of the last client id that was generated, as in `producer-1`.
static CLIENT_ID_SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl ProducerConfig {
    /// Converts the values and checks them against each other.
    ///
    /// # Errors
    /// A required value is missing, or values conflict; the error names the settings.
    pub(crate) fn new(p: &Properties) -> Result<ProducerConfig, Error> {
        let security = SecuritySettings::new(p)?;
        let servers = p.get("bootstrap.servers").ok_or_else(|| {
            Error::config("bootstrap.servers is missing; name a broker as host:port")
        })?;
        let (acks, idempotent) = configure_acks(p)?;
        let (codec, compression_level) = configure_compression(p)?;
        let linger = p.get_duration_ms("linger.ms").min(Duration::from_millis(i32::MAX as u64));
        let request_timeout = p.get_duration_ms("request.timeout.ms");
        let rebootstraps =
            p.get_str("metadata.recovery.strategy").eq_ignore_ascii_case("rebootstrap");
        Ok(ProducerConfig {
            bootstrap_servers: parse::parse_bootstrap_servers(
                servers,
                p.get_str("security.protocol"),
            )?,
            security,
            client_id: configure_client_id(p)?,
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
            compression_level,
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
            retry_backoff: backoff_range(p, "retry.backoff.ms", "retry.backoff.max.ms"),
            reconnect_backoff: configure_reconnect_backoff(p),
            connection_setup_timeout: backoff_range(
                p,
                "socket.connection.setup.timeout.ms",
                "socket.connection.setup.timeout.max.ms",
            ),
            metadata_max_age: p.get_duration_ms("metadata.max.age.ms"),
            metadata_max_idle: p.get_duration_ms("metadata.max.idle.ms"),
            rebootstrap_trigger: rebootstraps
                .then(|| p.get_duration_ms("metadata.recovery.rebootstrap.trigger.ms")),
            // A negative value means "never", -1 of a buffer "the system's default".
            connections_max_idle: u64::try_from(p.get_i64("connections.max.idle.ms"))
                .ok()
                .map(Duration::from_millis),
            send_buffer: usize::try_from(p.get_i64("send.buffer.bytes")).ok(),
            receive_buffer: usize::try_from(p.get_i64("receive.buffer.bytes")).ok(),
        })
    }
}

fn configure_client_id(p: &Properties) -> Result<String, Error> {
    match p.get_str("client.id") {
        "" => Ok(format!("producer-{}", CLIENT_ID_SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1)),
        id if id.len() > i16::MAX as usize => Err(Error::config(format!(
            "client.id has {} bytes; the protocol allows at most {}",
            id.len(),
            i16::MAX
        ))),
        id => Ok(id.to_owned()),
    }
}

/// Returns a range whose maximum is never below an initial value that was set alone.
fn backoff_range(p: &Properties, initial_name: &str, max_name: &str) -> BackoffRange {
    let (initial, max) = (p.get_duration_ms(initial_name), p.get_duration_ms(max_name));
    if p.get(initial_name).is_some() && p.get(max_name).is_none() {
        BackoffRange { initial, max: initial.max(max) }
    } else {
        BackoffRange { initial, max }
    }
}

/// As Kafka does: `reconnect.backoff.ms` that is set alone is the maximum as well.
fn configure_reconnect_backoff(p: &Properties) -> BackoffRange {
    let initial = p.get_duration_ms("reconnect.backoff.ms");
    match (p.get("reconnect.backoff.ms"), p.get("reconnect.backoff.max.ms")) {
        (Some(_), None) => BackoffRange { initial, max: initial },
        _ => BackoffRange { initial, max: p.get_duration_ms("reconnect.backoff.max.ms") },
    }
}

/// Returns `acks` as the protocol's number, and whether the producer is idempotent.
///
/// As Kafka does: a conflicting `acks` or `retries` turns idempotence off, unless
/// `enable.idempotence=true` was set; then it is an error (CASES PC1).
fn configure_acks(p: &Properties) -> Result<(i16, bool), Error> {
    let acks = match p.get_str("acks") {
        "0" => 0,
        "1" => 1,
        _ => -1,
    };
    let mut idempotent = p.get_bool("enable.idempotence");
    let is_explicit = idempotent && p.get("enable.idempotence").is_some();
    let conflicts = [
        (acks != -1, format!("acks={}; set acks=all", p.get_str("acks"))),
        (p.get_i64("retries") == 0, "retries=0; set retries to at least 1".to_owned()),
    ];
    for (is_conflict, conflict) in conflicts {
        if idempotent && is_conflict {
            if is_explicit {
                return Err(Error::config(format!(
                    "enable.idempotence=true conflicts with {conflict}"
                )));
            }
            idempotent = false;
        }
    }
    let in_flight = p.get_i64("max.in.flight.requests.per.connection");
    if idempotent && in_flight > MAX_IN_FLIGHT_IDEMPOTENT {
        return Err(Error::config(format!(
            "To use the idempotent producer, max.in.flight.requests.per.connection must be set to \
             at most {MAX_IN_FLIGHT_IDEMPOTENT}. Current value is {in_flight}. (Or set \
             enable.idempotence=false.)"
        )));
    }
    Ok((acks, idempotent))
}

/// Returns `delivery.timeout.ms`, which must be at least `linger.ms` + `request.timeout.ms`. A
/// default below that is raised; a value below that is an error (CASES PC3).
fn configure_delivery_timeout(
    p: &Properties,
    linger: Duration,
    request_timeout: Duration,
) -> Result<Duration, Error> {
    let given = p.get_duration_ms("delivery.timeout.ms");
    let min = (linger + request_timeout).min(Duration::from_millis(i32::MAX as u64));
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

/// Returns the codec and its level. A level for this codec alone takes precedence over librdkafka's
/// `compression.level`, which is for any codec.
fn configure_compression(p: &Properties) -> Result<(Codec, i32), Error> {
    let codec = Codec::from_name(p.get_str("compression.type")).unwrap_or(Codec::None);
    let name = format!("compression.{codec}.level");
    let level = match (&p.compression_level, codec) {
        (_, Codec::None | Codec::Snappy) => 0,
        (Some(level), _) if level != "-1" && p.get(&name).is_none() => {
            let Some(setting) = find_setting(&name) else {
                return Ok((codec, 0));
            };
            let level = parse::check_value(setting, level, None);
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

/// Returns the rack whose partitions are preferred. Rack-aware partitioning without a rack is an
/// error (CASES BI5); the round-robin partitioner ignores racks.
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
        // Kafka removed both classes in 4.0; they equal the default since 3.3 (KIP-794).
        "DefaultPartitioner" => Ok(Partitioning::Default { ignore_keys }),
        "UniformStickyPartitioner" => Ok(Partitioning::Default { ignore_keys: true }),
        other => Err(Error::config(format!(
            "partitioner.class={other} is not supported: Java classes do not run in this client; \
             set the partition of each record instead"
        ))),
    }
}
