//! How batches end other than by an answer: their time is over, the producer closes, a flush is complete.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_protocol::{ErrorCode, Uuid};

use super::Sender;
use super::sequences::Id;
use crate::accumulator::batch::ClosedBatch;
use crate::accumulator::completion::Outcome;
use crate::accumulator::drain::RemovedBatch;
use crate::accumulator::partition::{Partition, QueuedBatch};
use crate::accumulator::ready::DrainContext;
use crate::accumulator::waits::FlushCompletion;
use crate::collections::HashSet;
use crate::error::{DeliveryTimings, Error, ErrorKind, RecordStatus};
use crate::events::LogEvent;
use crate::network::io::Io;
use crate::plants::inject_bug;
use crate::time::Tick;

/// A flush, and the batches it waits for.
pub(super) struct FlushWait {
    pub(super) flush: Arc<FlushCompletion>,
    pub(super) pending: HashSet<u64>,
}

/// Why a batch cannot come along into its partition's new order.
fn left_behind(batch: &ClosedBatch, moved: Option<(Uuid, Uuid)>) -> Error {
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
    pub(super) fn settled(&mut self, number: u64) {
        for f in &mut self.flushes {
            f.pending.remove(&number);
        }
    }

    /// A batch is gone, and these stand for it.
    pub(super) fn replaced(&mut self, number: u64, parts: impl Iterator<Item = u64> + Clone) {
        for f in &mut self.flushes {
            if f.pending.remove(&number) && !inject_bug!(FlushIgnoresSplit) {
                f.pending.extend(parts.clone());
            }
        }
    }

    /// Nothing this producer sends will be taken any more: everything ends with this reason, now and later.
    pub(super) fn fail_producer(&mut self, why: &Error) {
        tracing::error!("the producer is of no more use: {why}");
        self.sequences.id = Id::Refused(why.clone());
        self.acc.set_fatal_error(why);
        self.acc.pool.close(why);
        self.acc.topics.notify_error_all(why);
        self.fail_unsent(why);
        // Their bytes stay where they are until the answers come.
        self.fail_in_flight(|_| true, |_, _| why.clone());
    }

    /// The application gives up what there is in batches up to this number.
    pub(super) fn purge(&mut self, to: u64, in_flight: bool) {
        let why = Error::new(ErrorKind::Purged, "the record was purged");
        self.purged = Some((to, why.clone()));
        let taken = self.active.remove_up_to(to);
        self.fail_taken(taken, &why);
        if in_flight {
            self.fail_in_flight(|b| b.meta.number <= to, |_, _| why.clone());
        }
    }

    /// A batch that was being closed when everything was purged goes the same way.
    pub(super) fn purge_closed(&mut self, p: &Partition) {
        let Some((to, why)) = self.purged.clone() else { return };
        let mut failed = Vec::new();
        {
            let mut queue = p.lock_for_sender();
            let purged = |s: &QueuedBatch| matches!(s, QueuedBatch::Closed(b) if b.meta.number <= to && b.attempts == 0);
            while let Some(at) = queue.batches.iter().position(purged) {
                failed.extend(queue.batches.remove(at).and_then(QueuedBatch::into_closed));
            }
        }
        failed.into_iter().for_each(|b| self.fail(b, &why));
    }

    pub(super) fn finish_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let (done, rest) =
            std::mem::take(&mut self.flushes).into_iter().partition(|f| f.pending.is_empty());
        self.flushes = rest;
        let done: Vec<FlushWait> = done;
        done.iter().for_each(|f| f.flush.complete());
    }

    /// Fails a batch's records, saying what is known of them.
    pub(super) fn fail(&mut self, mut batch: ClosedBatch, why: &Error) {
        let error = self.knowing(why, &batch);
        batch.complete(Outcome::Failed(error));
        self.settled(batch.meta.number);
    }

    /// An error that says what is known of the batch's records: where they were to go, whether they may have been
    /// written, how far they came, where their time went.
    pub(super) fn knowing(&self, why: &Error, batch: &ClosedBatch) -> Error {
        let journey = self.journey(batch, self.env.now());
        let mut e = why.clone();
        if e.record_status() != batch.status {
            e = e.with_status(batch.status);
        }
        let p = &batch.meta.partition;
        e.with_location(&format!("{}-{}", p.topic, p.index)).with_timings(journey)
    }

    /// Where a batch's time went. What overlaps is told once: in requests before at rest before without a
    /// leader before throttled before lingering.
    fn journey(&self, batch: &ClosedBatch, now: Tick) -> DeliveryTimings {
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
        let without_leader = take(self.active.leaderless_duration(meta.partition.id, now));
        let leader = self.client.cluster().leader(&meta.partition.topic, meta.partition.index);
        let throttled = take(self.client.throttled(leader.node_id, meta.created, now));
        let linger = self.acc.settings.linger;
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
    fn too_late(&self, batch: &ClosedBatch, in_flight: bool, now: Tick) -> Error {
        let spent = self.journey(batch, now);
        let p = &batch.meta.partition;
        let ms = self.settings.delivery_timeout.as_millis();
        let cluster = self.client.cluster();
        let leader = cluster.leader(&p.topic, p.index).node_id;
        let why = match (&batch.last_error, self.health.complaint(), &self.sequences.id) {
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
            (None, None, Id::Wanted(_) | Id::Asked) => {
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
    pub(super) fn expire(&mut self, view: DrainContext<'_>) -> Tick {
        let now = view.now;
        for e in self.active.expire(view) {
            let batch = match e {
                RemovedBatch::Unsent(batch) if inject_bug!(SequenceLostOnExpiry) => {
                    self.sequences.lose(&batch);
                    batch
                }
                RemovedBatch::Unsent(batch) => batch,
                RemovedBatch::Sent(batch) => {
                    self.sequences.broke(&batch);
                    batch.unstamp()
                }
            };
            let why = self.too_late(&batch, false, now);
            if let Some(left_out) = self.client.events().check(LogEvent::BatchExpired, -1, now) {
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
            self.fail(batch, &why);
        }
        if self.in_flight_due > now {
            return self.in_flight_due;
        }
        let (mut next, timeout) = (Tick::NEVER, self.settings.delivery_timeout);
        let mut late = HashSet::default();
        for b in self.in_flight.values().flat_map(|f| &f.batches) {
            let due = b.closed.meta.created.after(timeout);
            if b.closed.is_completed() || inject_bug!(NoInFlightExpiry) {
                continue;
            } else if due > now {
                next = next.min(due);
            } else {
                late.insert(b.closed.meta.number);
            }
        }
        self.in_flight_due = next;
        if !late.is_empty() {
            let is_late = |b: &ClosedBatch| late.contains(&b.meta.number);
            self.fail_in_flight(is_late, |s, b| s.too_late(b, true, now));
        }
        next
    }

    /// Tells the ends of batches in flight; what of their requests arrived is not known.
    fn fail_in_flight(
        &mut self,
        which: impl Fn(&ClosedBatch) -> bool,
        why: impl Fn(&Self, &ClosedBatch) -> Error,
    ) {
        let mut in_flight = std::mem::take(&mut self.in_flight);
        for b in in_flight.values_mut().flat_map(|f| &mut f.batches) {
            if b.closed.is_completed() || !which(&b.closed) {
                continue;
            }
            b.closed.status = RecordStatus::PossiblyPersisted;
            if inject_bug!(BufferFreedTwice) {
                drop(self.acc.pool.unaccounted_buffer(b.closed.wire_len()));
            }
            let e = self.knowing(&why(self, &b.closed), &b.closed);
            b.closed.complete(Outcome::Failed(e));
            self.settled(b.closed.meta.number);
        }
        self.in_flight = in_flight;
    }

    /// Partitions whose order broke start a new one, once the network holds nothing of theirs: what is known
    /// not to be in their logs is sent again under it, the rest fails as possibly written.
    pub(super) fn mend_orders(&mut self, now: Tick) {
        if let Id::Refused(e) = &self.sequences.id {
            let e = e.clone();
            self.fail_unsent(&e);
        }
        if !self.sequences.can_mend() {
            return;
        }
        // Even one that turns out whole may go on; and an epoch moves for every partition.
        self.active.mark_all_dirty();
        let broken = self.sequences.mend(now);
        if !broken.is_empty()
            && let Some(left_out) = self.client.events().check(LogEvent::EpochBumped, 0, now)
        {
            tracing::info!(
                name: "ottla.epoch_bumped",
                partitions = broken.len(),
                left_out,
                "an order was broken: it goes on under a new epoch"
            );
        }
        for mended in broken {
            let Some(p) = self.active.get(mended.key).cloned() else { continue };
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
                let why = left_behind(&b.closed, mended.moved);
                self.fail(b.unstamp(), &why);
            }
        }
    }

    /// Fails everything that is not in flight.
    pub(super) fn fail_unsent(&mut self, why: &Error) {
        self.fail_where(why, |_| true);
    }

    /// Fails what is not in flight of some partitions.
    pub(super) fn fail_where(&mut self, why: &Error, which: impl Fn(&Partition) -> bool) {
        let taken = self.active.remove(which);
        self.fail_taken(taken, why);
    }

    fn fail_taken(&mut self, taken: Vec<RemovedBatch>, why: &Error) {
        for e in taken {
            match e {
                RemovedBatch::Unsent(batch) => self.fail(batch, why),
                RemovedBatch::Sent(batch) => {
                    self.sequences.broke(&batch);
                    self.fail(batch.unstamp(), why);
                }
            }
        }
    }

    /// Ends when nothing is left, or when the time to close is over; until when it can wait.
    pub(super) fn maybe_stop(&mut self, now: Tick) -> Tick {
        let Some(by) = self.closing else {
            return Tick::NEVER;
        };
        if self.active.is_empty() && self.in_flight.is_empty() {
            self.stop(&Error::closed());
        } else if by <= now {
            self.stop(&Error::new(
                ErrorKind::Closed,
                "the producer was closed before the record was acknowledged",
            ));
        }
        by
    }

    /// Everything ends, with this reason where it has no other.
    pub(crate) fn stop(&mut self, why: &Error) {
        if why.is_fatal() && why.kind() != ErrorKind::Closed {
            self.acc.set_fatal_error(why);
        }
        self.read_mail(self.env.now());
        self.fail_unsent(why);
        let in_flight = std::mem::take(&mut self.in_flight);
        let mut lost = 0;
        for (correlation, f) in in_flight {
            // The connections end with the producer: what they did not take whole was not written.
            let whole = self.client.is_whole(f.node, correlation);
            for mut b in f.batches {
                if whole {
                    b.closed.status = RecordStatus::PossiblyPersisted;
                    lost += b.closed.meta.record_count;
                }
                self.fail(b.unstamp(), why);
            }
        }
        if lost > 0 {
            tracing::warn!(records = lost, "closed while records were in flight");
        }
        self.acc.closed.store(true, Ordering::Relaxed);
        self.acc.events().close().into_iter().for_each(|e| self.acc.handle_undeliverable(e));
        // Once more: what was appended between the first sweep and the closing of the mailbox.
        self.fail_unsent(why);
        self.acc.pool.close(&self.acc.closed_while_waiting_error());
        self.acc.topics.notify_error_all(&Error::closed());
        std::mem::take(&mut self.flushes).iter().for_each(|f| f.flush.complete());
        std::mem::take(&mut self.deadlines).values().for_each(|w| w.wake());
        self.stopped = true;
    }
}
