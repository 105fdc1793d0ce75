//! Requests and answers with brokers: connections and their states, correlation ids, in-flight limits,
//! API versions, metadata, throttling. Knows no batch.

pub(crate) mod in_flight_requests;
pub(crate) mod metadata_updater;
pub(crate) mod connection_states;
mod health;
#[cfg(test)]
mod tests;
mod responses;
pub(crate) mod sasl;
pub(crate) mod security;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::encode_request;
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::{ApiKey, EncodeError, Request};
use zeroize::Zeroizing;

use crate::cluster::{Cluster, LeaderHint, Node};
use crate::collections::HashMap;
use crate::injected_bugs::inject_bug;
use crate::log_limiter::{LogEvent, LogLimiter};
use crate::metrics::{Counters, NodeSensor, Sensor};
use crate::network::io::{ChannelKey, Io, Job};
use crate::network::selector::{PollResult, Selector};
use crate::time::{Env, Tick, Wakeup, WorkerPool, backoff};
use connection_states::{ConnectSettings, ConnectionState, NodeConnection};
pub use health::Health;
pub(crate) use health::SharedHealth;
use in_flight_requests::{CompletedRequest, InFlightRequest, RequestKind};
use metadata_updater::{MetadataSettings, MetadataUpdate, MetadataUpdater};
pub(crate) use security::ConnectionSecurity;

/// The settings that decide how brokers are spoken to.
#[derive(Debug, Clone)]
pub(crate) struct ClientSettings {
    pub(crate) client_id: String,
    pub(crate) bootstrap_servers: Vec<(String, u16)>,
    pub(crate) max_in_flight: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) connect: ConnectSettings,
    pub(crate) metadata: MetadataSettings,
    /// Without news of the cluster for this long, the bootstrap servers are asked; `None` never.
    pub(crate) rebootstrap_trigger: Option<Duration>,
}

/// The client.
pub(crate) struct NetworkClient<I: Io> {
    settings: ClientSettings,
    security: ConnectionSecurity,
    env: Arc<dyn Env>,
    selector: Selector<I>,
    connection_states: BTreeMap<i32, NodeConnection>,
    node_by_channel: HashMap<ChannelKey, i32>,
    metadata: MetadataUpdater,
    correlation: i32,
    sasl_correlation: i32,
    /// When the last poll ended.
    last_woken_at: Tick,
    health: SharedHealth,
    counters: Arc<Counters>,
    metadata_update: MetadataUpdate,
    log_events: LogLimiter,
    /// When a pause that was told of is over.
    next_throttle_end: Tick,
    generation: u32,
    /// Times in a row that the cluster was given up, and when it may be again.
    rebootstrap_backoff: (u32, Tick),
    /// Requests that ended outside a poll.
    completed_requests: Vec<CompletedRequest>,
    /// What a poll brings; empty between two.
    poll_result: PollResult,
}

/// How long a name's lookup, a file or a token may take.
const JOB_TIMEOUT: Duration = Duration::from_secs(60);
/// Milliseconds from which on a pause is told of.
const MIN_REPORTED_THROTTLE_MS: u64 = 1000;
/// Between two times that the cluster is given up and looked for where it began: the first time, and at most.
const MIN_REBOOTSTRAP_BACKOFF: Duration = Duration::from_secs(1);
const MAX_REBOOTSTRAP_BACKOFF: Duration = Duration::from_secs(60);
/// Failures in a row after which a broker counts as gone.
const UNREACHABLE_FAILED_ATTEMPTS: u32 = 3;
/// Correlation ids from here up are for SASL alone (NC11).
const MIN_RESERVED_CORRELATION_ID: i32 = i32::MAX - 7;

impl<I: Io> NetworkClient<I> {
    pub(crate) fn new(
        settings: ClientSettings,
        secured: ConnectionSecurity,
        env: Arc<dyn Env>,
        selector: Selector<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> NetworkClient<I> {
        let metadata = MetadataUpdater::new(settings.metadata);
        let mut client = NetworkClient {
            settings,
            security: secured,
            last_woken_at: env.now(),
            env,
            selector,
            connection_states: BTreeMap::new(),
            node_by_channel: HashMap::default(),
            metadata,
            correlation: 0,
            sasl_correlation: 0,
            health,
            counters,
            metadata_update: MetadataUpdate::default(),
            log_events: LogLimiter::default(),
            next_throttle_end: Tick::NEVER,
            generation: 0,
            rebootstrap_backoff: (0, Tick(0)),
            completed_requests: Vec::new(),
            poll_result: PollResult::default(),
        };
        client.bootstrap();
        client
    }

    fn bootstrap(&mut self) {
        for (i, (host, port)) in self.settings.bootstrap_servers.clone().iter().enumerate() {
            self.add_node(-1 - i as i32, &host.as_str().into(), *port);
        }
    }

    /// A broker that is not known yet.
    fn add_node(&mut self, id: i32, host: &Arc<str>, port: u16) {
        if let Entry::Vacant(place) = self.connection_states.entry(id) {
            self.generation = self.generation.wrapping_add(1);
            let broker = place.insert(NodeConnection::new(id, host.clone(), port));
            broker.generation = self.generation;
        }
    }

    pub(crate) fn wakeup(&self) -> Arc<dyn Wakeup> {
        self.selector.wakeup()
    }

    pub(crate) fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        self.selector.worker_pool()
    }

    /// Tells how many requests have no answer.
    pub(crate) fn update_in_flight_metric(&self) {
        let in_flight: usize = self.connection_states.values().map(|b| b.in_flight.len()).sum();
        self.counters.requests_in_flight.store(in_flight as u64, Ordering::Relaxed);
    }

    pub(crate) fn start_job(&mut self, job: Job) {
        self.selector.start_job(job);
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.metadata.cluster.clone()
    }

    pub(crate) fn add_topic(&mut self, topic: &Arc<str>, now: Tick) {
        self.metadata.add_topic(topic, now);
    }

    pub(crate) fn request_metadata(&mut self, now: Tick) {
        self.metadata.request_update(now);
    }

    pub(crate) fn remove_topic(&mut self, topic: &str) {
        self.metadata.remove_topic(topic);
    }

    /// What metadata brought since the last call.
    pub(crate) fn take_metadata_update(&mut self) -> MetadataUpdate {
        std::mem::take(&mut self.metadata_update)
    }

    pub(crate) fn broker_name(&self, node: i32) -> String {
        self.connection_states
            .get(&node)
            .map_or_else(|| format!("broker {node}"), NodeConnection::name)
    }

    /// Whether the socket took the whole of a request that has no answer yet.
    pub(crate) fn is_fully_sent(&self, node: i32, correlation: i32) -> bool {
        self.connection_states.get(&node).is_none_or(|b| {
            // What was written since the last poll is not marked yet.
            let written = b.channel().is_none_or(|c| self.selector.can_send(c));
            written || b.in_flight.is_fully_sent(correlation)
        })
    }

    /// Each node that was spoken to, and whether it can take no request now and an event will tell when it can.
    pub(crate) fn node_busy_states(&self, now: Tick) -> impl Iterator<Item = (i32, bool)> {
        let busy = move |b: &NodeConnection| {
            !self.can_send_request(b, now) && self.earliest_ready_at(b.id, now).is_none()
        };
        self.connection_states.values().map(move |b| (b.id, busy(b)))
    }

    /// Whether nothing is in flight to `node`.
    pub(crate) fn has_no_in_flight_requests(&self, node: i32) -> bool {
        self.connection_states.get(&node).is_none_or(|b| b.in_flight.len() == 0)
    }

    /// Whether a request may go to `node` now.
    pub(crate) fn is_ready(&self, node: i32, now: Tick) -> bool {
        self.connection_states.get(&node).is_some_and(|b| self.can_send_request(b, now))
    }

    fn can_send_request(&self, b: &NodeConnection, now: Tick) -> bool {
        let ConnectionState::Ready(channel) = b.state else {
            return false;
        };
        b.in_flight.len()
            < self.settings.max_in_flight + usize::from(inject_bug!(ExtraInFlightRequest))
            && b.throttled_until <= now
            && !b.is_reauthentication_due(now)
            && self.selector.can_send(channel)
    }

    /// Whether a request may go to `node` now; begins to connect where that is what is missing.
    pub(crate) fn ready(&mut self, node: i32, now: Tick) -> bool {
        if self.is_ready(node, now) {
            return true;
        }
        if self.connection_states.get(&node).is_some_and(|b| b.can_connect(now)) {
            self.connect(node, now);
        } else if self.is_reauthentication_due(node, now) {
            self.reauthenticate(node, now);
        }
        false
    }

    /// When `node`, not ready now, may have become so by itself; `None` leaves it to an event.
    pub(crate) fn earliest_ready_at(&self, node: i32, now: Tick) -> Option<Tick> {
        let b = self.connection_states.get(&node)?;
        match b.state {
            ConnectionState::Disconnected(until) => Some(until),
            ConnectionState::Ready(_) if b.throttled_until > now => Some(b.throttled_until),
            // Whoever wants to send begins the renewal.
            ConnectionState::Ready(channel)
                if b.is_reauthentication_due(now) && self.selector.can_send(channel) =>
            {
                Some(now)
            }
            _ => None,
        }
    }

    /// An answer speaks of throttling; before some version of each API the broker holds back itself (KIP-219).
    pub(crate) fn throttle(&mut self, node: i32, ms: i32, by_us: bool, now: Tick) {
        self.counters.sensors.record(&[(Sensor::Throttle, f64::from(ms.max(0)))], now);
        let ms = if by_us { ms } else { 0 };
        if let (Some(b), Ok(ms @ 1..)) = (self.connection_states.get_mut(&node), u64::try_from(ms))
        {
            if b.throttled_until <= now {
                b.throttled_since = now;
            }
            b.throttled_until = b.throttled_until.max(now.after(Duration::from_millis(ms)));
            if ms >= MIN_REPORTED_THROTTLE_MS {
                self.health.throttled(&b.name(), ms);
                self.next_throttle_end = self.next_throttle_end.min(b.throttled_until);
            }
            if let Some(left_out) = self.log_events.check(LogEvent::Throttled, node, now) {
                tracing::info!(name: "ottla.throttled", broker = node, ms, left_out, "throttled");
            }
        }
    }

    /// What events were told.
    pub(crate) fn log_events(&mut self) -> &mut LogLimiter {
        &mut self.log_events
    }

    /// Leaders that a broker told of which leads no more, and where they are (KIP-951).
    pub(crate) fn apply_leader_hints(&mut self, hints: &[LeaderHint], nodes: &[Node], now: Tick) {
        let before = self.metadata.cluster.clone();
        if self.metadata.apply_leader_hints(hints, nodes) {
            self.metadata_update.updated = true;
            self.log_leader_changes(&before, now);
            self.update_nodes(now);
        }
    }

    fn log_leader_changes(&mut self, before: &Cluster, now: Tick) {
        for (topic, partition, from, to) in
            self.metadata.cluster.clone().leader_changes_since(before)
        {
            if let Some(left_out) = self.log_events.check(LogEvent::LeaderChanged, to.node_id, now)
            {
                tracing::info!(
                    name: "ottla.leader_changed",
                    topic = &**topic,
                    partition,
                    from = from.node_id,
                    to = to.node_id,
                    epoch = to.epoch,
                    left_out,
                    "leader changed"
                );
            }
        }
    }

    /// How long a node was throttled within a time, as far as the last throttling goes.
    pub(crate) fn throttled_time(&self, node: i32, from: Tick, to: Tick) -> Duration {
        self.connection_states.get(&node).map_or(Duration::ZERO, |b| {
            to.min(b.throttled_until).since(from.max(b.throttled_since))
        })
    }

    pub(crate) fn latest_usable_version(
        &self,
        node: i32,
        api: ApiKey,
        min: i16,
        max: i16,
    ) -> Option<i16> {
        self.connection_states.get(&node)?.latest_usable_version(api, min, max)
    }

    /// A node for a request that any can answer: ready with the fewest in flight, else one that can be
    /// connected to. None while one is connecting: it will do (NC16).
    pub(crate) fn least_loaded_node(&self, now: Tick) -> Option<i32> {
        let known = |b: &&NodeConnection| self.metadata.cluster.nodes.is_empty() || b.id >= 0;
        let ready =
            self.connection_states.values().filter(known).filter(|b| self.can_send_request(b, now));
        if let Some(b) = ready.min_by_key(|b| b.in_flight.len()) {
            return Some(b.id);
        }
        if self.connection_states.values().filter(known).any(NodeConnection::is_connecting) {
            return None;
        }
        let idle = self.connection_states.values().filter(known);
        let idle = idle.filter(|b| b.can_connect(now) || b.is_reauthentication_due(now));
        idle.min_by_key(|b| b.last_connect_attempt).map(|b| b.id)
    }

    /// When a broker that backs off or is throttled may be spoken to again; what becomes of the others is told
    /// by an event.
    pub(crate) fn next_retry(&self, now: Tick) -> Tick {
        let later =
            self.connection_states.keys().filter_map(|node| self.earliest_ready_at(*node, now));
        later.filter(|at| *at > now).min().unwrap_or(Tick::NEVER)
    }

    fn connect(&mut self, node: i32, now: Tick) {
        let random = self.env.random();
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        b.last_connect_attempt = now;
        if !std::mem::take(&mut b.prepared) {
            b.state = ConnectionState::Preparing(now.after(JOB_TIMEOUT));
            if self.prepare_connection(node, true) {
                return;
            }
        }
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        let Some(address) = b.next_address() else {
            b.state = ConnectionState::Resolving(now.after(JOB_TIMEOUT));
            let (host, port) = (b.host.to_string(), b.port);
            tracing::debug!(broker = node, host, port, "looking up");
            let key = u64::from(b.generation);
            self.selector.start_job(Job::Resolve { key, host, port });
            return;
        };
        tracing::debug!(broker = node, %address, "connecting");
        let tls =
            match self.security.tls.as_ref().map(|tls| tls.create_session(&b.host)).transpose() {
                Ok(tls) => tls,
                Err(why) => return self.fail_connection_with_kind(node, &why, true, now),
            };
        match self.selector.connect(address, tls, now) {
            Ok(channel) => {
                b.connecting(channel, &self.settings.connect, now, random);
                self.node_by_channel.insert(channel, node);
            }
            Err(e) => {
                b.disconnected(&self.settings.connect, now, random);
                self.health.failed(&b.name(), &format!("{address}: {e}"));
            }
        }
    }

    fn next_correlation_id(&mut self) -> i32 {
        self.correlation = if self.correlation >= MIN_RESERVED_CORRELATION_ID - 1 {
            1
        } else {
            self.correlation + 1
        };
        self.correlation
    }

    /// Sends a request that can be encoded whole.
    pub(crate) fn send<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        purpose: RequestKind,
        now: Tick,
    ) -> Result<(), EncodeError> {
        let correlation = self.next_correlation_id();
        self.send_with_correlation_id(node, body, version, (correlation, purpose), now)
    }

    fn send_with_correlation_id<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        (correlation, purpose): (i32, RequestKind),
        now: Tick,
    ) -> Result<(), EncodeError> {
        let frame = encode_request(body, version, correlation, Some(&self.settings.client_id))?;
        let frame = match purpose {
            // It may hold a password.
            RequestKind::Sasl(_) => Bytes::from_owner(Zeroizing::new(frame)),
            _ => Bytes::from(frame),
        };
        let request = InFlightRequest {
            correlation_id: correlation,
            api: R::KEY,
            version,
            kind: purpose,
            sent_at: now,
            fully_sent: false,
            expects_response: true,
        };
        self.do_send(node, request, vec![frame], now);
        Ok(())
    }

    /// Sends a produce request whose frame the sender made; the correlation id it was made with, too.
    pub(crate) fn send_produce(
        &mut self,
        node: i32,
        version: i16,
        answered: bool,
        now: Tick,
        make: impl FnOnce(i32, &str) -> Vec<Bytes>,
    ) -> i32 {
        let correlation = self.next_correlation_id();
        let pieces = make(correlation, &self.settings.client_id);
        let (api, purpose) = (ApiKey::PRODUCE, RequestKind::Produce);
        let request = InFlightRequest {
            correlation_id: correlation,
            api,
            version,
            kind: purpose,
            sent_at: now,
            fully_sent: false,
            expects_response: answered,
        };
        self.do_send(node, request, pieces, now);
        correlation
    }

    fn do_send(&mut self, node: i32, request: InFlightRequest, pieces: Vec<Bytes>, now: Tick) {
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        let Some(channel) = b.channel() else { return };
        tracing::trace!(
            broker = node,
            api = request.api.name(),
            version = request.version,
            correlation = request.correlation_id,
            "request"
        );
        b.in_flight.add(request);
        let size = pieces.iter().map(Bytes::len).sum::<usize>() as f64;
        let sensors = &self.counters.sensors;
        sensors.record(
            &[
                (Sensor::Request, 1.0),
                (Sensor::RequestSize, size),
                (Sensor::OutgoingByte, size),
                (Sensor::NetworkIo, 1.0),
            ],
            now,
        );
        use NodeSensor::{OutgoingByte, Request, RequestSize};
        sensors.record_node(
            node,
            &[(Request, 1.0), (RequestSize, size), (OutgoingByte, size)],
            now,
        );
        self.selector.send(channel, pieces, now);
    }

    fn send_api_versions_request(&mut self, node: i32, version: i16, now: Tick) {
        let ask = ApiVersionsRequest {
            client_software_name: "ottla".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        // A fixed name and version always fit.
        let _ = self.send(node, &ask, version, RequestKind::ApiVersions(version), now);
    }

    /// Asks for metadata if it is due, of whoever is least busy; when to look again.
    pub(crate) fn maybe_update_metadata(&mut self, now: Tick) -> Tick {
        let due = self.metadata.next_update();
        if due > now {
            return due;
        }
        self.maybe_rebootstrap(now);
        let Some(node) = self.least_loaded_node(now) else {
            // One that is connecting or full makes an event; one that backs off or is throttled, a time.
            if self.connection_states.values().any(NodeConnection::is_connecting) {
                return Tick::NEVER;
            }
            return self.next_retry(now);
        };
        if !self.ready(node, now) {
            return self.next_retry(now);
        }
        let ask = self.metadata.begin_request(now);
        match self.latest_usable_version(node, ApiKey::METADATA, 0, 13) {
            Some(version) => {
                if let Err(e) = self.send(node, &ask, version, RequestKind::Metadata, now) {
                    tracing::error!("a metadata request could not be written: {e}");
                    self.metadata.fail_update(now, self.env.random());
                }
            }
            None => {
                self.metadata.fail_update(now, self.env.random());
                let why = "it has no version of Metadata that is spoken here (0 to 13)";
                self.fail_connection(node, why, now);
                return self.next_retry(now);
            }
        }
        Tick::NEVER
    }

    fn maybe_rebootstrap(&mut self, now: Tick) {
        let Some(after) = self.settings.rebootstrap_trigger else {
            return;
        };
        let in_vain =
            self.metadata.update_requested_at.is_some_and(|since| since.after(after) <= now);
        if in_vain || self.is_cluster_unreachable(now) {
            self.rebootstrap(now);
        }
    }

    /// Whether none of the brokers there are can be had: each failed several times in a row, and none is on its way.
    fn is_cluster_unreachable(&self, now: Tick) -> bool {
        let is_gone = |b: &NodeConnection| {
            let idle = !(b.is_ready() || b.is_connecting() || b.can_connect(now));
            idle && b.failed_attempts() >= UNREACHABLE_FAILED_ATTEMPTS
        };
        // One of the first ones may be connected still, and is not asked any more.
        let mut known = self.connection_states.values().filter(|b| b.id >= 0).peekable();
        known.peek().is_some() && known.all(is_gone)
    }

    /// Forgets all brokers and begins with the first ones again (KIP-899, KIP-1102), if that is wanted, and if there
    /// is a cluster to be forgotten.
    pub(super) fn rebootstrap(&mut self, now: Tick) {
        let known = !self.metadata.cluster.nodes.is_empty();
        if self.settings.rebootstrap_trigger.is_none() || !known || self.rebootstrap_backoff.1 > now
        {
            return;
        }
        // Where the first brokers name others that cannot be had, this would go round and round.
        let (first, most) = (self.settings.connect.backoff_max, MAX_REBOOTSTRAP_BACKOFF);
        let apart = backoff(
            first.max(MIN_REBOOTSTRAP_BACKOFF),
            most,
            self.rebootstrap_backoff.0,
            self.env.random(),
        );
        self.rebootstrap_backoff = (self.rebootstrap_backoff.0.saturating_add(1), now.after(apart));
        tracing::warn!("no broker of the cluster answers; going back to the bootstrap servers");
        let known: Vec<i32> = self.connection_states.keys().copied().collect();
        for node in known {
            self.disconnect(node, "going back to the bootstrap servers", now);
            self.log_events.remove_node(node);
        }
        for b in std::mem::take(&mut self.connection_states).values() {
            self.health.closed(&b.name());
        }
        self.metadata.forget_nodes(now);
        self.metadata_update.updated = true;
        self.bootstrap();
    }

    /// When the next poll has something to do whatever sockets say.
    pub(crate) fn next_poll_deadline(&self) -> Tick {
        if !self.completed_requests.is_empty() {
            return Tick(0);
        }
        self.next_deadline().unwrap_or(Tick::NEVER).min(self.selector.next_poll_deadline())
    }

    /// The earliest moment at which a connection or a request runs out of time.
    fn next_deadline(&self) -> Option<Tick> {
        let timeout = self.settings.request_timeout;
        let brokers = self.connection_states.values();
        let pauses = (self.next_throttle_end != Tick::NEVER).then_some(self.next_throttle_end);
        let each = brokers.flat_map(|b| {
            [b.setup_deadline(), b.in_flight.oldest_sent_at().map(|at| at.after(timeout))]
        });
        each.flatten().chain(pauses).min()
    }
}
