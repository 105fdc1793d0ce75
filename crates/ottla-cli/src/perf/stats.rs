//! Latencies and rates, as kafka-producer-perf-test prints them and as one JSON line.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ottla::{BatchReport, Metric, MetricValue};

use crate::args::PerfArgs;
use crate::perf::usage::ResourceUsage;

/// Latencies that are kept for the percentiles.
const MAX_LATENCY_SAMPLES: u64 = 500_000;

/// One clock for timestamps and latencies: nanoseconds since the start.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: i64,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        let start_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Clock { start: Instant::now(), start_ms }
    }

    #[inline]
    pub(crate) fn now(self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The calendar's milliseconds at a moment of this clock.
    #[inline]
    pub(crate) fn wall_ms(self, at: u64) -> i64 {
        self.start_ms + (at / 1_000_000) as i64
    }
}

/// Counts, shared with the delivery handler.
pub(crate) struct PerfStats {
    clock: Clock,
    json: bool,
    progress_bar: ProgressBar,
    /// Bytes of a record's key.
    key_bytes: u64,
    /// Of all alike.
    fixed_value_bytes: u64,
    /// Values sent, and their bytes, where they differ.
    variable_values: (AtomicU64, AtomicU64),
    inner: Mutex<PerfCounters>,
}

struct PerfCounters {
    latency_histogram: Histogram<u64>,
    errors: u64,
    /// kafka-producer-perf-test's: since the start, since the warm-up, and in the current window.
    total: IntervalStats,
    steady_state: Option<IntervalStats>,
    window: IntervalStats,
    /// Records of the warm-up, and of everything.
    warmup_records: u64,
    num_records: u64,
    reporting_interval_ns: u64,
    /// The first window after the warm-up is still to be printed.
    steady_state_unannounced: bool,
    /// With `--json`: records that ended since the warm-up.
    completed: u64,
}

/// Some of the records.
struct IntervalStats {
    start_ns: u64,
    count: u64,
    bytes: f64,
    total_latency_ms: u64,
    max_latency_ms: u64,
    /// One latency in so many is kept.
    sampling: u64,
    latencies: Vec<u32>,
}

impl IntervalStats {
    fn new(start: u64, records: u64) -> IntervalStats {
        let sampling = (records / MAX_LATENCY_SAMPLES).max(1);
        IntervalStats {
            start_ns: start,
            count: 0,
            bytes: 0.0,
            total_latency_ms: 0,
            max_latency_ms: 0,
            sampling,
            latencies: Vec::new(),
        }
    }

    fn record(&mut self, ms: u64, bytes: f64) {
        if self.sampling > 0 && self.count.is_multiple_of(self.sampling) {
            self.latencies.push(ms as u32);
        }
        self.count += 1;
        self.bytes += bytes;
        self.total_latency_ms += ms;
        self.max_latency_ms = self.max_latency_ms.max(ms);
    }

    /// Records and megabytes a second, and the mean latency.
    fn rates(&self, now: u64) -> (f64, f64, f64) {
        let seconds = (now.saturating_sub(self.start_ns) as f64 / 1e9).max(1e-9);
        let mean = self.total_latency_ms as f64 / self.count.max(1) as f64;
        (self.count as f64 / seconds, self.bytes / seconds / 1_048_576.0, mean)
    }

    fn print_window(&self, now: u64) {
        let (records, mb, mean) = self.rates(now);
        let (count, max) = (self.count, self.max_latency_ms as f64);
        println!(
            "{count} records sent, {records:.1} records/sec ({mb:.2} MB/sec), {mean:.1} ms avg latency, {max:.1} ms \
             max latency."
        );
    }

    fn print_total(&mut self, now: u64, what: &str) {
        let (records, mb, mean) = self.rates(now);
        self.latencies.sort_unstable();
        let at = |p: f64| {
            let n = self.latencies.len();
            self.latencies
                .get(((p * n as f64) as usize).min(n.saturating_sub(1)))
                .copied()
                .unwrap_or(0)
        };
        let (p50, p95, p99, p999) = (at(0.5), at(0.95), at(0.99), at(0.999));
        let (count, max) = (self.count, self.max_latency_ms as f64);
        println!(
            "{count} {what}records sent, {records:.6} records/sec ({mb:.2} MB/sec), {mean:.2} ms avg latency, \
             {max:.2} ms max latency, {p50} ms 50th, {p95} ms 95th, {p99} ms 99th, {p999} ms 99.9th."
        );
    }
}

impl PerfStats {
    pub(crate) fn new(
        args: &PerfArgs,
        clock: Clock,
        (bytes_a_record, key_bytes): (u64, u64),
    ) -> PerfStats {
        // 1 µs to 10 minutes, three digits; the bounds are constants that the crate takes.
        let hist = Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds");
        let bar = if args.json || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            let style = ProgressStyle::with_template("{wide_bar} {percent}% {eta}");
            let bar =
                ProgressBar::with_draw_target(Some(args.num_records), ProgressDrawTarget::stderr());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        };
        if args.warmup_records > 0 && !args.json {
            println!(
                "Warmup first {} records. Steady state results will print after the complete test summary.",
                args.warmup_records
            );
        }
        let now = clock.now();
        let mut window = IntervalStats::new(now, 0);
        window.sampling = 0;
        let inner = PerfCounters {
            latency_histogram: hist,
            errors: 0,
            total: IntervalStats::new(now, args.num_records),
            steady_state: None,
            window,
            warmup_records: args.warmup_records,
            num_records: args.num_records,
            reporting_interval_ns: args.reporting_interval.saturating_mul(1_000_000),
            steady_state_unannounced: false,
            completed: 0,
        };
        PerfStats {
            clock,
            json: args.json,
            progress_bar: bar,
            key_bytes,
            fixed_value_bytes: bytes_a_record,
            variable_values: Default::default(),
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    fn lock(&self) -> MutexGuard<'_, PerfCounters> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer-wide handler.
    pub(crate) fn on_delivery(&self, r: &BatchReport<'_>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.completed += r.tokens.len() as u64;
        if r.result.is_err() {
            inner.errors += r.tokens.len() as u64;
            if let (Err(e), false) = (r.result, self.json) {
                self.progress_bar.suspend(|| eprintln!("{} records failed: {e}", r.tokens.len()));
            }
            return;
        }
        if self.json {
            for token in r.tokens {
                inner.latency_histogram.saturating_record(now.saturating_sub(*token) / 1000);
            }
            return;
        }
        let bytes = self.mean_value_bytes();
        for token in r.tokens {
            inner.record(now, *token, bytes);
        }
        self.progress_bar.set_position(inner.total.count);
        if now - inner.window.start_ns >= inner.reporting_interval_ns {
            self.progress_bar.suspend(|| {
                if std::mem::take(&mut inner.steady_state_unannounced) {
                    println!("In steady state.");
                }
                inner.window.print_window(now);
                let _ = std::io::stdout().flush();
            });
            inner.window = IntervalStats { sampling: 0, ..IntervalStats::new(now, 0) };
        }
    }

    /// The warm-up is over.
    pub(crate) fn reset(&self) {
        let mut inner = self.lock();
        inner.latency_histogram.reset();
        inner.completed = 0;
    }

    /// A value of so many bytes was sent, where they differ.
    pub(crate) fn add_sent_value(&self, bytes: usize) {
        self.variable_values.0.fetch_add(1, Ordering::Relaxed);
        self.variable_values.1.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of a value; where they differ, of those sent so far on average.
    fn mean_value_bytes(&self) -> f64 {
        match self.variable_values.0.load(Ordering::Relaxed) {
            0 => self.fixed_value_bytes as f64,
            n => self.variable_values.1.load(Ordering::Relaxed) as f64 / n as f64,
        }
    }

    pub(crate) fn errors(&self) -> u64 {
        self.lock().errors
    }

    /// kafka-producer-perf-test's last lines.
    pub(crate) fn print_total(&self) {
        self.progress_bar.finish_and_clear();
        let (now, mut inner) = (self.clock.now(), self.lock());
        inner.total.print_total(now, "");
        if let Some(steady) = &mut inner.steady_state {
            steady.print_total(now, "steady state ");
        }
    }

    /// The line that stands beside other clients'.
    pub(crate) fn to_json(&self, used: &ResourceUsage) -> serde_json::Value {
        let inner = self.lock();
        let records = inner.completed;
        let bytes = (records as f64 * (self.mean_value_bytes() + self.key_bytes as f64)) as u64;
        let ms = |q: f64| inner.latency_histogram.value_at_quantile(q) as f64 / 1e3;
        serde_json::json!({
            "client": "ottla",
            "version": env!("CARGO_PKG_VERSION"),
            "records": records,
            "bytes": bytes,
            "wall_s": used.wall_s,
            "rec_per_s": records as f64 / used.wall_s,
            "mb_per_s": bytes as f64 / 1e6 / used.wall_s,
            "user_s": used.user_s,
            "sys_s": used.sys_s,
            "cpu_us_per_rec": (used.user_s + used.sys_s) * 1e6 / records.max(1) as f64,
            "p50_ms": ms(0.5),
            "p99_ms": ms(0.99),
            "p999_ms": ms(0.999),
            "max_ms": inner.latency_histogram.max() as f64 / 1e3,
            "max_rss_kb": used.max_rss_kb,
            "errors": inner.errors,
        })
    }
}

impl PerfCounters {
    fn record(&mut self, now: u64, sent: u64, bytes: f64) {
        let ms = now.saturating_sub(sent) / 1_000_000;
        self.total.record(ms, bytes);
        if self.warmup_records > 0 && self.total.count > self.warmup_records {
            let (records, start) = (self.num_records - self.warmup_records, sent);
            if self.steady_state.is_none() {
                self.steady_state_unannounced = true;
                self.window = IntervalStats { sampling: 0, ..IntervalStats::new(now, 0) };
            }
            self.steady_state
                .get_or_insert_with(|| IntervalStats::new(start, records))
                .record(ms, bytes);
        }
        self.window.record(ms, bytes);
    }
}

/// All metrics, as kafka-producer-perf-test prints them.
pub(crate) fn print_metrics(metrics: &[Metric]) {
    let mut rows: Vec<(String, &MetricValue)> = metrics
        .iter()
        .map(|m| {
            let tags =
                m.tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ");
            (format!("{}:{}:{{{tags}}}", m.group, m.name), &m.value)
        })
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0).max(11);
    println!("\n{:<width$}   Value", "Metric Name");
    rows.iter().for_each(|(name, value)| println!("{name:<width$} : {value}"));
}
