//! The transaction coordinator: the state of each transactional id.
//!
//! The handlers call the methods of [`Core`] here. Each one checks that the node is the
//! coordinator, lets [`TransactionMetadata`] decide, and stores the next state.

use std::collections::{BTreeMap, BTreeSet};

use ottla_protocol::ErrorCode;

use crate::coordinator_log::CoordinatorLog;
use crate::coordinators::CoordinatorType;
use crate::core::{ClockReading, Core};
use crate::transaction::end_txn::{EndDecision, EndTxn};
use crate::transaction::markers::MarkerQueue;
use crate::transaction::metadata::{
    InitDecision, ProducerIdAndEpoch, TopicPartition, TransactionMetadata,
};

/// All transactional ids.
#[derive(Debug)]
pub(crate) struct TransactionCoordinator {
    pub(super) by_id: BTreeMap<String, TransactionMetadata>,
    /// The open transactions, in order of the time at which they are aborted.
    deadlines: BTreeSet<(u64, String)>,
    /// The transactions that have ended, but lack markers.
    pub(super) prepared: BTreeSet<String>,
    pub(super) markers: MarkerQueue,
    /// The log in the data directory; `None` if the state is in memory only.
    pub(super) log: Option<CoordinatorLog>,
    /// The cluster's finalized `transaction.version`.
    pub(crate) version: i16,
    /// How often the finalized features have changed.
    pub(crate) features_epoch: i64,
    /// Kafka's `transaction.max.timeout.ms`.
    max_timeout_ms: i32,
}

impl TransactionCoordinator {
    pub(crate) fn new(version: i16, max_timeout_ms: i32) -> TransactionCoordinator {
        TransactionCoordinator {
            by_id: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            prepared: BTreeSet::new(),
            markers: MarkerQueue::default(),
            log: None,
            version,
            features_epoch: 1,
            max_timeout_ms,
        }
    }

    /// Stores the state of a transactional id, first in the log.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if the log cannot be written. The state has not changed then.
    pub(super) fn store(
        &mut self,
        id: &str,
        next: TransactionMetadata,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        self.append_to_log(id, &next, now)?;
        self.put(id, next);
        self.compact_log_if_due(now);
        Ok(())
    }

    /// Sets the state of a transactional id in memory.
    pub(super) fn put(&mut self, id: &str, next: TransactionMetadata) {
        let deadline = next.deadline_ms;
        if next.state.is_prepared() {
            self.prepared.insert(id.to_owned());
        } else {
            self.prepared.remove(id);
        }
        if let Some(old) = self.by_id.insert(id.to_owned(), next).and_then(|m| m.deadline_ms) {
            self.deadlines.remove(&(old, id.to_owned()));
        }
        self.deadlines.extend(deadline.map(|at| (at, id.to_owned())));
    }

    /// Returns the highest producer id of a transactional id, so that new ids are higher.
    pub(crate) fn max_producer_id(&self) -> Option<i64> {
        self.by_id.values().map(|m| m.producer.id.max(m.next_producer_id)).max()
    }

    /// Returns when the next transaction times out or the next marker is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let time_out = self.deadlines.first().map(|(at, _)| *at);
        time_out.into_iter().chain(self.markers.next_due()).min()
    }
}

impl Core {
    /// Returns a producer id that no producer has.
    pub(crate) fn issue_producer_id(&mut self) -> i64 {
        let id = self.producer_ids.next;
        // A client may have written with the highest id, which it was not given.
        self.producer_ids.next = id.saturating_add(1);
        self.producer_ids.issued += 1;
        id
    }

    fn check_coordinator(&self, id: &str, node: i32, now: ClockReading) -> Result<(), ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        self.coordinators.check(CoordinatorType::Transaction, id, node, now.mono_ms)
    }

    fn transaction(&self, id: &str) -> Result<&TransactionMetadata, ErrorCode> {
        self.transactions.by_id.get(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)
    }

    /// Gives a transactional producer its id and epoch (InitProducerId).
    ///
    /// `expected` is the id and epoch from which the producer wants to resume (KIP-360).
    ///
    /// # Errors
    /// CONCURRENT_TRANSACTIONS while an open transaction is aborted: the client asks again.
    pub(crate) fn init_transactional_id(
        &mut self,
        node: i32,
        id: &str,
        timeout_ms: i32,
        expected: Option<ProducerIdAndEpoch>,
        now: ClockReading,
    ) -> Result<ProducerIdAndEpoch, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        if !(1..=self.transactions.max_timeout_ms).contains(&timeout_ms) {
            return Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
        }
        self.check_coordinator(id, node, now)?;
        let metadata = match self.transactions.by_id.get(id) {
            Some(metadata) => metadata.clone(),
            None => {
                let mut new = TransactionMetadata::new(self.issue_producer_id());
                new.producer.epoch = self.producer_ids.initial_epoch - 1;
                new
            }
        };
        let decision =
            metadata.init_producer_id(timeout_ms, expected, || self.issue_producer_id())?;
        match decision {
            InitDecision::Initialize(next) => {
                let producer = next.producer;
                self.transactions.store(id, next, now)?;
                Ok(producer)
            }
            InitDecision::AbortFirst => {
                self.abort_open_transaction(id, now)?;
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
        }
    }

    /// Adds partitions to the open transaction of a producer, or begins one with them.
    ///
    /// # Errors
    /// The error code for the client; see [`TransactionMetadata::add_partitions`].
    pub(crate) fn add_partitions_to_txn(
        &mut self,
        node: i32,
        id: &str,
        producer: ProducerIdAndEpoch,
        partitions: &BTreeSet<TopicPartition>,
        client_version: i16,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        self.check_coordinator(id, node, now)?;
        let metadata = self.transaction(id)?;
        let next = metadata.add_partitions(producer, partitions, client_version, now)?;
        next.map_or(Ok(()), |next| self.transactions.store(id, next, now))
    }

    /// Checks that the open transaction of a producer has a partition (KIP-890).
    ///
    /// # Errors
    /// The error code for the client; see [`TransactionMetadata::verify_partition`].
    pub(crate) fn verify_partition_in_txn(
        &self,
        node: i32,
        id: &str,
        producer: ProducerIdAndEpoch,
        partition: &TopicPartition,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        self.check_coordinator(id, node, now)?;
        self.transaction(id)?.verify_partition(producer, partition)
    }

    /// Ends a transaction (EndTxn) and begins to write its markers.
    ///
    /// Returns the id and epoch of the producer's next transaction.
    ///
    /// # Errors
    /// The error code for the client; see [`TransactionMetadata::end`].
    pub(crate) fn end_txn(
        &mut self,
        node: i32,
        id: &str,
        request: EndTxn,
        now: ClockReading,
    ) -> Result<ProducerIdAndEpoch, ErrorCode> {
        self.check_coordinator(id, node, now)?;
        let metadata = self.transaction(id)?.clone();
        match metadata.end(request, || self.issue_producer_id())? {
            EndDecision::AlreadyEnded(producer) => Ok(producer),
            EndDecision::Prepare(next) => {
                let producer = next.complete().producer;
                self.prepare_transaction(id, next, now)?;
                Ok(producer)
            }
        }
    }

    /// Stores the end of a transaction and begins to write its markers.
    fn prepare_transaction(
        &mut self,
        id: &str,
        next: TransactionMetadata,
        now: ClockReading,
    ) -> Result<(), ErrorCode> {
        self.transactions.store(id, next, now)?;
        self.schedule_txn_markers(id, now);
        self.write_due_markers(now);
        Ok(())
    }

    fn abort_open_transaction(&mut self, id: &str, now: ClockReading) -> Result<(), ErrorCode> {
        let metadata = self.transaction(id)?.clone();
        let version = self.transactions.version;
        let next = metadata.abort_and_fence(version, || self.issue_producer_id());
        self.prepare_transaction(id, next, now)
    }

    /// Aborts the transactions that have timed out and writes the markers that are due.
    pub(crate) fn tick_transactions(&mut self, now: ClockReading) {
        while let Some((at, id)) = self.transactions.deadlines.first().cloned()
            && at <= now.mono_ms
        {
            // Without a coordinator, or a log to write to, the time-out waits for them.
            let coordinator = self.coordinators.node(CoordinatorType::Transaction, &id);
            let timed_out = coordinator.and_then(|node| self.check_coordinator(&id, node, now));
            let aborted = timed_out.and_then(|()| self.abort_open_transaction(&id, now));
            if aborted.is_ok() {
                tracing::info!(transactional_id = id, "transaction timed out, it is aborted");
            } else {
                self.transactions.deadlines.remove(&(at, id.clone()));
                let retry_at = now.mono_ms + crate::transaction::markers::RETRY_MS;
                if let Some(metadata) = self.transactions.by_id.get_mut(&id) {
                    metadata.deadline_ms = Some(retry_at);
                }
                self.transactions.deadlines.insert((retry_at, id));
            }
        }
        self.write_due_markers(now);
    }
}

/// Settings and observations for tests.
impl Core {
    /// Changes the finalized `transaction.version`: 2 for transactions V2 (KIP-890), 0 or 1 for V1.
    ///
    /// Clients learn the new version from ApiVersions, on their next connection.
    pub fn set_transaction_version(&mut self, version: i16) {
        self.transactions.version = version.clamp(0, 2);
        self.transactions.features_epoch += 1;
    }
}
