//! One broker's connection:
//!
//! ```text
//! Idle ─► Preparing ─► Resolving ─► Connecting ─► Authenticating ─► CheckingVersions ─► Ready
//!   ▲         │            │             │           │    ▲                 │             │
//!   │         │            │             │           │    └── (session ends) ─────────────┤
//!   └─────────┴────────────┴─────────────┴───────────┴──── (backoff) ───────┴─────────────┘
//! ```
//! Preparing is left out where no file or token has to be looked at first, Resolving where addresses of the last
//! lookup are left to try, Authenticating without SASL. Connecting is over when TLS is agreed upon.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ApiKey;
use ottla_protocol::messages::{ApiVersion, ApiVersionsResponse};

use super::in_flight_requests::InFlightRequests;
use super::sasl::SaslClient;
use crate::collections::HashMap;
use crate::network::io::ChannelKey;
use crate::time::{Tick, backoff};

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// None; not tried before then.
    Disconnected(Tick),
    /// Files are read or a token is fetched, at most until then.
    Preparing(Tick),
    /// The name is being looked up, at most until then.
    Resolving(Tick),
    /// TCP and TLS are being set up, at most until then.
    Connecting(ChannelKey, Tick),
    /// We show who we are, with the same deadline; or anew, on a connection that was ready.
    Authenticating(ChannelKey, Tick),
    /// ApiVersions was asked, with the same deadline.
    CheckingApiVersions(ChannelKey, Tick),
    /// Requests may go.
    Ready(ChannelKey),
}

/// Backoffs and time-outs of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectSettings {
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) setup_timeout: Duration,
    pub(crate) setup_timeout_max: Duration,
}

/// A broker and its connection.
pub(crate) struct NodeConnection {
    pub(crate) id: i32,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) state: ConnectionState,
    pub(crate) in_flight: InFlightRequests,
    pub(crate) api_versions: HashMap<ApiKey, (i16, i16)>,
    /// Since when it has been, or was the last time.
    pub(crate) throttled_since: Tick,
    pub(crate) throttled_until: Tick,
    /// Addresses of the last lookup, not yet tried ones last.
    addresses: Vec<SocketAddr>,
    /// Numbers brokers as they come to be known: an id may come back at another address.
    pub(crate) generation: u32,
    /// Numbers what is done before connections, so that a late answer is told from the one that is due.
    pub(crate) prepare_attempt: u32,
    /// What is to be done before a connection is made was done.
    pub(crate) prepared: bool,
    /// A SASL exchange on its way.
    pub(crate) exchange: Option<SaslClient>,
    /// Since when it is renewed, on a connection that was ready.
    pub(crate) reauthenticating_since: Option<Tick>,
    /// When the session is to be renewed.
    pub(crate) reauthenticate_at: Option<Tick>,
    failed_attempts: u32,
    failed_connect_attempts: u32,
    pub(crate) last_connect_attempt: Tick,
}

impl NodeConnection {
    pub(crate) fn new(id: i32, host: Arc<str>, port: u16) -> NodeConnection {
        NodeConnection {
            id,
            host,
            port,
            state: ConnectionState::Disconnected(Tick(0)),
            in_flight: InFlightRequests::default(),
            api_versions: HashMap::default(),
            throttled_since: Tick(0),
            throttled_until: Tick(0),
            addresses: Vec::new(),
            generation: 0,
            prepare_attempt: 0,
            prepared: false,
            exchange: None,
            reauthenticating_since: None,
            reauthenticate_at: None,
            failed_attempts: 0,
            failed_connect_attempts: 0,
            last_connect_attempt: Tick(0),
        }
    }

    /// How people write it.
    pub(crate) fn name(&self) -> String {
        if self.id < 0 {
            format!("{}:{}", self.host, self.port)
        } else {
            format!("broker {} at {}:{}", self.id, self.host, self.port)
        }
    }

    pub(crate) fn channel(&self) -> Option<ChannelKey> {
        match self.state {
            ConnectionState::Disconnected(_)
            | ConnectionState::Preparing(_)
            | ConnectionState::Resolving(_) => None,
            ConnectionState::Connecting(c, _)
            | ConnectionState::Authenticating(c, _)
            | ConnectionState::CheckingApiVersions(c, _)
            | ConnectionState::Ready(c) => Some(c),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, ConnectionState::Ready(_))
    }

    pub(crate) fn is_connecting(&self) -> bool {
        !matches!(self.state, ConnectionState::Disconnected(_) | ConnectionState::Ready(_))
    }

    pub(crate) fn can_connect(&self, now: Tick) -> bool {
        matches!(self.state, ConnectionState::Disconnected(until) if until <= now)
    }

    /// Attempts in a row that failed.
    pub(crate) fn failed_attempts(&self) -> u32 {
        self.failed_attempts
    }

    /// Whether we are to show anew who we are before anything else is sent.
    pub(crate) fn is_reauthentication_due(&self, now: Tick) -> bool {
        self.is_ready()
            && self.reauthenticate_at.is_some_and(|at| at.max(self.throttled_until) <= now)
    }

    /// Until when a connection under way may take.
    pub(crate) fn setup_deadline(&self) -> Option<Tick> {
        match self.state {
            ConnectionState::Preparing(until)
            | ConnectionState::Resolving(until)
            | ConnectionState::Connecting(_, until)
            | ConnectionState::Authenticating(_, until)
            | ConnectionState::CheckingApiVersions(_, until) => Some(until),
            _ => None,
        }
    }

    pub(crate) fn set_addresses(&mut self, mut addresses: Vec<SocketAddr>) {
        // Taken from the back.
        addresses.reverse();
        self.addresses = addresses;
        self.state = ConnectionState::Disconnected(Tick(0));
    }

    /// The next address to try; `None` asks for a lookup.
    pub(crate) fn next_address(&mut self) -> Option<SocketAddr> {
        self.addresses.pop()
    }

    pub(crate) fn connecting(
        &mut self,
        channel: ChannelKey,
        s: &ConnectSettings,
        now: Tick,
        random: u64,
    ) {
        let setup =
            backoff(s.setup_timeout, s.setup_timeout_max, self.failed_connect_attempts, random);
        self.state = ConnectionState::Connecting(channel, now.after(setup));
    }

    /// It may be used; backoffs start anew.
    pub(crate) fn ready(&mut self, channel: ChannelKey) {
        self.state = ConnectionState::Ready(channel);
        self.failed_attempts = 0;
        self.failed_connect_attempts = 0;
    }

    /// It is gone, or never came to be.
    pub(crate) fn disconnected(&mut self, s: &ConnectSettings, now: Tick, random: u64) {
        match self.state {
            // A lost connection is looked up anew: the broker may have moved (NC12).
            ConnectionState::Ready(_) => self.addresses.clear(),
            ConnectionState::Authenticating(..) if self.reauthenticating_since.is_some() => {
                self.addresses.clear();
            }
            ConnectionState::Connecting(..) | ConnectionState::Authenticating(..) => {
                self.failed_connect_attempts += 1;
            }
            _ => {}
        }
        self.api_versions.clear();
        self.prepare_attempt = self.prepare_attempt.wrapping_add(1);
        (self.exchange, self.reauthenticating_since, self.reauthenticate_at) = (None, None, None);
        self.prepared = false;
        let wait = backoff(s.backoff, s.backoff_max, self.failed_attempts, random);
        self.failed_attempts += 1;
        self.state = ConnectionState::Disconnected(now.after(wait));
        self.throttled_until = Tick(0);
    }

    /// What it says it has.
    pub(crate) fn set_api_versions(&mut self, told: &ApiVersionsResponse) {
        let range = |k: &ApiVersion| (ApiKey(k.api_key), (k.min_version, k.max_version));
        self.api_versions = told.api_keys.iter().map(range).collect();
    }

    /// The highest version both sides have in `min..=max`; `None` where there is none.
    pub(crate) fn latest_usable_version(&self, api: ApiKey, min: i16, max: i16) -> Option<i16> {
        let (low, high) = *self.api_versions.get(&api)?;
        let version = max.min(high);
        (version >= min && version >= low).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ConnectSettings {
        ConnectSettings {
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_millis(1000),
            setup_timeout: Duration::from_secs(10),
            setup_timeout_max: Duration::from_secs(30),
        }
    }

    #[test]
    fn nc12_addresses_are_tried_in_turn_and_looked_up_anew_after_a_loss() {
        let (s, a) = (settings(), |n: u8| SocketAddr::from(([127, 0, 0, n], 9092)));
        let mut b = NodeConnection::new(1, "h".into(), 9092);
        assert_eq!(b.next_address(), None);
        b.set_addresses(vec![a(1), a(2), a(3)]);
        assert_eq!(b.next_address(), Some(a(1)));
        b.connecting(1, &s, Tick(0), 0);
        b.disconnected(&s, Tick(0), 0);
        assert_eq!(b.next_address(), Some(a(2)), "the next of the same lookup");
        b.connecting(2, &s, Tick(0), 0);
        b.ready(2);
        b.disconnected(&s, Tick(0), 0);
        assert_eq!(b.next_address(), None, "an established connection was lost");
    }

    #[test]
    fn cs1_cs2_nc10_the_reconnect_backoff_grows_to_its_cap_until_ready() {
        let s = settings();
        let mut b = NodeConnection::new(1, "h".into(), 9092);
        let mut delays = Vec::new();
        for i in 0..20 {
            b.state = ConnectionState::CheckingApiVersions(i, Tick(0));
            b.disconnected(&s, Tick(0), u64::MAX / 2);
            let ConnectionState::Disconnected(until) = b.state else { panic!() };
            delays.push(until.0 / 1_000_000);
        }
        // Half way between -20 % and +20 %, to within a millisecond of rounding.
        assert!(
            delays[0].abs_diff(50) <= 1
                && delays[1].abs_diff(100) <= 1
                && delays[3].abs_diff(400) <= 1
        );
        assert!(delays.iter().all(|d| *d <= 1000));
        b.ready(1);
        b.disconnected(&s, Tick(0), u64::MAX / 2);
        assert!(matches!(b.state, ConnectionState::Disconnected(t) if t.0 < 60_000_000));
    }

    #[test]
    fn cs3_the_time_to_set_up_doubles_with_each_attempt_that_does_not_get_there() {
        let (s, mut b) = (settings(), NodeConnection::new(1, "h".into(), 9092));
        let mut times = Vec::new();
        for channel in 0..6 {
            b.connecting(channel, &s, Tick(0), u64::MAX / 2);
            times.push(b.setup_deadline().unwrap().0 / 1_000_000);
            // TCP was made, or who we are was shown: neither is enough.
            if channel % 2 == 1 {
                b.state = ConnectionState::Authenticating(channel, Tick(0));
            }
            b.disconnected(&s, Tick(0), 0);
        }
        for (time, due) in times.iter().zip([10_000, 20_000, 30_000, 30_000, 30_000, 30_000]) {
            assert!(time.abs_diff(due) <= 1, "{times:?}");
        }
        b.connecting(9, &s, Tick(0), u64::MAX / 2);
        b.ready(9);
        b.disconnected(&s, Tick(0), 0);
        b.connecting(10, &s, Tick(0), u64::MAX / 2);
        assert!(b.setup_deadline().unwrap().0.abs_diff(10_000_000_000) < 1_000_000, "anew");
    }

    #[test]
    fn versions_are_the_highest_that_both_have() {
        let mut b = NodeConnection::new(1, "h".into(), 9092);
        assert_eq!(b.latest_usable_version(ApiKey::PRODUCE, 3, 13), None);
        b.api_versions.insert(ApiKey::PRODUCE, (0, 9));
        assert_eq!(b.latest_usable_version(ApiKey::PRODUCE, 3, 13), Some(9));
        assert_eq!(b.latest_usable_version(ApiKey::PRODUCE, 3, 8), Some(8));
        assert_eq!(b.latest_usable_version(ApiKey::PRODUCE, 10, 13), None);
    }
}
