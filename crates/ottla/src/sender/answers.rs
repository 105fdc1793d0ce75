//! What the sender makes of ended requests: verdicts applied, batches settled or put back.

use std::time::Duration;

use ottla_protocol::ErrorCode;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::InitProducerIdRequest;

use super::produce::Answer;
use super::sequences::Id;
use super::verdict::{Facts, Verdict, decide, possibly_appended};
use super::{InFlight, Sender};
use crate::accumulator::batch::{ClosedBatch, StampedBatch};
use crate::accumulator::completion::Outcome;
use crate::accumulator::partition::{QueuedBatch, SplittingBatch};
use crate::accumulator::split::{SplitJob, SplitOutcome};
use crate::client::in_flight::{Done, Purpose};
use crate::cluster::{Leader, LeaderHint};
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::events::LogEvent;
use crate::metrics::{Sensor, TopicSensor, add};
use crate::network::io::{Io, Job};
use crate::plants::inject_bug;
use crate::time::{Tick, backoff};

/// What one attempt of a batch came to.
struct Attempt {
    code: ErrorCode,
    base_offset: i64,
    append_time: i64,
    error: Option<Error>,
    own: Vec<(u32, Error)>,
    log_start_told: bool,
    /// Whether it leaves open that the batch was written.
    open: bool,
}

impl Attempt {
    /// The answer said this of it.
    fn answered(
        batch: &StampedBatch,
        r: &ottla_protocol::messages::PartitionProduceResponse,
        place: impl FnOnce() -> String,
    ) -> Attempt {
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
        Attempt {
            code,
            base_offset: r.base_offset,
            append_time: r.log_append_time_ms,
            error,
            own,
            log_start_told: r.log_start_offset >= 0,
            open: possibly_appended(code, r.base_offset),
        }
    }

    /// There was no answer. What the socket did not take whole, no broker can have acted on.
    fn unanswered(batch: &StampedBatch, why: &str, whole: bool) -> Attempt {
        let p = &batch.closed.meta.partition;
        let why = format!("{}-{}: {why}", p.topic, p.index);
        Attempt {
            code: ErrorCode::NETWORK_EXCEPTION,
            base_offset: -1,
            append_time: -1,
            error: Some(Error::new(ErrorKind::Network, why)),
            own: Vec::new(),
            log_start_told: false,
            open: whole && !inject_bug!(LostRequestNotPersisted),
        }
    }
}

impl<I: Io> Sender<I> {
    pub(super) fn on_done(&mut self, done: Done, now: Tick) {
        match done.request.purpose {
            Purpose::Produce => self.on_produced(done, now),
            Purpose::ProducerId => self.on_producer_id(done, now),
            Purpose::Versions(_) | Purpose::Metadata | Purpose::Sasl(_) => {}
        }
    }

    #[inline(never)]
    fn on_produced(&mut self, done: Done, now: Tick) {
        let Some(InFlight { node, batches }) = self.in_flight.remove(&done.request.correlation)
        else {
            return;
        };
        let version = done.request.version;
        let answer = match &done.result {
            Ok(_) if !done.request.answered => {
                // acks=0: handed to the socket, and nothing more will ever be known.
                batches.into_iter().for_each(|b| self.written(b, None, None));
                return;
            }
            Ok(frame) => Answer::read(frame, version).map_err(|e| {
                let name = self.client.broker_name(node);
                let why = format!("{name}: its answer cannot be read: {e}");
                self.client.fail_connection(node, &why, now);
                why
            }),
            Err(_) if inject_bug!(AckAfterDisconnect) => {
                batches.into_iter().for_each(|b| self.written(b, None, None));
                return;
            }
            Err(lost) => Err(lost.why.clone()),
        };
        if let Ok(answer) = &answer {
            self.client.throttle(node, answer.throttle_ms(), version >= 6, now);
        }
        if let Ok(answer) = &answer {
            self.follow_hints(answer, &batches, version, now);
        }
        let mut strangers = answer.as_ref().map_or(0, Answer::len);
        for mut batch in batches {
            let attempt = match &answer {
                Ok(answer) => match answer.of(&batch, version) {
                    Some(r) => {
                        strangers = strangers.saturating_sub(1);
                        Attempt::answered(&batch, r, || self.client.broker_name(node))
                    }
                    None => {
                        let name = self.client.broker_name(node);
                        let why = format!("{name} left the partition out of its answer");
                        Attempt::unanswered(&batch, &why, true)
                    }
                },
                Err(why) => {
                    let whole = done.result.is_ok() || done.request.whole;
                    Attempt::unanswered(&batch, why, whole)
                }
            };
            let story = &mut batch.closed.timings;
            story.in_flight += story.sent_at.take().map_or(Duration::ZERO, |at| now.since(at));
            // Whatever it comes to, its partition may go on.
            self.active.mark_dirty(batch.closed.meta.partition.id);
            if attempt.open {
                batch.closed.status = RecordStatus::PossiblyPersisted;
            }
            self.apply(batch, attempt, node, now);
        }
        if strangers > 0 {
            tracing::warn!(broker = node, strangers, "its answer speaks of what was not asked");
        }
    }

    /// A broker that does not lead a partition may say who does (KIP-951): it is followed at once, without waiting for
    /// metadata, which is asked for all the same.
    fn follow_hints(&mut self, answer: &Answer, batches: &[StampedBatch], version: i16, now: Tick) {
        let mut hints = Vec::new();
        for batch in batches {
            let Some(r) = answer.of(batch, version) else { continue };
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
            self.client.hinted(&hints, &answer.nodes(), now);
        }
    }

    fn facts(&mut self, batch: &StampedBatch, attempt: &Attempt, node: i32, now: Tick) -> Facts {
        let (closed, timeout) = (&batch.closed, self.settings.delivery_timeout);
        let p = &closed.meta.partition;
        Facts {
            code: attempt.code,
            idempotent: self.sequences.is_idempotent(),
            attempts: closed.attempts,
            retries: self.settings.retries,
            over: closed.is_completed() || closed.meta.created.after(timeout) <= now,
            records: closed.meta.record_count,
            known: closed.status,
            next_in_line: self.sequences.is_next(batch),
            begins: self.sequences.begins(batch),
            by_leader: self.client.cluster().leader(&p.topic, p.index).node_id == node,
            log_start_told: attempt.log_start_told,
        }
    }

    /// Applies the verdict on one attempt.
    fn apply(&mut self, mut batch: StampedBatch, mut attempt: Attempt, node: i32, now: Tick) {
        let key = batch.closed.meta.partition.id;
        let facts = self.facts(&batch, &attempt, node, now);
        if attempt.error.is_some() {
            batch.closed.last_error.clone_from(&attempt.error);
        }
        let row = decide(&facts);
        if !attempt.code.is_none() {
            let p = &batch.closed.meta.partition;
            let (when, why) = (row.when, row.why);
            tracing::debug!(topic = &*p.topic, partition = p.index, code = %attempt.code, when, why);
        }
        match row.then {
            Verdict::Done => {
                let base = (attempt.base_offset >= 0).then_some(attempt.base_offset);
                let time = (attempt.append_time >= 0).then_some(attempt.append_time);
                self.written(batch, base, time);
            }
            Verdict::Duplicate => self.written(batch, None, None),
            Verdict::Retry { metadata } => {
                if metadata {
                    self.client.request_metadata(now);
                }
                self.sequences.returned(key);
                self.put_back(batch, now);
            }
            Verdict::Split => {
                self.split(batch, now);
            }
            Verdict::Resequence { proven, new_id } => {
                let forgotten = attempt.code == ErrorCode::UNKNOWN_PRODUCER_ID;
                if proven || (forgotten && inject_bug!(UnknownProducerIdIsProof)) {
                    batch.closed.status = RecordStatus::NotPersisted;
                }
                if new_id {
                    self.sequences.want_new_id();
                }
                self.sequences.broke(&batch);
                self.sequences.returned(key);
                self.put_back(batch, now);
            }
            Verdict::Fail => {
                if attempt.code.is_invalid_metadata() {
                    self.client.request_metadata(now);
                }
                self.sequences.broke(&batch);
                self.sequences.returned(key);
                self.fail_attempt(batch, attempt);
            }
            Verdict::FailProducer => {
                self.sequences.returned(key);
                let error = attempt.error.take().unwrap_or_else(Error::closed).into_fatal();
                self.fail(batch.unstamp(), &error);
                self.fail_producer(&error);
            }
        }
    }

    /// Sends a batch again in parts, which stand in its place; no attempt is counted, and nothing is waited for.
    /// It is cut off this thread, and counts as in flight until its parts are back: nothing may overtake it.
    fn split(&mut self, batch: StampedBatch, now: Tick) {
        let (closed, p) = (&batch.closed, batch.closed.meta.partition.clone());
        let size = closed.wire_len();
        self.brackets.refused((&p.topic, batch.stamp.topic_id, &p.estimator), size, now);
        if closed.is_compressed() {
            p.estimator.reset_ratio(closed.uncompressed_len, size);
        }
        add(&self.counters.batch_split_total, 1);
        self.counters.sensors.record(&[(Sensor::BatchSplit, 1.0)], now);
        let slot = QueuedBatch::Splitting(SplittingBatch::new(closed));
        p.lock_for_sender().insert_in_order(slot);
        self.active.insert(p);
        let work = SplitJob::new(self.acc.clone(), closed, true);
        let work = move || work.run(|acc| acc.split_stamped(batch, now));
        self.client.start(Job::Work(Box::new(work)));
    }

    /// A batch that was cut is back.
    pub(super) fn put_parts(&mut self, cut: SplitOutcome) {
        let SplitOutcome { partition: p, number, stamped, parts, error } = cut;
        if stamped {
            self.sequences.returned(p.id);
        }
        let purged = self.purged.as_ref().filter(|(to, _)| number <= *to).map(|p| p.1.clone());
        if stamped && parts.is_empty() {
            // Only a bug can bring that about; nothing carries its sequence any more.
            self.sequences.broke_at(p.id);
        }
        let why = error.map(|e| {
            let why = format!("a batch to be split cannot be read: {e}");
            Error::new(ErrorKind::Internal, why)
        });
        if let Some(left_out) = self.client.events().check(LogEvent::BatchSplit, -1, self.env.now())
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
                    self.sequences.broke(b);
                }
                slot.into_closed().into_iter().for_each(|b| self.fail(b, why));
            }
            self.settled(number);
            Vec::new()
        } else {
            self.replaced(number, parts.iter().map(QueuedBatch::number));
            parts
        };
        let mut queue = p.lock_for_sender();
        queue.replace_with_parts(number, kept);
        queue.announced = true;
        drop(queue);
        self.active.insert(p);
    }

    fn written(&mut self, mut batch: StampedBatch, base: Option<i64>, append_time: Option<i64>) {
        self.sequences.acknowledged(&batch);
        let p = &batch.closed.meta.partition;
        self.sequences.returned(p.id);
        self.active.mark_dirty(p.id);
        p.estimator.record_accepted(batch.closed.wire_len());
        if p.estimator.has_limit() {
            let (id, size) = (batch.stamp.topic_id, batch.closed.wire_len());
            self.brackets.accepted(&p.topic, id, size);
        }
        let number = batch.closed.meta.number;
        batch
            .closed
            .complete(Outcome::Acknowledged { base_offset: base, log_append_time: append_time });
        self.settled(number);
    }

    fn put_back(&mut self, mut batch: StampedBatch, now: Tick) {
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
        self.active.insert(partition);
    }

    fn fail_attempt(&mut self, batch: StampedBatch, attempt: Attempt) {
        let over = batch.closed.is_completed();
        let mut closed = batch.unstamp();
        if over {
            self.settled(closed.meta.number);
            return;
        }
        if attempt.own.is_empty() {
            let mut e =
                attempt.error.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no reason"));
            if attempt.code == ErrorCode::MESSAGE_TOO_LARGE {
                e = Self::too_large(&closed, &e);
            }
            self.fail(closed, &e);
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
        let others = self.knowing(&others, &closed);
        let own = attempt.own.into_iter().map(|(i, e)| (i, self.knowing(&e, &closed))).collect();
        let number = closed.meta.number;
        closed.complete(Outcome::PerRecord { batch_error: others, record_errors: own });
        self.settled(number);
    }

    /// What one record says that no broker takes, however small its batch.
    fn too_large(batch: &ClosedBatch, e: &Error) -> Error {
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

    fn on_producer_id(&mut self, done: Done, now: Tick) {
        if matches!(self.sequences.id, Id::Refused(_)) {
            // Something ended the producer meanwhile: no id brings it back.
            return;
        }
        let again = now.after(self.settings.retry_backoff);
        let name = self.client.broker_name(done.node);
        let frame = match done.result {
            Ok(frame) => frame,
            Err(lost) => {
                tracing::debug!("no producer id yet: {}", lost.why);
                self.sequences.id = Id::Wanted(again);
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
                self.sequences.id = Id::Wanted(again);
                return;
            }
        };
        self.client.throttle(done.node, answer.throttle_time_ms, done.request.version >= 1, now);
        let code = ErrorCode(answer.error_code);
        let place = format!("{name} gives no producer id");
        match code {
            ErrorCode::NONE => {
                let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                if let Some(left_out) = self.client.events().check(LogEvent::EpochBumped, -1, now) {
                    tracing::info!(
                        name: "ottla.producer_id",
                        id,
                        epoch,
                        left_out,
                        "a producer id, or a new one"
                    );
                }
                self.sequences.begin_with(id, epoch);
                self.active.mark_all_dirty();
            }
            code if code.is_retriable() => {
                tracing::debug!("{place}: {code}");
                self.sequences.id = Id::Wanted(again);
            }
            ErrorCode::UNSUPPORTED_VERSION => {
                self.fail_producer(&Error::broker(code, None, &place).into_fatal());
            }
            code => {
                // Not for ever: an administrator may grant it (SN26).
                let e = Error::broker(code, None, &place);
                self.fail_unsent(&e);
                self.sequences.id = Id::Wanted(now.after(self.settings.retry_backoff_max));
            }
        }
    }
}
