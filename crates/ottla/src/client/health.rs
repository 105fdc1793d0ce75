//! Who is connected and who is not and why, for whoever wants to tell a person.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sync::Mutex;

/// A moment's view of a producer's connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Brokers that can be spoken to, as people write them.
    pub connected: Vec<String>,
    /// Brokers that were tried and why that failed, latest reason each.
    pub failing: BTreeMap<String, String>,
    /// Brokers that are connected and asked us to pause, and for how long, in words.
    pub throttled: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SharedHealth(Arc<Mutex<Health>>, Arc<Mutex<Option<String>>>);

impl SharedHealth {
    pub(crate) fn connected(&self, name: &str) {
        let mut h = self.0.lock();
        h.failing.remove(name);
        h.connected.push(name.to_owned());
    }

    pub(crate) fn failed(&self, name: &str, why: &str) {
        *self.1.lock() = Some(format!("{name}: {why}"));
        let mut h = self.0.lock();
        h.connected.retain(|c| c != name);
        h.throttled.remove(name);
        h.failing.insert(name.to_owned(), why.to_owned());
    }

    pub(crate) fn closed(&self, name: &str) {
        let mut h = self.0.lock();
        h.connected.retain(|c| c != name);
        h.throttled.remove(name);
        h.failing.remove(name);
    }

    pub(crate) fn throttled(&self, name: &str, ms: u64) {
        let words = format!("it asked us to pause for {ms} ms (a quota, perhaps)");
        self.0.lock().throttled.insert(name.to_owned(), words);
    }

    pub(crate) fn resumed(&self, name: &str) {
        self.0.lock().throttled.remove(name);
    }

    pub(crate) fn get(&self) -> Health {
        self.0.lock().clone()
    }

    /// What went wrong last, whatever became of it.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.1.lock().clone()
    }

    /// One sentence on why nothing is connected; `None` if something is.
    pub(crate) fn unreachable_summary(&self) -> Option<String> {
        let h = self.0.lock();
        if h.connected.iter().any(|c| !h.throttled.contains_key(c)) {
            return None;
        }
        let known = h.throttled.iter().chain(&h.failing);
        let all: Vec<String> = known.map(|(who, why)| format!("{who}: {why}")).collect();
        (!all.is_empty()).then(|| format!("no broker can be reached ({})", all.join("; ")))
    }
}
