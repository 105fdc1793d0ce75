//! A broker that misbehaves on the wire: one rule a fault, between what the core answers and what the socket is
//! given. A rule is in force while its guard lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ottla_protocol::ApiKey;
use parking_lot::Mutex;

/// A request and its answer, as a rule sees them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call<'c> {
    /// The node that answers.
    pub node: i32,
    /// The connection, numbered as they came.
    pub connection: u64,
    /// What was asked.
    pub api: ApiKey,
    /// At which version.
    pub version: i16,
    /// The correlation id of the request.
    pub correlation: i32,
    /// The request, without its length.
    pub request: &'c Bytes,
    /// How often this rule was asked before.
    pub nth: u64,
}

/// What goes out in place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// These bytes, at once.
    Bytes(Vec<u8>),
    /// These bytes, each in a segment of its own.
    Trickle(Vec<u8>),
    /// Kept back until so many answers are there (or no further request comes), then all in one segment.
    Gathered(Vec<u8>, usize),
    /// These bytes, and the connection ends.
    Cut(Vec<u8>),
    /// Nothing; the connection stays as it is, and nothing is ever said on it again.
    Silence,
}

type Act = dyn FnMut(&Call<'_>, Vec<u8>) -> Sent + Send;

struct Rule {
    id: u64,
    asked: u64,
    act: Box<Act>,
}

/// All rules of a broker.
#[derive(Default)]
pub(crate) struct Rules {
    next: AtomicU64,
    all: Mutex<Vec<Rule>>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rules", self.all.lock().len())
    }
}

/// A rule in force; dropping it takes it out of force.
#[derive(Debug)]
#[must_use = "the rule ends with its guard"]
pub struct Installed {
    id: u64,
    rules: Weak<Rules>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(rules) = self.rules.upgrade() {
            rules.all.lock().retain(|r| r.id != self.id);
        }
    }
}

impl Rules {
    pub(crate) fn install(
        self: &Arc<Self>,
        act: impl FnMut(&Call<'_>, Vec<u8>) -> Sent + Send + 'static,
    ) -> Installed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.all.lock().push(Rule { id, asked: 0, act: Box::new(act) });
        Installed { id, rules: Arc::downgrade(self) }
    }

    /// What goes out: what the first rule makes of an answer, the next one of that, while it is bytes.
    pub(crate) fn apply(&self, mut call: Call<'_>, frame: Vec<u8>) -> Sent {
        let mut sent = Sent::Bytes(frame);
        for rule in self.all.lock().iter_mut() {
            let Sent::Bytes(bytes) = sent else { return sent };
            call.nth = rule.asked;
            rule.asked += 1;
            sent = (rule.act)(&call, bytes);
        }
        sent
    }
}
