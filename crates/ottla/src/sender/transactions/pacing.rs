//! Paces transactions of version 2 (KIP-890) that follow each other at once.
//!
//! After EndTxn, the coordinator writes the markers of the transaction for some milliseconds. A
//! Produce request that arrives meanwhile waits in its broker, which asks the coordinator again
//! only after 20 ms (`add.partitions.to.txn.retry.backoff.ms`), or the broker refuses it. A request
//! that the client sends some milliseconds later is done earlier. So the first requests of a
//! transaction wait until a pause after EndTxn has ended. The pause is zero at first. It grows
//! while requests come too early, and shrinks slowly while they do not.

use std::time::Duration;

use crate::time::Tick;

/// The longest pause: what it may cost if a request is slow for another reason.
const MAX_PAUSE: Duration = Duration::from_millis(6);
/// What a request that came too early adds to the pause.
const GROWTH: Duration = Duration::from_millis(1);
/// What a request that did not come too early takes from the pause.
const DECAY: Duration = Duration::from_micros(50);
/// A first Produce request that takes longer than EndTxn by this time has waited for markers. Both
/// requests cross the network once, and write to a log once.
const MARKER_WAIT: Duration = Duration::from_millis(15);

/// The pause between EndTxn and the next transaction.
#[derive(Debug, Default)]
pub(super) struct MarkerPacing {
    pause: Duration,
    /// When EndTxn was sent.
    end_txn_sent_at: Tick,
    end_txn_latency: Duration,
    /// The end of the pause. It does not move in a transaction: the ready tracker has cached states
    /// that depend on it.
    hold_until: Tick,
    first_request: FirstRequest,
}

/// The first request with data of a transaction that begins right behind another one.
#[derive(Debug, Default)]
enum FirstRequest {
    /// It shows nothing about the pause, or it has done so.
    #[default]
    Ignored,
    Unsent,
    SentAt(Tick),
}

impl MarkerPacing {
    pub(super) fn end_txn_sent(&mut self, now: Tick) {
        self.end_txn_sent_at = now;
    }

    /// EndTxn of version 2 has succeeded.
    pub(super) fn ended(&mut self, now: Tick) {
        self.end_txn_latency = now.since(self.end_txn_sent_at);
        self.hold_until = now.after(self.pause);
        self.first_request = FirstRequest::Unsent;
    }

    /// Returns when the next transaction may send its first request, if that is later than now.
    pub(super) fn hold_until(&self, now: Tick) -> Option<Tick> {
        (self.hold_until > now).then_some(self.hold_until)
    }

    pub(super) fn produce_sent(&mut self, now: Tick) {
        if matches!(self.first_request, FirstRequest::Unsent) {
            // A later request comes behind the markers in any case. The pause itself counts from
            // its end, and a wake-up may be late.
            let is_close = now <= self.hold_until.after(MAX_PAUSE);
            self.first_request =
                if is_close { FirstRequest::SentAt(now) } else { FirstRequest::Ignored };
        }
    }

    /// A Produce request has a response.
    pub(super) fn produce_completed(&mut self, now: Tick) {
        if let FirstRequest::SentAt(sent_at) = self.first_request {
            self.first_request = FirstRequest::Ignored;
            if now.since(sent_at) > self.end_txn_latency + MARKER_WAIT {
                self.came_too_early();
            } else {
                self.came_in_time();
            }
        }
    }

    /// The group coordinator has accepted offsets, possibly as the first request of a transaction.
    pub(super) fn offsets_added(&mut self) {
        if matches!(self.first_request, FirstRequest::Unsent) {
            self.first_request = FirstRequest::Ignored;
            self.came_in_time();
        }
    }

    fn came_in_time(&mut self) {
        self.pause = self.pause.saturating_sub(DECAY);
    }

    /// A first request has waited for markers, or was refused because of them.
    pub(super) fn came_too_early(&mut self) {
        self.first_request = FirstRequest::Ignored;
        self.pause = (self.pause + GROWTH).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Tick {
        Tick(0).after(Duration::from_millis(ms))
    }

    /// Ends a transaction whose EndTxn takes 2 ms, and sends the first Produce request of the next
    /// one after `idle_ms`. It takes `latency_ms`.
    fn run_transaction(pacing: &mut MarkerPacing, idle_ms: u64, latency_ms: u64) {
        pacing.end_txn_sent(at_ms(1000));
        pacing.ended(at_ms(1002));
        pacing.produce_sent(at_ms(1002 + idle_ms));
        pacing.produce_completed(at_ms(1002 + idle_ms + latency_ms));
    }

    #[test]
    fn pause_grows_while_first_requests_are_slow_and_shrinks_afterwards() {
        let mut pacing = MarkerPacing::default();
        run_transaction(&mut pacing, 0, 3);
        assert_eq!(pacing.hold_until(at_ms(1002)), None, "no request was slow");
        run_transaction(&mut pacing, 0, 25);
        assert_eq!(pacing.hold_until(at_ms(1002)), None, "the next transaction is held");
        run_transaction(&mut pacing, 0, 25);
        assert_eq!(pacing.hold_until(at_ms(1002)), Some(at_ms(1003)));
        assert_eq!(pacing.hold_until(at_ms(1003)), None);
        (0..20).for_each(|_| run_transaction(&mut pacing, 2, 3));
        assert_eq!(pacing.pause, Duration::from_millis(1));
        (0..100).for_each(|_| run_transaction(&mut pacing, 2, 25));
        assert_eq!(pacing.pause, MAX_PAUSE);
        // The wake-up at the end of the pause is late.
        (0..20).for_each(|_| run_transaction(&mut pacing, 8, 3));
        assert_eq!(pacing.pause, Duration::from_millis(5));
    }

    #[test]
    fn pause_shrinks_with_transactions_of_offsets_alone() {
        let mut pacing = MarkerPacing::default();
        let mut commit_offsets = |is_refused: bool| {
            pacing.ended(at_ms(1002));
            if is_refused {
                pacing.came_too_early();
            }
            pacing.offsets_added();
            pacing.pause
        };
        assert_eq!(commit_offsets(true), GROWTH);
        assert_eq!(commit_offsets(false), GROWTH - DECAY);
    }

    #[test]
    fn slow_request_long_after_the_last_transaction_changes_nothing() {
        let mut pacing = MarkerPacing::default();
        run_transaction(&mut pacing, 7, 500);
        assert_eq!(pacing.pause, Duration::ZERO);
        // On a slow network, EndTxn is as slow.
        pacing.end_txn_sent(at_ms(0));
        pacing.ended(at_ms(200));
        pacing.produce_sent(at_ms(200));
        pacing.produce_completed(at_ms(410));
        assert_eq!(pacing.pause, Duration::ZERO);
    }
}
