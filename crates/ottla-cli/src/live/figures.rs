//! The figures that the live view shows, and their collection from the producer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ottla::{Producer, Snapshot, Totals};

use crate::run_results::{ResultsSource, RunResults, histogram_since, producer_metric};

/// Seconds that the latency chart shows.
pub(super) const HISTORY_SECONDS: usize = 120;
/// How long the view waits for a snapshot. The producer's thread may be busy with a callback.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_millis(200);
/// A snapshot looks at every partition that has records. It may take this part of the time.
const SNAPSHOT_PAUSE_FACTOR: u32 = 20;

/// What the view shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) elapsed: Duration,
    pub(super) records: Records,
    /// The last full second; `None` before the first one has ended.
    pub(super) second: Option<Second>,
    /// The 99th percentile of each second in microseconds, the latest last.
    /// `None` without a record.
    pub(super) p99_us: VecDeque<Option<u64>>,
    pub(super) batches: Batches,
    pub(super) memory: Memory,
    pub(super) brokers: Vec<BrokerRow>,
    /// The oldest batch first.
    pub(super) partitions: Vec<PartitionRow>,
    /// The topics whose metadata callers wait for, with the reason.
    pub(super) awaited_topics: Vec<String>,
    /// Why brokers and partitions are not up to date.
    pub(super) stale: Option<String>,
}

/// Records since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Records {
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) possibly_persisted: Option<u64>,
    /// Accepted by the producer and without a result.
    pub(super) outstanding: u64,
    /// All that the run will send, if that is known.
    pub(super) expected: Option<u64>,
}

/// What happened within a second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Second {
    pub(super) records: f64,
    pub(super) bytes: f64,
    pub(super) requests: f64,
    /// The median, the 99th percentile and the maximum of the latency; `None` without a record.
    pub(super) latency_us: Option<[u64; 3]>,
}

/// Batches since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Batches {
    pub(super) mean_bytes: Option<f64>,
    pub(super) records_per_batch: Option<f64>,
    /// Compressed size divided by uncompressed size.
    pub(super) compression_ratio: Option<f64>,
    pub(super) records_retried: u64,
    pub(super) splits: u64,
    /// The longest throttle that a broker requested lately, in milliseconds.
    pub(super) throttle_ms: Option<f64>,
}

/// `buffer.memory`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) used: u64,
    pub(super) total: u64,
    pub(super) waiting_callers: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct BrokerRow {
    pub(super) id: Option<i32>,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) in_flight: usize,
    pub(super) round_trip: Option<Duration>,
    pub(super) throttle: Duration,
    pub(super) last_error: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct PartitionRow {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) leader: Option<i32>,
    pub(super) oldest: Duration,
    pub(super) queued_batches: usize,
    pub(super) in_flight_batches: usize,
    pub(super) bytes: usize,
    /// What the first batch waits for, with the last error.
    pub(super) reason: String,
}

/// What the producer and the run said at one moment.
struct Reading {
    at: Instant,
    results: RunResults,
    totals: Totals,
}

/// Collects the figures, in one thread.
pub(super) struct FigureCollector {
    producer: Producer,
    results: ResultsSource,
    started: Instant,
    /// The end of the last full second.
    second: Reading,
    next_snapshot: Instant,
    figures: Figures,
}

impl FigureCollector {
    pub(super) fn new(
        producer: Producer,
        results: ResultsSource,
        expected: Option<u64>,
    ) -> FigureCollector {
        let now = Instant::now();
        let second = Reading { at: now, results: results(), totals: producer.totals() };
        let mut figures = Figures::default();
        figures.records.expected = expected;
        FigureCollector { producer, results, started: now, second, next_snapshot: now, figures }
    }

    /// Returns the figures of this moment.
    pub(super) fn collect(&mut self) -> &Figures {
        let reading = Reading {
            at: Instant::now(),
            results: (self.results)(),
            totals: self.producer.totals(),
        };
        let (figures, results) = (&mut self.figures, &reading.results);
        figures.elapsed = reading.at - self.started;
        figures.records = Records {
            acknowledged: results.acknowledged,
            failed: results.failed,
            possibly_persisted: results.possibly_persisted,
            outstanding: self.producer.outstanding_records(),
            expected: figures.records.expected,
        };
        if reading.at - self.second.at >= Duration::from_secs(1) {
            self.end_second(reading);
        }
        if Instant::now() >= self.next_snapshot {
            self.update_snapshot();
        }
        &self.figures
    }

    fn end_second(&mut self, reading: Reading) {
        let second = second_between(&self.second, &reading);
        let figures = &mut self.figures;
        if figures.p99_us.len() == HISTORY_SECONDS {
            figures.p99_us.pop_front();
        }
        figures.p99_us.push_back(second.latency_us.map(|[_, p99, _]| p99));
        figures.second = Some(second);
        let (totals, metrics) = (&reading.totals, self.producer.metrics());
        let per_batch =
            |n: u64| (totals.batch_total > 0).then(|| n as f64 / totals.batch_total as f64);
        figures.batches = Batches {
            mean_bytes: per_batch(totals.byte_total),
            records_per_batch: per_batch(totals.record_send_total),
            compression_ratio: producer_metric(&metrics, "compression-rate-avg"),
            records_retried: totals.record_retry_total,
            splits: totals.batch_split_total,
            throttle_ms: producer_metric(&metrics, "produce-throttle-time-max"),
        };
        self.second = reading;
    }

    fn update_snapshot(&mut self) {
        let asked = Instant::now();
        let taken = self.producer.snapshot_timeout(SNAPSHOT_TIMEOUT);
        let end = Instant::now();
        let figures = &mut self.figures;
        figures.stale = match taken {
            Ok(Some(snapshot)) => {
                figures.set_snapshot(snapshot);
                None
            }
            Ok(None) => Some("the producer's thread is busy with callbacks".into()),
            Err(e) => Some(e.to_string()),
        };
        // At a timeout the thread was busy; that is no cost of the snapshot.
        let cost = if figures.stale.is_none() { end - asked } else { Duration::ZERO };
        self.next_snapshot = end + cost * SNAPSHOT_PAUSE_FACTOR;
    }
}

/// Returns what happened between two readings, for each second.
fn second_between(before: &Reading, now: &Reading) -> Second {
    let seconds = (now.at - before.at).as_secs_f64().max(1e-9);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let latency = histogram_since(&now.results.latency_us, &before.results.latency_us);
    Second {
        records: rate(now.results.acknowledged, before.results.acknowledged),
        bytes: rate(now.results.bytes, before.results.bytes),
        requests: rate(now.totals.request_total, before.totals.request_total),
        latency_us: latency_figures(&latency),
    }
}

fn latency_figures(latency: &Histogram<u64>) -> Option<[u64; 3]> {
    let quantile = |q| latency.value_at_quantile(q);
    (!latency.is_empty()).then(|| [quantile(0.5), quantile(0.99), latency.max()])
}

impl Figures {
    fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.memory = Memory {
            used: snapshot.memory.total_bytes.saturating_sub(snapshot.memory.available_bytes),
            total: snapshot.memory.total_bytes,
            waiting_callers: snapshot.memory.waiting_callers,
        };
        self.brokers = snapshot
            .brokers
            .into_iter()
            .map(|b| BrokerRow {
                id: b.id,
                address: format!("{}:{}", b.host, b.port),
                state: b.state.to_string(),
                in_flight: b.requests_in_flight,
                round_trip: b.last_round_trip,
                throttle: b.throttle_left,
                last_error: b.last_error,
            })
            .collect();
        self.partitions = snapshot
            .partitions
            .into_iter()
            .map(|p| PartitionRow {
                topic: p.topic,
                partition: p.partition,
                leader: p.leader,
                oldest: p.oldest_batch_age,
                queued_batches: p.queued_batches,
                in_flight_batches: p.in_flight_batches,
                bytes: p.queued_bytes + p.in_flight_bytes,
                reason: reason(&p.state.to_string(), p.attempts, p.last_error.as_deref()),
            })
            .collect();
        // A stable sort: partitions of the same age stay in their order.
        self.partitions.sort_by_key(|p| std::cmp::Reverse(p.oldest));
        self.awaited_topics = snapshot
            .awaited_topics
            .into_iter()
            .map(|t| {
                let reason = t.last_error.map(|e| format!(": {e}")).unwrap_or_default();
                format!("{} callers wait for metadata of {}{reason}", t.waiting_callers, t.topic)
            })
            .collect();
    }
}

/// Returns why a partition waits, with the error of its last attempt.
fn reason(state: &str, attempts: u32, last_error: Option<&str>) -> String {
    match last_error {
        Some(e) => format!("{state}; attempt {attempts} failed: {e}"),
        None => state.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, acknowledged: u64, latencies_us: &[u64]) -> Reading {
        let mut latency_us = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        latencies_us.iter().for_each(|us| latency_us.record(*us).unwrap());
        let (failed, possibly_persisted) = (0, None);
        let bytes = acknowledged * 100;
        let results = RunResults { acknowledged, failed, possibly_persisted, bytes, latency_us };
        Reading { at, results, totals: Totals::default() }
    }

    #[test]
    fn rates_count_what_was_added_and_divide_by_the_time() {
        let start = Instant::now();
        let before = reading(start, 1000, &[10]);
        let now = reading(start + Duration::from_secs(2), 3000, &[10, 500, 900]);
        let second = second_between(&before, &now);
        assert_eq!((second.records, second.bytes), (1000.0, 100_000.0));
        assert_eq!(second.latency_us, Some([500, 900, 900]));
        assert_eq!(second_between(&now, &now).latency_us, None);
    }

    #[test]
    fn reason_names_the_error_of_the_last_attempt() {
        assert_eq!(reason("lingering for 5 ms", 0, None), "lingering for 5 ms");
        let failed = reason("in backoff for 80 ms", 2, Some("NOT_LEADER_OR_FOLLOWER"));
        assert_eq!(failed, "in backoff for 80 ms; attempt 2 failed: NOT_LEADER_OR_FOLLOWER");
    }
}
