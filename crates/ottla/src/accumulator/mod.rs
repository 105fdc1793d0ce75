//! The record accumulator (Kafka's `RecordAccumulator`): buffer memory, and batches by partition.
//!
//! Callers append records to it. The sender asks which brokers have batches ready, drains these
//! batches and completes them. Nothing here knows sockets, or any part of the protocol except the
//! record batch.

pub(crate) mod append;
pub(crate) mod batch;
mod batch_encoder;
pub(crate) mod first_buffer_size;
pub(crate) mod close;
pub(crate) mod batch_records;
pub(crate) mod buffer_pool;
pub(crate) mod partition;
pub(crate) mod builtin_partitioner;
mod key_hash;
pub(crate) mod append_only_vec;
pub(crate) mod batch_size_estimator;
mod topic_table;
mod metrics;
pub(crate) mod topics;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use ottla_protocol::compression::Compressor;

use crate::config::AccumulatorSettings;
use crate::delivery::batch_completions::DeliveryListeners;
use crate::delivery::result::Outcome;
use crate::env::{Env, WorkerPool};
use crate::sync::Mutex;
use crate::time::Tick;
use crate::wakeup::caller_context::CallerContext;
use crate::wakeup::event_queue::{Event, EventQueue};
use crate::wakeup::lifecycle::{Lifecycle, LifecycleCell};
use batch::{ClosedBatch, OpenBatch};
use batch_encoder::BatchEncoder;
use buffer_pool::BufferPool;
use first_buffer_size::FirstBufferSize;
use partition::{Partition, QueuedBatch};
use topics::TopicInfoMap;

/// Holds the records that wait to be sent. Callers and the sender share it.
pub(crate) struct RecordAccumulator {
    pub(crate) settings: AccumulatorSettings,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) first_buffer_size: FirstBufferSize,
    pub(crate) topics: TopicInfoMap,
    pub(crate) caller_context: Arc<CallerContext>,
    pub(crate) listeners: Arc<DeliveryListeners>,
    /// The lifecycle of `caller_context`: an append reads it here, one indirection nearer.
    lifecycle: Arc<LifecycleCell>,
    last_batch_number: AtomicU64,
    /// A reference to itself, for jobs that outlive a call.
    weak_self: Weak<RecordAccumulator>,
    /// The threads that compress batches for callers; empty until the sender has set them.
    pub(crate) worker_pool: OnceLock<Arc<dyn WorkerPool>>,
    /// Boxed: a codec's state takes some 20 KB, and an encoder moves in and out once a batch.
    #[allow(clippy::vec_box, reason = "only the state of the C library's zstd is small")]
    encoders: Mutex<Vec<Box<BatchEncoder>>>,
}

/// The number of encoders that are kept. If more threads compress at once, the extra ones create an
/// encoder and drop it after use.
const MAX_CACHED_ENCODERS: usize = 8;

impl RecordAccumulator {
    pub(crate) fn new(
        settings: AccumulatorSettings,
        env: Arc<dyn Env>,
        caller_context: Arc<CallerContext>,
        listeners: Arc<DeliveryListeners>,
    ) -> Arc<RecordAccumulator> {
        Arc::new_cyclic(|weak_self| RecordAccumulator {
            weak_self: weak_self.clone(),
            worker_pool: OnceLock::new(),
            env,
            pool: BufferPool::new(
                settings.buffer_memory,
                settings.batch_size.max(1),
                caller_context.lifecycle.clone(),
            ),
            first_buffer_size: FirstBufferSize::new(settings.batch_size, settings.buffer_memory),
            settings,
            topics: TopicInfoMap::default(),
            lifecycle: caller_context.lifecycle.clone(),
            caller_context,
            listeners,
            last_batch_number: AtomicU64::new(0),
            encoders: Mutex::default(),
        })
    }

    pub(crate) fn lifecycle(&self) -> &LifecycleCell {
        &self.lifecycle
    }

    /// Changes the lifecycle, and does all that callers notice of it. Returns whether it changed.
    ///
    /// The sender calls it through `Sender::transition`, which completes the batches.
    pub(crate) fn transition(&self, to: &Lifecycle) -> bool {
        // First: from here on appends, allocations and, if it is closed, posts are refused.
        if !self.lifecycle().transition(to) {
            return false;
        }
        // Callers that wait for memory or for a topic.
        self.pool.fail_waiters();
        self.topics.notify_error_all(&self.lifecycle().error_for_waiting_call());
        if matches!(to, Lifecycle::Closed) {
            // What callers posted before. Later, a caller gets its event back and fails its own
            // partition, so no caller waits for a sender that has ended.
            self.events().take_all().into_iter().for_each(|e| self.handle_undeliverable(e));
        }
        true
    }

    /// Begins to close the producer. Records that are incomplete at the deadline fail.
    pub(crate) fn begin_close(&self, deadline: Tick) {
        self.transition(&Lifecycle::Closing { deadline });
        // Also if the state did not change: the deadline may be earlier, and a producer that has
        // failed ends at once.
        self.post(Event::Close, Tick(0));
    }

    pub(crate) fn events(&self) -> &EventQueue {
        &self.caller_context.events
    }

    /// Returns the number of the batch that was opened last, 0 if there was none.
    pub(crate) fn last_batch_number(&self) -> u64 {
        self.last_batch_number.load(Ordering::Relaxed)
    }

    /// Returns a new batch number. Numbers rise in the order in which batches are opened.
    pub(crate) fn next_batch_number(&self) -> u64 {
        self.last_batch_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Posts an event to the sender, which handles it by `deadline`. If the sender has ended,
    /// handles the event here.
    pub(crate) fn post(&self, event: Event, deadline: Tick) {
        if let Err(event) = self.events().post(event, deadline) {
            self.handle_undeliverable(event);
        }
    }

    /// Handles an event that the sender will not read because it has ended.
    ///
    /// A caller may append just before the sender ends. The event queue then returns the event, and
    /// the caller fails the partition's batches itself. Otherwise their deliveries never complete.
    pub(crate) fn handle_undeliverable(&self, event: Event) {
        match event {
            Event::BatchOpened(id)
            | Event::BatchReady(id)
            | Event::BatchLost { partition_id: id, .. } => {
                if let Some(p) = self.topics.partition(id) {
                    self.fail_partition(&p);
                }
            }
            Event::Waiter { waiter, .. } => waiter.wake(),
            Event::Flush(flush) => self.events().pending_posts.add_flush(flush),
            Event::Transaction(call) => call.fail(&self.lifecycle().error_for_waiting_call()),
            Event::Snapshot(request) => {
                request.complete(Err(self.lifecycle().error_for_new_call()));
            }
            Event::ClientInstanceId(request) => {
                request.complete(Err(self.lifecycle().error_for_new_call()));
            }
            Event::MemoryWanted
            | Event::TopicWanted(_)
            | Event::Close
            | Event::BatchAwaited { .. }
            | Event::BatchSplit
            | Event::Purge { .. } => {}
        }
    }

    /// Fails every batch of a partition after the sender has ended.
    fn fail_partition(&self, p: &Partition) {
        let (batches, open) = p.queue.lock().take_all();
        let closed = batches.into_iter().filter_map(QueuedBatch::into_closed);
        closed.chain(open.map(OpenBatch::abort)).for_each(|b| self.fail_batch(b));
    }

    pub(crate) fn fail_batch(&self, mut batch: ClosedBatch) {
        let e = self.lifecycle().error_for_new_call().with_status(batch.status);
        batch.complete(Outcome::Failed(e));
    }

    /// Returns the number of records that are not completed.
    pub(crate) fn outstanding_records(&self) -> u64 {
        let in_closed =
            self.listeners.counters.outstanding_in_closed_batches.load(Ordering::Relaxed);
        let records_in_open = |p: Arc<Partition>| {
            let queue = p.queue.lock();
            queue.open().map_or(0, |open| open.meta.record_count as u64)
        };
        let in_open = self.topics.all_partitions().into_iter().map(records_in_open);
        in_closed + in_open.sum::<u64>()
    }

    /// Returns a free encoder or a new one; `None` if `compression.type` is none, or if the
    /// producer has failed or is closed. Its batches are not sent, and a slow codec would only keep
    /// `close` waiting.
    pub(crate) fn take_encoder(&self) -> Option<Box<BatchEncoder>> {
        let compression = self.settings.compression;
        if compression.is_none() || self.lifecycle.is_failed() || self.lifecycle.is_closed() {
            return None;
        }
        let cached = self.encoders.lock().pop();
        cached.or_else(|| {
            // This does not fail: the builder refuses a codec that is not compiled in.
            Compressor::new(compression.codec(), compression.level().unwrap_or(0))
                .ok()
                .map(|compressor| Box::new(BatchEncoder::new(compressor)))
        })
    }

    pub(crate) fn return_encoder(&self, encoder: Option<Box<BatchEncoder>>) {
        let Some(mut encoder) = encoder.filter(|e| !e.poisoned) else { return };
        encoder.shrink_buffers();
        let mut cached = self.encoders.lock();
        if cached.len() < MAX_CACHED_ENCODERS {
            cached.push(encoder);
        }
    }
}

#[cfg(all(test, ottla_loom))]
mod loom_tests;
#[cfg(all(test, not(ottla_loom)))]
mod tests;
