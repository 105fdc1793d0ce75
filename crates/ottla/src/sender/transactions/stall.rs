//! Reports a transactional request that has to be sent again and again: without a report, a call
//! that waits for it would look like a hang.

use super::TransactionManager;
use super::outcome::Api;
use crate::sender::stall_report::{FIRST_REPORT, REPEATED_REPORT};
use crate::time::Tick;

/// A request that has not succeeded yet.
#[derive(Debug)]
pub(super) struct RequestStall {
    since: Tick,
    next_report: Tick,
}

impl TransactionManager {
    /// Notes why a request has to be sent again.
    pub(super) fn note_failed_request(&mut self, api: Api, reason: String, now: Tick) {
        let stall = self
            .request
            .stall
            .get_or_insert(RequestStall { since: now, next_report: now.after(FIRST_REPORT) });
        let api = api.key().name();
        let reason = format!("{api} is sent again: {reason}");
        if stall.next_report <= now {
            stall.next_report = now.after(REPEATED_REPORT);
            let duration = now.since(stall.since);
            tracing::warn!(
                name: "ottla.transaction_stalled",
                target: "ottla::stalled",
                transactional_id = &*self.settings.transactional_id,
                api,
                ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                "the transaction waits for {:.0} s: {reason}",
                duration.as_secs_f64()
            );
        }
        self.health.set_coordinator_error(Some(reason));
    }

    /// Notes that a request has succeeded. A coordinator that was found may still refuse the
    /// request that it was looked up for.
    pub(super) fn note_successful_request(&mut self, api: Api) {
        if api != Api::FindCoordinator {
            self.forget_stall();
        }
    }

    /// Forgets a request that is not sent again.
    pub(super) fn forget_stall(&mut self) {
        if self.request.stall.take().is_some() {
            self.health.set_coordinator_error(None);
        }
    }
}
