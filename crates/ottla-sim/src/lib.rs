//! Runs the shipped producer against a whole cluster in virtual time.
//!
//! Clocks, sockets, DNS, randomness and callers are virtual. The cluster is the core of the
//! embedded broker. The producer is the shipped code down to [`ottla::sim`]. One seed decides
//! everything, so a seed replays to the nanosecond.
//!
//! A run has five phases:
//!
//! 1. Faults: no invariant may break.
//! 2. Recovery: every fault ends, and every record must complete.
//! 3. Idle: the sender must sleep.
//! 4. Outage: every node is down, and every record must fail in time.
//! 5. Recovery again: a record for each partition must be acknowledged.
//!
//! The oracle alone judges a run, by the same invariants for every scenario.

mod callers;
mod scenario_events;
mod executor;
mod history;
mod oracle;
mod scenario;
mod older_epochs;
mod request_faults;
mod sim_cluster;
mod environment;
mod instructions;
mod setup;
mod shrink;
mod response_fuzz;
mod trace;
mod simulation;
mod transactions;

pub use history::{
    CallbackResult, History, RecordHistory, RecordOutcome, RecoveryResult, RejectedSend, SendCall,
    SentRecord, Violation,
};
pub use instructions::run_workload;
pub use response_fuzz::fuzz_responses;
pub use scenario::Scenario;
pub use scenario_events::{ScenarioEvent, ScenarioEventKind};
pub use shrink::shrink;
pub use simulation::{RunReport, run_scenario, run_seed, run_transaction_seed};
pub use trace::enable_trace;

#[cfg(test)]
mod producer_fixture;
#[cfg(test)]
mod sender_tests;
#[cfg(test)]
mod accumulator_tests;
#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod metadata_tests;
#[cfg(test)]
mod reporting_tests;
#[cfg(test)]
mod event_tests;
#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod transaction_fixture;
#[cfg(test)]
mod transaction_tests;
#[cfg(test)]
mod transaction_case_tests;
#[cfg(test)]
mod transaction_call_tests;
#[cfg(test)]
mod transaction_reporting_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod seed_tests;

/// Compiles the README's programs here, because this crate depends on both crates that they use.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// Compiles and runs the programs of the page for those who come from other clients.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/MIGRATING.md")]
struct Migrating;

/// Compiles and runs the programs of the page about snapshots and metrics.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/MONITORING.md")]
struct Monitoring;

/// Compiles the programs of the page about log events.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/EVENTS.md")]
struct EventsPage;

/// Compiles and runs the programs of the page about the embedded broker.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/EMBEDDED_BROKER.md")]
struct EmbeddedBrokerPage;
