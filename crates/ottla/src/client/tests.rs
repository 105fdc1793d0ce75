//! Tests of the client on the simulated network, with scripted brokers.

mod addresses;
mod requests;
mod sasl;
#[cfg(feature = "tls")]
mod tls_response;
mod unreachable;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, encode_response};
use ottla_protocol::messages::{
    ApiVersion, ApiVersionsResponse, InitProducerIdRequest, InitProducerIdResponse,
    MetadataResponse, MetadataResponseBroker,
};
use ottla_protocol::{ApiKey, ErrorCode, Reader};

use super::in_flight_requests::{CompletedRequest, RequestKind};
use super::{ConnectionSecurity, NetworkClient, SharedHealth};
use crate::config::{
    AddressFamily, ClientDnsLookup, ClientSettings, ConnectSettings, MetadataSettings,
};
use crate::metrics::Counters;
use crate::network::selector::Selector;
use crate::sim::{ClientInput, Faults, Link, SimMachine};
use crate::time::Tick;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A request as a broker receives it.
#[derive(Debug, Clone)]
struct ReceivedRequest {
    connection: u64,
    broker: SocketAddr,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    /// The request without its header.
    body: Bytes,
}

impl ReceivedRequest {
    fn encode_response<T: ottla_protocol::Wire>(&self, body: &T) -> Vec<u8> {
        encode_response(self.api, self.version, self.correlation_id, body).unwrap()
    }
}

/// A broker's handler: returns the response frame to a request, or `None` to stay silent.
type Handler<'a> = &'a mut dyn FnMut(&ReceivedRequest) -> Option<Vec<u8>>;

/// A client, its simulated network, and what the brokers received.
struct ClientFixture {
    machine: SimMachine,
    client: NetworkClient<SimMachine>,
    partial_frames: BTreeMap<u64, Vec<u8>>,
    completed: Vec<CompletedRequest>,
    requests: Vec<ReceivedRequest>,
}

fn broker_address(n: u8) -> SocketAddr {
    ([127, 0, 0, n], 9092).into()
}

fn settings(bootstrap: &[&str]) -> ClientSettings {
    ClientSettings {
        client_id: "c".into(),
        bootstrap_servers: bootstrap.iter().map(|h| ((*h).to_owned(), 9092)).collect(),
        max_in_flight: 5,
        request_timeout: ms(1000),
        connect: ConnectSettings {
            backoff: ms(50),
            backoff_max: ms(200),
            setup_timeout: ms(5000),
            setup_timeout_max: ms(20_000),
            dns_lookup: ClientDnsLookup::UseAllDnsIps,
            address_family: AddressFamily::Any,
        },
        metadata: MetadataSettings {
            max_age: Duration::from_secs(3600),
            max_idle: Duration::from_secs(3600),
            backoff: ms(10),
            backoff_max: ms(10),
        },
        rebootstrap_trigger: Some(Duration::from_secs(300)),
        checks_cluster: true,
    }
}

impl ClientFixture {
    fn new(settings: ClientSettings, security: ConnectionSecurity) -> ClientFixture {
        let machine = SimMachine::new(1, Faults::NONE);
        (1..=3).for_each(|n| machine.listen(broker_address(n)));
        let counters = Arc::new(Counters::default());
        let selector = Selector::new(machine.clone(), 1 << 20, None, counters.clone());
        let (env, health) = (Arc::new(machine.clone()), SharedHealth::default());
        let client = NetworkClient::new(settings, security, env, selector, health, counters);
        ClientFixture {
            machine,
            client,
            partial_frames: BTreeMap::new(),
            completed: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Returns a fixture without TLS and SASL.
    fn plaintext(bootstrap: &[&str]) -> ClientFixture {
        ClientFixture::new(settings(bootstrap), ConnectionSecurity::default())
    }

    fn now(&self) -> Tick {
        self.machine.now()
    }

    /// Runs one round of the client, as the sender does. If nothing is due, moves the clock to
    /// the next event first, but not beyond `deadline`.
    fn run_once(&mut self, deadline: Tick, handler: Handler<'_>) {
        let now = self.now();
        let due = self.client.maybe_update_metadata(now);
        let next = due.min(self.client.next_poll_deadline()).min(self.client.next_retry(now));
        if next > now && !self.machine.would_wake() {
            let event = self.machine.next_event().unwrap_or(Tick::NEVER);
            self.machine.advance(next.min(event).min(deadline));
        }
        let now = self.now();
        self.client.poll(now, now, &mut self.completed).unwrap();
        for request in self.receive_requests() {
            if let Some(frame) = handler(&request) {
                self.machine.send_to_client(request.connection, frame, Duration::ZERO);
            }
            self.requests.push(request);
        }
    }

    fn receive_requests(&mut self) -> Vec<ReceivedRequest> {
        let mut out = Vec::new();
        for (connection, broker, input) in self.machine.take_client_input() {
            let ClientInput::Bytes(bytes) = input else { continue };
            let buffer = self.partial_frames.entry(connection).or_default();
            buffer.extend(bytes);
            while let Some(size) = buffer.first_chunk::<4>() {
                let size = i32::from_be_bytes(*size) as usize + 4;
                if buffer.len() < size {
                    break;
                }
                let frame = Bytes::from(buffer.drain(..size).skip(4).collect::<Vec<u8>>());
                let mut reader = Reader::new(&frame);
                let header = RequestHeader::decode(&mut reader).unwrap();
                let body = frame.slice(frame.len() - reader.remaining()..);
                out.push(ReceivedRequest {
                    connection,
                    broker,
                    api: header.api_key,
                    version: header.api_version,
                    correlation_id: header.correlation_id,
                    body,
                });
            }
        }
        out
    }

    /// Runs until `condition` holds; fails after ten virtual minutes or ten thousand rounds.
    fn run_until(&mut self, handler: Handler<'_>, condition: impl Fn(&ClientFixture) -> bool) {
        let deadline = self.now().after(Duration::from_secs(600));
        for _ in 0..10_000 {
            if condition(self) {
                return;
            }
            assert!(self.now() < deadline, "timed out; requests so far: {:?}", self.requests);
            self.run_once(deadline, handler);
        }
        panic!("a busy loop; {} requests so far", self.requests.len());
    }

    /// Runs for this long.
    fn run_for(&mut self, time: Duration, handler: Handler<'_>) {
        let deadline = self.now().after(time);
        for _ in 0..10_000 {
            if self.now() >= deadline {
                return;
            }
            self.run_once(deadline, handler);
        }
        panic!("a busy loop");
    }

    fn has_metadata(&self) -> bool {
        self.client.metadata.last_success.is_some()
    }

    fn received_versions(&self, api: ApiKey) -> Vec<i16> {
        self.requests.iter().filter(|r| r.api == api).map(|r| r.version).collect()
    }

    /// Sends a request whose completion `poll` returns, as the sender does.
    fn send_init_producer_id(&mut self, node: i32) {
        let now = self.now();
        assert!(self.client.is_ready(node, now));
        let request = InitProducerIdRequest::default();
        self.client.send_request(node, &request, 4, RequestKind::InitProducerId, now).unwrap();
    }
}

fn api_versions_response() -> ApiVersionsResponse {
    let all = [
        (ApiKey::PRODUCE, 0, 13),
        (ApiKey::METADATA, 0, 13),
        (ApiKey::API_VERSIONS, 0, 4),
        (ApiKey::INIT_PRODUCER_ID, 0, 5),
        (ApiKey::SASL_HANDSHAKE, 0, 1),
        (ApiKey::SASL_AUTHENTICATE, 0, 2),
    ];
    let key = |(key, min_version, max_version): (ApiKey, i16, i16)| ApiVersion {
        api_key: key.0,
        min_version,
        max_version,
        ..Default::default()
    };
    ApiVersionsResponse { api_keys: all.map(key).to_vec(), ..Default::default() }
}

fn metadata_response(nodes: &[u8]) -> MetadataResponse {
    let broker = |n: &u8| MetadataResponseBroker {
        node_id: i32::from(*n),
        host: broker_address(*n).ip().to_string(),
        port: 9092,
        ..Default::default()
    };
    MetadataResponse { brokers: nodes.iter().map(broker).collect(), ..Default::default() }
}

/// Returns the handler of a broker without faults, in a cluster of these nodes.
fn healthy_broker(nodes: &'static [u8]) -> impl FnMut(&ReceivedRequest) -> Option<Vec<u8>> {
    move |r| match r.api {
        ApiKey::API_VERSIONS => Some(r.encode_response(&api_versions_response())),
        ApiKey::METADATA => Some(r.encode_response(&metadata_response(nodes))),
        ApiKey::INIT_PRODUCER_ID => Some(r.encode_response(&InitProducerIdResponse::default())),
        _ => None,
    }
}

/// Returns a fixture whose client has metadata and is ready to send to each of these nodes.
fn ready_fixture(nodes: &'static [u8]) -> ClientFixture {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    f.run_until(&mut healthy_broker(nodes), ClientFixture::has_metadata);
    for n in nodes {
        let node = i32::from(*n);
        let now = f.now();
        f.client.ready(node, now);
        f.run_until(&mut healthy_broker(nodes), |f| f.client.is_ready(node, f.now()));
    }
    f
}
