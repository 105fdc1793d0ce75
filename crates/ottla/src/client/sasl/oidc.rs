//! Tokens from an OpenID Connect provider, by client credentials (RFC 6749, 4.4; KIP-768).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Error as HttpError};
use zeroize::Zeroizing;

use super::token::OAuthBearerToken;
use crate::config::security::OidcSettings;
use crate::error::Error;
use crate::network::io::PrepareError;
use crate::network::tls::{TlsConnector, crypto_provider};
use crate::time::{Env, backoff};

/// Attempts at an endpoint that fails for the moment, before the connection does.
const MAX_ATTEMPTS: u32 = 3;
/// Bytes of an answer that are read.
const MAX_RESPONSE_BYTES: u64 = 1 << 20;

/// A token endpoint.
pub(super) struct TokenEndpoint {
    settings: OidcSettings,
    agent: Agent,
}

impl TokenEndpoint {
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
        // 0 is no limit, as in Java; the connection that waits for it has one of its own.
        let limit = |given: Option<Duration>| match given {
            None => Some(Duration::from_secs(10)),
            Some(Duration::ZERO) => None,
            given => given,
        };
        let (connect, read) = (limit(settings.connect_timeout), limit(settings.read_timeout));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A secret is not carried on to wherever the endpoint points.
            .max_redirects(0)
            .timeout_connect(connect)
            .timeout_recv_response(read)
            .timeout_recv_body(read)
            .tls_config(tls.build())
            .build();
        Ok(TokenEndpoint { settings, agent: config.new_agent() })
    }

    /// Asks for a token, some times where the endpoint fails for the moment.
    pub(super) fn fetch_token(
        &self,
        env: &Arc<dyn Env>,
        now_ms: i64,
    ) -> Result<OAuthBearerToken, PrepareError> {
        let (first, most) = self.settings.retry_backoff;
        let mut attempt = 0;
        loop {
            match self.request_token(now_ms) {
                Err(e) if !e.fatal && attempt + 1 < MAX_ATTEMPTS => {
                    let wait = backoff(first, most, attempt, env.random());
                    tracing::debug!("the token endpoint failed, asking again: {}", e.reason);
                    let until = env.now().after(wait);
                    while env.now() < until {
                        env.park(Some(until));
                    }
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn request_token(&self, now_ms: i64) -> Result<OAuthBearerToken, PrepareError> {
        let s = &self.settings;
        let failed = |why: String, refused: bool| PrepareError {
            reason: format!("no token from {}: {why}", s.token_endpoint_url),
            fatal: refused,
        };
        let encode = |text: &str| {
            Zeroizing::new(if s.url_encode_header { url_encode(text) } else { text.to_owned() })
        };
        let (id, secret) = (encode(&s.client_id), encode(s.client_secret.reveal()));
        let pair = Zeroizing::new(format!("{}:{}", *id, *secret));
        let packed = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
        let basic = Zeroizing::new(format!("Basic {}", *packed));
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &s.scope {
            form.push_str("&scope=");
            form.push_str(&url_encode(scope));
        }
        let answer = self
            .agent
            .post(&s.token_endpoint_url)
            .header("Authorization", basic.as_str())
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .send(form.as_bytes());
        let mut answer = answer.map_err(|e| {
            // A handshake that fails comes wrapped.
            let by_tls =
                |e: &std::io::Error| e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            let refused = match &e {
                HttpError::Tls(_) | HttpError::Rustls(_) => true,
                HttpError::Io(e) => by_tls(e),
                _ => false,
            };
            failed(format!("{e}; see sasl.oauthbearer.token.endpoint.url"), refused)
        })?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MAX_RESPONSE_BYTES).read_to_vec();
        let body = Zeroizing::new(body.map_err(|e| failed(e.to_string(), false))?);
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        if status != 200 {
            let text = |name| parsed.as_ref()?.get(name)?.as_str();
            let said: Vec<&str> =
                [text("error"), text("error_description")].into_iter().flatten().collect();
            let hint = match status {
                400 | 401 | 403 => "; check the client id, its secret and the scope",
                _ => "",
            };
            let refused = (400..500).contains(&status) && status != 408 && status != 429;
            return Err(failed(format!("HTTP status {status} {}{hint}", said.join(": ")), refused));
        }
        let mut parsed = parsed.ok_or_else(|| failed("its answer is not JSON".to_owned(), true))?;
        let told = parsed.get("expires_in").and_then(Value::as_f64);
        // Taken out, not copied.
        let Some(Value::String(token)) = parsed.get_mut("access_token").map(Value::take) else {
            return Err(failed("its answer has no access_token".to_owned(), true));
        };
        let ends_ms = match (jwt_expiry_ms(&token), told) {
            (Some(own), _) => own,
            (None, Some(seconds)) => now_ms.saturating_add((seconds * 1e3) as i64),
            (None, None) => {
                return Err(failed("its answer does not say when the token ends".into(), true));
            }
        };
        Ok(OAuthBearerToken::with_expiry_ms(token, ends_ms))
    }
}

/// When a token ends by its own words (RFC 7519, 4.1.4), if it is one that says so.
fn jwt_expiry_ms(token: &str) -> Option<i64> {
    let payload = token.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    let seconds = claims.get("exp")?.as_f64()?;
    Some((seconds * 1e3) as i64)
}

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
    fn a_token_may_say_itself_when_it_ends() {
        let body = BASE64_URL_SAFE_NO_PAD.encode("{\"exp\":12.5}");
        assert_eq!(jwt_expiry_ms(&format!("h.{body}.s")), Some(12_500));
        assert_eq!(jwt_expiry_ms("opaque"), None);
        assert_eq!(url_encode("a b+c/é"), "a+b%2Bc%2F%C3%A9");
    }
}
