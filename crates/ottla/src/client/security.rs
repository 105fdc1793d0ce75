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

use super::in_flight::{Purpose, SaslStep};
use super::nodes::{Broker, State};
use super::sasl::token::TokenManager;
use super::sasl::{SaslAction, SaslClient};
use super::{CORRELATION_RESERVED, NetworkClient};
use crate::config::security::SaslSettings;
use crate::events::LogEvent;
use crate::metrics::Sensor;
use crate::network::io::{Io, Job, Unprepared};
use crate::network::tls::TlsConnector;
use crate::time::{Tick, random_fraction};

/// The key of a preparation that nobody waits for.
const NOBODYS: u64 = u64::MAX;
/// Sessions are not renewed sooner, unless they end before.
const RENEWALS_APART: Duration = Duration::from_millis(1100);

/// The key of a broker's preparation.
fn preparation(b: &Broker) -> u64 {
    u64::from(b.generation) << 32 | u64::from(b.attempt)
}

/// What secures connections.
#[derive(Clone, Default)]
pub(crate) struct Secured {
    pub(crate) tls: Option<Arc<TlsConnector>>,
    pub(crate) sasl: Option<Arc<SaslSettings>>,
    pub(crate) tokens: Option<Arc<TokenManager>>,
}

impl Secured {
    /// Whether something is to be done by a helper before a connection is made.
    fn wants_preparation(&self, connects: bool) -> bool {
        let files = self.tls.as_ref().is_some_and(|t| t.has_files());
        (connects && files) || self.tokens.as_ref().is_some_and(|t| t.current().is_none())
    }
}

impl<I: Io> NetworkClient<I> {
    /// Has a helper do what is to be done before a connection (or an exchange); false if there is nothing.
    pub(super) fn prepare_connection(&mut self, node: i32, connects: bool) -> bool {
        if let Some(tokens) = self.secured.tokens.clone().filter(|t| t.begin_renewal()) {
            // The old one is good: nobody waits for this.
            let work = move || {
                tokens.renew();
                Ok(())
            };
            self.selector.start(Job::Prepare { key: NOBODYS, work: Box::new(work) });
        }
        if !self.secured.wants_preparation(connects) {
            return false;
        }
        let Some(b) = self.brokers.get_mut(&node) else { return false };
        b.attempt = b.attempt.wrapping_add(1);
        let key = preparation(b);
        let Secured { tls, tokens, .. } = self.secured.clone();
        let work = move || {
            if let Some(tls) = tls.filter(|_| connects) {
                tls.reload_if_changed();
            }
            tokens.map_or(Ok(()), |t| t.ensure_token())
        };
        self.selector.start(Job::Prepare { key, work: Box::new(work) });
        true
    }

    pub(super) fn on_prepared(&mut self, key: u64, result: Result<(), Unprepared>, now: Tick) {
        // Of an attempt that was given up, nothing is believed.
        let Some(b) = self.brokers.values_mut().find(|b| preparation(b) == key) else {
            return;
        };
        let node = b.id;
        match (b.state, result) {
            (State::Preparing(_), Ok(())) => {
                b.prepared = true;
                b.state = State::Idle(Tick(0));
                self.connect(node, now);
            }
            (State::Authenticating(..), Ok(())) if b.renewing.is_some() => {
                self.shake_hands(node, now);
            }
            (State::Preparing(_) | State::Authenticating(..), Err(Unprepared { why, refused })) => {
                self.lost_for(node, &why, refused, now);
            }
            _ => {}
        }
    }

    /// A connection is made: who we are is to be shown first. The versions of what that takes are asked for at
    /// version 0, which every broker answers before it knows who asks.
    pub(super) fn begin_authentication(&mut self, node: i32, now: Tick) {
        let Some(b) = self.brokers.get_mut(&node) else { return };
        let State::Connecting(channel, deadline) = b.state else { return };
        b.state = State::Authenticating(channel, deadline);
        b.exchange = None;
        let ask = ApiVersionsRequest::default();
        self.ask_sasl(node, &ask, 0, SaslStep::Versions, now);
    }

    /// Whether this node's session is to be renewed before anything else is sent.
    pub(super) fn renewal_is_due(&self, node: i32, now: Tick) -> bool {
        self.brokers.get(&node).is_some_and(|b| b.renewal_is_due(now))
    }

    /// Shows anew who we are on a connection that goes on.
    pub(super) fn renew(&mut self, node: i32, now: Tick) {
        // Behind whatever is in flight, each of which has its own time.
        let time = 2 * self.settings.request_timeout.max(self.settings.connect.setup);
        let Some(b) = self.brokers.get_mut(&node) else { return };
        let State::Ready(channel) = b.state else { return };
        if !self.selector.can_send(channel) {
            return;
        }
        b.state = State::Authenticating(channel, now.after(time));
        (b.exchange, b.renewing) = (None, Some(now));
        if !self.prepare_connection(node, false) {
            self.shake_hands(node, now);
        }
    }

    pub(super) fn on_sasl(&mut self, node: i32, step: SaslStep, frame: &Bytes, now: Tick) {
        let done = match step {
            SaslStep::Versions => self.on_sasl_versions(node, frame, now),
            SaslStep::Handshake(version) => self.on_handshake(node, version, frame, now),
            SaslStep::Token(version) => self.on_token(node, version, frame, now),
        };
        if let Err(Unprepared { why, refused }) = done {
            let which = self.secured.sasl.as_ref().map_or("SASL", |s| s.mechanism_name());
            self.lost_for(node, &format!("{which}: {why}"), refused, now);
        }
    }

    fn on_sasl_versions(&mut self, node: i32, frame: &Bytes, now: Tick) -> Result<(), Unprepared> {
        let answer: ApiVersionsResponse = read::<ApiVersionsRequest>(frame, 0)?;
        let code = ErrorCode(answer.error_code);
        if !code.is_none() {
            return Err(transient(format!("it refused ApiVersions: {code}")));
        }
        let Some(b) = self.brokers.get_mut(&node) else { return Ok(()) };
        b.learn(&answer);
        self.shake_hands(node, now);
        Ok(())
    }

    fn shake_hands(&mut self, node: i32, now: Tick) {
        let Some(sasl) = self.secured.sasl.clone() else { return };
        let Some(version) = self.pick(node, ApiKey::SASL_HANDSHAKE, 1, 1) else {
            let why = "it has no SaslHandshake of version 1 (Kafka 1.0); if its port is without SASL, set \
                       security.protocol to match";
            return self.lost_for(node, why, true, now);
        };
        let ask = SaslHandshakeRequest {
            mechanism: sasl.mechanism_name().to_owned(),
            ..Default::default()
        };
        self.ask_sasl(node, &ask, version, SaslStep::Handshake(version), now);
    }

    fn on_handshake(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), Unprepared> {
        let answer = read::<SaslHandshakeRequest>(frame, version)?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let has = match answer.mechanisms.join(", ") {
                    has if has.is_empty() => "none".to_owned(),
                    has => has,
                };
                return Err(refusal(format!(
                    "it does not have this mechanism; it has {has}; set sasl.mechanism to match"
                )));
            }
            code => {
                return Err(refusal(format!(
                    "it refused the handshake: {code}: {}",
                    code.description()
                )));
            }
        }
        let Some(sasl) = self.secured.sasl.clone() else { return Ok(()) };
        let tokens = self.secured.tokens.clone();
        let (exchange, first) =
            SaslClient::begin(&sasl, tokens.as_deref(), &self.env).map_err(transient)?;
        if let Some(b) = self.brokers.get_mut(&node) {
            b.exchange = Some(exchange);
        }
        self.say(node, first, now)
    }

    fn say(&mut self, node: i32, bytes: Zeroizing<Vec<u8>>, now: Tick) -> Result<(), Unprepared> {
        let version = self.pick(node, ApiKey::SASL_AUTHENTICATE, 0, 2);
        let version =
            version.ok_or_else(|| refusal("it has no SaslAuthenticate (Kafka 1.0)".to_owned()))?;
        let ask =
            SaslAuthenticateRequest { auth_bytes: Bytes::from_owner(bytes), ..Default::default() };
        self.ask_sasl(node, &ask, version, SaslStep::Token(version), now);
        Ok(())
    }

    fn on_token(
        &mut self,
        node: i32,
        version: i16,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), Unprepared> {
        let answer = read::<SaslAuthenticateRequest>(frame, version)?;
        let code = ErrorCode(answer.error_code);
        let Some(exchange) = self.brokers.get_mut(&node).and_then(|b| b.exchange.as_mut()) else {
            return Ok(());
        };
        if !code.is_none() {
            let said = answer.error_message.filter(|m| !m.is_empty());
            let mut said = said.unwrap_or_else(|| code.description().to_owned());
            if let Some(objection) = exchange.rejection() {
                said = format!("{said} ({objection})");
            }
            return Err(refusal(format!("{code}: {said}")));
        }
        match exchange.evaluate_challenge(&answer.auth_bytes).map_err(refusal)? {
            SaslAction::Send(bytes) => self.say(node, bytes, now),
            SaslAction::Complete => {
                let life = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                self.authenticated(node, life.map(Duration::from_millis), now);
                Ok(())
            }
        }
    }

    /// It knows us; until its session ends. Renewed after 85 to 95 % of it, as Java has it.
    fn authenticated(&mut self, node: i32, life: Option<Duration>, now: Tick) {
        let part = 0.85 + 0.1 * random_fraction(self.env.random());
        let which = self.secured.sasl.as_ref().map_or("", |s| s.mechanism_name());
        let Some(b) = self.brokers.get_mut(&node) else { return };
        let State::Authenticating(channel, deadline) = b.state else { return };
        b.exchange = None;
        // Kafka takes a renewal within a second of the last for an attack.
        b.renew_at = life.map(|life| now.after(life.mul_f64(part).max(life.min(RENEWALS_APART))));
        let session_ms = life.map_or(0, |d| d.as_millis() as u64);
        let sensors = &self.counters.sensors;
        let again = b.renewing.take();
        match again {
            Some(since) => {
                b.state = State::Ready(channel);
                let took = now.since(since).as_secs_f64() * 1e3;
                let fed =
                    [(Sensor::Reauthentication, 1.0), (Sensor::ReauthenticationLatency, took)];
                sensors.record(&fed, now);
            }
            None => {
                b.state = State::CheckingVersions(channel, deadline);
                sensors.record(&[(Sensor::Authentication, 1.0)], now);
                if life.is_none() {
                    sensors.record(&[(Sensor::AuthenticationNoReauth, 1.0)], now);
                }
            }
        }
        if let Some(left_out) = self.events.check(LogEvent::Authenticated, node, now) {
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
            self.ask_versions(node, super::answers::VERSIONS_FIRST, now);
        }
    }

    fn ask_sasl<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        step: SaslStep,
        now: Tick,
    ) {
        self.sasl_correlation = match self.sasl_correlation {
            i32::MAX => CORRELATION_RESERVED,
            id => id.max(CORRELATION_RESERVED - 1) + 1,
        };
        let (id, purpose) = (self.sasl_correlation, Purpose::Sasl(step));
        if let Err(e) = self.send_as(node, body, version, (id, purpose), now) {
            self.lost_for(node, &format!("an exchange cannot be written: {e}"), true, now);
        }
    }
}

fn read<R: Request>(frame: &Bytes, version: i16) -> Result<R::Response, Unprepared> {
    decode_response::<R>(frame, version)
        .map_err(|e| transient(format!("its answer cannot be read: {e}")))
}

fn transient(why: String) -> Unprepared {
    Unprepared { why, refused: false }
}

fn refusal(why: String) -> Unprepared {
    Unprepared { why, refused: true }
}
