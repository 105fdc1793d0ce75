//! Requests and answers with brokers: connections and their states, correlation ids, in-flight limits,
//! API versions, metadata, throttling. Knows no batch.

pub(crate) mod in_flight;
pub(crate) mod metadata;
pub(crate) mod nodes;
mod health;
mod answers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::request_frame;
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::{ApiKey, EncodeError, Request};

use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::metrics::{Counters, NodeSensor, Sensor};
use crate::network::io::{ChannelKey, Io, Job};
use crate::network::selector::{Polled, Selector};
use crate::plants::plant;
use crate::time::{Bell, Env, Hands, Tick};
pub use health::Health;
pub(crate) use health::SharedHealth;
use in_flight::{Done, InFlight, Purpose};
use metadata::{Metadata, MetadataSettings, News};
use nodes::{Broker, ConnectSettings, State};

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
    env: Arc<dyn Env>,
    selector: Selector<I>,
    brokers: BTreeMap<i32, Broker>,
    by_channel: HashMap<ChannelKey, i32>,
    metadata: Metadata,
    correlation: i32,
    /// When the last poll ended.
    woke: Tick,
    health: SharedHealth,
    counters: Arc<Counters>,
    news: News,
    /// Requests that ended outside a poll.
    ended: Vec<Done>,
    /// What a poll brings; empty between two.
    polled: Polled,
}

/// Correlation ids from here up are for SASL alone (NC11).
const CORRELATION_RESERVED: i32 = i32::MAX - 7;

impl<I: Io> NetworkClient<I> {
    pub(crate) fn new(
        settings: ClientSettings,
        env: Arc<dyn Env>,
        selector: Selector<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> NetworkClient<I> {
        let metadata = Metadata::new(settings.metadata);
        let mut client = NetworkClient {
            settings,
            woke: env.now(),
            env,
            selector,
            brokers: BTreeMap::new(),
            by_channel: HashMap::default(),
            metadata,
            correlation: 0,
            health,
            counters,
            news: News::default(),
            ended: Vec::new(),
            polled: Polled::default(),
        };
        client.bootstrap();
        client
    }

    fn bootstrap(&mut self) {
        for (i, (host, port)) in self.settings.bootstrap.iter().enumerate() {
            let id = -1 - i as i32;
            self.brokers.entry(id).or_insert_with(|| Broker::new(id, host.as_str().into(), *port));
        }
    }

    pub(crate) fn bell(&self) -> Arc<dyn Bell> {
        self.selector.bell()
    }

    pub(crate) fn hands(&self) -> Arc<dyn Hands> {
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
        b.in_flight.len() < self.settings.max_in_flight + usize::from(plant!(OneMoreInFlight))
            && b.throttled_until <= now
            && self.selector.can_send(channel)
    }

    /// Whether a request may go to `node` now; begins to connect where that is what is missing.
    pub(crate) fn ready(&mut self, node: i32, now: Tick) -> bool {
        if self.is_ready(node, now) {
            return true;
        }
        if self.brokers.get(&node).is_some_and(|b| b.can_connect(now)) {
            self.connect(node, now);
        }
        false
    }

    /// When `node`, not ready now, may have become so by itself; `None` leaves it to an event.
    pub(crate) fn connection_delay(&self, node: i32, now: Tick) -> Option<Tick> {
        let b = self.brokers.get(&node)?;
        match b.state {
            State::Idle(until) => Some(until),
            State::Ready(_) if b.throttled_until > now => Some(b.throttled_until),
            _ => None,
        }
    }

    pub(crate) fn throttle(&mut self, node: i32, ms: i32, now: Tick) {
        self.counters.sensors.record(&[(Sensor::Throttle, f64::from(ms.max(0)))], now);
        if let (Some(b), Ok(ms @ 1..)) = (self.brokers.get_mut(&node), u64::try_from(ms)) {
            if b.throttled_until <= now {
                b.throttled_from = now;
            }
            b.throttled_until = b.throttled_until.max(now.after(Duration::from_millis(ms)));
            tracing::debug!(broker = node, ms, "throttled");
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
        let idle = self.brokers.values().filter(known).filter(|b| b.can_connect(now));
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
        let Some(address) = b.next_address() else {
            b.state = State::Resolving;
            let (host, port) = (b.host.to_string(), b.port);
            tracing::debug!(broker = node, host, port, "looking up");
            self.selector.start(Job::Resolve { key: i64::from(node) as u64, host, port });
            return;
        };
        tracing::debug!(broker = node, %address, "connecting");
        match self.selector.connect(address, now) {
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
            if self.correlation >= CORRELATION_RESERVED { 1 } else { self.correlation + 1 };
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
        let frame = request_frame(body, version, correlation, Some(&self.settings.client_id))?;
        let request = InFlight {
            correlation,
            api: R::KEY,
            version,
            purpose,
            sent: now,
            whole: false,
            answered: true,
        };
        self.send_pieces(node, request, vec![Bytes::from(frame)], now);
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
        sensors.node(node, &[(Request, 1.0), (RequestSize, size), (OutgoingByte, size)], now);
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
        if !self.is_ready(node, now) {
            self.connect(node, now);
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
            None => self.metadata.failed(now, self.env.random()),
        }
        Tick::NEVER
    }

    fn maybe_rebootstrap(&mut self, now: Tick) {
        let Some(after) = self.settings.rebootstrap else {
            return;
        };
        if self.metadata.cluster.nodes.is_empty()
            || self.metadata.wanting_since.is_none_or(|since| since.after(after) > now)
        {
            return;
        }
        tracing::warn!("no broker of the cluster answers; going back to the bootstrap servers");
        let known: Vec<i32> = self.brokers.keys().copied().collect();
        for node in known {
            self.disconnect(node, "going back to the bootstrap servers", now);
        }
        self.brokers.clear();
        self.metadata.forget_nodes(now);
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
        let each = brokers
            .flat_map(|b| [b.setup_deadline(), b.in_flight.oldest().map(|at| at.after(timeout))]);
        each.flatten().min()
    }
}
