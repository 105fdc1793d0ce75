//! Records everything that callers observe in a run. The oracle judges it at the end.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ottla::sim::Tick;
use ottla::{BatchReport, Error, RecordMetadata};

/// A record that `send` accepted.
#[derive(Debug, Clone)]
pub struct SentRecord {
    /// The caller that sent it.
    pub caller: u64,
    /// Its index among the records of its caller.
    pub index: u64,
    /// Its topic.
    pub topic: String,
    /// The partition that the producer chose.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, unique in the run.
    pub value: Vec<u8>,
    /// When `send` was called.
    pub called_at: Tick,
    /// When `send` returned.
    pub accepted_at: Tick,
    /// Whether it had its own callback.
    pub has_callback: bool,
    /// Whether it had headers, made from its value.
    pub has_headers: bool,
    /// Its timestamp, if the caller set one.
    pub timestamp: Option<i64>,
}

/// The argument of a callback: the offset, or the error's text.
pub type CallbackResult = Result<Option<i64>, String>;

/// The result of a record, as its caller saw it.
#[derive(Debug, Clone)]
pub struct RecordOutcome {
    /// When the caller saw it.
    pub completed_at: Tick,
    /// The metadata, or the error.
    pub result: Result<RecordMetadata, Error>,
}

/// An accepted record with its outcome.
#[derive(Debug, Clone)]
pub struct RecordHistory {
    /// The record.
    pub sent: SentRecord,
    /// Its outcome, or `None` as long as its caller has not seen one.
    pub outcome: Option<RecordOutcome>,
}

impl RecordHistory {
    /// Returns the record's result, if its caller has seen it.
    pub(crate) fn result(&self) -> Option<&Result<RecordMetadata, Error>> {
        self.outcome.as_ref().map(|o| &o.result)
    }

    /// Returns the record's error, if it failed.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.result().and_then(|result| result.as_ref().err())
    }

    /// Returns whether the record succeeded.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.result().is_some_and(Result::is_ok)
    }
}

/// A call of `send` that returned an error.
#[derive(Debug, Clone)]
pub struct RejectedSend {
    /// When `send` was called.
    pub called_at: Tick,
    /// When it returned.
    pub returned_at: Tick,
    /// Whether it waited for memory only and got none. Its topic was known before the call.
    pub is_memory_exhausted: bool,
}

/// A call of `send`, accepted or rejected.
#[derive(Debug, Clone, Copy)]
pub struct SendCall {
    /// When `send` was called.
    pub called_at: Tick,
    /// When it returned.
    pub returned_at: Tick,
}

/// An invariant that broke while the run was going on.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The statement of the invariant, from the oracle's table.
    pub invariant: &'static str,
    /// The evidence.
    pub details: String,
}

/// The result of a record that was sent after recovery and has to be acknowledged.
#[derive(Debug, Clone)]
pub struct RecoveryResult {
    /// The record's partition, as `topic-partition`.
    pub partition: String,
    /// The error's text if the record was not acknowledged.
    pub result: Result<(), String>,
}

/// Everything that callers observed.
#[derive(Debug, Default)]
pub struct History {
    /// Accepted records, in the order of acceptance.
    pub records: Vec<RecordHistory>,
    /// Calls of `send` that returned an error.
    pub rejected: Vec<RejectedSend>,
    /// Every call of `send`.
    pub send_calls: Vec<SendCall>,
    /// Invariants that broke during the run.
    pub violations: Vec<Violation>,
    /// Results of the records that were sent after recovery.
    pub recovery_results: Vec<RecoveryResult>,
    /// The arguments of every call of each record's callback, by token.
    pub callback_results: BTreeMap<u64, Vec<CallbackResult>>,
}

/// One call of a record's callback.
#[derive(Debug)]
pub(crate) struct CallbackCall {
    pub(crate) token: u64,
    pub(crate) result: CallbackResult,
}

/// When each record completed, as the delivery handler saw it, by token.
///
/// The handler's time is exact. A caller may look at its delivery much later.
#[derive(Clone, Default)]
pub(crate) struct HandlerOutcomes(Arc<Mutex<BTreeMap<u64, HandlerOutcome>>>);

/// What the delivery handler received for one record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandlerOutcome {
    /// When the first report arrived.
    pub(crate) completed_at: Tick,
    /// Whether the first report was a success.
    pub(crate) is_acknowledged: bool,
    /// The number of reports; more than one breaks an invariant.
    pub(crate) reports: u32,
}

impl HandlerOutcomes {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, HandlerOutcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, report: &BatchReport<'_>, now: Tick) {
        let mut outcomes = self.lock();
        for token in report.tokens {
            let first = HandlerOutcome {
                completed_at: now,
                is_acknowledged: report.result.is_ok(),
                reports: 0,
            };
            outcomes.entry(*token).or_insert(first).reports += 1;
        }
    }

    pub(crate) fn contains(&self, token: u64) -> bool {
        self.lock().contains_key(&token)
    }

    pub(crate) fn take(&self) -> BTreeMap<u64, HandlerOutcome> {
        std::mem::take(&mut self.lock())
    }
}

/// Returns a record's token: its caller in the upper half, its index in the lower half.
pub(crate) fn encode_token(caller: u64, index: u64) -> u64 {
    caller << 32 | index
}

/// Returns the caller and the index in a token.
pub(crate) fn decode_token(token: u64) -> (u64, u64) {
    (token >> 32, token & 0xffff_ffff)
}
