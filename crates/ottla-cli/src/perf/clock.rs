//! The clock of `ottla perf`.

use crate::clock::wall_clock_us;

/// How often the wall clock is read. It may step.
const WALL_CLOCK_INTERVAL_NS: u64 = 100_000_000;

/// The clock for timestamps and latencies. It counts nanoseconds since the start.
///
/// It is read for each record. So it reads the processor's counter where that is steady, which
/// takes half the time of a reading of the system's clock.
#[derive(Clone)]
pub(crate) struct Clock {
    counter: quanta::Clock,
    /// What the counter showed at the start.
    start: u64,
    /// Wall clock minus the time since the start, in microseconds.
    wall_offset_us: i64,
    next_wall_clock_ns: u64,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        let counter = quanta::Clock::new();
        let (start, wall_offset_us) = (counter.raw(), wall_clock_us());
        Clock { counter, start, wall_offset_us, next_wall_clock_ns: WALL_CLOCK_INTERVAL_NS }
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.counter.delta_as_nanos(self.start, self.counter.raw())
    }

    /// Converts a time of this clock into milliseconds since 1970.
    #[inline]
    pub(crate) fn wall_ms(&mut self, time_ns: u64) -> i64 {
        if time_ns >= self.next_wall_clock_ns {
            let now_ns = self.now();
            self.wall_offset_us = wall_clock_us() - (now_ns / 1000) as i64;
            self.next_wall_clock_ns = now_ns.max(time_ns) + WALL_CLOCK_INTERVAL_NS;
        }
        (self.wall_offset_us + (time_ns / 1000) as i64) / 1000
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn clock_counts_as_the_clocks_of_the_system_do() {
        let mut clock = Clock::start();
        let outer = Instant::now();
        let begin_ns = clock.now();
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(150));
        let inner_ns = inner.elapsed().as_nanos() as u64;
        let elapsed_ns = clock.now() - begin_ns;
        let outer_ns = outer.elapsed().as_nanos() as u64;
        // The counter's frequency is measured, so it may differ a little.
        let difference = inner_ns / 100;
        assert!(elapsed_ns + difference >= inner_ns, "{elapsed_ns} in at least {inner_ns} ns");
        assert!(elapsed_ns <= outer_ns + difference, "{elapsed_ns} in at most {outer_ns} ns");

        let before_ms = wall_clock_us() / 1000;
        let now = clock.now();
        let wall_ms = clock.wall_ms(now);
        let after_ms = wall_clock_us() / 1000;
        assert!((before_ms - 1..=after_ms + 1).contains(&wall_ms), "{wall_ms}, not {before_ms}");
    }
}
