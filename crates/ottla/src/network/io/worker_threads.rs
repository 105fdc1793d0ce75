//! The worker threads of a producer, each kind of job with its own queue.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::env::WorkerPool;

/// The kind of a job. Each kind has its own queue and threads, so that a slow name server or token
/// endpoint does not delay compression.
#[derive(Clone, Copy)]
pub(super) enum JobKind {
    /// Compresses and splits batches.
    Work = 0,
    Resolve = 1,
    /// Reads files and fetches tokens; may call the application's code.
    Prepare = 2,
}

impl JobKind {
    fn thread_name(self) -> &'static str {
        match self {
            JobKind::Work => "ottla-worker",
            JobKind::Resolve => "ottla-resolver",
            JobKind::Prepare => "ottla-prepare",
        }
    }
}

pub(super) struct Task {
    /// The bytes that a caller's task compresses; 0 for other tasks.
    pub(super) bytes: usize,
    pub(super) run: Box<dyn FnOnce() + Send>,
}

/// The maximum of uncompressed bytes that wait for a worker thread, if more batches wait than there
/// are threads; above it, callers compress their batches.
///
/// A thread that finds the next batch in its queue does not sleep: to sleep and to be woken costs
/// as much as some ten kilobytes of lz4. More small batches would delay a batch by more than a
/// millisecond with the slower codecs. A batch of any size may wait for each thread, although it
/// then waits for the compression of another one: a thread that finds none idles until the caller
/// has compressed its own batch and filled the next one.
const MAX_QUEUED_BYTES: usize = 128 * 1024;

/// The worker threads of a producer. They start when there is work, and end when there is none for
/// a while or when the producer ends.
pub(super) struct WorkerThreads {
    /// One queue for each [`JobKind`].
    queues: [JobQueue; 3],
    /// The maximum number of threads for [`JobKind::Work`]: the number of cores minus 1, 1 to 4.
    max_threads: usize,
}

impl Default for WorkerThreads {
    fn default() -> WorkerThreads {
        let max_threads = thread::available_parallelism().map_or(1, |n| (n.get() - 1).clamp(1, 4));
        WorkerThreads { queues: Default::default(), max_threads }
    }
}

#[derive(Default)]
struct JobQueue {
    state: Mutex<JobQueueState>,
    task_available: Condvar,
}

#[derive(Default)]
struct JobQueueState {
    tasks: VecDeque<Task>,
    /// The bytes of `tasks`.
    queued_bytes: usize,
    threads: usize,
    idle_threads: usize,
    shut_down: bool,
}

/// After this time without a task a worker thread ends. Most producers resolve names only at their
/// start, and a process may have many producers.
const WORKER_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct RealWorkerPool(pub(super) Arc<WorkerThreads>);

impl WorkerPool for RealWorkerPool {
    fn try_spawn(
        &self,
        bytes: usize,
        run: Box<dyn FnOnce() + Send>,
    ) -> Option<Box<dyn FnOnce() + Send>> {
        let state = self.0.queues[JobKind::Work as usize].state.lock();
        let has_free_thread =
            state.tasks.len() < state.idle_threads || state.threads < self.0.max_threads;
        let fits = state.tasks.len() < self.0.max_threads
            || state.queued_bytes + bytes <= MAX_QUEUED_BYTES;
        if !(has_free_thread || fits) || state.shut_down {
            return Some(run);
        }
        self.0.submit_locked(JobKind::Work, state, Task { bytes, run });
        None
    }
}

impl WorkerThreads {
    /// Queues the task for a thread of its kind.
    pub(super) fn submit(self: &Arc<Self>, kind: JobKind, task: Task) {
        self.submit_locked(kind, self.queues[kind as usize].state.lock(), task);
    }

    /// Queues the task, and starts a thread if every idle one already has a task to take.
    fn submit_locked(
        self: &Arc<Self>,
        kind: JobKind,
        mut state: MutexGuard<'_, JobQueueState>,
        task: Task,
    ) {
        let max_threads = match kind {
            JobKind::Work => self.max_threads,
            JobKind::Resolve => 2,
            JobKind::Prepare => 4,
        };
        let queue = &self.queues[kind as usize];
        if state.shut_down {
            // The threads have ended. The task must run, because its completion is awaited.
            drop(state);
            return (task.run)();
        }
        state.queued_bytes += task.bytes;
        state.tasks.push_back(task);
        // An idle thread may have been notified for an earlier task and not yet have taken it.
        // So the number of tasks counts, not whether a thread is idle.
        if state.tasks.len() > state.idle_threads && state.threads < max_threads {
            state.threads += 1;
            let threads = self.clone();
            let spawned = thread::Builder::new()
                .name(kind.thread_name().to_owned())
                .spawn(move || threads.queues[kind as usize].run_worker(WORKER_IDLE_TIMEOUT));
            if spawned.is_err() {
                state.threads -= 1;
                // Without any thread the task would wait forever: run it here.
                if state.threads == 0
                    && let Some(task) = state.tasks.pop_back()
                {
                    state.queued_bytes -= task.bytes;
                    drop(state);
                    (task.run)();
                    return;
                }
            }
        }
        drop(state);
        queue.task_available.notify_one();
    }

    /// Ends each thread after it has run the tasks in its queue.
    pub(super) fn shut_down(&self) {
        for queue in &self.queues {
            queue.state.lock().shut_down = true;
            queue.task_available.notify_all();
        }
    }
}

impl JobQueue {
    /// Runs tasks until none has arrived for the timeout, or until the queue shuts down.
    fn run_worker(&self, idle_timeout: Duration) {
        let mut state = self.state.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                state.queued_bytes -= task.bytes;
                drop(state);
                // A task that panics must not end its thread, which is counted in `threads`.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task.run));
                state = self.state.lock();
            } else if state.shut_down {
                return;
            } else {
                state.idle_threads += 1;
                let wait = self.task_available.wait_for(&mut state, idle_timeout);
                state.idle_threads -= 1;
                // A task that arrived just before the timeout counts on this thread.
                if wait.timed_out() && state.tasks.is_empty() {
                    state.threads -= 1;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Worker threads that are all busy until `release` is called.
    struct BusyPool {
        pool: RealWorkerPool,
        releases: Vec<mpsc::Sender<()>>,
        done_sender: mpsc::Sender<usize>,
        done: mpsc::Receiver<usize>,
    }

    impl BusyPool {
        fn new(max_threads: usize) -> BusyPool {
            let threads = WorkerThreads { queues: Default::default(), max_threads };
            let pool = RealWorkerPool(Arc::new(threads));
            let (started_sender, started) = mpsc::channel();
            let mut releases = Vec::new();
            for _ in 0..max_threads {
                let (release, released) = mpsc::channel::<()>();
                let started_sender = started_sender.clone();
                let run = move || {
                    started_sender.send(()).unwrap();
                    let _ = released.recv();
                };
                assert!(pool.try_spawn(1_000_000, Box::new(run)).is_none());
                started.recv().unwrap();
                releases.push(release);
            }
            let (done_sender, done) = mpsc::channel();
            BusyPool { pool, releases, done_sender, done }
        }

        /// Returns whether the task waits for a thread.
        fn spawn(&self, bytes: usize) -> bool {
            let sender = self.done_sender.clone();
            let run = move || sender.send(bytes).unwrap();
            self.pool.try_spawn(bytes, Box::new(run)).is_none()
        }

        /// Returns the sizes of the tasks that have waited.
        fn release(self) -> Vec<usize> {
            drop((self.releases, self.done_sender));
            let sizes = self.done.iter().collect();
            self.pool.0.shut_down();
            sizes
        }
    }

    #[test]
    fn one_large_task_waits_for_each_busy_thread() {
        for max_threads in [1, 2, 4] {
            let pool = BusyPool::new(max_threads);
            assert!((0..max_threads).all(|_| pool.spawn(1_000_000)));
            assert!(!pool.spawn(1_000_000) && !pool.spawn(1));
            assert_eq!(pool.release(), vec![1_000_000; max_threads]);
        }
    }

    #[test]
    fn small_tasks_wait_up_to_a_number_of_bytes() {
        let pool = BusyPool::new(1);
        assert!(pool.spawn(MAX_QUEUED_BYTES / 2) && pool.spawn(1000));
        assert!(!pool.spawn(MAX_QUEUED_BYTES / 2));
        assert_eq!(pool.release(), [MAX_QUEUED_BYTES / 2, 1000]);
    }

    #[test]
    fn idle_worker_thread_runs_its_tasks_and_ends() {
        let queue = JobQueue::default();
        let (sender, receiver) = mpsc::channel();
        let task = |n: i32| {
            let sender = sender.clone();
            Task { bytes: 5, run: Box::new(move || sender.send(n).unwrap()) }
        };
        *queue.state.lock() = JobQueueState {
            tasks: [task(1), task(2)].into(),
            queued_bytes: 10,
            threads: 3,
            ..Default::default()
        };
        queue.run_worker(Duration::ZERO);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
        let state = queue.state.lock();
        assert_eq!((state.threads, state.idle_threads, state.queued_bytes), (2, 0, 0));
    }
}
