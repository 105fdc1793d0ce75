//! TLS and SASL against the real Kafka 4.3.1: settings that work, settings that are rejected, and
//! certificates and sessions that change while records are sent.
//!
//! Without a JDK and Maven the test reports that it is skipped; with `CI=true` it fails.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ottla::{ErrorKind, OAuthBearerToken, Producer, ProducerBuilder, Record};
use ottla_testkit::{CertificateAuthority, Jars, Listener, SecureKafka, print_line};

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

/// The error of the first record of a producer.
struct FirstError {
    kind: ErrorKind,
    text: String,
    elapsed: Duration,
}

/// Builds a producer and sends one record, which must fail.
fn first_error(builder: ProducerBuilder) -> FirstError {
    let start = Instant::now();
    let result = builder.set("max.block.ms", "3000").build().and_then(|producer| {
        producer.send(Record::to("rejected").value(b"x"))?.wait()?;
        Ok(())
    });
    let e = result.expect_err("the broker accepts these settings");
    FirstError { kind: e.kind(), text: e.to_string(), elapsed: start.elapsed() }
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

type Settings = Vec<(&'static str, String)>;

/// Settings that the broker or the client must reject.
struct RejectedCase {
    name: &'static str,
    listener: Listener,
    settings: Settings,
    expected_kind: ErrorKind,
    /// Parts of the error's text.
    expected_text: &'static [&'static str],
}

impl RejectedCase {
    /// A case that ends at once with an authentication error.
    fn new(
        name: &'static str,
        listener: Listener,
        settings: Settings,
        expected_text: &'static [&'static str],
    ) -> RejectedCase {
        let expected_kind = ErrorKind::Authentication;
        RejectedCase { name, listener, settings, expected_kind, expected_text }
    }

    /// A case in which no bootstrap server responds as a broker with these settings does. The
    /// client tries twice, and then names the setting.
    fn with_misfit_settings(self) -> RejectedCase {
        RejectedCase { expected_kind: ErrorKind::Config, ..self }
    }
}

fn settings(protocol: &str, other: &[(&'static str, &str)]) -> Settings {
    let protocol = [("security.protocol", protocol)];
    protocol.iter().chain(other).map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn rejected_sasl_cases(kafka: &SecureKafka) -> Vec<RejectedCase> {
    let jaas_config = plain_jaas_config("bob", WRONG_SECRET);
    let url = kafka.token_endpoint.token_url();
    let sasl = |mechanism: &str, other: &[(&'static str, &str)]| {
        settings("SASL_PLAINTEXT", &[&[("sasl.mechanism", mechanism)], other].concat())
    };
    let scram = |user: &str, password: &str| {
        sasl("SCRAM-SHA-256", &[("sasl.username", user), ("sasl.password", password)])
    };
    let unsecured = "a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"ottla\";";
    let wrong_client_secret = [
        ("sasl.oauthbearer.token.endpoint.url", url.as_str()),
        ("sasl.oauthbearer.client.credentials.client.id", "ottla-tests"),
        ("sasl.oauthbearer.client.credentials.client.secret", WRONG_SECRET),
    ];
    vec![
        RejectedCase::new(
            "wrong password, PLAIN",
            Listener::SaslPlaintext,
            sasl("PLAIN", &[("sasl.jaas.config", &jaas_config)]),
            &["SASL_AUTHENTICATION_FAILED", "PLAIN", "Invalid username or password"],
        ),
        RejectedCase::new(
            "wrong password, SCRAM",
            Listener::SaslPlaintext,
            scram("alice", WRONG_SECRET),
            &["SASL_AUTHENTICATION_FAILED", "SCRAM-SHA-256"],
        ),
        RejectedCase::new(
            "unknown user, SCRAM",
            Listener::SaslPlaintext,
            scram("mallory", WRONG_SECRET),
            &["SASL_AUTHENTICATION_FAILED"],
        ),
        RejectedCase::new(
            "mechanism that is disabled",
            Listener::Oidc,
            scram("alice", "x"),
            &["SCRAM-SHA-256", "UNSUPPORTED_SASL_MECHANISM", "supports OAUTHBEARER"],
        ),
        RejectedCase::new(
            "unsigned token",
            Listener::Oidc,
            sasl("OAUTHBEARER", &[("sasl.jaas.config", unsecured)]),
            &["SASL_AUTHENTICATION_FAILED", "invalid_token"],
        ),
        RejectedCase::new(
            "wrong client secret",
            Listener::Oidc,
            sasl("OAUTHBEARER", &wrong_client_secret),
            &["no token from", "401", "invalid_client", "unknown client id or wrong secret"],
        ),
        RejectedCase::new(
            "no SASL on a SASL listener",
            Listener::SaslPlaintext,
            settings("PLAINTEXT", &[]),
            &["SASL", "security.protocol"],
        )
        .with_misfit_settings(),
    ]
}

fn rejected_tls_cases(kafka: &SecureKafka) -> Vec<RejectedCase> {
    let other_ca = kafka.dir.join("other-ca.pem");
    fs::write(&other_ca, CertificateAuthority::new("Another authority").pem()).unwrap();
    let other_ca = other_ca.display().to_string();
    let ca = kafka.file_path("ca.pem");
    let trusted = || settings("SSL", &[("ssl.truststore.location", &ca)]);
    vec![
        RejectedCase::new(
            "wrong authority",
            Listener::Ssl,
            settings("SSL", &[("ssl.truststore.location", &other_ca)]),
            &[
                "CN=broker",
                "Ottla test authority",
                "not signed by a trusted authority",
                "ssl.truststore.location",
            ],
        ),
        RejectedCase::new(
            "expired certificate",
            Listener::ExpiredCertificate,
            trusted(),
            &["CN=old broker", "expired on Jan  1 00:00:00 2021"],
        ),
        RejectedCase::new(
            "another host's certificate",
            Listener::WrongHostCertificate,
            trusted(),
            &["CN=other broker", "not for 127.0.0.1 but for kafka.example.org"],
        ),
        RejectedCase::new(
            "no client certificate",
            Listener::SslClientAuth,
            trusted(),
            &["ssl.keystore.location"],
        ),
        RejectedCase::new(
            "TLS on a SASL_PLAINTEXT listener",
            Listener::SaslPlaintext,
            trusted(),
            &["security.protocol"],
        )
        .with_misfit_settings(),
        RejectedCase::new(
            "plaintext on a TLS listener",
            Listener::Ssl,
            settings("PLAINTEXT", &[]),
            &["security.protocol"],
        )
        .with_misfit_settings(),
    ]
}

/// A secret that no user has. It must not be in any error.
const WRONG_SECRET: &str = "hunter2";

fn check_rejected_settings(kafka: &SecureKafka) {
    print_line(&format!("{:<33} {:>8}  error", "rejected settings", "ms"));
    for case in rejected_sasl_cases(kafka).into_iter().chain(rejected_tls_cases(kafka)) {
        let settings: Vec<(&str, &str)> =
            case.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let error = first_error(producer_builder(kafka, case.listener, &settings));
        let (name, text) = (case.name, &error.text);
        let (kind, elapsed) = (error.kind, error.elapsed);
        print_line(&format!("{name:<33} {:>8}  {kind:?}: {text}", elapsed.as_millis()));
        for expected in case.expected_text {
            assert!(text.contains(expected), "{name}: {expected:?} is missing in: {text}");
        }
        assert!(!text.contains(WRONG_SECRET), "{name}: {text}");
        assert_eq!(kind, case.expected_kind, "{name}: {text}");
        // No error waits for max.block.ms (3000 ms). Kafka itself delays the response to a wrong
        // password by 100 ms.
        assert!(elapsed < Duration::from_millis(2900), "{name}: {elapsed:?}");
    }
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
    assert!(first_error(builder).text.contains("The next authority"));
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
