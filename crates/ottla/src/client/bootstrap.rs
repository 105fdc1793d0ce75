//! The bootstrap servers: a client's first nodes, used again when no broker is reachable.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::NetworkClient;
use super::node_connection::NodeConnection;
use crate::config::{ClientDnsLookup, ClientSettings};
use crate::network::io::Io;
use crate::time::{Tick, backoff};

/// The backoff between two rebootstraps: the first one, and its maximum.
const MIN_REBOOTSTRAP_BACKOFF: Duration = Duration::from_secs(1);
const MAX_REBOOTSTRAP_BACKOFF: Duration = Duration::from_secs(60);

/// The failed attempts in a row after which a broker counts as unreachable.
const UNREACHABLE_FAILED_ATTEMPTS: u32 = 3;

/// Why the client returns to the bootstrap servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RebootstrapCause {
    /// No metadata has come for the trigger's time.
    MetadataOverdue,
    /// No broker of the cluster can be connected.
    Unreachable,
    /// The broker's ApiVersions response has REBOOTSTRAP_REQUIRED: it is another one than expected.
    WrongBroker(i32),
    /// The broker's Metadata response has REBOOTSTRAP_REQUIRED.
    Requested(i32),
}

impl RebootstrapCause {
    /// Returns the value of the event's field `cause` (`docs/EVENTS.md`).
    fn name(self) -> &'static str {
        match self {
            RebootstrapCause::MetadataOverdue => "metadata_overdue",
            RebootstrapCause::Unreachable => "unreachable",
            RebootstrapCause::WrongBroker(_) => "wrong_broker",
            RebootstrapCause::Requested(_) => "requested",
        }
    }
}

impl fmt::Display for RebootstrapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebootstrapCause::MetadataOverdue => {
                f.write_str("no broker sent metadata for metadata.recovery.rebootstrap.trigger.ms")
            }
            RebootstrapCause::Unreachable => {
                f.write_str("no broker of the cluster can be connected")
            }
            RebootstrapCause::WrongBroker(node) => write!(
                f,
                "broker {node} responds REBOOTSTRAP_REQUIRED: its address belongs to another \
                 broker or cluster now"
            ),
            RebootstrapCause::Requested(node) => {
                write!(f, "broker {node} responds REBOOTSTRAP_REQUIRED")
            }
        }
    }
}

/// When the client returns to the bootstrap servers.
///
/// Rebootstraps back off. Otherwise bootstrap servers that name unreachable brokers (a wrong
/// `advertised.listeners`) would make the client rebootstrap in a tight loop.
#[derive(Debug)]
pub(super) struct Bootstrap {
    /// `metadata.recovery.rebootstrap.trigger.ms`; `None` with `metadata.recovery.strategy=none`.
    trigger: Option<Duration>,
    first_backoff: Duration,
    /// Rebootstraps since a broker of the cluster was connected.
    attempts: u32,
    not_before: Tick,
    /// The bootstrap servers whose canonical names are not known yet.
    aliases: BTreeSet<i32>,
}

impl Bootstrap {
    pub(super) fn new(settings: &ClientSettings) -> Bootstrap {
        let first_backoff = settings.connect.backoff_max.max(MIN_REBOOTSTRAP_BACKOFF);
        Bootstrap {
            trigger: settings.rebootstrap_trigger,
            first_backoff,
            attempts: 0,
            not_before: Tick(0),
            aliases: BTreeSet::new(),
        }
    }

    /// Returns whether the node's name has to be replaced by canonical names.
    pub(super) fn is_alias(&self, node: i32) -> bool {
        self.aliases.contains(&node)
    }

    /// Resets the backoff: a broker of the cluster is connected.
    pub(super) fn broker_connected(&mut self) {
        (self.attempts, self.not_before) = (0, Tick(0));
    }

    /// Returns whether no metadata has come for the trigger's time since it was requested.
    fn is_metadata_overdue(&self, requested_at: Option<Tick>, now: Tick) -> bool {
        let overdue_at = self.trigger.and_then(|trigger| Some(requested_at?.after(trigger)));
        overdue_at.is_some_and(|at| at <= now)
    }

    /// Begins a rebootstrap. Returns false if that is disabled or backs off.
    fn begin(&mut self, now: Tick, random: u64) -> bool {
        if self.trigger.is_none() || self.not_before > now {
            return false;
        }
        let wait = backoff(self.first_backoff, MAX_REBOOTSTRAP_BACKOFF, self.attempts, random);
        self.attempts = self.attempts.saturating_add(1);
        self.not_before = now.after(wait);
        true
    }
}

impl<I: Io> NetworkClient<I> {
    /// Adds the bootstrap servers as nodes with the ids -1, -2, and so on.
    pub(super) fn add_bootstrap_servers(&mut self) {
        for (i, (host, port)) in self.settings.bootstrap_servers.iter().enumerate() {
            let node = -1 - i as i32;
            self.connections.add(node, &host.as_str().into(), *port);
            if self.settings.connect.dns_lookup
                == ClientDnsLookup::ResolveCanonicalBootstrapServersOnly
            {
                self.bootstrap.aliases.insert(node);
            }
        }
    }

    /// Replaces a bootstrap server by the canonical names of its addresses, a server each.
    pub(super) fn use_canonical_names(&mut self, node: i32, names: Vec<String>) {
        self.bootstrap.aliases.remove(&node);
        let Some(connection) = self.connections.get(node) else { return };
        let (alias, port) = (connection.name(), connection.port);
        let others = self.connections.iter().filter(|c| c.id < 0 && c.id != node && c.port == port);
        let known: Vec<Arc<str>> = others.map(|c| c.host.clone()).collect();
        let mut new: Vec<String> = Vec::new();
        for name in &names {
            if !known.iter().any(|k| **k == **name) && !new.contains(name) {
                new.push(name.clone());
            }
        }
        let mut new = new.into_iter();
        let Some(first) = new.next() else {
            // Other servers have all of its names. Two nodes with one name would have one state in
            // the producer's health.
            if !names.is_empty()
                && let Some(twin) = self.connections.remove(node)
            {
                self.observer.node_removed(&twin);
            }
            return;
        };
        tracing::debug!(alias, name = first, "canonical name of a bootstrap server");
        if let Some(connection) = self.connections.get_mut(node) {
            connection.host = first.into();
        }
        // Failures were reported under the alias, which has no connection any more.
        self.observer.health.closed(&alias);
        for name in new {
            let lowest = self.connections.iter().map(|c| c.id).min().unwrap_or(node);
            self.connections.add(lowest.min(node) - 1, &name.into(), port);
        }
    }

    /// Bootstraps again if metadata is overdue by the trigger's time or no broker is reachable.
    pub(super) fn maybe_rebootstrap(&mut self, now: Tick) {
        let requested_at = self.metadata.update_requested_at;
        if self.bootstrap.is_metadata_overdue(requested_at, now) {
            self.rebootstrap(RebootstrapCause::MetadataOverdue, now);
        } else if self.is_cluster_unreachable(now) {
            self.rebootstrap(RebootstrapCause::Unreachable, now);
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
            self.connections.iter().filter(|connection| connection.id >= 0).peekable();
        brokers.peek().is_some() && brokers.all(is_unreachable)
    }

    /// Forgets all brokers and adds the bootstrap servers again (KIP-899, KIP-1102).
    ///
    /// Does nothing if rebootstrapping is disabled or backs off, or before the first metadata.
    pub(super) fn rebootstrap(&mut self, cause: RebootstrapCause, now: Tick) {
        let has_cluster = !self.metadata.cluster().nodes.is_empty();
        if !has_cluster || !self.bootstrap.begin(now, self.env.random()) {
            return;
        }
        tracing::warn!(
            name: "ottla.rebootstrap",
            target: "ottla::connection",
            cause = cause.name(),
            "{cause}; returning to the bootstrap servers"
        );
        for node in self.connections.node_ids() {
            self.close_unneeded(node, "the client returns to the bootstrap servers", now);
            if let Some(connection) = self.connections.remove(node) {
                self.observer.node_removed(&connection);
            }
        }
        self.metadata.forget_nodes(now);
        self.connections.finalized.forget_epoch();
        self.add_bootstrap_servers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn bootstrap(trigger: Option<Duration>) -> Bootstrap {
        Bootstrap {
            trigger,
            first_backoff: MIN_REBOOTSTRAP_BACKOFF,
            attempts: 0,
            not_before: Tick(0),
            aliases: BTreeSet::new(),
        }
    }

    #[test]
    fn rebootstraps_back_off_until_a_broker_is_connected() {
        let trigger = Some(Duration::from_secs(300));
        let mut bootstrap = bootstrap(trigger);
        assert!(bootstrap.begin(Tick(0), u64::MAX / 2));
        assert!(!bootstrap.begin(Tick(SECOND / 2), 0));
        assert!(bootstrap.begin(Tick(2 * SECOND), u64::MAX / 2));
        assert!(!bootstrap.begin(Tick(3 * SECOND), 0), "the second backoff is longer");
        bootstrap.broker_connected();
        assert!(bootstrap.begin(Tick(3 * SECOND), 0));
    }

    #[test]
    fn metadata_is_overdue_after_the_trigger_and_never_without_one() {
        let trigger = Some(Duration::from_secs(300));
        let (bootstrap, mut disabled) = (bootstrap(trigger), bootstrap(None));
        assert!(!bootstrap.is_metadata_overdue(None, Tick::NEVER));
        assert!(!bootstrap.is_metadata_overdue(Some(Tick(5)), Tick(300 * SECOND)));
        assert!(bootstrap.is_metadata_overdue(Some(Tick(5)), Tick(300 * SECOND + 5)));
        assert!(!disabled.is_metadata_overdue(Some(Tick(0)), Tick::NEVER));
        assert!(!disabled.begin(Tick(0), 0));
    }
}
