//! Makes visible what the client does: metrics, events, and the producer's `Health`.
//!
//! It decides nothing. The events are documented in `docs/EVENTS.md`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_protocol::messages::MetadataResponse;

use super::disconnect::ClosedBy;
use super::health::SharedHealth;
use super::in_flight_requests::{InFlightRequest, RequestKind};
use super::node_connection::NodeConnection;
use crate::cluster::LeaderChange;
use crate::log_limiter::{LogEvent, LogLimiter, NO_NODE};
use crate::metrics::{Counters, NodeSensor, Sensor};
use crate::time::Tick;

/// The shortest throttle that `Health` shows, in milliseconds.
const MIN_REPORTED_THROTTLE_MS: u64 = 1000;

/// What the client reports, and where.
pub(super) struct Observer {
    pub(super) health: SharedHealth,
    pub(super) counters: Arc<Counters>,
    pub(super) log_events: LogLimiter,
    /// When the last poll returned.
    last_woken_at: Tick,
    /// The earliest end of a throttle that `health` shows.
    next_throttle_end: Tick,
}

impl Observer {
    pub(super) fn new(health: SharedHealth, counters: Arc<Counters>, now: Tick) -> Observer {
        Observer {
            health,
            counters,
            log_events: LogLimiter::default(),
            last_woken_at: now,
            next_throttle_end: Tick::NEVER,
        }
    }

    /// Records a poll that began at `started` and found work, or its deadline, at `woken_at`.
    pub(super) fn polled(&mut self, started: Tick, woken_at: Tick, now: Tick) {
        // `IoWait` is the time inside the poll, `IoTime` the time since the last poll returned.
        let (waited, worked) = (woken_at.since(started), started.since(self.last_woken_at));
        self.last_woken_at = woken_at;
        self.counters.sensors.record(
            &[
                (Sensor::Select, 1.0),
                (Sensor::IoWait, waited.as_nanos() as f64),
                (Sensor::IoTime, worked.as_nanos() as f64),
            ],
            now,
        );
    }

    /// Records the number of requests in flight on all connections.
    pub(super) fn in_flight(&self, count: usize) {
        self.counters.requests_in_flight.store(count as u64, Ordering::Relaxed);
    }

    /// Records a request whose frame has this many bytes.
    pub(super) fn request_sent(&self, node: i32, request: &InFlightRequest, size: usize) {
        tracing::trace!(
            broker = node,
            api = request.api.name(),
            version = request.version,
            correlation = request.correlation_id,
            "request"
        );
        let (size, now) = (size as f64, request.sent_at);
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
    }

    /// Records a response whose frame has this many bytes after the length prefix.
    pub(super) fn response_received(
        &self,
        node: i32,
        request: &InFlightRequest,
        frame_len: usize,
        now: Tick,
    ) {
        let size = frame_len as f64 + 4.0;
        let latency_ms = now.since(request.sent_at).as_secs_f64() * 1e3;
        let is_produce = request.kind == RequestKind::Produce;
        let sensors = &self.counters.sensors;
        sensors.record(
            &[(Sensor::Response, 1.0), (Sensor::IncomingByte, size), (Sensor::NetworkIo, 1.0)],
            now,
        );
        if is_produce {
            sensors.record(&[(Sensor::RequestLatency, latency_ms)], now);
        }
        use NodeSensor::{IncomingByte, RequestLatency, Response};
        sensors.record_node(node, &[(Response, 1.0), (IncomingByte, size)], now);
        if is_produce {
            sensors.record_node(node, &[(RequestLatency, latency_ms)], now);
        }
    }

    /// Reports a connection that is ready for requests.
    pub(super) fn connected(&mut self, connection: &NodeConnection, now: Tick) {
        self.health.connected(&connection.name(), connection.in_flight.oldest());
        if connection.throttle.is_active(now) {
            // The throttle began on an earlier connection.
            let ms = connection.throttle.until.since(now).as_millis() as u64;
            self.show_throttle(connection, ms);
        }
        if let Some(suppressed) = self.log_events.check(LogEvent::Connected, connection.id, now) {
            tracing::info!(
                name: "ottla.connected",
                target: "ottla::connection",
                broker = connection.id,
                host = &*connection.host,
                port = connection.port,
                suppressed,
                "connected"
            );
        }
    }

    /// Reports the end of a connection that the client does not need any more.
    pub(super) fn closed_unneeded(
        &self,
        connection: &NodeConnection,
        in_flight: usize,
        reason: &str,
    ) {
        tracing::debug!(
            name: "ottla.idle",
            target: "ottla::connection",
            broker = connection.id,
            in_flight,
            "disconnected: {reason}"
        );
        self.health.closed(&connection.name());
    }

    /// Reports a connection that was lost or failed, with the requests that were in flight.
    pub(super) fn disconnected(
        &mut self,
        connection: &NodeConnection,
        lost: &LostConnection<'_>,
        now: Tick,
    ) {
        if let Some(suppressed) = self.log_events.check(LogEvent::Disconnected, connection.id, now)
        {
            let oldest = lost.requests.first();
            tracing::warn!(
                name: "ottla.disconnected",
                target: "ottla::connection",
                broker = connection.id,
                by = lost.closed_by.name(),
                in_flight = lost.requests.len(),
                oldest = oldest.map_or("", |r| r.api.name()),
                oldest_ms = oldest.map_or(0, |r| now.since(r.sent_at).as_millis() as u64),
                was_ready = lost.was_ready,
                suppressed,
                "disconnected: {}",
                lost.reason
            );
        }
        self.health.failed(&connection.name(), lost.reason);
    }

    /// Reports a node whose host name has no address.
    pub(super) fn not_resolved(&mut self, node: i32, reason: &str, now: Tick) {
        if let Some(suppressed) = self.log_events.check(LogEvent::NotResolved, node, now) {
            tracing::warn!(
                name: "ottla.not_resolved",
                target: "ottla::connection",
                broker = node,
                suppressed,
                "{reason}"
            );
        }
    }

    /// Reports a metadata response that names another cluster than the ones before.
    pub(super) fn two_clusters(&mut self, known: &str, received: &str, now: Tick) {
        if let Some(suppressed) = self.log_events.check(LogEvent::TwoClusters, NO_NODE, now) {
            tracing::warn!(
                name: "ottla.two_clusters",
                target: "ottla::metadata",
                known,
                received,
                suppressed,
                "metadata came from two clusters; bootstrap.servers must name one cluster's brokers"
            );
        }
    }

    /// Reports a metadata response.
    pub(super) fn metadata_received(&mut self, node: i32, response: &MetadataResponse, now: Tick) {
        if let Some(suppressed) = self.log_events.check(LogEvent::Metadata, node, now) {
            tracing::info!(
                name: "ottla.metadata",
                target: "ottla::metadata",
                broker = node,
                brokers = response.brokers.len(),
                topics = response.topics.len(),
                errors = response.topics.iter().filter(|t| t.error_code != 0).count(),
                suppressed,
                "metadata"
            );
        }
    }

    /// Records an authentication that failed.
    pub(super) fn authentication_failed(&self, was_reauthenticating: bool, now: Tick) {
        let sensor = if was_reauthenticating {
            Sensor::ReauthenticationFailed
        } else {
            Sensor::AuthenticationFailed
        };
        self.counters.sensors.record(&[(sensor, 1.0)], now);
    }

    /// Records that a TLS client certificate is all the authentication there is.
    pub(super) fn authenticated_by_tls(&self, now: Tick) {
        let values = [(Sensor::Authentication, 1.0), (Sensor::AuthenticationNoReauth, 1.0)];
        self.counters.sensors.record(&values, now);
    }

    /// Reports a successful SASL exchange. `lifetime` is the session's, if it expires.
    pub(super) fn authenticated(
        &mut self,
        node: i32,
        mechanism: &str,
        reauthenticating_since: Option<Tick>,
        lifetime: Option<Duration>,
        now: Tick,
    ) {
        let sensors = &self.counters.sensors;
        match reauthenticating_since {
            Some(since) => {
                let latency_ms = now.since(since).as_secs_f64() * 1e3;
                sensors.record(
                    &[
                        (Sensor::Reauthentication, 1.0),
                        (Sensor::ReauthenticationLatency, latency_ms),
                    ],
                    now,
                );
            }
            None => {
                sensors.record(&[(Sensor::Authentication, 1.0)], now);
                if lifetime.is_none() {
                    sensors.record(&[(Sensor::AuthenticationNoReauth, 1.0)], now);
                }
            }
        }
        if let Some(suppressed) = self.log_events.check(LogEvent::Authenticated, node, now) {
            tracing::info!(
                name: "ottla.authenticated",
                target: "ottla::connection",
                broker = node,
                mechanism,
                session_ms = lifetime.map_or(0, |d| d.as_millis() as u64),
                again = reauthenticating_since.is_some(),
                suppressed,
                "authenticated"
            );
        }
    }

    /// Records the throttle time of a response, also if the broker itself has waited.
    pub(super) fn throttle_time(&self, ms: i32, now: Tick) {
        self.counters.sensors.record(&[(Sensor::Throttle, f64::from(ms.max(0)))], now);
    }

    /// Reports a node that holds back the client's requests.
    pub(super) fn throttled(&mut self, connection: &NodeConnection, ms: u64, now: Tick) {
        self.show_throttle(connection, ms);
        if let Some(suppressed) = self.log_events.check(LogEvent::Throttled, connection.id, now) {
            tracing::info!(
                name: "ottla.throttled",
                target: "ottla::connection",
                broker = connection.id,
                ms,
                suppressed,
                "throttled"
            );
        }
    }

    fn show_throttle(&mut self, connection: &NodeConnection, ms: u64) {
        if ms >= MIN_REPORTED_THROTTLE_MS {
            self.health.throttled(&connection.name(), ms);
            self.next_throttle_end = self.next_throttle_end.min(connection.throttle.until);
        }
    }

    /// Returns when [`expire_throttles`](Self::expire_throttles) has work.
    pub(super) fn next_throttle_end(&self) -> Tick {
        self.next_throttle_end
    }

    /// Removes expired throttles from `Health`.
    pub(super) fn expire_throttles<'a>(
        &mut self,
        connections: impl Iterator<Item = &'a NodeConnection>,
        now: Tick,
    ) {
        if self.next_throttle_end > now {
            return;
        }
        self.next_throttle_end = Tick::NEVER;
        for connection in connections {
            if connection.throttle.is_active(now) {
                self.next_throttle_end = self.next_throttle_end.min(connection.throttle.until);
            } else {
                self.health.resumed(&connection.name());
            }
        }
    }

    /// Reports a partition that has another leader than before.
    pub(super) fn leader_changed(&mut self, change: &LeaderChange, now: Tick) {
        let leader = change.new.node_id;
        if let Some(suppressed) = self.log_events.check(LogEvent::LeaderChanged, leader, now) {
            tracing::info!(
                name: "ottla.leader_changed",
                target: "ottla::metadata",
                topic = &*change.topic,
                partition = change.partition,
                from = change.old.node_id,
                to = leader,
                epoch = change.new.epoch,
                suppressed,
                "leader changed"
            );
        }
    }

    /// Forgets a node that was removed.
    pub(super) fn node_removed(&mut self, connection: &NodeConnection) {
        self.health.closed(&connection.name());
        self.log_events.remove_node(connection.id);
    }
}

/// A connection that was lost or failed.
pub(super) struct LostConnection<'a> {
    pub(super) reason: &'a str,
    pub(super) closed_by: ClosedBy,
    pub(super) was_ready: bool,
    /// The requests that were in flight, oldest first.
    pub(super) requests: &'a [InFlightRequest],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttled(id: i32, until: u64) -> NodeConnection {
        let mut connection = NodeConnection::new(id, "h".into(), 9092, 1);
        connection.throttle.extend(Duration::from_nanos(until), Tick(0));
        connection
    }

    #[test]
    fn throttle_leaves_health_when_it_ends() {
        let health = SharedHealth::default();
        let mut observer = Observer::new(health.clone(), Arc::default(), Tick(0));
        let connections = [throttled(1, 10), throttled(2, 20)];
        for connection in &connections {
            observer.connected(connection, Tick(0));
            observer.throttled(connection, MIN_REPORTED_THROTTLE_MS, Tick(0));
        }
        assert_eq!(observer.next_throttle_end(), Tick(10));
        observer.expire_throttles(connections.iter(), Tick(9));
        assert_eq!(health.get(Tick(0)).throttled.len(), 2);
        observer.expire_throttles(connections.iter(), Tick(10));
        assert_eq!(
            (health.get(Tick(0)).throttled.len(), observer.next_throttle_end()),
            (1, Tick(20))
        );
        observer.expire_throttles(connections.iter(), Tick(20));
        assert_eq!(observer.next_throttle_end(), Tick::NEVER);
        assert!(health.get(Tick(0)).throttled.is_empty());
    }

    #[test]
    fn short_throttle_is_not_shown() {
        let health = SharedHealth::default();
        let mut observer = Observer::new(health.clone(), Arc::default(), Tick(0));
        observer.throttled(&throttled(1, 10), MIN_REPORTED_THROTTLE_MS - 1, Tick(0));
        assert!(health.get(Tick(0)).throttled.is_empty());
        assert_eq!(observer.next_throttle_end(), Tick::NEVER);
    }
}
