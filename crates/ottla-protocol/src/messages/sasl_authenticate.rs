//! SaslAuthenticate (36): one step of a SASL exchange (KIP-152, KIP-368).

use bytes::Bytes;

use crate::wire::message;

impl_request!(SaslAuthenticateRequest => SaslAuthenticateResponse, SASL_AUTHENTICATE);

message! {
    /// A message of the client to the SASL server.
    pub struct SaslAuthenticateRequest {
        /// The message of the SASL mechanism.
        auth_bytes: Bytes [0..];
    }
}

message! {
    /// A message of the SASL server to the client.
    pub struct SaslAuthenticateResponse {
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The broker's error message; null for none.
        error_message: Option<String> [0..] nullable [0..];
        /// The message of the SASL mechanism.
        auth_bytes: Bytes [0..];
        /// Milliseconds until the client must reauthenticate, 0 for never.
        session_lifetime_ms: i64 [1..];
    }
}
