//! Throttling by brokers (KIP-219): delays requests to a node.

use std::time::Duration;

use super::NetworkClient;
use crate::network::io::Io;
use crate::time::Tick;

/// The current or the last throttle of a node.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throttle {
    since: Tick,
    /// The client sends no request before this time.
    pub(crate) until: Tick,
}

impl Throttle {
    pub(crate) fn is_active(&self, now: Tick) -> bool {
        self.until > now
    }

    /// Begins a throttle, or extends the current one. Returns the time that this adds.
    pub(crate) fn extend(&mut self, time: Duration, now: Tick) -> Duration {
        if !self.is_active(now) {
            self.since = now;
        }
        let before = self.until.max(now);
        self.until = self.until.max(now.after(time));
        self.until.since(before)
    }

    /// Returns how long the throttle overlaps the time from `from` to `to`.
    pub(crate) fn overlap(&self, from: Tick, to: Tick) -> Duration {
        to.min(self.until).since(from.max(self.since))
    }
}

impl<I: Io> NetworkClient<I> {
    /// Handles the throttle time of a response.
    ///
    /// `client_throttles` decides who waits (KIP-219). Up to some version of each API the broker
    /// has delayed the response itself. From the next version on it responds at once, and the
    /// client must hold back its requests. The metric counts both.
    pub(crate) fn throttle(&mut self, node: i32, ms: i32, client_throttles: bool, now: Tick) {
        self.observer.throttle_time(ms, now);
        if !client_throttles {
            return;
        }
        // A broker may send a negative time.
        let Ok(ms @ 1..) = u64::try_from(ms) else { return };
        let Some(connection) = self.connections.get_mut(node) else { return };
        let added = connection.throttle.extend(Duration::from_millis(ms), now);
        connection.in_flight.add_throttle_time(added);
        self.observer.throttled(connection, ms, now);
    }

    /// Returns how long `node`'s last throttle overlaps the time from `from` to `to`.
    pub(crate) fn throttled_time(&self, node: i32, from: Tick, to: Tick) -> Duration {
        let connection = self.connections.get(node);
        connection.map_or(Duration::ZERO, |connection| connection.throttle.overlap(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_is_extended_and_its_overlap_is_exact() {
        let mut throttle = Throttle::default();
        assert!(!throttle.is_active(Tick(0)));
        throttle.extend(Duration::from_nanos(100), Tick(50));
        throttle.extend(Duration::from_nanos(100), Tick(100));
        assert!(throttle.is_active(Tick(199)) && !throttle.is_active(Tick(200)));
        throttle.extend(Duration::from_nanos(10), Tick(120));
        assert_eq!(throttle.until, Tick(200), "a shorter throttle does not end the longer one");
        assert_eq!(throttle.overlap(Tick(0), Tick(1000)), Duration::from_nanos(150));
        assert_eq!(throttle.overlap(Tick(60), Tick(70)), Duration::from_nanos(10));
        assert_eq!(throttle.overlap(Tick(300), Tick(400)), Duration::ZERO);
    }
}
