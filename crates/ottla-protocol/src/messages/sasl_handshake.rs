//! SaslHandshake (17): the mechanism to authenticate by.

use crate::wire::message;

impl_request!(SaslHandshakeRequest => SaslHandshakeResponse, SASL_HANDSHAKE);

message! {
    /// Names a mechanism.
    pub struct SaslHandshakeRequest {
        /// The mechanism.
        mechanism: String [0..];
    }
}

message! {
    /// Says whether the broker has it.
    pub struct SaslHandshakeResponse {
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// What the broker has.
        mechanisms: Vec<String> [0..];
    }
}
