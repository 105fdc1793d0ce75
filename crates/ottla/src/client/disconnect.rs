//! Ends connections: lost ones, failed ones, unneeded ones, and those that ran into a timeout.
//! Every request in flight on the connection completes with [`Disconnected`].

use std::io::ErrorKind as IoErrorKind;
use std::time::Duration;

use ottla_protocol::ErrorCode;

use super::NetworkClient;
use super::in_flight_requests::{CompletedRequest, Disconnected, RequestKind};
use super::node_connection::{ConnectionState, NodeConnection};
use super::observer::LostConnection;
use crate::error::{Error, ErrorKind};
use crate::network::channel::DisconnectReason;
use crate::network::io::{ChannelKey, Io};
use crate::time::Tick;

/// What the end of a connection means for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DisconnectKind {
    /// The client needs the connection no more: it was idle, or the broker left the cluster.
    Unneeded,
    /// The connection was lost, or the broker violated the protocol, or a timeout expired.
    Failed,
    /// The client or the broker rejected the other side's identity.
    AuthenticationFailed,
    /// The response cannot come from a Kafka broker, or not with these settings: HTTP, a TLS alert,
    /// a listener with another security protocol.
    Misconfigured,
}

/// The attempts in a row that have to fail as [`DisconnectKind::Misconfigured`] at each bootstrap
/// server before the waiting callers fail. A proxy whose brokers restart may fail once.
const MISCONFIGURED_ATTEMPTS: u32 = 2;

/// How long a bootstrap server may send no response to the start of a TLS handshake. A plaintext
/// port takes it for a part of a long request, and some wait for the rest. A broker may be slow, so
/// silence is weaker evidence than a response: one long attempt counts, and two short ones do not.
const TLS_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The same for an address while its name has another one that is not tried yet.
const TLS_RESPONSE_TIMEOUT_OF_OTHER_ADDRESSES: Duration = Duration::from_secs(1);

/// After this time without a response, the client connects to the next bootstrap server, too. One
/// after the other, several silent servers would take a [`TLS_RESPONSE_TIMEOUT`] each.
const TLS_RESPONSE_DELAY: Duration = Duration::from_millis(250);

/// The party that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClosedBy {
    Client,
    Broker,
    /// The operating system reported an error. A reset may come from the broker or from a device
    /// between the two.
    Network,
}

impl ClosedBy {
    /// Returns the value of the event's field `by` (`docs/EVENTS.md`).
    pub(super) fn name(self) -> &'static str {
        match self {
            ClosedBy::Client => "client",
            ClosedBy::Broker => "broker",
            ClosedBy::Network => "network",
        }
    }
}

fn tls_response_timeout(connection: &NodeConnection) -> Duration {
    if connection.has_untried_addresses() {
        TLS_RESPONSE_TIMEOUT_OF_OTHER_ADDRESSES
    } else {
        TLS_RESPONSE_TIMEOUT
    }
}

fn is_reset(e: &std::io::Error) -> bool {
    let kinds =
        [IoErrorKind::ConnectionReset, IoErrorKind::ConnectionAborted, IoErrorKind::BrokenPipe];
    kinds.contains(&e.kind())
}

impl<I: Io> NetworkClient<I> {
    /// Handles a channel that the selector has disconnected.
    pub(super) fn handle_disconnection(
        &mut self,
        key: ChannelKey,
        reason: &DisconnectReason,
        now: Tick,
    ) {
        let Some(node) = self.connections.remove_channel(key) else {
            return;
        };
        let kind = match reason {
            DisconnectReason::Idle => DisconnectKind::Unneeded,
            DisconnectReason::AuthenticationFailed { .. } => DisconnectKind::AuthenticationFailed,
            _ => DisconnectKind::Failed,
        };
        let closed_by = match reason {
            DisconnectReason::Io(_) => ClosedBy::Network,
            DisconnectReason::Eof
            | DisconnectReason::Tls { by_broker: true, .. }
            | DisconnectReason::AuthenticationFailed { by_broker: true, .. } => ClosedBy::Broker,
            DisconnectReason::BadFrame { .. }
            | DisconnectReason::Idle
            | DisconnectReason::Tls { by_broker: false, .. }
            | DisconnectReason::AuthenticationFailed { by_broker: false, .. } => ClosedBy::Client,
        };
        let mut text = reason.to_string();
        let hint = match reason {
            DisconnectReason::Eof => self.disconnect_hint(node),
            // A peer that closes with unread bytes in its socket resets the connection.
            DisconnectReason::Io(e) if is_reset(e) => self.disconnect_hint(node),
            _ => "",
        };
        text.push_str(hint);
        let is_misconfigured = !hint.is_empty()
            || matches!(reason, DisconnectReason::BadFrame { .. } | DisconnectReason::Tls { .. });
        let kind = match kind {
            DisconnectKind::Failed if is_misconfigured => DisconnectKind::Misconfigured,
            kind => kind,
        };
        self.process_disconnection(node, &text, kind, closed_by, now);
    }

    /// Returns what the broker's close probably means, given the state of the connection.
    fn disconnect_hint(&self, node: i32) -> &'static str {
        let Some(connection) = self.connections.get(node) else { return "" };
        // A listener with SASL serves ApiVersions before authentication and closes the connection
        // at any other request.
        let never_served = self.metadata.last_success.is_none() && connection.in_flight.len() > 0;
        match connection.state {
            ConnectionState::CheckingApiVersions { .. } if !self.authenticator.uses_tls() => {
                " before the ApiVersions response; \
                 if this is a TLS port, set security.protocol to match"
            }
            ConnectionState::Connecting { .. } if self.authenticator.uses_tls() => {
                " during the TLS handshake; \
                 if this is a plaintext port, set security.protocol to match"
            }
            ConnectionState::Authenticating { .. } => " during authentication",
            ConnectionState::Ready { .. } if never_served && !self.authenticator.uses_sasl() => {
                " instead of responding; \
                 if it requires SASL, set security.protocol and sasl.mechanism"
            }
            _ => "",
        }
    }

    /// Closes a connection that failed and completes its requests with an error.
    pub(crate) fn fail_connection(&mut self, node: i32, reason: &str, now: Tick) {
        self.fail_connection_with_kind(node, reason, DisconnectKind::Failed, now);
    }

    /// Does the same as [`NetworkClient::fail_connection`] for any kind.
    pub(super) fn fail_connection_with_kind(
        &mut self,
        node: i32,
        reason: &str,
        kind: DisconnectKind,
        now: Tick,
    ) {
        self.close_channel(node, now);
        self.process_disconnection(node, reason, kind, ClosedBy::Client, now);
    }

    /// Closes a connection that is not needed any more.
    pub(super) fn close_unneeded(&mut self, node: i32, reason: &str, now: Tick) {
        if self.close_channel(node, now) {
            let kind = DisconnectKind::Unneeded;
            self.process_disconnection(node, reason, kind, ClosedBy::Client, now);
        }
    }

    /// Closes the node's channel. Returns whether it had one.
    fn close_channel(&mut self, node: i32, now: Tick) -> bool {
        let Some(channel) = self.connections.get(node).and_then(NodeConnection::channel) else {
            return false;
        };
        self.connections.remove_channel(channel);
        self.selector.close(channel, now);
        true
    }

    /// Moves the node to `Disconnected` and completes its requests, oldest first.
    fn process_disconnection(
        &mut self,
        node: i32,
        reason: &str,
        kind: DisconnectKind,
        closed_by: ClosedBy,
        now: Tick,
    ) {
        let random = self.env.random();
        let Some(connection) = self.connections.get_mut(node) else {
            return;
        };
        let was_ready = connection.is_ready();
        let was_reauthenticating = connection.authentication.reauthenticating_since.is_some();
        let refusal = connection.authentication.refusal;
        let requests = connection.in_flight.clear_all();
        let name = connection.name();
        if kind == DisconnectKind::Unneeded {
            self.observer.closed_unneeded(connection, requests.len(), reason);
        } else {
            let lost = LostConnection { reason, closed_by, was_ready, requests: &requests };
            self.observer.disconnected(connection, &lost, now);
            connection.report.last_error = Some(reason.to_owned());
            // The partitions of a lost broker probably have new leaders.
            self.metadata.request_update(now);
        }
        self.connections.disconnected(node, now, random);
        if kind == DisconnectKind::AuthenticationFailed {
            self.observer.authentication_failed(was_reauthenticating, now);
            self.report_authentication_error(refusal, format!("{name}: {reason}"));
        }
        self.count_misconfigured(node, kind, reason);
        let error = Disconnected { reason: format!("{name}: {reason}") };
        for request in requests {
            match request.kind {
                RequestKind::ApiVersions(_) | RequestKind::Sasl(_) => {}
                RequestKind::Metadata => self.metadata.fail_update(now, random),
                RequestKind::Produce
                | RequestKind::InitProducerId
                | RequestKind::Transaction
                | RequestKind::Telemetry => {
                    self.completed_requests.push(CompletedRequest {
                        node,
                        request,
                        result: Err(error.clone()),
                    });
                }
            }
        }
    }

    /// Counts the failures of a bootstrap server that only other settings can end. Once each server
    /// has failed so, the callers that wait for metadata fail: waiting would not help them.
    fn count_misconfigured(&mut self, node: i32, kind: DisconnectKind, reason: &str) {
        if self.metadata.last_success.is_some() || kind == DisconnectKind::Unneeded {
            return;
        }
        let Some(connection) = self.connections.get_mut(node) else { return };
        if kind == DisconnectKind::Misconfigured {
            connection.add_misconfigured_attempt(reason);
        } else {
            connection.clear_misconfigured_attempts();
        }
        let reasons: Option<Vec<String>> = (self.connections.iter())
            .map(|connection| {
                let reason = connection.misconfigured_reason(MISCONFIGURED_ATTEMPTS)?;
                Some(format!("{}: {reason}", connection.name()))
            })
            .collect();
        if let Some(reasons) = reasons.filter(|_| kind == DisconnectKind::Misconfigured) {
            let message = format!(
                "no bootstrap server is a Kafka broker that these settings fit: {}",
                reasons.join("; ")
            );
            self.observer.health.set_bootstrap_error(Some(message.clone()));
            self.metadata.pending.bootstrap_error = Some(Error::new(ErrorKind::Config, message));
        }
    }

    /// Reports the error to the callers that wait for metadata, unless a different broker is ready.
    ///
    /// If another broker accepts the credentials, this one may soon: SCRAM users reach brokers at
    /// different times. Its batches wait and retry instead of failing.
    fn report_authentication_error(&mut self, refusal: Option<ErrorCode>, message: String) {
        if !self.connections.is_any_authenticated() {
            if self.metadata.last_success.is_none() {
                self.observer.health.set_bootstrap_error(Some(message.clone()));
            }
            let error = Error::authentication(refusal, message);
            self.metadata.pending.authentication_error = Some(error);
        }
    }

    /// Closes the connections whose setup or oldest request has timed out.
    pub(super) fn handle_timeouts(&mut self, now: Tick) {
        let expired: Vec<(i32, String)> = self
            .connections
            .iter()
            .filter_map(|connection| Some((connection.id, self.timeout_reason(connection, now)?)))
            .collect();
        for (node, reason) in expired {
            // A broker responds in order, so a missing response also blocks those behind it.
            // After the close, no late response can match a request (CASES NC4, IF2).
            self.fail_connection(node, &reason, now);
        }
        let expired: Vec<i32> = (self.connections.iter())
            .filter(|c| self.tls_response_deadline(c).is_some_and(|deadline| deadline <= now))
            .map(|c| c.id)
            .collect();
        for node in expired {
            let Some(connection) = self.connections.get_mut(node) else { continue };
            let ms = tls_response_timeout(connection).as_millis();
            let reason = format!(
                "no response to the TLS handshake within {ms} ms; \
                 if this is a plaintext port, set security.protocol to match"
            );
            if !connection.has_untried_addresses() {
                connection.set_misconfigured_attempts(MISCONFIGURED_ATTEMPTS - 1);
            }
            self.fail_connection_with_kind(node, &reason, DisconnectKind::Misconfigured, now);
        }
    }

    /// Returns until when a bootstrap server has to respond to the start of a TLS handshake.
    ///
    /// Once a broker has sent metadata, the settings fit, and a slow broker is waited for. The same
    /// holds for a server that is already counted as one that the settings do not fit: with this
    /// short timeout, a broker that always needs longer could never be reached.
    pub(super) fn tls_response_deadline(&self, connection: &NodeConnection) -> Option<Tick> {
        if connection.misconfigured_reason(MISCONFIGURED_ATTEMPTS).is_some() {
            return None;
        }
        Some(self.tls_response_awaited_since(connection)?.after(tls_response_timeout(connection)))
    }

    /// Returns from when a bootstrap server that is connecting does not keep the client from
    /// connecting to another one: it sends no response to the start of a TLS handshake.
    pub(super) fn connects_slowly_from(&self, connection: &NodeConnection) -> Option<Tick> {
        Some(self.tls_response_awaited_since(connection)?.after(TLS_RESPONSE_DELAY))
    }

    fn tls_response_awaited_since(&self, connection: &NodeConnection) -> Option<Tick> {
        let ConnectionState::Connecting { channel, .. } = connection.state else { return None };
        if self.metadata.last_success.is_some() {
            return None;
        }
        self.selector.tls_response_awaited_since(channel)
    }

    fn timeout_reason(&self, connection: &NodeConnection, now: Tick) -> Option<String> {
        if connection.setup_deadline().is_some_and(|deadline| deadline <= now) {
            let reason = match connection.state {
                ConnectionState::Preparing { .. } => {
                    "timed out reading certificate files or fetching a token"
                }
                ConnectionState::Resolving { .. } => "timed out resolving the host name",
                ConnectionState::Authenticating { .. } => "authentication timed out",
                _ => "connection setup timed out (socket.connection.setup.timeout.ms)",
            };
            return Some(reason.to_owned());
        }
        let timeout = self.settings.request_timeout;
        (connection.in_flight.next_timeout(timeout)? <= now)
            .then(|| format!("no response within request.timeout.ms ({} ms)", timeout.as_millis()))
    }
}
