//! Faults of the cluster, of a topic and of the client's rights.

use bytes::Bytes;
use ottla::{Producer, Record};
use ottla_broker::{
    EmbeddedBroker, InterceptedResponse, InterceptorGuard, NewTopic, ResponseAction,
};
use ottla_protocol::header::{decode_response, encode_response};
use ottla_protocol::messages::{
    ApiVersionsRequest, DescribeConfigsRequest, FindCoordinatorRequest, InitProducerIdRequest,
    MetadataRequest,
};
use ottla_protocol::{ErrorCode, Request};

use super::Diagnosis;

/// Edits each response of an API while the guard lives.
pub(crate) fn edit<R: Request>(
    broker: &EmbeddedBroker,
    change: impl Fn(&mut R::Response) + Send + 'static,
) -> InterceptorGuard {
    broker.intercept_responses(move |call: &InterceptedResponse<'_>, frame| {
        if call.api != R::KEY {
            return ResponseAction::Send(frame);
        }
        let body = Bytes::copy_from_slice(&frame[4..]);
        // The response to an ApiVersions request of an unknown version has version 0 (KIP-511).
        let is_refusal = body[4..6] == ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes();
        let (version, id) = (if is_refusal { 0 } else { call.version }, call.correlation_id);
        let mut response = decode_response::<R>(&body, version).unwrap();
        change(&mut response);
        ResponseAction::Send(encode_response(R::KEY, version, id, &response).unwrap())
    })
}

fn diagnose(broker: &EmbeddedBroker, topic: &str, settings: &[&str]) -> Diagnosis {
    let servers = broker.bootstrap_servers();
    let settings = settings.iter().flat_map(|setting| ["-X", setting]);
    let args = ["-b", &servers, "-t", topic];
    Diagnosis::json(&args.into_iter().chain(settings).collect::<Vec<_>>())
}

#[test]
fn topic_that_does_not_exist_is_named_and_not_created() {
    let broker = EmbeddedBroker::builder().auto_create_topics(false).start().unwrap();
    let diagnosis = diagnose(&broker, "orders", &[]);
    let change = "kafka-topics --create --topic orders";
    diagnosis.assert_only_failure("topic orders", "UNKNOWN_TOPIC_OR_PARTITION", change);
    diagnosis.assert_not_checked(&["partitions of orders", "right to write to orders"]);

    let broker = EmbeddedBroker::builder().auto_create_topics(true).start().unwrap();
    let check = diagnose(&broker, "orders", &[]).check("topic orders");
    assert_eq!(check.outcome, "passed");
    assert!(check.text.contains("the first record creates it"), "{}", check.text);
    assert!(broker.leader("orders", 0).is_none(), "the doctor creates no topic");
}

#[test]
fn partition_without_a_leader_names_the_brokers_to_start() {
    let topic = NewTopic::new("orders", 2).replication_factor(1);
    let broker = EmbeddedBroker::builder().node_count(2).new_topic(topic).start().unwrap();
    let servers = broker.bootstrap_servers();
    let stopped = broker.leader("orders", 1).unwrap();
    broker.stop_node(stopped);
    let diagnosis = Diagnosis::json(&["-b", &servers, "-t", "orders"]);
    let check = diagnosis.check("partitions of orders");
    assert_eq!(check.outcome, "failed", "{}", diagnosis.stdout);
    assert_eq!(check.text, "partitions without a leader: 1");
    assert_eq!(check.change, format!("start the brokers of their replicas: {stopped}"));
}

#[test]
fn too_few_replicas_in_sync_fail_only_with_acks_all() {
    let topic = NewTopic::new("orders", 1).replication_factor(2).config("min.insync.replicas", "2");
    let broker = EmbeddedBroker::builder().node_count(2).new_topic(topic).start().unwrap();
    let leader = broker.leader("orders", 0).unwrap();
    let healthy = diagnose(&broker, "orders", &[]).check("partitions of orders");
    assert!(healthy.text.contains("min.insync.replicas 2 is met"), "{}", healthy.text);
    broker.stop_node(3 - leader);
    let diagnosis = diagnose(&broker, "orders", &[]);
    let check = diagnosis.check("partitions of orders");
    assert_eq!(check.outcome, "failed", "{}", diagnosis.stdout);
    let text = "NOT_ENOUGH_REPLICAS: min.insync.replicas is 2, but 1 of 2 replicas are in sync";
    assert!(check.text.starts_with(text), "{}", check.text);
    assert!(check.change.contains(&format!("missing ({})", 3 - leader)), "{}", check.change);
    let one = diagnose(&broker, "orders", &["acks=1", "enable.idempotence=false"]);
    let check = one.check("partitions of orders");
    assert_eq!(check.outcome, "passed", "{}", one.stdout);
    assert!(check.notes.contains("replicas are out of sync in partitions 0"), "{}", check.notes);
}

#[test]
fn settings_of_the_topic_are_compared_with_the_producers() {
    let topic = NewTopic::new("orders", 1)
        .config("cleanup.policy", "compact")
        .config("compression.type", "zstd")
        .config("max.message.bytes", "10000")
        .config("message.timestamp.type", "LogAppendTime")
        .config("min.insync.replicas", "2");
    let broker = EmbeddedBroker::builder().new_topic(topic).start().unwrap();
    let diagnosis = diagnose(&broker, "orders", &["compression.type=lz4"]);
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.stdout);
    let notes = diagnosis.check("settings of orders").notes;
    for text in [
        "max.message.bytes (10000) is below max.request.size (1048576)",
        "max.message.bytes (10000) is below batch.size (16384)",
        "brokers replace the timestamps",
        "compression.type=zstd: brokers compress each batch again; this producer uses lz4",
        "a record without a key is refused (INVALID_RECORD)",
    ] {
        assert!(notes.contains(text), "no {text:?} in {notes}");
    }
    let notes = diagnosis.check("partitions of orders").notes;
    assert!(notes.contains("(2) is above the number of replicas (1)"), "{notes}");
    assert!(notes.contains("brokers before Kafka 3.7 refuse each record"), "{notes}");
    assert!(!diagnosis.check("partitions of orders").text.contains("is met"));
}

#[test]
fn missing_rights_name_the_acl() {
    const ALL_BUT_WRITE: i32 = 0xff & !(1 << 4);
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let operations = |operations| {
        edit::<MetadataRequest>(&broker, move |r| {
            r.topics.iter_mut().for_each(|t| t.topic_authorized_operations = operations);
        })
    };
    let guard = operations(ALL_BUT_WRITE);
    let change = "kafka-acls --add --allow-principal User:NAME --operation Write --topic orders";
    let diagnosis = diagnose(&broker, "orders", &[]);
    let text = "may see the topic, but not write to it";
    diagnosis.assert_only_failure("right to write to orders", text, change);
    drop(guard);
    let guard = operations(1 << 4);
    let granted = diagnose(&broker, "orders", &[]);
    assert_eq!(granted.check("right to write to orders").text, "granted");
    drop(guard);
    let guard = edit::<MetadataRequest>(&broker, |r| {
        for topic in &mut r.topics {
            topic.error_code = ErrorCode::TOPIC_AUTHORIZATION_FAILED.0;
            topic.partitions.clear();
        }
    });
    let hidden = diagnose(&broker, "orders", &[]);
    hidden.assert_only_failure("topic orders", "TOPIC_AUTHORIZATION_FAILED", "kafka-acls --add");
    drop(guard);
    let _guard = edit::<InitProducerIdRequest>(&broker, |r| {
        r.error_code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED.0;
    });
    let change = "grant IdempotentWrite on the cluster, or set enable.idempotence=false";
    let diagnosis = diagnose(&broker, "orders", &[]);
    diagnosis.assert_only_failure("idempotent producer", "CLUSTER_AUTHORIZATION_FAILED", change);
    let without = diagnose(&broker, "orders", &["enable.idempotence=false"]);
    assert_eq!(without.status, 0, "{}", without.stdout);
}

#[test]
fn transactional_id_is_checked_without_fencing_its_producer() {
    let broker = EmbeddedBroker::builder().node_count(2).topic("orders", 1).start().unwrap();
    let builder = Producer::builder().bootstrap_servers(broker.bootstrap_servers());
    let producer = builder.transactional_id("tx").build().unwrap();
    producer.init_transactions().unwrap();
    let mut transaction = producer.begin_transaction().unwrap();
    producer.send(Record::to("orders").value("a")).unwrap();
    let settings = ["transactional.id=tx"];
    let name = "transactional id tx";
    let granted = diagnose(&broker, "orders", &settings);
    let check = granted.check(name);
    assert_eq!((granted.status, check.notes.as_str()), (0, ""), "{}", granted.stdout);
    assert!(check.text.starts_with("coordinator: broker "), "{}", check.text);
    assert!(check.text.ends_with("; the right to write is granted"), "{}", check.text);
    transaction.commit().unwrap();

    let refused = ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    let change =
        "kafka-acls --add --allow-principal User:NAME --operation All --transactional-id tx";
    let guard = edit::<InitProducerIdRequest>(&broker, move |r| {
        // The idempotent producer is allowed.
        if r.error_code != 0 {
            r.error_code = refused.0;
        }
    });
    let cannot_write = diagnose(&broker, "orders", &settings);
    cannot_write.assert_only_failure(name, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", change);
    drop(guard);
    let guard = edit::<InitProducerIdRequest>(&broker, |r| {
        if r.error_code != 0 {
            r.error_code = ErrorCode::PRODUCER_FENCED.0;
        }
    });
    let unknown = diagnose(&broker, "orders", &settings).check(name);
    let note = "the right to write with it is not known: PRODUCER_FENCED";
    assert!(unknown.outcome == "passed" && unknown.notes.contains(note), "{}", unknown.notes);
    drop(guard);
    let guard = edit::<FindCoordinatorRequest>(&broker, move |r| {
        r.coordinators.iter_mut().for_each(|c| c.error_code = refused.0);
    });
    let hidden = diagnose(&broker, "orders", &settings);
    hidden.assert_only_failure(name, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", change);
    drop(guard);
    let _guard = edit::<FindCoordinatorRequest>(&broker, |r| {
        r.coordinators.iter_mut().for_each(|c| c.node_id = 9);
    });
    let gone = diagnose(&broker, "orders", &settings);
    gone.assert_only_failure(name, "its coordinator (9) is none of the brokers", "election");
}

#[test]
fn quota_that_delays_the_client_is_shown() {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let healthy = diagnose(&broker, "orders", &[]);
    let text = healthy.check("quotas").text;
    assert_eq!(text, "no throttling seen (a quota of bytes shows only when records are sent)");
    healthy.assert_not_checked(&["clock"]);
    let _guard = edit::<InitProducerIdRequest>(&broker, |r| r.throttle_time_ms = 700);
    let check = diagnose(&broker, "orders", &[]).check("quotas");
    assert_eq!((check.outcome.as_str(), check.text.as_str()), ("passed", "throttled for 700 ms"));
    assert!(check.notes.contains("a quota of this user or client id"), "{}", check.notes);
    // The longest throttle of all responses counts.
    let _guards = (
        edit::<ApiVersionsRequest>(&broker, |r| r.throttle_time_ms = 800),
        edit::<DescribeConfigsRequest>(&broker, |r| r.throttle_time_ms = 900),
    );
    assert_eq!(diagnose(&broker, "orders", &[]).check("quotas").text, "throttled for 900 ms");
}

#[test]
fn test_record_is_not_sent_after_a_failed_check_and_explains_its_error() {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let servers = format!("127.0.0.1:1,{}", broker.bootstrap_servers());
    let diagnosis = Diagnosis::json(&["-b", &servers, "-t", "orders", "--test-record"]);
    diagnosis.assert_not_checked(&["test record"]);
    assert_eq!(broker.records("orders").unwrap().len(), 0);
    let topic = NewTopic::new("small", 1).config("max.message.bytes", "50");
    broker.create_topic(topic).unwrap();
    let servers = broker.bootstrap_servers();
    let diagnosis = Diagnosis::json(&["-b", &servers, "-t", "small", "--test-record"]);
    let check = diagnosis.check("test record");
    assert_eq!((diagnosis.status, check.outcome.as_str()), (1, "failed"), "{}", diagnosis.stdout);
    assert!(check.text.contains("MESSAGE_TOO_LARGE"), "{}", check.text);
}
