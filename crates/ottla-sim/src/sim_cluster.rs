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
pub(crate) fn node_address(node: i32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8], 9092))
}

fn node_at_address(at: SocketAddr) -> i32 {
    match at {
        SocketAddr::V4(v4) => i32::from(v4.ip().octets()[3]),
        SocketAddr::V6(_) => -1,
    }
}

/// The time as brokers have it: their calendar does not jump with the client's.
pub(crate) fn broker_now(machine: &SimMachine) -> ClockReading {
    let mono_ms = machine.now().0 / 1_000_000;
    ClockReading { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms as i64 }
}

#[derive(Debug)]
struct Connection {
    node: i32,
    buffer: Vec<u8>,
    /// A produce waits for replicas: ticket.
    pending_ticket: Option<u64>,
    closed: bool,
}

/// The cluster, and who is connected to it.
pub(crate) struct SimCluster {
    pub(crate) core: Core,
    connections: BTreeMap<u64, Connection>,
    random: TestRng,
    /// One answer in this many is late, by at most so many milliseconds.
    pub(crate) late_responses: (u64, u64),
    /// One metadata answer in this many is the last one to the same question.
    pub(crate) stale_metadata_one_in: u64,
    previous_metadata: BTreeMap<(i32, Vec<u8>), Vec<u8>>,
    max_in_flight: usize,
    /// What a client did that it must not.
    pub(crate) violations: Vec<String>,
    /// Faults played, by kind.
    pub(crate) fault_counts: BTreeMap<String, u64>,
}

impl SimCluster {
    pub(crate) fn new(core: Core, s: &Scenario) -> SimCluster {
        SimCluster {
            core,
            connections: BTreeMap::new(),
            random: TestRng::new(s.seed ^ 0x1a7e),
            late_responses: (s.late_response_one_in, 2 * s.request_timeout_ms),
            stale_metadata_one_in: s.stale_metadata_one_in,
            previous_metadata: BTreeMap::new(),
            max_in_flight: s.max_in_flight as usize,
            violations: Vec::new(),
            fault_counts: BTreeMap::new(),
        }
    }

    /// No more faults of its own.
    pub(crate) fn clear_faults(&mut self) {
        (self.late_responses, self.stale_metadata_one_in) = ((0, 0), 0);
        self.core.clear_fault_injector();
    }

    pub(crate) fn count_fault(&mut self, what: &'static str) {
        *self.fault_counts.entry(what.to_owned()).or_default() += 1;
    }

    /// A node's connections are no more.
    pub(crate) fn drop_connections(&mut self, node: i32) {
        let SimCluster { connections: conns, core, .. } = self;
        conns.retain(|_, c| {
            let stays = c.node != node;
            if let Some(ticket) = c.pending_ticket.filter(|_| !stays) {
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
                    if let Some(ticket) =
                        self.connections.remove(&conn).and_then(|c| c.pending_ticket)
                    {
                        self.core.cancel_produce(ticket);
                    }
                }
                ClientInput::Bytes(bytes) => {
                    let fresh = || Connection {
                        node: node_at_address(to),
                        buffer: Vec::new(),
                        pending_ticket: None,
                        closed: false,
                    };
                    let c = self.connections.entry(conn).or_insert_with(fresh);
                    // A broker that has hung up sees no more of what is still on its way to it.
                    if !c.closed {
                        c.buffer.extend(bytes);
                        self.handle_frames(conn, machine);
                    }
                }
            }
        }
        let time = broker_now(machine);
        if self.core.next_deadline().is_some_and(|at| at <= time.mono_ms) {
            self.core.tick(time);
        }
        let waiting: Vec<(u64, u64)> =
            self.connections.iter().filter_map(|(id, c)| Some((*id, c.pending_ticket?))).collect();
        for (conn, ticket) in waiting {
            let Some(reply) = self.core.try_complete_produce(ticket, time) else { continue };
            if let Some(c) = self.connections.get_mut(&conn) {
                c.pending_ticket = None;
            }
            if self.send_response(conn, reply, machine) {
                self.handle_frames(conn, machine);
            }
        }
    }

    /// Handles the frames a connection holds, until one has to wait.
    fn handle_frames(&mut self, conn: u64, machine: &SimMachine) {
        self.check_in_flight(conn);
        loop {
            let Some(c) = self.connections.get_mut(&conn).filter(|c| c.pending_ticket.is_none())
            else {
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
            let (node, time) = (c.node, broker_now(machine));
            trace(machine, || describe_request(node, conn, &frame));
            if let Some(out) = self.take_stale_response(node, &frame) {
                self.count_fault("old metadata");
                machine.send_to_client(conn, out, Duration::ZERO);
                continue;
            }
            let at = node_address(node);
            let local = LocalAddress { host: at.ip().to_string(), port: at.port() };
            let frame = Bytes::from(frame);
            let reply = self.core.handle_at_node(node, &frame, &local, time.mono_ms, time);
            if let HandleResult::SendResponse(out) = &reply {
                self.remember_metadata_response(node, &frame, out);
            }
            if !self.send_response(conn, reply, machine) {
                return;
            }
        }
    }

    /// False if the connection takes no further request for now.
    fn send_response(&mut self, conn: u64, reply: HandleResult, machine: &SimMachine) -> bool {
        match reply {
            HandleResult::SendResponse(out) => {
                let (one_in, most) = self.late_responses;
                let mut late = Duration::ZERO;
                if one_in > 0 && self.random.next_below(one_in) == 0 {
                    late = Duration::from_millis(self.random.next_below(most));
                    self.count_fault("late answer");
                }
                trace(machine, || format!("connection {conn}: answered, {late:?} late"));
                machine.send_to_client(conn, out, late);
            }
            HandleResult::NoResponse | HandleResult::DelayedFetch(_) => {}
            HandleResult::DelayedProduce(ticket, _) => {
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.pending_ticket = Some(ticket);
                }
                return false;
            }
            HandleResult::CloseConnection(why) => {
                trace(machine, || format!("connection {conn}: hung up on: {why}"));
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.closed = true;
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
        let Some(c) = self.connections.get(&conn) else { return };
        let (mut at, mut n) = (0, usize::from(c.pending_ticket.is_some()));
        while let Some(size) = c.buffer.get(at..at + 4) {
            let size = i32::from_be_bytes([size[0], size[1], size[2], size[3]]);
            at += 4 + usize::try_from(size).unwrap_or(0);
            n += usize::from(at <= c.buffer.len());
        }
        if n > self.max_in_flight {
            self.violations.push(format!(
                "{n} requests in flight to node {}, where {} may be",
                c.node, self.max_in_flight
            ));
        }
    }

    /// The last answer to the same question about metadata, now and then.
    fn take_stale_response(&mut self, node: i32, frame: &[u8]) -> Option<Vec<u8>> {
        if self.stale_metadata_one_in == 0
            || !is_metadata_request(frame)
            || self.random.next_below(self.stale_metadata_one_in) != 0
        {
            return None;
        }
        let old = self.previous_metadata.get(&(node, without_correlation_id(frame)))?;
        let mut out = old.clone();
        out[4..8].copy_from_slice(&frame[4..8]);
        Some(out)
    }

    fn remember_metadata_response(&mut self, node: i32, frame: &[u8], out: &[u8]) {
        if self.stale_metadata_one_in > 0 && is_metadata_request(frame) {
            self.previous_metadata.insert((node, without_correlation_id(frame)), out.to_vec());
        }
    }
}

fn is_metadata_request(frame: &[u8]) -> bool {
    frame.len() >= 8 && frame[..2] == ApiKey::METADATA.0.to_be_bytes()
}

fn without_correlation_id(frame: &[u8]) -> Vec<u8> {
    [&frame[..4], &frame[8..]].concat()
}

fn describe_request(node: i32, conn: u64, frame: &[u8]) -> String {
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
pub(crate) fn random_fault(g: &mut TestRng, fatal: bool, already: bool) -> ProduceFault {
    const REJECTED_CODES: [i16; 22] =
        [2, 3, 5, 6, 7, 9, 10, 14, 19, 56, 59, 72, 74, 75, 89, 100, 103, -1, 29, 43, 47, 4321];
    const APPENDED_CODES: [i16; 8] = [7, 20, 56, -1, 4321, 3, 6, 46];
    const FATAL_CODES: [i16; 3] = [31, 35, 90];
    if fatal && g.next_below(6) == 0 {
        return ProduceFault::FailBeforeAppend(ErrorCode(FATAL_CODES[g.next_below(3) as usize]));
    }
    if g.next_below(3) == 0 {
        return ProduceFault::FailAfterAppend(ErrorCode(
            APPENDED_CODES[g.next_below(if already { 8 } else { 7 }) as usize],
        ));
    }
    ProduceFault::FailBeforeAppend(ErrorCode(REJECTED_CODES[g.next_below(22) as usize]))
}
