//! Step 6 of the sender's round: fails batches older than `delivery.timeout.ms`, both queued
//! batches and batches in flight.

use super::Sender;
use super::producer_state::ProducerIdState;
use crate::accumulator::batch::ClosedBatch;
use crate::collections::HashSet;
use crate::error::{Error, ErrorKind, counted};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogEvent;
use crate::network::io::Io;
use crate::sender::drain::RemovedBatch;
use crate::sender::ready::DrainContext;
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Fails expired batches. Returns when the next batch in flight expires.
    pub(super) fn fail_expired_batches(&mut self, cx: DrainContext<'_>) -> Tick {
        self.fail_expired_queued_batches(cx);
        self.fail_expired_in_flight_batches(cx.now)
    }

    fn fail_expired_queued_batches(&mut self, cx: DrainContext<'_>) {
        let now = cx.now;
        for removed in self.ready.expire(cx) {
            let batch = match removed {
                // It has used no sequence, so the partition stays resolved (CASES SN15).
                RemovedBatch::Unsent(batch) => batch,
                // It has a sequence that the broker may or may not have. Later sequences would
                // leave a gap (KIP-360).
                RemovedBatch::Sent(batch) => {
                    self.producer_state.mark_unresolved(&batch);
                    batch.unstamp()
                }
            };
            let error = self.delivery_timeout_error(&batch, now);
            if let Some(suppressed) =
                self.client.log_events().check(LogEvent::BatchExpired, -1, now)
            {
                let p = &batch.meta.partition;
                tracing::warn!(
                    name: "ottla.batch_expired",
                    topic = &*p.topic,
                    partition = p.index,
                    records = batch.meta.record_count,
                    suppressed,
                    "{error}"
                );
            }
            self.fail_records(batch, &error);
        }
    }

    /// Fails the records of expired batches in flight now. Their buffers stay allocated until the
    /// response arrives or the connection ends (CASES SN29).
    fn fail_expired_in_flight_batches(&mut self, now: Tick) -> Tick {
        if self.next_in_flight_expiry > now {
            return self.next_in_flight_expiry;
        }
        let (mut next, timeout) = (Tick::NEVER, self.settings.delivery_timeout);
        let mut expired = HashSet::default();
        for batch in self.in_flight_batches.values().flat_map(|f| &f.batches) {
            let closed = &batch.closed;
            if inject_bug!(NoInFlightExpiry, closed.is_completed()) {
                continue;
            }
            let expiry = closed.meta.created.after(timeout);
            if expiry > now {
                next = next.min(expiry);
            } else {
                expired.insert(closed.meta.number);
            }
        }
        self.next_in_flight_expiry = next;
        if !expired.is_empty() {
            let is_expired = |b: &ClosedBatch| expired.contains(&b.meta.number);
            self.fail_in_flight_batches(is_expired, |s, b| s.in_flight_timeout_error(b, now));
        }
        next
    }

    /// Returns the error of a batch that expired in its queue, with the most likely reason.
    fn delivery_timeout_error(&self, batch: &ClosedBatch, now: Tick) -> Error {
        let reason = match &batch.last_error {
            Some(e) => {
                let attempts = counted(batch.attempts, "attempt");
                format!("after {attempts}, the last error was: {e}")
            }
            None => self.unsent_reason(batch),
        };
        self.delivery_timeout_error_with_reason(batch, &reason, now)
    }

    /// Returns the error of a batch that expired in flight.
    fn in_flight_timeout_error(&self, batch: &ClosedBatch, now: Tick) -> Error {
        let name = self.client.broker_name(batch.timings.broker);
        let reason = format!(
            "no response from {name} after {}; check the load and the log of this broker",
            counted(batch.attempts, "attempt")
        );
        self.delivery_timeout_error_with_reason(batch, &reason, now)
    }

    /// Explains why a batch was never sent.
    fn unsent_reason(&self, batch: &ClosedBatch) -> String {
        if let Some(summary) = self.health.unavailable_summary() {
            return summary;
        }
        let p = &batch.meta.partition;
        let leader = self.client.cluster().leader(&p.topic, p.index).node_id;
        if leader == -1 {
            return "the partition has no leader; check its replicas with kafka-topics --describe"
                .to_owned();
        }
        let is_without_id = matches!(
            self.producer_state.producer_id,
            ProducerIdState::Needed { .. } | ProducerIdState::Requested
        );
        if is_without_id {
            return "no broker has assigned a producer id; check the brokers' logs, or set \
                    enable.idempotence=false"
                .to_owned();
        }
        let name = self.client.broker_name(leader);
        format!(
            "not sent to {name}: waiting for an earlier batch, a connection, the end of a throttle \
             or a free request; check the broker's load and quotas"
        )
    }

    fn delivery_timeout_error_with_reason(
        &self,
        batch: &ClosedBatch,
        reason: &str,
        now: Tick,
    ) -> Error {
        let p = &batch.meta.partition;
        let timings = self.delivery_timings(batch, now);
        let timeout_ms = self.settings.delivery_timeout.as_millis();
        let message = format!(
            "{}-{}: not acknowledged within delivery.timeout.ms ({timeout_ms} ms: {timings}): \
             {reason}",
            p.topic, p.index
        );
        Error::new(ErrorKind::DeliveryTimeout, message)
    }
}
