//! SaslHandshake (17): selects the SASL mechanism.

use crate::wire::message;

impl_request!(SaslHandshakeRequest => SaslHandshakeResponse, SASL_HANDSHAKE);

message! {
    /// Selects a SASL mechanism.
    pub struct SaslHandshakeRequest {
        /// The mechanism's name.
        mechanism: String [0..];
    }
}

message! {
    /// The result of the selection.
    pub struct SaslHandshakeResponse {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The mechanisms that the broker supports.
        mechanisms: Vec<String> [0..];
    }
}
