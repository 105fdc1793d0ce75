//! What became of the records: counted as batches end, told at the end, and as JSON one by one.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use ottla::{BatchReport, Error, RecordStatus};

/// Reasons of failures that are told apart; further ones are counted together.
const MAX_REASONS: usize = 20;

/// Counts, shared with the delivery handler.
pub(crate) struct DeliveryStats {
    start: Instant,
    /// The calendar at the start, in milliseconds.
    start_ms: i64,
    inner: Mutex<DeliveryCounters>,
}

struct DeliveryCounters {
    acknowledged: u64,
    failed: u64,
    possibly_persisted: u64,
    bytes: u64,
    latency_us: Histogram<u64>,
    failure_reasons: BTreeMap<String, u64>,
    json: Option<BufWriter<Stdout>>,
}

impl DeliveryStats {
    pub(crate) fn new(json: bool) -> DeliveryStats {
        // 1 µs to an hour, three digits; the bounds are constants that the crate takes.
        let latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds");
        let start_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        DeliveryStats {
            start: Instant::now(),
            start_ms,
            inner: Mutex::new(DeliveryCounters {
                acknowledged: 0,
                failed: 0,
                possibly_persisted: 0,
                bytes: 0,
                latency_us,
                failure_reasons: BTreeMap::new(),
                json: json.then(|| BufWriter::new(io::stdout())),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryCounters> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, as a record's token: microseconds since the start. Its timestamp is the same moment.
    pub(crate) fn current_token(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub(crate) fn timestamp(&self, token: u64) -> i64 {
        self.start_ms + (token / 1000) as i64
    }

    pub(crate) fn add_bytes(&self, n: usize) {
        self.lock().bytes += n as u64;
    }

    /// The producer-wide handler.
    pub(crate) fn on_delivery(&self, r: &BatchReport<'_>) {
        let now = self.current_token();
        let mut inner = self.lock();
        for (i, token) in r.tokens.iter().enumerate() {
            let own = r.record_errors.iter().find(|o| o.0 as usize == i).map(|o| &o.1);
            let timestamp = r.log_append_time.unwrap_or_else(|| self.timestamp(*token));
            match (r.result, own) {
                (Ok(base), _) => {
                    inner.acknowledged += 1;
                    inner.latency_us.saturating_record(now.saturating_sub(*token).max(1));
                    inner.print_json(&serde_json::json!({
                        "topic": r.topic,
                        "partition": r.partition,
                        "offset": base.map(|b| b.saturating_add(i as i64)),
                        "timestamp": timestamp,
                    }));
                }
                (Err(e), own) => inner.record_failure(r.topic, Some(r.partition), own.unwrap_or(e)),
            }
        }
        // Once a batch: a reader of an endless run sees each as it ends.
        inner.flush();
    }

    /// A record that was not even accepted.
    pub(crate) fn record_rejected(&self, topic: &str, e: &Error) {
        self.lock().record_failure(topic, None, e);
    }

    /// A line that is no record.
    pub(crate) fn record_unreadable_line(&self, topic: &str, why: &str) {
        let mut inner = self.lock();
        inner.count_failure(why.to_owned());
        inner.print_json(&serde_json::json!({ "topic": topic, "error": why }));
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    pub(crate) fn is_all_acknowledged(&self) -> bool {
        self.lock().failed == 0
    }

    /// The summary, for a person.
    pub(crate) fn summary(&self, acks_zero: bool) -> String {
        let mut inner = self.lock();
        inner.flush();
        let seconds = self.start.elapsed().as_secs_f64().max(1e-6);
        let (records, mb) = (inner.acknowledged, inner.bytes as f64 / 1e6);
        let what = if acks_zero {
            "handed to the socket (acks=0: nothing more is known)"
        } else {
            "acknowledged"
        };
        let mut out = format!(
            "{records} records {what}, {} bytes in {seconds:.2} s: {:.0} records/s, {:.2} MB/s; \
             latency p50 {:.1} ms, p99 {:.1} ms; {} failed\n",
            inner.bytes,
            records as f64 / seconds,
            mb / seconds,
            inner.latency_us.value_at_quantile(0.5) as f64 / 1e3,
            inner.latency_us.value_at_quantile(0.99) as f64 / 1e3,
            inner.failed,
        );
        if inner.possibly_persisted > 0 {
            out += &format!(
                "{} of the failed may have been written all the same\n",
                inner.possibly_persisted
            );
        }
        for (reason, n) in &inner.failure_reasons {
            out += &format!("  {n} × {reason}\n");
        }
        out
    }
}

impl DeliveryCounters {
    fn count_failure(&mut self, reason: String) {
        self.failed += 1;
        let known =
            self.failure_reasons.contains_key(&reason) || self.failure_reasons.len() < MAX_REASONS;
        *self
            .failure_reasons
            .entry(if known { reason } else { "other reasons".into() })
            .or_default() += 1;
    }

    fn record_failure(&mut self, topic: &str, partition: Option<i32>, e: &Error) {
        if e.record_status() == RecordStatus::PossiblyPersisted {
            self.possibly_persisted += 1;
        }
        self.count_failure(e.to_string());
        self.print_json(&serde_json::json!({
            "topic": topic,
            "partition": partition,
            "error": e.to_string(),
            "possibly_written": e.record_status() == RecordStatus::PossiblyPersisted,
        }));
    }

    /// A reader that has gone away is no failure of ours: the rest is not printed.
    fn print_json(&mut self, object: &serde_json::Value) {
        if let Some(out) = &mut self.json
            && writeln!(out, "{object}").is_err()
        {
            self.json = None;
        }
    }

    fn flush(&mut self) {
        if let Some(out) = &mut self.json
            && out.flush().is_err()
        {
            self.json = None;
        }
    }
}
