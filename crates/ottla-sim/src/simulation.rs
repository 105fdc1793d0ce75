//! The world: moves the clock to whatever comes next, lets callers, sender and brokers do their part.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::sim::{Faults, Link, SimMachine, SimSender, Tick, build, memory_balance};
use ottla::{Producer, PurgeScope};

use crate::callers::{Caller, SharedState};
use crate::executor::Executor;
use crate::history::{CallbackResult, HandlerOutcomes, History};
use crate::oracle::{ClusterLogs, Observations, check_invariants};
use crate::scenario::Scenario;
use crate::scenario_events::ScenarioEventKind;
use crate::setup::{FaultCounts, create_cluster, create_topic, describe_batch};
use crate::sim_cluster::{SimCluster, broker_now, node_address};
use crate::trace::{trace, update_time};

/// Virtual time after which a run that is not over is stuck.
const RUN_TIMEOUT: Duration = Duration::from_secs(3600);
/// Rounds of the sender at one moment; more is a spin.
const MAX_ROUNDS_PER_INSTANT: u32 = 50_000;
/// Virtual time of quiet, and the rounds the sender may make in it.
const IDLE_TIME: Duration = Duration::from_secs(60);
const MAX_IDLE_ROUNDS: u64 = 60;
const ROUNDS_INVARIANT: &str =
    "the sender goes round only for what happens, and rests when nothing does";
/// Rounds of the sender for each thing that happens outside it, at most.
const MAX_ROUNDS_PER_EVENT: u64 = 3;

/// What a run was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Records accepted.
    pub accepted: u64,
    /// Of them, acknowledged.
    pub acknowledged: u64,
    /// Of them, failed.
    pub failed: u64,
    /// Records refused by `send`.
    pub rejected: u64,
    /// Connections lost to cuts.
    pub disconnects: u64,
    /// What else was done to it, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Rounds of the sender.
    pub rounds: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// A number of everything that was seen: the same seed gives the same.
    pub fingerprint: u64,
}

impl RunReport {
    /// Adds another run's figures to these.
    pub fn add(&mut self, other: RunReport) {
        self.accepted += other.accepted;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.disconnects += other.disconnects;
        self.rounds += other.rounds;
        self.virtual_ms += other.virtual_ms;
        for (kind, n) in other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
    }
}

/// Runs a seed; what was broken, in words that name the seed.
///
/// # Errors
/// What the oracle says.
pub fn run_seed(seed: u64) -> Result<RunReport, String> {
    run_scenario(&Scenario::new(seed))
}

/// Runs a scenario.
///
/// # Errors
/// What the oracle says.
pub fn run_scenario(s: &Scenario) -> Result<RunReport, String> {
    Simulation::new(s)?.run().map_err(|e| {
        let written = s.to_text();
        format!("seed {}: {e}\nreplay: cargo xtask sim --trace '{written}'", s.seed)
    })
}

struct Simulation<'s> {
    scenario: &'s Scenario,
    machine: SimMachine,
    executor: Executor,
    producer: Producer,
    /// Gone once it is over, with all it held.
    sender: Option<SimSender>,
    /// The sender sleeps until then.
    sender_deadline: Tick,
    cluster: SimCluster,
    batch_fault_counts: FaultCounts,
    shared: SharedState,
    logs: ClusterLogs,
    next_event: usize,
    started_at: Tick,
    rounds: u64,
    /// Things that happened outside the sender, each a reason for rounds.
    external_events: u64,
    rounds_at_instant: (Tick, u32),
    healed_at: Tick,
    /// How far the client's calendar has jumped, in milliseconds.
    wall_clock_offset_ms: i64,
    /// When the machine slept: from, to.
    suspensions: Vec<(Tick, Tick)>,
}

impl<'s> Simulation<'s> {
    fn new(s: &'s Scenario) -> Result<Simulation<'s>, String> {
        let machine = SimMachine::new(s.seed ^ 0x5eed, s.network_faults());
        let played = FaultCounts::default();
        let core = create_cluster(s, &machine, &played)?;
        let ends = HandlerOutcomes::default();
        let callbacks = Arc::<Mutex<Vec<(u64, CallbackResult)>>>::default();
        let (heard, clock) = (ends.clone(), machine.clone());
        let builder = s.producer_builder().delivery_handler(move |report| {
            trace(&clock, || describe_batch(report));
            heard.record(report, clock.now());
        });
        let (producer, mut sender) = build(builder, &machine).map_err(|e| e.to_string())?;
        let until = sender.send_producer_data();
        let mut executor = Executor::new();
        let history = Rc::<RefCell<History>>::default();
        let shared = SharedState {
            scenario: s.clone(),
            machine: machine.clone(),
            timers: executor.timers.clone(),
            history,
            handler_outcomes: ends,
            callback_results: callbacks,
        };
        for caller in 0..s.callers {
            let me = Caller { id: caller, shared: shared.clone(), pending: Vec::new() };
            executor.spawn(me.run(producer.clone()));
        }
        if s.close_at_ms > 0 {
            let (producer, timers, at) =
                (producer.clone(), executor.timers.clone(), machine.clone());
            let (when, given) = (machine.now().after(ms(s.close_at_ms)), ms(s.close_timeout_ms));
            executor.spawn(async move {
                timers.sleep_until(&at, when).await;
                let _ = producer.close_async(given).await;
            });
        }
        if s.purge_at_ms > 0 {
            let (producer, timers, at) =
                (producer.clone(), executor.timers.clone(), machine.clone());
            let when = machine.now().after(ms(s.purge_at_ms));
            let what =
                if s.purge_in_flight { PurgeScope::QueuedAndInFlight } else { PurgeScope::Queued };
            executor.spawn(async move {
                timers.sleep_until(&at, when).await;
                let _ = producer.purge(what);
            });
        }
        Ok(Simulation {
            scenario: s,
            started_at: machine.now(),
            cluster: SimCluster::new(core, s),
            batch_fault_counts: played,
            machine,
            executor,
            producer,
            sender: Some(sender),
            sender_deadline: until,
            shared,
            logs: ClusterLogs::default(),
            next_event: 0,
            rounds: 0,
            external_events: 1,
            rounds_at_instant: (Tick(0), 0),
            healed_at: Tick::NEVER,
            wall_clock_offset_ms: 0,
            suspensions: Vec::new(),
        })
    }

    fn run(mut self) -> Result<RunReport, String> {
        let heal = self.started_at.after(ms(self.scenario.heal_after_ms));
        let mut healed = false;
        while !self.executor.is_done() {
            self.apply_due_events();
            if !healed && self.machine.now() >= heal {
                healed = true;
                self.heal();
            }
            let next = self
                .scenario
                .events
                .get(self.next_event)
                .map(|e| self.started_at.after(ms(e.at_ms)));
            let limit = if healed { Tick::NEVER } else { heal.min(next.unwrap_or(heal)) };
            self.step(limit)?;
            if self.machine.now() > self.started_at.after(RUN_TIMEOUT) {
                return Err("stuck: callers never finished".to_owned());
            }
        }
        self.heal();
        let virtual_ms = self.machine.now().since(self.started_at).as_millis() as u64;
        // Bytes that come and go in pieces are a reason each.
        let reasons = self.external_events + self.machine.io_operations();
        if self.rounds > reasons * MAX_ROUNDS_PER_EVENT + 1000 + virtual_ms {
            return Err(format!(
                "{ROUNDS_INVARIANT}: {} rounds for {reasons} reasons in {virtual_ms} ms",
                self.rounds
            ));
        }
        self.check_idle()?;
        self.check_outage()?;
        self.check_recovery()?;
        self.check_close()?;
        self.check_invariants(virtual_ms)
    }

    /// What the scenario has happen by now.
    fn apply_due_events(&mut self) {
        while let Some(event) = self.scenario.events.get(self.next_event)
            && self.started_at.after(ms(event.at_ms)) <= self.machine.now()
        {
            self.next_event += 1;
            self.external_events += 1;
            trace(&self.machine, || event.to_string());
            self.apply_event(event.kind);
        }
    }

    fn apply_event(&mut self, kind: ScenarioEventKind) {
        let time = broker_now(&self.machine);
        let (machine, core) = (&self.machine, &mut self.cluster.core);
        let link = |node, up_held, down_held, unread| {
            machine.set_link(node_address(node), Link { up_held, down_held, reads_paused: unread });
        };
        let name = match kind {
            ScenarioEventKind::KillNode(node) if core.is_up(node) => {
                core.stop_node(node, time);
                machine.reset_server(node_address(node));
                self.cluster.drop_connections(node);
                "node killed"
            }
            ScenarioEventKind::KillNode(_) => return,
            ScenarioEventKind::RestartNode(node) if core.is_up(node) => return,
            ScenarioEventKind::RestartNode(node) => {
                core.start_node(node, time);
                machine.stop_listening(node_address(node));
                machine.listen(node_address(node));
                "node started"
            }
            ScenarioEventKind::MoveLeader(topic, p, to, keep) => {
                let (topic, how) = (
                    self.scenario.topic_name(topic),
                    (keep, self.scenario.unclean_leader_election),
                );
                if !core.move_leader(&topic, p as i32, to, how, time) {
                    return;
                }
                if keep { "leader moved" } else { "leader moved, tail lost" }
            }
            ScenarioEventKind::PauseReplication(node) => {
                core.set_replication_paused(node, true, time);
                "follower paused"
            }
            ScenarioEventKind::ResumeReplication(node) => {
                core.set_replication_paused(node, false, time);
                "follower resumed"
            }
            ScenarioEventKind::BlackHole(node) => {
                link(node, true, true, false);
                "black hole"
            }
            ScenarioEventKind::HalfOpen(node) => {
                link(node, false, true, false);
                "half open"
            }
            ScenarioEventKind::StopReading(node) => {
                link(node, false, false, true);
                "slow reader"
            }
            ScenarioEventKind::RestoreLink(node) => {
                link(node, false, false, false);
                "way mended"
            }
            ScenarioEventKind::ResetConnections(node) => {
                let up = core.is_up(node);
                machine.reset_server(node_address(node));
                if up {
                    machine.listen(node_address(node));
                }
                self.cluster.drop_connections(node);
                "connections reset"
            }
            ScenarioEventKind::WallClockJump(by) => {
                machine.jump_wall_clock(by);
                self.wall_clock_offset_ms += by;
                "calendar jumped"
            }
            ScenarioEventKind::Suspend(length) => {
                let from = machine.now();
                machine.advance(from.after(ms(length)));
                self.suspensions.push((from, machine.now()));
                "machine slept"
            }
            ScenarioEventKind::RecreateTopic(topic, partitions) => {
                self.delete_topic(topic);
                self.create_topic(topic, partitions);
                "topic made anew"
            }
            ScenarioEventKind::DeleteTopic(topic) => {
                self.delete_topic(topic);
                "topic deleted"
            }
            ScenarioEventKind::AddPartitions(topic, to) => {
                let _ = core.create_partitions(&self.scenario.topic_name(topic), to as i32, time);
                "topic widened"
            }
            ScenarioEventKind::SetMaxMessageBytes(topic, bytes) => {
                let limit = ("max.message.bytes", bytes.to_string());
                let _ = core.set_topic_config(&self.scenario.topic_name(topic), limit.0, &limit.1);
                "largest batch changed"
            }
            ScenarioEventKind::ThrottleNode(node, wait) => {
                core.set_produce_throttle(node, wait);
                "throttle set"
            }
            ScenarioEventKind::DnsFails => {
                machine.set_host("kafka", Vec::new());
                "names lost"
            }
            ScenarioEventKind::DnsRecovers => {
                machine.set_host("kafka", vec![node_address(1)]);
                "names found"
            }
        };
        self.cluster.count_fault(name);
    }

    fn delete_topic(&mut self, topic: u64) {
        let name = self.scenario.topic_name(topic);
        self.logs.snapshot_topic(&self.cluster.core, &name);
        let _ = self.cluster.core.delete_topic(&name);
    }

    fn create_topic(&mut self, topic: u64, partitions: u64) {
        let time = broker_now(&self.machine);
        let _ = create_topic(&mut self.cluster.core, self.scenario, topic, partitions, time);
    }

    /// Everything that was done is undone.
    fn heal(&mut self) {
        trace(&self.machine, || "the world heals".to_owned());
        self.healed_at = self.healed_at.min(self.machine.now());
        self.machine.set_faults(Faults::NONE);
        self.cluster.clear_faults();
        self.machine.jump_wall_clock(-std::mem::take(&mut self.wall_clock_offset_ms));
        self.cluster.core.set_fetch_delay(None::<fn(i32) -> u64>);
        self.machine.set_host("kafka", vec![node_address(1)]);
        for node in 1..=self.scenario.nodes as i32 {
            let time = broker_now(&self.machine);
            let core = &mut self.cluster.core;
            core.set_produce_throttle(node, 0);
            core.set_replication_paused(node, false, time);
            core.start_node(node, time);
            self.machine.stop_listening(node_address(node));
            self.machine.listen(node_address(node));
            self.machine.set_link(node_address(node), Link::default());
        }
        for topic in 0..self.scenario.topics {
            if self.cluster.core.describe_topic(&self.scenario.topic_name(topic)).is_none() {
                self.create_topic(topic, self.scenario.partitions);
            }
            let (name, max) =
                (self.scenario.topic_name(topic), self.scenario.max_message_bytes.to_string());
            let _ = self.cluster.core.set_topic_config(&name, "max.message.bytes", &max);
        }
    }

    /// Nothing is to be done: the sender must sleep.
    fn check_idle(&mut self) -> Result<(), String> {
        let (until, before) = (self.machine.now().after(IDLE_TIME), self.rounds);
        while self.machine.now() < until {
            self.step(until)?;
        }
        let rounds = self.rounds - before;
        if rounds > MAX_IDLE_ROUNDS {
            let seconds = IDLE_TIME.as_secs();
            return Err(format!("{ROUNDS_INVARIANT}: {rounds} rounds in {seconds} quiet seconds"));
        }
        Ok(())
    }

    /// Nobody is there for longer than a record lives: what is sent meanwhile must end all the same, and must leave
    /// nothing behind that later records would trip over.
    fn check_outage(&mut self) -> Result<(), String> {
        trace(&self.machine, || "every node is gone".to_owned());
        for node in 1..=self.scenario.nodes as i32 {
            self.apply_event(ScenarioEventKind::KillNode(node));
        }
        let me = self.new_caller(self.scenario.callers + 1);
        self.executor.spawn(me.send_during_outage(self.producer.clone(), self.partitions()));
        self.run_until_done(1, "what was sent into the dark never ended")?;
        self.heal();
        // Connections are tried again at least once a second.
        let until = self.machine.now().after(ms(5_000));
        while self.machine.now() < until {
            self.step(until)?;
        }
        Ok(())
    }

    /// The world is whole: what is sent now must arrive.
    fn check_recovery(&mut self) -> Result<(), String> {
        let me = self.new_caller(self.scenario.callers);
        self.executor.spawn(me.verify_recovery(self.producer.clone(), self.partitions()));
        self.run_until_done(1, "the probes never ended")
    }

    fn new_caller(&self, caller: u64) -> Caller {
        Caller { id: caller, shared: self.shared.clone(), pending: Vec::new() }
    }

    /// Every partition there is.
    fn partitions(&self) -> Vec<(String, i32)> {
        let mut partitions = Vec::new();
        for topic in (0..self.scenario.topics).map(|t| self.scenario.topic_name(t)) {
            let count = self.cluster.core.describe_topic(&topic).map_or(0, |t| t.1);
            partitions.extend((0..count).map(|p| (topic.clone(), p)));
        }
        partitions
    }

    fn check_close(&mut self) -> Result<(), String> {
        let producer = self.producer.clone();
        self.executor.spawn(async move {
            let _ = producer.close_async(Duration::from_secs(60)).await;
        });
        self.run_until_done(2, "it never closed")?;
        while self.sender.is_some() {
            self.step(Tick::NEVER)?;
        }
        Ok(())
    }

    fn run_until_done(&mut self, hours: u32, what: &str) -> Result<(), String> {
        let end = self.machine.now().after(hours * RUN_TIMEOUT);
        while !self.executor.is_done() {
            self.step(Tick::NEVER)?;
            if self.machine.now() > end {
                return Err(format!("stuck: {what}"));
            }
        }
        Ok(())
    }

    /// Lets everybody act, then moves the clock to what comes next, at most to `limit`.
    fn step(&mut self, limit: Tick) -> Result<(), String> {
        let now = self.machine.now();
        update_time(&self.machine);
        self.external_events += u64::from(self.executor.run(now));
        self.cluster.serve(&self.machine);
        self.check_memory()?;
        if self.sender.is_some() && (self.machine.would_wake() || self.sender_deadline <= now) {
            return self.run_sender_round(now);
        }
        let sender = self.sender_deadline;
        let servers = self.cluster.core.next_deadline().map(|at| Tick(at * 1_000_000));
        let events = [self.machine.next_event(), self.executor.timers.next_deadline(), servers];
        let next = events.into_iter().flatten().chain([sender, limit]).min().unwrap_or(limit);
        if next == Tick::NEVER {
            return if self.executor.is_done() {
                Ok(())
            } else {
                Err("deadlock: nothing is to come".to_owned())
            };
        }
        self.external_events += u64::from(next != sender);
        self.machine.advance(next.max(Tick(now.0 + 1)));
        Ok(())
    }

    /// No more memory than there is, but for a batch that is being split, the copy that is worked on, its parts.
    fn check_memory(&self) -> Result<(), String> {
        let balance = memory_balance(&self.producer);
        let debt = 3 * self.scenario.batch_size.max(self.scenario.max_request_size) as i64;
        if (-debt..=self.scenario.buffer_memory as i64).contains(&balance) {
            return Ok(());
        }
        let what = "memory is never above its cap but by what one batch that is being split takes three times";
        Err(format!("{what}: {balance} of {} left", self.scenario.buffer_memory))
    }

    fn run_sender_round(&mut self, now: Tick) -> Result<(), String> {
        self.rounds_at_instant = if self.rounds_at_instant.0 == now {
            (now, self.rounds_at_instant.1 + 1)
        } else {
            (now, 0)
        };
        if self.rounds_at_instant.1 > MAX_ROUNDS_PER_INSTANT {
            return Err(format!("the sender spins at {now:?}"));
        }
        self.rounds += 1;
        if let Some(sender) = &mut self.sender {
            if sender.poll_and_handle() {
                self.sender_deadline = sender.send_producer_data();
                return Ok(());
            }
            (self.sender, self.sender_deadline) = (None, Tick::NEVER);
            self.machine.drop_client();
        }
        Ok(())
    }

    fn check_invariants(mut self, virtual_ms: u64) -> Result<RunReport, String> {
        for topic in 0..self.scenario.topics {
            self.logs.snapshot_topic(&self.cluster.core, &self.scenario.topic_name(topic));
        }
        self.logs.set_journal(self.cluster.core.take_append_history());
        let mut history = std::mem::take(&mut *self.shared.history.borrow_mut());
        let mut told = self.shared.callback_results.lock().unwrap_or_else(PoisonError::into_inner);
        for (token, told) in told.drain(..) {
            history.callback_results.entry(token).or_default().push(told);
        }
        drop(told);
        for what in std::mem::take(&mut self.cluster.violations) {
            history.violations.push(("requests in flight are as many as allowed", what));
        }
        let case = Observations {
            scenario: self.scenario,
            history: &history,
            handler_outcomes: self.shared.handler_outcomes.take(),
            logs: &self.logs.decode()?,
            available_memory: self.producer.available_memory(),
            suspensions: &self.suspensions,
            partition_counts: (0..self.scenario.topics)
                .map(|t| self.scenario.topic_name(t))
                .filter_map(|t| Some((t.clone(), self.cluster.core.describe_topic(&t)?.1)))
                .collect(),
            healed_at: self.healed_at,
            producer_ids_assigned: self.cluster.core.producer_ids_issued(),
        };
        let fingerprint = check_invariants(&case)?;
        let ok = |e: &crate::RecordOutcome| e.result.is_ok();
        let accepted = history.records.len() as u64;
        let acknowledged =
            history.records.iter().filter(|(_, e)| e.as_ref().is_some_and(ok)).count() as u64;
        Ok(RunReport {
            accepted,
            acknowledged,
            failed: accepted - acknowledged,
            rejected: history.rejected.len() as u64,
            disconnects: self.machine.lost_connections(),
            faults: {
                let mut all = std::mem::take(&mut self.cluster.fault_counts);
                all.append(
                    &mut self.batch_fault_counts.lock().unwrap_or_else(PoisonError::into_inner),
                );
                all
            },
            rounds: self.rounds,
            virtual_ms,
            fingerprint,
        })
    }
}

impl Drop for Simulation<'_> {
    fn drop(&mut self) {
        if let Some(sender) = &mut self.sender {
            sender.abort();
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
