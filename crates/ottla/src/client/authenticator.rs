//! Decides the steps of authentication: what to prepare, what to send, and what a response means.
//!
//! It knows no connection: `authentication.rs` applies its decisions. The mechanisms' tokens are
//! made in [`super::sasl`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use ottla_protocol::{ErrorCode, Request};
use zeroize::Zeroizing;

use super::sasl::token::{TokenManager, TokenProvider};
use super::sasl::{SaslAction, SaslClient};
use crate::config::security::{SaslSettings, SecuritySettings};
use crate::env::Env;
use crate::error::Error;
use crate::network::io::PrepareError;
use crate::network::tls::{TlsConnector, TlsSession};
use crate::time::{Tick, random_fraction};

/// The shortest time between two authentications, unless the session is shorter.
///
/// Kafka's brokers close a connection that reauthenticates within one second.
const MIN_REAUTHENTICATION_INTERVAL: Duration = Duration::from_millis(1100);

/// The TLS and SASL parts of the client's connections; both are optional.
#[derive(Clone, Default)]
pub(crate) struct ConnectionSecurity {
    pub(crate) tls: Option<Arc<TlsConnector>>,
    pub(crate) sasl: Option<Arc<SaslSettings>>,
    pub(crate) tokens: Option<Arc<TokenManager>>,
}

impl ConnectionSecurity {
    /// Creates what secures connections. Reads the key and trust stores for the first time.
    ///
    /// # Errors
    /// A store is not usable; the error names its setting.
    pub(crate) fn new(
        settings: &SecuritySettings,
        token_provider: Option<TokenProvider>,
        env: &Arc<dyn Env>,
    ) -> Result<ConnectionSecurity, Error> {
        let mut security = ConnectionSecurity::default();
        #[cfg(feature = "tls")]
        if let Some(tls) = &settings.tls {
            security.tls = Some(Arc::new(TlsConnector::new(tls.clone(), env.clone())?));
        }
        if let Some(sasl) = &settings.sasl {
            let tokens = TokenManager::for_mechanism(sasl, token_provider, env.clone())?;
            security.tokens = tokens.map(Arc::new);
            security.sasl = Some(Arc::new(sasl.clone()));
        }
        Ok(security)
    }
}

/// Work that reads files or fetches a token, for a worker thread.
pub(crate) type PrepareWork = Box<dyn FnOnce() -> Result<(), PrepareError> + Send>;

/// What the client does after a SaslAuthenticate response.
pub(crate) enum AuthenticationStep {
    /// Sends this token.
    SendToken(Zeroizing<Vec<u8>>),
    /// Runs this work on a worker thread, and then sends the token that it computed.
    Compute(PrepareWork),
    /// The exchange has succeeded. The session lasts for `lifetime`, if it expires.
    Complete { lifetime: Option<Duration> },
}

/// Why a SASL exchange failed.
#[derive(Debug)]
pub(crate) struct ExchangeError {
    pub(crate) error: PrepareError,
    /// The code of the broker's refusal.
    pub(crate) code: Option<ErrorCode>,
    /// What to change; empty if the reason says it or nothing is known. It stands alone because a
    /// reason may contain texts of the broker.
    pub(crate) advice: &'static str,
}

impl From<PrepareError> for ExchangeError {
    fn from(error: PrepareError) -> ExchangeError {
        ExchangeError { error, code: None, advice: "" }
    }
}

impl std::fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error.reason)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

impl ExchangeError {
    /// Creates the error of a broker's refusal. The reason has to name the code.
    fn refused(code: ErrorCode, reason: String) -> ExchangeError {
        ExchangeError { error: fatal_error(reason), code: Some(code), advice: "" }
    }
}

/// Decides the steps of authentication for all connections.
pub(crate) struct Authenticator {
    security: ConnectionSecurity,
    env: Arc<dyn Env>,
}

impl Authenticator {
    pub(crate) fn new(security: ConnectionSecurity, env: Arc<dyn Env>) -> Authenticator {
        Authenticator { security, env }
    }

    pub(crate) fn uses_tls(&self) -> bool {
        self.security.tls.is_some()
    }

    pub(crate) fn uses_sasl(&self) -> bool {
        self.security.sasl.is_some()
    }

    /// Returns the name of the SASL mechanism, for messages.
    pub(crate) fn mechanism_name(&self) -> &str {
        self.security.sasl.as_ref().map_or("SASL", |s| s.mechanism_name())
    }

    /// Creates the TLS session of a new connection; `None` without TLS.
    pub(crate) fn create_tls_session(&self, host: &str) -> Result<Option<TlsSession>, String> {
        self.security.tls.as_ref().map(|tls| tls.create_session(host)).transpose()
    }

    /// Returns work that renews the token, if it is still valid and should be renewed. No
    /// connection waits for it.
    pub(super) fn background_renewal(&self) -> Option<PrepareWork> {
        let tokens = self.security.tokens.clone().filter(|t| t.begin_renewal())?;
        Some(Box::new(move || {
            tokens.renew();
            Ok(())
        }))
    }

    /// Returns the work that a connection or a reauthentication has to wait for; `None` if there
    /// is none.
    pub(crate) fn preparation(&self, new_connection: bool) -> Option<PrepareWork> {
        let ConnectionSecurity { tls, tokens, .. } = self.security.clone();
        let tls = tls.filter(|tls| new_connection && tls.has_files());
        if tls.is_none() && tokens.as_ref().is_none_or(|t| t.current().is_some()) {
            return None;
        }
        Some(Box::new(move || {
            if let Some(tls) = tls {
                tls.reload_if_changed();
            }
            tokens.map_or(Ok(()), |t| t.ensure_token())
        }))
    }

    /// Returns the request that names the mechanism.
    pub(crate) fn handshake_request(&self) -> SaslHandshakeRequest {
        SaslHandshakeRequest { mechanism: self.mechanism_name().to_owned(), ..Default::default() }
    }

    /// Checks the response to the handshake, and begins the exchange. Returns its first token.
    ///
    /// # Errors
    /// The broker does not support the mechanism, or there is no valid token.
    pub(crate) fn begin_exchange(
        &self,
        frame: &Bytes,
        version: i16,
    ) -> Result<(SaslClient, Zeroizing<Vec<u8>>), ExchangeError> {
        let response = decode_sasl_response::<SaslHandshakeRequest>(frame, version)?;
        match ErrorCode(response.error_code) {
            ErrorCode::NONE => {}
            code @ ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let supported = match response.mechanisms.join(", ") {
                    names if names.is_empty() => "no mechanism".to_owned(),
                    names => names,
                };
                let refused = ExchangeError::refused(
                    code,
                    format!("{code}: the broker supports {supported}"),
                );
                let advice = "set sasl.mechanism to match";
                return Err(ExchangeError { advice, ..refused });
            }
            code => {
                let reason = format!("SaslHandshake failed: {code}: {}", code.description());
                return Err(ExchangeError::refused(code, reason));
            }
        }
        let Some(sasl) = &self.security.sasl else {
            return Err(fatal_error("no SASL mechanism is configured".to_owned()).into());
        };
        let tokens = self.security.tokens.as_deref();
        Ok(SaslClient::begin(sasl, tokens, &self.env).map_err(retriable_error)?)
    }

    /// Continues an exchange with the broker's response to the last token.
    ///
    /// # Errors
    /// The broker rejected the credentials, or its response is wrong.
    pub(crate) fn continue_exchange(
        &self,
        exchange: &mut SaslClient,
        frame: &Bytes,
        version: i16,
    ) -> Result<AuthenticationStep, ExchangeError> {
        let response = decode_sasl_response::<SaslAuthenticateRequest>(frame, version)?;
        let code = ErrorCode(response.error_code);
        if !code.is_none() {
            let message = response.error_message.filter(|m| !m.is_empty());
            let mut message = message.unwrap_or_else(|| code.description().to_owned());
            // Kafka repeats the rejection as its message.
            if let Some(rejection) = exchange.rejection().filter(|r| !message.contains(r)) {
                message = format!("{message} ({rejection})");
            }
            return Err(ExchangeError::refused(code, format!("{code}: {message}")));
        }
        Ok(match exchange.evaluate_challenge(&response.auth_bytes).map_err(fatal_error)? {
            SaslAction::Send(token) => AuthenticationStep::SendToken(token),
            SaslAction::Compute(work) => AuthenticationStep::Compute(Box::new(move || {
                work();
                Ok(())
            })),
            SaslAction::Complete => {
                let ms = u64::try_from(response.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                AuthenticationStep::Complete { lifetime: ms.map(Duration::from_millis) }
            }
        })
    }

    /// Returns when a session of this lifetime has to be renewed.
    ///
    /// As in Java, after a random time from 85 % to 95 % of the lifetime, so that the clients of a
    /// restarted broker do not reauthenticate all at once.
    pub(super) fn reauthenticate_at(&self, lifetime: Duration, now: Tick) -> Tick {
        let fraction = 0.85 + 0.1 * random_fraction(self.env.random());
        let shortest = lifetime.min(MIN_REAUTHENTICATION_INTERVAL);
        now.after(lifetime.mul_f64(fraction).max(shortest))
    }
}

pub(super) fn decode_sasl_response<R: Request>(
    frame: &Bytes,
    version: i16,
) -> Result<R::Response, PrepareError> {
    decode_response::<R>(frame, version)
        .map_err(|e| retriable_error(format!("cannot decode the response: {e}")))
}

pub(super) fn retriable_error(reason: String) -> PrepareError {
    PrepareError { reason, fatal: false }
}

pub(super) fn fatal_error(reason: String) -> PrepareError {
    PrepareError { reason, fatal: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;
    use crate::config::security::{LoginRefresh, SaslCredentials};
    use crate::sim::{Faults, SimMachine};
    use ottla_protocol::Writer;

    fn authenticator() -> Authenticator {
        let zero = Duration::ZERO;
        let refresh =
            LoginRefresh { window_factor: 0.8, window_jitter: 0.0, buffer: zero, min_period: zero };
        let credentials = SaslCredentials::Plain { user: "u".into(), password: Secret::new("p") };
        let sasl = SaslSettings { credentials, extensions: Vec::new(), refresh };
        let security = ConnectionSecurity { sasl: Some(Arc::new(sasl)), ..Default::default() };
        Authenticator::new(security, Arc::new(SimMachine::new(1, Faults::NONE)))
    }

    /// Returns a SaslHandshake response of version 1, which names one mechanism.
    fn handshake_response(code: ErrorCode) -> Bytes {
        let mut w = Writer::from_vec(Vec::new());
        w.i32(1);
        w.i16(code.0);
        w.i32(1);
        w.i16(5);
        w.raw(b"OTHER");
        w.finish().unwrap().into()
    }

    #[test]
    fn handshake_begins_the_exchange_or_names_the_supported_mechanisms() {
        let authenticator = authenticator();
        assert_eq!(authenticator.handshake_request().mechanism, "PLAIN");
        let (_, token) =
            authenticator.begin_exchange(&handshake_response(ErrorCode::NONE), 1).unwrap();
        assert_eq!(&token[..], b"\0u\0p");
        let unsupported = handshake_response(ErrorCode::UNSUPPORTED_SASL_MECHANISM);
        let error = authenticator.begin_exchange(&unsupported, 1).err().unwrap();
        let text = error.to_string();
        assert!(error.error.fatal && text.contains("the broker supports OTHER; set"), "{text}");
        let error = authenticator.begin_exchange(&Bytes::new(), 1).err().unwrap();
        assert!(!error.error.fatal, "a response that cannot be decoded may be a bad connection");
    }

    #[test]
    fn session_is_renewed_before_it_expires_but_not_within_a_second() {
        let authenticator = authenticator();
        let hour = Duration::from_secs(3600);
        for _ in 0..100 {
            let at = authenticator.reauthenticate_at(hour, Tick(0)).since(Tick(0));
            assert!(at >= hour.mul_f64(0.85) && at <= hour.mul_f64(0.95), "{at:?}");
        }
        let short = Duration::from_millis(1200);
        let at = authenticator.reauthenticate_at(short, Tick(0)).since(Tick(0));
        assert!(at >= MIN_REAUTHENTICATION_INTERVAL && at < short, "{at:?}");
    }

    #[test]
    fn plain_needs_no_preparation() {
        let authenticator = authenticator();
        assert!(authenticator.uses_sasl() && !authenticator.uses_tls());
        assert!(authenticator.preparation(true).is_none());
        assert!(authenticator.background_renewal().is_none());
        assert!(authenticator.create_tls_session("h").unwrap().is_none());
    }
}
