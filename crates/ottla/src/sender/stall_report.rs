//! Reports topics whose records do not move although a broker is connected: the reason, and what
//! the producer waits for.
//!
//! The sender calls [`StallReport::stalled`] whenever it finds a reason, [`StallReport::moved`]
//! when a batch is acknowledged, and [`StallReport::report`] once a round. Reports do not go
//! through the log limiter: their own intervals are longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ErrorCode;

use super::Sender;
use crate::accumulator::batch::StampedBatch;
use crate::network::io::Io;
use crate::time::Tick;

/// How long nothing moves before the first report, and the shortest time between two reports.
pub(super) const FIRST_REPORT: Duration = Duration::from_secs(3);
/// The time between two reports of the same reason.
pub(super) const REPEATED_REPORT: Duration = Duration::from_secs(30);
/// A reason that has not recurred for so long has ended: its records have expired, for example.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The code of a topic without a leader. It is not an error of metadata.
const NO_LEADER: i32 = -2;
/// The code of a broker that throttles this client.
const THROTTLED: i32 = -3;

/// Why the records of a topic do not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StallReason {
    /// The partition; `None` if the whole topic waits.
    pub(crate) partition: Option<i32>,
    /// The same for the same reason. The text may differ in each attempt.
    pub(crate) code: i32,
    pub(crate) text: String,
    pub(crate) waits_for: &'static str,
}

/// A topic whose records do not move.
#[derive(Debug)]
struct Stall {
    reason: StallReason,
    since: Tick,
    last_seen: Tick,
    next_report: Tick,
    last_report: Option<(Tick, i32)>,
}

/// The topics whose records do not move.
#[derive(Debug, Default)]
pub(crate) struct StallReport {
    topics: BTreeMap<Arc<str>, Stall>,
}

impl StallReport {
    /// Records a reason why a topic's records do not move.
    pub(crate) fn stalled(&mut self, topic: &Arc<str>, reason: StallReason, now: Tick) {
        let stall = self.topics.entry(topic.clone()).or_insert_with(|| Stall {
            reason: reason.clone(),
            since: now,
            last_seen: now,
            next_report: now.after(FIRST_REPORT),
            last_report: None,
        });
        stall.last_seen = now;
        if reason.partition.is_some() && stall.reason.partition.is_some() {
            // Of several partitions with the same reason, the first one stands for the topic.
            if reason.code == stall.reason.code && reason.partition != stall.reason.partition {
                return;
            }
        }
        if let Some((at, code)) = stall.last_report
            && code != reason.code
        {
            stall.next_report = stall.next_report.min(at.after(FIRST_REPORT));
        }
        stall.reason = reason;
    }

    /// A batch of this partition was acknowledged.
    #[inline]
    pub(crate) fn moved(&mut self, topic: &str, partition: i32) {
        if !self.topics.is_empty() {
            self.end(topic, Some(partition));
        }
    }

    /// Metadata says that this topic can be used.
    pub(crate) fn known(&mut self, is_known: impl Fn(&str) -> bool) {
        self.topics.retain(|topic, stall| {
            let is_of_metadata = stall.reason.partition.is_none() && stall.reason.code >= 0;
            !is_of_metadata || !is_known(topic)
        });
    }

    fn end(&mut self, topic: &str, partition: Option<i32>) {
        let has_ended =
            |stall: &Stall| stall.reason.partition.is_none() || stall.reason.partition == partition;
        if self.topics.get(topic).is_some_and(has_ended) {
            self.topics.remove(topic);
        }
    }

    /// Logs the topics whose report is due. Returns when the next one is.
    pub(crate) fn report(&mut self, now: Tick) -> Tick {
        if self.topics.is_empty() {
            return Tick::NEVER;
        }
        self.report_to(now, |topic, stall| {
            let ms = u64::try_from(now.since(stall.since).as_millis()).unwrap_or(u64::MAX);
            let partition = stall.partition();
            tracing::warn!(
                name: "ottla.stalled",
                target: "ottla::stalled",
                topic,
                ms,
                "topic {topic}{partition}: no record was acknowledged for {:.0} s: {}; waiting for \
                 {}",
                now.since(stall.since).as_secs_f64(),
                stall.reason.text,
                stall.reason.waits_for
            );
        })
    }

    fn report_to(&mut self, now: Tick, mut log: impl FnMut(&str, &Stall)) -> Tick {
        self.topics.retain(|_, stall| stall.last_seen.after(FORGOTTEN_AFTER) > now);
        let mut next = Tick::NEVER;
        for (topic, stall) in &mut self.topics {
            if stall.next_report <= now {
                log(topic, stall);
                stall.last_report = Some((now, stall.reason.code));
                stall.next_report = now.after(REPEATED_REPORT);
            }
            next = next.min(stall.next_report).min(stall.last_seen.after(FORGOTTEN_AFTER));
        }
        next
    }
}

impl<I: Io> Sender<I> {
    /// A broker rejected a batch, which is sent again.
    pub(super) fn report_stalled_batch(
        &mut self,
        batch: &StampedBatch,
        code: ErrorCode,
        now: Tick,
    ) {
        let p = &batch.closed.meta.partition;
        let text = batch.closed.last_error.as_ref().map_or_else(String::new, ToString::to_string);
        let waits_for = match code {
            ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
                "more replicas in sync (min.insync.replicas)"
            }
            ErrorCode::KAFKA_STORAGE_ERROR => "the broker's disk, or a leader on another broker",
            code if code.is_invalid_metadata() => "a leader that accepts the records",
            _ => "a retry that succeeds",
        };
        let reason = StallReason { partition: Some(p.index), code: code.0.into(), text, waits_for };
        self.stall_report.stalled(&p.topic, reason, now);
    }

    /// Metadata has a retriable error for a topic that callers or batches wait for.
    pub(super) fn report_stalled_topic(&mut self, topic: &str, text: String, code: ErrorCode) {
        let waits_for = match code {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => "the topic: check its name, or create it",
            _ => "metadata of the topic without an error",
        };
        let reason = StallReason { partition: None, code: code.0.into(), text, waits_for };
        self.stall_report.stalled(&topic.into(), reason, self.env.now());
    }

    /// Partitions of this topic have batches, but no leader.
    pub(super) fn report_leaderless_topic(&mut self, topic: &Arc<str>, now: Tick) {
        let text = "a partition has no leader".to_owned();
        let waits_for = "a leader: check that the brokers of its replicas run";
        let reason = StallReason { partition: None, code: NO_LEADER, text, waits_for };
        self.stall_report.stalled(topic, reason, now);
    }

    /// This node has ready batches, but does not take them.
    pub(super) fn report_throttled_node(&mut self, node: i32, now: Tick) {
        if self.client.throttled_time(node, now, now.after(Duration::from_nanos(1))).is_zero() {
            return;
        }
        let Some(p) = self.ready.first_ready_partition(node) else { return };
        let text = format!("{} throttles this client", self.client.broker_name(node));
        let waits_for = "the end of the throttle: check the quotas of this client and user";
        let reason = StallReason { partition: Some(p.index), code: THROTTLED, text, waits_for };
        self.stall_report.stalled(&p.topic, reason, now);
    }
}

impl Stall {
    /// Returns the partition for the message, with a space.
    fn partition(&self) -> String {
        self.reason.partition.map_or_else(String::new, |p| format!(" partition {p}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    fn reason(partition: Option<i32>, code: i32) -> StallReason {
        StallReason { partition, code, text: format!("code {code}"), waits_for: "a retry" }
    }

    /// Repeats a reason each second from one time to another. Returns the times of the reports.
    fn run(report: &mut StallReport, seconds: std::ops::Range<u64>, r: &StallReason) -> Vec<u64> {
        let topic: Arc<str> = "t".into();
        let mut reported = Vec::new();
        for second in seconds {
            report.stalled(&topic, r.clone(), at(second));
            report.report_to(at(second), |_, stall| {
                assert_eq!(stall.reason.code, r.code);
                reported.push(second);
            });
        }
        reported
    }

    #[test]
    fn stall_is_reported_after_3_seconds_and_every_30() {
        let mut report = StallReport::default();
        assert_eq!(run(&mut report, 10..80, &reason(Some(0), 56)), [13, 43, 73]);
    }

    #[test]
    fn changed_reason_is_reported_again() {
        let mut report = StallReport::default();
        assert_eq!(run(&mut report, 10..15, &reason(Some(0), 56)), [13]);
        assert_eq!(run(&mut report, 15..30, &reason(None, 5)), [16]);
    }

    #[test]
    fn acknowledgement_of_the_partition_ends_its_stall() {
        let mut report = StallReport::default();
        run(&mut report, 10..12, &reason(Some(0), 56));
        report.moved("t", 1);
        report.moved("other", 0);
        assert_eq!(report.topics.len(), 1);
        report.moved("t", 0);
        assert_eq!(run(&mut report, 12..16, &reason(Some(0), 56)), [15]);
    }

    #[test]
    fn reason_that_does_not_recur_is_not_reported() {
        let mut report = StallReport::default();
        run(&mut report, 10..12, &reason(None, 3));
        let next = report.report_to(at(13), |_, _| {});
        assert!(next <= at(43) && !report.topics.is_empty());
        assert_eq!(report.report_to(at(22), |_, _| panic!("a stall that has ended")), Tick::NEVER);
    }

    #[test]
    fn topic_that_becomes_known_is_not_stalled() {
        let mut report = StallReport::default();
        run(&mut report, 10..12, &reason(None, 3));
        report.known(|topic| topic == "t");
        assert!(report.topics.is_empty());
    }
}
