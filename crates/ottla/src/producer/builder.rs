//! The builder of a producer: methods for the common settings, and `set` for every setting by name.
//!
//! `build` checks the settings, creates the accumulator, the client and the sender, and starts the
//! sender's thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Producer;
use super::inner::ProducerInner;
use super::partitioner::Partitioner;
use super::transaction::PendingCalls;
use crate::accumulator::RecordAccumulator;
use crate::client::sasl::token::{OAuthBearerToken, TokenError, TokenProvider};
use crate::client::{ConnectionSecurity, NetworkClient, SharedHealth};
use crate::config::parse::format_millis;
use crate::config::{
    Acks, BootstrapServers, Compression, PartitioningStrategy, ProducerConfig, Properties,
    SaslMechanism, SecurityProtocol,
};
use crate::delivery::batch_completions::{BatchHandler, BatchReport, DeliveryListeners};
use crate::delivery::interceptor::{Interceptor, Interceptors};
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, Sensors};
use crate::network::io::Io;
use crate::network::io::real::{RealEnv, RealIo, spawn};
use crate::network::selector::Selector;
use crate::sender::{Sender, thread};
use crate::sync::Mutex;
use crate::wakeup::caller_context::CallerContext;

/// Configures and builds a [`Producer`]. [`Producer::builder`] creates it.
///
/// Only `bootstrap.servers` is required. The builder remembers the first invalid value, and
/// [`build`](Self::build) returns its error.
///
/// ```no_run
/// use std::time::Duration;
///
/// use ottla::{Compression, Producer, SecurityProtocol};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder()
///     .bootstrap_servers(["broker-1:9092", "broker-2:9092"])
///     .linger(Duration::from_millis(10))
///     .compression(Compression::lz4())
///     .security_protocol(SecurityProtocol::Ssl)
///     .set("ssl.truststore.location", "/etc/kafka/ca.pem")
///     .set("ssl.truststore.type", "PEM")
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Default)]
#[must_use]
pub struct ProducerBuilder {
    properties: Properties,
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

/// Defines a method for each of these settings: its name and type, Kafka's name, and the conversion
/// of its value to text.
macro_rules! setting_methods {
    ($($(#[$doc:meta])* $method:ident($ty:ty) $name:literal $value:ident => $text:expr;)*) => {$(
        $(#[$doc])*
        pub fn $method(self, $value: $ty) -> Self {
            self.set($name, $text)
        }
    )*};
}

/// The settings. Each call replaces what earlier calls have set, whichever of them it was.
///
/// A [`Duration`] is kept exactly. One that the setting cannot hold, such as a fraction of a
/// microsecond, is an error of [`build`](Self::build).
impl ProducerBuilder {
    pub(crate) fn new() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    /// Sets any setting by its name, Kafka's or librdkafka's. `docs/CONFIGURATION.md` lists them.
    ///
    /// An unknown name is an error of [`build`](Self::build).
    pub fn set(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.properties.extend([(name, value)]);
        self
    }

    /// Sets all settings that `properties` has: from a file, the environment or a command line.
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties.merge(properties);
        self
    }

    /// Sets all settings to those of `config`. It has a value for each, so nothing that was set
    /// before remains.
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.properties = config.into_properties();
        self
    }

    /// Sets the first brokers to connect to (`bootstrap.servers`): one text with commas, or
    /// anything iterable of texts. Required.
    ///
    /// ```
    /// # use ottla::Producer;
    /// let builder = Producer::builder().bootstrap_servers("broker-1:9092,broker-2:9092");
    /// let builder = Producer::builder().bootstrap_servers(["broker-1:9092", "broker-2:9092"]);
    /// let brokers: Vec<String> = (1..=3).map(|n| format!("broker-{n}:9092")).collect();
    /// let builder = Producer::builder().bootstrap_servers(&brokers);
    /// ```
    pub fn bootstrap_servers<Form>(self, servers: impl BootstrapServers<Form>) -> Self {
        self.set("bootstrap.servers", servers.join())
    }

    /// Sets the codec of batches and its level (`compression.type`, `compression.*.level`). The
    /// default is [`Compression::None`].
    pub fn compression(self, compression: Compression) -> Self {
        let builder = self.set("compression.type", compression.to_string());
        match compression.level() {
            Some(level) => builder.set(compression.level_name(), level.to_string()),
            None => builder,
        }
    }

    /// Sets how records without a partition are distributed (`partitioner.class`,
    /// `partitioner.ignore.keys`). A [`partitioner`](Self::partitioner) of the application takes
    /// precedence.
    pub fn partitioning(self, strategy: PartitioningStrategy) -> Self {
        self.set("partitioner.class", strategy.as_str()).set("partitioner.ignore.keys", "false")
    }

    setting_methods! {
        /// Sets the client's name in the logs, metrics and quotas of brokers (`client.id`). The
        /// default is `producer-N`; with [`transactional_id`](Self::transactional_id), `producer-`
        /// and that id.
        client_id(impl AsRef<str>) "client.id" v => v;
        /// Sets the protocol of the brokers' listener (`security.protocol`). The default is
        /// [`SecurityProtocol::Plaintext`].
        security_protocol(SecurityProtocol) "security.protocol" v => v.as_str();
        /// Sets how the client authenticates, if the security protocol has SASL
        /// (`sasl.mechanism`). `sasl.username` and `sasl.password` hold the credentials.
        sasl_mechanism(SaslMechanism) "sasl.mechanism" v => v.as_str();
        /// Sets the time that a batch waits for more records (`linger.ms`), to the microsecond. The
        /// default is 5 ms.
        linger(Duration) "linger.ms" v => format_millis(v);
        /// Sets the size of a batch in bytes (`batch.size`). The default is 16384; with 0, each
        /// record is sent alone.
        batch_size(usize) "batch.size" v => v.to_string();
        /// Sets the number of bytes that all unacknowledged records may occupy (`buffer.memory`).
        /// The default is 32 MiB.
        buffer_memory(u64) "buffer.memory" v => v.to_string();
        /// Sets the time that `send` may wait for metadata and memory together (`max.block.ms`), to
        /// the microsecond. The default is 60 s.
        max_block(Duration) "max.block.ms" v => format_millis(v);
        /// Sets the time from a batch's first record until the batch is acknowledged or fails
        /// (`delivery.timeout.ms`, KIP-91), in whole milliseconds. The default is 120 s. A short
        /// time needs no other setting: `linger.ms` and `request.timeout.ms` become shorter to fit.
        /// If they are set, it must be at least their sum.
        delivery_timeout(Duration) "delivery.timeout.ms" v => format_millis(v);
        /// Sets the time that a broker has for its response (`request.timeout.ms`), in whole
        /// milliseconds, as in the protocol. The default is 30 s. The client then closes the
        /// connection and retries the requests.
        request_timeout(Duration) "request.timeout.ms" v => format_millis(v);
        /// Sets whether retries write no record twice and keep the order of each partition
        /// (`enable.idempotence`, KIP-98). The default is true. Requires [`Acks::All`], `retries`
        /// above 0, and at most 5 requests in flight.
        idempotence(bool) "enable.idempotence" v => v.to_string();
        /// Makes the producer transactional (`transactional.id`, KIP-98): call
        /// [`init_transactions`](Producer::init_transactions) first. The id must stay the same over
        /// restarts, and no two running producers may share it.
        transactional_id(impl AsRef<str>) "transactional.id" v => v;
        /// Sets the time after which the cluster aborts a transaction that was neither committed
        /// nor aborted (`transaction.timeout.ms`), in whole milliseconds. The default is 60 s.
        transaction_timeout(Duration) "transaction.timeout.ms" v => format_millis(v);
        /// Sets the number of retries of a batch (`retries`). The default is 2147483647.
        /// [`delivery_timeout`](Self::delivery_timeout) is the better limit.
        retries(u32) "retries" v => v.to_string();
        /// Sets the number of requests without a response per connection
        /// (`max.in.flight.requests.per.connection`). The default is 5.
        max_in_flight(usize) "max.in.flight.requests.per.connection" v => v.to_string();
        /// Sets the largest size of a request, and of a record before compression, in bytes
        /// (`max.request.size`). The default is 1048576.
        max_request_size(usize) "max.request.size" v => v.to_string();
        /// Sets the time before the first retry (`retry.backoff.ms`, KIP-580), to the microsecond.
        /// The default is 100 ms. It doubles with each retry, up to `retry.backoff.max.ms`.
        retry_backoff(Duration) "retry.backoff.ms" v => format_millis(v);
        /// Sets the replicas that must have a record before the broker acknowledges it (`acks`).
        /// The default is [`Acks::All`].
        acks(Acks) "acks" v => v.as_str();
    }

    /// Checks the settings and returns them, without building a producer.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: a setting is invalid or unsupported; the message names it.
    pub fn build_config(&self) -> Result<ProducerConfig, Error> {
        ProducerConfig::new(&self.properties)
    }

    /// Returns a sentence for each setting that has no effect or may surprise, as
    /// [`Properties::notices`] does. [`build`](Self::build) logs them.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = self.properties.notices();
        if self.partitioner.is_some() {
            let unset = self.properties.partitioner_notice();
            notices.retain(|n| Some(n) != unset.as_ref());
        }
        notices
    }
}

/// The application's part in a producer, and its construction.
impl ProducerBuilder {
    /// Adds an interceptor, which runs after those added before (KIP-42).
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.interceptors.push(Box::new(interceptor));
        self
    }

    /// Sets a handler for the results of all records: the cheapest way to learn each record's
    /// result.
    ///
    /// The producer calls the handler once per batch. The [`BatchReport`] contains the batch's
    /// result and the [tokens](crate::Record::token) of its records. A batch that was split reports
    /// each of its parts. The deliveries and callbacks of a batch complete first.
    ///
    /// The handler gets no keys or values: the producer keeps them only encoded, and perhaps
    /// compressed. To send a failed record again or to store it, keep it under its token until its
    /// result arrives, or send it with a callback that owns it, as
    /// [`send_with_callback`](Producer::send_with_callback) shows.
    ///
    /// The handler lives as long as the producer. If it owns a clone of its own producer, the two
    /// keep each other alive, and the drop of all other clones closes nothing: call
    /// [`close`](Producer::close), or let the handler pass its work through a channel to a task
    /// that has the producer.
    ///
    /// ```no_run
    /// use ottla::{Producer, Record};
    ///
    /// # fn main() -> Result<(), ottla::Error> {
    /// let producer = Producer::builder()
    ///     .bootstrap_servers("localhost:9092")
    ///     .delivery_handler(|batch| match batch.result {
    ///         Ok(base_offset) => {
    ///             for (i, token) in batch.tokens.iter().enumerate() {
    ///                 let offset = base_offset.map(|base| base + i as i64);
    ///                 println!("{token}: {}-{} {offset:?}", batch.topic, batch.partition);
    ///             }
    ///         }
    ///         Err(e) => eprintln!("records {:?} failed: {e}", batch.tokens),
    ///     })
    ///     .build()?;
    /// let orders = producer.topic("orders")?;
    /// for number in 0..1000 {
    ///     orders.enqueue(orders.record().value("3 apples").token(number))?;
    /// }
    /// producer.flush()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Threads
    ///
    /// - **The sender's thread**, as a rule. The handler must not wait there: while it runs, the
    ///   producer sends nothing.
    /// - **Not at all** for a record that `send` does not accept: the error of `send` is its
    ///   result.
    /// - **Another thread, if the sender has ended** (the producer was closed, or the sender
    ///   panicked) before it knew of the batch: a thread that appended to the batch, inside its own
    ///   `send`, or the worker thread that compressed or split it.
    ///   [`Producer::send_with_callback`] explains this case. Two threads may then run the handler
    ///   at the same time.
    ///
    /// The producer holds no lock meanwhile. It catches a panic of the handler and counts it in
    /// [`Totals::callback_panic_total`](crate::Totals).
    pub fn delivery_handler(
        mut self,
        handler: impl Fn(&BatchReport<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.delivery_handler = Some(Box::new(handler));
        self
    }

    /// Sets a partitioner for records that do not name their partition, in place of the built-in
    /// one.
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Some(Box::new(partitioner));
        self
    }

    /// Sets the function that provides tokens for `sasl.mechanism=OAUTHBEARER` (RFC 7628, KIP-255).
    ///
    /// The producer calls it when it connects without a valid token, and again before the token
    /// expires (`sasl.login.refresh.window.factor`). The call and its future run on a thread of the
    /// producer's, which polls the future for at most 30 s. A future that needs an async runtime
    /// must bring its own. A plain function returns [`std::future::ready`].
    ///
    /// ```
    /// use std::future::ready;
    /// use std::time::{Duration, SystemTime};
    ///
    /// use ottla::{OAuthBearerToken, Producer, SaslMechanism, SecurityProtocol};
    ///
    /// let builder = Producer::builder()
    ///     .security_protocol(SecurityProtocol::SaslSsl)
    ///     .sasl_mechanism(SaslMechanism::OAuthBearer)
    ///     .token_provider(|| {
    ///         let expiry = SystemTime::now() + Duration::from_secs(3600);
    ///         ready(Ok(OAuthBearerToken::new("header.payload.signature", expiry)))
    ///     });
    /// ```
    pub fn token_provider<F, T>(mut self, provider: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<OAuthBearerToken, TokenError>> + Send + 'static,
    {
        self.token_provider = Some(TokenProvider::new(provider));
        self
    }

    /// Builds the producer and starts its thread.
    ///
    /// The producer connects to brokers in the background. If it cannot reach any, `send` fails
    /// after `max.block.ms`; [`Producer::health`] shows the reason earlier.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: a setting is invalid or unsupported; the message names it.
    /// [`ErrorKind::Internal`]: the operating system provides no poll or no thread.
    pub fn build(self) -> Result<Producer, Error> {
        let config = self.config_with_client_id()?;
        // Keys that move to other partitions may break the application; the rest has no effect.
        let severe = self.properties.partitioner_notice();
        for notice in self.notices() {
            if Some(&notice) == severe.as_ref() {
                tracing::warn!(
                    name: "ottla.notice",
                    target: "ottla::producer",
                    "{notice}"
                );
            } else {
                tracing::info!(
                    name: "ottla.notice",
                    target: "ottla::producer",
                    "{notice}"
                );
            }
        }
        let env = Arc::new(RealEnv::new());
        let io = RealIo::new(config.network).map_err(|e| os_error("cannot create a poll", &e))?;
        let thread_name = format!("ottla-{}", config.client.client_id);
        let (inner, sender) = self.assemble(config, env, io)?;
        let thread = spawn(thread_name, move || thread::run(sender))
            .map_err(|e| os_error("cannot start the producer's thread", &e))?;
        *inner.sender_thread.lock() = Some(thread);
        let _ = inner.spawn_thread.set(|name, run| spawn(name, run).map(drop));
        Ok(Producer { inner })
    }

    /// Creates the parts of a producer on any machine, real or simulated.
    pub(crate) fn assemble<I: Io>(
        self,
        config: ProducerConfig,
        env: Arc<dyn Env>,
        io: I,
    ) -> Result<(Arc<ProducerInner>, Sender<I>), Error> {
        let security = ConnectionSecurity::new(&config.security, self.token_provider, &env)
            .map_err(|e| config.use_written_names(e))?;
        let sensors = Sensors::new(config.metrics);
        let counters =
            Arc::new(Counters { sensors, started_ms: env.wall_clock_ms(), ..Counters::default() });
        let interceptors = Interceptors::new(self.interceptors);
        let listeners =
            DeliveryListeners::new(self.delivery_handler, interceptors, counters.clone());
        let caller_context = CallerContext::new(env.clone(), config.accumulator.linger_awaited);
        let accumulator = RecordAccumulator::new(
            config.accumulator.clone(),
            env.clone(),
            caller_context,
            listeners,
        );
        let health = SharedHealth::default();
        let (max_bytes, max_idle) =
            (config.network.receive_message_max_bytes, config.network.connections_max_idle);
        let selector = Selector::new(io, max_bytes, max_idle, counters.clone());
        let client = NetworkClient::new(
            config.client.clone(),
            security,
            env.clone(),
            selector,
            health.clone(),
            counters.clone(),
        );
        let sender = Sender::new(
            config.sender.clone(),
            accumulator.clone(),
            client,
            health.clone(),
            counters.clone(),
        );
        let buffer_memory = usize::try_from(config.accumulator.buffer_memory).unwrap_or(usize::MAX);
        let has_interceptors = !accumulator.listeners.interceptors.is_empty();
        let inner = ProducerInner {
            accumulator,
            health,
            counters,
            max_record_size: config.sender.max_request_size.min(buffer_memory),
            config,
            can_use_fast_path: self.partitioner.is_none() && !has_interceptors,
            partitioner: self.partitioner,
            sender_thread: Mutex::new(None),
            pending_calls: PendingCalls::default(),
            spawn_thread: OnceLock::new(),
            fork_guard: forkguard::new(),
        };
        Ok((Arc::new(inner), sender))
    }

    /// Returns the checked configuration of the producer to build, which has a client id.
    pub(crate) fn config_with_client_id(&self) -> Result<ProducerConfig, Error> {
        let mut config = self.build_config()?;
        if let (true, Some(transactions)) =
            (config.client.client_id.is_empty(), &config.sender.transactions)
        {
            config.client.client_id = format!("producer-{}", transactions.transactional_id);
        }
        if config.client.client_id.is_empty() {
            let number = CLIENT_ID_SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1;
            config.client.client_id = format!("producer-{number}");
        }
        Ok(config)
    }
}

/// The number of the last client id that was generated, as in `producer-1`.
static CLIENT_ID_SEQUENCE: AtomicU64 = AtomicU64::new(0);

fn os_error(failed: &str, e: &std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("{failed}: {e}"))
}

#[cfg(test)]
mod tests;
