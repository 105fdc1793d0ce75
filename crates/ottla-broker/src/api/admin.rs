//! CreateTopics, DeleteTopics, CreatePartitions, DescribeConfigs: what Kafka's own tools ask for.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use crate::core::{ClockReading, Core};
use crate::topics::{MAX_PARTITIONS, TOPIC_CONFIG_DEFAULTS, TopicState};

type ApiError = (ErrorCode, String);

/// Where a topic's value comes from: set on the topic, or a default.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;
const DEFAULT_CONFIG: i8 = 5;
/// A resource that is a topic.
const TOPIC_RESOURCE: i8 = 2;

fn to_error_fields(result: Result<(), ApiError>) -> (i16, Option<String>) {
    match result {
        Ok(()) => (0, None),
        Err((code, message)) => (code.0, Some(message)),
    }
}

pub(crate) fn handle_create_topics(
    core: &mut Core,
    request: CreateTopicsRequest,
    now: ClockReading,
) -> CreateTopicsResponse {
    let topics = request.topics.into_iter().map(|t| {
        let name = t.name.clone();
        let made = create_topic(core, t, now, request.validate_only);
        let (error_code, error_message) = to_error_fields(made);
        let mut result = CreatableTopicResult {
            name: name.clone(),
            error_code,
            error_message,
            ..Default::default()
        };
        if let Some(topic) = core.topics.by_name.get(&name).filter(|_| error_code == 0) {
            result.topic_id = topic.id;
            result.num_partitions = topic.partitions.len() as i32;
            result.replication_factor = topic.replication_factor() as i16;
            result.configs = Some(effective_configs(topic).map(to_creatable_config).collect());
        }
        result
    });
    CreateTopicsResponse { topics: topics.collect(), ..Default::default() }
}

fn create_topic(
    core: &mut Core,
    t: CreatableTopic,
    now: ClockReading,
    validate_only: bool,
) -> Result<(), ApiError> {
    let nodes = core.nodes.count;
    let replication = match i32::from(t.replication_factor) {
        -1 => core.config.default_replication_factor.min(nodes),
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
            n => n.clamp(0, MAX_PARTITIONS + 1),
        };
        places = (0..partitions).map(|n| core.topics.assign_replicas(n, replication)).collect();
    }
    let settings = t.configs.into_iter().filter_map(|c| Some((c.name, c.value?))).collect();
    let id = core.random_uuid();
    core.topics.create(&t.name, &places, settings, (id, now.wall_ms), validate_only)?;
    core.remove_down_replicas(&t.name, now);
    Ok(())
}

pub(crate) fn handle_delete_topics(
    core: &mut Core,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let named = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
    let all: Vec<DeleteTopicState> = request.topics.into_iter().chain(named).collect();
    let responses = all.into_iter().map(|t| {
        let by_id = core.topics.topic_name(t.topic_id).map(str::to_owned);
        let name = t.name.or(by_id);
        let topic_id =
            name.as_ref().and_then(|n| core.topics.by_name.get(n)).map_or(t.topic_id, |t| t.id);
        let (error_code, error_message) = to_error_fields(match &name {
            Some(name) => core.topics.delete(name),
            None => Err((ErrorCode::UNKNOWN_TOPIC_ID, "This topic id does not exist.".to_owned())),
        });
        DeletableTopicResult { name, topic_id, error_code, error_message, ..Default::default() }
    });
    DeleteTopicsResponse { responses: responses.collect(), ..Default::default() }
}

pub(crate) fn handle_create_partitions(
    core: &mut Core,
    request: CreatePartitionsRequest,
    now: ClockReading,
) -> CreatePartitionsResponse {
    let results = request.topics.into_iter().map(|t| {
        let widened =
            core.topics.create_partitions(&t.name, t.count, now.wall_ms, request.validate_only);
        core.remove_down_replicas(&t.name, now);
        let (error_code, error_message) = to_error_fields(widened);
        CreatePartitionsTopicResult {
            name: t.name,
            error_code,
            error_message,
            ..Default::default()
        }
    });
    CreatePartitionsResponse { results: results.collect(), ..Default::default() }
}

fn effective_configs(
    topic: &TopicState,
) -> impl Iterator<Item = (&'static str, String, bool)> + '_ {
    TOPIC_CONFIG_DEFAULTS.iter().map(|(name, default)| match topic.config_overrides.get(*name) {
        Some(value) => (*name, value.clone(), true),
        None => (*name, (*default).to_owned(), false),
    })
}

fn to_creatable_config((name, value, own): (&str, String, bool)) -> CreatableTopicConfigs {
    CreatableTopicConfigs {
        name: name.to_owned(),
        value: Some(value),
        config_source: if own { DYNAMIC_TOPIC_CONFIG } else { DEFAULT_CONFIG },
        ..Default::default()
    }
}

pub(crate) fn handle_describe_configs(
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
        if r.resource_type != TOPIC_RESOURCE {
            return result;
        }
        match core.topics.by_name.get(&r.resource_name) {
            None => {
                result.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
                result.error_message = Some("This topic does not exist.".to_owned());
            }
            Some(topic) => {
                result.configs = (effective_configs(topic).filter(|(name, ..)| wanted(name)))
                    .map(|(name, value, own)| DescribeConfigsResourceResult {
                        name: name.to_owned(),
                        value: Some(value),
                        config_source: if own { DYNAMIC_TOPIC_CONFIG } else { DEFAULT_CONFIG },
                        ..Default::default()
                    })
                    .collect();
            }
        }
        result
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}
