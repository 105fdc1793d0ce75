//! Counts the results of `ottla produce`, prints the summary and, with `--json`, each result.
//!
//! The producer's delivery handler calls [`DeliveryStats::on_delivery`] for each completed batch.
//! [`DeliveryStats::summary`] follows when the producer is closed.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use ottla::{BatchReport, Error, RecordStatus};

use super::pending_records::{PendingRecord, PendingRecords, Place};
use super::record_json::{self, push_bytes, push_text, push_value};
use super::rejected_file::{RejectedFile, Unsent};
use super::{OnError, bounded_reason};
use crate::clock::{TokenClock, wall_clock_us};
use crate::console::{Blocking, report};
use crate::input::InputRecord;
use crate::run_results::RunResults;
use crate::{error_text, with_reference};

/// Failure reasons that are counted separately. Further reasons share one count.
const MAX_REASONS: usize = 20;

/// Results of the run, shared by the reading thread and the delivery handler.
pub(crate) struct DeliveryStats {
    clock: TokenClock,
    /// Bytes of the input whose records the producer has accepted.
    bytes: AtomicU64,
    /// Whether each record is kept until it has its result. Its token then finds it; otherwise the
    /// token is that of the clock.
    keeps_records: bool,
    keeps_contents: bool,
    stops_at_failure: bool,
    counters: Mutex<DeliveryCounters>,
    /// Signalled when pending records have got their results.
    room: Condvar,
}

struct DeliveryCounters {
    acknowledged: u64,
    failed: u64,
    possibly_persisted: u64,
    latency_us: Histogram<u64>,
    failure_reasons: BTreeMap<String, u64>,
    pending: PendingRecords,
    /// The place of the last record, if records are kept.
    last_read: Place,
    /// The output of `--json`.
    json: Option<BufWriter<Blocking<Stdout>>>,
    /// The file of `--on-error FILE`.
    rejected: Option<RejectedFile>,
    /// Why the reading must stop: a record failed with `--on-error stop`, or could not be written.
    stop_reason: Option<String>,
}

/// How far the input was acknowledged and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadProgress {
    /// The last record before which every record is acknowledged, or rejected by the user's choice.
    pub(super) completed: Option<Place>,
    token: u64,
    pub(super) last_read: Place,
    /// No record was read beyond `completed`.
    pub(super) is_all_completed: bool,
}

/// What a record is sent with.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendTicket {
    pub(super) token: u64,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
}

impl DeliveryStats {
    pub(super) fn new(
        json: bool,
        on_error: OnError,
        rejected: Option<RejectedFile>,
        has_checkpoint: bool,
    ) -> DeliveryStats {
        // 1 µs to 1 hour with 3 digits. The crate accepts these bounds, so this cannot fail.
        let latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
        let mut pending = PendingRecords::default();
        if has_checkpoint {
            pending.set_saved(0);
        }
        DeliveryStats {
            clock: TokenClock::start(),
            bytes: AtomicU64::new(0),
            keeps_records: json || rejected.is_some() || has_checkpoint,
            keeps_contents: json || rejected.is_some(),
            stops_at_failure: on_error == OnError::Stop,
            counters: Mutex::new(DeliveryCounters {
                acknowledged: 0,
                failed: 0,
                possibly_persisted: 0,
                latency_us,
                failure_reasons: BTreeMap::new(),
                pending,
                last_read: Place::default(),
                json: json.then(|| BufWriter::new(Blocking(io::stdout()))),
                rejected,
                stop_reason: None,
            }),
            room: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryCounters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_micros(self.clock.now_us())
    }

    /// Waits until another record may be sent, if records are kept.
    pub(super) fn wait_for_room(&self) {
        if self.keeps_records {
            let counters = self.lock();
            let result = self.room.wait_while(counters, |c| !c.pending.has_room());
            drop(result.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Returns the token and the timestamp of a record that is sent now.
    pub(super) fn begin_send(&self, record: &InputRecord<'_>, place: Place) -> SendTicket {
        if !self.keeps_records {
            let token = self.clock.current_token();
            let timestamp = record.timestamp.unwrap_or_else(|| self.clock.timestamp(token));
            return SendTicket { token, timestamp };
        }
        let content =
            if self.keeps_contents { record_json::content(record) } else { Box::default() };
        let sent_at_us = self.clock.now_us();
        let timestamp = record.timestamp.unwrap_or_else(|| wall_clock_us().div_euclid(1000));
        let partition = record.partition;
        let pending = PendingRecord { place, partition, sent_at_us, timestamp, content };
        let mut counters = self.lock();
        counters.last_read = place;
        SendTicket { token: counters.pending.push(pending), timestamp }
    }

    /// Returns how far the input was acknowledged and read.
    pub(super) fn load_progress(&self) -> LoadProgress {
        let counters = self.lock();
        let (completed, token) = counters.pending.completed();
        LoadProgress {
            completed,
            token,
            last_read: counters.last_read,
            is_all_completed: counters.pending.is_all_completed(),
        }
    }

    /// Records that an input was read to its end.
    pub(super) fn input_ended(&self, place: Place) {
        if self.keeps_records {
            self.lock().add_completed(place, false);
        }
    }

    /// Returns the ends of the inputs that were completed since the last call.
    pub(super) fn take_ended_inputs(&self) -> Vec<Place> {
        self.lock().pending.take_ended_inputs()
    }

    /// Records that this progress is on disk. More records may be sent.
    pub(super) fn progress_saved(&self, progress: &LoadProgress) {
        self.lock().pending.set_saved(progress.token);
        self.room.notify_one();
    }

    /// Returns whether the sending waits for a new checkpoint, or will soon.
    pub(super) fn needs_save(&self) -> bool {
        self.lock().pending.needs_save()
    }

    /// Counts the bytes of a record that the producer has accepted.
    pub(super) fn add_bytes(&self, n: usize) {
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Counts the records of a completed batch. This is the producer's delivery handler. Returns
    /// the reason if the reading must stop.
    pub(super) fn on_delivery(&self, r: &BatchReport<'_>) -> Option<String> {
        let now = self.clock.now_us();
        let mut counters = self.lock();
        for (i, token) in r.tokens.iter().enumerate() {
            let record = self.take_record(&mut counters, *token, r.result.is_ok());
            match r.result {
                Ok(base_offset) => {
                    counters.acknowledged += 1;
                    let latency_us = now.saturating_sub(record.sent_at_us);
                    counters.latency_us.saturating_record(latency_us.max(1));
                    if counters.json.is_some() {
                        let mut object = begin_object(Some(r.topic));
                        push_value(&mut object, "partition", Some(r.partition));
                        object.push(b',');
                        let offset = base_offset.map(|b| b.saturating_add(i as i64));
                        push_value(&mut object, "offset", offset);
                        let timestamp = r.log_append_time.unwrap_or(record.timestamp);
                        counters.print_json(end_object(object, timestamp, &record));
                    }
                }
                Err(e) => {
                    let of_record = r.record_errors.iter().find(|e| e.index as usize == i);
                    let e = of_record.map_or(e, |e| &e.error);
                    counters.record_failure(r.topic, Some(r.partition), &record, e);
                    if self.stops_at_failure {
                        counters.stop_reason.get_or_insert_with(|| error_text(e));
                    }
                }
            }
        }
        // A flush for each batch: the output of an endless run must not wait in the buffer.
        counters.flush();
        let stop_reason = counters.stop_reason.clone();
        drop(counters);
        if self.keeps_records {
            self.room.notify_one();
        }
        stop_reason
    }

    /// Returns the record of a token. Without its content if records are not kept.
    fn take_record(
        &self,
        counters: &mut DeliveryCounters,
        token: u64,
        is_acknowledged: bool,
    ) -> PendingRecord {
        let is_sent_again = !is_acknowledged && self.stops_at_failure;
        let pending = &mut counters.pending;
        let kept = if self.keeps_records { pending.take(token, is_sent_again) } else { None };
        kept.unwrap_or_else(|| PendingRecord {
            sent_at_us: TokenClock::sent_at_us(token),
            timestamp: self.clock.timestamp(token),
            ..PendingRecord::at(Place::default())
        })
    }

    /// Counts a record that the producer did not accept.
    pub(super) fn record_rejected(&self, topic: &str, ticket: SendTicket, e: &Error) {
        let mut counters = self.lock();
        let record = self.take_record(&mut counters, ticket.token, false);
        counters.record_failure(topic, None, &record, e);
        counters.flush();
    }

    /// Counts a record whose topic is known to fail.
    pub(super) fn record_of_failed_topic(
        &self,
        topic: &str,
        (record, place): (&InputRecord<'_>, Place),
        e: &Error,
    ) {
        let ticket = self.begin_send(record, place);
        self.record_rejected(topic, ticket, e);
    }

    /// Counts a text of the input that is no record.
    pub(super) fn record_unsent(&self, unsent: &Unsent<'_>) {
        let mut counters = self.lock();
        let Unsent { topic, reason, text, .. } = *unsent;
        counters.count_failure(reason.to_owned());
        if let Some(rejected) = &mut counters.rejected {
            let written = rejected.write_unsent(unsent);
            counters.stop_if_failed(written);
        }
        if self.keeps_records {
            counters.add_completed(unsent.place, self.stops_at_failure);
        }
        if counters.json.is_some() {
            let mut object = begin_object(topic);
            push_text(&mut object, "error", reason);
            if text.is_some() {
                object.push(b',');
                push_bytes(&mut object, "input", text);
            }
            object.extend(b"}\n");
            counters.print_json(object);
        }
        counters.flush();
    }

    /// Returns why the reading must stop, after an error of the results.
    pub(super) fn stop_reason(&self) -> Option<String> {
        self.lock().stop_reason.clone()
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    /// Returns the results so far.
    pub(super) fn results(&self) -> RunResults {
        let counters = self.lock();
        RunResults {
            acknowledged: counters.acknowledged,
            failed: counters.failed,
            possibly_persisted: Some(counters.possibly_persisted),
            bytes: self.bytes.load(Ordering::Relaxed),
            latency_us: counters.latency_us.clone(),
        }
    }

    pub(super) fn is_all_acknowledged(&self) -> bool {
        self.lock().failed == 0
    }

    /// Returns the summary for standard error, one or more lines.
    pub(super) fn summary(&self, acks_zero: bool) -> String {
        let mut counters = self.lock();
        counters.flush();
        let seconds = self.clock.now_us().max(1) as f64 / 1e6;
        let bytes = self.bytes.load(Ordering::Relaxed);
        let (records, mb) = (counters.acknowledged, bytes as f64 / 1e6);
        let result = if acks_zero {
            "written to the socket (acks=0: brokers do not acknowledge)"
        } else {
            "acknowledged"
        };
        let mut out = format!(
            "{records} records {result}, {bytes} bytes in {seconds:.2} s: {:.0} records/s, \
             {:.2} MB/s; latency p50 {:.1} ms, p99 {:.1} ms; {} failed\n",
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
        counters.write_failures(&mut out);
        out
    }

    /// Returns the summary of a dry run, one or more lines.
    pub(super) fn dry_run_summary(&self) -> String {
        let mut counters = self.lock();
        counters.flush();
        let bytes = self.bytes.load(Ordering::Relaxed);
        let (records, failed) = (counters.acknowledged, counters.failed);
        let mut out = format!(
            "dry run, nothing was sent: {records} records of {bytes} bytes would be sent, {failed} \
             would fail\n"
        );
        counters.write_failures(&mut out);
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
    /// Adds a text that is no record, or the end of an input, to the pending records: it has its
    /// place among them, and its result.
    fn add_completed(&mut self, place: Place, is_sent_again: bool) {
        self.last_read = place;
        let token = self.pending.push(PendingRecord::at(place));
        self.pending.take(token, is_sent_again);
    }

    /// Adds the reasons of failures, and where the rejected records are.
    fn write_failures(&self, out: &mut String) {
        for (reason, n) in &self.failure_reasons {
            *out += &format!("  {n} × {reason}\n");
        }
        if let Some(rejected) = &self.rejected {
            *out += &rejected.summary();
        }
    }

    fn count_failure(&mut self, reason: String) {
        self.failed += 1;
        let has_own_count =
            self.failure_reasons.contains_key(&reason) || self.failure_reasons.len() < MAX_REASONS;
        *self
            .failure_reasons
            .entry(if has_own_count { reason } else { "other reasons".into() })
            .or_default() += 1;
    }

    fn record_failure(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: &PendingRecord,
        e: &Error,
    ) {
        let is_possibly_persisted = e.record_status() == RecordStatus::PossiblyPersisted;
        self.possibly_persisted += u64::from(is_possibly_persisted);
        let text = error_text(e);
        let text = bounded_reason(&text);
        if let Some(rejected) = &mut self.rejected {
            let written = rejected.write_record(topic, record, (e, &text));
            self.stop_if_failed(written);
        }
        if self.json.is_some() {
            let mut object = begin_object(Some(topic));
            push_value(&mut object, "partition", partition);
            object.push(b',');
            push_text(&mut object, "error", &text);
            object.push(b',');
            push_value(&mut object, "possibly_persisted", Some(is_possibly_persisted));
            self.print_json(end_object(object, record.timestamp, record));
        }
        self.count_failure(without_timings(with_reference(&text, e)));
    }

    /// Prints one object.
    fn print_json(&mut self, object: Vec<u8>) {
        if let Some(out) = &mut self.json {
            let written = out.write_all(&object);
            self.handle_json_error(written);
        }
    }

    fn stop_if_failed(&mut self, written: Result<(), String>) {
        if let Err(reason) = written {
            self.stop_reason.get_or_insert(reason);
        }
    }

    fn flush(&mut self) {
        if let Some(rejected) = &mut self.rejected {
            let flushed = rejected.flush();
            self.stop_if_failed(flushed);
        }
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

/// Returns the start of an object, with a comma at its end.
fn begin_object(topic: Option<&str>) -> Vec<u8> {
    let mut object = b"{".to_vec();
    if let Some(topic) = topic {
        push_text(&mut object, "topic", topic);
        object.push(b',');
    }
    object
}

/// Adds the timestamp and the content to an object, and ends its line.
fn end_object(mut object: Vec<u8>, timestamp: i64, record: &PendingRecord) -> Vec<u8> {
    object.push(b',');
    push_value(&mut object, "timestamp", Some(timestamp));
    object.push(b',');
    object.extend(&record.content);
    object.extend(b"}\n");
    object
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
