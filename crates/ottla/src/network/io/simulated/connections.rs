//! The ways between a virtual client and the other side: bytes under way, and when they arrive.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::super::ChannelKey;
use crate::time::Tick;

/// How the way to an address is, beside what happens to every way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Bytes on their way there wait until this is over, as TCP sends them again.
    pub up_held: bool,
    /// Bytes on their way back wait until this is over.
    pub down_held: bool,
    /// The other side reads nothing.
    pub reads_paused: bool,
}

/// When what is held arrives: not before it is let go.
pub(super) const HELD: Tick = Tick(u64::MAX - 1);

/// Where bytes that were written stand until they are read.
#[derive(Debug, Default)]
pub(super) struct SegmentQueue {
    pub(super) segments: VecDeque<(Tick, Vec<u8>)>,
    /// The end comes then.
    pub(super) ends_at: Option<Tick>,
}

impl SegmentQueue {
    pub(super) fn push(&mut self, at: Tick, bytes: Vec<u8>) {
        // Bytes never overtake one another.
        let at = self.segments.back().map_or(at, |last| last.0.max(at));
        self.segments.push_back((at, bytes));
    }

    pub(super) fn next_arrival(&self) -> Option<Tick> {
        self.segments.front().map(|s| s.0).or(self.ends_at).filter(|at| *at < HELD)
    }

    /// Holds back everything under way.
    pub(super) fn hold(&mut self, now: Tick) {
        for (at, _) in self.segments.iter_mut().filter(|s| s.0 > now) {
            *at = HELD;
        }
        self.ends_at = self.ends_at.map(|at| if at > now { HELD } else { at });
    }

    /// Lets go of what was held, to arrive then.
    pub(super) fn release(&mut self, then: Tick) {
        for (at, _) in self.segments.iter_mut().filter(|s| s.0 == HELD) {
            *at = then;
        }
        self.ends_at = self.ends_at.map(|at| if at == HELD { then } else { at });
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.segments.iter().map(|s| s.1.len()).sum()
    }

    pub(super) fn read(&mut self, into: &mut [u8], now: Tick) -> Option<usize> {
        let (at, bytes) = self.segments.front_mut()?;
        if *at > now {
            return None;
        }
        let n = bytes.len().min(into.len());
        into[..n].copy_from_slice(&bytes[..n]);
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

#[derive(Debug)]
pub(super) struct SimConnection {
    pub(super) to: SocketAddr,
    pub(super) key: ChannelKey,
    pub(super) connected_at: Tick,
    pub(super) refused: bool,
    pub(super) up: SegmentQueue,
    pub(super) down: SegmentQueue,
    /// Room in the socket comes back then.
    pub(super) stalled_until: Option<Tick>,
    /// There is no room until the other side reads.
    pub(super) full: bool,
    /// Edges not reported yet.
    pub(super) pending_edges: (bool, bool),
    pub(super) connect_reported: bool,
    pub(super) closed_by_client: bool,
    /// The other side knows that nothing more comes.
    pub(super) end_reported: bool,
}

impl SimConnection {
    /// The client closed it; what it sent is still on its way, and the end behind that.
    pub(super) fn close_by_client(&mut self, at: Tick) {
        self.closed_by_client = true;
        self.stalled_until = None;
        self.down = SegmentQueue::default();
        self.connect_reported = true;
        let at = self.up.segments.back().map_or(at, |last| last.0.max(at));
        self.up.ends_at = Some(self.up.ends_at.map_or(at, |e| e.min(at)));
    }
}

pub(super) fn disconnect(c: &mut SimConnection, at: Tick) {
    c.down.ends_at.get_or_insert(at);
    c.up.ends_at.get_or_insert(at);
}
