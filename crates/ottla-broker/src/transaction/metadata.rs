//! The state of a transactional id, and how requests change it.
//!
//! Each function takes the state as it is and returns the next one, or the error for the client.
//! The coordinator then stores the next state.

use std::collections::BTreeSet;

use ottla_protocol::ErrorCode;

use crate::core::ClockReading;

/// A producer id and its epoch; −1 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerIdAndEpoch {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicPartition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

/// The state of a transactional id, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionState {
    Empty,
    Ongoing,
    /// The transaction is committed; markers are missing in some of its partitions.
    PrepareCommit,
    /// The transaction is aborted; markers are missing in some of its partitions.
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

impl TransactionState {
    /// Returns whether the transaction has ended, but not in all partitions.
    pub(crate) fn is_prepared(self) -> bool {
        matches!(self, TransactionState::PrepareCommit | TransactionState::PrepareAbort)
    }
}

/// What the coordinator knows about a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransactionMetadata {
    pub(crate) producer: ProducerIdAndEpoch,
    /// The producer id before the current one, for retries of the request that changed it.
    pub(crate) previous_producer_id: i64,
    /// The producer id after the transaction, if the epochs of the current one are exhausted.
    pub(crate) next_producer_id: i64,
    /// The epoch before the current one, if the current producer may resume from it; else −1.
    pub(crate) last_epoch: i16,
    pub(crate) timeout_ms: i32,
    pub(crate) state: TransactionState,
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// When the transaction was begun, in ms since the epoch; −1 for never.
    pub(crate) start_timestamp_ms: i64,
    /// When the coordinator aborts the open transaction, in ms of the monotonic clock.
    pub(crate) deadline_ms: Option<u64>,
    /// The transaction version of the client that changed the state last.
    pub(crate) client_version: i16,
}

/// The result of [`TransactionMetadata::init_producer_id`].
#[derive(Debug)]
pub(crate) enum InitDecision {
    /// The producer gets the id and epoch of this state.
    Initialize(TransactionMetadata),
    /// An open transaction is aborted first.
    AbortFirst,
}

/// The highest epoch that a producer gets. One more is kept for fencing it.
const MAX_PRODUCER_EPOCH: i16 = i16::MAX - 1;

/// Returns whether a producer id has no further epoch for a producer.
pub(crate) fn is_epoch_exhausted(epoch: i16) -> bool {
    epoch >= MAX_PRODUCER_EPOCH
}

impl TransactionMetadata {
    /// Creates the state of a new transactional id, whose producer has no epoch yet.
    pub(crate) fn new(producer_id: i64) -> TransactionMetadata {
        TransactionMetadata {
            producer: ProducerIdAndEpoch { id: producer_id, epoch: -1 },
            previous_producer_id: -1,
            next_producer_id: -1,
            last_epoch: -1,
            timeout_ms: 0,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            start_timestamp_ms: -1,
            deadline_ms: None,
            client_version: 0,
        }
    }

    /// Sets the deadline of an open transaction after a restart: the monotonic clock of the process
    /// before has no meaning here.
    pub(crate) fn restore_deadline(&mut self, now: ClockReading) {
        if self.state == TransactionState::Ongoing {
            let timeout_ms = i64::from(self.timeout_ms.max(0));
            let ends_at = self.start_timestamp_ms.saturating_add(timeout_ms);
            // A wall clock that was set must not make the transaction longer.
            let remaining_ms = ends_at.saturating_sub(now.wall_ms).clamp(0, timeout_ms);
            self.deadline_ms = Some(now.mono_ms + remaining_ms as u64);
        }
    }

    /// Decides an InitProducerId request. `expected` is the producer that wants to resume.
    ///
    /// # Errors
    /// CONCURRENT_TRANSACTIONS while a transaction ends, PRODUCER_FENCED if another producer has
    /// taken over.
    pub(crate) fn init_producer_id(
        &self,
        timeout_ms: i32,
        expected: Option<ProducerIdAndEpoch>,
        new_producer_id: impl FnOnce() -> i64,
    ) -> Result<InitDecision, ErrorCode> {
        if self.state.is_prepared() {
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if expected.is_some_and(|e| !self.may_resume(e)) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        if self.state == TransactionState::Ongoing {
            return Ok(InitDecision::AbortFirst);
        }
        let mut next = TransactionMetadata {
            state: TransactionState::Empty,
            previous_producer_id: self.producer.id,
            timeout_ms,
            partitions: BTreeSet::new(),
            ..self.clone()
        };
        let is_current = expected.is_none_or(|e| e.epoch == self.producer.epoch);
        if is_epoch_exhausted(self.producer.epoch) && is_current {
            next.last_epoch = if expected.is_some() { self.producer.epoch } else { -1 };
            next.producer = ProducerIdAndEpoch { id: new_producer_id(), epoch: 0 };
            return Ok(InitDecision::Initialize(next));
        }
        match expected {
            // A retry of a request whose response was lost gets the same response.
            Some(e) if e.epoch == self.last_epoch && self.last_epoch >= 0 => {
                next.previous_producer_id = self.previous_producer_id;
            }
            Some(e) if self.producer.epoch >= 0 && e.epoch != self.producer.epoch => {
                return Err(ErrorCode::PRODUCER_FENCED);
            }
            _ => {
                next.last_epoch = if expected.is_some() { self.producer.epoch } else { -1 };
                next.producer.epoch += 1;
            }
        }
        Ok(InitDecision::Initialize(next))
    }

    /// Returns whether a producer that was `expected` before may get an epoch.
    fn may_resume(&self, expected: ProducerIdAndEpoch) -> bool {
        // Without an epoch the state is new: the old one has expired.
        self.producer.epoch == -1
            || expected.id == self.producer.id
            || (expected.id == self.previous_producer_id && is_epoch_exhausted(expected.epoch))
    }

    /// Decides a request that adds partitions; `None` if the transaction has them already.
    ///
    /// # Errors
    /// CONCURRENT_TRANSACTIONS while the transaction before ends, INVALID_PRODUCER_ID_MAPPING or
    /// PRODUCER_FENCED for another producer.
    pub(crate) fn add_partitions(
        &self,
        producer: ProducerIdAndEpoch,
        partitions: &BTreeSet<TopicPartition>,
        client_version: i16,
        now: ClockReading,
    ) -> Result<Option<TransactionMetadata>, ErrorCode> {
        // This check comes first: the transaction that ends may change the producer's id and
        // epoch, and its client knows them already (KAFKA-18660).
        if self.state.is_prepared() {
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        self.check_producer(producer)?;
        let is_ongoing = self.state == TransactionState::Ongoing;
        if is_ongoing && partitions.is_subset(&self.partitions) {
            return Ok(None);
        }
        let mut next = TransactionMetadata { client_version, ..self.clone() };
        next.partitions.extend(partitions.iter().cloned());
        if !is_ongoing {
            next.state = TransactionState::Ongoing;
            next.start_timestamp_ms = now.wall_ms;
            next.deadline_ms = Some(now.mono_ms + self.timeout_ms.max(0) as u64);
        }
        Ok(Some(next))
    }

    /// Checks that the open transaction of a producer has a partition (KIP-890).
    ///
    /// # Errors
    /// As [`add_partitions`](TransactionMetadata::add_partitions); TRANSACTION_ABORTABLE if the
    /// transaction does not have the partition.
    pub(crate) fn verify_partition(
        &self,
        producer: ProducerIdAndEpoch,
        partition: &TopicPartition,
    ) -> Result<(), ErrorCode> {
        self.check_producer(producer)?;
        if self.state.is_prepared() {
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if self.partitions.contains(partition) {
            return Ok(());
        }
        Err(ErrorCode::TRANSACTION_ABORTABLE)
    }

    fn check_producer(&self, producer: ProducerIdAndEpoch) -> Result<(), ErrorCode> {
        if producer.id != self.producer.id {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if producer.epoch != self.producer.epoch {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        Ok(())
    }

    /// Returns the state after every partition has its marker.
    pub(crate) fn complete(&self) -> TransactionMetadata {
        let is_commit = self.state == TransactionState::PrepareCommit;
        let mut next = TransactionMetadata {
            state: if is_commit {
                TransactionState::CompleteCommit
            } else {
                TransactionState::CompleteAbort
            },
            partitions: BTreeSet::new(),
            next_producer_id: -1,
            ..self.clone()
        };
        if self.next_producer_id >= 0 {
            next.previous_producer_id = self.producer.id;
            next.producer = ProducerIdAndEpoch { id: self.next_producer_id, epoch: 0 };
        }
        next
    }
}
