//! The hot path: appends a record to its partition's open batch, on the caller's thread.
//!
//! `producer/do_send.rs` calls it. A batch that is full is closed here, or by a worker thread, and
//! the sender is notified through the event queue.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::RecordAccumulator;
use super::batch::{BatchMeta, Capacity, OpenBatch, QueuePosition};
use super::buffer_pool::{BufferRequest, PooledBuf};
use super::builtin_partitioner::{
    PartitionChoice, choose_partition, should_switch, split_stripe, switch_partition,
};
use super::partition::{Partition, PartitionQueue};
use super::topics::TopicInfo;
use crate::config::PartitioningStrategy;
use crate::delivery::batch_completions::{BatchCompletions, BatchScratch, DeliveryOptions};
use crate::delivery::result::{BatchInfo, Delivery};
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::record::PreparedRecord;
use crate::sync::MutexGuard;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::pending_posts::PendingJob;
use ottla_protocol::record::{BATCH_HEADER_LEN, RecordLayout};

/// The result of [`RecordAccumulator::append`].
#[derive(Debug)]
pub(crate) enum AppendResult {
    /// The record is in a batch. Holds its delivery if the caller wants one.
    Appended(Option<Delivery>),
    /// The record needs a new batch, and the batch a buffer.
    NeedsNewBatch(BufferRequest),
    /// The open batch needs one more buffer. The caller must not wait for it: if none is free, the
    /// batch is closed.
    NeedsChainBuffer(BufferRequest),
}

/// What an append keeps between its attempts.
#[derive(Debug, Default)]
pub(crate) struct AppendState {
    /// A buffer for a new batch. It returns to the pool if it is not needed.
    pub(crate) spare_buffer: Option<PooledBuf>,
    /// The scratch of a new batch.
    pub(crate) scratch: Option<BatchScratch>,
    /// The chosen partition, unless it is a sticky choice. It is chosen once.
    fixed_partition: Option<usize>,
    /// Whether this append has already found a partition's lock held by another caller.
    has_met_contention: bool,
    /// Whether no buffer was free to extend the open batch. The batch then counts as full.
    pub(crate) no_chain_buffer: bool,
    /// How long the caller waited for memory.
    pub(crate) memory_wait: Duration,
}

/// The partition that an append goes to.
struct AppendTarget<'a> {
    topic: &'a TopicInfo,
    partition: &'a Arc<Partition>,
    /// The partition's index if it is the topic's sticky choice.
    sticky_index: Option<usize>,
}

impl RecordAccumulator {
    /// Returns whether a record may use [`try_append`](Self::try_append). Round robin may not: each
    /// choice advances its counter, so it must be made once per record.
    #[inline]
    pub(crate) fn can_try_append(&self) -> bool {
        self.settings.partitioning != PartitioningStrategy::RoundRobin
    }

    /// Appends the record if its partition's lock is free and its open batch has room. Otherwise
    /// returns `None` and appends nothing; a taken lock may move the sticky partition.
    #[inline]
    pub(crate) fn try_append(
        &self,
        topic: &TopicInfo,
        record: &PreparedRecord<'_>,
        options: &mut DeliveryOptions,
    ) -> Option<Option<Delivery>> {
        let (partitioning, random) = (self.settings.partitioning, || self.env.random());
        let count = topic.partitions.len();
        let choice =
            choose_partition(topic, count, record.partition, record.key, partitioning, random)
                .ok()?;
        let (index, sticky_index) = match choice {
            PartitionChoice::Fixed(p) => (p, None),
            PartitionChoice::Sticky(p) => (p, Some(p)),
        };
        let partition = topic.partitions.get(index)?;
        let target = AppendTarget { topic, partition, sticky_index };
        let Some(mut queue) = partition.queue.try_lock() else {
            self.on_contention(&target);
            return None;
        };
        let open = queue.open_mut()?;
        let layout = open.measure(&record.body, record.timestamp);
        if open.capacity_for(&layout) != Capacity::Fits || !self.lifecycle().accepts_records() {
            return None;
        }
        Some(self.append_to_open(&target, queue, record, layout, options))
    }

    /// Tries to append the record. Opens a new batch if one is needed and `state` has a spare
    /// buffer, which must have at least the size that an earlier attempt returned.
    ///
    /// # Errors
    /// The record's partition does not exist, or the accumulator is closed.
    pub(crate) fn append(
        &self,
        topic: &TopicInfo,
        record: &PreparedRecord<'_>,
        options: &mut DeliveryOptions,
        state: &mut AppendState,
    ) -> Result<AppendResult, Error> {
        loop {
            let partitions = &topic.partitions;
            let choice = match state.fixed_partition {
                Some(p) => PartitionChoice::Fixed(p),
                None => choose_partition(
                    topic,
                    partitions.len(),
                    record.partition,
                    record.key,
                    self.settings.partitioning,
                    || self.env.random(),
                )?,
            };
            let (index, sticky_index) = match choice {
                PartitionChoice::Fixed(p) => (*state.fixed_partition.insert(p), None),
                PartitionChoice::Sticky(p) => (p, Some(p)),
            };
            let Some(partition) = partitions.get(index) else {
                // The topic was re-created with fewer partitions after the choice.
                state.fixed_partition = None;
                continue;
            };
            // The scratch pool has a lock of its own. No thread holds two locks, so the scratch is
            // taken before the partition is locked.
            if state.spare_buffer.is_some() && state.scratch.is_none() {
                let expected = topic.estimator.expected_records();
                state.scratch = Some(self.listeners.take_scratch(expected));
            }
            let target = AppendTarget { topic, partition, sticky_index };
            if let Some(result) = self.append_to_partition(&target, record, options, state)? {
                return Ok(result);
            }
        }
    }

    /// Appends to the target's open batch or opens a new one. Returns `None` if the partition must
    /// be chosen again.
    fn append_to_partition(
        &self,
        target: &AppendTarget<'_>,
        record: &PreparedRecord<'_>,
        options: &mut DeliveryOptions,
        state: &mut AppendState,
    ) -> Result<Option<AppendResult>, Error> {
        let Some(mut queue) = self.lock_partition(target, &mut state.has_met_contention) else {
            return Ok(None);
        };
        if !self.lifecycle().accepts_records() {
            // The error is behind a lock, and no thread holds two.
            drop(queue);
            return Err(self.lifecycle().error_for_new_call());
        }
        if let Some(open) = queue.open_mut() {
            let layout = open.measure(&record.body, record.timestamp);
            let has_room = match open.capacity_for(&layout) {
                Capacity::Fits => true,
                Capacity::NeedsChainBuffer if !state.no_chain_buffer => {
                    let Some(buf) = state.spare_buffer.take() else {
                        let request = self.buffer_request(record);
                        return Ok(Some(AppendResult::NeedsChainBuffer(request)));
                    };
                    open.push_buffer(buf);
                    true
                }
                Capacity::NeedsChainBuffer | Capacity::Full => false,
            };
            if has_room {
                let delivery = self.append_to_open(target, queue, record, layout, options);
                return Ok(Some(AppendResult::Appended(delivery)));
            }
        }
        // The sticky choice leaves a full partition before the caller waits for memory (KIP-794).
        if let Some(index) = target.sticky_index
            && self.should_leave_before(&queue, record)
        {
            queue.sticky_bytes = 0;
            let full = self.begin_closing(&mut queue);
            drop(queue);
            switch_partition(target.topic, index, self.env.random());
            if let Some((full, job)) = full {
                self.close_batch(target.partition, full, job);
            }
            return Ok(None);
        }
        let Some(buf) = state.spare_buffer.take() else {
            return Ok(Some(AppendResult::NeedsNewBatch(self.buffer_request(record))));
        };
        let full = self.begin_closing(&mut queue);
        let open = self.open_batch(buf, target.partition, record, state);
        let layout = open.measure(&record.body, record.timestamp);
        queue.set_open(open);
        let delivery = self.append_to_open(target, queue, record, layout, options);
        if let Some((full, job)) = full {
            self.close_batch(target.partition, full, job);
        }
        Ok(Some(AppendResult::Appended(delivery)))
    }

    /// Returns the buffer that a batch needs for this record.
    fn buffer_request(&self, record: &PreparedRecord<'_>) -> BufferRequest {
        let charge = self.settings.batch_size.max(record.batch_len_upper_bound);
        match record.shared_value.filter(|_| self.settings.compression.is_none()) {
            // The batch has no room for another record. Its value is charged, but not copied.
            Some(value) if charge > self.settings.batch_size => {
                BufferRequest { charge, capacity: charge - value.len() }
            }
            _ => BufferRequest::from(charge),
        }
    }

    /// Locks the target's partition. Returns `None` if another caller holds the lock and the sticky
    /// choice has moved; this happens at most once per append.
    #[inline]
    fn lock_partition<'p>(
        &self,
        target: &AppendTarget<'p>,
        has_met_contention: &mut bool,
    ) -> Option<MutexGuard<'p, PartitionQueue>> {
        if *has_met_contention || target.sticky_index.is_none() {
            return Some(target.partition.queue.lock());
        }
        if let Some(queue) = target.partition.queue.try_lock() {
            return Some(queue);
        }
        *has_met_contention = true;
        (!self.on_contention(target)).then(|| target.partition.queue.lock())
    }

    /// Moves the sticky choice of this thread's stripe if another caller holds the partition's
    /// lock. Returns whether it moved.
    #[cold]
    fn on_contention(&self, target: &AppendTarget<'_>) -> bool {
        let Some(index) = target.sticky_index else { return false };
        // The sender holds the lock only for a few instructions: no reason to move.
        !target.partition.is_locked_by_sender()
            && split_stripe(target.topic, index, self.env.random())
    }

    fn open_batch(
        &self,
        buf: PooledBuf,
        partition: &Arc<Partition>,
        record: &PreparedRecord<'_>,
        state: &mut AppendState,
    ) -> OpenBatch {
        let number = self.next_batch_number();
        let meta = BatchMeta {
            partition: partition.clone(),
            number,
            queue_position: QueuePosition { batch_number: number, record_index: 0 },
            created: self.env.now(),
            base_timestamp: record.timestamp,
            max_timestamp: record.timestamp,
            record_count: 0,
            max_record_bytes: 0,
            memory_wait: state.memory_wait,
        };
        let batch = BatchInfo {
            topic: partition.topic.clone(),
            partition: partition.index,
            partition_id: partition.id,
            leader: partition.leader.load(Relaxed),
            number,
            base_timestamp: record.timestamp,
            caller_context: self.caller_context.clone(),
        };
        let scratch = state.scratch.take().unwrap_or_default();
        let completions = BatchCompletions::new(self.listeners.clone(), scratch, batch);
        let compressed = !self.settings.compression.is_none();
        let limit = partition.estimator.uncompressed_limit(self.settings.batch_size, compressed);
        OpenBatch::new(buf, meta, completions, limit)
    }

    /// Encodes the record into the open batch. Unlocks the partition, notifies the sender and
    /// closes the batch where that is needed.
    #[inline]
    fn append_to_open(
        &self,
        target: &AppendTarget<'_>,
        mut queue: MutexGuard<'_, PartitionQueue>,
        record: &PreparedRecord<'_>,
        layout: RecordLayout,
        options: &mut DeliveryOptions,
    ) -> Option<Delivery> {
        let Some(open) = queue.open_mut() else {
            unreachable!("append_to_open is called only while a batch is open");
        };
        let shared = record.shared_value.filter(|_| self.settings.compression.is_none());
        let bytes = open.push(&record.body, layout, record.timestamp, shared);
        let delivery = open.completions.add_record(record, options);
        let full = open.is_full();
        let mut switches = false;
        if target.sticky_index.is_some() {
            let limit = open.sticky_limit(self.settings.batch_size);
            queue.sticky_bytes = queue.sticky_bytes.saturating_add(bytes as u32);
            switches = should_switch(queue.sticky_bytes as usize, limit, full);
        }
        if full || switches || !queue.is_tracked_by_sender {
            self.after_append(target, queue);
        }
        delivery
    }

    /// Finishes an append that filled a batch, exhausted the sticky choice, or was the first to an
    /// empty partition.
    #[cold]
    fn after_append(&self, target: &AppendTarget<'_>, mut queue: MutexGuard<'_, PartitionQueue>) {
        let full = queue.open().is_some_and(OpenBatch::is_full);
        let taken = if full { self.begin_closing(&mut queue) } else { None };
        let switches = target.sticky_index.is_some() && self.should_leave_partition(&queue);
        if switches {
            queue.sticky_bytes = 0;
        }
        let announces = !queue.is_tracked_by_sender;
        if announces {
            queue.is_tracked_by_sender = true;
            // Under the partition's lock: a caller that appends to this batch next, and then
            // flushes, must find the announcement pending (see EventQueue::drain_with_pending).
            self.events().pending_posts.begin_announcement();
        }
        drop(queue);
        if announces {
            let deadline = if self.settings.linger.is_zero() || full {
                Tick(0)
            } else {
                self.env.now().after(self.settings.linger)
            };
            self.announce(target.partition, deadline);
        }
        // Before the batch is closed: compression takes long, and other callers should not open a
        // batch on this partition meanwhile.
        if let (true, Some(index)) = (switches, target.sticky_index) {
            switch_partition(target.topic, index, self.env.random());
        }
        if let Some((batch, job)) = taken {
            self.close_batch(target.partition, batch, job);
        }
    }

    /// Removes the open batch, and counts this thread as one that closes a batch.
    fn begin_closing(&self, queue: &mut PartitionQueue) -> Option<(OpenBatch, PendingJob)> {
        let open = queue.close_open()?;
        Some((open, self.events().pending_posts.begin_job()))
    }

    /// Closes a batch without the partition's lock and notifies the sender. A worker thread
    /// compresses the batch. The caller does it if the worker pool takes no more jobs.
    fn close_batch(&self, partition: &Arc<Partition>, batch: OpenBatch, pending: PendingJob) {
        if self.settings.compression.is_none() {
            self.close_into_queue(batch);
            self.post_batch_closed(partition);
            return drop(pending);
        }
        let bytes = batch.wire_len();
        let job = CloseJob::try_new(self.weak_self.upgrade(), batch, pending);
        let rejected = match (self.worker_pool.get(), job) {
            (Some(workers), Ok(job)) => workers.try_spawn(bytes, Box::new(move || job.run())),
            (None, Ok(job)) => {
                job.run();
                None
            }
            // The accumulator is being dropped, so there is no sender either.
            (_, Err(batch)) => return drop(batch),
        };
        if let Some(run) = rejected {
            run();
        }
    }

    /// Returns whether the sticky choice should leave this partition now.
    fn should_leave_partition(&self, queue: &PartitionQueue) -> bool {
        let size = self.settings.batch_size;
        let limit = queue.open().map_or(size.max(1), |open| open.sticky_limit(size));
        should_switch(queue.sticky_bytes as usize, limit, queue.all_batches_full())
    }

    /// Returns whether the sticky choice should leave this partition before a record that does not
    /// fit into its open batch.
    ///
    /// A batch that is at least half full then counts as full. Otherwise the record would begin the
    /// next batch here, and the choice would leave in the middle of that batch, at twice the limit:
    /// of 32 records of 1 KB two would linger.
    fn should_leave_before(&self, queue: &PartitionQueue, record: &PreparedRecord<'_>) -> bool {
        match queue.open().filter(|open| !open.is_less_than_half_full()) {
            None => self.should_leave_partition(queue),
            Some(open) => {
                let len = open.measure(&record.body, record.timestamp).len() + BATCH_HEADER_LEN;
                let limit = open.sticky_limit(self.settings.batch_size);
                should_switch(queue.sticky_bytes as usize + len, limit, true)
            }
        }
    }

    /// Notifies the sender of a partition that is no longer empty.
    fn announce(&self, partition: &Arc<Partition>, deadline: Tick) {
        let deadline = inject_bug!(LostWakeup, deadline);
        self.post(Event::BatchOpened(partition.id), deadline);
        self.events().pending_posts.end_announcement();
    }

    /// Notifies the sender of a batch that is ready to drain. Does not wake the sender while the
    /// partition's leader cannot take a request.
    pub(crate) fn post_batch_closed(&self, partition: &Arc<Partition>) {
        let is_idle = || !self.events().is_busy(partition.leader.load(Relaxed));
        if let Err(event) =
            self.events().post_if(Event::BatchClosed(partition.id), Tick(0), is_idle)
        {
            self.handle_undeliverable(event);
        }
    }

    /// Closes a batch and puts it where the queue keeps its position.
    pub(crate) fn close_into_queue(&self, open: OpenBatch) {
        let partition = open.meta.partition.clone();
        let now = self.env.now();
        let mut encoder = self.take_encoder();
        let mut closed = open.close(encoder.as_deref_mut());
        closed.timings.closed_at = Some(now);
        partition.fill_closing(closed);
        self.return_encoder(encoder);
    }
}

/// Closes a batch, on a worker thread or on the caller's.
///
/// Dropping the job, whether it ran or not, ends the reservation of the batch's position and
/// notifies the sender. The queue is therefore never blocked by a job that panicked or did not run.
pub(crate) struct CloseJob {
    accumulator: Arc<RecordAccumulator>,
    partition: Arc<Partition>,
    batch: Option<OpenBatch>,
    batch_number: u64,
    /// When the batch reaches `delivery.timeout.ms`.
    expires_at: Tick,
    /// Ends after the job has notified the sender.
    _pending: PendingJob,
}

impl CloseJob {
    /// Returns the batch as the error if the accumulator no longer exists.
    pub(crate) fn try_new(
        accumulator: Option<Arc<RecordAccumulator>>,
        batch: OpenBatch,
        pending: PendingJob,
    ) -> Result<CloseJob, Box<OpenBatch>> {
        let Some(accumulator) = accumulator else { return Err(Box::new(batch)) };
        let (partition, batch_number) = (batch.meta.partition.clone(), batch.meta.number);
        let expires_at = batch.meta.created.after(accumulator.settings.delivery_timeout);
        Ok(CloseJob {
            accumulator,
            partition,
            batch: Some(batch),
            batch_number,
            expires_at,
            _pending: pending,
        })
    }

    pub(crate) fn run(mut self) {
        if let Some(batch) = self.batch.take() {
            self.accumulator.close_into_queue(batch);
        }
    }
}

impl Drop for CloseJob {
    fn drop(&mut self) {
        // Does nothing after a successful run. After a panic, or if the job never ran, the dropped
        // batch has already failed its records.
        let (partition_id, batch_number) = (self.partition.id, self.batch_number);
        let is_lost = self.partition.queue.lock().remove_closing(batch_number);
        if is_lost {
            // A flush may wait for the batch.
            self.accumulator.post(Event::BatchLost { partition_id, batch_number }, Tick(0));
        } else if self.expires_at <= self.accumulator.env.now() {
            // The batch expired while it was compressed. The sender must fail it now, even if the
            // node is busy, so this event wakes the sender unconditionally.
            self.accumulator.post(Event::BatchClosed(self.partition.id), Tick(0));
        } else {
            self.accumulator.post_batch_closed(&self.partition);
        }
    }
}
