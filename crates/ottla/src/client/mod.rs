//! Kafka's NetworkClient: connections and their states, requests in flight, API versions, metadata
//! and throttling.
//!
//! The sender calls it from one thread and knows what the requests carry; the client does not know
//! batches. Below it, `network::selector` moves bytes. In one round the sender calls
//! [`NetworkClient::maybe_update_metadata`], then [`NetworkClient::ready`] and a `send_*` function
//! for each node, then [`NetworkClient::poll`].

pub(crate) mod in_flight_requests;
pub(crate) mod metadata_updater;
pub(crate) mod requests;
mod connection_states;
pub(crate) mod node_connection;
mod addresses;
mod observer;
pub(crate) mod authenticator;
mod authentication;
mod bootstrap;
mod connect;
mod send;
pub(crate) mod api_versions;
mod responses;
mod disconnect;
mod throttle;
mod health;
mod snapshot;
#[cfg(test)]
mod tests;
pub(crate) mod sasl;

use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ApiKey;

use crate::cluster::{Cluster, LeaderHint, Node};
use crate::config::ClientSettings;
use crate::env::{Env, Wakeup, WorkerPool};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogLimiter;
use crate::metrics::Counters;
use crate::network::io::{Io, Job};
use crate::network::selector::{PollResult, Selector};
use crate::time::Tick;
use authenticator::Authenticator;
pub(crate) use authenticator::ConnectionSecurity;
use bootstrap::Bootstrap;
use connection_states::ConnectionStates;
pub use health::Health;
pub(crate) use health::SharedHealth;
use in_flight_requests::{CompletedRequest, RequestKind};
use metadata_updater::{MetadataUpdate, MetadataUpdater};
use node_connection::{ConnectionState, NodeConnection};
use observer::Observer;
use requests::RequestEncoder;

/// A full batch waits for the next response of a node whose last one took at most this long.
const SHORT_ROUND_TRIP: Duration = Duration::from_micros(200);
/// The longest such wait, from the request on.
const MAX_RESPONSE_WAIT: Duration = Duration::from_millis(1);

/// The client of one producer (Kafka's `NetworkClient`), composed of parts that each own their
/// state. Its methods connect the parts with the selector.
pub(crate) struct NetworkClient<I: Io> {
    settings: ClientSettings,
    env: Arc<dyn Env>,
    selector: Selector<I>,
    connections: ConnectionStates,
    metadata: MetadataUpdater,
    bootstrap: Bootstrap,
    requests: RequestEncoder,
    authenticator: Authenticator,
    observer: Observer,
    /// Requests for the sender that completed since the last poll.
    completed_requests: Vec<CompletedRequest>,
    /// Whether any broker has offered to receive the client's metrics (KIP-714).
    offers_telemetry: bool,
    /// The buffers of `poll`, empty between two polls.
    poll_result: PollResult,
}

/// Why a node takes no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendBlocker {
    /// It is not connected, or has to reauthenticate first.
    NotReady,
    Throttled,
    /// It has the most requests in flight, or its socket takes no more bytes.
    Busy,
}

impl<I: Io> NetworkClient<I> {
    pub(crate) fn new(
        settings: ClientSettings,
        security: ConnectionSecurity,
        env: Arc<dyn Env>,
        selector: Selector<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> NetworkClient<I> {
        let mut client = NetworkClient {
            selector,
            connections: ConnectionStates::new(settings.connect),
            metadata: MetadataUpdater::new(settings.metadata),
            bootstrap: Bootstrap::new(&settings),
            requests: RequestEncoder::default(),
            settings,
            authenticator: Authenticator::new(security, env.clone()),
            observer: Observer::new(health, counters, env.now()),
            env,
            completed_requests: Vec::new(),
            offers_telemetry: false,
            poll_result: PollResult::default(),
        };
        client.add_bootstrap_servers();
        client
    }

    pub(crate) fn wakeup(&self) -> Arc<dyn Wakeup> {
        self.selector.wakeup()
    }

    pub(crate) fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        self.selector.worker_pool()
    }

    pub(crate) fn start_job(&mut self, job: Job) {
        self.selector.start_job(job);
    }

    /// Updates the metric of requests in flight.
    pub(crate) fn update_in_flight_metric(&self) {
        self.observer.in_flight(self.connections.in_flight_count());
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.metadata.cluster().clone()
    }

    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn metadata_copies(&self) -> u64 {
        self.metadata.copies()
    }

    pub(crate) fn add_topic(&mut self, topic: &Arc<str>, now: Tick) {
        self.metadata.add_topic(topic, now);
    }

    /// Adds a topic, and requests its metadata also if it is known.
    pub(crate) fn request_topic(&mut self, topic: &Arc<str>, now: Tick) {
        self.metadata.add_topic(topic, now);
        self.metadata.request_topic(topic, now);
    }

    pub(crate) fn request_metadata(&mut self, now: Tick) {
        self.metadata.request_update(now);
    }

    pub(crate) fn remove_topic(&mut self, topic: &str) {
        self.metadata.remove_topic(topic);
    }

    /// Takes the metadata changes since the last call.
    pub(crate) fn take_metadata_update(&mut self) -> MetadataUpdate {
        self.metadata.take_update()
    }

    /// Returns the node's name for logs and messages.
    pub(crate) fn broker_name(&self, node: i32) -> String {
        self.connections.get(node).map_or_else(|| format!("broker {node}"), NodeConnection::name)
    }

    /// Returns the limiter that the sender shares for its own events.
    pub(crate) fn log_events(&mut self) -> &mut LogLimiter {
        &mut self.observer.log_events
    }

    /// Returns whether the socket accepted every byte of a request that is in flight.
    ///
    /// The broker may process such a request even if the connection is lost. Its batches are then
    /// `PossiblyPersisted`.
    pub(crate) fn is_fully_sent(&self, node: i32, correlation_id: i32) -> bool {
        self.connections.get(node).is_none_or(|connection| {
            // The selector may have completed the send since the last poll. `in_flight` learns
            // of it in the next poll.
            let all_written = connection.channel().is_none_or(|c| self.selector.can_send(c));
            all_written || connection.in_flight.is_fully_sent(correlation_id)
        })
    }

    /// Returns each node, and whether it is busy.
    ///
    /// A busy node takes no request now, and an event will wake the sender once it does. A node
    /// that becomes ready by time alone (backoff, throttle) is not busy.
    pub(crate) fn node_busy_states(&self, now: Tick) -> impl Iterator<Item = (i32, bool)> {
        let is_busy = move |connection: &NodeConnection| {
            !self.can_send_request(connection, now)
                && self.earliest_ready_at(connection.id, now).is_none()
        };
        self.connections.iter().map(move |connection| (connection.id, is_busy(connection)))
    }

    /// Returns each node, and until when its next response is expected, if that is soon.
    ///
    /// The response wakes the sender, which then sends all batches that have become full
    /// meanwhile. Without this wait, a caller that fills a batch in 10 µs would wake it for each
    /// batch, and a request would carry only one or two.
    pub(crate) fn responding_nodes(&self, now: Tick) -> impl Iterator<Item = (i32, Option<Tick>)> {
        let response_due = move |connection: &NodeConnection| {
            let due = connection.in_flight.oldest_sent_at()?.after(MAX_RESPONSE_WAIT);
            let is_near = connection.report.last_round_trip? <= SHORT_ROUND_TRIP;
            (is_near && due > now).then_some(due)
        };
        self.connections.iter().map(move |connection| (connection.id, response_due(connection)))
    }

    pub(crate) fn has_no_in_flight_requests(&self, node: i32) -> bool {
        self.connections.get(node).is_none_or(|connection| connection.in_flight.len() == 0)
    }

    /// Returns whether the client can send a request to `node` now.
    pub(crate) fn is_ready(&self, node: i32, now: Tick) -> bool {
        self.connections.get(node).is_some_and(|connection| self.can_send_request(connection, now))
    }

    fn can_send_request(&self, connection: &NodeConnection, now: Tick) -> bool {
        self.send_blocker(connection, now).is_none()
    }

    /// Returns why the client cannot send a request over a connection now.
    #[inline]
    fn send_blocker(&self, connection: &NodeConnection, now: Tick) -> Option<SendBlocker> {
        let ConnectionState::Ready { channel } = connection.state else {
            return Some(SendBlocker::NotReady);
        };
        let max_in_flight = inject_bug!(ExtraInFlightRequest, self.settings.max_in_flight);
        if connection.throttle.is_active(now) {
            Some(SendBlocker::Throttled)
        } else if connection.is_reauthentication_due(now) {
            Some(SendBlocker::NotReady)
        } else if connection.in_flight.len() >= max_in_flight || !self.selector.can_send(channel) {
            Some(SendBlocker::Busy)
        } else {
            None
        }
    }

    /// Returns whether the client can send a request to `node` now. If not, it connects or
    /// reauthenticates where that is missing.
    pub(crate) fn ready(&mut self, node: i32, now: Tick) -> bool {
        if self.is_ready(node, now) {
            return true;
        }
        if self.connections.get(node).is_some_and(|connection| connection.can_connect(now)) {
            self.connect(node, now);
        } else if self.connections.get(node).is_some_and(|c| c.is_reauthentication_due(now)) {
            self.reauthenticate(node, now);
        }
        false
    }

    /// Returns whether the last attempt to connect to `node` has failed, or the node is not known.
    pub(crate) fn is_backing_off(&self, node: i32, now: Tick) -> bool {
        self.connections.get(node).is_none_or(|connection| {
            matches!(connection.state, ConnectionState::Disconnected { retry_at } if retry_at > now)
        })
    }

    /// Adds a node that a broker has named, if it is not known.
    pub(crate) fn add_node(&mut self, node: &Node) {
        self.connections.add(node.id, &node.host, node.port);
    }

    /// Returns whether the cluster has finalized version 2 of transactions (KIP-890).
    pub(crate) fn is_transaction_version_2(&self) -> bool {
        self.connections.finalized.transaction_version >= 2
    }

    /// Returns when `node` may become ready by time alone; `None` if it waits for an event.
    pub(crate) fn earliest_ready_at(&self, node: i32, now: Tick) -> Option<Tick> {
        self.connections.earliest_ready_at(node, now, |channel| self.selector.can_send(channel))
    }

    /// Returns the earliest time after `now` at which a node may become ready by time alone.
    pub(crate) fn next_retry(&self, now: Tick) -> Tick {
        let times = self.connections.iter().filter_map(|node| self.earliest_ready_at(node.id, now));
        times.filter(|at| *at > now).min().unwrap_or(Tick::NEVER)
    }

    /// Returns the highest version in `min..=max` that `node` supports.
    pub(crate) fn latest_usable_version(
        &self,
        node: i32,
        api: ApiKey,
        min: i16,
        max: i16,
    ) -> Option<i16> {
        self.connections.get(node)?.latest_usable_version(api, min, max)
    }

    /// Returns a node for a request that any broker can serve: the ready node with the fewest
    /// requests in flight, else one that the client can connect to.
    ///
    /// Returns `None` while a node is connecting: the request waits for it and the client opens
    /// no second connection (CASES NC16). A bootstrap server that is slow to respond to a TLS
    /// handshake does not count.
    pub(crate) fn least_loaded_node(&self, now: Tick) -> Option<i32> {
        // Once metadata names the brokers, the bootstrap servers (negative ids) are not used.
        let usable = |connection: &&NodeConnection| {
            self.metadata.cluster().nodes.is_empty() || connection.id >= 0
        };
        let nodes = || self.connections.iter().filter(usable);
        let ready = nodes().filter(|connection| self.can_send_request(connection, now));
        if let Some(connection) = ready.min_by_key(|connection| connection.in_flight.len()) {
            return Some(connection.id);
        }
        let is_slow = |c: &NodeConnection| self.connects_slowly_from(c).is_some_and(|t| t <= now);
        if nodes().any(|connection| connection.is_connecting() && !is_slow(connection)) {
            return None;
        }
        let can_become_ready = nodes().filter(|connection| {
            connection.can_connect(now) || connection.is_reauthentication_due(now)
        });
        can_become_ready
            .min_by_key(|connection| connection.last_connect_attempt())
            .map(|connection| connection.id)
    }

    /// Returns whether any broker has offered to receive the client's metrics (KIP-714).
    #[inline]
    pub(crate) fn offers_telemetry(&self) -> bool {
        self.offers_telemetry
    }

    /// Returns a ready node that receives the client's metrics (KIP-714): `preferred`, which has
    /// received them before, else the one with the fewest requests in flight.
    pub(crate) fn telemetry_node(&self, preferred: Option<i32>, now: Tick) -> Option<i32> {
        let has_brokers = !self.metadata.cluster().nodes.is_empty();
        let can_take = |connection: &&NodeConnection| {
            // As in `least_loaded_node`.
            (connection.id >= 0 || !has_brokers)
                && self.can_send_request(connection, now)
                && connection.offers_telemetry()
        };
        let candidates = self.connections.iter().filter(can_take);
        let order = |c: &&NodeConnection| (Some(c.id) != preferred, c.in_flight.len());
        candidates.min_by_key(order).map(|connection| connection.id)
    }

    /// Sends a metadata request to the least loaded node if one is due. Returns when to call again.
    pub(crate) fn maybe_update_metadata(&mut self, now: Tick) -> Tick {
        let due = self.metadata.next_update();
        if due > now {
            return due;
        }
        self.maybe_rebootstrap(now);
        let Some(node) = self.least_loaded_node(now) else {
            return self.next_usable_node_at(now);
        };
        if !self.ready(node, now) {
            return self.next_retry(now);
        }
        let request = self.metadata.begin_request(now);
        match self.latest_usable_version(node, ApiKey::METADATA, 0, 13) {
            Some(version) => {
                if let Err(e) =
                    self.send_request(node, &request, version, RequestKind::Metadata, now)
                {
                    tracing::error!(
                        name: "ottla.internal_error",
                        target: "ottla::producer",
                        count = 1_u64,
                        "cannot encode a metadata request: {e}"
                    );
                    self.metadata.fail_update(now, self.env.random());
                }
            }
            None => {
                self.metadata.fail_update(now, self.env.random());
                let reason = "the broker supports no Metadata version from 0 to 13";
                self.fail_connection(node, reason, now);
                return self.next_retry(now);
            }
        }
        Tick::NEVER
    }

    /// Returns when time alone may give the client a node to send metadata requests to.
    fn next_usable_node_at(&self, now: Tick) -> Tick {
        // A connecting node makes an event, or becomes slow. A backoff or a throttle ends by time.
        let connecting = self.connections.iter().filter(|connection| connection.is_connecting());
        let slow_from = connecting.map(|c| self.connects_slowly_from(c).unwrap_or(Tick::NEVER));
        let all_slow_from = slow_from.max().unwrap_or(Tick(0));
        if all_slow_from > now { all_slow_from } else { self.next_retry(now) }
    }

    /// Applies the new leaders that a produce response names (KIP-951).
    pub(crate) fn apply_leader_hints(&mut self, hints: &[LeaderHint], nodes: &[Node], now: Tick) {
        if self.metadata.apply_leader_hints(hints, nodes) {
            self.report_leader_changes(now);
            self.update_nodes(now);
        }
    }

    /// Returns when `poll` has work even if no socket becomes ready.
    pub(crate) fn next_poll_deadline(&self) -> Tick {
        if !self.completed_requests.is_empty() {
            return Tick(0);
        }
        self.next_timeout().min(self.selector.next_poll_deadline())
    }

    /// Returns when the next connection setup, request or shown throttle ends.
    fn next_timeout(&self) -> Tick {
        let timeout = self.settings.request_timeout;
        let deadlines = self.connections.iter().flat_map(|connection| {
            let tls_response = self.tls_response_deadline(connection);
            [connection.setup_deadline(), tls_response, connection.in_flight.next_timeout(timeout)]
        });
        deadlines.flatten().chain([self.observer.next_throttle_end()]).min().unwrap_or(Tick::NEVER)
    }
}
