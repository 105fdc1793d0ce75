//! What happens to the world at a moment: nodes, leaders, ways, names, clocks, topics.

use std::fmt;

use ottla_protocol::wire::TestRng;

use crate::scenario::Scenario;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScenarioEventKind {
    /// A node ends as by SIGKILL.
    KillNode(i32),
    /// A node that ended comes back.
    RestartNode(i32),
    /// Another node leads a partition: topic, partition, node; what had not been copied yet is kept, or lost.
    MoveLeader(u64, u64, i32, bool),
    /// A follower copies nothing.
    PauseReplication(i32),
    /// It copies again.
    ResumeReplication(i32),
    /// Nothing gets to a node or comes from it; no connection ends.
    BlackHole(i32),
    /// Requests get to a node, and no answers come.
    HalfOpen(i32),
    /// A node reads nothing.
    StopReading(i32),
    /// A node's ways are whole again.
    RestoreLink(i32),
    /// Every connection to a node is lost.
    ResetConnections(i32),
    /// The calendar jumps, by milliseconds.
    WallClockJump(i64),
    /// The machine sleeps: clocks go on, nobody does anything.
    Suspend(u64),
    /// A topic is deleted and made again, with so many partitions.
    RecreateTopic(u64, u64),
    /// A topic is deleted, and stays away until the world heals.
    DeleteTopic(u64),
    /// A topic gets more partitions.
    AddPartitions(u64, u64),
    /// A topic takes no larger batches any more (`max.message.bytes`).
    SetMaxMessageBytes(u64, u64),
    /// A node asks clients to wait.
    ThrottleNode(i32, i32),
    /// Names are not found any more.
    DnsFails,
    /// Names are found again.
    DnsRecovers,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioEvent {
    /// Its number among all that the seed decided.
    pub number: usize,
    /// Milliseconds after the start.
    pub at_ms: u64,
    /// What.
    pub kind: ScenarioEventKind,
}

impl fmt::Display for ScenarioEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} at {} ms: {:?}", self.number, self.at_ms, self.kind)
    }
}

fn random_kind(g: &mut TestRng, s: &Scenario) -> ScenarioEventKind {
    let node = 1 + g.next_below(s.nodes) as i32;
    let topic = g.next_below(s.topics);
    match g.next_below(26) {
        0..4 => ScenarioEventKind::KillNode(node),
        4..6 => ScenarioEventKind::RestartNode(node),
        6..10 => ScenarioEventKind::MoveLeader(
            topic,
            g.next_below(s.partitions),
            node,
            g.next_below(2) == 0,
        ),
        10 => ScenarioEventKind::PauseReplication(node),
        11 => ScenarioEventKind::ResumeReplication(node),
        12 => ScenarioEventKind::BlackHole(node),
        13 => ScenarioEventKind::HalfOpen(node),
        14 => ScenarioEventKind::StopReading(node),
        15 => ScenarioEventKind::RestoreLink(node),
        16 => ScenarioEventKind::ResetConnections(node),
        17 => ScenarioEventKind::WallClockJump(g.next_below(7_200_000) as i64 - 3_600_000),
        18 => ScenarioEventKind::Suspend(1 + g.next_below(5_000)),
        19 => ScenarioEventKind::RecreateTopic(topic, 1 + g.next_below(s.partitions + 2)),
        20 if g.next_below(3) == 0 => ScenarioEventKind::DeleteTopic(topic),
        21 => ScenarioEventKind::AddPartitions(topic, s.partitions + 1 + g.next_below(3)),
        22 => ScenarioEventKind::ThrottleNode(node, [0, 5, 100, 900][g.next_below(4) as usize]),
        23 if g.next_below(2) == 0 => ScenarioEventKind::DnsFails,
        24..26 => ScenarioEventKind::SetMaxMessageBytes(
            topic,
            [300, 600, 1_048_588][g.next_below(3) as usize],
        ),
        _ => ScenarioEventKind::DnsRecovers,
    }
}

/// The events of a seed, in the order in which they happen. What ends also comes back, most of the time.
pub(crate) fn random_events(g: &mut TestRng, s: &Scenario) -> Vec<ScenarioEvent> {
    let mut all: Vec<(u64, ScenarioEventKind)> = Vec::new();
    for _ in 0..g.next_below(14) {
        let (at, kind) = (g.next_below(s.heal_after_ms), random_kind(g, s));
        let later = at + 1 + g.next_below(4_000);
        let back = match kind {
            ScenarioEventKind::KillNode(n) => Some(ScenarioEventKind::RestartNode(n)),
            ScenarioEventKind::PauseReplication(n) => Some(ScenarioEventKind::ResumeReplication(n)),
            ScenarioEventKind::BlackHole(n)
            | ScenarioEventKind::HalfOpen(n)
            | ScenarioEventKind::StopReading(n) => Some(ScenarioEventKind::RestoreLink(n)),
            ScenarioEventKind::DnsFails => Some(ScenarioEventKind::DnsRecovers),
            _ => None,
        };
        all.push((at, kind));
        if let Some(back) = back.filter(|_| g.next_below(4) != 0 && later < s.heal_after_ms) {
            all.push((later, back));
        }
    }
    all.sort();
    let event = |(number, (at_ms, kind))| ScenarioEvent { number, at_ms, kind };
    all.into_iter().enumerate().map(event).collect()
}
