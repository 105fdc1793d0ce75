//! The simulated worker threads: work completes at a later virtual time, in a random order.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use super::SimMachine;
use crate::env::WorkerPool;
use crate::time::Tick;

/// The maximum duration of a task, in nanoseconds.
const MAX_WORK_NS: u64 = 900_000;

/// The tasks in progress, each with the time at which it completes.
#[derive(Default)]
pub(super) struct SimWorkers(VecDeque<(Tick, Box<dyn FnOnce() + Send>)>);

impl std::fmt::Debug for SimWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimWorkers({})", self.0.len())
    }
}

impl WorkerPool for SimMachine {
    /// Takes the work if no other is in progress: a pool of one thread.
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
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time at which the next task completes.
    pub(super) fn next_work_at(&self) -> Option<Tick> {
        self.workers().0.iter().map(|w| w.0).min()
    }

    /// Runs the tasks that complete by this time, without a lock: a task may call the machine.
    pub(super) fn run_due_work(&self, deadline: Tick) {
        loop {
            let task = {
                let mut workers = self.workers();
                let i = workers.0.iter().position(|(at, _)| *at <= deadline);
                i.and_then(|i| workers.0.remove(i))
            };
            let Some((_, work)) = task else { return };
            work();
        }
    }

    /// Schedules a task; without delays it runs at once. The task itself reports its result.
    pub(super) fn schedule_work(&self, work: Box<dyn FnOnce() + Send>) {
        let (now, at) = {
            let mut s = self.state();
            let duration =
                if s.faults.max_delay_ns == 0 { 0 } else { s.next_random() % MAX_WORK_NS };
            (s.now, Tick(s.now.0 + duration))
        };
        if at == now {
            work();
        } else {
            self.workers().0.push_back((at, work));
        }
    }
}
