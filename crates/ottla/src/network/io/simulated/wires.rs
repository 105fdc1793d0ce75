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
    pub unread: bool,
}

/// When what is held arrives: not before it is let go.
pub(super) const HELD: Tick = Tick(u64::MAX - 1);

/// Where bytes that were written stand until they are read.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) segments: VecDeque<(Tick, Vec<u8>)>,
    /// The end comes then.
    pub(super) ends: Option<Tick>,
}

impl Pipe {
    pub(super) fn push(&mut self, at: Tick, bytes: Vec<u8>) {
        // Bytes never overtake one another.
        let at = self.segments.back().map_or(at, |last| last.0.max(at));
        self.segments.push_back((at, bytes));
    }

    pub(super) fn next(&self) -> Option<Tick> {
        self.segments.front().map(|s| s.0).or(self.ends).filter(|at| *at < HELD)
    }

    /// Holds back everything under way.
    pub(super) fn hold(&mut self, now: Tick) {
        for (at, _) in self.segments.iter_mut().filter(|s| s.0 > now) {
            *at = HELD;
        }
        self.ends = self.ends.map(|at| if at > now { HELD } else { at });
    }

    /// Lets go of what was held, to arrive then.
    pub(super) fn let_go(&mut self, then: Tick) {
        for (at, _) in self.segments.iter_mut().filter(|s| s.0 == HELD) {
            *at = then;
        }
        self.ends = self.ends.map(|at| if at == HELD { then } else { at });
    }

    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|s| s.1.len()).sum()
    }

    pub(super) fn take(&mut self, into: &mut [u8], now: Tick) -> Option<usize> {
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

    pub(super) fn ended(&self, now: Tick) -> bool {
        self.segments.is_empty() && self.ends.is_some_and(|at| at <= now)
    }
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) to: SocketAddr,
    pub(super) key: ChannelKey,
    pub(super) made: Tick,
    pub(super) refused: bool,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// Room in the socket comes back then.
    pub(super) stalled: Option<Tick>,
    /// There is no room until the other side reads.
    pub(super) full: bool,
    /// Edges not reported yet.
    pub(super) edge: (bool, bool),
    pub(super) reported_made: bool,
    pub(super) closed_by_client: bool,
    /// The other side knows that nothing more comes.
    pub(super) end_seen: bool,
}

impl Conn {
    /// The client closed it; what it sent is still on its way, and the end behind that.
    pub(super) fn closed(&mut self, at: Tick) {
        self.closed_by_client = true;
        self.stalled = None;
        self.down = Pipe::default();
        self.reported_made = true;
        let at = self.up.segments.back().map_or(at, |last| last.0.max(at));
        self.up.ends = Some(self.up.ends.map_or(at, |e| e.min(at)));
    }
}

pub(super) fn end(c: &mut Conn, at: Tick) {
    c.down.ends.get_or_insert(at);
    c.up.ends.get_or_insert(at);
}
