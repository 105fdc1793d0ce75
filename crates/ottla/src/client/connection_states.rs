//! The connections to all nodes (Kafka's `ClusterConnectionStates`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::node_connection::{ConnectionState, NodeConnection};
use ottla_protocol::messages::ApiVersionsResponse;

use crate::collections::HashMap;
use crate::config::ConnectSettings;
use crate::network::io::ChannelKey;
use crate::time::Tick;

/// The connections to all nodes, by node id. Bootstrap servers have negative ids.
pub(super) struct ConnectionStates {
    settings: ConnectSettings,
    connections: BTreeMap<i32, NodeConnection>,
    node_by_channel: HashMap<ChannelKey, i32>,
    /// The connection number of the node added last.
    last_connection_number: u32,
    pub(super) finalized: FinalizedFeatures,
}

/// The features that the cluster has finalized (KIP-584), by the newest response of any broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinalizedFeatures {
    /// The epoch of the features; brokers may learn of a new one at different times.
    epoch: i64,
    /// The level of `transaction.version`, 0 if it is not finalized.
    pub(super) transaction_version: i16,
}

impl FinalizedFeatures {
    /// Lets the next response count regardless of its epoch: it may come from another cluster,
    /// which counts its own epochs.
    pub(super) fn forget_epoch(&mut self) {
        self.epoch = -1;
    }

    /// Takes over the features of a response, unless newer ones are known.
    pub(super) fn update(&mut self, response: &ApiVersionsResponse) {
        let epoch = response.finalized_features_epoch;
        if epoch < self.epoch {
            return;
        }
        let feature = response.finalized_features.iter().find(|f| f.name == "transaction.version");
        self.epoch = epoch;
        self.transaction_version = feature.map_or(0, |f| f.max_version_level);
    }
}

impl ConnectionStates {
    pub(super) fn new(settings: ConnectSettings) -> ConnectionStates {
        ConnectionStates {
            settings,
            connections: BTreeMap::new(),
            node_by_channel: HashMap::default(),
            last_connection_number: 0,
            finalized: FinalizedFeatures { epoch: -1, transaction_version: 0 },
        }
    }

    pub(super) fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    /// Adds a node unless its id is known.
    pub(super) fn add(&mut self, id: i32, host: &Arc<str>, port: u16) {
        if let Entry::Vacant(entry) = self.connections.entry(id) {
            self.last_connection_number = self.last_connection_number.wrapping_add(1);
            entry.insert(NodeConnection::new(id, host.clone(), port, self.last_connection_number));
        }
    }

    /// Removes a node, whose channel is closed.
    pub(super) fn remove(&mut self, id: i32) -> Option<NodeConnection> {
        self.connections.remove(&id)
    }

    pub(super) fn get(&self, id: i32) -> Option<&NodeConnection> {
        self.connections.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: i32) -> Option<&mut NodeConnection> {
        self.connections.get_mut(&id)
    }

    /// Returns the connections in the order of their node ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &NodeConnection> {
        self.connections.values()
    }

    pub(super) fn node_ids(&self) -> Vec<i32> {
        self.connections.keys().copied().collect()
    }

    /// Returns the connection that has this channel.
    pub(super) fn by_channel(&mut self, channel: ChannelKey) -> Option<&mut NodeConnection> {
        let node = self.node_by_channel.get(&channel)?;
        self.connections.get_mut(node)
    }

    /// Returns the first connection for which `matches` returns true.
    pub(super) fn find(
        &mut self,
        matches: impl Fn(&NodeConnection) -> bool,
    ) -> Option<&mut NodeConnection> {
        self.connections.values_mut().find(|connection| matches(connection))
    }

    /// Moves a node to `Connecting` over a new channel.
    pub(super) fn connecting(&mut self, id: i32, channel: ChannelKey, now: Tick, random: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.connecting(channel, &self.settings, now, random);
            self.node_by_channel.insert(channel, id);
        }
    }

    /// Moves a node to `Disconnected` with a backoff. Returns what its connection was.
    pub(super) fn disconnected(&mut self, id: i32, now: Tick, random: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.disconnected(&self.settings, now, random);
        }
    }

    /// Forgets a channel that is closed. Returns the node that it belonged to.
    pub(super) fn remove_channel(&mut self, channel: ChannelKey) -> Option<i32> {
        self.node_by_channel.remove(&channel)
    }

    /// Returns the number of requests in flight on all connections.
    pub(super) fn in_flight_count(&self) -> usize {
        self.iter().map(|connection| connection.in_flight.len()).sum()
    }

    /// Returns whether a broker accepts the client's credentials.
    pub(super) fn is_any_authenticated(&self) -> bool {
        self.iter().any(|connection| {
            connection.is_ready() || connection.authentication.reauthenticating_since.is_some()
        })
    }

    /// Returns when `id` may become ready by time alone; `None` if it waits for an event.
    ///
    /// `can_send` returns whether a channel takes a frame.
    pub(super) fn earliest_ready_at(
        &self,
        id: i32,
        now: Tick,
        can_send: impl Fn(ChannelKey) -> bool,
    ) -> Option<Tick> {
        let connection = self.connections.get(&id)?;
        match connection.state {
            ConnectionState::Disconnected { retry_at } => Some(retry_at),
            ConnectionState::Ready { .. } if connection.throttle.is_active(now) => {
                Some(connection.throttle.until)
            }
            // `ready` starts the reauthentication, so the caller must not wait for an event.
            ConnectionState::Ready { channel }
                if connection.is_reauthentication_due(now) && can_send(channel) =>
            {
                Some(now)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::messages::FinalizedFeatureKey;

    use super::*;
    use std::time::Duration;

    use crate::config::{AddressFamily, ClientDnsLookup};

    fn connection_states() -> ConnectionStates {
        let mut states = ConnectionStates::new(ConnectSettings {
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_millis(1000),
            setup_timeout: Duration::from_secs(10),
            setup_timeout_max: Duration::from_secs(30),
            dns_lookup: ClientDnsLookup::UseAllDnsIps,
            address_family: AddressFamily::Any,
        });
        states.add(1, &"a".into(), 9092);
        states.add(2, &"b".into(), 9092);
        states
    }

    #[test]
    fn connection_is_found_by_its_channel_until_the_channel_is_removed() {
        let mut states = connection_states();
        states.connecting(2, 7, Tick(0), 0);
        assert_eq!(states.by_channel(7).map(|c| c.id), Some(2));
        assert!(states.get(2).unwrap().is_connecting() && !states.is_any_authenticated());
        assert_eq!(states.remove_channel(7), Some(2));
        assert!(states.by_channel(7).is_none());
        states.disconnected(2, Tick(0), 0);
        assert!(!states.get(2).unwrap().is_connecting());
    }

    #[test]
    fn node_that_returns_with_its_id_gets_another_connection_number() {
        let mut states = connection_states();
        let before = states.get(1).unwrap().connection_number;
        states.add(1, &"elsewhere".into(), 9092);
        assert_eq!(&*states.get(1).unwrap().host, "a", "the id is known");
        states.remove(1);
        states.add(1, &"elsewhere".into(), 9092);
        assert_ne!(states.get(1).unwrap().connection_number, before);
    }

    #[test]
    fn backoff_and_throttle_end_by_time_and_a_connection_in_setup_by_an_event() {
        let mut states = connection_states();
        let at = |states: &ConnectionStates, id| states.earliest_ready_at(id, Tick(5), |_| true);
        assert_eq!(at(&states, 1), Some(Tick(0)));
        states.connecting(1, 7, Tick(0), 0);
        assert_eq!((at(&states, 1), at(&states, 3)), (None, None));
        let connection = states.get_mut(1).unwrap();
        connection.ready(7);
        assert_eq!(at(&states, 1), None, "it is ready, so it waits for nothing");
        states.get_mut(1).unwrap().throttle.extend(Duration::from_nanos(10), Tick(5));
        assert_eq!(at(&states, 1), Some(Tick(15)));
    }

    #[test]
    fn older_features_count_only_after_a_return_to_the_bootstrap_servers() {
        let response = |epoch, levels: &[i16]| ApiVersionsResponse {
            finalized_features_epoch: epoch,
            finalized_features: (levels.iter())
                .map(|level| FinalizedFeatureKey {
                    name: "transaction.version".into(),
                    max_version_level: *level,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let mut finalized = FinalizedFeatures { epoch: -1, transaction_version: 0 };
        finalized.update(&response(7, &[2]));
        finalized.update(&response(6, &[1]));
        assert_eq!(finalized.transaction_version, 2, "the broker has not learned of the new level");
        finalized.forget_epoch();
        assert_eq!(finalized.transaction_version, 2, "until a broker responds");
        finalized.update(&response(-1, &[]));
        assert_eq!(finalized.transaction_version, 0, "the other cluster has no features");
    }
}
