//! Selector and channels over the seam: sockets that split, stall and end at will.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::channel::DisconnectReason;
use super::io::simulated::{ClientInput, Faults, SimMachine, SimStream};
use super::io::{ChannelKey, Io, Job, JobResult, Readiness, Stream};
use super::selector::{PollResult, Selector};
use super::tls::TlsSession;
use crate::metrics::Counters;
use crate::sync::Mutex;
use crate::time::{Tick, Wakeup, WorkerPool};

/// The virtual machine, with an eye on who wants to write.
#[derive(Clone)]
pub(super) struct WriteInterestChecker {
    machine: SimMachine,
    write_interest: Arc<Mutex<BTreeMap<ChannelKey, bool>>>,
}

impl Io for WriteInterestChecker {
    type Stream = SimStream;

    fn connect(&mut self, key: ChannelKey, to: SocketAddr) -> io::Result<SimStream> {
        self.write_interest.lock().insert(key, true);
        self.machine.connect(key, to)
    }

    fn set_write_interest(
        &mut self,
        key: ChannelKey,
        stream: &mut SimStream,
        on: bool,
    ) -> io::Result<()> {
        let old = self.write_interest.lock().insert(key, on);
        assert_ne!(old, Some(on), "told what is so already");
        self.machine.set_write_interest(key, stream, on)
    }

    fn close(&mut self, key: ChannelKey, stream: SimStream) {
        self.write_interest.lock().remove(&key);
        Io::close(&mut self.machine, key, stream);
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        answers: &mut Vec<JobResult>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        self.machine.poll(ready, answers, timeout)
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

/// A selector and the other side of its connections.
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
        let wants = Arc::default();
        let io =
            WriteInterestChecker { machine: machine.clone(), write_interest: Arc::clone(&wants) };
        let counters = Arc::new(Counters::default());
        SelectorFixture {
            machine,
            selector: Selector::new(io, FRAME_LIMIT, Some(MAX_IDLE), counters),
            poll_count: 0,
            write_interest: wants,
        }
    }

    pub(super) fn connect(&mut self, tls: Option<TlsSession>) -> ChannelKey {
        self.selector.connect(server_address(), tls, self.machine.now()).unwrap()
    }

    /// Time goes on to whatever happens next, and the selector sees to it. False if nothing does.
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
        for (key, on) in &*self.write_interest.lock() {
            let waits = self.selector.has_pending_writes(*key);
            assert_eq!(*on, waits, "write interest is on exactly while bytes wait");
        }
        true
    }

    /// Until the connection can be used.
    fn open_connection(&mut self) -> ChannelKey {
        let key = self.connect(None);
        let mut out = PollResult::default();
        while !out.connected.contains(&key) {
            assert!(self.step(&mut out), "it opens");
        }
        key
    }

    fn send(&mut self, key: ChannelKey, frame: Vec<u8>) {
        let now = self.machine.now();
        let size = Bytes::copy_from_slice(&(frame.len() as i32).to_be_bytes());
        self.selector.send(key, vec![size, frame.into()], now);
    }

    /// Bytes that came, by connection.
    pub(super) fn received_bytes(&self) -> Vec<(u64, Vec<u8>)> {
        let arrived = self.machine.take_client_input().into_iter();
        arrived
            .filter_map(|(conn, _, what)| match what {
                ClientInput::Bytes(bytes) => Some((conn, bytes)),
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

/// Five connections, echoed by another side that knows nothing of frames.
#[test]
fn se3_se5_every_answer_in_order_and_one_a_poll() {
    let mut rig = SelectorFixture::new(7, SPLIT_FAULTS);
    let keys: Vec<ChannelKey> = (0..5).map(|_| rig.open_connection()).collect();
    let sizes = [0, 1, 3, 100, 5000, 40 * 1024];
    let mut sent: BTreeMap<ChannelKey, usize> = keys.iter().map(|k| (*k, 0)).collect();
    let mut received = sent.clone();
    let mut out = PollResult::default();
    const EACH: usize = 60;
    let body = |key: u64, n: usize| vec![(key as usize * 31 + n) as u8; sizes[n % sizes.len()]];
    while received.values().any(|n| *n < EACH) {
        for key in &keys {
            if sent[key] < EACH && rig.selector.can_send(*key) {
                rig.send(*key, body(*key, sent[key]));
                *sent.get_mut(key).unwrap() += 1;
            }
        }
        assert!(rig.step(&mut out), "something is on its way");
        assert!(out.disconnected.is_empty());
        let mut seen: Vec<ChannelKey> = out.completed_receives.iter().map(|r| r.0).collect();
        seen.dedup();
        assert_eq!(seen.len(), out.completed_receives.len(), "one a connection and poll");
        for (key, bytes) in out.completed_receives.drain(..) {
            let n = received.get_mut(&key).unwrap();
            assert_eq!(bytes, body(key, *n), "answer {n} of {key}");
            *n += 1;
        }
        for (conn, bytes) in rig.received_bytes() {
            rig.machine.send_to_client(conn, bytes, Duration::ZERO);
        }
    }
}

#[test]
fn se3_nr3_if3_large_sends_pass_through_small_sockets() {
    let mut rig = SelectorFixture::new(3, SPLIT_FAULTS);
    let key = rig.open_connection();
    let (mut out, mut total) = (PollResult::default(), 0);
    for n in 0..10u8 {
        rig.send(key, vec![n; 512 * 1024]);
        assert!(!rig.selector.can_send(key), "one send at a time (IF3)");
        let mut done = false;
        while !done || total < (usize::from(n) + 1) * (512 * 1024 + 4) {
            assert!(rig.step(&mut out));
            done |= out.completed_sends.contains(&key);
            total += rig.received_bytes().iter().map(|h| h.1.len()).sum::<usize>();
        }
        assert!(rig.selector.can_send(key));
    }
}

#[test]
fn nr1_nr2_frames_in_any_pieces_several_at_once_and_what_is_none() {
    let whole = [frame(b""), frame(b"one"), frame(&[9; 70_000]), frame(b"two")].concat();
    for piece in [1, 3, 4, 5, 64, 70_011, whole.len()] {
        let mut rig = SelectorFixture::new(1, Faults::NONE);
        let key = rig.open_connection();
        rig.send(key, b"x".to_vec());
        let (mut out, mut got) = (PollResult::default(), Vec::new());
        let conn = loop {
            rig.step(&mut out);
            if let Some((conn, _)) = rig.received_bytes().first() {
                break *conn;
            }
        };
        for part in whole.chunks(piece) {
            rig.machine.send_to_client(conn, part.to_vec(), Duration::ZERO);
        }
        rig.machine.close_connection(conn);
        let mut ended = None;
        while ended.is_none() {
            assert!(rig.step(&mut out), "{piece}");
            assert!(out.completed_receives.len() <= 1);
            got.extend(out.completed_receives.drain(..).map(|r| r.1.len()));
            ended = out.disconnected.pop();
        }
        assert_eq!(got, [0, 3, 70_000, 3], "what came whole before the end is delivered ({piece})");
        assert!(matches!(ended, Some((k, DisconnectReason::Eof)) if k == key));
    }
    for (bad, words) in [
        (vec![0xff, 0xff, 0xff, 0xff], "-1 bytes"),
        ((FRAME_LIMIT as i32 + 1).to_be_bytes().to_vec(), "receive.message.max.bytes"),
        (b"HTTP/1.1 400".to_vec(), "HTTP server"),
        (vec![0x15, 3, 3, 0, 2, 2, 40], "TLS alert"),
    ] {
        let mut rig = SelectorFixture::new(1, Faults::NONE);
        let (key, other) = (rig.open_connection(), rig.open_connection());
        rig.send(key, b"x".to_vec());
        let mut out = PollResult::default();
        let why = loop {
            assert!(rig.step(&mut out));
            for (conn, _) in rig.received_bytes() {
                rig.machine.send_to_client(
                    conn,
                    [frame(b"good"), bad.clone()].concat(),
                    Duration::ZERO,
                );
            }
            if let Some((k, why)) = out.disconnected.pop() {
                assert_eq!(k, key);
                break why.to_string();
            }
        };
        assert!(why.contains(words), "{why}");
        assert!(rig.selector.can_send(other), "nothing else is touched");
    }
}

#[test]
fn nr2_an_end_within_a_frame_is_an_end() {
    for cut in 0..7 {
        let mut rig = SelectorFixture::new(1, Faults::NONE);
        let key = rig.open_connection();
        rig.send(key, b"x".to_vec());
        let mut out = PollResult::default();
        loop {
            assert!(rig.step(&mut out));
            for (conn, _) in rig.received_bytes() {
                rig.machine.send_to_client(conn, frame(b"abc")[..cut].to_vec(), Duration::ZERO);
                rig.machine.close_connection(conn);
            }
            if let Some((_, why)) = out.disconnected.pop() {
                assert!(matches!(why, DisconnectReason::Eof), "cut at {cut}: {why}");
                break;
            }
            assert!(out.completed_receives.is_empty());
        }
    }
}

#[test]
fn se1_se9_what_ends_or_never_begins_leaves_nothing_behind() {
    let mut rig = SelectorFixture::new(1, Faults::NONE);
    let key = rig.open_connection();
    rig.send(key, b"x".to_vec());
    let mut out = PollResult::default();
    rig.step(&mut out);
    let conn = rig.received_bytes()[0].0;
    rig.machine.close_connection(conn);
    while out.disconnected.is_empty() {
        assert!(rig.step(&mut out));
    }
    assert!(!rig.selector.can_send(key));
    // A send to what is gone is nobody's.
    rig.send(key, b"late".to_vec());
    let again = rig.open_connection();
    assert_ne!(again, key, "a key is never used twice");
    rig.machine.stop_listening(server_address());
    let refused = rig.connect(None);
    loop {
        assert!(rig.step(&mut out));
        assert!(out.connected.is_empty());
        if let Some((k, why)) = out.disconnected.pop() {
            assert_eq!(k, refused);
            assert!(
                matches!(why, DisconnectReason::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused)
            );
            break;
        }
    }
    let now = rig.machine.now();
    rig.selector.close(again, now);
    rig.selector.close(again, now);
    assert!(rig.write_interest.lock().is_empty());
    assert_eq!(rig.selector.next_poll_deadline(), Tick::NEVER);
}

#[test]
fn se7_the_longest_unused_connection_is_closed_first_and_nothing_polls_in_between() {
    let mut rig = SelectorFixture::new(1, Faults::NONE);
    let first = rig.open_connection();
    rig.machine.advance(rig.machine.now().after(Duration::from_secs(2)));
    let second = rig.open_connection();
    let mut out = PollResult::default();
    while rig.step(&mut out) {}
    let due = rig.selector.next_poll_deadline();
    assert_eq!(due, Tick(1_000_000_000).after(MAX_IDLE), "nothing before that");
    rig.poll_count = 0;
    for (key, at) in [(first, due), (second, due.after(Duration::from_secs(2)))] {
        rig.machine.advance(at);
        assert!(rig.step(&mut out));
        assert!(matches!(out.disconnected[..], [(k, DisconnectReason::Idle)] if k == key));
    }
    assert_eq!(rig.poll_count, 2, "a poll each, and none for nothing");
    assert_eq!(rig.selector.next_poll_deadline(), Tick::NEVER);
}

/// A send that fails may have an answer before it in the socket.
#[test]
fn an_answer_before_a_failed_write_is_delivered() {
    let mut rig = SelectorFixture::new(1, Faults::NONE);
    let key = rig.open_connection();
    rig.send(key, b"x".to_vec());
    let mut out = PollResult::default();
    rig.step(&mut out);
    let conn = rig.received_bytes()[0].0;
    rig.machine.send_to_client(conn, frame(b"answer"), Duration::ZERO);
    rig.machine.close_connection(conn);
    // The end is there, and nobody has looked.
    rig.send(key, b"more".to_vec());
    let (mut got, mut ended) = (false, false);
    while !ended {
        assert!(rig.step(&mut out));
        got |= out.completed_receives.iter().any(|r| r.1 == b"answer"[..]);
        ended = !out.disconnected.is_empty();
    }
    assert!(got);
}

/// The stream's own word on a connection is final.
#[test]
fn a_stream_that_was_never_made_says_so() {
    let mut machine = SimMachine::new(1, Faults { max_delay_ns: 1_000_000, ..Faults::NONE });
    machine.listen(server_address());
    let mut stream = machine.connect(1, server_address()).unwrap();
    let early = stream.finish_connect().map_err(|e| e.kind());
    assert!(matches!(early, Ok(()) | Err(io::ErrorKind::WouldBlock)));
    machine.stop_listening(server_address());
    let mut refused = machine.connect(2, server_address()).unwrap();
    assert_eq!(refused.finish_connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(
        refused.write_vectored(&[IoSlice::new(b"x")]).is_ok(),
        "a socket may take what goes nowhere"
    );
}

#[test]
#[should_panic(expected = "one send at a time")]
fn se2_a_second_send_while_one_is_pending_is_a_bug_of_ours() {
    let mut rig = SelectorFixture::new(3, Faults { window_bytes: 8, ..Faults::NONE });
    let key = rig.open_connection();
    rig.send(key, vec![1; 100]);
    rig.send(key, vec![2; 100]);
}
