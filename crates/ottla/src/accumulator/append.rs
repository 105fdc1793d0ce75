//! The hot path: appends a record to its partition's open batch, on the caller's thread.
//!
//! `producer/do_send.rs` calls it. `close.rs` closes or extends a batch that is full, and notifies
//! the sender through the event queue.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::RecordAccumulator;
use super::batch::{BatchMeta, Capacity, OpenBatch, QueuePosition};
use super::buffer_pool::{BufferRequest, PooledBuf};
use super::builtin_partitioner::{
    PartitionChoice, choose_partition, should_switch, split_stripe, switch_partition,
};
use super::close::EndedBatch;
use super::partition::{Partition, PartitionQueue};
use super::topics::TopicInfo;
use crate::config::PartitioningStrategy;
use crate::delivery::batch_completions::{BatchCompletions, BatchScratch, DeliveryOptions};
use crate::delivery::result::BatchInfo;
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::record::PreparedRecord;
use crate::sync::MutexGuard;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use ottla_protocol::record::{BATCH_HEADER_LEN, RecordLayout};

/// The result of [`RecordAccumulator::append`].
#[derive(Debug)]
pub(crate) enum AppendResult {
    /// The record is in a batch. The options have its delivery if the caller wants one.
    Appended,
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
    /// Whether no buffer was free for the open batch to grow or to be extended. The record then
    /// needs a new batch, unless the caller gets a buffer while the batch is still open.
    pub(crate) no_chain_buffer: bool,
    /// How long the caller waited for memory.
    pub(crate) memory_wait: Duration,
}

/// How the open batch gets one more buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// Within its limit: it began with a small buffer, or will be compressed.
    WithinLimit,
    /// Beyond its limit: it is extended.
    BeyondLimit,
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
    ) -> Option<()> {
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
        self.append_to_open(&target, queue, record, layout, options);
        Some(())
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
        let mut needs_chain_buffer = false;
        if let Some(open) = queue.open() {
            let layout = open.measure(&record.body, record.timestamp);
            let capacity = open.capacity_for(&layout);
            if capacity == Capacity::Fits {
                self.append_to_open(target, queue, record, layout, options);
                return Ok(Some(AppendResult::Appended));
            }
            needs_chain_buffer = capacity == Capacity::NeedsChainBuffer
                && !open.is_extended()
                // The caller may have got a buffer since: it has waited for one.
                && (!state.no_chain_buffer || state.spare_buffer.is_some());
        }
        // The sticky choice leaves a full partition before the caller waits for memory (KIP-794).
        if let Some(index) = target.sticky_index
            && !needs_chain_buffer
            && self.should_leave_before(&queue, record)
        {
            queue.sticky_bytes = 0;
            // A record that is larger than a batch ends each choice. If all partitions kept their
            // batches open, it would find no place.
            let ended = if self.extends_for(&queue, target.partition, record) {
                self.end_batch(&mut queue, target.partition)
            } else {
                EndedBatch::closing(self.begin_closing(&mut queue))
            };
            drop(queue);
            switch_partition(target.topic, index, self.env.random());
            self.finish_ending(target.partition, ended);
            return Ok(None);
        }
        let extends = !state.no_chain_buffer && self.extends_for(&queue, target.partition, record);
        if needs_chain_buffer || extends {
            let growth = if needs_chain_buffer { Growth::WithinLimit } else { Growth::BeyondLimit };
            return Ok(Some(self.append_to_chain(target, queue, record, growth, options, state)));
        }
        let Some(buf) = state.spare_buffer.take() else {
            let size = self.first_buffer_size.get();
            return Ok(Some(AppendResult::NeedsNewBatch(self.buffer_request(size, record))));
        };
        let full = self.begin_closing(&mut queue);
        let open = self.open_batch(buf, target.partition, record, state);
        let layout = open.measure(&record.body, record.timestamp);
        queue.set_open(open);
        self.append_to_open(target, queue, record, layout, options);
        if let Some((full, job)) = full {
            self.close_batch(target.partition, full, job);
        }
        Ok(Some(AppendResult::Appended))
    }

    /// Appends to the open batch, in one more buffer.
    fn append_to_chain(
        &self,
        target: &AppendTarget<'_>,
        mut queue: MutexGuard<'_, PartitionQueue>,
        record: &PreparedRecord<'_>,
        growth: Growth,
        options: &mut DeliveryOptions,
        state: &mut AppendState,
    ) -> AppendResult {
        let Some(open) = queue.open_mut() else {
            unreachable!("append_to_chain is called only while a batch is open");
        };
        let Some(buf) = state.spare_buffer.take() else {
            let batch_size = self.settings.batch_size;
            let size = match growth {
                Growth::WithinLimit if self.settings.compression.is_none() => {
                    open.next_buffer_size()
                }
                Growth::WithinLimit => open.charge().min(batch_size),
                Growth::BeyondLimit => batch_size,
            };
            return AppendResult::NeedsChainBuffer(self.buffer_request(size, record));
        };
        let is_ready = growth == Growth::BeyondLimit && open.extend();
        match growth {
            Growth::WithinLimit => open.grow_by(buf),
            Growth::BeyondLimit => open.extend_by(buf),
        }
        let layout = open.measure(&record.body, record.timestamp);
        self.append_to_open(target, queue, record, layout, options);
        if is_ready {
            self.post_batch_ready(target.partition);
        }
        AppendResult::Appended
    }

    /// Returns whether the open batch can be extended by this record.
    fn extends_for(
        &self,
        queue: &PartitionQueue,
        partition: &Partition,
        record: &PreparedRecord<'_>,
    ) -> bool {
        // A larger record gets a batch of its own, as without an extension.
        record.batch_len_upper_bound <= self.settings.batch_size
            && self.can_extend(queue, partition)
    }

    /// Returns the buffer that a batch needs for this record: of `size` bytes, or larger if the
    /// record needs more.
    fn buffer_request(&self, size: usize, record: &PreparedRecord<'_>) -> BufferRequest {
        // `batch.size` may be larger than `buffer.memory`; a record is not.
        let size = size.min(self.settings.buffer_memory as usize);
        let charge = size.max(record.batch_len_upper_bound);
        match record.shared_value.filter(|_| self.settings.compression.is_none()) {
            // The buffer has no room for another record. Its value is charged, but not copied.
            Some(value) if charge > size => {
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
            extensions: 0,
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
        let mut open = OpenBatch::new(buf, meta, completions, limit);
        if !compressed {
            open.limit_to_buffer();
        }
        open
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
    ) {
        let Some(open) = queue.open_mut() else {
            unreachable!("append_to_open is called only while a batch is open");
        };
        let shared = record.shared_value.filter(|_| self.settings.compression.is_none());
        let bytes = open.push(&record.body, layout, record.timestamp, shared);
        open.completions.add_record(record, options);
        let (full, extended) = (open.is_full(), open.is_extended());
        let mut switches = false;
        if target.sticky_index.is_some() {
            let limit = open.sticky_limit(self.settings.batch_size);
            queue.sticky_bytes = queue.sticky_bytes.saturating_add(bytes as u32);
            switches = should_switch(queue.sticky_bytes as usize, limit, full || extended);
        }
        if full || switches || !queue.is_tracked_by_sender {
            self.after_append(target, queue);
        }
    }

    /// Finishes an append that filled a batch, exhausted the sticky choice, or was the first to an
    /// empty partition.
    #[cold]
    fn after_append(&self, target: &AppendTarget<'_>, mut queue: MutexGuard<'_, PartitionQueue>) {
        let full = queue.open().is_some_and(OpenBatch::is_full);
        let ended =
            if full { self.end_batch(&mut queue, target.partition) } else { EndedBatch::Unchanged };
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
        self.finish_ending(target.partition, ended);
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
}
