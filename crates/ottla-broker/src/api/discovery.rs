//! The handlers of ApiVersions, Metadata, DescribeCluster and FindCoordinator.
//!
//! A client sends these requests before it produces.

use ottla_protocol::header::{decode_request, encode_response};
use ottla_protocol::messages::*;
use ottla_protocol::{ApiKey, DecodeError, ErrorCode, Reader};

use crate::api::RequestContext;
use crate::coordinators::CoordinatorType;
use crate::core::{Core, HandleResult};
use crate::topics::{TopicState, is_valid_topic_name};
use crate::transaction::TRANSACTIONS_V2;

/// The versions of an API that this broker supports.
pub(crate) struct SupportedVersions {
    key: ApiKey,
    pub(crate) min: i16,
    pub(crate) max: i16,
}

const SUPPORTED_VERSIONS: &[SupportedVersions] = &[
    SupportedVersions { key: ApiKey::PRODUCE, min: 3, max: 13 },
    SupportedVersions { key: ApiKey::FETCH, min: 4, max: 17 },
    SupportedVersions { key: ApiKey::LIST_OFFSETS, min: 1, max: 10 },
    SupportedVersions { key: ApiKey::METADATA, min: 0, max: 13 },
    SupportedVersions { key: ApiKey::OFFSET_COMMIT, min: 2, max: 9 },
    SupportedVersions { key: ApiKey::OFFSET_FETCH, min: 1, max: 9 },
    SupportedVersions { key: ApiKey::FIND_COORDINATOR, min: 0, max: 6 },
    SupportedVersions { key: ApiKey::JOIN_GROUP, min: 0, max: 9 },
    SupportedVersions { key: ApiKey::HEARTBEAT, min: 0, max: 4 },
    SupportedVersions { key: ApiKey::LEAVE_GROUP, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::SYNC_GROUP, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::DESCRIBE_GROUPS, min: 0, max: 6 },
    SupportedVersions { key: ApiKey::LIST_GROUPS, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::API_VERSIONS, min: 0, max: 4 },
    SupportedVersions { key: ApiKey::CREATE_TOPICS, min: 2, max: 7 },
    SupportedVersions { key: ApiKey::DELETE_TOPICS, min: 1, max: 6 },
    SupportedVersions { key: ApiKey::INIT_PRODUCER_ID, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::OFFSET_FOR_LEADER_EPOCH, min: 2, max: 4 },
    SupportedVersions { key: ApiKey::ADD_PARTITIONS_TO_TXN, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::ADD_OFFSETS_TO_TXN, min: 0, max: 4 },
    SupportedVersions { key: ApiKey::END_TXN, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::WRITE_TXN_MARKERS, min: 1, max: 2 },
    SupportedVersions { key: ApiKey::TXN_OFFSET_COMMIT, min: 0, max: 5 },
    SupportedVersions { key: ApiKey::DESCRIBE_CONFIGS, min: 1, max: 4 },
    SupportedVersions { key: ApiKey::CREATE_PARTITIONS, min: 0, max: 3 },
    SupportedVersions { key: ApiKey::DESCRIBE_CLUSTER, min: 0, max: 1 },
    SupportedVersions { key: ApiKey::GET_TELEMETRY_SUBSCRIPTIONS, min: 0, max: 0 },
    SupportedVersions { key: ApiKey::PUSH_TELEMETRY, min: 0, max: 0 },
];

/// The feature that says which transactions a cluster supports (KIP-890).
const TRANSACTION_VERSION_FEATURE: &str = "transaction.version";

/// Returns the supported versions of an API; `None` for an unsupported API.
pub(crate) fn supported_versions(key: ApiKey) -> Option<&'static SupportedVersions> {
    SUPPORTED_VERSIONS.iter().find(|s| s.key == key)
}

fn advertised_versions(core: &Core) -> Vec<ApiVersion> {
    let advertise = |s: &SupportedVersions| ApiVersion {
        api_key: s.key.0,
        // As Kafka does, the broker advertises Produce 0 to 2 without supporting them. librdkafka
        // decides by the lowest Produce version whether the broker is recent (KAFKA-18659).
        min_version: if s.key == ApiKey::PRODUCE { 0 } else { s.min },
        max_version: s.max,
        ..Default::default()
    };
    // As in Kafka, only a broker that can receive client metrics offers to.
    let has_receiver = core.client_metrics.subscription.is_some();
    let is_telemetry =
        |key| matches!(key, ApiKey::GET_TELEMETRY_SUBSCRIPTIONS | ApiKey::PUSH_TELEMETRY);
    let offered = |s: &&SupportedVersions| has_receiver || !is_telemetry(s.key);
    SUPPORTED_VERSIONS.iter().filter(offered).map(advertise).collect()
}

pub(crate) fn handle_api_versions(
    core: &Core,
    r: &mut Reader<'_>,
    version: i16,
) -> Result<ApiVersionsResponse, DecodeError> {
    decode_request::<ApiVersionsRequest>(r, version)?;
    let name = || TRANSACTION_VERSION_FEATURE.to_owned();
    let level = core.transactions.version;
    let finalized = FinalizedFeatureKey {
        name: name(),
        max_version_level: level,
        min_version_level: level,
        ..Default::default()
    };
    Ok(ApiVersionsResponse {
        api_keys: advertised_versions(core),
        supported_features: vec![SupportedFeatureKey {
            name: name(),
            min_version: 0,
            max_version: TRANSACTIONS_V2,
            ..Default::default()
        }],
        finalized_features_epoch: core.transactions.features_epoch,
        // As in Kafka, a feature at level 0 is not finalized.
        finalized_features: if level > 0 { vec![finalized] } else { Vec::new() },
        ..Default::default()
    })
}

/// Returns the response to an unsupported ApiVersions version (KIP-511).
///
/// It has version 0, which every client can decode, and the versions that the broker supports.
pub(crate) fn unsupported_api_versions_response(correlation_id: i32) -> HandleResult {
    let range = ApiVersion { api_key: 18, min_version: 0, max_version: 4, ..Default::default() };
    let body = ApiVersionsResponse {
        error_code: ErrorCode::UNSUPPORTED_VERSION.0,
        api_keys: vec![range],
        ..Default::default()
    };
    match encode_response(ApiKey::API_VERSIONS, 0, correlation_id, &body) {
        Ok(frame) => HandleResult::SendResponse(frame),
        Err(e) => HandleResult::CloseConnection(e.to_string()),
    }
}

pub(crate) fn handle_metadata(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    request: MetadataRequest,
) -> MetadataResponse {
    // Version 0 has no null: there, an empty list means all topics.
    let wants_all_topics = match &request.topics {
        None => true,
        Some(topics) => topics.is_empty() && ctx.header.api_version == 0,
    };
    let topics = if wants_all_topics {
        core.topics.by_name.iter().map(|(name, topic)| describe_topic(core, name, topic)).collect()
    } else {
        // Before version 4, every Metadata request may create topics.
        let create = request.allow_auto_topic_creation || ctx.header.api_version < 4;
        request
            .topics
            .unwrap_or_default()
            .into_iter()
            .map(|t| describe_requested_topic(core, ctx, t, create))
            .collect()
    };
    MetadataResponse {
        brokers: (core.nodes.live_nodes())
            .map(|node_id| {
                let (host, port) = ctx.advertised_address(core, node_id);
                MetadataResponseBroker { node_id, host, port, ..Default::default() }
            })
            .collect(),
        cluster_id: Some(core.cluster_id.clone()),
        controller_id: core.nodes.controller_id(),
        topics,
        ..Default::default()
    }
}

fn describe_requested_topic(
    core: &mut Core,
    ctx: &RequestContext<'_>,
    requested: MetadataRequestTopic,
    create: bool,
) -> MetadataResponseTopic {
    let Some(name) = requested.name else {
        return match core.topics.topic_name(requested.topic_id).map(str::to_owned) {
            Some(name) => describe_topic(core, &name, &core.topics.by_name[&name]),
            None => MetadataResponseTopic {
                error_code: ErrorCode::UNKNOWN_TOPIC_ID.0,
                name: None,
                topic_id: requested.topic_id,
                ..Default::default()
            },
        };
    };
    let error = |code: ErrorCode| MetadataResponseTopic {
        error_code: code.0,
        name: Some(name.clone()),
        ..Default::default()
    };
    if !is_valid_topic_name(&name) {
        return error(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    if !core.topics.by_name.contains_key(&name) && create && core.config.auto_create_topics {
        let partitions = core.config.default_partitions;
        if let Err(e) = core.create_topic(&name, partitions, ctx.now) {
            if e.code == ErrorCode::KAFKA_STORAGE_ERROR {
                tracing::error!(topic = name, "topic not created: {e}");
            } else {
                tracing::warn!(topic = name, "topic not created: {e}");
            }
            return error(e.code);
        }
    }
    match core.topics.by_name.get(&name) {
        Some(topic) => describe_topic(core, &name, topic),
        None => error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    }
}

fn describe_topic(core: &Core, name: &str, topic: &TopicState) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate().map(|(i, p)| {
        let replica_nodes = p.assigned_replicas();
        let error = if p.leader == -1 { ErrorCode::LEADER_NOT_AVAILABLE } else { ErrorCode::NONE };
        MetadataResponsePartition {
            error_code: error.0,
            partition_index: i as i32,
            leader_id: p.leader,
            leader_epoch: p.leader_epoch,
            offline_replicas: (replica_nodes.iter().copied())
                .filter(|n| !core.nodes.is_up(*n))
                .collect(),
            replica_nodes,
            isr_nodes: p.isr.clone(),
            ..Default::default()
        }
    });
    MetadataResponseTopic {
        name: Some(name.to_owned()),
        topic_id: topic.id,
        partitions: partitions.collect(),
        ..Default::default()
    }
}

pub(crate) fn handle_describe_cluster(
    core: &Core,
    ctx: &RequestContext<'_>,
) -> DescribeClusterResponse {
    let brokers = core.nodes.live_nodes().map(|broker_id| {
        let (host, port) = ctx.advertised_address(core, broker_id);
        DescribeClusterBroker { broker_id, host, port, ..Default::default() }
    });
    DescribeClusterResponse {
        cluster_id: core.cluster_id.clone(),
        controller_id: core.nodes.controller_id(),
        brokers: brokers.collect(),
        ..Default::default()
    }
}

/// Returns the coordinators of groups or transactional ids.
pub(crate) fn handle_find_coordinator(
    core: &Core,
    ctx: &RequestContext<'_>,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let is_batched = ctx.header.api_version >= 4;
    let keys = if is_batched { request.coordinator_keys } else { vec![request.key] };
    let find = |key: String| find_coordinator(core, ctx, request.key_type, key);
    let mut coordinators: Vec<Coordinator> = keys.into_iter().map(find).collect();
    if is_batched {
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let c = coordinators.pop().unwrap_or_default();
    FindCoordinatorResponse {
        error_code: c.error_code,
        error_message: c.error_message,
        node_id: c.node_id,
        host: c.host,
        port: c.port,
        ..Default::default()
    }
}

fn find_coordinator(
    core: &Core,
    ctx: &RequestContext<'_>,
    key_type: i8,
    key: String,
) -> Coordinator {
    let found = match key_type {
        0 | 1 if key.is_empty() => Err((ErrorCode::INVALID_REQUEST, "the key is empty")),
        0 | 1 => {
            let groups = key_type == 0;
            let coordinator_type =
                if groups { CoordinatorType::Group } else { CoordinatorType::Transaction };
            let found = core.coordinators.node(coordinator_type, &key);
            found.map_err(|code| (code, "no broker is up"))
        }
        _ => Err((ErrorCode::INVALID_REQUEST, "this broker has no share groups")),
    };
    match found {
        Ok(node_id) => {
            let (host, port) = ctx.advertised_address(core, node_id);
            Coordinator { key, node_id, host, port, ..Default::default() }
        }
        Err((code, message)) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: code.0,
            error_message: Some(message.to_owned()),
            ..Default::default()
        },
    }
}
