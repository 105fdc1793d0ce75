//! Time and chance as arguments: nothing above the I/O seam reads a clock or draws a number by itself.

#![cfg_attr(not(any(test, feature = "unstable-sim")), allow(unreachable_pub))]

use std::fmt;
use std::task::Waker;
use std::time::Duration;

/// A moment on a clock that only goes forward, in nanoseconds from a start of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// Later than anything.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// This much later; never wraps.
    #[must_use]
    pub fn after(self, d: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Tick::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}ms", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// What the machine gives to callers and sender alike: clocks, chance, and a way to wait.
pub trait Env: Send + Sync {
    /// Now, on the clock that only goes forward.
    fn now(&self) -> Tick;
    /// Now, in milliseconds since the epoch; may jump.
    fn wall_clock_ms(&self) -> i64;
    /// A random word.
    fn random(&self) -> u64;
    /// Bytes that nobody can guess, for what must be secret.
    fn secure_random(&self) -> [u8; 32];
    /// Ends a [`Env::park`] of the thread that asks for it.
    fn unparker(&self) -> Waker;
    /// Waits for the unparker, or until then; may return early.
    fn park(&self, until: Option<Tick>);
}

/// Ends a poll from any thread.
pub trait Wakeup: Send + Sync {
    /// Makes the poll that runs, or else the next one, return.
    fn wake(&self);
}

/// Helpers that take work from any thread.
pub trait WorkerPool: Send + Sync {
    /// Takes the work, or gives it back: where some waits already, or no thread can be had.
    fn try_spawn(&self, work: Box<dyn FnOnce() + Send>) -> Option<Box<dyn FnOnce() + Send>>;
}

/// A random word as a part of one.
pub(crate) fn random_fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// A duration drawn around `base · 2^exponent`, at most `max`, give or take a fifth: the classic backoff.
pub(crate) fn backoff(base: Duration, max: Duration, exponent: u32, random: u64) -> Duration {
    let grown = base.as_secs_f64() * 2f64.powi(exponent.min(60) as i32);
    let jitter = 0.8 + 0.4 * random_fraction(random);
    Duration::from_secs_f64(
        (grown.min(max.as_secs_f64().max(base.as_secs_f64())) * jitter).min(1e9),
    )
    .min(max.max(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_a_fifth_and_stays_under_its_cap() {
        let (base, max) = (Duration::from_millis(100), Duration::from_millis(1000));
        for (exponent, low, high) in
            [(0, 80, 120), (1, 160, 240), (2, 320, 480), (3, 640, 960), (9, 800, 1000)]
        {
            for random in [0, u64::MAX / 2, u64::MAX] {
                let d = backoff(base, max, exponent, random).as_millis() as u64;
                assert!((low..=high).contains(&d), "2^{exponent}: {d}");
            }
        }
        assert_eq!(backoff(Duration::ZERO, Duration::ZERO, 50, 7), Duration::ZERO);
    }
}
