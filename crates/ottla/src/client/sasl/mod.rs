//! What is said over a connection to show who we are: the client's side of PLAIN, SCRAM and OAUTHBEARER, as
//! steps from the broker's bytes to ours. Knows no socket.

#[cfg(feature = "oidc")]
mod oidc;
mod scram;
pub(crate) mod token;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::security::{SaslMechanism, SaslSettings};
use crate::time::Env;
use scram::ScramClient;
use token::TokenManager;

/// A client's side of an exchange.
pub(crate) enum SaslClient {
    /// Everything is said in one message.
    AwaitingResult,
    /// SCRAM, on its way.
    Scram(Box<ScramClient>),
    /// A token was shown.
    OAuthBearer,
    /// The broker has objected to the token, and waits to be heard out.
    Rejected(String),
}

impl std::fmt::Debug for SaslAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == SaslAction::Complete { "Done" } else { "Send([hidden])" })
    }
}

/// What comes next.
#[derive(PartialEq, Eq)]
pub(crate) enum SaslAction {
    /// These bytes.
    Send(Zeroizing<Vec<u8>>),
    /// Nothing: both sides are content.
    Complete,
}

impl SaslClient {
    /// The first bytes. Tokens are there by now.
    ///
    /// # Errors
    /// When there is no token after all, in words.
    pub(crate) fn begin(
        settings: &SaslSettings,
        tokens: Option<&TokenManager>,
        env: &Arc<dyn Env>,
    ) -> Result<(SaslClient, Zeroizing<Vec<u8>>), String> {
        match &settings.mechanism {
            SaslMechanism::Plain { user, password } => {
                let mut first = Zeroizing::new(Vec::new());
                for part in ["", "\0", user, "\0", password.reveal()] {
                    first.extend_from_slice(part.as_bytes());
                }
                Ok((SaslClient::AwaitingResult, first))
            }
            SaslMechanism::Scram { hash, user, password, token_auth } => {
                let (scram, first) = ScramClient::begin(
                    *hash,
                    user,
                    password.clone(),
                    *token_auth,
                    &env.secure_random(),
                );
                Ok((SaslClient::Scram(Box::new(scram)), first))
            }
            SaslMechanism::OAuthBearer(_) => {
                let token = tokens.and_then(TokenManager::current).ok_or("there is no token")?;
                let extensions = || settings.extensions.iter().chain(token.extensions());
                let more: usize = extensions().map(|(n, v)| n.len() + v.len() + 2).sum();
                // With room for all of it, so that no copy stays behind where it grew.
                let mut first = Zeroizing::new(Vec::with_capacity(32 + token.value().len() + more));
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

    /// What comes after the broker said this.
    ///
    /// # Errors
    /// When what it says shows that it is not who it claims, or is not to be understood; in words.
    pub(crate) fn evaluate_challenge(&mut self, said: &[u8]) -> Result<SaslAction, String> {
        match self {
            SaslClient::AwaitingResult => Ok(SaslAction::Complete),
            SaslClient::Scram(scram) => scram.evaluate_challenge(said),
            SaslClient::OAuthBearer if said.is_empty() => Ok(SaslAction::Complete),
            SaslClient::OAuthBearer => {
                // RFC 7628, 3.2.3: a JSON text on what is wrong, to be answered by one byte.
                let text: String = String::from_utf8_lossy(said).chars().take(400).collect();
                *self = SaslClient::Rejected(text);
                Ok(SaslAction::Send(Zeroizing::new(vec![1])))
            }
            SaslClient::Rejected(text) => Err(format!("the token is not accepted: {text}")),
        }
    }

    /// What the broker had against it, where it said so before it ended.
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
    use crate::config::security::{LoginRefresh, TokenSource};
    use crate::network::io::simulated::{Faults, SimMachine};
    use std::time::Duration;

    fn settings(mechanism: SaslMechanism) -> SaslSettings {
        let zero = Duration::ZERO;
        let refresh =
            LoginRefresh { window_factor: 0.8, window_jitter: 0.0, buffer: zero, min_period: zero };
        SaslSettings { mechanism, extensions: vec![("a".into(), "b".into())], refresh }
    }

    fn env() -> Arc<dyn Env> {
        Arc::new(SimMachine::new(1, Faults::NONE))
    }

    #[test]
    fn sa1_plain_is_one_message() {
        let s = settings(SaslMechanism::Plain { user: "bob".into(), password: Secret::new("pw") });
        let (mut exchange, first) = SaslClient::begin(&s, None, &env()).unwrap();
        assert_eq!(&first[..], b"\0bob\0pw");
        assert_eq!(exchange.evaluate_challenge(b"").unwrap(), SaslAction::Complete);
    }

    #[test]
    fn sa1_a_token_goes_with_its_extensions_and_an_objection_is_heard_out() {
        let claims =
            vec![("sub".to_owned(), crate::config::security::TokenClaim::Text("u".into()))];
        let source = TokenSource::Unsecured { claims, lifetime: Duration::from_secs(60) };
        let s = settings(SaslMechanism::OAuthBearer(source));
        let tokens = TokenManager::new(&s, None, env()).unwrap();
        assert!(SaslClient::begin(&s, Some(&tokens), &env()).is_err(), "none was made");
        tokens.ensure_token().unwrap();
        let (mut exchange, first) = SaslClient::begin(&s, Some(&tokens), &env()).unwrap();
        let text = String::from_utf8(first.to_vec()).unwrap();
        assert!(text.starts_with("n,,\x01auth=Bearer eyJhbGciOiJub25lIn0."), "{text}");
        assert!(text.ends_with(".\x01a=b\x01\x01"), "{text}");
        let next = exchange.evaluate_challenge(b"{\"status\":\"invalid_token\"}").unwrap();
        assert_eq!(next, SaslAction::Send(Zeroizing::new(vec![1])));
        assert!(exchange.rejection().unwrap().contains("invalid_token"));
        assert!(exchange.evaluate_challenge(b"").unwrap_err().contains("invalid_token"));
    }
}
