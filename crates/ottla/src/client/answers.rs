//! What a poll brings: connections made and lost, answers to the client's own requests, time-outs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ottla_protocol::header::{correlation_id, decode_response};
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest};
use ottla_protocol::{ApiKey, ErrorCode};

use super::NetworkClient;
use super::in_flight::{Done, InFlight, Lost, Purpose};
use super::nodes::{Broker, State};
use crate::metrics::{NodeSensor, Sensor};
use crate::network::channel::Why;
use crate::network::io::{Answer, ChannelKey, Io};
use crate::plants::plant;
use crate::time::Tick;

/// The version of ApiVersions that is tried first.
const VERSIONS_FIRST: i16 = 4;

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
            b.state = State::CheckingVersions(key, deadline);
            self.ask_versions(node, VERSIONS_FIRST, now);
        }
    }

    fn on_received(&mut self, key: ChannelKey, frame: Bytes, now: Tick) {
        let Some(b) = self.broker_of(key) else { return };
        let node = b.id;
        let size = frame.len() as f64 + 4.0;
        let matched = match correlation_id(&frame) {
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
            sensors.node(node, &[(Response, 1.0), (IncomingByte, size)], now);
            if request.purpose == Purpose::Produce {
                sensors.node(node, &[(RequestLatency, latency)], now);
            }
        }
        match matched {
            Err(why) => self.fail_connection(node, &why, now),
            Ok(request) => match request.purpose {
                Purpose::Versions(version) => self.on_versions(node, version, &frame, now),
                Purpose::Metadata => self.on_metadata(node, &request, &frame, now),
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
        b.versions = (answer.api_keys.iter())
            .map(|k| (ApiKey(k.api_key), (k.min_version, k.max_version)))
            .collect();
        b.ready(channel);
        self.health.connected(&b.name());
        tracing::info!(broker = node, host = &*b.host, port = b.port, "connected");
        self.throttle(node, answer.throttle_time_ms, now);
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
            }
            Ok(answer) => {
                self.throttle(node, answer.throttle_time_ms, now);
                self.counters.metadata_at.store(now.0, Ordering::Relaxed);
                let mut news = self.metadata.update(&answer, now, random);
                tracing::info!(
                    broker = node,
                    brokers = answer.brokers.len(),
                    topics = answer.topics.len(),
                    errors = news.errors.len(),
                    "metadata"
                );
                self.news.updated |= news.updated;
                self.news.errors.append(&mut news.errors);
                self.follow_nodes(now);
            }
        }
    }

    /// Brokers as the snapshot has them: new ones, moved ones, and none that it does not name.
    fn follow_nodes(&mut self, now: Tick) {
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
        }
        for n in cluster.nodes.values() {
            self.brokers.entry(n.id).or_insert_with(|| Broker::new(n.id, n.host.clone(), n.port));
        }
    }

    fn on_answer(&mut self, answer: Answer, now: Tick) {
        let Answer::Resolved { key, result } = answer;
        let node = key as i64 as i32;
        let random = self.env.random();
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        if b.state != State::Resolving {
            return;
        }
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                b.resolved(addresses);
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
        let idle = matches!(why, Why::Idle);
        self.lost(node, &why.to_string(), idle, now);
    }

    /// Closes a connection because of what came over it, or of what did not.
    pub(crate) fn fail_connection(&mut self, node: i32, why: &str, now: Tick) {
        if let Some(channel) = self.brokers.get(&node).and_then(Broker::channel) {
            self.by_channel.remove(&channel);
            self.selector.close(channel, now);
        }
        self.lost(node, why, false, now);
    }

    pub(super) fn disconnect(&mut self, node: i32, why: &str, now: Tick) {
        if self.brokers.get(&node).and_then(Broker::channel).is_some() {
            self.fail_connection(node, why, now);
        }
    }

    /// A connection is gone: everything on it fails over.
    fn lost(&mut self, node: i32, why: &str, idle: bool, now: Tick) {
        let random = self.env.random();
        let Some(b) = self.brokers.get_mut(&node) else {
            return;
        };
        let was_ready = b.is_ready();
        b.disconnected(&self.settings.connect, now, random);
        let requests = b.in_flight.clear();
        let name = b.name();
        if idle {
            tracing::debug!(broker = node, "disconnected: {why}");
            self.health.closed(&name);
        } else {
            tracing::warn!(
                broker = node,
                in_flight = requests.len(),
                was_ready,
                "disconnected: {why}"
            );
            self.health.failed(&name, why);
            self.metadata.request(now);
        }
        let lost = Lost { why: format!("{name}: {why}") };
        for request in requests {
            match request.purpose {
                Purpose::Versions(_) => {}
                Purpose::Metadata => self.metadata.failed(now, random),
                Purpose::Produce | Purpose::ProducerId => {
                    self.ended.push(Done { node, request, result: Err(lost.clone()) });
                }
            }
        }
    }

    fn time_out(&mut self, now: Tick) {
        let timeout = self.settings.request_timeout;
        let late: Vec<(i32, String)> = (self.brokers.values())
            .filter_map(|b| {
                if b.setup_deadline().is_some_and(|at| at <= now) {
                    return Some((b.id, "the connection was not set up in time".to_owned()));
                }
                let oldest = b.in_flight.oldest()?;
                let why =
                    || format!("no answer within request.timeout.ms ({} ms)", timeout.as_millis());
                (oldest.after(timeout) <= now).then(|| (b.id, why()))
            })
            .collect();
        for (node, why) in late {
            if plant!(LateAnswerMatched)
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
