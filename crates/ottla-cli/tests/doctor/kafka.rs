//! The same faults on the real Kafka 4.3.1.
//!
//! Without a JDK and Maven the tests report that they are skipped; with `CI=true` they fail.

use ottla::{Producer, Record};
use ottla_testkit::{Jars, Kafka, Listener, SecureKafka};

use super::Diagnosis;

/// Every client is allowed everything that no ACL denies.
const AUTHORIZER: &str = "\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
";

fn diagnose(servers: &str, topic: &str, settings: &[&str]) -> Diagnosis {
    let settings = settings.iter().flat_map(|setting| ["-X", setting]);
    let args = ["-b", servers, "-t", topic, "--test-record"];
    Diagnosis::json(&args.into_iter().chain(settings).collect::<Vec<_>>())
}

fn create_topic(kafka: &Kafka, topic: &str, configs: &[&str]) {
    let mut args = vec!["--bootstrap-server", &kafka.bootstrap, "--create", "--topic", topic];
    for config in configs {
        args.extend(["--config", config]);
    }
    kafka.jars.run_tool("org.apache.kafka.tools.TopicCommand", &args);
}

/// Adds a rule for all clients. A resource with a rule allows nothing that no rule allows.
fn add_acl(kafka: &Kafka, principal_option: &str, operation: &str, resource: &[&str]) {
    let server = ["--bootstrap-server", &kafka.bootstrap, "--add", "--force"];
    let rule = [principal_option, "User:ANONYMOUS", "--operation", operation];
    let args = [&server[..], &rule, resource].concat();
    kafka.jars.run_tool("org.apache.kafka.tools.AclCommand", &args);
}

#[test]
fn topics_and_rights_of_a_real_cluster_are_checked() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let kafka = Kafka::start(&jars, AUTHORIZER);
    create_topic(&kafka, "orders", &["min.insync.replicas=2", "cleanup.policy=compact"]);
    create_topic(&kafka, "small", &["max.message.bytes=60"]);
    create_topic(&kafka, "locked", &[]);

    let orders = diagnose(&kafka.bootstrap, "orders", &[]);
    assert_eq!(orders.status, 0, "{}", orders.stdout);
    let versions = orders.check("versions").text;
    assert!(versions.contains("Kafka 4.3 by its features"), "{versions}");
    assert!(versions.contains("metadata.version"), "{versions}");
    let clock = orders.check("clock");
    assert_eq!(clock.outcome, "passed", "{}", clock.text);
    assert!(clock.text.starts_with("this machine is ") && clock.notes.is_empty(), "{}", clock.text);
    assert!(orders.check("quotas").text.starts_with("no throttling seen"), "{}", orders.stdout);
    assert_eq!(orders.check("right to write to orders").text, "granted");
    // A broker counts at most the replicas that there are, so the record is taken.
    let notes = orders.check("partitions of orders").notes;
    assert!(notes.contains("(2) is above the number of replicas (1)"), "{notes}");
    assert_eq!(orders.check("test record").outcome, "passed");
    assert!(orders.check("settings of orders").notes.contains("cleanup.policy=compact"));

    let small = diagnose(&kafka.bootstrap, "small", &[]);
    small.assert_only_failure("test record", "MESSAGE_TOO_LARGE", "");
    // Kafka creates topics by default, and the doctor does not.
    let missing = diagnose(&kafka.bootstrap, "missing", &[]);
    assert!(missing.check("topic missing").text.contains("the first record creates it"));

    add_acl(&kafka, "--allow-principal", "Describe", &["--topic", "locked"]);
    let locked = diagnose(&kafka.bootstrap, "locked", &[]);
    let change = "--operation Write --topic locked";
    locked.assert_only_failure("right to write to locked", "but not write to it", change);
    locked.assert_not_checked(&["settings of locked", "test record"]);
    assert!(locked.check("settings of locked").text.contains("DescribeConfigs"));
    add_acl(&kafka, "--deny-principal", "Describe", &["--topic", "locked"]);
    let hidden = diagnose(&kafka.bootstrap, "locked", &[]);
    hidden.assert_only_failure("topic locked", "TOPIC_AUTHORIZATION_FAILED", "kafka-acls");
    check_transactional_ids(&kafka);
}

fn check_transactional_ids(kafka: &Kafka) {
    let check = |id: &str| {
        let (name, setting) = (format!("transactional id {id}"), format!("transactional.id={id}"));
        (diagnose(&kafka.bootstrap, "orders", &[&setting]), name)
    };
    let builder = Producer::builder().bootstrap_servers(&kafka.bootstrap);
    let producer = builder.transactional_id("running").build().unwrap();
    producer.init_transactions().unwrap();
    let mut transaction = producer.begin_transaction().unwrap();
    producer.send(Record::to("orders").key("k").value("a")).unwrap();
    // Once with a running producer, once with an id that no producer has used.
    for id in ["running", "new"] {
        let (granted, name) = check(id);
        let text = granted.check(&name).text;
        assert_eq!(text, "coordinator: broker 1; the right to write is granted", "{name}");
    }
    transaction.commit().unwrap();

    add_acl(kafka, "--allow-principal", "Describe", &["--transactional-id", "described"]);
    let (cannot_write, name) = check("described");
    let (code, change) = ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "--transactional-id described");
    cannot_write.assert_only_failure(&name, code, change);
    add_acl(kafka, "--deny-principal", "Describe", &["--transactional-id", "hidden"]);
    let (hidden, name) = check("hidden");
    hidden.assert_only_failure(&name, code, "--transactional-id hidden");
}

#[test]
fn tls_and_sasl_faults_of_a_real_broker_are_named() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let kafka = SecureKafka::start(&jars);
    let trust = format!("ssl.truststore.location={}", kafka.file_path("ca.pem"));
    let tls = ["security.protocol=SSL", &trust];
    let at = |listener, settings: &[&str]| diagnose(&kafka.bootstrap(listener), "t", settings);

    let good = at(Listener::Ssl, &tls);
    assert_eq!(good.status, 0, "{}", good.stdout);
    assert!(good.check("TLS").text.contains("TLSv1.3"), "{}", good.check("TLS").text);
    let plaintext = at(Listener::Ssl, &[]);
    plaintext.assert_only_failure("versions", "this is a TLS port", "security.protocol");
    let expired = at(Listener::ExpiredCertificate, &tls);
    expired.assert_only_failure("TLS", "expired on Jan  1", "renew it");
    let wrong_host = at(Listener::WrongHostCertificate, &tls);
    wrong_host.assert_only_failure("TLS", "but for kafka.example.org", "connect to one of");
    let no_certificate = at(Listener::SslClientAuth, &tls);
    no_certificate.assert_only_failure(
        "versions",
        "requires one and received none",
        "ssl.keystore.location",
    );

    let user = ["sasl.username=bob", "sasl.password=bob-secret"];
    let sasl = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN"];
    let login = at(Listener::SaslReauthentication, &[&sasl[..], &user].concat());
    assert_eq!(login.status, 0, "{}", login.stdout);
    assert_eq!(login.check("SASL").text, "PLAIN, the session lasts 3 s");
    let scram = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=SCRAM-SHA-512"];
    let alice = ["sasl.username=alice", "sasl.password=alice-secret"];
    let login = at(Listener::SaslPlaintext, &[&scram[..], &alice].concat());
    assert_eq!(login.check("SASL").text, "SCRAM-SHA-512", "{}", login.stdout);
    let rejected = at(Listener::SaslPlaintext, &[&scram[..], &user].concat());
    rejected.assert_only_failure("SASL", "SASL_AUTHENTICATION_FAILED", "sasl.jaas.config");
    let mechanism = at(Listener::Oidc, &[&scram[..], &alice].concat());
    mechanism.assert_only_failure("SASL", "the broker supports OAUTHBEARER", "sasl.mechanism");
    let missing = at(Listener::SaslPlaintext, &[]);
    missing.assert_only_failure("cluster", "instead of responding", "if it requires SASL");
}
