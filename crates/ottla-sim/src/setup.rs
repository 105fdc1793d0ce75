//! Creates a scenario's cluster and topics, and installs the brokers' random faults.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::sim::SimMachine;
use ottla_broker::{
    BrokerConfig, ClientMetricsSubscription, ClockReading, Core, NewTopic, ProduceFault,
};
use ottla_protocol::ErrorCode;
use ottla_protocol::wire::TestRng;

use crate::history::decode_token;
use crate::scenario::Scenario;
use crate::sim_cluster::{
    AllowedFaults, broker_now, node_address, node_host_name, node_name_addresses, random_fault,
};

/// The leader epoch of new partitions. A restored topic begins again at 0, and no number of
/// elections in a run reaches an epoch that the client knew before.
const INITIAL_LEADER_EPOCH: i32 = 1000;

/// The number of faults on batches, by name.
pub(crate) type FaultCounts = Arc<Mutex<BTreeMap<String, u64>>>;

fn fault_name(fault: ProduceFault) -> String {
    match fault {
        ProduceFault::FailBeforeAppend(code) => format!("batch rejected: {code}"),
        ProduceFault::FailAfterAppend(code) => format!("batch appended, then failed: {code}"),
    }
}

/// Returns a batch's outcome as one line.
pub(crate) fn describe_batch(report: &ottla::BatchReport<'_>) -> String {
    let records: Vec<String> = report
        .tokens
        .iter()
        .map(|token| {
            let (caller, index) = decode_token(*token);
            format!("{caller}/{index}")
        })
        .collect();
    let (topic, partition, records) = (report.topic, report.partition, records.join(" "));
    match report.result {
        Ok(offset) => format!("{topic}-{partition}: acknowledged at {offset:?}: {records}"),
        Err(e) => format!("{topic}-{partition}: failed ({e}): {records}"),
    }
}

/// Creates one topic of a scenario.
pub(crate) fn create_topic(
    core: &mut Core,
    s: &Scenario,
    topic: u64,
    partitions: u64,
    time: ClockReading,
) -> Result<(), String> {
    let topic = NewTopic::new(s.topic_name(topic), partitions as i32)
        .config("min.insync.replicas", s.min_isr.to_string())
        .config("max.message.bytes", s.max_message_bytes.to_string());
    core.create_new_topic(topic, time).map_err(|e| e.message)
}

/// Creates the cluster of a scenario, with every node up.
pub(crate) fn create_cluster(
    s: &Scenario,
    machine: &SimMachine,
    fault_counts: &FaultCounts,
) -> Result<Core, String> {
    let time = broker_now(machine);
    let mut config = BrokerConfig::default();
    config.seed = s.seed;
    config.node_count = s.nodes as i32;
    config.default_replication_factor = s.replication_factor as i32;
    config.auto_create_topics = false;
    config.restores_last_batch_only = s.restores_last_batch_only;
    if s.metrics_push_ms > 0 {
        let interval = Duration::from_millis(s.metrics_push_ms);
        let is_delta = s.seed.is_multiple_of(2);
        let subscription = ClientMetricsSubscription::new(interval).delta_temporality(is_delta);
        config.client_metrics = Some(subscription);
    }
    let mut core = Core::new(config, time).map_err(|e| e.to_string())?;
    // The first call turns the recording of appends on.
    core.take_append_history();
    core.set_initial_leader_epoch(INITIAL_LEADER_EPOCH);
    core.set_initial_producer_epoch(s.first_epoch as i16);
    let errors = [ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, ErrorCode::NOT_COORDINATOR];
    core.set_producer_id_errors(&errors[..s.producer_id_errors.min(2) as usize]);
    core.set_replica_lag_time_max(s.replica_lag_time_max_ms);
    for node in 1..=s.nodes as i32 {
        let address = node_address(node);
        let host = match s.brokers_by_name {
            true => node_host_name(node),
            false => address.ip().to_string(),
        };
        core.set_advertised_address(node, &host, address.port());
        machine.set_host(&node_host_name(node), node_name_addresses(node, s.seed));
        machine.listen(address);
    }
    if !s.bootstrap_by_name {
        machine.set_host("kafka", vec![node_address(1)]);
    }
    for topic in 0..s.topics {
        create_topic(&mut core, s, topic, s.partitions, time)?;
    }
    install_random_faults(&mut core, s, fault_counts);
    Ok(core)
}

fn install_random_faults(core: &mut Core, s: &Scenario, fault_counts: &FaultCounts) {
    if s.broker_fault_one_in > 0 {
        let (mut rng, one_in) = (TestRng::new(s.seed ^ 0xfa17), s.broker_fault_one_in);
        let allowed = AllowedFaults {
            fatal: s.has_fatal_faults,
            // The injected response does not wait for replicas. With more than one replica, it
            // would acknowledge a batch that a leader change may still lose.
            duplicate: s.idempotent && s.replication_factor == 1,
        };
        let fault_counts = fault_counts.clone();
        core.set_fault_injector(move |_, _| {
            let fault = (rng.next_below(one_in) == 0).then(|| random_fault(&mut rng, allowed))?;
            let mut fault_counts = fault_counts.lock().unwrap_or_else(PoisonError::into_inner);
            *fault_counts.entry(fault_name(fault)).or_default() += 1;
            Some(fault)
        });
    }
    if s.max_replication_lag_ms > 0 {
        let (mut rng, max_ms) = (TestRng::new(s.seed ^ 0x1a6), s.max_replication_lag_ms);
        core.set_fetch_delay(move |_| 1 + rng.next_below(max_ms));
    }
}
