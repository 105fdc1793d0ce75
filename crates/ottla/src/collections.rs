//! Hash maps and sets with a fixed seed, so that a simulated run can be replayed.
//!
//! `std`'s maps iterate in a different order in each process, so `clippy.toml` bans them in this
//! crate.

#![allow(clippy::disallowed_types)]

use foldhash::fast::FixedState;

/// A map that iterates in the same order in every run.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;
/// A set that iterates in the same order in every run.
pub(crate) type HashSet<K> = std::collections::HashSet<K, FixedState>;
