//! The sender's part of the lifecycle: fatal errors, and the end of the sender.

use super::Sender;
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::network::io::Io;
use crate::sender::drain::RemovedBatch;
use crate::time::Tick;
use crate::wakeup::lifecycle::Lifecycle;

impl<I: Io> Sender<I> {
    /// Shuts down a closing producer once every batch is completed or the close timeout expires.
    /// Returns the deadline of the close.
    pub(super) fn maybe_shut_down(&mut self, now: Tick) -> Tick {
        let deadline = match self.accumulator.lifecycle().get() {
            Lifecycle::Closing { deadline } => deadline,
            // No record is left to wait for.
            Lifecycle::Failed(error) if self.accumulator.lifecycle().is_close_requested() => {
                self.shut_down(&error);
                return now;
            }
            _ => return Tick::NEVER,
        };
        // The lifecycle may have changed in the middle of this round, after records and calls that
        // this round does not know. Their events come before that of the close.
        if self.is_close_handled && self.abandon_transaction() {
            return now;
        }
        let is_idle = self.producer_state.transactions.as_ref().is_none_or(|t| t.is_idle());
        let is_complete =
            self.is_close_handled && self.ready.is_empty() && self.in_flight_batches.is_empty();
        let last_push = if is_complete && is_idle && deadline > now {
            self.finish_telemetry(now)
        } else {
            None
        };
        if is_complete && is_idle && last_push.is_none() {
            self.shut_down(&Error::closed());
        } else if deadline <= now {
            self.shut_down(&Error::new(
                ErrorKind::Closed,
                "the producer was closed before the record was acknowledged",
            ));
        }
        last_push.map_or(deadline, |until| until.min(deadline))
    }

    /// Fails the producer: no later request can succeed. All batches, waiting callers and later
    /// sends fail with this error.
    pub(super) fn transition_to_fatal_error(&mut self, error: &Error) {
        if self.transition(&Lifecycle::Failed(error.clone()), error) {
            tracing::error!(
                name: "ottla.fatal",
                target: "ottla::producer",
                "fatal error, every record of this producer fails: {error}"
            );
        }
    }

    /// Fails batches that an event has announced after a fatal error.
    pub(super) fn fail_late_batches(&mut self) {
        if self.accumulator.lifecycle().is_failed() {
            self.abort_undrained_batches(&self.accumulator.lifecycle().error_for_new_call());
        }
    }

    /// Fails the producer and ends the sender: it cannot even wait for responses.
    pub(super) fn end_with_fatal_error(&mut self, error: &Error) {
        self.transition(&Lifecycle::Failed(error.clone()), error);
        self.shut_down(error);
    }

    /// Ends the sender: all batches fail with `error`, and every waiting caller is woken.
    pub(crate) fn shut_down(&mut self, error: &Error) {
        // Batches whose events are still in the queue fail with their timings, too.
        self.handle_events(self.env.now());
        self.transition(&Lifecycle::Closed, error);
    }

    /// Changes the lifecycle, and does all that belongs to the new state. Returns whether it
    /// changed.
    ///
    /// Nothing is accepted after [`RecordAccumulator::transition`], so failing the batches once
    /// after it leaves none behind.
    ///
    /// [`RecordAccumulator::transition`]: crate::accumulator::RecordAccumulator::transition
    fn transition(&mut self, to: &Lifecycle, error: &Error) -> bool {
        if !self.accumulator.transition(to) {
            return false;
        }
        if let Some(transactions) = &mut self.producer_state.transactions
            && matches!(to, Lifecycle::Failed(_) | Lifecycle::Closed)
        {
            transactions.fail_all(error);
        }
        match to {
            Lifecycle::Running | Lifecycle::Closing { .. } => {}
            Lifecycle::Failed(_) => {
                let queued = self.ready.remove(|_| true);
                // Buffers in flight stay allocated until the responses arrive (CASES SN25).
                self.fail_batches(queued, |_| true, |_, _| error.clone());
            }
            Lifecycle::Closed => {
                let mut batches = self.ready.remove(|_| true);
                batches.extend(self.take_in_flight_batches());
                self.fail_batches(batches, |_| false, |_, _| error.clone());
                self.split_outcomes.fail_all(&self.accumulator);
                // Other threads may be closing or splitting batches, which they will fail.
                let pending_posts = &self.accumulator.events().pending_posts;
                self.flushes.take_all().for_each(|flush| pending_posts.add_flush(flush));
                pending_posts.sender_ended();
                self.waiter_deadlines.wake_all();
                for request in self.buffers.snapshot_requests.drain(..) {
                    request.complete(Err(error.clone()));
                }
                self.telemetry.end(error);
            }
        }
        true
    }

    /// Takes the batches in flight from the connections, which end with the producer.
    fn take_in_flight_batches(&mut self) -> Vec<RemovedBatch> {
        let (mut taken, mut possibly_persisted) = (Vec::new(), 0);
        for (correlation_id, request) in self.in_flight_batches.take_all() {
            // A request whose last byte is not written by now will never reach a broker in full,
            // so its records are not persisted.
            let fully_sent = self.client.is_fully_sent(request.node, correlation_id);
            for mut batch in request.batches {
                if fully_sent {
                    batch.closed.status = RecordStatus::PossiblyPersisted;
                    possibly_persisted += batch.closed.meta.record_count;
                }
                taken.push(RemovedBatch::Sent(Box::new(batch)));
            }
        }
        if possibly_persisted > 0 {
            tracing::warn!(
                name: "ottla.closed_in_flight",
                target: "ottla::producer",
                records = possibly_persisted,
                "closed while records were in flight"
            );
        }
        taken
    }
}
