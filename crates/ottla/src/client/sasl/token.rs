//! OAUTHBEARER tokens: where they come from, how long they are valid and when they are replaced.
//!
//! The client's `Authenticator` calls [`TokenManager`]: before an exchange it needs a valid token,
//! and from time to time it starts a renewal. Fetching may block, so it runs on a worker thread.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::config::secret::Secret;
use crate::config::security::{
    LoginRefresh, SaslCredentials, SaslSettings, TokenClaim, TokenSource,
};
use crate::env::Env;
use crate::error::Error;
use crate::network::io::PrepareError;
use crate::sync::Mutex;
use crate::time::{Tick, random_fraction};

/// A token for `sasl.mechanism=OAUTHBEARER` (RFC 7628) with its expiry time.
///
/// A token provider returns it; see
/// [`ProducerBuilder::token_provider`](crate::ProducerBuilder::token_provider).
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use ottla::OAuthBearerToken;
///
/// let expiry = SystemTime::now() + Duration::from_secs(600);
/// let token = OAuthBearerToken::new("header.claims.signature", expiry)
///     .with_extension("logicalCluster", "lkc-1");
/// ```
#[derive(Debug, Clone)]
pub struct OAuthBearerToken {
    value: Secret,
    /// Wall clock, milliseconds since the Unix epoch.
    expiry_ms: i64,
    extensions: Vec<(String, String)>,
}

impl OAuthBearerToken {
    /// Creates a token from its compact form (`header.claims.signature` for a JWT) and its expiry
    /// time. The client replaces the token before that time and does not use it afterwards.
    pub fn new(value: impl Into<String>, expiry: SystemTime) -> OAuthBearerToken {
        let expiry_ms = expiry.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        OAuthBearerToken::with_expiry_ms(value.into(), i64::try_from(expiry_ms).unwrap_or(i64::MAX))
    }

    pub(super) fn with_expiry_ms(value: String, expiry_ms: i64) -> OAuthBearerToken {
        OAuthBearerToken { value: Secret::new(value), expiry_ms, extensions: Vec::new() }
    }

    /// Adds a SASL extension (KIP-342), which the client sends with the token. The name must
    /// consist of ASCII alphabetic characters and not be `auth`; the value must be printable ASCII.
    /// The client rejects a token with any other extension.
    #[must_use]
    pub fn with_extension(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> OAuthBearerToken {
        self.extensions.push((name.into(), value.into()));
        self
    }

    pub(super) fn value(&self) -> &str {
        self.value.reveal()
    }

    pub(super) fn extensions(&self) -> &[(String, String)] {
        &self.extensions
    }

    /// Checks that the token can be sent: RFC 6750 allows printable ASCII without spaces.
    fn validate(&self) -> Result<(), String> {
        let is_allowed = |b: &u8| matches!(b, 0x21..=0x7e);
        if self.value().is_empty() || !self.value().as_bytes().iter().all(is_allowed) {
            return Err(
                "the token is empty or contains characters that are not allowed; expected \
                        printable ASCII without spaces"
                    .to_owned(),
            );
        }
        for (name, value) in &self.extensions {
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic());
            let is_value = value.bytes().all(|b| matches!(b, 0x20..=0x7e));
            if !is_name || name == "auth" || !is_value {
                return Err(format!(
                    "the token's extension {name:?} is not valid: a name must consist of ASCII \
                     alphabetic characters and not be \"auth\", a value of printable ASCII"
                ));
            }
        }
        Ok(())
    }
}

/// The error of a token provider.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

type TokenFuture = Pin<Box<dyn Future<Output = Result<OAuthBearerToken, TokenError>> + Send>>;

/// The application's function that returns tokens.
#[derive(Clone)]
pub(crate) struct TokenProvider(Arc<dyn Fn() -> TokenFuture + Send + Sync>);

impl TokenProvider {
    pub(crate) fn new<F, T>(provider: F) -> TokenProvider
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<OAuthBearerToken, TokenError>> + Send + 'static,
    {
        TokenProvider(Arc::new(move || Box::pin(provider())))
    }
}

/// How long the client waits for a token provider.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Milliseconds between two attempts to replace a token that is still valid.
const RENEWAL_RETRY_MS: i64 = 10_000;

/// Caches the token of a producer and replaces it before it expires.
///
/// While the cached token is valid, no connection waits for a new one: the renewal runs beside the
/// connections, and if it fails, the old token stays in use.
pub(crate) struct TokenManager {
    fetcher: TokenFetcher,
    refresh: LoginRefresh,
    env: Arc<dyn Env>,
    cached: Mutex<CachedToken>,
    /// Held during a fetch, so that one thread fetches and the others use its token. The standard
    /// library's mutex, because the fetch blocks and runs the application's code; `sync::Mutex`
    /// allows neither.
    #[allow(clippy::disallowed_types)]
    fetch_lock: std::sync::Mutex<()>,
}

/// Where new tokens come from.
enum TokenFetcher {
    Provider(TokenProvider),
    Unsecured {
        claims: Vec<(String, TokenClaim)>,
        lifetime: Duration,
    },
    #[cfg(feature = "oidc")]
    Oidc(Box<super::oidc::TokenEndpoint>),
}

#[derive(Default)]
struct CachedToken {
    token: Option<Arc<OAuthBearerToken>>,
    /// When the next renewal starts. Wall clock, milliseconds since the Unix epoch.
    renew_at_ms: i64,
}

impl TokenManager {
    /// Creates a token manager for OAUTHBEARER; `None` for the other mechanisms.
    ///
    /// # Errors
    /// There is no source of tokens, or the token endpoint's certificates cannot be read.
    pub(crate) fn for_mechanism(
        settings: &SaslSettings,
        provider: Option<TokenProvider>,
        env: Arc<dyn Env>,
    ) -> Result<Option<TokenManager>, Error> {
        match settings.credentials {
            SaslCredentials::OAuthBearer(_) => TokenManager::new(settings, provider, env).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn new(
        settings: &SaslSettings,
        provider: Option<TokenProvider>,
        env: Arc<dyn Env>,
    ) -> Result<TokenManager, Error> {
        let no_source = || {
            Error::config(
                "sasl.mechanism=OAUTHBEARER has no source of tokens; give the builder a token \
                 provider, set sasl.oauthbearer.token.endpoint.url, or, for tests, set \
                 unsecuredLoginStringClaim_sub in sasl.jaas.config",
            )
        };
        let SaslCredentials::OAuthBearer(source) = &settings.credentials else {
            return Err(no_source());
        };
        // A provider takes precedence over the settings.
        let fetcher = match (provider, source) {
            (Some(provider), _) => TokenFetcher::Provider(provider),
            (None, TokenSource::Unsecured { claims, lifetime }) => {
                TokenFetcher::Unsecured { claims: claims.clone(), lifetime: *lifetime }
            }
            #[cfg(feature = "oidc")]
            (None, TokenSource::Oidc(endpoint)) => {
                TokenFetcher::Oidc(Box::new(super::oidc::TokenEndpoint::new((**endpoint).clone())?))
            }
            _ => return Err(no_source()),
        };
        Ok(TokenManager {
            fetcher,
            refresh: settings.refresh,
            env,
            cached: Mutex::default(),
            fetch_lock: Default::default(),
        })
    }

    /// Returns the cached token, if it is still valid.
    pub(crate) fn current(&self) -> Option<Arc<OAuthBearerToken>> {
        let cached = self.cached.lock();
        cached.token.clone().filter(|t| t.expiry_ms > self.env.wall_clock_ms())
    }

    /// Returns whether the caller must run [`TokenManager::renew`]: the cached token is valid and
    /// due for replacement. Returns true once, and again after [`RENEWAL_RETRY_MS`] in case that
    /// renewal fails.
    pub(crate) fn begin_renewal(&self) -> bool {
        let now_ms = self.env.wall_clock_ms();
        let mut cached = self.cached.lock();
        let is_valid = cached.token.as_ref().is_some_and(|t| t.expiry_ms > now_ms);
        if !is_valid || cached.renew_at_ms > now_ms {
            return false;
        }
        cached.renew_at_ms = now_ms.saturating_add(RENEWAL_RETRY_MS);
        true
    }

    /// Fetches a token, unless the cached one is valid. May block for long.
    ///
    /// # Errors
    /// The fetch failed, or returned a token that is not usable.
    pub(crate) fn ensure_token(&self) -> Result<(), PrepareError> {
        // Before the lock: a valid token must not wait for a renewal that another thread runs.
        if self.current().is_some() {
            return Ok(());
        }
        #[allow(clippy::disallowed_methods)]
        let _fetching = self.fetch_lock.lock();
        // Another thread may have fetched a token in the meantime.
        if self.current().is_some() {
            return Ok(());
        }
        self.fetch_and_store()
    }

    /// Replaces the cached token, which is still valid. If that fails, the cached token stays in
    /// use. May block for long.
    pub(crate) fn renew(&self) {
        #[allow(clippy::disallowed_methods)]
        let _fetching = self.fetch_lock.lock();
        if let Err(e) = self.fetch_and_store() {
            tracing::warn!(
                name: "ottla.token_not_renewed",
                target: "ottla::connection",
                "renewing the OAUTHBEARER token failed, the old token stays in use: {}",
                e.reason
            );
        }
    }

    fn fetch_and_store(&self) -> Result<(), PrepareError> {
        let now_ms = self.env.wall_clock_ms();
        let token = self.request_token(now_ms)?;
        token.validate().map_err(|reason| PrepareError { reason, fatal: true })?;
        if token.expiry_ms <= now_ms {
            return Err(PrepareError {
                reason: "the fetched token has already expired; check this machine's clock"
                    .to_owned(),
                fatal: true,
            });
        }
        let renew_at_ms = self.renewal_time_ms(now_ms, token.expiry_ms);
        *self.cached.lock() = CachedToken { token: Some(Arc::new(token)), renew_at_ms };
        Ok(())
    }

    /// Returns when the token is to be replaced, as Kafka's `ExpiringCredentialRefreshingLogin`:
    /// after a fraction of its lifetime, but `buffer` before its expiry and not before `min_period`
    /// has passed. If the last two conflict, only the fraction counts.
    fn renewal_time_ms(&self, now_ms: i64, expiry_ms: i64) -> i64 {
        let (refresh, lifetime) = (&self.refresh, expiry_ms.saturating_sub(now_ms) as f64);
        let jitter = refresh.window_jitter * random_fraction(self.env.random());
        let preferred = now_ms.saturating_add((lifetime * (refresh.window_factor + jitter)) as i64);
        let latest = expiry_ms.saturating_sub(refresh.buffer.as_millis() as i64);
        let earliest = now_ms.saturating_add(refresh.min_period.as_millis() as i64);
        if earliest >= latest { preferred } else { preferred.clamp(earliest, latest) }
    }

    fn request_token(&self, now_ms: i64) -> Result<OAuthBearerToken, PrepareError> {
        match &self.fetcher {
            TokenFetcher::Unsecured { claims, lifetime } => {
                let expiry_ms = now_ms.saturating_add(lifetime.as_millis() as i64);
                let jwt = unsecured_jwt(claims, now_ms, expiry_ms);
                Ok(OAuthBearerToken::with_expiry_ms(jwt, expiry_ms))
            }
            TokenFetcher::Provider(provider) => match self.block_on((provider.0)()) {
                Some(Ok(token)) => Ok(token),
                Some(Err(e)) => Err(PrepareError {
                    reason: format!("the token provider failed: {e}"),
                    fatal: true,
                }),
                None => Err(PrepareError {
                    reason: format!(
                        "the token provider returned no token within {} s",
                        PROVIDER_TIMEOUT.as_secs()
                    ),
                    fatal: false,
                }),
            },
            #[cfg(feature = "oidc")]
            TokenFetcher::Oidc(endpoint) => endpoint.fetch_token(&self.env, now_ms),
        }
    }

    /// Polls a future on this thread until it is ready; `None` after [`PROVIDER_TIMEOUT`]. Only
    /// worker threads call it, since it blocks.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let waker = self.env.unparker();
        let deadline: Tick = self.env.now().after(PROVIDER_TIMEOUT);
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return Some(output);
            }
            if self.env.now() >= deadline {
                return None;
            }
            self.env.park(Some(deadline));
        }
    }
}

/// Creates an unsigned JWT (RFC 7515, `alg` is `none`), which brokers accept for tests only.
fn unsecured_jwt(claims: &[(String, TokenClaim)], issued_ms: i64, expiry_ms: i64) -> String {
    let mut members = Vec::new();
    for (name, claim) in claims {
        let value = match claim {
            TokenClaim::Text(text) => json_string(text),
            TokenClaim::Number(n) => n.to_string(),
            TokenClaim::List(texts) => {
                let texts: Vec<String> = texts.iter().map(|t| json_string(t)).collect();
                format!("[{}]", texts.join(","))
            }
        };
        members.push(format!("{}:{value}", json_string(name)));
    }
    // RFC 7519 has seconds; Kafka accepts a fraction.
    members.push(format!("\"iat\":{}", issued_ms as f64 / 1e3));
    members.push(format!("\"exp\":{}", expiry_ms as f64 / 1e3));
    let body = Zeroizing::new(format!("{{{}}}", members.join(",")));
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.", encode("{\"alg\":\"none\"}"), encode(&body))
}

/// Returns the JSON string literal of a text.
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Faults, SimMachine};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn settings(source: TokenSource) -> SaslSettings {
        let refresh = LoginRefresh {
            window_factor: 0.8,
            window_jitter: 0.05,
            buffer: Duration::from_secs(300),
            min_period: Duration::from_secs(60),
        };
        let credentials = SaslCredentials::OAuthBearer(source);
        SaslSettings { credentials, extensions: Vec::new(), refresh }
    }

    fn token_manager(provider: TokenProvider, machine: &SimMachine) -> TokenManager {
        let env: Arc<dyn Env> = Arc::new(machine.clone());
        TokenManager::new(&settings(TokenSource::Provider), Some(provider), env).unwrap()
    }

    #[test]
    fn renewal_time_is_within_the_lifetime_as_in_java() {
        let provider = TokenProvider::new(|| async { Err("not called".into()) });
        let tokens = token_manager(provider, &SimMachine::new(3, Faults::NONE));
        assert!(tokens.renewal_time_ms(5_000, i64::MAX) > 0, "no overflow");
        for (lifetime_s, min_s, max_s) in [(3600, 2880, 3060), (1000, 700, 700), (100, 80, 85)] {
            let after_ms = tokens.renewal_time_ms(5_000, 5_000 + lifetime_s * 1000) - 5_000;
            assert!(
                (min_s * 1000..=max_s * 1000).contains(&after_ms),
                "{lifetime_s} s: renewed after {after_ms} ms"
            );
        }
    }

    #[test]
    fn token_is_renewed_when_due_and_a_failed_renewal_keeps_the_old_token() {
        let machine = SimMachine::new(3, Faults::NONE);
        let begin_ms = machine.wall_clock_ms();
        let calls = Arc::new(AtomicU32::new(0));
        let provider_calls = calls.clone();
        let provider = TokenProvider::new(move || {
            let n = provider_calls.fetch_add(1, Ordering::SeqCst);
            async move {
                if n == 1 {
                    return Err("the provider is not reachable".into());
                }
                let expiry_ms = begin_ms + 3_600_000 * (i64::from(n) + 1);
                Ok(OAuthBearerToken::with_expiry_ms(format!("t{n}"), expiry_ms))
            }
        });
        let tokens = token_manager(provider, &machine);
        assert!(tokens.current().is_none() && !tokens.begin_renewal());
        tokens.ensure_token().unwrap();
        assert_eq!(tokens.current().unwrap().value(), "t0");
        tokens.ensure_token().unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 1, "the cached token is still valid");
        machine.jump_wall_clock(3_200_000);
        assert!(tokens.begin_renewal());
        assert!(!tokens.begin_renewal(), "one renewal at a time");
        tokens.renew();
        assert_eq!(tokens.current().unwrap().value(), "t0", "the old token stays in use");
        machine.jump_wall_clock(RENEWAL_RETRY_MS);
        assert!(tokens.begin_renewal());
        tokens.renew();
        assert_eq!(tokens.current().unwrap().value(), "t2");
        assert!(!format!("{:?}", tokens.current().unwrap()).contains("t2"));
        machine.jump_wall_clock(100 * 3_600_000);
        assert!(tokens.current().is_none() && !tokens.begin_renewal(), "the token has expired");
    }

    #[test]
    fn malformed_token_and_missing_provider_are_errors() {
        let machine = SimMachine::new(3, Faults::NONE);
        for value in ["", "a b", "a\x01auth=x", "é"] {
            let provider = TokenProvider::new(move || async move {
                Ok(OAuthBearerToken::with_expiry_ms(value.to_owned(), i64::MAX))
            });
            let tokens = token_manager(provider, &machine);
            assert!(tokens.ensure_token().unwrap_err().fatal, "{value:?}");
        }
        let env: Arc<dyn Env> = Arc::new(machine);
        let no_provider = TokenManager::new(&settings(TokenSource::Provider), None, env);
        assert!(no_provider.err().unwrap().to_string().contains("token provider"));
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("a\"b\\\n"), "\"a\\\"b\\\\\\u000a\"");
    }
}
