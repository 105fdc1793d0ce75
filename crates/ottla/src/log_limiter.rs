//! Limits log events to one per second, kind and node.
//!
//! Every event that a batch, a record, a response or a connection attempt can cause is limited, so
//! that one fault does not fill the log. The client has a limiter for the events of nodes, and
//! [`CallerContext`](crate::wakeup::caller_context::CallerContext) one for those that any thread
//! logs. The events, with stable names and fields, are listed in `docs/EVENTS.md`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::collections::HashMap;
use crate::time::Tick;

/// The kinds of log events that are limited.
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
    BatchFailed,
    CompressionFailed,
    UnrequestedPartitions,
    NotResolved,
    Metadata,
    TwoClusters,
    CallbackPanicked,
    InterceptorFailed,
}

/// The node of events that belong to no node.
pub(crate) const NO_NODE: i32 = -1;

/// The shortest time between two events of the same kind and node.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Remembers when each kind of event was last logged for each node.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter {
    last: HashMap<(LogEvent, i32), LastLogged>,
}

/// The last event of one kind and node that was logged.
#[derive(Debug)]
struct LastLogged {
    at: Tick,
    /// Events that were not logged since then.
    suppressed: u64,
}

impl LogLimiter {
    /// Returns whether to log an event now: `Some` with the number of events suppressed before it,
    /// `None` if this event is suppressed, too.
    pub(crate) fn check(&mut self, kind: LogEvent, node: i32, now: Tick) -> Option<u64> {
        match self.last.get_mut(&(kind, node)) {
            Some(last) if last.at.after(MIN_INTERVAL) > now => {
                last.suppressed += 1;
                None
            }
            Some(last) => {
                let suppressed = last.suppressed;
                *last = LastLogged { at: now, suppressed: 0 };
                Some(suppressed)
            }
            None => {
                self.last.insert((kind, node), LastLogged { at: now, suppressed: 0 });
                Some(0)
            }
        }
    }

    /// Forgets a node that is no longer part of the cluster.
    pub(crate) fn remove_node(&mut self, node: i32) {
        self.last.retain(|(_, n), _| *n != node);
    }
}

/// Counts an event where no clock is at hand, and limits how often it is logged.
#[derive(Debug)]
pub(crate) struct EventCount(AtomicU64);

impl EventCount {
    pub(crate) const fn new() -> EventCount {
        EventCount(AtomicU64::new(0))
    }

    /// Counts one event. Returns the count if the event is to be logged: for 1, 2, 4, 8 and so on.
    pub(crate) fn check(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        count.is_power_of_two().then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_event_is_logged_at_powers_of_two() {
        let count = EventCount::new();
        let logged: Vec<u64> = (0..100).filter_map(|_| count.check()).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn at_most_one_event_per_second_kind_and_node_is_logged() {
        let (mut limiter, at_ms) = (LogLimiter::default(), |ms: u64| Tick(ms * 1_000_000));
        assert_eq!(limiter.check(LogEvent::Disconnected, 1, at_ms(0)), Some(0));
        assert_eq!(limiter.check(LogEvent::Disconnected, 2, at_ms(1)), Some(0));
        assert_eq!(limiter.check(LogEvent::Connected, 1, at_ms(2)), Some(0));
        assert_eq!(limiter.check(LogEvent::Disconnected, 1, at_ms(500)), None);
        assert_eq!(limiter.check(LogEvent::Disconnected, 1, at_ms(999)), None);
        assert_eq!(limiter.check(LogEvent::Disconnected, 1, at_ms(1000)), Some(2));
        limiter.remove_node(1);
        assert_eq!(limiter.check(LogEvent::Disconnected, 1, at_ms(1001)), Some(0));
    }
}
