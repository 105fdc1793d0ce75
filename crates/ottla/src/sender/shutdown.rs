//! Shuts the sender down, at the end of a close or after a failure.

use std::sync::atomic::Ordering;

use super::Sender;
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::network::io::Io;
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Shuts down a closing producer once every batch is completed or the close timeout expires.
    /// Returns the deadline of the close.
    pub(super) fn maybe_shut_down(&mut self, now: Tick) -> Tick {
        let Some(deadline) = self.close_deadline else {
            return Tick::NEVER;
        };
        if self.ready.is_empty() && self.in_flight_batches.is_empty() {
            self.shut_down(&Error::closed());
        } else if deadline <= now {
            self.shut_down(&Error::new(
                ErrorKind::Closed,
                "the producer was closed before the record was acknowledged",
            ));
        }
        deadline
    }

    /// Fails all batches with `error`, and wakes every waiting caller.
    pub(crate) fn shut_down(&mut self, error: &Error) {
        if error.is_fatal() && error.kind() != ErrorKind::Closed {
            self.accumulator.set_fatal_error(error);
        }
        self.handle_events(self.env.now());
        self.abort_undrained_batches(error);
        self.fail_batches_in_flight_at_shutdown(error);
        self.accumulator.closed.store(true, Ordering::Relaxed);
        // Callers may post until the queue is closed. Later, a caller gets its event back and
        // fails its own partition, so no caller waits for a sender that has ended.
        let undelivered = self.accumulator.events().close();
        undelivered.into_iter().for_each(|e| self.accumulator.handle_undeliverable(e));
        self.split_outcomes.fail_all(&self.accumulator);
        // Once more, for what was appended after the first time and before the close.
        self.abort_undrained_batches(error);
        self.accumulator.pool.close(&self.accumulator.closed_while_waiting_error());
        self.accumulator.topics.notify_error_all(&Error::closed());
        std::mem::take(&mut self.pending_flushes).iter().for_each(|f| f.completion.complete());
        std::mem::take(&mut self.waiter_deadlines).values().for_each(|w| w.wake());
        self.is_shut_down = true;
    }

    fn fail_batches_in_flight_at_shutdown(&mut self, error: &Error) {
        let mut possibly_persisted = 0;
        for (correlation_id, in_flight) in std::mem::take(&mut self.in_flight_batches) {
            // The connections end with the producer. A request whose last byte is not written by
            // now will never reach a broker in full, so its records are not persisted.
            let fully_sent = self.client.is_fully_sent(in_flight.node, correlation_id);
            for mut batch in in_flight.batches {
                if fully_sent {
                    batch.closed.status = RecordStatus::PossiblyPersisted;
                    possibly_persisted += batch.closed.meta.record_count;
                }
                self.fail_records(batch.unstamp(), error);
            }
        }
        if possibly_persisted > 0 {
            tracing::warn!(records = possibly_persisted, "closed while records were in flight");
        }
    }
}
