//! Faults before a Kafka broker responds: names, ports, protocols, certificates, SASL, addresses.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use ottla_broker::{EmbeddedBroker, ResponseAction};
use ottla_protocol::ApiKey;
use ottla_testkit::{CertificateAuthority, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Diagnosis;

/// Starts a server that handles each connection on its own thread. Returns its address.
pub(crate) fn start_server(handle: impl Fn(TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    address
}

/// Starts a server that sends these bytes after the first request, and closes.
pub(crate) fn start_fake_server(response: &'static [u8]) -> String {
    start_server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(response);
    })
}

/// Starts a server that accepts connections and never responds.
fn start_silent_server() -> String {
    start_server(|mut stream| while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {})
}

/// Starts a TLS server with this certificate, in front of a broker.
pub(crate) fn start_tls_server(identity: &Identity, broker: &str) -> String {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.chain.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (config, broker) = (Arc::new(config), broker.to_owned());
    start_server(move |client| {
        let session = ServerConnection::new(config.clone()).unwrap();
        let mut client = StreamOwned::new(session, client);
        let mut broker = TcpStream::connect(&broker).unwrap();
        // The doctor waits for each response before it sends the next request.
        while let Some(request) = read_frame(&mut client) {
            broker.write_all(&request).unwrap();
            let Some(response) = read_frame(&mut broker) else { return };
            if client.write_all(&response).and_then(|()| client.flush()).is_err() {
                return;
            }
        }
    })
}

/// Reads a frame with its length; `None` at the end of the stream.
pub(crate) fn read_frame(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = length.to_vec();
    frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

pub(crate) fn diagnose(address: &str, settings: &[&str]) -> Diagnosis {
    let settings = settings.iter().flat_map(|setting| ["-X", setting]);
    let args: Vec<&str> = ["-b", address].into_iter().chain(settings).collect();
    Diagnosis::json(&args)
}

const SHORT_TIMES: [&str; 3] = [
    "socket.connection.setup.timeout.ms=300",
    "request.timeout.ms=300",
    "delivery.timeout.ms=1000",
];

#[test]
fn name_that_does_not_resolve_fails_its_check() {
    // The resolver refuses a label over 63 characters without a query to a slow name server.
    let host = format!("{}.invalid", "a".repeat(64));
    let diagnosis = diagnose(&format!("{host}:9092"), &[]);
    diagnosis.assert_only_failure("resolve", "cannot be resolved", "name servers");
    diagnosis.assert_not_checked(&["connect", "versions", "cluster", "authorization"]);
}

#[test]
fn refused_connection_fails_its_check() {
    let diagnosis = diagnose("127.0.0.1:1", &[]);
    diagnosis.assert_only_failure("connect", "127.0.0.1:1: Connection refused", "listens on");
    diagnosis.assert_not_checked(&["versions", "cluster"]);
}

#[test]
fn server_that_is_no_broker_fails_the_versions() {
    for (response, text, change) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "this is an HTTP server", "check the port"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "this is a TLS port", "security.protocol"),
        (b"", "closed the connection instead of responding", "if this is a TLS port"),
        (b"\x00\x00\x00\x08\x00\x00\x00\x63\x00\x00\x00\x00", "not Kafka's", "Kafka broker?"),
    ] {
        let diagnosis = diagnose(&start_fake_server(response), &[]);
        diagnosis.assert_only_failure("versions", text, change);
        diagnosis.assert_not_checked(&["cluster", "authorization"]);
    }
    let diagnosis = diagnose(&start_silent_server(), &SHORT_TIMES);
    diagnosis.assert_only_failure("versions", "no response to ApiVersions within 300 ms", "");
}

#[test]
fn plaintext_port_fails_the_tls_handshake() {
    let authority = CertificateAuthority::new("an authority");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let trust = format!("ssl.truststore.location={}", file.path().display());
    let tls = ["security.protocol=SSL", &trust, "ssl.truststore.type=PEM"];
    let broker = EmbeddedBroker::start().unwrap();
    let change = "if this is a plaintext port, set security.protocol to match";
    let diagnosis = diagnose(&broker.bootstrap_servers(), &tls);
    diagnosis.assert_only_failure("TLS", "closed the connection during the TLS handshake", change);
    let silent = diagnose(&start_silent_server(), &[&tls[..], &SHORT_TIMES].concat());
    silent.assert_only_failure("TLS", "no response to the TLS handshake within 300 ms", change);
    let http = start_fake_server(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    diagnose(&http, &tls).assert_only_failure("TLS", "the broker's response is not TLS", change);
}

#[test]
fn certificate_is_described_or_its_fault_is_named() {
    let broker = EmbeddedBroker::start().unwrap();
    let authority = CertificateAuthority::new("an authority");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let trust = format!("ssl.truststore.location={}", file.path().display());
    let settings = ["security.protocol=SSL", &trust, "ssl.truststore.type=PEM"];
    let tls = |identity: &Identity| {
        diagnose(&start_tls_server(identity, &broker.bootstrap_servers()), &settings)
    };
    let good = tls(&authority.issue_local("a broker"));
    let check = good.check("TLS");
    assert_eq!(check.outcome, "passed", "{}", good.stdout);
    for text in ["TLSv1.3, TLS_", "CN=a broker", "for localhost, 127.0.0.1", "CN=an authority"] {
        assert!(check.text.contains(text), "no {text:?} in {:?}", check.text);
    }
    assert!(check.text.contains("expires in ") && check.notes.contains("chain: CN=an authority"));
    assert_eq!(good.check("cluster").outcome, "passed");

    let expired = authority.issue("old", &["127.0.0.1"], Some(2021));
    tls(&expired).assert_only_failure("TLS", "expired on Jan  1", "renew it");
    let other_host = authority.issue("other", &["kafka.example.org"], None);
    tls(&other_host).assert_only_failure("TLS", "but for kafka.example.org", "connect to one of");
    let stranger = CertificateAuthority::new("another authority").issue_local("a broker");
    tls(&stranger).assert_only_failure("TLS", "not signed by a trusted", "ssl.truststore.location");
    tls(&stranger).assert_not_checked(&["versions", "cluster"]);
}

#[test]
fn stores_that_cannot_be_read_fail_before_any_connection() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"this is no store").unwrap();
    let path = file.path().display().to_string();
    for (store, text) in [
        ("ssl.truststore.location=/no/such/store.jks", "/no/such/store.jks"),
        (&format!("ssl.truststore.location={path}"), path.as_str()),
        (&format!("ssl.keystore.location={path}"), path.as_str()),
    ] {
        let diagnosis = diagnose("127.0.0.1:1", &["security.protocol=SSL", store]);
        diagnosis.assert_only_failure("trusted certificates and keys", text, "");
        diagnosis.assert_not_checked(&["bootstrap servers", "cluster"]);
    }
}

#[test]
fn missing_or_unexpected_sasl_is_named() {
    let broker = EmbeddedBroker::start().unwrap();
    let servers = broker.bootstrap_servers();
    let sasl = [
        "security.protocol=SASL_PLAINTEXT",
        "sasl.mechanism=PLAIN",
        "sasl.username=u",
        "sasl.password=p",
    ];
    let unexpected = diagnose(&servers, &sasl);
    unexpected.assert_only_failure("SASL", "does not support SaslHandshake", "does not use SASL");
    // A listener with SASL serves ApiVersions, and closes the connection at any other request.
    let _guard = broker.intercept_responses(|response, frame| match response.api {
        ApiKey::METADATA => ResponseAction::SendAndClose(Vec::new()),
        _ => ResponseAction::Send(frame),
    });
    let missing = Diagnosis::json(&["-b", &servers, "-t", "orders", "--test-record"]);
    missing.assert_only_failure("cluster", "instead of responding", "if it requires SASL");
    missing.assert_not_checked(&["topic orders", "authorization", "test record"]);
}

#[test]
fn advertised_address_that_cannot_be_reached_is_the_brokers_fault() {
    let broker = EmbeddedBroker::builder().advertised_listener("127.0.0.1", 1).start().unwrap();
    let diagnosis = diagnose(&broker.bootstrap_servers(), &[]);
    let change = "set advertised.listeners of broker 1";
    diagnosis.assert_only_failure("broker 1 at 127.0.0.1:1", "Connection refused", change);
    assert_eq!(diagnosis.check("cluster").outcome, "passed");
}
