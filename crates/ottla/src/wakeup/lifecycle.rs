//! The lifecycle of a producer, which callers and the sender share.
//!
//! ```text
//! Running ──close──▶ Closing ──all records complete, or the deadline──▶ Closed
//!    │                  │                                                 ▲
//!    └──fatal error─────┴──────────────▶ Failed ──close───────────────────┘
//! ```
//!
//! [`RecordAccumulator::transition`](crate::accumulator::RecordAccumulator::transition) is the only
//! caller of [`LifecycleCell::transition`]. Appends, the buffer pool and the event queue read the
//! cell. None of them has a flag of its own that means "closed".
//!
//! A transactional producer that runs accepts records only in a transaction. The cell holds this,
//! too: an append then reads one byte, whether the producer is transactional or not.

use std::sync::OnceLock;

use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::time::Tick;

/// The state of a producer's life.
#[derive(Debug, Clone)]
pub(crate) enum Lifecycle {
    /// Accepts records.
    Running,
    /// The application closes the producer. Records that are incomplete at the deadline fail.
    Closing { deadline: Tick },
    /// After a fatal error no request can succeed. All records have failed. The sender only waits
    /// for responses, because the socket may still read the buffers of batches in flight.
    Failed(Error),
    /// The sender has ended: all records are completed, and it reads no event any more.
    Closed,
}

const RUNNING: u8 = 0;
const CLOSING: u8 = 1;
const FAILED: u8 = 2;
const CLOSED: u8 = 3;
/// The bits of the phase in [`LifecycleCell::phase`].
const PHASE_MASK: u8 = 0x7f;
/// The bit that is set while a transactional producer accepts no record.
const NO_TRANSACTION: u8 = 0x80;

impl Lifecycle {
    fn phase(&self) -> u8 {
        match self {
            Lifecycle::Running => RUNNING,
            Lifecycle::Closing { .. } => CLOSING,
            Lifecycle::Failed(_) => FAILED,
            Lifecycle::Closed => CLOSED,
        }
    }
}

/// Holds the lifecycle. It is read without a lock, also by code that holds one.
#[derive(Debug)]
pub(crate) struct LifecycleCell {
    /// The phase, and [`NO_TRANSACTION`].
    phase: AtomicU8,
    /// Why a running transactional producer accepts no record. Set before the bit is.
    refusal: Mutex<Option<Error>>,
    /// The earliest deadline of all calls of `close`; [`Tick::NEVER`] if there was none.
    close_deadline: AtomicU64,
    /// Why the producer failed. Set before the phase is, and kept in [`Lifecycle::Closed`].
    fatal_error: OnceLock<Error>,
}

impl Default for LifecycleCell {
    fn default() -> LifecycleCell {
        LifecycleCell {
            phase: AtomicU8::new(RUNNING),
            refusal: Mutex::default(),
            close_deadline: AtomicU64::new(Tick::NEVER.0),
            fatal_error: OnceLock::new(),
        }
    }
}

impl LifecycleCell {
    pub(crate) fn get(&self) -> Lifecycle {
        match self.phase() {
            RUNNING => Lifecycle::Running,
            CLOSING => Lifecycle::Closing { deadline: self.close_deadline() },
            FAILED => Lifecycle::Failed(self.error_for_new_call()),
            _ => Lifecycle::Closed,
        }
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire) & PHASE_MASK
    }

    /// Returns whether the producer accepts records: it runs, and a transactional producer has an
    /// open transaction.
    ///
    /// An append asks under its partition's lock. The sender takes that lock after a transition,
    /// and so finds every record that was accepted before.
    #[inline]
    pub(crate) fn accepts_records(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == RUNNING
    }

    /// Returns whether the producer runs: it is neither closing nor has failed.
    pub(crate) fn is_running(&self) -> bool {
        self.phase() == RUNNING
    }

    /// Makes a transactional producer refuse records with this error, until it
    /// [opens](Self::open_transaction) a transaction.
    pub(crate) fn close_transaction(&self, refusal: Error) {
        *self.refusal.lock() = Some(refusal);
        self.phase.fetch_or(NO_TRANSACTION, Ordering::AcqRel);
    }

    /// Makes a transactional producer accept records.
    pub(crate) fn open_transaction(&self) {
        self.phase.fetch_and(PHASE_MASK, Ordering::AcqRel);
    }

    /// Returns whether the sender has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase() == CLOSED
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.phase() == FAILED
    }

    /// Returns whether the application has called `close`, also if the producer has failed.
    pub(crate) fn is_close_requested(&self) -> bool {
        self.close_deadline() != Tick::NEVER
    }

    fn close_deadline(&self) -> Tick {
        Tick(self.close_deadline.load(Ordering::Acquire))
    }

    /// Changes the lifecycle. Returns whether it changed. A second close may only make the deadline
    /// earlier; no state leads back to an earlier one.
    pub(crate) fn transition(&self, to: &Lifecycle) -> bool {
        // What belongs to the new state is stored before the state: who reads the state finds it.
        match to {
            Lifecycle::Closing { deadline } => {
                // NEVER stands for "not requested".
                let deadline = deadline.0.min(Tick::NEVER.0 - 1);
                self.close_deadline.fetch_min(deadline, Ordering::AcqRel);
            }
            Lifecycle::Failed(error) => {
                let _ = self.fatal_error.set(error.clone());
            }
            Lifecycle::Running | Lifecycle::Closed => {}
        }
        let to = to.phase();
        let may_change = |from: u8| match (from & PHASE_MASK, to) {
            (RUNNING, CLOSING | FAILED | CLOSED)
            | (CLOSING, FAILED | CLOSED)
            | (FAILED, CLOSED) => Some(from & NO_TRANSACTION | to),
            _ => None,
        };
        self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, may_change).is_ok()
    }

    /// Returns why the producer failed, also after it is closed.
    pub(crate) fn fatal_error(&self) -> Option<&Error> {
        self.fatal_error.get()
    }

    /// Returns why the open transaction has failed: the source of the errors that its calls
    /// return.
    pub(crate) fn transaction_error(&self) -> Option<String> {
        if !self.is_running() || self.accepts_records() {
            return None;
        }
        let refusal = self.refusal.lock();
        let error = refusal.as_ref().filter(|e| e.requires_abort())?;
        Some(std::error::Error::source(error).map_or_else(|| error.to_string(), |s| s.to_string()))
    }

    /// Returns the error of a call that was waiting when the producer stopped to accept records.
    pub(crate) fn error_for_waiting_call(&self) -> Error {
        let closed = || {
            let message = "send failed: the producer was closed while the call was waiting";
            Error::new(ErrorKind::Closed, message)
        };
        self.fatal_error.get().cloned().unwrap_or_else(closed)
    }

    /// Returns the error of a call that begins after the producer stopped to accept records.
    pub(crate) fn error_for_new_call(&self) -> Error {
        let refusal = || if self.is_running() { self.refusal.lock().clone() } else { None };
        self.fatal_error.get().cloned().or_else(refusal).unwrap_or_else(Error::closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> [Lifecycle; 4] {
        let failed = Error::new(ErrorKind::Internal, "fatal").into_fatal();
        [
            Lifecycle::Running,
            Lifecycle::Closing { deadline: Tick(5) },
            Lifecycle::Failed(failed),
            Lifecycle::Closed,
        ]
    }

    #[test]
    fn lifecycle_never_leads_back() {
        let allowed = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
        for (i, from) in states().iter().enumerate() {
            for (k, to) in states().iter().enumerate() {
                let cell = LifecycleCell::default();
                cell.transition(from);
                let changed = cell.transition(to);
                assert_eq!(changed, allowed.contains(&(i, k)), "{from:?} to {to:?}");
                let expected = if changed { to.phase() } else { from.phase() };
                assert_eq!(cell.get().phase(), expected);
                assert_eq!(cell.is_running(), expected == RUNNING);
                assert_eq!(cell.accepts_records(), expected == RUNNING);
            }
        }
    }

    #[test]
    fn transactional_producer_accepts_records_only_in_a_transaction() {
        for state in states() {
            let cell = LifecycleCell::default();
            cell.close_transaction(Error::new(ErrorKind::InvalidTransactionState, "none is open"));
            assert!(cell.is_running() && !cell.accepts_records());
            assert_eq!(cell.error_for_new_call().kind(), ErrorKind::InvalidTransactionState);
            cell.transition(&state);
            assert_eq!(cell.get().phase(), state.phase(), "the bit does not change the phase");
            cell.open_transaction();
            assert_eq!(cell.accepts_records(), matches!(state, Lifecycle::Running));
        }
    }

    #[test]
    fn second_close_can_only_make_the_deadline_earlier() {
        let cell = LifecycleCell::default();
        for (deadline, earliest) in [(50, 50), (70, 50), (20, 20)] {
            cell.transition(&Lifecycle::Closing { deadline: Tick(deadline) });
            let Lifecycle::Closing { deadline } = cell.get() else { panic!("not closing") };
            assert_eq!(deadline, Tick(earliest));
        }
    }

    #[test]
    fn fatal_error_is_the_reason_also_after_the_close() {
        let cell = LifecycleCell::default();
        assert_eq!(cell.error_for_new_call().kind(), ErrorKind::Closed);
        let error = Error::new(ErrorKind::Internal, "fatal").into_fatal();
        cell.transition(&Lifecycle::Failed(error));
        cell.transition(&Lifecycle::Closed);
        assert!(cell.error_for_new_call().is_fatal() && cell.error_for_waiting_call().is_fatal());
    }
}
