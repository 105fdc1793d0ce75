//! TLS and SASL against the real Kafka 4.3.1: settings that work, settings that are rejected, and
//! certificates and sessions that change while records are sent.
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod rejected_settings;

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ottla::{OAuthBearerToken, Producer, ProducerBuilder, Record};
use ottla_testkit::{CertificateAuthority, Jars, Listener, SecureKafka, print_line};
use rejected_settings::{check_rejected_settings, first_error_text};

/// Returns the number of records for each combination of settings; `TEST_SECURE_RECORDS` sets it.
fn record_count() -> u64 {
    std::env::var("TEST_SECURE_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn plain_jaas_config(user: &str, password: &str) -> String {
    format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{user}\" \
         password=\"{password}\";"
    )
}

fn producer_builder(
    kafka: &SecureKafka,
    listener: Listener,
    settings: &[(&str, &str)],
) -> ProducerBuilder {
    let mut builder = Producer::builder().bootstrap_servers(kafka.bootstrap(listener));
    for (name, value) in settings {
        builder = builder.set(name, value);
    }
    builder
}

/// Sends `n` records. All must be acknowledged, without a failed authentication.
fn send_records(builder: ProducerBuilder, topic: &str, n: u64) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let count = acknowledged.clone();
    let producer = builder
        .delivery_handler(move |report| {
            if let Err(e) = &report.result {
                panic!("{e}");
            }
            count.fetch_add(report.tokens.len() as u64, Ordering::SeqCst);
        })
        .build()
        .unwrap();
    for i in 0..n {
        let value = format!("record {i} of {n} through {topic}");
        producer.send(Record::to(topic).value(value.as_bytes()).token(i)).unwrap();
    }
    producer.flush().unwrap();
    assert_eq!(acknowledged.load(Ordering::SeqCst), n, "{topic}");
    let metrics = producer.metrics();
    let total = |name: &str| {
        let found = metrics.iter().find(|m| m.name == name).map(|m| m.value.to_string());
        found.and_then(|v| v.parse::<f64>().ok()).unwrap_or(-1.0)
    };
    assert!(total("successful-authentication-total") >= 1.0, "{topic}");
    assert!(total("failed-authentication-total") <= 0.0, "{topic}");
    producer.close(Duration::from_secs(10)).unwrap();
}

#[test]
fn tls_and_sasl_work_and_wrong_settings_are_explained() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let kafka = SecureKafka::start(&jars);
    let n = record_count();
    check_tls(&kafka, n);
    check_slow_tls(&kafka, n);
    check_sasl(&kafka, n);
    check_oauthbearer(&kafka, n);
    check_command(&kafka);
    check_rejected_settings(&kafka);
    check_disabled_host_verification(&kafka);
    check_certificate_rotation(&kafka);
    check_reauthentication(&kafka);
    let server = ["--bootstrap-server", kafka.kafka.bootstrap.as_str()];
    let offsets = jars.run_tool("org.apache.kafka.tools.GetOffsetShell", &server);
    let mut topics = 0;
    // Lines have the form topic:partition:offset.
    for line in offsets.lines().filter(|l| l.starts_with("accepted-")) {
        let end_offset: u64 = line.rsplit(':').next().and_then(|o| o.parse().ok()).unwrap_or(0);
        assert_eq!(end_offset, n, "{line}");
        topics += 1;
    }
    assert_eq!(topics, 15, "{offsets}");
}

fn check_tls(kafka: &SecureKafka, n: u64) {
    let ca = kafka.file_path("ca.pem");
    let trust = ("ssl.truststore.location", ca.as_str());
    let ssl = ("security.protocol", "SSL");
    let check = |listener, name: &str, settings: &[(&str, &str)]| {
        send_records(producer_builder(kafka, listener, settings), &format!("accepted-{name}"), n);
    };
    check(Listener::Ssl, "ssl", &[ssl, trust]);
    check(Listener::Ssl, "ssl12", &[ssl, trust, ("ssl.protocol", "TLSv1.2")]);
    let client = kafka.authority.issue_local("a client");
    let keystore = client.write_pem(&kafka.dir.join("client.pem")).display().to_string();
    let keystore = ("ssl.keystore.location", keystore.as_str());
    check(Listener::SslClientAuth, "clientauth", &[ssl, trust, keystore]);
    check(
        Listener::SslClientAuth,
        "inline",
        &[
            ssl,
            ("ssl.truststore.certificates", &kafka.authority.pem()),
            // Properties files have no line breaks in values, so the PEM may have spaces instead.
            ("ssl.keystore.certificate.chain", &client.chain.replace('\n', " ")),
            ("ssl.keystore.key", &client.key),
        ],
    );
}

/// The first bootstrap server never responds. The second one responds to each connection after
/// 1.6 s: a slow broker that is reached in its first attempt.
fn check_slow_tls(kafka: &SecureKafka, n: u64) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (slow, attempts) = start_slow_proxy(kafka.bootstrap(Listener::Ssl));
    let builder = producer_builder(
        kafka,
        Listener::Ssl,
        &[
            ("bootstrap.servers", &format!("{},{slow}", silent.local_addr().unwrap())),
            ("security.protocol", "SSL"),
            ("ssl.truststore.location", &kafka.file_path("ca.pem")),
        ],
    );
    send_records(builder, "accepted-slow", n);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

/// Starts a proxy that delays the broker's first bytes by 1.6 s. Returns its address and the number
/// of its connections.
fn start_slow_proxy(target: String) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicU64::new(0));
    let count = connections.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let (client, broker) = (client.unwrap(), TcpStream::connect(&target).unwrap());
            let clones = (client.try_clone().unwrap(), broker.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut &clones.0, &mut &clones.1));
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(1600));
                io::copy(&mut &broker, &mut &client)
            });
        }
    });
    (address, connections)
}

/// Checks each SASL mechanism, without and with TLS.
fn check_sasl(kafka: &SecureKafka, n: u64) {
    let ca = kafka.file_path("ca.pem");
    let trust = ("ssl.truststore.location", ca.as_str());
    let bob = plain_jaas_config("bob", "bob-secret");
    let unsecured = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
                     unsecuredLoginStringClaim_sub=\"ottla\";";
    let scram = [("sasl.username", "alice"), ("sasl.password", "alice-secret")];
    for (mechanism, login) in [
        ("PLAIN", vec![("sasl.jaas.config", bob.as_str())]),
        ("SCRAM-SHA-256", scram.to_vec()),
        ("SCRAM-SHA-512", scram.to_vec()),
        ("OAUTHBEARER", vec![("sasl.jaas.config", unsecured)]),
    ] {
        let login = [&login[..], &[("sasl.mechanism", mechanism)]].concat();
        let name = mechanism.to_ascii_lowercase();
        let plaintext = [&login[..], &[("security.protocol", "SASL_PLAINTEXT")]].concat();
        let builder = producer_builder(kafka, Listener::SaslPlaintext, &plaintext);
        send_records(builder, &format!("accepted-sasl-{name}"), n);
        let tls = [&login[..], &[("security.protocol", "SASL_SSL"), trust]].concat();
        let builder = producer_builder(kafka, Listener::SaslSsl, &tls);
        send_records(builder, &format!("accepted-saslssl-{name}"), n);
    }
}

/// Checks tokens from an OIDC endpoint and from the application.
fn check_oauthbearer(kafka: &SecureKafka, n: u64) {
    let oauthbearer = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "OAUTHBEARER")];
    let credentials = kafka.token_endpoint.client_credentials();
    let url = kafka.token_endpoint.token_url();
    let endpoint = [
        ("sasl.oauthbearer.token.endpoint.url", url.as_str()),
        ("sasl.oauthbearer.client.credentials.client.id", credentials.id),
        ("sasl.oauthbearer.client.credentials.client.secret", credentials.secret),
        ("sasl.oauthbearer.scope", "produce"),
    ];
    let settings = [&oauthbearer[..], &endpoint].concat();
    send_records(producer_builder(kafka, Listener::Oidc, &settings), "accepted-oidc", n);
    assert!(kafka.token_endpoint.issued_tokens() >= 1);
    // The application's token has an extension, which the client sends with it (KIP-342).
    let builder = producer_builder(kafka, Listener::SaslPlaintext, &oauthbearer);
    let builder = builder.token_provider(|| async {
        let expiry = SystemTime::now() + Duration::from_secs(600);
        let exp = expiry.duration_since(UNIX_EPOCH)?.as_secs();
        let encode = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        let header = encode(r#"{"alg":"none"}"#.into());
        let claims = encode(format!(r#"{{"sub":"us","iat":1,"exp":{exp}}}"#));
        let token = OAuthBearerToken::new(format!("{header}.{claims}."), expiry);
        Ok(token.with_extension("traceId", "7"))
    });
    send_records(builder, "accepted-provider", n);
}

/// Checks the command with security settings on the command line.
fn check_command(kafka: &SecureKafka) {
    let ca = kafka.file_path("ca.pem");
    let settings = [
        "security.protocol=SASL_SSL",
        "sasl.mechanism=SCRAM-SHA-512",
        "sasl.username=alice",
        "sasl.password=alice-secret",
        &format!("ssl.truststore.location={ca}"),
    ];
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
    command.args(["produce", "-b", &kafka.bootstrap(Listener::SaslSsl), "--topic", "command"]);
    for setting in settings {
        command.args(["-X", setting]);
    }
    let out = command.write_stdin("one\ntwo\n").output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && stderr.contains("2 records acknowledged"), "{stderr}");
}

fn check_disabled_host_verification(kafka: &SecureKafka) {
    let builder = producer_builder(
        kafka,
        Listener::WrongHostCertificate,
        &[
            ("security.protocol", "SSL"),
            ("ssl.truststore.location", &kafka.file_path("ca.pem")),
            ("ssl.endpoint.identification.algorithm", ""),
        ],
    );
    send_records(builder, "wronghost", 100);
}

/// Replaces the broker's certificate by one of another authority while records are sent, and the
/// client's file of trusted certificates. No record may be lost.
fn check_certificate_rotation(kafka: &SecureKafka) {
    let truststore = kafka.dir.join("rotating-ca.pem");
    fs::write(&truststore, kafka.authority.pem()).unwrap();
    let producer = producer_builder(
        kafka,
        Listener::Ssl,
        &[
            ("security.protocol", "SSL"),
            ("ssl.truststore.location", &truststore.display().to_string()),
            ("connections.max.idle.ms", "300"),
        ],
    )
    .build()
    .unwrap();
    let send = |n: u64| {
        let value = format!("{n}");
        producer.send(Record::to("rotation").value(value.as_bytes())).unwrap().wait().unwrap();
    };
    // Longer than connections.max.idle.ms: the next record needs a new connection.
    let close_idle_connections = || thread::sleep(Duration::from_millis(700));
    send(0);
    let next = CertificateAuthority::new("The next authority");
    next.issue_local("broker").write_pem(&kafka.dir.join("broker.pem"));
    fs::write(&truststore, format!("{}{}", kafka.authority.pem(), next.pem())).unwrap();
    kafka.reload_certificate(Listener::Ssl);
    for n in 1..5 {
        close_idle_connections();
        send(n);
    }
    fs::write(&truststore, next.pem()).unwrap();
    close_idle_connections();
    send(5);
    assert!(producer.totals().connection_creation_total >= 4);
    producer.close(Duration::from_secs(10)).unwrap();
    // A client that only trusts the old authority is rejected now.
    let old_ca = kafka.file_path("ca.pem");
    let builder = producer_builder(
        kafka,
        Listener::Ssl,
        &[("security.protocol", "SSL"), ("ssl.truststore.location", &old_ca)],
    );
    assert!(first_error_text(builder).contains("The next authority"));
}

/// Sends for several session lifetimes of 3 s. The client must reauthenticate on the open
/// connection (KIP-368).
fn check_reauthentication(kafka: &SecureKafka) {
    let completed = Arc::new(AtomicU64::new(0));
    let count = completed.clone();
    let producer = producer_builder(
        kafka,
        Listener::SaslReauthentication,
        &[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "alice"),
            ("sasl.password", "alice-secret"),
        ],
    )
    .delivery_handler(move |report| {
        assert!(report.result.is_ok(), "{:?}", report.result);
        count.fetch_add(report.tokens.len() as u64, Ordering::SeqCst);
    })
    .build()
    .unwrap();
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(8) {
        producer.send(Record::to("reauthentication").value(b"value").token(sent)).unwrap();
        sent += 1;
        if sent % 100 == 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }
    producer.flush().unwrap();
    assert_eq!(completed.load(Ordering::SeqCst), sent);
    let metrics = producer.metrics();
    let value = |name: &str| {
        let metric = metrics.iter().find(|m| m.name == name).unwrap();
        metric.value.to_string().parse::<f64>().unwrap()
    };
    let reauthentications = value("successful-reauthentication-total");
    assert!(reauthentications >= 2.0);
    assert!(value("reauthentication-latency-max") > 0.0);
    let closed = producer.totals().connection_close_total;
    assert!(closed <= 1, "the client reconnected {closed} times instead of reauthenticating");
    print_line(&format!("{reauthentications} reauthentications while {sent} records were sent"));
}
