//! What became of the records: counted as batches end, told at the end, and as JSON one by one.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use ottla::{BatchReport, Error, RecordStatus};

/// Reasons of failures that are told apart; further ones are counted together.
const REASONS_MAX: usize = 20;

/// Counts, shared with the delivery handler.
pub(crate) struct Stats {
    start: Instant,
    /// The calendar at the start, in milliseconds.
    start_ms: i64,
    inner: Mutex<Inner>,
}

struct Inner {
    acknowledged: u64,
    failed: u64,
    possibly: u64,
    bytes: u64,
    latency_us: Histogram<u64>,
    reasons: BTreeMap<String, u64>,
    json: Option<BufWriter<Stdout>>,
}

impl Stats {
    pub(crate) fn new(json: bool) -> Stats {
        // 1 µs to an hour, three digits; the bounds are constants that the crate takes.
        let latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds");
        let start_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Stats {
            start: Instant::now(),
            start_ms,
            inner: Mutex::new(Inner {
                acknowledged: 0,
                failed: 0,
                possibly: 0,
                bytes: 0,
                latency_us,
                reasons: BTreeMap::new(),
                json: json.then(|| BufWriter::new(io::stdout())),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, as a record's token: microseconds since the start. Its timestamp is the same moment.
    pub(crate) fn token(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub(crate) fn timestamp(&self, token: u64) -> i64 {
        self.start_ms + (token / 1000) as i64
    }

    pub(crate) fn add_bytes(&self, n: usize) {
        self.lock().bytes += n as u64;
    }

    /// The producer-wide handler.
    pub(crate) fn hear(&self, r: &BatchReport<'_>) {
        let now = self.token();
        let mut inner = self.lock();
        for (i, token) in r.tokens.iter().enumerate() {
            let own = r.record_errors.iter().find(|o| o.0 as usize == i).map(|o| &o.1);
            let timestamp = r.log_append_time.unwrap_or_else(|| self.timestamp(*token));
            match (r.result, own) {
                (Ok(base), _) => {
                    inner.acknowledged += 1;
                    inner.latency_us.saturating_record(now.saturating_sub(*token).max(1));
                    inner.print(&serde_json::json!({
                        "topic": r.topic,
                        "partition": r.partition,
                        "offset": base.map(|b| b.saturating_add(i as i64)),
                        "timestamp": timestamp,
                    }));
                }
                (Err(e), own) => inner.fail(r.topic, Some(r.partition), own.unwrap_or(e)),
            }
        }
        // Once a batch: a reader of an endless run sees each as it ends.
        inner.flush();
    }

    /// A record that was not even accepted.
    pub(crate) fn refused(&self, topic: &str, e: &Error) {
        self.lock().fail(topic, None, e);
    }

    /// A line that is no record.
    pub(crate) fn unreadable(&self, topic: &str, why: &str) {
        let mut inner = self.lock();
        inner.count(why.to_owned());
        inner.print(&serde_json::json!({ "topic": topic, "error": why }));
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    pub(crate) fn all_acknowledged(&self) -> bool {
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
        if inner.possibly > 0 {
            out +=
                &format!("{} of the failed may have been written all the same\n", inner.possibly);
        }
        for (reason, n) in &inner.reasons {
            out += &format!("  {n} × {reason}\n");
        }
        out
    }
}

impl Inner {
    fn count(&mut self, reason: String) {
        self.failed += 1;
        let known = self.reasons.contains_key(&reason) || self.reasons.len() < REASONS_MAX;
        *self.reasons.entry(if known { reason } else { "other reasons".into() }).or_default() += 1;
    }

    fn fail(&mut self, topic: &str, partition: Option<i32>, e: &Error) {
        if e.record_status() == RecordStatus::PossiblyPersisted {
            self.possibly += 1;
        }
        self.count(e.to_string());
        self.print(&serde_json::json!({
            "topic": topic,
            "partition": partition,
            "error": e.to_string(),
            "possibly_written": e.record_status() == RecordStatus::PossiblyPersisted,
        }));
    }

    /// A reader that has gone away is no failure of ours: the rest is not printed.
    fn print(&mut self, object: &serde_json::Value) {
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
