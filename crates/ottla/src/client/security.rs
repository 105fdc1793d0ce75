//! Authentication: the preparation of a connection (certificate files, tokens), the SASL exchange,
//! and reauthentication before a session expires (KIP-368).
//!
//! Java's client runs the exchange inside the channel, in an `Authenticator`. Here it is a part of
//! the client. Reauthentication has to queue behind the requests in flight anyway, and timeouts,
//! order and correlation ids need no second implementation. The correlation ids come from a
//! reserved range, as in Java. The mechanisms' tokens are made in [`super::sasl`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use ottla_protocol::{ApiKey, ErrorCode, Request};
use zeroize::Zeroizing;

use super::NetworkClient;
use super::connection_states::{ConnectionState, NodeConnection};
use super::disconnect::DisconnectKind;
use super::in_flight_requests::{RequestKind, SaslStep};
use super::responses::INITIAL_API_VERSIONS_VERSION;
use super::sasl::token::TokenManager;
use super::sasl::{SaslAction, SaslClient};
use crate::config::security::SaslSettings;
use crate::log_limiter::LogEvent;
use crate::metrics::Sensor;
use crate::network::io::{Io, Job, PrepareError};
use crate::network::tls::TlsConnector;
use crate::time::{Tick, random_fraction};

/// The job key of a token refresh that no connection waits for.
const BACKGROUND_REFRESH_KEY: u64 = u64::MAX;

/// The shortest time between two authentications, unless the session is shorter.
///
/// Kafka's brokers close a connection that reauthenticates within one second.
const MIN_REAUTHENTICATION_INTERVAL: Duration = Duration::from_millis(1100);

/// Returns the job key of the node's current preparation.
fn prepare_key(connection: &NodeConnection) -> u64 {
    u64::from(connection.connection_number) << 32 | u64::from(connection.prepare_attempt)
}

/// The TLS and SASL parts of the client's connections; both are optional.
#[derive(Clone, Default)]
pub(crate) struct ConnectionSecurity {
    pub(crate) tls: Option<Arc<TlsConnector>>,
    pub(crate) sasl: Option<Arc<SaslSettings>>,
    pub(crate) tokens: Option<Arc<TokenManager>>,
}

impl ConnectionSecurity {
    /// Returns whether a worker thread must read files or fetch a token first.
    fn needs_preparation(&self, new_connection: bool) -> bool {
        let has_files = self.tls.as_ref().is_some_and(|t| t.has_files());
        (new_connection && has_files) || self.tokens.as_ref().is_some_and(|t| t.current().is_none())
    }
}

impl<I: Io> NetworkClient<I> {
    /// Starts the preparation of a new connection or of a reauthentication on a worker thread.
    /// Returns false if none is needed.
    pub(super) fn prepare_connection(&mut self, node: i32, new_connection: bool) -> bool {
        if let Some(tokens) = self.security.tokens.clone().filter(|t| t.begin_renewal()) {
            // The current token is still valid: refresh it in the background, without a wait.
            let work = move || {
                tokens.renew();
                Ok(())
            };
            self.selector
                .start_job(Job::Prepare { key: BACKGROUND_REFRESH_KEY, work: Box::new(work) });
        }
        if !self.security.needs_preparation(new_connection) {
            return false;
        }
        let Some(connection) = self.connection_states.get_mut(&node) else { return false };
        connection.prepare_attempt = connection.prepare_attempt.wrapping_add(1);
        let key = prepare_key(connection);
        let ConnectionSecurity { tls, tokens, .. } = self.security.clone();
        let work = move || {
            if let Some(tls) = tls.filter(|_| new_connection) {
                tls.reload_if_changed();
            }
            tokens.map_or(Ok(()), |t| t.ensure_token())
        };
        self.selector.start_job(Job::Prepare { key, work: Box::new(work) });
        true
    }

    pub(super) fn handle_prepared(
        &mut self,
        key: u64,
        result: Result<(), PrepareError>,
        now: Tick,
    ) {
        // No node has the key of an attempt that timed out or was disconnected.
        let Some(connection) =
            self.connection_states.values_mut().find(|connection| prepare_key(connection) == key)
        else {
            return;
        };
        let node = connection.id;
        match (connection.state, result) {
            (ConnectionState::Preparing { .. }, Ok(())) => {
                connection.prepared = true;
                connection.state = ConnectionState::Disconnected { retry_at: Tick(0) };
                self.connect(node, now);
            }
            (ConnectionState::Authenticating { .. }, Ok(()))
                if connection.reauthenticating_since.is_some() =>
            {
                self.send_handshake(node, now);
            }
            (
                ConnectionState::Preparing { .. } | ConnectionState::Authenticating { .. },
                Err(error),
            ) => self.fail_authentication(node, &error, now),
            _ => {}
        }
    }

    /// Starts the SASL exchange of a new connection.
    ///
    /// The first request is ApiVersions at version 0: every broker serves it before authentication.
    pub(super) fn begin_authentication(&mut self, node: i32, now: Tick) {
        let Some(connection) = self.connection_states.get_mut(&node) else { return };
        let ConnectionState::Connecting { channel, deadline } = connection.state else { return };
        connection.state = ConnectionState::Authenticating { channel, deadline };
        connection.exchange = None;
        let request = ApiVersionsRequest::default();
        self.send_sasl_request(node, &request, 0, SaslStep::ApiVersions, now);
    }

    /// Returns whether this node's session must be renewed before the next request.
    pub(super) fn is_reauthentication_due(&self, node: i32, now: Tick) -> bool {
        self.connection_states
            .get(&node)
            .is_some_and(|connection| connection.is_reauthentication_due(now))
    }

    /// Starts a SASL exchange on a ready connection (KIP-368).
    ///
    /// Responses to earlier requests may arrive during the exchange. No new request is sent until
    /// it completes, because the broker would reject it.
    pub(super) fn reauthenticate(&mut self, node: i32, now: Tick) {
        // The exchange queues behind the requests in flight, which have their own timeouts.
        let timeout = 2 * self.settings.request_timeout.max(self.settings.connect.setup_timeout);
        let Some(connection) = self.connection_states.get_mut(&node) else { return };
        let ConnectionState::Ready { channel } = connection.state else { return };
        if !self.selector.can_send(channel) {
            return;
        }
        connection.state =
            ConnectionState::Authenticating { channel, deadline: now.after(timeout) };
        connection.exchange = None;
        connection.reauthenticating_since = Some(now);
        if !self.prepare_connection(node, false) {
            self.send_handshake(node, now);
        }
    }

    pub(super) fn handle_sasl_response(
        &mut self,
        node: i32,
        step: SaslStep,
        frame: &Bytes,
        now: Tick,
    ) {
        let result = match step {
            SaslStep::ApiVersions => self.handle_sasl_api_versions_response(node, frame, now),
            SaslStep::Handshake(version) => {
                self.handle_sasl_handshake_response(node, version, frame, now)
            }
            SaslStep::Authenticate(version) => {
                self.handle_sasl_authenticate_response(node, version, frame, now)
            }
        };
        if let Err(PrepareError { reason, fatal }) = result {
            let mechanism = self.security.sasl.as_ref().map_or("SASL", |s| s.mechanism_name());
            let error = PrepareError { reason: format!("{mechanism}: {reason}"), fatal };
            self.fail_authentication(node, &error, now);
        }
    }

    fn fail_authentication(&mut self, node: i32, error: &PrepareError, now: Tick) {
        let kind =
            if error.fatal { DisconnectKind::AuthenticationFailed } else { DisconnectKind::Failed };
        self.fail_connection_with_kind(node, &error.reason, kind, now);
    }

    fn handle_sasl_api_versions_response(
        &mut self,
        node: i32,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let response: ApiVersionsResponse = decode_sasl_response::<ApiVersionsRequest>(frame, 0)?;
        let code = ErrorCode(response.error_code);
        if !code.is_none() {
            return Err(retriable_error(format!("ApiVersions failed: {code}")));
        }
        let Some(connection) = self.connection_states.get_mut(&node) else { return Ok(()) };
        connection.set_api_versions(&response);
        self.send_handshake(node, now);
        Ok(())
    }

    fn send_handshake(&mut self, node: i32, now: Tick) {
        let Some(sasl) = self.security.sasl.clone() else { return };
        let Some(version) = self.latest_usable_version(node, ApiKey::SASL_HANDSHAKE, 1, 1) else {
            let reason = "the broker does not support SaslHandshake version 1 (Kafka 1.0); \
                          if this port does not use SASL, set security.protocol to match";
            return self.fail_authentication(node, &fatal_error(reason.to_owned()), now);
        };
        let request = SaslHandshakeRequest {
            mechanism: sasl.mechanism_name().to_owned(),
            ..Default::default()
        };
        self.send_sasl_request(node, &request, version, SaslStep::Handshake(version), now);
    }

    fn handle_sasl_handshake_response(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let response = decode_sasl_response::<SaslHandshakeRequest>(frame, version)?;
        match ErrorCode(response.error_code) {
            ErrorCode::NONE => {}
            code @ ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let supported = match response.mechanisms.join(", ") {
                    names if names.is_empty() => "no mechanism".to_owned(),
                    names => names,
                };
                return Err(fatal_error(format!(
                    "{code}: the broker supports {supported}; set sasl.mechanism to match"
                )));
            }
            code => {
                let description = code.description();
                return Err(fatal_error(format!("SaslHandshake failed: {code}: {description}")));
            }
        }
        let Some(sasl) = self.security.sasl.clone() else { return Ok(()) };
        let tokens = self.security.tokens.clone();
        let (exchange, first) =
            SaslClient::begin(&sasl, tokens.as_deref(), &self.env).map_err(retriable_error)?;
        if let Some(connection) = self.connection_states.get_mut(&node) {
            connection.exchange = Some(exchange);
        }
        self.send_token(node, first, now)
    }

    fn send_token(
        &mut self,
        node: i32,
        token: Zeroizing<Vec<u8>>,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let version = self.latest_usable_version(node, ApiKey::SASL_AUTHENTICATE, 0, 2);
        let version = version.ok_or_else(|| {
            fatal_error("the broker does not support SaslAuthenticate (Kafka 1.0)".to_owned())
        })?;
        let request =
            SaslAuthenticateRequest { auth_bytes: Bytes::from_owner(token), ..Default::default() };
        self.send_sasl_request(node, &request, version, SaslStep::Authenticate(version), now);
        Ok(())
    }

    fn handle_sasl_authenticate_response(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let response = decode_sasl_response::<SaslAuthenticateRequest>(frame, version)?;
        let code = ErrorCode(response.error_code);
        let Some(exchange) = self
            .connection_states
            .get_mut(&node)
            .and_then(|connection| connection.exchange.as_mut())
        else {
            return Ok(());
        };
        if !code.is_none() {
            let message = response.error_message.filter(|m| !m.is_empty());
            let mut message = message.unwrap_or_else(|| code.description().to_owned());
            // Kafka repeats the rejection as its message.
            if let Some(rejection) = exchange.rejection().filter(|r| !message.contains(r)) {
                message = format!("{message} ({rejection})");
            }
            return Err(fatal_error(format!("{code}: {message}")));
        }
        match exchange.evaluate_challenge(&response.auth_bytes).map_err(fatal_error)? {
            SaslAction::Send(token) => self.send_token(node, token, now),
            SaslAction::Complete => {
                let lifetime =
                    u64::try_from(response.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                self.complete_authentication(node, lifetime.map(Duration::from_millis), now);
                Ok(())
            }
        }
    }

    /// Ends a successful exchange. `lifetime` is the session's, if it expires.
    fn complete_authentication(&mut self, node: i32, lifetime: Option<Duration>, now: Tick) {
        // As in Java, a random time from 85 % to 95 % of the lifetime, so that the clients of a
        // restarted broker do not reauthenticate all at once.
        let fraction = 0.85 + 0.1 * random_fraction(self.env.random());
        let mechanism = self.security.sasl.as_ref().map_or("", |s| s.mechanism_name());
        let Some(connection) = self.connection_states.get_mut(&node) else { return };
        let ConnectionState::Authenticating { channel, deadline } = connection.state else {
            return;
        };
        connection.exchange = None;
        connection.reauthenticate_at = lifetime.map(|lifetime| {
            let shortest = lifetime.min(MIN_REAUTHENTICATION_INTERVAL);
            now.after(lifetime.mul_f64(fraction).max(shortest))
        });
        let session_ms = lifetime.map_or(0, |d| d.as_millis() as u64);
        let sensors = &self.counters.sensors;
        let reauthenticating_since = connection.reauthenticating_since.take();
        match reauthenticating_since {
            Some(since) => {
                connection.state = ConnectionState::Ready { channel };
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
                connection.state = ConnectionState::CheckingApiVersions { channel, deadline };
                sensors.record(&[(Sensor::Authentication, 1.0)], now);
                if lifetime.is_none() {
                    sensors.record(&[(Sensor::AuthenticationNoReauth, 1.0)], now);
                }
            }
        }
        if let Some(suppressed) = self.log_events.check(LogEvent::Authenticated, node, now) {
            tracing::info!(
                name: "ottla.authenticated",
                broker = node,
                mechanism,
                session_ms,
                again = reauthenticating_since.is_some(),
                suppressed,
                "authenticated"
            );
        }
        if reauthenticating_since.is_none() {
            self.send_api_versions_request(node, INITIAL_API_VERSIONS_VERSION, now);
        }
    }

    fn send_sasl_request<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        step: SaslStep,
        now: Tick,
    ) {
        if let Err(e) = self.send(node, body, version, RequestKind::Sasl(step), now) {
            let error = fatal_error(format!("cannot encode the SASL request: {e}"));
            self.fail_authentication(node, &error, now);
        }
    }
}

fn decode_sasl_response<R: Request>(
    frame: &Bytes,
    version: i16,
) -> Result<R::Response, PrepareError> {
    decode_response::<R>(frame, version)
        .map_err(|e| retriable_error(format!("cannot decode the response: {e}")))
}

fn retriable_error(reason: String) -> PrepareError {
    PrepareError { reason, fatal: false }
}

fn fatal_error(reason: String) -> PrepareError {
    PrepareError { reason, fatal: true }
}
