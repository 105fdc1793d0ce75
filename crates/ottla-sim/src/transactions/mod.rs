//! The simulation of a scenario with transactions: instances of an application, each with its own
//! machine, transactional producer and faults, at one cluster.
//!
//! `application.rs` is what an instance does, `reader.rs` is the consumer, and `oracle.rs` judges.
//! The loop is that of `simulation.rs` for several clients.
#![allow(clippy::disallowed_types)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::PoisonError;
use std::time::Duration;

use ottla::sim::{Link, SimMachine, Tick};
use ottla_broker::ConsumerRecord;
use ottla_protocol::wire::TestRng;

mod application;
mod clients;
mod history;
mod oracle;
mod reader;

use application::{Instance, SharedState};
use clients::{Client, Processes};
use history::{TransactionEnd, TransactionHistories};
#[cfg(test)]
pub(crate) use oracle::invariants_markdown;
use oracle::{Observations, Pause, ROUNDS_INVARIANT, check_invariants};
#[cfg(test)]
pub(crate) use reader::committed_offsets;
use reader::{CommittedReader, PartitionKey};

use crate::environment::Environment;
use crate::executor::Executor;
use crate::history::HandlerOutcomes;
use crate::request_faults::RandomRequestFaults;
use crate::scenario::Scenario;
use crate::scenario_events::ScenarioEventKind;
use crate::setup::{FaultCounts, create_cluster};
use crate::sim_cluster::{SimCluster, broker_now, node_address};
use crate::simulation::{MAX_ROUNDS_PER_EVENT, MAX_ROUNDS_PER_INSTANT, RUN_TIMEOUT, RunReport};
use crate::trace::{trace, update_time};

/// The time between two polls of the reader, while instances run and afterwards.
const READ_INTERVAL: Duration = Duration::from_millis(50);
const IDLE_READ_INTERVAL: Duration = Duration::from_secs(5);
/// The time without any work, and the loops that each sender may make in it.
const IDLE_TIME: Duration = Duration::from_secs(60);
const MAX_IDLE_ROUNDS: u64 = 60;
/// The time after the end of all producers: the coordinator aborts what they have left open.
const LAST_TRANSACTIONS_TIME: Duration = Duration::from_secs(90);

/// Runs a scenario with transactions.
///
/// # Errors
/// Returns the broken invariant and the evidence.
pub(crate) fn run(s: &Scenario) -> Result<RunReport, String> {
    TransactionSimulation::new(s)?.run()
}

/// The sender's loops at the current instant.
struct RoundsAtInstant {
    at: Tick,
    rounds: u32,
}

/// The state of a run.
struct TransactionSimulation<'s> {
    scenario: &'s Scenario,
    env: Environment<'s>,
    executor: Executor,
    clients: Vec<Client>,
    shared: SharedState,
    outcomes: HandlerOutcomes,
    batch_fault_counts: FaultCounts,
    reader: CommittedReader,
    next_read_at: Tick,
    isolated: BTreeSet<u64>,
    pauses: Vec<Pause>,
    rounds: u64,
    /// Events outside the senders so far. Each of them justifies a few loops.
    external_events: u64,
    rounds_at_instant: RoundsAtInstant,
    ended: EndedClients,
}

/// What is left of the clients that have ended.
#[derive(Debug, Default)]
struct EndedClients {
    /// The available memory of their producers, by client number.
    available_memory: BTreeMap<u32, u64>,
    io_operations: u64,
    lost_connections: u64,
}

impl EndedClients {
    fn add(&mut self, c: &Client) {
        self.available_memory.insert(c.number, c.producer.available_memory());
        self.io_operations += c.machine.io_operations();
        self.lost_connections += c.machine.lost_connections();
    }
}

impl<'s> TransactionSimulation<'s> {
    fn new(s: &'s Scenario) -> Result<Self, String> {
        let network = SimMachine::new(s.seed ^ 0x5eed, s.network_faults());
        let batch_fault_counts = FaultCounts::default();
        let mut core = create_cluster(s, &network, &batch_fault_counts)?;
        core.set_transaction_version(s.transaction_version as i16);
        core.set_coordinator_load_time(s.coordinator_load_ms);
        if s.max_marker_delay_ms > 0 {
            let (mut rng, max_ms) = (TestRng::new(s.seed ^ 0x3a4c), s.max_marker_delay_ms);
            core.set_txn_marker_delay(move |_: &str, _| rng.next_below(max_ms + 1));
        }
        let mut cluster = SimCluster::new(core, s);
        if s.request_fault_one_in > 0 {
            cluster.request_faults.random = Some(RandomRequestFaults {
                rng: TestRng::new(s.seed ^ 0x1057),
                one_in: s.request_fault_one_in,
                has_late_requests: s.has_late_requests,
                has_fatal_errors: s.has_fatal_faults,
            });
        }
        let (executor, outcomes) = (Executor::new(), HandlerOutcomes::default());
        let shared = SharedState {
            scenario: s.clone(),
            clock: network.clone(),
            timers: executor.timers.clone(),
            processes: Processes::new(network.clone(), outcomes.clone()),
            history: Rc::<RefCell<TransactionHistories>>::default(),
            healed_at: Rc::new(Cell::new(Tick::NEVER)),
        };
        let mut simulation = TransactionSimulation {
            scenario: s,
            next_read_at: network.now(),
            env: Environment::new(s, cluster, network),
            executor,
            clients: Vec::new(),
            shared,
            outcomes,
            batch_fault_counts,
            reader: CommittedReader::default(),
            isolated: BTreeSet::new(),
            pauses: Vec::new(),
            rounds: 0,
            external_events: 1,
            rounds_at_instant: RoundsAtInstant { at: Tick(0), rounds: 0 },
            ended: EndedClients::default(),
        };
        for number in 0..s.instances {
            let instance = Instance::new(number, simulation.shared.clone());
            simulation.executor.spawn(instance.run());
        }
        Ok(simulation)
    }

    fn run(mut self) -> Result<RunReport, String> {
        let heal_at = self.env.started_at.after(ms(self.scenario.heal_after_ms));
        let mut healed = false;
        while !self.executor.is_done() {
            while let Some(event) = self.env.next_due_event() {
                self.external_events += 1;
                self.apply_event(event.kind);
            }
            if !healed && self.env.now() >= heal_at {
                healed = true;
                self.heal();
            }
            let next_event_at = self.env.next_event_at();
            let limit =
                if healed { Tick::NEVER } else { heal_at.min(next_event_at.unwrap_or(heal_at)) };
            self.step(limit)?;
            if self.env.now() > self.env.started_at.after(RUN_TIMEOUT) {
                return Err("stuck: an instance is still active after an hour".to_owned());
            }
        }
        self.heal();
        let virtual_ms = self.env.now().since(self.env.started_at).as_millis() as u64;
        self.check_rounds(virtual_ms)?;
        self.check_idle()?;
        for id in 0..self.scenario.transactional_ids {
            // It has the number of the first instance with this id, and fences all of them.
            let instance = Instance::new(id, self.shared.clone());
            self.executor.spawn(instance.verify_recovery());
        }
        self.run_until_done("a transaction after recovery")?;
        self.close_all()?;
        self.run_for(LAST_TRANSACTIONS_TIME)?;
        self.finish(virtual_ms)
    }

    /// Runs everything that has work now; if nothing has, moves the clock, at most to `limit`.
    fn step(&mut self, limit: Tick) -> Result<(), String> {
        let now = self.env.now();
        update_time(&self.env.machines[0]);
        self.external_events += u64::from(self.executor.run(now));
        if self.start_and_kill_processes() {
            // The end of a process wakes its instance.
            return Ok(());
        }
        self.env.cluster.serve_all(&self.env.machines);
        if self.next_read_at <= now {
            let is_idle = self.executor.is_done();
            self.next_read_at = now.after(if is_idle { IDLE_READ_INTERVAL } else { READ_INTERVAL });
            self.read()?;
        }
        if self.run_sender_rounds(now)? {
            return Ok(());
        }
        let clients = self.clients.iter().filter(|c| c.sender.is_some());
        let sender_deadlines = clients.map(|c| match self.paused_until(c.instance, now) {
            Tick(0) => c.sender_deadline,
            paused_until => paused_until,
        });
        // The sender of a paused instance leaves events behind that were due before.
        let machine_events = self.env.machines.iter().filter_map(SimMachine::next_event);
        let deadlines = [
            machine_events.filter(|at| *at > now).min(),
            self.executor.timers.next_deadline(),
            self.env.cluster.next_deadline(),
            sender_deadlines.min(),
        ];
        let next = deadlines.into_iter().flatten().min().unwrap_or(limit).min(limit);
        if next == Tick::NEVER {
            return if self.executor.is_done() {
                Ok(())
            } else {
                Err("deadlock: an instance waits, and no event is due".to_owned())
            };
        }
        self.external_events += 1;
        let next = next.min(self.next_read_at).max(Tick(now.0 + 1));
        self.env.machines.iter().for_each(|m| m.advance(next));
        Ok(())
    }

    fn paused_until(&self, instance: u64, now: Tick) -> Tick {
        let pauses = self.pauses.iter().filter(|p| p.instance == instance && p.to > now);
        pauses.map(|p| p.to).max().unwrap_or(Tick(0))
    }

    /// Runs a loop of each sender that has work now. Returns whether there was one.
    fn run_sender_rounds(&mut self, now: Tick) -> Result<bool, String> {
        let mut has_run = false;
        for i in 0..self.clients.len() {
            let is_paused = self.paused_until(self.clients[i].instance, now) > now;
            let client = &mut self.clients[i];
            let Some(sender) = client.sender.as_mut().filter(|_| !is_paused) else { continue };
            if !client.machine.would_wake() && client.sender_deadline > now {
                continue;
            }
            has_run = true;
            self.rounds += 1;
            if sender.poll_and_handle() {
                client.sender_deadline = sender.send_producer_data();
            } else {
                client.sender = None;
                client.sender_deadline = Tick::NEVER;
                client.machine.drop_client();
            }
        }
        if has_run {
            let current = &mut self.rounds_at_instant;
            let rounds = if current.at == now { current.rounds + 1 } else { 0 };
            *current = RoundsAtInstant { at: now, rounds };
            if rounds > MAX_ROUNDS_PER_INSTANT {
                return Err(format!("a sender loops endlessly at {now:?}"));
            }
        }
        Ok(has_run)
    }

    /// Starts and kills the processes that instances have requested. Returns whether it killed one.
    fn start_and_kill_processes(&mut self) -> bool {
        for client in self.shared.processes.take_started() {
            if self.isolated.contains(&client.instance) {
                set_links(self.scenario, &client.machine, true);
            }
            self.env.machines.push(client.machine.clone());
            self.clients.push(client);
        }
        let killed = self.shared.processes.take_killed();
        for number in &killed {
            self.clients.iter_mut().filter(|c| c.number == *number).for_each(Client::kill);
        }
        // A process that has ended, and of which nothing is left in the network.
        let ended = &mut self.ended;
        let machines = &mut self.env.machines;
        self.clients.retain(|c| {
            let is_kept = c.sender.is_some() || c.machine.has_connections();
            if !is_kept {
                ended.add(c);
                machines.retain(|m| m.number() != c.number);
            }
            is_kept
        });
        !killed.is_empty()
    }

    fn apply_event(&mut self, kind: ScenarioEventKind) {
        use ScenarioEventKind as Kind;

        let name = match kind {
            Kind::PauseInstance { instance, ms: length_ms } => {
                let from = self.env.now();
                self.pauses.push(Pause { instance, from, to: from.after(ms(length_ms)) });
                "instance paused"
            }
            Kind::IsolateInstance(instance) => {
                self.isolated.insert(instance);
                self.set_instance_links(instance, true);
                "instance isolated"
            }
            Kind::ReconnectInstance(instance) => {
                self.isolated.remove(&instance);
                self.set_instance_links(instance, false);
                "instance reconnected"
            }
            Kind::KillInstance(instance) => {
                self.clients.iter_mut().filter(|c| c.instance == instance).for_each(Client::kill);
                "instance killed"
            }
            other => return self.env.apply_event(other),
        };
        self.env.cluster.count_fault(name);
    }

    fn set_instance_links(&self, instance: u64, is_isolated: bool) {
        for client in self.clients.iter().filter(|c| c.instance == instance) {
            set_links(self.scenario, &client.machine, is_isolated);
        }
    }

    fn heal(&mut self) {
        self.env.heal();
        self.env.cluster.core.clear_txn_marker_delay();
        self.env.cluster.core.set_coordinator_load_time(0);
        self.isolated.clear();
        let now = self.env.now();
        self.shared.healed_at.set(self.shared.healed_at.get().min(now));
    }

    fn read(&mut self) -> Result<(), String> {
        let time = broker_now(&self.env.machines[0]);
        self.reader.poll(&mut self.env.cluster.core, self.scenario, time)
    }

    /// Checks that events outside the senders explain their loops.
    fn check_rounds(&self, virtual_ms: u64) -> Result<(), String> {
        let operations: u64 = self.env.machines.iter().map(SimMachine::io_operations).sum();
        let events = self.external_events + operations + self.ended.io_operations;
        let clients = self.shared.history.borrow().incarnations.len() as u64;
        if self.rounds > events * MAX_ROUNDS_PER_EVENT + clients * (1000 + virtual_ms) {
            let rounds = self.rounds;
            return Err(format!(
                "{ROUNDS_INVARIANT}: {rounds} loops for {events} events in {virtual_ms} ms"
            ));
        }
        Ok(())
    }

    /// Checks that the senders sleep while there is no work.
    fn check_idle(&mut self) -> Result<(), String> {
        trace(&self.env.machines[0], || "idle".to_owned());
        // Transactions that were dropped end first.
        self.run_for(LAST_TRANSACTIONS_TIME)?;
        let rounds_before = self.rounds;
        self.run_for(IDLE_TIME)?;
        let rounds = self.rounds - rounds_before;
        let running = self.clients.iter().filter(|c| c.sender.is_some()).count() as u64;
        if rounds > MAX_IDLE_ROUNDS * running {
            let seconds = IDLE_TIME.as_secs();
            return Err(format!("{ROUNDS_INVARIANT}: {rounds} loops in {seconds} idle seconds"));
        }
        Ok(())
    }

    fn run_for(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.env.now().after(duration);
        while self.env.now() < end {
            self.step(end)?;
        }
        Ok(())
    }

    fn run_until_done(&mut self, what: &str) -> Result<(), String> {
        let deadline = self.env.now().after(RUN_TIMEOUT);
        while !self.executor.is_done() {
            self.step(Tick::NEVER)?;
            if self.env.now() > deadline {
                return Err(format!("stuck: {what} did not complete"));
            }
        }
        Ok(())
    }

    /// Closes the producers that are left, and runs until their senders have shut down.
    fn close_all(&mut self) -> Result<(), String> {
        for client in self.clients.iter().filter(|c| c.sender.is_some()) {
            let producer = client.producer.clone();
            self.executor.spawn(async move {
                let _ = producer.close_async(ms(60_000)).await;
            });
        }
        self.run_until_done("close")?;
        let deadline = self.env.now().after(RUN_TIMEOUT);
        while self.clients.iter().any(|c| c.sender.is_some()) {
            self.step(deadline)?;
            if self.env.now() >= deadline {
                return Err("stuck: a sender has not shut down".to_owned());
            }
        }
        Ok(())
    }

    /// Collects the observations, checks the invariants and returns the figures.
    fn finish(mut self, virtual_ms: u64) -> Result<RunReport, String> {
        self.read()?;
        self.clients.iter().for_each(|c| self.ended.add(c));
        let ended = std::mem::take(&mut self.ended);
        let history = self.shared.history.take();
        let mut observations = Observations::new(
            self.scenario,
            &history,
            self.outcomes.take(),
            &self.reader,
            self.read_logs()?,
            &self.pauses,
            ended.available_memory,
        );
        let fingerprint = check_invariants(&mut observations)?;
        let records = || history.transactions.iter().flat_map(|t| &t.records);
        let accepted = records().count() as u64;
        let is_acknowledged = |result: Option<Result<_, _>>| result.is_some_and(|r| r.is_ok());
        let acknowledged =
            records().filter(|r| is_acknowledged(r.delivery.try_result())).count() as u64;
        let mut faults = std::mem::take(&mut self.env.cluster.fault_counts);
        faults.append(&mut self.batch_fault_counts.lock().unwrap_or_else(PoisonError::into_inner));
        let count = |end: &[TransactionEnd]| {
            history.transactions.iter().filter(|t| end.contains(&t.end)).count() as u64
        };
        Ok(RunReport {
            accepted,
            acknowledged,
            failed: accepted - acknowledged,
            rejected: history.transactions.iter().filter(|t| t.has_rejected_record).count() as u64,
            disconnects: ended.lost_connections,
            committed: count(&[TransactionEnd::Committed]),
            aborted: count(&[TransactionEnd::NotCommitted, TransactionEnd::Failed]),
            undecided: count(&[TransactionEnd::Unknown]),
            fenced: history.fenced.len() as u64,
            metrics_pushes: self.env.cluster.core.client_metrics_pushes().count() as u64,
            faults,
            rounds: self.rounds,
            virtual_ms,
            fingerprint,
        })
    }

    fn read_logs(&self) -> Result<BTreeMap<PartitionKey, Vec<ConsumerRecord>>, String> {
        let mut logs: BTreeMap<PartitionKey, Vec<ConsumerRecord>> = BTreeMap::new();
        for topic in (0..self.scenario.topics).map(|topic| self.scenario.topic_name(topic)) {
            for r in self.env.cluster.core.records(&topic).map_err(|e| e.to_string())? {
                logs.entry((topic.clone(), r.partition)).or_default().push(r);
            }
        }
        Ok(logs)
    }
}

impl Drop for TransactionSimulation<'_> {
    fn drop(&mut self) {
        for client in &mut self.clients {
            if let Some(sender) = &mut client.sender {
                sender.abort();
            }
        }
    }
}

/// Isolates a machine from all nodes, or connects it again.
fn set_links(s: &Scenario, machine: &SimMachine, is_isolated: bool) {
    let link = Link { up_held: is_isolated, down_held: is_isolated, ..Link::default() };
    for node in 1..=s.nodes as i32 {
        machine.set_link(node_address(node), link);
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
