//! Requests on their way to the selector: correlation ids and frames.

use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::encode_request;
use ottla_protocol::{ApiKey, EncodeError, Request};
use zeroize::Zeroizing;

use super::in_flight_requests::{InFlightRequest, RequestKind};
use crate::time::Tick;

/// The first correlation id reserved for SASL requests, as in Java (CASES NC11).
const MIN_RESERVED_CORRELATION_ID: i32 = i32::MAX - 7;

/// A request with its frame (Kafka's `ClientRequest`).
#[derive(Debug)]
pub(crate) struct ClientRequest {
    pub(crate) correlation_id: i32,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) kind: RequestKind,
    /// False with `acks=0`: the request completes when its last byte is sent.
    pub(crate) expects_response: bool,
    /// The buffers to write one after the other, length prefix included.
    pub(crate) frame: Vec<Bytes>,
}

impl ClientRequest {
    /// Returns the request as it is kept until its response.
    pub(super) fn to_in_flight(&self, now: Tick) -> InFlightRequest {
        InFlightRequest {
            correlation_id: self.correlation_id,
            api: self.api,
            version: self.version,
            kind: self.kind.clone(),
            sent_at: now,
            throttled: Duration::ZERO,
            fully_sent: false,
            expects_response: self.expects_response,
        }
    }
}

/// Assigns correlation ids and encodes requests.
#[derive(Debug, Default)]
pub(super) struct RequestEncoder {
    pub(super) correlation_ids: CorrelationIds,
}

/// The correlation ids used last, in two disjoint ranges.
#[derive(Debug, Default)]
pub(super) struct CorrelationIds {
    pub(super) last: i32,
    last_sasl: i32,
}

impl CorrelationIds {
    /// Returns the next id for any request but SASL's. It wraps to 1 below the reserved range.
    pub(super) fn next(&mut self) -> i32 {
        self.last = if self.last >= MIN_RESERVED_CORRELATION_ID - 1 { 1 } else { self.last + 1 };
        self.last
    }

    /// Returns the next id of the reserved range.
    pub(super) fn next_sasl(&mut self) -> i32 {
        self.last_sasl = match self.last_sasl {
            i32::MAX => MIN_RESERVED_CORRELATION_ID,
            id => id.max(MIN_RESERVED_CORRELATION_ID - 1) + 1,
        };
        self.last_sasl
    }
}

impl RequestEncoder {
    /// Encodes a request.
    ///
    /// # Errors
    /// The request does not fit its encoding.
    pub(super) fn encode<R: Request>(
        &mut self,
        client_id: &str,
        body: &R,
        version: i16,
        kind: RequestKind,
    ) -> Result<ClientRequest, EncodeError> {
        let correlation_id = match kind {
            RequestKind::Sasl(_) => self.correlation_ids.next_sasl(),
            _ => self.correlation_ids.next(),
        };
        let frame = encode_request(body, version, correlation_id, Some(client_id))?;
        let frame = match kind {
            // The request may hold a password: clear the memory when the frame is dropped.
            RequestKind::Sasl(_) => Bytes::from_owner(Zeroizing::new(frame)),
            _ => Bytes::from(frame),
        };
        Ok(ClientRequest {
            correlation_id,
            api: R::KEY,
            version,
            kind,
            expects_response: true,
            frame: vec![frame],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::in_flight_requests::SaslStep;
    use ottla_protocol::messages::ApiVersionsRequest;

    // CASES: NC11.
    #[test]
    fn sasl_requests_have_correlation_ids_of_their_own() {
        let mut encoder = RequestEncoder::default();
        let mut id = |kind| {
            let request = encoder.encode("c", &ApiVersionsRequest::default(), 0, kind).unwrap();
            assert!(request.expects_response && request.frame.len() == 1);
            request.correlation_id
        };
        assert_eq!(id(RequestKind::Metadata), 1);
        assert_eq!(id(RequestKind::Sasl(SaslStep::ApiVersions)), MIN_RESERVED_CORRELATION_ID);
        assert_eq!(id(RequestKind::ApiVersions(4)), 2);
        assert_eq!(id(RequestKind::Sasl(SaslStep::ApiVersions)), MIN_RESERVED_CORRELATION_ID + 1);
    }
}
