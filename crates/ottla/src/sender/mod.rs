//! The sender: sends the accumulated batches to the leaders of their partitions.
//!
//! It follows Kafka's `Sender`. [`Sender::run_once`] is one round of its loop: steps 1 to 7 in
//! [`Sender::send_producer_data`], step 8 in [`Sender::poll_and_handle`]. [`thread::run`] repeats
//! it on the sender thread. A simulation calls the two halves by itself. Between them the sender
//! counts as asleep, so that a wakeup that would be lost in real time is lost in virtual time, too.

pub(crate) mod produce_request;
pub(crate) mod producer_state;
pub(crate) mod verdict;
pub(crate) mod ready;
pub(crate) mod drain;
mod deadline_queue;
mod bit_set;
mod partition_index;
pub(crate) mod load_stats;
mod send;
mod responses;
mod split;
pub(crate) mod split_job;
mod init_producer_id;
mod epoch;
pub(crate) mod transactions;
mod expiry;
mod failure;
mod acknowledged_batches;
mod batch_errors;
mod in_flight_batches;
mod active_partitions;
pub(crate) mod batch_size_discovery;
mod events;
mod waiter_deadlines;
mod flush;
mod purge;
mod shutdown;
mod stall_report;
mod snapshot;
mod telemetry;
pub(crate) mod thread;

use std::sync::Arc;

use crate::accumulator::RecordAccumulator;
use crate::accumulator::batch::StampedBatch;
use crate::client::in_flight_requests::CompletedRequest;
use crate::client::{NetworkClient, SharedHealth};
use crate::cluster::Cluster;
use crate::config::SenderSettings;
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, add};
use crate::network::io::Io;
use crate::sender::ready::{DrainContext, ReadyTracker, SendPressure};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wakeup::call_request::CallRequest;
use crate::wakeup::event_queue::Event;
use crate::wakeup::lifecycle::Lifecycle;
use acknowledged_batches::AcknowledgedBatch;
use batch_size_discovery::BatchSizeDiscovery;
use drain::DrainRequest;
use flush::Flushes;
use in_flight_batches::InFlightBatches;
use produce_request::RecordPiece;
use producer_state::ProducerState;
use purge::Purge;
use split_job::SplitOutcomes;
use stall_report::StallReport;
use telemetry::ClientTelemetry;
use transactions::TransactionManager;
use waiter_deadlines::WaiterDeadlines;

/// Lists that keep their allocation from round to round. They are empty between rounds.
#[derive(Default)]
struct RoundBuffers {
    events: Vec<Event>,
    ready_nodes: Vec<i32>,
    completed_requests: Vec<CompletedRequest>,
    acknowledged_batches: Vec<AcknowledgedBatch>,
    snapshot_requests: Vec<CallRequest<Snapshot>>,
}

/// Kafka's `Sender`.
pub(crate) struct Sender<I: Io> {
    settings: SenderSettings,
    env: Arc<dyn Env>,
    accumulator: Arc<RecordAccumulator>,
    client: NetworkClient<I>,
    producer_state: ProducerState,
    ready: ReadyTracker,
    in_flight_batches: InFlightBatches,
    batch_size_discovery: BatchSizeDiscovery,
    last_purge: Option<Purge>,
    split_outcomes: Arc<SplitOutcomes>,
    flushes: Flushes,
    /// Whether the event of a close was handled, and with it every record accepted before.
    is_close_handled: bool,
    waiter_deadlines: WaiterDeadlines,
    buffers: RoundBuffers,
    record_pieces: Vec<RecordPiece>,
    stall_report: StallReport,
    telemetry: ClientTelemetry,
    health: SharedHealth,
    counters: Arc<Counters>,
}

impl<I: Io> Sender<I> {
    pub(crate) fn new(
        settings: SenderSettings,
        accumulator: Arc<RecordAccumulator>,
        client: NetworkClient<I>,
        health: SharedHealth,
        counters: Arc<Counters>,
    ) -> Sender<I> {
        accumulator.events().set_wakeup(client.wakeup());
        let _ = accumulator.worker_pool.set(client.worker_pool());
        let mut producer_state =
            ProducerState::new(settings.idempotent, settings.max_in_flight == 1);
        if let Some(transactions) = settings.transactions.clone() {
            let lifecycle = accumulator.caller_context.lifecycle.clone();
            let manager = TransactionManager::new(transactions, lifecycle, health.clone());
            producer_state.set_transactional(manager);
        }
        Sender {
            env: accumulator.env.clone(),
            producer_state,
            batch_size_discovery: BatchSizeDiscovery::new(
                settings.metadata_max_age,
                accumulator.settings.batch_size.max(accumulator.settings.max_batch_size),
            ),
            telemetry: ClientTelemetry::new(settings.metrics_push),
            settings,
            accumulator,
            client,
            ready: ReadyTracker::default(),
            in_flight_batches: InFlightBatches::default(),
            last_purge: None,
            split_outcomes: Arc::default(),
            flushes: Flushes::default(),
            is_close_handled: false,
            waiter_deadlines: WaiterDeadlines::default(),
            buffers: RoundBuffers::default(),
            record_pieces: Vec::new(),
            stall_report: StallReport::default(),
            health,
            counters,
        }
    }

    /// Runs one round of the loop. Returns false once the sender is shut down.
    pub(crate) fn run_once(&mut self) -> bool {
        let deadline = self.send_producer_data();
        self.poll_and_handle(deadline)
    }

    /// Runs steps 1 to 7 of a round and returns the deadline of the poll in step 8.
    ///
    /// The order differs from Kafka's in two places:
    ///
    /// - Step 1 comes first. Kafka updates the metadata inside `NetworkClient.poll`. Here the
    ///   poll's deadline is known before the poll, and the next update is part of it.
    /// - Steps 4, 5 and 7 run node by node, before step 6. Kafka drains all nodes, expires batches
    ///   and then builds the requests. Node by node, no map from node to batches is built. Expiry
    ///   after the drain is safe, because the drain skips expired batches.
    pub(crate) fn send_producer_data(&mut self) -> Tick {
        add(&self.counters.loop_total, 1);
        let now = self.env.now();
        self.handle_events(now);
        if self.accumulator.lifecycle().is_closed() {
            return Tick(0);
        }
        self.fail_late_batches();
        let mut deadline = self.handle_deadlines(now);
        let mut wake_at = |at: Tick| deadline = deadline.min(at);

        // Step 1: update metadata, and the producer id and epoch, which depend on it.
        let cluster = self.update_metadata(now, &mut wake_at);
        // Step 2: find ready partitions.
        let accumulator = self.accumulator.clone();
        let cx = DrainContext { accumulator: &accumulator, cluster: &cluster, now };
        self.find_ready_partitions(cx);
        // Step 3: request metadata for partitions without a known leader.
        wake_at(self.request_unknown_leaders(now));
        // Steps 4, 5 and 7, node by node: prepare connections, drain, build and queue requests.
        self.send_to_ready_nodes(cx);
        // Step 6: fail expired batches.
        wake_at(self.fail_expired_batches(cx));
        // How long step 8 may wait.
        wake_at(self.next_round_at(cx));
        // Last: EndTxn waits until no batch of the transaction is left.
        wake_at(self.run_transactions(now));

        self.flushes.complete_finished();
        wake_at(self.stall_report.report(now));
        wake_at(self.maybe_shut_down(now));
        if self.accumulator.lifecycle().is_closed() {
            deadline = Tick(0);
        }
        if !self.buffers.snapshot_requests.is_empty() {
            self.complete_snapshots(cx);
        }
        self.begin_sleep(deadline, now)
    }

    /// Wakes callers whose deadline has expired, and raises the limits of batches whose time has
    /// come. Returns when the next deadline is due.
    fn handle_deadlines(&mut self, now: Tick) -> Tick {
        let pool = &self.accumulator.pool;
        let next = self.waiter_deadlines.wake_expired(now, |id| pool.revoke(id));
        next.min(self.batch_size_discovery.raise_limit(now))
    }

    /// Step 1: updates the metadata, and the producer id and epoch. Returns the metadata of this
    /// round.
    fn update_metadata(&mut self, now: Tick, wake_at: &mut impl FnMut(Tick)) -> Arc<Cluster> {
        wake_at(self.client.maybe_update_metadata(now));
        // In this order: a partition that is resolved may need a new producer id. Otherwise the
        // request for it would wait for the next event (the simulation found it, seed 1767).
        self.resolve_sequences(now);
        wake_at(self.maybe_request_producer_id(now));
        // Before the drain: it takes all that a busy connection can send.
        wake_at(self.maybe_send_telemetry(now));
        self.client.cluster()
    }

    /// Step 2: finds ready partitions. Only partitions marked as dirty are evaluated again.
    fn find_ready_partitions(&mut self, cx: DrainContext<'_>) {
        self.ready.set_pressure(self.send_pressure());
        self.ready.refresh(cx, &self.producer_state);
    }

    /// Step 3: requests metadata for topics with a partition that has batches but no leader.
    /// Returns the time of the next update.
    fn request_unknown_leaders(&mut self, now: Tick) -> Tick {
        let topics = self.ready.unknown_leader_topics();
        for topic in &topics {
            self.report_leaderless_topic(topic, now);
            self.client.add_topic(topic, now);
            self.client.request_metadata(now);
        }
        if topics.is_empty() { Tick::NEVER } else { self.client.maybe_update_metadata(now) }
    }

    /// Steps 4, 5 and 7 for each node with ready partitions.
    fn send_to_ready_nodes(&mut self, cx: DrainContext<'_>) {
        let mut nodes = std::mem::take(&mut self.buffers.ready_nodes);
        nodes.extend(self.ready.ready_nodes());
        for node in nodes.drain(..) {
            if self.prepare_connection(node, cx) {
                let batches = self.drain(node, cx);
                self.send_produce_request(node, cx.cluster, batches, cx.now);
            }
        }
        self.buffers.ready_nodes = nodes;
    }

    /// Step 4: returns whether a node can take a request. A node that is not connected starts to
    /// connect and gets nothing in this round.
    fn prepare_connection(&mut self, node: i32, cx: DrainContext<'_>) -> bool {
        let can_send = self.client.ready(node, cx.now);
        if !cx.accumulator.settings.availability_timeout.is_zero() {
            self.ready.load_stats.update_node_latency(node, cx.now, can_send);
        }
        if !can_send {
            self.report_throttled_node(node, cx.now);
        }
        can_send
    }

    /// Step 5: removes the batches of one request from their queues.
    ///
    /// Lingering batches join a request to an idle node, as in Kafka. For a busy node they keep
    /// lingering and grow, since another request follows anyway. With max.in.flight=1,
    /// `producer_state` mutes a partition from here to its response.
    fn drain(&mut self, node: i32, cx: DrainContext<'_>) -> Vec<StampedBatch> {
        let request = DrainRequest {
            node,
            max_size: self.settings.max_request_size,
            include_lingering: self.client.has_no_in_flight_requests(node),
        };
        let (state, discovery) = (&mut self.producer_state, &self.batch_size_discovery);
        let drained = self.ready.drain(cx, state, discovery, request);
        self.start_jobs(drained.to_close, drained.to_split);
        drained.batches
    }

    /// Returns when the next round has something to do, if nothing happens before. Steps 5 and 6
    /// have changed partitions, so the ready tracker is refreshed first.
    fn next_round_at(&mut self, cx: DrainContext<'_>) -> Tick {
        self.ready.refresh(cx, &self.producer_state);
        // A batch that expired may have left a lost sequence and nothing in flight. No event
        // follows that would start the next round (the simulation found it, seed 205).
        if self.producer_state.can_resolve() {
            return cx.now;
        }
        let next_ready = self.ready.ready_nodes().map(|node| self.next_ready_time(node, cx.now));
        self.ready.next_deadline().min(next_ready.min().unwrap_or(Tick::NEVER))
    }

    /// Lets callers know what they need to wake the sender. Returns the deadline of the poll: now,
    /// if an event was posted since `handle_events`.
    fn begin_sleep(&mut self, deadline: Tick, now: Tick) -> Tick {
        self.client.update_in_flight_metric();
        // Last, and in this order: callers read the busy nodes to decide about a wakeup. After
        // `begin_sleep`, an event that is due before the deadline wakes the sender.
        let events = self.accumulator.events();
        events.set_busy(self.client.node_busy_states(now));
        // A response that is late must not keep full batches back.
        let mut deadline = deadline;
        events.set_responding(self.client.responding_nodes(now).map(|(node, due)| {
            deadline = deadline.min(due.unwrap_or(Tick::NEVER));
            (node, due.is_some())
        }));
        if events.begin_sleep(deadline) { deadline } else { Tick(0) }
    }

    /// Returns when a node with ready partitions can take a request: `NEVER` if an event such as
    /// a response or a new connection wakes the sender first.
    fn next_ready_time(&self, node: i32, now: Tick) -> Tick {
        if self.client.is_ready(node, now) {
            return now;
        }
        self.client.earliest_ready_at(node, now).unwrap_or(Tick::NEVER)
    }

    /// Returns the reasons why lingering batches have to be sent now.
    fn send_pressure(&self) -> SendPressure {
        SendPressure {
            exhausted: self.accumulator.pool.is_exhausted(),
            no_record_follows: matches!(
                self.accumulator.lifecycle().get(),
                Lifecycle::Closing { .. }
            ) || self
                .producer_state
                .transactions
                .as_ref()
                .is_some_and(|t| t.is_committing()),
            flush_up_to: self.flushes.up_to(),
        }
    }

    /// Step 8: polls until `deadline`, and handles responses and metadata.
    ///
    /// Returns false once the sender is shut down.
    pub(crate) fn poll_and_handle(&mut self, deadline: Tick) -> bool {
        if self.accumulator.lifecycle().is_closed() {
            return false;
        }
        let now = self.env.now();
        let mut completed = std::mem::take(&mut self.buffers.completed_requests);
        if let Err(e) = self.client.poll(deadline, now, &mut completed) {
            let reason = format!("polling the sockets failed: {e}");
            tracing::error!(
                name: "ottla.fatal",
                target: "ottla::producer",
                "{reason}; the producer shuts down"
            );
            self.end_with_fatal_error(&Error::new(ErrorKind::Internal, reason).into_fatal());
            return false;
        }
        self.accumulator.events().set_awake();
        let now = self.env.now();
        for request in completed.drain(..) {
            self.handle_completed_request(request, now);
        }
        self.complete_acknowledged_batches();
        self.buffers.completed_requests = completed;
        self.handle_metadata_update();
        true
    }

    /// Asserts that the cached state of each partition is its real state.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn check_invariants(&self) {
        if self.accumulator.events().has_events() {
            // The cache does not know what these events report.
            return;
        }
        let now = self.env.now();
        let cluster = self.client.cluster();
        let cx = DrainContext { accumulator: &self.accumulator, cluster: &cluster, now };
        self.ready.assert_consistent(cx, &self.producer_state);
    }

    /// Returns how often the metadata was copied, and the number of topics published.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn metadata_work(&self) -> (u64, u64) {
        (self.client.metadata_copies(), self.accumulator.topics.published())
    }

    /// Returns when the client itself ends the poll, apart from the deadline that
    /// [`send_producer_data`](Self::send_producer_data) returns.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn poll_deadline(&self) -> Tick {
        self.client.next_poll_deadline()
    }
}

#[cfg(all(test, not(ottla_loom)))]
pub(crate) mod tests;
