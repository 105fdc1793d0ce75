//! Requests and answers with brokers: connections and their states, correlation ids, in-flight limits,
//! API versions, metadata, throttling. Knows no batch.

pub(crate) mod in_flight;
pub(crate) mod metadata;
pub(crate) mod nodes;
mod health;
#[cfg(test)]
mod tests;
mod answers;
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
use crate::events::{LogEvent, LogLimiter};
use crate::metrics::{Counters, NodeSensor, Sensor};
use crate::network::io::{ChannelKey, Io, Job};
use crate::network::selector::{Polled, Selector};
use crate::plants::inject_bug;
use crate::time::{Env, Tick, Wakeup, WorkerPool, backoff};
pub use health::Health;
pub(crate) use health::SharedHealth;
use in_flight::{Done, InFlight, Purpose};
use metadata::{Metadata, MetadataSettings, News};
use nodes::{Broker, ConnectSettings, State};
pub(crate) use security::Secured;

/// The settings that decide how brokers are spoken to.
#[derive(Debug, Clone)]
pub(crate) struct ClientSettings {
    pub(crate) client_id: String,
    pub(crate) bootstrap: Vec<(String, u16)>,
    pub(crate) max_in_flight: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) connect: ConnectSettings,
    pub(crate) metadata: MetadataSettings,
    /// Without news of the cluster for this long, the bootstrap servers are asked; `None` never.
    pub(crate) rebootstrap: Option<Duration>,
}

/// The client.
pub(crate) struct NetworkClient<I: Io> {
    settings: ClientSettings,
    secured: Secured,
    env: Arc<dyn Env>,
    selector: Selector<I>,
    brokers: BTreeMap<i32, Broker>,
    by_channel: HashMap<ChannelKey, i32>,
    metadata: Metadata,
    correlation: i32,
    sasl_correlation: i32,
    /// When the last poll ended.
    woke: Tick,
    health: SharedHealth,
    counters: Arc<Counters>,
    news: News,
    events: LogLimiter,
    /// When a pause that was told of is over.
    pauses: Tick,
    generation: u32,
    /// Times in a row that the cluster was given up, and when it may be again.
    given_up: (u32, Tick),
    /// Requests that ended outside a poll.
    ended: Vec<Done>,
    /// What a poll brings; empty between two.
    polled: Polled,
}

/// How long a name's lookup, a file or a token may take.
const HELP_MOST: Duration = Duration::from_secs(60);
/// Milliseconds from which on a pause is told of.
const PAUSE_TOLD_MS: u64 = 1000;
/// Between two times that the cluster is given up and looked for where it began: the first time, and at most.
const GIVEN_UP_LEAST: Duration = Duration::from_secs(1);
const GIVEN_UP_MOST: Duration = Duration::from_secs(60);
/// Failures in a row after which a broker counts as gone.
const FAILURES_GONE: u32 = 3;
/// Correlation ids from here up are for SASL alone (NC11).
const CORRELATION_RESERVED: i32 = i32::MAX - 7;

impl<I: Io> NetworkClient<I> {
    pub(crate) fn new(
        settings: ClientSettings,
        secured: Secured,
        env: Arc<dyn Env>,
        selector: Selector<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> NetworkClient<I> {
        let metadata = Metadata::new(settings.metadata);
        let mut client = NetworkClient {
            settings,
            secured,
            woke: env.now(),
            env,
            selector,
            brokers: BTreeMap::new(),
            by_channel: HashMap::default(),
            metadata,
            correlation: 0,
            sasl_correlation: 0,
            health,
            counters,
            news: News::default(),
            events: LogLimiter::default(),
            pauses: Tick::NEVER,
            generation: 0,
            given_up: (0, Tick(0)),
            ended: Vec::new(),
            polled: Polled::default(),
        };
        client.bootstrap();
        client
    }

    fn bootstrap(&mut self) {
        for (i, (host, port)) in self.settings.bootstrap.clone().iter().enumerate() {
            self.add(-1 - i as i32, &host.as_str().into(), *port);
        }
    }

    /// A broker that is not known yet.
    fn add(&mut self, id: i32, host: &Arc<str>, port: u16) {
        if let Entry::Vacant(place) = self.brokers.entry(id) {
            self.generation = self.generation.wrapping_add(1);
            let broker = place.insert(Broker::new(id, host.clone(), port));
            broker.generation = self.generation;
        }
    }

    pub(crate) fn bell(&self) -> Arc<dyn Wakeup> {
        self.selector.bell()
    }

    pub(crate) fn hands(&self) -> Arc<dyn WorkerPool> {
        self.selector.hands()
    }

    /// Tells how many requests have no answer.
    pub(crate) fn count_in_flight(&self) {
        let in_flight: usize = self.brokers.values().map(|b| b.in_flight.len()).sum();
        self.counters.requests_in_flight.store(in_flight as u64, Ordering::Relaxed);
    }

    pub(crate) fn start(&mut self, job: Job) {
        self.selector.start(job);
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.metadata.cluster.clone()
    }

    pub(crate) fn want_topic(&mut self, topic: &Arc<str>, now: Tick) {
        self.metadata.want(topic, now);
    }

    pub(crate) fn request_metadata(&mut self, now: Tick) {
        self.metadata.request(now);
    }

    pub(crate) fn give_up_topic(&mut self, topic: &str) {
        self.metadata.give_up(topic);
    }

    /// What metadata brought since the last call.
    pub(crate) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    pub(crate) fn broker_name(&self, node: i32) -> String {
        self.brokers.get(&node).map_or_else(|| format!("broker {node}"), Broker::name)
    }

    /// Whether the socket took the whole of a request that has no answer yet.
    pub(crate) fn is_whole(&self, node: i32, correlation: i32) -> bool {
        self.brokers.get(&node).is_none_or(|b| {
            // What was written since the last poll is not marked yet.
            let written = b.channel().is_none_or(|c| self.selector.can_send(c));
            written || b.in_flight.is_whole(correlation)
        })
    }

    /// Each node that was spoken to, and whether it can take no request now and an event will tell when it can.
    pub(crate) fn busy(&self, now: Tick) -> impl Iterator<Item = (i32, bool)> {
        let busy =
            move |b: &Broker| !self.can_send(b, now) && self.connection_delay(b.id, now).is_none();
        self.brokers.values().map(move |b| (b.id, busy(b)))
    }

    /// Whether nothing is in flight to `node`.
    pub(crate) fn is_idle(&self, node: i32) -> bool {
        self.brokers.get(&node).is_none_or(|b| b.in_flight.len() == 0)
    }

    /// Whether a request may go to `node` now.
    pub(crate) fn is_ready(&self, node: i32, now: Tick) -> bool {
        self.brokers.get(&node).is_some_and(|b| self.can_send(b, now))
    }

    fn can_send(&self, b: &Broker, now: Tick) -> bool {
        let State::Ready(channel) = b.state else {
            return false;
        };
        b.in_flight.len()
            < self.settings.max_in_flight + usize::from(inject_bug!(ExtraInFlightRequest))
            && b.throttled_until <= now
            && !b.renewal_is_due(now)
            && self.selector.can_send(channel)
    }

    /// Whether a request may go to `node` now; begins to connect where that is what is missing.
    pub(crate) fn ready(&mut self, node: i32, now: Tick) -> bool {
        if self.is_ready(node, now) {
            return true;
        }
        if self.brokers.get(&node).is_some_and(|b| b.can_connect(now)) {
            self.connect(node, now);
        } else if self.renewal_is_due(node, now) {
            self.renew(node, now);
        }
        false
    }

    /// When `node`, not ready now, may have become so by itself; `None` leaves it to an event.
    pub(crate) fn connection_delay(&self, node: i32, now: Tick) -> Option<Tick> {
        let b = self.brokers.get(&node)?;
        match b.state {
            State::Idle(until) => Some(until),
            State::Ready(_) if b.throttled_until > now => Some(b.throttled_until),
            // Whoever wants to send begins the renewal.
            State::Ready(channel) if b.renewal_is_due(now) && self.selector.can_send(channel) => {
                Some(now)
            }
            _ => None,
        }
    }

    /// An answer speaks of throttling; before some version of each API the broker holds back itself (KIP-219).
    pub(crate) fn throttle(&mut self, node: i32, ms: i32, by_us: bool, now: Tick) {
        self.counters.sensors.record(&[(Sensor::Throttle, f64::from(ms.max(0)))], now);
        let ms = if by_us { ms } else { 0 };
        if let (Some(b), Ok(ms @ 1..)) = (self.brokers.get_mut(&node), u64::try_from(ms)) {
            if b.throttled_until <= now {
                b.throttled_from = now;
            }
            b.throttled_until = b.throttled_until.max(now.after(Duration::from_millis(ms)));
            if ms >= PAUSE_TOLD_MS {
                self.health.paused(&b.name(), ms);
                self.pauses = self.pauses.min(b.throttled_until);
            }
            if let Some(left_out) = self.events.check(LogEvent::Throttled, node, now) {
                tracing::info!(name: "ottla.throttled", broker = node, ms, left_out, "throttled");
            }
        }
    }

    /// What events were told.
    pub(crate) fn events(&mut self) -> &mut LogLimiter {
        &mut self.events
    }

    /// Leaders that a broker told of which leads no more, and where they are (KIP-951).
    pub(crate) fn hinted(&mut self, hints: &[LeaderHint], nodes: &[Node], now: Tick) {
        let before = self.metadata.cluster.clone();
        if self.metadata.hinted(hints, nodes) {
            self.news.updated = true;
            self.tell_of_leaders(&before, now);
            self.follow_nodes(now);
        }
    }

    fn tell_of_leaders(&mut self, before: &Cluster, now: Tick) {
        for (topic, partition, from, to) in
            self.metadata.cluster.clone().leader_changes_since(before)
        {
            if let Some(left_out) = self.events.check(LogEvent::LeaderChanged, to.node_id, now) {
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
    pub(crate) fn throttled(&self, node: i32, from: Tick, to: Tick) -> Duration {
        self.brokers
            .get(&node)
            .map_or(Duration::ZERO, |b| to.min(b.throttled_until).since(from.max(b.throttled_from)))
    }

    pub(crate) fn pick(&self, node: i32, api: ApiKey, min: i16, max: i16) -> Option<i16> {
        self.brokers.get(&node)?.pick(api, min, max)
    }

    /// A node for a request that any can answer: ready with the fewest in flight, else one that can be
    /// connected to. None while one is connecting: it will do (NC16).
    pub(crate) fn least_loaded(&self, now: Tick) -> Option<i32> {
        let known = |b: &&Broker| self.metadata.cluster.nodes.is_empty() || b.id >= 0;
        let ready = self.brokers.values().filter(known).filter(|b| self.can_send(b, now));
        if let Some(b) = ready.min_by_key(|b| b.in_flight.len()) {
            return Some(b.id);
        }
        if self.brokers.values().filter(known).any(Broker::is_connecting) {
            return None;
        }
        let idle = self.brokers.values().filter(known);
        let idle = idle.filter(|b| b.can_connect(now) || b.renewal_is_due(now));
        idle.min_by_key(|b| b.last_attempt).map(|b| b.id)
    }

    /// When a broker that backs off or is throttled may be spoken to again; what becomes of the others is told
    /// by an event.
    pub(crate) fn next_chance(&self, now: Tick) -> Tick {
        let later = self.brokers.keys().filter_map(|node| self.connection_delay(*node, now));
        later.filter(|at| *at > now).min().unwrap_or(Tick::NEVER)
    }

    fn connect(&mut self, node: i32, now: Tick) {
        let random = self.env.random();
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        b.last_attempt = now;
        if !std::mem::take(&mut b.prepared) {
            b.state = State::Preparing(now.after(HELP_MOST));
            if self.prepare_connection(node, true) {
                return;
            }
        }
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        let Some(address) = b.next_address() else {
            b.state = State::Resolving(now.after(HELP_MOST));
            let (host, port) = (b.host.to_string(), b.port);
            tracing::debug!(broker = node, host, port, "looking up");
            let key = u64::from(b.generation);
            self.selector.start(Job::Resolve { key, host, port });
            return;
        };
        tracing::debug!(broker = node, %address, "connecting");
        let tls = match self.secured.tls.as_ref().map(|tls| tls.create_session(&b.host)).transpose()
        {
            Ok(tls) => tls,
            Err(why) => return self.lost_for(node, &why, true, now),
        };
        match self.selector.connect(address, tls, now) {
            Ok(channel) => {
                b.connecting(channel, &self.settings.connect, now, random);
                self.by_channel.insert(channel, node);
            }
            Err(e) => {
                b.disconnected(&self.settings.connect, now, random);
                self.health.failed(&b.name(), &format!("{address}: {e}"));
            }
        }
    }

    fn next_correlation(&mut self) -> i32 {
        self.correlation =
            if self.correlation >= CORRELATION_RESERVED - 1 { 1 } else { self.correlation + 1 };
        self.correlation
    }

    /// Sends a request that can be encoded whole.
    pub(crate) fn send<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        purpose: Purpose,
        now: Tick,
    ) -> Result<(), EncodeError> {
        let correlation = self.next_correlation();
        self.send_as(node, body, version, (correlation, purpose), now)
    }

    fn send_as<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        (correlation, purpose): (i32, Purpose),
        now: Tick,
    ) -> Result<(), EncodeError> {
        let frame = encode_request(body, version, correlation, Some(&self.settings.client_id))?;
        let frame = match purpose {
            // It may hold a password.
            Purpose::Sasl(_) => Bytes::from_owner(Zeroizing::new(frame)),
            _ => Bytes::from(frame),
        };
        let request = InFlight {
            correlation,
            api: R::KEY,
            version,
            purpose,
            sent: now,
            whole: false,
            answered: true,
        };
        self.send_pieces(node, request, vec![frame], now);
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
        let correlation = self.next_correlation();
        let pieces = make(correlation, &self.settings.client_id);
        let (api, purpose) = (ApiKey::PRODUCE, Purpose::Produce);
        let request =
            InFlight { correlation, api, version, purpose, sent: now, whole: false, answered };
        self.send_pieces(node, request, pieces, now);
        correlation
    }

    fn send_pieces(&mut self, node: i32, request: InFlight, pieces: Vec<Bytes>, now: Tick) {
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        let Some(channel) = b.channel() else { return };
        tracing::trace!(
            broker = node,
            api = request.api.name(),
            version = request.version,
            correlation = request.correlation,
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

    fn ask_versions(&mut self, node: i32, version: i16, now: Tick) {
        let ask = ApiVersionsRequest {
            client_software_name: "ottla".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        // A fixed name and version always fit.
        let _ = self.send(node, &ask, version, Purpose::Versions(version), now);
    }

    /// Asks for metadata if it is due, of whoever is least busy; when to look again.
    pub(crate) fn maybe_update_metadata(&mut self, now: Tick) -> Tick {
        let due = self.metadata.due();
        if due > now {
            return due;
        }
        self.maybe_rebootstrap(now);
        let Some(node) = self.least_loaded(now) else {
            // One that is connecting or full makes an event; one that backs off or is throttled, a time.
            if self.brokers.values().any(Broker::is_connecting) {
                return Tick::NEVER;
            }
            return self.next_chance(now);
        };
        if !self.ready(node, now) {
            return self.next_chance(now);
        }
        let ask = self.metadata.begin(now);
        match self.pick(node, ApiKey::METADATA, 0, 13) {
            Some(version) => {
                if let Err(e) = self.send(node, &ask, version, Purpose::Metadata, now) {
                    tracing::error!("a metadata request could not be written: {e}");
                    self.metadata.failed(now, self.env.random());
                }
            }
            None => {
                self.metadata.failed(now, self.env.random());
                let why = "it has no version of Metadata that is spoken here (0 to 13)";
                self.fail_connection(node, why, now);
                return self.next_chance(now);
            }
        }
        Tick::NEVER
    }

    fn maybe_rebootstrap(&mut self, now: Tick) {
        let Some(after) = self.settings.rebootstrap else {
            return;
        };
        let in_vain = self.metadata.wanting_since.is_some_and(|since| since.after(after) <= now);
        if in_vain || self.all_are_gone(now) {
            self.rebootstrap(now);
        }
    }

    /// Whether none of the brokers there are can be had: each failed several times in a row, and none is on its way.
    fn all_are_gone(&self, now: Tick) -> bool {
        let is_gone = |b: &Broker| {
            let idle = !(b.is_ready() || b.is_connecting() || b.can_connect(now));
            idle && b.failures() >= FAILURES_GONE
        };
        // One of the first ones may be connected still, and is not asked any more.
        let mut known = self.brokers.values().filter(|b| b.id >= 0).peekable();
        known.peek().is_some() && known.all(is_gone)
    }

    /// Forgets all brokers and begins with the first ones again (KIP-899, KIP-1102), if that is wanted, and if there
    /// is a cluster to be forgotten.
    pub(super) fn rebootstrap(&mut self, now: Tick) {
        let known = !self.metadata.cluster.nodes.is_empty();
        if self.settings.rebootstrap.is_none() || !known || self.given_up.1 > now {
            return;
        }
        // Where the first brokers name others that cannot be had, this would go round and round.
        let (first, most) = (self.settings.connect.backoff_max, GIVEN_UP_MOST);
        let apart = backoff(first.max(GIVEN_UP_LEAST), most, self.given_up.0, self.env.random());
        self.given_up = (self.given_up.0.saturating_add(1), now.after(apart));
        tracing::warn!("no broker of the cluster answers; going back to the bootstrap servers");
        let known: Vec<i32> = self.brokers.keys().copied().collect();
        for node in known {
            self.disconnect(node, "going back to the bootstrap servers", now);
            self.events.remove_node(node);
        }
        for b in std::mem::take(&mut self.brokers).values() {
            self.health.closed(&b.name());
        }
        self.metadata.forget_nodes(now);
        self.news.updated = true;
        self.bootstrap();
    }

    /// When the next poll has something to do whatever sockets say.
    pub(crate) fn due(&self) -> Tick {
        if !self.ended.is_empty() {
            return Tick(0);
        }
        self.next_deadline().unwrap_or(Tick::NEVER).min(self.selector.due())
    }

    /// The earliest moment at which a connection or a request runs out of time.
    fn next_deadline(&self) -> Option<Tick> {
        let timeout = self.settings.request_timeout;
        let brokers = self.brokers.values();
        let pauses = (self.pauses != Tick::NEVER).then_some(self.pauses);
        let each = brokers
            .flat_map(|b| [b.setup_deadline(), b.in_flight.oldest().map(|at| at.after(timeout))]);
        each.flatten().chain(pauses).min()
    }
}
