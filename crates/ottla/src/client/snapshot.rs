//! The connections of a [`Snapshot`](crate::Snapshot), and what a partition waits for at its
//! leader's broker.

use std::time::Duration;

use super::node_connection::{ConnectionState, NodeConnection};
use super::{NetworkClient, SendBlocker};
use crate::network::io::Io;
use crate::snapshot::{BrokerSnapshot, BrokerState, QueueState};
use crate::time::Tick;

impl<I: Io> NetworkClient<I> {
    /// Returns all connections in the order of their node ids, the bootstrap servers first.
    pub(crate) fn broker_snapshots(&self, now: Tick) -> Vec<BrokerSnapshot> {
        self.connections.iter().map(|connection| broker_snapshot(connection, now)).collect()
    }

    /// Returns what a batch that could be sent to `node` waits for.
    pub(crate) fn ready_batch_state(&self, node: i32, now: Tick) -> QueueState {
        let Some(connection) = self.connections.get(node) else {
            return QueueState::BrokerNotReady;
        };
        match self.send_blocker(connection, now) {
            None => QueueState::Ready,
            Some(SendBlocker::NotReady) => QueueState::BrokerNotReady,
            Some(SendBlocker::Throttled) => {
                QueueState::Throttled(connection.throttle.until.since(now))
            }
            Some(SendBlocker::Busy) => QueueState::BrokerBusy,
        }
    }
}

fn broker_snapshot(connection: &NodeConnection, now: Tick) -> BrokerSnapshot {
    let state = match connection.state {
        ConnectionState::Disconnected { retry_at } => {
            BrokerState::Disconnected(retry_at.since(now))
        }
        ConnectionState::Preparing { .. } => BrokerState::Preparing,
        ConnectionState::Resolving { .. } => BrokerState::Resolving,
        ConnectionState::Connecting { .. } => BrokerState::Connecting,
        ConnectionState::Authenticating { .. } => BrokerState::Authenticating,
        ConnectionState::CheckingApiVersions { .. } => BrokerState::CheckingApiVersions,
        ConnectionState::Ready { .. } => BrokerState::Ready,
    };
    let throttle = connection.throttle;
    BrokerSnapshot {
        id: Some(connection.id).filter(|id| *id >= 0),
        host: connection.host.to_string(),
        port: connection.port,
        state,
        requests_in_flight: connection.in_flight.len(),
        oldest_request_age: connection.in_flight.oldest().age(now),
        last_round_trip: connection.report.last_round_trip,
        throttle_left: if throttle.is_active(now) {
            throttle.until.since(now)
        } else {
            Duration::ZERO
        },
        last_error: connection.report.last_error.clone(),
    }
}
