//! Where records wait: memory, batches, and the line of each partition. Callers append; the sender asks what
//! is ready, drains it, and settles it. Knows no socket and no protocol beyond the record batch.

pub(crate) mod append;
pub(crate) mod batch;
pub(crate) mod buffer_pool;
pub(crate) mod caller_context;
pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod batch_completions;
pub(crate) mod event_queue;
mod deadline_queue;
pub(crate) mod partition;
pub(crate) mod builtin_partitioner;
pub(crate) mod ready;
pub(crate) mod append_only_vec;
pub(crate) mod batch_size_estimator;
pub(crate) mod split;
pub(crate) mod topics;
pub(crate) mod waiters;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ottla_protocol::compression::{Codec, Compressor};

use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;
use crate::time::{Env, Tick, WorkerPool};
use batch::{BatchEncoder, ClosedBatch, OpenBatch};
use batch_completions::DeliveryListeners;
use buffer_pool::BufferPool;
use builtin_partitioner::{Partitioning, Rack};
use caller_context::CallerContext;
use completion::Outcome;
use event_queue::{Event, EventQueue};
use partition::{Partition, QueuedBatch};
use topics::TopicInfoMap;

/// The settings that decide how records wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccumulatorSettings {
    pub(crate) batch_size: usize,
    pub(crate) linger: Duration,
    pub(crate) delivery_timeout: Duration,
    pub(crate) buffer_memory: u64,
    pub(crate) codec: Codec,
    pub(crate) compression_level: i32,
    pub(crate) partitioning: Partitioning,
    /// Whether short queues are drawn more often (KIP-794).
    pub(crate) adaptive_partitioning: bool,
    /// How long a node may leave its batches waiting before it is drawn no more; zero for ever.
    pub(crate) availability_timeout: Duration,
}

/// What callers and the sender share.
pub(crate) struct RecordAccumulator {
    pub(crate) settings: AccumulatorSettings,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) topics: TopicInfoMap,
    pub(crate) caller_context: Arc<CallerContext>,
    pub(crate) listeners: Arc<DeliveryListeners>,
    /// No record is accepted any more.
    pub(crate) closed: AtomicBool,
    /// Why, where that is not that somebody closed the producer.
    fatal_error: OnceLock<Error>,
    last_batch_number: AtomicU64,
    /// Itself, for work that outlives a call.
    weak_self: Weak<RecordAccumulator>,
    /// Helpers that take work from callers, once the sender has brought them.
    pub(crate) worker_pool: OnceLock<Arc<dyn WorkerPool>>,
    /// The rack whose leaders are preferred.
    pub(crate) rack: Rack,
    encoders: Mutex<Vec<BatchEncoder>>,
}

/// Codec contexts that are kept; more callers than this compress with a context of their own for once.
const MAX_CACHED_ENCODERS: usize = 8;

impl RecordAccumulator {
    pub(crate) fn new(
        settings: AccumulatorSettings,
        env: Arc<dyn Env>,
        callers: Arc<CallerContext>,
        listeners: Arc<DeliveryListeners>,
        rack: Rack,
    ) -> Arc<RecordAccumulator> {
        Arc::new_cyclic(|me| RecordAccumulator {
            weak_self: me.clone(),
            worker_pool: OnceLock::new(),
            settings,
            env,
            pool: BufferPool::new(settings.buffer_memory, settings.batch_size.max(1)),
            topics: TopicInfoMap::default(),
            caller_context: callers,
            listeners,
            closed: AtomicBool::new(false),
            fatal_error: OnceLock::new(),
            last_batch_number: AtomicU64::new(0),
            rack,
            encoders: Mutex::default(),
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The producer is of no more use, for this reason: every later `send` fails with it.
    pub(crate) fn set_fatal_error(&self, why: &Error) {
        let _ = self.fatal_error.set(why.clone());
        self.closed.store(true, Ordering::Release);
    }

    /// The same for a caller that was waiting when it happened.
    pub(crate) fn closed_while_waiting_error(&self) -> Error {
        let closed = || {
            let message = "the producer was closed while send was in progress";
            Error::new(ErrorKind::Closed, message)
        };
        self.fatal_error.get().cloned().unwrap_or_else(closed)
    }

    /// Why no record is accepted any more.
    pub(crate) fn closed_error(&self) -> Error {
        self.fatal_error.get().cloned().unwrap_or_else(Error::closed)
    }

    pub(crate) fn events(&self) -> &EventQueue {
        &self.caller_context.events
    }

    /// The number of the batch that was opened last.
    pub(crate) fn last_batch_number(&self) -> u64 {
        self.last_batch_number.load(Ordering::Relaxed)
    }

    fn next_batch_number(&self) -> u64 {
        self.last_batch_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells the sender; where it is gone, does what it would have done at its end.
    pub(crate) fn post(&self, event: Event, due: Tick) {
        if let Err(event) = self.events().post(event, due) {
            self.handle_undeliverable(event);
        }
    }

    /// What nobody will read: whoever waits for it must not be left waiting.
    pub(crate) fn handle_undeliverable(&self, event: Event) {
        match event {
            Event::BatchOpened(p) | Event::BatchClosed(p) => self.fail_partition(&p),
            Event::Waiter(_, wait) => wait.wake(),
            Event::Flush(flush) => flush.complete(),
            Event::Split(cut) => {
                let parts = cut.parts.into_iter().filter_map(QueuedBatch::into_closed);
                parts.for_each(|b| self.fail_batch(b));
            }
            Event::MemoryWanted
            | Event::TopicWanted(_)
            | Event::Close(_)
            | Event::BatchAwaited(..)
            | Event::Purge { .. } => {}
        }
    }

    /// Fails what a partition holds when the sender is gone.
    fn fail_partition(&self, p: &Partition) {
        let (line, open) = p.queue.lock().take_all();
        let line = line.into_iter().filter_map(QueuedBatch::into_closed);
        line.chain(open.map(OpenBatch::abort)).for_each(|b| self.fail_batch(b));
    }

    fn fail_batch(&self, mut batch: ClosedBatch) {
        let e = self.closed_error().with_status(batch.status);
        batch.complete(Outcome::Failed(e));
    }

    /// A codec context, if there is a codec.
    fn take_encoder(&self) -> Option<BatchEncoder> {
        if self.settings.codec == Codec::None {
            return None;
        }
        let kept = self.encoders.lock().pop();
        // The configuration was refused if this build had no such encoder.
        kept.or_else(|| {
            Compressor::new(self.settings.codec, self.settings.compression_level)
                .ok()
                .map(BatchEncoder::new)
        })
    }

    fn return_encoder(&self, encoder: Option<BatchEncoder>) {
        let Some(mut encoder) = encoder.filter(|e| !e.poisoned) else { return };
        encoder.shrink_buffers();
        let mut kept = self.encoders.lock();
        if kept.len() < MAX_CACHED_ENCODERS {
            kept.push(encoder);
        }
    }
}

#[cfg(all(test, ottla_loom))]
mod loom_tests;
#[cfg(all(test, not(ottla_loom)))]
mod tests;
