//! Checks a topic: leaders, replicas and the settings that decide which records it takes.

use std::collections::BTreeMap;

use ottla::Acks;
use ottla::tools::{Probe, ProbeConnection};
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResource, MetadataResponse, MetadataResponsePartition,
    MetadataResponseTopic,
};

use super::network::{self, code_text};
use super::report::{Failed, Passed};
use super::{Doctor, counted, is_broker};

/// The `resource_type` of a topic and of a broker.
pub(super) const TOPIC_RESOURCE: i8 = 2;
pub(super) const BROKER_RESOURCE: i8 = 4;

/// The settings of a topic that concern a producer.
const TOPIC_SETTINGS: [&str; 8] = [
    "cleanup.policy",
    "compression.type",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.difference.max.ms",
    "message.timestamp.type",
    "min.insync.replicas",
];

/// The settings of a topic or broker by name.
pub(crate) type Configs = BTreeMap<String, String>;

impl Doctor<'_> {
    /// Checks the topic. Returns its settings, if they are known.
    pub(super) fn check_topic(
        &mut self,
        connection: &mut ProbeConnection,
        metadata: &MetadataResponse,
    ) -> Option<Configs> {
        let name = self.args.topic.clone().unwrap_or_default();
        let (probe, report) = (&mut self.probe, &mut self.report);
        let topic = metadata.topics.iter().find(|t| t.name.as_deref() == Some(&name));
        let found = report.check(format!("topic {name}"), || {
            check_exists(probe, connection, metadata, topic, &name)
        });
        let Some(Some(topic)) = found else {
            report.not_checked(format!("partitions of {name}"), "the topic cannot be used");
            report.not_checked(format!("settings of {name}"), "the topic cannot be used");
            return None;
        };
        let configs = describe_configs(probe, connection, TOPIC_RESOURCE, &name, &TOPIC_SETTINGS);
        let (acks, known) = (self.config.sender().acks, configs.as_ref().ok());
        report.check_last(format!("partitions of {name}"), || {
            check_partitions(topic, metadata, acks, known)
        });
        match configs {
            Ok(configs) => {
                let config = self.config;
                report.check_last(format!("settings of {name}"), || {
                    Ok(check_settings(&configs, config))
                });
                Some(configs)
            }
            Err(reason) => {
                report.not_checked(format!("settings of {name}"), &reason);
                None
            }
        }
    }
}

/// Returns the topic, or `None` if the first record creates it.
pub(super) fn check_exists<'m>(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
    metadata: &MetadataResponse,
    topic: Option<&'m MetadataResponseTopic>,
    name: &str,
) -> Result<(Option<&'m MetadataResponseTopic>, Passed), Failed> {
    let Some(topic) = topic else {
        return Err(Failed::new("the response lacks the topic", "see the broker's log"));
    };
    let change = match ErrorCode(topic.error_code) {
        ErrorCode::NONE | ErrorCode::LEADER_NOT_AVAILABLE => {
            let replicas = topic.partitions.iter().map(|p| p.replica_nodes.len());
            let replicas = replicas.min().unwrap_or_default();
            let text = format!(
                "{}, {}",
                counted(topic.partitions.len(), "partition"),
                counted(replicas, "replica")
            );
            return Ok((Some(topic), Passed::new(text)));
        }
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
            let key = ["auto.create.topics.enable"];
            let broker =
                metadata.brokers.first().map_or_else(String::new, |b| b.node_id.to_string());
            let configs = describe_configs(probe, connection, BROKER_RESOURCE, &broker, &key);
            let creates = configs.is_ok_and(|c| c.get(key[0]).is_some_and(|v| v == "true"));
            if creates {
                let text = "it does not exist; the first record creates it \
                            (auto.create.topics.enable)";
                return Ok((None, Passed::new(text)));
            }
            format!(
                "create it (kafka-topics --create --topic {name}), or check its name; if it \
                 exists, this principal may not see it"
            )
        }
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => {
            format!("grant the right: kafka-acls --add --operation Write --topic {name}")
        }
        _ => "see the brokers' logs".to_owned(),
    };
    Err(Failed::new(code_text(ErrorCode(topic.error_code)), change))
}

/// Requests settings. Returns those that the broker names, or why it does not.
pub(super) fn describe_configs(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
    resource_type: i8,
    resource_name: &str,
    keys: &[&str],
) -> Result<Configs, String> {
    let resource = DescribeConfigsResource {
        resource_type,
        resource_name: resource_name.to_owned(),
        configuration_keys: Some(keys.iter().map(|key| (*key).to_owned()).collect()),
        ..DescribeConfigsResource::default()
    };
    let request =
        DescribeConfigsRequest { resources: vec![resource], ..DescribeConfigsRequest::default() };
    let response = network::with_open_connection(probe, connection, |probe, connection| {
        Ok(probe.call(connection, &request, 1..=4)?)
    })
    .map_err(Failed::into_text)?;
    probe.add_throttle(response.throttle_time_ms);
    let result = response.results.into_iter().next().ok_or("the response has no result")?;
    match ErrorCode(result.error_code) {
        ErrorCode::NONE => {}
        ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            return Err("this principal may not see them (DescribeConfigs)".to_owned());
        }
        code => return Err(code_text(code)),
    }
    let configs = result.configs.into_iter();
    Ok(configs.filter_map(|c| Some((c.name, c.value?))).collect())
}

fn check_partitions(
    topic: &MetadataResponseTopic,
    metadata: &MetadataResponse,
    acks: Acks,
    configs: Option<&Configs>,
) -> Result<Passed, Failed> {
    let min_isr = configs.and_then(|c| c.get("min.insync.replicas")?.parse::<usize>().ok());
    let number = |p: &MetadataResponsePartition| p.partition_index.to_string();
    let list = |partitions: &[&MetadataResponsePartition]| -> String {
        partitions.iter().map(|p| number(p)).collect::<Vec<_>>().join(", ")
    };
    let partitions: Vec<&MetadataResponsePartition> = topic.partitions.iter().collect();
    let select = |is_bad: &dyn Fn(&MetadataResponsePartition) -> bool| {
        partitions.iter().copied().filter(|p| is_bad(p)).collect::<Vec<_>>()
    };
    let leaderless = select(&|p| p.leader_id < 0 || !is_broker(metadata, p.leader_id));
    if !leaderless.is_empty() {
        let nodes = leaderless.iter().flat_map(|p| &p.replica_nodes);
        let nodes: std::collections::BTreeSet<_> = nodes.collect();
        let nodes: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
        return Err(Failed::new(
            format!("partitions without a leader: {}", list(&leaderless)),
            format!("start the brokers of their replicas: {}", nodes.join(", ")),
        ));
    }
    // Brokers count at most the number of replicas since Kafka 3.7 (KAFKA-15583). Which Kafka this
    // is, the protocol does not say.
    let min_of = |p: &MetadataResponsePartition| min_isr.unwrap_or(0).min(p.replica_nodes.len());
    let too_few = select(&|p| p.isr_nodes.len() < min_of(p));
    let min = min_isr.unwrap_or_default();
    if let Some(p) = too_few.first().filter(|_| acks == Acks::All) {
        let (isr, replicas) = (p.isr_nodes.len(), p.replica_nodes.len());
        let missing = p.replica_nodes.iter().filter(|n| !p.isr_nodes.contains(n));
        let missing: Vec<String> = missing.map(ToString::to_string).collect();
        return Err(Failed::new(
            format!(
                "NOT_ENOUGH_REPLICAS: min.insync.replicas is {min}, but {isr} of {replicas} \
                 replicas are in sync (partitions {}); with acks=all no record is taken",
                list(&too_few)
            ),
            format!(
                "start the brokers that are missing ({}), or see why they lag behind",
                missing.join(", ")
            ),
        ));
    }
    let mut passed = Passed::new("all have a leader");
    if let Some(min) = min_isr {
        let above = select(&|p| p.replica_nodes.len() < min);
        if too_few.is_empty() && above.is_empty() {
            passed.text += &format!(", min.insync.replicas {min} is met");
        }
        if let Some(p) = above.first() {
            passed.notes.push(format!(
                "min.insync.replicas ({min}) is above the number of replicas ({}): brokers before \
                 Kafka 3.7 refuse each record with acks=all (NOT_ENOUGH_REPLICAS); newer ones \
                 count only these replicas, so acknowledged records are on fewer disks than \
                 intended",
                p.replica_nodes.len()
            ));
        }
        let at_limit = select(&|p| p.isr_nodes.len() == min_of(p) && p.replica_nodes.len() > min);
        if !at_limit.is_empty() && acks == Acks::All {
            let partitions = list(&at_limit);
            passed
                .notes
                .push(format!("one more replica down stops these partitions: {partitions}"));
        }
    } else {
        passed.notes.push("min.insync.replicas is not known".to_owned());
    }
    let behind = select(&|p| p.isr_nodes.len() < p.replica_nodes.len());
    if !behind.is_empty() {
        passed.notes.push(format!("replicas are out of sync in partitions {}", list(&behind)));
    }
    Ok(passed)
}

/// Compares the topic's settings with the producer's.
fn check_settings(configs: &Configs, config: &ottla::ProducerConfig) -> Passed {
    let text: Vec<String> = configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut passed = Passed::new(text.join(", "));
    let get = |name: &str| configs.get(name).map(String::as_str);
    let limit = get("max.message.bytes").and_then(|v| v.parse::<usize>().ok());
    let (largest, batch) = (config.sender().max_request_size, config.accumulator().batch_size);
    let mut note = |text: String| passed.notes.push(text);
    if let Some(limit) = limit.filter(|limit| *limit < largest) {
        note(format!(
            "max.message.bytes ({limit}) is below max.request.size ({largest}): a larger record \
             fails with MESSAGE_TOO_LARGE"
        ));
    }
    if let Some(limit) = limit.filter(|limit| *limit < batch) {
        note(format!(
            "max.message.bytes ({limit}) is below batch.size ({batch}): batches are rejected and \
             split; lower batch.size"
        ));
    }
    if get("message.timestamp.type") == Some("LogAppendTime") {
        note("message.timestamp.type=LogAppendTime: brokers replace the timestamps".to_owned());
    }
    let ours = config.get("compression.type").unwrap_or_default();
    if let Some(theirs) = get("compression.type").filter(|t| *t != "producer" && *t != ours) {
        // The topic's word for no compression is another one.
        if !(theirs == "uncompressed" && ours == "none") {
            note(format!(
                "compression.type={theirs}: brokers compress each batch again; this producer uses \
                 {ours}"
            ));
        }
    }
    if get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        note(
            "cleanup.policy=compact: a record without a key is refused (INVALID_RECORD)".to_owned(),
        );
    }
    passed
}
