//! The errors of failed batches, which say where a record's time went and what to do.

use std::time::Duration;

use ottla_protocol::ErrorCode;

use super::Sender;
use super::batch_size_discovery::BatchSizeDiscovery;
use super::producer_state::ProducerState;
use super::ready::ReadyTracker;
use crate::accumulator::RecordAccumulator;
use crate::accumulator::batch::ClosedBatch;
use crate::client::{NetworkClient, SharedHealth};
use crate::error::{DeliveryTimings, Error, ErrorKind, counted};
use crate::network::io::Io;
use crate::time::Tick;

/// What the errors of batches report.
pub(super) struct BatchErrors<'a, I: Io> {
    accumulator: &'a RecordAccumulator,
    client: &'a NetworkClient<I>,
    ready: &'a ReadyTracker,
    producer_state: &'a ProducerState,
    discovery: &'a BatchSizeDiscovery,
    health: &'a SharedHealth,
    now: Tick,
}

impl<I: Io> Sender<I> {
    /// Returns what errors of batches report at this time.
    pub(super) fn batch_errors(&self, now: Tick) -> BatchErrors<'_, I> {
        BatchErrors {
            accumulator: &self.accumulator,
            client: &self.client,
            ready: &self.ready,
            producer_state: &self.producer_state,
            discovery: &self.batch_size_discovery,
            health: &self.health,
            now,
        }
    }
}

impl<I: Io> BatchErrors<'_, I> {
    /// Adds the batch's record status, partition, timings and the error of its last attempt.
    pub(super) fn with_batch_context(&self, error: &Error, batch: &ClosedBatch) -> Error {
        let timings = self.delivery_timings(batch);
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

    /// Returns the error of a batch that expired, with the most likely reason.
    pub(super) fn delivery_timeout(&self, batch: &ClosedBatch) -> Error {
        let attempts = counted(batch.attempts, "attempt");
        let is_in_flight = batch.timings.sent_at.is_some();
        let reason = match &batch.last_error {
            _ if is_in_flight => {
                let name = self.client.broker_name(batch.timings.broker);
                format!(
                    "no response from {name} after {attempts}; check the load and the log of this \
                     broker"
                )
            }
            Some(e) => format!("after {attempts}, the last error was: {e}"),
            None => self.unsent_reason(batch),
        };
        let p = &batch.meta.partition;
        let timings = self.delivery_timings(batch);
        let timeout_ms = self.accumulator.settings.delivery_timeout.as_millis();
        let message = format!(
            "{}-{}: not acknowledged within delivery.timeout.ms ({timeout_ms} ms: {timings}): \
             {reason}",
            p.topic, p.index
        );
        Error::new(ErrorKind::DeliveryTimeout, message)
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
        if self.producer_state.needs_producer_id() {
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

    /// Returns the error of a batch that a broker rejects as too large and that is not split.
    pub(super) fn message_too_large(
        &self,
        batch: &ClosedBatch,
        code: ErrorCode,
        error: &Error,
    ) -> Error {
        let topic = self.accumulator.topics.get(&batch.meta.partition.topic);
        let partition_ids = topic.iter().flat_map(|t| t.partitions.iter()).map(|p| p.id);
        let largest = match self.discovery.largest_accepted(partition_ids) {
            None => "no batch was accepted yet".to_owned(),
            Some(size) => format!("the largest accepted batch had {size} bytes"),
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

    /// Returns where the time of a batch went. The parts add up to its age.
    ///
    /// Where two of them overlap, the time counts for the first one in this order: in flight,
    /// backoff, without a leader, throttled, lingering.
    fn delivery_timings(&self, batch: &ClosedBatch) -> DeliveryTimings {
        let (timings, meta, now) = (&batch.timings, &batch.meta, self.now);
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
}
