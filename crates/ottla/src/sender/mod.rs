//! The sender: a value with [`Sender::run_once`], its eight steps in order. The thread around it is one
//! small function ([`thread`]); a simulation drives the same value.

pub(crate) mod produce;
pub(crate) mod sequences;
pub(crate) mod verdict;
mod answers;
mod ends;
mod mail;
pub(crate) mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ApiKey;
use ottla_protocol::compression::Codec;
use ottla_protocol::messages::InitProducerIdRequest;

use crate::accumulator::Accumulator;
use crate::accumulator::batch::StampedBatch;
use crate::accumulator::drain::Drained;
use crate::accumulator::mailbox::Event;
use crate::accumulator::ready::{Active, Urge};
use crate::accumulator::waits::CallerWait;
use crate::client::in_flight::Purpose;
use crate::client::{NetworkClient, SharedHealth};
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, add};
use crate::network::io::{Io, Job};
use crate::time::{Env, Tick};
use ends::FlushWait;
use produce::RequestSettings;
use sequences::{Id, Sequences};

/// The settings that decide how batches are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SenderSettings {
    pub(crate) acks: i16,
    pub(crate) idempotent: bool,
    pub(crate) max_in_flight: usize,
    pub(crate) max_request_size: usize,
    pub(crate) retries: u32,
    pub(crate) retry_backoff: Duration,
    pub(crate) retry_backoff_max: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) delivery_timeout: Duration,
}

/// A produce request without its answer.
struct InFlight {
    node: i32,
    batches: Vec<StampedBatch>,
}

/// The sender.
pub(crate) struct Sender<I: Io> {
    settings: SenderSettings,
    env: Arc<dyn Env>,
    acc: Arc<Accumulator>,
    client: NetworkClient<I>,
    sequences: Sequences,
    active: Active,
    in_flight: HashMap<i32, InFlight>,
    flushes: Vec<FlushWait>,
    /// Batches up to this number are being flushed.
    flush_to: u64,
    deadlines: BTreeMap<(Tick, u64), Arc<CallerWait>>,
    deadline_number: u64,
    /// Set once no more is coming: what is not settled by then fails.
    closing: Option<Tick>,
    stopped: bool,
    mail: Vec<Event>,
    health: SharedHealth,
    counters: Arc<Counters>,
}

impl<I: Io> Sender<I> {
    pub(crate) fn new(
        settings: SenderSettings,
        acc: Arc<Accumulator>,
        client: NetworkClient<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> Sender<I> {
        acc.mailbox.hang(client.bell());
        Sender {
            env: acc.env.clone(),
            sequences: Sequences::new(settings.idempotent, settings.max_in_flight == 1),
            settings,
            acc,
            client,
            active: Active::default(),
            in_flight: HashMap::default(),
            flushes: Vec::new(),
            flush_to: 0,
            deadlines: BTreeMap::new(),
            deadline_number: 0,
            closing: None,
            stopped: false,
            mail: Vec::new(),
            health,
            counters,
        }
    }

    /// One round: work, then wait for something to happen and see to it. False once everything is over.
    pub(crate) fn run_once(&mut self) -> bool {
        let until = self.prepare();
        self.complete(until)
    }

    /// Everything up to the wait; until when that may take. The sender then counts as asleep: whoever posts
    /// something that is due earlier rings.
    pub(crate) fn prepare(&mut self) -> Tick {
        add(&self.counters.loop_total, 1);
        let now = self.env.now();
        self.read_mail(now);
        let mut until = self.fire_deadlines(now);
        let mut wake = |at: Tick| until = until.min(at);

        // 1. metadata
        wake(self.client.maybe_update_metadata(now));
        let cluster = self.client.cluster();
        self.sequences.follow(cluster.clone());
        // In this order: a mended one may want a new id.
        self.mend_orders(now);
        wake(self.maybe_ask_producer_id(now));

        // 2. ready
        let urge = self.urge();
        let mut ready = self.active.ready(&self.acc, &cluster, &self.sequences, urge, now);
        wake(ready.next.unwrap_or(Tick::NEVER));

        // 3. unknown leaders
        for topic in &ready.unknown {
            self.client.want_topic(topic, now);
            self.client.request_metadata(now);
        }
        if !ready.unknown.is_empty() {
            wake(self.client.maybe_update_metadata(now));
        }

        // 4. connections
        ready.nodes.retain(|node| {
            let is_ready = self.client.ready(*node, now);
            if !is_ready && let Some(at) = self.client.connection_delay(*node, now) {
                wake(at);
            }
            is_ready
        });

        // 5. drain (a partition's order mutes it while it must)
        let mut drained: Vec<(i32, Drained)> = Vec::new();
        for node in ready.nodes {
            let limits = (urge, self.settings.max_request_size);
            let out =
                self.active.drain(&self.acc, &cluster, &mut self.sequences, limits, node, now);
            drained.push((node, out));
        }

        // 6. expire
        wake(self.expire(now));

        // 7. create requests and give them to the client
        for (node, out) in drained {
            if !out.batches.is_empty() {
                wake(now);
            }
            for open in out.to_close {
                let acc = self.acc.clone();
                let work = move || {
                    let partition = open.meta.partition.clone();
                    acc.close_into_slot(open);
                    acc.post(Event::Full(partition), Tick(0));
                };
                self.client.start(Job::Work(Box::new(work)));
            }
            self.send(node, &cluster, out.batches, now);
        }
        self.active.tidy();
        self.finish_flushes();
        wake(self.maybe_stop(now));
        if self.stopped {
            until = Tick(0);
        }
        if !self.acc.mailbox.sleep(until) {
            until = Tick(0);
        }
        until
    }

    /// When the wait ends by itself, whatever sockets and callers do, beside what `prepare` said.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn poll_due(&self) -> Tick {
        self.client.due()
    }

    /// 8. poll, and see to what it brings. False once everything is over.
    pub(crate) fn complete(&mut self, until: Tick) -> bool {
        if self.stopped {
            return false;
        }
        let now = self.env.now();
        let ended = match self.client.poll(until, now) {
            Ok(ended) => ended,
            Err(e) => {
                tracing::error!("polling failed: {e}");
                let why = format!("the system refuses to poll: {e}");
                self.stop(&Error::new(ErrorKind::Internal, why).fatal());
                return false;
            }
        };
        self.acc.mailbox.awake();
        let now = self.env.now();
        for done in ended {
            self.on_done(done, now);
        }
        self.on_news();
        true
    }

    fn urge(&self) -> Urge {
        let (exhausted, closing) = (self.acc.pool.queued() > 0, self.closing.is_some());
        Urge { exhausted, closing, flush: self.flush_to }
    }

    /// Asks for a producer id when one is wanted; when to look again.
    fn maybe_ask_producer_id(&mut self, now: Tick) -> Tick {
        match self.sequences.id {
            Id::Wanted(at) if at > now => return at,
            Id::Wanted(_) => {}
            _ => return Tick::NEVER,
        }
        let Some(node) = self.client.least_loaded(now) else {
            return self.client.next_chance(now);
        };
        if !self.client.ready(node, now) {
            return self.client.next_chance(now);
        }
        let ask = InitProducerIdRequest { transaction_timeout_ms: i32::MAX, ..Default::default() };
        let Some(version) = self.client.pick(node, ApiKey::INIT_PRODUCER_ID, 0, 5) else {
            let name = self.client.broker_name(node);
            let why = format!("{name} is too old for idempotence; set enable.idempotence=false");
            let e = Error::new(
                ErrorKind::Broker(ottla_protocol::ErrorCode::UNSUPPORTED_VERSION.0),
                why,
            );
            self.fail_producer(&e.fatal());
            return now;
        };
        self.sequences.id = Id::Asked;
        if let Err(e) = self.client.send(node, &ask, version, Purpose::ProducerId, now) {
            tracing::error!("a request for a producer id could not be written: {e}");
            self.sequences.id = Id::Wanted(now.after(self.settings.retry_backoff));
        }
        Tick::NEVER
    }

    /// One request for what was drained for a node.
    fn send(&mut self, node: i32, cluster: &Cluster, mut batches: Vec<StampedBatch>, now: Tick) {
        if batches.is_empty() {
            return;
        }
        batches.sort_by(|a, b| a.closed.meta.partition.topic.cmp(&b.closed.meta.partition.topic));
        let known = |b: &StampedBatch| {
            let now_id = cluster.topics.get(&b.closed.meta.partition.topic).map(|t| t.id);
            !b.stamp.topic_id.is_zero() && now_id == Some(b.stamp.topic_id)
        };
        let highest = if batches.iter().all(known) { produce::BY_ID } else { produce::BY_ID - 1 };
        let lowest = if self.acc.settings.codec == Codec::Zstd { 7 } else { 3 };
        let Some(version) = self.client.pick(node, ApiKey::PRODUCE, lowest, highest) else {
            let name = self.client.broker_name(node);
            let why = format!("{name} is too old: it has no Produce of version {lowest} or above");
            for b in batches {
                self.sequences.broke(&b);
                self.fail(b.unstamp(), &Error::new(ErrorKind::Network, why.clone()));
            }
            return;
        };
        let (mut records, mut bytes) = (0, 0);
        for b in &mut batches {
            b.closed.attempts += 1;
            self.sequences.sent(b.closed.meta.partition.key, node);
            self.client.want_topic(&b.closed.meta.partition.topic, now);
            records += b.closed.meta.count as u64;
            bytes += b.closed.wire_len() as u64;
        }
        add(&self.counters.record_send_total, records);
        add(&self.counters.batch_total, batches.len() as u64);
        add(&self.counters.byte_total, bytes);
        add(&self.counters.request_total, 1);
        let settings = RequestSettings {
            acks: self.settings.acks,
            timeout_ms: i32::try_from(self.settings.request_timeout.as_millis())
                .unwrap_or(i32::MAX),
        };
        let answered = self.settings.acks != 0;
        let correlation =
            self.client.send_produce(node, version, answered, now, |correlation, id| {
                produce::frame(version, correlation, id, settings, &batches)
            });
        self.in_flight.insert(correlation, InFlight { node, batches });
    }
}
