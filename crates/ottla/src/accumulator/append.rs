//! The hot path: a record into its partition's open batch, on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::RecordAccumulator;
use super::batch::{BatchMeta, Capacity, OpenBatch};
use super::batch_completions::{BatchCompletions, BatchScratch, Callback};
use super::buffer_pool::PooledBuf;
use super::builtin_partitioner::{
    PartitionChoice, Partitioning, choose_partition, should_switch, split_stripe, switch_partition,
};
use super::completion::{BatchInfo, Delivery};
use super::event_queue::Event;
use super::partition::{Partition, PartitionQueue};
use super::topics::TopicInfo;
use crate::error::Error;
use crate::producer::PreparedRecord;
use crate::sync::MutexGuard;
use crate::time::Tick;
use ottla_protocol::compression::Codec;
use ottla_protocol::record::RecordLayout;

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum AppendResult {
    /// It is in a batch; its delivery, if one was asked for.
    Appended(Option<Delivery>),
    /// A new batch is needed, and a buffer of this size for it.
    NeedsBuffer(usize),
    /// The batch would go on in another buffer of this size, if one is free just now.
    NeedsChainBuffer(usize),
}

/// Who is told of a record's end.
#[derive(Default)]
pub(crate) struct DeliveryOptions {
    pub(crate) callback: Option<Callback>,
    /// Whether a [`Delivery`] is wanted.
    pub(crate) wants_delivery: bool,
}

/// What an append that needs several attempts keeps from one to the next.
#[derive(Debug, Default)]
pub(crate) struct AppendState {
    /// A buffer for a new batch; one that was not needed goes back.
    pub(crate) spare_buffer: Option<PooledBuf>,
    /// The shell of a new batch; fetched with no lock held, like the buffer.
    pub(crate) scratch: Option<BatchScratch>,
    /// A choice that does not move, made once.
    fixed_partition: Option<usize>,
    /// It has gone out of another caller's way.
    moved_away: bool,
    /// No buffer was free to go on in: the open batch counts as full.
    pub(crate) no_chain_buffer: bool,
    /// How long memory was waited for.
    pub(crate) memory_wait: Duration,
}

/// Where an append stands: its topic, and the sticky choice it follows, if it does.
struct AppendTarget<'a> {
    topic: &'a TopicInfo,
    partition: &'a Arc<Partition>,
    sticky_index: Option<usize>,
}

impl RecordAccumulator {
    /// Whether a record may try [`put_at_once`](Self::put_at_once): a choice that is made by counting is made once.
    #[inline]
    pub(crate) fn can_try_append(&self) -> bool {
        self.settings.partitioning != Partitioning::RoundRobin
    }

    /// Appends where that takes no more than a batch with room for the record; else nothing is done.
    #[inline]
    pub(crate) fn try_append(
        &self,
        topic: &TopicInfo,
        record: &PreparedRecord<'_>,
        watch: &mut DeliveryOptions,
    ) -> Option<Option<Delivery>> {
        let (spread, random) = (self.settings.partitioning, || self.env.random());
        let count = topic.partitions.len();
        let chosen =
            choose_partition(topic, count, record.partition, record.key, spread, random).ok()?;
        let (index, sticky) = match chosen {
            PartitionChoice::Fixed(p) => (p, None),
            PartitionChoice::Sticky(p) => (p, Some(p)),
        };
        let partition = topic.partitions.get(index)?;
        let Some(mut queue) = partition.queue.try_lock() else {
            self.on_contention(&AppendTarget { topic, partition, sticky_index: sticky });
            return None;
        };
        let open = queue.open_mut()?;
        let at = open.measure(&record.body, record.timestamp);
        if open.capacity_for(&at) != Capacity::Fits || self.closed.load(Relaxed) {
            return None;
        }
        Some(self.append_to_open(
            &AppendTarget { topic, partition, sticky_index: sticky },
            queue,
            (record, at),
            watch,
        ))
    }

    /// Tries to append. With a spare buffer (of at least the size asked for) it opens a batch where one
    /// is needed.
    pub(crate) fn append(
        &self,
        topic: &TopicInfo,
        record: &PreparedRecord<'_>,
        watch: &mut DeliveryOptions,
        attempt: &mut AppendState,
    ) -> Result<AppendResult, Error> {
        loop {
            let partitions = &topic.partitions;
            let choice = match attempt.fixed_partition {
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
            let (index, sticky) = match choice {
                PartitionChoice::Fixed(p) => (*attempt.fixed_partition.insert(p), None),
                PartitionChoice::Sticky(p) => (p, Some(p)),
            };
            let Some(partition) = partitions.get(index) else {
                // The topic was re-created with fewer, just now.
                attempt.fixed_partition = None;
                continue;
            };
            if attempt.spare_buffer.is_some() && attempt.scratch.is_none() {
                attempt.scratch =
                    Some(self.listeners.take_scratch(topic.estimator.expected_records()));
            }
            let spot = AppendTarget { topic, partition, sticky_index: sticky };
            let Some(mut queue) = self.lock_partition(&spot, &mut attempt.moved_away) else {
                continue;
            };
            if self.closed.load(Relaxed) {
                return Err(self.closed_error());
            }
            if let Some(open) = queue.open_mut() {
                let at = open.measure(&record.body, record.timestamp);
                match open.capacity_for(&at) {
                    Capacity::Fits => {
                        return Ok(AppendResult::Appended(self.append_to_open(
                            &spot,
                            queue,
                            (record, at),
                            watch,
                        )));
                    }
                    Capacity::NeedsBuffer if !attempt.no_chain_buffer => {
                        match attempt.spare_buffer.take() {
                            Some(more) => {
                                open.push_buffer(more);
                                return Ok(AppendResult::Appended(self.append_to_open(
                                    &spot,
                                    queue,
                                    (record, at),
                                    watch,
                                )));
                            }
                            None => {
                                return Ok(AppendResult::NeedsChainBuffer(
                                    self.buffer_size(record),
                                ));
                            }
                        }
                    }
                    Capacity::NeedsBuffer | Capacity::Full => {}
                }
            }
            // A full sticky partition is left before memory is asked for (KIP-794).
            if sticky.is_some() && self.should_switch(&queue) {
                queue.sticky_bytes = 0;
                drop(queue);
                switch_partition(topic, index, self.env.random());
                continue;
            }
            let Some(buf) = attempt.spare_buffer.take() else {
                return Ok(AppendResult::NeedsBuffer(self.buffer_size(record)));
            };
            let old = queue.close_open();
            let open = self.open_batch(buf, partition, record, attempt);
            let at = open.measure(&record.body, record.timestamp);
            queue.set_open(open);
            let delivery = self.append_to_open(&spot, queue, (record, at), watch);
            if let Some(old) = old {
                self.close_batch(partition, old);
            }
            return Ok(AppendResult::Appended(delivery));
        }
    }

    fn buffer_size(&self, record: &PreparedRecord<'_>) -> usize {
        self.settings.batch_size.max(record.batch_len_upper_bound)
    }

    /// The partition's lock. A sticky caller that finds another caller there goes elsewhere, once: none.
    #[inline]
    fn lock_partition<'p>(
        &self,
        spot: &AppendTarget<'p>,
        parted: &mut bool,
    ) -> Option<MutexGuard<'p, PartitionQueue>> {
        if *parted || spot.sticky_index.is_none() {
            return Some(spot.partition.queue.lock());
        }
        if let Some(queue) = spot.partition.queue.try_lock() {
            return Some(queue);
        }
        *parted = true;
        (!self.on_contention(spot)).then(|| spot.partition.queue.lock())
    }

    /// A lock was held. If another caller held it, and there is somewhere else to go, this one's sticky choice is
    /// there from here on.
    #[cold]
    fn on_contention(&self, spot: &AppendTarget<'_>) -> bool {
        let Some(index) = spot.sticky_index else { return false };
        // The sender only looks in, and is gone in a moment.
        !spot.partition.is_locked_by_sender() && split_stripe(spot.topic, index, self.env.random())
    }

    fn open_batch(
        &self,
        buf: PooledBuf,
        partition: &Arc<Partition>,
        record: &PreparedRecord<'_>,
        attempt: &mut AppendState,
    ) -> OpenBatch {
        let number = self.next_batch_number();
        let meta = BatchMeta {
            partition: partition.clone(),
            number,
            queue_position: (number, 0),
            created: self.env.now(),
            base_timestamp: record.timestamp,
            max_timestamp: record.timestamp,
            record_count: 0,
            max_record_bytes: 0,
            memory_wait: attempt.memory_wait,
        };
        let (base_timestamp, callers) = (record.timestamp, self.caller_context.clone());
        let of = BatchInfo {
            partition: partition.clone(),
            number,
            base_timestamp,
            caller_context: callers,
        };
        let shell = attempt.scratch.take().unwrap_or_default();
        let ends = BatchCompletions::new(self.listeners.clone(), shell, of);
        let sizing = &partition.estimator;
        let packs = self.settings.codec != Codec::None;
        OpenBatch::new(buf, meta, ends, sizing.uncompressed_limit(self.settings.batch_size, packs))
    }

    /// Encodes the record into the open batch; what follows: the lock goes, the sender hears, the batch is
    /// closed if it is full.
    #[inline]
    fn append_to_open(
        &self,
        spot: &AppendTarget<'_>,
        mut queue: MutexGuard<'_, PartitionQueue>,
        (record, at): (&PreparedRecord<'_>, RecordLayout),
        watch: &mut DeliveryOptions,
    ) -> Option<Delivery> {
        let Some(open) = queue.open_mut() else {
            unreachable!("put is called where a batch is open");
        };
        let bytes = open.push(&record.body, at, record.timestamp);
        let delivery = open.completions.add_record(record.timestamp, record.token, watch);
        let (full, limit) = (open.is_full(), open.sticky_limit(self.settings.batch_size));
        let mut worn = false;
        if spot.sticky_index.is_some() {
            queue.sticky_bytes = queue.sticky_bytes.saturating_add(bytes as u32);
            worn = should_switch(queue.sticky_bytes as usize, limit, full);
        }
        if full || worn || !queue.announced {
            self.after_append(spot, queue);
        }
        delivery
    }

    /// What follows an append that filled a batch, wore the sticky choice out, or was the partition's first.
    #[cold]
    fn after_append(&self, spot: &AppendTarget<'_>, mut queue: MutexGuard<'_, PartitionQueue>) {
        let full = queue.open().is_some_and(OpenBatch::is_full);
        let taken = if full { queue.close_open() } else { None };
        let worn = spot.sticky_index.is_some() && self.should_switch(&queue);
        if worn {
            queue.sticky_bytes = 0;
        }
        let announce = !queue.announced;
        if announce {
            queue.announced = true;
            self.events().begin_announcement();
        }
        drop(queue);
        if announce {
            let due = if self.settings.linger.is_zero() || full {
                Tick(0)
            } else {
                self.env.now().after(self.settings.linger)
            };
            self.announce(spot.partition, due);
        }
        // First, so that others do not go on here while this one compresses.
        if let (true, Some(index)) = (worn, spot.sticky_index) {
            switch_partition(spot.topic, index, self.env.random());
        }
        if let Some(batch) = taken {
            self.close_batch(spot.partition, batch);
        }
    }

    /// Closes a batch off the lock, and tells the sender. Where that means to compress it, a helper does, if none
    /// of its kind waits for one already.
    fn close_batch(&self, partition: &Arc<Partition>, batch: OpenBatch) {
        if self.settings.codec == Codec::None {
            self.close_into_queue(batch);
            return self.post_batch_closed(partition);
        }
        let work = CloseJob::try_new(self.weak_self.upgrade(), batch);
        let back = match (self.worker_pool.get(), work) {
            (Some(hands), Ok(work)) => hands.try_spawn(Box::new(move || work.run())),
            (None, Ok(work)) => {
                work.run();
                None
            }
            // The accumulator is being dropped: there is no sender either.
            (_, Err(batch)) => return drop(batch),
        };
        if let Some(work) = back {
            work();
        }
    }

    fn should_switch(&self, queue: &PartitionQueue) -> bool {
        let size = self.settings.batch_size;
        let limit = queue.open().map_or(size.max(1), |open| open.sticky_limit(size));
        should_switch(queue.sticky_bytes as usize, limit, queue.all_batches_full())
    }

    /// Tells the sender of a partition that holds something.
    fn announce(&self, partition: &Arc<Partition>, due: Tick) {
        self.post(Event::BatchOpened(partition.clone()), due);
        self.events().end_announcement();
    }

    /// Tells the sender of a batch that waits to be drained; rings only if its broker could take it.
    pub(crate) fn post_batch_closed(&self, partition: &Arc<Partition>) {
        let idle = || !self.events().is_busy(partition.leader.load(Relaxed));
        if let Err(event) =
            self.events().post_if(Event::BatchClosed(partition.clone()), Tick(0), idle)
        {
            self.handle_undeliverable(event);
        }
    }

    /// Closes a batch for which a slot was kept, and fills it.
    pub(crate) fn close_into_queue(&self, open: OpenBatch) {
        let partition = open.meta.partition.clone();
        let now = self.env.now();
        let mut encoder = self.take_encoder();
        let mut closed = open.close(encoder.as_mut());
        closed.timings.closed_at = Some(now);
        partition.fill_closing(closed);
        self.return_encoder(encoder);
    }
}

/// A batch that is closed by whoever has the time. Whatever becomes of the work, its place is not kept for ever.
pub(crate) struct CloseJob {
    accumulator: Arc<RecordAccumulator>,
    partition: Arc<Partition>,
    batch: Option<OpenBatch>,
    batch_number: u64,
    /// When its time is over.
    expires_at: Tick,
}

impl CloseJob {
    /// The batch comes back where there is no accumulator any more.
    pub(crate) fn try_new(
        acc: Option<Arc<RecordAccumulator>>,
        batch: OpenBatch,
    ) -> Result<CloseJob, Box<OpenBatch>> {
        let Some(acc) = acc else { return Err(Box::new(batch)) };
        let (partition, number) = (batch.meta.partition.clone(), batch.meta.number);
        let over = batch.meta.created.after(acc.settings.delivery_timeout);
        Ok(CloseJob {
            accumulator: acc,
            partition,
            batch: Some(batch),
            batch_number: number,
            expires_at: over,
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
        // Nobody came to the end of it, or somebody panicked on the way: its records were told.
        self.partition.queue.lock().remove_closing(self.batch_number);
        if self.expires_at <= self.accumulator.env.now() {
            // To be failed now, whatever its node can take.
            self.accumulator.post(Event::BatchClosed(self.partition.clone()), Tick(0));
        } else {
            self.accumulator.post_batch_closed(&self.partition);
        }
    }
}
