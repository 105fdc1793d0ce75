//! Splits batches that are too large for their broker (MESSAGE_TOO_LARGE), and hands compression
//! to worker threads.
//!
//! A job on a worker thread splits the batch (`split_job.rs`). `Event::BatchSplit` announces
//! the parts, and they replace the batch in its queue.

use super::Sender;
use crate::accumulator::batch::{ClosedBatch, OpenBatch, StampedBatch};
use crate::accumulator::close::CloseJob;
use crate::accumulator::partition::{QueuedBatch, SplittingBatch};
use crate::error::{Error, ErrorKind};
use crate::log_limiter::{LogEvent, NO_NODE};
use crate::metrics::{Sensor, add};
use crate::network::io::{Io, Job};
use crate::sender::split_job::{SplitJob, SplitOutcome};
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Starts the jobs that compress or split batches of a drain on worker threads.
    pub(super) fn start_jobs(&mut self, to_close: Vec<OpenBatch>, to_split: Vec<ClosedBatch>) {
        for open in to_close {
            let pending = self.accumulator.events().pending_posts.begin_job();
            if let Ok(job) = CloseJob::try_new(Some(self.accumulator.clone()), open, pending) {
                self.client.start_job(Job::Work(Box::new(move || job.run())));
            }
        }
        // These batches were never sent: a broker is known to reject their size.
        for batch in to_split {
            let topic = &batch.meta.partition.topic;
            let max_size = self.batch_size_discovery.largest_not_rejected(topic);
            let job =
                SplitJob::new(self.accumulator.clone(), self.split_outcomes.clone(), &batch, false);
            let work = move || job.run(|accumulator| accumulator.split_closed(batch, max_size));
            self.client.start_job(Job::Work(Box::new(work)));
        }
    }

    /// Splits a batch that the broker has rejected with MESSAGE_TOO_LARGE.
    ///
    /// The batch still counts as in flight until its parts are back. So nothing overtakes it, and
    /// its partition is not resolved under a new epoch meanwhile. The parts keep its place,
    /// sequences and age. They are sent without a backoff, and no attempt is counted (CASES SN28).
    pub(super) fn start_split(&mut self, batch: StampedBatch, now: Tick) {
        let (closed, p) = (&batch.closed, batch.closed.meta.partition.clone());
        let size = closed.wire_len();
        let topic_id = batch.stamp.topic_id;
        self.batch_size_discovery.on_rejected(&p, topic_id, size, now);
        let max_size = self.batch_size_discovery.largest_not_rejected(&p.topic);
        if closed.is_compressed() {
            p.estimator.reset_ratio(closed.uncompressed_len, size);
        }
        add(&self.counters.batch_split_total, 1);
        self.counters.sensors.record(&[(Sensor::BatchSplit, 1.0)], now);
        let splitting = QueuedBatch::Splitting(SplittingBatch::new(closed));
        p.lock_for_sender().insert_in_order(splitting);
        self.ready.insert(p);
        let job =
            SplitJob::new(self.accumulator.clone(), self.split_outcomes.clone(), closed, true);
        let work = move || job.run(|accumulator| accumulator.split_stamped(batch, max_size, now));
        self.client.start_job(Job::Work(Box::new(work)));
    }

    /// Puts the parts of a split batch into the queue, in its place.
    pub(super) fn reenqueue_parts(&mut self, outcome: SplitOutcome) {
        let SplitOutcome { partition: p, number, stamped, parts, error } = outcome;
        if stamped {
            self.producer_state.remove_in_flight_batch(p.id);
        }
        if stamped && parts.is_empty() {
            // The job panicked, which is a bug. No batch carries these sequences any more.
            self.producer_state.mark_unresolved_at(p.id);
        }
        if let Some(suppressed) =
            self.client.log_events().check(LogEvent::BatchSplit, NO_NODE, self.env.now())
        {
            tracing::info!(
                name: "ottla.batch_split",
                target: "ottla::delivery",
                topic = &*p.topic,
                partition = p.index,
                parts = parts.len(),
                suppressed,
                "batch split: it was too large for the broker"
            );
        }
        let decode_error = error.map(|e| {
            let reason = format!("splitting a batch failed: its records cannot be decoded: {e}");
            Error::new(ErrorKind::Internal, reason)
        });
        // A purge skips a batch while a worker thread has it, so the purge is applied to the parts
        // here.
        let purge = self.last_purge.as_ref().filter(|purge| number <= purge.up_to);
        let failure = decode_error.or_else(|| purge.map(|purge| purge.error.clone()));
        let kept = if let Some(error) = &failure {
            for part in parts {
                if let QueuedBatch::Retry { batch: b, .. } = &part {
                    self.producer_state.mark_unresolved(b);
                }
                part.into_closed().into_iter().for_each(|b| self.fail_records(b, error));
            }
            self.flushes.batch_completed(number);
            Vec::new()
        } else {
            self.flushes.batch_split(number, parts.iter().map(QueuedBatch::number));
            parts
        };
        let mut queue = p.lock_for_sender();
        queue.replace_with_parts(number, kept);
        queue.is_tracked_by_sender = true;
        drop(queue);
        self.ready.insert(p);
    }
}
