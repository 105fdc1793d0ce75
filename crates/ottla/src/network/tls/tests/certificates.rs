//! Tests of the broker's certificate: pinned ones, X.509 version 1, wildcards and addresses.

use std::task::Waker;

use rcgen::{GeneralSubtree, Issuer, NameConstraints, SanType};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::matrix::fixtures;
use super::*;
use crate::time::Tick;

/// Settings that trust one certificate.
fn trusting(pem: impl Into<String>) -> TlsSettings {
    let trust_store = SecurityStore::Inline { certificates: Secret::new(pem), key: None };
    TlsSettings { trust_store: Some(trust_store), ..tls_settings(&create_authority("unused")) }
}

fn connect(settings: TlsSettings, host: &str, server: &IssuedCertificate) -> Connection {
    run_echo(&new_connector(settings).unwrap(), host, &server_config(server, None), FRAGMENTED)
}

type Connection = Result<u32, DisconnectReason>;

// CASES: TL1.
#[test]
fn certificate_in_the_trust_store_is_accepted_as_it_is_but_for_its_host_only() {
    let ca = create_authority("A");
    let pinned = issue_certificate(&ca, &["broker.example"], None);
    for versions in [TLS12, TLS13] {
        let settings = || TlsSettings { versions, ..trusting(pinned.cert.pem()) };
        assert!(connect(settings(), "broker.example", &pinned).is_ok());
        assert_rejected(
            connect(settings(), "other.example", &pinned),
            &["not for other.example but for broker.example"],
        );
        let sibling = issue_certificate(&ca, &["broker.example"], None);
        assert_rejected(
            connect(settings(), "broker.example", &sibling),
            &["not signed by a trusted authority", "the certificate itself"],
        );
    }
    // As in Java, the store decides and not the date.
    let expired = issue_certificate(&ca, &["b"], Some((2019, 2021)));
    assert!(connect(trusting(expired.cert.pem()), "b", &expired).is_ok());
    assert_rejected(connect(trusting(ca.pem()), "b", &expired), &["expired on"]);
}

#[test]
fn self_signed_certificate_of_an_authority_is_a_broker_certificate_if_it_is_trusted() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["b".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap();
    let server = IssuedCertificate { cert, key };
    assert!(connect(trusting(server.cert.pem()), "b", &server).is_ok());
    let other = create_authority("A").pem();
    assert_rejected(connect(trusting(other), "b", &server), &["ssl.truststore.location"]);
}

/// The key of a broker whose certificate is trusted must not be able to create others.
#[test]
fn pinned_certificate_is_no_authority() {
    let ca = create_authority("A");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["pinned".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "pinned");
    params.is_ca = IsCa::ExplicitNoCa;
    let pinned = params.signed_by(&key, &ca).unwrap();
    let issuer = Issuer::new(params, key);
    let forged_key = KeyPair::generate().unwrap();
    let forged = CertificateParams::new(vec!["b".to_owned()]).unwrap();
    let cert = forged.signed_by(&forged_key, &issuer).unwrap();
    let forged = IssuedCertificate { cert, key: forged_key };
    assert_rejected(
        connect(trusting(pinned.pem()), "b", &forged),
        &["not signed by a trusted authority"],
    );
}

/// An authority that `issuer` certifies.
struct Intermediate {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

fn certify_authority(
    name: &str,
    issuer: &Issuer<'_, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Intermediate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
    Intermediate { issuer: Issuer::new(params, key), certificate }
}

/// Connects to a server with a certificate of the last authority, which presents all of them.
fn connect_with_chain(ca: &CertificateAuthority, chain: &[Intermediate]) -> Connection {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["b".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "b");
    let own = params.signed_by(&key, &chain.last().unwrap().issuer).unwrap().der().clone();
    let all = std::iter::once(own).chain(chain.iter().map(|i| i.certificate.clone()));
    let config = ServerConfig::builder_with_provider(install_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(all.collect(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    run_echo(&new_connector(trusting(ca.pem())).unwrap(), "b", &Arc::new(config), FRAGMENTED)
}

// CASES: TL1.
#[test]
fn error_of_a_chain_names_the_authority_concerned() {
    let ca = create_authority("A");
    let authority = |name: &str| certify_authority(name, &ca, |_| {});
    assert!(connect_with_chain(&ca, &[authority("fine")]).is_ok());
    let expired = certify_authority("old", &ca, |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    assert_rejected(connect_with_chain(&ca, &[expired]), &["CN=old", "to Jan  1", "2021"]);
    let first = certify_authority("first", &create_authority("B"), |_| {});
    let second = certify_authority("second", &first.issuer, |_| {});
    assert_rejected(
        connect_with_chain(&ca, &[first, second]),
        &["ends with CN=first, issued by", "CN=B", "ssl.truststore.location"],
    );
    let leaf = certify_authority("leaf", &ca, |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_rejected(connect_with_chain(&ca, &[leaf]), &["is no authority's", "CA:TRUE"]);
    let short = certify_authority("short", &ca, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below = certify_authority("below", &short.issuer, |_| {});
    assert_rejected(connect_with_chain(&ca, &[short, below]), &["longer chain", "pathlen"]);
    let narrow = certify_authority("narrow", &ca, |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    assert_rejected(connect_with_chain(&ca, &[narrow]), &["may not certify", "nameConstraints"]);
}

// CASES: TL1.
#[test]
fn wildcards_cover_one_label_and_addresses_need_their_own_kind_of_name() {
    let ca = create_authority("A");
    let server = issue_certificate(&ca, &["*.example.com", "127.0.0.1", "::1"], None);
    for host in ["kafka-1.example.com", "KAFKA-1.EXAMPLE.COM", "127.0.0.1", "::1"] {
        assert!(connect(trusting(ca.pem()), host, &server).is_ok(), "{host}");
    }
    for host in ["a.b.example.com", "example.com", "127.0.0.2", "::2"] {
        let expected = format!("not for {host} but for *.example.com, 127.0.0.1, ::1");
        assert_rejected(connect(trusting(ca.pem()), host, &server), &[&expected]);
    }
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::DnsName("127.0.0.1".try_into().unwrap())];
    let cert = params.signed_by(&key, &ca).unwrap();
    assert_rejected(
        connect(trusting(ca.pem()), "127.0.0.1", &IssuedCertificate { cert, key }),
        &["as a DNS name", "subjectAltName=IP:127.0.0.1"],
    );
}

/// Clocks of a simulated machine, but with another year.
struct OtherYear(SimMachine, i64);

impl Env for OtherYear {
    fn now(&self) -> Tick {
        self.0.now()
    }
    fn wall_clock_ms(&self) -> i64 {
        (self.1 - 1970) * 365 * 24 * 3600 * 1000
    }
    fn random(&self) -> u64 {
        self.0.random()
    }
    fn secure_random(&self) -> [u8; 32] {
        self.0.secure_random()
    }
    fn unparker(&self) -> Waker {
        self.0.unparker()
    }
    fn park(&self, deadline: Option<Tick>) {
        self.0.park(deadline);
    }
}

/// Connects in a year to a server that presents a certificate of the fixtures, with the host
/// `client`.
fn connect_to_fixture(settings: TlsSettings, year: i64, certificate: &[u8]) -> Connection {
    let provider = install_provider();
    let env: Arc<dyn Env> = Arc::new(OtherYear(SimMachine::new(1, Faults::NONE), year));
    let key = fs::read(fixtures().join("pkcs8.der")).unwrap();
    let key = PrivateKeyDer::try_from(key).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = CertifiedKey::new(vec![certificate.to_vec().into()], key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let connector = TlsConnector::new(settings, env).unwrap();
    run_echo(&connector, "client", &Arc::new(config), FRAGMENTED)
}

fn read_fixture(name: &str) -> String {
    fs::read_to_string(fixtures().join(name)).unwrap()
}

fn fixture_der(name: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(read_fixture(name).as_bytes()).unwrap().to_vec()
}

// CASES: TL1.
#[test]
fn broker_certificate_of_version_1_needs_a_trusted_issuer_and_unchecked_names() {
    let version1 = fixture_der("client-v1.pem");
    for versions in [TLS12, TLS13] {
        let named = || TlsSettings { versions, ..trusting(read_fixture("ca.pem")) };
        let unnamed = || TlsSettings { verify_hostname: false, ..named() };
        assert!(connect_to_fixture(unnamed(), 2030, &version1).is_ok());
        assert_rejected(
            connect_to_fixture(named(), 2030, &version1),
            &["X.509 version 1", "-extfile", "ssl.endpoint.identification.algorithm"],
        );
        assert_rejected(connect_to_fixture(unnamed(), 2020, &version1), &["not valid before"]);
        assert_rejected(connect_to_fixture(unnamed(), 2300, &version1), &["expired on"]);
        let mut forged = version1.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_rejected(
            connect_to_fixture(unnamed(), 2030, &forged),
            &["not signed by a trusted authority", "X.509 version 1"],
        );
        let other = trusting(create_authority("ca").pem());
        let other = TlsSettings { versions, verify_hostname: false, ..other };
        assert_rejected(connect_to_fixture(other, 2030, &version1), &["trusted authority"]);
        // It is also accepted if it is in the trust store itself.
        let pinned = trusting(read_fixture("client-v1.pem"));
        let pinned = TlsSettings { versions, verify_hostname: false, ..pinned };
        assert!(connect_to_fixture(pinned, 2030, &version1).is_ok());
    }
}

/// The server proves that it has the key of its certificate, also with version 1.
#[test]
fn version_1_certificate_with_another_key_is_rejected() {
    let ca = fixture_der("ca.pem");
    let settings = trusting(read_fixture("ca.pem"));
    for versions in [TLS12, TLS13] {
        let settings = TlsSettings { versions, verify_hostname: false, ..settings.clone() };
        // The authority's certificate is trusted; the server has the client's key only.
        let result = connect_to_fixture(settings, 2030, &ca);
        assert_rejected(result, &["invalid signature"]);
    }
    let version1 = trusting(read_fixture("ca-v1.pem"));
    for versions in [TLS12, TLS13] {
        let settings = TlsSettings { versions, verify_hostname: false, ..version1.clone() };
        let result = connect_to_fixture(settings, 2030, &fixture_der("ca-v1.pem"));
        assert_rejected(result, &["invalid signature"]);
    }
}

// CASES: TL1.
#[test]
fn authority_of_version_1_is_trusted() {
    let certificate = fixture_der("client.pem");
    let result = connect_to_fixture(trusting(read_fixture("ca-v1.pem")), 2030, &certificate);
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn directory_of_pem_files_and_the_name_probe_are_trust_stores() {
    let (ca_a, ca_b) = (create_authority("A"), create_authority("B"));
    let server = issue_certificate(&ca_b, &["b"], None);
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &Path| {
        let path = path.display().to_string();
        let store = SecurityStore::File { path, password: None, key_path: None };
        TlsSettings { trust_store: Some(store), ..tls_settings(&ca_a) }
    };
    let e = stores::connector_error(at(dir.path()));
    assert!(e.contains("a directory without a PEM file"), "{e}");
    fs::write(dir.path().join("a.pem"), ca_a.pem()).unwrap();
    fs::write(dir.path().join("README"), "no certificate").unwrap();
    fs::create_dir(dir.path().join("java")).unwrap();
    let connector = new_connector(at(dir.path())).unwrap();
    let config = server_config(&server, None);
    assert_rejected(run_echo(&connector, "b", &config, FRAGMENTED), &["CN=B"]);
    fs::write(dir.path().join("b.crt"), ca_b.pem()).unwrap();
    connector.reload_if_changed();
    assert!(run_echo(&connector, "b", &config, FRAGMENTED).is_ok());
    // A machine without a system store has an error that names the setting.
    let e = stores::connector_error(at(Path::new("probe")));
    assert!(e.is_empty() || e.contains("probe contains no certificate"), "{e}");
}
