//! Requests on one connection that have no answer yet, oldest first.

use std::collections::VecDeque;

use bytes::Bytes;
use ottla_protocol::ApiKey;

use crate::injected_bugs::inject_bug;
use crate::time::Tick;

/// What a request is for; decides who handles its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// ApiVersions, at this version: the client's own.
    ApiVersions(i16),
    /// Metadata: the client's own.
    Metadata,
    /// A step of showing who we are: the client's own.
    Sasl(SaslStep),
    /// A producer id, for the sender.
    InitProducerId,
    /// Batches, for the sender, which files them under the correlation id.
    Produce,
}

/// A step of a SASL exchange, with the version it was asked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaslStep {
    /// What the broker has, at version 0.
    ApiVersions,
    /// The mechanism is named.
    Handshake(i16),
    /// The mechanism's own bytes.
    Authenticate(i16),
}

/// A request without its answer.
#[derive(Debug, Clone)]
pub(crate) struct InFlightRequest {
    pub(crate) correlation_id: i32,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) kind: RequestKind,
    pub(crate) sent_at: Tick,
    /// Whether the socket took its last byte.
    pub(crate) fully_sent: bool,
    /// False with `acks=0`: it is over when its last byte is out.
    pub(crate) expects_response: bool,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct CompletedRequest {
    pub(crate) node: i32,
    pub(crate) request: InFlightRequest,
    /// The answer without its length (empty where none was expected), or why there will be none.
    pub(crate) result: Result<Bytes, Disconnected>,
}

/// A connection ended before the answer came.
#[derive(Debug, Clone)]
pub(crate) struct Disconnected {
    /// Broker, address and cause, in words.
    pub(crate) reason: String,
}

/// One node's requests.
#[derive(Debug, Default)]
pub(crate) struct InFlightRequests(VecDeque<InFlightRequest>);

impl InFlightRequests {
    pub(crate) fn add(&mut self, request: InFlightRequest) {
        self.0.push_back(request);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A request's last byte is out: the oldest of those that are not, since one is written behind the other. It ends
    /// here if nobody answers it.
    pub(crate) fn complete_send(&mut self) -> Option<InFlightRequest> {
        let at = self.0.iter().position(|r| !r.fully_sent)?;
        self.0[at].fully_sent = true;
        if self.0[at].expects_response { None } else { self.0.remove(at) }
    }

    /// The oldest, if this answer is its own.
    pub(crate) fn complete_next(
        &mut self,
        correlation: i32,
    ) -> Result<InFlightRequest, Option<i32>> {
        match self.0.front() {
            Some(oldest)
                if oldest.correlation_id == correlation || inject_bug!(LateResponseMatched) =>
            {
                self.0.pop_front().ok_or(None)
            }
            other => Err(other.map(|o| o.correlation_id)),
        }
    }

    /// Whether the socket took this request's last byte; true of one that is not here, since its end is on its way.
    pub(crate) fn is_fully_sent(&self, correlation: i32) -> bool {
        self.0.iter().find(|r| r.correlation_id == correlation).is_none_or(|r| r.fully_sent)
    }

    /// When the oldest was sent.
    pub(crate) fn oldest_sent_at(&self) -> Option<Tick> {
        self.0.front().map(|r| r.sent_at)
    }

    /// All, oldest first.
    pub(crate) fn clear_all(&mut self) -> Vec<InFlightRequest> {
        self.0.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(correlation: i32, answered: bool) -> InFlightRequest {
        let (api, purpose) = (ApiKey::PRODUCE, RequestKind::Produce);
        InFlightRequest {
            correlation_id: correlation,
            api,
            version: 9,
            kind: purpose,
            sent_at: Tick(correlation as u64),
            fully_sent: false,
            expects_response: answered,
        }
    }

    #[test]
    fn if1_answers_are_first_in_first_out_and_clear_is_oldest_first() {
        let mut f = InFlightRequests::default();
        (1..=3).for_each(|c| f.add(request(c, true)));
        assert_eq!(f.oldest_sent_at(), Some(Tick(1)));
        assert_eq!(
            f.complete_next(2).unwrap_err(),
            Some(1),
            "an answer out of turn is not matched"
        );
        assert_eq!(f.complete_next(1).unwrap().correlation_id, 1);
        assert!(f.complete_send().is_none());
        let rest = f.clear_all();
        assert_eq!(
            rest.iter().map(|r| (r.correlation_id, r.fully_sent)).collect::<Vec<_>>(),
            [(2, true), (3, false)]
        );
        assert_eq!(f.len(), 0);
        assert_eq!(f.complete_next(1).unwrap_err(), None);
    }

    /// The word that a request is out may come when the next one is half way.
    #[test]
    fn the_last_byte_of_one_says_nothing_of_the_next() {
        let mut f = InFlightRequests::default();
        f.add(request(1, true));
        f.add(request(2, false));
        assert!(f.complete_send().is_none());
        assert!(f.is_fully_sent(1) && !f.is_fully_sent(2));
        assert_eq!(f.complete_send().map(|r| r.correlation_id), Some(2));
        assert!(f.complete_send().is_none() && f.len() == 1);
        assert!(f.is_fully_sent(2), "it is not here any more");
    }

    #[test]
    fn sn43_without_an_answer_a_request_ends_when_it_is_out() {
        let mut f = InFlightRequests::default();
        f.add(request(1, false));
        assert!(f.complete_send().is_some_and(|r| r.fully_sent));
        assert_eq!(f.len(), 0);
    }
}
