//! The cluster a scenario asks for, and what brokers do to batches.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ottla::sim::SimMachine;
use ottla_broker::{BrokerConfig, Core, ProduceFault};
use ottla_protocol::ErrorCode;
use ottla_protocol::wire::TestRng;

use crate::scenario::Scenario;
use crate::sim_cluster::{broker_now, node_address, random_fault};

/// Faults that brokers played on batches, by kind.
pub(crate) type FaultCounts = Arc<Mutex<BTreeMap<String, u64>>>;

fn fault_name(fault: ProduceFault) -> String {
    match fault {
        ProduceFault::FailBeforeAppend(code) => format!("batch refused: {code}"),
        ProduceFault::FailAfterAppend(code) => format!("batch appended, answered: {code}"),
    }
}

/// A batch's end in a line.
pub(crate) fn describe_batch(report: &ottla::BatchReport<'_>) -> String {
    let who: Vec<String> =
        report.tokens.iter().map(|t| format!("{}/{}", t >> 32, t & 0xffff_ffff)).collect();
    let (topic, p, who) = (report.topic, report.partition, who.join(" "));
    match report.result {
        Ok(offset) => format!("{topic}-{p}: acknowledged at {offset:?}: {who}"),
        Err(e) => format!("{topic}-{p}: failed ({e}): {who}"),
    }
}

pub(crate) fn create_topic(
    core: &mut Core,
    s: &Scenario,
    topic: u64,
    partitions: u64,
    time: ottla_broker::ClockReading,
) -> Result<(), String> {
    let (min_isr, max) = (s.min_isr.to_string(), s.max_message_bytes.to_string());
    let settings = [("min.insync.replicas", min_isr.as_str()), ("max.message.bytes", max.as_str())];
    let made =
        core.create_topic_with_configs(&s.topic_name(topic), partitions as i32, &settings, time);
    made.map_err(|e| e.1)
}

/// The cluster of a scenario, whole and running.
pub(crate) fn create_cluster(
    s: &Scenario,
    machine: &SimMachine,
    played: &FaultCounts,
) -> Result<Core, String> {
    let time = broker_now(machine);
    let mut config = BrokerConfig::default();
    config.seed = s.seed;
    config.node_count = s.nodes as i32;
    config.default_replication_factor = s.replication_factor as i32;
    config.auto_create_topics = false;
    let mut core = Core::new(config, time).map_err(|e| e.to_string())?;
    core.take_append_history();
    core.set_initial_producer_epoch(s.first_epoch as i16);
    let refusals = [ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, ErrorCode::NOT_COORDINATOR];
    core.set_producer_id_errors(&refusals[..s.producer_id_errors.min(2) as usize]);
    core.set_replica_lag_time_max(s.replica_lag_time_max_ms);
    for node in 1..=s.nodes as i32 {
        let at = node_address(node);
        core.set_advertised_address(node, &at.ip().to_string(), at.port());
        machine.listen(at);
    }
    if !s.bootstrap_by_name {
        machine.set_host("kafka", vec![node_address(1)]);
    }
    for topic in 0..s.topics {
        create_topic(&mut core, s, topic, s.partitions, time)?;
    }
    if s.broker_fault_one_in > 0 {
        let (mut g, one_in) = (TestRng::new(s.seed ^ 0xfa17), s.broker_fault_one_in);
        // "It is here already" is said at once: only true where there is nobody to copy it.
        let (fatal, already) = (s.has_fatal_faults, s.idempotent && s.replication_factor == 1);
        let played = played.clone();
        core.set_fault_injector(move |_, _| {
            let fault =
                (g.next_below(one_in) == 0).then(|| random_fault(&mut g, fatal, already))?;
            let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
            *played.entry(fault_name(fault)).or_default() += 1;
            Some(fault)
        });
    }
    if s.max_replication_lag_ms > 0 {
        let (mut g, most) = (TestRng::new(s.seed ^ 0x1a6), s.max_replication_lag_ms);
        core.set_fetch_delay(Some(move |_| 1 + g.next_below(most)));
    }
    Ok(core)
}
