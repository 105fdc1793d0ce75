//! The wall clock in milliseconds, at the price that one reading a record may have.
//!
//! `clock_gettime` takes about 21 ns, a sixth of the time that a record of 100 bytes takes. A
//! reading of the processor's counter takes about 10 ns. So each thread remembers until which count
//! the current millisecond lasts, and calls `clock_gettime` once a millisecond. The kernel's coarse
//! clock would take 5 ns, but it may be 4 ms late.
//!
//! The time is exact as long as nothing sets the clock. If something does, the last millisecond
//! before that ends first.
#![allow(clippy::disallowed_methods)]

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The system's wall clock.
#[derive(Debug)]
pub(super) struct WallClock {
    /// `None` if only the system knows the time.
    counter: Option<Counter>,
}

impl WallClock {
    pub(super) fn new() -> WallClock {
        WallClock { counter: counter::is_clock_of_system().then(Counter::new) }
    }

    /// Returns the time in milliseconds since the Unix epoch.
    #[inline]
    pub(super) fn now_ms(&self) -> i64 {
        let Some(counter) = &self.counter else { return whole_ms(since_epoch()) };
        let current = CURRENT.get();
        if current.contains(counter::read()) { current.ms } else { counter.read_clock() }
    }
}

/// Returns the time since the Unix epoch; zero if the clock is before it.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn whole_ms(since_epoch: Duration) -> i64 {
    since_epoch.as_millis() as i64
}

thread_local! {
    /// The millisecond that the thread has read last.
    static CURRENT: Cell<Millisecond> =
        const { Cell::new(Millisecond { ms: 0, begin: 0, counts: 0 }) };
}

/// The processor's counter, and what the clocks showed at one of its counts.
#[derive(Debug)]
struct Counter {
    start: Instant,
    since_epoch: Duration,
    count: u64,
}

impl Counter {
    fn new() -> Counter {
        // The count comes last, and `read_clock` reads it first: if the thread is interrupted in
        // between, the counter appears to be slower than it is.
        Counter { start: Instant::now(), since_epoch: since_epoch(), count: counter::read() }
    }

    /// Reads the system's clock and remembers how long its millisecond lasts.
    #[cold]
    fn read_clock(&self) -> i64 {
        let count = counter::read();
        let now = since_epoch();
        // The monotonic clock does not count while the machine sleeps, but the counter may. The
        // wall clock may be set back. So the greater of both is the time in which it has counted.
        let elapsed = self.start.elapsed().max(now.saturating_sub(self.since_epoch));
        let counted = count.saturating_sub(self.count);
        let current = Millisecond::new(now, count, counted, elapsed);
        CURRENT.set(current);
        current.ms
    }
}

/// A millisecond of the wall clock, and the counts of the processor's counter at which it is known
/// to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Millisecond {
    /// Since the Unix epoch.
    ms: i64,
    begin: u64,
    /// How many counts follow `begin`.
    counts: u64,
}

impl Millisecond {
    /// Returns the current millisecond. `count` was read just before the time. The counter has
    /// counted `counted` in `elapsed`.
    fn new(since_epoch: Duration, count: u64, counted: u64, elapsed: Duration) -> Millisecond {
        let rest_ns = u128::from(1_000_000 - since_epoch.subsec_nanos() % 1_000_000);
        let counts = rest_ns * u128::from(counted) / elapsed.as_nanos().max(1);
        let counts = u64::try_from(counts).unwrap_or(0);
        // The system may let its clock run up to 0.05 % faster than the counter.
        let counts = counts - counts / 64;
        Millisecond { ms: whole_ms(since_epoch), begin: count, counts }
    }

    /// Returns whether the millisecond lasts at this count. A counter that was reset while the
    /// machine slept is before `begin`.
    #[inline]
    fn contains(self, count: u64) -> bool {
        count.wrapping_sub(self.begin) < self.counts
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod counter {
    pub(super) use safe_arch::read_timestamp_counter as read;

    /// Returns whether the kernel takes the time from this counter. It does if all processors count
    /// alike, at a rate that does not change.
    pub(super) fn is_clock_of_system() -> bool {
        let name = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        std::fs::read(name).is_ok_and(|source| source == b"tsc\n")
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod counter {
    pub(super) fn read() -> u64 {
        0
    }

    pub(super) fn is_clock_of_system() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::new(1_700_000_000, 123_250_000);

    /// The current millisecond at count 1,000,000,000 of a counter with 3 counts a nanosecond.
    fn current(elapsed: Duration) -> Millisecond {
        Millisecond::new(NOW, 1_000_000_000, 3_000_000, elapsed)
    }

    #[test]
    fn millisecond_lasts_to_its_end_and_no_longer() {
        let current = current(Duration::from_millis(1));
        assert_eq!(current.ms, 1_700_000_000_123);
        // 0.75 ms are left: 2,250,000 counts, less a margin.
        for (count, expected) in [(0, true), (2_200_000, true), (2_240_000, false)] {
            assert_eq!(current.contains(1_000_000_000 + count), expected, "{count}");
        }
    }

    #[test]
    fn counter_that_restarts_ends_the_millisecond() {
        let current = current(Duration::from_millis(1));
        for count in [0, 1, 999_999_999] {
            assert!(!current.contains(count), "{count}");
        }
    }

    #[test]
    fn counter_that_counted_less_than_time_passed_shortens_the_millisecond() {
        let current = current(Duration::from_secs(3600));
        assert!(!current.contains(1_000_000_100));
        let unknown = Millisecond::new(NOW, 5, 0, Duration::ZERO);
        assert!(!unknown.contains(5), "the rate is not known yet");
    }

    #[test]
    fn wall_clock_agrees_with_the_system() {
        let clock = WallClock::new();
        for _ in 0..200_000 {
            let before = whole_ms(since_epoch());
            let ms = clock.now_ms();
            let after = whole_ms(since_epoch());
            assert!((before..=after).contains(&ms), "{ms} is not in {before}..={after}");
        }
    }
}
