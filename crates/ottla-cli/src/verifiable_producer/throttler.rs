//! The rate of `ottla verifiable-producer`, by the rules of Kafka's ThroughputThrottler.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The throttler sleeps once it owes this much, because short sleeps are imprecise.
const MIN_SLEEP: Duration = Duration::from_millis(2);

/// Ends the run, also while the sending thread sleeps.
#[derive(Debug, Default)]
pub(super) struct StopSignal {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl StopSignal {
    pub(super) fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the signal, at most `timeout`.
    fn wait(&self, timeout: Duration) {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(is_set, timeout, |is_set| !*is_set));
    }
}

/// Delays the sending thread while it is faster than the target.
#[derive(Debug)]
pub(super) struct ThroughputThrottler {
    /// Records a second; below 0 for no limit.
    target: i64,
    started_at: Instant,
    owed: Duration,
}

impl ThroughputThrottler {
    pub(super) fn new(target: i64, started_at: Instant) -> ThroughputThrottler {
        ThroughputThrottler { target, started_at, owed: Duration::ZERO }
    }

    /// Sleeps if that is due after record `n`, which was sent at `sent_at`.
    pub(super) fn throttle(&mut self, n: u64, sent_at: Instant, stop: &StopSignal) {
        match self.sleep_time(n, sent_at) {
            Some(Duration::ZERO) | None => {}
            Some(time) => stop.wait(time),
        }
    }

    /// Returns how long to sleep after record `n`; `None` if the thread is not too fast.
    fn sleep_time(&mut self, n: u64, sent_at: Instant) -> Option<Duration> {
        let target = u32::try_from(self.target.min(i64::from(u32::MAX))).ok()?;
        let elapsed = sent_at.saturating_duration_since(self.started_at).as_secs_f64();
        if n as f64 <= f64::from(target) * elapsed {
            return None;
        }
        if target == 0 {
            return Some(Duration::MAX);
        }
        self.owed += Duration::from_secs(1) / target;
        if self.owed < MIN_SLEEP {
            return Some(Duration::ZERO);
        }
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(throttler: &ThroughputThrottler, ms: u64) -> Instant {
        throttler.started_at + Duration::from_millis(ms)
    }

    // CASES: E1.
    #[test]
    fn sleep_is_owed_for_each_record_that_is_too_early() {
        let mut throttler = ThroughputThrottler::new(1000, Instant::now());
        let at = after(&throttler, 10);
        assert_eq!(throttler.sleep_time(10, at), None, "in time");
        assert_eq!(throttler.sleep_time(11, at), Some(Duration::ZERO), "1 ms is owed");
        assert_eq!(throttler.sleep_time(12, at), Some(Duration::from_millis(2)));
        assert_eq!(throttler.sleep_time(13, at), Some(Duration::ZERO), "it counts from 0 again");
    }

    // CASES: E1.
    #[test]
    fn target_below_zero_is_no_limit_and_zero_stops_after_the_first_record() {
        let mut unlimited = ThroughputThrottler::new(-1, Instant::now());
        let at = after(&unlimited, 1);
        assert_eq!(unlimited.sleep_time(1_000_000, at), None);
        let mut stopped = ThroughputThrottler::new(0, Instant::now());
        let at = after(&stopped, 1);
        assert_eq!(stopped.sleep_time(0, at), None);
        assert_eq!(stopped.sleep_time(1, at), Some(Duration::MAX));
        let stop = StopSignal::default();
        stop.set();
        stopped.throttle(1, at, &stop);
    }
}
