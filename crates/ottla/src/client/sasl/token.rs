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
use crate::config::security::{Claim, Mechanism, Refresh, SaslSettings, TokenSource};
use crate::error::Error;
use crate::network::io::Unprepared;
use crate::sync::Mutex;
use crate::time::{Env, Tick, fraction};

/// A token for `sasl.mechanism=OAUTHBEARER` (RFC 7628): what is shown to brokers, and until when it is good.
#[derive(Debug, Clone)]
pub struct Token {
    value: Secret,
    ends_ms: i64,
    extensions: Vec<(String, String)>,
}

impl Token {
    /// A token in its compact form, good until then.
    pub fn new(value: impl Into<String>, ends: SystemTime) -> Token {
        let ends = ends.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        Token::until(value.into(), i64::try_from(ends).unwrap_or(i64::MAX))
    }

    pub(super) fn until(value: String, ends_ms: i64) -> Token {
        Token { value: Secret::new(value), ends_ms, extensions: Vec::new() }
    }

    /// With a SASL extension (KIP-342): a name of ASCII letters, a value of printable ASCII.
    #[must_use]
    pub fn with_extension(mut self, name: impl Into<String>, value: impl Into<String>) -> Token {
        self.extensions.push((name.into(), value.into()));
        self
    }

    pub(super) fn value(&self) -> &str {
        self.value.reveal()
    }

    pub(super) fn extensions(&self) -> &[(String, String)] {
        &self.extensions
    }

    fn is_sound(&self) -> Result<(), String> {
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

type Asked = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;

/// The application's own way to a token.
#[derive(Clone)]
pub(crate) struct Provider(Arc<dyn Fn() -> Asked + Send + Sync>);

impl Provider {
    pub(crate) fn new<F, T>(ask: F) -> Provider
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<Token, TokenError>> + Send + 'static,
    {
        Provider(Arc::new(move || Box::pin(ask())))
    }
}

/// How long a provider may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds between attempts to have a new token while the old one is good.
const RENEWALS_APART_MS: i64 = 10_000;

/// A producer's tokens.
pub(crate) struct Tokens {
    source: Source,
    refresh: Refresh,
    env: Arc<dyn Env>,
    held: Mutex<Held>,
    /// Whoever fetches; others wait for what it brings.
    #[allow(clippy::disallowed_types)]
    fetching: std::sync::Mutex<()>,
}

enum Source {
    Provider(Provider),
    Unsecured(Vec<(String, Claim)>, Duration),
    #[cfg(feature = "oidc")]
    Oidc(Box<super::oidc::Endpoint>),
}

#[derive(Default)]
struct Held {
    token: Option<Arc<Token>>,
    /// On the wall clock.
    renew_ms: i64,
}

impl Tokens {
    /// For OAUTHBEARER; `None` for the others' mechanisms.
    ///
    /// # Errors
    /// Where no token can come from anywhere.
    pub(crate) fn of(
        settings: &SaslSettings,
        provider: Option<Provider>,
        env: Arc<dyn Env>,
    ) -> Result<Option<Tokens>, Error> {
        match settings.mechanism {
            Mechanism::OauthBearer(_) => Tokens::new(settings, provider, env).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn new(
        settings: &SaslSettings,
        provider: Option<Provider>,
        env: Arc<dyn Env>,
    ) -> Result<Tokens, Error> {
        let nowhere = || {
            Error::config(
                "sasl.mechanism=OAUTHBEARER has nowhere to get a token from: give the builder a token provider, or \
                 set sasl.oauthbearer.token.endpoint.url, or, for tests, unsecuredLoginStringClaim_sub in \
                 sasl.jaas.config",
            )
        };
        let Mechanism::OauthBearer(source) = &settings.mechanism else { return Err(nowhere()) };
        let source = match (provider, source) {
            (Some(provider), _) => Source::Provider(provider),
            (None, TokenSource::Unsecured { claims, lifetime }) => {
                Source::Unsecured(claims.clone(), *lifetime)
            }
            #[cfg(feature = "oidc")]
            (None, TokenSource::Oidc(endpoint)) => {
                Source::Oidc(Box::new(super::oidc::Endpoint::new((**endpoint).clone())?))
            }
            _ => return Err(nowhere()),
        };
        let (refresh, held) = (settings.refresh, Mutex::default());
        Ok(Tokens { source, refresh, env, held, fetching: Default::default() })
    }

    /// The token, while it is good.
    pub(crate) fn current(&self) -> Option<Arc<Token>> {
        let held = self.held.lock();
        held.token.clone().filter(|t| t.ends_ms > self.env.wall_ms())
    }

    /// Whether a new one is wanted while the old one is good still; true once, and again after a while. Whoever is told
    /// so has [`Tokens::renew`] run.
    pub(crate) fn begin_renewal(&self) -> bool {
        let now_ms = self.env.wall_ms();
        let mut held = self.held.lock();
        let good = held.token.as_ref().is_some_and(|t| t.ends_ms > now_ms);
        if !good || held.renew_ms > now_ms {
            return false;
        }
        held.renew_ms = now_ms.saturating_add(RENEWALS_APART_MS);
        true
    }

    /// Has a token, if there is none that is good; may take long.
    pub(crate) fn fetch(&self) -> Result<(), Unprepared> {
        // Whoever has one does not wait for another that is fetched meanwhile.
        if self.current().is_some() {
            return Ok(());
        }
        #[allow(clippy::disallowed_methods)]
        let _one_at_a_time = self.fetching.lock();
        if self.current().is_some() {
            return Ok(());
        }
        self.fetch_anew()
    }

    /// Fetches a new one in place of one that is good still, which will do where that fails.
    pub(crate) fn renew(&self) {
        #[allow(clippy::disallowed_methods)]
        let _one_at_a_time = self.fetching.lock();
        if let Err(e) = self.fetch_anew() {
            tracing::warn!("a new token could not be had, the old one will do: {}", e.why);
        }
    }

    fn fetch_anew(&self) -> Result<(), Unprepared> {
        let now_ms = self.env.wall_ms();
        let token = self.ask(now_ms)?;
        token.is_sound().map_err(|why| Unprepared { why, refused: true })?;
        if token.ends_ms <= now_ms {
            return Err(Unprepared {
                why: "the token that came is over already; check this machine's clock".to_owned(),
                refused: true,
            });
        }
        let renew_ms = self.renew_at(now_ms, token.ends_ms);
        *self.held.lock() = Held { token: Some(Arc::new(token)), renew_ms };
        Ok(())
    }

    /// As Java has it: after a part of its life, with a margin before its end, and not at once.
    fn renew_at(&self, now_ms: i64, ends_ms: i64) -> i64 {
        let (r, life) = (&self.refresh, ends_ms.saturating_sub(now_ms) as f64);
        let chance = fraction(self.env.random());
        let planned = now_ms.saturating_add((life * (r.window + r.jitter * chance)) as i64);
        let latest = ends_ms.saturating_sub(r.buffer.as_millis() as i64);
        let earliest = now_ms.saturating_add(r.least.as_millis() as i64);
        if earliest >= latest { planned } else { planned.clamp(earliest, latest) }
    }

    fn ask(&self, now_ms: i64) -> Result<Token, Unprepared> {
        match &self.source {
            Source::Unsecured(claims, lifetime) => {
                let ends_ms = now_ms.saturating_add(lifetime.as_millis() as i64);
                Ok(Token::until(unsecured(claims, now_ms, ends_ms), ends_ms))
            }
            Source::Provider(provider) => {
                let asked = (provider.0)();
                match self.wait(asked) {
                    Some(Ok(token)) => Ok(token),
                    Some(Err(e)) => Err(Unprepared {
                        why: format!("the token provider failed: {e}"),
                        refused: true,
                    }),
                    None => Err(Unprepared {
                        why: format!(
                            "the token provider gave no token within {} s",
                            PATIENCE.as_secs()
                        ),
                        refused: false,
                    }),
                }
            }
            #[cfg(feature = "oidc")]
            Source::Oidc(endpoint) => endpoint.fetch(&self.env, now_ms),
        }
    }

    /// On a helper's thread, which may wait.
    fn wait<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let (waker, by): (_, Tick) = (self.env.unparker(), self.env.now().after(PATIENCE));
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
fn unsecured(claims: &[(String, Claim)], now_ms: i64, ends_ms: i64) -> String {
    let mut members = Vec::new();
    for (name, claim) in claims {
        let value = match claim {
            Claim::Text(text) => json(text),
            Claim::Number(n) => n.to_string(),
            Claim::List(all) => {
                format!("[{}]", all.iter().map(|t| json(t)).collect::<Vec<_>>().join(","))
            }
        };
        members.push(format!("{}:{value}", json(name)));
    }
    // Kafka reads seconds with a fraction.
    members.push(format!("\"iat\":{}", now_ms as f64 / 1e3));
    members.push(format!("\"exp\":{}", ends_ms as f64 / 1e3));
    let body = Zeroizing::new(format!("{{{}}}", members.join(",")));
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.", encode("{\"alg\":\"none\"}"), encode(&body))
}

/// A text as JSON writes it.
fn json(text: &str) -> String {
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
    use crate::network::io::simulated::{Faults, Machine};

    fn settings(source: TokenSource) -> SaslSettings {
        let refresh = Refresh {
            window: 0.8,
            jitter: 0.05,
            buffer: Duration::from_secs(300),
            least: Duration::from_secs(60),
        };
        let mechanism = Mechanism::OauthBearer(source);
        SaslSettings { mechanism, extensions: Vec::new(), refresh }
    }

    #[test]
    fn a_token_is_renewed_within_its_life_as_java_plans_it() {
        let machine = Machine::new(3, Faults::NONE);
        let env: Arc<dyn Env> = Arc::new(machine);
        let provider = Provider::new(|| async { Err("never asked".into()) });
        let t = Tokens::new(&settings(TokenSource::Provider), Some(provider), env).unwrap();
        assert!(t.renew_at(5_000, i64::MAX) > 0, "no overflow");
        for (life_s, low, high) in [(3600, 2880, 3060), (1000, 700, 700), (100, 80, 85)] {
            let at = t.renew_at(5_000, 5_000 + life_s * 1000) - 5_000;
            assert!((low * 1000..=high * 1000).contains(&at), "{life_s}: {at}");
        }
    }

    #[test]
    fn a_provider_is_asked_again_when_it_is_due_and_its_failure_is_told() {
        let machine = Machine::new(3, Faults::NONE);
        let env: Arc<dyn Env> = Arc::new(machine.clone());
        let begun = env.wall_ms();
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = asked.clone();
        let provider = Provider::new(move || {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                if n == 1 {
                    return Err("the vault is shut".into());
                }
                Ok(Token::until(format!("t{n}"), begun + 3_600_000 * (i64::from(n) + 1)))
            }
        });
        let t = Tokens::new(&settings(TokenSource::Provider), Some(provider), env).unwrap();
        assert!(t.current().is_none() && !t.begin_renewal());
        t.fetch().unwrap();
        assert_eq!(t.current().unwrap().value(), "t0");
        t.fetch().unwrap();
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1, "it is good still");
        machine.jump_wall(3_200_000);
        assert!(t.begin_renewal() && !t.begin_renewal(), "one at a time");
        t.renew();
        assert_eq!(t.current().unwrap().value(), "t0", "the old one will do");
        machine.jump_wall(RENEWALS_APART_MS);
        assert!(t.begin_renewal());
        t.renew();
        assert_eq!(t.current().unwrap().value(), "t2");
        assert!(!format!("{:?}", t.current().unwrap()).contains("t2"));
        machine.jump_wall(100 * 3_600_000);
        assert!(t.current().is_none() && !t.begin_renewal(), "it is over");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let machine: Arc<dyn Env> = Arc::new(Machine::new(3, Faults::NONE));
        for bad in ["", "a b", "a\x01auth=x", "é"] {
            let provider =
                Provider::new(move || async move { Ok(Token::until(bad.to_owned(), i64::MAX)) });
            let s = settings(TokenSource::Provider);
            let t = Tokens::new(&s, Some(provider), machine.clone()).unwrap();
            assert!(t.fetch().unwrap_err().refused, "{bad:?}");
        }
        let none = Tokens::new(&settings(TokenSource::Provider), None, machine);
        assert!(none.err().unwrap().to_string().contains("token provider"));
        assert_eq!(json("a\"b\\\n"), "\"a\\\"b\\\\\\u000a\"");
    }
}
