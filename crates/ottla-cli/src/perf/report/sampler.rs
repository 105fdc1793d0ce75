//! Takes a sample of a run again and again, in a thread of its own.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ottla::{Producer, Totals};

use super::run_data::{Gauges, Sample, counts, percentiles};
use crate::perf::usage::{cpu_time_s, rss_kb};
use crate::run_results::{ResultsSource, RunResults, histogram_since, producer_metric};
use crate::{CliError, start_thread};

/// The length of a sample at first.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);
/// With this number of samples, two become one, and each later one is twice as long.
const MAX_SAMPLES: usize = 480;

/// A running thread that takes samples.
pub(crate) struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

/// A sample with all its latencies, so that two can become one.
struct Interval {
    sample: Sample,
    latencies_us: Vec<(u64, u64)>,
}

/// What the run and the producer said at one moment.
struct Reading {
    at: Instant,
    results: RunResults,
    totals: Totals,
    cpu_s: f64,
}

impl Sampler {
    pub(crate) fn start(producer: Producer, results: ResultsSource) -> Result<Sampler, CliError> {
        let (stop, stopped) = mpsc::channel();
        let thread = start_thread("sampler", move || take_samples(&producer, &results, &stopped))?;
        Ok(Sampler { stop, thread })
    }

    /// Ends the thread and returns the samples, the last one up to now.
    pub(crate) fn finish(self) -> Vec<Sample> {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

fn take_samples(
    producer: &Producer,
    results: &ResultsSource,
    stopped: &Receiver<()>,
) -> Vec<Sample> {
    let read = || Reading {
        at: Instant::now(),
        results: results(),
        totals: producer.totals(),
        cpu_s: cpu_time_s(),
    };
    let (mut intervals, mut length) = (Vec::new(), FIRST_INTERVAL);
    let mut before = read();
    let start = before.at;
    loop {
        let timeout = (before.at + length).saturating_duration_since(Instant::now());
        let is_end = stopped.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout);
        let now = read();
        let next = interval(start, &before, &now, gauges(producer));
        if is_end {
            add_last(&mut intervals, next, length);
            return intervals.into_iter().map(|i| i.sample).collect();
        }
        intervals.push(next);
        before = now;
        if intervals.len() == MAX_SAMPLES {
            intervals = merge_pairs(intervals);
            length *= 2;
        }
    }
}

fn gauges(producer: &Producer) -> Gauges {
    let metrics = producer.metrics();
    let metric = |name| producer_metric(&metrics, name);
    let total = metric("buffer-total-bytes").unwrap_or_default();
    let available = metric("buffer-available-bytes").unwrap_or_default();
    Gauges {
        requests_in_flight: metric("requests-in-flight"),
        compression_ratio: metric("compression-rate-avg"),
        throttle_ms: metric("produce-throttle-time-max"),
        rss_kb: rss_kb(),
        memory_used: (total - available).max(0.0) as u64,
    }
}

fn interval(start: Instant, before: &Reading, now: &Reading, gauges: Gauges) -> Interval {
    let since = |now: u64, before: u64| now.saturating_sub(before);
    let latency = histogram_since(&now.results.latency_us, &before.results.latency_us);
    let sample = Sample {
        start_s: (before.at - start).as_secs_f64(),
        end_s: (now.at - start).as_secs_f64(),
        records: since(now.results.acknowledged, before.results.acknowledged),
        bytes: since(now.results.bytes, before.results.bytes),
        failed: since(now.results.failed, before.results.failed),
        latency_us: percentiles(&latency),
        batches: since(now.totals.batch_total, before.totals.batch_total),
        batch_bytes: since(now.totals.byte_total, before.totals.byte_total),
        records_retried: since(now.totals.record_retry_total, before.totals.record_retry_total),
        cpu_s: now.cpu_s - before.cpu_s,
        gauges,
    };
    Interval { sample, latencies_us: counts(&latency) }
}

/// Adds the rest of the run. A short rest becomes part of the interval before it: the rates of some
/// milliseconds say nothing, and would end each chart with a peak or a gap.
fn add_last(intervals: &mut Vec<Interval>, rest: Interval, length: Duration) {
    let is_short = rest.sample.end_s - rest.sample.start_s < length.as_secs_f64() / 2.0;
    match intervals.last_mut() {
        Some(last) if is_short => last.append(rest),
        _ => intervals.push(rest),
    }
}

/// Makes one interval of each two.
fn merge_pairs(intervals: Vec<Interval>) -> Vec<Interval> {
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len().div_ceil(2));
    for (i, interval) in intervals.into_iter().enumerate() {
        match merged.last_mut() {
            Some(last) if i % 2 == 1 => last.append(interval),
            _ => merged.push(interval),
        }
    }
    merged
}

impl Interval {
    fn append(&mut self, next: Interval) {
        self.latencies_us.extend(next.latencies_us);
        let (sample, next) = (&mut self.sample, next.sample);
        // The bounds of the run's histogram. The crate accepts them.
        let mut latency =
            Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        for (us, n) in &self.latencies_us {
            latency.saturating_record_n(*us, *n);
        }
        *sample = Sample {
            start_s: sample.start_s,
            end_s: next.end_s,
            records: sample.records + next.records,
            bytes: sample.bytes + next.bytes,
            failed: sample.failed + next.failed,
            latency_us: percentiles(&latency),
            batches: sample.batches + next.batches,
            batch_bytes: sample.batch_bytes + next.batch_bytes,
            records_retried: sample.records_retried + next.records_retried,
            cpu_s: sample.cpu_s + next.cpu_s,
            gauges: next.gauges,
        };
        self.latencies_us = counts(&latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, latencies_us: &[u64]) -> Reading {
        let mut latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        latencies_us.iter().for_each(|us| latency_us.record(*us).unwrap());
        let acknowledged = latencies_us.len() as u64;
        let (bytes, possibly_persisted) = (acknowledged * 10, None);
        let results = RunResults { acknowledged, failed: 1, possibly_persisted, bytes, latency_us };
        Reading { at, results, totals: Totals::default(), cpu_s: acknowledged as f64 }
    }

    #[test]
    fn merged_interval_has_the_percentiles_of_all_its_records() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let latencies: Vec<u64> = (1..=1000).map(|i| i * 13 % 997 + 1).collect();
        let readings =
            [reading(at(0), &[]), reading(at(1), &latencies[..300]), reading(at(3), &latencies)];
        let gauges = Gauges { rss_kb: Some(7), ..Gauges::default() };
        let part = |i: usize| interval(start, &readings[i], &readings[i + 1], gauges);
        let merged = merge_pairs(vec![part(0), part(1)]);
        let whole = interval(start, &readings[0], &readings[2], gauges);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].sample, whole.sample);
        assert_eq!(
            (whole.sample.records, whole.sample.bytes, whole.sample.cpu_s),
            (1000, 10_000, 1000.0)
        );
        // The last seconds of the run are a sample by themselves unless they are few.
        let lengths = |length| {
            let mut intervals = vec![part(0)];
            add_last(&mut intervals, part(1), Duration::from_secs(length));
            intervals.iter().map(|i| i.sample.end_s).collect::<Vec<_>>()
        };
        assert_eq!((lengths(4), lengths(5)), (vec![1.0, 3.0], vec![3.0]));
        // An odd one stays as it is.
        let merged = merge_pairs(vec![part(0), part(1), part(0)]);
        assert_eq!(merged[1].sample, part(0).sample);
    }
}
