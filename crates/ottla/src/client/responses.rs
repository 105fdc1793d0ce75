//! The client's poll: matches responses to requests in flight and handles the client's own.
//!
//! Responses to the sender's requests (Produce, InitProducerId) return from [`NetworkClient::poll`]
//! as [`CompletedRequest`]s.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ottla_protocol::ErrorCode;
use ottla_protocol::header::{decode_correlation_id, decode_response};
use ottla_protocol::messages::{MetadataRequest, MetadataResponse};

use super::NetworkClient;
use super::api_versions::{ApiVersionsResult, decode_api_versions};
use super::bootstrap::RebootstrapCause;
use super::disconnect::DisconnectKind;
use super::in_flight_requests::{CompletedRequest, InFlightRequest, RequestKind};
use super::node_connection::ConnectionState;
use crate::network::io::{ChannelKey, Io};
use crate::time::Tick;

/// The first Metadata version with reliable leader epochs (CASES MD4).
const FIRST_VERSION_WITH_RELIABLE_LEADER_EPOCHS: i16 = 9;

impl<I: Io> NetworkClient<I> {
    /// Waits for network events until `deadline` at most, handles them, and appends the sender's
    /// completed requests.
    ///
    /// # Errors
    /// The operating system's poll failed.
    pub(crate) fn poll(
        &mut self,
        deadline: Tick,
        now: Tick,
        completed: &mut Vec<CompletedRequest>,
    ) -> std::io::Result<()> {
        let timeout = match self.next_poll_deadline().min(deadline) {
            Tick::NEVER => None,
            deadline => Some(deadline.since(now)),
        };
        let env = self.env.clone();
        let mut polled = std::mem::take(&mut self.poll_result);
        self.selector.poll(timeout, || env.now(), &mut polled)?;
        let started = now;
        let now = self.env.now();
        self.observer.polled(started, polled.woken_at, now);
        // Sends come before receives: a response may arrive in the poll that wrote the last byte
        // of its request, and must find the request marked as fully sent. Receives come before
        // disconnections: if a broker responds and closes, the response still counts.
        for key in polled.completed_sends.drain(..) {
            self.handle_completed_send(key);
        }
        for (key, frame) in polled.completed_receives.drain(..) {
            self.handle_completed_receive(key, frame, now);
        }
        for key in polled.connected.drain(..) {
            self.handle_connection(key, now);
        }
        for (key, reason) in polled.disconnected.drain(..) {
            self.handle_disconnection(key, &reason, now);
        }
        for job_result in polled.job_results.drain(..) {
            self.handle_job_result(job_result, now);
        }
        self.poll_result = polled;
        self.observer.expire_throttles(self.connections.iter(), now);
        self.handle_timeouts(now);
        completed.append(&mut self.completed_requests);
        Ok(())
    }

    /// Handles the sends that the socket accepted at once, before the next poll. Otherwise each
    /// request would cost a poll that does not wait, and a round that finds nothing to do.
    pub(super) fn handle_completed_sends(&mut self) {
        let mut completed = std::mem::take(&mut self.poll_result.completed_sends);
        self.selector.take_completed_sends(&mut completed);
        for key in completed.drain(..) {
            self.handle_completed_send(key);
        }
        self.poll_result.completed_sends = completed;
    }

    fn handle_completed_send(&mut self, key: ChannelKey) {
        let Some(connection) = self.connections.by_channel(key) else { return };
        let node = connection.id;
        if let Some(request) = connection.in_flight.complete_send() {
            let result = Ok(Bytes::new());
            self.completed_requests.push(CompletedRequest { node, request, result });
        }
    }

    fn handle_completed_receive(&mut self, key: ChannelKey, frame: Bytes, now: Tick) {
        let Some(connection) = self.connections.by_channel(key) else { return };
        let node = connection.id;
        let matched = match decode_correlation_id(&frame) {
            // No broker can respond to a request that it has only half received. Its bytes are
            // not a response, so the connection must end.
            Ok(id) if !connection.in_flight.is_fully_sent(id) => {
                Err(format!("the response to request {id} arrived before the request was sent"))
            }
            Ok(id) => connection.in_flight.complete_next(id).map_err(|expected| match expected {
                Some(e) => format!("correlation id mismatch: expected {e}, got {id}"),
                None => format!("correlation id {id} matches no request in flight"),
            }),
            Err(e) => Err(format!("cannot decode the response: {e}")),
        };
        let request = match matched {
            Ok(request) => request,
            Err(reason) => {
                let kind = DisconnectKind::Misconfigured;
                return self.fail_connection_with_kind(node, &reason, kind, now);
            }
        };
        connection.report.last_round_trip = Some(now.since(request.sent_at));
        self.observer.response_received(node, &request, frame.len(), now);
        match request.kind {
            RequestKind::ApiVersions(version) => {
                self.handle_api_versions_response(node, version, &frame, now);
            }
            RequestKind::Metadata => self.handle_metadata_response(node, &request, &frame, now),
            RequestKind::Sasl(step) => self.handle_sasl_response(node, step, &frame, now),
            RequestKind::Produce
            | RequestKind::InitProducerId
            | RequestKind::Transaction
            | RequestKind::Telemetry => {
                let result = Ok(frame);
                self.completed_requests.push(CompletedRequest { node, request, result });
            }
        }
    }

    fn handle_api_versions_response(&mut self, node: i32, version: i16, frame: &Bytes, now: Tick) {
        let response = match decode_api_versions(frame, version) {
            Ok(ApiVersionsResult::Response(response)) => response,
            Ok(ApiVersionsResult::TryVersion(next)) => {
                return self.send_api_versions_request(node, next, now);
            }
            Err(e) => {
                let reason = format!("cannot decode the ApiVersions response: {e}");
                let kind = DisconnectKind::Misconfigured;
                return self.fail_connection_with_kind(node, &reason, kind, now);
            }
        };
        let code = ErrorCode(response.error_code);
        if code == ErrorCode::REBOOTSTRAP_REQUIRED {
            // The address that the client knows now leads to another node or cluster.
            let reason = "REBOOTSTRAP_REQUIRED: the address belongs to another broker now";
            self.fail_connection(node, reason, now);
            return self.rebootstrap(RebootstrapCause::WrongBroker(node), now);
        }
        if !code.is_none() {
            return self.fail_connection(node, &format!("ApiVersions failed: {code}"), now);
        }
        self.connections.finalized.update(&response);
        let Some(connection) = self.connections.get_mut(node) else {
            return;
        };
        let ConnectionState::CheckingApiVersions { channel, .. } = connection.state else {
            return;
        };
        connection.set_api_versions(&response);
        connection.ready(channel);
        self.offers_telemetry |= connection.offers_telemetry();
        self.observer.connected(connection, now);
        if node >= 0 {
            self.bootstrap.broker_connected();
        }
        self.throttle(node, response.throttle_time_ms, version >= 2, now);
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
                let reason = format!("cannot decode the Metadata response: {e}");
                self.fail_connection(node, &reason, now);
            }
            Ok(r) if ErrorCode(r.error_code) == ErrorCode::REBOOTSTRAP_REQUIRED => {
                self.metadata.fail_update(now, random);
                let reason = "REBOOTSTRAP_REQUIRED: the client returns to the bootstrap servers";
                self.fail_connection(node, reason, now);
                self.rebootstrap(RebootstrapCause::Requested(node), now);
            }
            Ok(response) => self.apply_metadata(node, request.version, response, random, now),
        }
    }

    fn apply_metadata(
        &mut self,
        node: i32,
        version: i16,
        mut response: MetadataResponse,
        random: u64,
        now: Tick,
    ) {
        if version < FIRST_VERSION_WITH_RELIABLE_LEADER_EPOCHS {
            // Brokers before Kafka 2.4 report wrong epochs during a reassignment (KAFKA-9212).
            // With an unknown epoch (-1) the client accepts the leader without a comparison.
            let partitions = response.topics.iter_mut().flat_map(|t| &mut t.partitions);
            partitions.for_each(|p| p.leader_epoch = -1);
        }
        self.throttle(node, response.throttle_time_ms, version >= 6, now);
        let is_first = self.metadata.last_success.is_none();
        if let Some((known, received)) = self.metadata.other_cluster(&response) {
            self.observer.two_clusters(known, received, now);
        }
        if !self.metadata.update(&response, now, random) {
            // The connection ends as well, so that the next request goes to another broker.
            let reason = "the Metadata response names no broker with a valid id and address";
            return self.fail_connection(node, reason, now);
        }
        self.observer.counters.last_metadata_tick.store(now.0, Ordering::Relaxed);
        self.metadata.pending.responder = self.broker_name(node);
        self.observer.metadata_received(node, &response, now);
        if is_first {
            self.observer.health.set_bootstrap_error(None);
        }
        self.report_leader_changes(now);
        self.update_nodes(now);
    }

    /// Logs the partitions that have new leaders.
    pub(super) fn report_leader_changes(&mut self, now: Tick) {
        for change in self.metadata.pending.changes.leaders.drain(..) {
            self.observer.leader_changed(&change, now);
        }
    }

    /// Adds the snapshot's new brokers and removes those that have moved or left.
    pub(super) fn update_nodes(&mut self, now: Tick) {
        let cluster = self.metadata.cluster().clone();
        let removed: Vec<i32> = self
            .connections
            .iter()
            .filter(|connection| match cluster.nodes.get(&connection.id) {
                Some(n) => n.host != connection.host || n.port != connection.port,
                // A response may still arrive: keep the connection until nothing is in flight.
                None => connection.in_flight.len() == 0 && !cluster.nodes.is_empty(),
            })
            .map(|connection| connection.id)
            .collect();
        for node in removed {
            self.close_unneeded(node, "the broker is not part of the cluster any more", now);
            if let Some(connection) = self.connections.remove(node) {
                self.observer.node_removed(&connection);
            }
        }
        for n in cluster.nodes.values() {
            self.connections.add(n.id, &n.host, n.port);
        }
    }
}
