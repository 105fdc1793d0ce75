//! SaslAuthenticate (36): one exchange of a SASL mechanism (KIP-152, KIP-368).

use bytes::Bytes;

use crate::wire::message;

impl_request!(SaslAuthenticateRequest => SaslAuthenticateResponse, SASL_AUTHENTICATE);

message! {
    /// The client's bytes.
    pub struct SaslAuthenticateRequest {
        /// The bytes.
        auth_bytes: Bytes [0..];
    }
}

message! {
    /// The broker's bytes.
    pub struct SaslAuthenticateResponse {
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// What the broker says about the error.
        error_message: Option<String> [0..] nullable [0..];
        /// The bytes.
        auth_bytes: Bytes [0..];
        /// Milliseconds until the session must be renewed, 0 for never.
        session_lifetime_ms: i64 [1..];
    }
}
