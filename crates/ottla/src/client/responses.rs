//! What a poll brings: connections made and lost, answers to the client's own requests, time-outs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ottla_protocol::header::{decode_correlation_id, decode_response};
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest};
use ottla_protocol::{ApiKey, ErrorCode};

use super::NetworkClient;
use super::connection_states::{ConnectionState, NodeConnection};
use super::in_flight_requests::{CompletedRequest, Disconnected, InFlightRequest, RequestKind};
use crate::error::{Error, ErrorKind};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogEvent;
use crate::metrics::{NodeSensor, Sensor};
use crate::network::channel::DisconnectReason;
use crate::network::io::{ChannelKey, Io, JobResult};
use crate::time::Tick;

/// The version of ApiVersions that is tried first.
pub(super) const INITIAL_API_VERSIONS_VERSION: i16 = 4;

/// The first version of Metadata whose leader epochs are to be trusted (MD4).
const FIRST_VERSION_WITH_RELIABLE_LEADER_EPOCHS: i16 = 9;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DisconnectKind {
    /// Nobody needed it.
    Unneeded,
    /// It was lost, or closed for what came over it.
    Failed,
    /// One side does not accept who the other is.
    AuthenticationFailed,
}

impl<I: Io> NetworkClient<I> {
    /// Waits at most until then for something to happen; the ends of the sender's requests.
    pub(crate) fn poll(
        &mut self,
        until: Tick,
        now: Tick,
        ended: &mut Vec<CompletedRequest>,
    ) -> std::io::Result<()> {
        let wait = match self.next_poll_deadline().min(until) {
            Tick::NEVER => None,
            until => Some(until.since(now)),
        };
        let env = self.env.clone();
        let mut polled = std::mem::take(&mut self.poll_result);
        self.selector.poll(wait, || env.now(), &mut polled)?;
        // The wait is the poll's; whatever comes after it, up to the next, is work.
        let (waited, worked) = (polled.woken_at.since(now), now.since(self.last_woken_at));
        self.last_woken_at = polled.woken_at;
        let now = self.env.now();
        self.counters.sensors.record(
            &[
                (Sensor::Select, 1.0),
                (Sensor::IoWait, waited.as_nanos() as f64),
                (Sensor::IoTime, worked.as_nanos() as f64),
            ],
            now,
        );
        for key in polled.completed_sends.drain(..) {
            self.handle_completed_send(key);
        }
        for (key, frame) in polled.completed_receives.drain(..) {
            self.handle_completed_receive(key, frame, now);
        }
        for key in polled.connected.drain(..) {
            self.handle_connection(key, now);
        }
        for (key, why) in polled.disconnected.drain(..) {
            self.handle_disconnection(key, &why, now);
        }
        for answer in polled.job_results.drain(..) {
            self.handle_job_result(answer, now);
        }
        self.poll_result = polled;
        self.handle_timeouts(now);
        ended.append(&mut self.completed_requests);
        Ok(())
    }

    fn connection_by_channel(&mut self, key: ChannelKey) -> Option<&mut NodeConnection> {
        let node = self.node_by_channel.get(&key)?;
        self.connection_states.get_mut(node)
    }

    fn handle_completed_send(&mut self, key: ChannelKey) {
        let Some(b) = self.connection_by_channel(key) else { return };
        let node = b.id;
        if let Some(request) = b.in_flight.complete_send() {
            self.completed_requests.push(CompletedRequest {
                node,
                request,
                result: Ok(Bytes::new()),
            });
        }
    }

    fn handle_connection(&mut self, key: ChannelKey, now: Tick) {
        let Some(b) = self.connection_by_channel(key) else { return };
        let node = b.id;
        if let ConnectionState::Connecting(_, deadline) = b.state {
            if self.security.sasl.is_some() {
                return self.begin_authentication(node, now);
            }
            if self.security.tls.is_some() {
                // TLS alone says who we are, if anything does.
                let fed = [(Sensor::Authentication, 1.0), (Sensor::AuthenticationNoReauth, 1.0)];
                self.counters.sensors.record(&fed, now);
            }
            let Some(b) = self.connection_states.get_mut(&node) else { return };
            b.state = ConnectionState::CheckingApiVersions(key, deadline);
            self.send_api_versions_request(node, INITIAL_API_VERSIONS_VERSION, now);
        }
    }

    fn handle_completed_receive(&mut self, key: ChannelKey, frame: Bytes, now: Tick) {
        let Some(b) = self.connection_by_channel(key) else { return };
        let node = b.id;
        let size = frame.len() as f64 + 4.0;
        let matched = match decode_correlation_id(&frame) {
            Ok(id) if !b.in_flight.is_fully_sent(id) => {
                Err(format!("it answered request {id} before it had the whole of it"))
            }
            Ok(id) => b.in_flight.complete_next(id).map_err(|expected| match expected {
                Some(e) => format!("it answered request {id} where the answer to {e} was due"),
                None => format!("it answered request {id}, which nobody sent"),
            }),
            Err(e) => Err(format!("its answer cannot be read: {e}")),
        };
        if let Ok(request) = &matched {
            let latency = now.since(request.sent_at).as_secs_f64() * 1e3;
            let sensors = &self.counters.sensors;
            sensors.record(
                &[(Sensor::Response, 1.0), (Sensor::IncomingByte, size), (Sensor::NetworkIo, 1.0)],
                now,
            );
            if request.kind == RequestKind::Produce {
                sensors.record(&[(Sensor::RequestLatency, latency)], now);
            }
            use NodeSensor::{IncomingByte, RequestLatency, Response};
            sensors.record_node(node, &[(Response, 1.0), (IncomingByte, size)], now);
            if request.kind == RequestKind::Produce {
                sensors.record_node(node, &[(RequestLatency, latency)], now);
            }
        }
        match matched {
            Err(why) => self.fail_connection(node, &why, now),
            Ok(request) => match request.kind {
                RequestKind::ApiVersions(version) => {
                    self.handle_api_versions_response(node, version, &frame, now);
                }
                RequestKind::Metadata => self.handle_metadata_response(node, &request, &frame, now),
                RequestKind::Sasl(step) => self.handle_sasl_response(node, step, &frame, now),
                RequestKind::Produce | RequestKind::InitProducerId => {
                    self.completed_requests.push(CompletedRequest {
                        node,
                        request,
                        result: Ok(frame),
                    });
                }
            },
        }
    }

    fn handle_api_versions_response(&mut self, node: i32, version: i16, frame: &Bytes, now: Tick) {
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
            return self.send_api_versions_request(node, next, now);
        }
        if !code.is_none() {
            return self.fail_connection(node, &format!("it refused ApiVersions: {code}"), now);
        }
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        let ConnectionState::CheckingApiVersions(channel, _) = b.state else {
            return;
        };
        b.set_api_versions(&answer);
        b.ready(channel);
        if node >= 0 {
            self.rebootstrap_backoff = (0, Tick(0));
        }
        self.health.connected(&b.name());
        if let Some(left_out) = self.log_events.check(LogEvent::Connected, node, now) {
            let (host, port) = (&*b.host, b.port);
            tracing::info!(name: "ottla.connected", broker = node, host, port, left_out, "connected");
        }
        self.throttle(node, answer.throttle_time_ms, version >= 2, now);
    }

    fn handle_metadata_response(
        &mut self,
        node: i32,
        request: &InFlightRequest,
        frame: &Bytes,
        now: Tick,
    ) {
        let random = self.env.random();
        match decode_response::<MetadataRequest>(frame, request.version) {
            Err(e) => {
                self.metadata.fail_update(now, random);
                self.fail_connection(node, &format!("its metadata cannot be read: {e}"), now);
            }
            Ok(answer) if ErrorCode(answer.error_code) == ErrorCode::REBOOTSTRAP_REQUIRED => {
                self.metadata.fail_update(now, random);
                self.fail_connection(node, "it asks to go back to the bootstrap servers", now);
                self.rebootstrap(now);
            }
            Ok(mut answer) => {
                if request.version < FIRST_VERSION_WITH_RELIABLE_LEADER_EPOCHS {
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
                self.metadata_update.responder = self.broker_name(node);
                tracing::info!(
                    name: "ottla.metadata",
                    broker = node,
                    brokers = answer.brokers.len(),
                    topics = answer.topics.len(),
                    errors = news.topic_errors.len(),
                    "metadata"
                );
                self.metadata_update.updated |= news.updated;
                self.metadata_update.topic_errors.append(&mut news.topic_errors);
                self.log_leader_changes(&before, now);
                self.update_nodes(now);
            }
        }
    }

    /// Brokers as the snapshot has them: new ones, moved ones, and none that it does not name.
    pub(super) fn update_nodes(&mut self, now: Tick) {
        let cluster = self.metadata.cluster.clone();
        let gone: Vec<i32> = (self.connection_states.values())
            .filter(|b| match cluster.nodes.get(&b.id) {
                Some(n) => n.host != b.host || n.port != b.port,
                None => b.in_flight.len() == 0 && !cluster.nodes.is_empty(),
            })
            .map(|b| b.id)
            .collect();
        for node in gone {
            self.disconnect(node, "the cluster does not name it any more", now);
            if let Some(b) = self.connection_states.remove(&node) {
                self.health.closed(&b.name());
            }
            self.log_events.remove_node(node);
        }
        for n in cluster.nodes.values() {
            self.add_node(n.id, &n.host, n.port);
        }
    }

    fn handle_job_result(&mut self, answer: JobResult, now: Tick) {
        let (key, result) = match answer {
            JobResult::Resolved { key, result } => (key, result),
            JobResult::Prepared { key, result } => return self.handle_prepared(key, result, now),
        };
        let random = self.env.random();
        // Of a broker that is no more, or is elsewhere now, nothing is believed.
        let Some(b) = self.connection_states.values_mut().find(|b| u64::from(b.generation) == key)
        else {
            return;
        };
        let node = b.id;
        if !matches!(b.state, ConnectionState::Resolving(_)) {
            return;
        }
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                b.set_addresses(addresses);
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

    fn handle_disconnection(&mut self, key: ChannelKey, why: &DisconnectReason, now: Tick) {
        let Some(node) = self.node_by_channel.remove(&key) else {
            return;
        };
        let end = match why {
            DisconnectReason::Idle => DisconnectKind::Unneeded,
            DisconnectReason::AuthenticationFailed(_) => DisconnectKind::AuthenticationFailed,
            _ => DisconnectKind::Failed,
        };
        let mut words = why.to_string();
        if matches!(why, DisconnectReason::Eof) {
            words.push_str(self.disconnect_hint(node));
        }
        // What the socket told was not our doing; what came over it and made no sense was answered by us.
        let by_us = matches!(
            why,
            DisconnectReason::BadFrame { .. }
                | DisconnectReason::Idle
                | DisconnectReason::AuthenticationFailed(_)
        );
        self.process_disconnection(node, &words, (end, by_us), now);
    }

    /// What an end at this moment may mean.
    fn disconnect_hint(&self, node: i32) -> &'static str {
        let Some(b) = self.connection_states.get(&node) else { return "" };
        // A broker that wants to know who asks answers ApiVersions to anybody, and nothing else.
        let never_served = self.metadata.last_success.is_none() && b.in_flight.len() > 0;
        match b.state {
            ConnectionState::CheckingApiVersions(..) if self.security.tls.is_none() => {
                " before it answered; if this is a TLS port, set security.protocol to match"
            }
            ConnectionState::Authenticating(..) => " during authentication",
            ConnectionState::Ready(_) if never_served && self.security.sasl.is_none() => {
                " instead of answering; if it wants SASL, set security.protocol and sasl.mechanism"
            }
            _ => "",
        }
    }

    /// Closes a connection because of what came over it, or of what did not.
    pub(crate) fn fail_connection(&mut self, node: i32, why: &str, now: Tick) {
        self.fail_connection_with_kind(node, why, false, now);
    }

    /// The same, where one side may have refused the other.
    pub(super) fn fail_connection_with_kind(
        &mut self,
        node: i32,
        why: &str,
        refused: bool,
        now: Tick,
    ) {
        self.close_channel(node, now);
        let end =
            if refused { DisconnectKind::AuthenticationFailed } else { DisconnectKind::Failed };
        self.process_disconnection(node, why, (end, true), now);
    }

    /// Closes a connection that is not needed any more.
    pub(super) fn disconnect(&mut self, node: i32, why: &str, now: Tick) {
        if self.close_channel(node, now) {
            self.process_disconnection(node, why, (DisconnectKind::Unneeded, true), now);
        }
    }

    fn close_channel(&mut self, node: i32, now: Tick) -> bool {
        let Some(channel) = self.connection_states.get(&node).and_then(NodeConnection::channel)
        else {
            return false;
        };
        self.node_by_channel.remove(&channel);
        self.selector.close(channel, now);
        true
    }

    /// A connection is gone: everything on it fails over.
    fn process_disconnection(
        &mut self,
        node: i32,
        why: &str,
        (end, by_us): (DisconnectKind, bool),
        now: Tick,
    ) {
        let random = self.env.random();
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        let (was_ready, was_renewed) = (b.is_ready(), b.reauthenticating_since.is_some());
        b.disconnected(&self.settings.connect, now, random);
        let requests = b.in_flight.clear_all();
        let name = b.name();
        match end {
            DisconnectKind::Unneeded => {
                let in_flight = requests.len();
                tracing::debug!(name: "ottla.idle", broker = node, in_flight, "disconnected: {why}");
                self.health.closed(&name);
            }
            DisconnectKind::Failed | DisconnectKind::AuthenticationFailed => {
                if let Some(left_out) = self.log_events.check(LogEvent::Disconnected, node, now) {
                    let oldest = requests.first();
                    tracing::warn!(
                        name: "ottla.disconnected",
                        broker = node,
                        by = if by_us { "us" } else { "broker" },
                        in_flight = requests.len(),
                        oldest = oldest.map_or("", |r| r.api.name()),
                        oldest_ms = oldest.map_or(0, |r| now.since(r.sent_at).as_millis() as u64),
                        was_ready,
                        left_out,
                        "disconnected: {why}"
                    );
                }
                self.health.failed(&name, why);
                self.metadata.request_update(now);
            }
        }
        if end == DisconnectKind::AuthenticationFailed {
            let failed = match was_renewed {
                true => Sensor::ReauthenticationFailed,
                false => Sensor::AuthenticationFailed,
            };
            self.counters.sensors.record(&[(failed, 1.0)], now);
            // Where another broker is content, this one may yet be.
            if !self
                .connection_states
                .values()
                .any(|b| b.is_ready() || b.reauthenticating_since.is_some())
            {
                let why = Error::new(ErrorKind::Authentication, format!("{name}: {why}"));
                self.metadata_update.authentication_error = Some(why);
            }
        }
        let lost = Disconnected { reason: format!("{name}: {why}") };
        for request in requests {
            match request.kind {
                RequestKind::ApiVersions(_) | RequestKind::Sasl(_) => {}
                RequestKind::Metadata => self.metadata.fail_update(now, random),
                RequestKind::Produce | RequestKind::InitProducerId => {
                    self.completed_requests.push(CompletedRequest {
                        node,
                        request,
                        result: Err(lost.clone()),
                    });
                }
            }
        }
    }

    fn handle_timeouts(&mut self, now: Tick) {
        if self.next_throttle_end <= now {
            let (over, on): (Vec<_>, Vec<_>) =
                self.connection_states.values().partition(|b| b.throttled_until <= now);
            over.iter().for_each(|b| self.health.resumed(&b.name()));
            self.next_throttle_end =
                on.iter().map(|b| b.throttled_until).min().unwrap_or(Tick::NEVER);
        }
        let timeout = self.settings.request_timeout;
        let late: Vec<(i32, String)> = (self.connection_states.values())
            .filter_map(|b| {
                if b.setup_deadline().is_some_and(|at| at <= now) {
                    let what = match b.state {
                        ConnectionState::Preparing(_) => {
                            "files or a token were not to be had in time"
                        }
                        ConnectionState::Resolving(_) => "its name was not looked up in time",
                        ConnectionState::Authenticating(..) => "authentication took too long",
                        _ => "the connection was not set up in time",
                    };
                    return Some((b.id, what.to_owned()));
                }
                let oldest = b.in_flight.oldest_sent_at()?;
                let why =
                    || format!("no answer within request.timeout.ms ({} ms)", timeout.as_millis());
                (oldest.after(timeout) <= now).then(|| (b.id, why()))
            })
            .collect();
        for (node, why) in late {
            if inject_bug!(LateResponseMatched)
                && let Some(request) = self
                    .connection_states
                    .get_mut(&node)
                    .and_then(|b| b.in_flight.complete_next(0).ok())
            {
                self.completed_requests.push(CompletedRequest {
                    node,
                    request,
                    result: Err(Disconnected { reason: why }),
                });
                continue;
            }
            self.fail_connection(node, &why, now);
        }
    }
}
