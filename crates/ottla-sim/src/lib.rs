//! A producer and its cluster in virtual time: clocks, sockets, names, chance and callers are virtual, the producer
//! is the shipped code down to the seam, the cluster is the development broker's core. A seed decides everything.
//!
//! First faults (nothing wrong may happen), then the world heals (everything must finish), then it is quiet
//! (nothing may spin), then nobody is there (everything must fail in time), then everything must arrive again. The oracle judges, never the scenario.

mod callers;
mod events;
mod executor;
mod history;
mod oracle;
mod scenario;
mod servers;
mod counts;
mod setup;
mod shrink;
mod stream;
mod trace;
mod world;

pub use counts::run_workload;
pub use events::{ScenarioEvent, ScenarioEventKind};
pub use history::{CallbackResult, History, RecordOutcome, RejectedSend, SentRecord};
pub use scenario::Scenario;
pub use shrink::shrink;
pub use stream::fuzz_responses;
pub use trace::enable_trace;
pub use world::{RunReport, run_scenario, run_seed};

#[cfg(test)]
mod bench;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod cases_accumulator;
#[cfg(test)]
mod cases_more;
#[cfg(test)]
mod cases_network;
#[cfg(test)]
mod tests;

/// The README's programs compile; here, where both crates they use are at hand.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
