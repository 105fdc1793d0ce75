//! A producer and its cluster in virtual time: clocks, sockets, names, chance and callers are virtual, the producer
//! is the shipped code down to the seam, the cluster is the development broker's core. A seed decides everything.
//!
//! First faults (nothing wrong may happen), then the world heals (everything must finish), then it is quiet
//! (nothing may spin), then nobody is there (everything must fail in time), then everything must arrive again. The oracle judges, never the scenario.

mod callers;
mod scenario_events;
mod executor;
mod history;
mod oracle;
mod scenario;
mod sim_cluster;
mod instructions;
mod setup;
mod shrink;
mod response_fuzz;
mod trace;
mod simulation;

pub use history::{CallbackResult, History, RecordOutcome, RejectedSend, SentRecord};
pub use instructions::run_workload;
pub use response_fuzz::fuzz_responses;
pub use scenario::Scenario;
pub use scenario_events::{ScenarioEvent, ScenarioEventKind};
pub use shrink::shrink;
pub use simulation::{RunReport, run_scenario, run_seed};
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
mod metadata_tests;
#[cfg(test)]
mod seed_tests;

/// The README's programs compile; here, where both crates they use are at hand.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
