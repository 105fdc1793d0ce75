//! Tests of settings as librdkafka's users write them.

use super::*;

/// Each default of librdkafka's CONFIGURATION.md (2.12) for producers, written out: alone, together
/// with a short message timeout, and all at once.
#[test]
fn written_out_defaults_of_librdkafka_are_accepted() {
    let defaults = include_str!("../librdkafka_defaults.txt");
    assert!(defaults.lines().count() > 85);
    let mut all = "bootstrap.servers=h:1\n".to_owned();
    for line in defaults.lines() {
        let mut p = Properties::new();
        p.load(format!("bootstrap.servers=h:1\n{line}"), "f").unwrap();
        ProducerConfig::new(&p).unwrap_or_else(|e| panic!("{line}: {e}"));
        if !line.starts_with("delivery.timeout.ms") && !line.starts_with("request.timeout.ms") {
            p.set("message.timeout.ms", "5000").unwrap();
            ProducerConfig::new(&p).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        all.push_str(line);
        all.push('\n');
    }
    let mut p = Properties::new();
    p.load(all, "f").unwrap();
    let c = ProducerConfig::new(&p).unwrap();
    assert_eq!((c.sender.idempotent, c.sender.max_in_flight), (false, 1_000_000));
    assert_eq!(c.accumulator.compression, Compression::None);
    assert_eq!(c.network.connections_max_idle, None, "0 is never");
}

#[test]
fn default_of_the_socket_timeout_bends_to_the_message_timeout() {
    let timeout = ("socket.timeout.ms", "60000");
    let c = producer_config(&[timeout, ("message.timeout.ms", "5000")]).unwrap();
    assert_eq!(c.get("socket.timeout.ms").as_deref(), Some("4995"));
    let c = producer_config(&[timeout, ("message.timeout.ms", "300000")]).unwrap();
    assert_eq!(c.get("socket.timeout.ms").as_deref(), Some("60000"));
    // Kafka's name is Kafka's rule, also if it replaces librdkafka's.
    let e =
        config_error(&[timeout, ("message.timeout.ms", "5000"), ("request.timeout.ms", "60000")]);
    assert!(e.contains("message.timeout.ms=5000") && e.contains("request.timeout.ms=60000"), "{e}");
}

#[test]
fn default_of_requests_in_flight_is_lowered_for_idempotence_with_a_notice() {
    for name in ["max.in.flight", "max.in.flight.requests.per.connection"] {
        let million = (name, "1000000");
        let c = producer_config(&[million]).unwrap();
        assert_eq!((c.sender.idempotent, c.client.max_in_flight), (true, 5));
        assert_eq!(c.get(name).as_deref(), Some("5"));
        let notices = c.notices();
        let notice = format!("{name}=1000000 is librdkafka's default");
        assert!(notices.iter().any(|n| n.starts_with(&notice)), "{notices:?}");
        for off in [("enable.idempotence", "false"), ("acks", "1")] {
            let c = producer_config(&[million, off]).unwrap();
            assert_eq!((c.sender.idempotent, c.client.max_in_flight), (false, 1_000_000));
        }
        let e = config_error(&[million, ("enable.idempotence", "true")]);
        assert!(e.contains(&format!("{name} must be set to at most 5")), "{e}");
    }
    let e = config_error(&[("max.in.flight", "6")]);
    assert!(e.contains("max.in.flight must be set to at most 5. Current value is 6."), "{e}");
}

#[test]
fn settings_that_turn_idempotence_off_are_noticed() {
    for (name, value) in [
        ("acks", "1"),
        ("acks", "0"),
        ("request.required.acks", "1"),
        ("retries", "0"),
        ("message.send.max.retries", "0"),
    ] {
        let notices = producer_config(&[(name, value)]).unwrap().notices();
        let notice = format!("{name}={value} turns idempotence off");
        assert!(notices.iter().any(|n| n.starts_with(&notice)), "{notices:?}");
        // Nothing surprises a user who requested it.
        let off = ("enable.idempotence", "false");
        let notices = producer_config(&[(name, value), off]).unwrap().notices();
        assert!(notices.iter().all(|n| !n.contains("idempotence")), "{notices:?}");
        let e = config_error(&[(name, value), ("enable.idempotence", "true")]);
        assert!(e.contains(&format!("conflicts with {name}={value}; set {name}")), "{e}");
    }
    assert_eq!(producer_config(&[("acks", "all")]).unwrap().notices(), [""; 0]);
}

/// librdkafka compares words without regard to case. Java does so with the type of a store and the
/// version of TLS.
#[test]
fn words_of_any_case_and_numbers_for_booleans_are_accepted() {
    let value = |name: &str, text: &str| producer_config(&[(name, text)]).unwrap().get(name);
    for (name, text) in [
        ("enable.idempotence", "1"),
        ("enable.idempotence", "t"),
        ("compression.codec", "ZSTD"),
        ("compression.type", "Lz4"),
        ("request.required.acks", "ALL"),
        ("broker.address.family", "V4"),
        ("security.protocol", "plaintext"),
        ("ssl.keystore.type", "jks"),
        ("ssl.truststore.type", "pkcs12"),
    ] {
        assert!(value(name, text).is_some(), "{name}={text}");
    }
    let off = [("enable.idempotence", "0"), ("max.in.flight", "6")];
    assert!(producer_config(&off).is_ok(), "the 0 means false");
    let e = config_error(&[("enable.idempotence", "yes")]);
    assert!(e.contains("expected true or false"), "{e}");
}

#[cfg(feature = "tls")]
#[test]
fn errors_of_tls_settings_have_the_names_that_the_user_wrote() {
    let ssl = ("security.protocol", "SSL");
    let e = config_error(&[ssl, ("ssl.ca.location", "a"), ("ssl.ca.pem", "b")]);
    assert!(e.contains("ssl.ca.location and ssl.ca.pem are both set"), "{e}");
    let e = config_error(&[ssl, ("ssl.truststore.location", "a"), ("ssl.ca.pem", "b")]);
    assert!(e.contains("ssl.truststore.location and ssl.ca.pem are both set"), "{e}");
    let e = config_error(&[ssl, ("ssl.key.pem", "a")]);
    assert!(e.contains("ssl.key.pem is set without ssl.keystore.certificate.chain"), "{e}");
}

/// `TLSv1.2,TLSv1.1,TLSv1` was Kafka's default before 2.6 and stands in many files.
#[cfg(feature = "tls")]
#[test]
fn old_versions_beside_a_supported_one_are_noticed() {
    let protocols = ("ssl.enabled.protocols", "TLSv1.2,TLSv1.1,tlsv1");
    let config = producer_config(&[("security.protocol", "SSL"), protocols]).unwrap();
    let notices = config.notices();
    assert!(notices.iter().any(|n| n.contains("TLSv1.1, tlsv1 has no effect")), "{notices:?}");
    let version = ("ssl.protocol", "tlsv1.2");
    assert!(producer_config(&[("security.protocol", "SSL"), version]).is_ok());
}

#[test]
fn inherited_codec_is_that_of_the_producer() {
    let codec =
        |settings: &[(&str, &str)]| producer_config(settings).unwrap().get("compression.type");
    let inherit = ("compression.codec", "inherit");
    assert_eq!(codec(&[inherit]).as_deref(), Some("none"));
    assert_eq!(codec(&[("compression.codec", "lz4"), inherit]).as_deref(), Some("lz4"));
    assert_eq!(codec(&[("compression.type", "inherit"), inherit]).as_deref(), Some("none"));
}
