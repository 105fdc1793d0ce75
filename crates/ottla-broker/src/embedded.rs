//! `EmbeddedBroker`: a broker in this process that listens on TCP ports, and its builder.
//!
//! Tests and the command create it. [`crate::socket_server`] then serves its connections.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ottla_protocol::ErrorCode;

use crate::client_metrics::{ClientMetricsPush, ClientMetricsSubscription};
use crate::consumer_record::{ConsumerRecord, TopicReader};
use crate::core::{ApiError, BrokerConfig, ClockReading, Core};
use crate::listener::{NodeListener, bind_listeners};
use crate::new_topic::NewTopic;
use crate::response_interceptor::{InterceptedResponse, InterceptorGuard, ResponseAction};
use crate::socket_server::{Shared, read_clock};

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
    topics: Vec<NewTopic>,
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
    ///
    /// Transactional ids, groups and their offsets are kept there, too.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = Some(dir.into());
        self
    }

    /// Adds a topic that the broker creates at start. A topic that exists on disk is not changed.
    pub fn topic(self, name: impl Into<String>, partitions: i32) -> Self {
        self.new_topic(NewTopic::new(name, partitions))
    }

    /// Like [`topic`](Self::topic), with a replication factor and settings of the topic's own.
    pub fn new_topic(mut self, topic: NewTopic) -> Self {
        self.topics.push(topic);
        self
    }

    /// Sets the number of replicas of a topic that names none, at most the number of nodes (Kafka's
    /// `default.replication.factor`); default 3.
    pub fn default_replication_factor(mut self, replicas: i32) -> Self {
        self.config.default_replication_factor = replicas;
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

    /// Sets the finalized feature `transaction.version`: 2, the default, for transactions V2
    /// (KIP-890), 0 or 1 for V1.
    pub fn transaction_version(mut self, version: i16) -> Self {
        self.config.transaction_version = version;
        self
    }

    /// Sets how long the first rebalance of a consumer group waits for more members (Kafka's
    /// `group.initial.rebalance.delay.ms`); default 0.
    pub fn group_initial_rebalance_delay(mut self, delay: Duration) -> Self {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.config.group_initial_rebalance_delay_ms = delay_ms;
        self
    }

    /// Offers to receive client metrics, and requests these (KIP-714); default: it does not offer
    /// it, as a Kafka broker without a receiver plug-in.
    pub fn client_metrics(mut self, subscription: ClientMetricsSubscription) -> Self {
        self.config.client_metrics = Some(subscription);
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
        for topic in self.topics {
            let name = topic.name.clone();
            match core.create_new_topic(topic, now) {
                Ok(()) => {}
                Err(e) if e.code == ErrorCode::TOPIC_ALREADY_EXISTS => {}
                Err(e) => {
                    let text = format!("topic {name} was not created: {e}");
                    return Err(io::Error::other(text));
                }
            }
        }
        let listeners = bind_listeners(&self.listen, core.node_count())?;
        for (node, listener) in (1..).zip(&listeners).filter(|_| listeners.len() > 1) {
            core.set_advertised_address(node, "", listener.local_addr()?.port());
        }
        let shared = Arc::new(Shared::new(core, started_at));
        // The broker is built before its threads: if a later spawn fails, its drop stops the
        // threads that have started.
        let mut broker = EmbeddedBroker { shared, listeners: Vec::new() };
        for (node, listener) in (1..).zip(listeners) {
            broker.listeners.push(NodeListener::start(node, listener, &broker.shared)?);
        }
        Ok(broker)
    }
}

/// A broker in this process. Dropping it closes its connections and joins its threads.
///
/// Its threads are its own, so it also serves clients whose async executor has a single thread. Its
/// calls take microseconds and may be made in async tests; only
/// [`wait_for_records`](Self::wait_for_records) and its like block for long: await the deliveries
/// before, or call them in `spawn_blocking`.
///
/// ```
/// use ottla_broker::EmbeddedBroker;
///
/// let broker = EmbeddedBroker::builder().topic("orders", 2).start()?;
/// let address = broker.bootstrap_servers(); // such as "127.0.0.1:41957"
/// std::net::TcpStream::connect(&address)?;
///
/// // A test reads the topic without a consumer.
/// assert!(broker.records("orders")?.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
    listeners: Vec<NodeListener>,
}

/// A longer wait could exceed the range of `Instant`.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

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
        let addresses: Vec<String> =
            self.listeners.iter().map(|l| l.address().to_string()).collect();
        addresses.join(",")
    }

    /// Calls `f` with the core and the time, to read or change topics, faults, nodes and logs.
    ///
    /// Connections wait while `f` runs. If `f` sleeps, the whole broker hangs: it handles no
    /// request and sends no response, but accepts connections. Run `f` on a thread of its own then.
    /// To withhold single responses, use [`intercept_responses`](Self::intercept_responses).
    ///
    /// ```
    /// use ottla_broker::{EmbeddedBroker, ErrorCode, ProduceFault};
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
    /// // The broker hangs for a tenth of a second.
    /// broker.with_core(|_core, _now| std::thread::sleep(std::time::Duration::from_millis(100)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_core<T>(&self, f: impl FnOnce(&mut Core, ClockReading) -> T) -> T {
        let mut core = self.shared.core.lock();
        self.shared.tick_if_due(&mut core);
        let result = f(&mut core, read_clock(self.shared.started_at));
        drop(core);
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
    /// use ottla_broker::{ApiKey, EmbeddedBroker, ResponseAction};
    ///
    /// let broker = EmbeddedBroker::start()?;
    /// // The first Produce response is lost: its connection closes, though the batch is appended.
    /// let mut is_lost = false;
    /// let guard = broker.intercept_responses(move |response, frame| {
    ///     if response.api == ApiKey::PRODUCE && !std::mem::replace(&mut is_lost, true) {
    ///         return ResponseAction::SendAndClose(Vec::new());
    ///     }
    ///     ResponseAction::Send(frame)
    /// });
    /// drop(guard); // From here on, responses are sent unchanged.
    ///
    /// // A silent broker: node 1 takes every request, handles it, and never responds.
    /// let guard = broker.intercept_responses(|response, frame| match response.node {
    ///     1 => ResponseAction::Stall,
    ///     _ => ResponseAction::Send(frame),
    /// });
    /// drop(guard); // What was withheld is never sent; later responses are.
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
    /// The node refuses connections until [`start_node`](Self::start_node), and its port stays
    /// reserved. An id that no node has is ignored.
    ///
    /// As in Kafka, a replica in the ISR becomes the leader with the log that it has. Records that
    /// only the stopped node has are not in the new leader's log. With `acks=all` they were not
    /// acknowledged, so a producer sends them again; with `acks=1` they are lost. By default
    /// followers have every record at once: [`Core::set_fetch_delay`] and
    /// [`Core::set_replication_paused`] let them fall behind. If no replica in the ISR runs, the
    /// partition has no leader until one starts.
    ///
    /// ```
    /// use ottla_broker::EmbeddedBroker;
    ///
    /// let broker = EmbeddedBroker::builder().node_count(3).topic("orders", 1).start()?;
    /// assert_eq!(broker.leader("orders", 0), Some(1));
    /// broker.stop_node(1);
    /// assert_eq!(broker.leader("orders", 0), Some(2));
    /// broker.start_node(1)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop_node(&self, node: i32) {
        self.with_core(|core, now| core.stop_node(node, now));
        if let Some(listener) = self.listener(node) {
            listener.close();
        }
        self.shared.close_connections_where(|n| n == node);
    }

    /// Starts a stopped node again, with the log that it had. It does nothing for a node that runs.
    ///
    /// It comes back as a follower where another node leads. It then drops the records that the
    /// leader does not have, copies those that it lacks, and joins the ISR when it has them all.
    ///
    /// # Errors
    /// The node cannot listen on its port again, or there is no such node.
    pub fn start_node(&self, node: i32) -> io::Result<()> {
        let listener = self.listener(node).ok_or_else(|| {
            let text = format!("there is no node {node}; the ids are 1 to {}", self.node_count());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        // Running before it listens: the acceptor closes connections to a node that does not run.
        self.with_core(|core, now| core.start_node(node, now));
        listener.reopen(&self.shared)
    }

    fn listener(&self, node: i32) -> Option<&NodeListener> {
        self.listeners.get(usize::try_from(node).ok()?.checked_sub(1)?)
    }

    /// Returns the number of nodes. Their ids count from 1.
    pub fn node_count(&self) -> i32 {
        self.listeners.len() as i32
    }

    /// Returns the node id of a partition's leader; `None` if it has none, or does not exist.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let description = self.with_core(|core, _now| core.describe_partition(topic, partition))?;
        (description.leader != -1).then_some(description.leader)
    }

    /// Returns the replicated records of a topic, by partition and offset; nothing if there is no
    /// such topic.
    ///
    /// Records of open and aborted transactions are among them, as for a consumer with
    /// `isolation.level=read_uncommitted`: see [`ConsumerRecord::is_committed`].
    ///
    /// ```
    /// use ottla_broker::EmbeddedBroker;
    ///
    /// let broker = EmbeddedBroker::builder().topic("orders", 2).start()?;
    /// // Here the program under test sends records.
    /// for record in broker.records("orders")? {
    ///     println!("{}@{}: {:?}", record.partition, record.offset, record.value);
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// A log file cannot be read.
    pub fn records(&self, topic: &str) -> io::Result<Vec<ConsumerRecord>> {
        self.with_core(|core, _now| core.records(topic))
    }

    /// Like [`records`](Self::records), and waits until the topic has at least `count` records.
    ///
    /// The topic need not exist yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the topic has fewer records when `timeout` has expired; the
    /// message says how many. A log file cannot be read.
    pub fn wait_for_records(
        &self,
        topic: &str,
        count: usize,
        timeout: Duration,
    ) -> io::Result<Vec<ConsumerRecord>> {
        self.wait_for(topic, count, timeout, false)
    }

    /// Waits until the topic has at least `count` committed records, and returns these only.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// let broker = ottla_broker::EmbeddedBroker::start()?;
    /// // Here the program under test commits a transaction.
    /// let records = broker.wait_for_committed_records("orders", 2, Duration::from_secs(10))?;
    /// assert!(records.iter().all(|r| r.is_committed()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait_for_records`](Self::wait_for_records).
    pub fn wait_for_committed_records(
        &self,
        topic: &str,
        count: usize,
        timeout: Duration,
    ) -> io::Result<Vec<ConsumerRecord>> {
        self.wait_for(topic, count, timeout, true)
    }

    fn wait_for(
        &self,
        topic: &str,
        count: usize,
        timeout: Duration,
        only_committed: bool,
    ) -> io::Result<Vec<ConsumerRecord>> {
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
        let mut reader = TopicReader::new(topic);
        let mut core = self.shared.core.lock();
        loop {
            // The clock is read first: what has come by the deadline counts.
            let has_expired = Instant::now() >= deadline;
            reader.read_new(&core)?;
            let arrived =
                if only_committed { reader.committed_count() } else { reader.record_count() };
            if arrived >= count {
                let mut records = reader.into_records();
                records.retain(|r| !only_committed || r.is_committed());
                return Ok(records);
            }
            if has_expired {
                let what = if only_committed { "committed records" } else { "records" };
                let text = format!("{arrived} of {count} {what} of {topic} came in {timeout:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            self.shared.wait_for_change(&mut core, deadline);
        }
    }

    /// Returns the metrics that clients have pushed, oldest first; the last 1000 at most.
    ///
    /// See [`ClientMetricsSubscription`].
    pub fn client_metrics_pushes(&self) -> Vec<ClientMetricsPush> {
        self.with_core(|core, _now| core.client_metrics_pushes().cloned().collect())
    }

    /// Like [`client_metrics_pushes`](Self::client_metrics_pushes), and waits until one of them
    /// fulfils the condition. Returns this one.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if there is none when `timeout` has expired; the message says
    /// how many others came.
    pub fn wait_for_client_metrics(
        &self,
        condition: impl Fn(&ClientMetricsPush) -> bool,
        timeout: Duration,
    ) -> io::Result<ClientMetricsPush> {
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
        let mut core = self.shared.core.lock();
        loop {
            let has_expired = Instant::now() >= deadline;
            if let Some(push) = core.client_metrics_pushes().find(|push| condition(push)) {
                return Ok(push.clone());
            }
            if has_expired {
                let others = core.client_metrics_pushes().count();
                let text = format!("no push of {others} fulfilled the condition in {timeout:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            self.shared.wait_for_change(&mut core, deadline);
        }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// Kafka's error code, such as TOPIC_ALREADY_EXISTS, and a message.
    pub fn create_topic(&self, topic: NewTopic) -> Result<(), ApiError> {
        self.with_core(|core, now| core.create_new_topic(topic, now))
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        self.listeners.iter().for_each(NodeListener::close);
        self.shared.stop_connections();
    }
}
