//! The cluster's side of the network: whole frames in, answers out, one request of a connection at a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ottla::sim::{ClientInput, SimMachine};
use ottla_broker::{ClockReading, Core, HandleResult, LocalAddress, ProduceFault};
use ottla_protocol::header::RequestHeader;
use ottla_protocol::wire::TestRng;
use ottla_protocol::{ApiKey, ErrorCode, Reader};

use crate::scenario::Scenario;
use crate::trace::trace;

/// Where a node listens.
pub(crate) fn address(node: i32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8], 9092))
}

fn node_of(at: SocketAddr) -> i32 {
    match at {
        SocketAddr::V4(v4) => i32::from(v4.ip().octets()[3]),
        SocketAddr::V6(_) => -1,
    }
}

/// The time as brokers have it: their calendar does not jump with the client's.
pub(crate) fn now(machine: &SimMachine) -> ClockReading {
    let mono_ms = machine.now().0 / 1_000_000;
    ClockReading { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms as i64 }
}

#[derive(Debug)]
struct Conn {
    node: i32,
    buffer: Vec<u8>,
    /// A produce waits for replicas: ticket.
    waiting: Option<u64>,
    hung_up: bool,
}

/// The cluster, and who is connected to it.
pub(crate) struct Servers {
    pub(crate) core: Core,
    conns: BTreeMap<u64, Conn>,
    g: TestRng,
    /// One answer in this many is late, by at most so many milliseconds.
    pub(crate) late: (u64, u64),
    /// One metadata answer in this many is the last one to the same question.
    pub(crate) stale: u64,
    old: BTreeMap<(i32, Vec<u8>), Vec<u8>>,
    in_flight_max: usize,
    /// What a client did that it must not.
    pub(crate) broken: Vec<String>,
    /// Faults played, by kind.
    pub(crate) played: BTreeMap<String, u64>,
}

impl Servers {
    pub(crate) fn new(core: Core, s: &Scenario) -> Servers {
        Servers {
            core,
            conns: BTreeMap::new(),
            g: TestRng::new(s.seed ^ 0x1a7e),
            late: (s.late, 2 * s.request_ms),
            stale: s.stale,
            old: BTreeMap::new(),
            in_flight_max: s.in_flight as usize,
            broken: Vec::new(),
            played: BTreeMap::new(),
        }
    }

    /// No more faults of its own.
    pub(crate) fn heal(&mut self) {
        (self.late, self.stale) = ((0, 0), 0);
        self.core.clear_fault_injector();
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.played.entry(what.to_owned()).or_default() += 1;
    }

    /// A node's connections are no more.
    pub(crate) fn forget(&mut self, node: i32) {
        let Servers { conns, core, .. } = self;
        conns.retain(|_, c| {
            let stays = c.node != node;
            if let Some(ticket) = c.waiting.filter(|_| !stays) {
                core.cancel_produce(ticket);
            }
            stays
        });
    }

    /// Reads what came, answers what can be answered.
    pub(crate) fn serve(&mut self, machine: &SimMachine) {
        for (conn, to, what) in machine.take_client_input() {
            match what {
                ClientInput::Closed => {
                    if let Some(ticket) = self.conns.remove(&conn).and_then(|c| c.waiting) {
                        self.core.cancel_produce(ticket);
                    }
                }
                ClientInput::Bytes(bytes) => {
                    let fresh = || Conn {
                        node: node_of(to),
                        buffer: Vec::new(),
                        waiting: None,
                        hung_up: false,
                    };
                    let c = self.conns.entry(conn).or_insert_with(fresh);
                    // A broker that has hung up sees no more of what is still on its way to it.
                    if !c.hung_up {
                        c.buffer.extend(bytes);
                        self.frames(conn, machine);
                    }
                }
            }
        }
        let time = now(machine);
        if self.core.next_deadline().is_some_and(|at| at <= time.mono_ms) {
            self.core.tick(time);
        }
        let waiting: Vec<(u64, u64)> =
            self.conns.iter().filter_map(|(id, c)| Some((*id, c.waiting?))).collect();
        for (conn, ticket) in waiting {
            let Some(reply) = self.core.try_complete_produce(ticket, time) else { continue };
            if let Some(c) = self.conns.get_mut(&conn) {
                c.waiting = None;
            }
            if self.reply(conn, reply, machine) {
                self.frames(conn, machine);
            }
        }
    }

    /// Handles the frames a connection holds, until one has to wait.
    fn frames(&mut self, conn: u64, machine: &SimMachine) {
        self.check_in_flight(conn);
        loop {
            let Some(c) = self.conns.get_mut(&conn).filter(|c| c.waiting.is_none()) else {
                return;
            };
            let Some(size) = c.buffer.first_chunk::<4>().map(|b| i32::from_be_bytes(*b)) else {
                return;
            };
            assert!((0..100 << 20).contains(&size), "the producer sent a frame of {size} bytes");
            if c.buffer.len() < 4 + size as usize {
                return;
            }
            let frame: Vec<u8> = c.buffer.drain(..4 + size as usize).skip(4).collect();
            let (node, time) = (c.node, now(machine));
            trace(machine, || describe(node, conn, &frame));
            if let Some(out) = self.old_answer(node, &frame) {
                self.count("old metadata");
                machine.send_to_client(conn, out, Duration::ZERO);
                continue;
            }
            let at = address(node);
            let local = LocalAddress { host: at.ip().to_string(), port: at.port() };
            let frame = Bytes::from(frame);
            let reply = self.core.handle_at_node(node, &frame, &local, time.mono_ms, time);
            if let HandleResult::SendResponse(out) = &reply {
                self.remember(node, &frame, out);
            }
            if !self.reply(conn, reply, machine) {
                return;
            }
        }
    }

    /// False if the connection takes no further request for now.
    fn reply(&mut self, conn: u64, reply: HandleResult, machine: &SimMachine) -> bool {
        match reply {
            HandleResult::SendResponse(out) => {
                let (one_in, most) = self.late;
                let mut late = Duration::ZERO;
                if one_in > 0 && self.g.next_below(one_in) == 0 {
                    late = Duration::from_millis(self.g.next_below(most));
                    self.count("late answer");
                }
                trace(machine, || format!("connection {conn}: answered, {late:?} late"));
                machine.send_to_client(conn, out, late);
            }
            HandleResult::NoResponse | HandleResult::DelayedFetch(_) => {}
            HandleResult::DelayedProduce(ticket, _) => {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.waiting = Some(ticket);
                }
                return false;
            }
            HandleResult::CloseConnection(why) => {
                trace(machine, || format!("connection {conn}: hung up on: {why}"));
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.hung_up = true;
                    c.buffer.clear();
                }
                machine.close_connection(conn);
                return false;
            }
        }
        true
    }

    /// Requests that are here and not answered are no more than may be in flight.
    fn check_in_flight(&mut self, conn: u64) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (mut at, mut n) = (0, usize::from(c.waiting.is_some()));
        while let Some(size) = c.buffer.get(at..at + 4) {
            let size = i32::from_be_bytes([size[0], size[1], size[2], size[3]]);
            at += 4 + usize::try_from(size).unwrap_or(0);
            n += usize::from(at <= c.buffer.len());
        }
        if n > self.in_flight_max {
            self.broken.push(format!(
                "{n} requests in flight to node {}, where {} may be",
                c.node, self.in_flight_max
            ));
        }
    }

    /// The last answer to the same question about metadata, now and then.
    fn old_answer(&mut self, node: i32, frame: &[u8]) -> Option<Vec<u8>> {
        if self.stale == 0 || !is_metadata(frame) || self.g.next_below(self.stale) != 0 {
            return None;
        }
        let old = self.old.get(&(node, without_correlation(frame)))?;
        let mut out = old.clone();
        out[4..8].copy_from_slice(&frame[4..8]);
        Some(out)
    }

    fn remember(&mut self, node: i32, frame: &[u8], out: &[u8]) {
        if self.stale > 0 && is_metadata(frame) {
            self.old.insert((node, without_correlation(frame)), out.to_vec());
        }
    }
}

fn is_metadata(frame: &[u8]) -> bool {
    frame.len() >= 8 && frame[..2] == ApiKey::METADATA.0.to_be_bytes()
}

fn without_correlation(frame: &[u8]) -> Vec<u8> {
    [&frame[..4], &frame[8..]].concat()
}

fn describe(node: i32, conn: u64, frame: &[u8]) -> String {
    match RequestHeader::decode(&mut Reader::new(&Bytes::copy_from_slice(frame))) {
        Ok(h) => format!(
            "node {node}, connection {conn}: {} v{} #{}, {} bytes",
            h.api_key.name(),
            h.api_version,
            h.correlation_id,
            frame.len()
        ),
        Err(e) => format!("node {node}, connection {conn}: {e}"),
    }
}

/// A fault on one partition of a request. What would be a lie about sequences is not among them: a broker that says
/// OUT_OF_ORDER has them out of order.
pub(crate) fn fault(g: &mut TestRng, fatal: bool, already: bool) -> ProduceFault {
    const REFUSALS: [i16; 22] =
        [2, 3, 5, 6, 7, 9, 10, 14, 19, 56, 59, 72, 74, 75, 89, 100, 103, -1, 29, 43, 47, 4321];
    const APPENDED: [i16; 8] = [7, 20, 56, -1, 4321, 3, 6, 46];
    const FATAL: [i16; 3] = [31, 35, 90];
    if fatal && g.next_below(6) == 0 {
        return ProduceFault::FailBeforeAppend(ErrorCode(FATAL[g.next_below(3) as usize]));
    }
    if g.next_below(3) == 0 {
        return ProduceFault::FailAfterAppend(ErrorCode(
            APPENDED[g.next_below(if already { 8 } else { 7 }) as usize],
        ));
    }
    ProduceFault::FailBeforeAppend(ErrorCode(REFUSALS[g.next_below(22) as usize]))
}
