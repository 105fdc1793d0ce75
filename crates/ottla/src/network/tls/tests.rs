//! Tests of TLS sessions over simulated connections, with rustls's server as the broker.

mod certificates;
mod content;
mod handshake_end;
mod matrix;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::TlsConnector;
use crate::config::secret::Secret;
use crate::config::security::{SecurityStore, TlsSettings, TlsVersions};
use crate::env::Env;
use crate::error::Error;
use crate::network::channel::DisconnectReason;
use crate::network::selector::PollResult;
use crate::network::tests::SelectorFixture;
use crate::sim::{Faults, SimMachine};

const TLS12: TlsVersions = TlsVersions { tls12: true, tls13: false };
const TLS13: TlsVersions = TlsVersions { tls12: false, tls13: true };
const TLS12_AND_13: TlsVersions = TlsVersions { tls12: true, tls13: true };

type CertificateAuthority = CertifiedIssuer<'static, KeyPair>;

fn install_provider() -> Arc<CryptoProvider> {
    // ring is a dev-dependency, so tests have it with any feature. A provider that an earlier test
    // installed stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    CryptoProvider::get_default().unwrap().clone()
}

fn create_authority(name: &str) -> CertificateAuthority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of an authority, and its key.
struct IssuedCertificate {
    cert: rcgen::Certificate,
    key: KeyPair,
}

impl IssuedCertificate {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.cert.der().clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    fn pem(&self) -> String {
        format!("{}{}", self.key.serialize_pem(), self.cert.pem())
    }
}

/// Issues a certificate for `hosts` with the common name broker.example. `years` are the first year
/// in which it is valid and the first in which it is not.
fn issue_certificate(
    ca: &CertificateAuthority,
    hosts: &[&str],
    years: Option<(i32, i32)>,
) -> IssuedCertificate {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, "broker.example");
    if let Some((from, to)) = years {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
    }
    let cert = params.signed_by(&key, ca).unwrap();
    IssuedCertificate { cert, key }
}

fn tls_settings(ca: &CertificateAuthority) -> TlsSettings {
    TlsSettings {
        versions: TLS12_AND_13,
        cipher_suites: Vec::new(),
        verify_hostname: true,
        trust_store: Some(SecurityStore::Inline { certificates: Secret::new(ca.pem()), key: None }),
        key_store: None,
        key_password: None,
    }
}

fn new_connector(settings: TlsSettings) -> Result<TlsConnector, Error> {
    install_provider();
    let env: Arc<dyn Env> = Arc::new(SimMachine::new(1, Faults::NONE));
    TlsConnector::new(settings, env)
}

fn server_config(
    certificate: &IssuedCertificate,
    client_ca: Option<&CertificateAuthority>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(install_provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), install_provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    Arc::new(builder.with_single_cert(certificate.chain(), certificate.key()).unwrap())
}

/// Connects to a server that echoes bytes, sends ten frames and awaits each echo. Returns the
/// number of polls that this took.
fn run_echo(
    connector: &TlsConnector,
    host: &str,
    config: &Arc<ServerConfig>,
    faults: Faults,
) -> Result<u32, DisconnectReason> {
    let mut fixture = SelectorFixture::new(11, faults);
    let key = fixture.connect(Some(connector.create_session(host).unwrap()));
    let mut sessions: BTreeMap<u64, ServerConnection> = BTreeMap::new();
    let mut result = PollResult::default();
    let (mut sent, mut received, mut is_open) = (0u32, 0u32, false);
    // Some bodies are larger than the ciphertext buffer.
    let body = |n: u32| Bytes::from(vec![n as u8; (n as usize % 7) * 9000 + 1]);
    while received < 10 {
        if is_open && sent == received && fixture.selector.can_send(key) {
            let (now, body) = (fixture.machine.now(), body(sent));
            let size = Bytes::copy_from_slice(&(body.len() as i32).to_be_bytes());
            fixture.selector.send(key, vec![size, body], now);
            sent += 1;
        }
        assert!(
            fixture.step(&mut result),
            "no more events: {sent} frames sent, {received} received, open: {is_open}"
        );
        assert!(fixture.poll_count < 20_000, "busy loop");
        is_open |= result.connected.contains(&key);
        for (_, bytes) in result.completed_receives.drain(..) {
            assert_eq!(bytes, body(received));
            received += 1;
        }
        for (conn, bytes) in fixture.received_bytes() {
            let session = sessions
                .entry(conn)
                .or_insert_with(|| ServerConnection::new(config.clone()).unwrap());
            serve_echo(&fixture, session, conn, &bytes);
        }
        if let Some((_, reason)) = result.disconnected.pop() {
            return Err(reason);
        }
    }
    Ok(fixture.poll_count)
}

/// Decrypts the client's bytes and sends the plaintext back. Closes the connection if the server
/// rejects the client, after its alert.
fn serve_echo(
    fixture: &SelectorFixture,
    session: &mut ServerConnection,
    conn: u64,
    mut bytes: &[u8],
) {
    while !bytes.is_empty() {
        session.read_tls(&mut bytes).unwrap();
        let is_rejected = session.process_new_packets().is_err();
        let mut plaintext = Vec::new();
        let _ = session.reader().read_to_end(&mut plaintext);
        session.writer().write_all(&plaintext).unwrap();
        let mut ciphertext = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut ciphertext).unwrap();
        }
        if !ciphertext.is_empty() {
            fixture.machine.send_to_client(conn, ciphertext, Duration::ZERO);
        }
        if is_rejected {
            fixture.machine.close_connection(conn);
            return;
        }
    }
}

/// Sockets that take and return few bytes at a time, with delays.
const FRAGMENTED: Faults = Faults {
    max_delay_ns: 10_000,
    max_io_bytes: 700,
    stall_one_in: 9,
    disconnect_one_in: 0,
    window_bytes: 16_384,
};

fn assert_rejected(result: Result<u32, DisconnectReason>, expected: &[&str]) {
    match result {
        Err(DisconnectReason::AuthenticationFailed { text, .. }) => {
            for part in expected {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
        }
        other => panic!("{other:?} is not an authentication failure ({expected:?})"),
    }
}

// CASES: TL1, TL5.
#[test]
fn both_versions_connect_by_host_name_and_address_with_any_fragmentation() {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["broker.example", "127.0.0.1"], None);
    for versions in [TLS12, TLS13, TLS12_AND_13] {
        let connector = new_connector(TlsSettings { versions, ..tls_settings(&ca) }).unwrap();
        for faults in [Faults::NONE, FRAGMENTED, Faults { max_io_bytes: 1, ..Faults::NONE }] {
            for host in ["broker.example", "127.0.0.1", "broker.example."] {
                let result = run_echo(&connector, host, &server_config(&certificate, None), faults);
                assert!(result.is_ok(), "{versions:?} {faults:?} {host}: {result:?}");
            }
        }
    }
}

// CASES: SE10.
#[test]
fn decrypted_bytes_are_processed_without_a_busy_loop() {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["b"], None);
    let polls = run_echo(
        &new_connector(tls_settings(&ca)).unwrap(),
        "b",
        &server_config(&certificate, None),
        Faults::NONE,
    );
    // A round trip takes one or two polls, a large body some more.
    assert!(polls.unwrap() < 150, "busy loop");
}

// CASES: TL1.
#[test]
fn certificate_of_another_host_is_rejected_unless_host_names_are_ignored() {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["broker.example"], None);
    let strict = new_connector(tls_settings(&ca)).unwrap();
    let config = server_config(&certificate, None);
    let result = run_echo(&strict, "other.example", &config, FRAGMENTED);
    assert_rejected(result, &["not for other.example but for broker.example"]);
    let result = run_echo(&strict, "127.0.0.1", &config, Faults::NONE);
    assert_rejected(result, &["not for 127.0.0.1"]);
    let lenient = TlsSettings { verify_hostname: false, ..tls_settings(&ca) };
    let lenient = new_connector(lenient).unwrap();
    assert!(run_echo(&lenient, "other.example", &config, FRAGMENTED).is_ok());
    // Without the host name, the certificate must still be trusted.
    let untrusted = issue_certificate(&create_authority("B"), &["other.example"], None);
    assert_rejected(
        run_echo(&lenient, "other.example", &server_config(&untrusted, None), FRAGMENTED),
        &["CN=B", "truststore"],
    );
    let common_name_only = issue_certificate(&ca, &[], None);
    let config = server_config(&common_name_only, None);
    assert_rejected(
        run_echo(&strict, "broker.example", &config, FRAGMENTED),
        &["no subject alternative name", "common name alone does not count"],
    );
}

#[test]
fn expired_and_future_certificates_are_rejected_with_their_dates() {
    let ca = create_authority("A");
    let connector = new_connector(tls_settings(&ca)).unwrap();
    let expired = issue_certificate(&ca, &["b"], Some((2019, 2021)));
    assert_rejected(
        run_echo(&connector, "b", &server_config(&expired, None), FRAGMENTED),
        &["CN=broker.example", "expired on Jan  1", "2021"],
    );
    // The clock is the simulated one, which begins in 2023.
    let future = issue_certificate(&ca, &["b"], Some((2024, 2999)));
    assert_rejected(
        run_echo(&connector, "b", &server_config(&future, None), FRAGMENTED),
        &["not valid before Jan  1", "2024"],
    );
}

// CASES: TL2.
#[test]
fn missing_or_untrusted_client_certificate_is_an_authentication_failure() {
    let (ca, client_ca) = (create_authority("A"), create_authority("C"));
    let certificate = issue_certificate(&ca, &["b"], None);
    let config = server_config(&certificate, Some(&client_ca));
    for versions in [TLS12, TLS13] {
        let no_certificate = new_connector(TlsSettings { versions, ..tls_settings(&ca) }).unwrap();
        assert_rejected(
            run_echo(&no_certificate, "b", &config, FRAGMENTED),
            &["alert", "ssl.keystore.location"],
        );
        let with_certificate_of = |issuer: &CertificateAuthority| {
            let client = issue_certificate(issuer, &["client"], None);
            let store = SecurityStore::Inline {
                certificates: Secret::new(client.cert.pem()),
                key: Some(Secret::new(client.key.serialize_pem())),
            };
            let key_store = Some(store);
            new_connector(TlsSettings { versions, key_store, ..tls_settings(&ca) }).unwrap()
        };
        assert!(run_echo(&with_certificate_of(&client_ca), "b", &config, FRAGMENTED).is_ok());
        let untrusted = with_certificate_of(&ca);
        assert_rejected(run_echo(&untrusted, "b", &config, FRAGMENTED), &["alert"]);
    }
}

// CASES: TL5.
#[test]
fn no_common_version_or_cipher_suite_is_an_error() {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["b"], None);
    let tls12_only = ServerConfig::builder_with_provider(install_provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificate.chain(), certificate.key())
        .unwrap();
    let connector = new_connector(TlsSettings { versions: TLS13, ..tls_settings(&ca) }).unwrap();
    assert_rejected(
        run_echo(&connector, "b", &Arc::new(tls12_only), FRAGMENTED),
        &["ssl.enabled.protocols"],
    );
    let with_suite = |suite: &str| {
        let cipher_suites = vec![suite.to_owned()];
        new_connector(TlsSettings { cipher_suites, ..tls_settings(&ca) })
    };
    let connector = with_suite("TLS_AES_256_GCM_SHA384").unwrap();
    assert!(run_echo(&connector, "b", &server_config(&certificate, None), FRAGMENTED).is_ok());
    let e = with_suite("TLS_RSA_WITH_RC4_128_MD5").err().unwrap().to_string();
    assert!(e.contains("ssl.cipher.suites") && e.contains("TLS_AES_256_GCM_SHA384"), "{e}");
}

/// An end within the handshake is a lost connection, which the client retries; it is not an
/// authentication failure.
// CASES: TL4.
#[test]
fn end_within_the_handshake_is_an_ordinary_disconnect() {
    let ca = create_authority("A");
    let connector = new_connector(tls_settings(&ca)).unwrap();
    for (response, expected) in [
        (&b""[..], "closed the connection during the TLS handshake"),
        (&[0x16, 3, 3][..], "closed the connection during the TLS handshake"),
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "not TLS"),
        (&[0, 0, 0, 4, 0, 0, 0, 1][..], "not TLS"),
        (&[0xff; 64][..], "not TLS"),
    ] {
        let mut fixture = SelectorFixture::new(5, Faults::NONE);
        fixture.connect(Some(connector.create_session("b").unwrap()));
        let mut result = PollResult::default();
        let reason = loop {
            assert!(fixture.step(&mut result));
            for (conn, _) in fixture.received_bytes() {
                fixture.machine.send_to_client(conn, response.to_vec(), Duration::ZERO);
                fixture.machine.close_connection(conn);
            }
            assert!(result.connected.is_empty());
            if let Some((_, reason)) = result.disconnected.pop() {
                break reason;
            }
        };
        assert!(
            matches!(&reason, DisconnectReason::Tls { text, .. } if text.contains(expected)),
            "{response:?}: {reason:?}"
        );
    }
}
