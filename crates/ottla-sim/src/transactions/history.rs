//! Records what the instances of the application observe of their transactions.

use ottla::sim::Tick;
use ottla::{Delivery, Error};

/// A producer of an instance, from its start to its end.
#[derive(Debug)]
pub(super) struct Incarnation {
    /// The number of its client.
    pub(super) client: u32,
    pub(super) instance: u64,
    /// The number of its transactional id.
    pub(super) id: u64,
    /// When `init_transactions` succeeded.
    pub(super) initialized_at: Option<Tick>,
}

/// A record that `send` accepted in a transaction.
#[derive(Debug)]
pub(super) struct AcceptedRecord {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) value: Vec<u8>,
    pub(super) token: u64,
    pub(super) accepted_at: Tick,
    pub(super) delivery: Delivery,
}

/// What the instance knows of the offsets that a transaction commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OffsetsOutcome {
    NotSent,
    /// `send_offsets` failed, or its future was dropped.
    PossiblyAdded,
    Added,
}

/// What the instance knows of a transaction's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TransactionEnd {
    /// `commit` was never called.
    NotCommitted,
    /// `commit` has not returned, or with an error that leaves the result open.
    Unknown,
    /// `commit` succeeded.
    Committed,
    /// `commit` failed with an error that requires an abort.
    Failed,
}

/// A transaction, as its instance saw it.
#[derive(Debug)]
pub(super) struct TransactionHistory {
    /// The index of its producer.
    pub(super) incarnation: usize,
    pub(super) records: Vec<AcceptedRecord>,
    pub(super) offsets: OffsetsOutcome,
    /// Whether `send` rejected a record with an error that fails the transaction.
    pub(super) has_rejected_record: bool,
    pub(super) end: TransactionEnd,
    /// Whether it began after all faults, and so has to be committed.
    pub(super) must_commit: bool,
    /// The error that ended it, as text.
    pub(super) error: Option<String>,
}

/// A call of the producer that can block.
#[derive(Debug)]
pub(super) struct TimedCall {
    pub(super) name: &'static str,
    pub(super) instance: u64,
    pub(super) called_at: Tick,
    pub(super) returned_at: Tick,
}

/// A call whose error says that another producer has taken over.
#[derive(Debug)]
pub(super) struct FencedCall {
    pub(super) incarnation: usize,
    pub(super) error: String,
}

/// Everything that the instances observe in a run.
#[derive(Debug, Default)]
pub(super) struct TransactionHistories {
    pub(super) incarnations: Vec<Incarnation>,
    pub(super) transactions: Vec<TransactionHistory>,
    pub(super) calls: Vec<TimedCall>,
    pub(super) fenced: Vec<FencedCall>,
    /// Results of calls that the interface does not allow.
    pub(super) violations: Vec<String>,
}

impl TransactionHistories {
    pub(super) fn begin(&mut self, incarnation: usize) -> usize {
        self.transactions.push(TransactionHistory {
            incarnation,
            records: Vec::new(),
            offsets: OffsetsOutcome::NotSent,
            has_rejected_record: false,
            end: TransactionEnd::NotCommitted,
            must_commit: false,
            error: None,
        });
        self.transactions.len() - 1
    }

    /// Returns the offset that a transaction commits: it names the transaction.
    pub(super) fn offset_of(transaction: usize) -> i64 {
        transaction as i64 + 1
    }

    pub(super) fn add_violation(&mut self, call: &str, e: &Error) {
        self.violations.push(format!("{call} failed: {:?}: {e}", e.kind()));
    }
}
