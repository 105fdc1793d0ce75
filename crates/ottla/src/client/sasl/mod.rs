//! The client side of the SASL mechanisms PLAIN, SCRAM and OAUTHBEARER.
//!
//! It maps each challenge of the broker to the next message of the client, without a socket.
//! `client::authentication` sends the messages in SaslAuthenticate requests.

#[cfg(feature = "oidc")]
mod oidc;
mod scram;
pub(crate) mod token;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::security::{SaslCredentials, SaslSettings};
use crate::env::Env;
use scram::ScramClient;
use token::TokenManager;

/// The client side of one SASL exchange.
pub(crate) enum SaslClient {
    /// PLAIN: the only message is sent.
    AwaitingResult,
    /// SCRAM: the exchange is in progress.
    Scram(Box<ScramClient>),
    /// OAUTHBEARER: the token is sent.
    OAuthBearer,
    /// OAUTHBEARER: the broker rejected the token with this text. The client must send one more
    /// message before the broker ends the exchange.
    Rejected(String),
}

/// What the client does after a challenge.
pub(crate) enum SaslAction {
    /// Send this message.
    Send(Zeroizing<Vec<u8>>),
    /// Run this work, which is too slow for the sender's thread, on a worker thread. Then send the
    /// message of [`SaslClient::take_computed`].
    Compute(Box<dyn FnOnce() + Send>),
    /// Nothing: client and broker are authenticated.
    Complete,
}

impl std::fmt::Debug for SaslAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Messages contain credentials.
        f.write_str(match self {
            SaslAction::Send(_) => "Send([hidden])",
            SaslAction::Compute(_) => "Compute",
            SaslAction::Complete => "Complete",
        })
    }
}

impl SaslClient {
    /// Begins an exchange and returns its first message. For OAUTHBEARER,
    /// [`TokenManager::ensure_token`] must have fetched a token before.
    ///
    /// # Errors
    /// There is no token that is still valid.
    pub(crate) fn begin(
        settings: &SaslSettings,
        tokens: Option<&TokenManager>,
        env: &Arc<dyn Env>,
    ) -> Result<(SaslClient, Zeroizing<Vec<u8>>), String> {
        match &settings.credentials {
            SaslCredentials::Plain { user, password } => {
                let mut first = Zeroizing::new(Vec::new());
                for part in ["", "\0", user, "\0", password.reveal()] {
                    first.extend_from_slice(part.as_bytes());
                }
                Ok((SaslClient::AwaitingResult, first))
            }
            SaslCredentials::Scram { hash, user, password, token_auth } => {
                let (scram, first) = ScramClient::begin(
                    *hash,
                    user,
                    password.clone(),
                    *token_auth,
                    &env.secure_random(),
                );
                Ok((SaslClient::Scram(Box::new(scram)), first))
            }
            SaslCredentials::OAuthBearer(_) => {
                let token =
                    tokens.and_then(TokenManager::current).ok_or("there is no valid token")?;
                let extensions = || settings.extensions.iter().chain(token.extensions());
                let extensions_len: usize = extensions().map(|(n, v)| n.len() + v.len() + 2).sum();
                let len = 32 + token.value().len() + extensions_len;
                // With full capacity the buffer never reallocates, which would leave a copy of the
                // token in freed memory.
                let mut first = Zeroizing::new(Vec::with_capacity(len));
                first.extend_from_slice(b"n,,\x01auth=Bearer ");
                first.extend_from_slice(token.value().as_bytes());
                for (name, value) in extensions() {
                    first.extend_from_slice(format!("\x01{name}={value}").as_bytes());
                }
                first.extend_from_slice(b"\x01\x01");
                Ok((SaslClient::OAuthBearer, first))
            }
        }
    }

    /// Handles the broker's challenge, and returns what the client does next.
    ///
    /// # Errors
    /// The challenge is malformed, the broker rejected the credentials, or it could not prove that
    /// it knows the password. The text says which.
    pub(crate) fn evaluate_challenge(&mut self, challenge: &[u8]) -> Result<SaslAction, String> {
        match self {
            SaslClient::AwaitingResult => Ok(SaslAction::Complete),
            SaslClient::Scram(scram) => scram.evaluate_challenge(challenge),
            SaslClient::OAuthBearer if challenge.is_empty() => Ok(SaslAction::Complete),
            SaslClient::OAuthBearer => {
                // RFC 7628, 3.2.3: the broker rejects a token with a JSON text. It reports the
                // failure only after the client has sent one byte 0x01.
                let text: String = String::from_utf8_lossy(challenge).chars().take(400).collect();
                *self = SaslClient::Rejected(text);
                Ok(SaslAction::Send(Zeroizing::new(vec![1])))
            }
            SaslClient::Rejected(text) => Err(format!("the broker rejected the token: {text}")),
        }
    }

    /// Returns the next message once the work of [`SaslAction::Compute`] is done.
    pub(crate) fn take_computed(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        match self {
            SaslClient::Scram(scram) => scram.take_computed(),
            _ => None,
        }
    }

    /// Returns the reason for which the broker rejected the token, if it gave one.
    pub(crate) fn rejection(&self) -> Option<&str> {
        match self {
            SaslClient::Rejected(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;
    use crate::config::security::{LoginRefresh, TokenClaim, TokenSource};
    use crate::sim::{Faults, SimMachine};
    use std::time::Duration;

    fn settings(credentials: SaslCredentials) -> SaslSettings {
        let zero = Duration::ZERO;
        let refresh =
            LoginRefresh { window_factor: 0.8, window_jitter: 0.0, buffer: zero, min_period: zero };
        SaslSettings { credentials, extensions: vec![("a".into(), "b".into())], refresh }
    }

    fn env() -> Arc<dyn Env> {
        Arc::new(SimMachine::new(1, Faults::NONE))
    }

    // CASES: SA1.
    #[test]
    fn plain_sends_one_message() {
        let s =
            settings(SaslCredentials::Plain { user: "bob".into(), password: Secret::new("pw") });
        let (mut client, first) = SaslClient::begin(&s, None, &env()).unwrap();
        assert_eq!(&first[..], b"\0bob\0pw");
        assert!(matches!(client.evaluate_challenge(b"").unwrap(), SaslAction::Complete));
    }

    // CASES: SA1.
    #[test]
    fn oauthbearer_sends_token_with_extensions_and_reports_a_rejection() {
        let claims = vec![("sub".to_owned(), TokenClaim::Text("u".into()))];
        let source = TokenSource::Unsecured { claims, lifetime: Duration::from_secs(60) };
        let s = settings(SaslCredentials::OAuthBearer(source));
        let tokens = TokenManager::new(&s, None, env()).unwrap();
        assert!(SaslClient::begin(&s, Some(&tokens), &env()).is_err(), "no token is fetched yet");
        tokens.ensure_token().unwrap();
        let (mut client, first) = SaslClient::begin(&s, Some(&tokens), &env()).unwrap();
        let text = String::from_utf8(first.to_vec()).unwrap();
        assert!(text.starts_with("n,,\x01auth=Bearer eyJhbGciOiJub25lIn0."), "{text}");
        assert!(text.ends_with(".\x01a=b\x01\x01"), "{text}");
        let action = client.evaluate_challenge(b"{\"status\":\"invalid_token\"}").unwrap();
        assert!(matches!(action, SaslAction::Send(message) if *message == [1]));
        assert!(client.rejection().unwrap().contains("invalid_token"));
        assert!(client.evaluate_challenge(b"").unwrap_err().contains("invalid_token"));
    }
}
