//! The typed builder; every other setting by its name.

use std::sync::Arc;
use std::time::Duration;

use super::Producer;
use super::inner::ProducerInner;
use super::interceptor::{Interceptor, Interceptors};
use super::partitioner::Partitioner;
use crate::accumulator::batch_completions::{BatchHandler, BatchReport, DeliveryListeners};
use crate::accumulator::caller_context::CallerContext;
use crate::accumulator::{AccumulatorSettings, RecordAccumulator};
use crate::client::connection_states::ConnectSettings;
use crate::client::metadata_updater::MetadataSettings;
use crate::client::sasl::token::{OAuthBearerToken, TokenError, TokenManager, TokenProvider};
use crate::client::{ClientSettings, ConnectionSecurity, NetworkClient, SharedHealth};
use crate::config::security::SecuritySettings;
use crate::config::{Origin, ProducerConfig, Properties};
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, Sensors};
use crate::network::io::Io;
use crate::network::io::real::{RealEnv, RealIo, SocketBuffers, spawn};
use crate::network::selector::Selector;
use crate::sender::{Sender, SenderSettings, thread};
use crate::sync::Mutex;
use crate::time::Env;

/// Configures a [`Producer`]. Made by [`Producer::builder`].
///
/// The first wrong value is remembered and reported by [`build`](Self::build).
#[derive(Default)]
#[must_use]
pub struct ProducerBuilder {
    properties: Properties,
    error: Option<Error>,
    interceptors: Vec<Box<dyn Interceptor>>,
    delivery_handler: Option<BatchHandler>,
    partitioner: Option<Box<dyn Partitioner>>,
    token_provider: Option<TokenProvider>,
}

impl std::fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProducerBuilder")
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

macro_rules! setting_methods {
    ($($(#[$doc:meta])* $method:ident($ty:ty) $name:literal $value:ident => $text:expr;)*) => {$(
        $(#[$doc])*
        pub fn $method(self, $value: $ty) -> Self {
            self.set($name, $text.as_ref())
        }
    )*};
}

impl ProducerBuilder {
    pub(crate) fn new() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    /// Any setting by its name, Kafka's or librdkafka's; see `docs/CONFIGURATION.md`.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(e) = self.properties.set(name, value, &Origin::Builder) {
            self.error.get_or_insert(e);
        }
        self
    }

    /// Settings that were gathered elsewhere, from a file or a command line. They replace those set so far.
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = properties;
        self
    }

    setting_methods! {
        /// Brokers to ask first: `host:port`, separated by commas.
        bootstrap_servers(&str) "bootstrap.servers" v => v;
        /// Names this client to brokers.
        client_id(&str) "client.id" v => v;
        /// How long a batch waits for more records; whole milliseconds.
        linger(Duration) "linger.ms" v => v.as_millis().to_string();
        /// Bytes of a batch.
        batch_size(usize) "batch.size" v => v.to_string();
        /// Bytes that unacknowledged records may occupy in all.
        buffer_memory(u64) "buffer.memory" v => v.to_string();
        /// How long `send` may wait for metadata and memory together.
        max_block(Duration) "max.block.ms" v => v.as_millis().to_string();
        /// From a batch's first record to its end.
        delivery_timeout(Duration) "delivery.timeout.ms" v => v.as_millis().to_string();
        /// How long a broker has to answer.
        request_timeout(Duration) "request.timeout.ms" v => v.as_millis().to_string();
        /// The codec: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
        compression(&str) "compression.type" v => v;
        /// Whether each record is written once and in order, whatever is sent again.
        idempotence(bool) "enable.idempotence" v => v.to_string();
        /// How often a batch is sent again; [`delivery_timeout`](Self::delivery_timeout) is the better bound.
        retries(u32) "retries" v => v.to_string();
        /// Requests on a connection without an answer.
        max_in_flight(usize) "max.in.flight.requests.per.connection" v => v.to_string();
        /// Bytes of a request, and of a record before compression.
        max_request_size(usize) "max.request.size" v => v.to_string();
        /// How long before something is tried again, the first time.
        retry_backoff(Duration) "retry.backoff.ms" v => v.as_millis().to_string();
        /// Who must have a record: `all`, `1` or `0`.
        acks(&str) "acks" v => v;
    }

    /// Adds an interceptor behind those there are.
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.interceptors.push(Box::new(interceptor));
        self
    }

    /// A handler for the end of every batch, called once each with its records' tokens, on the producer's
    /// thread, where nothing may wait. The cheapest way to hear of every record.
    pub fn delivery_handler(
        mut self,
        handler: impl Fn(&BatchReport<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.delivery_handler = Some(Box::new(handler));
        self
    }

    /// A partitioner for records that name no partition, in place of Kafka's own.
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Some(Box::new(partitioner));
        self
    }

    /// Where tokens for `sasl.mechanism=OAUTHBEARER` come from (RFC 7628). It is asked when one is needed and none is
    /// good any more, and when most of the life of one that is good is over, on a helper's thread, which polls the future it gives for at most 30 s; a future that needs a
    /// runtime must bring its own. A plain function gives [`std::future::ready`].
    pub fn token_provider<F, T>(mut self, ask: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<OAuthBearerToken, TokenError>> + Send + 'static,
    {
        self.token_provider = Some(TokenProvider::new(ask));
        self
    }

    /// Builds the producer and starts its thread. Brokers are connected to in the background: that none can be
    /// reached is told by `send`, and by [`Producer::health`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the settings; [`ErrorKind::Internal`] when the system gives no poll or
    /// no thread.
    pub fn build(mut self) -> Result<Producer, Error> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        for notice in self.properties.warnings() {
            tracing::info!("{notice}");
        }
        let config = ProducerConfig::new(&self.properties)?;
        let os =
            |e: std::io::Error| Error::new(ErrorKind::Internal, format!("the system refuses: {e}"));
        let env = Arc::new(RealEnv::new());
        let buffers = SocketBuffers { send: config.send_buffer, receive: config.receive_buffer };
        let io = RealIo::new(buffers).map_err(os)?;
        let name = format!("ottla-{}", config.client_id);
        let (handle, sender) = self.assemble(config, env, io)?;
        let joined = spawn(name, move || thread::run(sender)).map_err(os)?;
        *handle.sender_thread.lock() = Some(joined);
        Ok(Producer { inner: handle })
    }

    /// Puts the parts together over any machine.
    pub(crate) fn assemble<I: Io>(
        self,
        config: ProducerConfig,
        env: Arc<dyn Env>,
        io: I,
    ) -> Result<(Arc<ProducerInner>, Sender<I>), Error> {
        let secured = connection_security(&config.security, self.token_provider, &env)?;
        let sensors = Sensors::new(config.metric_config);
        let counters = Arc::new(Counters { sensors, ..Counters::default() });
        let interceptors = Interceptors::new(self.interceptors);
        let listeners =
            DeliveryListeners::new(self.delivery_handler, interceptors, counters.clone());
        let settings = AccumulatorSettings {
            batch_size: config.batch_size,
            linger: config.linger,
            delivery_timeout: config.delivery_timeout,
            buffer_memory: config.buffer_memory,
            codec: config.codec,
            compression_level: config.compression_level,
            partitioning: config.partitioning,
            adaptive_partitioning: config.adaptive_partitioning,
            availability_timeout: config.partition_availability_timeout,
        };
        let callers = CallerContext::new(env.clone(), config.linger_awaited);
        let rack = config.client_rack.as_deref().map(Into::into);
        let acc = RecordAccumulator::new(settings, env.clone(), callers, listeners, rack);
        let health = SharedHealth::default();
        let idle = config.connections_max_idle;
        let selector = Selector::new(io, config.receive_message_max_bytes, idle, counters.clone());
        let client = NetworkClient::new(
            client_settings(&config),
            secured,
            env.clone(),
            selector,
            health.clone(),
            counters.clone(),
        );
        let sender_settings = SenderSettings {
            acks: config.acks,
            idempotent: config.idempotent,
            max_in_flight: config.max_in_flight,
            max_request_size: config.max_request_size,
            retries: config.retries,
            retry_backoff: config.retry_backoff.0,
            retry_backoff_max: config.retry_backoff.1,
            request_timeout: config.request_timeout,
            delivery_timeout: config.delivery_timeout,
            metadata_max_age: config.metadata_max_age,
        };
        let sender =
            Sender::new(sender_settings, acc.clone(), client, health.clone(), counters.clone());
        let handle = ProducerInner {
            client_id: config.client_id,
            accumulator: acc.clone(),
            health,
            counters,
            max_request_size: config.max_request_size,
            max_record_size: config
                .max_request_size
                .min(usize::try_from(config.buffer_memory).unwrap_or(usize::MAX)),
            can_use_fast_path: self.partitioner.is_none() && acc.listeners.interceptors.is_empty(),
            partitioner: self.partitioner,
            max_block: config.max_block,
            delivery_timeout: config.delivery_timeout,
            sender_thread: Mutex::new(None),
            started_ms: env.wall_clock_ms(),
            pid: std::process::id(),
        };
        Ok((Arc::new(handle), sender))
    }

    /// The configuration alone, for simulations.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn config(&mut self) -> Result<ProducerConfig, Error> {
        match self.error.take() {
            Some(e) => Err(e),
            None => ProducerConfig::new(&self.properties),
        }
    }
}

/// What secures connections; files are read here the first time.
fn connection_security(
    security: &SecuritySettings,
    provider: Option<TokenProvider>,
    env: &Arc<dyn Env>,
) -> Result<ConnectionSecurity, Error> {
    let mut out = ConnectionSecurity::default();
    #[cfg(feature = "tls")]
    if let Some(tls) = &security.tls {
        out.tls = Some(Arc::new(crate::network::tls::TlsConnector::new(tls.clone(), env.clone())?));
    }
    if let Some(sasl) = &security.sasl {
        out.tokens = TokenManager::for_mechanism(sasl, provider, env.clone())?.map(Arc::new);
        out.sasl = Some(Arc::new(sasl.clone()));
    }
    Ok(out)
}

fn client_settings(config: &ProducerConfig) -> ClientSettings {
    ClientSettings {
        client_id: config.client_id.clone(),
        bootstrap_servers: config.bootstrap_servers.clone(),
        max_in_flight: config.max_in_flight,
        request_timeout: config.request_timeout,
        connect: ConnectSettings {
            backoff: config.reconnect_backoff.0,
            backoff_max: config.reconnect_backoff.1,
            setup_timeout: config.connection_setup_timeout.0,
            setup_timeout_max: config.connection_setup_timeout.1,
        },
        metadata: MetadataSettings {
            max_age: config.metadata_max_age,
            max_idle: config.metadata_max_idle,
            backoff: config.retry_backoff.0,
            backoff_max: config.retry_backoff.1,
        },
        rebootstrap_trigger: config.rebootstrap_trigger,
    }
}
