//! The settings of the client and the network below it: connections, metadata, sockets.

use std::time::Duration;

use super::choices::{AddressFamily, ClientDnsLookup, MetadataRecoveryStrategy};
use super::idempotence::Idempotence;
use super::timeouts::Timeouts;
use super::{BackoffRange, Properties, parse};
use crate::error::Error;

/// The settings of the client's connections and requests.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientSettings {
    /// The client's name in the logs, metrics and quotas of brokers (`client.id`). Empty before the
    /// producer is built, if it shall be `producer-N`.
    pub client_id: String,
    /// The hosts and ports of the brokers that the client connects to first
    /// (`bootstrap.servers`).
    pub bootstrap_servers: Vec<(String, u16)>,
    /// The largest number of requests without a response on one connection
    /// (`max.in.flight.requests.per.connection`).
    pub max_in_flight: usize,
    /// The time that a broker has for its response (`request.timeout.ms`).
    pub request_timeout: Duration,
    /// How the client connects.
    pub connect: ConnectSettings,
    /// When the client requests metadata.
    pub metadata: MetadataSettings,
    /// The time without a metadata response after which the client connects to the bootstrap
    /// servers again (`metadata.recovery.rebootstrap.trigger.ms`, KIP-1102); `None` with
    /// `metadata.recovery.strategy=none`.
    pub rebootstrap_trigger: Option<Duration>,
    /// Whether brokers are asked if they are the expected node of the expected cluster (KIP-1242,
    /// `metadata.cluster.check.enable`). Never with `metadata.recovery.strategy=none`, because the
    /// client could not act on the response.
    pub checks_cluster: bool,
}

impl ClientSettings {
    pub(super) fn new(p: &Properties) -> Result<ClientSettings, Error> {
        let servers = p.value("bootstrap.servers").ok_or_else(|| {
            Error::config("bootstrap.servers is missing; name a broker as host:port")
        })?;
        let recovery = p.get_str("metadata.recovery.strategy").parse()?;
        Ok(ClientSettings {
            client_id: client_id(p)?,
            bootstrap_servers: parse::parse_bootstrap_servers(
                servers,
                p.get_str("security.protocol"),
            )?,
            max_in_flight: Idempotence::new(p)?.max_in_flight,
            request_timeout: Timeouts::new(p)?.request,
            connect: ConnectSettings::new(p)?,
            metadata: MetadataSettings::new(p),
            checks_cluster: recovery != MetadataRecoveryStrategy::None
                && p.get_bool("metadata.cluster.check.enable"),
            rebootstrap_trigger: match recovery {
                MetadataRecoveryStrategy::None => None,
                MetadataRecoveryStrategy::Rebootstrap => {
                    Some(p.get_duration_ms("metadata.recovery.rebootstrap.trigger.ms"))
                }
            },
        })
    }
}

fn client_id(p: &Properties) -> Result<String, Error> {
    match p.get_str("client.id") {
        id if id.len() > i16::MAX as usize => Err(Error::config(format!(
            "client.id has {} bytes; the protocol allows at most {}",
            id.len(),
            i16::MAX
        ))),
        id => Ok(id.to_owned()),
    }
}

/// How the client connects to a broker.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConnectSettings {
    /// The time before the client connects again after the first failure
    /// (`reconnect.backoff.ms`). It doubles with each further failure.
    pub backoff: Duration,
    /// The longest time between two attempts (`reconnect.backoff.max.ms`).
    pub backoff_max: Duration,
    /// The time that the first attempt may take (`socket.connection.setup.timeout.ms`, KIP-601). It
    /// doubles with each further failure.
    pub setup_timeout: Duration,
    /// The longest time that an attempt may take (`socket.connection.setup.timeout.max.ms`).
    pub setup_timeout_max: Duration,
    /// The names that the client connects to (`client.dns.lookup`).
    pub dns_lookup: ClientDnsLookup,
    /// The addresses that the client connects to (`broker.address.family`).
    pub address_family: AddressFamily,
}

impl ConnectSettings {
    fn new(p: &Properties) -> Result<ConnectSettings, Error> {
        let setup_timeout = BackoffRange::new(
            p,
            "socket.connection.setup.timeout.ms",
            "socket.connection.setup.timeout.max.ms",
        );
        let backoff = p.get_duration_ms("reconnect.backoff.ms");
        // As in Kafka: `reconnect.backoff.ms` that is set alone is the maximum as well.
        let is_alone = p.value("reconnect.backoff.ms").is_some()
            && p.value("reconnect.backoff.max.ms").is_none();
        let backoff_max =
            if is_alone { backoff } else { p.get_duration_ms("reconnect.backoff.max.ms") };
        Ok(ConnectSettings {
            backoff,
            backoff_max,
            setup_timeout: setup_timeout.initial,
            setup_timeout_max: setup_timeout.max,
            dns_lookup: p.get_str("client.dns.lookup").parse()?,
            address_family: p.get_str("broker.address.family").parse()?,
        })
    }
}

/// When the client requests metadata.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MetadataSettings {
    /// The age at which metadata is requested again (`metadata.max.age.ms`).
    pub max_age: Duration,
    /// The time after which the client forgets a topic that it no longer sends to
    /// (`metadata.max.idle.ms`).
    pub max_idle: Duration,
    /// The time before the first retry (`retry.backoff.ms`). It doubles with each further failure.
    pub backoff: Duration,
    /// The longest time before a retry (`retry.backoff.max.ms`).
    pub backoff_max: Duration,
}

impl MetadataSettings {
    fn new(p: &Properties) -> MetadataSettings {
        let backoff = BackoffRange::new(p, "retry.backoff.ms", "retry.backoff.max.ms");
        MetadataSettings {
            max_age: p.get_duration_ms("metadata.max.age.ms"),
            max_idle: p.get_duration_ms("metadata.max.idle.ms"),
            backoff: backoff.initial,
            backoff_max: backoff.max,
        }
    }
}

/// The settings of sockets and of the frames that they receive.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct NetworkSettings {
    /// The size of a socket's send buffer in bytes; `None` uses the default of the operating system
    /// (`send.buffer.bytes`).
    pub send_buffer: Option<usize>,
    /// The size of a socket's receive buffer in bytes; `None` uses the default of the operating
    /// system (`receive.buffer.bytes`).
    pub receive_buffer: Option<usize>,
    /// Whether the operating system probes idle connections, SO_KEEPALIVE
    /// (`socket.keepalive.enable`).
    pub keepalive: bool,
    /// The largest size of a response in bytes (`receive.message.max.bytes`).
    pub receive_message_max_bytes: usize,
    /// The time after which an unused connection is closed; `None` keeps it open
    /// (`connections.max.idle.ms`).
    pub connections_max_idle: Option<Duration>,
}

impl NetworkSettings {
    pub(super) fn new(p: &Properties) -> NetworkSettings {
        NetworkSettings {
            // A negative size means "the system's default", a negative time "never".
            send_buffer: usize::try_from(p.get_i64("send.buffer.bytes")).ok(),
            receive_buffer: usize::try_from(p.get_i64("receive.buffer.bytes")).ok(),
            keepalive: p.get_bool("socket.keepalive.enable"),
            receive_message_max_bytes: p.get_usize("receive.message.max.bytes"),
            // Also 0, librdkafka's default, which means "never" there.
            connections_max_idle: u64::try_from(p.get_i64("connections.max.idle.ms"))
                .ok()
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
        }
    }
}
