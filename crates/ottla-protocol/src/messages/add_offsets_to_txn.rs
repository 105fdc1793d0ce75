//! AddOffsetsToTxn (25): adds the offsets of a group to a transaction (KIP-98).

use crate::wire::message;

impl_request!(AddOffsetsToTxnRequest => AddOffsetsToTxnResponse, ADD_OFFSETS_TO_TXN);

message! {
    /// Adds the offsets of a group to a transaction.
    pub struct AddOffsetsToTxnRequest {
        /// The transactional id.
        transactional_id: String [0..];
        /// The producer id.
        producer_id: i64 [0..];
        /// The producer epoch.
        producer_epoch: i16 [0..];
        /// The group.
        group_id: String [0..];
    }
}

message! {
    /// The result.
    pub struct AddOffsetsToTxnResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
    }
}
