//! The handlers of CreateTopics, DeleteTopics, CreatePartitions and DescribeConfigs.
//!
//! `kafka-topics.sh` and the admin clients send these requests.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::*;

use crate::core::{ApiError, BrokerConfig, ClockReading, Core};
use crate::topics::{TOPIC_CONFIG_DEFAULTS, TopicState, TopicToCreate};

/// The `config_source` of a setting that the topic overrides, of a broker's and of a default.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;
const STATIC_BROKER_CONFIG: i8 = 4;
const DEFAULT_CONFIG: i8 = 5;
/// The `resource_type` of a topic and of a broker.
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;

/// Returns the `error_code` and `error_message` of a response.
fn to_error_fields(result: Result<(), ApiError>) -> (i16, Option<String>) {
    match result {
        Ok(()) => (0, None),
        Err(e) => (e.code.0, Some(e.message)),
    }
}

pub(crate) fn handle_create_topics(
    core: &mut Core,
    request: CreateTopicsRequest,
    now: ClockReading,
) -> CreateTopicsResponse {
    let topics = request.topics.into_iter().map(|t| {
        let name = t.name.clone();
        let created = create_topic(core, t, now, request.validate_only);
        let (error_code, error_message) = to_error_fields(created);
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
    let replica_assignment = replica_assignment(core, &t)?;
    let config_overrides = t.configs.into_iter().filter_map(|c| Some((c.name, c.value?))).collect();
    let topic = TopicToCreate { id: core.random_uuid(), replica_assignment, config_overrides };
    if validate_only {
        return core.topics.validate_new(&t.name, &topic).map(|_| ());
    }
    core.topics.create(&t.name, topic, now.wall_ms)?;
    core.remove_down_replicas(&t.name, now);
    Ok(())
}

/// Returns the nodes of each partition's replicas: those of the request, or the broker's choice.
fn replica_assignment(core: &Core, t: &CreatableTopic) -> Result<Vec<Vec<i32>>, ApiError> {
    let nodes = core.nodes.count;
    let requested = i32::from(t.replication_factor);
    let factor = core.replication_factor((requested != -1).then_some(requested))?;
    for (i, a) in t.assignments.iter().enumerate() {
        let mut broker_ids = a.broker_ids.clone();
        broker_ids.sort_unstable();
        broker_ids.dedup();
        let is_valid = broker_ids.len() == a.broker_ids.len()
            && !broker_ids.is_empty()
            && broker_ids.iter().all(|n| (1..=nodes).contains(n))
            && a.partition_index == i as i32;
        if !is_valid {
            let message = format!(
                "invalid replica assignment of partition {}: it needs distinct broker ids from 1 \
                 to {nodes}, and partitions count from 0",
                a.partition_index
            );
            return Err(ApiError::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        }
    }
    if !t.assignments.is_empty() {
        return Ok(t.assignments.iter().map(|a| a.broker_ids.clone()).collect());
    }
    let partitions = match t.num_partitions {
        -1 => core.config.default_partitions,
        n => n,
    };
    Ok(core.topics.assign_all_replicas(partitions, factor))
}

pub(crate) fn handle_delete_topics(
    core: &mut Core,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    // Up to version 5, the request has only names.
    let by_name = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
    let topics: Vec<DeleteTopicState> = request.topics.into_iter().chain(by_name).collect();
    let responses = topics.into_iter().map(|t| {
        let name_by_id = core.topics.topic_name(t.topic_id).map(str::to_owned);
        let name = t.name.or(name_by_id);
        let topic_id =
            name.as_ref().and_then(|n| core.topics.by_name.get(n)).map_or(t.topic_id, |t| t.id);
        let (error_code, error_message) = to_error_fields(match &name {
            Some(name) => core.delete_topic(name),
            None => {
                Err(ApiError::new(ErrorCode::UNKNOWN_TOPIC_ID, "This topic id does not exist."))
            }
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
        let result = if request.validate_only {
            core.topics.validate_partition_count(&t.name, t.count)
        } else {
            core.topics.create_partitions(&t.name, t.count, now.wall_ms)
        };
        core.remove_down_replicas(&t.name, now);
        let (error_code, error_message) = to_error_fields(result);
        CreatePartitionsTopicResult {
            name: t.name,
            error_code,
            error_message,
            ..Default::default()
        }
    });
    CreatePartitionsResponse { results: results.collect(), ..Default::default() }
}

/// A setting of a topic or of a broker, as DescribeConfigs shows it.
struct ConfigEntry {
    name: &'static str,
    value: String,
    /// [`DYNAMIC_TOPIC_CONFIG`], [`STATIC_BROKER_CONFIG`] or [`DEFAULT_CONFIG`].
    source: i8,
}

/// Returns all settings of a topic, with the defaults of those that it does not override.
fn effective_configs(topic: &TopicState) -> impl Iterator<Item = ConfigEntry> + '_ {
    TOPIC_CONFIG_DEFAULTS.iter().map(|(name, default)| match topic.config_overrides.get(*name) {
        Some(value) => ConfigEntry { name, value: value.clone(), source: DYNAMIC_TOPIC_CONFIG },
        None => ConfigEntry { name, value: (*default).to_owned(), source: DEFAULT_CONFIG },
    })
}

fn to_creatable_config(config: ConfigEntry) -> CreatableTopicConfigs {
    CreatableTopicConfigs {
        name: config.name.to_owned(),
        value: Some(config.value),
        config_source: config.source,
        ..Default::default()
    }
}

/// Returns the settings of each node that concern clients, by Kafka's names.
fn broker_configs(config: &BrokerConfig) -> impl Iterator<Item = ConfigEntry> {
    let values = [
        ("auto.create.topics.enable", config.auto_create_topics.to_string()),
        ("default.replication.factor", config.default_replication_factor.to_string()),
        ("num.partitions", config.default_partitions.to_string()),
        ("transaction.max.timeout.ms", config.transaction_max_timeout_ms.to_string()),
    ];
    values.into_iter().map(|(name, value)| ConfigEntry {
        name,
        value,
        source: STATIC_BROKER_CONFIG,
    })
}

pub(crate) fn handle_describe_configs(
    core: &Core,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|r| {
        let is_requested = |name: &str| match &r.configuration_keys {
            Some(keys) => keys.iter().any(|k| k == name),
            None => true,
        };
        let mut result = DescribeConfigsResult {
            resource_type: r.resource_type,
            resource_name: r.resource_name.clone(),
            ..Default::default()
        };
        let entries: Vec<ConfigEntry> = match r.resource_type {
            BROKER_RESOURCE => broker_configs(&core.config).collect(),
            TOPIC_RESOURCE => match core.topics.by_name.get(&r.resource_name) {
                Some(topic) => effective_configs(topic).collect(),
                None => {
                    result.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
                    result.error_message = Some("This topic does not exist.".to_owned());
                    Vec::new()
                }
            },
            _ => Vec::new(),
        };
        result.configs = (entries.into_iter().filter(|c| is_requested(c.name)))
            .map(|c| DescribeConfigsResourceResult {
                name: c.name.to_owned(),
                value: Some(c.value),
                config_source: c.source,
                read_only: c.source == STATIC_BROKER_CONFIG,
                ..Default::default()
            })
            .collect();
        result
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}
