//! A simulated network for `ottla-sim` and tests: one virtual clock, sockets and worker threads.
//!
//! Sockets split, delay and stall reads and writes, and break after any byte. A seed decides all
//! of it, so a run can be replayed. Nothing here blocks. The client uses a [`SimMachine`] as its
//! [`Io`](crate::network::io::Io) and [`Env`]. The driver of the simulation uses the same machine
//! to act as the servers and to advance the clock.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

mod workers;
mod connections;
mod server;
mod stream;

use ottla_protocol::random::SplitMix64;

use crate::env::Env;
use crate::network::io::JobResult;
use crate::time::Tick;
pub use connections::Link;
use connections::{HELD, SimConnection};
pub use server::ClientInput;
pub use stream::SimStream;
use workers::SimWorkers;

/// The faults of the simulated network.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// The maximum delay of a segment, in nanoseconds.
    pub max_delay_ns: u64,
    /// The maximum number of bytes that one read or write moves; 0 for no limit.
    pub max_io_bytes: usize,
    /// One in this number of writes stalls: it returns `WouldBlock`. 0 for none.
    pub stall_one_in: u64,
    /// One in this number of segments breaks its connection; 0 for none.
    pub disconnect_one_in: u64,
    /// The maximum number of bytes that the server has not read; 0 for no limit. Further writes
    /// return `WouldBlock`.
    pub window_bytes: usize,
}

impl Faults {
    /// A network without faults.
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
    /// The wall clock's lead over the virtual clock.
    wall_offset_ms: i64,
    random: SplitMix64,
    faults: Faults,
    connections: BTreeMap<u64, SimConnection>,
    next_connection: u64,
    listening: Vec<SocketAddr>,
    links: BTreeMap<SocketAddr, Link>,
    hosts: BTreeMap<String, Vec<SocketAddr>>,
    /// The canonical names of addresses.
    names: BTreeMap<IpAddr, String>,
    /// The results of jobs, each with the time at which `poll` returns it.
    job_results: Vec<(Tick, JobResult)>,
    /// Whether a wakeup waits for the next poll.
    woken: bool,
    lost_connections: u64,
    io_operations: u64,
}

impl SimState {
    fn next_random(&mut self) -> u64 {
        self.random.next_u64()
    }

    /// Returns true once in `n` calls on average; never if `n` is 0.
    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.next_random().is_multiple_of(n)
    }

    /// Returns the arrival time of a segment that is sent now.
    fn random_arrival(&mut self) -> Tick {
        let delay = self.faults.max_delay_ns;
        Tick(self.now.0 + if delay == 0 { 0 } else { self.next_random() % delay })
    }

    /// Returns how many of `n` bytes a read or write moves.
    fn random_io_len(&mut self, n: usize) -> usize {
        match self.faults.max_io_bytes {
            0 => n,
            max => n.min(1 + (self.next_random() % max as u64) as usize),
        }
    }

    fn link_of(&self, connection: u64) -> Link {
        let link = self.connections.get(&connection).and_then(|c| self.links.get(&c.server));
        link.copied().unwrap_or_default()
    }

    /// Turns the events up to now into pending readiness edges.
    fn collect_edges(&mut self) {
        let now = self.now;
        for c in self.connections.values_mut().filter(|c| !c.closed_by_client) {
            if !c.connect_reported && c.connected_at <= now {
                c.connect_reported = true;
                c.writable_edge = true;
            }
            if c.stalled_until.is_some_and(|at| at <= now) {
                c.stalled_until = None;
                c.writable_edge = true;
            }
            if c.down.next_arrival().is_some_and(|at| at <= now) {
                c.readable_edge = true;
            }
        }
    }
}

/// The bits of a connection's number that count the connections of one machine. The bits above are
/// the machine's number.
const CONNECTION_BITS: u32 = 32;

/// The simulated machine. A clone is a handle to the same machine.
#[derive(Debug, Clone)]
pub struct SimMachine {
    state: Arc<Mutex<SimState>>,
    workers: Arc<Mutex<SimWorkers>>,
}

impl SimMachine {
    /// Returns a machine whose clock shows one second.
    pub fn new(seed: u64, faults: Faults) -> SimMachine {
        let state = SimState {
            now: Tick(1_000_000_000),
            wall_offset_ms: 1_700_000_000_000,
            random: SplitMix64::new(seed),
            faults,
            connections: BTreeMap::new(),
            next_connection: 0,
            listening: Vec::new(),
            links: BTreeMap::new(),
            hosts: BTreeMap::new(),
            names: BTreeMap::new(),
            job_results: Vec::new(),
            woken: false,
            lost_connections: 0,
            io_operations: 0,
        };
        SimMachine { state: Arc::new(Mutex::new(state)), workers: Arc::default() }
    }

    /// Returns another machine in the same network at the same time, whose connections have other
    /// numbers. Each machine has a number of its own; that of the first one is 0.
    pub fn another(&self, number: u32, seed: u64) -> SimMachine {
        let s = self.state();
        let state = SimState {
            now: s.now,
            wall_offset_ms: s.wall_offset_ms,
            random: SplitMix64::new(seed),
            faults: s.faults,
            connections: BTreeMap::new(),
            next_connection: u64::from(number) << CONNECTION_BITS,
            listening: s.listening.clone(),
            links: s.links.clone(),
            hosts: s.hosts.clone(),
            names: s.names.clone(),
            job_results: Vec::new(),
            woken: false,
            lost_connections: 0,
            io_operations: 0,
        };
        SimMachine { state: Arc::new(Mutex::new(state)), workers: Arc::default() }
    }

    /// Returns the number of the machine that a connection belongs to.
    pub fn machine_of(connection: u64) -> u32 {
        (connection >> CONNECTION_BITS) as u32
    }

    /// Returns the machine's number.
    pub fn number(&self) -> u32 {
        SimMachine::machine_of(self.state().next_connection)
    }

    /// Returns whether bytes or connections of this machine are left in the network.
    pub fn has_connections(&self) -> bool {
        !self.state().connections.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, SimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time of the virtual clock.
    pub fn now(&self) -> Tick {
        self.state().now
    }

    /// Returns the next random value of the machine's seed.
    pub fn random(&self) -> u64 {
        self.state().next_random()
    }

    /// Replaces the faults of the network.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Sets the addresses of a host name.
    pub fn set_host(&self, host: &str, addresses: Vec<SocketAddr>) {
        self.state().hosts.insert(host.into(), addresses);
    }

    /// Sets the canonical name of an address.
    pub fn set_canonical_name(&self, address: IpAddr, name: &str) {
        self.state().names.insert(address, name.into());
    }

    /// Returns the number of connections that faults have broken.
    pub fn lost_connections(&self) -> u64 {
        self.state().lost_connections
    }

    /// Returns the number of the client's reads and writes that did not block.
    pub fn io_operations(&self) -> u64 {
        self.state().io_operations
    }

    /// Returns the time of the next event if nothing else happens before: an arrival, a connect,
    /// a job result, the end of a stall.
    pub fn next_event(&self) -> Option<Tick> {
        let s = self.state();
        let connections = s.connections.values().flat_map(|c| {
            let connect = (!c.connect_reported).then_some(c.connected_at).filter(|at| *at < HELD);
            let reads_paused = s.links.get(&c.server).is_some_and(|l| l.reads_paused);
            let up = c.up.next_arrival().filter(|_| !reads_paused && !c.end_reported);
            let down = c.down.next_arrival().filter(|_| !c.closed_by_client);
            [connect, c.stalled_until, down, up].into_iter().flatten()
        });
        let work = self.next_work_at();
        connections.chain(s.job_results.iter().map(|r| r.0)).chain(work).min()
    }

    /// Advances the clock and runs the work that is due.
    pub fn advance(&self, to: Tick) {
        let now = {
            let mut s = self.state();
            s.now = s.now.max(to);
            s.now
        };
        self.run_due_work(now);
    }

    /// Moves the wall clock, forward or back, while the virtual clock continues.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        self.state().wall_offset_ms += by_ms;
    }

    /// Returns whether a poll would return at once.
    ///
    /// The simulation runs the sender only then, or at its deadline. So an event that does not
    /// wake the sender here is a lost wakeup in reality, too.
    pub fn would_wake(&self) -> bool {
        let mut s = self.state();
        s.collect_edges();
        let now = s.now;
        s.woken
            || s.connections.values().any(|c| c.readable_edge || c.writable_edge)
            || s.job_results.iter().any(|r| r.0 <= now)
    }

    /// Makes `poll` return the result after a random delay.
    fn queue_job_result(&self, job_result: JobResult) {
        let mut s = self.state();
        let at = s.random_arrival();
        s.job_results.push((at, job_result));
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
        panic!("simulated callers are tasks: they must use the async functions");
    }
}
