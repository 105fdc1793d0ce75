//! Dispatches requests to a handler for each API, as Kafka's `KafkaApis` does.
//!
//! The socket server and the simulation call [`Core::handle_at_node`]. The handlers are in
//! `produce`, `fetch` and `offsets` (records), `transactions` (also producer ids), `groups` (their
//! members), `group_offsets`, `discovery` (metadata and coordinators) and `admin` (topics).

mod admin;
mod discovery;
mod produce;
mod fetch;
mod offsets;
mod transactions;
mod groups;
mod group_offsets;

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, decode_request, encode_response};
use ottla_protocol::messages::*;
use ottla_protocol::{ApiKey, DecodeError, Reader, Request};

use crate::client_metrics::{handle_get_telemetry_subscriptions, handle_push_telemetry};
use crate::core::{ClockReading, Core, DEFAULT_NODE_ID, HandleResult, LocalAddress};

pub(crate) use admin::*;
pub(crate) use discovery::*;
pub(crate) use fetch::handle_fetch;
pub(crate) use group_offsets::*;
pub(crate) use groups::*;
pub(crate) use offsets::*;
pub(crate) use produce::handle_produce;
pub(crate) use transactions::*;

impl Core {
    /// Handles a request that arrived at node 1 at `arrived_ms` of the monotonic clock.
    ///
    /// `frame` is the request without its length. After [`HandleResult::DelayedFetch`], the caller
    /// passes the same frame and `arrived_ms` again.
    pub fn handle(
        &mut self,
        frame: &Bytes,
        local: &LocalAddress,
        arrived_ms: u64,
        now: ClockReading,
    ) -> HandleResult {
        self.handle_at_node(DEFAULT_NODE_ID, frame, local, arrived_ms, now)
    }

    /// Handles a request that arrived at the given node; see [`handle`](Core::handle).
    pub fn handle_at_node(
        &mut self,
        node: i32,
        frame: &Bytes,
        local: &LocalAddress,
        arrived_ms: u64,
        now: ClockReading,
    ) -> HandleResult {
        if !self.nodes.is_up(node) {
            return HandleResult::CloseConnection(format!("node {node} is stopped"));
        }
        let mut r = Reader::new(frame);
        let header = match RequestHeader::decode(&mut r) {
            Ok(header) => header,
            Err(e) => return HandleResult::CloseConnection(format!("not a Kafka request: {e}")),
        };
        let Some(supported) = supported_versions(header.api_key) else {
            return unsupported_api(header.api_key);
        };
        if !(supported.min..=supported.max).contains(&header.api_version) {
            if header.api_key == ApiKey::API_VERSIONS {
                return unsupported_api_versions_response(header.correlation_id);
            }
            return HandleResult::CloseConnection(format!(
                "UNSUPPORTED_VERSION: {:?} version {}; this broker supports {} to {}",
                header.api_key, header.api_version, supported.min, supported.max
            ));
        }
        let ctx = RequestContext { node, header: &header, local_address: local, arrived_ms, now };
        match self.dispatch(&ctx, &mut r) {
            Ok(result) => result,
            Err(e) => HandleResult::CloseConnection(format!("request cannot be decoded: {e}")),
        }
    }

    fn dispatch(
        &mut self,
        ctx: &RequestContext<'_>,
        r: &mut Reader<'_>,
    ) -> Result<HandleResult, DecodeError> {
        let v = ctx.header.api_version;
        Ok(match ctx.header.api_key {
            ApiKey::API_VERSIONS => {
                ctx.send_response::<ApiVersionsRequest>(&handle_api_versions(self, r, v)?)
            }
            ApiKey::PRODUCE => return handle_produce(self, ctx, decode_request(r, v)?),
            ApiKey::FETCH => handle_fetch(self, ctx, decode_request(r, v)?),
            ApiKey::LIST_OFFSETS => ctx.send_response::<ListOffsetsRequest>(&handle_list_offsets(
                self,
                ctx,
                decode_request(r, v)?,
            )),
            ApiKey::METADATA => {
                let request = decode_request(r, v)?;
                ctx.send_response::<MetadataRequest>(&handle_metadata(self, ctx, request))
            }
            ApiKey::INIT_PRODUCER_ID => ctx.send_response::<InitProducerIdRequest>(
                &handle_init_producer_id(self, ctx, &decode_request(r, v)?),
            ),
            ApiKey::ADD_PARTITIONS_TO_TXN => ctx.send_response::<AddPartitionsToTxnRequest>(
                &handle_add_partitions_to_txn(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::ADD_OFFSETS_TO_TXN => ctx.send_response::<AddOffsetsToTxnRequest>(
                &handle_add_offsets_to_txn(self, ctx, &decode_request(r, v)?),
            ),
            ApiKey::END_TXN => {
                let request = decode_request(r, v)?;
                ctx.send_response::<EndTxnRequest>(&handle_end_txn(self, ctx, &request))
            }
            ApiKey::WRITE_TXN_MARKERS => ctx.send_response::<WriteTxnMarkersRequest>(
                &handle_write_txn_markers(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::OFFSET_FOR_LEADER_EPOCH => ctx.send_response::<OffsetForLeaderEpochRequest>(
                &handle_offset_for_leader_epoch(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::FIND_COORDINATOR => ctx.send_response::<FindCoordinatorRequest>(
                &handle_find_coordinator(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::JOIN_GROUP => handle_join_group(self, ctx, decode_request(r, v)?),
            ApiKey::SYNC_GROUP => handle_sync_group(self, ctx, decode_request(r, v)?),
            ApiKey::HEARTBEAT => {
                let request = decode_request(r, v)?;
                ctx.send_response::<HeartbeatRequest>(&handle_heartbeat(self, ctx, &request))
            }
            ApiKey::LEAVE_GROUP => {
                let request = decode_request(r, v)?;
                ctx.send_response::<LeaveGroupRequest>(&handle_leave_group(self, ctx, request))
            }
            ApiKey::OFFSET_COMMIT => {
                let request = decode_request(r, v)?;
                ctx.send_response::<OffsetCommitRequest>(&handle_offset_commit(self, ctx, request))
            }
            ApiKey::OFFSET_FETCH => {
                let request = decode_request(r, v)?;
                ctx.send_response::<OffsetFetchRequest>(&handle_offset_fetch(self, ctx, request))
            }
            ApiKey::TXN_OFFSET_COMMIT => ctx.send_response::<TxnOffsetCommitRequest>(
                &handle_txn_offset_commit(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::DESCRIBE_GROUPS => ctx.send_response::<DescribeGroupsRequest>(
                &handle_describe_groups(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::LIST_GROUPS => {
                let request = decode_request(r, v)?;
                ctx.send_response::<ListGroupsRequest>(&handle_list_groups(self, ctx, &request))
            }
            ApiKey::CREATE_TOPICS => {
                let request = decode_request(r, v)?;
                ctx.send_response::<CreateTopicsRequest>(&handle_create_topics(
                    self, request, ctx.now,
                ))
            }
            ApiKey::DELETE_TOPICS => ctx.send_response::<DeleteTopicsRequest>(
                &handle_delete_topics(self, decode_request(r, v)?),
            ),
            ApiKey::CREATE_PARTITIONS => {
                let request = decode_request(r, v)?;
                ctx.send_response::<CreatePartitionsRequest>(&handle_create_partitions(
                    self, request, ctx.now,
                ))
            }
            ApiKey::DESCRIBE_CONFIGS => ctx.send_response::<DescribeConfigsRequest>(
                &handle_describe_configs(self, decode_request(r, v)?),
            ),
            ApiKey::DESCRIBE_CLUSTER => {
                decode_request::<DescribeClusterRequest>(r, v)?;
                ctx.send_response::<DescribeClusterRequest>(&handle_describe_cluster(self, ctx))
            }
            ApiKey::GET_TELEMETRY_SUBSCRIPTIONS => {
                match handle_get_telemetry_subscriptions(self, &decode_request(r, v)?) {
                    Some(body) => ctx.send_response::<GetTelemetrySubscriptionsRequest>(&body),
                    None => unsupported_api(ctx.header.api_key),
                }
            }
            ApiKey::PUSH_TELEMETRY => {
                match handle_push_telemetry(self, ctx, &decode_request(r, v)?) {
                    Some(body) => ctx.send_response::<PushTelemetryRequest>(&body),
                    None => unsupported_api(ctx.header.api_key),
                }
            }
            other => unsupported_api(other),
        })
    }
}

/// Closes the connection, as Kafka does: the broker cannot respond to an API it does not know.
fn unsupported_api(api: ApiKey) -> HandleResult {
    HandleResult::CloseConnection(format!("UNSUPPORTED_VERSION: {api:?} is not supported"))
}

/// Encodes a response frame.
pub(crate) fn send_response<R: Request>(
    version: i16,
    correlation_id: i32,
    body: &R::Response,
) -> HandleResult {
    match encode_response(R::KEY, version, correlation_id, body) {
        Ok(frame) => HandleResult::SendResponse(frame),
        Err(e) => HandleResult::CloseConnection(format!("response cannot be encoded: {e}")),
    }
}

/// Where and when a request arrived, and its header.
pub(crate) struct RequestContext<'a> {
    pub(crate) node: i32,
    pub(crate) header: &'a RequestHeader,
    pub(crate) local_address: &'a LocalAddress,
    pub(crate) arrived_ms: u64,
    pub(crate) now: ClockReading,
}

impl RequestContext<'_> {
    pub(crate) fn send_response<R: Request>(&self, body: &R::Response) -> HandleResult {
        send_response::<R>(self.header.api_version, self.header.correlation_id, body)
    }

    /// Returns the host and port at which this client can reach a node.
    pub(crate) fn advertised_address(&self, core: &Core, node: i32) -> (String, i32) {
        // The configured listener is node 1's; the other nodes have the ports after it.
        let listener_port = |first: u16| i32::from(first) + node - 1;
        match (core.nodes.advertised_addresses.get(&node), &core.config.advertised_listener) {
            (_, Some((host, port))) => (host.clone(), listener_port(*port)),
            // An empty host stands for the host that the client has reached: all nodes share it.
            (Some((host, port)), _) if host.is_empty() => {
                (self.local_address.host.clone(), i32::from(*port))
            }
            (Some((host, port)), _) => (host.clone(), i32::from(*port)),
            (None, None) => {
                let port = i32::from(self.local_address.port) - self.node + node;
                (self.local_address.host.clone(), port)
            }
        }
    }
}
