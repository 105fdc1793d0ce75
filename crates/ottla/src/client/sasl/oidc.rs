//! Fetches tokens from an OpenID Connect provider with client credentials (RFC 6749, 4.4; KIP-768).
//! [`TokenManager`](super::token::TokenManager) calls it on a worker thread, where it may block.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Error as HttpError};
use zeroize::Zeroizing;

use super::token::OAuthBearerToken;
use crate::config::BackoffRange;
use crate::config::security::OidcSettings;
use crate::env::Env;
use crate::error::Error;
use crate::network::io::PrepareError;
use crate::network::tls::{TlsConnector, crypto_provider};
use crate::time::backoff;

/// Number of requests before a retriable failure of the endpoint fails the broker's connection.
const MAX_ATTEMPTS: u32 = 3;
/// Largest response of the endpoint in bytes.
const MAX_RESPONSE_BYTES: u64 = 1 << 20;
/// Default of `sasl.login.connect.timeout.ms` and `sasl.login.read.timeout.ms`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A token endpoint and the HTTP client for it.
pub(super) struct TokenEndpoint {
    settings: OidcSettings,
    agent: Agent,
}

impl TokenEndpoint {
    /// Creates the HTTP client. For an https endpoint, reads the trusted certificates.
    ///
    /// # Errors
    /// The certificates cannot be read, or this build has no TLS provider.
    pub(super) fn new(settings: OidcSettings) -> Result<TokenEndpoint, Error> {
        let mut tls = TlsConfig::builder().provider(TlsProvider::Rustls);
        if settings.token_endpoint_url.starts_with("https://") {
            let roots = TlsConnector::load_root_certificates(&settings.tls)?;
            let roots: Vec<Certificate<'static>> =
                roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            tls = tls
                .root_certs(RootCerts::Specific(Arc::new(roots)))
                .unversioned_rustls_crypto_provider(crypto_provider()?);
        }
        // 0 means no limit, as in Java. The connection that waits for the token has its own
        // timeout.
        let limit = |timeout: Option<Duration>| match timeout {
            None => Some(DEFAULT_TIMEOUT),
            Some(Duration::ZERO) => None,
            timeout => timeout,
        };
        let (connect, read) = (limit(settings.connect_timeout), limit(settings.read_timeout));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would send the client secret to a different server.
            .max_redirects(0)
            .timeout_connect(connect)
            .timeout_recv_response(read)
            .timeout_recv_body(read)
            .tls_config(tls.build())
            .build();
        Ok(TokenEndpoint { settings, agent: config.new_agent() })
    }

    /// Requests a token; after retriable failures, up to [`MAX_ATTEMPTS`] times. Blocks the calling
    /// thread.
    pub(super) fn fetch_token(
        &self,
        env: &Arc<dyn Env>,
        now_ms: i64,
    ) -> Result<OAuthBearerToken, PrepareError> {
        let BackoffRange { initial, max } = self.settings.retry_backoff;
        let mut attempt = 0;
        loop {
            match self.request_token(now_ms) {
                Err(e) if !e.fatal && attempt + 1 < MAX_ATTEMPTS => {
                    tracing::debug!("retrying the token request: {}", e.reason);
                    let pause = backoff(initial, max, attempt, env.random());
                    let deadline = env.now().after(pause);
                    while env.now() < deadline {
                        env.park(Some(deadline));
                    }
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Sends one request to the endpoint.
    fn request_token(&self, now_ms: i64) -> Result<OAuthBearerToken, PrepareError> {
        let response = self
            .agent
            .post(&self.settings.token_endpoint_url)
            .header("Authorization", self.authorization_header().as_str())
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .send(self.request_body().as_bytes());
        let mut response = response.map_err(|e| {
            let reason = format!("{e}; check sasl.oauthbearer.token.endpoint.url");
            self.error(&reason, is_tls_error(&e))
        })?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_RESPONSE_BYTES).read_to_vec();
        let body = Zeroizing::new(body.map_err(|e| self.error(&e.to_string(), false))?);
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        match (status, json) {
            (200, Some(json)) => self.parse_token(json, now_ms),
            (200, None) => Err(self.error("the response is not JSON", true)),
            (status, json) => Err(self.status_error(status, json.as_ref())),
        }
    }

    /// Returns the value of the Authorization header: client id and secret, basic authentication.
    fn authorization_header(&self) -> Zeroizing<String> {
        let s = &self.settings;
        let encode = |text: &str| {
            Zeroizing::new(if s.url_encode_header { url_encode(text) } else { text.to_owned() })
        };
        let (id, secret) = (encode(&s.client_id), encode(s.client_secret.reveal()));
        let credentials = Zeroizing::new(format!("{}:{}", *id, *secret));
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(credentials.as_bytes()));
        Zeroizing::new(format!("Basic {}", *encoded))
    }

    fn request_body(&self) -> String {
        let mut body = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &self.settings.scope {
            body.push_str("&scope=");
            body.push_str(&url_encode(scope));
        }
        body
    }

    /// Reads token and expiry from a successful response. The token's own expiry takes precedence
    /// over `expires_in`.
    fn parse_token(&self, mut json: Value, now_ms: i64) -> Result<OAuthBearerToken, PrepareError> {
        let expires_in_seconds = json.get("expires_in").and_then(Value::as_f64);
        // `take` moves the token, so that no copy of it remains in the JSON.
        let Some(Value::String(token)) = json.get_mut("access_token").map(Value::take) else {
            return Err(self.error("the response has no access_token", true));
        };
        let expiry_ms = match (jwt_expiry_ms(&token), expires_in_seconds) {
            (Some(expiry_ms), _) => expiry_ms,
            (None, Some(seconds)) => now_ms.saturating_add((seconds * 1e3) as i64),
            (None, None) => {
                let reason = "neither the token nor the response (expires_in) has an expiry time";
                return Err(self.error(reason, true));
            }
        };
        Ok(OAuthBearerToken::with_expiry_ms(token, expiry_ms))
    }

    /// Returns the error for an HTTP status other than 200, with the text of the endpoint.
    fn status_error(&self, status: u16, json: Option<&Value>) -> PrepareError {
        let text = |name| json?.get(name)?.as_str();
        let texts: Vec<&str> =
            [text("error"), text("error_description")].into_iter().flatten().collect();
        let hint = match status {
            400 | 401 | 403 => "; check the client id, its secret and the scope",
            _ => "",
        };
        // 408 Request Timeout and 429 Too Many Requests are retriable.
        let fatal = (400..500).contains(&status) && status != 408 && status != 429;
        self.error(&format!("HTTP status {status} {}{hint}", texts.join(": ")), fatal)
    }

    fn error(&self, reason: &str, fatal: bool) -> PrepareError {
        let url = &self.settings.token_endpoint_url;
        PrepareError { reason: format!("no token from {url}: {reason}"), fatal }
    }
}

/// Returns whether the TLS handshake failed: a retry would fail in the same way.
fn is_tls_error(e: &HttpError) -> bool {
    match e {
        HttpError::Tls(_) | HttpError::Rustls(_) => true,
        // ureq wraps an error of the handshake in an I/O error.
        HttpError::Io(e) => e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

/// Returns the expiry time in a token (claim `exp`, RFC 7519, 4.1.4) in milliseconds since the Unix
/// epoch. Returns `None` for a token that is not a JWT or has no such claim.
fn jwt_expiry_ms(token: &str) -> Option<i64> {
    let payload = token.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    let seconds = claims.get("exp")?.as_f64()?;
    Some((seconds * 1e3) as i64)
}

/// Encodes a text as `application/x-www-form-urlencoded`.
fn url_encode(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                out.push(char::from(b));
            }
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_of_a_jwt_is_read_from_its_claim() {
        let body = BASE64_URL_SAFE_NO_PAD.encode("{\"exp\":12.5}");
        assert_eq!(jwt_expiry_ms(&format!("h.{body}.s")), Some(12_500));
        assert_eq!(jwt_expiry_ms("opaque"), None);
        assert_eq!(url_encode("a b+c/é"), "a+b%2Bc%2F%C3%A9");
    }
}
