//! Fails batches, in the order of their partitions.

use super::Sender;
use super::responses::AttemptResult;
use crate::accumulator::batch::{ClosedBatch, QueuePosition, StampedBatch};
use crate::delivery::result::{Outcome, RecordError};
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::network::io::Io;
use crate::sender::drain::RemovedBatch;

impl<I: Io> Sender<I> {
    /// Fails the records of a batch. The error contains their status, location and timings.
    pub(super) fn fail_records(&mut self, mut batch: ClosedBatch, error: &Error) {
        let error = self.batch_errors(self.env.now()).with_batch_context(error, &batch);
        // First: a callback may commit the transaction.
        self.fail_transaction(&error);
        batch.complete(Outcome::Failed(error));
        self.flushes.batch_completed(batch.meta.number);
    }

    /// Fails a batch that a broker has rejected, or that may not be retried any more.
    pub(super) fn fail_batch(&mut self, batch: StampedBatch, response: AttemptResult) {
        // A batch that expired in flight is completed already; now its buffer is free, too.
        let is_completed = batch.closed.is_completed();
        let mut closed = batch.unstamp();
        if is_completed {
            self.flushes.batch_completed(closed.meta.number);
            return;
        }
        let code = response.code;
        if response.record_errors.is_empty() {
            let mut error = response
                .error
                .unwrap_or_else(|| Error::new(ErrorKind::Internal, "the batch failed: no reason"));
            if error.kind() == ErrorKind::RecordTooLarge {
                error = self.batch_errors(self.env.now()).message_too_large(&closed, code, &error);
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
        let error = Error::batch_rejected(code, reason).with_status(status);
        let errors = self.batch_errors(self.env.now());
        let batch_error = errors.with_batch_context(&error, &closed);
        let record_errors = response
            .record_errors
            .into_iter()
            .map(|r| RecordError { error: errors.with_batch_context(&r.error, &closed), ..r })
            .collect();
        self.fail_transaction(&batch_error);
        let number = closed.meta.number;
        closed.complete(Outcome::PerRecord { batch_error, record_errors });
        self.flushes.batch_completed(number);
    }

    /// Fails batches that have left their queues, and the records of the batches in flight that
    /// match, in the order of each partition: callbacks run in this order.
    ///
    /// Whether a broker has the request of a batch in flight is unknown, so the batch is possibly
    /// persisted. It stays in flight with its buffer until the response arrives or the connection
    /// ends. The socket may still read the buffer (CASES SN29, KAFKA-19012).
    pub(super) fn fail_batches(
        &mut self,
        removed: Vec<RemovedBatch>,
        matches_in_flight: impl Fn(&ClosedBatch) -> bool,
        error_for: impl Fn(&mut Self, &ClosedBatch) -> Error,
    ) {
        let mut in_flight = std::mem::take(&mut self.in_flight_batches);
        let matching = in_flight.incomplete_mut(matches_in_flight);
        let mut failed: Vec<FailedBatch<'_>> = (removed.into_iter().map(FailedBatch::Removed))
            .chain(matching.into_iter().map(FailedBatch::InFlight))
            .collect();
        failed.sort_by_key(FailedBatch::queue_position);
        let now = self.env.now();
        for batch in failed {
            match batch {
                FailedBatch::Removed(removed) => {
                    if let RemovedBatch::Sent(batch) = &removed {
                        // Its sequence will not be sent again, so later batches need a new epoch.
                        self.producer_state.mark_unresolved(batch);
                    }
                    let batch = removed.into_closed();
                    let error = error_for(self, &batch);
                    self.fail_records(batch, &error);
                }
                FailedBatch::InFlight(batch) => {
                    batch.status = RecordStatus::PossiblyPersisted;
                    let error = error_for(self, batch);
                    let error = self.batch_errors(now).with_batch_context(&error, batch);
                    self.fail_transaction(&error);
                    batch.complete(Outcome::Failed(error));
                    self.flushes.batch_completed(batch.meta.number);
                }
            }
        }
        self.in_flight_batches = in_flight;
    }

    /// Fails all batches that are not in flight.
    pub(super) fn abort_undrained_batches(&mut self, error: &Error) {
        let removed = self.ready.remove(|_| true);
        self.fail_batches(removed, |_| false, |_, _| error.clone());
    }
}

/// A batch whose records fail.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, until it is completed")]
enum FailedBatch<'a> {
    Removed(RemovedBatch),
    InFlight(&'a mut ClosedBatch),
}

impl FailedBatch<'_> {
    fn queue_position(&self) -> QueuePosition {
        match self {
            FailedBatch::Removed(removed) => removed.closed().meta.queue_position,
            FailedBatch::InFlight(batch) => batch.meta.queue_position,
        }
    }
}
