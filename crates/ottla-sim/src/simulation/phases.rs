//! The phases of a run after the faults: idle, outage, recovery and close.

use std::time::Duration;

use super::{RUN_TIMEOUT, Simulation, ms};
use crate::callers::Caller;
use crate::oracle::ROUNDS_INVARIANT;
use crate::scenario_events::ScenarioEventKind;
use crate::trace::trace;
use ottla::sim::Tick;

/// The virtual time without any work, and the loops that the sender may make in it.
const IDLE_TIME: Duration = Duration::from_secs(60);
const MAX_IDLE_ROUNDS: u64 = 60;

/// The pause after the outage: reconnect attempts are at most one second apart.
const RECONNECT_TIME: Duration = Duration::from_secs(5);

impl Simulation<'_> {
    /// Checks that the sender sleeps while there is no work.
    pub(super) fn check_idle(&mut self) -> Result<(), String> {
        let rounds_before = self.rounds;
        self.run_for(IDLE_TIME)?;
        let rounds = self.rounds - rounds_before;
        if rounds > MAX_IDLE_ROUNDS {
            let seconds = IDLE_TIME.as_secs();
            return Err(format!("{ROUNDS_INVARIANT}: {rounds} loops in {seconds} idle seconds"));
        }
        Ok(())
    }

    /// Kills every node, sends a record to each partition, and restarts the nodes.
    ///
    /// The outage is longer than `delivery.timeout.ms`. The records must fail in time, and must
    /// not leave any state behind that later records fail by.
    pub(super) fn check_outage(&mut self) -> Result<(), String> {
        trace(&self.machine, || "every node is killed".to_owned());
        for node in 1..=self.scenario.nodes as i32 {
            self.env.apply_event(ScenarioEventKind::KillNode(node));
        }
        let caller = Caller::new(self.scenario.callers + 1, self.shared.clone());
        self.executor
            .spawn(caller.send_during_outage(self.producer.clone(), self.all_partitions()));
        self.run_until_done(RUN_TIMEOUT, "a record sent during the outage did not complete")?;
        self.env.heal();
        self.run_for(RECONNECT_TIME)
    }

    /// Sends records to each partition after all faults; they must be acknowledged.
    pub(super) fn check_recovery(&mut self) -> Result<(), String> {
        let caller = Caller::new(self.scenario.callers, self.shared.clone());
        self.executor.spawn(caller.verify_recovery(self.producer.clone(), self.all_partitions()));
        self.run_until_done(RUN_TIMEOUT, "a record sent after recovery did not complete")
    }

    /// Closes the producer, and runs until its sender has shut down.
    pub(super) fn check_close(&mut self) -> Result<(), String> {
        let producer = self.producer.clone();
        self.executor.spawn(async move {
            let _ = producer.close_async(ms(60_000)).await;
        });
        self.run_until_done(2 * RUN_TIMEOUT, "close did not return")?;
        while self.sender.is_some() {
            self.step(Tick::NEVER)?;
        }
        Ok(())
    }

    fn run_for(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.machine.now().after(duration);
        while self.machine.now() < end {
            self.step(end)?;
        }
        Ok(())
    }

    /// Returns every partition of every topic that exists.
    fn all_partitions(&self) -> Vec<(String, i32)> {
        let mut partitions = Vec::new();
        for topic in (0..self.scenario.topics).map(|topic| self.scenario.topic_name(topic)) {
            let count = self.env.cluster.core.describe_topic(&topic).map_or(0, |t| t.partitions);
            partitions.extend((0..count).map(|partition| (topic.clone(), partition)));
        }
        partitions
    }
}
