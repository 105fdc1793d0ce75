//! Instants of the monotonic clock, and backoff times.
//!
//! Time is an argument: only [`Env`](crate::env::Env) reads clocks and generates random numbers.

#![cfg_attr(not(any(test, feature = "unstable-sim")), allow(unreachable_pub))]

use std::fmt;
use std::time::Duration;

/// An instant of a monotonic clock, in nanoseconds since a start that each machine chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// An instant after all others: the deadline of a wait without a timeout.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// Returns the instant this much later; saturates at [`NEVER`](Tick::NEVER).
    #[must_use]
    pub fn after(self, d: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Returns the time since `earlier`; zero if `earlier` is later (as `Instant::duration_since`).
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

/// Maps a random number to a fraction from 0 to less than 1.
pub(crate) fn random_fraction(random: u64) -> f64 {
    // The upper 53 bits: as many as an f64 holds exactly.
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns `base · 2^exponent`, at most `max`, with a jitter of ±20 % (KIP-580).
///
/// The result never exceeds `max`, or `base` if that is larger.
pub(crate) fn backoff(base: Duration, max: Duration, exponent: u32, random: u64) -> Duration {
    let max = max.max(base);
    let exponential = base.as_secs_f64() * 2f64.powi(exponent.min(60) as i32);
    let jitter = 0.8 + 0.4 * random_fraction(random);
    // The limit of 1e9 s keeps `from_secs_f64` from panicking when both settings are huge.
    Duration::from_secs_f64((exponential.min(max.as_secs_f64()) * jitter).min(1e9)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_20_percent_jitter_up_to_its_maximum() {
        let (base, max) = (Duration::from_millis(100), Duration::from_millis(1000));
        for (exponent, low, high) in
            [(0, 80, 120), (1, 160, 240), (2, 320, 480), (3, 640, 960), (9, 800, 1000)]
        {
            for random in [0, u64::MAX / 2, u64::MAX] {
                let ms = backoff(base, max, exponent, random).as_millis() as u64;
                assert!((low..=high).contains(&ms), "2^{exponent}: {ms} ms");
            }
        }
        assert_eq!(backoff(Duration::ZERO, Duration::ZERO, 50, 7), Duration::ZERO);
    }
}
