//! The cluster's side of the virtual network: splits bytes into requests, sends the core's
//! responses.
//!
//! The simulation calls `serve` at each instant. As in Kafka, a connection's requests are handled
//! one after the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ottla::sim::{ClientInput, SimMachine, Tick};
use ottla_broker::{ClockReading, Core, HandleResult, LocalAddress, ProduceFault};
use ottla_protocol::header::{RequestHeader, decode_response, encode_response};
use ottla_protocol::messages::{ApiVersionsRequest, MetadataRequest, MetadataResponse};
use ottla_protocol::wire::TestRng;
use ottla_protocol::{ApiKey, ErrorCode, Reader};

use crate::older_epochs::OlderEpochs;
use crate::request_faults::{LateRequest, RequestFault, RequestFaults, error_response};
use crate::scenario::Scenario;
use crate::trace::trace;

/// Returns the address at which a node listens.
pub(crate) fn node_address(node: i32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8], 9092))
}

/// Returns the host name of a node, for scenarios with `brokers_by_name`.
pub(crate) fn node_host_name(node: i32) -> String {
    format!("broker-{node}")
}

/// Returns the addresses that a node's name has: its own one among dead ones of both families, in
/// an order that changes with `generation`.
pub(crate) fn node_name_addresses(node: i32, generation: u64) -> Vec<SocketAddr> {
    let dead_v4 = SocketAddr::from(([10, 0, 9, node as u8], 9092));
    let dead_v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 9, node as u16], 9092));
    let mut addresses = vec![dead_v6, node_address(node), dead_v4];
    addresses.rotate_left((generation % 3) as usize);
    addresses
}

fn node_at_address(address: SocketAddr) -> i32 {
    match address {
        SocketAddr::V4(v4) => i32::from(v4.ip().octets()[3]),
        SocketAddr::V6(_) => -1,
    }
}

/// Returns the brokers' time. Their wall clock does not jump with the client's.
pub(crate) fn broker_now(machine: &SimMachine) -> ClockReading {
    let mono_ms = machine.now().0 / 1_000_000;
    ClockReading { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms as i64 }
}

/// A connection from the client to a node.
#[derive(Debug)]
struct Connection {
    node: i32,
    /// Bytes that arrived and are not handled yet.
    buffer: Vec<u8>,
    /// The ticket of a produce request that waits for replicas. It holds up later requests.
    pending_ticket: Option<u64>,
    /// Whether the node closed the connection.
    closed: bool,
    /// The end of the pause that the last response requested. The node reads no request in it
    /// (KIP-219).
    muted_until: Option<Tick>,
}

/// Late responses of the brokers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LateResponses {
    /// One response in this many is late; 0 for none.
    pub(crate) one_in: u64,
    /// The longest delay, in milliseconds.
    pub(crate) max_ms: u64,
}

/// A metadata request without its correlation id, sent to a node.
type MetadataRequestKey = (i32, Vec<u8>);

/// The cluster with its connections.
pub(crate) struct SimCluster {
    pub(crate) core: Core,
    connections: BTreeMap<u64, Connection>,
    rng: TestRng,
    pub(crate) late_responses: LateResponses,
    /// One metadata response in this many is the previous one to the same request.
    pub(crate) stale_metadata_one_in: u64,
    previous_metadata: BTreeMap<MetadataRequestKey, Vec<u8>>,
    /// The bytes of all metadata requests so far.
    pub(crate) metadata_request_bytes: usize,
    /// The error that metadata responses report for every topic.
    pub(crate) metadata_topic_error: Option<ErrorCode>,
    /// The highest versions that the nodes advertise for APIs, by their keys. For other APIs they
    /// advertise what the core supports.
    pub(crate) max_api_versions: BTreeMap<i16, i16>,
    max_in_flight: usize,
    /// Evidence that the client exceeded its limit of requests in flight.
    pub(crate) in_flight_violations: Vec<String>,
    pub(crate) request_faults: RequestFaults,
    /// The number of faults so far, by name.
    pub(crate) fault_counts: BTreeMap<String, u64>,
    /// The leaders that the client was shown, if a topic is restored in this scenario.
    pub(crate) older_epochs: Option<OlderEpochs>,
}

impl SimCluster {
    pub(crate) fn new(core: Core, s: &Scenario) -> SimCluster {
        SimCluster {
            core,
            connections: BTreeMap::new(),
            rng: TestRng::new(s.seed ^ 0x1a7e),
            late_responses: LateResponses {
                one_in: s.late_response_one_in,
                max_ms: 2 * s.request_timeout_ms,
            },
            stale_metadata_one_in: s.stale_metadata_one_in,
            previous_metadata: BTreeMap::new(),
            metadata_request_bytes: 0,
            metadata_topic_error: None,
            max_api_versions: BTreeMap::new(),
            // A request without acknowledgement is in flight only until it is sent.
            max_in_flight: if s.acks == "0" { usize::MAX } else { s.max_in_flight as usize },
            in_flight_violations: Vec::new(),
            request_faults: RequestFaults::default(),
            fault_counts: BTreeMap::new(),
            older_epochs: s.has_restoration().then(OlderEpochs::default),
        }
    }

    /// Ends the brokers' random faults.
    pub(crate) fn clear_faults(&mut self) {
        self.late_responses = LateResponses::default();
        self.stale_metadata_one_in = 0;
        self.request_faults.heal();
        self.core.clear_fault_injector();
        if let Some(older_epochs) = &mut self.older_epochs {
            older_epochs.heal();
        }
        for muted_until in self.connections.values_mut().filter_map(|c| c.muted_until.as_mut()) {
            *muted_until = Tick(0);
        }
    }

    pub(crate) fn count_fault(&mut self, name: &'static str) {
        *self.fault_counts.entry(name.to_owned()).or_default() += 1;
    }

    /// Removes a node's connections, and cancels the produce requests that wait on them.
    pub(crate) fn drop_connections(&mut self, node: i32) {
        let SimCluster { connections, core, .. } = self;
        connections.retain(|_, c| {
            let is_kept = c.node != node;
            if let Some(ticket) = c.pending_ticket.filter(|_| !is_kept) {
                core.cancel(ticket);
            }
            is_kept
        });
    }

    /// Handles every request that has arrived, and sends every response that is ready.
    pub(crate) fn serve(&mut self, machine: &SimMachine) {
        self.serve_all(std::slice::from_ref(machine));
    }

    /// As [`serve`](SimCluster::serve), for the clients on several machines with the same time.
    pub(crate) fn serve_all(&mut self, machines: &[SimMachine]) {
        machines.iter().for_each(|machine| self.read_input(machine));
        self.unmute(machines);
        self.deliver_late_requests(&machines[0]);
        let time = broker_now(&machines[0]);
        if self.core.next_deadline().is_some_and(|deadline_ms| deadline_ms <= time.mono_ms) {
            self.core.tick(time);
        }
        let waiting: Vec<(u64, u64)> =
            self.connections.iter().filter_map(|(id, c)| Some((*id, c.pending_ticket?))).collect();
        for (id, ticket) in waiting {
            let Some(result) = self.core.try_complete(ticket, time) else { continue };
            let Some(machine) = machine_with(machines, id) else { continue };
            if let Some(c) = self.connections.get_mut(&id) {
                c.pending_ticket = None;
            }
            if self.send_response(id, result, machine) {
                self.mute_if_throttled(id, machine);
                self.handle_frames(id, machine);
            }
        }
    }

    /// Returns when [`serve`](SimCluster::serve) has work next without new input.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        let core = self.core.next_deadline().map(|ms| Tick(ms * 1_000_000));
        let late = self.request_faults.next_late_at();
        self.connections.values().filter_map(|c| c.muted_until).chain(core).chain(late).min()
    }

    /// Starts the pause that a Produce response has requested.
    fn mute_if_throttled(&mut self, id: u64, machine: &SimMachine) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        let throttle_ms = self.core.produce_throttle(c.node);
        if throttle_ms > 0 {
            c.muted_until = Some(machine.now().after(Duration::from_millis(throttle_ms as u64)));
            self.count_fault("connection throttled");
        }
    }

    /// Ends the pauses that have expired, and handles the requests that have arrived in them.
    fn unmute(&mut self, machines: &[SimMachine]) {
        let now = machines[0].now();
        let mut unmuted = Vec::new();
        for (id, c) in &mut self.connections {
            if c.muted_until.is_some_and(|until| until <= now) {
                c.muted_until = None;
                unmuted.push(*id);
            }
        }
        for id in unmuted {
            if let Some(machine) = machine_with(machines, id) {
                self.handle_frames(id, machine);
            }
        }
    }

    fn read_input(&mut self, machine: &SimMachine) {
        for (id, to, input) in machine.take_client_input() {
            match input {
                ClientInput::Closed => {
                    let ticket = self.connections.remove(&id).and_then(|c| c.pending_ticket);
                    if let Some(ticket) = ticket {
                        self.core.cancel(ticket);
                    }
                }
                ClientInput::Bytes(bytes) => {
                    let c = self.connections.entry(id).or_insert_with(|| Connection {
                        node: node_at_address(to),
                        buffer: Vec::new(),
                        pending_ticket: None,
                        closed: false,
                        muted_until: None,
                    });
                    // A broker that has closed a connection ignores bytes still in flight to it.
                    if !c.closed {
                        c.buffer.extend(bytes);
                        self.handle_frames(id, machine);
                    }
                }
            }
        }
    }

    /// Handles the complete frames of a connection, until one of them has to wait for replicas.
    fn handle_frames(&mut self, id: u64, machine: &SimMachine) {
        self.check_in_flight(id);
        while let Some((node, frame)) = self.next_frame(id) {
            let time = broker_now(machine);
            trace(machine, || describe_request(node, id, &frame));
            if let Some(response) = self.take_stale_response(node, &frame) {
                self.count_fault("stale metadata");
                machine.send_to_client(id, response, Duration::ZERO);
                continue;
            }
            let address = node_address(node);
            let local = LocalAddress { host: address.ip().to_string(), port: address.port() };
            let frame = Bytes::from(frame);
            if let Some((header, fault)) = self.request_faults.take(&frame) {
                trace(machine, || format!("connection {id}: {fault:?}"));
                if self.request_faults.random.is_some() {
                    *self.fault_counts.entry(fault.name(header.api_key)).or_default() += 1;
                }
                if let Some(response) = error_response(&header, &frame, fault) {
                    machine.send_to_client(id, response, Duration::ZERO);
                    continue;
                }
                if matches!(fault, RequestFault::LoseResponse | RequestFault::RepeatRequest) {
                    self.handle_without_response(node, &frame, time);
                }
                if matches!(fault, RequestFault::DelayRequest | RequestFault::RepeatRequest) {
                    self.request_faults.add_late(node, frame, machine.now());
                }
                self.close(id, machine);
                return;
            }
            let mut result = self.core.handle_at_node(node, &frame, &local, time.mono_ms, time);
            if let (HandleResult::SendResponse(response), Some(code)) = (
                &mut result,
                self.metadata_topic_error.filter(|_| is_request(&frame, ApiKey::METADATA)),
            ) {
                *response = with_topic_errors(&frame, response, code);
            }
            if let HandleResult::SendResponse(response) = &mut result
                && !self.max_api_versions.is_empty()
                && is_request(&frame, ApiKey::API_VERSIONS)
            {
                *response = with_max_versions(&frame, response, &self.max_api_versions);
            }
            if let HandleResult::SendResponse(response) = &result {
                self.remember_metadata_response(node, &frame, response);
                self.add_shown_leaders(&frame, response, machine.now());
            }
            if !self.send_response(id, result, machine) {
                return;
            }
            if is_request(&frame, ApiKey::PRODUCE) {
                self.mute_if_throttled(id, machine);
            }
        }
    }

    /// Takes the next complete frame of a connection and the node it is for.
    ///
    /// Returns `None` while an earlier request of the connection waits for replicas, and in a
    /// pause.
    fn next_frame(&mut self, id: u64) -> Option<(i32, Vec<u8>)> {
        let c = self.connections.get_mut(&id)?;
        if c.pending_ticket.is_some() || c.muted_until.is_some() {
            return None;
        }
        let len = c.buffer.first_chunk::<4>().map(|b| i32::from_be_bytes(*b))?;
        assert!((0..100 << 20).contains(&len), "the producer sent a frame of {len} bytes");
        let end = 4 + len as usize;
        if c.buffer.len() < end {
            return None;
        }
        let frame: Vec<u8> = c.buffer.drain(..end).skip(4).collect();
        if is_request(&frame, ApiKey::METADATA) {
            self.metadata_request_bytes += frame.len();
        }
        Some((c.node, frame))
    }

    /// Sends a response, now or late.
    ///
    /// Returns whether the connection can handle its next request now.
    fn send_response(&mut self, id: u64, result: HandleResult, machine: &SimMachine) -> bool {
        match result {
            HandleResult::SendResponse(response) => {
                let LateResponses { one_in, max_ms } = self.late_responses;
                let mut delay = Duration::ZERO;
                if one_in > 0 && self.rng.next_below(one_in) == 0 {
                    delay = Duration::from_millis(self.rng.next_below(max_ms));
                    self.count_fault("late response");
                }
                trace(machine, || format!("connection {id}: response sent, delayed by {delay:?}"));
                machine.send_to_client(id, response, delay);
            }
            HandleResult::NoResponse | HandleResult::DelayedFetch { .. } => {}
            HandleResult::Delayed { id: ticket, .. } => {
                if let Some(c) = self.connections.get_mut(&id) {
                    c.pending_ticket = Some(ticket);
                }
                return false;
            }
            HandleResult::CloseConnection(reason) => {
                trace(machine, || format!("connection {id}: closed by the broker: {reason}"));
                self.close(id, machine);
                return false;
            }
        }
        true
    }

    /// Closes a connection. Bytes that are still in flight to the node are lost.
    fn close(&mut self, id: u64, machine: &SimMachine) {
        if let Some(c) = self.connections.get_mut(&id) {
            c.closed = true;
            c.buffer.clear();
        }
        machine.close_connection(id);
    }

    /// Delivers the oldest late request to its node. Its connection is gone, so the response is
    /// lost. Returns whether there was one.
    #[cfg(test)]
    pub(crate) fn deliver_late_request(&mut self, machine: &SimMachine) -> bool {
        let Some(late) = self.request_faults.late.pop_front() else { return false };
        self.deliver(&late, machine);
        true
    }

    /// Delivers the late requests whose time has come.
    fn deliver_late_requests(&mut self, machine: &SimMachine) {
        while let Some(late) = self.request_faults.take_due(machine.now()) {
            self.count_fault("request arrived late");
            self.deliver(&late, machine);
        }
    }

    fn deliver(&mut self, late: &LateRequest, machine: &SimMachine) {
        let LateRequest { node, frame, .. } = late;
        trace(machine, || format!("late: {}", describe_request(*node, 0, frame)));
        self.handle_without_response(*node, frame, broker_now(machine));
    }

    /// Handles a request whose response is lost.
    fn handle_without_response(&mut self, node: i32, frame: &Bytes, time: ClockReading) {
        let address = node_address(node);
        let local = LocalAddress { host: address.ip().to_string(), port: address.port() };
        let result = self.core.handle_at_node(node, frame, &local, time.mono_ms, time);
        if let HandleResult::Delayed { id, .. } = result {
            self.core.cancel(id);
        }
    }

    /// Checks that the requests that have arrived without a response are within the limit.
    fn check_in_flight(&mut self, id: u64) {
        let Some(c) = self.connections.get(&id) else { return };
        let (mut end, mut count) = (0, usize::from(c.pending_ticket.is_some()));
        while let Some(len) = c.buffer.get(end..end + 4) {
            let len = i32::from_be_bytes([len[0], len[1], len[2], len[3]]);
            end += 4 + usize::try_from(len).unwrap_or(0);
            count += usize::from(end <= c.buffer.len());
        }
        if count > self.max_in_flight {
            let (node, max) = (c.node, self.max_in_flight);
            self.in_flight_violations
                .push(format!("{count} to node {node}, at most {max} allowed"));
        }
    }

    /// Returns the previous response to the same metadata request, if this one gets a stale one.
    fn take_stale_response(&mut self, node: i32, frame: &[u8]) -> Option<Vec<u8>> {
        if self.stale_metadata_one_in == 0
            || !is_request(frame, ApiKey::METADATA)
            || self.rng.next_below(self.stale_metadata_one_in) != 0
        {
            return None;
        }
        let previous = self.previous_metadata.get(&(node, without_correlation_id(frame)))?;
        let mut response = previous.clone();
        response[4..8].copy_from_slice(&frame[4..8]);
        Some(response)
    }

    fn remember_metadata_response(&mut self, node: i32, frame: &[u8], response: &[u8]) {
        if self.stale_metadata_one_in > 0 && is_request(frame, ApiKey::METADATA) {
            let key = (node, without_correlation_id(frame));
            self.previous_metadata.insert(key, response.to_vec());
        }
    }

    fn add_shown_leaders(&mut self, frame: &Bytes, response: &[u8], now: Tick) {
        let Some(older_epochs) = &mut self.older_epochs else { return };
        if is_request(frame, ApiKey::METADATA) {
            let (_, body) = decode_metadata_response(frame, response);
            older_epochs.add_response(&body, now);
        }
    }
}

/// Returns the machine whose client a connection belongs to.
fn machine_with(machines: &[SimMachine], connection: u64) -> Option<&SimMachine> {
    let number = SimMachine::machine_of(connection);
    machines.iter().find(|m| m.number() == number)
}

fn is_request(frame: &[u8], key: ApiKey) -> bool {
    frame.len() >= 8 && frame[..2] == key.0.to_be_bytes()
}

/// Decodes the core's response to a metadata request.
fn decode_metadata_response(request: &Bytes, response: &[u8]) -> (RequestHeader, MetadataResponse) {
    let header = RequestHeader::decode(&mut Reader::new(request)).expect("a metadata request");
    let frame = Bytes::copy_from_slice(&response[4..]);
    let body = decode_response::<MetadataRequest>(&frame, header.api_version);
    (header, body.expect("the core's own response"))
}

/// Returns the metadata response with this error for each topic.
fn with_topic_errors(request: &Bytes, response: &[u8], code: ErrorCode) -> Vec<u8> {
    let (header, mut body) = decode_metadata_response(request, response);
    for topic in &mut body.topics {
        topic.error_code = code.0;
        topic.partitions.clear();
    }
    encode_response(header.api_key, header.api_version, header.correlation_id, &body)
        .expect("the response was encoded before")
}

/// Returns the ApiVersions response with lower versions for some APIs.
fn with_max_versions(request: &Bytes, response: &[u8], max: &BTreeMap<i16, i16>) -> Vec<u8> {
    let header = RequestHeader::decode(&mut Reader::new(request)).expect("an ApiVersions request");
    let frame = Bytes::copy_from_slice(&response[4..]);
    // The core responds to a version that it does not know in version 0: the client asks again.
    let Ok(mut body) = decode_response::<ApiVersionsRequest>(&frame, header.api_version) else {
        return response.to_vec();
    };
    for api in &mut body.api_keys {
        api.max_version = max.get(&api.api_key).map_or(api.max_version, |max| *max);
    }
    encode_response(header.api_key, header.api_version, header.correlation_id, &body)
        .expect("the response was encoded before")
}

fn without_correlation_id(frame: &[u8]) -> Vec<u8> {
    [&frame[..4], &frame[8..]].concat()
}

fn describe_request(node: i32, id: u64, frame: &[u8]) -> String {
    match RequestHeader::decode(&mut Reader::new(&Bytes::copy_from_slice(frame))) {
        Ok(h) => format!(
            "node {node}, connection {id}: {} v{} #{}, {} bytes",
            h.api_key.name(),
            h.api_version,
            h.correlation_id,
            frame.len()
        ),
        Err(e) => format!("node {node}, connection {id}: {e}"),
    }
}

/// The kinds of faults that [`random_fault`] may draw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllowedFaults {
    /// Errors that are fatal to the producer.
    pub(crate) fatal: bool,
    /// DUPLICATE_SEQUENCE_NUMBER after an append.
    pub(crate) duplicate: bool,
}

/// Draws a fault for one partition of a produce request.
pub(crate) fn random_fault(rng: &mut TestRng, allowed: AllowedFaults) -> ProduceFault {
    const REJECTED_CODES: [i16; 23] =
        [2, 3, 5, 6, 7, 9, 10, 14, 19, 56, 59, 72, 74, 75, 89, 100, 103, -1, 29, 43, 47, 4321, 45];
    const APPENDED_CODES: [i16; 8] = [7, 20, 56, -1, 4321, 3, 6, 46];
    const FATAL_CODES: [i16; 3] = [31, 35, 90];
    if allowed.fatal && rng.next_below(6) == 0 {
        return ProduceFault::FailBeforeAppend(ErrorCode(FATAL_CODES[rng.next_below(3) as usize]));
    }
    if rng.next_below(3) == 0 {
        let codes = if allowed.duplicate { 8 } else { 7 };
        return ProduceFault::FailAfterAppend(ErrorCode(
            APPENDED_CODES[rng.next_below(codes) as usize],
        ));
    }
    ProduceFault::FailBeforeAppend(ErrorCode(REJECTED_CODES[rng.next_below(23) as usize]))
}
