//! CreateTopics, DeleteTopics, CreatePartitions, DescribeConfigs: what Kafka's own tools ask for.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use crate::core::{Core, Now};
use crate::topics::{PARTITIONS_MAX, SETTINGS, Topic};

type Refused = (ErrorCode, String);

/// Where a topic's value comes from: set on the topic, or a default.
const FROM_TOPIC: i8 = 1;
const FROM_DEFAULT: i8 = 5;
/// A resource that is a topic.
const TOPIC: i8 = 2;

fn said(result: Result<(), Refused>) -> (i16, Option<String>) {
    match result {
        Ok(()) => (0, None),
        Err((code, message)) => (code.0, Some(message)),
    }
}

pub(crate) fn create_topics(
    core: &mut Core,
    request: CreateTopicsRequest,
    now: Now,
) -> CreateTopicsResponse {
    let topics = request.topics.into_iter().map(|t| {
        let name = t.name.clone();
        let made = create(core, t, now, request.validate_only);
        let (error_code, error_message) = said(made);
        let mut result = CreatableTopicResult {
            name: name.clone(),
            error_code,
            error_message,
            ..Default::default()
        };
        if let Some(topic) = core.topics.all.get(&name).filter(|_| error_code == 0) {
            result.topic_id = topic.id;
            result.num_partitions = topic.partitions.len() as i32;
            result.replication_factor = topic.replication() as i16;
            result.configs = Some(settings(topic).map(creatable).collect());
        }
        result
    });
    CreateTopicsResponse { topics: topics.collect(), ..Default::default() }
}

fn create(
    core: &mut Core,
    t: CreatableTopic,
    now: Now,
    validate_only: bool,
) -> Result<(), Refused> {
    let nodes = core.nodes.count;
    let replication = match i32::from(t.replication_factor) {
        -1 => core.config.default_replication.min(nodes),
        n if (1..=nodes).contains(&n) => n,
        n => {
            let message = format!("replication factor {n}, and there are {nodes} brokers");
            return Err((ErrorCode::INVALID_REPLICATION_FACTOR, message));
        }
    };
    let mut places: Vec<Vec<i32>> = Vec::new();
    for (i, a) in t.assignments.iter().enumerate() {
        let mut each = a.broker_ids.clone();
        each.sort_unstable();
        each.dedup();
        let fit = each.len() == a.broker_ids.len()
            && !each.is_empty()
            && each.iter().all(|n| (1..=nodes).contains(n))
            && a.partition_index == i as i32;
        if !fit {
            let message = format!("partition {}: brokers are 1 to {nodes}", a.partition_index);
            return Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        }
        places.push(a.broker_ids.clone());
    }
    if places.is_empty() {
        let partitions = match t.num_partitions {
            -1 => core.config.default_partitions,
            n => n.clamp(0, PARTITIONS_MAX + 1),
        };
        places = (0..partitions).map(|n| core.topics.spread(n, replication)).collect();
    }
    let settings = t.configs.into_iter().filter_map(|c| Some((c.name, c.value?))).collect();
    let id = core.uuid();
    core.topics.create(&t.name, &places, settings, (id, now.wall_ms), validate_only)?;
    core.without_the_dead(&t.name, now);
    Ok(())
}

pub(crate) fn delete_topics(core: &mut Core, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
    let all: Vec<DeleteTopicState> = request.topics.into_iter().chain(named).collect();
    let responses = all.into_iter().map(|t| {
        let by_id = core.topics.by_id(t.topic_id).map(str::to_owned);
        let name = t.name.or(by_id);
        let topic_id =
            name.as_ref().and_then(|n| core.topics.all.get(n)).map_or(t.topic_id, |t| t.id);
        let (error_code, error_message) = said(match &name {
            Some(name) => core.topics.delete(name),
            None => Err((ErrorCode::UNKNOWN_TOPIC_ID, "This topic id does not exist.".to_owned())),
        });
        DeletableTopicResult { name, topic_id, error_code, error_message, ..Default::default() }
    });
    DeleteTopicsResponse { responses: responses.collect(), ..Default::default() }
}

pub(crate) fn create_partitions(
    core: &mut Core,
    request: CreatePartitionsRequest,
    now: Now,
) -> CreatePartitionsResponse {
    let results = request.topics.into_iter().map(|t| {
        let widened = core.topics.widen(&t.name, t.count, now.wall_ms, request.validate_only);
        core.without_the_dead(&t.name, now);
        let (error_code, error_message) = said(widened);
        CreatePartitionsTopicResult {
            name: t.name,
            error_code,
            error_message,
            ..Default::default()
        }
    });
    CreatePartitionsResponse { results: results.collect(), ..Default::default() }
}

fn settings(topic: &Topic) -> impl Iterator<Item = (&'static str, String, bool)> + '_ {
    SETTINGS.iter().map(|(name, default)| match topic.settings.get(*name) {
        Some(value) => (*name, value.clone(), true),
        None => (*name, (*default).to_owned(), false),
    })
}

fn creatable((name, value, own): (&str, String, bool)) -> CreatableTopicConfigs {
    CreatableTopicConfigs {
        name: name.to_owned(),
        value: Some(value),
        config_source: if own { FROM_TOPIC } else { FROM_DEFAULT },
        ..Default::default()
    }
}

pub(crate) fn describe_configs(
    core: &Core,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|r| {
        let wanted = |name: &str| match &r.configuration_keys {
            Some(keys) => keys.iter().any(|k| k == name),
            None => true,
        };
        let mut result = DescribeConfigsResult {
            resource_type: r.resource_type,
            resource_name: r.resource_name.clone(),
            ..Default::default()
        };
        if r.resource_type != TOPIC {
            return result;
        }
        match core.topics.all.get(&r.resource_name) {
            None => {
                result.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
                result.error_message = Some("This topic does not exist.".to_owned());
            }
            Some(topic) => {
                result.configs = (settings(topic).filter(|(name, ..)| wanted(name)))
                    .map(|(name, value, own)| DescribeConfigsResourceResult {
                        name: name.to_owned(),
                        value: Some(value),
                        config_source: if own { FROM_TOPIC } else { FROM_DEFAULT },
                        ..Default::default()
                    })
                    .collect();
            }
        }
        result
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}
