//! Fails batches and the whole producer, with errors that say where the record's time went.

use std::time::Duration;

use ottla_protocol::ErrorCode;

use super::Sender;
use super::responses::AttemptResult;
use crate::accumulator::batch::{ClosedBatch, StampedBatch};
use crate::accumulator::partition::Partition;
use crate::delivery::result::{Outcome, RecordError};
use crate::error::{DeliveryTimings, Error, ErrorKind, RecordStatus, counted};
use crate::network::io::Io;
use crate::sender::drain::RemovedBatch;
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Fails the records of a batch. The error contains their status, location and timings.
    pub(super) fn fail_records(&mut self, mut batch: ClosedBatch, error: &Error) {
        let error = self.with_batch_context(error, &batch);
        batch.complete(Outcome::Failed(error));
        self.batch_completed(batch.meta.number);
    }

    /// Fails a batch that a broker has rejected, or that may not be retried any more.
    pub(super) fn fail_batch(&mut self, batch: StampedBatch, response: AttemptResult) {
        // A batch that expired in flight is completed already; now its buffer is free, too.
        let is_completed = batch.closed.is_completed();
        let mut closed = batch.unstamp();
        if is_completed {
            self.batch_completed(closed.meta.number);
            return;
        }
        let code = response.code;
        if response.record_errors.is_empty() {
            let mut error = response
                .error
                .unwrap_or_else(|| Error::new(ErrorKind::Internal, "the batch failed: no reason"));
            if error.kind() == ErrorKind::RecordTooLarge {
                error = Self::message_too_large_error(&closed, code, &error);
            }
            self.fail_records(closed, &error);
            return;
        }
        // KIP-467: some records caused the error, the others were only in the same batch.
        let p = &closed.meta.partition;
        let status = closed.status;
        // A record that may be in the log would be there twice after a second send.
        let advice =
            if status == RecordStatus::NotPersisted { "; send this record again" } else { "" };
        let reason = format!(
            "{}-{}: another record of the same batch was rejected ({code}){advice}",
            p.topic, p.index
        );
        let error = Error::with_code(code, reason).with_status(status);
        let batch_error = self.with_batch_context(&error, &closed);
        let record_errors = response
            .record_errors
            .into_iter()
            .map(|r| RecordError { error: self.with_batch_context(&r.error, &closed), ..r })
            .collect();
        let number = closed.meta.number;
        closed.complete(Outcome::PerRecord { batch_error, record_errors });
        self.batch_completed(number);
    }

    /// Returns the error of a batch that a broker rejects as too large and that is not split.
    fn message_too_large_error(batch: &ClosedBatch, code: ErrorCode, error: &Error) -> Error {
        let largest = match batch.meta.partition.estimator.largest_accepted() {
            0 => "no batch was accepted yet".to_owned(),
            size => format!("the largest accepted batch had {size} bytes"),
        };
        // A batch of several records is split, unless it may be in the log or has expired.
        let way_out = if batch.meta.record_count == 1 {
            "make the record smaller"
        } else {
            "lower batch.size"
        };
        let setting = match code {
            ErrorCode::RECORD_LIST_TOO_LARGE => "segment.bytes",
            _ => "max.message.bytes",
        };
        let reason = format!(
            "{error}: the batch of {} has {} bytes on the wire ({} uncompressed), and \
             {largest}; raise the topic's {setting} or {way_out}",
            counted(batch.meta.record_count, "record"),
            batch.wire_len(),
            batch.uncompressed_len
        );
        Error::with_code(code, reason)
    }

    /// Adds the batch's record status, partition, timings and the error of its last attempt.
    pub(super) fn with_batch_context(&self, error: &Error, batch: &ClosedBatch) -> Error {
        let timings = self.delivery_timings(batch, self.env.now());
        let mut error = error.clone();
        // The error of the last attempt may be this error itself.
        if let Some(last) = batch.last_error.as_ref().filter(|last| !error.is_copy_of(last)) {
            error = error.with_last_broker_error(last);
        }
        if error.record_status() != batch.status {
            error = error.with_status(batch.status);
        }
        let p = &batch.meta.partition;
        error.with_location(&format!("{}-{}", p.topic, p.index)).with_timings(timings)
    }

    /// Returns where the time of a batch went. The parts add up to its age.
    ///
    /// Where two of them overlap, the time counts for the first one in this order: in flight,
    /// backoff, without a leader, throttled, lingering.
    pub(super) fn delivery_timings(&self, batch: &ClosedBatch, now: Tick) -> DeliveryTimings {
        let (timings, meta) = (&batch.timings, &batch.meta);
        let mut remaining = now.since(meta.created);
        let mut take = |time: Duration| {
            let time = time.min(remaining);
            remaining -= time;
            time
        };
        let current_request = timings.sent_at.map_or(Duration::ZERO, |at| now.since(at));
        let in_flight = take(timings.in_flight + current_request);
        let backoff = take(timings.backed_off(now));
        let leaderless = take(self.ready.leaderless_duration(meta.partition.id, now));
        let leader = self.client.cluster().leader(&meta.partition.topic, meta.partition.index);
        let throttled = take(self.client.throttled_time(leader.node_id, meta.created, now));
        let linger_end = timings.closed_at.or(timings.drained_at).unwrap_or(now);
        let linger = take(self.accumulator.settings.linger.min(linger_end.since(meta.created)));
        DeliveryTimings {
            attempts: batch.attempts,
            last_broker: (timings.broker >= 0).then_some(timings.broker),
            memory_wait: meta.memory_wait,
            linger,
            leaderless,
            backoff,
            throttled,
            in_flight,
            queued: remaining,
        }
    }

    /// Fails the records of batches in flight. Whether a broker has the request is unknown, so
    /// they are possibly persisted.
    ///
    /// The batch itself stays in flight with its buffer until the response arrives or the
    /// connection ends. The socket may still read the buffer (CASES SN29, KAFKA-19012).
    pub(super) fn fail_in_flight_batches(
        &mut self,
        which: impl Fn(&ClosedBatch) -> bool,
        error_for: impl Fn(&Self, &ClosedBatch) -> Error,
    ) {
        let mut in_flight = std::mem::take(&mut self.in_flight_batches);
        for batch in in_flight.values_mut().flat_map(|f| &mut f.batches) {
            let closed = &mut batch.closed;
            if closed.is_completed() || !which(closed) {
                continue;
            }
            closed.status = RecordStatus::PossiblyPersisted;
            let error = self.with_batch_context(&error_for(self, closed), closed);
            closed.complete(Outcome::Failed(error));
            self.batch_completed(closed.meta.number);
        }
        self.in_flight_batches = in_flight;
    }

    /// Fails all batches that are not in flight.
    pub(super) fn abort_undrained_batches(&mut self, error: &Error) {
        self.abort_undrained_batches_in(error, |_| true);
    }

    /// Fails the batches of some partitions that are not in flight.
    pub(super) fn abort_undrained_batches_in(
        &mut self,
        error: &Error,
        which: impl Fn(&Partition) -> bool,
    ) {
        let removed = self.ready.remove(which);
        self.fail_removed_batches(removed, error);
    }

    pub(super) fn fail_removed_batches(&mut self, removed: Vec<RemovedBatch>, error: &Error) {
        for batch in removed {
            match batch {
                RemovedBatch::Unsent(batch) => self.fail_records(batch, error),
                RemovedBatch::Sent(batch) => {
                    // Its sequence will not be sent again, so later batches need a new epoch.
                    self.producer_state.mark_unresolved(&batch);
                    self.fail_records(batch.unstamp(), error);
                }
            }
        }
    }
}
