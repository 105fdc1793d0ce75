//! EndTxn (26): commits or aborts a transaction.

use crate::wire::message;

impl_request!(EndTxnRequest => EndTxnResponse, END_TXN);

message! {
    /// Commits or aborts a transaction.
    pub struct EndTxnRequest {
        /// The transactional id.
        transactional_id: String [0..];
        /// The producer id.
        producer_id: i64 [0..];
        /// The producer epoch.
        producer_epoch: i16 [0..];
        /// True commits, false aborts.
        committed: bool [0..];
    }
}

message! {
    /// The result.
    pub struct EndTxnResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The producer id for the next transaction (KIP-890), −1 for no change.
        producer_id: i64 [5..] = -1;
        /// The producer epoch for the next transaction, −1 for no change.
        producer_epoch: i16 [5..] = -1;
    }
}
