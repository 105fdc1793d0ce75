//! The simulation of one scenario: runs callers, brokers and the sender, and moves the clock.
//!
//! At each instant the callers run first, then the brokers, then the sender, until none of them has
//! work. Then the clock jumps to the next deadline or arrival.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::sim::{SimMachine, SimSender, Tick, build, memory_balance};
use ottla::{Producer, PurgeScope};

mod phases;
mod report;

pub use report::RunReport;

use crate::callers::{Caller, SharedState};
use crate::environment::Environment;
use crate::executor::Executor;
use crate::history::{CallbackCall, HandlerOutcomes, History, Violation};
use crate::oracle::{
    IN_FLIGHT_INVARIANT, MEMORY_LIMIT_INVARIANT, Observations, ROUNDS_INVARIANT, check_invariants,
};
use crate::scenario::Scenario;
use crate::setup::{FaultCounts, create_cluster, describe_batch};
use crate::sim_cluster::SimCluster;
use crate::trace::{trace, update_time};
use crate::transactions;

/// The virtual time without progress after which a run counts as stuck.
pub(crate) const RUN_TIMEOUT: Duration = Duration::from_secs(3600);
/// Loops of the sender at one instant; more than this is an endless loop.
pub(crate) const MAX_ROUNDS_PER_INSTANT: u32 = 50_000;
/// Loops of the sender for each event outside it.
pub(crate) const MAX_ROUNDS_PER_EVENT: u64 = 3;

/// Runs the scenario of a seed.
///
/// # Errors
/// Returns the broken invariant, the evidence, and the scenario as text.
pub fn run_seed(seed: u64) -> Result<RunReport, String> {
    run_scenario(&Scenario::new(seed))
}

/// Runs the scenario of a seed with transactional producers.
///
/// # Errors
/// Returns the broken invariant, the evidence, and the scenario as text.
pub fn run_transaction_seed(seed: u64) -> Result<RunReport, String> {
    run_scenario(&Scenario::with_transactions(seed))
}

/// Runs a scenario.
///
/// # Errors
/// Returns the broken invariant, the evidence, and the scenario as text.
pub fn run_scenario(s: &Scenario) -> Result<RunReport, String> {
    let result = match s.is_transactional {
        true => transactions::run(s),
        false => Simulation::new(s).and_then(Simulation::run),
    };
    result.map_err(|e| {
        let text = s.to_text();
        let (seed, _) = text.split_once(':').unwrap_or((&text, ""));
        format!("seed {seed}: {e}\nreplay: cargo xtask sim --trace '{text}'")
    })
}

/// The sender's loops at the current instant.
struct RoundsAtInstant {
    at: Tick,
    rounds: u32,
}

/// The state of a run.
struct Simulation<'s> {
    scenario: &'s Scenario,
    machine: SimMachine,
    executor: Executor,
    producer: Producer,
    /// `None` once the sender has shut down.
    sender: Option<SimSender>,
    /// The sender sleeps until then, unless it is woken.
    sender_deadline: Tick,
    env: Environment<'s>,
    batch_fault_counts: FaultCounts,
    shared: SharedState,
    /// The sender's loops so far.
    rounds: u64,
    /// Events outside the sender so far. Each of them justifies a few loops.
    external_events: u64,
    rounds_at_instant: RoundsAtInstant,
}

impl<'s> Simulation<'s> {
    fn new(s: &'s Scenario) -> Result<Simulation<'s>, String> {
        let machine = SimMachine::new(s.seed ^ 0x5eed, s.network_faults());
        let batch_fault_counts = FaultCounts::default();
        let core = create_cluster(s, &machine, &batch_fault_counts)?;
        let handler_outcomes = HandlerOutcomes::default();
        let (outcomes, clock) = (handler_outcomes.clone(), machine.clone());
        let builder = s.producer_builder().delivery_handler(move |report| {
            trace(&clock, || describe_batch(report));
            outcomes.record(report, clock.now());
        });
        let (producer, mut sender) = build(builder, &machine).map_err(|e| e.to_string())?;
        let sender_deadline = sender.send_producer_data();
        let executor = Executor::new();
        let shared = SharedState {
            scenario: s.clone(),
            machine: machine.clone(),
            timers: executor.timers.clone(),
            history: Rc::<RefCell<History>>::default(),
            handler_outcomes,
            callback_calls: Arc::<Mutex<Vec<CallbackCall>>>::default(),
        };
        let mut simulation = Simulation {
            scenario: s,
            env: Environment::new(s, SimCluster::new(core, s), machine.clone()),
            batch_fault_counts,
            machine,
            executor,
            producer,
            sender: Some(sender),
            sender_deadline,
            shared,
            rounds: 0,
            external_events: 1,
            rounds_at_instant: RoundsAtInstant { at: Tick(0), rounds: 0 },
        };
        simulation.spawn_callers();
        Ok(simulation)
    }

    /// Spawns the callers, the early close and the purge.
    fn spawn_callers(&mut self) {
        let s = self.scenario;
        for id in 0..s.callers {
            let caller = Caller::new(id, self.shared.clone());
            self.executor.spawn(caller.run(self.producer.clone()));
        }
        let now = self.machine.now();
        if s.close_at_ms > 0 {
            let sleep =
                self.executor.timers.sleep_until(&self.machine, now.after(ms(s.close_at_ms)));
            let (producer, timeout) = (self.producer.clone(), ms(s.close_timeout_ms));
            self.executor.spawn(async move {
                sleep.await;
                let _ = producer.close_async(timeout).await;
            });
        }
        if s.purge_at_ms > 0 {
            let sleep =
                self.executor.timers.sleep_until(&self.machine, now.after(ms(s.purge_at_ms)));
            let producer = self.producer.clone();
            let scope =
                if s.purge_in_flight { PurgeScope::QueuedAndInFlight } else { PurgeScope::Queued };
            self.executor.spawn(async move {
                sleep.await;
                let _ = producer.purge(scope);
            });
        }
    }

    fn run(mut self) -> Result<RunReport, String> {
        let heal_at = self.env.started_at.after(ms(self.scenario.heal_after_ms));
        let mut healed = false;
        let (mut calls, mut last_return) = (0, self.env.started_at);
        while !self.executor.is_done() {
            while let Some(event) = self.env.next_due_event() {
                self.external_events += 1;
                self.env.apply_event(event.kind);
            }
            if !healed && self.machine.now() >= heal_at {
                healed = true;
                self.env.heal();
            }
            let next_event_at = self.env.next_event_at();
            let limit =
                if healed { Tick::NEVER } else { heal_at.min(next_event_at.unwrap_or(heal_at)) };
            self.step(limit)?;
            // A caller may need hours in all: if each call waits max.block.ms for a partition that
            // its topic has lost.
            let returned = self.shared.history.borrow().send_calls.len();
            if std::mem::replace(&mut calls, returned) != returned {
                last_return = self.machine.now();
            }
            if self.machine.now() > last_return.after(RUN_TIMEOUT) {
                let seconds = RUN_TIMEOUT.as_secs();
                return Err(format!("stuck: no call returned for {seconds} seconds"));
            }
        }
        self.env.heal();
        let virtual_ms = self.machine.now().since(self.env.started_at).as_millis() as u64;
        self.check_rounds(virtual_ms)?;
        self.check_idle()?;
        self.check_outage()?;
        self.check_recovery()?;
        self.check_close()?;
        self.finish(virtual_ms)
    }

    /// Runs everything that has work now; if nothing has, moves the clock, at most to `limit`.
    fn step(&mut self, limit: Tick) -> Result<(), String> {
        let now = self.machine.now();
        update_time(&self.machine);
        self.external_events += u64::from(self.executor.run(now));
        self.env.cluster.serve(&self.machine);
        self.check_memory()?;
        if self.sender.is_some() && (self.machine.would_wake() || self.sender_deadline <= now) {
            return self.run_sender_round(now);
        }
        let deadlines = [
            self.machine.next_event(),
            self.executor.timers.next_deadline(),
            self.env.cluster.next_deadline(),
            Some(self.sender_deadline),
        ];
        let next = deadlines.into_iter().flatten().min().unwrap_or(limit).min(limit);
        if next == Tick::NEVER {
            return if self.executor.is_done() {
                Ok(())
            } else {
                Err("deadlock: a caller waits, and no event is due".to_owned())
            };
        }
        self.external_events += u64::from(next != self.sender_deadline);
        self.machine.advance(next.max(Tick(now.0 + 1)));
        Ok(())
    }

    fn run_until_done(&mut self, timeout: Duration, error: &str) -> Result<(), String> {
        let deadline = self.machine.now().after(timeout);
        while !self.executor.is_done() {
            self.step(Tick::NEVER)?;
            if self.machine.now() > deadline {
                return Err(format!("stuck: {error}"));
            }
        }
        Ok(())
    }

    fn run_sender_round(&mut self, now: Tick) -> Result<(), String> {
        let current = &mut self.rounds_at_instant;
        if current.at == now {
            current.rounds += 1;
        } else {
            *current = RoundsAtInstant { at: now, rounds: 0 };
        }
        if current.rounds > MAX_ROUNDS_PER_INSTANT {
            return Err(format!("the sender loops endlessly at {now:?}"));
        }
        self.rounds += 1;
        if let Some(sender) = &mut self.sender {
            if sender.poll_and_handle() {
                self.sender_deadline = sender.send_producer_data();
                return Ok(());
            }
            self.sender = None;
            self.sender_deadline = Tick::NEVER;
            self.machine.drop_client();
        }
        Ok(())
    }

    /// Checks that memory in use is within the limit.
    ///
    /// A split may exceed it, because it must not wait for memory: the batch that it replaces
    /// returns its memory only afterwards. The batch, its decompressed copy and the parts exist at
    /// the same time.
    fn check_memory(&self) -> Result<(), String> {
        let s = self.scenario;
        let balance = memory_balance(&self.producer);
        let allowed_debt = 3 * s.batch_size.max(s.max_request_size) as i64;
        if (-allowed_debt..=s.buffer_memory as i64).contains(&balance) {
            return Ok(());
        }
        Err(format!("{MEMORY_LIMIT_INVARIANT}: {balance} of {} bytes left", s.buffer_memory))
    }

    /// Checks that events outside the sender explain its loops.
    fn check_rounds(&self, virtual_ms: u64) -> Result<(), String> {
        // Each read or write that moves bytes is an event, too.
        let events = self.external_events + self.machine.io_operations();
        if self.rounds > events * MAX_ROUNDS_PER_EVENT + 1000 + virtual_ms {
            let rounds = self.rounds;
            return Err(format!(
                "{ROUNDS_INVARIANT}: {rounds} loops for {events} events in {virtual_ms} ms"
            ));
        }
        Ok(())
    }

    /// Collects the observations, checks the invariants and returns the figures.
    fn finish(mut self, virtual_ms: u64) -> Result<RunReport, String> {
        for topic in 0..self.scenario.topics {
            self.env.logs.snapshot_topic(&self.env.cluster.core, &self.scenario.topic_name(topic));
        }
        self.env.logs.set_journal(self.env.cluster.core.take_append_history());
        let history = self.take_history();
        let observations = Observations {
            scenario: self.scenario,
            history: &history,
            handler_outcomes: self.shared.handler_outcomes.take(),
            logs: &self.env.logs.decode()?,
            available_memory: self.producer.available_memory(),
            suspensions: &self.env.suspensions,
            partition_counts: (0..self.scenario.topics)
                .map(|topic| self.scenario.topic_name(topic))
                .filter_map(|name| {
                    let partitions = self.env.cluster.core.describe_topic(&name)?.partitions;
                    Some((name, partitions))
                })
                .collect(),
            healed_at: self.env.healed_at,
            older_epochs: self.env.cluster.older_epochs.as_ref(),
            producer_ids_assigned: self.env.cluster.core.producer_ids_issued(),
        };
        let fingerprint = check_invariants(&observations)?;
        let accepted = history.records.len() as u64;
        let acknowledged = history.records.iter().filter(|r| r.is_acknowledged()).count() as u64;
        let mut faults = std::mem::take(&mut self.env.cluster.fault_counts);
        faults.append(&mut self.batch_fault_counts.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(RunReport {
            accepted,
            acknowledged,
            failed: accepted - acknowledged,
            rejected: history.rejected.len() as u64,
            disconnects: self.machine.lost_connections(),
            committed: 0,
            aborted: 0,
            undecided: 0,
            fenced: 0,
            metrics_pushes: self.env.cluster.core.client_metrics_pushes().count() as u64,
            faults,
            rounds: self.rounds,
            virtual_ms,
            fingerprint,
        })
    }

    /// Takes the history, with the callbacks' calls and the cluster's violations.
    fn take_history(&mut self) -> History {
        let mut history = std::mem::take(&mut *self.shared.history.borrow_mut());
        let calls = &self.shared.callback_calls;
        for call in calls.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            history.callback_results.entry(call.token).or_default().push(call.result);
        }
        for details in std::mem::take(&mut self.env.cluster.in_flight_violations) {
            history.violations.push(Violation { invariant: IN_FLIGHT_INVARIANT, details });
        }
        history
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
