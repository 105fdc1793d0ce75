//! Who we are, shown to a broker: what a connection needs before it is made (files, tokens), the SASL exchange
//! behind it, and the same again on a connection whose session is about to end (KIP-368).
//!
//! The exchange is requests and answers like any others, in the order of the connection; their correlation ids
//! are of a range that no other request uses, as Java has it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use ottla_protocol::{ApiKey, ErrorCode, Request};
use zeroize::Zeroizing;

use super::connection_states::{ConnectionState, NodeConnection};
use super::in_flight_requests::{RequestKind, SaslStep};
use super::sasl::token::TokenManager;
use super::sasl::{SaslAction, SaslClient};
use super::{MIN_RESERVED_CORRELATION_ID, NetworkClient};
use crate::config::security::SaslSettings;
use crate::log_limiter::LogEvent;
use crate::metrics::Sensor;
use crate::network::io::{Io, Job, PrepareError};
use crate::network::tls::TlsConnector;
use crate::time::{Tick, random_fraction};

/// The key of a preparation that nobody waits for.
const BACKGROUND_REFRESH_KEY: u64 = u64::MAX;
/// Sessions are not renewed sooner, unless they end before.
const MIN_REAUTHENTICATION_INTERVAL: Duration = Duration::from_millis(1100);

/// The key of a broker's preparation.
fn prepare_key(b: &NodeConnection) -> u64 {
    u64::from(b.generation) << 32 | u64::from(b.prepare_attempt)
}

/// What secures connections.
#[derive(Clone, Default)]
pub(crate) struct ConnectionSecurity {
    pub(crate) tls: Option<Arc<TlsConnector>>,
    pub(crate) sasl: Option<Arc<SaslSettings>>,
    pub(crate) tokens: Option<Arc<TokenManager>>,
}

impl ConnectionSecurity {
    /// Whether something is to be done by a helper before a connection is made.
    fn needs_preparation(&self, connects: bool) -> bool {
        let files = self.tls.as_ref().is_some_and(|t| t.has_files());
        (connects && files) || self.tokens.as_ref().is_some_and(|t| t.current().is_none())
    }
}

impl<I: Io> NetworkClient<I> {
    /// Has a helper do what is to be done before a connection (or an exchange); false if there is nothing.
    pub(super) fn prepare_connection(&mut self, node: i32, connects: bool) -> bool {
        if let Some(tokens) = self.security.tokens.clone().filter(|t| t.begin_renewal()) {
            // The old one is good: nobody waits for this.
            let work = move || {
                tokens.renew();
                Ok(())
            };
            self.selector
                .start_job(Job::Prepare { key: BACKGROUND_REFRESH_KEY, work: Box::new(work) });
        }
        if !self.security.needs_preparation(connects) {
            return false;
        }
        let Some(b) = self.connection_states.get_mut(&node) else { return false };
        b.prepare_attempt = b.prepare_attempt.wrapping_add(1);
        let key = prepare_key(b);
        let ConnectionSecurity { tls, tokens, .. } = self.security.clone();
        let work = move || {
            if let Some(tls) = tls.filter(|_| connects) {
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
        // Of an attempt that was given up, nothing is believed.
        let Some(b) = self.connection_states.values_mut().find(|b| prepare_key(b) == key) else {
            return;
        };
        let node = b.id;
        match (b.state, result) {
            (ConnectionState::Preparing(_), Ok(())) => {
                b.prepared = true;
                b.state = ConnectionState::Disconnected(Tick(0));
                self.connect(node, now);
            }
            (ConnectionState::Authenticating(..), Ok(())) if b.reauthenticating_since.is_some() => {
                self.send_handshake(node, now);
            }
            (
                ConnectionState::Preparing(_) | ConnectionState::Authenticating(..),
                Err(PrepareError { reason: why, fatal: refused }),
            ) => {
                self.fail_connection_with_kind(node, &why, refused, now);
            }
            _ => {}
        }
    }

    /// A connection is made: who we are is to be shown first. The versions of what that takes are asked for at
    /// version 0, which every broker answers before it knows who asks.
    pub(super) fn begin_authentication(&mut self, node: i32, now: Tick) {
        let Some(b) = self.connection_states.get_mut(&node) else { return };
        let ConnectionState::Connecting(channel, deadline) = b.state else { return };
        b.state = ConnectionState::Authenticating(channel, deadline);
        b.exchange = None;
        let ask = ApiVersionsRequest::default();
        self.send_sasl_request(node, &ask, 0, SaslStep::ApiVersions, now);
    }

    /// Whether this node's session is to be renewed before anything else is sent.
    pub(super) fn is_reauthentication_due(&self, node: i32, now: Tick) -> bool {
        self.connection_states.get(&node).is_some_and(|b| b.is_reauthentication_due(now))
    }

    /// Shows anew who we are on a connection that goes on.
    pub(super) fn reauthenticate(&mut self, node: i32, now: Tick) {
        // Behind whatever is in flight, each of which has its own time.
        let time = 2 * self.settings.request_timeout.max(self.settings.connect.setup_timeout);
        let Some(b) = self.connection_states.get_mut(&node) else { return };
        let ConnectionState::Ready(channel) = b.state else { return };
        if !self.selector.can_send(channel) {
            return;
        }
        b.state = ConnectionState::Authenticating(channel, now.after(time));
        (b.exchange, b.reauthenticating_since) = (None, Some(now));
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
        let done = match step {
            SaslStep::ApiVersions => self.handle_sasl_api_versions_response(node, frame, now),
            SaslStep::Handshake(version) => {
                self.handle_sasl_handshake_response(node, version, frame, now)
            }
            SaslStep::Authenticate(version) => {
                self.handle_sasl_authenticate_response(node, version, frame, now)
            }
        };
        if let Err(PrepareError { reason: why, fatal: refused }) = done {
            let which = self.security.sasl.as_ref().map_or("SASL", |s| s.mechanism_name());
            self.fail_connection_with_kind(node, &format!("{which}: {why}"), refused, now);
        }
    }

    fn handle_sasl_api_versions_response(
        &mut self,
        node: i32,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let answer: ApiVersionsResponse = decode_sasl_response::<ApiVersionsRequest>(frame, 0)?;
        let code = ErrorCode(answer.error_code);
        if !code.is_none() {
            return Err(retriable_error(format!("it refused ApiVersions: {code}")));
        }
        let Some(b) = self.connection_states.get_mut(&node) else { return Ok(()) };
        b.set_api_versions(&answer);
        self.send_handshake(node, now);
        Ok(())
    }

    fn send_handshake(&mut self, node: i32, now: Tick) {
        let Some(sasl) = self.security.sasl.clone() else { return };
        let Some(version) = self.latest_usable_version(node, ApiKey::SASL_HANDSHAKE, 1, 1) else {
            let why = "it has no SaslHandshake of version 1 (Kafka 1.0); if its port is without SASL, set \
                       security.protocol to match";
            return self.fail_connection_with_kind(node, why, true, now);
        };
        let ask = SaslHandshakeRequest {
            mechanism: sasl.mechanism_name().to_owned(),
            ..Default::default()
        };
        self.send_sasl_request(node, &ask, version, SaslStep::Handshake(version), now);
    }

    fn handle_sasl_handshake_response(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let answer = decode_sasl_response::<SaslHandshakeRequest>(frame, version)?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let has = match answer.mechanisms.join(", ") {
                    has if has.is_empty() => "none".to_owned(),
                    has => has,
                };
                return Err(fatal_error(format!(
                    "it does not have this mechanism; it has {has}; set sasl.mechanism to match"
                )));
            }
            code => {
                return Err(fatal_error(format!(
                    "it refused the handshake: {code}: {}",
                    code.description()
                )));
            }
        }
        let Some(sasl) = self.security.sasl.clone() else { return Ok(()) };
        let tokens = self.security.tokens.clone();
        let (exchange, first) =
            SaslClient::begin(&sasl, tokens.as_deref(), &self.env).map_err(retriable_error)?;
        if let Some(b) = self.connection_states.get_mut(&node) {
            b.exchange = Some(exchange);
        }
        self.send_token(node, first, now)
    }

    fn send_token(
        &mut self,
        node: i32,
        bytes: Zeroizing<Vec<u8>>,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let version = self.latest_usable_version(node, ApiKey::SASL_AUTHENTICATE, 0, 2);
        let version = version
            .ok_or_else(|| fatal_error("it has no SaslAuthenticate (Kafka 1.0)".to_owned()))?;
        let ask =
            SaslAuthenticateRequest { auth_bytes: Bytes::from_owner(bytes), ..Default::default() };
        self.send_sasl_request(node, &ask, version, SaslStep::Authenticate(version), now);
        Ok(())
    }

    fn handle_sasl_authenticate_response(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), PrepareError> {
        let answer = decode_sasl_response::<SaslAuthenticateRequest>(frame, version)?;
        let code = ErrorCode(answer.error_code);
        let Some(exchange) =
            self.connection_states.get_mut(&node).and_then(|b| b.exchange.as_mut())
        else {
            return Ok(());
        };
        if !code.is_none() {
            let said = answer.error_message.filter(|m| !m.is_empty());
            let mut said = said.unwrap_or_else(|| code.description().to_owned());
            if let Some(objection) = exchange.rejection() {
                said = format!("{said} ({objection})");
            }
            return Err(fatal_error(format!("{code}: {said}")));
        }
        match exchange.evaluate_challenge(&answer.auth_bytes).map_err(fatal_error)? {
            SaslAction::Send(bytes) => self.send_token(node, bytes, now),
            SaslAction::Complete => {
                let life = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                self.complete_authentication(node, life.map(Duration::from_millis), now);
                Ok(())
            }
        }
    }

    /// It knows us; until its session ends. Renewed after 85 to 95 % of it, as Java has it.
    fn complete_authentication(&mut self, node: i32, life: Option<Duration>, now: Tick) {
        let part = 0.85 + 0.1 * random_fraction(self.env.random());
        let which = self.security.sasl.as_ref().map_or("", |s| s.mechanism_name());
        let Some(b) = self.connection_states.get_mut(&node) else { return };
        let ConnectionState::Authenticating(channel, deadline) = b.state else { return };
        b.exchange = None;
        // Kafka takes a renewal within a second of the last for an attack.
        b.reauthenticate_at = life
            .map(|life| now.after(life.mul_f64(part).max(life.min(MIN_REAUTHENTICATION_INTERVAL))));
        let session_ms = life.map_or(0, |d| d.as_millis() as u64);
        let sensors = &self.counters.sensors;
        let again = b.reauthenticating_since.take();
        match again {
            Some(since) => {
                b.state = ConnectionState::Ready(channel);
                let took = now.since(since).as_secs_f64() * 1e3;
                let fed =
                    [(Sensor::Reauthentication, 1.0), (Sensor::ReauthenticationLatency, took)];
                sensors.record(&fed, now);
            }
            None => {
                b.state = ConnectionState::CheckingApiVersions(channel, deadline);
                sensors.record(&[(Sensor::Authentication, 1.0)], now);
                if life.is_none() {
                    sensors.record(&[(Sensor::AuthenticationNoReauth, 1.0)], now);
                }
            }
        }
        if let Some(left_out) = self.log_events.check(LogEvent::Authenticated, node, now) {
            tracing::info!(
                name: "ottla.authenticated",
                broker = node,
                mechanism = which,
                session_ms,
                again = again.is_some(),
                left_out,
                "authenticated"
            );
        }
        if again.is_none() {
            self.send_api_versions_request(
                node,
                super::responses::INITIAL_API_VERSIONS_VERSION,
                now,
            );
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
        self.sasl_correlation = match self.sasl_correlation {
            i32::MAX => MIN_RESERVED_CORRELATION_ID,
            id => id.max(MIN_RESERVED_CORRELATION_ID - 1) + 1,
        };
        let (id, purpose) = (self.sasl_correlation, RequestKind::Sasl(step));
        if let Err(e) = self.send_with_correlation_id(node, body, version, (id, purpose), now) {
            self.fail_connection_with_kind(
                node,
                &format!("an exchange cannot be written: {e}"),
                true,
                now,
            );
        }
    }
}

fn decode_sasl_response<R: Request>(
    frame: &Bytes,
    version: i16,
) -> Result<R::Response, PrepareError> {
    decode_response::<R>(frame, version)
        .map_err(|e| retriable_error(format!("its answer cannot be read: {e}")))
}

fn retriable_error(why: String) -> PrepareError {
    PrepareError { reason: why, fatal: false }
}

fn fatal_error(why: String) -> PrepareError {
    PrepareError { reason: why, fatal: true }
}
