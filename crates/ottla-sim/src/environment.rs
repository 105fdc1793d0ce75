//! The cluster and the machines of its clients: applies a scenario's events to them, and ends every
//! fault.

use std::time::Duration;

use ottla::sim::{Faults, Link, SimMachine, Tick};

use ottla_broker::{ClientMetricsSubscription, CoordinatorType};

use crate::oracle::{ClusterLogs, Suspension};
use crate::scenario::Scenario;
use crate::scenario_events::{ScenarioEvent, ScenarioEventKind};
use crate::setup::create_topic;
use crate::sim_cluster::{
    SimCluster, broker_now, node_address, node_host_name, node_name_addresses,
};
use crate::trace::trace;

/// The interval of the subscription to no metrics.
const NO_METRICS_INTERVAL: Duration = Duration::from_secs(3600);

/// Returns the transactional id with a number.
pub(crate) fn transactional_id(number: u64) -> String {
    format!("app-{number}")
}

/// Returns the consumer group whose offsets the producers of a transactional id commit.
pub(crate) fn group_id(number: u64) -> String {
    format!("group-{number}")
}

/// The cluster and the machines of its clients.
pub(crate) struct Environment<'s> {
    scenario: &'s Scenario,
    pub(crate) cluster: SimCluster,
    /// The machines, all with the same time. There is at least one.
    pub(crate) machines: Vec<SimMachine>,
    /// The logs of topics that were deleted.
    pub(crate) logs: ClusterLogs,
    /// The index of the scenario's next event.
    next_event: usize,
    pub(crate) started_at: Tick,
    /// When every fault ended; `Tick::NEVER` before.
    pub(crate) healed_at: Tick,
    /// The distance between the clients' wall clocks and the brokers', in milliseconds.
    wall_clock_offset_ms: i64,
    pub(crate) suspensions: Vec<Suspension>,
}

impl<'s> Environment<'s> {
    pub(crate) fn new(s: &'s Scenario, cluster: SimCluster, machine: SimMachine) -> Self {
        Environment {
            scenario: s,
            cluster,
            started_at: machine.now(),
            machines: vec![machine],
            logs: ClusterLogs::default(),
            next_event: 0,
            healed_at: Tick::NEVER,
            wall_clock_offset_ms: 0,
            suspensions: Vec::new(),
        }
    }

    /// Returns the time of all machines.
    pub(crate) fn now(&self) -> Tick {
        self.machines[0].now()
    }

    /// Returns the next event of the scenario if it is due.
    pub(crate) fn next_due_event(&mut self) -> Option<&'s ScenarioEvent> {
        let event = self.scenario.events.get(self.next_event)?;
        if self.started_at.after(Duration::from_millis(event.at_ms)) > self.now() {
            return None;
        }
        self.next_event += 1;
        trace(&self.machines[0], || event.to_string());
        Some(event)
    }

    /// Returns when the next event of the scenario is due.
    pub(crate) fn next_event_at(&self) -> Option<Tick> {
        let event = self.scenario.events.get(self.next_event)?;
        Some(self.started_at.after(Duration::from_millis(event.at_ms)))
    }

    /// Applies an event, and counts it if it had an effect.
    pub(crate) fn apply_event(&mut self, kind: ScenarioEventKind) {
        use ScenarioEventKind as Kind;

        let fault = match kind {
            Kind::KillNode(node) => self.kill_node(node),
            Kind::RestartNode(node) => self.restart_node(node),
            Kind::MoveLeader { topic, partition, to, keeps_tail } => {
                self.move_leader(topic, partition, to, keeps_tail)
            }
            Kind::PauseReplication(node) => self.set_replication_paused(node, true),
            Kind::ResumeReplication(node) => self.set_replication_paused(node, false),
            Kind::BlackHole(node) => {
                let link = Link { up_held: true, down_held: true, ..Link::default() };
                self.set_link(node, link, "black hole")
            }
            Kind::HalfOpen(node) => {
                let link = Link { down_held: true, ..Link::default() };
                self.set_link(node, link, "half-open link")
            }
            Kind::StopReading(node) => {
                let link = Link { reads_paused: true, ..Link::default() };
                self.set_link(node, link, "node stopped reading")
            }
            Kind::RestoreLink(node) => self.set_link(node, Link::default(), "link restored"),
            Kind::ResetConnections(node) => self.reset_connections(node),
            Kind::WallClockJump { ms } => {
                self.machines.iter().for_each(|m| m.jump_wall_clock(ms));
                self.wall_clock_offset_ms += ms;
                Some("wall clock jumped")
            }
            Kind::Suspend { ms: length_ms } => {
                let from = self.now();
                let to = from.after(Duration::from_millis(length_ms));
                self.machines.iter().for_each(|m| m.advance(to));
                self.suspensions.push(Suspension { from, to });
                Some("machine suspended")
            }
            Kind::RecreateTopic { topic, partitions } => {
                self.delete_topic(topic);
                self.create_topic(topic, partitions);
                Some("topic recreated")
            }
            Kind::DeleteTopic(topic) => {
                self.delete_topic(topic);
                Some("topic deleted")
            }
            Kind::AddPartitions { topic, partitions } => self.add_partitions(topic, partitions),
            Kind::SetMaxMessageBytes { topic, max_bytes } => {
                self.set_max_message_bytes(topic, max_bytes);
                Some("max.message.bytes changed")
            }
            Kind::ThrottleNode { node, throttle_ms } => {
                self.cluster.core.set_produce_throttle(node, throttle_ms);
                Some("throttle changed")
            }
            Kind::DnsFails => {
                self.machines.iter().for_each(|m| m.set_host("kafka", Vec::new()));
                Some("DNS failed")
            }
            Kind::DnsRecovers => {
                self.machines.iter().for_each(|m| m.set_host("kafka", vec![node_address(1)]));
                Some("DNS recovered")
            }
            Kind::RestoreTopic { topic, to } => {
                let (topic, time) =
                    (self.scenario.topic_name(topic), broker_now(&self.machines[0]));
                let has_older_epoch = self.cluster.core.restore_topic(&topic, to, time);
                has_older_epoch.then_some("topic restored with older leader epochs")
            }
            Kind::MoveCoordinator { id, to } => self.move_coordinator(id, to),
            Kind::SetTransactionVersion(version) => {
                self.cluster.core.set_transaction_version(version as i16);
                Some("transaction.version finalized")
            }
            // The simulation of transactions applies them to its instances.
            Kind::PauseInstance { .. }
            | Kind::IsolateInstance(_)
            | Kind::ReconnectInstance(_)
            | Kind::KillInstance(_) => None,
        };
        if let Some(fault) = fault {
            self.cluster.count_fault(fault);
        }
    }

    fn kill_node(&mut self, node: i32) -> Option<&'static str> {
        if !self.cluster.core.is_up(node) {
            return None;
        }
        self.cluster.core.stop_node(node, broker_now(&self.machines[0]));
        self.machines.iter().for_each(|m| m.reset_server(node_address(node)));
        self.cluster.drop_connections(node);
        // The name goes with the broker, as a pod's does.
        self.machines.iter().for_each(|m| m.set_host(&node_host_name(node), Vec::new()));
        Some("node killed")
    }

    fn restart_node(&mut self, node: i32) -> Option<&'static str> {
        if self.cluster.core.is_up(node) {
            return None;
        }
        self.start_node(node);
        Some("node restarted")
    }

    fn start_node(&mut self, node: i32) {
        self.cluster.core.start_node(node, broker_now(&self.machines[0]));
        self.machines.iter().for_each(|m| m.stop_listening(node_address(node)));
        self.machines.iter().for_each(|m| m.listen(node_address(node)));
        let addresses = node_name_addresses(node, self.next_event as u64);
        self.machines.iter().for_each(|m| m.set_host(&node_host_name(node), addresses.clone()));
    }

    fn move_leader(
        &mut self,
        topic: u64,
        partition: u64,
        to: i32,
        keeps_tail: bool,
    ) -> Option<&'static str> {
        let topic = self.scenario.topic_name(topic);
        let time = broker_now(&self.machines[0]);
        let options = ottla_broker::MoveLeaderOptions {
            copy_first: keeps_tail,
            allow_unclean: self.scenario.unclean_leader_election,
        };
        if !self.cluster.core.move_leader(&topic, partition as i32, to, options, time) {
            return None;
        }
        Some(if keeps_tail { "leader moved" } else { "leader moved, log tail lost" })
    }

    fn move_coordinator(&mut self, id: u64, to: i32) -> Option<&'static str> {
        let time = broker_now(&self.machines[0]);
        let core = &mut self.cluster.core;
        let (id, group) = (transactional_id(id), group_id(id));
        let moved = core.move_coordinator(CoordinatorType::Transaction, &id, to, time);
        let moved_group = core.move_coordinator(CoordinatorType::Group, &group, to, time);
        (moved || moved_group).then_some("coordinator moved")
    }

    fn set_replication_paused(&mut self, node: i32, is_paused: bool) -> Option<&'static str> {
        let time = broker_now(&self.machines[0]);
        self.cluster.core.set_replication_paused(node, is_paused, time);
        Some(if is_paused { "replication paused" } else { "replication resumed" })
    }

    fn set_link(&mut self, node: i32, link: Link, fault: &'static str) -> Option<&'static str> {
        self.machines.iter().for_each(|m| m.set_link(node_address(node), link));
        Some(fault)
    }

    fn reset_connections(&mut self, node: i32) -> Option<&'static str> {
        self.machines.iter().for_each(|m| m.reset_server(node_address(node)));
        if self.cluster.core.is_up(node) {
            self.machines.iter().for_each(|m| m.listen(node_address(node)));
        }
        self.cluster.drop_connections(node);
        Some("connections reset")
    }

    fn add_partitions(&mut self, topic: u64, partitions: u64) -> Option<&'static str> {
        let (name, time) = (self.scenario.topic_name(topic), broker_now(&self.machines[0]));
        let _ = self.cluster.core.create_partitions(&name, partitions as i32, time);
        Some("partitions added")
    }

    fn set_max_message_bytes(&mut self, topic: u64, max_bytes: u64) {
        let (name, value) = (self.scenario.topic_name(topic), max_bytes.to_string());
        let _ = self.cluster.core.set_topic_config(&name, "max.message.bytes", &value);
    }

    fn delete_topic(&mut self, topic: u64) {
        let name = self.scenario.topic_name(topic);
        self.logs.snapshot_topic(&self.cluster.core, &name);
        let _ = self.cluster.core.delete_topic(&name);
    }

    fn create_topic(&mut self, topic: u64, partitions: u64) {
        let time = broker_now(&self.machines[0]);
        let _ = create_topic(&mut self.cluster.core, self.scenario, topic, partitions, time);
    }

    /// Ends every fault: nodes, links, DNS, clocks and topics are as at the start.
    pub(crate) fn heal(&mut self) {
        trace(&self.machines[0], || "every fault ends".to_owned());
        self.healed_at = self.healed_at.min(self.now());
        self.machines.iter().for_each(|m| m.set_faults(Faults::NONE));
        self.cluster.clear_faults();
        let offset_ms = std::mem::take(&mut self.wall_clock_offset_ms);
        self.machines.iter().for_each(|m| m.jump_wall_clock(-offset_ms));
        self.cluster.core.clear_fetch_delay();
        if self.scenario.metrics_push_ms > 0 {
            // An idle producer sleeps, unless a broker requests metrics.
            let none = ClientMetricsSubscription::new(NO_METRICS_INTERVAL).metrics([""; 0]);
            self.cluster.core.set_client_metrics(Some(none));
        }
        self.machines.iter().for_each(|m| m.set_host("kafka", vec![node_address(1)]));
        for node in 1..=self.scenario.nodes as i32 {
            self.cluster.core.set_produce_throttle(node, 0);
            self.cluster.core.set_replication_paused(node, false, broker_now(&self.machines[0]));
            self.start_node(node);
            // Dead addresses of a name are a fault, too: each costs a time-out and a backoff.
            self.machines
                .iter()
                .for_each(|m| m.set_host(&node_host_name(node), vec![node_address(node)]));
            self.machines.iter().for_each(|m| m.set_link(node_address(node), Link::default()));
        }
        for topic in 0..self.scenario.topics {
            if self.cluster.core.describe_topic(&self.scenario.topic_name(topic)).is_none() {
                self.create_topic(topic, self.scenario.partitions);
            }
            self.set_max_message_bytes(topic, self.scenario.max_message_bytes);
        }
    }
}
