//! Settings that the broker or the client must reject, for producers with and without transactions.

use std::fs;
use std::time::{Duration, Instant};

use ottla::{Error, ErrorKind, Producer, ProducerBuilder, Record};
use ottla_testkit::{CertificateAuthority, Listener, SecureKafka, print_line};

use super::{plain_jaas_config, producer_builder};

/// The error of the first call of a producer.
struct FirstError {
    kind: ErrorKind,
    text: String,
    elapsed: Duration,
}

/// Sends a record and waits for its result.
fn send_one(producer: &Producer) -> Result<(), Error> {
    producer.send(Record::to("rejected").value(b"x"))?.wait().map(drop)
}

/// Returns the error of a producer with these settings that sends one record.
pub(super) fn first_error_text(builder: ProducerBuilder) -> String {
    first_error(builder, send_one).text
}

/// Builds a producer and uses it, which must fail.
fn first_error(
    builder: ProducerBuilder,
    first_call: fn(&Producer) -> Result<(), Error>,
) -> FirstError {
    let start = Instant::now();
    let result = builder.set("max.block.ms", "3000").build().and_then(|p| first_call(&p));
    let e = result.expect_err("the broker accepts these settings");
    FirstError { kind: e.kind(), text: e.to_string(), elapsed: start.elapsed() }
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
pub(super) const WRONG_SECRET: &str = "hunter2";

// CASES: SA5.
pub(super) fn check_rejected_settings(kafka: &SecureKafka) {
    print_line(&format!("{:<33} {:>8}  error", "rejected settings", "ms"));
    for case in rejected_sasl_cases(kafka).into_iter().chain(rejected_tls_cases(kafka)) {
        let settings: Vec<(&str, &str)> =
            case.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        // Without transactions, the error is the one of a record.
        check_rejected(&case, producer_builder(kafka, case.listener, &settings), send_one);
        let transactional =
            producer_builder(kafka, case.listener, &settings).set("transactional.id", "rejected");
        check_rejected(&case, transactional, Producer::init_transactions);
    }
}

/// Checks the error of the first call of a producer that the case rejects.
fn check_rejected(
    case: &RejectedCase,
    builder: ProducerBuilder,
    first_call: fn(&Producer) -> Result<(), Error>,
) {
    let FirstError { kind, text, elapsed } = first_error(builder, first_call);
    let name = case.name;
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
