//! Throttling by brokers (KIP-219): delays requests to a node and shows that in `Health`.

use std::time::Duration;

use super::NetworkClient;
use crate::log_limiter::LogEvent;
use crate::metrics::Sensor;
use crate::network::io::Io;
use crate::time::Tick;

/// The shortest throttle that `Health` shows, in milliseconds.
const MIN_REPORTED_THROTTLE_MS: u64 = 1000;

impl<I: Io> NetworkClient<I> {
    /// Handles the throttle time of a response.
    ///
    /// `client_throttles` decides who waits (KIP-219). Up to some version of each API the broker
    /// has delayed the response itself. From the next version on it responds at once, and the
    /// client must hold back its requests. The metric counts both.
    pub(crate) fn throttle(&mut self, node: i32, ms: i32, client_throttles: bool, now: Tick) {
        self.counters.sensors.record(&[(Sensor::Throttle, f64::from(ms.max(0)))], now);
        if !client_throttles {
            return;
        }
        // A broker may send a negative time.
        let Ok(ms @ 1..) = u64::try_from(ms) else { return };
        let Some(connection) = self.connection_states.get_mut(&node) else { return };
        if connection.throttled_until <= now {
            connection.throttled_since = now;
        }
        connection.throttled_until =
            connection.throttled_until.max(now.after(Duration::from_millis(ms)));
        if ms >= MIN_REPORTED_THROTTLE_MS {
            self.health.throttled(&connection.name(), ms);
            self.next_throttle_end = self.next_throttle_end.min(connection.throttled_until);
        }
        if let Some(suppressed) = self.log_events.check(LogEvent::Throttled, node, now) {
            tracing::info!(name: "ottla.throttled", broker = node, ms, suppressed, "throttled");
        }
    }

    /// Returns how long `node`'s last throttle overlaps the time from `from` to `to`.
    pub(crate) fn throttled_time(&self, node: i32, from: Tick, to: Tick) -> Duration {
        self.connection_states.get(&node).map_or(Duration::ZERO, |connection| {
            to.min(connection.throttled_until).since(from.max(connection.throttled_since))
        })
    }

    /// Removes expired throttles from `Health`.
    pub(super) fn expire_throttles(&mut self, now: Tick) {
        if self.next_throttle_end > now {
            return;
        }
        self.next_throttle_end = Tick::NEVER;
        for connection in self.connection_states.values() {
            if connection.throttled_until <= now {
                self.health.resumed(&connection.name());
            } else {
                self.next_throttle_end = self.next_throttle_end.min(connection.throttled_until);
            }
        }
    }
}
