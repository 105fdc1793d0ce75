//! TLS over the seam, with rustls's own server at the other end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
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
use crate::config::security::{SecurityStore, TlsSettings};
use crate::error::Error;
use crate::network::channel::DisconnectReason;
use crate::network::io::simulated::{Faults, SimMachine};
use crate::network::selector::PollResult;
use crate::network::tests::SelectorFixture;
use crate::time::Env;

type CertificateAuthority = CertifiedIssuer<'static, KeyPair>;

fn install_provider() -> Arc<CryptoProvider> {
    // Whatever this build has, ring is there in tests.
    let _ = rustls::crypto::ring::default_provider().install_default();
    CryptoProvider::get_default().unwrap().clone()
}

fn create_authority(name: &str) -> CertificateAuthority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
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
        versions: (true, true),
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
    own: &IssuedCertificate,
    clients: Option<&CertificateAuthority>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(install_provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let v =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), install_provider());
            builder.with_client_cert_verifier(v.build().unwrap())
        }
    };
    Arc::new(builder.with_single_cert(own.chain(), own.key()).unwrap())
}

/// How a connection went on which ten frames were to be echoed.
fn run_echo(
    source: &TlsConnector,
    host: &str,
    config: &Arc<ServerConfig>,
    faults: Faults,
) -> Result<u32, DisconnectReason> {
    let mut rig = SelectorFixture::new(11, faults);
    let key = rig.connect(Some(source.create_session(host).unwrap()));
    let mut sessions: BTreeMap<u64, ServerConnection> = BTreeMap::new();
    let (mut out, mut sent, mut got, mut open) = (PollResult::default(), 0u32, 0u32, false);
    let body = |n: u32| Bytes::from(vec![n as u8; (n as usize % 7) * 9000 + 1]);
    while got < 10 {
        if open && sent == got && rig.selector.can_send(key) {
            let (now, body) = (rig.machine.now(), body(sent));
            let size = Bytes::copy_from_slice(&(body.len() as i32).to_be_bytes());
            rig.selector.send(key, vec![size, body], now);
            sent += 1;
        }
        assert!(rig.step(&mut out), "it goes on: {sent} sent, {got} answered, open: {open}");
        assert!(rig.poll_count < 20_000, "no busy loop");
        open |= out.connected.contains(&key);
        for (_, bytes) in out.completed_receives.drain(..) {
            assert_eq!(bytes, body(got));
            got += 1;
        }
        for (conn, bytes) in rig.received_bytes() {
            let s = sessions
                .entry(conn)
                .or_insert_with(|| ServerConnection::new(config.clone()).unwrap());
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                s.read_tls(&mut bytes).unwrap();
                let refused = s.process_new_packets().is_err();
                let mut plain = Vec::new();
                let _ = s.reader().read_to_end(&mut plain);
                s.writer().write_all(&plain).unwrap();
                let mut reply = Vec::new();
                while s.wants_write() {
                    s.write_tls(&mut reply).unwrap();
                }
                if !reply.is_empty() {
                    rig.machine.send_to_client(conn, reply, Duration::ZERO);
                }
                if refused {
                    rig.machine.close_connection(conn);
                    break;
                }
            }
        }
        if let Some((_, why)) = out.disconnected.pop() {
            return Err(why);
        }
    }
    Ok(rig.poll_count)
}

const FRAGMENTED: Faults = Faults {
    max_delay_ns: 10_000,
    max_io_bytes: 700,
    stall_one_in: 9,
    disconnect_one_in: 0,
    window_bytes: 16_384,
};

fn assert_rejected(why: Result<u32, DisconnectReason>, words: &[&str]) {
    match why {
        Err(DisconnectReason::AuthenticationFailed(text)) => {
            for word in words {
                assert!(text.contains(word), "{word} is not in: {text}");
            }
        }
        other => panic!("{other:?} is no refusal ({words:?})"),
    }
}

#[test]
fn tl1_tl5_both_versions_by_name_and_address_whatever_the_sockets_do() {
    let ca = create_authority("A");
    let own = issue_certificate(&ca, &["broker.example", "127.0.0.1"], None);
    for versions in [(true, false), (false, true), (true, true)] {
        let source = new_connector(TlsSettings { versions, ..tls_settings(&ca) }).unwrap();
        for faults in [Faults::NONE, FRAGMENTED, Faults { max_io_bytes: 1, ..Faults::NONE }] {
            for host in ["broker.example", "127.0.0.1", "broker.example."] {
                let done = run_echo(&source, host, &server_config(&own, None), faults);
                assert!(done.is_ok(), "{versions:?} {faults:?} {host}: {done:?}");
            }
        }
    }
}

#[test]
fn se10_what_is_decrypted_is_handed_on_without_polling_for_nothing() {
    let ca = create_authority("A");
    let own = issue_certificate(&ca, &["b"], None);
    let polls = run_echo(
        &new_connector(tls_settings(&ca)).unwrap(),
        "b",
        &server_config(&own, None),
        Faults::NONE,
    );
    // A round trip is a poll or two, and large bodies some more.
    assert!(polls.unwrap() < 150, "no busy loop");
}

#[test]
fn tl1_another_hosts_certificate_is_refused_unless_any_will_do() {
    let ca = create_authority("A");
    let own = issue_certificate(&ca, &["broker.example"], None);
    let strict = new_connector(tls_settings(&ca)).unwrap();
    let config = server_config(&own, None);
    let went = run_echo(&strict, "other.example", &config, FRAGMENTED);
    assert_rejected(went, &["not for other.example but for broker.example"]);
    let went = run_echo(&strict, "127.0.0.1", &config, Faults::NONE);
    assert_rejected(went, &["not for 127.0.0.1"]);
    let any = new_connector(TlsSettings { verify_hostname: false, ..tls_settings(&ca) }).unwrap();
    assert!(run_echo(&any, "other.example", &config, FRAGMENTED).is_ok());
    // Trust is another matter than the name.
    let stranger = issue_certificate(&create_authority("B"), &["other.example"], None);
    assert_rejected(
        run_echo(&any, "other.example", &server_config(&stranger, None), FRAGMENTED),
        &["CN=B", "truststore"],
    );
    let common_name_alone = issue_certificate(&ca, &[], None);
    let went =
        run_echo(&strict, "broker.example", &server_config(&common_name_alone, None), FRAGMENTED);
    assert_rejected(went, &["no subject alternative name", "common name alone does not count"]);
}

#[test]
fn certificates_out_of_their_time_are_named_with_it() {
    let ca = create_authority("A");
    let strict = new_connector(tls_settings(&ca)).unwrap();
    let old = issue_certificate(&ca, &["b"], Some((2019, 2021)));
    assert_rejected(
        run_echo(&strict, "b", &server_config(&old, None), FRAGMENTED),
        &["CN=broker.example", "expired on Jan  1", "2021"],
    );
    // The producer's own clock counts: it stands in 2023.
    let new = issue_certificate(&ca, &["b"], Some((2024, 2999)));
    assert_rejected(
        run_echo(&strict, "b", &server_config(&new, None), FRAGMENTED),
        &["not valid before Jan  1", "2024"],
    );
}

#[test]
fn tl2_a_server_that_wants_a_certificate_says_so() {
    let (ca, clients) = (create_authority("A"), create_authority("C"));
    let own = issue_certificate(&ca, &["b"], None);
    let config = server_config(&own, Some(&clients));
    for versions in [(true, false), (false, true)] {
        let without = new_connector(TlsSettings { versions, ..tls_settings(&ca) }).unwrap();
        assert_rejected(
            run_echo(&without, "b", &config, FRAGMENTED),
            &["alert", "ssl.keystore.location"],
        );
        let with = |by: &CertificateAuthority| {
            let us = issue_certificate(by, &["us"], None);
            let (certificates, key) =
                (Secret::new(us.cert.pem()), Secret::new(us.key.serialize_pem()));
            let key = Some(SecurityStore::Inline { certificates, key: Some(key) });
            new_connector(TlsSettings { versions, key_store: key, ..tls_settings(&ca) }).unwrap()
        };
        assert!(run_echo(&with(&clients), "b", &config, FRAGMENTED).is_ok());
        assert_rejected(run_echo(&with(&ca), "b", &config, FRAGMENTED), &["alert"]);
    }
}

#[test]
fn tl5_nothing_in_common_is_a_refusal() {
    let ca = create_authority("A");
    let own = issue_certificate(&ca, &["b"], None);
    let old = ServerConfig::builder_with_provider(install_provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.chain(), own.key())
        .unwrap();
    let new = new_connector(TlsSettings { versions: (false, true), ..tls_settings(&ca) }).unwrap();
    assert_rejected(run_echo(&new, "b", &Arc::new(old), FRAGMENTED), &["ssl.enabled.protocols"]);
    let suite = vec!["TLS_AES_256_GCM_SHA384".to_owned()];
    let one = new_connector(TlsSettings { cipher_suites: suite, ..tls_settings(&ca) }).unwrap();
    assert!(run_echo(&one, "b", &server_config(&own, None), FRAGMENTED).is_ok());
    let none = vec!["TLS_RSA_WITH_RC4_128_MD5".to_owned()];
    let e = new_connector(TlsSettings { cipher_suites: none, ..tls_settings(&ca) })
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains("ssl.cipher.suites") && e.contains("TLS_AES_256_GCM_SHA384"), "{e}");
}

/// TL4: an end in the handshake, after any byte of the server's, is a loss like any other.
#[test]
fn tl4_an_end_in_the_handshake_is_an_ordinary_disconnect_and_noise_is_told() {
    let ca = create_authority("A");
    let source = new_connector(tls_settings(&ca)).unwrap();
    for (reply, words) in [
        (&b""[..], "closed the connection during the TLS handshake"),
        (&[0x16, 3, 3][..], "closed the connection during the TLS handshake"),
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "not TLS"),
        (&[0, 0, 0, 4, 0, 0, 0, 1][..], "not TLS"),
        (&[0xff; 64][..], "not TLS"),
    ] {
        let mut rig = SelectorFixture::new(5, Faults::NONE);
        rig.connect(Some(source.create_session("b").unwrap()));
        let mut out = PollResult::default();
        let why = loop {
            assert!(rig.step(&mut out));
            for (conn, _) in rig.received_bytes() {
                rig.machine.send_to_client(conn, reply.to_vec(), Duration::ZERO);
                rig.machine.close_connection(conn);
            }
            assert!(out.connected.is_empty());
            if let Some((_, why)) = out.disconnected.pop() {
                break why;
            }
        };
        assert!(
            matches!(&why, DisconnectReason::Tls(text) if text.contains(words)),
            "{reply:?}: {why:?}"
        );
    }
}

fn write_store(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> SecurityStore {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    SecurityStore::File { path: path.display().to_string(), password: None, key_path: None }
}

fn with_password(store: SecurityStore, password: &str) -> SecurityStore {
    let SecurityStore::File { path, key_path, .. } = store else { panic!() };
    SecurityStore::File { path, key_path, password: Some(Secret::new(password)) }
}

#[test]
fn tl3_stores_of_every_kind_are_told_by_content_and_what_is_wrong_by_its_setting() {
    let ca = create_authority("A");
    let own = issue_certificate(&ca, &["b"], None);
    let us = issue_certificate(&ca, &["us"], None);
    let config = server_config(&own, Some(&ca));
    let dir = tempfile::tempdir().unwrap();
    let one_line = ca.pem().replace('\n', " ");
    let fixture = |name: &str| {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/tls/fixtures").join(name);
        fs::read(at).unwrap()
    };
    let key_alone = dir.path().join("key.pem");
    fs::write(&key_alone, us.key.serialize_pem()).unwrap();
    let SecurityStore::File { path, password, .. } =
        write_store(dir.path(), "cert.pem", us.cert.pem())
    else {
        panic!()
    };
    let key_path = Some(key_alone.display().to_string());
    let apart = SecurityStore::File { path, password, key_path };
    for key in [write_store(dir.path(), "both.pem", us.pem()), apart] {
        let trust =
            Some(SecurityStore::Inline { certificates: Secret::new(&*one_line), key: None });
        let made = new_connector(TlsSettings {
            trust_store: trust,
            key_store: Some(key),
            ..tls_settings(&ca)
        })
        .unwrap();
        assert!(run_echo(&made, "b", &config, FRAGMENTED).is_ok());
    }
    let wrong =
        |trust: Option<SecurityStore>, key: Option<SecurityStore>, key_password: Option<&str>| {
            let key_password = key_password.map(Secret::new);
            let trust = trust.or_else(|| tls_settings(&ca).trust_store);
            match new_connector(TlsSettings {
                trust_store: trust,
                key_store: key,
                key_password,
                ..tls_settings(&ca)
            }) {
                Ok(_) => "nothing".to_owned(),
                Err(e) => e.to_string(),
            }
        };
    let f = |name: &str, bytes: &[u8]| write_store(dir.path(), name, bytes);
    // Made by keytool and openssl: the password of all is "changeit".
    for name in ["trust.jks", "trust.p12"] {
        let store = f(name, &fixture(name));
        assert_eq!(wrong(Some(with_password(store, "changeit")), None, None), "nothing");
        let e = wrong(Some(with_password(f(name, &fixture(name)), "hunter2")), None, None);
        assert!(e.contains("ssl.truststore.password") && !e.contains("hunter2"), "{e}");
    }
    let key = with_password(f("key.p12", &fixture("key.p12")), "changeit");
    assert_eq!(wrong(None, Some(key), None), "nothing");
    assert_eq!(
        wrong(None, Some(f("enc.pem", &fixture("encrypted.pem"))), Some("changeit")),
        "nothing"
    );
    let e = wrong(None, Some(f("enc.pem", &fixture("encrypted.pem"))), Some("hunter2"));
    assert!(e.contains("ssl.key.password") && !e.contains("hunter2"), "{e}");
    let e = wrong(None, Some(f("enc.pem", &fixture("encrypted.pem"))), None);
    assert!(e.contains("encrypted and ssl.key.password is not set"), "{e}");
    let e = wrong(None, Some(f("key.jks", &fixture("trust.jks"))), None);
    assert!(e.contains("keytool -importkeystore"), "{e}");
    for (bytes, words) in [
        (&b"rubbish"[..], "neither PEM nor PKCS#12 nor JKS"),
        (&b"-----BEGIN CERTIFICATE-----\nAAAA"[..], "no end"),
        (&b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"[..], "not base64"),
        (&b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"[..], "no certificate"),
        (&b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"[..], "no certificate"),
        (&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff][..], "cut off or damaged"),
        (&[0x30, 0x82, 0xff][..], "cannot be opened as PKCS#12"),
    ] {
        let e = wrong(Some(f("bad", bytes)), None, None);
        assert!(e.contains(words) && e.contains("ssl.truststore.location"), "{words}: {e}");
    }
    let e = wrong(
        Some(SecurityStore::File { path: "/no/such".into(), password: None, key_path: None }),
        None,
        None,
    );
    assert!(e.contains("/no/such cannot be read"), "{e}");
    let strangers_key = format!("{}{}", own.key.serialize_pem(), us.cert.pem());
    let e = wrong(None, Some(f("mixed.pem", strangers_key.as_bytes())), None);
    assert!(e.contains("cannot be used together"), "{e}");
}

#[test]
fn files_that_change_are_read_again_and_bad_ones_leave_what_there_was() {
    let (a, b) = (create_authority("A"), create_authority("B"));
    let dir = tempfile::tempdir().unwrap();
    let store = write_store(dir.path(), "ca.pem", a.pem());
    let made = new_connector(TlsSettings { trust_store: Some(store), ..tls_settings(&a) }).unwrap();
    assert!(made.has_files());
    let (of_a, of_b) = (issue_certificate(&a, &["h"], None), issue_certificate(&b, &["h"], None));
    assert!(run_echo(&made, "h", &server_config(&of_a, None), FRAGMENTED).is_ok());
    assert_rejected(run_echo(&made, "h", &server_config(&of_b, None), FRAGMENTED), &["CN=B"]);
    write_store(dir.path(), "ca.pem", "half a fi");
    made.reload_if_changed();
    assert!(
        run_echo(&made, "h", &server_config(&of_a, None), FRAGMENTED).is_ok(),
        "the old ones stay"
    );
    write_store(dir.path(), "ca.pem", format!("{}\n\n{}", a.pem(), b.pem()));
    made.reload_if_changed();
    assert!(run_echo(&made, "h", &server_config(&of_a, None), FRAGMENTED).is_ok());
    assert!(run_echo(&made, "h", &server_config(&of_b, None), FRAGMENTED).is_ok());
    assert!(new_connector(tls_settings(&a)).is_ok_and(|s| !s.has_files()));
}
