//! The clocks of records: a monotonic one for latencies, the wall clock for timestamps.
//!
//! The wall clock steps when it is set, and when a suspended machine continues: the monotonic clock
//! stands still meanwhile. Timestamps follow such steps.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Returns the wall clock's time in microseconds since 1970.
pub(crate) fn wall_clock_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// The lower bits of a token: microseconds since the start, enough for 142 years.
const TIME_BITS: u32 = 52;
/// Number of offsets that are remembered. A clock that is slewed by 500 ppm, the most that NTP
/// does, needs a new one every two seconds: the oldest is then 2 hours old.
const OFFSETS: usize = 1 << (u64::BITS - TIME_BITS);
/// How far a timestamp may be from the wall clock.
const MAX_DEVIATION_US: u64 = 1000;

/// Gives each record a token, which contains the time of its `send` on both clocks.
///
/// A token contains the monotonic time and the index of the wall clock's offset from it.
pub(crate) struct TokenClock {
    start: Instant,
    /// Wall clock minus monotonic time, in microseconds.
    offsets_us: Box<[AtomicI64]>,
    current: AtomicUsize,
}

impl TokenClock {
    pub(crate) fn start() -> TokenClock {
        let clock = TokenClock {
            start: Instant::now(),
            offsets_us: (0..OFFSETS).map(|_| AtomicI64::new(0)).collect(),
            current: AtomicUsize::new(0),
        };
        clock.offsets_us[0].store(wall_clock_us(), Ordering::Relaxed);
        clock
    }

    /// Returns the monotonic time in microseconds since the start.
    pub(crate) fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Returns the token of a record that is sent now. Only one thread sends.
    pub(crate) fn current_token(&self) -> u64 {
        self.token(self.now_us(), wall_clock_us())
    }

    fn token(&self, now_us: u64, wall_us: i64) -> u64 {
        let offset_us = wall_us - now_us as i64;
        let mut current = self.current.load(Ordering::Relaxed);
        let known_us = self.offsets_us[current].load(Ordering::Relaxed);
        if offset_us.abs_diff(known_us) >= MAX_DEVIATION_US {
            current = (current + 1) % OFFSETS;
            self.offsets_us[current].store(offset_us, Ordering::Release);
            self.current.store(current, Ordering::Relaxed);
        }
        (current as u64) << TIME_BITS | now_us
    }

    /// Returns the monotonic time of a token, in microseconds since the start.
    pub(crate) fn sent_at_us(token: u64) -> u64 {
        token & ((1 << TIME_BITS) - 1)
    }

    /// Returns the wall clock's time of a token, in milliseconds since 1970.
    pub(crate) fn timestamp(&self, token: u64) -> i64 {
        let offset_us = self.offsets_us[(token >> TIME_BITS) as usize].load(Ordering::Acquire);
        (offset_us + Self::sent_at_us(token) as i64).div_euclid(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_follows_the_wall_clock_when_it_steps() {
        const HOUR_US: i64 = 3_600_000_000;
        let clock = TokenClock::start();
        let wall_us = wall_clock_us();
        let tokens = [
            (clock.token(1_000_000, wall_us + 1_000_000), 1000),
            (clock.token(2_000_000, wall_us + HOUR_US), 3_600_000),
            (clock.token(3_000_000, wall_us - HOUR_US), -3_600_000),
            (clock.token(4_000_000, wall_us - HOUR_US + 1_000_000), -3_599_000),
        ];
        for (i, (token, expected_ms)) in tokens.into_iter().enumerate() {
            let elapsed_ms = clock.timestamp(token) - wall_us / 1000;
            // A token may deviate by one millisecond, and the start was before `wall_us`.
            assert!((elapsed_ms - expected_ms).abs() <= 2, "{i}: {elapsed_ms}, not {expected_ms}");
            assert_eq!(TokenClock::sent_at_us(token), (i as u64 + 1) * 1_000_000);
        }
    }

    #[test]
    fn steady_clock_uses_one_offset_and_each_step_a_new_one() {
        let clock = TokenClock::start();
        let start_us = wall_clock_us();
        for i in 0..10_000 {
            clock.token(i * 1000, start_us + (i * 1000) as i64);
        }
        let index = clock.token(0, start_us) >> TIME_BITS;
        assert!(index <= 1, "{index}");
        for i in 1..2 * OFFSETS as i64 {
            let wall_us = start_us + i * 1_000_000;
            assert_eq!(clock.timestamp(clock.token(0, wall_us)), wall_us / 1000);
        }
    }
}
