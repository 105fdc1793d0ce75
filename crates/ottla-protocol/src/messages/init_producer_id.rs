//! InitProducerId (22): a producer's id and epoch (KIP-98, KIP-360).

use crate::wire::message;

impl_request!(InitProducerIdRequest => InitProducerIdResponse, INIT_PRODUCER_ID);

message! {
    /// Asks for a producer id.
    pub struct InitProducerIdRequest {
        /// Set for transactions only.
        transactional_id: Option<String> [0..] nullable [0..];
        /// Milliseconds after which an open transaction is aborted.
        transaction_timeout_ms: i32 [0..];
        /// The id held so far, −1 for none.
        producer_id: i64 [3..] = -1;
        /// The epoch held so far, −1 for none.
        producer_epoch: i16 [3..] = -1;
        /// Whether two-phase commit is wanted (KIP-939).
        enable_2pc: bool [6..];
        /// Whether a prepared transaction is kept (KIP-939).
        keep_prepared_txn: bool [6..];
    }
}

message! {
    /// A producer id.
    pub struct InitProducerIdResponse {
        /// Milliseconds the broker asks this connection to pause (KIP-219).
        throttle_time_ms: i32 [0..];
        /// Error code, 0 for none.
        error_code: i16 [0..];
        /// The id.
        producer_id: i64 [0..] = -1;
        /// The epoch.
        producer_epoch: i16 [0..];
        /// The id of a prepared transaction, −1 for none.
        ongoing_txn_producer_id: i64 [6..] = -1;
        /// The epoch of a prepared transaction, −1 for none.
        ongoing_txn_producer_epoch: i16 [6..] = -1;
    }
}
