//! InitProducerId (22): issues a producer id and epoch (KIP-98, KIP-360).

use crate::wire::message;

impl_request!(InitProducerIdRequest => InitProducerIdResponse, INIT_PRODUCER_ID);

message! {
    /// Requests a producer id.
    pub struct InitProducerIdRequest {
        /// The transactional id; null without transactions.
        transactional_id: Option<String> [0..] nullable [0..];
        /// Milliseconds after which an open transaction is aborted.
        transaction_timeout_ms: i32 [0..];
        /// The producer's current id, −1 for none.
        producer_id: i64 [3..] = -1;
        /// The producer's current epoch, −1 for none.
        producer_epoch: i16 [3..] = -1;
        /// Whether the producer uses two-phase commit (KIP-939).
        enable_2pc: bool [6..];
        /// Whether the broker keeps a prepared transaction (KIP-939).
        keep_prepared_txn: bool [6..];
    }
}

message! {
    /// The producer id and epoch.
    pub struct InitProducerIdResponse {
        /// Milliseconds for which the client is to send nothing on this connection (KIP-219).
        throttle_time_ms: i32 [0..];
        /// The error code, 0 for none.
        error_code: i16 [0..];
        /// The producer id.
        producer_id: i64 [0..] = -1;
        /// The producer epoch.
        producer_epoch: i16 [0..];
        /// The producer id of a prepared transaction, −1 for none.
        ongoing_txn_producer_id: i64 [6..] = -1;
        /// The producer epoch of a prepared transaction, −1 for none.
        ongoing_txn_producer_epoch: i16 [6..] = -1;
    }
}
