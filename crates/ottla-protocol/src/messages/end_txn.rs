//! EndTxn (26): commits or aborts a transaction.

use crate::wire::message;

impl_request!(EndTxnRequest => EndTxnResponse, END_TXN);

message! {
    /// Ends a transaction.
    pub struct EndTxnRequest {
        /// The transaction.
        transactional_id: String [0..];
        /// The producer.
        producer_id: i64 [0..];
        /// Its epoch.
        producer_epoch: i16 [0..];
        /// Commit, or else abort.
        committed: bool [0..];
    }
}

message! {
    /// The answer.
    pub struct EndTxnResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// The id to go on with (KIP-890), −1 for none.
        producer_id: i64 [5..] = -1;
        /// The epoch to go on with, −1 for none.
        producer_epoch: i16 [5..] = -1;
    }
}
