//! The state that all clones of a producer share.
//!
//! `builder.rs` creates it. The calls are in files by subject: `do_send.rs`, `topic_wait.rs`,
//! `memory_wait.rs` and `close.rs`.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use super::transaction::PendingCalls;
use crate::accumulator::RecordAccumulator;
use crate::client::SharedHealth;
use crate::config::ProducerConfig;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, Metric, Sensor};
use crate::sync::Mutex;
use crate::time::Tick;

/// Starts a thread with a name.
pub(crate) type SpawnThread = fn(String, Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

/// The state that all clones of a producer share.
pub(crate) struct ProducerInner {
    pub(crate) config: ProducerConfig,
    pub(crate) accumulator: Arc<RecordAccumulator>,
    pub(crate) health: SharedHealth,
    pub(crate) counters: Arc<Counters>,
    /// The smaller of `max.request.size` and `buffer.memory`.
    pub(crate) max_record_size: usize,
    pub(crate) partitioner: Option<Box<dyn super::Partitioner>>,
    /// Whether `send` may skip interceptors and the custom partitioner, because there are none.
    pub(crate) can_use_fast_path: bool,
    /// The sender's thread; `None` once a close has joined it, and in a simulation.
    pub(crate) sender_thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) pending_calls: PendingCalls,
    /// Starts a thread; empty in a simulation.
    pub(crate) spawn_thread: OnceLock<SpawnThread>,
    /// Detects a fork since the producer was built.
    pub(crate) fork_guard: forkguard::Guard,
}

impl ProducerInner {
    /// Returns whether this is a forked child process.
    ///
    /// `pthread_atfork` counts forks, so this reads one number. `getpid` would be a system call.
    #[inline]
    pub(super) fn is_forked(&self) -> bool {
        self.fork_guard.clone().detected_fork()
    }

    /// Fails in a forked child process, which has a copy of the memory and none of the threads.
    pub(super) fn check_fork(&self) -> Result<(), Error> {
        if !self.is_forked() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Forked,
            "the producer belongs to the process before fork(); create a new one in this process",
        ))
    }

    /// Records the time that a caller waited since `start`.
    pub(super) fn record_wait_time(&self, sensor: Sensor, start: Tick) {
        let now = self.accumulator.env.now();
        self.counters.sensors.record(&[(sensor, now.since(start).as_nanos() as f64)], now);
    }

    /// Returns all metrics; none once the producer is closed.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        self.accumulator.metrics(&self.counters, &self.config.client.client_id)
    }

    /// Returns the deadline of a call that starts to wait now (`max.block.ms`).
    pub(super) fn max_block_deadline(&self) -> Tick {
        self.accumulator.env.now().after(self.config.max_block)
    }
}
