//! Handles completed requests: collects the facts about each batch, asks `verdict.rs` for a
//! verdict, and applies it.
//!
//! A request completes once: with a response, with the loss of its connection, or with acks=0 when
//! its last byte is sent. Until then its batches are in flight, and their buffers stay allocated,
//! even if their records have failed already. A batch leaves this file completed, failed, back in
//! its queue, or handed to a split job.

use std::time::Duration;

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{BatchIndexAndErrorMessage, PartitionProduceResponse};

use super::Sender;
use super::in_flight_batches::RequestBatches;
use super::produce_request::ParsedProduceResponse;
use super::verdict::{Facts, Verdict, decide, possibly_appended};
use crate::accumulator::batch::StampedBatch;
use crate::accumulator::partition::QueuedBatch;
use crate::client::in_flight_requests::{CompletedRequest, RequestKind};
use crate::cluster::{Leader, LeaderHint};
use crate::delivery::result::RecordError;
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogEvent;
use crate::metrics::{Sensor, TopicSensor, add};
use crate::network::io::Io;
use crate::time::{Tick, backoff};

/// The longest backoff after CONCURRENT_TRANSACTIONS for the first request of a transaction: the
/// coordinator completes the last one, which takes a few milliseconds (CASES TM4).
pub(super) const CONCURRENT_TRANSACTIONS_BACKOFF: Duration = Duration::from_millis(20);

/// The result of one attempt of a batch.
pub(super) struct AttemptResult {
    pub(super) code: ErrorCode,
    base_offset: Option<i64>,
    log_append_time: Option<i64>,
    pub(super) error: Option<Error>,
    pub(super) record_errors: Vec<RecordError>,
    has_log_start_offset: bool,
    /// Whether this attempt may have written the batch. If not, the status stays as it is: an
    /// earlier attempt may have written the batch.
    possibly_appended: bool,
}

impl AttemptResult {
    /// The broker has responded with this entry.
    fn from_response(
        batch: &StampedBatch,
        entry: &PartitionProduceResponse,
        broker_name: impl FnOnce() -> String,
    ) -> AttemptResult {
        let code = ErrorCode(entry.error_code);
        let (mut error, mut record_errors) = (None, Vec::new());
        if !code.is_none() {
            let p = &batch.closed.meta.partition;
            let location = format!("{}-{} on {}", p.topic, p.index, broker_name());
            error = Some(Error::broker(code, entry.error_message.as_deref(), &location));
            if batch.closed.is_compressed() && is_about_format(code) {
                error = error.map(|e| with_compression_advice(code, &e));
            }
            record_errors = record_errors_of(entry, &location);
        }
        let base_offset = (entry.base_offset >= 0).then_some(entry.base_offset);
        AttemptResult {
            code,
            base_offset,
            log_append_time: (entry.log_append_time_ms >= 0).then_some(entry.log_append_time_ms),
            error,
            record_errors,
            has_log_start_offset: entry.log_start_offset >= 0,
            possibly_appended: possibly_appended(code, base_offset),
        }
    }

    /// No broker has responded. If the socket did not take the last byte of the request, no broker
    /// can have appended the batch.
    fn without_response(batch: &StampedBatch, reason: &str, fully_sent: bool) -> AttemptResult {
        let p = &batch.closed.meta.partition;
        let reason = format!("{}-{}: {reason}", p.topic, p.index);
        AttemptResult {
            code: ErrorCode::NETWORK_EXCEPTION,
            base_offset: None,
            log_append_time: None,
            error: Some(Error::new(ErrorKind::Network, reason)),
            record_errors: Vec::new(),
            has_log_start_offset: false,
            possibly_appended: inject_bug!(LostRequestNotPersisted, fully_sent),
        }
    }
}

/// Returns the errors of the records that the broker names (KIP-467).
///
/// As in Java's client, a single record has the partition's code. Of several records, each may have
/// broken a different rule, so their code is INVALID_RECORD and only the text names the rule.
fn record_errors_of(entry: &PartitionProduceResponse, location: &str) -> Vec<RecordError> {
    let code = if entry.record_errors.len() == 1 {
        ErrorCode(entry.error_code)
    } else {
        ErrorCode::INVALID_RECORD
    };
    let record_error = |e: &BatchIndexAndErrorMessage| {
        let message = e.batch_index_error_message.as_deref().or(entry.error_message.as_deref());
        // Without any text, the text of the partition's code is more precise.
        let message = message.unwrap_or_else(|| ErrorCode(entry.error_code).description());
        let index = u32::try_from(e.batch_index).ok()?;
        Some(RecordError { index, error: Error::broker(code, Some(message), location) })
    };
    entry.record_errors.iter().filter_map(record_error).collect()
}

/// Returns whether a broker may reject a compressed batch with this code only because it does not
/// know the codec. Services that imitate Kafka do.
fn is_about_format(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
            | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
            | ErrorCode::CORRUPT_MESSAGE
            | ErrorCode::INVALID_RECORD
    )
}

fn with_compression_advice(code: ErrorCode, error: &Error) -> Error {
    let advice = "the batch is compressed, which this broker or topic may not support: change \
                  compression.type, or set it to none";
    Error::with_code(code, format!("{error}; {advice}"))
}

impl<I: Io> Sender<I> {
    pub(super) fn handle_completed_request(&mut self, completed: CompletedRequest, now: Tick) {
        if !matches!(completed.request.kind, RequestKind::Produce) {
            self.complete_acknowledged_batches();
        }
        match completed.request.kind {
            RequestKind::Produce => self.handle_produce_response(completed, now),
            RequestKind::InitProducerId => self.handle_init_producer_id_response(completed, now),
            RequestKind::Transaction => self.handle_transaction_response(completed, now),
            RequestKind::Telemetry => self.handle_telemetry_response(&completed, now),
            RequestKind::ApiVersions(_) | RequestKind::Metadata | RequestKind::Sasl(_) => {}
        }
    }

    #[inline(never)]
    fn handle_produce_response(&mut self, completed: CompletedRequest, now: Tick) {
        let request = &completed.request;
        let Some(RequestBatches { node, batches }) =
            self.in_flight_batches.remove(request.correlation_id)
        else {
            return;
        };
        // With acks=0 the request completes when its last byte is sent. No response will ever tell
        // the offset or an error (CASES SN43).
        let is_sent_without_acks = completed.result.is_ok() && !request.expects_response;
        if inject_bug!(AckAfterDisconnect, is_sent_without_acks, completed.result.is_err()) {
            batches.into_iter().for_each(|b| self.acknowledge_batch(b, None, None));
            return;
        }
        let version = request.version;
        // A response, even an unreadable one, proves that the broker has received the request.
        let fully_sent = completed.result.is_ok() || request.fully_sent;
        let response = self.parse_produce_response(node, &completed, now);
        if let Ok(response) = &response {
            if let Some(transactions) = &mut self.producer_state.transactions {
                transactions.on_produce_response(now);
            }
            // From version 6 on, the client has to observe the throttle time (KIP-219).
            self.client.throttle(node, response.throttle_time_ms(), version >= 6, now);
            // Before the verdicts: a batch that is retried sees the new leader at once.
            self.apply_leader_hints(response, &batches, now);
        }
        let mut unrequested = response.as_ref().map_or(0, ParsedProduceResponse::partition_count);
        // Each batch belongs to a different partition, so their order does not matter.
        for mut batch in batches {
            let batch_response = match &response {
                Ok(response) => match response.partition_response(&batch) {
                    Some(entry) => {
                        unrequested = unrequested.saturating_sub(1);
                        let broker_name = || self.client.broker_name(node);
                        AttemptResult::from_response(&batch, entry, broker_name)
                    }
                    // No entry, no proof: the broker may have appended the batch.
                    None => {
                        let name = self.client.broker_name(node);
                        let reason = format!("{name}: the Produce response lacks the partition");
                        AttemptResult::without_response(&batch, &reason, fully_sent)
                    }
                },
                Err(reason) => AttemptResult::without_response(&batch, reason, fully_sent),
            };
            let timings = &mut batch.closed.timings;
            let elapsed = timings.sent_at.take().map_or(Duration::ZERO, |at| now.since(at));
            timings.in_flight += elapsed;
            // With any outcome, the partition may be able to drain its next batch.
            self.ready.mark_dirty(batch.closed.meta.partition.id);
            // The status only moves towards "possibly persisted".
            if batch_response.possibly_appended {
                batch.closed.status = RecordStatus::PossiblyPersisted;
            }
            self.apply_verdict(batch, batch_response, node, now);
        }
        if unrequested > 0
            && let Some(suppressed) =
                self.client.log_events().check(LogEvent::UnrequestedPartitions, node, now)
        {
            tracing::warn!(
                name: "ottla.unrequested_partitions",
                target: "ottla::delivery",
                broker = node,
                unrequested,
                suppressed,
                "the Produce response contains partitions that were not requested"
            );
        }
    }

    /// Decodes the response, or returns the reason why there is none. An unreadable response closes
    /// the connection.
    fn parse_produce_response(
        &mut self,
        node: i32,
        completed: &CompletedRequest,
        now: Tick,
    ) -> Result<ParsedProduceResponse, String> {
        match &completed.result {
            Ok(frame) => {
                let version = completed.request.version;
                ParsedProduceResponse::parse(frame, version).map_err(|e| {
                    let name = self.client.broker_name(node);
                    let reason = format!("{name}: the Produce response cannot be decoded: {e}");
                    self.client.fail_connection(node, &reason, now);
                    reason
                })
            }
            Err(disconnected) => Err(disconnected.reason.clone()),
        }
    }

    /// Applies the new leaders that a broker reports for partitions it no longer leads (KIP-951).
    ///
    /// The client uses them at once and requests metadata all the same.
    fn apply_leader_hints(
        &mut self,
        response: &ParsedProduceResponse,
        batches: &[StampedBatch],
        now: Tick,
    ) {
        let mut hints = Vec::new();
        for batch in batches {
            let Some(entry) = response.partition_response(batch) else { continue };
            let is_moved = matches!(
                ErrorCode(entry.error_code),
                ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::FENCED_LEADER_EPOCH
            );
            let current = &entry.current_leader;
            if is_moved && current.leader_id >= 0 && current.leader_epoch >= 0 {
                let p = &batch.closed.meta.partition;
                let leader = Leader { node_id: current.leader_id, epoch: current.leader_epoch };
                hints.push(LeaderHint { topic: p.topic.clone(), partition: p.index, leader });
            }
        }
        if !hints.is_empty() {
            self.client.apply_leader_hints(&hints, &response.node_endpoints(), now);
        }
    }

    fn collect_facts(
        &mut self,
        batch: &StampedBatch,
        response: &AttemptResult,
        node: i32,
        now: Tick,
    ) -> Facts {
        let (closed, timeout) = (&batch.closed, self.settings.delivery_timeout);
        let p = &closed.meta.partition;
        Facts {
            code: response.code,
            idempotent: self.producer_state.is_idempotent(),
            transactional: self.producer_state.is_transactional(),
            unresolved: self.producer_state.is_unresolved(batch),
            attempts: closed.attempts,
            retries: self.settings.retries,
            // A batch that expired in flight is completed, since its records have failed. It is
            // neither sent again nor split (CASES SN32).
            expired: closed.is_completed() || closed.meta.created.after(timeout) <= now,
            record_count: closed.meta.record_count,
            status: closed.status,
            follows_last_acked: self.producer_state.follows_last_acked(batch),
            precedes_last_acked: self.producer_state.precedes_last_acked(batch),
            first_of_epoch: self.producer_state.is_first_of_epoch(batch),
            // The leader as known now, not as known when the request was sent: a broker that has
            // lost the leadership in between proves nothing.
            from_leader: self.client.cluster().leader(&p.topic, p.index).node_id == node,
            has_log_start_offset: response.has_log_start_offset,
        }
    }

    /// Decides what happens to a batch after one attempt, and does it.
    fn apply_verdict(
        &mut self,
        mut batch: StampedBatch,
        mut response: AttemptResult,
        node: i32,
        now: Tick,
    ) {
        let partition_id = batch.closed.meta.partition.id;
        let facts = self.collect_facts(&batch, &response, node, now);
        // If the batch expires during its backoff, this error explains the timeout.
        if response.error.is_some() {
            batch.closed.last_error.clone_from(&response.error);
        }
        let rule = decide(&facts);
        if !matches!(rule.verdict, Verdict::Complete | Verdict::Duplicate) {
            // This verdict may fail later batches of a partition whose batch is acknowledged.
            self.complete_acknowledged_batches();
        }
        if !response.code.is_none() {
            let p = &batch.closed.meta.partition;
            tracing::debug!(
                topic = &*p.topic,
                partition = p.index,
                code = %response.code,
                condition = rule.condition,
                reason = rule.reason,
            );
        }
        match rule.verdict {
            Verdict::Complete => {
                self.acknowledge_batch(batch, response.base_offset, response.log_append_time);
            }
            // The base offset of a duplicate is unknown, even if the response contains one.
            Verdict::Duplicate => self.acknowledge_batch(batch, None, None),
            Verdict::Retry { refresh_metadata } => {
                if refresh_metadata {
                    self.client.request_metadata(now);
                }
                self.report_stalled_batch(&batch, response.code, now);
                self.producer_state.remove_in_flight_batch(partition_id);
                self.reenqueue_batch(batch, response.code, now);
            }
            // The batch stays in flight for `producer_state` until its parts are back.
            Verdict::Split => self.start_split(batch, now),
            Verdict::BumpEpoch { new_producer_id } => {
                if inject_bug!(UnknownProducerIdIsProof, false, response.code) {
                    batch.closed.status = RecordStatus::NotPersisted;
                }
                if new_producer_id {
                    self.producer_state.require_new_producer_id();
                }
                // The batch waits in the queue with its old sequence. `resolve_sequences` gives it
                // a new one or fails it, once the partition has nothing in flight.
                self.producer_state.mark_unresolved(&batch);
                self.producer_state.remove_in_flight_batch(partition_id);
                self.reenqueue_batch(batch, response.code, now);
            }
            Verdict::Fail => {
                if response.code.is_invalid_metadata() {
                    self.client.request_metadata(now);
                }
                // Its sequence is lost: without a new epoch the broker would reject every later
                // batch of the partition with OUT_OF_ORDER_SEQUENCE_NUMBER.
                self.producer_state.mark_unresolved(&batch);
                self.producer_state.remove_in_flight_batch(partition_id);
                self.fail_batch(batch, response);
            }
            Verdict::FailProducer => {
                self.producer_state.remove_in_flight_batch(partition_id);
                let error = response.error.take().unwrap_or_else(Error::closed).into_fatal();
                // First, with its own record status. The rest of the producer fails after it.
                self.fail_records(batch.unstamp(), &error);
                self.transition_to_fatal_error(&error);
            }
        }
    }

    /// Puts a batch back into its queue, to be sent again after the backoff.
    ///
    /// The backoff grows with each attempt and has a jitter of 20 % (KIP-580). A newer leader epoch
    /// ends it early (KAFKA-15415): `ready.rs` compares the epochs.
    fn reenqueue_batch(&mut self, mut batch: StampedBatch, code: ErrorCode, now: Tick) {
        let count = batch.closed.meta.record_count;
        add(&self.counters.record_retry_total, count as u64);
        let (sensors, topic) = (&self.counters.sensors, &batch.closed.meta.partition.topic);
        sensors.record(&[(Sensor::RecordRetry, f64::from(count))], now);
        sensors.record_topic(topic, &[(TopicSensor::RecordRetry, f64::from(count))], now);
        let (attempts, partition) = (batch.closed.attempts, batch.closed.meta.partition.clone());
        let s = &self.settings;
        let delay = backoff(
            s.retry_backoff,
            s.retry_backoff_max,
            attempts.saturating_sub(1),
            self.env.random(),
        );
        let delay = inject_bug!(NoRetryBackoff, delay);
        let is_first = attempts == 1 && code == ErrorCode::CONCURRENT_TRANSACTIONS;
        let delay = if is_first { delay.min(CONCURRENT_TRANSACTIONS_BACKOFF) } else { delay };
        if is_first && let Some(transactions) = &mut self.producer_state.transactions {
            transactions.on_concurrent_transactions();
        }
        let not_before = now.after(delay);
        tracing::debug!(
            topic = &*partition.topic,
            partition = partition.index,
            attempts,
            "batch re-enqueued: {}",
            batch.closed.last_error.as_ref().map_or_else(String::new, ToString::to_string)
        );
        let timings = &mut batch.closed.timings;
        timings.backoff_total += delay;
        timings.backoff_until = not_before;
        // In order, not at the front: with several requests in flight, a later batch may come back
        // first. The batch with the lowest sequence has to be sent first (CASES SN10, SN14).
        let mut queue = partition.lock_for_sender();
        queue.insert_in_order(QueuedBatch::Retry { batch: Box::new(batch), not_before });
        queue.is_tracked_by_sender = true;
        drop(queue);
        self.ready.insert(partition);
    }
}
