//! Sends requests: records them as in flight and hands their frames to the selector.

use bytes::Bytes;
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::{EncodeError, Request};

use super::NetworkClient;
use super::in_flight_requests::RequestKind;
use super::requests::ClientRequest;
use crate::network::io::Io;
use crate::time::Tick;

impl<I: Io> NetworkClient<I> {
    /// Returns the correlation id for the sender's next request.
    pub(crate) fn next_correlation_id(&mut self) -> i32 {
        self.requests.correlation_ids.next()
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.settings.client_id
    }

    /// Encodes and sends a request. The caller has checked that the node is ready.
    ///
    /// # Errors
    /// The request does not fit its encoding.
    pub(crate) fn send_request<R: Request>(
        &mut self,
        node: i32,
        body: &R,
        version: i16,
        kind: RequestKind,
        now: Tick,
    ) -> Result<(), EncodeError> {
        let request = self.requests.encode(&self.settings.client_id, body, version, kind)?;
        self.send(node, request, now);
        Ok(())
    }

    /// Sends a request. The caller has checked that the node is ready.
    pub(crate) fn send(&mut self, node: i32, request: ClientRequest, now: Tick) {
        let Some(connection) = self.connections.get_mut(node) else {
            return;
        };
        let Some(channel) = connection.channel() else { return };
        let in_flight = request.to_in_flight(now);
        let size = request.frame.iter().map(Bytes::len).sum();
        self.observer.request_sent(node, &in_flight, size);
        connection.in_flight.add(in_flight);
        self.selector.send(channel, request.frame, now);
        self.handle_completed_sends();
    }

    /// Asks a node for its API versions.
    ///
    /// From version 5 on (Kafka 4.4, KIP-1242) the request names the cluster and the node that the
    /// client expects, so that a broker that has got another's address says so. A bootstrap server
    /// may be any node.
    pub(super) fn send_api_versions_request(&mut self, node: i32, version: i16, now: Tick) {
        let is_checked = self.settings.checks_cluster && node >= 0;
        let cluster_id = self.metadata.cluster().id.as_deref().filter(|_| is_checked);
        let request = ApiVersionsRequest {
            client_software_name: "ottla".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            cluster_id: cluster_id.map(str::to_owned),
            node_id: if is_checked { node } else { -1 },
            ..Default::default()
        };
        // The name, the version and the id, which came from a broker, always fit.
        let _ = self.send_request(node, &request, version, RequestKind::ApiVersions(version), now);
    }
}
