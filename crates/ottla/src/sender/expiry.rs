//! Step 6 of the sender's round: fails batches older than `delivery.timeout.ms`, both queued
//! batches and batches in flight.

use super::Sender;
use crate::accumulator::batch::ClosedBatch;
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::log_limiter::{LogEvent, LogLimiter, NO_NODE};
use crate::network::io::Io;
use crate::sender::ready::DrainContext;
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Fails expired batches. Returns when the next batch in flight expires.
    ///
    /// The records of batches in flight fail now, but their buffers stay allocated until the
    /// response arrives or the connection ends (CASES SN29). An expired batch that was never sent
    /// has used no sequence, so its partition stays resolved (CASES SN15).
    pub(super) fn fail_expired_batches(&mut self, cx: DrainContext<'_>) -> Tick {
        let (now, timeout) = (cx.now, self.settings.delivery_timeout);
        let removed = self.ready.expire(cx);
        if removed.is_empty() && self.in_flight_batches.next_expiry() > now {
            return self.in_flight_batches.next_expiry();
        }
        let is_expired = |b: &ClosedBatch| {
            !inject_bug!(NoInFlightExpiry, false) && b.meta.created.after(timeout) <= now
        };
        self.fail_batches(removed, is_expired, |sender, batch| {
            let error = sender.batch_errors(now).delivery_timeout(batch);
            if batch.timings.sent_at.is_none() {
                log_expired_batch(sender.client.log_events(), batch, &error, now);
            }
            error
        });
        self.in_flight_batches.update_next_expiry(timeout, now);
        self.in_flight_batches.next_expiry()
    }
}

fn log_expired_batch(limiter: &mut LogLimiter, batch: &ClosedBatch, error: &Error, now: Tick) {
    let Some(suppressed) = limiter.check(LogEvent::BatchExpired, NO_NODE, now) else { return };
    let p = &batch.meta.partition;
    tracing::warn!(
        name: "ottla.batch_expired",
        target: "ottla::delivery",
        topic = &*p.topic,
        partition = p.index,
        records = batch.meta.record_count,
        suppressed,
        "{error}"
    );
}
