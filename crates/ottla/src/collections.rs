//! Maps with a hasher of a fixed seed, so that a simulated run replays; nobody else's maps are used here.

#![allow(clippy::disallowed_types)]

use foldhash::fast::FixedState;

/// A map whose order is the same in every run.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;
/// A set whose order is the same in every run.
pub(crate) type HashSet<K> = std::collections::HashSet<K, FixedState>;
