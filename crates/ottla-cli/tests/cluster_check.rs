//! Moves an address to another cluster of Kafka 4.4.0, which then refuses the client (KIP-1242).
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ottla::{Producer, Record};
use ottla_testkit::{Jars, Kafka, reserve_ports};
use tracing_subscriber::fmt::MakeWriter;

/// A load balancer: it listens on one port, and forwards connections to another, which can change.
struct Router {
    port: u16,
    state: Arc<Mutex<RouterState>>,
}

/// Connections to this port fail, so the router ends each connection at once.
const NO_TARGET: u16 = 0;

#[derive(Default)]
struct RouterState {
    target: u16,
    connections: Vec<TcpStream>,
}

impl Router {
    fn start() -> Router {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let router = Router { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = router.state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = state.lock().unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", state.target)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                state.connections.push(client);
            }
        });
        router
    }

    /// Forwards new connections to this port, and ends the others.
    fn set_target(&self, port: u16) {
        let mut state = self.state.lock().unwrap();
        state.target = port;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// A cluster of one node, with a listener that advertises the router's address.
struct RoutedKafka {
    kafka: Kafka,
    routed_port: u16,
}

impl RoutedKafka {
    fn start(jars: &Jars, router: &Router) -> RoutedKafka {
        let [routed_port] = reserve_ports();
        let extra = |port: u16, controller_port: u16| {
            format!(
                "listeners=PLAINTEXT://127.0.0.1:{port},ROUTED://127.0.0.1:{routed_port},\
                 CONTROLLER://127.0.0.1:{controller_port}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port},ROUTED://127.0.0.1:{}\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\
                 ROUTED:PLAINTEXT\n",
                router.port
            )
        };
        let kafka = Kafka::start_with(jars, extra, &[], &[]);
        kafka.create_topic("t", 3, &[]);
        RoutedKafka { kafka, routed_port }
    }

    fn values(&self) -> Vec<String> {
        let log = self.kafka.read_topic("t").into_iter();
        let mut values: Vec<_> =
            log.map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect();
        values.sort();
        values
    }
}

/// The producer's events.
static EVENTS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Sends records with these numbers, and waits for each.
fn send(producer: &Producer, numbers: std::ops::Range<u32>) -> Vec<String> {
    let values: Vec<_> = numbers.map(|n| format!("{n:03}")).collect();
    let deliveries: Vec<_> =
        values.iter().map(|v| producer.send(Record::to("t").value(v)).unwrap()).collect();
    for (value, delivery) in values.iter().zip(deliveries) {
        delivery.wait().unwrap_or_else(|e| panic!("{value}: {e}"));
    }
    values
}

/// The node has the same id in both clusters, so they differ only in the cluster's id. Without the
/// check the client would send to the new cluster what it knows of the old one: its producer id and
/// its topic ids.
#[test]
fn client_returns_to_its_bootstrap_servers_when_another_cluster_has_the_address() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let jars = jars.with_version("4.4.0");
    tracing_subscriber::fmt()
        .with_env_filter("ottla=info")
        .with_ansi(false)
        .with_writer(|| EVENTS.make_writer())
        .init();
    let router = Router::start();
    let clusters = [RoutedKafka::start(&jars, &router), RoutedKafka::start(&jars, &router)];
    router.set_target(clusters[0].routed_port);
    let producer = Producer::builder()
        .bootstrap_servers(format!("127.0.0.1:{}", router.port))
        .build()
        .unwrap();
    let first = send(&producer, 0..100);
    // A record that the client writes before it notices the end of its connection may be in the log
    // of the old cluster, and fails.
    router.set_target(NO_TARGET);
    let has_noticed = (0..30_000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        producer.health().connected.is_empty()
    });
    assert!(has_noticed, "{:?}", producer.health());
    router.set_target(clusters[1].routed_port);
    let second = send(&producer, 100..200);
    assert_eq!(clusters[0].values(), first);
    assert_eq!(clusters[1].values(), second);
    producer.close(Duration::from_secs(10)).unwrap();
    let events = String::from_utf8(EVENTS.lock().unwrap().clone()).unwrap();
    let wrong_broker = "broker 1 responds REBOOTSTRAP_REQUIRED: its address belongs to another";
    assert_eq!(events.matches(wrong_broker).count(), 1, "{events}");
    assert_eq!(events.matches("cause=\"wrong_broker\"").count(), 1, "{events}");
}
