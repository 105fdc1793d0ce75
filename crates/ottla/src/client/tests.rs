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

use super::in_flight::{Done, Purpose};
use super::metadata::MetadataSettings;
use super::nodes::ConnectSettings;
use super::{ClientSettings, NetworkClient, Secured, SharedHealth};
use crate::metrics::Counters;
use crate::network::io::simulated::{Arrived, Faults, Link, Machine};
use crate::network::selector::Selector;
use crate::time::Tick;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A request, as a broker sees it.
#[derive(Debug, Clone)]
struct Asked {
    conn: u64,
    at: SocketAddr,
    api: ApiKey,
    version: i16,
    correlation: i32,
}

impl Asked {
    fn answer<T: ottla_protocol::Wire>(&self, body: &T) -> Vec<u8> {
        encode_response(self.api, self.version, self.correlation, body).unwrap()
    }
}

struct Rig {
    machine: Machine,
    client: NetworkClient<Machine>,
    bytes: BTreeMap<u64, Vec<u8>>,
    ended: Vec<Done>,
    asked: Vec<Asked>,
}

fn broker(n: u8) -> SocketAddr {
    ([127, 0, 0, n], 9092).into()
}

fn settings(bootstrap: &[&str]) -> ClientSettings {
    ClientSettings {
        client_id: "c".into(),
        bootstrap: bootstrap.iter().map(|h| ((*h).to_owned(), 9092)).collect(),
        max_in_flight: 5,
        request_timeout: ms(1000),
        connect: ConnectSettings {
            backoff: ms(50),
            backoff_max: ms(200),
            setup: ms(5000),
            setup_max: ms(20_000),
        },
        metadata: MetadataSettings {
            max_age: Duration::from_secs(3600),
            max_idle: Duration::from_secs(3600),
            backoff: ms(10),
            backoff_max: ms(10),
        },
        rebootstrap: Some(Duration::from_secs(300)),
    }
}

impl Rig {
    fn new(settings: ClientSettings, secured: Secured) -> Rig {
        let machine = Machine::new(1, Faults::NONE);
        (1..=3).for_each(|n| machine.listen(broker(n)));
        let counters = Arc::new(Counters::default());
        let selector = Selector::new(machine.clone(), 1 << 20, None, counters.clone());
        let (env, health) = (Arc::new(machine.clone()), SharedHealth::default());
        let client = NetworkClient::new(settings, secured, env, selector, health, counters);
        Rig { machine, client, bytes: BTreeMap::new(), ended: Vec::new(), asked: Vec::new() }
    }

    fn now(&self) -> Tick {
        self.machine.now()
    }

    /// A round of the client, as the sender has it, at the time it is or at the next at which something happens.
    fn round(&mut self, by: Tick, serve: &mut dyn FnMut(&Asked) -> Option<Vec<u8>>) {
        let now = self.now();
        let due = self.client.maybe_update_metadata(now);
        let next = due.min(self.client.due()).min(self.client.next_chance(now));
        if next > now && !self.machine.would_wake() {
            let event = self.machine.next_event().unwrap_or(Tick::NEVER);
            self.machine.advance(next.min(event).min(by));
        }
        let now = self.now();
        self.client.poll(now, now, &mut self.ended).unwrap();
        for asked in self.hear() {
            if let Some(frame) = serve(&asked) {
                self.machine.answer(asked.conn, frame, Duration::ZERO);
            }
            self.asked.push(asked);
        }
    }

    fn hear(&mut self) -> Vec<Asked> {
        let mut out = Vec::new();
        for (conn, at, what) in self.machine.arrived() {
            let Arrived::Bytes(bytes) = what else { continue };
            let held = self.bytes.entry(conn).or_default();
            held.extend(bytes);
            while let Some(size) = held.first_chunk::<4>() {
                let size = i32::from_be_bytes(*size) as usize + 4;
                if held.len() < size {
                    break;
                }
                let frame = Bytes::from(held.drain(..size).skip(4).collect::<Vec<u8>>());
                let h = RequestHeader::decode(&mut Reader::new(&frame)).unwrap();
                let (api, version, correlation) = (h.api_key, h.api_version, h.correlation_id);
                out.push(Asked { conn, at, api, version, correlation });
            }
        }
        out
    }

    /// Until `what` holds; within ten virtual minutes and ten thousand rounds.
    fn until(
        &mut self,
        serve: &mut dyn FnMut(&Asked) -> Option<Vec<u8>>,
        what: impl Fn(&Rig) -> bool,
    ) {
        let by = self.now().after(Duration::from_secs(600));
        for _ in 0..10_000 {
            if what(self) {
                return;
            }
            assert!(self.now() < by, "it never came: {:?}", self.asked);
            self.round(by, serve);
        }
        panic!("a busy loop: {:?}", self.asked.len());
    }

    /// Goes on for this long, whatever happens.
    fn go_on(&mut self, time: Duration, serve: &mut dyn FnMut(&Asked) -> Option<Vec<u8>>) {
        let by = self.now().after(time);
        for _ in 0..10_000 {
            if self.now() >= by {
                return;
            }
            self.round(by, serve);
        }
        panic!("a busy loop");
    }

    fn seen(&self, api: ApiKey) -> Vec<i16> {
        self.asked.iter().filter(|a| a.api == api).map(|a| a.version).collect()
    }

    /// A request that somebody waits for.
    fn ask(&mut self, node: i32) {
        let now = self.now();
        assert!(self.client.is_ready(node, now));
        let ask = InitProducerIdRequest::default();
        self.client.send(node, &ask, 4, Purpose::ProducerId, now).unwrap();
    }
}

fn versions() -> ApiVersionsResponse {
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

fn cluster(nodes: &[u8]) -> MetadataResponse {
    let node = |n: &u8| MetadataResponseBroker {
        node_id: i32::from(*n),
        host: broker(*n).ip().to_string(),
        port: 9092,
        ..Default::default()
    };
    MetadataResponse { brokers: nodes.iter().map(node).collect(), ..Default::default() }
}

/// A broker as it should be, of a cluster of these.
fn sound(nodes: &'static [u8]) -> impl FnMut(&Asked) -> Option<Vec<u8>> {
    move |a| match a.api {
        ApiKey::API_VERSIONS => Some(a.answer(&versions())),
        ApiKey::METADATA => Some(a.answer(&cluster(nodes))),
        ApiKey::INIT_PRODUCER_ID => Some(a.answer(&InitProducerIdResponse::default())),
        _ => None,
    }
}

fn ready(nodes: &'static [u8]) -> Rig {
    let mut rig = Rig::new(settings(&["127.0.0.1"]), Secured::default());
    rig.until(&mut sound(nodes), |r| r.client.metadata.last_success.is_some());
    for n in nodes {
        let node = i32::from(*n);
        let now = rig.now();
        rig.client.ready(node, now);
        rig.until(&mut sound(nodes), |r| r.client.is_ready(node, r.now()));
    }
    rig
}

#[test]
fn nc2_nc3_versions_are_asked_for_first_and_by_what_the_broker_names() {
    for (named, second) in [(Some((0, 2)), 2), (None, 0)] {
        let mut rig = Rig::new(settings(&["127.0.0.1"]), Secured::default());
        let mut serve = |a: &Asked| match a.api {
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
                Some(encode_response(a.api, 0, a.correlation, &body).unwrap())
            }
            _ => sound(&[1])(a),
        };
        rig.until(&mut serve, |r| r.client.metadata.last_success.is_some());
        assert_eq!(rig.seen(ApiKey::API_VERSIONS), [4, second]);
        assert_eq!(rig.asked[0].api, ApiKey::API_VERSIONS, "before anything else");
    }
    // Any other error: that connection is closed, and another attempt backs off.
    let mut rig = Rig::new(settings(&["127.0.0.1"]), Secured::default());
    let mut serve = |a: &Asked| {
        let error_code = ErrorCode::INVALID_REQUEST.0;
        Some(a.answer(&ApiVersionsResponse { error_code, ..Default::default() }))
    };
    let start = rig.now();
    rig.until(&mut serve, |r| r.asked.len() == 4);
    let conns: Vec<u64> = rig.asked.iter().map(|a| a.conn).collect();
    assert!(conns.windows(2).all(|w| w[0] != w[1]), "a connection each");
    assert!(rig.now().since(start) >= ms(200), "and a pause before each");
}

#[test]
fn nc4_if2_an_answer_that_is_late_closes_the_connection_and_is_nobodys() {
    let mut rig = ready(&[1]);
    rig.ask(1);
    let sent = rig.now();
    rig.until(&mut |_| None, |r| !r.ended.is_empty());
    assert_eq!(rig.now(), sent.after(ms(1000)), "at the time-out, not later");
    let done = rig.ended.remove(0);
    assert!(done.result.unwrap_err().why.contains("request.timeout.ms"));
    let asked = rig.asked.iter().rfind(|a| a.api == ApiKey::INIT_PRODUCER_ID).unwrap().clone();
    rig.machine.answer(
        asked.conn,
        asked.answer(&InitProducerIdResponse::default()),
        Duration::ZERO,
    );
    let metadata = rig.seen(ApiKey::METADATA).len();
    rig.go_on(ms(500), &mut sound(&[1]));
    assert!(rig.ended.is_empty(), "the late answer is nobody's");
    assert!(rig.seen(ApiKey::METADATA).len() > metadata, "news of the cluster is asked for");
}

#[test]
fn nc6_a_throttled_node_is_left_alone_until_its_time_is_over() {
    let mut rig = ready(&[1, 2]);
    let begun = rig.now();
    rig.client.throttle(1, 100, true, begun);
    assert!(!rig.client.is_ready(1, begun) && rig.client.is_ready(2, begun));
    assert_eq!(rig.client.least_loaded(begun), Some(2));
    assert_eq!(rig.client.connection_delay(1, begun), Some(begun.after(ms(100))));
    assert!(!rig.client.is_ready(1, begun.after(ms(99))));
    assert!(rig.client.is_ready(1, begun.after(ms(100))));
    rig.client.throttle(2, i32::MAX, true, begun);
    rig.client.throttle(2, i32::MIN, true, begun);
    let hours = rig.client.connection_delay(2, begun).unwrap();
    assert_eq!(hours.since(begun), ms(i32::MAX as u64));
}

#[test]
fn nc7_lr16_a_connection_that_is_never_ready_is_given_up() {
    // TCP is made and nobody answers, to versions or to who we are; then TCP itself is not made.
    let mute = Link { down_held: true, ..Link::default() };
    for (link, secured) in [
        (mute, Secured::default()),
        (mute, sasl::plain()),
        (Link { up_held: true, ..mute }, Secured::default()),
    ] {
        let patient =
            ClientSettings { request_timeout: Duration::from_secs(60), ..settings(&["127.0.0.1"]) };
        let sasl = secured.sasl.is_some();
        let mut rig = Rig::new(patient, secured);
        rig.machine.set_link(broker(1), link);
        let start = rig.now();
        rig.until(&mut |_| None, |r| !r.client.health.get().failing.is_empty());
        let took = rig.now().since(start);
        assert!(took >= ms(4000) && took <= ms(6001), "5 s, give or take a fifth: {took:?}");
        rig.machine.set_link(broker(1), Link::default());
        if !sasl {
            rig.until(&mut sound(&[1]), |r| r.client.metadata.last_success.is_some());
        }
    }
}

#[test]
fn nc8_the_least_loaded_node() {
    let mut rig = ready(&[1, 2, 3]);
    rig.ask(1);
    rig.ask(2);
    let now = rig.now();
    assert_eq!(rig.client.least_loaded(now), Some(3), "none in flight wins");
    rig.ask(3);
    rig.ask(3);
    rig.ask(2);
    assert_eq!(rig.client.least_loaded(now), Some(1), "else the fewest");
    for _ in 0..4 {
        rig.ask(1);
    }
    assert!(!rig.client.is_ready(1, now), "five in flight are all it takes");
    // One that was not tried for longest comes first.
    let mut rig = Rig::new(settings(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]), Secured::default());
    (1..=3).for_each(|n| rig.machine.unlisten(broker(n)));
    let mut tried = Vec::new();
    for _ in 0..3 {
        let now = rig.now();
        let node = rig.client.least_loaded(now).unwrap();
        tried.push(node);
        rig.client.ready(node, now);
        rig.until(&mut |_| None, |r| r.client.health.get().failing.len() >= tried.len());
    }
    tried.sort_unstable();
    assert_eq!(tried, [-3, -2, -1], "each of them once a round");
}

#[test]
fn nc9_what_was_in_flight_ends_in_order_and_the_clients_own_is_not_told() {
    let mut rig = ready(&[1]);
    let mut mute = |_: &Asked| None;
    rig.ask(1);
    rig.ask(1);
    let now = rig.now();
    rig.client.request_metadata(now);
    let before = rig.seen(ApiKey::METADATA).len();
    rig.until(&mut mute, |r| r.seen(ApiKey::METADATA).len() > before);
    let conn = rig.asked.last().unwrap().conn;
    rig.machine.close(conn);
    rig.until(&mut mute, |r| !r.ended.is_empty());
    let ids: Vec<i32> = rig.ended.iter().map(|d| d.request.correlation).collect();
    assert_eq!(ids.len(), 2, "two, and not the metadata");
    assert!(ids[0] < ids[1]);
    assert!(rig.ended.iter().all(|d| d.result.is_err()));
}

#[test]
fn nc11_correlation_ids_stay_out_of_sasls_range() {
    let mut rig = ready(&[1]);
    rig.client.correlation = super::CORRELATION_RESERVED - 3;
    let ids: Vec<i32> = (0..8).map(|_| rig.client.next_correlation()).collect();
    assert!(ids.iter().all(|id| *id < 2_147_483_640 && *id > 0), "{ids:?}");
    assert!(ids.contains(&1), "and begin anew");
}

#[test]
fn a_foreign_answer_ends_its_connection_alone() {
    let mut rig = ready(&[1, 2]);
    rig.ask(1);
    rig.ask(2);
    let mut serve = |a: &Asked| match (a.api, a.at == broker(1)) {
        (ApiKey::INIT_PRODUCER_ID, true) => {
            let wrong = Asked { correlation: a.correlation + 1, ..a.clone() };
            Some(wrong.answer(&InitProducerIdResponse::default()))
        }
        _ => sound(&[1, 2])(a),
    };
    rig.until(&mut serve, |r| r.ended.len() == 2);
    for done in &rig.ended {
        match (&done.result, done.node) {
            (Ok(_), 2) => {}
            (Err(lost), 1) => assert!(lost.why.contains("it answered request"), "{}", lost.why),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nc14_lr17_a_cluster_that_is_gone_is_looked_for_where_it_began() {
    // The answer asks for it: at once.
    let mut rig = ready(&[2]);
    let now = rig.now();
    rig.client.request_metadata(now);
    let mut serve = |a: &Asked| match a.api {
        ApiKey::METADATA if a.at == broker(2) => {
            let error_code = ErrorCode::REBOOTSTRAP_REQUIRED.0;
            Some(a.answer(&MetadataResponse { error_code, ..cluster(&[2]) }))
        }
        _ => sound(&[3])(a),
    };
    rig.until(&mut serve, |r| r.client.cluster().nodes.contains_key(&3));
    assert!(rig.now().since(now) < ms(1000));
    // All known brokers are gone: after some attempts, not after minutes.
    let mut rig = ready(&[2]);
    rig.machine.unlisten(broker(2));
    rig.machine.reset(broker(2));
    let now = rig.now();
    rig.client.request_metadata(now);
    rig.until(&mut sound(&[3]), |r| r.client.cluster().nodes.contains_key(&3));
    assert!(rig.now().since(now) < ms(3000), "{:?}", rig.now().since(now));
    // It need not be wanted.
    let mut none = settings(&["127.0.0.1"]);
    none.rebootstrap = None;
    let mut rig = Rig::new(none, Secured::default());
    rig.until(&mut sound(&[2]), |r| r.client.metadata.last_success.is_some());
    rig.machine.unlisten(broker(2));
    rig.machine.reset(broker(2));
    let now = rig.now();
    rig.client.request_metadata(now);
    rig.go_on(Duration::from_secs(30), &mut sound(&[3]));
    assert!(rig.client.cluster().nodes.contains_key(&2));
}

#[test]
fn nc1_nc17_names_that_do_not_resolve_yet_are_asked_for_again() {
    let mut rig = Rig::new(settings(&["kafka.example"]), Secured::default());
    rig.go_on(Duration::from_secs(5), &mut sound(&[1]));
    let text = rig.client.health.complaint().unwrap();
    assert!(text.contains("kafka.example cannot be resolved"), "{text}");
    rig.machine.name("kafka.example", vec![broker(1)]);
    rig.until(&mut sound(&[1]), |r| r.client.metadata.last_success.is_some());
}

#[test]
fn nc12_cs5_every_address_of_a_name_is_tried() {
    let mut rig = Rig::new(settings(&["kafka.example"]), Secured::default());
    rig.machine.name("kafka.example", vec![broker(1), broker(2), broker(3)]);
    rig.machine.unlisten(broker(1));
    rig.machine.unlisten(broker(2));
    rig.until(&mut sound(&[3]), |r| r.client.metadata.last_success.is_some());
    assert!(rig.asked.iter().all(|a| a.at == broker(3)));
}

#[test]
fn sn2_throttling_is_measured_from_every_answer() {
    let mut rig = ready(&[1]);
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
    let mut rig = ready(&[1]);
    let begun = rig.now();
    rig.client.throttle(1, 2000, true, begun);
    rig.go_on(ms(1000), &mut sound(&[1]));
    let now = rig.now();
    rig.client.throttle(1, 3000, true, now);
    assert!(rig.client.health.complaint().unwrap().contains("pause"));
    rig.go_on(ms(2500), &mut sound(&[1]));
    assert_eq!(rig.client.health.get().paused.len(), 1, "extended");
    rig.go_on(ms(1000), &mut sound(&[1]));
    assert!(rig.client.health.get().paused.is_empty() && rig.client.health.complaint().is_none());
}

/// The first brokers name others that cannot be had (a wrong `advertised.listeners`, most likely).
#[test]
fn lr17_a_cluster_that_cannot_be_had_is_not_looked_for_in_a_loop() {
    let mut rig = ready(&[2]);
    rig.machine.unlisten(broker(2));
    rig.machine.reset(broker(2));
    rig.asked.clear();
    for _ in 0..600 {
        // Somebody has records for it.
        let now = rig.now();
        rig.client.ready(2, now);
        rig.go_on(ms(100), &mut sound(&[2]));
    }
    let asked = rig.asked.iter().filter(|a| a.at == broker(1) && a.api == ApiKey::METADATA).count();
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
