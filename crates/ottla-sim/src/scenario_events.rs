//! Faults that happen at a given virtual time: to nodes, leaders, links, DNS, clocks and topics.
//!
//! `Scenario::new` draws them from the seed; the simulation applies them.

use std::fmt;

use ottla_protocol::wire::TestRng;

use crate::scenario::Scenario;

/// A kind of event.
///
/// Events at the same millisecond happen in the order of these variants. So a change of the order
/// of variants or fields changes what seeds do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScenarioEventKind {
    /// A node is killed, as by SIGKILL.
    KillNode(i32),
    /// A killed node starts again.
    RestartNode(i32),
    /// Another node becomes the leader of a partition.
    MoveLeader {
        /// The topic's index.
        topic: u64,
        /// The partition.
        partition: u64,
        /// The new leader.
        to: i32,
        /// Whether the records that were not replicated yet are kept.
        keeps_tail: bool,
    },
    /// A follower stops copying.
    PauseReplication(i32),
    /// A follower copies again.
    ResumeReplication(i32),
    /// Nothing reaches a node or comes from it; no connection ends.
    BlackHole(i32),
    /// Requests reach a node, but its responses do not come.
    HalfOpen(i32),
    /// A node reads nothing from its sockets.
    StopReading(i32),
    /// A node's link works again.
    RestoreLink(i32),
    /// Every connection to a node is reset.
    ResetConnections(i32),
    /// The client's wall clock jumps.
    WallClockJump {
        /// The distance in milliseconds; negative for a jump back.
        ms: i64,
    },
    /// The client's machine is suspended: clocks go on, no code runs.
    Suspend {
        /// The length in milliseconds.
        ms: u64,
    },
    /// A topic is deleted and created again under a new id.
    RecreateTopic {
        /// The topic's index.
        topic: u64,
        /// The number of partitions of the new topic.
        partitions: u64,
    },
    /// A topic is deleted, and is absent until recovery.
    DeleteTopic(u64),
    /// A topic gets more partitions.
    AddPartitions {
        /// The topic's index.
        topic: u64,
        /// The new number of partitions.
        partitions: u64,
    },
    /// `max.message.bytes` of a topic changes.
    SetMaxMessageBytes {
        /// The topic's index.
        topic: u64,
        /// The new limit.
        max_bytes: u64,
    },
    /// A node throttles produce requests.
    ThrottleNode {
        /// The node.
        node: i32,
        /// The throttle time in its responses, in milliseconds.
        throttle_ms: i32,
    },
    /// DNS lookups fail.
    DnsFails,
    /// DNS lookups succeed again.
    DnsRecovers,
    /// A topic is restored as from a backup of the cluster: its leader epochs begin again at 0.
    RestoreTopic {
        /// The topic's index.
        topic: u64,
        /// The node that leads afterwards the partitions of which it has a replica.
        to: i32,
    },
    /// Another node becomes the coordinator of a transactional id, and of the consumer group with
    /// the same number.
    MoveCoordinator {
        /// The number of the transactional id.
        id: u64,
        /// The new coordinator.
        to: i32,
    },
    /// The producer of an instance runs no code for a while.
    PauseInstance {
        /// The instance.
        instance: u64,
        /// The length in milliseconds.
        ms: u64,
    },
    /// Nothing passes between an instance and the cluster; no connection ends.
    IsolateInstance(u64),
    /// The network of an instance works again.
    ReconnectInstance(u64),
    /// The process of an instance is killed. It starts again.
    KillInstance(u64),
    /// The cluster finalizes another `transaction.version`.
    SetTransactionVersion(u64),
}

impl ScenarioEventKind {
    /// Returns whether the event removes records of a topic from the cluster.
    pub(crate) fn removes_records(self) -> bool {
        use ScenarioEventKind as Kind;

        matches!(
            self,
            Kind::RecreateTopic { .. } | Kind::DeleteTopic(_) | Kind::RestoreTopic { .. }
        )
    }

    /// Returns whether the event suspends the clients' machines.
    pub(crate) fn suspends_machines(self) -> bool {
        matches!(self, ScenarioEventKind::Suspend { .. })
    }
}

/// A kind of event and the time when it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioEvent {
    /// Its number among all events of the seed; `events=` in a scenario's text names it.
    pub number: usize,
    /// Milliseconds after the start of the run.
    pub at_ms: u64,
    /// The kind of event.
    pub kind: ScenarioEventKind,
}

impl fmt::Display for ScenarioEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} at {} ms: {:?}", self.number, self.at_ms, self.kind)
    }
}

fn random_kind(rng: &mut TestRng, s: &Scenario) -> ScenarioEventKind {
    use ScenarioEventKind as Kind;

    const THROTTLES_MS: [i32; 4] = [0, 5, 100, 900];
    const MESSAGE_LIMITS: [u64; 3] = [300, 600, 1_048_588];
    let node = 1 + rng.next_below(s.nodes) as i32;
    let topic = rng.next_below(s.topics);
    match rng.next_below(26) {
        0..4 => Kind::KillNode(node),
        4..6 => Kind::RestartNode(node),
        6..10 => Kind::MoveLeader {
            topic,
            partition: rng.next_below(s.partitions),
            to: node,
            keeps_tail: rng.next_below(2) == 0,
        },
        10 => Kind::PauseReplication(node),
        11 => Kind::ResumeReplication(node),
        12 => Kind::BlackHole(node),
        13 => Kind::HalfOpen(node),
        14 => Kind::StopReading(node),
        15 => Kind::RestoreLink(node),
        16 => Kind::ResetConnections(node),
        17 => Kind::WallClockJump { ms: rng.next_below(7_200_000) as i64 - 3_600_000 },
        18 => Kind::Suspend { ms: 1 + rng.next_below(5_000) },
        19 => Kind::RecreateTopic { topic, partitions: 1 + rng.next_below(s.partitions + 2) },
        20 if rng.next_below(3) == 0 => Kind::DeleteTopic(topic),
        21 => Kind::AddPartitions { topic, partitions: s.partitions + 1 + rng.next_below(3) },
        22 => Kind::ThrottleNode { node, throttle_ms: THROTTLES_MS[rng.next_below(4) as usize] },
        23 if rng.next_below(2) == 0 => Kind::DnsFails,
        24..26 => Kind::SetMaxMessageBytes {
            topic,
            max_bytes: MESSAGE_LIMITS[rng.next_below(3) as usize],
        },
        _ => Kind::DnsRecovers,
    }
}

/// Adds the restoration of a topic to the events of a scenario.
///
/// It has the highest number and not the one of its place, so that the other events of a seed keep
/// their numbers.
pub(crate) fn insert_restoration(rng: &mut TestRng, s: &mut Scenario) {
    let at_ms = rng.next_below(s.heal_after_ms);
    let (topic, to) = (rng.next_below(s.topics), 1 + rng.next_below(s.nodes) as i32);
    let kind = ScenarioEventKind::RestoreTopic { topic, to };
    let event = ScenarioEvent { number: s.events.len(), at_ms, kind };
    s.events.insert(s.events.partition_point(|e| e.at_ms <= at_ms), event);
}

/// Adds events of coordinators and of instances of the application. They have the highest numbers.
pub(crate) fn insert_transaction_events(rng: &mut TestRng, s: &mut Scenario) {
    use ScenarioEventKind as Kind;

    let mut number = s.events.len();
    let mut insert = |s: &mut Scenario, at_ms: u64, kind: ScenarioEventKind| {
        let event = ScenarioEvent { number, at_ms, kind };
        s.events.insert(s.events.partition_point(|e| e.at_ms <= at_ms), event);
        number += 1;
    };
    for _ in 0..rng.next_below(10) {
        let at_ms = rng.next_below(s.heal_after_ms);
        let instance = rng.next_below(s.instances);
        let kind = match rng.next_below(8) {
            0..3 => Kind::MoveCoordinator {
                id: rng.next_below(s.transactional_ids),
                to: 1 + rng.next_below(s.nodes) as i32,
            },
            3 | 4 => Kind::PauseInstance { instance, ms: 1 + rng.next_below(6_000) },
            5 | 6 => Kind::IsolateInstance(instance),
            _ => Kind::KillInstance(instance),
        };
        insert(s, at_ms, kind);
        if let Kind::IsolateInstance(instance) = kind {
            let ends_at = at_ms + 1 + rng.next_below(4_000);
            insert(s, ends_at, Kind::ReconnectInstance(instance));
        }
    }
    if rng.next_below(6) == 0 {
        let at_ms = rng.next_below(s.heal_after_ms);
        insert(s, at_ms, Kind::SetTransactionVersion(3 - s.transaction_version));
    }
}

/// Returns the event that ends this fault, if the fault lasts.
fn ending_of(kind: ScenarioEventKind) -> Option<ScenarioEventKind> {
    use ScenarioEventKind as Kind;

    match kind {
        Kind::KillNode(n) => Some(Kind::RestartNode(n)),
        Kind::PauseReplication(n) => Some(Kind::ResumeReplication(n)),
        Kind::BlackHole(n) | Kind::HalfOpen(n) | Kind::StopReading(n) => Some(Kind::RestoreLink(n)),
        Kind::DnsFails => Some(Kind::DnsRecovers),
        _ => None,
    }
}

/// Draws the events of a seed, in the order of their time.
///
/// Three in four lasting faults end before recovery, if there is time for it.
pub(crate) fn random_events(rng: &mut TestRng, s: &Scenario) -> Vec<ScenarioEvent> {
    let mut events: Vec<(u64, ScenarioEventKind)> = Vec::new();
    for _ in 0..rng.next_below(14) {
        let (at_ms, kind) = (rng.next_below(s.heal_after_ms), random_kind(rng, s));
        let end_ms = at_ms + 1 + rng.next_below(4_000);
        events.push((at_ms, kind));
        let ending = ending_of(kind).filter(|_| rng.next_below(4) != 0 && end_ms < s.heal_after_ms);
        if let Some(ending) = ending {
            events.push((end_ms, ending));
        }
    }
    events.sort();
    let event = |(number, (at_ms, kind))| ScenarioEvent { number, at_ms, kind };
    events.into_iter().enumerate().map(event).collect()
}
