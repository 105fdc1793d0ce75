//! OAUTHBEARER's tokens: where they come from, how long they are good for, and when a new one is wanted.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::config::secret::Secret;
use crate::config::security::{LoginRefresh, SaslMechanism, SaslSettings, TokenClaim, TokenSource};
use crate::error::Error;
use crate::network::io::PrepareError;
use crate::sync::Mutex;
use crate::time::{Env, Tick, random_fraction};

/// A token for `sasl.mechanism=OAUTHBEARER` (RFC 7628): what is shown to brokers, and until when it is good.
#[derive(Debug, Clone)]
pub struct OAuthBearerToken {
    value: Secret,
    expiry_ms: i64,
    extensions: Vec<(String, String)>,
}

impl OAuthBearerToken {
    /// A token in its compact form, good until then.
    pub fn new(value: impl Into<String>, ends: SystemTime) -> OAuthBearerToken {
        let ends = ends.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        OAuthBearerToken::with_expiry_ms(value.into(), i64::try_from(ends).unwrap_or(i64::MAX))
    }

    pub(super) fn with_expiry_ms(value: String, ends_ms: i64) -> OAuthBearerToken {
        OAuthBearerToken { value: Secret::new(value), expiry_ms: ends_ms, extensions: Vec::new() }
    }

    /// With a SASL extension (KIP-342): a name of ASCII letters, a value of printable ASCII.
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

    fn validate(&self) -> Result<(), String> {
        let plain = |b: &u8| matches!(b, 0x21..=0x7e);
        if self.value().is_empty() || !self.value().as_bytes().iter().all(plain) {
            return Err("the token is empty, or has signs that no token has".to_owned());
        }
        for (name, value) in &self.extensions {
            let printable = value.bytes().all(|b| matches!(b, 0x20..=0x7e));
            let letters = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic());
            if !letters || name == "auth" || !printable {
                return Err(format!(
                    "the token's extension {name:?} is not one (letters, printable ASCII)"
                ));
            }
        }
        Ok(())
    }
}

/// What a token provider fails with.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

type TokenFuture = Pin<Box<dyn Future<Output = Result<OAuthBearerToken, TokenError>> + Send>>;

/// The application's own way to a token.
#[derive(Clone)]
pub(crate) struct TokenProvider(Arc<dyn Fn() -> TokenFuture + Send + Sync>);

impl TokenProvider {
    pub(crate) fn new<F, T>(ask: F) -> TokenProvider
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<OAuthBearerToken, TokenError>> + Send + 'static,
    {
        TokenProvider(Arc::new(move || Box::pin(ask())))
    }
}

/// How long a provider may take.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Milliseconds between attempts to have a new token while the old one is good.
const RENEWAL_RETRY_MS: i64 = 10_000;

/// A producer's tokens.
pub(crate) struct TokenManager {
    source: TokenFetcher,
    refresh: LoginRefresh,
    env: Arc<dyn Env>,
    cached: Mutex<CachedToken>,
    /// Whoever fetches; others wait for what it brings.
    #[allow(clippy::disallowed_types)]
    fetch_lock: std::sync::Mutex<()>,
}

enum TokenFetcher {
    Provider(TokenProvider),
    Unsecured(Vec<(String, TokenClaim)>, Duration),
    #[cfg(feature = "oidc")]
    Oidc(Box<super::oidc::TokenEndpoint>),
}

#[derive(Default)]
struct CachedToken {
    token: Option<Arc<OAuthBearerToken>>,
    /// On the wall clock.
    renew_at_ms: i64,
}

impl TokenManager {
    /// For OAUTHBEARER; `None` for the others' mechanisms.
    ///
    /// # Errors
    /// Where no token can come from anywhere.
    pub(crate) fn for_mechanism(
        settings: &SaslSettings,
        provider: Option<TokenProvider>,
        env: Arc<dyn Env>,
    ) -> Result<Option<TokenManager>, Error> {
        match settings.mechanism {
            SaslMechanism::OAuthBearer(_) => TokenManager::new(settings, provider, env).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn new(
        settings: &SaslSettings,
        provider: Option<TokenProvider>,
        env: Arc<dyn Env>,
    ) -> Result<TokenManager, Error> {
        let nowhere = || {
            Error::config(
                "sasl.mechanism=OAUTHBEARER has nowhere to get a token from: give the builder a token provider, or \
                 set sasl.oauthbearer.token.endpoint.url, or, for tests, unsecuredLoginStringClaim_sub in \
                 sasl.jaas.config",
            )
        };
        let SaslMechanism::OAuthBearer(source) = &settings.mechanism else { return Err(nowhere()) };
        let source = match (provider, source) {
            (Some(provider), _) => TokenFetcher::Provider(provider),
            (None, TokenSource::Unsecured { claims, lifetime }) => {
                TokenFetcher::Unsecured(claims.clone(), *lifetime)
            }
            #[cfg(feature = "oidc")]
            (None, TokenSource::Oidc(endpoint)) => {
                TokenFetcher::Oidc(Box::new(super::oidc::TokenEndpoint::new((**endpoint).clone())?))
            }
            _ => return Err(nowhere()),
        };
        let (refresh, held) = (settings.refresh, Mutex::default());
        Ok(TokenManager { source, refresh, env, cached: held, fetch_lock: Default::default() })
    }

    /// The token, while it is good.
    pub(crate) fn current(&self) -> Option<Arc<OAuthBearerToken>> {
        let held = self.cached.lock();
        held.token.clone().filter(|t| t.expiry_ms > self.env.wall_clock_ms())
    }

    /// Whether a new one is wanted while the old one is good still; true once, and again after a while. Whoever is told
    /// so has [`Tokens::renew`] run.
    pub(crate) fn begin_renewal(&self) -> bool {
        let now_ms = self.env.wall_clock_ms();
        let mut held = self.cached.lock();
        let good = held.token.as_ref().is_some_and(|t| t.expiry_ms > now_ms);
        if !good || held.renew_at_ms > now_ms {
            return false;
        }
        held.renew_at_ms = now_ms.saturating_add(RENEWAL_RETRY_MS);
        true
    }

    /// Has a token, if there is none that is good; may take long.
    pub(crate) fn ensure_token(&self) -> Result<(), PrepareError> {
        // Whoever has one does not wait for another that is fetched meanwhile.
        if self.current().is_some() {
            return Ok(());
        }
        #[allow(clippy::disallowed_methods)]
        let _one_at_a_time = self.fetch_lock.lock();
        if self.current().is_some() {
            return Ok(());
        }
        self.fetch_and_store()
    }

    /// Fetches a new one in place of one that is good still, which will do where that fails.
    pub(crate) fn renew(&self) {
        #[allow(clippy::disallowed_methods)]
        let _one_at_a_time = self.fetch_lock.lock();
        if let Err(e) = self.fetch_and_store() {
            tracing::warn!("a new token could not be had, the old one will do: {}", e.reason);
        }
    }

    fn fetch_and_store(&self) -> Result<(), PrepareError> {
        let now_ms = self.env.wall_clock_ms();
        let token = self.request_token(now_ms)?;
        token.validate().map_err(|why| PrepareError { reason: why, fatal: true })?;
        if token.expiry_ms <= now_ms {
            return Err(PrepareError {
                reason: "the token that came is over already; check this machine's clock"
                    .to_owned(),
                fatal: true,
            });
        }
        let renew_ms = self.renewal_time_ms(now_ms, token.expiry_ms);
        *self.cached.lock() = CachedToken { token: Some(Arc::new(token)), renew_at_ms: renew_ms };
        Ok(())
    }

    /// As Java has it: after a part of its life, with a margin before its end, and not at once.
    fn renewal_time_ms(&self, now_ms: i64, ends_ms: i64) -> i64 {
        let (r, life) = (&self.refresh, ends_ms.saturating_sub(now_ms) as f64);
        let chance = random_fraction(self.env.random());
        let planned =
            now_ms.saturating_add((life * (r.window_factor + r.window_jitter * chance)) as i64);
        let latest = ends_ms.saturating_sub(r.buffer.as_millis() as i64);
        let earliest = now_ms.saturating_add(r.min_period.as_millis() as i64);
        if earliest >= latest { planned } else { planned.clamp(earliest, latest) }
    }

    fn request_token(&self, now_ms: i64) -> Result<OAuthBearerToken, PrepareError> {
        match &self.source {
            TokenFetcher::Unsecured(claims, lifetime) => {
                let ends_ms = now_ms.saturating_add(lifetime.as_millis() as i64);
                Ok(OAuthBearerToken::with_expiry_ms(
                    unsecured_jwt(claims, now_ms, ends_ms),
                    ends_ms,
                ))
            }
            TokenFetcher::Provider(provider) => {
                let asked = (provider.0)();
                match self.block_on(asked) {
                    Some(Ok(token)) => Ok(token),
                    Some(Err(e)) => Err(PrepareError {
                        reason: format!("the token provider failed: {e}"),
                        fatal: true,
                    }),
                    None => Err(PrepareError {
                        reason: format!(
                            "the token provider gave no token within {} s",
                            PROVIDER_TIMEOUT.as_secs()
                        ),
                        fatal: false,
                    }),
                }
            }
            #[cfg(feature = "oidc")]
            TokenFetcher::Oidc(endpoint) => endpoint.fetch_token(&self.env, now_ms),
        }
    }

    /// On a helper's thread, which may wait.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let (waker, by): (_, Tick) = (self.env.unparker(), self.env.now().after(PROVIDER_TIMEOUT));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(out) = future.as_mut().poll(&mut cx) {
                return Some(out);
            }
            if self.env.now() >= by {
                return None;
            }
            self.env.park(Some(by));
        }
    }
}

/// A token that nobody signed: `alg` is `none`.
fn unsecured_jwt(claims: &[(String, TokenClaim)], now_ms: i64, ends_ms: i64) -> String {
    let mut members = Vec::new();
    for (name, claim) in claims {
        let value = match claim {
            TokenClaim::Text(text) => json_string(text),
            TokenClaim::Number(n) => n.to_string(),
            TokenClaim::List(all) => {
                format!("[{}]", all.iter().map(|t| json_string(t)).collect::<Vec<_>>().join(","))
            }
        };
        members.push(format!("{}:{value}", json_string(name)));
    }
    // Kafka reads seconds with a fraction.
    members.push(format!("\"iat\":{}", now_ms as f64 / 1e3));
    members.push(format!("\"exp\":{}", ends_ms as f64 / 1e3));
    let body = Zeroizing::new(format!("{{{}}}", members.join(",")));
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.", encode("{\"alg\":\"none\"}"), encode(&body))
}

/// A text as JSON writes it.
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
    use crate::network::io::simulated::{Faults, SimMachine};

    fn settings(source: TokenSource) -> SaslSettings {
        let refresh = LoginRefresh {
            window_factor: 0.8,
            window_jitter: 0.05,
            buffer: Duration::from_secs(300),
            min_period: Duration::from_secs(60),
        };
        let mechanism = SaslMechanism::OAuthBearer(source);
        SaslSettings { mechanism, extensions: Vec::new(), refresh }
    }

    #[test]
    fn a_token_is_renewed_within_its_life_as_java_plans_it() {
        let machine = SimMachine::new(3, Faults::NONE);
        let env: Arc<dyn Env> = Arc::new(machine);
        let provider = TokenProvider::new(|| async { Err("never asked".into()) });
        let t = TokenManager::new(&settings(TokenSource::Provider), Some(provider), env).unwrap();
        assert!(t.renewal_time_ms(5_000, i64::MAX) > 0, "no overflow");
        for (life_s, low, high) in [(3600, 2880, 3060), (1000, 700, 700), (100, 80, 85)] {
            let at = t.renewal_time_ms(5_000, 5_000 + life_s * 1000) - 5_000;
            assert!((low * 1000..=high * 1000).contains(&at), "{life_s}: {at}");
        }
    }

    #[test]
    fn a_provider_is_asked_again_when_it_is_due_and_its_failure_is_told() {
        let machine = SimMachine::new(3, Faults::NONE);
        let env: Arc<dyn Env> = Arc::new(machine.clone());
        let begun = env.wall_clock_ms();
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = asked.clone();
        let provider = TokenProvider::new(move || {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                if n == 1 {
                    return Err("the vault is shut".into());
                }
                Ok(OAuthBearerToken::with_expiry_ms(
                    format!("t{n}"),
                    begun + 3_600_000 * (i64::from(n) + 1),
                ))
            }
        });
        let t = TokenManager::new(&settings(TokenSource::Provider), Some(provider), env).unwrap();
        assert!(t.current().is_none() && !t.begin_renewal());
        t.ensure_token().unwrap();
        assert_eq!(t.current().unwrap().value(), "t0");
        t.ensure_token().unwrap();
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1, "it is good still");
        machine.jump_wall_clock(3_200_000);
        assert!(t.begin_renewal() && !t.begin_renewal(), "one at a time");
        t.renew();
        assert_eq!(t.current().unwrap().value(), "t0", "the old one will do");
        machine.jump_wall_clock(RENEWAL_RETRY_MS);
        assert!(t.begin_renewal());
        t.renew();
        assert_eq!(t.current().unwrap().value(), "t2");
        assert!(!format!("{:?}", t.current().unwrap()).contains("t2"));
        machine.jump_wall_clock(100 * 3_600_000);
        assert!(t.current().is_none() && !t.begin_renewal(), "it is over");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let machine: Arc<dyn Env> = Arc::new(SimMachine::new(3, Faults::NONE));
        for bad in ["", "a b", "a\x01auth=x", "é"] {
            let provider = TokenProvider::new(move || async move {
                Ok(OAuthBearerToken::with_expiry_ms(bad.to_owned(), i64::MAX))
            });
            let s = settings(TokenSource::Provider);
            let t = TokenManager::new(&s, Some(provider), machine.clone()).unwrap();
            assert!(t.ensure_token().unwrap_err().fatal, "{bad:?}");
        }
        let none = TokenManager::new(&settings(TokenSource::Provider), None, machine);
        assert!(none.err().unwrap().to_string().contains("token provider"));
        assert_eq!(json_string("a\"b\\\n"), "\"a\\\"b\\\\\\u000a\"");
    }
}
