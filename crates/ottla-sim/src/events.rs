//! What happens to the world at a moment: nodes, leaders, ways, names, clocks, topics.

use std::fmt;

use ottla_protocol::wire::TestRng;

use crate::scenario::Scenario;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node ends as by SIGKILL.
    Kill(i32),
    /// A node that ended comes back.
    Restart(i32),
    /// Another node leads a partition: topic, partition, node; what had not been copied yet is kept, or lost.
    Move(u64, u64, i32, bool),
    /// A follower copies nothing.
    Pause(i32),
    /// It copies again.
    Resume(i32),
    /// Nothing gets to a node or comes from it; no connection ends.
    Hole(i32),
    /// Requests get to a node, and no answers come.
    HalfOpen(i32),
    /// A node reads nothing.
    Deaf(i32),
    /// A node's ways are whole again.
    Mend(i32),
    /// Every connection to a node is lost.
    Reset(i32),
    /// The calendar jumps, by milliseconds.
    Calendar(i64),
    /// The machine sleeps: clocks go on, nobody does anything.
    Sleep(u64),
    /// A topic is deleted and made again, with so many partitions.
    Recreate(u64, u64),
    /// A topic is deleted, and stays away until the world heals.
    Delete(u64),
    /// A topic gets more partitions.
    Widen(u64, u64),
    /// A topic takes no larger batches any more (`max.message.bytes`).
    Limit(u64, u64),
    /// A node asks clients to wait.
    Throttle(i32, i32),
    /// Names are not found any more.
    NoNames,
    /// Names are found again.
    Names,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number among all that the seed decided.
    pub number: usize,
    /// Milliseconds after the start.
    pub at_ms: u64,
    /// What.
    pub kind: Kind,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} at {} ms: {:?}", self.number, self.at_ms, self.kind)
    }
}

fn kind(g: &mut TestRng, s: &Scenario) -> Kind {
    let node = 1 + g.next_below(s.nodes) as i32;
    let topic = g.next_below(s.topics);
    match g.next_below(26) {
        0..4 => Kind::Kill(node),
        4..6 => Kind::Restart(node),
        6..10 => Kind::Move(topic, g.next_below(s.partitions), node, g.next_below(2) == 0),
        10 => Kind::Pause(node),
        11 => Kind::Resume(node),
        12 => Kind::Hole(node),
        13 => Kind::HalfOpen(node),
        14 => Kind::Deaf(node),
        15 => Kind::Mend(node),
        16 => Kind::Reset(node),
        17 => Kind::Calendar(g.next_below(7_200_000) as i64 - 3_600_000),
        18 => Kind::Sleep(1 + g.next_below(5_000)),
        19 => Kind::Recreate(topic, 1 + g.next_below(s.partitions + 2)),
        20 if g.next_below(3) == 0 => Kind::Delete(topic),
        21 => Kind::Widen(topic, s.partitions + 1 + g.next_below(3)),
        22 => Kind::Throttle(node, [0, 5, 100, 900][g.next_below(4) as usize]),
        23 if g.next_below(2) == 0 => Kind::NoNames,
        24..26 => Kind::Limit(topic, [300, 600, 1_048_588][g.next_below(3) as usize]),
        _ => Kind::Names,
    }
}

/// The events of a seed, in the order in which they happen. What ends also comes back, most of the time.
pub(crate) fn draw(g: &mut TestRng, s: &Scenario) -> Vec<Event> {
    let mut all: Vec<(u64, Kind)> = Vec::new();
    for _ in 0..g.next_below(14) {
        let (at, kind) = (g.next_below(s.heal_after_ms), kind(g, s));
        let later = at + 1 + g.next_below(4_000);
        let back = match kind {
            Kind::Kill(n) => Some(Kind::Restart(n)),
            Kind::Pause(n) => Some(Kind::Resume(n)),
            Kind::Hole(n) | Kind::HalfOpen(n) | Kind::Deaf(n) => Some(Kind::Mend(n)),
            Kind::NoNames => Some(Kind::Names),
            _ => None,
        };
        all.push((at, kind));
        if let Some(back) = back.filter(|_| g.next_below(4) != 0 && later < s.heal_after_ms) {
            all.push((later, back));
        }
    }
    all.sort();
    let event = |(number, (at_ms, kind))| Event { number, at_ms, kind };
    all.into_iter().enumerate().map(event).collect()
}
