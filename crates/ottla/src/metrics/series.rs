//! A series of measurements: its total since the start, and its rate, mean and maximum over the
//! last windows.
//!
//! The numbers are computed as Kafka's `Rate`, `Avg` and `Max` do, over `metrics.num.samples`
//! windows of `metrics.sample.window.ms` each.

use crate::config::MetricConfig;
use crate::time::Tick;

/// The total and the last windows of one measured quantity.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    pub(super) total: f64,
    windows: Vec<Window>,
}

/// Kafka's `SampledStat.Sample`.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Tick,
    count: f64,
    sum: f64,
    max: f64,
}

impl Series {
    pub(super) fn record(&mut self, value: f64, now: Tick, config: MetricConfig) {
        self.total += value;
        let is_complete = |w: &Window| now.since(w.start) >= config.window;
        if self.windows.last().is_none_or(is_complete) {
            if self.windows.len() >= config.samples.max(1) {
                self.windows.remove(0);
            }
            self.windows.push(Window { start: now, count: 0.0, sum: 0.0, max: f64::MIN });
        }
        if let Some(w) = self.windows.last_mut() {
            w.count += 1.0;
            w.sum += value;
            w.max = w.max.max(value);
        }
    }

    /// Returns the windows that are recent enough to count.
    fn current_windows(&self, now: Tick, config: MetricConfig) -> impl Iterator<Item = &Window> {
        let age = config.window.saturating_mul(config.samples.max(1) as u32);
        self.windows.iter().filter(move |w| now.since(w.start) < age)
    }

    /// Returns the rate per second; 0 without a recent window.
    ///
    /// The elapsed time counts as at least all windows but one (Kafka's `Rate.windowSize`), so that
    /// the first measurements do not show as a peak.
    pub(super) fn rate(&self, now: Tick, config: MetricConfig) -> f64 {
        let Some(first) = self.current_windows(now, config).next() else { return 0.0 };
        let window = config.window.as_secs_f64().max(1e-3);
        let mut elapsed = now.since(first.start).as_secs_f64();
        let complete_windows = (elapsed / window).floor();
        let min_windows = config.samples.max(1) as f64 - 1.0;
        if complete_windows < min_windows {
            elapsed += (min_windows - complete_windows) * window;
        }
        let sum: f64 = self.current_windows(now, config).map(|w| w.sum).sum();
        sum / elapsed.max(1e-3)
    }

    /// Returns the mean; NaN without a recent window, as Kafka's `Avg` does.
    pub(super) fn mean(&self, now: Tick, config: MetricConfig) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for w in self.current_windows(now, config) {
            sum += w.sum;
            count += w.count;
        }
        if count == 0.0 { f64::NAN } else { sum / count }
    }

    /// Returns the maximum; NaN without a recent window.
    pub(super) fn max(&self, now: Tick, config: MetricConfig) -> f64 {
        self.current_windows(now, config).map(|w| w.max).fold(f64::NAN, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: MetricConfig = MetricConfig { samples: 2, window: Duration::from_secs(30) };

    fn at_secs(seconds: u64) -> Tick {
        Tick(1_000_000_000 * (seconds + 1))
    }

    #[test]
    fn old_windows_no_longer_count_but_the_total_does() {
        let mut s = Series::default();
        assert!(s.mean(at_secs(0), CONFIG).is_nan() && s.max(at_secs(0), CONFIG).is_nan());
        assert_eq!(s.rate(at_secs(0), CONFIG), 0.0);
        s.record(30.0, at_secs(0), CONFIG);
        s.record(60.0, at_secs(0), CONFIG);
        // The elapsed time is 0 s, which counts as one window of 30 s.
        assert_eq!(s.rate(at_secs(0), CONFIG), 3.0);
        assert_eq!((s.mean(at_secs(5), CONFIG), s.max(at_secs(5), CONFIG)), (45.0, 60.0));
        s.record(10.0, at_secs(30), CONFIG);
        assert_eq!(s.rate(at_secs(40), CONFIG), 100.0 / 40.0);
        assert_eq!(s.max(at_secs(40), CONFIG), 60.0);
        s.record(20.0, at_secs(61), CONFIG);
        assert_eq!((s.mean(at_secs(61), CONFIG), s.max(at_secs(61), CONFIG)), (15.0, 20.0));
        assert!(s.mean(at_secs(200), CONFIG).is_nan());
        assert_eq!(s.total, 120.0);
    }
}
