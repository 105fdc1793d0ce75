//! Tests of the builder's settings: types, exact durations, and the order of the calls.

use super::*;
use crate::config::{GzipLevel, Lz4Level};

fn builder() -> ProducerBuilder {
    ProducerBuilder::new().bootstrap_servers("h:1")
}

fn config(builder: &ProducerBuilder) -> ProducerConfig {
    builder.build_config().unwrap()
}

#[test]
fn typed_settings_arrive_as_they_were_given() {
    let c = config(
        &builder()
            .client_id(String::from("orders"))
            .acks(Acks::Leader)
            .security_protocol(SecurityProtocol::SaslPlaintext)
            .sasl_mechanism(SaslMechanism::ScramSha512)
            .set("sasl.username", "u")
            .set("sasl.password", String::from("hunter2"))
            .partitioning(PartitioningStrategy::UniformSticky)
            .compression(Compression::Gzip(GzipLevel::new(7).unwrap())),
    );
    assert_eq!(c.client().client_id, "orders");
    assert_eq!((c.sender().acks, c.sender().idempotent), (Acks::Leader, false));
    assert_eq!(c.security().protocol, SecurityProtocol::SaslPlaintext);
    assert_eq!(c.security().mechanism, Some(SaslMechanism::ScramSha512));
    assert_eq!(c.accumulator().partitioning, PartitioningStrategy::UniformSticky);
    assert_eq!(c.accumulator().compression.level(), Some(7));
}

#[test]
fn durations_are_kept_to_the_microsecond_or_refused() {
    let micros = Duration::from_micros(1500);
    let c = config(&builder().linger(micros).max_block(micros).retry_backoff(micros));
    assert_eq!((c.accumulator().linger, c.max_block()), (micros, micros));
    assert_eq!((c.sender().retry_backoff, c.client().metadata.backoff), (micros, micros));
    let seven = Duration::from_millis(7000);
    let c = config(&builder().request_timeout(seven).delivery_timeout(2 * seven));
    assert_eq!((c.client().request_timeout, c.sender().delivery_timeout), (seven, 2 * seven));
    for (builder, text) in [
        (builder().linger(Duration::from_nanos(1_000_001)), "linger.ms=1.000001"),
        (builder().max_block(Duration::MAX), "max.block.ms=18446744073709551615999.999999"),
        (builder().request_timeout(micros), "request.timeout.ms=1.5"),
        (builder().delivery_timeout(micros), "delivery.timeout.ms=1.5"),
    ] {
        let e = builder.build_config().unwrap_err().to_string();
        assert!(e.contains(&format!("{text} ")) && e.contains("expected"), "{e}");
    }
}

#[test]
fn bootstrap_servers_are_one_text_or_several() {
    let expected = [("a".to_owned(), 1), ("b".to_owned(), 2)];
    let owned = vec!["a:1".to_owned(), "b:2".to_owned()];
    let (new, list) = (ProducerBuilder::new, owned.join(","));
    for builder in [
        new().bootstrap_servers(&list),
        new().bootstrap_servers("a:1,b:2"),
        new().bootstrap_servers(String::from("a:1, b:2")),
        new().bootstrap_servers(["a:1", "b:2"]),
        new().bootstrap_servers(&["a:1", "b:2"][..]),
        new().bootstrap_servers(&owned),
        new().bootstrap_servers(owned.iter().map(|s| s.as_str())),
        new().bootstrap_servers(owned),
    ] {
        assert_eq!(config(&builder).client().bootstrap_servers, expected);
    }
    let none: [&str; 0] = [];
    let e = new().bootstrap_servers(none).build_config().unwrap_err().to_string();
    assert!(e.contains("bootstrap.servers is empty"), "{e}");
}

#[test]
fn later_calls_win_whichever_they_are() {
    let from_file = || Properties::from_iter([("linger.ms", "20"), ("compression.codec", "zstd")]);
    let linger = |b: ProducerBuilder| config(&b).accumulator().linger.as_millis();
    let typed = Duration::from_millis(7);
    assert_eq!(linger(builder().linger(typed).properties(from_file())), 20);
    assert_eq!(linger(builder().properties(from_file()).linger(typed)), 7);
    assert_eq!(linger(builder().linger(typed).set("queue.buffering.max.ms", "3")), 3);
    // Properties leave alone what they do not have; a whole configuration replaces everything.
    let b = builder().batch_size(100).properties(from_file());
    assert_eq!(config(&b).accumulator().batch_size, 100);
    let whole = config(&builder().properties(from_file()));
    let c = config(&builder().batch_size(100).linger(typed).config(whole).acks(Acks::Leader));
    assert_eq!((c.accumulator().batch_size, c.accumulator().linger.as_millis()), (16384, 20));
    assert_eq!((c.sender().acks, c.accumulator().compression), (Acks::Leader, Compression::zstd()));
}

#[test]
fn later_level_wins_also_over_the_level_of_any_codec() {
    let level =
        |b: ProducerBuilder| config(&b.set("compression.type", "gzip")).accumulator().compression;
    let gzip = |level| Compression::Gzip(GzipLevel::new(level).unwrap());
    let any = ("compression.level", "3");
    let one = ("compression.gzip.level", "7");
    assert_eq!(level(builder().set(any.0, any.1).set(one.0, one.1)), gzip(7));
    assert_eq!(level(builder().set(one.0, one.1).set(any.0, any.1)), gzip(3));
    let merged = builder().set(one.0, one.1).properties(Properties::from_iter([any]));
    assert_eq!(level(merged), gzip(3));
    let typed = builder().set("compression.level", "12").compression(Compression::lz4());
    assert_eq!(config(&typed).accumulator().compression, Compression::Lz4(Lz4Level::default()));
}

#[test]
fn typed_partitioning_replaces_ignored_keys() {
    let ignore = builder().set("partitioner.ignore.keys", "true");
    assert_eq!(config(&ignore).accumulator().partitioning, PartitioningStrategy::UniformSticky);
    let c = config(&ignore.partitioning(PartitioningStrategy::Default));
    assert_eq!(c.accumulator().partitioning, PartitioningStrategy::Default);
}

#[test]
fn first_invalid_value_is_the_error_of_build() {
    let b = builder().set("lingerms", "1").properties(Properties::from_iter([("acks", "7")]));
    let e = b.build().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(e.to_string().contains("did you mean linger.ms?"), "{e}");
    let e = builder().properties(Properties::from_iter([("acks", "7")])).build().unwrap_err();
    assert!(e.to_string().contains("acks=7"), "{e}");
}

#[test]
fn notices_are_readable_without_a_subscriber() {
    let b = builder().set("statistics.interval.ms", "1000").set("log_level", "7");
    let notices = b.set("enable.ssl.certificate.verification", "false").notices();
    for text in ["Producer::metrics", "tracing", "ssl.ca.location", "consistent_random"] {
        assert!(notices.iter().any(|n| n.contains(text)), "{text}: {notices:?}");
    }
    assert_eq!(builder().notices(), [""; 0]);
}
