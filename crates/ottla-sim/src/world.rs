//! The world: moves the clock to whatever comes next, lets callers, sender and broker do their part.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ottla::sim::{Arrived, Env, Faults, Machine, SimSender, Tick, build};
use ottla::{BatchReport, Delivery, Producer, Record};
use ottla_broker::{Config, Core, Fault, Local, Now, Reply};
use ottla_protocol::ErrorCode;
use ottla_protocol::wire::Gen;

use crate::executor::{Executor, Timers};
use crate::oracle::{Ended, History, Sent, judge};
use crate::scenario::Scenario;

const TOPIC: &str = "t";
/// Virtual time after which a run that is not over is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3600);
/// Rounds of the sender at one moment; more is a spin.
const ROUNDS_AT_ONCE: u32 = 5_000;
/// Virtual time of quiet, and the rounds the sender may make in it.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_ROUNDS: u64 = 60;

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
    /// Connections lost.
    pub losses: u64,
    /// Rounds of the sender.
    pub rounds: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// A number of everything that was seen: the same seed gives the same.
    pub fingerprint: u64,
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
        format!("seed {}: {e}\nreplay: cargo run -p ottla-sim -- {}\n{s:?}", s.seed, s.seed)
    })
}

struct World<'s> {
    s: &'s Scenario,
    machine: Machine,
    executor: Executor,
    producer: Producer,
    sender: SimSender,
    /// The sender sleeps until then.
    until: Tick,
    over: bool,
    core: Core,
    incoming: BTreeMap<u64, Vec<u8>>,
    hung_up: BTreeSet<u64>,
    history: Rc<RefCell<History>>,
    ends: Ends,
    rounds: u64,
    at_once: (Tick, u32),
}

fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 9092))
}

impl<'s> World<'s> {
    fn new(s: &'s Scenario) -> Result<World<'s>, String> {
        let machine = Machine::new(s.seed ^ 0x5eed, s.network);
        machine.listen(address());
        let now = now(&machine);
        let mut config = Config::default();
        config.seed = s.seed;
        let mut core = Core::new(config, now).map_err(|e| e.to_string())?;
        core.create_topic(TOPIC, s.partitions as i32, now).map_err(|e| e.1)?;
        if s.broker_fault > 0 {
            let (mut g, one_in) = (Gen::new(s.seed ^ 0xfa17), s.broker_fault);
            core.set_fault(move |_, _| (g.below(one_in) == 0).then(|| fault(&mut g)));
        }
        let ends = Ends::default();
        let (heard, clock) = (ends.clone(), machine.clone());
        let builder = s.builder().delivery_handler(move |report| heard.hear(report, clock.now()));
        let (producer, mut sender) = build(builder, &machine).map_err(|e| e.to_string())?;
        let until = sender.prepare();
        let mut executor = Executor::new();
        let history = Rc::<RefCell<History>>::default();
        for caller in 0..s.callers {
            let timers = executor.timers.clone();
            let me = Caller {
                caller,
                s: s.clone(),
                machine: machine.clone(),
                timers,
                history: history.clone(),
            };
            executor.spawn(me.run(producer.clone()));
        }
        Ok(World {
            s,
            machine,
            executor,
            producer,
            sender,
            until,
            over: false,
            core,
            incoming: BTreeMap::new(),
            hung_up: BTreeSet::new(),
            history,
            ends,
            rounds: 0,
            at_once: (Tick(0), 0),
        })
    }

    fn run(mut self) -> Result<Report, String> {
        let start = self.machine.now();
        let heal = start.after(Duration::from_millis(self.s.heal_after_ms));
        let mut healed = false;
        while !self.executor.is_done() {
            if !healed && self.machine.now() >= heal {
                healed = true;
                self.machine.set_faults(Faults::NONE);
                self.core.clear_fault();
            }
            let limit = if healed { Tick::NEVER } else { heal };
            self.step(limit)?;
            if self.machine.now() > start.after(STUCK_AFTER) {
                return Err("stuck: callers never finished".to_owned());
            }
        }
        self.be_quiet()?;
        let virtual_ms = self.machine.now().since(start).as_millis() as u64;
        self.close(start)?;
        self.judge(virtual_ms)
    }

    /// Nothing is to be done: the sender must sleep.
    fn be_quiet(&mut self) -> Result<(), String> {
        self.machine.set_faults(Faults::NONE);
        let (until, before) = (self.machine.now().after(QUIET), self.rounds);
        while self.machine.now() < until {
            self.step(until)?;
        }
        let rounds = self.rounds - before;
        if rounds > QUIET_ROUNDS {
            return Err(format!("{rounds} rounds in {} quiet seconds", QUIET.as_secs()));
        }
        Ok(())
    }

    fn close(&mut self, start: Tick) -> Result<(), String> {
        let producer = self.producer.clone();
        self.executor.spawn(async move {
            let _ = producer.close_async(Duration::from_secs(60)).await;
        });
        while !(self.over && self.executor.is_done()) {
            self.step(Tick::NEVER)?;
            if self.machine.now() > start.after(2 * STUCK_AFTER) {
                return Err("stuck: it never closed".to_owned());
            }
        }
        Ok(())
    }

    /// Lets everybody act, then moves the clock to what comes next, at most to `limit`.
    fn step(&mut self, limit: Tick) -> Result<(), String> {
        let now = self.machine.now();
        self.executor.run(now);
        self.serve();
        if !self.over && (self.machine.would_wake() || self.until <= now) {
            return self.round(now);
        }
        let sender = if self.over { Tick::NEVER } else { self.until };
        let events = [self.machine.next_event(), self.executor.timers.next()];
        let next = events.into_iter().flatten().chain([sender, limit]).min().unwrap_or(limit);
        if next == Tick::NEVER {
            return if self.executor.is_done() {
                Ok(())
            } else {
                Err("deadlock: nothing is to come".to_owned())
            };
        }
        self.machine.advance(next.max(Tick(now.0 + 1)));
        Ok(())
    }

    fn round(&mut self, now: Tick) -> Result<(), String> {
        self.at_once = if self.at_once.0 == now { (now, self.at_once.1 + 1) } else { (now, 0) };
        if self.at_once.1 > ROUNDS_AT_ONCE {
            return Err(format!("the sender spins at {now:?}"));
        }
        self.rounds += 1;
        self.over = !self.sender.complete();
        self.until = if self.over { Tick::NEVER } else { self.sender.prepare() };
        Ok(())
    }

    /// The broker's part: whole frames in, answers out.
    fn serve(&mut self) {
        for (conn, _, what) in self.machine.arrived() {
            match what {
                Arrived::Closed => {
                    self.incoming.remove(&conn);
                }
                // The broker has hung up: what is still under way to it, it never sees.
                Arrived::Bytes(_) if self.hung_up.contains(&conn) => {}
                Arrived::Bytes(bytes) => {
                    self.incoming.entry(conn).or_default().extend(bytes);
                    self.frames(conn);
                }
            }
        }
    }

    fn frames(&mut self, conn: u64) {
        let local = Local { host: "10.0.0.1".into(), port: 9092 };
        loop {
            let Some(buffer) = self.incoming.get_mut(&conn) else {
                return;
            };
            let Some(size) = buffer.first_chunk::<4>().map(|b| i32::from_be_bytes(*b) as usize)
            else {
                return;
            };
            assert!(size < 100 << 20, "the producer sent a frame of {size} bytes");
            if buffer.len() < 4 + size {
                return;
            }
            let frame: Vec<u8> = buffer.drain(..4 + size).skip(4).collect();
            let now = now(&self.machine);
            match self.core.handle(&Bytes::from(frame), &local, now.mono_ms, now) {
                Reply::Frame(out) => self.machine.answer(conn, out, Duration::ZERO),
                Reply::Silence | Reply::Wait(_) => {}
                Reply::Close(_) => {
                    self.incoming.remove(&conn);
                    self.hung_up.insert(conn);
                    self.machine.close(conn);
                    return;
                }
            }
        }
    }

    fn judge(self, virtual_ms: u64) -> Result<Report, String> {
        let mut logs = BTreeMap::new();
        for p in 0..self.s.partitions as i32 {
            logs.insert(p, self.core.batches(TOPIC, p).map_err(|e| e.to_string())?);
        }
        self.ends.check(&mut self.history.borrow_mut())?;
        let history = self.history.borrow();
        let left = self.producer.available_memory();
        judge(self.s, &history, &logs, left)?;
        let ok = |e: &Option<Ended>| e.as_ref().is_some_and(|e| e.result.is_ok());
        let accepted = history.records.len() as u64;
        let acknowledged = history.records.iter().filter(|(_, e)| ok(e)).count() as u64;
        let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
        for (sent, ended) in &history.records {
            for word in
                [sent.accepted.0, ended.as_ref().map_or(0, |e| e.at.0), u64::from(ok(ended))]
            {
                fingerprint = (fingerprint ^ word).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Ok(Report {
            accepted,
            acknowledged,
            failed: accepted - acknowledged,
            refused: history.refused,
            losses: self.machine.losses(),
            rounds: self.rounds,
            virtual_ms,
            fingerprint,
        })
    }
}

fn now(machine: &Machine) -> Now {
    Now { mono_ms: machine.now().0 / 1_000_000, wall_ms: machine.wall_ms() }
}

fn fault(g: &mut Gen) -> Fault {
    const REFUSALS: [ErrorCode; 6] = [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::LEADER_NOT_AVAILABLE,
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::CORRUPT_MESSAGE,
        ErrorCode::MESSAGE_TOO_LARGE,
        ErrorCode(4321),
    ];
    const APPENDED: [ErrorCode; 3] = [
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode::KAFKA_STORAGE_ERROR,
    ];
    match g.below(9) {
        n @ 0..6 => Fault::Refuse(REFUSALS[n as usize]),
        n => Fault::AppendedBut(APPENDED[n as usize - 6]),
    }
}

/// When each record ended, as the producer-wide handler heard it: a caller may look later.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Heard>>);

/// By token: when, whether it was acknowledged, how often.
type Heard = BTreeMap<u64, (Tick, bool, u32)>;

impl Ends {
    fn all(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, report: &BatchReport<'_>, now: Tick) {
        let mut all = self.all();
        for token in report.tokens {
            let e = all.entry(*token).or_insert((now, report.result.is_ok(), 0));
            e.2 += 1;
        }
    }

    /// Every accepted record was heard of once, with the end its delivery told.
    fn check(&self, history: &mut History) -> Result<(), String> {
        let mut all = self.all();
        for (sent, ended) in &mut history.records {
            let heard = all.remove(&token(sent.caller, sent.n));
            match (heard, ended.as_mut()) {
                (Some((at, ok, 1)), Some(ended)) if ok == ended.result.is_ok() => ended.at = at,
                other => {
                    return Err(format!(
                        "record {} of caller {}: heard {other:?}",
                        sent.n, sent.caller
                    ));
                }
            }
        }
        match all.first_key_value() {
            Some((token, _)) => {
                Err(format!("an end was heard of record {token}, which was not accepted"))
            }
            None => Ok(()),
        }
    }
}

fn token(caller: u64, n: u64) -> u64 {
    caller << 32 | n
}

/// One virtual caller.
struct Caller {
    caller: u64,
    s: Scenario,
    machine: Machine,
    timers: Timers,
    history: Rc<RefCell<History>>,
}

impl Caller {
    async fn run(self, producer: Producer) {
        let mut g = Gen::new(self.s.seed ^ (self.caller + 1).wrapping_mul(0x9E37_79B9));
        let mut pending: Vec<(usize, Delivery)> = Vec::new();
        for n in 0..self.s.records {
            if g.below(3) == 0 {
                let pause = Duration::from_micros(g.below(20_000));
                self.timers.until(&self.machine, self.machine.now().after(pause)).await;
            }
            let key = (g.below(2) == 0).then(|| g.bytes().to_vec());
            let mut value = format!("{}/{n}/", self.caller).into_bytes();
            value.extend((0..g.below(self.s.value_max)).map(|_| b'a' + (g.word() % 7) as u8));
            let mut record = Record::to(TOPIC)
                .maybe_key(key.as_deref())
                .value(&value)
                .token(token(self.caller, n));
            if g.below(4) == 0 {
                record = record.partition(g.below(self.s.partitions) as i32);
            }
            let asked = self.machine.now();
            let dropped = g.below(10) == 0;
            let sending = producer.send_async(record);
            // A future that is dropped half way must leave nothing behind.
            let result = if dropped { poll_once(sending).await } else { Some(sending.await) };
            let Some(result) = result else { continue };
            self.accepted(result, &mut pending, (n, key, value), asked);
            match g.below(12) {
                0 => drop(producer.flush_async().await),
                1 => self.settle(&mut pending).await,
                _ => {}
            }
        }
        self.settle(&mut pending).await;
    }

    fn accepted(
        &self,
        result: Result<Delivery, ottla::Error>,
        pending: &mut Vec<(usize, Delivery)>,
        (n, key, value): (u64, Option<Vec<u8>>, Vec<u8>),
        asked: Tick,
    ) {
        let accepted = self.machine.now();
        let mut history = self.history.borrow_mut();
        let waited = accepted.since(asked).as_millis() as u64;
        if waited > self.s.block_ms + 1 {
            history
                .late_callers
                .push(format!("caller {} waited {waited} ms for send", self.caller));
        }
        match result {
            Ok(delivery) => {
                let (caller, partition) = (self.caller, delivery.partition());
                let sent = Sent { caller, n, partition, key, value, asked, accepted };
                pending.push((history.records.len(), delivery));
                history.records.push((sent, None));
            }
            Err(_) => history.refused += 1,
        }
    }

    async fn settle(&self, pending: &mut Vec<(usize, Delivery)>) {
        // All at once, so that each end is seen when it comes.
        std::future::poll_fn(|cx| {
            pending.retain_mut(|(index, delivery)| match std::pin::Pin::new(delivery).poll(cx) {
                std::task::Poll::Pending => true,
                std::task::Poll::Ready(result) => {
                    let ended = Ended { at: self.machine.now(), result };
                    let old = self.history.borrow_mut().records[*index].1.replace(ended);
                    assert!(old.is_none(), "a record ends once");
                    false
                }
            });
            if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// Polls a future once; dropped if it has to wait.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
