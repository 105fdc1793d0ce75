//! Ends a batch that has its size: closes it, or extends it.
//!
//! A batch is closed without its partition's lock. If it is compressed, a worker thread does that.
//! A batch that would wait behind others, or whose node cannot take a request now, is extended
//! instead, up to `batch.size.max`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::RecordAccumulator;
use super::batch::OpenBatch;
use super::partition::{Partition, PartitionQueue};
use crate::config::AccumulatorSettings;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::pending_posts::PendingJob;

/// What happens to a batch that has its size.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
pub(super) enum EndedBatch {
    /// The queue has a `Closing` entry for it.
    Closing(OpenBatch, PendingJob),
    /// It stays open, and the sender may drain it.
    Extended,
    /// There is no batch, or it was extended before.
    Unchanged,
}

impl EndedBatch {
    pub(super) fn closing(batch: Option<(OpenBatch, PendingJob)>) -> EndedBatch {
        batch.map_or(EndedBatch::Unchanged, |(batch, job)| EndedBatch::Closing(batch, job))
    }
}

/// From this number of queued batches on, a full batch is extended rather than closed. Behind one
/// batch the next one may still be due soon.
const MIN_BACKLOG: usize = 2;

impl RecordAccumulator {
    /// Returns whether the open batch may get one more buffer than `batch.size` allows: its node
    /// cannot take a request now, or other batches wait before it, so a new batch would only wait
    /// behind it. A request takes one batch of a partition. With a far broker, larger batches are
    /// the only way to send more; and a sender that falls behind has less to do for each record.
    pub(super) fn can_extend(&self, queue: &PartitionQueue, partition: &Partition) -> bool {
        let AccumulatorSettings { batch_size, max_batch_size, compression, .. } = &self.settings;
        compression.is_none()
            && queue.open().is_some_and(|open| {
                let max = partition.estimator.limit().min(*max_batch_size);
                // A record that is larger than a batch stays alone.
                open.wire_len() <= open.max_wire_len() && open.max_wire_len() + batch_size <= max
            })
            && (queue.batches.len() >= MIN_BACKLOG
                || self.events().is_busy(partition.leader.load(Relaxed)))
    }

    /// Ends a batch that has its size: extends it if possible, else begins to close it.
    pub(super) fn end_batch(
        &self,
        queue: &mut PartitionQueue,
        partition: &Partition,
    ) -> EndedBatch {
        if self.can_extend(queue, partition) {
            let is_new = queue.open_mut().is_some_and(OpenBatch::extend);
            return if is_new { EndedBatch::Extended } else { EndedBatch::Unchanged };
        }
        EndedBatch::closing(self.begin_closing(queue))
    }

    /// Notifies the sender of a batch that was extended, or closes it, without the partition's
    /// lock.
    pub(super) fn finish_ending(&self, partition: &Arc<Partition>, ended: EndedBatch) {
        match ended {
            EndedBatch::Closing(batch, job) => self.close_batch(partition, batch, job),
            EndedBatch::Extended => self.post_batch_ready(partition),
            EndedBatch::Unchanged => {}
        }
    }

    /// Removes the open batch, and counts this thread as one that closes a batch.
    pub(super) fn begin_closing(
        &self,
        queue: &mut PartitionQueue,
    ) -> Option<(OpenBatch, PendingJob)> {
        let open = queue.close_open()?;
        Some((open, self.events().pending_posts.begin_job()))
    }

    /// Closes a batch without the partition's lock and notifies the sender. A worker thread
    /// compresses the batch. The caller does it if the worker pool takes no more jobs.
    pub(super) fn close_batch(
        &self,
        partition: &Arc<Partition>,
        batch: OpenBatch,
        pending: PendingJob,
    ) {
        if self.settings.compression.is_none() {
            self.close_into_queue(batch);
            self.post_batch_ready(partition);
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

    /// Notifies the sender of a batch that is ready to drain. Does not wake the sender while the
    /// partition's leader cannot take a request, or if its next response will wake the sender soon.
    pub(crate) fn post_batch_ready(&self, partition: &Arc<Partition>) {
        let should_wake = || {
            let leader = partition.leader.load(Relaxed);
            !self.events().is_busy(leader) && !self.events().is_responding(leader)
        };
        if let Err(event) =
            self.events().post_if(Event::BatchReady(partition.id), Tick(0), should_wake)
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
            self.accumulator.post(Event::BatchReady(self.partition.id), Tick(0));
        } else {
            self.accumulator.post_batch_ready(&self.partition);
        }
    }
}
