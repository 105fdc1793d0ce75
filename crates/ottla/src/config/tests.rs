//! Tests of `Properties` and `ProducerConfig` together: values by name in, settings or errors out.

mod librdkafka;
mod reading_back;

use super::*;

fn producer_config(pairs: &[(&str, &str)]) -> Result<ProducerConfig, Error> {
    let mut p = Properties::new();
    p.set("bootstrap.servers", "h:1")?;
    for (name, value) in pairs {
        p.set(name, value)?;
    }
    ProducerConfig::new(&p)
}

fn config_error(pairs: &[(&str, &str)]) -> String {
    producer_config(pairs).expect_err(&format!("{pairs:?} must be an error")).to_string()
}

#[test]
fn defaults_are_those_of_kafka_except_for_the_send_buffer() {
    let c = producer_config(&[]).unwrap();
    let s = c.sender();
    assert_eq!((s.acks, s.idempotent, s.max_in_flight), (Acks::All, true, 5));
    assert_eq!((s.retries, s.max_request_size), (i32::MAX as u32, 1_048_576));
    let a = c.accumulator();
    assert_eq!((a.batch_size, a.buffer_memory), (16384, 33_554_432));
    assert_eq!((a.linger, a.compression), (Duration::from_millis(5), Compression::None));
    assert_eq!(a.partitioning, PartitioningStrategy::Default);
    assert_eq!(c.network().send_buffer, None);
    assert_eq!(c.security().protocol, SecurityProtocol::Plaintext);
}

// CASES: PC1.
#[test]
fn conflicting_acks_disable_idempotence_unless_it_is_set() {
    for (name, value) in [("acks", "0"), ("acks", "1"), ("retries", "0")] {
        assert!(!producer_config(&[(name, value)]).unwrap().sender.idempotent, "{name}={value}");
        let e = config_error(&[(name, value), ("enable.idempotence", "true")]);
        assert!(e.contains("enable.idempotence") && e.contains(name), "{e}");
    }
    let e = config_error(&[("max.in.flight.requests.per.connection", "6")]);
    assert!(e.contains("must be set to at most 5. Current value is 6."), "{e}");
    let six = ("max.in.flight.requests.per.connection", "6");
    for conflict in [("acks", "0"), ("acks", "1"), ("retries", "0")] {
        // As in Kafka: only `enable.idempotence=false` allows it.
        let e = config_error(&[six, conflict]);
        assert!(e.contains("Current value is 6. (Or set enable.idempotence=false.)"), "{e}");
    }
    let c = producer_config(&[six, ("enable.idempotence", "false")]).unwrap();
    assert_eq!((c.sender.max_in_flight, c.client.max_in_flight), (6, 6));
}

// CASES: PC2.
#[test]
fn acks_all_equals_minus_one() {
    assert_eq!(
        producer_config(&[("acks", "all")]).unwrap().sender.acks,
        producer_config(&[("acks", " -1 ")]).unwrap().sender.acks
    );
}

// CASES: PC3.
#[test]
fn delivery_timeout_covers_linger_and_request_timeout() {
    let (linger, request) = (("linger.ms", "10"), ("request.timeout.ms", "5"));
    let e = config_error(&[("delivery.timeout.ms", "14"), linger, request]);
    assert!(e.contains("delivery.timeout.ms=14") && e.contains("= 15"), "{e}");
    assert!(producer_config(&[("delivery.timeout.ms", "15"), linger, request]).is_ok());
    let raised = producer_config(&[("request.timeout.ms", "200000")]).unwrap();
    assert_eq!(raised.sender.delivery_timeout, Duration::from_millis(200_005));
    let max = producer_config(&[("linger.ms", "9999999999"), ("request.timeout.ms", "2147483647")])
        .unwrap();
    assert_eq!(max.accumulator.delivery_timeout, Duration::from_millis(i32::MAX as u64));
}

// CASES: PC4, PC5.
#[test]
fn error_of_an_invalid_value_names_the_setting() {
    for (name, value) in [
        ("acks", "2"),
        ("compression.gzip.level", "0"),
        ("compression.lz4.level", "18"),
        ("retries", "-1"),
        ("metadata.max.idle.ms", "4999"),
        ("compression.type", "brotli"),
        ("security.protocol", "QUIC"),
        ("send.buffer.bytes", "-2"),
        ("linger.ms", "soon"),
        ("enable.idempotence", "yes"),
        ("transaction.two.phase.commit.enable", "true"),
        ("transactional.id", ""),
        ("client.dns.lookup", "default"),
        ("broker.address.family", "ipv4"),
        ("bootstrap.servers", "a:1 b:2"),
        ("metadata.recovery.strategy", "restart"),
    ] {
        let e = config_error(&[(name, value)]);
        assert!(e.contains(name), "{name}={value}: {e}");
    }
    assert!(
        producer_config(&[("security.protocol", "plaintext"), ("receive.buffer.bytes", "-1")])
            .is_ok()
    );
    assert_eq!(producer_config(&[("batch.size", "0")]).unwrap().accumulator.batch_size, 0);
    let initial_only = producer_config(&[("reconnect.backoff.ms", "123")]).unwrap();
    assert_eq!(initial_only.client.connect.backoff_max, Duration::from_millis(123));
}

#[test]
fn unknown_names_are_errors_and_names_without_effect_are_warnings() {
    let e = config_error(&[("linger.msec", "5")]);
    assert!(e.contains("did you mean linger.ms?"), "{e}");
    let e = config_error(&[("group.id", "g")]);
    assert!(e.contains("another Kafka client"), "{e}");
    let mut p = Properties::new();
    p.load("group.id=g\nkey.serializer=x.Y\nssl.truststore.location=/x", "f").unwrap();
    assert_eq!(p.notices().len(), 3, "{:?}", p.notices());
    assert!(p.load("lingerms=5", "f").is_err(), "a misspelt name is an error in a file too");
}

#[test]
fn names_of_librdkafka_are_translated() {
    let mut p = Properties::new();
    p.load(
        "metadata.broker.list=a:1,b:2\nqueue.buffering.max.ms=50\nmessage.timeout.ms=60000\n\
         compression.codec=gzip\ncompression.level=7\nrequest.required.acks=1\n\
         queue.buffering.max.kbytes=1024\nmessage.send.max.retries=3\nmax.in.flight=1\n\
         socket.send.buffer.bytes=0\npartitioner=murmur2_random\nstatistics.interval.ms=1000",
        "librdkafka.properties",
    )
    .unwrap();
    let c = ProducerConfig::new(&p).unwrap();
    assert_eq!(c.client.bootstrap_servers.len(), 2);
    let a = &c.accumulator;
    assert_eq!((a.linger.as_millis(), a.delivery_timeout.as_millis()), (50, 60000));
    assert_eq!(a.compression, Compression::Gzip(GzipLevel::new(7).unwrap()));
    assert_eq!((c.sender.acks, c.sender.retries, c.sender.max_in_flight), (Acks::Leader, 3, 1));
    assert_eq!((a.buffer_memory, c.network.send_buffer), (1 << 20, None));
    let e = p.set("partitioner", "ConsistentHashing").unwrap_err().to_string();
    assert!(e.contains("partitioner") && e.contains("consistent_random, consistent,"), "{e}");
}

#[test]
fn environment_variables_with_the_prefix_are_read() {
    let mut p = Properties::new();
    let env = [("OTTLA_LINGER_MS", "7"), ("PATH", "/bin"), ("OTTLA_BOOTSTRAP_SERVERS", "h:1")];
    p.load_environment(env.map(|(n, v)| (n.to_owned(), v.to_owned()))).unwrap();
    assert_eq!(ProducerConfig::new(&p).unwrap().accumulator.linger.as_millis(), 7);
}

/// The variables that Kubernetes adds for services with these names are no settings.
#[test]
fn environment_variables_of_kubernetes_are_ignored() {
    for service in ["", "BROKER_", "CONSUMER_", "SCHEMA_REGISTRY_", "CLIENT_", "SSL_"] {
        let variables = [
            ("SERVICE_HOST", "10.96.14.7"),
            ("SERVICE_PORT", "9092"),
            ("SERVICE_PORT_KAFKA", "9092"),
            ("PORT", "tcp://10.96.14.7:9092"),
            ("PORT_9092_TCP", "tcp://10.96.14.7:9092"),
            ("PORT_9092_TCP_PROTO", "tcp"),
            ("PORT_9092_TCP_PORT", "9092"),
            ("PORT_9092_TCP_ADDR", "10.96.14.7"),
            ("PORT_8081_UDP", "udp://10.96.14.7:8081"),
        ];
        let mut p = Properties::new();
        p.load_environment(variables.map(|(n, v)| (format!("OTTLA_{service}{n}"), v.to_owned())))
            .unwrap();
        assert!(p.values.is_empty() && p.notices().is_empty(), "{p:?}{:?}", p.notices());
    }
}

#[test]
fn misspelt_environment_variable_is_a_warning() {
    let mut p = Properties::new();
    let env = [("OTTLA_LINGR_MS", "7"), ("OTTLA_HOME", "/x"), ("OTTLA_GROUP_ID", "g")];
    p.load_environment(env.map(|(n, v)| (n.to_owned(), v.to_owned()))).unwrap();
    let warnings = p.notices();
    assert!(warnings[0].contains("did you mean OTTLA_LINGER_MS?"), "{warnings:?}");
    assert!(warnings[1].contains("group.id"), "{warnings:?}");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

/// As Java's `ConfigDef`: blanks, tabs and line ends around a value of any type do not count.
#[test]
fn values_are_trimmed_as_by_java() {
    let mut p = Properties::new();
    p.load(
        "client.id=orders \t\nlinger.ms= 7 \nacks=all \nbootstrap.servers=h:1 , i:2 \n\
         ssl.truststore.location=/ca.pem \t \nsasl.password=hunter2\\r\\n\n\
         enable.idempotence=TRUE \nssl.endpoint.identification.algorithm= \n",
        "f",
    )
    .unwrap();
    let get = |name| p.get(name).unwrap();
    assert_eq!((get("client.id"), get("linger.ms"), get("acks")), ("orders", "7", "all"));
    assert_eq!((get("ssl.truststore.location"), get("sasl.password")), ("/ca.pem", "hunter2"));
    assert_eq!(get("ssl.endpoint.identification.algorithm"), "");
    assert_eq!(ProducerConfig::new(&p).unwrap().client.bootstrap_servers.len(), 2);
    // Java's `String.trim` knows no other Unicode spaces.
    p.set("client.id", "\u{a0}x\u{3000}").unwrap();
    assert_eq!(p.get("client.id"), Some("\u{a0}x\u{3000}"));
}

#[test]
fn path_with_single_backslashes_is_an_error_that_names_them() {
    let mut p = Properties::new();
    let e = p.load("ssl.truststore.location=C:\\temp\\new.pem", "f").unwrap_err().to_string();
    assert!(e.contains("write \\\\ or /"), "{e}");
    p.load("ssl.truststore.location=C:\\\\temp\\\\new.pem", "f").unwrap();
    assert_eq!(p.get("ssl.truststore.location"), Some("C:\\temp\\new.pem"));
}

#[test]
fn debug_output_hides_secrets() {
    let mut p = Properties::new();
    p.set("sasl.password", "hunter2").unwrap();
    assert!(!format!("{p:?}{:?}", p.notices()).contains("hunter2"));
}

/// Configuration files from the documentation of Kafka, Spring Boot and kcat work unchanged.
#[test]
fn configuration_files_of_other_clients_are_accepted() {
    let java = "bootstrap.servers=localhost:9092\nacks=all\nretries=2147483647\n\
        batch.size=16384\nlinger.ms=1\nbuffer.memory=33554432\n\
        key.serializer=org.apache.kafka.common.serialization.StringSerializer\n\
        value.serializer=org.apache.kafka.common.serialization.StringSerializer\n\
        compression.type=snappy\n\
        metric.reporters=com.example.Reporter\n";
    let spring = "spring.application.name=shop\nspring.kafka.bootstrap-servers=localhost:9092\n\
        spring.kafka.producer.acks=all\nspring.kafka.producer.batch-size=32768\n\
        spring.kafka.producer.key-serializer=\
        org.apache.kafka.common.serialization.StringSerializer\n\
        spring.kafka.producer.properties.linger.ms=20\n\
        spring.kafka.properties[request.timeout.ms]=15000\n\
        spring.kafka.consumer.group-id=shop\n";
    let kcat = "metadata.broker.list=localhost:9092\ncompression.codec=lz4\n\
        queue.buffering.max.ms=100\n\
        topic.metadata.refresh.interval.ms=60000\ndebug=broker\n";
    for (name, text, linger) in [("java", java, 1), ("spring", spring, 20), ("kcat", kcat, 100)] {
        let mut p = Properties::new();
        p.load(text, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let c = ProducerConfig::new(&p).unwrap_or_else(|e| panic!("{name}: {e}"));
        let port = c.client.bootstrap_servers[0].1;
        assert_eq!((port, c.accumulator.linger.as_millis()), (9092, linger), "{name}");
    }
}

/// Both files need TLS. Amazon's also needs a Java class, which is an error that names it.
#[test]
fn configuration_files_of_cloud_providers_are_accepted_or_name_the_reason() {
    let confluent = "# Required connection configs for Kafka producer, consumer, and admin\n\
        bootstrap.servers=pkc-xyz.eu-central-1.aws.confluent.cloud:9092\n\
        security.protocol=SASL_SSL\n\
        sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
        username='K' password='S';\n\
        sasl.mechanism=PLAIN\nclient.dns.lookup=use_all_dns_ips\nsession.timeout.ms=45000\n\
        acks=all\n\
        schema.registry.url=https://psrc-xyz.confluent.cloud\n\
        basic.auth.credentials.source=USER_INFO\n\
        basic.auth.user.info=a:b\n";
    let msk = "bootstrap.servers=b-1.msk.amazonaws.com:9098\nsecurity.protocol=SASL_SSL\n\
        sasl.mechanism=AWS_MSK_IAM\n\
        sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required;\n\
        sasl.client.callback.handler.class=\
        software.amazon.msk.auth.iam.IAMClientCallbackHandler\n";
    for (name, text) in [("confluent", confluent), ("msk", msk)] {
        let mut p = Properties::new();
        p.load(text, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        match ProducerConfig::new(&p) {
            Ok(c) => {
                assert!(name == "confluent" && cfg!(feature = "tls"));
                assert!(c.security.tls.is_some());
                assert_eq!(c.security.mechanism, Some(SaslMechanism::Plain));
            }
            Err(e) if cfg!(not(feature = "tls")) => {
                let e = e.to_string();
                assert!(e.contains("security.protocol=SASL_SSL is not supported"), "{name}: {e}");
            }
            Err(e) => {
                assert!(e.to_string().contains("IAMLoginModule"), "{name}: {e}");
                assert_eq!(name, "msk");
            }
        }
        assert!(!p.notices().iter().any(|w| w.contains("'S'") || w.contains("a:b")), "{name}");
    }
}

/// Errors in the security settings are found before the first connection.
// CASES: TL3, SA3.
#[test]
fn security_settings_are_checked_when_the_producer_is_built() {
    let sasl = ("security.protocol", "SASL_PLAINTEXT");
    let plain = ("sasl.mechanism", "PLAIN");
    for (settings, expected) in [
        (vec![sasl], "GSSAPI"),
        (
            vec![sasl, ("sasl.mechanism", "CRAM-MD5")],
            "CRAM-MD5 is not valid; expected one of PLAIN",
        ),
        (vec![sasl, plain], "needs a username"),
        (vec![sasl, plain, ("sasl.username", "u")], "needs a password"),
        (vec![sasl, plain, ("sasl.username", "u\0v"), ("sasl.password", "hunter2")], "NUL"),
        (vec![sasl, plain, ("sasl.jaas.config", "x.ScramLoginModule required;")], "is for SCRAM"),
        (vec![sasl, plain, ("sasl.jaas.config", "hunter2")], "required"),
        (vec![("sasl.oauthbearer.assertion.file", "/x")], "assertions"),
    ] {
        let e = config_error(&settings);
        assert!(e.contains(expected) && !e.contains("hunter2"), "{settings:?}: {e}");
    }
    let valid = [sasl, plain, ("sasl.username", "u"), ("sasl.password", "hunter2")];
    let c = producer_config(&valid).unwrap();
    assert!(!format!("{c:?}").contains("hunter2"));
    if cfg!(not(feature = "tls")) {
        assert!(config_error(&[("security.protocol", "SSL")]).contains("tls-graviola"));
        return;
    }
    let ssl = ("security.protocol", "SSL");
    for (settings, expected) in [
        (vec![("ssl.enabled.protocols", "TLSv1.1,TLSv1")], "TLSv1.1,TLSv1 is not secure"),
        (vec![("ssl.enabled.protocols", "TLSv9")], "not a TLS version"),
        (vec![("ssl.enabled.protocols", "TLSv1.3"), ("ssl.protocol", "TLSv1.2")], "no TLS version"),
        (vec![("ssl.endpoint.identification.algorithm", "ldap")], "neither https nor empty"),
        (vec![("ssl.truststore.location", "/a"), ("ssl.truststore.certificates", "x")], "keep one"),
        (vec![("ssl.keystore.key", "x")], "without ssl.keystore.certificate.chain"),
        (vec![("ssl.keystore.certificate.chain", "x")], "without ssl.keystore.key"),
        (vec![("ssl.keystore.location", "/a"), ("ssl.keystore.key", "x")], "keep the file"),
        (vec![("ssl.key.location", "/a")], "ssl.keystore.location"),
        (vec![("ssl.keystore.type", "BKS")], "ssl.keystore.type=BKS"),
    ] {
        let e = config_error(&[&settings[..], &[ssl]].concat());
        assert!(e.contains(expected), "{settings:?}: {e}");
    }
}

#[test]
fn error_of_an_invalid_value_names_its_origin_and_what_is_expected() {
    let mut p = Properties::new();
    let e = p.load_environment([("OTTLA_LINGER_MS".to_owned(), "abc".to_owned())]).unwrap_err();
    assert_eq!(
        e.to_string(),
        "linger.ms=abc (from the environment) is not valid; expected milliseconds, 0 or more, with \
         at most 3 decimals"
    );
    let e = p.load("queue.buffering.max.kbytes=x", "a.properties").unwrap_err().to_string();
    assert!(e.contains("=x (from a.properties) is not valid; expected a whole number"), "{e}");
}

/// Each property of librdkafka's CONFIGURATION.md (2.14) is known. In the list, `P` and `*` stand
/// before properties of producers, `C` before those that only consumers have.
#[test]
fn each_property_of_librdkafka_is_known() {
    let list = include_str!("librdkafka_properties.txt");
    assert!(list.lines().count() > 180);
    for line in list.lines() {
        let (kind, name) = line.split_once(' ').unwrap();
        let is_known = find_setting(name).is_some()
            || aliases::find_alias(name).is_some()
            || aliases::is_other_client_setting(name);
        assert!(is_known, "{name}");
        if kind == "C" {
            let mut p = Properties::new();
            p.load(format!("{name}=1"), "f").unwrap();
            assert!(p.notices()[0].contains(name), "{name}: {:?}", p.notices());
        }
    }
}

#[test]
fn short_delivery_timeout_bends_what_is_not_set() {
    for (settings, linger, request, delivery) in [
        (&[("message.timeout.ms", "5000")][..], 5, 4995, 5000),
        (&[("delivery.timeout.ms", "4")], 2, 2, 4),
        (&[("message.timeout.ms", "5000"), ("request.timeout.ms", "5000")], 0, 5000, 5000),
        (&[("message.timeout.ms", "5000"), ("linger.ms", "100")], 100, 4900, 5000),
        (&[("message.timeout.ms", "0")], 5, 30_000, i32::MAX as u64),
    ] {
        let c = producer_config(settings).unwrap();
        let millis = |d: Duration| d.as_millis() as u64;
        assert_eq!(millis(c.accumulator().linger), linger, "{settings:?}");
        assert_eq!(millis(c.sender().request_timeout), request, "{settings:?}");
        assert_eq!(millis(c.client().request_timeout), request, "{settings:?}");
        assert_eq!(millis(c.sender().delivery_timeout), delivery, "{settings:?}");
    }
    let e = config_error(&[("message.timeout.ms", "3000"), ("socket.timeout.ms", "4000")]);
    assert!(e.contains("message.timeout.ms=3000 must be at least"), "{e}");
    assert!(e.contains("(linger.ms=5, the default; socket.timeout.ms=4000)"), "{e}");
    assert!(config_error(&[("delivery.timeout.ms", "0")]).contains("delivery.timeout.ms=0"));
    let e = config_error(&[("delivery.timeout.ms", "50"), ("linger.ms", "60")]);
    assert!(e.contains("linger.ms=60; request.timeout.ms=30000, the default"), "{e}");
}

/// What the consoles of cloud providers show for their users to copy.
#[cfg(all(feature = "tls", feature = "oidc"))]
#[test]
fn settings_of_cloud_providers_are_accepted() {
    const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required";
    let confluent = "bootstrap.servers=pkc-1.aws.confluent.cloud:9092\nsasl.mechanisms=PLAIN\n\
        sasl.username=KEY\nsasl.password=hunter2\nsession.timeout.ms=45000\nclient.id=ccloud-1";
    let confluent_oauth = "bootstrap.servers=pkc-1.aws.confluent.cloud:9092\n\
        sasl.mechanisms=OAUTHBEARER\nsasl.oauthbearer.method=OIDC\n\
        sasl.oauthbearer.token.endpoint.url=https://login.example.com/token\n\
        sasl.oauthbearer.client.id=orders\nsasl.oauthbearer.client.secret=hunter2\n\
        sasl.oauthbearer.scope=kafka\n\
        sasl.oauthbearer.extensions=logicalCluster=lkc-1,identityPoolId=pool-1";
    let event_hubs = format!(
        "bootstrap.servers=ns.servicebus.windows.net:9093\nsasl.mechanism=PLAIN\n\
         sasl.jaas.config={PLAIN} username=\"$ConnectionString\" \
         password=\"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;\
         SharedAccessKey=hunter2=\";\nrequest.timeout.ms=60000\nmetadata.max.age.ms=180000\n\
         connections.max.idle.ms=180000"
    );
    let msk = format!(
        "bootstrap.servers=b-1.msk.amazonaws.com:9096\nsasl.mechanism=SCRAM-SHA-512\n\
         sasl.jaas.config={SCRAM} username=\"alice\" password=\"hunter2\";\n\
         ssl.truststore.location=/tmp/kafka.client.truststore.jks"
    );
    let aiven = "bootstrap.servers=kafka.aivencloud.com:12835\nsasl.mechanism=SCRAM-SHA-256\n\
        sasl.username=avnadmin\nsasl.password=hunter2\nssl.ca.location=ca.pem\n\
        ssl.endpoint.identification.algorithm=none";
    let redpanda = "bootstrap.servers=seed.cloud.redpanda.com:9092\n\
        sasl.mechanisms=SCRAM-SHA-256\nsasl.username=u\nsasl.password=hunter2\n\
        socket.keepalive.enable=true\nbroker.address.family=v4";
    for (text, mechanism) in [
        (confluent, "PLAIN"),
        (confluent_oauth, "OAUTHBEARER"),
        (&event_hubs, "PLAIN"),
        (&msk, "SCRAM-SHA-512"),
        (aiven, "SCRAM-SHA-256"),
        (redpanda, "SCRAM-SHA-256"),
    ] {
        let mut p = Properties::new();
        p.load(format!("security.protocol=SASL_SSL\n{text}"), "cloud").unwrap();
        let c = ProducerConfig::new(&p).unwrap_or_else(|e| panic!("{text}: {e}"));
        let sasl = c.security().sasl.as_ref().unwrap();
        assert_eq!(sasl.mechanism_name(), mechanism, "{text}");
        assert_eq!(sasl.extensions.len(), if mechanism == "OAUTHBEARER" { 2 } else { 0 });
        assert!(!format!("{c:?}{:?}", p.notices()).contains("hunter2"), "{text}");
    }
}

// CASES: PC1, PC2.
#[test]
fn transactional_id_requires_an_idempotent_producer() {
    let c = producer_config(&[("transactional.id", "t-1"), ("acks", "-1")]).unwrap();
    let settings = c.sender().transactions.clone().unwrap();
    assert_eq!((&*settings.transactional_id, settings.timeout.as_secs()), ("t-1", 60));
    assert!(c.sender().idempotent && producer_config(&[]).unwrap().sender().transactions.is_none());
    for (name, value) in [("enable.idempotence", "false"), ("acks", "1"), ("retries", "0")] {
        let e = config_error(&[("transactional.id", "t-1"), (name, value)]);
        assert!(e.contains("transactional.id") && e.contains(name), "{e}");
    }
}
