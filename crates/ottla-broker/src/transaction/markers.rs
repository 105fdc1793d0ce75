//! Writes the markers that end a transaction, one partition after the other.
//!
//! Each marker is a step of its own: it is scheduled, appended by the partition's leader, and done
//! when the in-sync replicas have it. Tests and the simulation can delay each step. When the last
//! marker is done, the transaction is complete.

use std::collections::BTreeMap;

use ottla_protocol::ErrorCode;
use ottla_protocol::record::{BatchHeaderView, BatchView, ControlRecordType, EndTransactionMarker};

use crate::coordinators::{CoordinatorType, OFFSETS_TOPIC};
use crate::core::{AppendedBatch, ClockReading, Core};
use crate::transaction::TRANSACTIONS_V2;
use crate::transaction::metadata::{ProducerIdAndEpoch, TopicPartition, TransactionState};

/// How long the coordinator waits before it tries a marker again.
pub(super) const RETRY_MS: u64 = 20;

/// Returns the delay of a marker in milliseconds, for a topic and partition.
type MarkerDelayFn = Box<dyn FnMut(&str, i32) -> u64 + Send>;

/// The markers that are not done, by transactional id and partition.
#[derive(Default)]
pub(crate) struct MarkerQueue {
    pending: BTreeMap<(String, TopicPartition), MarkerState>,
    delay: Option<MarkerDelayFn>,
}

/// How far a marker has come.
#[derive(Debug, Clone, Copy)]
enum MarkerState {
    /// The marker is to be written at this time, in ms of the monotonic clock.
    Scheduled { at_ms: u64 },
    /// The leader has appended the marker. It is done when the high watermark reaches `end_offset`.
    Replicating { leader_epoch: i32, end_offset: i64 },
}

/// A marker for a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkerRequest {
    pub(crate) producer: ProducerIdAndEpoch,
    pub(crate) committed: bool,
    pub(crate) coordinator_epoch: i32,
    /// The transaction version; 0 if unknown.
    pub(crate) transaction_version: i16,
}

impl MarkerRequest {
    fn to_record(self) -> EndTransactionMarker {
        let control_type =
            if self.committed { ControlRecordType::Commit } else { ControlRecordType::Abort };
        EndTransactionMarker { control_type, coordinator_epoch: self.coordinator_epoch }
    }
}

/// Where the leader has appended a marker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AppendedMarker {
    leader_epoch: i32,
    end_offset: i64,
}

impl std::fmt::Debug for MarkerQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MarkerQueue({:?})", self.pending)
    }
}

impl MarkerQueue {
    /// Returns when the next marker is to be written.
    pub(super) fn next_due(&self) -> Option<u64> {
        let due = self.pending.values().filter_map(|state| match state {
            MarkerState::Scheduled { at_ms } => Some(*at_ms),
            MarkerState::Replicating { .. } => None,
        });
        due.min()
    }

    fn has_markers_of(&self, id: &str) -> bool {
        let first = TopicPartition { topic: String::new(), partition: i32::MIN };
        self.pending.range((id.to_owned(), first)..).next().is_some_and(|((n, _), _)| n == id)
    }
}

impl Core {
    /// Sets a function that returns the delay of each transaction marker in milliseconds.
    ///
    /// Its arguments are the topic's name and the partition. Without such a function, the default,
    /// markers are written before the response to EndTxn.
    pub fn set_txn_marker_delay(&mut self, delay: impl FnMut(&str, i32) -> u64 + Send + 'static) {
        self.transactions.markers.delay = Some(Box::new(delay) as MarkerDelayFn);
    }

    /// Lets markers be written without delay again.
    pub fn clear_txn_marker_delay(&mut self) {
        self.transactions.markers.delay = None;
    }

    /// Schedules a marker for each partition of a transaction that is about to end.
    pub(super) fn schedule_txn_markers(&mut self, id: &str, now: ClockReading) {
        let transactions = &mut self.transactions;
        let Some(metadata) = transactions.by_id.get(id) else { return };
        for partition in metadata.partitions.clone() {
            let delay = transactions.markers.delay.as_mut();
            let delay_ms = delay.map_or(0, |d| d(&partition.topic, partition.partition));
            let state = MarkerState::Scheduled { at_ms: now.mono_ms + delay_ms };
            transactions.markers.pending.insert((id.to_owned(), partition), state);
        }
    }

    /// Schedules all markers of the transactions that are about to end once more.
    ///
    /// A new coordinator knows from its log that a transaction ends, but not which markers its
    /// predecessor has written. A second marker does no harm.
    pub(crate) fn resend_txn_markers(&mut self, now: ClockReading) {
        for id in self.transactions.prepared.clone() {
            self.schedule_txn_markers(&id, now);
        }
        self.write_due_markers(now);
    }

    /// Writes the markers that are due, and completes the transactions that have all of them.
    pub(crate) fn write_due_markers(&mut self, now: ClockReading) {
        let keys: Vec<(String, TopicPartition)> =
            self.transactions.markers.pending.keys().cloned().collect();
        for key in keys {
            let Some(state) = self.transactions.markers.pending.remove(&key) else { continue };
            if let Some(next) = self.advance_marker(&key.0, &key.1, state, now) {
                self.transactions.markers.pending.insert(key, next);
            }
        }
        self.complete_transactions(now);
    }

    /// Takes the next step of a marker. Returns `None` when the marker is done.
    fn advance_marker(
        &mut self,
        id: &str,
        partition: &TopicPartition,
        state: MarkerState,
        now: ClockReading,
    ) -> Option<MarkerState> {
        let appended = match state {
            MarkerState::Scheduled { at_ms } if at_ms > now.mono_ms => return Some(state),
            MarkerState::Scheduled { .. } => match self.write_txn_marker(id, partition, now) {
                Ok(appended) => appended?,
                Err(code) if is_retriable(code) => {
                    return Some(MarkerState::Scheduled { at_ms: now.mono_ms + RETRY_MS });
                }
                Err(code) => {
                    let TopicPartition { topic, partition } = partition;
                    tracing::warn!(topic, partition, "transaction marker not written: {code}");
                    return None;
                }
            },
            MarkerState::Replicating { leader_epoch, end_offset } => {
                AppendedMarker { leader_epoch, end_offset }
            }
        };
        let AppendedMarker { leader_epoch, end_offset } = appended;
        let topic = self.topics.by_name.get(&partition.topic)?;
        let p = topic.partitions.get(partition.partition as usize)?;
        if p.leader_epoch != leader_epoch {
            // The new leader may lack the marker.
            let again = MarkerState::Scheduled { at_ms: now.mono_ms };
            return self.advance_marker(id, partition, again, now);
        }
        let is_done = p.high_watermark >= end_offset;
        (!is_done).then_some(MarkerState::Replicating { leader_epoch, end_offset })
    }

    /// Writes the marker of a transaction to a partition, for the coordinator.
    ///
    /// Returns `None` for the offsets of groups, which have no replicas.
    fn write_txn_marker(
        &mut self,
        id: &str,
        partition: &TopicPartition,
        now: ClockReading,
    ) -> Result<Option<AppendedMarker>, ErrorCode> {
        // Only a live coordinator that has read its log writes markers.
        let node = self.coordinators.node(CoordinatorType::Transaction, id)?;
        self.coordinators.check(CoordinatorType::Transaction, id, node, now.mono_ms)?;
        let metadata = self.transactions.by_id.get(id).ok_or(ErrorCode::INVALID_TXN_STATE)?;
        let request = MarkerRequest {
            producer: metadata.producer,
            committed: metadata.state == TransactionState::PrepareCommit,
            coordinator_epoch: self.coordinators.epoch(CoordinatorType::Transaction, id),
            transaction_version: metadata.client_version,
        };
        if partition.topic == OFFSETS_TOPIC {
            let (number, producer) = (partition.partition, request.producer);
            self.groups.end_transaction(number, producer, request.to_record(), now)?;
            return Ok(None);
        }
        let topic = self.topics.by_name.get(&partition.topic);
        let p = topic.and_then(|t| t.partitions.get(partition.partition as usize));
        let leader = p.map_or(-1, |p| p.leader);
        self.append_marker(leader, partition, request, now).map(Some)
    }

    /// Appends a marker to a partition that a node leads.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER, NOT_ENOUGH_REPLICAS,
    /// INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED or KAFKA_STORAGE_ERROR.
    pub(crate) fn append_marker(
        &mut self,
        node: i32,
        partition: &TopicPartition,
        request: MarkerRequest,
        now: ClockReading,
    ) -> Result<AppendedMarker, ErrorCode> {
        let MarkerRequest { producer, coordinator_epoch, transaction_version, .. } = request;
        self.leader_partition(node, &partition.topic, partition.partition)?;
        let Core { topics, nodes, append_history, .. } = self;
        let topic = topics.by_name.get_mut(&partition.topic);
        let topic = topic.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let min_isr = topic.min_isr();
        let p = &mut topic.partitions[partition.partition as usize];
        if (p.isr.len() as i32) < min_isr {
            return Err(ErrorCode::NOT_ENOUGH_REPLICAS);
        }
        let leader_epoch = p.leader_epoch;
        let replica = p.leader_replica_mut().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        replica.producer_state.check_marker(
            producer.id,
            producer.epoch,
            coordinator_epoch,
            transaction_version >= TRANSACTIONS_V2,
        )?;
        let bytes = request.to_record().encode_batch(producer.id, producer.epoch, now.wall_ms);
        let invalid = |_| ErrorCode::UNKNOWN_SERVER_ERROR;
        let (batch, view) = (
            BatchView::parse(&bytes).map_err(invalid)?,
            BatchHeaderView::parse(&bytes).map_err(invalid)?,
        );
        let base_offset = (replica.log.append_as_leader(&bytes, &view, leader_epoch))
            .map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR)?;
        replica.producer_state.on_batch(&batch, base_offset, now.wall_ms);
        nodes.replicate(p, now);
        if let Some(history) = append_history {
            let (topic, partition) = (partition.topic.clone(), partition.partition);
            history.push(AppendedBatch { topic, partition, base_offset, records: bytes.into() });
        }
        Ok(AppendedMarker { leader_epoch, end_offset: base_offset + 1 })
    }

    /// Completes the transactions that have all their markers.
    fn complete_transactions(&mut self, now: ClockReading) {
        let transactions = &mut self.transactions;
        for id in transactions.prepared.clone() {
            if transactions.markers.has_markers_of(&id) {
                continue;
            }
            if let Some(next) = transactions.by_id.get(&id).map(|m| m.complete()) {
                // If the log cannot be written, a restart writes the markers once more, which does
                // no harm, and completes the transaction in the same way.
                let _ = transactions.append_to_log(&id, &next, now);
                transactions.put(&id, next);
            }
        }
    }
}

/// Returns whether the coordinator tries a marker again after an error.
fn is_retriable(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            | ErrorCode::NOT_COORDINATOR
    )
}
