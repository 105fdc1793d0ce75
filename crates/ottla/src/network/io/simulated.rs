//! A virtual machine: one clock, sockets that split and stall at will and end after any byte, name lookups,
//! all drawn from a seed. `ottla-sim` drives it; nothing in it blocks.
//!
//! Whoever drives it stands on the other side: takes what clients sent, answers, moves the clock.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

mod helpers;
mod wires;

use super::{Answer, ChannelKey, Io, Job, Ready, Stream};
use crate::time::{Env, Tick, Wakeup, WorkerPool};
use helpers::Helpers;
pub use wires::Link;
use wires::{Conn, HELD, end};

/// What the network does to bytes.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// The most nanoseconds a segment is under way.
    pub delay_ns: u64,
    /// The most bytes one read or write moves; 0 for as many as there are.
    pub split: usize,
    /// One in this many writes finds no room; 0 for none.
    pub stall: u64,
    /// One in this many segments is the connection's last; 0 for none.
    pub cut: u64,
    /// The most bytes that wait for the other side to read them before a write finds no room; 0 for any number.
    pub window: usize,
}

impl Faults {
    /// None at all.
    pub const NONE: Faults = Faults { delay_ns: 0, split: 0, stall: 0, cut: 0, window: 0 };
}

#[derive(Debug)]
struct State {
    now: Tick,
    wall_offset: i64,
    random: u64,
    faults: Faults,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    listening: Vec<SocketAddr>,
    links: BTreeMap<SocketAddr, Link>,
    names: BTreeMap<String, Vec<SocketAddr>>,
    /// What was asked of helpers, found already, and when it comes back.
    answers: Vec<(Tick, Answer)>,
    rung: bool,
    losses: u64,
    moves: u64,
}

impl State {
    fn word(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.word().is_multiple_of(n)
    }

    fn arrival(&mut self) -> Tick {
        let delay = self.faults.delay_ns;
        Tick(self.now.0 + if delay == 0 { 0 } else { self.word() % delay })
    }

    fn links_of(&self, conn: u64) -> Link {
        let link = self.conns.get(&conn).and_then(|c| self.links.get(&c.to));
        link.copied().unwrap_or_default()
    }

    fn split(&mut self, n: usize) -> usize {
        match self.faults.split {
            0 => n,
            most => n.min(1 + (self.word() % most as u64) as usize),
        }
    }
}

/// The virtual machine; clones are the same one.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Mutex<State>>, Arc<Mutex<Helpers>>);

/// What a client did, as the other side sees it.
#[derive(Debug)]
pub enum Arrived {
    /// It sent these bytes.
    Bytes(Vec<u8>),
    /// It is gone.
    Closed,
}

impl Machine {
    /// A machine at time one second, with this seed.
    pub fn new(seed: u64, faults: Faults) -> Machine {
        let state = State {
            now: Tick(1_000_000_000),
            wall_offset: 1_700_000_000_000,
            random: seed,
            faults,
            conns: BTreeMap::new(),
            next_conn: 0,
            listening: Vec::new(),
            links: BTreeMap::new(),
            names: BTreeMap::new(),
            answers: Vec::new(),
            rung: false,
            losses: 0,
            moves: 0,
        };
        Machine(Arc::new(Mutex::new(state)), Arc::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    pub fn now(&self) -> Tick {
        self.state().now
    }

    /// A random word from the machine's seed.
    pub fn random(&self) -> u64 {
        self.state().word()
    }

    /// Changes what the network does from here on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Something listens there.
    pub fn listen(&self, at: SocketAddr) {
        self.state().listening.push(at);
    }

    /// Nothing listens there any more; connections stay.
    pub fn unlisten(&self, at: SocketAddr) {
        self.state().listening.retain(|a| *a != at);
    }

    /// How the way to an address is from here on.
    pub fn set_link(&self, to: SocketAddr, link: Link) {
        let mut s = self.state();
        let (now, then) = (s.now, s.arrival());
        let old = s.links.insert(to, link).unwrap_or_default();
        for c in s.conns.values_mut().filter(|c| c.to == to) {
            for (pipe, held, was) in [
                (&mut c.up, link.up_held, old.up_held),
                (&mut c.down, link.down_held, old.down_held),
            ] {
                if held {
                    pipe.hold(now);
                } else if was {
                    pipe.let_go(then);
                }
            }
            let made_held = link.up_held || link.down_held;
            if !c.reported_made && c.made > now {
                c.made = if made_held { HELD } else { c.made };
            }
            if !made_held && c.made == HELD {
                c.made = then;
            }
        }
    }

    /// Whoever listened there is gone, and so is every connection to it.
    pub fn reset(&self, to: SocketAddr) {
        let mut s = self.state();
        s.listening.retain(|a| *a != to);
        let held = s.links.get(&to).is_some_and(|l| l.down_held);
        let now = s.now;
        for c in s.conns.values_mut().filter(|c| c.to == to) {
            if c.made > now {
                (c.refused, c.made) = (true, if held { HELD } else { now });
                continue;
            }
            c.up.segments.clear();
            c.down.segments.clear();
            c.up.ends = Some(now);
            c.down.ends = Some(if held { HELD } else { now });
        }
    }

    /// The client is no more, and so are its sockets.
    pub fn leave(&self) {
        self.work(Tick::NEVER);
        let mut s = self.state();
        let at = s.arrival();
        for c in s.conns.values_mut().filter(|c| !c.closed_by_client) {
            c.closed(at);
        }
        s.answers.clear();
    }

    /// A name.
    pub fn name(&self, host: &str, addresses: Vec<SocketAddr>) {
        self.state().names.insert(host.into(), addresses);
    }

    /// Connections lost to faults so far.
    pub fn losses(&self) -> u64 {
        self.state().losses
    }

    /// Reads and writes of the client's that moved bytes.
    pub fn moves(&self) -> u64 {
        self.state().moves
    }

    /// When something happens next, if nobody does anything: arrivals, lookups, room.
    pub fn next_event(&self) -> Option<Tick> {
        let s = self.state();
        let conns = s.conns.values().flat_map(|c| {
            let made = (!c.reported_made).then_some(c.made).filter(|at| *at < HELD);
            let unread = s.links.get(&c.to).is_some_and(|l| l.unread);
            let up = c.up.next().filter(|_| !unread && !c.end_seen);
            let down = c.down.next().filter(|_| !c.closed_by_client);
            [made, c.stalled, down, up].into_iter().flatten()
        });
        let work = self.next_work();
        conns.chain(s.answers.iter().map(|l| l.0)).chain(work).min()
    }

    /// Moves the clock on.
    pub fn advance(&self, to: Tick) {
        let now = {
            let mut s = self.state();
            s.now = s.now.max(to);
            s.now
        };
        self.work(now);
    }

    /// Moves the calendar.
    pub fn jump_wall(&self, by_ms: i64) {
        self.state().wall_offset += by_ms;
    }

    /// Whether the sender's poll would return at once.
    pub fn would_wake(&self) -> bool {
        let mut s = self.state();
        collect_edges(&mut s);
        let now = s.now;
        s.rung
            || s.conns.values().any(|c| c.edge != (false, false))
            || s.answers.iter().any(|l| l.0 <= now)
    }

    /// What arrived at the other side, by connection.
    pub fn arrived(&self) -> Vec<(u64, SocketAddr, Arrived)> {
        let mut s = self.state();
        let now = s.now;
        let mut out = Vec::new();
        let mut gone = Vec::new();
        let (links, window) = (s.links.clone(), s.faults.window);
        for (id, c) in &mut s.conns {
            if links.get(&c.to).is_some_and(|l| l.unread) {
                continue;
            }
            while let Some((at, _)) = c.up.segments.front() {
                if *at > now {
                    break;
                }
                if let Some((_, bytes)) = c.up.segments.pop_front() {
                    out.push((*id, c.to, Arrived::Bytes(bytes)));
                }
            }
            let room = window == 0 || c.up.len() < window;
            if c.full && room && !c.closed_by_client {
                c.full = false;
                c.edge.1 = true;
            }
            let over = c.up.ended(now);
            if over && c.closed_by_client {
                gone.push(*id);
            }
            if over && !std::mem::replace(&mut c.end_seen, true) {
                out.push((*id, c.to, Arrived::Closed));
            }
        }
        for id in gone {
            s.conns.remove(&id);
        }
        out
    }

    /// The other side answers.
    pub fn answer(&self, conn: u64, bytes: Vec<u8>, after: Duration) {
        let mut s = self.state();
        let at = s.arrival().after(after);
        let cut = s.faults.cut;
        let lost = s.one_in(cut);
        let keep = if lost { s.word() as usize % (bytes.len() + 1) } else { bytes.len() };
        let held = s.links_of(conn).down_held;
        let at = if held { HELD } else { at };
        let Some(c) = s.conns.get_mut(&conn) else {
            return;
        };
        if c.down.ends.is_some() || c.closed_by_client {
            return;
        }
        if keep > 0 {
            c.down.push(at, bytes[..keep].to_vec());
        }
        if lost {
            end(c, at);
            s.losses += 1;
        }
    }

    /// The other side closes.
    pub fn close(&self, conn: u64) {
        let mut s = self.state();
        let now = s.now;
        if let Some(c) = s.conns.get_mut(&conn) {
            // What is still under way to it, it never sees.
            c.up.segments.clear();
            end(c, now);
        }
    }
}

fn collect_edges(s: &mut State) {
    let now = s.now;
    for c in s.conns.values_mut().filter(|c| !c.closed_by_client) {
        if !c.reported_made && c.made <= now {
            c.reported_made = true;
            c.edge.1 = true;
        }
        if c.stalled.is_some_and(|at| at <= now) {
            c.stalled = None;
            c.edge.1 = true;
        }
        if c.down.next().is_some_and(|at| at <= now) {
            c.edge.0 = true;
        }
    }
}

impl Machine {
    /// A helper's answer is here after a while.
    fn come_back(&self, answer: Answer) {
        let mut s = self.state();
        let at = s.arrival();
        s.answers.push((at, answer));
    }
}

impl Env for Machine {
    fn now(&self) -> Tick {
        Machine::now(self)
    }

    fn wall_clock_ms(&self) -> i64 {
        let s = self.state();
        s.wall_offset + (s.now.0 / 1_000_000) as i64
    }

    fn random(&self) -> u64 {
        Machine::random(self)
    }

    fn secure_random(&self) -> [u8; 32] {
        [(); 4].map(|()| Machine::random(self).to_be_bytes()).concat().try_into().unwrap_or([0; 32])
    }

    fn unparker(&self) -> Waker {
        Waker::noop().clone()
    }

    fn park(&self, _: Option<Tick>) {
        panic!("simulated callers are tasks: they use the async forms");
    }
}

struct MachineBell(Machine);

impl Wakeup for MachineBell {
    fn wake(&self) {
        self.0.state().rung = true;
    }
}

/// A client's end of a virtual connection.
#[derive(Debug)]
pub struct SimStream {
    machine: Machine,
    conn: u64,
}

impl Stream for SimStream {
    fn finish_connect(&mut self) -> io::Result<()> {
        let s = self.machine.state();
        match s.conns.get(&self.conn) {
            Some(c) if c.refused => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(c) if c.made <= s.now => Ok(()),
            Some(_) => Err(io::ErrorKind::WouldBlock.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut s = self.machine.state();
        let most = s.split(into.len());
        let now = s.now;
        s.moves += 1;
        let Some(c) = s.conns.get_mut(&self.conn) else {
            return Ok(0);
        };
        match c.down.take(&mut into[..most], now) {
            Some(n) => Ok(n),
            None if c.down.ended(now) => Ok(0),
            None => {
                c.edge.0 = false;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut s = self.machine.state();
        let total: usize = from.iter().map(|b| b.len()).sum();
        let (stall, cut) = (s.faults.stall, s.faults.cut);
        let stalls = s.one_in(stall);
        let lost = s.one_in(cut);
        let take = s.split(total);
        let at = s.arrival();
        let at = if s.links_of(self.conn).up_held { HELD } else { at };
        let (now, window) = (s.now, s.faults.window);
        let Some(c) = s.conns.get_mut(&self.conn) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if c.up.ends.is_some_and(|at| at <= now) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if c.stalled.is_some() || c.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let room = if window == 0 { usize::MAX } else { window.saturating_sub(c.up.len()) };
        if room == 0 && c.up.ends.is_none() {
            c.full = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let take = take.min(room.max(1));
        if stalls {
            c.stalled = Some(now.after(Duration::from_micros(500)));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = Vec::with_capacity(take.min(total));
        for piece in from {
            let room = take - bytes.len();
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let n = bytes.len();
        s.moves += 1;
        if lost {
            // The socket took them; how many of them arrive is another matter.
            let keep = s.word() as usize % (n + 1);
            bytes.truncate(keep);
        }
        let Some(c) = s.conns.get_mut(&self.conn) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // Behind a loss the socket takes bytes for a while that go nowhere.
        if !bytes.is_empty() && c.up.ends.is_none() {
            c.up.push(at, bytes);
        }
        if lost {
            let at = c.up.segments.back().map_or(at, |last| last.0);
            end(c, at);
            s.losses += 1;
        }
        Ok(n)
    }
}

impl Io for Machine {
    type Stream = SimStream;

    fn connect(&mut self, key: ChannelKey, to: SocketAddr) -> io::Result<SimStream> {
        let mut s = self.state();
        let made = s.arrival();
        let link = s.links.get(&to).copied().unwrap_or_default();
        let made = if link.up_held || link.down_held { HELD } else { made };
        let refused = !s.listening.contains(&to);
        s.next_conn += 1;
        let conn = s.next_conn;
        let (up, down) = Default::default();
        s.conns.insert(
            conn,
            Conn {
                to,
                key,
                made,
                refused,
                up,
                down,
                stalled: None,
                full: false,
                edge: (false, false),
                reported_made: false,
                closed_by_client: false,
                end_seen: false,
            },
        );
        drop(s);
        Ok(SimStream { machine: self.clone(), conn })
    }

    fn want_write(&mut self, _: ChannelKey, stream: &mut SimStream, on: bool) -> io::Result<()> {
        let mut s = self.state();
        if let Some(c) = s.conns.get_mut(&stream.conn)
            && on
            && c.stalled.is_none()
            && !c.full
        {
            c.edge.1 = true;
        }
        Ok(())
    }

    fn close(&mut self, _: ChannelKey, stream: SimStream) {
        let mut s = self.state();
        let at = if s.links_of(stream.conn).up_held { HELD } else { s.arrival() };
        if let Some(c) = s.conns.get_mut(&stream.conn) {
            c.closed(at);
        }
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Ready>,
        answers: &mut Vec<Answer>,
        _: Option<Duration>,
    ) -> io::Result<()> {
        let mut s = self.state();
        s.rung = false;
        collect_edges(&mut s);
        for c in s.conns.values_mut().filter(|c| !c.closed_by_client) {
            let (readable, writable) = std::mem::take(&mut c.edge);
            if readable || writable {
                ready.push(Ready { key: c.key, readable, writable });
            }
        }
        let now = s.now;
        let (due, later) = std::mem::take(&mut s.answers).into_iter().partition(|a| a.0 <= now);
        s.answers = later;
        let due: Vec<(Tick, Answer)> = due;
        answers.extend(due.into_iter().map(|(_, answer)| answer));
        Ok(())
    }

    fn start(&mut self, job: Job) {
        match job {
            Job::Resolve { key, host, port } => {
                let found = match (host.parse(), self.state().names.get(&host)) {
                    (Ok(ip), _) => Ok(vec![SocketAddr::new(ip, port)]),
                    (_, Some(found)) => Ok(found.clone()),
                    _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
                };
                self.come_back(Answer::Resolved { key, result: found });
            }
            Job::Work(work) => self.hand_out(work),
            Job::Prepare { key, work } => {
                let result = work();
                self.come_back(Answer::Prepared { key, result });
            }
        }
    }

    fn bell(&self) -> Arc<dyn Wakeup> {
        Arc::new(MachineBell(self.clone()))
    }

    fn hands(&self) -> Arc<dyn WorkerPool> {
        Arc::new(self.clone())
    }
}
