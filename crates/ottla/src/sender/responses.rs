//! What the sender makes of ended requests: verdicts applied, batches settled or put back.

use std::time::Duration;

use ottla_protocol::ErrorCode;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::InitProducerIdRequest;

use super::produce_request::ParsedProduceResponse;
use super::producer_state::ProducerIdState;
use super::verdict::{Facts, Verdict, decide, possibly_appended};
use super::{InFlightBatches, Sender};
use crate::accumulator::batch::{ClosedBatch, StampedBatch};
use crate::accumulator::completion::Outcome;
use crate::accumulator::partition::{QueuedBatch, SplittingBatch};
use crate::accumulator::split::{SplitJob, SplitOutcome};
use crate::client::in_flight_requests::{CompletedRequest, RequestKind};
use crate::cluster::{Leader, LeaderHint};
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogEvent;
use crate::metrics::{Sensor, TopicSensor, add};
use crate::network::io::{Io, Job};
use crate::time::{Tick, backoff};

/// What one attempt of a batch came to.
struct BatchResponse {
    code: ErrorCode,
    base_offset: i64,
    log_append_time: i64,
    error: Option<Error>,
    record_errors: Vec<(u32, Error)>,
    has_log_start_offset: bool,
    /// Whether it leaves open that the batch was written.
    possibly_appended: bool,
}

impl BatchResponse {
    /// The answer said this of it.
    fn from_response(
        batch: &StampedBatch,
        r: &ottla_protocol::messages::PartitionProduceResponse,
        place: impl FnOnce() -> String,
    ) -> BatchResponse {
        let code = ErrorCode(r.error_code);
        let (mut error, mut own) = (None, Vec::new());
        if !code.is_none() {
            let p = &batch.closed.meta.partition;
            let place = format!("{}-{} on {}", p.topic, p.index, place());
            error = Some(Error::broker(code, r.error_message.as_deref(), &place));
            own.extend(r.record_errors.iter().filter_map(|e| {
                let said = e.batch_index_error_message.as_deref();
                let index = u32::try_from(e.batch_index).ok()?;
                Some((index, Error::broker(code, said, &place)))
            }));
        }
        BatchResponse {
            code,
            base_offset: r.base_offset,
            log_append_time: r.log_append_time_ms,
            error,
            record_errors: own,
            has_log_start_offset: r.log_start_offset >= 0,
            possibly_appended: possibly_appended(code, r.base_offset),
        }
    }

    /// There was no answer. What the socket did not take whole, no broker can have acted on.
    fn without_response(batch: &StampedBatch, why: &str, whole: bool) -> BatchResponse {
        let p = &batch.closed.meta.partition;
        let why = format!("{}-{}: {why}", p.topic, p.index);
        BatchResponse {
            code: ErrorCode::NETWORK_EXCEPTION,
            base_offset: -1,
            log_append_time: -1,
            error: Some(Error::new(ErrorKind::Network, why)),
            record_errors: Vec::new(),
            has_log_start_offset: false,
            possibly_appended: whole && !inject_bug!(LostRequestNotPersisted),
        }
    }
}

impl<I: Io> Sender<I> {
    pub(super) fn handle_completed_request(&mut self, done: CompletedRequest, now: Tick) {
        match done.request.kind {
            RequestKind::Produce => self.handle_produce_response(done, now),
            RequestKind::InitProducerId => self.handle_init_producer_id_response(done, now),
            RequestKind::ApiVersions(_) | RequestKind::Metadata | RequestKind::Sasl(_) => {}
        }
    }

    #[inline(never)]
    fn handle_produce_response(&mut self, done: CompletedRequest, now: Tick) {
        let Some(InFlightBatches { node, batches }) =
            self.in_flight_batches.remove(&done.request.correlation_id)
        else {
            return;
        };
        let version = done.request.version;
        let answer = match &done.result {
            Ok(_) if !done.request.expects_response => {
                // acks=0: handed to the socket, and nothing more will ever be known.
                batches.into_iter().for_each(|b| self.complete_batch(b, None, None));
                return;
            }
            Ok(frame) => ParsedProduceResponse::parse(frame, version).map_err(|e| {
                let name = self.client.broker_name(node);
                let why = format!("{name}: its answer cannot be read: {e}");
                self.client.fail_connection(node, &why, now);
                why
            }),
            Err(_) if inject_bug!(AckAfterDisconnect) => {
                batches.into_iter().for_each(|b| self.complete_batch(b, None, None));
                return;
            }
            Err(lost) => Err(lost.reason.clone()),
        };
        if let Ok(answer) = &answer {
            self.client.throttle(node, answer.throttle_time_ms(), version >= 6, now);
        }
        if let Ok(answer) = &answer {
            self.apply_leader_hints(answer, &batches, version, now);
        }
        let mut strangers = answer.as_ref().map_or(0, ParsedProduceResponse::partition_count);
        for mut batch in batches {
            let attempt = match &answer {
                Ok(answer) => match answer.partition_response(&batch, version) {
                    Some(r) => {
                        strangers = strangers.saturating_sub(1);
                        BatchResponse::from_response(&batch, r, || self.client.broker_name(node))
                    }
                    None => {
                        let name = self.client.broker_name(node);
                        let why = format!("{name} left the partition out of its answer");
                        BatchResponse::without_response(&batch, &why, true)
                    }
                },
                Err(why) => {
                    let whole = done.result.is_ok() || done.request.fully_sent;
                    BatchResponse::without_response(&batch, why, whole)
                }
            };
            let story = &mut batch.closed.timings;
            story.in_flight += story.sent_at.take().map_or(Duration::ZERO, |at| now.since(at));
            // Whatever it comes to, its partition may go on.
            self.ready.mark_dirty(batch.closed.meta.partition.id);
            if attempt.possibly_appended {
                batch.closed.status = RecordStatus::PossiblyPersisted;
            }
            self.apply_verdict(batch, attempt, node, now);
        }
        if strangers > 0 {
            tracing::warn!(broker = node, strangers, "its answer speaks of what was not asked");
        }
    }

    /// A broker that does not lead a partition may say who does (KIP-951): it is followed at once, without waiting for
    /// metadata, which is asked for all the same.
    fn apply_leader_hints(
        &mut self,
        answer: &ParsedProduceResponse,
        batches: &[StampedBatch],
        version: i16,
        now: Tick,
    ) {
        let mut hints = Vec::new();
        for batch in batches {
            let Some(r) = answer.partition_response(batch, version) else { continue };
            let moved = [ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::FENCED_LEADER_EPOCH];
            let told = &r.current_leader;
            if moved.contains(&ErrorCode(r.error_code))
                && told.leader_id >= 0
                && told.leader_epoch >= 0
            {
                let p = &batch.closed.meta.partition;
                let leader = Leader { node_id: told.leader_id, epoch: told.leader_epoch };
                hints.push(LeaderHint { topic: p.topic.clone(), partition: p.index, leader });
            }
        }
        if !hints.is_empty() {
            self.client.apply_leader_hints(&hints, &answer.node_endpoints(), now);
        }
    }

    fn collect_facts(
        &mut self,
        batch: &StampedBatch,
        attempt: &BatchResponse,
        node: i32,
        now: Tick,
    ) -> Facts {
        let (closed, timeout) = (&batch.closed, self.settings.delivery_timeout);
        let p = &closed.meta.partition;
        Facts {
            code: attempt.code,
            idempotent: self.producer_state.is_idempotent(),
            attempts: closed.attempts,
            retries: self.settings.retries,
            expired: closed.is_completed() || closed.meta.created.after(timeout) <= now,
            record_count: closed.meta.record_count,
            status: closed.status,
            follows_last_acked: self.producer_state.follows_last_acked(batch),
            first_of_epoch: self.producer_state.is_first_of_epoch(batch),
            from_leader: self.client.cluster().leader(&p.topic, p.index).node_id == node,
            has_log_start_offset: attempt.has_log_start_offset,
        }
    }

    /// Applies the verdict on one attempt.
    fn apply_verdict(
        &mut self,
        mut batch: StampedBatch,
        mut attempt: BatchResponse,
        node: i32,
        now: Tick,
    ) {
        let key = batch.closed.meta.partition.id;
        let facts = self.collect_facts(&batch, &attempt, node, now);
        if attempt.error.is_some() {
            batch.closed.last_error.clone_from(&attempt.error);
        }
        let row = decide(&facts);
        if !attempt.code.is_none() {
            let p = &batch.closed.meta.partition;
            let (when, why) = (row.condition, row.reason);
            tracing::debug!(topic = &*p.topic, partition = p.index, code = %attempt.code, when, why);
        }
        match row.verdict {
            Verdict::Complete => {
                let base = (attempt.base_offset >= 0).then_some(attempt.base_offset);
                let time = (attempt.log_append_time >= 0).then_some(attempt.log_append_time);
                self.complete_batch(batch, base, time);
            }
            Verdict::Duplicate => self.complete_batch(batch, None, None),
            Verdict::Retry { refresh_metadata: metadata } => {
                if metadata {
                    self.client.request_metadata(now);
                }
                self.producer_state.remove_in_flight_batch(key);
                self.reenqueue_batch(batch, now);
            }
            Verdict::Split => {
                self.start_split(batch, now);
            }
            Verdict::Resequence { proven_not_persisted: proven, new_producer_id: new_id } => {
                let forgotten = attempt.code == ErrorCode::UNKNOWN_PRODUCER_ID;
                if proven || (forgotten && inject_bug!(UnknownProducerIdIsProof)) {
                    batch.closed.status = RecordStatus::NotPersisted;
                }
                if new_id {
                    self.producer_state.require_new_producer_id();
                }
                self.producer_state.mark_unresolved(&batch);
                self.producer_state.remove_in_flight_batch(key);
                self.reenqueue_batch(batch, now);
            }
            Verdict::Fail => {
                if attempt.code.is_invalid_metadata() {
                    self.client.request_metadata(now);
                }
                self.producer_state.mark_unresolved(&batch);
                self.producer_state.remove_in_flight_batch(key);
                self.fail_batch(batch, attempt);
            }
            Verdict::FailProducer => {
                self.producer_state.remove_in_flight_batch(key);
                let error = attempt.error.take().unwrap_or_else(Error::closed).into_fatal();
                self.fail_records(batch.unstamp(), &error);
                self.transition_to_fatal_error(&error);
            }
        }
    }

    /// Sends a batch again in parts, which stand in its place; no attempt is counted, and nothing is waited for.
    /// It is cut off this thread, and counts as in flight until its parts are back: nothing may overtake it.
    fn start_split(&mut self, batch: StampedBatch, now: Tick) {
        let (closed, p) = (&batch.closed, batch.closed.meta.partition.clone());
        let size = closed.wire_len();
        self.batch_size_discovery.on_rejected(
            (&p.topic, batch.stamp.topic_id, &p.estimator),
            size,
            now,
        );
        if closed.is_compressed() {
            p.estimator.reset_ratio(closed.uncompressed_len, size);
        }
        add(&self.counters.batch_split_total, 1);
        self.counters.sensors.record(&[(Sensor::BatchSplit, 1.0)], now);
        let slot = QueuedBatch::Splitting(SplittingBatch::new(closed));
        p.lock_for_sender().insert_in_order(slot);
        self.ready.insert(p);
        let work = SplitJob::new(self.accumulator.clone(), closed, true);
        let work = move || work.run(|acc| acc.split_stamped(batch, now));
        self.client.start_job(Job::Work(Box::new(work)));
    }

    /// A batch that was cut is back.
    pub(super) fn reenqueue_parts(&mut self, cut: SplitOutcome) {
        let SplitOutcome { partition: p, number, stamped, parts, error } = cut;
        if stamped {
            self.producer_state.remove_in_flight_batch(p.id);
        }
        let purged = self.last_purge.as_ref().filter(|(to, _)| number <= *to).map(|p| p.1.clone());
        if stamped && parts.is_empty() {
            // Only a bug can bring that about; nothing carries its sequence any more.
            self.producer_state.mark_unresolved_at(p.id);
        }
        let why = error.map(|e| {
            let why = format!("a batch to be split cannot be read: {e}");
            Error::new(ErrorKind::Internal, why)
        });
        if let Some(left_out) =
            self.client.log_events().check(LogEvent::BatchSplit, -1, self.env.now())
        {
            tracing::info!(
                name: "ottla.batch_split",
                topic = &*p.topic,
                partition = p.index,
                parts = parts.len(),
                left_out,
                "batch split: it was too large for the broker"
            );
        }
        let failed = why.or(purged);
        let kept: Vec<QueuedBatch> = if let Some(why) = &failed {
            for slot in parts {
                if let QueuedBatch::Retry(b, _) = &slot {
                    self.producer_state.mark_unresolved(b);
                }
                slot.into_closed().into_iter().for_each(|b| self.fail_records(b, why));
            }
            self.batch_completed(number);
            Vec::new()
        } else {
            self.batch_split(number, parts.iter().map(QueuedBatch::number));
            parts
        };
        let mut queue = p.lock_for_sender();
        queue.replace_with_parts(number, kept);
        queue.announced = true;
        drop(queue);
        self.ready.insert(p);
    }

    fn complete_batch(
        &mut self,
        mut batch: StampedBatch,
        base: Option<i64>,
        append_time: Option<i64>,
    ) {
        self.producer_state.maybe_update_last_acked_sequence(&batch);
        let p = &batch.closed.meta.partition;
        self.producer_state.remove_in_flight_batch(p.id);
        self.ready.mark_dirty(p.id);
        p.estimator.record_accepted(batch.closed.wire_len());
        if p.estimator.has_limit() {
            let (id, size) = (batch.stamp.topic_id, batch.closed.wire_len());
            self.batch_size_discovery.on_accepted(&p.topic, id, size);
        }
        let number = batch.closed.meta.number;
        batch
            .closed
            .complete(Outcome::Acknowledged { base_offset: base, log_append_time: append_time });
        self.batch_completed(number);
    }

    fn reenqueue_batch(&mut self, mut batch: StampedBatch, now: Tick) {
        let count = batch.closed.meta.record_count;
        add(&self.counters.record_retry_total, count as u64);
        let (sensors, topic) = (&self.counters.sensors, &batch.closed.meta.partition.topic);
        sensors.record(&[(Sensor::RecordRetry, f64::from(count))], now);
        sensors.record_topic(topic, &[(TopicSensor::RecordRetry, f64::from(count))], now);
        let (attempts, partition) = (batch.closed.attempts, batch.closed.meta.partition.clone());
        let s = &self.settings;
        let wait = backoff(
            s.retry_backoff,
            s.retry_backoff_max,
            attempts.saturating_sub(1),
            self.env.random(),
        );
        tracing::debug!(
            topic = &*partition.topic,
            partition = partition.index,
            attempts,
            "put back: {}",
            batch.closed.last_error.as_ref().map_or_else(String::new, ToString::to_string)
        );
        let story = &mut batch.closed.timings;
        (story.backing_off, story.backoff_until) = (story.backing_off + wait, now.after(wait));
        let mut queue = partition.lock_for_sender();
        queue.insert_in_order(QueuedBatch::Retry(Box::new(batch), now.after(wait)));
        queue.announced = true;
        drop(queue);
        self.ready.insert(partition);
    }

    fn fail_batch(&mut self, batch: StampedBatch, attempt: BatchResponse) {
        let over = batch.closed.is_completed();
        let mut closed = batch.unstamp();
        if over {
            self.batch_completed(closed.meta.number);
            return;
        }
        if attempt.record_errors.is_empty() {
            let mut e =
                attempt.error.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no reason"));
            if attempt.code == ErrorCode::MESSAGE_TOO_LARGE {
                e = Self::message_too_large_error(&closed, &e);
            }
            self.fail_records(closed, &e);
            return;
        }
        // KIP-467: some records are at fault, the others only shared a batch with them.
        let p = &closed.meta.partition;
        let known = closed.status;
        // Sent again, a record that may be there already would be there twice.
        let advice = if known == RecordStatus::NotPersisted { "; send this one again" } else { "" };
        let others = format!(
            "{}-{}: another record of the same batch was refused ({}){advice}",
            p.topic, p.index, attempt.code
        );
        let others = Error::new(ErrorKind::Broker(attempt.code.0), others).with_status(known);
        let others = self.with_batch_context(&others, &closed);
        let own = attempt
            .record_errors
            .into_iter()
            .map(|(i, e)| (i, self.with_batch_context(&e, &closed)))
            .collect();
        let number = closed.meta.number;
        closed.complete(Outcome::PerRecord { batch_error: others, record_errors: own });
        self.batch_completed(number);
    }

    /// What one record says that no broker takes, however small its batch.
    fn message_too_large_error(batch: &ClosedBatch, e: &Error) -> Error {
        let p = &batch.meta.partition;
        let largest = match p.estimator.largest_accepted() {
            0 => "none was accepted yet".to_owned(),
            size => format!("the largest batch accepted took {size}"),
        };
        let what = format!(
            "{e}: its batch of {} takes {} bytes on the wire ({} uncompressed), {largest}; raise the topic's \
             max.message.bytes or make the record smaller",
            batch.meta.record_count,
            batch.wire_len(),
            batch.uncompressed_len
        );
        Error::new(e.kind(), what).with_source(e.clone())
    }

    fn handle_init_producer_id_response(&mut self, done: CompletedRequest, now: Tick) {
        if matches!(self.producer_state.producer_id, ProducerIdState::Failed(_)) {
            // Something ended the producer meanwhile: no id brings it back.
            return;
        }
        let again = now.after(self.settings.retry_backoff);
        let name = self.client.broker_name(done.node);
        let frame = match done.result {
            Ok(frame) => frame,
            Err(lost) => {
                tracing::debug!("no producer id yet: {}", lost.reason);
                self.producer_state.producer_id = ProducerIdState::Needed(again);
                return;
            }
        };
        let answer = match decode_response::<InitProducerIdRequest>(&frame, done.request.version) {
            Ok(answer) => answer,
            Err(e) => {
                self.client.fail_connection(
                    done.node,
                    &format!("its answer cannot be read: {e}"),
                    now,
                );
                self.producer_state.producer_id = ProducerIdState::Needed(again);
                return;
            }
        };
        self.client.throttle(done.node, answer.throttle_time_ms, done.request.version >= 1, now);
        let code = ErrorCode(answer.error_code);
        let place = format!("{name} gives no producer id");
        match code {
            ErrorCode::NONE => {
                let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                if let Some(left_out) =
                    self.client.log_events().check(LogEvent::EpochBumped, -1, now)
                {
                    tracing::info!(
                        name: "ottla.producer_id",
                        id,
                        epoch,
                        left_out,
                        "a producer id, or a new one"
                    );
                }
                self.producer_state.set_producer_id(id, epoch);
                self.ready.mark_all_dirty();
            }
            code if code.is_retriable() => {
                tracing::debug!("{place}: {code}");
                self.producer_state.producer_id = ProducerIdState::Needed(again);
            }
            ErrorCode::UNSUPPORTED_VERSION => {
                self.transition_to_fatal_error(&Error::broker(code, None, &place).into_fatal());
            }
            code => {
                // Not for ever: an administrator may grant it (SN26).
                let e = Error::broker(code, None, &place);
                self.abort_undrained_batches(&e);
                self.producer_state.producer_id =
                    ProducerIdState::Needed(now.after(self.settings.retry_backoff_max));
            }
        }
    }
}
