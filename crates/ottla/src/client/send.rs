//! Sends requests: assigns correlation ids, records requests in flight, calls the selector.

use bytes::Bytes;
use ottla_protocol::header::encode_request;
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::{ApiKey, EncodeError, Request};
use zeroize::Zeroizing;

use super::NetworkClient;
use super::in_flight_requests::{InFlightRequest, RequestKind};
use crate::metrics::{NodeSensor, Sensor};
use crate::network::io::Io;
use crate::time::Tick;

/// The first correlation id reserved for SASL requests, as in Java (CASES NC11).
const MIN_RESERVED_CORRELATION_ID: i32 = i32::MAX - 7;

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

impl<I: Io> NetworkClient<I> {
    /// Encodes and sends a request. The caller has checked that the node is ready.
    ///
    /// # Errors
    /// The request does not fit its encoding.
    pub(crate) fn send<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        kind: RequestKind,
        now: Tick,
    ) -> Result<(), EncodeError> {
        let correlation_id = match kind {
            RequestKind::Sasl(_) => self.correlation_ids.next_sasl(),
            _ => self.correlation_ids.next(),
        };
        let frame = encode_request(body, version, correlation_id, Some(&self.settings.client_id))?;
        let frame = match kind {
            // The request may hold a password: clear the memory when the frame is dropped.
            RequestKind::Sasl(_) => Bytes::from_owner(Zeroizing::new(frame)),
            _ => Bytes::from(frame),
        };
        let request = InFlightRequest {
            correlation_id,
            api: R::KEY,
            version,
            kind,
            sent_at: now,
            fully_sent: false,
            expects_response: true,
        };
        self.do_send(node, request, vec![frame], now);
        Ok(())
    }

    /// Sends a produce request and returns its correlation id.
    ///
    /// `encode_frame` gets the correlation id and the client id, and returns the frame's chunks.
    pub(crate) fn send_produce(
        &mut self,
        node: i32,
        version: i16,
        expects_response: bool,
        now: Tick,
        encode_frame: impl FnOnce(i32, &str) -> Vec<Bytes>,
    ) -> i32 {
        let correlation_id = self.correlation_ids.next();
        let chunks = encode_frame(correlation_id, &self.settings.client_id);
        let request = InFlightRequest {
            correlation_id,
            api: ApiKey::PRODUCE,
            version,
            kind: RequestKind::Produce,
            sent_at: now,
            fully_sent: false,
            expects_response,
        };
        self.do_send(node, request, chunks, now);
        correlation_id
    }

    fn do_send(&mut self, node: i32, request: InFlightRequest, chunks: Vec<Bytes>, now: Tick) {
        let Some(connection) = self.connection_states.get_mut(&node) else {
            return;
        };
        let Some(channel) = connection.channel() else { return };
        tracing::trace!(
            broker = node,
            api = request.api.name(),
            version = request.version,
            correlation = request.correlation_id,
            "request"
        );
        connection.in_flight.add(request);
        let size = chunks.iter().map(Bytes::len).sum::<usize>() as f64;
        let sensors = &self.counters.sensors;
        sensors.record(
            &[
                (Sensor::Request, 1.0),
                (Sensor::RequestSize, size),
                (Sensor::OutgoingByte, size),
                (Sensor::NetworkIo, 1.0),
            ],
            now,
        );
        use NodeSensor::{OutgoingByte, Request, RequestSize};
        sensors.record_node(
            node,
            &[(Request, 1.0), (RequestSize, size), (OutgoingByte, size)],
            now,
        );
        self.selector.send(channel, chunks, now);
    }

    pub(super) fn send_api_versions_request(&mut self, node: i32, version: i16, now: Tick) {
        let request = ApiVersionsRequest {
            client_software_name: "ottla".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        // The name and the version are constants that always fit.
        let _ = self.send(node, &request, version, RequestKind::ApiVersions(version), now);
    }
}
