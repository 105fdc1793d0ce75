//! The cluster a scenario asks for, and what brokers do to batches.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ottla::sim::SimMachine;
use ottla_broker::{BrokerConfig, Core, ProduceFault};
use ottla_protocol::ErrorCode;
use ottla_protocol::wire::TestRng;

use crate::scenario::Scenario;
use crate::servers::{address, fault, now};

/// Faults that brokers played on batches, by kind.
pub(crate) type Played = Arc<Mutex<BTreeMap<String, u64>>>;

fn name(fault: ProduceFault) -> String {
    match fault {
        ProduceFault::FailBeforeAppend(code) => format!("batch refused: {code}"),
        ProduceFault::FailAfterAppend(code) => format!("batch appended, answered: {code}"),
    }
}

/// A batch's end in a line.
pub(crate) fn told(report: &ottla::BatchReport<'_>) -> String {
    let who: Vec<String> =
        report.tokens.iter().map(|t| format!("{}/{}", t >> 32, t & 0xffff_ffff)).collect();
    let (topic, p, who) = (report.topic, report.partition, who.join(" "));
    match report.result {
        Ok(offset) => format!("{topic}-{p}: acknowledged at {offset:?}: {who}"),
        Err(e) => format!("{topic}-{p}: failed ({e}): {who}"),
    }
}

pub(crate) fn make(
    core: &mut Core,
    s: &Scenario,
    topic: u64,
    partitions: u64,
    time: ottla_broker::ClockReading,
) -> Result<(), String> {
    let (min_isr, max) = (s.min_isr.to_string(), s.message_max.to_string());
    let settings = [("min.insync.replicas", min_isr.as_str()), ("max.message.bytes", max.as_str())];
    let made = core.create_topic_with_configs(&s.topic(topic), partitions as i32, &settings, time);
    made.map_err(|e| e.1)
}

/// The cluster of a scenario, whole and running.
pub(crate) fn cluster(s: &Scenario, machine: &SimMachine, played: &Played) -> Result<Core, String> {
    let time = now(machine);
    let mut config = BrokerConfig::default();
    config.seed = s.seed;
    config.node_count = s.nodes as i32;
    config.default_replication_factor = s.replication as i32;
    config.auto_create_topics = false;
    let mut core = Core::new(config, time).map_err(|e| e.to_string())?;
    core.take_append_history();
    core.set_initial_producer_epoch(s.first_epoch as i16);
    let refusals = [ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, ErrorCode::NOT_COORDINATOR];
    core.set_producer_id_errors(&refusals[..s.id_refusals.min(2) as usize]);
    core.set_replica_lag_time_max(s.patience_ms);
    for node in 1..=s.nodes as i32 {
        let at = address(node);
        core.set_advertised_address(node, &at.ip().to_string(), at.port());
        machine.listen(at);
    }
    if !s.by_name {
        machine.set_host("kafka", vec![address(1)]);
    }
    for topic in 0..s.topics {
        make(&mut core, s, topic, s.partitions, time)?;
    }
    if s.broker_fault > 0 {
        let (mut g, one_in) = (TestRng::new(s.seed ^ 0xfa17), s.broker_fault);
        // "It is here already" is said at once: only true where there is nobody to copy it.
        let (fatal, already) = (s.fatal_fault, s.idempotent && s.replication == 1);
        let played = played.clone();
        core.set_fault_injector(move |_, _| {
            let fault = (g.next_below(one_in) == 0).then(|| fault(&mut g, fatal, already))?;
            let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
            *played.entry(name(fault)).or_default() += 1;
            Some(fault)
        });
    }
    if s.lag_ms > 0 {
        let (mut g, most) = (TestRng::new(s.seed ^ 0x1a6), s.lag_ms);
        core.set_fetch_delay(Some(move |_| 1 + g.next_below(most)));
    }
    Ok(core)
}
