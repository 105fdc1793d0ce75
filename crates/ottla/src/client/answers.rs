//! What a poll brings: connections made and lost, answers to the client's own requests, time-outs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ottla_protocol::header::{decode_correlation_id, decode_response};
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest};
use ottla_protocol::{ApiKey, ErrorCode};

use super::NetworkClient;
use super::in_flight::{Done, InFlight, Lost, Purpose};
use super::nodes::{Broker, State};
use crate::error::{Error, ErrorKind};
use crate::events::LogEvent;
use crate::metrics::{NodeSensor, Sensor};
use crate::network::channel::Why;
use crate::network::io::{Answer, ChannelKey, Io};
use crate::plants::inject_bug;
use crate::time::Tick;

/// The version of ApiVersions that is tried first.
pub(super) const VERSIONS_FIRST: i16 = 4;

/// The first version of Metadata whose leader epochs are to be trusted (MD4).
const EPOCHS_RELIABLE: i16 = 9;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody needed it.
    Idle,
    /// It was lost, or closed for what came over it.
    Failed,
    /// One side does not accept who the other is.
    Refused,
}

impl<I: Io> NetworkClient<I> {
    /// Waits at most until then for something to happen; the ends of the sender's requests.
    pub(crate) fn poll(
        &mut self,
        until: Tick,
        now: Tick,
        ended: &mut Vec<Done>,
    ) -> std::io::Result<()> {
        let wait = match self.due().min(until) {
            Tick::NEVER => None,
            until => Some(until.since(now)),
        };
        let env = self.env.clone();
        let mut polled = std::mem::take(&mut self.polled);
        self.selector.poll(wait, || env.now(), &mut polled)?;
        // The wait is the poll's; whatever comes after it, up to the next, is work.
        let (waited, worked) = (polled.woke.since(now), now.since(self.woke));
        self.woke = polled.woke;
        let now = self.env.now();
        self.counters.sensors.record(
            &[
                (Sensor::Select, 1.0),
                (Sensor::IoWait, waited.as_nanos() as f64),
                (Sensor::IoTime, worked.as_nanos() as f64),
            ],
            now,
        );
        for key in polled.sent.drain(..) {
            self.on_sent(key);
        }
        for (key, frame) in polled.received.drain(..) {
            self.on_received(key, frame, now);
        }
        for key in polled.connected.drain(..) {
            self.on_connected(key, now);
        }
        for (key, why) in polled.disconnected.drain(..) {
            self.on_disconnected(key, &why, now);
        }
        for answer in polled.answers.drain(..) {
            self.on_answer(answer, now);
        }
        self.polled = polled;
        self.time_out(now);
        ended.append(&mut self.ended);
        Ok(())
    }

    fn broker_of(&mut self, key: ChannelKey) -> Option<&mut Broker> {
        let node = self.by_channel.get(&key)?;
        self.brokers.get_mut(node)
    }

    fn on_sent(&mut self, key: ChannelKey) {
        let Some(b) = self.broker_of(key) else { return };
        let node = b.id;
        if let Some(request) = b.in_flight.sent() {
            self.ended.push(Done { node, request, result: Ok(Bytes::new()) });
        }
    }

    fn on_connected(&mut self, key: ChannelKey, now: Tick) {
        let Some(b) = self.broker_of(key) else { return };
        let node = b.id;
        if let State::Connecting(_, deadline) = b.state {
            if self.secured.sasl.is_some() {
                return self.begin_authentication(node, now);
            }
            if self.secured.tls.is_some() {
                // TLS alone says who we are, if anything does.
                let fed = [(Sensor::Authentication, 1.0), (Sensor::AuthenticationNoReauth, 1.0)];
                self.counters.sensors.record(&fed, now);
            }
            let Some(b) = self.brokers.get_mut(&node) else { return };
            b.state = State::CheckingVersions(key, deadline);
            self.ask_versions(node, VERSIONS_FIRST, now);
        }
    }

    fn on_received(&mut self, key: ChannelKey, frame: Bytes, now: Tick) {
        let Some(b) = self.broker_of(key) else { return };
        let node = b.id;
        let size = frame.len() as f64 + 4.0;
        let matched = match decode_correlation_id(&frame) {
            Ok(id) if !b.in_flight.is_whole(id) => {
                Err(format!("it answered request {id} before it had the whole of it"))
            }
            Ok(id) => b.in_flight.complete(id).map_err(|expected| match expected {
                Some(e) => format!("it answered request {id} where the answer to {e} was due"),
                None => format!("it answered request {id}, which nobody sent"),
            }),
            Err(e) => Err(format!("its answer cannot be read: {e}")),
        };
        if let Ok(request) = &matched {
            let latency = now.since(request.sent).as_secs_f64() * 1e3;
            let sensors = &self.counters.sensors;
            sensors.record(
                &[(Sensor::Response, 1.0), (Sensor::IncomingByte, size), (Sensor::NetworkIo, 1.0)],
                now,
            );
            if request.purpose == Purpose::Produce {
                sensors.record(&[(Sensor::RequestLatency, latency)], now);
            }
            use NodeSensor::{IncomingByte, RequestLatency, Response};
            sensors.record_node(node, &[(Response, 1.0), (IncomingByte, size)], now);
            if request.purpose == Purpose::Produce {
                sensors.record_node(node, &[(RequestLatency, latency)], now);
            }
        }
        match matched {
            Err(why) => self.fail_connection(node, &why, now),
            Ok(request) => match request.purpose {
                Purpose::Versions(version) => self.on_versions(node, version, &frame, now),
                Purpose::Metadata => self.on_metadata(node, &request, &frame, now),
                Purpose::Sasl(step) => self.on_sasl(node, step, &frame, now),
                Purpose::Produce | Purpose::ProducerId => {
                    self.ended.push(Done { node, request, result: Ok(frame) });
                }
            },
        }
    }

    fn on_versions(&mut self, node: i32, version: i16, frame: &Bytes, now: Tick) {
        // An answer to a version the broker does not know comes as version 0 (KIP-511).
        let unsupported = frame.get(4..6) == Some(&ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes());
        let read_at = if unsupported { 0 } else { version };
        let answer: ApiVersionsResponse =
            match decode_response::<ApiVersionsRequest>(frame, read_at) {
                Ok(answer) => answer,
                Err(e) => {
                    return self.fail_connection(
                        node,
                        &format!("its answer cannot be read: {e}"),
                        now,
                    );
                }
            };
        let code = ErrorCode(answer.error_code);
        if unsupported && version > 0 {
            let named = answer.api_keys.iter().find(|k| k.api_key == ApiKey::API_VERSIONS.0);
            let next = named.map_or(0, |k| k.max_version.clamp(0, version - 1));
            return self.ask_versions(node, next, now);
        }
        if !code.is_none() {
            return self.fail_connection(node, &format!("it refused ApiVersions: {code}"), now);
        }
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        let State::CheckingVersions(channel, _) = b.state else {
            return;
        };
        b.learn(&answer);
        b.ready(channel);
        if node >= 0 {
            self.given_up = (0, Tick(0));
        }
        self.health.connected(&b.name());
        if let Some(left_out) = self.events.check(LogEvent::Connected, node, now) {
            let (host, port) = (&*b.host, b.port);
            tracing::info!(name: "ottla.connected", broker = node, host, port, left_out, "connected");
        }
        self.throttle(node, answer.throttle_time_ms, version >= 2, now);
    }

    fn on_metadata(&mut self, node: i32, request: &InFlight, frame: &Bytes, now: Tick) {
        let random = self.env.random();
        match decode_response::<MetadataRequest>(frame, request.version) {
            Err(e) => {
                self.metadata.failed(now, random);
                self.fail_connection(node, &format!("its metadata cannot be read: {e}"), now);
            }
            Ok(answer) if ErrorCode(answer.error_code) == ErrorCode::REBOOTSTRAP_REQUIRED => {
                self.metadata.failed(now, random);
                self.fail_connection(node, "it asks to go back to the bootstrap servers", now);
                self.rebootstrap(now);
            }
            Ok(mut answer) => {
                if request.version < EPOCHS_RELIABLE {
                    let all = answer.topics.iter_mut().flat_map(|t| &mut t.partitions);
                    all.for_each(|p| p.leader_epoch = -1);
                }
                let before = self.metadata.cluster.clone();
                self.throttle(node, answer.throttle_time_ms, request.version >= 6, now);
                let mut news = self.metadata.update(&answer, now, random);
                if !news.updated {
                    let why = "its metadata names no broker that could be connected to";
                    return self.fail_connection(node, why, now);
                }
                self.counters.last_metadata_tick.store(now.0, Ordering::Relaxed);
                self.news.from = self.broker_name(node);
                tracing::info!(
                    name: "ottla.metadata",
                    broker = node,
                    brokers = answer.brokers.len(),
                    topics = answer.topics.len(),
                    errors = news.errors.len(),
                    "metadata"
                );
                self.news.updated |= news.updated;
                self.news.errors.append(&mut news.errors);
                self.tell_of_leaders(&before, now);
                self.follow_nodes(now);
            }
        }
    }

    /// Brokers as the snapshot has them: new ones, moved ones, and none that it does not name.
    pub(super) fn follow_nodes(&mut self, now: Tick) {
        let cluster = self.metadata.cluster.clone();
        let gone: Vec<i32> = (self.brokers.values())
            .filter(|b| match cluster.nodes.get(&b.id) {
                Some(n) => n.host != b.host || n.port != b.port,
                None => b.in_flight.len() == 0 && !cluster.nodes.is_empty(),
            })
            .map(|b| b.id)
            .collect();
        for node in gone {
            self.disconnect(node, "the cluster does not name it any more", now);
            if let Some(b) = self.brokers.remove(&node) {
                self.health.closed(&b.name());
            }
            self.events.remove_node(node);
        }
        for n in cluster.nodes.values() {
            self.add(n.id, &n.host, n.port);
        }
    }

    fn on_answer(&mut self, answer: Answer, now: Tick) {
        let (key, result) = match answer {
            Answer::Resolved { key, result } => (key, result),
            Answer::Prepared { key, result } => return self.on_prepared(key, result, now),
        };
        let random = self.env.random();
        // Of a broker that is no more, or is elsewhere now, nothing is believed.
        let Some(b) = self.brokers.values_mut().find(|b| u64::from(b.generation) == key) else {
            return;
        };
        let node = b.id;
        if !matches!(b.state, State::Resolving(_)) {
            return;
        }
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                b.resolved(addresses);
                b.prepared = true;
                self.connect(node, now);
            }
            other => {
                let why = other.map_or_else(|e| e.to_string(), |_| "it has no address".into());
                let why = format!("the name {} cannot be resolved: {why}", b.host);
                b.disconnected(&self.settings.connect, now, random);
                self.health.failed(&b.name(), &why);
                tracing::warn!(broker = node, "{why}");
            }
        }
    }

    fn on_disconnected(&mut self, key: ChannelKey, why: &Why, now: Tick) {
        let Some(node) = self.by_channel.remove(&key) else {
            return;
        };
        let end = match why {
            Why::Idle => End::Idle,
            Why::Refused(_) => End::Refused,
            _ => End::Failed,
        };
        let mut words = why.to_string();
        if matches!(why, Why::Eof) {
            words.push_str(self.hint(node));
        }
        // What the socket told was not our doing; what came over it and made no sense was answered by us.
        let by_us = matches!(why, Why::BadFrame { .. } | Why::Idle | Why::Refused(_));
        self.lost(node, &words, (end, by_us), now);
    }

    /// What an end at this moment may mean.
    fn hint(&self, node: i32) -> &'static str {
        let Some(b) = self.brokers.get(&node) else { return "" };
        // A broker that wants to know who asks answers ApiVersions to anybody, and nothing else.
        let never_served = self.metadata.last_success.is_none() && b.in_flight.len() > 0;
        match b.state {
            State::CheckingVersions(..) if self.secured.tls.is_none() => {
                " before it answered; if this is a TLS port, set security.protocol to match"
            }
            State::Authenticating(..) => " during authentication",
            State::Ready(_) if never_served && self.secured.sasl.is_none() => {
                " instead of answering; if it wants SASL, set security.protocol and sasl.mechanism"
            }
            _ => "",
        }
    }

    /// Closes a connection because of what came over it, or of what did not.
    pub(crate) fn fail_connection(&mut self, node: i32, why: &str, now: Tick) {
        self.lost_for(node, why, false, now);
    }

    /// The same, where one side may have refused the other.
    pub(super) fn lost_for(&mut self, node: i32, why: &str, refused: bool, now: Tick) {
        self.shut(node, now);
        let end = if refused { End::Refused } else { End::Failed };
        self.lost(node, why, (end, true), now);
    }

    /// Closes a connection that is not needed any more.
    pub(super) fn disconnect(&mut self, node: i32, why: &str, now: Tick) {
        if self.shut(node, now) {
            self.lost(node, why, (End::Idle, true), now);
        }
    }

    fn shut(&mut self, node: i32, now: Tick) -> bool {
        let Some(channel) = self.brokers.get(&node).and_then(Broker::channel) else { return false };
        self.by_channel.remove(&channel);
        self.selector.close(channel, now);
        true
    }

    /// A connection is gone: everything on it fails over.
    fn lost(&mut self, node: i32, why: &str, (end, by_us): (End, bool), now: Tick) {
        let random = self.env.random();
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        let (was_ready, was_renewed) = (b.is_ready(), b.renewing.is_some());
        b.disconnected(&self.settings.connect, now, random);
        let requests = b.in_flight.clear();
        let name = b.name();
        match end {
            End::Idle => {
                let in_flight = requests.len();
                tracing::debug!(name: "ottla.idle", broker = node, in_flight, "disconnected: {why}");
                self.health.closed(&name);
            }
            End::Failed | End::Refused => {
                if let Some(left_out) = self.events.check(LogEvent::Disconnected, node, now) {
                    let oldest = requests.first();
                    tracing::warn!(
                        name: "ottla.disconnected",
                        broker = node,
                        by = if by_us { "us" } else { "broker" },
                        in_flight = requests.len(),
                        oldest = oldest.map_or("", |r| r.api.name()),
                        oldest_ms = oldest.map_or(0, |r| now.since(r.sent).as_millis() as u64),
                        was_ready,
                        left_out,
                        "disconnected: {why}"
                    );
                }
                self.health.failed(&name, why);
                self.metadata.request(now);
            }
        }
        if end == End::Refused {
            let failed = match was_renewed {
                true => Sensor::ReauthenticationFailed,
                false => Sensor::AuthenticationFailed,
            };
            self.counters.sensors.record(&[(failed, 1.0)], now);
            // Where another broker is content, this one may yet be.
            if !self.brokers.values().any(|b| b.is_ready() || b.renewing.is_some()) {
                let why = Error::new(ErrorKind::Authentication, format!("{name}: {why}"));
                self.news.refused = Some(why);
            }
        }
        let lost = Lost { why: format!("{name}: {why}") };
        for request in requests {
            match request.purpose {
                Purpose::Versions(_) | Purpose::Sasl(_) => {}
                Purpose::Metadata => self.metadata.failed(now, random),
                Purpose::Produce | Purpose::ProducerId => {
                    self.ended.push(Done { node, request, result: Err(lost.clone()) });
                }
            }
        }
    }

    fn time_out(&mut self, now: Tick) {
        if self.pauses <= now {
            let (over, on): (Vec<_>, Vec<_>) =
                self.brokers.values().partition(|b| b.throttled_until <= now);
            over.iter().for_each(|b| self.health.goes_on(&b.name()));
            self.pauses = on.iter().map(|b| b.throttled_until).min().unwrap_or(Tick::NEVER);
        }
        let timeout = self.settings.request_timeout;
        let late: Vec<(i32, String)> = (self.brokers.values())
            .filter_map(|b| {
                if b.setup_deadline().is_some_and(|at| at <= now) {
                    let what = match b.state {
                        State::Preparing(_) => "files or a token were not to be had in time",
                        State::Resolving(_) => "its name was not looked up in time",
                        State::Authenticating(..) => "authentication took too long",
                        _ => "the connection was not set up in time",
                    };
                    return Some((b.id, what.to_owned()));
                }
                let oldest = b.in_flight.oldest()?;
                let why =
                    || format!("no answer within request.timeout.ms ({} ms)", timeout.as_millis());
                (oldest.after(timeout) <= now).then(|| (b.id, why()))
            })
            .collect();
        for (node, why) in late {
            if inject_bug!(LateResponseMatched)
                && let Some(request) =
                    self.brokers.get_mut(&node).and_then(|b| b.in_flight.complete(0).ok())
            {
                self.ended.push(Done { node, request, result: Err(Lost { why }) });
                continue;
            }
            self.fail_connection(node, &why, now);
        }
    }
}
