//! Bytes and lengths, nothing of their meaning: the seam to the machine, one socket's channel with or without
//! TLS, and the selector that drives them all.

pub(crate) mod io;
pub(crate) mod channel;
pub(crate) mod selector;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_disabled.rs"]
pub(crate) mod tls;
#[cfg(test)]
mod tests;
