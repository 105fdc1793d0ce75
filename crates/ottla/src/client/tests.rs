//! The client over the seam, with brokers that say what a test wants them to say.

mod sasl;

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

use super::connection_states::ConnectSettings;
use super::in_flight_requests::{CompletedRequest, RequestKind};
use super::metadata_updater::MetadataSettings;
use super::{ClientSettings, ConnectionSecurity, NetworkClient, SharedHealth};
use crate::metrics::Counters;
use crate::network::io::simulated::{ClientInput, Faults, Link, SimMachine};
use crate::network::selector::Selector;
use crate::time::Tick;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A request, as a broker sees it.
#[derive(Debug, Clone)]
struct ReceivedRequest {
    conn: u64,
    broker: SocketAddr,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl ReceivedRequest {
    fn encode_response<T: ottla_protocol::Wire>(&self, body: &T) -> Vec<u8> {
        encode_response(self.api, self.version, self.correlation_id, body).unwrap()
    }
}

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
        },
        metadata: MetadataSettings {
            max_age: Duration::from_secs(3600),
            max_idle: Duration::from_secs(3600),
            backoff: ms(10),
            backoff_max: ms(10),
        },
        rebootstrap_trigger: Some(Duration::from_secs(300)),
    }
}

impl ClientFixture {
    fn new(settings: ClientSettings, secured: ConnectionSecurity) -> ClientFixture {
        let machine = SimMachine::new(1, Faults::NONE);
        (1..=3).for_each(|n| machine.listen(broker_address(n)));
        let counters = Arc::new(Counters::default());
        let selector = Selector::new(machine.clone(), 1 << 20, None, counters.clone());
        let (env, health) = (Arc::new(machine.clone()), SharedHealth::default());
        let client = NetworkClient::new(settings, secured, env, selector, health, counters);
        ClientFixture {
            machine,
            client,
            partial_frames: BTreeMap::new(),
            completed: Vec::new(),
            requests: Vec::new(),
        }
    }

    fn now(&self) -> Tick {
        self.machine.now()
    }

    /// A round of the client, as the sender has it, at the time it is or at the next at which something happens.
    fn run_once(&mut self, by: Tick, serve: &mut dyn FnMut(&ReceivedRequest) -> Option<Vec<u8>>) {
        let now = self.now();
        let due = self.client.maybe_update_metadata(now);
        let next = due.min(self.client.next_poll_deadline()).min(self.client.next_retry(now));
        if next > now && !self.machine.would_wake() {
            let event = self.machine.next_event().unwrap_or(Tick::NEVER);
            self.machine.advance(next.min(event).min(by));
        }
        let now = self.now();
        self.client.poll(now, now, &mut self.completed).unwrap();
        for asked in self.receive_requests() {
            if let Some(frame) = serve(&asked) {
                self.machine.send_to_client(asked.conn, frame, Duration::ZERO);
            }
            self.requests.push(asked);
        }
    }

    fn receive_requests(&mut self) -> Vec<ReceivedRequest> {
        let mut out = Vec::new();
        for (conn, at, what) in self.machine.take_client_input() {
            let ClientInput::Bytes(bytes) = what else { continue };
            let held = self.partial_frames.entry(conn).or_default();
            held.extend(bytes);
            while let Some(size) = held.first_chunk::<4>() {
                let size = i32::from_be_bytes(*size) as usize + 4;
                if held.len() < size {
                    break;
                }
                let frame = Bytes::from(held.drain(..size).skip(4).collect::<Vec<u8>>());
                let h = RequestHeader::decode(&mut Reader::new(&frame)).unwrap();
                let (api, version, correlation) = (h.api_key, h.api_version, h.correlation_id);
                out.push(ReceivedRequest {
                    conn,
                    broker: at,
                    api,
                    version,
                    correlation_id: correlation,
                });
            }
        }
        out
    }

    /// Until `what` holds; within ten virtual minutes and ten thousand rounds.
    fn run_until(
        &mut self,
        serve: &mut dyn FnMut(&ReceivedRequest) -> Option<Vec<u8>>,
        what: impl Fn(&ClientFixture) -> bool,
    ) {
        let by = self.now().after(Duration::from_secs(600));
        for _ in 0..10_000 {
            if what(self) {
                return;
            }
            assert!(self.now() < by, "it never came: {:?}", self.requests);
            self.run_once(by, serve);
        }
        panic!("a busy loop: {:?}", self.requests.len());
    }

    /// Goes on for this long, whatever happens.
    fn run_for(
        &mut self,
        time: Duration,
        serve: &mut dyn FnMut(&ReceivedRequest) -> Option<Vec<u8>>,
    ) {
        let by = self.now().after(time);
        for _ in 0..10_000 {
            if self.now() >= by {
                return;
            }
            self.run_once(by, serve);
        }
        panic!("a busy loop");
    }

    fn received_versions(&self, api: ApiKey) -> Vec<i16> {
        self.requests.iter().filter(|a| a.api == api).map(|a| a.version).collect()
    }

    /// A request that somebody waits for.
    fn send_init_producer_id(&mut self, node: i32) {
        let now = self.now();
        assert!(self.client.is_ready(node, now));
        let ask = InitProducerIdRequest::default();
        self.client.send(node, &ask, 4, RequestKind::InitProducerId, now).unwrap();
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
    let node = |n: &u8| MetadataResponseBroker {
        node_id: i32::from(*n),
        host: broker_address(*n).ip().to_string(),
        port: 9092,
        ..Default::default()
    };
    MetadataResponse { brokers: nodes.iter().map(node).collect(), ..Default::default() }
}

/// A broker as it should be, of a cluster of these.
fn healthy_broker(nodes: &'static [u8]) -> impl FnMut(&ReceivedRequest) -> Option<Vec<u8>> {
    move |a| match a.api {
        ApiKey::API_VERSIONS => Some(a.encode_response(&api_versions_response())),
        ApiKey::METADATA => Some(a.encode_response(&metadata_response(nodes))),
        ApiKey::INIT_PRODUCER_ID => Some(a.encode_response(&InitProducerIdResponse::default())),
        _ => None,
    }
}

fn ready_fixture(nodes: &'static [u8]) -> ClientFixture {
    let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), ConnectionSecurity::default());
    rig.run_until(&mut healthy_broker(nodes), |r| r.client.metadata.last_success.is_some());
    for n in nodes {
        let node = i32::from(*n);
        let now = rig.now();
        rig.client.ready(node, now);
        rig.run_until(&mut healthy_broker(nodes), |r| r.client.is_ready(node, r.now()));
    }
    rig
}

#[test]
fn nc2_nc3_versions_are_asked_for_first_and_by_what_the_broker_names() {
    for (named, second) in [(Some((0, 2)), 2), (None, 0)] {
        let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), ConnectionSecurity::default());
        let mut serve = |a: &ReceivedRequest| match a.api {
            ApiKey::API_VERSIONS if a.version == 4 => {
                let key = ApiVersion {
                    api_key: 18,
                    min_version: 0,
                    max_version: 2,
                    ..Default::default()
                };
                let api_keys = named.map(|_| key).into_iter().collect();
                let error_code = ErrorCode::UNSUPPORTED_VERSION.0;
                let body = ApiVersionsResponse { error_code, api_keys, ..Default::default() };
                Some(encode_response(a.api, 0, a.correlation_id, &body).unwrap())
            }
            _ => healthy_broker(&[1])(a),
        };
        rig.run_until(&mut serve, |r| r.client.metadata.last_success.is_some());
        assert_eq!(rig.received_versions(ApiKey::API_VERSIONS), [4, second]);
        assert_eq!(rig.requests[0].api, ApiKey::API_VERSIONS, "before anything else");
    }
    // Any other error: that connection is closed, and another attempt backs off.
    let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), ConnectionSecurity::default());
    let mut serve = |a: &ReceivedRequest| {
        let error_code = ErrorCode::INVALID_REQUEST.0;
        Some(a.encode_response(&ApiVersionsResponse { error_code, ..Default::default() }))
    };
    let start = rig.now();
    rig.run_until(&mut serve, |r| r.requests.len() == 4);
    let conns: Vec<u64> = rig.requests.iter().map(|a| a.conn).collect();
    assert!(conns.windows(2).all(|w| w[0] != w[1]), "a connection each");
    assert!(rig.now().since(start) >= ms(200), "and a pause before each");
}

#[test]
fn nc4_if2_an_answer_that_is_late_closes_the_connection_and_is_nobodys() {
    let mut rig = ready_fixture(&[1]);
    rig.send_init_producer_id(1);
    let sent = rig.now();
    rig.run_until(&mut |_| None, |r| !r.completed.is_empty());
    assert_eq!(rig.now(), sent.after(ms(1000)), "at the time-out, not later");
    let done = rig.completed.remove(0);
    assert!(done.result.unwrap_err().reason.contains("request.timeout.ms"));
    let asked = rig.requests.iter().rfind(|a| a.api == ApiKey::INIT_PRODUCER_ID).unwrap().clone();
    rig.machine.send_to_client(
        asked.conn,
        asked.encode_response(&InitProducerIdResponse::default()),
        Duration::ZERO,
    );
    let metadata = rig.received_versions(ApiKey::METADATA).len();
    rig.run_for(ms(500), &mut healthy_broker(&[1]));
    assert!(rig.completed.is_empty(), "the late answer is nobody's");
    assert!(
        rig.received_versions(ApiKey::METADATA).len() > metadata,
        "news of the cluster is asked for"
    );
}

#[test]
fn nc6_a_throttled_node_is_left_alone_until_its_time_is_over() {
    let mut rig = ready_fixture(&[1, 2]);
    let begun = rig.now();
    rig.client.throttle(1, 100, true, begun);
    assert!(!rig.client.is_ready(1, begun) && rig.client.is_ready(2, begun));
    assert_eq!(rig.client.least_loaded_node(begun), Some(2));
    assert_eq!(rig.client.earliest_ready_at(1, begun), Some(begun.after(ms(100))));
    assert!(!rig.client.is_ready(1, begun.after(ms(99))));
    assert!(rig.client.is_ready(1, begun.after(ms(100))));
    rig.client.throttle(2, i32::MAX, true, begun);
    rig.client.throttle(2, i32::MIN, true, begun);
    let hours = rig.client.earliest_ready_at(2, begun).unwrap();
    assert_eq!(hours.since(begun), ms(i32::MAX as u64));
}

#[test]
fn nc7_lr16_a_connection_that_is_never_ready_is_given_up() {
    // TCP is made and nobody answers, to versions or to who we are; then TCP itself is not made.
    let mute = Link { down_held: true, ..Link::default() };
    for (link, secured) in [
        (mute, ConnectionSecurity::default()),
        (mute, sasl::plain_security()),
        (Link { up_held: true, ..mute }, ConnectionSecurity::default()),
    ] {
        let patient =
            ClientSettings { request_timeout: Duration::from_secs(60), ..settings(&["127.0.0.1"]) };
        let sasl = secured.sasl.is_some();
        let mut rig = ClientFixture::new(patient, secured);
        rig.machine.set_link(broker_address(1), link);
        let start = rig.now();
        rig.run_until(&mut |_| None, |r| !r.client.health.get().failing.is_empty());
        let took = rig.now().since(start);
        assert!(took >= ms(4000) && took <= ms(6001), "5 s, give or take a fifth: {took:?}");
        rig.machine.set_link(broker_address(1), Link::default());
        if !sasl {
            rig.run_until(&mut healthy_broker(&[1]), |r| r.client.metadata.last_success.is_some());
        }
    }
}

#[test]
fn nc8_the_least_loaded_node() {
    let mut rig = ready_fixture(&[1, 2, 3]);
    rig.send_init_producer_id(1);
    rig.send_init_producer_id(2);
    let now = rig.now();
    assert_eq!(rig.client.least_loaded_node(now), Some(3), "none in flight wins");
    rig.send_init_producer_id(3);
    rig.send_init_producer_id(3);
    rig.send_init_producer_id(2);
    assert_eq!(rig.client.least_loaded_node(now), Some(1), "else the fewest");
    for _ in 0..4 {
        rig.send_init_producer_id(1);
    }
    assert!(!rig.client.is_ready(1, now), "five in flight are all it takes");
    // One that was not tried for longest comes first.
    let mut rig = ClientFixture::new(
        settings(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
        ConnectionSecurity::default(),
    );
    (1..=3).for_each(|n| rig.machine.stop_listening(broker_address(n)));
    let mut tried = Vec::new();
    for _ in 0..3 {
        let now = rig.now();
        let node = rig.client.least_loaded_node(now).unwrap();
        tried.push(node);
        rig.client.ready(node, now);
        rig.run_until(&mut |_| None, |r| r.client.health.get().failing.len() >= tried.len());
    }
    tried.sort_unstable();
    assert_eq!(tried, [-3, -2, -1], "each of them once a round");
}

#[test]
fn nc9_what_was_in_flight_ends_in_order_and_the_clients_own_is_not_told() {
    let mut rig = ready_fixture(&[1]);
    let mut mute = |_: &ReceivedRequest| None;
    rig.send_init_producer_id(1);
    rig.send_init_producer_id(1);
    let now = rig.now();
    rig.client.request_metadata(now);
    let before = rig.received_versions(ApiKey::METADATA).len();
    rig.run_until(&mut mute, |r| r.received_versions(ApiKey::METADATA).len() > before);
    let conn = rig.requests.last().unwrap().conn;
    rig.machine.close_connection(conn);
    rig.run_until(&mut mute, |r| !r.completed.is_empty());
    let ids: Vec<i32> = rig.completed.iter().map(|d| d.request.correlation_id).collect();
    assert_eq!(ids.len(), 2, "two, and not the metadata");
    assert!(ids[0] < ids[1]);
    assert!(rig.completed.iter().all(|d| d.result.is_err()));
}

#[test]
fn nc11_correlation_ids_stay_out_of_sasls_range() {
    let mut rig = ready_fixture(&[1]);
    rig.client.correlation = super::MIN_RESERVED_CORRELATION_ID - 3;
    let ids: Vec<i32> = (0..8).map(|_| rig.client.next_correlation_id()).collect();
    assert!(ids.iter().all(|id| *id < 2_147_483_640 && *id > 0), "{ids:?}");
    assert!(ids.contains(&1), "and begin anew");
}

#[test]
fn a_foreign_answer_ends_its_connection_alone() {
    let mut rig = ready_fixture(&[1, 2]);
    rig.send_init_producer_id(1);
    rig.send_init_producer_id(2);
    let mut serve = |a: &ReceivedRequest| match (a.api, a.broker == broker_address(1)) {
        (ApiKey::INIT_PRODUCER_ID, true) => {
            let wrong = ReceivedRequest { correlation_id: a.correlation_id + 1, ..a.clone() };
            Some(wrong.encode_response(&InitProducerIdResponse::default()))
        }
        _ => healthy_broker(&[1, 2])(a),
    };
    rig.run_until(&mut serve, |r| r.completed.len() == 2);
    for done in &rig.completed {
        match (&done.result, done.node) {
            (Ok(_), 2) => {}
            (Err(lost), 1) => {
                assert!(lost.reason.contains("it answered request"), "{}", lost.reason);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nc14_lr17_a_cluster_that_is_gone_is_looked_for_where_it_began() {
    // The answer asks for it: at once.
    let mut rig = ready_fixture(&[2]);
    let now = rig.now();
    rig.client.request_metadata(now);
    let mut serve = |a: &ReceivedRequest| match a.api {
        ApiKey::METADATA if a.broker == broker_address(2) => {
            let error_code = ErrorCode::REBOOTSTRAP_REQUIRED.0;
            Some(a.encode_response(&MetadataResponse { error_code, ..metadata_response(&[2]) }))
        }
        _ => healthy_broker(&[3])(a),
    };
    rig.run_until(&mut serve, |r| r.client.cluster().nodes.contains_key(&3));
    assert!(rig.now().since(now) < ms(1000));
    // All known brokers are gone: after some attempts, not after minutes.
    let mut rig = ready_fixture(&[2]);
    rig.machine.stop_listening(broker_address(2));
    rig.machine.reset_server(broker_address(2));
    let now = rig.now();
    rig.client.request_metadata(now);
    rig.run_until(&mut healthy_broker(&[3]), |r| r.client.cluster().nodes.contains_key(&3));
    assert!(rig.now().since(now) < ms(3000), "{:?}", rig.now().since(now));
    // It need not be wanted.
    let mut none = settings(&["127.0.0.1"]);
    none.rebootstrap_trigger = None;
    let mut rig = ClientFixture::new(none, ConnectionSecurity::default());
    rig.run_until(&mut healthy_broker(&[2]), |r| r.client.metadata.last_success.is_some());
    rig.machine.stop_listening(broker_address(2));
    rig.machine.reset_server(broker_address(2));
    let now = rig.now();
    rig.client.request_metadata(now);
    rig.run_for(Duration::from_secs(30), &mut healthy_broker(&[3]));
    assert!(rig.client.cluster().nodes.contains_key(&2));
}

#[test]
fn nc1_nc17_names_that_do_not_resolve_yet_are_asked_for_again() {
    let mut rig = ClientFixture::new(settings(&["kafka.example"]), ConnectionSecurity::default());
    rig.run_for(Duration::from_secs(5), &mut healthy_broker(&[1]));
    let text = rig.client.health.unreachable_summary().unwrap();
    assert!(text.contains("kafka.example cannot be resolved"), "{text}");
    rig.machine.set_host("kafka.example", vec![broker_address(1)]);
    rig.run_until(&mut healthy_broker(&[1]), |r| r.client.metadata.last_success.is_some());
}

#[test]
fn nc12_cs5_every_address_of_a_name_is_tried() {
    let mut rig = ClientFixture::new(settings(&["kafka.example"]), ConnectionSecurity::default());
    rig.machine
        .set_host("kafka.example", vec![broker_address(1), broker_address(2), broker_address(3)]);
    rig.machine.stop_listening(broker_address(1));
    rig.machine.stop_listening(broker_address(2));
    rig.run_until(&mut healthy_broker(&[3]), |r| r.client.metadata.last_success.is_some());
    assert!(rig.requests.iter().all(|a| a.broker == broker_address(3)));
}

#[test]
fn sn2_throttling_is_measured_from_every_answer() {
    let mut rig = ready_fixture(&[1]);
    let begun = rig.now();
    for ms in [400, 100, 200, 300] {
        // Brokers before some versions hold back themselves, and say so all the same.
        rig.client.throttle(1, ms, ms == 100, begun);
    }
    let metrics = rig.client.counters.sensors.read("c", begun);
    let value = |name: &str| metrics.iter().find(|m| m.name == name).unwrap().value.to_string();
    // And the zeros of answers before.
    assert_eq!(value("produce-throttle-time-max"), "400.000");
    assert!(value("produce-throttle-time-avg").parse::<f64>().unwrap() > 100.0);
    assert!(rig.client.is_ready(1, begun.after(ms(100))), "the one that counts is over");
}

#[test]
fn what_is_told_of_a_pause_ends_with_it() {
    let mut rig = ready_fixture(&[1]);
    let begun = rig.now();
    rig.client.throttle(1, 2000, true, begun);
    rig.run_for(ms(1000), &mut healthy_broker(&[1]));
    let now = rig.now();
    rig.client.throttle(1, 3000, true, now);
    assert!(rig.client.health.unreachable_summary().unwrap().contains("pause"));
    rig.run_for(ms(2500), &mut healthy_broker(&[1]));
    assert_eq!(rig.client.health.get().throttled.len(), 1, "extended");
    rig.run_for(ms(1000), &mut healthy_broker(&[1]));
    assert!(
        rig.client.health.get().throttled.is_empty()
            && rig.client.health.unreachable_summary().is_none()
    );
}

/// The first brokers name others that cannot be had (a wrong `advertised.listeners`, most likely).
#[test]
fn lr17_a_cluster_that_cannot_be_had_is_not_looked_for_in_a_loop() {
    let mut rig = ready_fixture(&[2]);
    rig.machine.stop_listening(broker_address(2));
    rig.machine.reset_server(broker_address(2));
    rig.requests.clear();
    for _ in 0..600 {
        // Somebody has records for it.
        let now = rig.now();
        rig.client.ready(2, now);
        rig.run_for(ms(100), &mut healthy_broker(&[2]));
    }
    let asked = rig
        .requests
        .iter()
        .filter(|a| a.broker == broker_address(1) && a.api == ApiKey::METADATA)
        .count();
    assert!((2..=12).contains(&asked), "{asked} times in a minute");
}

#[test]
fn fg4_how_we_name_ourselves_is_a_name_that_brokers_take() {
    for name in ["ottla", env!("CARGO_PKG_VERSION")] {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        assert!(
            name.chars().all(inner) && end(name.chars().next()) && end(name.chars().last()),
            "{name}"
        );
    }
}
