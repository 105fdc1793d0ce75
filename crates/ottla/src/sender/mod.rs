//! The sender: a value with [`Sender::run_once`], its eight steps in order. The thread around it is one
//! small function ([`thread`]); a simulation drives the same value.

pub(crate) mod produce_request;
pub(crate) mod producer_state;
pub(crate) mod verdict;
mod responses;
mod batch_size_discovery;
mod ends;
mod events;
pub(crate) mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::ApiKey;
use ottla_protocol::compression::Codec;
use ottla_protocol::messages::InitProducerIdRequest;

use crate::accumulator::RecordAccumulator;
use crate::accumulator::append::CloseJob;
use crate::accumulator::batch::{ClosedBatch, OpenBatch, StampedBatch};
use crate::accumulator::event_queue::Event;
use crate::accumulator::ready::{DrainContext, ReadyTracker, SendPressure};
use crate::accumulator::split;
use crate::accumulator::waiters::DeadlineWaiter;
use crate::client::in_flight_requests::{CompletedRequest, RequestKind};
use crate::client::{NetworkClient, SharedHealth};
use crate::cluster::Cluster;
use crate::collections::HashMap;
use crate::error::{Error, ErrorKind, RecordStatus};
use crate::metrics::{Counters, Sensor, TopicSensor, add};
use crate::network::io::{Io, Job};
use crate::time::{Env, Tick};
use batch_size_discovery::BatchSizeDiscovery;
use ends::PendingFlush;
use produce_request::RequestSettings;
use producer_state::{ProducerIdState, ProducerState};

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
    /// How long what a topic's brokers refused counts.
    pub(crate) metadata_max_age: Duration,
}

/// A produce request without its answer.
struct InFlightBatches {
    node: i32,
    batches: Vec<StampedBatch>,
}

/// The sender.
pub(crate) struct Sender<I: Io> {
    settings: SenderSettings,
    env: Arc<dyn Env>,
    accumulator: Arc<RecordAccumulator>,
    client: NetworkClient<I>,
    producer_state: ProducerState,
    ready: ReadyTracker,
    in_flight_batches: HashMap<i32, InFlightBatches>,
    /// No batch in flight is over before then.
    next_in_flight_expiry: Tick,
    batch_size_discovery: BatchSizeDiscovery,
    /// Batches up to this number were purged, for this reason.
    last_purge: Option<(u64, Error)>,
    pending_flushes: Vec<PendingFlush>,
    /// Batches up to this number are being flushed.
    flush_up_to: u64,
    waiter_deadlines: BTreeMap<(Tick, u64), Arc<DeadlineWaiter>>,
    last_deadline_id: u64,
    /// Set once no more is coming: what is not settled by then fails.
    close_deadline: Option<Tick>,
    is_shut_down: bool,
    event_buffer: Vec<Event>,
    /// Nodes of this round; empty between two.
    ready_nodes: Vec<i32>,
    /// Requests that ended in this round; empty between two.
    completed_requests: Vec<CompletedRequest>,
    /// Where the records of a request come between its heads; empty between two.
    record_pieces: Vec<(usize, Bytes)>,
    health: SharedHealth,
    counters: Arc<Counters>,
}

impl<I: Io> Sender<I> {
    pub(crate) fn new(
        settings: SenderSettings,
        acc: Arc<RecordAccumulator>,
        client: NetworkClient<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> Sender<I> {
        acc.events().set_wakeup(client.wakeup());
        let _ = acc.worker_pool.set(client.worker_pool());
        let brackets = BatchSizeDiscovery::new(settings.metadata_max_age, acc.settings.batch_size);
        Sender {
            env: acc.env.clone(),
            producer_state: ProducerState::new(settings.idempotent, settings.max_in_flight == 1),
            settings,
            accumulator: acc,
            client,
            ready: ReadyTracker::default(),
            in_flight_batches: HashMap::default(),
            next_in_flight_expiry: Tick::NEVER,
            batch_size_discovery: brackets,
            last_purge: None,
            pending_flushes: Vec::new(),
            flush_up_to: 0,
            waiter_deadlines: BTreeMap::new(),
            last_deadline_id: 0,
            close_deadline: None,
            is_shut_down: false,
            event_buffer: Vec::new(),
            ready_nodes: Vec::new(),
            completed_requests: Vec::new(),
            record_pieces: Vec::new(),
            health,
            counters,
        }
    }

    /// One round: work, then wait for something to happen and see to it. False once everything is over.
    pub(crate) fn run_once(&mut self) -> bool {
        let until = self.send_producer_data();
        self.poll_and_handle(until)
    }

    /// Everything up to the wait; until when that may take. The sender then counts as asleep: whoever posts
    /// something that is due earlier rings.
    pub(crate) fn send_producer_data(&mut self) -> Tick {
        add(&self.counters.loop_total, 1);
        let now = self.env.now();
        self.handle_events(now);
        let mut until = self.wake_expired_waiters(now);
        let mut wake = |at: Tick| until = until.min(at);

        // 1. metadata
        wake(self.client.maybe_update_metadata(now));
        let cluster = self.client.cluster();
        if self.producer_state.update_cluster(cluster.clone()) {
            self.ready.mark_all_dirty();
        }
        // In this order: a mended one may want a new id.
        self.resolve_sequences(now);
        wake(self.maybe_request_producer_id(now));
        wake(self.batch_size_discovery.raise_limit(now));

        // 2. ready
        let acc = self.accumulator.clone();
        let view = DrainContext { accumulator: &acc, cluster: &cluster, now };
        self.ready.set_pressure(self.send_pressure());
        self.ready.refresh(view, &self.producer_state);

        // 3. unknown leaders
        let unknown = self.ready.unknown_leader_topics();
        for topic in &unknown {
            self.client.add_topic(topic, now);
            self.client.request_metadata(now);
        }
        if !unknown.is_empty() {
            wake(self.client.maybe_update_metadata(now));
        }

        // 4. connections
        let mut nodes = std::mem::take(&mut self.ready_nodes);
        nodes.extend(self.ready.ready_nodes());
        let watched = !acc.settings.availability_timeout.is_zero();
        for node in nodes.drain(..) {
            let can_take = self.client.ready(node, now);
            if watched {
                self.ready.update_node_latency(node, now, can_take);
            }
            if !can_take {
                continue;
            }
            // 5. drain (a partition's order mutes it while it must), 7. create requests
            // What lingers goes along to a node that has nothing to do; one that has will be back for it.
            let limits =
                (self.settings.max_request_size, self.client.has_no_in_flight_requests(node));
            let out = self.ready.drain(view, &mut self.producer_state, limits, node);
            self.start_jobs(out.to_close, out.to_split);
            self.send_produce_request(node, &cluster, out.batches, now);
        }
        self.ready_nodes = nodes;

        // 6. expire
        wake(self.fail_expired_batches(view));
        self.ready.refresh(view, &self.producer_state);
        wake(self.ready.next_deadline());
        for node in self.ready.ready_nodes() {
            wake(self.next_ready_time(node, now));
        }

        if self.producer_state.can_resolve() {
            wake(now);
        }

        self.complete_flushes();
        wake(self.maybe_shut_down(now));
        if self.is_shut_down {
            until = Tick(0);
        }
        self.client.update_in_flight_metric();
        acc.events().set_busy(self.client.node_busy_states(now));
        if !acc.events().begin_sleep(until) {
            until = Tick(0);
        }
        until
    }

    /// When a node with something ready may take it; never, if an event will tell.
    fn next_ready_time(&self, node: i32, now: Tick) -> Tick {
        if self.client.is_ready(node, now) {
            return now;
        }
        self.client.earliest_ready_at(node, now).unwrap_or(Tick::NEVER)
    }

    /// Compresses and cuts batches off this thread.
    fn start_jobs(&mut self, to_close: Vec<OpenBatch>, to_cut: Vec<ClosedBatch>) {
        for open in to_close {
            if let Ok(work) = CloseJob::try_new(Some(self.accumulator.clone()), open) {
                self.client.start_job(Job::Work(Box::new(move || work.run())));
            }
        }
        for batch in to_cut {
            let work = split::SplitJob::new(self.accumulator.clone(), &batch, false);
            self.client
                .start_job(Job::Work(Box::new(move || work.run(|acc| acc.split_closed(batch)))));
        }
    }

    /// What is remembered of partitions is what they are.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn check_invariants(&self) {
        if self.accumulator.events().has_events() {
            // What it says is not known yet.
            return;
        }
        let now = self.env.now();
        let cluster = self.client.cluster();
        let view = DrainContext { accumulator: &self.accumulator, cluster: &cluster, now };
        self.ready.assert_consistent(view, &self.producer_state);
    }

    /// When the wait ends by itself, whatever sockets and callers do, beside what `prepare` said.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn poll_deadline(&self) -> Tick {
        self.client.next_poll_deadline()
    }

    /// 8. poll, and see to what it brings. False once everything is over.
    pub(crate) fn poll_and_handle(&mut self, until: Tick) -> bool {
        if self.is_shut_down {
            return false;
        }
        let now = self.env.now();
        let mut ended = std::mem::take(&mut self.completed_requests);
        if let Err(e) = self.client.poll(until, now, &mut ended) {
            tracing::error!("polling failed: {e}");
            let why = format!("the system refuses to poll: {e}");
            self.shut_down(&Error::new(ErrorKind::Internal, why).into_fatal());
            return false;
        }
        self.accumulator.events().set_awake();
        let now = self.env.now();
        for done in ended.drain(..) {
            self.handle_completed_request(done, now);
        }
        self.completed_requests = ended;
        self.handle_metadata_update();
        true
    }

    fn send_pressure(&self) -> SendPressure {
        let (exhausted, closing) =
            (self.accumulator.pool.waiting() > 0, self.close_deadline.is_some());
        SendPressure { exhausted, closing, flush_up_to: self.flush_up_to }
    }

    /// Asks for a producer id when one is wanted; when to look again.
    fn maybe_request_producer_id(&mut self, now: Tick) -> Tick {
        match self.producer_state.producer_id {
            ProducerIdState::Needed(at) if at > now => return at,
            ProducerIdState::Needed(_) => {}
            _ => return Tick::NEVER,
        }
        let Some(node) = self.client.least_loaded_node(now) else {
            return self.client.next_retry(now);
        };
        if !self.client.ready(node, now) {
            return self.client.next_retry(now);
        }
        let ask = InitProducerIdRequest { transaction_timeout_ms: i32::MAX, ..Default::default() };
        let Some(version) = self.client.latest_usable_version(node, ApiKey::INIT_PRODUCER_ID, 0, 5)
        else {
            let name = self.client.broker_name(node);
            let why = format!("{name} is too old for idempotence; set enable.idempotence=false");
            let e = Error::new(
                ErrorKind::Broker(ottla_protocol::ErrorCode::UNSUPPORTED_VERSION.0),
                why,
            );
            self.transition_to_fatal_error(&e.into_fatal());
            return now;
        };
        self.producer_state.producer_id = ProducerIdState::Requested;
        if let Err(e) = self.client.send(node, &ask, version, RequestKind::InitProducerId, now) {
            tracing::error!("a request for a producer id could not be written: {e}");
            self.producer_state.producer_id =
                ProducerIdState::Needed(now.after(self.settings.retry_backoff));
        }
        Tick::NEVER
    }

    /// One request for what was drained for a node.
    #[inline(never)]
    fn send_produce_request(
        &mut self,
        node: i32,
        cluster: &Cluster,
        mut batches: Vec<StampedBatch>,
        now: Tick,
    ) {
        if batches.is_empty() {
            return;
        }
        batches.sort_by(|a, b| a.closed.meta.partition.topic.cmp(&b.closed.meta.partition.topic));
        let known = |b: &StampedBatch| {
            let now_id = cluster.topics.get(&b.closed.meta.partition.topic).map(|t| t.id);
            !b.stamp.topic_id.is_zero() && now_id == Some(b.stamp.topic_id)
        };
        let highest = if batches.iter().all(known) {
            produce_request::FIRST_VERSION_WITH_TOPIC_ID
        } else {
            produce_request::FIRST_VERSION_WITH_TOPIC_ID - 1
        };
        let lowest = if self.accumulator.settings.codec == Codec::Zstd { 7 } else { 3 };
        let Some(version) =
            self.client.latest_usable_version(node, ApiKey::PRODUCE, lowest, highest)
        else {
            let name = self.client.broker_name(node);
            let why = format!("{name} is too old: it has no Produce of version {lowest} or above");
            for b in batches {
                self.producer_state.mark_unresolved(&b);
                self.ready.mark_dirty(b.closed.meta.partition.id);
                self.fail_records(b.unstamp(), &Error::new(ErrorKind::Network, why.clone()));
            }
            return;
        };
        for b in &mut batches {
            b.closed.attempts += 1;
            let p = &b.closed.meta.partition;
            let leader = cluster.leader(&p.topic, p.index);
            let story = &mut b.closed.timings;
            // A newer leader may have ended the rest early.
            (story.backing_off, story.backoff_until) = (story.backed_off(now), Tick(0));
            (story.sent_at, story.broker, story.leader_epoch) = (Some(now), node, leader.epoch);
            let over = b.closed.meta.created.after(self.settings.delivery_timeout);
            self.next_in_flight_expiry = self.next_in_flight_expiry.min(over);
            let again = b.closed.attempts > 1 || b.closed.status == RecordStatus::PossiblyPersisted;
            self.producer_state.add_in_flight_batch(b.closed.meta.partition.id, node, again);
            self.client.add_topic(&b.closed.meta.partition.topic, now);
        }
        self.update_produce_request_metrics(&batches, now);
        let settings = RequestSettings {
            acks: self.settings.acks,
            timeout_ms: i32::try_from(self.settings.request_timeout.as_millis())
                .unwrap_or(i32::MAX),
        };
        let answered = self.settings.acks != 0;
        let mut cuts = std::mem::take(&mut self.record_pieces);
        let correlation =
            self.client.send_produce(node, version, answered, now, |correlation, id| {
                produce_request::encode_frame(
                    (version, correlation, id),
                    settings,
                    &batches,
                    &mut cuts,
                )
            });
        self.record_pieces = cuts;
        self.in_flight_batches.insert(correlation, InFlightBatches { node, batches });
    }

    /// What a request is made of.
    fn update_produce_request_metrics(&self, batches: &[StampedBatch], now: Tick) {
        let (mut records, mut bytes) = (0, 0);
        let sensors = &self.counters.sensors;
        for b in batches.iter().map(|b| &b.closed) {
            let (count, size) = (f64::from(b.meta.record_count), b.wire_len());
            (records, bytes) = (records + b.meta.record_count as u64, bytes + size as u64);
            let ratio = b.records().len() as f64 / b.uncompressed_len.max(1) as f64;
            let queued = now.since(b.meta.created).as_secs_f64() * 1e3;
            sensors.record(
                &[
                    (Sensor::BatchSize, size as f64),
                    (Sensor::QueueTime, queued),
                    (Sensor::Compression, ratio),
                    (Sensor::RecordSize, f64::from(b.meta.max_record_bytes)),
                ],
                now,
            );
            use TopicSensor::{Byte, Compression, RecordSend};
            let of_topic = [(RecordSend, count), (Byte, size as f64), (Compression, ratio)];
            sensors.record_topic(&b.meta.partition.topic, &of_topic, now);
        }
        let sent = records as f64;
        sensors.record(&[(Sensor::RecordSend, sent), (Sensor::RecordsPerRequest, sent)], now);
        add(&self.counters.record_send_total, records);
        add(&self.counters.batch_total, batches.len() as u64);
        add(&self.counters.byte_total, bytes);
        add(&self.counters.request_total, 1);
    }
}
