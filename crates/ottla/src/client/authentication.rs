//! Runs authentication on the connections: the preparation (certificate files, tokens), the SASL
//! exchange, and reauthentication before a session expires (KIP-368).
//!
//! Java's client runs the exchange inside the channel. Here it is a part of the client.
//! Reauthentication has to queue behind the requests in flight anyway, and timeouts, order and
//! correlation ids need no second implementation. The correlation ids come from a reserved range,
//! as in Java. [`Authenticator`](super::authenticator::Authenticator) decides each step.

use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, SaslAuthenticateRequest};
use ottla_protocol::{ApiKey, ErrorCode, Request};
use zeroize::Zeroizing;

use super::NetworkClient;
use super::api_versions::INITIAL_API_VERSIONS_VERSION;
use super::authenticator::{
    AuthenticationStep, ExchangeError, PrepareWork, decode_sasl_response, fatal_error,
    retriable_error,
};
use super::disconnect::DisconnectKind;
use super::in_flight_requests::{RequestKind, SaslStep};
use super::node_connection::ConnectionState;
use crate::network::io::{Io, Job, PrepareError};
use crate::time::Tick;

/// The job key of a token renewal that no connection waits for.
const BACKGROUND_RENEWAL_KEY: u64 = u64::MAX;

impl<I: Io> NetworkClient<I> {
    /// Starts the preparation of a new connection or of a reauthentication on a worker thread.
    /// Returns false if none is needed.
    pub(super) fn prepare_connection(&mut self, node: i32, new_connection: bool) -> bool {
        if let Some(work) = self.authenticator.background_renewal() {
            self.selector.start_job(Job::Prepare { key: BACKGROUND_RENEWAL_KEY, work });
        }
        let Some(work) = self.authenticator.preparation(new_connection) else { return false };
        self.start_prepare_job(node, work);
        true
    }

    fn start_prepare_job(&mut self, node: i32, work: PrepareWork) {
        let Some(connection) = self.connections.get_mut(node) else { return };
        let attempt = &mut connection.authentication.prepare_attempt;
        *attempt = attempt.wrapping_add(1);
        let key = connection.prepare_key();
        self.selector.start_job(Job::Prepare { key, work });
    }

    pub(super) fn handle_prepared(
        &mut self,
        key: u64,
        result: Result<(), PrepareError>,
        now: Tick,
    ) {
        // No node has the key of an attempt that timed out or was disconnected.
        let Some(connection) = self.connections.find(|c| c.prepare_key() == key) else { return };
        let node = connection.id;
        match (connection.state, result) {
            (ConnectionState::Preparing { .. }, Ok(())) => {
                connection.authentication.prepared = true;
                connection.state = ConnectionState::Disconnected { retry_at: Tick(0) };
                self.connect(node, now);
            }
            (ConnectionState::Authenticating { .. }, Ok(())) => {
                self.handle_prepared_authentication(node, now);
            }
            (
                ConnectionState::Preparing { .. } | ConnectionState::Authenticating { .. },
                Err(error),
            ) => self.fail_authentication(node, &error, now),
            _ => {}
        }
    }

    /// Continues an exchange with the token that a worker computed, or begins a prepared
    /// reauthentication.
    fn handle_prepared_authentication(&mut self, node: i32, now: Tick) {
        let Some(connection) = self.connections.get_mut(node) else { return };
        let authentication = &mut connection.authentication;
        match &mut authentication.exchange {
            Some(exchange) => {
                let Some(token) = exchange.take_computed() else { return };
                if let Err(error) = self.send_token(node, token, now) {
                    self.fail_authentication(node, &error, now);
                }
            }
            None if authentication.reauthenticating_since.is_some() => {
                self.send_handshake(node, now);
            }
            None => {}
        }
    }

    /// Starts the SASL exchange of a new connection.
    ///
    /// The first request is ApiVersions at version 0: every broker serves it before authentication.
    pub(super) fn begin_authentication(&mut self, node: i32, now: Tick) {
        let Some(connection) = self.connections.get_mut(node) else { return };
        let ConnectionState::Connecting { channel, deadline } = connection.state else { return };
        connection.state = ConnectionState::Authenticating { channel, deadline };
        connection.authentication.exchange = None;
        let request = ApiVersionsRequest::default();
        self.send_sasl_request(node, &request, 0, SaslStep::ApiVersions, now);
    }

    /// Starts a SASL exchange on a ready connection (KIP-368).
    ///
    /// Responses to earlier requests may arrive during the exchange. No new request is sent until
    /// it completes, because the broker would reject it.
    pub(super) fn reauthenticate(&mut self, node: i32, now: Tick) {
        // The exchange queues behind the requests in flight, which have their own timeouts.
        let setup_timeout = self.connections.settings().setup_timeout;
        let timeout = 2 * self.settings.request_timeout.max(setup_timeout);
        let Some(connection) = self.connections.get_mut(node) else { return };
        let ConnectionState::Ready { channel } = connection.state else { return };
        if !self.selector.can_send(channel) {
            return;
        }
        connection.state =
            ConnectionState::Authenticating { channel, deadline: now.after(timeout) };
        connection.authentication.exchange = None;
        connection.authentication.reauthenticating_since = Some(now);
        if !self.prepare_connection(node, false) {
            self.send_handshake(node, now);
        }
    }

    /// Handles the response to a step of an exchange.
    pub(super) fn handle_sasl_response(
        &mut self,
        node: i32,
        step: SaslStep,
        frame: &Bytes,
        now: Tick,
    ) {
        let result = match step {
            SaslStep::ApiVersions => {
                self.handle_sasl_api_versions_response(node, frame, now).map_err(Into::into)
            }
            SaslStep::Handshake(version) => self.begin_exchange(node, version, frame, now),
            SaslStep::Authenticate(version) => self.continue_exchange(node, version, frame, now),
        };
        if let Err(e) = result {
            if let Some(connection) = self.connections.get_mut(node) {
                connection.authentication.refusal = e.code;
            }
            let reason = format!("{}: {e}", self.authenticator.mechanism_name());
            let fatal = e.error.fatal;
            self.fail_authentication(node, &PrepareError { reason, fatal }, now);
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
        let Some(connection) = self.connections.get_mut(node) else { return Ok(()) };
        connection.set_api_versions(&response);
        self.send_handshake(node, now);
        Ok(())
    }

    fn send_handshake(&mut self, node: i32, now: Tick) {
        let Some(version) = self.latest_usable_version(node, ApiKey::SASL_HANDSHAKE, 1, 1) else {
            let reason = "the broker does not support SaslHandshake version 1 (Kafka 1.0); \
                          if this port does not use SASL, set security.protocol to match";
            return self.fail_authentication(node, &fatal_error(reason.to_owned()), now);
        };
        let request = self.authenticator.handshake_request();
        self.send_sasl_request(node, &request, version, SaslStep::Handshake(version), now);
    }

    fn begin_exchange(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), ExchangeError> {
        let (exchange, first) = self.authenticator.begin_exchange(frame, version)?;
        if let Some(connection) = self.connections.get_mut(node) {
            connection.authentication.exchange = Some(exchange);
        }
        Ok(self.send_token(node, first, now)?)
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

    fn continue_exchange(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), ExchangeError> {
        let connection = self.connections.get_mut(node);
        let Some(exchange) = connection.and_then(|c| c.authentication.exchange.as_mut()) else {
            return Ok(());
        };
        match self.authenticator.continue_exchange(exchange, frame, version)? {
            AuthenticationStep::SendToken(token) => Ok(self.send_token(node, token, now)?),
            AuthenticationStep::Compute(work) => {
                self.start_prepare_job(node, work);
                Ok(())
            }
            AuthenticationStep::Complete { lifetime } => {
                self.complete_authentication(node, lifetime, now);
                Ok(())
            }
        }
    }

    /// Ends a successful exchange. `lifetime` is the session's, if it expires.
    fn complete_authentication(&mut self, node: i32, lifetime: Option<Duration>, now: Tick) {
        let reauthenticate_at =
            lifetime.map(|lifetime| self.authenticator.reauthenticate_at(lifetime, now));
        let Some(connection) = self.connections.get_mut(node) else { return };
        let ConnectionState::Authenticating { channel, deadline } = connection.state else {
            return;
        };
        let authentication = &mut connection.authentication;
        authentication.exchange = None;
        authentication.reauthenticate_at = reauthenticate_at;
        let reauthenticating_since = authentication.reauthenticating_since.take();
        connection.state = if reauthenticating_since.is_some() {
            ConnectionState::Ready { channel }
        } else {
            ConnectionState::CheckingApiVersions { channel, deadline }
        };
        let mechanism = self.authenticator.mechanism_name();
        self.observer.authenticated(node, mechanism, reauthenticating_since, lifetime, now);
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
        if let Err(e) = self.send_request(node, body, version, RequestKind::Sasl(step), now) {
            let error = fatal_error(format!("cannot encode the SASL request: {e}"));
            self.fail_authentication(node, &error, now);
        }
    }
}
