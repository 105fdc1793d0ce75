//! The broker without the network: frames in, frames out, time given. The TCP front and the simulation drive
//! the same core.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, decode_request, encode_response};
use ottla_protocol::messages::*;
use ottla_protocol::{ApiKey, DecodeError, ErrorCode, Reader, Request, Uuid};

use crate::api;
use crate::cluster::Nodes;
use crate::log::LogBatch;
use crate::purgatory::DelayedProduce;
use crate::topics::{MAX_PARTITIONS, TopicStore};

/// What a broker is made with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// Where logs are kept; memory if `None`.
    pub data_dir: Option<PathBuf>,
    /// The address clients are told; the one they came in by if `None`.
    pub advertised_listener: Option<(String, u16)>,
    /// Partitions of a topic that is made because somebody asked for it.
    pub default_partitions: i32,
    /// Whether asking for a topic makes it.
    pub auto_create_topics: bool,
    /// Seeds ids.
    pub seed: u64,
    /// How many nodes there are: 1 to this. One core is the whole cluster.
    pub node_count: i32,
    /// Replicas of a topic that is made because somebody asked for it, at most `nodes`.
    pub default_replication_factor: i32,
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            data_dir: None,
            advertised_listener: None,
            default_partitions: 1,
            auto_create_topics: true,
            seed: 0,
            node_count: 1,
            default_replication_factor: 3,
        }
    }
}

/// The time, as the driver has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Milliseconds on a clock that only goes forward.
    pub mono_ms: u64,
    /// Milliseconds since the epoch.
    pub wall_ms: i64,
}

/// The address a client came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAddress {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum HandleResult {
    /// This answer.
    SendResponse(Vec<u8>),
    /// No answer at all (`acks=0`).
    NoResponse,
    /// Not yet: to be handed in again when something was appended, or then.
    DelayedFetch(u64),
    /// Done, but replicas have to follow: ask [`Core::later`] with this ticket when something was copied, or at the
    /// latest then. Requests behind it on its connection wait, too.
    DelayedProduce(u64, u64),
    /// The connection ends, for this reason.
    CloseConnection(String),
}

/// A fault to be played on a partition of a Produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProduceFault {
    /// Not appended; this error.
    FailBeforeAppend(ErrorCode),
    /// Appended; this error all the same.
    FailAfterAppend(ErrorCode),
}

/// A batch a leader appended, for whoever keeps a journal.
#[derive(Debug, Clone)]
pub struct AppendedBatch {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its first offset.
    pub base_offset: i64,
    /// Its bytes, as they came.
    pub records: Bytes,
}

type FaultInjector = Box<dyn FnMut(&str, i32) -> Option<ProduceFault> + Send>;

/// The broker.
pub struct Core {
    pub(crate) config: BrokerConfig,
    pub(crate) topics: TopicStore,
    pub(crate) cluster_id: String,
    pub(crate) next_producer_id: i64,
    pub(crate) producer_ids_issued: u64,
    pub(crate) initial_producer_epoch: i16,
    pub(crate) producer_id_errors: Vec<ErrorCode>,
    pub(crate) nodes: Nodes,
    pub(crate) produce_purgatory: BTreeMap<u64, DelayedProduce>,
    pub(crate) last_delayed_id: u64,
    pub(crate) append_history: Option<Vec<AppendedBatch>>,
    rng_state: u64,
    fault_injector: Option<FaultInjector>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({} topics)", self.topics.by_name.len())
    }
}

/// The node there always is.
const DEFAULT_NODE_ID: i32 = 1;

impl Core {
    /// A broker over what its directory holds.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn new(config: BrokerConfig, now: ClockReading) -> io::Result<Core> {
        if !(1..=100).contains(&config.node_count) {
            let why = format!("a cluster has 1 to 100 nodes, not {}", config.node_count);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let topics = TopicStore::open(config.data_dir.clone(), config.node_count, now.wall_ms)?;
        let replicas =
            topics.by_name.values().flat_map(|t| &t.partitions).flat_map(|p| &p.replicas);
        let greatest = replicas.filter_map(|r| r.producer_state.max_producer_id()).max();
        let mut core = Core {
            rng_state: config.seed,
            nodes: Nodes::new(config.node_count),
            produce_purgatory: BTreeMap::new(),
            last_delayed_id: 0,
            producer_ids_issued: 0,
            initial_producer_epoch: 0,
            producer_id_errors: Vec::new(),
            append_history: None,
            config,
            topics,
            cluster_id: String::new(),
            // Behind every id seen, and behind those given before a restart that nobody has written with yet.
            next_producer_id: greatest.map_or(0, |id| id + 1).max(now.wall_ms),
            fault_injector: None,
        };
        core.cluster_id = core.load_cluster_id()?;
        Ok(core)
    }

    fn load_cluster_id(&mut self) -> io::Result<String> {
        let fresh = self.random_uuid().to_string();
        let Some(dir) = &self.config.data_dir else {
            return Ok(fresh);
        };
        let path = dir.join("meta.properties");
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Some(id) = text.lines().find_map(|l| l.strip_prefix("cluster.id="))
        {
            return Ok(id.to_owned());
        }
        std::fs::write(
            path,
            format!("version=1\nnode.id={DEFAULT_NODE_ID}\ncluster.id={fresh}\n"),
        )?;
        Ok(fresh)
    }

    fn next_random(&mut self) -> u64 {
        self.rng_state = self.rng_state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.rng_state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn random_uuid(&mut self) -> Uuid {
        Uuid::from_random(self.next_random(), self.next_random())
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        now: ClockReading,
    ) -> Result<(), (ErrorCode, String)> {
        self.create_topic_with_configs(name, partitions, &[], now)
    }

    /// Makes a topic with settings.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn create_topic_with_configs(
        &mut self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
        now: ClockReading,
    ) -> Result<(), (ErrorCode, String)> {
        let settings: BTreeMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let id = self.random_uuid();
        let replication = self.config.default_replication_factor;
        let places: Vec<Vec<i32>> = (0..partitions.clamp(0, MAX_PARTITIONS + 1))
            .map(|n| self.topics.assign_replicas(n, replication))
            .collect();
        self.topics.create(name, &places, settings, (id, now.wall_ms), false)?;
        self.remove_down_replicas(name, now);
        Ok(())
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), (ErrorCode, String)> {
        self.topics.delete(name)
    }

    /// Gives a topic more partitions.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn create_partitions(
        &mut self,
        name: &str,
        to: i32,
        now: ClockReading,
    ) -> Result<(), (ErrorCode, String)> {
        self.topics.create_partitions(name, to, now.wall_ms, false)?;
        self.remove_down_replicas(name, now);
        Ok(())
    }

    /// Changes a setting of a topic.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn set_topic_config(
        &mut self,
        name: &str,
        setting: &str,
        value: &str,
    ) -> Result<(), (ErrorCode, String)> {
        self.topics.set_config(name, setting, value)
    }

    /// A topic's id and how many partitions it has.
    pub fn describe_topic(&self, name: &str) -> Option<(Uuid, i32)> {
        self.topics.by_name.get(name).map(|t| (t.id, t.partitions.len() as i32))
    }

    /// Asks this rule before each partition of each Produce request.
    pub fn set_fault_injector(
        &mut self,
        rule: impl FnMut(&str, i32) -> Option<ProduceFault> + Send + 'static,
    ) {
        self.fault_injector = Some(Box::new(rule));
    }

    /// From here on, keeps a journal of every batch a leader appends, whatever becomes of it; what it holds so far is
    /// handed out.
    pub fn take_append_history(&mut self) -> Vec<AppendedBatch> {
        self.append_history.replace(Vec::new()).unwrap_or_default()
    }

    /// Producer ids are given with this epoch from here on (a cluster that has seen transactions gives higher ones).
    pub fn set_initial_producer_epoch(&mut self, epoch: i16) {
        self.initial_producer_epoch = epoch;
    }

    /// The next requests for a producer id are refused with these codes, one each.
    pub fn set_producer_id_errors(&mut self, codes: &[ErrorCode]) {
        self.producer_id_errors = codes.iter().rev().copied().collect();
    }

    /// Producer ids given since the start.
    pub fn producer_ids_issued(&self) -> u64 {
        self.producer_ids_issued
    }

    /// No more faults.
    pub fn clear_fault_injector(&mut self) {
        self.fault_injector = None;
    }

    pub(crate) fn next_fault(&mut self, topic: &str, partition: i32) -> Option<ProduceFault> {
        self.fault_injector.as_mut()?(topic, partition)
    }

    /// Every batch of a partition, as its leader has it (without one: its first replica in sync); empty if there
    /// is no such partition.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn batches(&self, topic: &str, partition: i32) -> io::Result<Vec<LogBatch>> {
        let partition = usize::try_from(partition).ok();
        let found =
            self.topics.by_name.get(topic).zip(partition).and_then(|(t, p)| t.partitions.get(p));
        let Some(p) = found else { return Ok(Vec::new()) };
        let replica = p.leader_replica().or_else(|| p.isr.first().and_then(|n| p.replica(*n)));
        replica.map_or(Ok(Vec::new()), |r| r.log.batches())
    }

    /// Handles a request frame (without its length) that arrived then at node 1. The same frame may be handed in
    /// again after [`Reply::Wait`].
    pub fn handle(
        &mut self,
        frame: &Bytes,
        local: &LocalAddress,
        arrived_ms: u64,
        now: ClockReading,
    ) -> HandleResult {
        self.handle_at_node(DEFAULT_NODE_ID, frame, local, arrived_ms, now)
    }

    /// As [`handle`](Core::handle), at this node.
    pub fn handle_at_node(
        &mut self,
        node: i32,
        frame: &Bytes,
        local: &LocalAddress,
        arrived_ms: u64,
        now: ClockReading,
    ) -> HandleResult {
        if !self.nodes.is_up(node) {
            return HandleResult::CloseConnection(format!("node {node} does not run"));
        }
        let mut r = Reader::new(frame);
        let header = match RequestHeader::decode(&mut r) {
            Ok(header) => header,
            Err(e) => return HandleResult::CloseConnection(format!("not a Kafka request: {e}")),
        };
        let Some(served) = api::supported_versions(header.api_key) else {
            return HandleResult::CloseConnection(format!(
                "{:?} is not served here",
                header.api_key
            ));
        };
        if !(served.min..=served.max).contains(&header.api_version) {
            if header.api_key == ApiKey::API_VERSIONS {
                return api::unsupported_api_versions_response(header.correlation_id);
            }
            return HandleResult::CloseConnection(format!(
                "version {} of {:?} is not served here",
                header.api_version, header.api_key
            ));
        }
        let ctx = RequestContext { node, header: &header, local_address: local, arrived_ms, now };
        match self.dispatch(&ctx, &mut r) {
            Ok(reply) => reply,
            Err(e) => HandleResult::CloseConnection(format!("a request that cannot be read: {e}")),
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
                ctx.send_response::<ApiVersionsRequest>(&api::handle_api_versions(r, v)?)
            }
            ApiKey::PRODUCE => return api::handle_produce(self, ctx, decode_request(r, v)?),
            ApiKey::FETCH => api::handle_fetch(self, ctx, decode_request(r, v)?),
            ApiKey::LIST_OFFSETS => ctx.send_response::<ListOffsetsRequest>(
                &api::handle_list_offsets(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::METADATA => {
                let request = decode_request(r, v)?;
                ctx.send_response::<MetadataRequest>(&api::handle_metadata(self, ctx, request))
            }
            ApiKey::INIT_PRODUCER_ID => ctx.send_response::<InitProducerIdRequest>(
                &api::handle_init_producer_id(self, &decode_request(r, v)?),
            ),
            ApiKey::OFFSET_FOR_LEADER_EPOCH => ctx.send_response::<OffsetForLeaderEpochRequest>(
                &api::handle_offset_for_leader_epoch(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::FIND_COORDINATOR => ctx.send_response::<FindCoordinatorRequest>(
                &api::handle_find_coordinator(decode_request(r, v)?),
            ),
            ApiKey::CREATE_TOPICS => {
                let request = decode_request(r, v)?;
                ctx.send_response::<CreateTopicsRequest>(&api::handle_create_topics(
                    self, request, ctx.now,
                ))
            }
            ApiKey::DELETE_TOPICS => ctx.send_response::<DeleteTopicsRequest>(
                &api::handle_delete_topics(self, decode_request(r, v)?),
            ),
            ApiKey::CREATE_PARTITIONS => {
                let request = decode_request(r, v)?;
                ctx.send_response::<CreatePartitionsRequest>(&api::handle_create_partitions(
                    self, request, ctx.now,
                ))
            }
            ApiKey::DESCRIBE_CONFIGS => ctx.send_response::<DescribeConfigsRequest>(
                &api::handle_describe_configs(self, decode_request(r, v)?),
            ),
            ApiKey::DESCRIBE_CLUSTER => {
                decode_request::<DescribeClusterRequest>(r, v)?;
                ctx.send_response::<DescribeClusterRequest>(&api::handle_describe_cluster(
                    self, ctx,
                ))
            }
            other => HandleResult::CloseConnection(format!("{other:?} is not served here")),
        })
    }
}

/// An answer, framed.
pub(crate) fn send_response<R: Request>(
    version: i16,
    correlation_id: i32,
    body: &R::Response,
) -> HandleResult {
    match encode_response(R::KEY, version, correlation_id, body) {
        Ok(frame) => HandleResult::SendResponse(frame),
        Err(e) => HandleResult::CloseConnection(format!("an answer that cannot be written: {e}")),
    }
}

/// A request's circumstances.
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

    /// Where clients are to go for a node.
    pub(crate) fn advertised_address(&self, core: &Core, node: i32) -> (String, i32) {
        let beside = |port: u16| i32::from(port) + node - 1;
        match (core.nodes.advertised_addresses.get(&node), &core.config.advertised_listener) {
            (_, Some((host, port))) => (host.clone(), beside(*port)),
            // By name of the node that was asked: whoever reached it by that reaches the others, too.
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
