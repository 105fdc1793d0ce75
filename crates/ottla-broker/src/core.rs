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
use crate::log::Batch;
use crate::purgatory::Pending;
use crate::topics::{PARTITIONS_MAX, Topics};

/// What a broker is made with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where logs are kept; memory if `None`.
    pub data_dir: Option<PathBuf>,
    /// The address clients are told; the one they came in by if `None`.
    pub advertise: Option<(String, u16)>,
    /// Partitions of a topic that is made because somebody asked for it.
    pub default_partitions: i32,
    /// Whether asking for a topic makes it.
    pub auto_create: bool,
    /// Seeds ids.
    pub seed: u64,
    /// How many nodes there are: 1 to this. One core is the whole cluster.
    pub nodes: i32,
    /// Replicas of a topic that is made because somebody asked for it, at most `nodes`.
    pub default_replication: i32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: None,
            advertise: None,
            default_partitions: 1,
            auto_create: true,
            seed: 0,
            nodes: 1,
            default_replication: 3,
        }
    }
}

/// The time, as the driver has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that only goes forward.
    pub mono_ms: u64,
    /// Milliseconds since the epoch.
    pub wall_ms: i64,
}

/// The address a client came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// This answer.
    Frame(Vec<u8>),
    /// No answer at all (`acks=0`).
    Silence,
    /// Not yet: to be handed in again when something was appended, or then.
    Wait(u64),
    /// Done, but replicas have to follow: ask [`Core::later`] with this ticket when something was copied, or at the
    /// latest then. Requests behind it on its connection wait, too.
    Later(u64, u64),
    /// The connection ends, for this reason.
    Close(String),
}

/// A fault to be played on a partition of a Produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not appended; this error.
    Refuse(ErrorCode),
    /// Appended; this error all the same.
    AppendedBut(ErrorCode),
}

/// A batch a leader appended, for whoever keeps a journal.
#[derive(Debug, Clone)]
pub struct Journaled {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its first offset.
    pub base_offset: i64,
    /// Its bytes, as they came.
    pub records: Bytes,
}

type FaultRule = Box<dyn FnMut(&str, i32) -> Option<Fault> + Send>;

/// The broker.
pub struct Core {
    pub(crate) config: Config,
    pub(crate) topics: Topics,
    pub(crate) cluster_id: String,
    pub(crate) next_producer_id: i64,
    pub(crate) ids_given: u64,
    pub(crate) first_epoch: i16,
    pub(crate) id_refusals: Vec<ErrorCode>,
    pub(crate) nodes: Nodes,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) tickets: u64,
    pub(crate) journal: Option<Vec<Journaled>>,
    random: u64,
    fault: Option<FaultRule>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({} topics)", self.topics.all.len())
    }
}

/// The node there always is.
const NODE: i32 = 1;

impl Core {
    /// A broker over what its directory holds.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn new(config: Config, now: Now) -> io::Result<Core> {
        if !(1..=100).contains(&config.nodes) {
            let why = format!("a cluster has 1 to 100 nodes, not {}", config.nodes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let topics = Topics::open(config.data_dir.clone(), config.nodes, now.wall_ms)?;
        let replicas = topics.all.values().flat_map(|t| &t.partitions).flat_map(|p| &p.replicas);
        let greatest = replicas.filter_map(|r| r.producers.greatest()).max();
        let mut core = Core {
            random: config.seed,
            nodes: Nodes::new(config.nodes),
            pending: BTreeMap::new(),
            tickets: 0,
            ids_given: 0,
            first_epoch: 0,
            id_refusals: Vec::new(),
            journal: None,
            config,
            topics,
            cluster_id: String::new(),
            // Behind every id seen, and behind those given before a restart that nobody has written with yet.
            next_producer_id: greatest.map_or(0, |id| id + 1).max(now.wall_ms),
            fault: None,
        };
        core.cluster_id = core.read_cluster_id()?;
        Ok(core)
    }

    fn read_cluster_id(&mut self) -> io::Result<String> {
        let fresh = self.uuid().to_string();
        let Some(dir) = &self.config.data_dir else {
            return Ok(fresh);
        };
        let path = dir.join("meta.properties");
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Some(id) = text.lines().find_map(|l| l.strip_prefix("cluster.id="))
        {
            return Ok(id.to_owned());
        }
        std::fs::write(path, format!("version=1\nnode.id={NODE}\ncluster.id={fresh}\n"))?;
        Ok(fresh)
    }

    fn word(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        Uuid::from_random(self.word(), self.word())
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        self.create_topic_with(name, partitions, &[], now)
    }

    /// Makes a topic with settings.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn create_topic_with(
        &mut self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        let settings: BTreeMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let id = self.uuid();
        let replication = self.config.default_replication;
        let places: Vec<Vec<i32>> = (0..partitions.clamp(0, PARTITIONS_MAX + 1))
            .map(|n| self.topics.spread(n, replication))
            .collect();
        self.topics.create(name, &places, settings, (id, now.wall_ms), false)?;
        self.without_the_dead(name, now);
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
    pub fn widen_topic(
        &mut self,
        name: &str,
        to: i32,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        self.topics.widen(name, to, now.wall_ms, false)?;
        self.without_the_dead(name, now);
        Ok(())
    }

    /// Changes a setting of a topic.
    ///
    /// # Errors
    /// Kafka's error code and a sentence.
    pub fn set_topic(
        &mut self,
        name: &str,
        setting: &str,
        value: &str,
    ) -> Result<(), (ErrorCode, String)> {
        self.topics.set(name, setting, value)
    }

    /// A topic's id and how many partitions it has.
    pub fn topic(&self, name: &str) -> Option<(Uuid, i32)> {
        self.topics.all.get(name).map(|t| (t.id, t.partitions.len() as i32))
    }

    /// Asks this rule before each partition of each Produce request.
    pub fn set_fault(&mut self, rule: impl FnMut(&str, i32) -> Option<Fault> + Send + 'static) {
        self.fault = Some(Box::new(rule));
    }

    /// From here on, keeps a journal of every batch a leader appends, whatever becomes of it; what it holds so far is
    /// handed out.
    pub fn journal(&mut self) -> Vec<Journaled> {
        self.journal.replace(Vec::new()).unwrap_or_default()
    }

    /// Producer ids are given with this epoch from here on (a cluster that has seen transactions gives higher ones).
    pub fn set_first_epoch(&mut self, epoch: i16) {
        self.first_epoch = epoch;
    }

    /// The next requests for a producer id are refused with these codes, one each.
    pub fn refuse_producer_ids(&mut self, codes: &[ErrorCode]) {
        self.id_refusals = codes.iter().rev().copied().collect();
    }

    /// Producer ids given since the start.
    pub fn producer_ids_given(&self) -> u64 {
        self.ids_given
    }

    /// No more faults.
    pub fn clear_fault(&mut self) {
        self.fault = None;
    }

    pub(crate) fn fault(&mut self, topic: &str, partition: i32) -> Option<Fault> {
        self.fault.as_mut()?(topic, partition)
    }

    /// Every batch of a partition, as its leader has it (without one: its first replica in sync); empty if there
    /// is no such partition.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn batches(&self, topic: &str, partition: i32) -> io::Result<Vec<Batch>> {
        let partition = usize::try_from(partition).ok();
        let found =
            self.topics.all.get(topic).zip(partition).and_then(|(t, p)| t.partitions.get(p));
        let Some(p) = found else { return Ok(Vec::new()) };
        let replica = p.led().or_else(|| p.isr.first().and_then(|n| p.replica(*n)));
        replica.map_or(Ok(Vec::new()), |r| r.log.batches())
    }

    /// Handles a request frame (without its length) that arrived then at node 1. The same frame may be handed in
    /// again after [`Reply::Wait`].
    pub fn handle(&mut self, frame: &Bytes, local: &Local, arrived_ms: u64, now: Now) -> Reply {
        self.handle_at(NODE, frame, local, arrived_ms, now)
    }

    /// As [`handle`](Core::handle), at this node.
    pub fn handle_at(
        &mut self,
        node: i32,
        frame: &Bytes,
        local: &Local,
        arrived_ms: u64,
        now: Now,
    ) -> Reply {
        if !self.nodes.is_up(node) {
            return Reply::Close(format!("node {node} does not run"));
        }
        let mut r = Reader::new(frame);
        let header = match RequestHeader::decode(&mut r) {
            Ok(header) => header,
            Err(e) => return Reply::Close(format!("not a Kafka request: {e}")),
        };
        let Some(served) = api::served(header.api_key) else {
            return Reply::Close(format!("{:?} is not served here", header.api_key));
        };
        if !(served.min..=served.max).contains(&header.api_version) {
            if header.api_key == ApiKey::API_VERSIONS {
                return api::versions_refused(header.correlation_id);
            }
            return Reply::Close(format!(
                "version {} of {:?} is not served here",
                header.api_version, header.api_key
            ));
        }
        let ctx = Ctx { node, header: &header, local, arrived_ms, now };
        match self.dispatch(&ctx, &mut r) {
            Ok(reply) => reply,
            Err(e) => Reply::Close(format!("a request that cannot be read: {e}")),
        }
    }

    fn dispatch(&mut self, ctx: &Ctx<'_>, r: &mut Reader<'_>) -> Result<Reply, DecodeError> {
        let v = ctx.header.api_version;
        Ok(match ctx.header.api_key {
            ApiKey::API_VERSIONS => ctx.reply::<ApiVersionsRequest>(&api::versions(r, v)?),
            ApiKey::PRODUCE => return api::produce(self, ctx, decode_request(r, v)?),
            ApiKey::FETCH => api::fetch(self, ctx, decode_request(r, v)?),
            ApiKey::LIST_OFFSETS => ctx.reply::<ListOffsetsRequest>(&api::list_offsets(
                self,
                ctx,
                decode_request(r, v)?,
            )),
            ApiKey::METADATA => {
                let request = decode_request(r, v)?;
                ctx.reply::<MetadataRequest>(&api::metadata(self, ctx, request))
            }
            ApiKey::INIT_PRODUCER_ID => ctx.reply::<InitProducerIdRequest>(&api::init_producer_id(
                self,
                &decode_request(r, v)?,
            )),
            ApiKey::OFFSET_FOR_LEADER_EPOCH => ctx.reply::<OffsetForLeaderEpochRequest>(
                &api::offset_for_leader_epoch(self, ctx, decode_request(r, v)?),
            ),
            ApiKey::FIND_COORDINATOR => {
                ctx.reply::<FindCoordinatorRequest>(&api::find_coordinator(decode_request(r, v)?))
            }
            ApiKey::CREATE_TOPICS => {
                let request = decode_request(r, v)?;
                ctx.reply::<CreateTopicsRequest>(&api::create_topics(self, request, ctx.now))
            }
            ApiKey::DELETE_TOPICS => {
                ctx.reply::<DeleteTopicsRequest>(&api::delete_topics(self, decode_request(r, v)?))
            }
            ApiKey::CREATE_PARTITIONS => {
                let request = decode_request(r, v)?;
                ctx.reply::<CreatePartitionsRequest>(&api::create_partitions(
                    self, request, ctx.now,
                ))
            }
            ApiKey::DESCRIBE_CONFIGS => ctx.reply::<DescribeConfigsRequest>(
                &api::describe_configs(self, decode_request(r, v)?),
            ),
            ApiKey::DESCRIBE_CLUSTER => {
                decode_request::<DescribeClusterRequest>(r, v)?;
                ctx.reply::<DescribeClusterRequest>(&api::describe_cluster(self, ctx))
            }
            other => Reply::Close(format!("{other:?} is not served here")),
        })
    }
}

/// An answer, framed.
pub(crate) fn reply<R: Request>(version: i16, correlation_id: i32, body: &R::Response) -> Reply {
    match encode_response(R::KEY, version, correlation_id, body) {
        Ok(frame) => Reply::Frame(frame),
        Err(e) => Reply::Close(format!("an answer that cannot be written: {e}")),
    }
}

/// A request's circumstances.
pub(crate) struct Ctx<'a> {
    pub(crate) node: i32,
    pub(crate) header: &'a RequestHeader,
    pub(crate) local: &'a Local,
    pub(crate) arrived_ms: u64,
    pub(crate) now: Now,
}

impl Ctx<'_> {
    pub(crate) fn reply<R: Request>(&self, body: &R::Response) -> Reply {
        reply::<R>(self.header.api_version, self.header.correlation_id, body)
    }

    /// Where clients are to go for a node.
    pub(crate) fn address(&self, core: &Core, node: i32) -> (String, i32) {
        let beside = |port: u16| i32::from(port) + node - 1;
        match (core.nodes.addresses.get(&node), &core.config.advertise) {
            (_, Some((host, port))) => (host.clone(), beside(*port)),
            // By name of the node that was asked: whoever reached it by that reaches the others, too.
            (Some((host, port)), _) if host.is_empty() => {
                (self.local.host.clone(), i32::from(*port))
            }
            (Some((host, port)), _) => (host.clone(), i32::from(*port)),
            (None, None) => {
                let port = i32::from(self.local.port) - self.node + node;
                (self.local.host.clone(), port)
            }
        }
    }
}
