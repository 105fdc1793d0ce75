//! Moves frames between the client and its brokers: the I/O seam, one channel per connection with
//! or without TLS, and the selector that drives all channels.
//!
//! The client calls [`selector::Selector`]. Nothing here knows the content of a frame.

pub(crate) mod io;
pub(crate) mod channel;
pub(crate) mod selector;
pub(crate) mod tls_details;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_disabled.rs"]
pub(crate) mod tls;
#[cfg(test)]
mod tests;
