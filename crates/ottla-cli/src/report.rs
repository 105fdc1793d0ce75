//! Counts the results of `ottla produce`, prints the summary and, with `--json`, each result.
//!
//! The producer's delivery handler calls [`DeliveryStats::on_delivery`] for each completed batch.
//! [`DeliveryStats::summary`] follows when the producer is closed.

use hdrhistogram::Histogram;
use ottla::{BatchReport, Error, RecordStatus};
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::TokenClock;
use crate::console::{Blocking, report};
use crate::{error_text, error_with_reference};

/// Failure reasons that are counted separately. Further reasons share one count.
const MAX_REASONS: usize = 20;

/// Results of the run, shared by the reading thread and the delivery handler.
pub(crate) struct DeliveryStats {
    clock: TokenClock,
    counters: Mutex<DeliveryCounters>,
}

struct DeliveryCounters {
    acknowledged: u64,
    failed: u64,
    possibly_persisted: u64,
    bytes: u64,
    latency_us: Histogram<u64>,
    failure_reasons: BTreeMap<String, u64>,
    /// The output of `--json`.
    json: Option<BufWriter<Blocking<Stdout>>>,
}

impl DeliveryStats {
    pub(crate) fn new(json: bool) -> DeliveryStats {
        // 1 µs to 1 hour with 3 digits. The crate accepts these bounds, so this cannot fail.
        let latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
        DeliveryStats {
            clock: TokenClock::start(),
            counters: Mutex::new(DeliveryCounters {
                acknowledged: 0,
                failed: 0,
                possibly_persisted: 0,
                bytes: 0,
                latency_us,
                failure_reasons: BTreeMap::new(),
                json: json.then(|| BufWriter::new(Blocking(io::stdout()))),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryCounters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clock(&self) -> &TokenClock {
        &self.clock
    }

    pub(crate) fn add_bytes(&self, n: usize) {
        self.lock().bytes += n as u64;
    }

    /// Counts the records of a completed batch. This is the producer's delivery handler.
    pub(crate) fn on_delivery(&self, r: &BatchReport<'_>) {
        let now = self.clock.now_us();
        let mut counters = self.lock();
        for (i, token) in r.tokens.iter().enumerate() {
            let record_error =
                r.record_errors.iter().find(|e| e.index as usize == i).map(|e| &e.error);
            let timestamp = r.log_append_time.unwrap_or_else(|| self.clock.timestamp(*token));
            match r.result {
                Ok(base_offset) => {
                    counters.acknowledged += 1;
                    let latency_us = now.saturating_sub(TokenClock::sent_at_us(*token));
                    counters.latency_us.saturating_record(latency_us.max(1));
                    counters.print_json(&serde_json::json!({
                        "topic": r.topic,
                        "partition": r.partition,
                        "offset": base_offset.map(|b| b.saturating_add(i as i64)),
                        "timestamp": timestamp,
                    }));
                }
                Err(e) => {
                    counters.record_failure(r.topic, Some(r.partition), record_error.unwrap_or(e));
                }
            }
        }
        // A flush for each batch: the output of an endless run must not wait in the buffer.
        counters.flush();
    }

    /// Counts a record that the producer did not accept.
    pub(crate) fn record_rejected(&self, topic: &str, e: &Error) {
        self.lock().record_failure(topic, None, e);
    }

    /// Counts a line that cannot be parsed as a record.
    pub(crate) fn record_unreadable_line(&self, topic: &str, reason: &str) {
        let mut counters = self.lock();
        counters.count_failure(reason.to_owned());
        counters.print_json(&serde_json::json!({ "topic": topic, "error": reason }));
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    pub(crate) fn is_all_acknowledged(&self) -> bool {
        self.lock().failed == 0
    }

    /// Returns the summary for standard error, one or more lines.
    pub(crate) fn summary(&self, acks_zero: bool) -> String {
        let mut counters = self.lock();
        counters.flush();
        let seconds = self.clock.now_us().max(1) as f64 / 1e6;
        let (records, mb) = (counters.acknowledged, counters.bytes as f64 / 1e6);
        let result = if acks_zero {
            "written to the socket (acks=0: brokers do not acknowledge)"
        } else {
            "acknowledged"
        };
        let mut out = format!(
            "{records} records {result}, {} bytes in {seconds:.2} s: {:.0} records/s, {:.2} MB/s; \
             latency p50 {:.1} ms, p99 {:.1} ms; {} failed\n",
            counters.bytes,
            records as f64 / seconds,
            mb / seconds,
            counters.latency_us.value_at_quantile(0.5) as f64 / 1e3,
            counters.latency_us.value_at_quantile(0.99) as f64 / 1e3,
            counters.failed,
        );
        if counters.possibly_persisted > 0 {
            out += &format!(
                "{} of the failed records were possibly persisted: check the topic before you send \
                 them again\n",
                counters.possibly_persisted
            );
        }
        for (reason, n) in &counters.failure_reasons {
            out += &format!("  {n} × {reason}\n");
        }
        out
    }
}

/// Removes the time that a record spent in each stage, so that equal reasons count as one.
///
/// It stands in parentheses behind the timeout: `delivery.timeout.ms (5000 ms: 5.001 s queued)`.
fn without_timings(mut text: String) -> String {
    let parenthesis = text.find("delivery.timeout.ms (");
    let timings = parenthesis.and_then(|start| {
        let from = start + text[start..].find(" ms: ")? + " ms".len();
        Some(from..from + text[from..].find(')')?)
    });
    if let Some(timings) = timings {
        text.replace_range(timings, "");
    }
    text
}

impl DeliveryCounters {
    fn count_failure(&mut self, reason: String) {
        self.failed += 1;
        let has_own_count =
            self.failure_reasons.contains_key(&reason) || self.failure_reasons.len() < MAX_REASONS;
        *self
            .failure_reasons
            .entry(if has_own_count { reason } else { "other reasons".into() })
            .or_default() += 1;
    }

    fn record_failure(&mut self, topic: &str, partition: Option<i32>, e: &Error) {
        let is_possibly_persisted = e.record_status() == RecordStatus::PossiblyPersisted;
        self.possibly_persisted += u64::from(is_possibly_persisted);
        let text = error_text(e);
        self.print_json(&serde_json::json!({
            "topic": topic,
            "partition": partition,
            "error": text,
            "possibly_persisted": is_possibly_persisted,
        }));
        self.count_failure(without_timings(error_with_reference(e)));
    }

    /// Prints one object.
    fn print_json(&mut self, object: &serde_json::Value) {
        if let Some(out) = &mut self.json {
            let written = writeln!(out, "{object}");
            self.handle_json_error(written);
        }
    }

    fn flush(&mut self) {
        if let Some(out) = &mut self.json {
            let flushed = out.flush();
            self.handle_json_error(flushed);
        }
    }

    /// Continues without output after an error. A reader that closes the pipe wants no more of it.
    fn handle_json_error(&mut self, written: io::Result<()>) {
        let Err(e) = written else { return };
        if e.kind() != io::ErrorKind::BrokenPipe {
            report!("cannot write results to standard output: {e}; sending continues without them");
        }
        if let Some(out) = self.json.take() {
            // Its drop would write the rest again.
            let _ = out.into_parts();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_removed_from_a_reason() {
        let text = |timings| {
            format!(
                "t-0: not acknowledged within delivery.timeout.ms (5000 ms{timings}): no (x: y)"
            )
        };
        assert_eq!(without_timings(text(": 0.001 s lingering, 5.0 s queued")), text(""));
        assert_eq!(without_timings(text("")), text(""));
        assert_eq!(without_timings("no metadata (60 ms: x)".into()), "no metadata (60 ms: x)");
    }
}
