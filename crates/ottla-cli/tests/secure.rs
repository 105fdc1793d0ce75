//! TLS and SASL against the real Kafka 4.3.1: every way in, what is wrong told in words, certificates and sessions
//! that change while records go out. Skipped, loudly, without a JDK and Maven; with `CI=true` that is a failure.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ottla::{ErrorKind, OAuthBearerToken, Producer, ProducerBuilder, Record};
use ottla_testkit::{CertificateAuthority, Jars, Listener, SecureKafka, print_line};

/// Records through each way in; `TEST_SECURE_RECORDS=200000` for the long run.
fn record_count() -> u64 {
    std::env::var("TEST_SECURE_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn plain_jaas_config(user: &str, password: &str) -> String {
    format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{user}\" password=\"{password}\";"
    )
}

fn producer_builder(
    kafka: &SecureKafka,
    listener: Listener,
    settings: &[(&str, &str)],
) -> ProducerBuilder {
    let mut b = Producer::builder().bootstrap_servers(&kafka.bootstrap(listener));
    for (name, value) in settings {
        b = b.set(name, value);
    }
    b
}

/// Sends so many records; all must be acknowledged.
fn send_records(b: ProducerBuilder, topic: &str, n: u64) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let count = acknowledged.clone();
    let producer = b
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

/// The error of a first record, and how long it took to be told.
fn first_error(b: ProducerBuilder) -> (ErrorKind, String, Duration) {
    let begun = Instant::now();
    let producer = match b.set("max.block.ms", "3000").build() {
        Ok(producer) => producer,
        Err(e) => return (e.kind(), e.to_string(), begun.elapsed()),
    };
    let sent = producer.send(Record::to("refused").value(b"x")).and_then(|d| d.wait().map(|_| ()));
    let e = sent.expect_err("nobody lets this in");
    (e.kind(), e.to_string(), begun.elapsed())
}

#[test]
fn every_way_in_and_what_is_said_where_there_is_none() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let kafka = SecureKafka::start(&jars);
    let n = record_count();
    let ca = kafka.file_path("ca.pem");
    let trust = ("ssl.truststore.location", ca.as_str());
    check_accepted_settings(&kafka, n);
    check_rejected_settings(&kafka, trust);
    check_certificate_rotation(&kafka);
    check_reauthentication(&kafka);
    let at = ["--bootstrap-server", kafka.kafka.bootstrap.as_str()];
    let offsets = jars.run_tool("org.apache.kafka.tools.GetOffsetShell", &at);
    let mut ways = 0;
    for line in offsets.lines().filter(|l| l.starts_with("way-")) {
        let end: u64 = line.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert_eq!(end, n, "{line}");
        ways += 1;
    }
    assert_eq!(ways, 14, "{offsets}");
}

fn check_accepted_settings(kafka: &SecureKafka, n: u64) {
    let ca = kafka.file_path("ca.pem");
    let trust = ("ssl.truststore.location", ca.as_str());
    let ssl = ("security.protocol", "SSL");
    let through = |listener, name: &str, settings: &[(&str, &str)]| {
        send_records(producer_builder(kafka, listener, settings), &format!("way-{name}"), n);
    };
    through(Listener::Ssl, "ssl", &[ssl, trust]);
    through(Listener::Ssl, "ssl12", &[ssl, trust, ("ssl.protocol", "TLSv1.2")]);
    let us = kafka.authority.issue_local("a client");
    let store = us.write_pem(&kafka.dir.join("client.pem")).display().to_string();
    through(Listener::SslClientAuth, "mutual", &[ssl, trust, ("ssl.keystore.location", &store)]);
    let inline = [
        ssl,
        ("ssl.truststore.certificates", &kafka.authority.pem()),
        ("ssl.keystore.certificate.chain", &us.chain.replace('\n', " ")),
        ("ssl.keystore.key", &us.key),
    ];
    send_records(producer_builder(kafka, Listener::SslClientAuth, &inline), "way-inline", n);
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
        let clear = [&login[..], &[("security.protocol", "SASL_PLAINTEXT")]].concat();
        let short = mechanism.to_ascii_lowercase();
        through(Listener::SaslPlaintext, &format!("sasl-{short}"), &clear);
        let tls = [&login[..], &[("security.protocol", "SASL_SSL"), trust]].concat();
        through(Listener::SaslSsl, &format!("saslssl-{short}"), &tls);
    }
    let (id, secret) = kafka.token_endpoint.client_credentials();
    let url = kafka.token_endpoint.token_url();
    through(
        Listener::Oidc,
        "oidc",
        &[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.token.endpoint.url", &url),
            ("sasl.oauthbearer.client.credentials.client.id", id),
            ("sasl.oauthbearer.client.credentials.client.secret", secret),
            ("sasl.oauthbearer.scope", "produce"),
        ],
    );
    assert!(kafka.token_endpoint.issued_tokens() >= 1);
    // A token of the application's own making, with an extension that goes along.
    let b = producer_builder(
        kafka,
        Listener::SaslPlaintext,
        &[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "OAUTHBEARER")],
    );
    let b = b.token_provider(|| async {
        let ends = SystemTime::now() + Duration::from_secs(600);
        let exp = ends.duration_since(UNIX_EPOCH)?.as_secs();
        let part = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        let head = part(r#"{"alg":"none"}"#.into());
        let claims = part(format!(r#"{{"sub":"us","iat":1,"exp":{exp}}}"#));
        Ok(OAuthBearerToken::new(format!("{head}.{claims}."), ends).with_extension("traceId", "7"))
    });
    send_records(b, "way-provider", n);
    // And the command, as the README has it.
    let options = [
        "security.protocol=SASL_SSL",
        "sasl.mechanism=SCRAM-SHA-512",
        "sasl.username=alice",
        "sasl.password=alice-secret",
        &format!("ssl.truststore.location={ca}"),
    ];
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
    command.args(["produce", "-b", &kafka.bootstrap(Listener::SaslSsl), "--topic", "command"]);
    for option in options {
        command.args(["-X", option]);
    }
    let out = command.write_stdin("one\ntwo\n").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("2 records acknowledged"), "{said}");
}

type RejectedCase<'a> = (&'a str, Listener, Vec<(&'a str, &'a str)>, &'a [&'a str]);

fn check_rejected_settings(kafka: &SecureKafka, trust: (&str, &str)) {
    let other = kafka.dir.join("other-ca.pem");
    fs::write(&other, CertificateAuthority::new("Somebody else").pem()).unwrap();
    let other = other.display().to_string();
    let ssl = ("security.protocol", "SSL");
    let sasl = ("security.protocol", "SASL_PLAINTEXT");
    let bad = plain_jaas_config("bob", "hunter2");
    let url = kafka.token_endpoint.token_url();
    let oauth = [
        sasl,
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.token.endpoint.url", &url),
        ("sasl.oauthbearer.client.credentials.client.id", "ottla-tests"),
        ("sasl.oauthbearer.client.credentials.client.secret", "hunter2"),
    ];
    let scram = |user, password| {
        vec![
            sasl,
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("sasl.username", user),
            ("sasl.password", password),
        ]
    };
    let unsecured = "a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"ottla\";";
    let cases: Vec<RejectedCase<'_>> = vec![
        (
            "wrong password, PLAIN",
            Listener::SaslPlaintext,
            vec![sasl, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", &bad)],
            &["SASL_AUTHENTICATION_FAILED", "PLAIN", "Invalid username or password"],
        ),
        (
            "wrong password, SCRAM",
            Listener::SaslPlaintext,
            scram("alice", "hunter2"),
            &["SASL_AUTHENTICATION_FAILED", "SCRAM-SHA-256"],
        ),
        (
            "unknown user, SCRAM",
            Listener::SaslPlaintext,
            scram("mallory", "hunter2"),
            &["SASL_AUTHENTICATION_FAILED"],
        ),
        (
            "mechanism that is off",
            Listener::Oidc,
            scram("alice", "x"),
            &["SCRAM-SHA-256", "does not have this mechanism", "it has OAUTHBEARER"],
        ),
        (
            "unsigned token",
            Listener::Oidc,
            vec![sasl, ("sasl.mechanism", "OAUTHBEARER"), ("sasl.jaas.config", unsecured)],
            &["SASL_AUTHENTICATION_FAILED", "invalid_token"],
        ),
        (
            "wrong client secret",
            Listener::Oidc,
            oauth.to_vec(),
            &["no token from", "401", "invalid_client", "who are you?"],
        ),
        (
            "wrong authority",
            Listener::Ssl,
            vec![ssl, ("ssl.truststore.location", &other)],
            &[
                "CN=broker",
                "Ottla test authority",
                "nobody who is trusted",
                "ssl.truststore.location",
            ],
        ),
        (
            "expired certificate",
            Listener::ExpiredCertificate,
            vec![ssl, trust],
            &["CN=old broker", "expired on Jan  1 00:00:00 2021"],
        ),
        (
            "another host's certificate",
            Listener::WrongHostCertificate,
            vec![ssl, trust],
            &["CN=other broker", "not for 127.0.0.1 but for kafka.example.org"],
        ),
        (
            "no certificate of ours",
            Listener::SslClientAuth,
            vec![ssl, trust],
            &["ssl.keystore.location"],
        ),
        (
            "TLS to a plaintext port",
            Listener::SaslPlaintext,
            vec![ssl, trust],
            &["security.protocol"],
        ),
        ("plaintext to a TLS port", Listener::Ssl, vec![], &["security.protocol"]),
        (
            "no SASL where it is wanted",
            Listener::SaslPlaintext,
            vec![],
            &["SASL", "security.protocol"],
        ),
    ];
    print_line(&format!("{:<30} {:>8}  what is said", "wrong", "ms"));
    for (name, listener, settings, words) in cases {
        let (kind, text, took) = first_error(producer_builder(kafka, listener, &settings));
        print_line(&format!("{name:<30} {:>8}  {kind:?}: {text}", took.as_millis()));
        for word in words {
            assert!(text.contains(word), "{name}: {word:?} is not in: {text}");
        }
        assert!(!text.contains("hunter2"), "{name}: {text}");
        let words_alone = name.contains("plaintext") || name.contains("where it is wanted");
        let expected =
            if words_alone { ErrorKind::MetadataTimeout } else { ErrorKind::Authentication };
        assert_eq!(kind, expected, "{name}: {text}");
        // Kafka itself holds a wrong password back for 100 ms.
        assert!(words_alone || took < Duration::from_millis(2900), "{name}: {took:?}");
    }
    let open = producer_builder(
        kafka,
        Listener::WrongHostCertificate,
        &[ssl, trust, ("ssl.endpoint.identification.algorithm", "")],
    );
    send_records(open, "elsewhere", 100);
}

/// The broker's certificate is replaced by one of another authority, and the file of those we trust is, too, while
/// records go out: nothing is lost.
fn check_certificate_rotation(kafka: &SecureKafka) {
    let trusted = kafka.dir.join("rotating-ca.pem");
    fs::write(&trusted, kafka.authority.pem()).unwrap();
    let producer = producer_builder(
        kafka,
        Listener::Ssl,
        &[
            ("security.protocol", "SSL"),
            ("ssl.truststore.location", &trusted.display().to_string()),
            ("connections.max.idle.ms", "300"),
        ],
    )
    .build()
    .unwrap();
    let put = |n: u64| {
        let value = format!("{n}");
        producer.send(Record::to("rotation").value(value.as_bytes())).unwrap().wait().unwrap();
    };
    put(0);
    let next = CertificateAuthority::new("The next authority");
    next.issue_local("broker").write_pem(&kafka.dir.join("broker.pem"));
    fs::write(&trusted, format!("{}{}", kafka.authority.pem(), next.pem())).unwrap();
    kafka.reload_certificate(Listener::Ssl);
    for n in 1..5 {
        // Idle connections are closed in between: each of these is a new one.
        thread::sleep(Duration::from_millis(700));
        put(n);
    }
    fs::write(&trusted, next.pem()).unwrap();
    thread::sleep(Duration::from_millis(700));
    put(5);
    assert!(producer.totals().connection_creation_total >= 4);
    producer.close(Duration::from_secs(10)).unwrap();
    // Trusting the old authority alone does not do any more.
    let old = kafka.file_path("ca.pem");
    let b = producer_builder(
        kafka,
        Listener::Ssl,
        &[("security.protocol", "SSL"), ("ssl.truststore.location", &old)],
    );
    assert!(first_error(b).1.contains("The next authority"));
}

/// Sessions of 3 s are renewed on the connection they are of, while records go out.
fn check_reauthentication(kafka: &SecureKafka) {
    let b = producer_builder(
        kafka,
        Listener::SaslReauthentication,
        &[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "alice"),
            ("sasl.password", "alice-secret"),
        ],
    );
    let ended = Arc::new(AtomicU64::new(0));
    let count = ended.clone();
    let b = b.delivery_handler(move |report| {
        assert!(report.result.is_ok(), "{:?}", report.result);
        count.fetch_add(report.tokens.len() as u64, Ordering::SeqCst);
    });
    let producer = b.build().unwrap();
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(8) {
        producer.send(Record::to("renewal").value(b"on and on").token(sent)).unwrap();
        sent += 1;
        if sent % 100 == 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }
    producer.flush().unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), sent);
    let metrics = producer.metrics();
    let value = |name: &str| {
        let m = metrics.iter().find(|m| m.name == name).unwrap();
        m.value.to_string().parse::<f64>().unwrap()
    };
    assert!(value("successful-reauthentication-total") >= 2.0);
    assert!(value("reauthentication-latency-max") > 0.0);
    let closed = producer.totals().connection_close_total;
    assert!(closed <= 1, "renewed in place, not by {closed} new connections");
    print_line(&format!(
        "renewed {} times under {sent} records",
        value("successful-reauthentication-total")
    ));
}
