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

mod workers;
mod connections;

use super::{ChannelKey, Io, Job, JobResult, Readiness, Stream};
use crate::time::{Env, Tick, Wakeup, WorkerPool};
pub use connections::Link;
use connections::{HELD, SimConnection, disconnect};
use workers::SimWorkers;

/// What the network does to bytes.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// The most nanoseconds a segment is under way.
    pub max_delay_ns: u64,
    /// The most bytes one read or write moves; 0 for as many as there are.
    pub max_io_bytes: usize,
    /// One in this many writes finds no room; 0 for none.
    pub stall_one_in: u64,
    /// One in this many segments is the connection's last; 0 for none.
    pub disconnect_one_in: u64,
    /// The most bytes that wait for the other side to read them before a write finds no room; 0 for any number.
    pub window_bytes: usize,
}

impl Faults {
    /// None at all.
    pub const NONE: Faults = Faults {
        max_delay_ns: 0,
        max_io_bytes: 0,
        stall_one_in: 0,
        disconnect_one_in: 0,
        window_bytes: 0,
    };
}

#[derive(Debug)]
struct SimState {
    now: Tick,
    wall_offset_ms: i64,
    random_state: u64,
    faults: Faults,
    conns: BTreeMap<u64, SimConnection>,
    next_conn: u64,
    listening: Vec<SocketAddr>,
    links: BTreeMap<SocketAddr, Link>,
    hosts: BTreeMap<String, Vec<SocketAddr>>,
    /// What was asked of helpers, found already, and when it comes back.
    job_results: Vec<(Tick, JobResult)>,
    woken: bool,
    lost_connections: u64,
    io_operations: u64,
}

impl SimState {
    fn next_random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random_state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.next_random().is_multiple_of(n)
    }

    fn random_arrival(&mut self) -> Tick {
        let delay = self.faults.max_delay_ns;
        Tick(self.now.0 + if delay == 0 { 0 } else { self.next_random() % delay })
    }

    fn link_of(&self, conn: u64) -> Link {
        let link = self.conns.get(&conn).and_then(|c| self.links.get(&c.to));
        link.copied().unwrap_or_default()
    }

    fn random_io_len(&mut self, n: usize) -> usize {
        match self.faults.max_io_bytes {
            0 => n,
            most => n.min(1 + (self.next_random() % most as u64) as usize),
        }
    }
}

/// The virtual machine; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimMachine(Arc<Mutex<SimState>>, Arc<Mutex<SimWorkers>>);

/// What a client did, as the other side sees it.
#[derive(Debug)]
pub enum ClientInput {
    /// It sent these bytes.
    Bytes(Vec<u8>),
    /// It is gone.
    Closed,
}

impl SimMachine {
    /// A machine at time one second, with this seed.
    pub fn new(seed: u64, faults: Faults) -> SimMachine {
        let state = SimState {
            now: Tick(1_000_000_000),
            wall_offset_ms: 1_700_000_000_000,
            random_state: seed,
            faults,
            conns: BTreeMap::new(),
            next_conn: 0,
            listening: Vec::new(),
            links: BTreeMap::new(),
            hosts: BTreeMap::new(),
            job_results: Vec::new(),
            woken: false,
            lost_connections: 0,
            io_operations: 0,
        };
        SimMachine(Arc::new(Mutex::new(state)), Arc::default())
    }

    fn state(&self) -> MutexGuard<'_, SimState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    pub fn now(&self) -> Tick {
        self.state().now
    }

    /// A random word from the machine's seed.
    pub fn random(&self) -> u64 {
        self.state().next_random()
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
    pub fn stop_listening(&self, at: SocketAddr) {
        self.state().listening.retain(|a| *a != at);
    }

    /// How the way to an address is from here on.
    pub fn set_link(&self, to: SocketAddr, link: Link) {
        let mut s = self.state();
        let (now, then) = (s.now, s.random_arrival());
        let old = s.links.insert(to, link).unwrap_or_default();
        for c in s.conns.values_mut().filter(|c| c.to == to) {
            for (pipe, held, was) in [
                (&mut c.up, link.up_held, old.up_held),
                (&mut c.down, link.down_held, old.down_held),
            ] {
                if held {
                    pipe.hold(now);
                } else if was {
                    pipe.release(then);
                }
            }
            let made_held = link.up_held || link.down_held;
            if !c.connect_reported && c.connected_at > now {
                c.connected_at = if made_held { HELD } else { c.connected_at };
            }
            if !made_held && c.connected_at == HELD {
                c.connected_at = then;
            }
        }
    }

    /// Whoever listened there is gone, and so is every connection to it.
    pub fn reset_server(&self, to: SocketAddr) {
        let mut s = self.state();
        s.listening.retain(|a| *a != to);
        let held = s.links.get(&to).is_some_and(|l| l.down_held);
        let now = s.now;
        for c in s.conns.values_mut().filter(|c| c.to == to) {
            if c.connected_at > now {
                (c.refused, c.connected_at) = (true, if held { HELD } else { now });
                continue;
            }
            c.up.segments.clear();
            c.down.segments.clear();
            c.up.ends_at = Some(now);
            c.down.ends_at = Some(if held { HELD } else { now });
        }
    }

    /// The client is no more, and so are its sockets.
    pub fn drop_client(&self) {
        self.run_due_work(Tick::NEVER);
        let mut s = self.state();
        let at = s.random_arrival();
        for c in s.conns.values_mut().filter(|c| !c.closed_by_client) {
            c.close_by_client(at);
        }
        s.job_results.clear();
    }

    /// A name.
    pub fn set_host(&self, host: &str, addresses: Vec<SocketAddr>) {
        self.state().hosts.insert(host.into(), addresses);
    }

    /// Connections lost to faults so far.
    pub fn lost_connections(&self) -> u64 {
        self.state().lost_connections
    }

    /// Reads and writes of the client's that moved bytes.
    pub fn io_operations(&self) -> u64 {
        self.state().io_operations
    }

    /// When something happens next, if nobody does anything: arrivals, lookups, room.
    pub fn next_event(&self) -> Option<Tick> {
        let s = self.state();
        let conns = s.conns.values().flat_map(|c| {
            let made = (!c.connect_reported).then_some(c.connected_at).filter(|at| *at < HELD);
            let unread = s.links.get(&c.to).is_some_and(|l| l.reads_paused);
            let up = c.up.next_arrival().filter(|_| !unread && !c.end_reported);
            let down = c.down.next_arrival().filter(|_| !c.closed_by_client);
            [made, c.stalled_until, down, up].into_iter().flatten()
        });
        let work = self.next_work_at();
        conns.chain(s.job_results.iter().map(|l| l.0)).chain(work).min()
    }

    /// Moves the clock on.
    pub fn advance(&self, to: Tick) {
        let now = {
            let mut s = self.state();
            s.now = s.now.max(to);
            s.now
        };
        self.run_due_work(now);
    }

    /// Moves the calendar.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        self.state().wall_offset_ms += by_ms;
    }

    /// Whether the sender's poll would return at once.
    pub fn would_wake(&self) -> bool {
        let mut s = self.state();
        collect_edges(&mut s);
        let now = s.now;
        s.woken
            || s.conns.values().any(|c| c.pending_edges != (false, false))
            || s.job_results.iter().any(|l| l.0 <= now)
    }

    /// What arrived at the other side, by connection.
    pub fn take_client_input(&self) -> Vec<(u64, SocketAddr, ClientInput)> {
        let mut s = self.state();
        let now = s.now;
        let mut out = Vec::new();
        let mut gone = Vec::new();
        let (links, window) = (s.links.clone(), s.faults.window_bytes);
        for (id, c) in &mut s.conns {
            if links.get(&c.to).is_some_and(|l| l.reads_paused) {
                continue;
            }
            while let Some((at, _)) = c.up.segments.front() {
                if *at > now {
                    break;
                }
                if let Some((_, bytes)) = c.up.segments.pop_front() {
                    out.push((*id, c.to, ClientInput::Bytes(bytes)));
                }
            }
            let room = window == 0 || c.up.queued_bytes() < window;
            if c.full && room && !c.closed_by_client {
                c.full = false;
                c.pending_edges.1 = true;
            }
            let over = c.up.has_ended(now);
            if over && c.closed_by_client {
                gone.push(*id);
            }
            if over && !std::mem::replace(&mut c.end_reported, true) {
                out.push((*id, c.to, ClientInput::Closed));
            }
        }
        for id in gone {
            s.conns.remove(&id);
        }
        out
    }

    /// The other side answers.
    pub fn send_to_client(&self, conn: u64, bytes: Vec<u8>, after: Duration) {
        let mut s = self.state();
        let at = s.random_arrival().after(after);
        let cut = s.faults.disconnect_one_in;
        let lost = s.one_in(cut);
        let keep = if lost { s.next_random() as usize % (bytes.len() + 1) } else { bytes.len() };
        let held = s.link_of(conn).down_held;
        let at = if held { HELD } else { at };
        let Some(c) = s.conns.get_mut(&conn) else {
            return;
        };
        if c.down.ends_at.is_some() || c.closed_by_client {
            return;
        }
        if keep > 0 {
            c.down.push(at, bytes[..keep].to_vec());
        }
        if lost {
            disconnect(c, at);
            s.lost_connections += 1;
        }
    }

    /// The other side closes.
    pub fn close_connection(&self, conn: u64) {
        let mut s = self.state();
        let now = s.now;
        if let Some(c) = s.conns.get_mut(&conn) {
            // What is still under way to it, it never sees.
            c.up.segments.clear();
            disconnect(c, now);
        }
    }
}

fn collect_edges(s: &mut SimState) {
    let now = s.now;
    for c in s.conns.values_mut().filter(|c| !c.closed_by_client) {
        if !c.connect_reported && c.connected_at <= now {
            c.connect_reported = true;
            c.pending_edges.1 = true;
        }
        if c.stalled_until.is_some_and(|at| at <= now) {
            c.stalled_until = None;
            c.pending_edges.1 = true;
        }
        if c.down.next_arrival().is_some_and(|at| at <= now) {
            c.pending_edges.0 = true;
        }
    }
}

impl SimMachine {
    /// A helper's answer is here after a while.
    fn queue_job_result(&self, answer: JobResult) {
        let mut s = self.state();
        let at = s.random_arrival();
        s.job_results.push((at, answer));
    }
}

impl Env for SimMachine {
    fn now(&self) -> Tick {
        SimMachine::now(self)
    }

    fn wall_clock_ms(&self) -> i64 {
        let s = self.state();
        s.wall_offset_ms + (s.now.0 / 1_000_000) as i64
    }

    fn random(&self) -> u64 {
        SimMachine::random(self)
    }

    fn secure_random(&self) -> [u8; 32] {
        [(); 4]
            .map(|()| SimMachine::random(self).to_be_bytes())
            .concat()
            .try_into()
            .unwrap_or([0; 32])
    }

    fn unparker(&self) -> Waker {
        Waker::noop().clone()
    }

    fn park(&self, _: Option<Tick>) {
        panic!("simulated callers are tasks: they use the async forms");
    }
}

struct SimWakeup(SimMachine);

impl Wakeup for SimWakeup {
    fn wake(&self) {
        self.0.state().woken = true;
    }
}

/// A client's end of a virtual connection.
#[derive(Debug)]
pub struct SimStream {
    machine: SimMachine,
    conn: u64,
}

impl Stream for SimStream {
    fn finish_connect(&mut self) -> io::Result<()> {
        let s = self.machine.state();
        match s.conns.get(&self.conn) {
            Some(c) if c.refused => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(c) if c.connected_at <= s.now => Ok(()),
            Some(_) => Err(io::ErrorKind::WouldBlock.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut s = self.machine.state();
        let most = s.random_io_len(into.len());
        let now = s.now;
        s.io_operations += 1;
        let Some(c) = s.conns.get_mut(&self.conn) else {
            return Ok(0);
        };
        match c.down.read(&mut into[..most], now) {
            Some(n) => Ok(n),
            None if c.down.has_ended(now) => Ok(0),
            None => {
                c.pending_edges.0 = false;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut s = self.machine.state();
        let total: usize = from.iter().map(|b| b.len()).sum();
        let (stall, cut) = (s.faults.stall_one_in, s.faults.disconnect_one_in);
        let stalls = s.one_in(stall);
        let lost = s.one_in(cut);
        let take = s.random_io_len(total);
        let at = s.random_arrival();
        let at = if s.link_of(self.conn).up_held { HELD } else { at };
        let (now, window) = (s.now, s.faults.window_bytes);
        let Some(c) = s.conns.get_mut(&self.conn) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if c.up.ends_at.is_some_and(|at| at <= now) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if c.stalled_until.is_some() || c.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let room =
            if window == 0 { usize::MAX } else { window.saturating_sub(c.up.queued_bytes()) };
        if room == 0 && c.up.ends_at.is_none() {
            c.full = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let take = take.min(room.max(1));
        if stalls {
            c.stalled_until = Some(now.after(Duration::from_micros(500)));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = Vec::with_capacity(take.min(total));
        for piece in from {
            let room = take - bytes.len();
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let n = bytes.len();
        s.io_operations += 1;
        if lost {
            // The socket took them; how many of them arrive is another matter.
            let keep = s.next_random() as usize % (n + 1);
            bytes.truncate(keep);
        }
        let Some(c) = s.conns.get_mut(&self.conn) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // Behind a loss the socket takes bytes for a while that go nowhere.
        if !bytes.is_empty() && c.up.ends_at.is_none() {
            c.up.push(at, bytes);
        }
        if lost {
            let at = c.up.segments.back().map_or(at, |last| last.0);
            disconnect(c, at);
            s.lost_connections += 1;
        }
        Ok(n)
    }
}

impl Io for SimMachine {
    type Stream = SimStream;

    fn connect(&mut self, key: ChannelKey, to: SocketAddr) -> io::Result<SimStream> {
        let mut s = self.state();
        let made = s.random_arrival();
        let link = s.links.get(&to).copied().unwrap_or_default();
        let made = if link.up_held || link.down_held { HELD } else { made };
        let refused = !s.listening.contains(&to);
        s.next_conn += 1;
        let conn = s.next_conn;
        let (up, down) = Default::default();
        s.conns.insert(
            conn,
            SimConnection {
                to,
                key,
                connected_at: made,
                refused,
                up,
                down,
                stalled_until: None,
                full: false,
                pending_edges: (false, false),
                connect_reported: false,
                closed_by_client: false,
                end_reported: false,
            },
        );
        drop(s);
        Ok(SimStream { machine: self.clone(), conn })
    }

    fn set_write_interest(
        &mut self,
        _: ChannelKey,
        stream: &mut SimStream,
        on: bool,
    ) -> io::Result<()> {
        let mut s = self.state();
        if let Some(c) = s.conns.get_mut(&stream.conn)
            && on
            && c.stalled_until.is_none()
            && !c.full
        {
            c.pending_edges.1 = true;
        }
        Ok(())
    }

    fn close(&mut self, _: ChannelKey, stream: SimStream) {
        let mut s = self.state();
        let at = if s.link_of(stream.conn).up_held { HELD } else { s.random_arrival() };
        if let Some(c) = s.conns.get_mut(&stream.conn) {
            c.close_by_client(at);
        }
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        answers: &mut Vec<JobResult>,
        _: Option<Duration>,
    ) -> io::Result<()> {
        let mut s = self.state();
        s.woken = false;
        collect_edges(&mut s);
        for c in s.conns.values_mut().filter(|c| !c.closed_by_client) {
            let (readable, writable) = std::mem::take(&mut c.pending_edges);
            if readable || writable {
                ready.push(Readiness { key: c.key, readable, writable });
            }
        }
        let now = s.now;
        let (due, later) = std::mem::take(&mut s.job_results).into_iter().partition(|a| a.0 <= now);
        s.job_results = later;
        let due: Vec<(Tick, JobResult)> = due;
        answers.extend(due.into_iter().map(|(_, answer)| answer));
        Ok(())
    }

    fn start_job(&mut self, job: Job) {
        match job {
            Job::Resolve { key, host, port } => {
                let found = match (host.parse(), self.state().hosts.get(&host)) {
                    (Ok(ip), _) => Ok(vec![SocketAddr::new(ip, port)]),
                    (_, Some(found)) => Ok(found.clone()),
                    _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
                };
                self.queue_job_result(JobResult::Resolved { key, result: found });
            }
            Job::Work(work) => self.schedule_work(work),
            Job::Prepare { key, work } => {
                let result = work();
                self.queue_job_result(JobResult::Prepared { key, result });
            }
        }
    }

    fn wakeup(&self) -> Arc<dyn Wakeup> {
        Arc::new(SimWakeup(self.clone()))
    }

    fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        Arc::new(self.clone())
    }
}
