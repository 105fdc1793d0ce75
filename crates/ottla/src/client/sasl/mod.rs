//! What is said over a connection to show who we are: the client's side of PLAIN, SCRAM and OAUTHBEARER, as
//! steps from the broker's bytes to ours. Knows no socket.

#[cfg(feature = "oidc")]
mod oidc;
mod scram;
pub(crate) mod token;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::security::{Mechanism, SaslSettings};
use crate::time::Env;
use scram::Scram;
use token::Tokens;

/// A client's side of an exchange.
pub(crate) enum Exchange {
    /// Everything is said in one message.
    Said,
    /// SCRAM, on its way.
    Scram(Box<Scram>),
    /// A token was shown.
    Token,
    /// The broker has objected to the token, and waits to be heard out.
    Objected(String),
}

impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Next::Done { "Done" } else { "Send([hidden])" })
    }
}

/// What comes next.
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    /// These bytes.
    Send(Zeroizing<Vec<u8>>),
    /// Nothing: both sides are content.
    Done,
}

impl Exchange {
    /// The first bytes. Tokens are there by now.
    ///
    /// # Errors
    /// When there is no token after all, in words.
    pub(crate) fn begin(
        settings: &SaslSettings,
        tokens: Option<&Tokens>,
        env: &Arc<dyn Env>,
    ) -> Result<(Exchange, Zeroizing<Vec<u8>>), String> {
        match &settings.mechanism {
            Mechanism::Plain { user, password } => {
                let mut first = Zeroizing::new(Vec::new());
                for part in ["", "\0", user, "\0", password.reveal()] {
                    first.extend_from_slice(part.as_bytes());
                }
                Ok((Exchange::Said, first))
            }
            Mechanism::Scram { hash, user, password, token_auth } => {
                let (scram, first) =
                    Scram::begin(*hash, user, password.clone(), *token_auth, &env.entropy());
                Ok((Exchange::Scram(Box::new(scram)), first))
            }
            Mechanism::OauthBearer(_) => {
                let token = tokens.and_then(Tokens::current).ok_or("there is no token")?;
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
                Ok((Exchange::Token, first))
            }
        }
    }

    /// What comes after the broker said this.
    ///
    /// # Errors
    /// When what it says shows that it is not who it claims, or is not to be understood; in words.
    pub(crate) fn next(&mut self, said: &[u8]) -> Result<Next, String> {
        match self {
            Exchange::Said => Ok(Next::Done),
            Exchange::Scram(scram) => scram.next(said),
            Exchange::Token if said.is_empty() => Ok(Next::Done),
            Exchange::Token => {
                // RFC 7628, 3.2.3: a JSON text on what is wrong, to be answered by one byte.
                let text: String = String::from_utf8_lossy(said).chars().take(400).collect();
                *self = Exchange::Objected(text);
                Ok(Next::Send(Zeroizing::new(vec![1])))
            }
            Exchange::Objected(text) => Err(format!("the token is not accepted: {text}")),
        }
    }

    /// What the broker had against it, where it said so before it ended.
    pub(crate) fn objection(&self) -> Option<&str> {
        match self {
            Exchange::Objected(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;
    use crate::config::security::{Refresh, TokenSource};
    use crate::network::io::simulated::{Faults, Machine};
    use std::time::Duration;

    fn settings(mechanism: Mechanism) -> SaslSettings {
        let zero = Duration::ZERO;
        let refresh = Refresh { window: 0.8, jitter: 0.0, buffer: zero, least: zero };
        SaslSettings { mechanism, extensions: vec![("a".into(), "b".into())], refresh }
    }

    fn env() -> Arc<dyn Env> {
        Arc::new(Machine::new(1, Faults::NONE))
    }

    #[test]
    fn sa1_plain_is_one_message() {
        let s = settings(Mechanism::Plain { user: "bob".into(), password: Secret::new("pw") });
        let (mut exchange, first) = Exchange::begin(&s, None, &env()).unwrap();
        assert_eq!(&first[..], b"\0bob\0pw");
        assert_eq!(exchange.next(b"").unwrap(), Next::Done);
    }

    #[test]
    fn sa1_a_token_goes_with_its_extensions_and_an_objection_is_heard_out() {
        let claims = vec![("sub".to_owned(), crate::config::security::Claim::Text("u".into()))];
        let source = TokenSource::Unsecured { claims, lifetime: Duration::from_secs(60) };
        let s = settings(Mechanism::OauthBearer(source));
        let tokens = Tokens::new(&s, None, env()).unwrap();
        assert!(Exchange::begin(&s, Some(&tokens), &env()).is_err(), "none was made");
        tokens.fetch().unwrap();
        let (mut exchange, first) = Exchange::begin(&s, Some(&tokens), &env()).unwrap();
        let text = String::from_utf8(first.to_vec()).unwrap();
        assert!(text.starts_with("n,,\x01auth=Bearer eyJhbGciOiJub25lIn0."), "{text}");
        assert!(text.ends_with(".\x01a=b\x01\x01"), "{text}");
        let next = exchange.next(b"{\"status\":\"invalid_token\"}").unwrap();
        assert_eq!(next, Next::Send(Zeroizing::new(vec![1])));
        assert!(exchange.objection().unwrap().contains("invalid_token"));
        assert!(exchange.next(b"").unwrap_err().contains("invalid_token"));
    }
}
