//! `linger.ms`, `request.timeout.ms` and `delivery.timeout.ms`, which must fit each other.

use std::time::Duration;

use super::Properties;
use super::parse::format_millis;
use crate::error::Error;

/// The largest value of a Java `int` in milliseconds.
const MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// The times of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// `linger.ms`.
    pub(super) linger: Duration,
    /// `request.timeout.ms`.
    pub(super) request: Duration,
    /// `delivery.timeout.ms`, at least the sum of the others.
    pub(super) delivery: Duration,
}

impl Timeouts {
    /// Reads the three settings (CASES PC3). A default of `delivery.timeout.ms` that is too short
    /// for the others is raised, as in Kafka. If it was set, the others bend where they were not:
    /// librdkafka has no lower limit for it, so people set `message.timeout.ms=5000` alone, or
    /// together with librdkafka's default of `socket.timeout.ms`, which counts as not set.
    ///
    /// # Errors
    /// The values that were set do not fit.
    pub(super) fn new(p: &Properties) -> Result<Timeouts, Error> {
        let linger = p.get_duration_ms("linger.ms").min(MAX);
        let request = p.get_duration_ms("request.timeout.ms");
        let delivery = p.get_duration_ms("delivery.timeout.ms");
        let given = Timeouts { linger, request, delivery };
        let is_set = |name| p.value(name).is_some() && !is_librdkafka_default(p, name);
        if delivery >= given.min_delivery() {
            return Ok(given);
        }
        if !is_set("delivery.timeout.ms") {
            return Ok(Timeouts { delivery: given.min_delivery(), ..given });
        }
        let mut bent = given;
        if !is_set("linger.ms") {
            let rest = if is_set("request.timeout.ms") {
                delivery.saturating_sub(request)
            } else {
                delivery / 2
            };
            bent.linger = linger.min(rest);
        }
        if !is_set("request.timeout.ms") {
            bent.request = delivery.saturating_sub(bent.linger);
        }
        if bent.request.is_zero() || delivery < bent.min_delivery() {
            return Err(given.conflict(p));
        }
        Ok(bent)
    }

    fn min_delivery(&self) -> Duration {
        (self.linger + self.request).min(MAX)
    }

    fn conflict(&self, p: &Properties) -> Error {
        let part = |name, value| {
            let origin = if p.value(name).is_some() { "" } else { ", the default" };
            format!("{}={}{origin}", p.written_name(name), format_millis(value))
        };
        Error::config(format!(
            "{}={} must be at least linger.ms + request.timeout.ms = {} ({}; {})",
            p.written_name("delivery.timeout.ms"),
            format_millis(self.delivery),
            format_millis(self.min_delivery()),
            part("linger.ms", self.linger),
            part("request.timeout.ms", self.request),
        ))
    }
}

/// Returns whether a setting has librdkafka's name and default. librdkafka waits for the response
/// to a Produce request for the lesser of `socket.timeout.ms` and what is left of
/// `message.timeout.ms`.
fn is_librdkafka_default(p: &Properties, name: &str) -> bool {
    p.written_name(name) == "socket.timeout.ms" && p.value(name) == Some("60000")
}
