//! Decides EndTxn requests, and the aborts by which the coordinator fences a producer.
//!
//! With transactions V1, a retried EndTxn looks like a late one (KAFKA-17754). With V2,
//! each end has an epoch of its own, so a retry is recognized by its old epoch (KIP-890).

use ottla_protocol::ErrorCode;

use crate::transaction::TRANSACTIONS_V2;
use crate::transaction::metadata::{
    ProducerIdAndEpoch, TransactionMetadata, TransactionState, is_epoch_exhausted,
};

/// An EndTxn request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndTxn {
    pub(crate) producer: ProducerIdAndEpoch,
    pub(crate) committed: bool,
    /// The client's transaction version: 2 from version 5 of the API on.
    pub(crate) client_version: i16,
}

/// The result of [`TransactionMetadata::end`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EndDecision {
    /// The transaction has ended so already; the producer continues with this id and epoch.
    AlreadyEnded(ProducerIdAndEpoch),
    /// The transaction ends: this is its state until its partitions have their markers.
    Prepare(TransactionMetadata),
}

impl TransactionMetadata {
    /// Decides an EndTxn request.
    ///
    /// # Errors
    /// INVALID_PRODUCER_ID_MAPPING or PRODUCER_FENCED for another producer,
    /// CONCURRENT_TRANSACTIONS while the transaction ends, INVALID_TXN_STATE without one.
    pub(crate) fn end(
        &self,
        request: EndTxn,
        new_producer_id: impl FnOnce() -> i64,
    ) -> Result<EndDecision, ErrorCode> {
        if request.client_version >= TRANSACTIONS_V2 {
            self.end_v2(request, new_producer_id)
        } else {
            self.end_v1(request)
        }
    }

    fn end_v1(&self, request: EndTxn) -> Result<EndDecision, ErrorCode> {
        if request.producer.id != self.producer.id {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if request.producer.epoch != self.producer.epoch {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match (self.state, request.committed) {
            (TransactionState::Ongoing, committed) => {
                let mut next = self.prepare(committed);
                next.client_version = request.client_version;
                Ok(EndDecision::Prepare(next))
            }
            (TransactionState::CompleteCommit, true) | (TransactionState::CompleteAbort, false) => {
                Ok(EndDecision::AlreadyEnded(self.producer))
            }
            (TransactionState::PrepareCommit, true) | (TransactionState::PrepareAbort, false) => {
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
            _ => Err(ErrorCode::INVALID_TXN_STATE),
        }
    }

    fn end_v2(
        &self,
        request: EndTxn,
        new_producer_id: impl FnOnce() -> i64,
    ) -> Result<EndDecision, ErrorCode> {
        let (producer, current) = (request.producer, self.producer);
        let is_retry_with_old_id = self.previous_producer_id == producer.id
            && producer.epoch == i16::MAX - 1
            && current.epoch == 0;
        let is_retry = is_retry_with_old_id || current.epoch == producer.epoch.saturating_add(1);
        if producer.id != current.id && !is_retry_with_old_id {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if self.state.is_prepared() {
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        let is_complete = matches!(
            self.state,
            TransactionState::CompleteCommit | TransactionState::CompleteAbort
        );
        if producer.epoch != current.epoch && !(is_retry && is_complete) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match (self.state, request.committed) {
            (TransactionState::CompleteCommit, true) | (TransactionState::CompleteAbort, false)
                if is_retry =>
            {
                Ok(EndDecision::AlreadyEnded(current))
            }
            // The coordinator has aborted the transaction, and then the commit arrived
            // (KAFKA-20785).
            (TransactionState::CompleteAbort, true) if is_retry => Err(ErrorCode::PRODUCER_FENCED),
            (TransactionState::CompleteCommit, false) if is_retry => {
                Err(ErrorCode::INVALID_TXN_STATE)
            }
            // With V2 the client does not know whether a partition was added. An abort without
            // one bumps the epoch, too.
            (TransactionState::Ongoing, _) | (_, false) => {
                let mut next = self.prepare(request.committed);
                next.client_version = request.client_version;
                next.bump_epoch(current.epoch, new_producer_id);
                Ok(EndDecision::Prepare(next))
            }
            (_, true) => Err(ErrorCode::INVALID_TXN_STATE),
        }
    }

    /// Returns the state in which the coordinator aborts the open transaction and fences its
    /// producer: after a time-out, or when another producer takes over.
    ///
    /// `version` is the cluster's transaction version.
    pub(crate) fn abort_and_fence(
        &self,
        version: i16,
        new_producer_id: impl FnOnce() -> i64,
    ) -> TransactionMetadata {
        let mut next = self.prepare(false);
        next.client_version = version;
        if version >= TRANSACTIONS_V2 {
            next.bump_epoch(-1, new_producer_id);
        } else {
            (next.producer.epoch, next.last_epoch) = (self.producer.epoch.saturating_add(1), -1);
        }
        next
    }

    fn prepare(&self, committed: bool) -> TransactionMetadata {
        TransactionMetadata {
            state: if committed {
                TransactionState::PrepareCommit
            } else {
                TransactionState::PrepareAbort
            },
            deadline_ms: None,
            ..self.clone()
        }
    }

    /// Bumps the epoch. If that is the last one, the next transaction has a new producer id.
    fn bump_epoch(&mut self, last_epoch: i16, new_producer_id: impl FnOnce() -> i64) {
        if is_epoch_exhausted(self.producer.epoch) {
            self.next_producer_id = new_producer_id();
        }
        self.last_epoch = last_epoch;
        self.producer.epoch = self.producer.epoch.saturating_add(1);
    }
}
