//! How batches end other than by an answer: their time is over, the producer closes, a flush is complete.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_protocol::{ErrorCode, Uuid};

use super::Sender;
use super::producer_state::ProducerIdState;
use crate::accumulator::batch::ClosedBatch;
use crate::accumulator::completion::Outcome;
use crate::accumulator::drain::RemovedBatch;
use crate::accumulator::partition::{Partition, QueuedBatch};
use crate::accumulator::ready::DrainContext;
use crate::accumulator::waiters::FlushCompletion;
use crate::collections::HashSet;
use crate::error::{DeliveryTimings, Error, ErrorKind, RecordStatus};
use crate::injected_bugs::inject_bug;
use crate::log_limiter::LogEvent;
use crate::network::io::Io;
use crate::time::Tick;

/// A flush, and the batches it waits for.
pub(super) struct PendingFlush {
    pub(super) completion: Arc<FlushCompletion>,
    pub(super) incomplete_batches: HashSet<u64>,
}

/// Why a batch cannot come along into its partition's new order.
fn stale_batch_error(batch: &ClosedBatch, moved: Option<(Uuid, Uuid)>) -> Error {
    let p = &batch.meta.partition;
    match (moved, &batch.last_error) {
        (Some((old, new)), cause) => {
            let why = format!(
                "{}-{}: the topic was deleted and made again while the record was on its way: it went to the \
                 topic of id {old} and is not sent to that of id {new}",
                p.topic, p.index
            );
            let e = Error::new(ErrorKind::Broker(ErrorCode::UNKNOWN_TOPIC_ID.0), why);
            cause.clone().map_or(e.clone(), |cause| e.with_source(cause))
        }
        (None, Some(error)) => error.clone(),
        (None, None) => Error::new(ErrorKind::Network, "its answer was lost"),
    }
}

impl<I: Io> Sender<I> {
    /// A batch is settled: flushes hear of it.
    pub(super) fn batch_completed(&mut self, number: u64) {
        for f in &mut self.pending_flushes {
            f.incomplete_batches.remove(&number);
        }
    }

    /// A batch is gone, and these stand for it.
    pub(super) fn batch_split(&mut self, number: u64, parts: impl Iterator<Item = u64> + Clone) {
        for f in &mut self.pending_flushes {
            if f.incomplete_batches.remove(&number) && !inject_bug!(FlushIgnoresSplit) {
                f.incomplete_batches.extend(parts.clone());
            }
        }
    }

    /// Nothing this producer sends will be taken any more: everything ends with this reason, now and later.
    pub(super) fn transition_to_fatal_error(&mut self, why: &Error) {
        tracing::error!("the producer is of no more use: {why}");
        self.producer_state.producer_id = ProducerIdState::Failed(why.clone());
        self.accumulator.set_fatal_error(why);
        self.accumulator.pool.close(why);
        self.accumulator.topics.notify_error_all(why);
        self.abort_undrained_batches(why);
        // Their bytes stay where they are until the answers come.
        self.fail_in_flight_batches(|_| true, |_, _| why.clone());
    }

    /// The application gives up what there is in batches up to this number.
    pub(super) fn purge(&mut self, to: u64, in_flight: bool) {
        let why = Error::new(ErrorKind::Purged, "the record was purged");
        self.last_purge = Some((to, why.clone()));
        let taken = self.ready.remove_up_to(to);
        self.fail_removed_batches(taken, &why);
        if in_flight {
            self.fail_in_flight_batches(|b| b.meta.number <= to, |_, _| why.clone());
        }
    }

    /// A batch that was being closed when everything was purged goes the same way.
    pub(super) fn purge_closed(&mut self, p: &Partition) {
        let Some((to, why)) = self.last_purge.clone() else { return };
        let mut failed = Vec::new();
        {
            let mut queue = p.lock_for_sender();
            let purged = |s: &QueuedBatch| matches!(s, QueuedBatch::Closed(b) if b.meta.number <= to && b.attempts == 0);
            while let Some(at) = queue.batches.iter().position(purged) {
                failed.extend(queue.batches.remove(at).and_then(QueuedBatch::into_closed));
            }
        }
        failed.into_iter().for_each(|b| self.fail_records(b, &why));
    }

    pub(super) fn complete_flushes(&mut self) {
        if self.pending_flushes.is_empty() {
            return;
        }
        let (done, rest) = std::mem::take(&mut self.pending_flushes)
            .into_iter()
            .partition(|f| f.incomplete_batches.is_empty());
        self.pending_flushes = rest;
        let done: Vec<PendingFlush> = done;
        done.iter().for_each(|f| f.completion.complete());
    }

    /// Fails a batch's records, saying what is known of them.
    pub(super) fn fail_records(&mut self, mut batch: ClosedBatch, why: &Error) {
        let error = self.with_batch_context(why, &batch);
        batch.complete(Outcome::Failed(error));
        self.batch_completed(batch.meta.number);
    }

    /// An error that says what is known of the batch's records: where they were to go, whether they may have been
    /// written, how far they came, where their time went.
    pub(super) fn with_batch_context(&self, why: &Error, batch: &ClosedBatch) -> Error {
        let journey = self.delivery_timings(batch, self.env.now());
        let mut e = why.clone();
        if e.record_status() != batch.status {
            e = e.with_status(batch.status);
        }
        let p = &batch.meta.partition;
        e.with_location(&format!("{}-{}", p.topic, p.index)).with_timings(journey)
    }

    /// Where a batch's time went. What overlaps is told once: in requests before at rest before without a
    /// leader before throttled before lingering.
    fn delivery_timings(&self, batch: &ClosedBatch, now: Tick) -> DeliveryTimings {
        let (story, meta) = (&batch.timings, &batch.meta);
        let mut left = now.since(meta.created);
        let mut take = |time: Duration| {
            let time = time.min(left);
            left -= time;
            time
        };
        let under_way = story.sent_at.map_or(Duration::ZERO, |at| now.since(at));
        let in_flight = take(story.in_flight + under_way);
        let backing_off = take(story.backed_off(now));
        let without_leader = take(self.ready.leaderless_duration(meta.partition.id, now));
        let leader = self.client.cluster().leader(&meta.partition.topic, meta.partition.index);
        let throttled = take(self.client.throttled_time(leader.node_id, meta.created, now));
        let linger = self.accumulator.settings.linger;
        let lingering = take(
            linger.min(story.closed_at.or(story.drained_at).unwrap_or(now).since(meta.created)),
        );
        DeliveryTimings {
            attempts: batch.attempts,
            last_broker: (story.broker >= 0).then_some(story.broker),
            memory_wait: meta.memory_wait,
            linger: lingering,
            leaderless: without_leader,
            backoff: backing_off,
            throttled,
            in_flight,
            queued: left,
        }
    }

    /// What a batch says whose time is over.
    fn delivery_timeout_error(&self, batch: &ClosedBatch, in_flight: bool, now: Tick) -> Error {
        let spent = self.delivery_timings(batch, now);
        let p = &batch.meta.partition;
        let ms = self.settings.delivery_timeout.as_millis();
        let cluster = self.client.cluster();
        let leader = cluster.leader(&p.topic, p.index).node_id;
        let why = match (&batch.last_error, self.health.unreachable_summary(), &self.producer_state.producer_id) {
            _ if in_flight => {
                let name = self.client.broker_name(batch.timings.broker);
                format!(
                    "its request to {name} has no answer after {} attempts; see that broker's load and log",
                    batch.attempts
                )
            }
            (Some(e), _, _) => format!("{} attempts, the last error: {e}", batch.attempts),
            (None, Some(complaint), _) => complaint,
            (None, None, _) if leader == -1 => {
                "the partition has no leader; see its replicas with kafka-topics --describe".to_owned()
            }
            (None, None, ProducerIdState::Needed(_) | ProducerIdState::Requested) => {
                "no producer id came from any broker; see their logs, or set enable.idempotence=false"
                    .to_owned()
            }
            _ => {
                let name = self.client.broker_name(leader);
                format!(
                    "it was never its turn at {name}, which may be too slow for the load or have asked us to pause"
                )
            }
        };
        let message = format!(
            "{}-{}: not acknowledged within delivery.timeout.ms ({ms} ms: {spent}): {why}",
            p.topic, p.index
        );
        let e = Error::new(ErrorKind::DeliveryTimeout, message);
        match &batch.last_error {
            Some(cause) => e.with_source(cause.clone()),
            None => e,
        }
    }

    /// Step 6: batches whose time is over fail; when the next one in flight's will be. Those in flight are told
    /// now, and their bytes stay where they are until the answer comes or the connection dies.
    pub(super) fn fail_expired_batches(&mut self, view: DrainContext<'_>) -> Tick {
        let now = view.now;
        for e in self.ready.expire(view) {
            let batch = match e {
                RemovedBatch::Unsent(batch) if inject_bug!(SequenceLostOnExpiry) => {
                    self.producer_state.skip_sequence(&batch);
                    batch
                }
                RemovedBatch::Unsent(batch) => batch,
                RemovedBatch::Sent(batch) => {
                    self.producer_state.mark_unresolved(&batch);
                    batch.unstamp()
                }
            };
            let why = self.delivery_timeout_error(&batch, false, now);
            if let Some(left_out) = self.client.log_events().check(LogEvent::BatchExpired, -1, now)
            {
                let p = &batch.meta.partition;
                tracing::warn!(
                    name: "ottla.batch_expired",
                    topic = &*p.topic,
                    partition = p.index,
                    records = batch.meta.record_count,
                    left_out,
                    "{why}"
                );
            }
            self.fail_records(batch, &why);
        }
        if self.next_in_flight_expiry > now {
            return self.next_in_flight_expiry;
        }
        let (mut next, timeout) = (Tick::NEVER, self.settings.delivery_timeout);
        let mut late = HashSet::default();
        for b in self.in_flight_batches.values().flat_map(|f| &f.batches) {
            let due = b.closed.meta.created.after(timeout);
            if b.closed.is_completed() || inject_bug!(NoInFlightExpiry) {
                continue;
            } else if due > now {
                next = next.min(due);
            } else {
                late.insert(b.closed.meta.number);
            }
        }
        self.next_in_flight_expiry = next;
        if !late.is_empty() {
            let is_late = |b: &ClosedBatch| late.contains(&b.meta.number);
            self.fail_in_flight_batches(is_late, |s, b| s.delivery_timeout_error(b, true, now));
        }
        next
    }

    /// Tells the ends of batches in flight; what of their requests arrived is not known.
    fn fail_in_flight_batches(
        &mut self,
        which: impl Fn(&ClosedBatch) -> bool,
        why: impl Fn(&Self, &ClosedBatch) -> Error,
    ) {
        let mut in_flight = std::mem::take(&mut self.in_flight_batches);
        for b in in_flight.values_mut().flat_map(|f| &mut f.batches) {
            if b.closed.is_completed() || !which(&b.closed) {
                continue;
            }
            b.closed.status = RecordStatus::PossiblyPersisted;
            if inject_bug!(BufferFreedTwice) {
                drop(self.accumulator.pool.unaccounted_buffer(b.closed.wire_len()));
            }
            let e = self.with_batch_context(&why(self, &b.closed), &b.closed);
            b.closed.complete(Outcome::Failed(e));
            self.batch_completed(b.closed.meta.number);
        }
        self.in_flight_batches = in_flight;
    }

    /// Partitions whose order broke start a new one, once the network holds nothing of theirs: what is known
    /// not to be in their logs is sent again under it, the rest fails as possibly written.
    pub(super) fn resolve_sequences(&mut self, now: Tick) {
        if let ProducerIdState::Failed(e) = &self.producer_state.producer_id {
            let e = e.clone();
            self.abort_undrained_batches(&e);
        }
        if !self.producer_state.can_resolve() {
            return;
        }
        // Even one that turns out whole may go on; and an epoch moves for every partition.
        self.ready.mark_all_dirty();
        let broken = self.producer_state.bump_epoch(now);
        if !broken.is_empty()
            && let Some(left_out) = self.client.log_events().check(LogEvent::EpochBumped, 0, now)
        {
            tracing::info!(
                name: "ottla.epoch_bumped",
                partitions = broken.len(),
                left_out,
                "an order was broken: it goes on under a new epoch"
            );
        }
        for mended in broken {
            let Some(p) = self.ready.get(mended.key).cloned() else { continue };
            let mut failed = Vec::new();
            {
                let mut queue = p.lock_for_sender();
                for slot in std::mem::take(&mut queue.batches) {
                    match slot {
                        QueuedBatch::Retry(mut b, at)
                            if b.closed.status == RecordStatus::NotPersisted
                                || inject_bug!(ResequenceAll) =>
                        {
                            // A new order does not shorten the backoff.
                            b.closed.not_before = at;
                            queue.batches.push_back(QueuedBatch::Closed(b.unstamp()));
                        }
                        QueuedBatch::Retry(b, _) => failed.push(b),
                        other => queue.batches.push_back(other),
                    }
                }
            }
            for b in failed {
                let why = stale_batch_error(&b.closed, mended.topic_id_change);
                self.fail_records(b.unstamp(), &why);
            }
        }
    }

    /// Fails everything that is not in flight.
    pub(super) fn abort_undrained_batches(&mut self, why: &Error) {
        self.abort_undrained_batches_in(why, |_| true);
    }

    /// Fails what is not in flight of some partitions.
    pub(super) fn abort_undrained_batches_in(
        &mut self,
        why: &Error,
        which: impl Fn(&Partition) -> bool,
    ) {
        let taken = self.ready.remove(which);
        self.fail_removed_batches(taken, why);
    }

    fn fail_removed_batches(&mut self, taken: Vec<RemovedBatch>, why: &Error) {
        for e in taken {
            match e {
                RemovedBatch::Unsent(batch) => self.fail_records(batch, why),
                RemovedBatch::Sent(batch) => {
                    self.producer_state.mark_unresolved(&batch);
                    self.fail_records(batch.unstamp(), why);
                }
            }
        }
    }

    /// Ends when nothing is left, or when the time to close is over; until when it can wait.
    pub(super) fn maybe_shut_down(&mut self, now: Tick) -> Tick {
        let Some(by) = self.close_deadline else {
            return Tick::NEVER;
        };
        if self.ready.is_empty() && self.in_flight_batches.is_empty() {
            self.shut_down(&Error::closed());
        } else if by <= now {
            self.shut_down(&Error::new(
                ErrorKind::Closed,
                "the producer was closed before the record was acknowledged",
            ));
        }
        by
    }

    /// Everything ends, with this reason where it has no other.
    pub(crate) fn shut_down(&mut self, why: &Error) {
        if why.is_fatal() && why.kind() != ErrorKind::Closed {
            self.accumulator.set_fatal_error(why);
        }
        self.handle_events(self.env.now());
        self.abort_undrained_batches(why);
        let in_flight = std::mem::take(&mut self.in_flight_batches);
        let mut lost = 0;
        for (correlation, f) in in_flight {
            // The connections end with the producer: what they did not take whole was not written.
            let whole = self.client.is_fully_sent(f.node, correlation);
            for mut b in f.batches {
                if whole {
                    b.closed.status = RecordStatus::PossiblyPersisted;
                    lost += b.closed.meta.record_count;
                }
                self.fail_records(b.unstamp(), why);
            }
        }
        if lost > 0 {
            tracing::warn!(records = lost, "closed while records were in flight");
        }
        self.accumulator.closed.store(true, Ordering::Relaxed);
        self.accumulator
            .events()
            .close()
            .into_iter()
            .for_each(|e| self.accumulator.handle_undeliverable(e));
        // Once more: what was appended between the first sweep and the closing of the mailbox.
        self.abort_undrained_batches(why);
        self.accumulator.pool.close(&self.accumulator.closed_while_waiting_error());
        self.accumulator.topics.notify_error_all(&Error::closed());
        std::mem::take(&mut self.pending_flushes).iter().for_each(|f| f.completion.complete());
        std::mem::take(&mut self.waiter_deadlines).values().for_each(|w| w.wake());
        self.is_shut_down = true;
    }
}
