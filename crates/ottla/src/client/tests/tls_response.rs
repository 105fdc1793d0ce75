//! Bootstrap servers that are silent after the start of a TLS handshake. The fixture's brokers are:
//! the first bytes of the handshake are the size of a large frame, and they wait for the rest.

use super::*;
use crate::config::secret::Secret;
use crate::config::security::{SecurityStore, TlsSettings, TlsVersions};
use crate::network::tls::TlsConnector;

fn tls_fixture(bootstrap: &[&str]) -> ClientFixture {
    let trust_store = SecurityStore::Inline {
        certificates: Secret::new(ottla_testkit::CertificateAuthority::new("a").pem()),
        key: None,
    };
    let tls = TlsSettings {
        versions: TlsVersions { tls12: true, tls13: true },
        cipher_suites: Vec::new(),
        verify_hostname: true,
        trust_store: Some(trust_store),
        key_store: None,
        key_password: None,
    };
    let connector = TlsConnector::new(tls, Arc::new(SimMachine::new(1, Faults::NONE))).unwrap();
    let tls = Some(Arc::new(connector));
    let security = ConnectionSecurity { tls, ..ConnectionSecurity::default() };
    ClientFixture::new(settings(bootstrap), security)
}

impl ClientFixture {
    fn bootstrap_error(&self) -> Option<String> {
        self.client.observer.health.get(Tick(0)).bootstrap_error
    }

    /// Returns why the last attempt to connect to the server failed; empty if none has.
    fn failure(&self, server: &str) -> String {
        self.client.observer.health.get(Tick(0)).failing.get(server).cloned().unwrap_or_default()
    }

    /// Runs until the error of the bootstrap servers is known. Returns the virtual time that took.
    fn run_until_bootstrap_error(&mut self) -> Duration {
        let start = self.now();
        self.run_until(&mut |_| None, |f| f.bootstrap_error().is_some());
        self.now().since(start)
    }
}

/// The second attempt has the time of any connection: a broker may always need longer.
#[test]
fn silent_server_is_reported_after_one_attempt() {
    let mut f = tls_fixture(&["127.0.0.1"]);
    let elapsed = f.run_until_bootstrap_error();
    assert!(elapsed >= ms(3000) && elapsed < ms(3500), "{elapsed:?}");
    let failure = f.failure("127.0.0.1:9092");
    assert!(failure.contains("TLS handshake within 3000 ms"), "{failure}");
    let start = f.now();
    f.run_until(&mut |_| None, |f| !f.failure("127.0.0.1:9092").contains("within 3000 ms"));
    // 5 s, doubled at each failed attempt, ± 20 %.
    assert!(f.now().since(start) >= ms(4000), "{}", f.failure("127.0.0.1:9092"));
}

#[test]
fn server_that_responds_after_two_seconds_is_waited_for() {
    let mut f = tls_fixture(&["127.0.0.1"]);
    f.run_for(ms(2000), &mut |_| None);
    let connection = *f.partial_frames.keys().next().unwrap();
    assert_eq!(f.partial_frames.len(), 1, "one attempt");
    let alert = vec![21, 3, 3, 0, 2, 2, 40];
    f.machine.send_to_client(connection, alert, Duration::ZERO);
    f.run_until(&mut |_| None, |f| !f.failure("127.0.0.1:9092").is_empty());
    let failure = f.failure("127.0.0.1:9092");
    assert!(failure.contains("handshake failure") || failure.contains("alert"), "{failure}");
}

#[test]
fn silent_servers_are_tried_side_by_side() {
    let mut f = tls_fixture(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    f.run_for(ms(200), &mut |_| None);
    assert_eq!(f.partial_frames.len(), 1, "the first server may be fast");
    let elapsed = ms(200) + f.run_until_bootstrap_error();
    assert!(elapsed >= ms(3000) && elapsed < ms(4000), "{elapsed:?}");
    let error = f.bootstrap_error().unwrap();
    for server in ["127.0.0.1:9092", "127.0.0.2:9092", "127.0.0.3:9092"] {
        assert!(error.contains(server), "{error}");
    }
}

#[test]
fn silent_address_of_a_name_leaves_time_for_the_others() {
    let mut f = tls_fixture(&["kafka.example"]);
    f.machine.set_host("kafka.example", vec![broker_address(1), broker_address(2)]);
    f.run_until(&mut |_| None, |f| !f.failure("kafka.example:9092").is_empty());
    let failure = f.failure("kafka.example:9092");
    assert!(failure.contains("TLS handshake within 1000 ms"), "{failure}");
    f.run_for(ms(2500), &mut |_| None);
    assert!(f.bootstrap_error().is_none(), "the second address has 3 s");
    f.run_until_bootstrap_error();
    assert!(f.failure("kafka.example:9092").contains("within 3000 ms"));
}
