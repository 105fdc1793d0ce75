//! A snapshot of the client's connections and errors for [`crate::Producer::health`] and for error
//! messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight_requests::OldestRequest;
use crate::sync::Mutex;
use crate::time::Tick;

/// A snapshot of a producer's connections, and of the errors that it has now.
///
/// A broker that hangs, or whose host is gone without closing its connections, stays `connected`
/// until its oldest request is `request.timeout.ms` old (30 s by default): until then its silence
/// could be a slow response, and no event reports it. `oldest_request` shows it at once.
///
/// ```no_run
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let health = producer.health();
/// println!("connected: {:?}", health.connected);
/// for (broker, reason) in &health.failing {
///     eprintln!("{broker}: {reason}");
/// }
/// for (broker, age) in &health.oldest_request {
///     if age.as_secs() >= 3 {
///         eprintln!("{broker} has not responded for {age:?}");
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The names of the brokers that are connected and ready.
    pub connected: Vec<String>,
    /// The names of the brokers whose last connection attempt failed, each with the reason.
    pub failing: BTreeMap<String, String>,
    /// The names of the connected brokers that throttle the client, each with a description.
    pub throttled: BTreeMap<String, String>,
    /// The names of the connected brokers that have a request without a response, each with the age
    /// of the oldest such request. Milliseconds are usual with `acks=all`; a throttled broker, or
    /// one that waits for its replicas, takes longer.
    pub oldest_request: BTreeMap<String, Duration>,
    /// Why the calls that waited for metadata failed last, before any broker has sent it: each
    /// bootstrap server gave a response that no Kafka broker gives, or that one with another
    /// listener gives, or one rejected the credentials. Later calls wait and fail again. `None`
    /// once a broker has sent metadata.
    pub bootstrap_error: Option<String>,
    /// Why the last request to the coordinator of the transaction, or of the consumer group, has to
    /// be sent again. The transactional call that needs it waits meanwhile. `None` once the request
    /// has succeeded.
    pub coordinator_error: Option<String>,
    /// Why the open transaction has failed: it can only be aborted. `None` from the abort on.
    pub transaction_error: Option<String>,
    /// Why the producer can send no more records. Only a new producer can.
    pub fatal_error: Option<String>,
}

/// The health that the sender thread writes and application threads read.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedHealth {
    health: Arc<Mutex<Health>>,
    /// The oldest request of each connected broker, by name.
    oldest_requests: Arc<Mutex<BTreeMap<String, OldestRequest>>>,
    last_failure: Arc<Mutex<Option<String>>>,
}

impl SharedHealth {
    pub(crate) fn connected(&self, name: &str, oldest: OldestRequest) {
        self.oldest_requests.lock().insert(name.to_owned(), oldest);
        let mut h = self.health.lock();
        h.failing.remove(name);
        h.connected.push(name.to_owned());
    }

    pub(crate) fn set_bootstrap_error(&self, reason: Option<String>) {
        self.health.lock().bootstrap_error = reason;
    }

    pub(crate) fn set_coordinator_error(&self, reason: Option<String>) {
        self.health.lock().coordinator_error = reason;
    }

    pub(crate) fn coordinator_error(&self) -> Option<String> {
        self.health.lock().coordinator_error.clone()
    }

    pub(crate) fn failed(&self, name: &str, reason: &str) {
        *self.last_failure.lock() = Some(format!("{name}: {reason}"));
        self.oldest_requests.lock().remove(name);
        let mut h = self.health.lock();
        h.connected.retain(|c| c != name);
        h.throttled.remove(name);
        h.failing.insert(name.to_owned(), reason.to_owned());
    }

    pub(crate) fn closed(&self, name: &str) {
        self.oldest_requests.lock().remove(name);
        let mut h = self.health.lock();
        h.connected.retain(|c| c != name);
        h.throttled.remove(name);
        h.failing.remove(name);
    }

    pub(crate) fn throttled(&self, name: &str, ms: u64) {
        let text = format!("the broker throttles the client for {ms} ms; check its quotas");
        self.health.lock().throttled.insert(name.to_owned(), text);
    }

    /// Records that the broker's throttle has ended.
    pub(crate) fn resumed(&self, name: &str) {
        self.health.lock().throttled.remove(name);
    }

    pub(crate) fn get(&self, now: Tick) -> Health {
        let oldest = self.oldest_requests.lock().clone();
        let ages = oldest.into_iter().filter_map(|(name, oldest)| Some((name, oldest.age(now)?)));
        Health { oldest_request: ages.collect(), ..self.health.lock().clone() }
    }

    /// Returns the last failure, also if the broker has connected since.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().clone()
    }

    /// Returns why no broker takes requests; `None` if a connected broker does not throttle, or if
    /// no connection was tried yet.
    pub(crate) fn unavailable_summary(&self) -> Option<String> {
        let h = self.health.lock();
        if h.connected.iter().any(|c| !h.throttled.contains_key(c)) {
            return None;
        }
        let reasons = h.throttled.iter().chain(&h.failing);
        let all: Vec<String> = reasons.map(|(name, reason)| format!("{name}: {reason}")).collect();
        let summary = if h.throttled.is_empty() {
            "no broker can be reached"
        } else {
            "no broker takes requests now"
        };
        (!all.is_empty()).then(|| format!("{summary} ({})", all.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_distinguishes_throttling_from_unreachable_brokers() {
        let health = SharedHealth::default();
        assert_eq!(health.unavailable_summary(), None);
        health.failed("a:1", "connection refused");
        let summary = health.unavailable_summary().unwrap();
        assert_eq!(summary, "no broker can be reached (a:1: connection refused)");
        health.connected("b:1", OldestRequest::default());
        assert_eq!(health.unavailable_summary(), None);
        health.throttled("b:1", 500);
        let summary = health.unavailable_summary().unwrap();
        assert!(summary.starts_with("no broker takes requests now (b:1: the broker throttles"));
        assert!(summary.ends_with("; a:1: connection refused)"), "{summary}");
    }
}
