//! The requests on one connection that have no response yet, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::ApiKey;

use crate::injected_bugs::inject_bug;
use crate::time::Tick;

/// The kind of a request. It decides who handles the completed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// ApiVersions at this version, handled by the client.
    ApiVersions(i16),
    /// Metadata, handled by the client.
    Metadata,
    /// A step of authentication, handled by the client.
    Sasl(SaslStep),
    /// InitProducerId, handled by the sender.
    InitProducerId,
    /// A request of the transaction manager, handled by the sender.
    Transaction,
    /// GetTelemetrySubscriptions or PushTelemetry, handled by the sender.
    Telemetry,
    /// Produce, handled by the sender, which finds the batches by correlation id.
    Produce,
}

/// A step of a SASL exchange, with the version of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaslStep {
    /// ApiVersions at version 0, to learn the versions of the next two.
    ApiVersions,
    /// SaslHandshake: the client names the mechanism.
    Handshake(i16),
    /// SaslAuthenticate: carries the mechanism's tokens.
    Authenticate(i16),
}

/// A request that has no response yet.
#[derive(Debug, Clone)]
pub(crate) struct InFlightRequest {
    pub(crate) correlation_id: i32,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) kind: RequestKind,
    pub(crate) sent_at: Tick,
    /// How long the broker paused the connection since then. It does not count against
    /// `request.timeout.ms`.
    pub(crate) throttled: Duration,
    /// Whether the socket accepted the last byte.
    pub(crate) fully_sent: bool,
    /// False with `acks=0`: the request completes when its last byte is sent.
    pub(crate) expects_response: bool,
}

/// A request with its result.
#[derive(Debug)]
pub(crate) struct CompletedRequest {
    pub(crate) node: i32,
    pub(crate) request: InFlightRequest,
    /// The response without its length prefix (empty if none was expected), or the error.
    pub(crate) result: Result<Bytes, Disconnected>,
}

/// The error of a request whose connection was closed before the response arrived.
#[derive(Debug, Clone)]
pub(crate) struct Disconnected {
    /// The broker, its address and the cause.
    pub(crate) reason: String,
}

/// The requests in flight to one node, oldest first.
#[derive(Debug, Default)]
pub(crate) struct InFlightRequests {
    requests: VecDeque<InFlightRequest>,
    oldest: OldestRequest,
}

/// When the oldest request to a node was sent. Application threads read it for
/// [`Health`](super::Health).
#[derive(Debug, Clone)]
pub(crate) struct OldestRequest(Arc<AtomicU64>);

impl Default for OldestRequest {
    fn default() -> OldestRequest {
        OldestRequest(Arc::new(AtomicU64::new(Tick::NEVER.0)))
    }
}

impl OldestRequest {
    /// Returns the age of the request; `None` if no request is in flight.
    pub(crate) fn age(&self, now: Tick) -> Option<Duration> {
        let sent_at = Tick(self.0.load(Ordering::Relaxed));
        (sent_at != Tick::NEVER).then(|| now.since(sent_at))
    }
}

impl InFlightRequests {
    pub(crate) fn add(&mut self, request: InFlightRequest) {
        self.requests.push_back(request);
        self.update_oldest();
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Returns when the oldest request was sent.
    pub(crate) fn oldest_sent_at(&self) -> Option<Tick> {
        self.requests.front().map(|r| r.sent_at)
    }

    /// Returns what [`Health`](super::Health) reads.
    pub(crate) fn oldest(&self) -> OldestRequest {
        self.oldest.clone()
    }

    fn update_oldest(&self) {
        let sent_at = self.requests.front().map_or(Tick::NEVER, |r| r.sent_at);
        self.oldest.0.store(sent_at.0, Ordering::Relaxed);
    }

    /// Marks the oldest unsent request as fully sent. Removes and returns it if it expects no
    /// response.
    ///
    /// The socket takes requests one after the other, so a completed send is always the oldest.
    pub(crate) fn complete_send(&mut self) -> Option<InFlightRequest> {
        let i = self.requests.iter().position(|r| !r.fully_sent)?;
        self.requests[i].fully_sent = true;
        if self.requests[i].expects_response {
            return None;
        }
        let request = self.requests.remove(i);
        self.update_oldest();
        request
    }

    /// Removes and returns the oldest request.
    ///
    /// # Errors
    /// Its correlation id if that is a different one, `None` if no request is in flight. A broker
    /// responds in the order of the requests, so such a response must not complete any request.
    pub(crate) fn complete_next(
        &mut self,
        correlation_id: i32,
    ) -> Result<InFlightRequest, Option<i32>> {
        match self.requests.front() {
            Some(oldest) if oldest.correlation_id == correlation_id => {
                let position = inject_bug!(NewestRequestCompleted, 0, self.requests.len());
                let request = self.requests.remove(position);
                self.update_oldest();
                request.ok_or(None)
            }
            oldest => Err(oldest.map(|o| o.correlation_id)),
        }
    }

    /// Returns whether the socket accepted the last byte of this request.
    ///
    /// True for an unknown request: it has completed, and its result is on the way to the sender.
    pub(crate) fn is_fully_sent(&self, correlation_id: i32) -> bool {
        self.requests
            .iter()
            .find(|r| r.correlation_id == correlation_id)
            .is_none_or(|r| r.fully_sent)
    }

    /// Returns when the oldest request times out.
    pub(crate) fn next_timeout(&self, request_timeout: Duration) -> Option<Tick> {
        self.requests.front().map(|r| r.sent_at.after(request_timeout.saturating_add(r.throttled)))
    }

    /// Gives every request more time, because the broker reads none of them during a throttle
    /// (KIP-219).
    pub(crate) fn add_throttle_time(&mut self, time: Duration) {
        for request in &mut self.requests {
            request.throttled = request.throttled.saturating_add(time);
        }
    }

    /// Removes and returns all requests, oldest first.
    pub(crate) fn clear_all(&mut self) -> Vec<InFlightRequest> {
        let requests = self.requests.drain(..).collect();
        self.update_oldest();
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(correlation_id: i32, expects_response: bool) -> InFlightRequest {
        InFlightRequest {
            correlation_id,
            api: ApiKey::PRODUCE,
            version: 9,
            kind: RequestKind::Produce,
            sent_at: Tick(correlation_id as u64),
            throttled: Duration::ZERO,
            fully_sent: false,
            expects_response,
        }
    }

    // CASES: IF1.
    #[test]
    fn responses_match_the_oldest_request_and_clear_all_keeps_the_order() {
        let mut requests = InFlightRequests::default();
        (1..=3).for_each(|id| requests.add(request(id, true)));
        assert_eq!(requests.next_timeout(Duration::from_nanos(5)), Some(Tick(6)));
        assert_eq!(requests.complete_next(2).unwrap_err(), Some(1), "1 is the oldest request");
        assert_eq!(requests.complete_next(1).unwrap().correlation_id, 1);
        assert!(requests.complete_send().is_none());
        let rest = requests.clear_all();
        assert_eq!(
            rest.iter().map(|r| (r.correlation_id, r.fully_sent)).collect::<Vec<_>>(),
            [(2, true), (3, false)]
        );
        assert_eq!(requests.len(), 0);
        assert_eq!(requests.complete_next(1).unwrap_err(), None);
    }

    /// The completed send of a request may be reported while the next one is half written.
    #[test]
    fn a_completed_send_marks_only_the_oldest_unsent_request() {
        let mut requests = InFlightRequests::default();
        requests.add(request(1, true));
        requests.add(request(2, false));
        assert!(requests.complete_send().is_none());
        assert!(requests.is_fully_sent(1) && !requests.is_fully_sent(2));
        assert_eq!(requests.complete_send().map(|r| r.correlation_id), Some(2));
        assert!(requests.complete_send().is_none() && requests.len() == 1);
        assert!(requests.is_fully_sent(2), "a completed request counts as fully sent");
    }

    #[test]
    fn age_is_that_of_the_oldest_request() {
        let mut requests = InFlightRequests::default();
        let oldest = requests.oldest();
        assert_eq!(oldest.age(Tick(9)), None);
        (1..=3).for_each(|id| requests.add(request(id, true)));
        assert_eq!(oldest.age(Tick(9)), Some(Duration::from_nanos(8)));
        requests.complete_next(1).unwrap();
        assert_eq!(oldest.age(Tick(9)), Some(Duration::from_nanos(7)));
        requests.clear_all();
        assert_eq!(oldest.age(Tick(9)), None);
        requests.add(request(4, false));
        assert!(requests.complete_send().is_some());
        assert_eq!(oldest.age(Tick(9)), None);
    }

    // CASES: SN43.
    #[test]
    fn a_request_that_expects_no_response_completes_when_it_is_sent() {
        let mut requests = InFlightRequests::default();
        requests.add(request(1, false));
        assert!(requests.complete_send().is_some_and(|r| r.fully_sent));
        assert_eq!(requests.len(), 0);
    }
}
