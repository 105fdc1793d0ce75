//! Tests of the selector and its channels on the simulated network.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::channel::DisconnectReason;
use super::io::{ChannelKey, Io, Job, JobResult, Readiness, Stream};
use super::selector::{PollResult, Selector};
use super::tls::TlsSession;
use crate::env::{Wakeup, WorkerPool};
use crate::metrics::Counters;
use crate::sim::{ClientInput, Faults, SimMachine, SimStream};
use crate::sync::Mutex;
use crate::time::Tick;

/// The simulated machine. It asserts that write interest changes only when needed.
#[derive(Clone)]
pub(super) struct WriteInterestChecker {
    machine: SimMachine,
    write_interest: Arc<Mutex<BTreeMap<ChannelKey, bool>>>,
}

impl Io for WriteInterestChecker {
    type Stream = SimStream;

    fn connect(&mut self, key: ChannelKey, address: SocketAddr) -> io::Result<SimStream> {
        self.write_interest.lock().insert(key, true);
        self.machine.connect(key, address)
    }

    fn set_write_interest(
        &mut self,
        key: ChannelKey,
        stream: &mut SimStream,
        enabled: bool,
    ) -> io::Result<()> {
        let old = self.write_interest.lock().insert(key, enabled);
        assert_ne!(old, Some(enabled), "a redundant change is a wasted system call");
        self.machine.set_write_interest(key, stream, enabled)
    }

    fn close(&mut self, key: ChannelKey, stream: SimStream) {
        self.write_interest.lock().remove(&key);
        Io::close(&mut self.machine, key, stream);
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        job_results: &mut Vec<JobResult>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        self.machine.poll(ready, job_results, timeout)
    }

    fn start_job(&mut self, job: Job) {
        self.machine.start_job(job);
    }

    fn wakeup(&self) -> Arc<dyn Wakeup> {
        self.machine.wakeup()
    }

    fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        self.machine.worker_pool()
    }
}

/// A selector and its simulated network; the test acts as the server.
pub(super) struct SelectorFixture {
    pub(super) machine: SimMachine,
    pub(super) selector: Selector<WriteInterestChecker>,
    pub(super) poll_count: u32,
    write_interest: Arc<Mutex<BTreeMap<ChannelKey, bool>>>,
}

const FRAME_LIMIT: usize = 1 << 20;
pub(super) const MAX_IDLE: Duration = Duration::from_secs(5);

pub(super) fn server_address() -> SocketAddr {
    ([127, 0, 0, 1], 9092).into()
}

impl SelectorFixture {
    pub(super) fn new(seed: u64, faults: Faults) -> SelectorFixture {
        let machine = SimMachine::new(seed, faults);
        machine.listen(server_address());
        let write_interest = Arc::default();
        let io = WriteInterestChecker {
            machine: machine.clone(),
            write_interest: Arc::clone(&write_interest),
        };
        let counters = Arc::new(Counters::default());
        SelectorFixture {
            machine,
            selector: Selector::new(io, FRAME_LIMIT, Some(MAX_IDLE), counters),
            poll_count: 0,
            write_interest,
        }
    }

    pub(super) fn connect(&mut self, tls: Option<TlsSession>) -> ChannelKey {
        self.selector.connect(server_address(), tls, self.machine.now()).unwrap()
    }

    /// Advances the clock to the next event and polls once. Returns false if there is no event.
    pub(super) fn step(&mut self, out: &mut PollResult) -> bool {
        let now = self.machine.now();
        if self.selector.next_poll_deadline() > now && !self.machine.would_wake() {
            match self.machine.next_event() {
                Some(next) => self.machine.advance(next),
                None => return false,
            }
        }
        let machine = self.machine.clone();
        *out = PollResult::default();
        self.poll_count += 1;
        self.selector.poll(Some(Duration::ZERO), || machine.now(), out).unwrap();
        for (key, enabled) in &*self.write_interest.lock() {
            let has_pending_writes = self.selector.has_pending_writes(*key);
            assert_eq!(*enabled, has_pending_writes, "write interest follows pending writes");
        }
        true
    }

    /// Connects and runs until the channel is open.
    fn open_connection(&mut self) -> ChannelKey {
        let key = self.connect(None);
        let mut out = PollResult::default();
        while !out.connected.contains(&key) {
            assert!(self.step(&mut out), "the connection does not open");
        }
        key
    }

    fn send(&mut self, key: ChannelKey, frame: Vec<u8>) {
        let now = self.machine.now();
        let size = Bytes::copy_from_slice(&(frame.len() as i32).to_be_bytes());
        self.selector.send(key, vec![size, frame.into()], now);
    }

    /// Takes the bytes that the server has received, by connection.
    pub(super) fn received_bytes(&self) -> Vec<(u64, Vec<u8>)> {
        let inputs = self.machine.take_client_input().into_iter();
        inputs
            .filter_map(|(connection, _, input)| match input {
                ClientInput::Bytes(bytes) => Some((connection, bytes)),
                ClientInput::Closed => None,
            })
            .collect()
    }
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

const SPLIT_FAULTS: Faults = Faults {
    max_delay_ns: 50_000,
    max_io_bytes: 4096,
    stall_one_in: 5,
    disconnect_one_in: 0,
    window_bytes: 8192,
};

/// Five connections to a server that echoes bytes.
// CASES: SE3, SE5.
#[test]
fn responses_arrive_in_order_and_one_per_connection_and_poll() {
    let mut f = SelectorFixture::new(7, SPLIT_FAULTS);
    let keys: Vec<ChannelKey> = (0..5).map(|_| f.open_connection()).collect();
    const FRAMES: usize = 60;
    let sizes = [0, 1, 3, 100, 5000, 40 * 1024];
    let mut sent: BTreeMap<ChannelKey, usize> = keys.iter().map(|k| (*k, 0)).collect();
    let mut received = sent.clone();
    let mut out = PollResult::default();
    let body = |key: u64, n: usize| vec![(key as usize * 31 + n) as u8; sizes[n % sizes.len()]];
    while received.values().any(|n| *n < FRAMES) {
        for key in &keys {
            if sent[key] < FRAMES && f.selector.can_send(*key) {
                f.send(*key, body(*key, sent[key]));
                *sent.get_mut(key).unwrap() += 1;
            }
        }
        assert!(f.step(&mut out), "no event left");
        assert!(out.disconnected.is_empty());
        let mut keys: Vec<ChannelKey> = out.completed_receives.iter().map(|r| r.0).collect();
        keys.dedup();
        assert_eq!(keys.len(), out.completed_receives.len(), "one per connection and poll");
        for (key, bytes) in out.completed_receives.drain(..) {
            let n = received.get_mut(&key).unwrap();
            assert_eq!(bytes, body(key, *n), "response {n} of {key}");
            *n += 1;
        }
        for (connection, bytes) in f.received_bytes() {
            f.machine.send_to_client(connection, bytes, Duration::ZERO);
        }
    }
}

// CASES: SE3, NR3, IF3.
#[test]
fn large_sends_complete_through_a_small_window() {
    let mut f = SelectorFixture::new(3, SPLIT_FAULTS);
    let key = f.open_connection();
    let (mut out, mut total) = (PollResult::default(), 0);
    for n in 0..10u8 {
        f.send(key, vec![n; 512 * 1024]);
        assert!(!f.selector.can_send(key), "one send at a time");
        let mut completed = false;
        while !completed || total < (usize::from(n) + 1) * (512 * 1024 + 4) {
            assert!(f.step(&mut out));
            completed |= out.completed_sends.contains(&key);
            total += f.received_bytes().iter().map(|b| b.1.len()).sum::<usize>();
        }
        assert!(f.selector.can_send(key));
    }
}

/// Opens a connection, sends a frame and waits until the server has it. Returns the channel and the
/// server's number of the connection.
fn connect_and_send(f: &mut SelectorFixture) -> (ChannelKey, u64) {
    let key = f.open_connection();
    f.send(key, b"x".to_vec());
    let mut out = PollResult::default();
    loop {
        f.step(&mut out);
        if let Some((connection, _)) = f.received_bytes().first() {
            return (key, *connection);
        }
    }
}

// CASES: NR1, NR2.
#[test]
fn frames_split_at_any_byte_are_complete_and_precede_the_end() {
    let bytes = [frame(b""), frame(b"one"), frame(&[9; 70_000]), frame(b"two")].concat();
    for chunk_len in [1, 3, 4, 5, 64, 70_011, bytes.len()] {
        let mut f = SelectorFixture::new(1, Faults::NONE);
        let (key, connection) = connect_and_send(&mut f);
        for chunk in bytes.chunks(chunk_len) {
            f.machine.send_to_client(connection, chunk.to_vec(), Duration::ZERO);
        }
        f.machine.close_connection(connection);
        let (mut out, mut lens) = (PollResult::default(), Vec::new());
        let mut end = None;
        while end.is_none() {
            assert!(f.step(&mut out), "chunks of {chunk_len} bytes");
            assert!(out.completed_receives.len() <= 1);
            lens.extend(out.completed_receives.drain(..).map(|r| r.1.len()));
            end = out.disconnected.pop();
        }
        assert_eq!(lens, [0, 3, 70_000, 3], "chunks of {chunk_len} bytes");
        assert!(matches!(end, Some((k, DisconnectReason::Eof)) if k == key));
    }
}

// CASES: NR2.
#[test]
fn invalid_frame_length_disconnects_only_its_own_connection() {
    for (bad, expected) in [
        (vec![0xff, 0xff, 0xff, 0xff], "-1 bytes"),
        ((FRAME_LIMIT as i32 + 1).to_be_bytes().to_vec(), "receive.message.max.bytes"),
        (b"HTTP/1.1 400".to_vec(), "HTTP server"),
        (vec![0x15, 3, 3, 0, 2, 2, 40], "TLS alert"),
    ] {
        let mut f = SelectorFixture::new(1, Faults::NONE);
        let other = f.open_connection();
        let (key, connection) = connect_and_send(&mut f);
        let bytes = [frame(b"good"), bad].concat();
        f.machine.send_to_client(connection, bytes, Duration::ZERO);
        let mut out = PollResult::default();
        while out.disconnected.is_empty() {
            assert!(f.step(&mut out));
        }
        let (k, reason) = out.disconnected.pop().unwrap();
        assert_eq!(k, key);
        assert!(reason.to_string().contains(expected), "{reason}");
        assert!(f.selector.can_send(other), "the other connection stays open");
    }
}

// CASES: NR2.
#[test]
fn end_of_stream_within_a_frame_is_eof() {
    for len in 0..7 {
        let mut f = SelectorFixture::new(1, Faults::NONE);
        let (_, connection) = connect_and_send(&mut f);
        f.machine.send_to_client(connection, frame(b"abc")[..len].to_vec(), Duration::ZERO);
        f.machine.close_connection(connection);
        let mut out = PollResult::default();
        while out.disconnected.is_empty() {
            assert!(f.step(&mut out));
            assert!(out.completed_receives.is_empty());
        }
        let (_, reason) = out.disconnected.pop().unwrap();
        assert!(matches!(reason, DisconnectReason::Eof), "after {len} bytes: {reason}");
    }
}

// CASES: SE1, SE9.
#[test]
fn closed_and_refused_connections_leave_no_state() {
    let mut f = SelectorFixture::new(1, Faults::NONE);
    let key = f.open_connection();
    f.send(key, b"x".to_vec());
    let mut out = PollResult::default();
    f.step(&mut out);
    let connection = f.received_bytes()[0].0;
    f.machine.close_connection(connection);
    while out.disconnected.is_empty() {
        assert!(f.step(&mut out));
    }
    assert!(!f.selector.can_send(key));
    // A send to a closed channel is ignored.
    f.send(key, b"late".to_vec());
    let again = f.open_connection();
    assert_ne!(again, key, "a key is never used twice");
    f.machine.stop_listening(server_address());
    let refused = f.connect(None);
    loop {
        assert!(f.step(&mut out));
        assert!(out.connected.is_empty());
        if let Some((k, reason)) = out.disconnected.pop() {
            assert_eq!(k, refused);
            let DisconnectReason::Io(e) = reason else { panic!("{reason}") };
            assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
            break;
        }
    }
    let now = f.machine.now();
    f.selector.close(again, now);
    f.selector.close(again, now);
    assert!(f.write_interest.lock().is_empty());
    assert_eq!(f.selector.next_poll_deadline(), Tick::NEVER);
}

// CASES: SE7.
#[test]
fn idle_connections_expire_oldest_first_without_polls_in_between() {
    let mut f = SelectorFixture::new(1, Faults::NONE);
    let first = f.open_connection();
    f.machine.advance(f.machine.now().after(Duration::from_secs(2)));
    let second = f.open_connection();
    let mut out = PollResult::default();
    while f.step(&mut out) {}
    let deadline = f.selector.next_poll_deadline();
    assert_eq!(deadline, Tick(1_000_000_000).after(MAX_IDLE));
    f.poll_count = 0;
    for (key, at) in [(first, deadline), (second, deadline.after(Duration::from_secs(2)))] {
        f.machine.advance(at);
        assert!(f.step(&mut out));
        assert!(matches!(out.disconnected[..], [(k, DisconnectReason::Idle)] if k == key));
    }
    assert_eq!(f.poll_count, 2, "one poll for each connection");
    assert_eq!(f.selector.next_poll_deadline(), Tick::NEVER);
}

/// The server responds and closes before the client's next write, which fails.
#[test]
fn response_before_a_failed_write_is_received() {
    let mut f = SelectorFixture::new(1, Faults::NONE);
    let key = f.open_connection();
    f.send(key, b"x".to_vec());
    let mut out = PollResult::default();
    f.step(&mut out);
    let connection = f.received_bytes()[0].0;
    f.machine.send_to_client(connection, frame(b"response"), Duration::ZERO);
    f.machine.close_connection(connection);
    // The end has arrived, but the selector has not polled since.
    f.send(key, b"more".to_vec());
    let mut received = false;
    loop {
        assert!(f.step(&mut out));
        received |= out.completed_receives.iter().any(|r| r.1 == b"response"[..]);
        if !out.disconnected.is_empty() {
            break;
        }
    }
    assert!(received);
}

#[test]
fn finish_connect_reports_a_refused_connection() {
    let mut machine = SimMachine::new(1, Faults { max_delay_ns: 1_000_000, ..Faults::NONE });
    machine.listen(server_address());
    let mut stream = machine.connect(1, server_address()).unwrap();
    let result = stream.finish_connect().map_err(|e| e.kind());
    assert!(matches!(result, Ok(()) | Err(io::ErrorKind::WouldBlock)));
    machine.stop_listening(server_address());
    let mut refused = machine.connect(2, server_address()).unwrap();
    assert_eq!(refused.finish_connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(
        refused.write_vectored(&[IoSlice::new(b"x")]).is_ok(),
        "a socket may accept bytes that never arrive"
    );
}

// CASES: SE2.
#[test]
#[should_panic(expected = "one send at a time")]
fn second_send_on_a_channel_panics() {
    let mut f = SelectorFixture::new(3, Faults { window_bytes: 8, ..Faults::NONE });
    let key = f.open_connection();
    f.send(key, vec![1; 100]);
    f.send(key, vec![2; 100]);
}
