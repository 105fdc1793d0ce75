//! One measured thing over time: a total since the start, and rate, mean and maximum over the last sample
//! windows, reckoned as Kafka's own sensors do (`metrics.num.samples` windows of `metrics.sample.window.ms`).

use std::time::Duration;

use crate::time::Tick;

/// The windows all series have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetricConfig {
    pub(crate) samples: usize,
    pub(crate) window: Duration,
}

/// A series.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    pub(super) total: f64,
    windows: Vec<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    start: Tick,
    count: f64,
    sum: f64,
    max: f64,
}

impl Series {
    pub(super) fn record(&mut self, value: f64, now: Tick, span: MetricConfig) {
        self.total += value;
        let over = |w: &Window| now.since(w.start) >= span.window;
        if self.windows.last().is_none_or(over) {
            if self.windows.len() >= span.samples.max(1) {
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

    /// Windows that are not too old to count.
    fn current_windows(&self, now: Tick, span: MetricConfig) -> impl Iterator<Item = &Window> {
        let age = span.window.saturating_mul(span.samples.max(1) as u32);
        self.windows.iter().filter(move |w| now.since(w.start) < age)
    }

    /// Per second. A start of less than all windows but one counts as that long, so that the first records
    /// make no peak.
    pub(super) fn rate(&self, now: Tick, span: MetricConfig) -> f64 {
        let Some(first) = self.current_windows(now, span).next() else { return 0.0 };
        let window = span.window.as_secs_f64().max(1e-3);
        let mut elapsed = now.since(first.start).as_secs_f64();
        let (whole, least) = ((elapsed / window).floor(), span.samples.max(1) as f64 - 1.0);
        if whole < least {
            elapsed += (least - whole) * window;
        }
        let sum: f64 = self.current_windows(now, span).map(|w| w.sum).sum();
        sum / elapsed.max(1e-3)
    }

    /// The mean; NaN of nothing, as Kafka has it.
    pub(super) fn mean(&self, now: Tick, span: MetricConfig) -> f64 {
        let (sum, count) =
            self.current_windows(now, span).fold((0.0, 0.0), |a, w| (a.0 + w.sum, a.1 + w.count));
        if count == 0.0 { f64::NAN } else { sum / count }
    }

    /// The maximum; NaN of nothing.
    pub(super) fn max(&self, now: Tick, span: MetricConfig) -> f64 {
        self.current_windows(now, span).map(|w| w.max).fold(f64::NAN, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: MetricConfig = MetricConfig { samples: 2, window: Duration::from_secs(30) };

    fn at_secs(seconds: u64) -> Tick {
        Tick(1_000_000_000 * (seconds + 1))
    }

    #[test]
    fn windows_pass_and_totals_stay() {
        let mut s = Series::default();
        assert!(s.mean(at_secs(0), CONFIG).is_nan() && s.max(at_secs(0), CONFIG).is_nan());
        assert_eq!(s.rate(at_secs(0), CONFIG), 0.0);
        s.record(30.0, at_secs(0), CONFIG);
        s.record(60.0, at_secs(0), CONFIG);
        // 90 in no time count as 90 in a window and no time.
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
