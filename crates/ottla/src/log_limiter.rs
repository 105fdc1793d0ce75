//! Events for people: `tracing` with stable names and fields, listed in `docs/EVENTS.md`; of a kind and node at
//! most one a second, which tells how many were left out before it.

use std::time::Duration;

use crate::collections::HashMap;
use crate::time::Tick;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LogEvent {
    Connected,
    Authenticated,
    Disconnected,
    LeaderChanged,
    Throttled,
    EpochBumped,
    BatchSplit,
    BatchExpired,
}

/// Between two of a kind and node.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// When each kind was told last.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(HashMap<(LogEvent, i32), (Tick, u64)>);

impl LogLimiter {
    /// Whether this one is told, and how many before it were not.
    pub(crate) fn check(&mut self, kind: LogEvent, node: i32, now: Tick) -> Option<u64> {
        match self.0.get_mut(&(kind, node)) {
            Some((last, left_out)) if last.after(MIN_INTERVAL) > now => {
                *left_out += 1;
                None
            }
            Some(known) => {
                let left_out = known.1;
                *known = (now, 0);
                Some(left_out)
            }
            None => {
                self.0.insert((kind, node), (now, 0));
                Some(0)
            }
        }
    }

    /// A node that is no more is not remembered.
    pub(crate) fn remove_node(&mut self, node: i32) {
        self.0.retain(|(_, n), _| *n != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_of_a_kind_and_node() {
        let (mut e, at) = (LogLimiter::default(), |ms: u64| Tick(ms * 1_000_000));
        assert_eq!(e.check(LogEvent::Disconnected, 1, at(0)), Some(0));
        assert_eq!(e.check(LogEvent::Disconnected, 2, at(1)), Some(0));
        assert_eq!(e.check(LogEvent::Connected, 1, at(2)), Some(0));
        assert_eq!(e.check(LogEvent::Disconnected, 1, at(500)), None);
        assert_eq!(e.check(LogEvent::Disconnected, 1, at(999)), None);
        assert_eq!(e.check(LogEvent::Disconnected, 1, at(1000)), Some(2));
        e.remove_node(1);
        assert_eq!(e.check(LogEvent::Disconnected, 1, at(1001)), Some(0));
    }
}
