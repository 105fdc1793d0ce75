//! The time that a failed record spent in each stage.

use std::fmt;
use std::time::Duration;

/// The time that an unacknowledged record spent in each stage, from `send` to its failure.
///
/// [`Error::timings`](crate::Error::timings) returns it. Its `Display` form lists the stages that
/// took a millisecond or more, as in `4.000 s waiting for memory, 26.000 s in flight`.
///
/// ```
/// fn log_failure(e: &ottla::Error) {
///     match e.timings() {
///         Some(t) => eprintln!("{e}: {} attempts, {t}", t.attempts),
///         None => eprintln!("{e}: the producer never accepted the record"),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryTimings {
    /// The number of produce requests that carried the record.
    pub attempts: u32,
    /// The node id of the broker that received the last of these requests.
    pub last_broker: Option<i32>,
    /// Time that `send` waited for memory before it could open the record's batch.
    pub memory_wait: Duration,
    /// Time in an open batch, for more records (`linger.ms`).
    pub linger: Duration,
    /// Time during which the partition had no leader.
    pub leaderless: Duration,
    /// Time between attempts (`retry.backoff.ms`).
    pub backoff: Duration,
    /// Time during which the broker throttled this client (KIP-219).
    pub throttled: Duration,
    /// Time in requests that waited for a response.
    pub in_flight: Duration,
    /// The rest: time behind other batches, or without a connection or a producer id.
    pub queued: Duration,
}

impl fmt::Display for DeliveryTimings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = [
            (self.memory_wait, "waiting for memory"),
            (self.linger, "lingering"),
            (self.leaderless, "without a leader"),
            (self.backoff, "backing off"),
            (self.throttled, "throttled"),
            (self.in_flight, "in flight"),
            (self.queued, "queued"),
        ];
        let mut separator = "";
        let noticeable = |(time, _): &(Duration, &str)| *time >= Duration::from_millis(1);
        for (time, stage) in stages.into_iter().filter(noticeable) {
            write!(f, "{separator}{:.3} s {stage}", time.as_secs_f64())?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("no time spent")?;
        }
        Ok(())
    }
}
