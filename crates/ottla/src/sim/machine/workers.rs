//! The simulated worker threads: work completes at a later virtual time, in a random order.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use super::SimMachine;
use crate::env::WorkerPool;
use crate::time::Tick;

/// The maximum duration of a task, in nanoseconds.
const MAX_WORK_NS: u64 = 900_000;

/// The tasks in progress.
#[derive(Default)]
pub(super) struct SimWorkers {
    /// Each with the time at which it completes.
    tasks: VecDeque<(Tick, Box<dyn FnOnce() + Send>)>,
    /// Whether no task completes.
    are_held: bool,
}

impl std::fmt::Debug for SimWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimWorkers({})", self.tasks.len())
    }
}

impl WorkerPool for SimMachine {
    /// Takes the work if no other is in progress: a pool of one thread.
    fn try_spawn(
        &self,
        _: usize,
        work: Box<dyn FnOnce() + Send>,
    ) -> Option<Box<dyn FnOnce() + Send>> {
        if !self.workers().tasks.is_empty() {
            return Some(work);
        }
        self.schedule_work(work);
        None
    }
}

impl SimMachine {
    /// Lets no task complete until [`release_work`](Self::release_work).
    pub fn hold_work(&self) {
        self.workers().are_held = true;
    }

    /// Completes the tasks that [`hold_work`](Self::hold_work) held.
    pub fn release_work(&self) {
        self.workers().are_held = false;
        self.run_due_work(self.now());
    }

    fn workers(&self) -> MutexGuard<'_, SimWorkers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time at which the next task completes.
    pub(super) fn next_work_at(&self) -> Option<Tick> {
        let workers = self.workers();
        let times = workers.tasks.iter().map(|w| w.0);
        if workers.are_held { None } else { times.min() }
    }

    /// Runs the tasks that complete by this time, without a lock: a task may call the machine.
    pub(super) fn run_due_work(&self, deadline: Tick) {
        loop {
            let task = {
                let mut workers = self.workers();
                let is_due = |(at, _): &(Tick, _)| *at <= deadline;
                let i = workers.tasks.iter().position(is_due).filter(|_| !workers.are_held);
                i.and_then(|i| workers.tasks.remove(i))
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
        let mut workers = self.workers();
        if at == now && !workers.are_held {
            drop(workers);
            work();
        } else {
            workers.tasks.push_back((at, work));
        }
    }
}
