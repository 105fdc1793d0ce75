//! What the sender makes of ended requests: verdicts applied, batches settled or put back.

use ottla_protocol::ErrorCode;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::InitProducerIdRequest;

use super::produce::Answer;
use super::sequences::Id;
use super::verdict::{Facts, Verdict, possibly_appended, verdict};
use super::{InFlight, Sender};
use crate::accumulator::batch::StampedBatch;
use crate::accumulator::completion::Outcome;
use crate::client::in_flight::{Done, Purpose};
use crate::error::{Certainty, Error, ErrorKind};
use crate::metrics::add;
use crate::network::io::Io;
use crate::plants::plant;
use crate::time::{Tick, backoff};

/// What one attempt of a batch came to.
struct Attempt {
    code: ErrorCode,
    base_offset: i64,
    append_time: i64,
    error: Option<Error>,
    own: Vec<(u32, Error)>,
}

impl Attempt {
    /// The answer said this of it.
    fn answered(
        batch: &StampedBatch,
        r: &ottla_protocol::messages::PartitionProduceResponse,
        place: &str,
    ) -> Attempt {
        let code = ErrorCode(r.error_code);
        let p = &batch.closed.meta.partition;
        let place = format!("{}-{} on {place}", p.topic, p.index);
        let error =
            (!code.is_none()).then(|| Error::broker(code, r.error_message.as_deref(), &place));
        let own = r.record_errors.iter().filter_map(|e| {
            let said = e.batch_index_error_message.as_deref();
            let index = u32::try_from(e.batch_index).ok()?;
            Some((index, Error::broker(code, said, &place)))
        });
        Attempt {
            code,
            base_offset: r.base_offset,
            append_time: r.log_append_time_ms,
            error,
            own: own.collect(),
        }
    }

    /// There was no answer.
    fn unanswered(why: &str) -> Attempt {
        let code = ErrorCode::NETWORK_EXCEPTION;
        let error = Some(Error::new(ErrorKind::Network, why));
        Attempt { code, base_offset: -1, append_time: -1, error, own: Vec::new() }
    }
}

impl<I: Io> Sender<I> {
    pub(super) fn on_done(&mut self, done: Done, now: Tick) {
        match done.request.purpose {
            Purpose::Produce => self.on_produced(done, now),
            Purpose::ProducerId => self.on_producer_id(done, now),
            Purpose::Versions(_) | Purpose::Metadata => {}
        }
    }

    fn on_produced(&mut self, done: Done, now: Tick) {
        let Some(InFlight { node, batches }) = self.in_flight.remove(&done.request.correlation)
        else {
            return;
        };
        let name = self.client.broker_name(node);
        let version = done.request.version;
        let answer = match &done.result {
            Ok(_) if !done.request.answered => {
                // acks=0: handed to the socket, and nothing more will ever be known.
                batches.into_iter().for_each(|b| self.written(b, None, None));
                return;
            }
            Ok(frame) => Answer::read(frame, version).map_err(|e| {
                let why = format!("{name}: its answer cannot be read: {e}");
                self.client.fail_connection(node, &why, now);
                why
            }),
            Err(_) if plant!(AckAfterLoss) => {
                batches.into_iter().for_each(|b| self.written(b, None, None));
                return;
            }
            Err(lost) => Err(lost.why.clone()),
        };
        if let Ok(answer) = &answer {
            self.client.throttle(node, answer.throttle_ms(), now);
        }
        for mut batch in batches {
            let attempt = match &answer {
                Ok(answer) => match answer.of(&batch, version) {
                    Some(r) => Attempt::answered(&batch, r, &name),
                    None => {
                        Attempt::unanswered(&format!("{name} left the partition out of its answer"))
                    }
                },
                Err(why) => Attempt::unanswered(why),
            };
            let open = match &done.result {
                Ok(_) => possibly_appended(attempt.code, attempt.base_offset) || answer.is_err(),
                // What the socket did not take whole, no broker can have acted on.
                Err(_) => done.request.whole,
            };
            let unanswered = attempt.code == ErrorCode::NETWORK_EXCEPTION && done.result.is_ok();
            if open || unanswered {
                batch.closed.known = Certainty::PossiblyWritten;
            }
            self.apply(batch, attempt, now);
        }
    }

    /// Applies the verdict on one attempt.
    fn apply(&mut self, mut batch: StampedBatch, attempt: Attempt, now: Tick) {
        let key = batch.closed.meta.partition.key;
        let timeout = self.settings.delivery_timeout;
        let facts = Facts {
            code: attempt.code,
            idempotent: self.sequences.is_idempotent(),
            attempts: batch.closed.attempts,
            retries: self.settings.retries,
            over: batch.closed.is_settled() || batch.closed.meta.created.after(timeout) <= now,
            next_in_line: self.sequences.is_next(&batch),
        };
        if attempt.error.is_some() {
            batch.closed.last_error.clone_from(&attempt.error);
        }
        match verdict(facts) {
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
            Verdict::Resequence => {
                // OUT_OF_ORDER right behind the last acknowledged batch proves that the log lacks this one; that
                // the producer is not known (any more) proves nothing.
                if attempt.code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER {
                    batch.closed.known = Certainty::NotWritten;
                }
                self.sequences.broke(&batch);
                self.sequences.returned(key);
                self.put_back(batch, now);
            }
            Verdict::Fail => {
                if attempt.code.refreshes_metadata() {
                    self.client.request_metadata(now);
                }
                self.sequences.broke(&batch);
                self.sequences.returned(key);
                self.fail_attempt(batch, attempt);
            }
        }
    }

    fn written(&mut self, mut batch: StampedBatch, base: Option<i64>, append_time: Option<i64>) {
        self.sequences.acknowledged(&batch);
        self.sequences.returned(batch.closed.meta.partition.key);
        let number = batch.closed.meta.number;
        batch.closed.settle(Outcome::Written { base, append_time });
        self.settled(number);
    }

    fn put_back(&mut self, batch: StampedBatch, now: Tick) {
        add(&self.counters.record_retry_total, batch.closed.meta.count as u64);
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
        let mut queue = partition.queue.lock();
        queue.put_back(Box::new(batch), now.after(wait));
        queue.announced = true;
        drop(queue);
        self.active.insert(partition);
    }

    fn fail_attempt(&mut self, batch: StampedBatch, attempt: Attempt) {
        let over = batch.closed.is_settled();
        let mut closed = batch.unstamp();
        if over {
            self.settled(closed.meta.number);
            return;
        }
        if attempt.own.is_empty() {
            let e = attempt.error.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no reason"));
            self.fail(closed, &e);
            return;
        }
        // KIP-467: some records are at fault, the others only shared a batch with them.
        let p = &closed.meta.partition;
        let known = closed.known;
        // Sent again, a record that may be there already would be there twice.
        let advice = if known == Certainty::NotWritten { "; send this one again" } else { "" };
        let others = format!(
            "{}-{}: another record of the same batch was refused ({}){advice}",
            p.topic, p.index, attempt.code
        );
        let others = Error::new(ErrorKind::Broker(attempt.code.0), others).certain(known);
        let own = attempt.own.into_iter().map(|(i, e)| (i, e.certain(known))).collect();
        let number = closed.meta.number;
        closed.settle(Outcome::PerRecord { others, own });
        self.settled(number);
    }

    fn on_producer_id(&mut self, done: Done, now: Tick) {
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
        self.client.throttle(done.node, answer.throttle_time_ms, now);
        let code = ErrorCode(answer.error_code);
        let place = format!("{name} gives no producer id");
        match code {
            ErrorCode::NONE => {
                let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                tracing::info!(id, epoch, "producer id");
                self.sequences.id = Id::Have { id, epoch };
            }
            code if code.is_retriable() => {
                tracing::debug!("{place}: {code}");
                self.sequences.id = Id::Wanted(again);
            }
            ErrorCode::UNSUPPORTED_VERSION => {
                self.sequences.id = Id::Refused(Error::broker(code, None, &place).fatal());
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
