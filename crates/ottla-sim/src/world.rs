//! The world: moves the clock to whatever comes next, lets callers, sender and brokers do their part.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::sim::{Faults, Link, SimMachine, SimSender, Tick, build, memory_balance};
use ottla::{Producer, PurgeScope};

use crate::callers::{Caller, Shared};
use crate::events::Kind;
use crate::executor::Executor;
use crate::history::{Ends, History, Told};
use crate::oracle::{Case, Logs, judge};
use crate::scenario::Scenario;
use crate::servers::{Servers, address, now};
use crate::setup::{Played, cluster, make, told};
use crate::trace::{moved, trace};

/// Virtual time after which a run that is not over is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3600);
/// Rounds of the sender at one moment; more is a spin.
const ROUNDS_AT_ONCE: u32 = 50_000;
/// Virtual time of quiet, and the rounds the sender may make in it.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_ROUNDS: u64 = 60;
const ROUNDS_DEMAND: &str =
    "the sender goes round only for what happens, and rests when nothing does";
/// Rounds of the sender for each thing that happens outside it, at most.
const ROUNDS_AN_EVENT: u64 = 3;

/// What a run was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records accepted.
    pub accepted: u64,
    /// Of them, acknowledged.
    pub acknowledged: u64,
    /// Of them, failed.
    pub failed: u64,
    /// Records refused by `send`.
    pub refused: u64,
    /// Connections lost to cuts.
    pub losses: u64,
    /// What else was done to it, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Rounds of the sender.
    pub rounds: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// A number of everything that was seen: the same seed gives the same.
    pub fingerprint: u64,
}

impl Report {
    /// Adds another run's figures to these.
    pub fn add(&mut self, other: Report) {
        self.accepted += other.accepted;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.refused += other.refused;
        self.losses += other.losses;
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
pub fn run(seed: u64) -> Result<Report, String> {
    run_scenario(&Scenario::new(seed))
}

/// Runs a scenario.
///
/// # Errors
/// What the oracle says.
pub fn run_scenario(s: &Scenario) -> Result<Report, String> {
    World::new(s)?.run().map_err(|e| {
        let written = s.written();
        format!("seed {}: {e}\nreplay: cargo xtask sim --trace '{written}'", s.seed)
    })
}

struct World<'s> {
    s: &'s Scenario,
    machine: SimMachine,
    executor: Executor,
    producer: Producer,
    /// Gone once it is over, with all it held.
    sender: Option<SimSender>,
    /// The sender sleeps until then.
    until: Tick,
    servers: Servers,
    played: Played,
    shared: Shared,
    logs: Logs,
    next_event: usize,
    start: Tick,
    rounds: u64,
    /// Things that happened outside the sender, each a reason for rounds.
    happened: u64,
    at_once: (Tick, u32),
    healed_at: Tick,
    /// How far the client's calendar has jumped, in milliseconds.
    calendar: i64,
    /// When the machine slept: from, to.
    slept: Vec<(Tick, Tick)>,
}

impl<'s> World<'s> {
    fn new(s: &'s Scenario) -> Result<World<'s>, String> {
        let machine = SimMachine::new(s.seed ^ 0x5eed, s.faults());
        let played = Played::default();
        let core = cluster(s, &machine, &played)?;
        let ends = Ends::default();
        let callbacks = Arc::<Mutex<Vec<(u64, Told)>>>::default();
        let (heard, clock) = (ends.clone(), machine.clone());
        let builder = s.builder().delivery_handler(move |report| {
            trace(&clock, || told(report));
            heard.hear(report, clock.now());
        });
        let (producer, mut sender) = build(builder, &machine).map_err(|e| e.to_string())?;
        let until = sender.send_producer_data();
        let mut executor = Executor::new();
        let history = Rc::<RefCell<History>>::default();
        let shared = Shared {
            s: s.clone(),
            machine: machine.clone(),
            timers: executor.timers.clone(),
            history,
            ends,
            callbacks,
        };
        for caller in 0..s.callers {
            let me = Caller { caller, shared: shared.clone(), pending: Vec::new() };
            executor.spawn(me.run(producer.clone()));
        }
        if s.close_at_ms > 0 {
            let (producer, timers, at) =
                (producer.clone(), executor.timers.clone(), machine.clone());
            let (when, given) = (machine.now().after(ms(s.close_at_ms)), ms(s.close_ms));
            executor.spawn(async move {
                timers.until(&at, when).await;
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
                timers.until(&at, when).await;
                let _ = producer.purge(what);
            });
        }
        Ok(World {
            s,
            start: machine.now(),
            servers: Servers::new(core, s),
            played,
            machine,
            executor,
            producer,
            sender: Some(sender),
            until,
            shared,
            logs: Logs::default(),
            next_event: 0,
            rounds: 0,
            happened: 1,
            at_once: (Tick(0), 0),
            healed_at: Tick::NEVER,
            calendar: 0,
            slept: Vec::new(),
        })
    }

    fn run(mut self) -> Result<Report, String> {
        let heal = self.start.after(ms(self.s.heal_after_ms));
        let mut healed = false;
        while !self.executor.is_done() {
            self.events();
            if !healed && self.machine.now() >= heal {
                healed = true;
                self.heal();
            }
            let next = self.s.events.get(self.next_event).map(|e| self.start.after(ms(e.at_ms)));
            let limit = if healed { Tick::NEVER } else { heal.min(next.unwrap_or(heal)) };
            self.step(limit)?;
            if self.machine.now() > self.start.after(STUCK_AFTER) {
                return Err("stuck: callers never finished".to_owned());
            }
        }
        self.heal();
        let virtual_ms = self.machine.now().since(self.start).as_millis() as u64;
        // Bytes that come and go in pieces are a reason each.
        let reasons = self.happened + self.machine.io_operations();
        if self.rounds > reasons * ROUNDS_AN_EVENT + 1000 + virtual_ms {
            return Err(format!(
                "{ROUNDS_DEMAND}: {} rounds for {reasons} reasons in {virtual_ms} ms",
                self.rounds
            ));
        }
        self.be_quiet()?;
        self.outage()?;
        self.probe()?;
        self.close()?;
        self.judge(virtual_ms)
    }

    /// What the scenario has happen by now.
    fn events(&mut self) {
        while let Some(event) = self.s.events.get(self.next_event)
            && self.start.after(ms(event.at_ms)) <= self.machine.now()
        {
            self.next_event += 1;
            self.happened += 1;
            trace(&self.machine, || event.to_string());
            self.happen(event.kind);
        }
    }

    fn happen(&mut self, kind: Kind) {
        let time = now(&self.machine);
        let (machine, core) = (&self.machine, &mut self.servers.core);
        let link = |node, up_held, down_held, unread| {
            machine.set_link(address(node), Link { up_held, down_held, reads_paused: unread });
        };
        let name = match kind {
            Kind::Kill(node) if core.is_up(node) => {
                core.stop_node(node, time);
                machine.reset_server(address(node));
                self.servers.forget(node);
                "node killed"
            }
            Kind::Kill(_) => return,
            Kind::Restart(node) if core.is_up(node) => return,
            Kind::Restart(node) => {
                core.start_node(node, time);
                machine.stop_listening(address(node));
                machine.listen(address(node));
                "node started"
            }
            Kind::Move(topic, p, to, keep) => {
                let (topic, how) = (self.s.topic(topic), (keep, self.s.unclean));
                if !core.move_leader(&topic, p as i32, to, how, time) {
                    return;
                }
                if keep { "leader moved" } else { "leader moved, tail lost" }
            }
            Kind::Pause(node) => {
                core.set_replication_paused(node, true, time);
                "follower paused"
            }
            Kind::Resume(node) => {
                core.set_replication_paused(node, false, time);
                "follower resumed"
            }
            Kind::Hole(node) => {
                link(node, true, true, false);
                "black hole"
            }
            Kind::HalfOpen(node) => {
                link(node, false, true, false);
                "half open"
            }
            Kind::Deaf(node) => {
                link(node, false, false, true);
                "slow reader"
            }
            Kind::Mend(node) => {
                link(node, false, false, false);
                "way mended"
            }
            Kind::Reset(node) => {
                let up = core.is_up(node);
                machine.reset_server(address(node));
                if up {
                    machine.listen(address(node));
                }
                self.servers.forget(node);
                "connections reset"
            }
            Kind::Calendar(by) => {
                machine.jump_wall_clock(by);
                self.calendar += by;
                "calendar jumped"
            }
            Kind::Sleep(length) => {
                let from = machine.now();
                machine.advance(from.after(ms(length)));
                self.slept.push((from, machine.now()));
                "machine slept"
            }
            Kind::Recreate(topic, partitions) => {
                self.delete(topic);
                self.create(topic, partitions);
                "topic made anew"
            }
            Kind::Delete(topic) => {
                self.delete(topic);
                "topic deleted"
            }
            Kind::Widen(topic, to) => {
                let _ = core.create_partitions(&self.s.topic(topic), to as i32, time);
                "topic widened"
            }
            Kind::Limit(topic, bytes) => {
                let limit = ("max.message.bytes", bytes.to_string());
                let _ = core.set_topic_config(&self.s.topic(topic), limit.0, &limit.1);
                "largest batch changed"
            }
            Kind::Throttle(node, wait) => {
                core.set_produce_throttle(node, wait);
                "throttle set"
            }
            Kind::NoNames => {
                machine.set_host("kafka", Vec::new());
                "names lost"
            }
            Kind::Names => {
                machine.set_host("kafka", vec![address(1)]);
                "names found"
            }
        };
        self.servers.count(name);
    }

    fn delete(&mut self, topic: u64) {
        let name = self.s.topic(topic);
        self.logs.keep(&self.servers.core, &name);
        let _ = self.servers.core.delete_topic(&name);
    }

    fn create(&mut self, topic: u64, partitions: u64) {
        let time = now(&self.machine);
        let _ = make(&mut self.servers.core, self.s, topic, partitions, time);
    }

    /// Everything that was done is undone.
    fn heal(&mut self) {
        trace(&self.machine, || "the world heals".to_owned());
        self.healed_at = self.healed_at.min(self.machine.now());
        self.machine.set_faults(Faults::NONE);
        self.servers.heal();
        self.machine.jump_wall_clock(-std::mem::take(&mut self.calendar));
        self.servers.core.set_fetch_delay(None::<fn(i32) -> u64>);
        self.machine.set_host("kafka", vec![address(1)]);
        for node in 1..=self.s.nodes as i32 {
            let time = now(&self.machine);
            let core = &mut self.servers.core;
            core.set_produce_throttle(node, 0);
            core.set_replication_paused(node, false, time);
            core.start_node(node, time);
            self.machine.stop_listening(address(node));
            self.machine.listen(address(node));
            self.machine.set_link(address(node), Link::default());
        }
        for topic in 0..self.s.topics {
            if self.servers.core.describe_topic(&self.s.topic(topic)).is_none() {
                self.create(topic, self.s.partitions);
            }
            let (name, max) = (self.s.topic(topic), self.s.message_max.to_string());
            let _ = self.servers.core.set_topic_config(&name, "max.message.bytes", &max);
        }
    }

    /// Nothing is to be done: the sender must sleep.
    fn be_quiet(&mut self) -> Result<(), String> {
        let (until, before) = (self.machine.now().after(QUIET), self.rounds);
        while self.machine.now() < until {
            self.step(until)?;
        }
        let rounds = self.rounds - before;
        if rounds > QUIET_ROUNDS {
            let seconds = QUIET.as_secs();
            return Err(format!("{ROUNDS_DEMAND}: {rounds} rounds in {seconds} quiet seconds"));
        }
        Ok(())
    }

    /// Nobody is there for longer than a record lives: what is sent meanwhile must end all the same, and must leave
    /// nothing behind that later records would trip over.
    fn outage(&mut self) -> Result<(), String> {
        trace(&self.machine, || "every node is gone".to_owned());
        for node in 1..=self.s.nodes as i32 {
            self.happen(Kind::Kill(node));
        }
        let me = self.caller(self.s.callers + 1);
        self.executor.spawn(me.into_the_dark(self.producer.clone(), self.partitions()));
        self.until_done(1, "what was sent into the dark never ended")?;
        self.heal();
        // Connections are tried again at least once a second.
        let until = self.machine.now().after(ms(5_000));
        while self.machine.now() < until {
            self.step(until)?;
        }
        Ok(())
    }

    /// The world is whole: what is sent now must arrive.
    fn probe(&mut self) -> Result<(), String> {
        let me = self.caller(self.s.callers);
        self.executor.spawn(me.probe(self.producer.clone(), self.partitions()));
        self.until_done(1, "the probes never ended")
    }

    fn caller(&self, caller: u64) -> Caller {
        Caller { caller, shared: self.shared.clone(), pending: Vec::new() }
    }

    /// Every partition there is.
    fn partitions(&self) -> Vec<(String, i32)> {
        let mut partitions = Vec::new();
        for topic in (0..self.s.topics).map(|t| self.s.topic(t)) {
            let count = self.servers.core.describe_topic(&topic).map_or(0, |t| t.1);
            partitions.extend((0..count).map(|p| (topic.clone(), p)));
        }
        partitions
    }

    fn close(&mut self) -> Result<(), String> {
        let producer = self.producer.clone();
        self.executor.spawn(async move {
            let _ = producer.close_async(Duration::from_secs(60)).await;
        });
        self.until_done(2, "it never closed")?;
        while self.sender.is_some() {
            self.step(Tick::NEVER)?;
        }
        Ok(())
    }

    fn until_done(&mut self, hours: u32, what: &str) -> Result<(), String> {
        let end = self.machine.now().after(hours * STUCK_AFTER);
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
        moved(&self.machine);
        self.happened += u64::from(self.executor.run(now));
        self.servers.serve(&self.machine);
        self.memory()?;
        if self.sender.is_some() && (self.machine.would_wake() || self.until <= now) {
            return self.round(now);
        }
        let sender = self.until;
        let servers = self.servers.core.next_deadline().map(|at| Tick(at * 1_000_000));
        let events = [self.machine.next_event(), self.executor.timers.next(), servers];
        let next = events.into_iter().flatten().chain([sender, limit]).min().unwrap_or(limit);
        if next == Tick::NEVER {
            return if self.executor.is_done() {
                Ok(())
            } else {
                Err("deadlock: nothing is to come".to_owned())
            };
        }
        self.happened += u64::from(next != sender);
        self.machine.advance(next.max(Tick(now.0 + 1)));
        Ok(())
    }

    /// No more memory than there is, but for a batch that is being split, the copy that is worked on, its parts.
    fn memory(&self) -> Result<(), String> {
        let balance = memory_balance(&self.producer);
        let debt = 3 * self.s.batch_size.max(self.s.request_size) as i64;
        if (-debt..=self.s.buffer_memory as i64).contains(&balance) {
            return Ok(());
        }
        let what = "memory is never above its cap but by what one batch that is being split takes three times";
        Err(format!("{what}: {balance} of {} left", self.s.buffer_memory))
    }

    fn round(&mut self, now: Tick) -> Result<(), String> {
        self.at_once = if self.at_once.0 == now { (now, self.at_once.1 + 1) } else { (now, 0) };
        if self.at_once.1 > ROUNDS_AT_ONCE {
            return Err(format!("the sender spins at {now:?}"));
        }
        self.rounds += 1;
        if let Some(sender) = &mut self.sender {
            if sender.poll_and_handle() {
                self.until = sender.send_producer_data();
                return Ok(());
            }
            (self.sender, self.until) = (None, Tick::NEVER);
            self.machine.drop_client();
        }
        Ok(())
    }

    fn judge(mut self, virtual_ms: u64) -> Result<Report, String> {
        for topic in 0..self.s.topics {
            self.logs.keep(&self.servers.core, &self.s.topic(topic));
        }
        self.logs.journal(self.servers.core.take_append_history());
        let mut history = std::mem::take(&mut *self.shared.history.borrow_mut());
        let mut told = self.shared.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        for (token, told) in told.drain(..) {
            history.callbacks.entry(token).or_default().push(told);
        }
        drop(told);
        for what in std::mem::take(&mut self.servers.broken) {
            history.broken.push(("requests in flight are as many as allowed", what));
        }
        let case = Case {
            s: self.s,
            history: &history,
            heard: self.shared.ends.take(),
            logs: &self.logs.read()?,
            memory_left: self.producer.available_memory(),
            slept: &self.slept,
            partitions: (0..self.s.topics)
                .map(|t| self.s.topic(t))
                .filter_map(|t| Some((t.clone(), self.servers.core.describe_topic(&t)?.1)))
                .collect(),
            healed_at: self.healed_at,
            ids_given: self.servers.core.producer_ids_issued(),
        };
        let fingerprint = judge(&case)?;
        let ok = |e: &crate::Ended| e.result.is_ok();
        let accepted = history.records.len() as u64;
        let acknowledged =
            history.records.iter().filter(|(_, e)| e.as_ref().is_some_and(ok)).count() as u64;
        Ok(Report {
            accepted,
            acknowledged,
            failed: accepted - acknowledged,
            refused: history.refused.len() as u64,
            losses: self.machine.lost_connections(),
            faults: {
                let mut all = std::mem::take(&mut self.servers.played);
                all.append(&mut self.played.lock().unwrap_or_else(PoisonError::into_inner));
                all
            },
            rounds: self.rounds,
            virtual_ms,
            fingerprint,
        })
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if let Some(sender) = &mut self.sender {
            sender.abort();
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
