//! Applies a scenario's events to the cluster and the machine, and ends every fault.

use ottla::sim::{Faults, Link};

use super::{Simulation, ms};
use crate::oracle::Suspension;
use crate::scenario_events::ScenarioEventKind;
use crate::setup::create_topic;
use crate::sim_cluster::{broker_now, node_address, node_host_name, node_name_addresses};
use crate::trace::trace;

impl Simulation<'_> {
    /// Applies the scenario's events whose time has come.
    pub(super) fn apply_due_events(&mut self) {
        while let Some(event) = self.scenario.events.get(self.next_event)
            && self.started_at.after(ms(event.at_ms)) <= self.machine.now()
        {
            self.next_event += 1;
            self.external_events += 1;
            trace(&self.machine, || event.to_string());
            self.apply_event(event.kind);
        }
    }

    /// Applies an event, and counts it if it had an effect.
    pub(super) fn apply_event(&mut self, kind: ScenarioEventKind) {
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
                self.machine.jump_wall_clock(ms);
                self.wall_clock_offset_ms += ms;
                Some("wall clock jumped")
            }
            Kind::Suspend { ms: length_ms } => {
                let from = self.machine.now();
                self.machine.advance(from.after(ms(length_ms)));
                self.suspensions.push(Suspension { from, to: self.machine.now() });
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
                self.machine.set_host("kafka", Vec::new());
                Some("DNS failed")
            }
            Kind::DnsRecovers => {
                self.machine.set_host("kafka", vec![node_address(1)]);
                Some("DNS recovered")
            }
            Kind::RestoreTopic { topic, to } => {
                let (topic, time) = (self.scenario.topic_name(topic), broker_now(&self.machine));
                let has_older_epoch = self.cluster.core.restore_topic(&topic, to, time);
                has_older_epoch.then_some("topic restored with older leader epochs")
            }
        };
        if let Some(fault) = fault {
            self.cluster.count_fault(fault);
        }
    }

    fn kill_node(&mut self, node: i32) -> Option<&'static str> {
        if !self.cluster.core.is_up(node) {
            return None;
        }
        self.cluster.core.stop_node(node, broker_now(&self.machine));
        self.machine.reset_server(node_address(node));
        self.cluster.drop_connections(node);
        // The name goes with the broker, as a pod's does.
        self.machine.set_host(&node_host_name(node), Vec::new());
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
        self.cluster.core.start_node(node, broker_now(&self.machine));
        self.machine.stop_listening(node_address(node));
        self.machine.listen(node_address(node));
        let addresses = node_name_addresses(node, self.next_event as u64);
        self.machine.set_host(&node_host_name(node), addresses);
    }

    fn move_leader(
        &mut self,
        topic: u64,
        partition: u64,
        to: i32,
        keeps_tail: bool,
    ) -> Option<&'static str> {
        let topic = self.scenario.topic_name(topic);
        let time = broker_now(&self.machine);
        let options = ottla_broker::MoveLeaderOptions {
            copy_first: keeps_tail,
            allow_unclean: self.scenario.unclean_leader_election,
        };
        if !self.cluster.core.move_leader(&topic, partition as i32, to, options, time) {
            return None;
        }
        Some(if keeps_tail { "leader moved" } else { "leader moved, log tail lost" })
    }

    fn set_replication_paused(&mut self, node: i32, is_paused: bool) -> Option<&'static str> {
        let time = broker_now(&self.machine);
        self.cluster.core.set_replication_paused(node, is_paused, time);
        Some(if is_paused { "replication paused" } else { "replication resumed" })
    }

    fn set_link(&mut self, node: i32, link: Link, fault: &'static str) -> Option<&'static str> {
        self.machine.set_link(node_address(node), link);
        Some(fault)
    }

    fn reset_connections(&mut self, node: i32) -> Option<&'static str> {
        self.machine.reset_server(node_address(node));
        if self.cluster.core.is_up(node) {
            self.machine.listen(node_address(node));
        }
        self.cluster.drop_connections(node);
        Some("connections reset")
    }

    fn add_partitions(&mut self, topic: u64, partitions: u64) -> Option<&'static str> {
        let (name, time) = (self.scenario.topic_name(topic), broker_now(&self.machine));
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
        let time = broker_now(&self.machine);
        let _ = create_topic(&mut self.cluster.core, self.scenario, topic, partitions, time);
    }

    /// Ends every fault: nodes, links, DNS, clocks and topics are as at the start.
    pub(super) fn heal(&mut self) {
        trace(&self.machine, || "every fault ends".to_owned());
        self.healed_at = self.healed_at.min(self.machine.now());
        self.machine.set_faults(Faults::NONE);
        self.cluster.clear_faults();
        self.machine.jump_wall_clock(-std::mem::take(&mut self.wall_clock_offset_ms));
        self.cluster.core.clear_fetch_delay();
        self.machine.set_host("kafka", vec![node_address(1)]);
        for node in 1..=self.scenario.nodes as i32 {
            self.cluster.core.set_produce_throttle(node, 0);
            self.cluster.core.set_replication_paused(node, false, broker_now(&self.machine));
            self.start_node(node);
            // Dead addresses of a name are a fault, too: each costs a time-out and a backoff.
            self.machine.set_host(&node_host_name(node), vec![node_address(node)]);
            self.machine.set_link(node_address(node), Link::default());
        }
        for topic in 0..self.scenario.topics {
            if self.cluster.core.describe_topic(&self.scenario.topic_name(topic)).is_none() {
                self.create_topic(topic, self.scenario.partitions);
            }
            self.set_max_message_bytes(topic, self.scenario.max_message_bytes);
        }
    }
}
