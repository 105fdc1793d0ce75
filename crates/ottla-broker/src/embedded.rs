//! `EmbeddedBroker`: a broker in this process that listens on TCP ports, and its builder.
//!
//! Tests and the command create it. [`crate::socket_server`] then serves its connections.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ottla_protocol::ErrorCode;

use crate::core::{BrokerConfig, ClockReading, Core};
use crate::response_interceptor::{InterceptedResponse, InterceptorGuard, ResponseAction};
use crate::socket_server::{Shared, read_clock, run_acceptor};

/// Configures and starts an [`EmbeddedBroker`].
///
/// ```
/// use ottla_broker::EmbeddedBroker;
///
/// // Three nodes, each on a port that the system chooses.
/// let broker = EmbeddedBroker::builder()
///     .node_count(3)
///     .topic("orders", 6)
///     .auto_create_topics(false)
///     .start()?;
/// assert_eq!(broker.bootstrap_servers().split(',').count(), 3);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct EmbeddedBrokerBuilder {
    config: BrokerConfig,
    listen: String,
    topics: Vec<InitialTopic>,
}

#[derive(Debug, Clone)]
struct InitialTopic {
    name: String,
    partitions: i32,
}

impl EmbeddedBrokerBuilder {
    /// Sets the address to listen on; default `127.0.0.1:0`, where the system chooses the port.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// Sets the address that clients are to connect to (Kafka's `advertised.listeners`).
    ///
    /// Default: the address that the client has already connected to.
    pub fn advertised_listener(mut self, host: impl Into<String>, port: u16) -> Self {
        self.config.advertised_listener = Some((host.into(), port));
        self
    }

    /// Sets the number of nodes, 1 to 100; default 1.
    ///
    /// Each node has a port of its own: the configured port and the ports after it, or ports that
    /// the system chooses.
    pub fn node_count(mut self, nodes: i32) -> Self {
        self.config.node_count = nodes;
        self
    }

    /// Sets the directory for the logs, in Kafka's format; default: the logs are in memory.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = Some(dir.into());
        self
    }

    /// Adds a topic that the broker creates at start. A topic that exists on disk is not changed.
    pub fn topic(mut self, name: impl Into<String>, partitions: i32) -> Self {
        self.topics.push(InitialTopic { name: name.into(), partitions });
        self
    }

    /// Sets the number of partitions of a topic that is created automatically (Kafka's
    /// `num.partitions`); default 1.
    pub fn default_partitions(mut self, partitions: i32) -> Self {
        self.config.default_partitions = partitions;
        self
    }

    /// Sets whether a Metadata request for a missing topic creates it (Kafka's
    /// `auto.create.topics.enable`); default true.
    pub fn auto_create_topics(mut self, enabled: bool) -> Self {
        self.config.auto_create_topics = enabled;
        self
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// The address cannot be listened on, the directory cannot be used, a setting is out of its
    /// range, or a topic cannot be created.
    pub fn start(mut self) -> io::Result<EmbeddedBroker> {
        let started_at = Instant::now();
        let now = read_clock(started_at);
        self.config.seed = now.wall_ms as u64 ^ (u64::from(std::process::id()) << 40);
        let mut core = Core::new(self.config, now)?;
        for InitialTopic { name, partitions } in self.topics {
            match core.create_topic(&name, partitions, now) {
                Ok(()) => {}
                Err(e) if e.code == ErrorCode::TOPIC_ALREADY_EXISTS => {}
                Err(e) => {
                    let text = format!("topic {name} was not created: {e}");
                    return Err(io::Error::other(text));
                }
            }
        }
        let listeners = bind_listeners(&self.listen, core.node_count())?;
        let mut addresses = Vec::new();
        for (node, listener) in (1..).zip(&listeners) {
            let address = listener.local_addr()?;
            if listeners.len() > 1 {
                core.set_advertised_address(node, "", address.port());
            }
            addresses.push(address);
        }
        let shared = Arc::new(Shared::new(core, started_at));
        // The broker is built before its threads: if a later spawn fails, its drop stops the
        // threads that have started.
        let mut broker = EmbeddedBroker { shared, addresses, threads: Vec::new() };
        for (node, listener) in (1..).zip(listeners) {
            let shared = broker.shared.clone();
            let thread = thread::Builder::new().name(format!("broker-{node}"));
            broker.threads.push(thread.spawn(move || run_acceptor(node, &listener, &shared))?);
        }
        Ok(broker)
    }
}

/// Binds one listener for each node: on the given port and the ports after it, or on free ports.
fn bind_listeners(listen: &str, nodes: i32) -> io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind(listen)?;
    let mut address = first.local_addr()?;
    let any_port = listen.ends_with(":0");
    let mut listeners = vec![first];
    for _ in 1..nodes {
        let port = if any_port { Some(0) } else { address.port().checked_add(1) };
        address.set_port(port.ok_or_else(|| {
            io::Error::other("not enough ports: each node takes one, and 65535 is the last")
        })?);
        let listener = TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// A broker in this process. Dropping it closes its connections and joins its threads.
///
/// ```
/// use ottla_broker::EmbeddedBroker;
///
/// let broker = EmbeddedBroker::builder().topic("orders", 2).start()?;
/// let address = broker.bootstrap_servers(); // such as "127.0.0.1:41957"
/// std::net::TcpStream::connect(&address)?;
///
/// // A test reads the log of partition 0 without a consumer.
/// let batches = broker.with_core(|core, _now| core.batches("orders", 0))?;
/// assert!(batches.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker of one node, in memory, on a port that the system chooses.
    ///
    /// # Errors
    /// No port is available.
    pub fn start() -> io::Result<EmbeddedBroker> {
        EmbeddedBroker::builder().start()
    }

    /// Returns a builder with the default configuration.
    pub fn builder() -> EmbeddedBrokerBuilder {
        let config = BrokerConfig::default();
        EmbeddedBrokerBuilder { config, listen: "127.0.0.1:0".into(), topics: Vec::new() }
    }

    /// Returns the addresses of all nodes as a value for `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.join(",")
    }

    /// Calls `f` with the core and the time, to read or change topics, faults, nodes and logs.
    ///
    /// Connections wait while `f` runs.
    ///
    /// ```
    /// use ottla_broker::{EmbeddedBroker, ProduceFault};
    /// use ottla_protocol::ErrorCode;
    ///
    /// let broker = EmbeddedBroker::start()?;
    /// broker.with_core(|core, now| {
    ///     core.create_topic("orders", 1, now).expect("a new topic");
    ///     // Every batch for partition 0 fails and is not appended.
    ///     core.set_fault_injector(|topic, partition| {
    ///         (topic == "orders" && partition == 0)
    ///             .then_some(ProduceFault::FailBeforeAppend(ErrorCode::KAFKA_STORAGE_ERROR))
    ///     });
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_core<T>(&self, f: impl FnOnce(&mut Core, ClockReading) -> T) -> T {
        let result = f(&mut self.shared.core.lock(), read_clock(self.shared.started_at));
        // `f` may have changed what a delayed Produce or Fetch waits for.
        self.shared.state_changed.notify_all();
        result
    }

    /// Installs a function that changes or withholds responses until the guard is dropped.
    ///
    /// The function gets each response as a whole frame, and a description of its request. It runs
    /// on the connection's thread, after the core has handled the request. Functions that are
    /// installed together run in the order of installation. The function must not call the broker.
    ///
    /// ```
    /// use ottla_broker::{EmbeddedBroker, ResponseAction};
    /// use ottla_protocol::ApiKey;
    ///
    /// let broker = EmbeddedBroker::start()?;
    /// // The first Produce response is lost: its connection closes, though the batch is appended.
    /// let guard = broker.intercept_responses(|response, frame| {
    ///     if response.api == ApiKey::PRODUCE && response.call_index == 0 {
    ///         return ResponseAction::SendAndClose(Vec::new());
    ///     }
    ///     ResponseAction::Send(frame)
    /// });
    /// drop(guard); // From here on, responses are sent unchanged.
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn intercept_responses<F>(&self, interceptor: F) -> InterceptorGuard
    where
        F: FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
    {
        self.shared.interceptors.install(interceptor)
    }

    /// Closes every connection. Clients may connect again.
    pub fn close_connections(&self) {
        self.shared.close_connections_where(|_| true);
    }

    /// Stops a node: other nodes take over its partitions, and its connections close.
    ///
    /// The node's port stays open, but the node closes each new connection at once.
    ///
    /// ```
    /// use ottla_broker::EmbeddedBroker;
    ///
    /// let broker = EmbeddedBroker::builder().node_count(3).topic("orders", 1).start()?;
    /// broker.stop_node(1);
    /// assert!(!broker.with_core(|core, _now| core.is_up(1)));
    /// broker.start_node(1);
    /// assert!(broker.with_core(|core, _now| core.is_up(1)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop_node(&self, node: i32) {
        self.with_core(|core, now| core.stop_node(node, now));
        self.shared.close_connections_where(|n| n == node);
    }

    /// Starts a stopped node again, with the log that it had.
    pub fn start_node(&self, node: i32) {
        self.with_core(|core, now| core.start_node(node, now));
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut self.threads);
        for (mut address, thread) in self.addresses.iter().copied().zip(threads) {
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            // `accept` has no timeout: a connection wakes the acceptor thread. Without a free
            // descriptor there is no connection, and the thread would not end here.
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                let _ = thread.join();
            }
        }
        self.shared.stop_connections();
    }
}
