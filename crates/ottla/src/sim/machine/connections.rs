//! The simulated connections: bytes on the way between a client and a server, with arrival times.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::network::io::ChannelKey;
use crate::time::Tick;

/// The state of the network between the client and one server, in addition to the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Holds the bytes to the server until the link recovers, as TCP retransmits them.
    pub up_held: bool,
    /// Holds the bytes to the client until the link recovers.
    pub down_held: bool,
    /// The server does not read.
    pub reads_paused: bool,
}

/// The arrival time of held bytes; `SegmentQueue::release` replaces it.
pub(super) const HELD: Tick = Tick(u64::MAX - 1);

/// One direction of a connection: the bytes that were written and not yet read.
#[derive(Debug, Default)]
pub(super) struct SegmentQueue {
    /// Each segment with its arrival time.
    pub(super) segments: VecDeque<(Tick, Vec<u8>)>,
    /// The arrival time of the end of the stream.
    pub(super) ends_at: Option<Tick>,
}

impl SegmentQueue {
    /// Adds a segment. It does not arrive before the previous one.
    pub(super) fn push(&mut self, at: Tick, bytes: Vec<u8>) {
        let at = self.segments.back().map_or(at, |last| last.0.max(at));
        self.segments.push_back((at, bytes));
    }

    /// Returns the arrival time of the next segment, or of the end; `None` if it is held.
    pub(super) fn next_arrival(&self) -> Option<Tick> {
        self.segments.front().map(|s| s.0).or(self.ends_at).filter(|at| *at < HELD)
    }

    /// Holds everything that has not arrived yet.
    pub(super) fn hold(&mut self, now: Tick) {
        for (at, _) in self.segments.iter_mut().filter(|s| s.0 > now) {
            *at = HELD;
        }
        self.ends_at = self.ends_at.map(|at| if at > now { HELD } else { at });
    }

    /// Makes everything that is held arrive at this time.
    pub(super) fn release(&mut self, arrival: Tick) {
        for (at, _) in self.segments.iter_mut().filter(|s| s.0 == HELD) {
            *at = arrival;
        }
        self.ends_at = self.ends_at.map(|at| if at == HELD { arrival } else { at });
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.segments.iter().map(|s| s.1.len()).sum()
    }

    /// Reads from the first segment; `None` if none has arrived.
    pub(super) fn read(&mut self, buf: &mut [u8], now: Tick) -> Option<usize> {
        let (at, bytes) = self.segments.front_mut()?;
        if *at > now {
            return None;
        }
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        bytes.drain(..n);
        if bytes.is_empty() {
            self.segments.pop_front();
        }
        Some(n)
    }

    pub(super) fn has_ended(&self, now: Tick) -> bool {
        self.segments.is_empty() && self.ends_at.is_some_and(|at| at <= now)
    }
}

/// A connection. `up` is the direction to the server, `down` to the client.
#[derive(Debug)]
pub(super) struct SimConnection {
    pub(super) server: SocketAddr,
    pub(super) key: ChannelKey,
    pub(super) connected_at: Tick,
    pub(super) refused: bool,
    pub(super) up: SegmentQueue,
    pub(super) down: SegmentQueue,
    /// The end of a stall: writes block until then.
    pub(super) stalled_until: Option<Tick>,
    /// Whether writes block until the server reads.
    pub(super) full: bool,
    /// Readiness edges that no poll has reported yet.
    pub(super) readable_edge: bool,
    pub(super) writable_edge: bool,
    pub(super) connect_reported: bool,
    pub(super) closed_by_client: bool,
    /// Whether the server was notified of the end.
    pub(super) end_reported: bool,
}

impl SimConnection {
    /// Closes the client's end. Bytes on the way to the server still arrive, then the end.
    pub(super) fn close_by_client(&mut self, at: Tick) {
        self.closed_by_client = true;
        self.stalled_until = None;
        self.down = SegmentQueue::default();
        self.connect_reported = true;
        let at = self.up.segments.back().map_or(at, |last| last.0.max(at));
        self.up.ends_at = Some(self.up.ends_at.map_or(at, |e| e.min(at)));
    }
}

/// Ends both directions at this time, unless they end already.
pub(super) fn disconnect(c: &mut SimConnection, at: Tick) {
    c.down.ends_at.get_or_insert(at);
    c.up.ends_at.get_or_insert(at);
}
