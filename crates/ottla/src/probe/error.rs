//! Why a step of a probe failed, and what to change.

use crate::client::authenticator::ExchangeError;
use crate::network::channel::DisconnectReason;

/// Why a step failed.
#[derive(Debug)]
pub struct ProbeError {
    /// What failed and why. It may contain texts of the broker.
    pub reason: String,
    /// What to change; empty if nothing is known.
    pub advice: String,
}

impl ProbeError {
    pub(super) fn new(reason: impl Into<String>, advice: impl Into<String>) -> ProbeError {
        ProbeError { reason: reason.into(), advice: advice.into() }
    }
}

impl From<String> for ProbeError {
    fn from(reason: String) -> ProbeError {
        ProbeError { reason, advice: String::new() }
    }
}

impl From<ExchangeError> for ProbeError {
    fn from(e: ExchangeError) -> ProbeError {
        ProbeError::new(e.error.reason, e.advice)
    }
}

impl From<&DisconnectReason> for ProbeError {
    /// Splits the text: what to do stands behind its last semicolon. The names in a certificate,
    /// which are not ours, stand before it.
    fn from(reason: &DisconnectReason) -> ProbeError {
        let text = reason.to_string();
        match text.rsplit_once("; ") {
            Some((reason, advice)) => ProbeError::new(reason, advice),
            None => text.into(),
        }
    }
}

impl std::fmt::Display for ProbeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}
