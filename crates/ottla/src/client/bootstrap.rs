//! The bootstrap servers: a client's first nodes, used again when no broker is reachable.

use std::time::Duration;

use super::NetworkClient;
use super::connection_states::NodeConnection;
use crate::network::io::Io;
use crate::time::{Tick, backoff};

/// The backoff between two rebootstraps: the first one, and its maximum.
const MIN_REBOOTSTRAP_BACKOFF: Duration = Duration::from_secs(1);
const MAX_REBOOTSTRAP_BACKOFF: Duration = Duration::from_secs(60);

/// The failed attempts in a row after which a broker counts as unreachable.
const UNREACHABLE_FAILED_ATTEMPTS: u32 = 3;

/// The backoff between rebootstraps. It resets when a broker of the cluster connects.
///
/// Without it, bootstrap servers that name unreachable brokers (a wrong `advertised.listeners`)
/// would make the client rebootstrap in a tight loop.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RebootstrapBackoff {
    attempts: u32,
    not_before: Tick,
}

impl<I: Io> NetworkClient<I> {
    /// Adds the bootstrap servers as nodes with the ids -1, -2, and so on.
    pub(super) fn bootstrap(&mut self) {
        for (i, (host, port)) in self.settings.bootstrap_servers.clone().iter().enumerate() {
            self.add_node(-1 - i as i32, &host.as_str().into(), *port);
        }
    }

    /// Bootstraps again if metadata is overdue by the trigger's time or no broker is reachable.
    pub(super) fn maybe_rebootstrap(&mut self, now: Tick) {
        let Some(trigger) = self.settings.rebootstrap_trigger else {
            return;
        };
        let no_metadata =
            self.metadata.update_requested_at.is_some_and(|since| since.after(trigger) <= now);
        if no_metadata || self.is_cluster_unreachable(now) {
            self.rebootstrap(now);
        }
    }

    /// Returns whether every broker of the cluster failed several times in a row and none is
    /// connecting.
    fn is_cluster_unreachable(&self, now: Tick) -> bool {
        let is_unreachable = |connection: &NodeConnection| {
            let backing_off = !(connection.is_ready()
                || connection.is_connecting()
                || connection.can_connect(now));
            backing_off && connection.failed_attempts() >= UNREACHABLE_FAILED_ATTEMPTS
        };
        // A bootstrap server (negative id) may still be connected, but takes no more requests.
        let mut brokers =
            self.connection_states.values().filter(|connection| connection.id >= 0).peekable();
        brokers.peek().is_some() && brokers.all(is_unreachable)
    }

    /// Forgets all brokers and adds the bootstrap servers again (KIP-899, KIP-1102).
    ///
    /// Does nothing if rebootstrapping is disabled or backs off, or before the first metadata.
    pub(super) fn rebootstrap(&mut self, now: Tick) {
        let has_cluster = !self.metadata.cluster.nodes.is_empty();
        if self.settings.rebootstrap_trigger.is_none()
            || !has_cluster
            || self.rebootstrap_backoff.not_before > now
        {
            return;
        }
        let first = self.settings.connect.backoff_max.max(MIN_REBOOTSTRAP_BACKOFF);
        let attempts = self.rebootstrap_backoff.attempts;
        let wait = backoff(first, MAX_REBOOTSTRAP_BACKOFF, attempts, self.env.random());
        self.rebootstrap_backoff = RebootstrapBackoff {
            attempts: attempts.saturating_add(1),
            not_before: now.after(wait),
        };
        tracing::warn!("no broker of the cluster responds; returning to the bootstrap servers");
        let nodes: Vec<i32> = self.connection_states.keys().copied().collect();
        for node in nodes {
            self.close_unneeded(node, "the client returns to the bootstrap servers", now);
            self.log_events.remove_node(node);
        }
        for connection in std::mem::take(&mut self.connection_states).values() {
            self.health.closed(&connection.name());
        }
        self.metadata.forget_nodes(now);
        self.metadata_update.updated = true;
        self.bootstrap();
    }
}
