//! All that was seen of a run: what was accepted, how it ended, what stands in the logs.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ottla::sim::Tick;
use ottla::{BatchReport, Error, RecordMetadata};

/// A record that was accepted.
#[derive(Debug, Clone)]
pub struct SentRecord {
    /// Who sent it.
    pub caller: u64,
    /// The how-many-eth of its caller.
    pub index: u64,
    /// Where it was to go.
    pub topic: String,
    /// Where it was to go.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, unique.
    pub value: Vec<u8>,
    /// When `send` was called.
    pub called_at: Tick,
    /// When `send` returned.
    pub accepted_at: Tick,
    /// Whether it had its own callback.
    pub has_callback: bool,
    /// Whether it had headers, made from its value.
    pub has_headers: bool,
    /// Its own timestamp.
    pub timestamp: Option<i64>,
}

/// What a callback was told: the offset, or the error.
pub type CallbackResult = Result<Option<i64>, String>;

/// How it ended.
#[derive(Debug, Clone)]
pub struct RecordOutcome {
    /// When.
    pub completed_at: Tick,
    /// How.
    pub result: Result<RecordMetadata, Error>,
}

/// A call that was refused.
#[derive(Debug, Clone)]
pub struct RejectedSend {
    /// When `send` was called.
    pub called_at: Tick,
    /// When it returned.
    pub returned_at: Tick,
    /// Whether it waited for memory from the start, and got none: its topic and partition were known.
    pub is_memory_exhausted: bool,
}

/// All that callers saw.
#[derive(Debug, Default)]
pub struct History {
    /// Accepted records and their ends.
    pub records: Vec<(SentRecord, Option<RecordOutcome>)>,
    /// Calls that were refused.
    pub rejected: Vec<RejectedSend>,
    /// Every call of `send`: when it began, when it returned.
    pub send_calls: Vec<(Tick, Tick)>,
    /// What was broken while it happened: the demand, and how.
    pub violations: Vec<(&'static str, String)>,
    /// Probes after the world healed that had to be acknowledged: where, and why they were not.
    pub recovery_results: Vec<(String, Result<(), String>)>,
    /// What each record's callback was told, each time, by token.
    pub callback_results: BTreeMap<u64, Vec<CallbackResult>>,
}

/// When each record ended, as the producer-wide handler heard it: a caller may look later.
#[derive(Clone, Default)]
pub(crate) struct HandlerOutcomes(Arc<Mutex<BTreeMap<u64, HandlerOutcome>>>);

/// When, whether it was acknowledged, how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandlerOutcome {
    pub(crate) completed_at: Tick,
    pub(crate) is_acknowledged: bool,
    pub(crate) reports: u32,
}

impl HandlerOutcomes {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, HandlerOutcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, report: &BatchReport<'_>, now: Tick) {
        let mut all = self.lock();
        for token in report.tokens {
            let first = HandlerOutcome {
                completed_at: now,
                is_acknowledged: report.result.is_ok(),
                reports: 0,
            };
            all.entry(*token).or_insert(first).reports += 1;
        }
    }

    pub(crate) fn contains(&self, token: u64) -> bool {
        self.lock().contains_key(&token)
    }

    pub(crate) fn take(&self) -> BTreeMap<u64, HandlerOutcome> {
        std::mem::take(&mut self.lock())
    }
}

/// A record's token: whose, and which.
pub(crate) fn encode_token(caller: u64, n: u64) -> u64 {
    caller << 32 | n
}
