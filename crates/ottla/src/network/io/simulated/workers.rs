//! Work that is handed out, in virtual time: it is done later, one piece after the other or not, as helpers do.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use super::SimMachine;
use crate::time::{Tick, WorkerPool};

/// The most nanoseconds a helper's work takes.
const MAX_WORK_NS: u64 = 900_000;

/// Work handed out, and when it is done.
#[derive(Default)]
pub(super) struct SimWorkers(VecDeque<(Tick, Box<dyn FnOnce() + Send>)>);

impl std::fmt::Debug for SimWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Helpers({})", self.0.len())
    }
}

impl WorkerPool for SimMachine {
    fn try_spawn(&self, work: Box<dyn FnOnce() + Send>) -> Option<Box<dyn FnOnce() + Send>> {
        if self.next_work_at().is_some() {
            return Some(work);
        }
        self.schedule_work(work);
        None
    }
}

impl SimMachine {
    fn workers(&self) -> MutexGuard<'_, SimWorkers> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When work is done next.
    pub(super) fn next_work_at(&self) -> Option<Tick> {
        self.workers().0.iter().map(|w| w.0).min()
    }

    /// Does the work that is due by then. It is foreign to the machine: no lock is held meanwhile.
    pub(super) fn run_due_work(&self, by: Tick) {
        loop {
            let due = {
                let mut helpers = self.workers();
                let at = helpers.0.iter().position(|(at, _)| *at <= by);
                at.and_then(|at| helpers.0.remove(at))
            };
            let Some((_, work)) = due else { return };
            work();
        }
    }

    /// Takes work; it tells by the mailbox when it is done.
    pub(super) fn schedule_work(&self, work: Box<dyn FnOnce() + Send>) {
        let (now, at) = {
            let mut s = self.state();
            let slow = if s.faults.max_delay_ns == 0 { 0 } else { s.next_random() % MAX_WORK_NS };
            (s.now, Tick(s.now.0 + slow))
        };
        if at == now {
            work();
        } else {
            self.workers().0.push_back((at, work));
        }
    }
}
