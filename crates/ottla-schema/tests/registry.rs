//! The client against franz-go's `srfake`, and against an https server with mutual TLS.
//!
//! Without Go the tests with `srfake` report that they are skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use ottla::Properties;
use ottla::serializer::Serializer;
use ottla_schema::{
    AvroSerializer, JsonTextSerializer, RecordPart, Schema, SchemaError, SchemaErrorKind,
    SchemaReference, SchemaRegistryClient, SchemaType, Version,
};
use ottla_testkit::{CertificateAuthority, FakeSchemaRegistry, Identity, reserve_ports};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

fn client(settings: &[(&str, &str)]) -> Result<SchemaRegistryClient, SchemaError> {
    let mut properties = Properties::new();
    for (name, value) in settings {
        properties.set(name, value).unwrap();
    }
    SchemaRegistryClient::new(&properties)
}

fn avro(text: &str) -> Schema {
    Schema::new(SchemaType::Avro, text)
}

const ITEM: &str = r#"{"type":"record","name":"Item","namespace":"shop","fields":[
    {"name":"n","type":"int"}]}"#;

#[test]
fn schemas_are_registered_found_and_listed() {
    let Some(registry) = FakeSchemaRegistry::start(None) else { return };
    let client = client(&[("schema.registry.url", &registry.url)]).unwrap();
    let subject = "a/b é-value";
    let e = client.look_up(subject, &avro(ITEM)).unwrap_err();
    assert_eq!(e.kind(), SchemaErrorKind::Rejected, "{e}");
    let first = client.register(subject, &avro(ITEM)).unwrap();
    let found = client.look_up(subject, &avro(ITEM)).unwrap();
    assert_eq!((found.id, found.version), (first.id, Some(1)));
    let second = ITEM.replace("\"int\"", "\"long\"");
    let second = client.register(subject, &avro(&second)).unwrap();
    assert_ne!(second.id, first.id);
    let latest = client.version(subject, Version::Latest).unwrap();
    assert_eq!((latest.id, latest.version), (second.id, Some(2)));
    assert_eq!(client.version(subject, Version::Number(1)).unwrap().id, first.id);
    let by_id = client.schema_by_id(first.id).unwrap();
    assert_eq!(by_id.schema.schema_type(), SchemaType::Avro);
    assert!(by_id.schema.text().contains("\"Item\""));
    let e = client.version(subject, Version::Number(9)).unwrap_err();
    assert_eq!(e.code(), Some(40402), "{e}");
    assert!(e.to_string().contains(subject), "{e}");
    let e = client.register(subject, &avro("{")).unwrap_err();
    assert!(e.to_string().contains("correct the schema"), "{e}");
}

#[test]
fn serializer_registers_once_and_resolves_references() {
    let Some(registry) = FakeSchemaRegistry::start(None) else { return };
    let url = ("schema.registry.url", &*registry.url);
    let client = client(&[url]).unwrap();
    client.register("item", &avro(ITEM)).unwrap();
    let reference =
        SchemaReference { name: "shop.Item".into(), subject: "item".into(), version: 1 };
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"item","type":"shop.Item"}]}"#;
    let order = avro(order).with_references(vec![reference]);
    let serializer = AvroSerializer::new(&client, RecordPart::Value, order.clone()).unwrap();
    #[derive(serde::Serialize)]
    struct Item {
        n: i32,
    }
    #[derive(serde::Serialize)]
    struct Order {
        item: Item,
    }
    let mut out = Vec::new();
    assert!(serializer.serialize("orders", &Order { item: Item { n: 3 } }, &mut out).unwrap());
    let id = client.version("orders-value", Version::Latest).unwrap().id;
    assert_eq!(out, [&[0][..], &id.to_be_bytes(), &[6]].concat());
    // The latest version, with its reference, from the registry.
    let latest = JsonTextSerializer::with_latest(&client, RecordPart::Value);
    let mut same = Vec::new();
    latest.serialize("orders", r#"{"item": {"n": 3}}"#, &mut same).unwrap();
    assert_eq!(same, out);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bytes = runtime.block_on(latest.serialize_async("orders", r#"{"item":{"n":3}}"#)).unwrap();
    assert_eq!(bytes, out);
}

#[test]
fn unregistered_schema_is_refused_without_auto_registration() {
    let Some(registry) = FakeSchemaRegistry::start(None) else { return };
    let settings = [("schema.registry.url", &*registry.url), ("auto.register.schemas", "false")];
    let client = client(&settings).unwrap();
    let serializer = AvroSerializer::new(&client, RecordPart::Value, avro(ITEM)).unwrap();
    assert_eq!(serializer.prepare("orders").unwrap_err().kind(), SchemaErrorKind::Rejected);
    // Errors are not cached.
    let id = client.register("orders-value", &avro(ITEM)).unwrap().id;
    assert_eq!(serializer.prepare("orders").unwrap(), id);
}

#[test]
fn credentials_are_checked_by_the_registry() {
    let Some(registry) = FakeSchemaRegistry::start(Some("Basic bWU6cHc=")) else { return };
    let url = ("schema.registry.url", &*registry.url);
    let e = client(&[url]).unwrap().register("s", &avro(ITEM)).unwrap_err();
    assert!(e.to_string().contains("check the credentials"), "{e}");
    let with_user = registry.url.replace("http://", "http://me:pw@");
    for settings in
        [vec![url, ("basic.auth.user.info", "me:pw")], vec![("schema.registry.url", &*with_user)]]
    {
        client(&settings).unwrap().register("s", &avro(ITEM)).unwrap();
    }
}

fn certificates(identity: &Identity) -> Vec<CertificateDer<'static>> {
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes());
    chain.map(|certificate| certificate.unwrap()).collect()
}

/// Serves one schema by https, to clients with a certificate of the authority. Returns the port.
fn start_https_server(ca: &CertificateAuthority) -> u16 {
    let identity = ca.issue_local("registry");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(certificates(&identity), key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = ServerConnection::new(config.clone()).unwrap();
            let _ = serve(StreamOwned::new(session, stream));
        }
    });
    port
}

fn serve(mut stream: impl Read + Write) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = r#"{"schema":"\"string\""}"#;
    let len = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}")?;
    stream.flush()
}

#[test]
fn tls_uses_the_stores_of_the_settings() {
    let ca = CertificateAuthority::new("registry authority");
    let url = format!("https://localhost:{}", start_https_server(&ca));
    let (authority, identity) = (ca.pem(), ca.issue_local("client"));
    let url = ("schema.registry.url", &*url);
    let trust = ("schema.registry.ssl.truststore.certificates", &*authority);
    let chain = ("schema.registry.ssl.keystore.certificate.chain", &*identity.chain);
    let key = ("schema.registry.ssl.keystore.key", &*identity.key);
    let found = client(&[url, trust, chain, key]).unwrap().schema_by_id(1).unwrap();
    assert_eq!(found.schema.text(), "\"string\"");
    // The settings of the brokers hold for what the registry's do not set.
    let brokers = ("ssl.truststore.certificates", &*authority);
    client(&[url, brokers, chain, key]).unwrap().schema_by_id(1).unwrap();
    let none = ("max.retries", "0");
    let e = client(&[url, trust, none]).unwrap().schema_by_id(1).unwrap_err();
    assert!(matches!(e.kind(), SchemaErrorKind::Config | SchemaErrorKind::Unavailable), "{e}");
    let other = CertificateAuthority::new("another authority").pem();
    let other = (trust.0, &*other);
    let e = client(&[url, other, chain, key, none]).unwrap().schema_by_id(1).unwrap_err();
    assert_eq!(e.kind(), SchemaErrorKind::Config, "{e}");
    let e = client(&[url, (trust.0, "x")]).unwrap_err();
    assert!(e.to_string().contains("ssl.truststore.certificates"), "{e}");
}

#[test]
fn missing_registry_is_named_after_all_attempts() {
    let [port] = reserve_ports();
    let url = format!("http://127.0.0.1:{port}");
    let settings = [
        ("schema.registry.url", &*url),
        ("max.retries", "2"),
        ("retries.wait.ms", "1"),
        ("retries.max.wait.ms", "2"),
    ];
    let e = client(&settings).unwrap().schema_by_id(1).unwrap_err();
    assert_eq!(e.kind(), SchemaErrorKind::Unavailable);
    let e = e.to_string();
    assert!(e.contains("in 3 attempts") && e.contains(&url), "{e}");
}
