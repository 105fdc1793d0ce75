//! Counts the results of `ottla perf` and prints them: the lines of kafka-producer-perf-test, or
//! one JSON object.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ottla::{BatchReport, Metric, MetricValue};

use crate::args::PerfArgs;
use crate::console::{self, report};
use crate::error_with_reference;
use crate::perf::clock::Clock;
use crate::perf::load::RecordSizes;
use crate::perf::usage::ResourceUsage;
use crate::run_results::RunResults;

/// Number of latencies that are kept for the percentiles, as in kafka-producer-perf-test.
const MAX_LATENCY_SAMPLES: u64 = 500_000;

/// Results of the run, shared by the sending threads and the delivery handler.
pub(crate) struct PerfStats {
    clock: Clock,
    json: bool,
    /// Latencies are counted in the histogram.
    keeps_histogram: bool,
    progress_bar: ProgressBar,
    has_progress_bar: bool,
    /// Records are still to be sent. A signal ends the run early, as well as an output that cannot
    /// be written.
    is_running: AtomicBool,
    /// `--sweep`: the output is a line for each rate.
    is_sweep: bool,
    /// The time of the current rate of a sweep has not ended.
    is_step_running: AtomicBool,
    output_error: Mutex<Option<io::Error>>,
    key_bytes: u64,
    /// Bytes of each value, if all have the same length.
    fixed_value_bytes: u64,
    /// Number of values sent, and their bytes, if they have different lengths.
    values_sent: AtomicU64,
    value_bytes_sent: AtomicU64,
    counters: Mutex<PerfCounters>,
}

struct PerfCounters {
    /// Latencies in microseconds, if the histogram is kept.
    latency_histogram: Histogram<u64>,
    /// Durations of the commits in microseconds.
    commit_histogram: Histogram<u64>,
    errors: u64,
    /// Intervals of kafka-producer-perf-test: since the start, since the end of the warm-up, and
    /// since the last line of progress.
    total: IntervalStats,
    steady_state: Option<IntervalStats>,
    window: IntervalStats,
    warmup_records: u64,
    /// All records of the run, including the warm-up.
    num_records: u64,
    reporting_interval_ns: u64,
    /// The warm-up has ended, and the line that says so is not printed yet.
    steady_state_unannounced: bool,
    /// Number of records that have completed; with `--json` since the warm-up, with
    /// `--sweep` since the start of the rate.
    completed: u64,
}

/// The acknowledged records of an interval.
struct IntervalStats {
    start_ns: u64,
    count: u64,
    bytes: f64,
    total_latency_ms: u64,
    max_latency_ms: u64,
    /// Every n-th latency is kept for the percentiles; 0 keeps none.
    sample_every: u64,
    latencies_ms: Vec<u32>,
}

struct Rates {
    records_per_second: f64,
    /// Megabytes of 1,048,576 bytes, as in kafka-producer-perf-test.
    mb_per_second: f64,
    mean_latency_ms: f64,
}

impl IntervalStats {
    /// An interval of about `records` records, with percentiles.
    fn new(start_ns: u64, records: u64) -> IntervalStats {
        let sample_every = (records / MAX_LATENCY_SAMPLES).max(1);
        IntervalStats { sample_every, ..IntervalStats::without_samples(start_ns) }
    }

    /// An interval without percentiles.
    fn without_samples(start_ns: u64) -> IntervalStats {
        IntervalStats {
            start_ns,
            count: 0,
            bytes: 0.0,
            total_latency_ms: 0,
            max_latency_ms: 0,
            sample_every: 0,
            latencies_ms: Vec::new(),
        }
    }

    fn record(&mut self, ms: u64, bytes: f64) {
        if self.sample_every > 0 && self.count.is_multiple_of(self.sample_every) {
            self.latencies_ms.push(ms as u32);
        }
        self.count += 1;
        self.bytes += bytes;
        self.total_latency_ms += ms;
        self.max_latency_ms = self.max_latency_ms.max(ms);
    }

    fn rates(&self, now: u64) -> Rates {
        let seconds = (now.saturating_sub(self.start_ns) as f64 / 1e9).max(1e-9);
        Rates {
            records_per_second: self.count as f64 / seconds,
            mb_per_second: self.bytes / seconds / 1_048_576.0,
            mean_latency_ms: self.total_latency_ms as f64 / self.count.max(1) as f64,
        }
    }

    fn window_line(&self, now: u64) -> String {
        let (rates, count, max) = (self.rates(now), self.count, self.max_latency_ms as f64);
        format!(
            "{count} records sent, {:.1} records/sec ({:.2} MB/sec), {:.1} ms avg latency, \
             {max:.1} ms max latency.",
            rates.records_per_second, rates.mb_per_second, rates.mean_latency_ms
        )
    }

    /// Returns the total line; `label` stands before "records sent".
    fn total_line(&mut self, now: u64, label: &str) -> String {
        let (rates, count, max) = (self.rates(now), self.count, self.max_latency_ms as f64);
        self.latencies_ms.sort_unstable();
        let percentile = |p: f64| {
            let n = self.latencies_ms.len();
            let i = ((p * n as f64) as usize).min(n.saturating_sub(1));
            self.latencies_ms.get(i).copied().unwrap_or(0)
        };
        format!(
            "{count} {label}records sent, {:.6} records/sec ({:.2} MB/sec), {:.2} ms avg latency, \
             {max:.2} ms max latency, {} ms 50th, {} ms 95th, {} ms 99th, {} ms 99.9th.",
            rates.records_per_second,
            rates.mb_per_second,
            rates.mean_latency_ms,
            percentile(0.5),
            percentile(0.95),
            percentile(0.99),
            percentile(0.999),
        )
    }
}

impl PerfStats {
    pub(crate) fn new(args: &PerfArgs, clock: Clock, sizes: &RecordSizes) -> PerfStats {
        let now = clock.now();
        let counters = PerfCounters {
            latency_histogram: new_histogram(),
            commit_histogram: new_histogram(),
            errors: 0,
            total: IntervalStats::new(now, args.num_records()),
            steady_state: None,
            window: IntervalStats::without_samples(now),
            warmup_records: args.warmup_records,
            num_records: args.num_records(),
            reporting_interval_ns: args.reporting_interval.saturating_mul(1_000_000),
            steady_state_unannounced: false,
            completed: 0,
        };
        let stats = PerfStats {
            clock,
            json: args.json,
            keeps_histogram: args.json
                || args.live
                || args.sweep.is_some()
                || !args.report.is_empty(),
            is_sweep: args.sweep.is_some(),
            is_step_running: AtomicBool::new(true),
            progress_bar: ProgressBar::with_draw_target(
                Some(args.num_records()),
                ProgressDrawTarget::hidden(),
            ),
            has_progress_bar: !args.json && args.sweep.is_none() && std::io::stderr().is_terminal(),
            is_running: AtomicBool::new(true),
            output_error: Mutex::new(None),
            key_bytes: sizes.key_bytes,
            fixed_value_bytes: sizes.value_bytes,
            values_sent: AtomicU64::new(0),
            value_bytes_sent: AtomicU64::new(0),
            counters: Mutex::new(counters),
        };
        if !args.live {
            stats.show_progress_bar();
        }
        if args.warmup_records > 0 && !args.json {
            stats.print(format_args!(
                "Warmup first {} records. Steady state results will print after the complete test \
                 summary.",
                args.warmup_records
            ));
        }
        stats
    }

    /// Prints a line. If that fails, the run ends early: its results are its output.
    pub(crate) fn print(&self, line: fmt::Arguments<'_>) {
        if let Err(e) = console::write_stdout(line) {
            self.output_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            self.stop();
        }
    }

    /// Returns the first error of [`print`](PerfStats::print).
    pub(crate) fn output_result(&self) -> io::Result<()> {
        let mut error = self.output_error.lock().unwrap_or_else(PoisonError::into_inner);
        error.take().map_or(Ok(()), Err)
    }

    /// Ends the run early.
    pub(crate) fn stop(&self) {
        self.is_running.store(false, Ordering::Relaxed);
    }

    /// Starts the measurement of a rate.
    pub(crate) fn begin_step(&self) {
        self.reset();
        self.is_step_running.store(true, Ordering::Relaxed);
    }

    /// Ends the sending at a rate.
    pub(crate) fn end_step(&self) {
        self.is_step_running.store(false, Ordering::Relaxed);
    }

    /// Returns whether the next record is to be sent.
    #[inline]
    pub(crate) fn is_sending(&self) -> bool {
        self.is_running() && self.is_step_running.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn lock(&self) -> MutexGuard<'_, PerfCounters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the records of a completed batch. This is the producer's delivery handler.
    pub(crate) fn on_delivery(&self, r: &BatchReport<'_>) {
        let now = self.clock.now();
        let mut counters = self.lock();
        let counters = &mut *counters;
        counters.completed += r.tokens.len() as u64;
        if let Err(e) = r.result {
            counters.errors += r.tokens.len() as u64;
            if !self.json {
                let (count, reason) = (r.tokens.len(), error_with_reference(e));
                report!("{count} records failed: {reason}");
            }
            return;
        }
        if self.keeps_histogram {
            let latency_us = |token: &u64| now.saturating_sub(*token) / 1000;
            // Many records of a batch were sent within the same microsecond.
            for records in r.tokens.chunk_by(|a, b| latency_us(a) == latency_us(b)) {
                let (latency, count) = (latency_us(&records[0]), records.len() as u64);
                counters.latency_histogram.saturating_record_n(latency, count);
            }
        }
        if self.json || self.is_sweep {
            return;
        }
        let bytes = self.mean_value_bytes();
        for token in r.tokens {
            counters.record(now, *token, bytes);
        }
        self.progress_bar.set_position(counters.total.count);
        if now - counters.window.start_ns >= counters.reporting_interval_ns {
            if std::mem::take(&mut counters.steady_state_unannounced) {
                self.print(format_args!("In steady state."));
            }
            self.print(format_args!("{}", counters.window.window_line(now)));
            counters.window = IntervalStats::without_samples(now);
        }
    }

    /// Removes the results so far: of the warm-up, or of an earlier rate.
    pub(crate) fn reset(&self) {
        let mut counters = self.lock();
        counters.latency_histogram.reset();
        counters.commit_histogram.reset();
        counters.completed = 0;
    }

    /// Counts a transaction that is committed.
    pub(crate) fn add_commit(&self, duration: Duration) {
        self.lock().commit_histogram.saturating_record(duration.as_micros() as u64);
    }

    /// Counts a value that is sent, if values have different lengths.
    pub(crate) fn add_sent_value(&self, bytes: usize) {
        self.values_sent.fetch_add(1, Ordering::Relaxed);
        self.value_bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the bytes of a value, or the mean of the values sent so far.
    fn mean_value_bytes(&self) -> f64 {
        match self.values_sent.load(Ordering::Relaxed) {
            0 => self.fixed_value_bytes as f64,
            n => self.value_bytes_sent.load(Ordering::Relaxed) as f64 / n as f64,
        }
    }

    /// Returns the results so far.
    pub(crate) fn results(&self) -> RunResults {
        let counters = self.lock();
        let acknowledged = counters.latency_histogram.len();
        let bytes = acknowledged as f64 * (self.mean_value_bytes() + self.key_bytes as f64);
        RunResults {
            acknowledged,
            failed: counters.errors,
            possibly_persisted: None,
            bytes: bytes as u64,
            latency_us: counters.latency_histogram.clone(),
        }
    }

    /// Shows the progress bar, if standard error is a terminal.
    pub(crate) fn show_progress_bar(&self) {
        if !self.has_progress_bar {
            return;
        }
        let style = ProgressStyle::with_template("{wide_bar} {percent}% {eta}");
        self.progress_bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.progress_bar.set_draw_target(ProgressDrawTarget::stderr());
        console::show_progress_bar(&self.progress_bar);
    }

    pub(crate) fn errors(&self) -> u64 {
        self.lock().errors
    }

    /// Prints the total lines of kafka-producer-perf-test.
    pub(crate) fn print_total(&self) {
        self.progress_bar.finish_and_clear();
        let (now, mut counters) = (self.clock.now(), self.lock());
        self.print(format_args!("{}", counters.total.total_line(now, "")));
        if let Some(steady_state) = &mut counters.steady_state {
            self.print(format_args!("{}", steady_state.total_line(now, "steady state ")));
        }
    }

    /// Returns the object of `--json`. Its keys are those of the other clients' benchmarks.
    pub(crate) fn to_json(&self, usage: &ResourceUsage) -> serde_json::Value {
        let counters = self.lock();
        let records = counters.completed;
        let bytes = (records as f64 * (self.mean_value_bytes() + self.key_bytes as f64)) as u64;
        let ms = |q: f64| counters.latency_histogram.value_at_quantile(q) as f64 / 1e3;
        let mut json = serde_json::json!({
            "client": "ottla",
            "version": env!("CARGO_PKG_VERSION"),
            "records": records,
            "bytes": bytes,
            "wall_s": usage.wall_s,
            "rec_per_s": records as f64 / usage.wall_s,
            "mb_per_s": bytes as f64 / 1e6 / usage.wall_s,
            "user_s": usage.user_s,
            "sys_s": usage.sys_s,
            "cpu_us_per_rec": (usage.user_s + usage.sys_s) * 1e6 / records.max(1) as f64,
            "p50_ms": ms(0.5),
            "p99_ms": ms(0.99),
            "p999_ms": ms(0.999),
            "max_ms": counters.latency_histogram.max() as f64 / 1e3,
            "max_rss_kb": usage.max_rss_kb,
            "errors": counters.errors,
        });
        let commits = &counters.commit_histogram;
        if !commits.is_empty() {
            json["transactions"] = commits.len().into();
            json["transactions_per_s"] = (commits.len() as f64 / usage.wall_s).into();
            json["commit_p50_ms"] = (commits.value_at_quantile(0.5) as f64 / 1e3).into();
            json["commit_p99_ms"] = (commits.value_at_quantile(0.99) as f64 / 1e3).into();
        }
        json
    }
}

/// Returns a histogram from 1 µs to 10 minutes with 3 digits.
fn new_histogram() -> Histogram<u64> {
    // The crate accepts these bounds, so this cannot fail.
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds")
}

impl PerfCounters {
    /// Counts one acknowledged record.
    fn record(&mut self, now: u64, sent_at: u64, bytes: f64) {
        let ms = now.saturating_sub(sent_at) / 1_000_000;
        self.total.record(ms, bytes);
        if self.warmup_records > 0 && self.total.count > self.warmup_records {
            if self.steady_state.is_none() {
                self.steady_state_unannounced = true;
                self.window = IntervalStats::without_samples(now);
            }
            // The steady state starts when its first record is sent.
            let records = self.num_records - self.warmup_records;
            self.steady_state
                .get_or_insert_with(|| IntervalStats::new(sent_at, records))
                .record(ms, bytes);
        }
        self.window.record(ms, bytes);
    }
}

/// Returns the table of all metrics in the format of kafka-producer-perf-test.
pub(crate) fn metrics_table(metrics: &[Metric]) -> String {
    let mut rows: Vec<(String, &MetricValue)> = metrics
        .iter()
        .map(|m| {
            let tags =
                m.tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ");
            (format!("{}:{}:{{{tags}}}", m.group, m.name), &m.value)
        })
        .collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    // The header "Metric Name" has 11 characters.
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(11);
    let mut table = format!("\n{:<width$}   Value", "Metric Name");
    rows.iter().for_each(|(name, value)| table += &format!("\n{name:<width$} : {value}"));
    table
}
