//! All that was seen of a run: what was accepted, how it ended, what stands in the logs.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ottla::sim::Tick;
use ottla::{BatchReport, Error, RecordMetadata};

/// A record that was accepted.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Who sent it.
    pub caller: u64,
    /// The how-many-eth of its caller.
    pub n: u64,
    /// Where it was to go.
    pub topic: String,
    /// Where it was to go.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, unique.
    pub value: Vec<u8>,
    /// When `send` was called.
    pub asked: Tick,
    /// When `send` returned.
    pub accepted: Tick,
    /// Whether it had its own callback.
    pub with_callback: bool,
    /// Whether it had headers, made from its value.
    pub with_headers: bool,
    /// Its own timestamp.
    pub timestamp: Option<i64>,
}

/// What a callback was told: the offset, or the error.
pub type Told = Result<Option<i64>, String>;

/// How it ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// When.
    pub at: Tick,
    /// How.
    pub result: Result<RecordMetadata, Error>,
}

/// A call that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// When `send` was called.
    pub asked: Tick,
    /// When it returned.
    pub at: Tick,
    /// Whether it waited for memory from the start, and got none: its topic and partition were known.
    pub no_memory: bool,
}

/// All that callers saw.
#[derive(Debug, Default)]
pub struct History {
    /// Accepted records and their ends.
    pub records: Vec<(Sent, Option<Ended>)>,
    /// Calls that were refused.
    pub refused: Vec<Refused>,
    /// Every call of `send`: when it began, when it returned.
    pub waits: Vec<(Tick, Tick)>,
    /// What was broken while it happened: the demand, and how.
    pub broken: Vec<(&'static str, String)>,
    /// Probes after the world healed that had to be acknowledged: where, and why they were not.
    pub probes: Vec<(String, Result<(), String>)>,
    /// What each record's callback was told, each time, by token.
    pub callbacks: BTreeMap<u64, Vec<Told>>,
}

/// When each record ended, as the producer-wide handler heard it: a caller may look later.
#[derive(Clone, Default)]
pub(crate) struct Ends(Arc<Mutex<BTreeMap<u64, Heard>>>);

/// When, whether it was acknowledged, how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) at: Tick,
    pub(crate) ok: bool,
    pub(crate) times: u32,
}

impl Ends {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hear(&self, report: &BatchReport<'_>, now: Tick) {
        let mut all = self.all();
        for token in report.tokens {
            let first = Heard { at: now, ok: report.result.is_ok(), times: 0 };
            all.entry(*token).or_insert(first).times += 1;
        }
    }

    pub(crate) fn knows(&self, token: u64) -> bool {
        self.all().contains_key(&token)
    }

    pub(crate) fn take(&self) -> BTreeMap<u64, Heard> {
        std::mem::take(&mut self.all())
    }
}

/// A record's token: whose, and which.
pub(crate) fn token(caller: u64, n: u64) -> u64 {
    caller << 32 | n
}
