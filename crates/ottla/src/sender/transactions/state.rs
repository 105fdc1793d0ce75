//! The states of the transaction manager, and the table of transitions between them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::collections::HashSet;
use crate::consumer_offsets::ConsumedOffsets;
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::wakeup::transaction_call::CallResult;

/// The callers that wait for the same result.
pub(super) type Calls = Vec<Arc<CallResult>>;

/// The state of the transaction manager. Each state owns what it needs.
#[derive(Debug)]
pub(super) enum State {
    /// `init_transactions` was not called, or failed.
    Uninitialized,
    /// InitProducerId is pending.
    Initializing(InitReason, Calls),
    /// No transaction is open.
    Ready(Readiness),
    /// A transaction is open and accepts records.
    InTransaction(Transaction),
    /// The transaction accepts no more records. EndTxn follows once every batch is complete.
    Committing(Transaction, Calls),
    /// As `Committing`, for an abort. There is no caller if the application dropped the
    /// transaction or closes the producer.
    Aborting(Transaction, Calls),
    /// The transaction has failed with this error and has to be aborted.
    AbortableError(Transaction, Error),
    /// The producer has failed. The lifecycle holds the error.
    FatalError,
}

/// The name of a state, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Uninitialized,
    Initializing,
    Ready,
    InTransaction,
    Committing,
    Aborting,
    AbortableError,
    FatalError,
}

/// Why InitProducerId is pending.
#[derive(Debug)]
pub(super) enum InitReason {
    /// `init_transactions` requests the producer id.
    First,
    /// The epoch has to be bumped before the next transaction begins. There may be no call yet.
    Begin,
    /// A failed transaction was aborted, and its sequences are lost.
    AfterAbort(Transaction),
}

/// What the next transaction has to do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Whether the epoch has to be bumped, because a request of the last transaction never
    /// got a response and may still arrive (KAFKA-17754).
    pub(super) must_bump_epoch: bool,
}

/// The version of the transaction protocol (KIP-890).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionVersion {
    /// The client adds each partition with AddPartitionsToTxn.
    V1,
    /// A Produce request adds its partitions, and each EndTxn bumps the epoch.
    V2,
}

/// A transaction that has begun.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) version: TransactionVersion,
    pub(super) started: Started,
    /// Whether EndTxn was sent.
    pub(super) is_ending: bool,
    /// Whether EndTxn has succeeded.
    pub(super) has_ended: bool,
    /// Whether its sequences are lost, or a request never got a response.
    pub(super) must_bump_epoch: bool,
    /// Whether the application has dropped it.
    pub(super) is_abandoned: bool,
    /// The call that has begun it.
    pub(super) begun_by: Arc<CallResult>,
    pub(super) partitions: JoiningPartitions,
    /// The offsets that were not added yet, oldest first.
    pub(super) offsets: VecDeque<PendingOffsets>,
}

/// Whether the coordinator knows of a transaction, so that EndTxn is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Started {
    /// Nothing was sent that starts it.
    No,
    /// A request was sent that starts it, and the response was lost.
    Possibly,
    Yes,
}

/// The partitions of a transaction of version 1, by partition id.
#[derive(Debug, Default)]
pub(super) struct JoiningPartitions {
    joined: HashSet<u32>,
    pub(super) requested: BTreeSet<u32>,
}

/// Offsets that a transaction commits.
#[derive(Debug)]
pub(super) struct PendingOffsets {
    /// The offsets that the group's coordinator has not accepted yet.
    pub(super) consumed: ConsumedOffsets,
    /// Whether the coordinator of the transaction knows the group, as version 1 requires.
    pub(super) is_group_added: bool,
    pub(super) call: Arc<CallResult>,
}

impl JoiningPartitions {
    pub(super) fn has_joined(&self, partition_id: u32) -> bool {
        self.joined.contains(&partition_id)
    }

    /// Adds partitions that AddPartitionsToTxn has accepted.
    pub(super) fn join(&mut self, partition_ids: impl IntoIterator<Item = u32>) {
        for partition_id in partition_ids {
            self.requested.remove(&partition_id);
            self.joined.insert(partition_id);
        }
    }
}

impl Transaction {
    pub(super) fn new(version: TransactionVersion, begun_by: Arc<CallResult>) -> Transaction {
        Transaction {
            version,
            started: Started::No,
            is_ending: false,
            has_ended: false,
            must_bump_epoch: false,
            is_abandoned: false,
            begun_by,
            partitions: JoiningPartitions::default(),
            offsets: VecDeque::new(),
        }
    }

    /// Returns whether new batches of a partition may be sent.
    pub(super) fn has_joined(&self, partition_id: u32) -> bool {
        !self.is_ending
            && (self.version == TransactionVersion::V2
                || inject_bug!(
                    PartitionNotAdded,
                    self.partitions.has_joined(partition_id),
                    self.started == Started::Yes
                ))
    }

    /// Completes the calls that add offsets with an error.
    pub(super) fn fail_offsets(&mut self, error: &Error) {
        for offsets in self.offsets.drain(..) {
            offsets.call.complete(Err(error.clone()));
        }
    }
}

impl State {
    pub(super) fn phase(&self) -> Phase {
        match self {
            State::Uninitialized => Phase::Uninitialized,
            State::Initializing(..) => Phase::Initializing,
            State::Ready(_) => Phase::Ready,
            State::InTransaction(_) => Phase::InTransaction,
            State::Committing(..) => Phase::Committing,
            State::Aborting(..) => Phase::Aborting,
            State::AbortableError(..) => Phase::AbortableError,
            State::FatalError => Phase::FatalError,
        }
    }

    /// Returns the transaction that is open or ends.
    pub(super) fn transaction(&self) -> Option<&Transaction> {
        match self {
            State::InTransaction(t)
            | State::Committing(t, _)
            | State::Aborting(t, _)
            | State::AbortableError(t, _) => Some(t),
            _ => None,
        }
    }

    pub(super) fn transaction_mut(&mut self) -> Option<&mut Transaction> {
        match self {
            State::InTransaction(t)
            | State::Committing(t, _)
            | State::Aborting(t, _)
            | State::AbortableError(t, _) => Some(t),
            _ => None,
        }
    }
}

impl Phase {
    /// All phases, in the order of the table in `docs/TRANSACTIONS.md`.
    #[cfg(test)]
    pub(super) const ALL: [Phase; 8] = [
        Phase::Uninitialized,
        Phase::Initializing,
        Phase::Ready,
        Phase::InTransaction,
        Phase::Committing,
        Phase::Aborting,
        Phase::AbortableError,
        Phase::FatalError,
    ];

    /// Returns the cause of the transition to `next`; `None` if there is no such transition.
    ///
    /// These are the transitions of Kafka's `TransactionManager`, but for four: a failed
    /// `init_transactions` can be repeated, so `Initializing` leads back to `Uninitialized`; a
    /// transaction that has to bump the epoch first leads from `Ready` to `Initializing` and from
    /// there to `InTransaction`; a commit after a lost response leads to `Initializing`.
    pub(super) fn cause_of(self, next: Phase) -> Option<&'static str> {
        use Phase::{
            AbortableError, Aborting, Committing, FatalError, InTransaction, Initializing, Ready,
            Uninitialized,
        };
        Some(match (self, next) {
            (Uninitialized, Initializing) => "`init_transactions`",
            (Initializing, Uninitialized) => {
                "InitProducerId or the credentials were refused, or no server fits"
            }
            (Initializing, Ready) => "the producer id is assigned, or `begin_transaction` failed",
            (Initializing, InTransaction) => "the epoch is bumped, and the transaction begins",
            (Initializing, AbortableError) => "the epoch could not be bumped after an abort",
            (Ready, InTransaction) => "`begin_transaction`",
            (Ready, Initializing) => "`begin_transaction`, if the epoch has to be bumped first",
            (InTransaction, Committing) => "`commit`",
            (InTransaction | AbortableError, Aborting) => "`abort`, a drop, or a close",
            (InTransaction | Committing, AbortableError) => {
                "a record or offsets failed, or the coordinator refuses"
            }
            (Committing | Aborting, Ready) => "EndTxn succeeded, or was not needed",
            (Committing | Aborting, Initializing) => {
                "the epoch has to be bumped, and EndTxn has not done so"
            }
            (_, FatalError) => "the producer is fenced, not authorized, or not supported",
            _ => return None,
        })
    }
}
