//! Which registry a request goes to next, and after which pause.

use std::time::Duration;

/// `max.retries`, `retries.wait.ms` and `retries.max.wait.ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Rounds through all URLs after the first one.
    pub(crate) max_retries: u32,
    pub(crate) wait: Duration,
    pub(crate) max_wait: Duration,
}

/// The next attempt of a request that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextAttempt {
    /// The URL of this index, after a pause.
    Url(usize, Duration),
    GiveUp,
}

/// One request: it tries each URL once, pauses, and starts again.
pub(crate) struct Attempts {
    policy: RetryPolicy,
    urls: usize,
    first: usize,
    failed: usize,
}

impl Attempts {
    /// `first` is the URL that responded last.
    pub(crate) fn new(policy: RetryPolicy, urls: usize, first: usize) -> Attempts {
        Attempts { policy, urls: urls.max(1), first, failed: 0 }
    }

    /// Returns what follows a failure. `random` is any number.
    pub(crate) fn after_failure(&mut self, random: u64) -> NextAttempt {
        self.failed += 1;
        let (round, position) = (self.failed / self.urls, self.failed % self.urls);
        let round = u32::try_from(round).unwrap_or(u32::MAX);
        if round > self.policy.max_retries {
            return NextAttempt::GiveUp;
        }
        let pause = match position {
            0 => self.backoff(round - 1, random),
            // Another registry may respond at once.
            _ => Duration::ZERO,
        };
        NextAttempt::Url((self.first + position) % self.urls, pause)
    }

    /// Returns how many requests have failed.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Exponential, with a jitter of ±20 %: clients that failed together must not return together.
    fn backoff(&self, exponent: u32, random: u64) -> Duration {
        let base = self.policy.wait.as_secs_f64() * 2f64.powi(exponent.min(30) as i32);
        let jitter = 0.8 + 0.4 * ((random >> 11) as f64 / (1u64 << 53) as f64);
        let seconds = base.min(self.policy.max_wait.as_secs_f64()) * jitter;
        Duration::from_secs_f64(seconds.min(1e6)).min(self.policy.max_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_retries: u32) -> RetryPolicy {
        let (wait, max_wait) = (Duration::from_millis(100), Duration::from_millis(150));
        RetryPolicy { max_retries, wait, max_wait }
    }

    #[test]
    fn each_url_is_tried_before_a_pause() {
        let mut attempts = Attempts::new(policy(2), 3, 1);
        let half = u64::MAX / 2;
        let next: Vec<_> = (0..9).map(|_| attempts.after_failure(half)).collect();
        let ms = |next: &NextAttempt| match next {
            NextAttempt::Url(url, pause) => (*url as i32, pause.as_millis()),
            NextAttempt::GiveUp => (-1, 0),
        };
        let next: Vec<_> = next.iter().map(ms).collect();
        let (first, second) = (next[2].1, next[5].1);
        assert!((99..=100).contains(&first) && (149..=150).contains(&second), "{next:?}");
        let urls: Vec<_> = next.iter().map(|n| n.0).collect();
        assert_eq!(urls, [2, 0, 1, 2, 0, 1, 2, 0, -1]);
        assert!([0, 1, 3, 4, 6, 7].iter().all(|i| next[*i].1 == 0), "{next:?}");
    }

    #[test]
    fn without_retries_each_url_is_tried_once() {
        let mut attempts = Attempts::new(policy(0), 2, 0);
        assert_eq!(attempts.after_failure(0), NextAttempt::Url(1, Duration::ZERO));
        assert_eq!(attempts.after_failure(0), NextAttempt::GiveUp);
        assert_eq!(attempts.failed(), 2);
        assert_eq!(Attempts::new(policy(0), 1, 0).after_failure(0), NextAttempt::GiveUp);
    }
}
