//! A producer and its broker in virtual time: clock, sockets, chance and callers are virtual, the producer is
//! the shipped code down to the seam, the broker is the development broker's core. A seed decides everything.
//!
//! First faults (nothing wrong may happen), then the world heals (everything must finish), then it is quiet
//! (nothing may spin). The oracle judges, never the scenario.

mod executor;
mod oracle;
mod scenario;
mod world;

pub use oracle::{Ended, History, Sent};
pub use scenario::Scenario;
pub use world::{Report, run, run_scenario};

#[cfg(test)]
mod tests;

/// The README's programs compile; here, where both crates they use are at hand.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
