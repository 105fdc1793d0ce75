//! The state of the connection to one broker (Kafka's `NodeConnectionState`).
//!
//! ```text
//! Disconnected ──► Preparing ──► Resolving ──► Connecting ──► Authenticating
//!      ▲               │             │             │            │       ▲
//!      │               │             │             │            ▼       │ reauthentication
//!      │               │             │             │   CheckingApiVersions  (KIP-368)
//!      │               │             │             │            │       │
//!      │               │             │             │            ▼       │
//!      │               │             │             │          Ready ────┘
//!      └── (backoff) ──┴─────────────┴─────────────┴────────────┘
//! ```
//! A connection skips `Preparing` if it needs no certificate file and no token. It skips
//! `Resolving` while the last lookup has untried addresses, and `Authenticating` without SASL.
//! `Connecting` includes the TLS handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::messages::{ApiVersion, ApiVersionsResponse};
use ottla_protocol::{ApiKey, ErrorCode};

use super::addresses::Addresses;
use super::in_flight_requests::InFlightRequests;
use super::sasl::SaslClient;
use super::throttle::Throttle;
use crate::collections::HashMap;
use crate::config::ConnectSettings;
use crate::network::io::ChannelKey;
use crate::time::{Tick, backoff};

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// There is no connection. The client does not connect before `retry_at`.
    Disconnected { retry_at: Tick },
    /// A worker thread reads certificate files or fetches a token.
    Preparing { deadline: Tick },
    /// A worker thread resolves the host name.
    Resolving { deadline: Tick },
    /// TCP connects, then TLS shakes hands.
    Connecting { channel: ChannelKey, deadline: Tick },
    /// The SASL exchange runs: before ApiVersions, or again on a connection that was ready.
    Authenticating { channel: ChannelKey, deadline: Tick },
    /// The client waits for the ApiVersions response.
    CheckingApiVersions { channel: ChannelKey, deadline: Tick },
    /// The client may send requests.
    Ready { channel: ChannelKey },
}

/// The API versions that a broker supports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VersionRange {
    pub(crate) min: i16,
    pub(crate) max: i16,
}

/// A broker, its connection and the requests in flight on it.
pub(crate) struct NodeConnection {
    pub(crate) id: i32,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) state: ConnectionState,
    pub(crate) in_flight: InFlightRequests,
    /// Empty until the ApiVersions response arrives.
    pub(crate) api_versions: HashMap<ApiKey, VersionRange>,
    pub(crate) throttle: Throttle,
    addresses: Addresses,
    /// Unique for each node the client learns of: an id may return with a new address.
    pub(crate) connection_number: u32,
    pub(crate) authentication: AuthenticationState,
    attempts: ConnectAttempts,
    pub(crate) report: ConnectionReport,
}

/// What only a snapshot reads.
#[derive(Debug, Default)]
pub(crate) struct ConnectionReport {
    /// From the last request with a response until that response.
    pub(crate) last_round_trip: Option<Duration>,
    /// Why the last connection failed.
    pub(crate) last_error: Option<String>,
}

/// The preparation and the SASL session of a connection.
#[derive(Default)]
pub(crate) struct AuthenticationState {
    /// Counts preparations. The result of an earlier one is ignored.
    pub(crate) prepare_attempt: u32,
    /// Whether the preparation for the next connection is done.
    pub(crate) prepared: bool,
    /// The SASL exchange in progress.
    pub(crate) exchange: Option<SaslClient>,
    /// The code with which the broker refused the exchange.
    pub(crate) refusal: Option<ErrorCode>,
    /// The start of the reauthentication in progress (KIP-368).
    pub(crate) reauthenticating_since: Option<Tick>,
    /// The time from which the client reauthenticates before the next request.
    pub(crate) reauthenticate_at: Option<Tick>,
}

impl AuthenticationState {
    /// Forgets everything about the connection that has ended.
    fn reset(&mut self) {
        let prepare_attempt = self.prepare_attempt.wrapping_add(1);
        *self = AuthenticationState { prepare_attempt, ..AuthenticationState::default() };
    }
}

/// The attempts to connect since the node was last ready. Both backoffs depend on them.
#[derive(Debug, Default)]
struct ConnectAttempts {
    failed: u32,
    /// Of these, the ones that failed before the connection was established (KIP-601).
    failed_setups: u32,
    last: Tick,
    /// The attempts in a row that only other settings can make succeed, with the last reason.
    misconfigured: u32,
    misconfigured_reason: String,
}

impl NodeConnection {
    pub(crate) fn new(
        id: i32,
        host: Arc<str>,
        port: u16,
        connection_number: u32,
    ) -> NodeConnection {
        NodeConnection {
            id,
            host,
            port,
            state: ConnectionState::Disconnected { retry_at: Tick(0) },
            in_flight: InFlightRequests::default(),
            api_versions: HashMap::default(),
            throttle: Throttle::default(),
            addresses: Addresses::default(),
            connection_number,
            authentication: AuthenticationState::default(),
            attempts: ConnectAttempts::default(),
            report: ConnectionReport::default(),
        }
    }

    /// Returns the broker's name for logs and messages. A bootstrap server has no id yet.
    pub(crate) fn name(&self) -> String {
        if self.id < 0 {
            format!("{}:{}", self.host, self.port)
        } else {
            format!("broker {} at {}:{}", self.id, self.host, self.port)
        }
    }

    pub(crate) fn channel(&self) -> Option<ChannelKey> {
        match self.state {
            ConnectionState::Disconnected { .. }
            | ConnectionState::Preparing { .. }
            | ConnectionState::Resolving { .. } => None,
            ConnectionState::Connecting { channel, .. }
            | ConnectionState::Authenticating { channel, .. }
            | ConnectionState::CheckingApiVersions { channel, .. }
            | ConnectionState::Ready { channel } => Some(channel),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, ConnectionState::Ready { .. })
    }

    pub(crate) fn is_connecting(&self) -> bool {
        !matches!(self.state, ConnectionState::Disconnected { .. } | ConnectionState::Ready { .. })
    }

    pub(crate) fn can_connect(&self, now: Tick) -> bool {
        matches!(self.state, ConnectionState::Disconnected { retry_at } if retry_at <= now)
    }

    /// Returns the number of failed attempts in a row.
    pub(crate) fn failed_attempts(&self) -> u32 {
        self.attempts.failed
    }

    /// Returns when the client last began to connect.
    pub(crate) fn last_connect_attempt(&self) -> Tick {
        self.attempts.last
    }

    /// Records that the client begins to connect.
    pub(crate) fn begin_attempt(&mut self, now: Tick) {
        self.attempts.last = now;
    }

    /// Counts an attempt that only other settings can make succeed.
    pub(crate) fn add_misconfigured_attempt(&mut self, reason: &str) {
        self.attempts.misconfigured = self.attempts.misconfigured.saturating_add(1);
        reason.clone_into(&mut self.attempts.misconfigured_reason);
    }

    /// Counts earlier attempts as failed so, because one that took long is enough evidence.
    pub(crate) fn set_misconfigured_attempts(&mut self, attempts: u32) {
        self.attempts.misconfigured = self.attempts.misconfigured.max(attempts);
    }

    pub(crate) fn clear_misconfigured_attempts(&mut self) {
        self.attempts.misconfigured = 0;
    }

    /// Returns why the last attempts failed, if at least `attempts` in a row need other settings.
    pub(crate) fn misconfigured_reason(&self, attempts: u32) -> Option<&str> {
        (self.attempts.misconfigured >= attempts).then_some(&*self.attempts.misconfigured_reason)
    }

    /// Returns the key of the job that prepares this connection now.
    pub(crate) fn prepare_key(&self) -> u64 {
        u64::from(self.connection_number) << 32 | u64::from(self.authentication.prepare_attempt)
    }

    /// Returns whether the client must reauthenticate before it sends another request.
    pub(crate) fn is_reauthentication_due(&self, now: Tick) -> bool {
        self.is_ready()
            && (self.authentication.reauthenticate_at)
                .is_some_and(|at| at.max(self.throttle.until) <= now)
    }

    /// Returns the deadline of the connection setup in progress.
    pub(crate) fn setup_deadline(&self) -> Option<Tick> {
        match self.state {
            ConnectionState::Preparing { deadline }
            | ConnectionState::Resolving { deadline }
            | ConnectionState::Connecting { deadline, .. }
            | ConnectionState::Authenticating { deadline, .. }
            | ConnectionState::CheckingApiVersions { deadline, .. } => Some(deadline),
            ConnectionState::Disconnected { .. } | ConnectionState::Ready { .. } => None,
        }
    }

    pub(crate) fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses.set(addresses);
        self.state = ConnectionState::Disconnected { retry_at: Tick(0) };
    }

    /// Returns whether the last lookup has addresses that are not tried yet.
    pub(crate) fn has_untried_addresses(&self) -> bool {
        self.addresses.has_untried()
    }

    /// Removes and returns the next address to try; `None` means that a lookup is needed.
    pub(crate) fn next_address(&mut self) -> Option<SocketAddr> {
        self.addresses.next()
    }

    /// Moves to `Connecting`. The timeout grows with each failed attempt (KIP-601).
    pub(crate) fn connecting(
        &mut self,
        channel: ChannelKey,
        s: &ConnectSettings,
        now: Tick,
        random: u64,
    ) {
        let timeout =
            backoff(s.setup_timeout, s.setup_timeout_max, self.attempts.failed_setups, random);
        self.state = ConnectionState::Connecting { channel, deadline: now.after(timeout) };
    }

    /// Moves to `Ready` and resets both backoffs.
    pub(crate) fn ready(&mut self, channel: ChannelKey) {
        self.state = ConnectionState::Ready { channel };
        self.attempts.failed = 0;
        self.attempts.failed_setups = 0;
    }

    /// Moves to `Disconnected` with a backoff, and forgets what was learnt over the connection. A
    /// throttle stays: the broker's quota does not depend on the connection.
    pub(crate) fn disconnected(&mut self, s: &ConnectSettings, now: Tick, random: u64) {
        match self.state {
            // The broker may have moved: resolve its name again (CASES NC12).
            ConnectionState::Ready { .. } => self.addresses.clear(),
            ConnectionState::Authenticating { .. }
                if self.authentication.reauthenticating_since.is_some() =>
            {
                self.addresses.clear();
            }
            ConnectionState::Connecting { .. } | ConnectionState::Authenticating { .. } => {
                self.attempts.failed_setups += 1;
            }
            _ => {}
        }
        self.api_versions.clear();
        self.authentication.reset();
        let wait = backoff(s.backoff, s.backoff_max, self.attempts.failed, random);
        self.attempts.failed += 1;
        self.state = ConnectionState::Disconnected { retry_at: now.after(wait) };
    }

    /// Stores the API versions that the broker supports.
    pub(crate) fn set_api_versions(&mut self, response: &ApiVersionsResponse) {
        let range = |k: &ApiVersion| {
            (ApiKey(k.api_key), VersionRange { min: k.min_version, max: k.max_version })
        };
        self.api_versions = response.api_keys.iter().map(range).collect();
    }

    /// Returns the highest version in `min..=max` that the broker supports.
    pub(crate) fn latest_usable_version(&self, api: ApiKey, min: i16, max: i16) -> Option<i16> {
        let supported = self.api_versions.get(&api)?;
        let version = max.min(supported.max);
        (version >= min && version >= supported.min).then_some(version)
    }

    /// Returns whether the node receives the client's metrics: it supports version 0, the only one,
    /// of both APIs of KIP-714.
    pub(crate) fn offers_telemetry(&self) -> bool {
        [ApiKey::GET_TELEMETRY_SUBSCRIPTIONS, ApiKey::PUSH_TELEMETRY]
            .iter()
            .all(|api| self.latest_usable_version(*api, 0, 0).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::config::{AddressFamily, ClientDnsLookup};

    fn settings() -> ConnectSettings {
        ConnectSettings {
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_millis(1000),
            setup_timeout: Duration::from_secs(10),
            setup_timeout_max: Duration::from_secs(30),
            dns_lookup: ClientDnsLookup::UseAllDnsIps,
            address_family: AddressFamily::Any,
        }
    }

    fn node() -> NodeConnection {
        NodeConnection::new(1, "h".into(), 9092, 1)
    }

    // CASES: NC12.
    #[test]
    fn each_address_is_tried_and_the_name_is_resolved_again_after_a_disconnection() {
        let s = settings();
        let address = |n: u8| SocketAddr::from(([127, 0, 0, n], 9092));
        let mut connection = node();
        assert_eq!(connection.next_address(), None);
        connection.set_addresses(vec![address(1), address(2), address(3)]);
        assert_eq!(connection.next_address(), Some(address(1)));
        connection.connecting(1, &s, Tick(0), 0);
        connection.disconnected(&s, Tick(0), 0);
        assert_eq!(
            connection.next_address(),
            Some(address(2)),
            "the next address of the same lookup"
        );
        connection.connecting(2, &s, Tick(0), 0);
        connection.ready(2);
        connection.disconnected(&s, Tick(0), 0);
        assert_eq!(connection.next_address(), None, "an established connection was lost");
    }

    #[test]
    fn lookup_does_not_begin_with_the_address_used_last() {
        let s = settings();
        let address = |n: u8| SocketAddr::from(([127, 0, 0, n], 9092));
        let mut connection = node();
        connection.set_addresses(vec![address(1), address(2)]);
        assert_eq!(connection.next_address(), Some(address(1)));
        connection.connecting(1, &s, Tick(0), 0);
        connection.ready(1);
        connection.disconnected(&s, Tick(0), 0);
        connection.set_addresses(vec![address(1), address(2)]);
        assert_eq!(connection.next_address(), Some(address(2)));
        assert_eq!(connection.next_address(), Some(address(1)), "but it is tried");
        connection.set_addresses(vec![address(1)]);
        assert_eq!(connection.next_address(), Some(address(1)), "there is no other");
    }

    #[test]
    fn addresses_of_both_families_alternate() {
        let v4 = |n: u8| SocketAddr::from(([127, 0, 0, n], 9092));
        let v6 = |n: u16| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 9092));
        let mut connection = node();
        connection.set_addresses(vec![v6(1), v6(2), v6(3), v4(1), v4(2)]);
        let order: Vec<_> = std::iter::from_fn(|| connection.next_address()).collect();
        assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)], "the resolver's first family first");
    }

    // CASES: CS1, CS2, NC10.
    #[test]
    fn reconnect_backoff_grows_to_its_maximum_until_the_node_is_ready() {
        let s = settings();
        let mut connection = node();
        let mut delays = Vec::new();
        for channel in 0..20 {
            connection.state = ConnectionState::CheckingApiVersions { channel, deadline: Tick(0) };
            connection.disconnected(&s, Tick(0), u64::MAX / 2);
            let ConnectionState::Disconnected { retry_at } = connection.state else { panic!() };
            delays.push(retry_at.0 / 1_000_000);
        }
        // `u64::MAX / 2` is the middle of the jitter range; rounding costs up to a millisecond.
        assert!(
            delays[0].abs_diff(50) <= 1
                && delays[1].abs_diff(100) <= 1
                && delays[3].abs_diff(400) <= 1
        );
        assert!(delays.iter().all(|d| *d <= 1000));
        connection.ready(1);
        connection.disconnected(&s, Tick(0), u64::MAX / 2);
        let ConnectionState::Disconnected { retry_at } = connection.state else { panic!() };
        assert!(retry_at.0 < 60_000_000);
    }

    // CASES: CS3.
    #[test]
    fn setup_timeout_doubles_with_each_failed_attempt() {
        let (s, mut connection) = (settings(), node());
        let mut timeouts = Vec::new();
        for channel in 0..6 {
            connection.connecting(channel, &s, Tick(0), u64::MAX / 2);
            timeouts.push(connection.setup_deadline().unwrap().0 / 1_000_000);
            // Attempts that reach authentication count as failed, too.
            if channel % 2 == 1 {
                connection.state = ConnectionState::Authenticating { channel, deadline: Tick(0) };
            }
            connection.disconnected(&s, Tick(0), 0);
        }
        let expected = [10_000, 20_000, 30_000, 30_000, 30_000, 30_000];
        for (timeout, expected) in timeouts.iter().zip(expected) {
            assert!(timeout.abs_diff(expected) <= 1, "{timeouts:?}");
        }
        connection.connecting(9, &s, Tick(0), u64::MAX / 2);
        connection.ready(9);
        connection.disconnected(&s, Tick(0), 0);
        connection.connecting(10, &s, Tick(0), u64::MAX / 2);
        let deadline = connection.setup_deadline().unwrap();
        assert!(deadline.0.abs_diff(10_000_000_000) < 1_000_000, "a ready node resets the timeout");
    }

    #[test]
    fn latest_usable_version_is_the_highest_that_both_sides_support() {
        let mut connection = node();
        assert_eq!(connection.latest_usable_version(ApiKey::PRODUCE, 3, 13), None);
        connection.api_versions.insert(ApiKey::PRODUCE, VersionRange { min: 0, max: 9 });
        assert_eq!(connection.latest_usable_version(ApiKey::PRODUCE, 3, 13), Some(9));
        assert_eq!(connection.latest_usable_version(ApiKey::PRODUCE, 3, 8), Some(8));
        assert_eq!(connection.latest_usable_version(ApiKey::PRODUCE, 10, 13), None);
    }

    #[test]
    fn node_offers_telemetry_only_with_both_of_its_apis() {
        let mut connection = node();
        connection
            .api_versions
            .insert(ApiKey::GET_TELEMETRY_SUBSCRIPTIONS, VersionRange { min: 0, max: 0 });
        assert!(!connection.offers_telemetry(), "the subscription alone is of no use");
        connection.api_versions.insert(ApiKey::PUSH_TELEMETRY, VersionRange { min: 0, max: 0 });
        assert!(connection.offers_telemetry());
    }
}
