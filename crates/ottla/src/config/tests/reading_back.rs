//! Tests of what can be read back from `Properties` and `ProducerConfig`.

use super::*;

#[test]
fn properties_are_read_by_every_name_that_sets_them() {
    let p = Properties::from_iter([
        ("metadata.broker.list", "h:1"),
        ("queue.buffering.max.kbytes", "2048"),
        ("compression.level", "7"),
        ("partitioner", "murmur2_random"),
        ("spring.kafka.producer.batch-size", "100"),
        ("key.serializer", "x.Y"),
    ]);
    p.check().unwrap();
    for (names, value) in [
        (["metadata.broker.list", "bootstrap.servers"], "h:1"),
        (["queue.buffering.max.kbytes", "queue.buffering.max.kbytes"], "2048"),
        (["buffer.memory", "spring.kafka.producer.buffer-memory"], "2097152"),
        (["compression.level", "compression.level"], "7"),
        (["partitioner", "partitioner.class"], "murmur2_random"),
        (["batch.size", "spring.kafka.producer.batch-size"], "100"),
        (["key.serializer", "key.serializer"], "x.Y"),
    ] {
        for name in names {
            assert_eq!(p.get(name), Some(value), "{name}");
        }
    }
    assert_eq!((p.get("linger.ms"), p.get("no.such.name")), (None, None));
    let p = Properties::from_iter([("buffer.memory", "1536")]);
    assert_eq!(p.get("queue.buffering.max.kbytes"), Some("1.5"));
}

#[test]
fn config_is_shown_with_defaults_and_what_follows_and_without_secrets() {
    let sasl = [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "PLAIN")];
    let user = [("sasl.username", "bob"), ("sasl.password", "hunter2")];
    let other = [("acks", "-1"), ("retries", "0"), ("request.timeout.ms", "200000")];
    let c = producer_config(&[&sasl[..], &user, &other].concat()).unwrap();
    let text = c.to_string();
    for line in [
        "acks=all",
        "bootstrap.servers=h:1",
        "delivery.timeout.ms=200005",
        "enable.idempotence=false",
        "linger.ms=5",
        "partitioner.class=DefaultPartitioner",
        "sasl.password=[hidden]",
        "security.protocol=SASL_PLAINTEXT",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("hunter2") && !format!("{c:?}").contains("hunter2"));
    assert!(!text.contains("transactional.id") && !text.contains("key.serializer"));
    let names: Vec<&str> = text.lines().filter_map(|l| Some(l.split_once('=')?.0)).collect();
    assert_eq!(names.len(), text.lines().count());
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(c.get("request.required.acks").as_deref(), Some("all"));
    assert_eq!(c.get("queue.buffering.max.kbytes").as_deref(), Some("32768"));
    assert_eq!((c.get("key.serializer"), c.get("no.such.name")), (None, None));
    assert_eq!(c.properties().get("linger.ms"), None, "it was not set");
}

/// What is shown is a properties file that gives the same configuration, but for secrets.
#[test]
fn shown_config_can_be_loaded_again() {
    let c = producer_config(&[
        ("linger.ms", "0.5"),
        ("compression.type", "zstd"),
        ("compression.level", "2"),
        ("partitioner.ignore.keys", "true"),
        ("reconnect.backoff.ms", "70"),
        ("acks", "1"),
    ])
    .unwrap();
    let mut p = Properties::new();
    p.load(c.to_string(), "shown").unwrap();
    assert_eq!(p.notices(), [""; 0]);
    let again = ProducerConfig::try_from(p).unwrap();
    assert_eq!(format!("{:?}", c.accumulator()), format!("{:?}", again.accumulator()));
    assert_eq!(format!("{:?}", c.sender()), format!("{:?}", again.sender()));
    assert_eq!(format!("{:?}", c.client()), format!("{:?}", again.client()));
    assert_eq!(format!("{:?}", c.network()), format!("{:?}", again.network()));
}

#[test]
fn files_and_environment_are_sources() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.properties");
    std::fs::write(&path, "bootstrap.servers=h:1\nlinger.ms=20\n").unwrap();
    let mut p = Properties::new();
    p.load_file(&path).unwrap();
    p.load_environment([("OTTLA_LINGER_MS".to_owned(), "7".to_owned())]).unwrap();
    let c = ProducerConfig::try_from(&p).unwrap();
    assert_eq!(c.accumulator().linger.as_millis(), 7, "the later source wins");
    let e = p.load_file(dir.path().join("missing")).unwrap_err().to_string();
    assert!(e.starts_with("cannot read ") && e.contains("missing"), "{e}");
}

#[test]
fn librdkafka_names_without_partitioner_are_a_notice() {
    let notice = |pairs: &[(&str, &str)]| Properties::from_iter(pairs.iter().copied()).notices();
    let old = ("metadata.broker.list", "h:1");
    let e = notice(&[old, ("message.timeout.ms", "60000")]);
    assert_eq!(e.len(), 1, "{e:?}");
    assert!(e[0].contains("(message.timeout.ms, metadata.broker.list)"), "{e:?}");
    assert!(e[0].contains("partitioner=consistent_random"), "{e:?}");
    assert_eq!(notice(&[old, ("partitioner", "murmur2_random")]), [""; 0]);
    assert_eq!(notice(&[old, ("partitioner.class", "RoundRobinPartitioner")]), [""; 0]);
    assert_eq!(notice(&[("bootstrap.servers", "h:1"), ("linger.ms", "5")]), [""; 0]);
    assert_eq!(notice(&[("receive.message.max.bytes", "100000")]).len(), 1);
}
