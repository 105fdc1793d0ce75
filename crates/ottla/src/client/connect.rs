//! Sets up connections: preparation, name resolution, TCP and TLS. ApiVersions and SASL come next.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::NetworkClient;
use super::addresses::allowed_addresses;
use super::api_versions::INITIAL_API_VERSIONS_VERSION;
use super::disconnect::DisconnectKind;
use super::node_connection::{ConnectionState, NodeConnection};
use crate::network::io::{ChannelKey, Io, Job, JobResult};
use crate::time::Tick;

/// How long a worker thread may take to resolve a name, read files or fetch a token.
const JOB_TIMEOUT: Duration = Duration::from_secs(60);

impl<I: Io> NetworkClient<I> {
    /// Takes the next step from `Disconnected` to `Connecting`.
    ///
    /// A preparation and a name resolution run on worker threads. When one completes, this
    /// function is called again.
    pub(super) fn connect(&mut self, node: i32, now: Tick) {
        let random = self.env.random();
        let Some(connection) = self.connections.get_mut(node) else {
            return;
        };
        connection.begin_attempt(now);
        if !std::mem::take(&mut connection.authentication.prepared) {
            connection.state = ConnectionState::Preparing { deadline: now.after(JOB_TIMEOUT) };
            if self.prepare_connection(node, true) {
                return;
            }
        }
        let Some(connection) = self.connections.get_mut(node) else {
            return;
        };
        let Some(address) = connection.next_address() else {
            connection.state = ConnectionState::Resolving { deadline: now.after(JOB_TIMEOUT) };
            let (host, port) = (connection.host.to_string(), connection.port);
            tracing::debug!(broker = node, host, port, "resolving the host name");
            let key = u64::from(connection.connection_number);
            self.selector.start_job(Job::Resolve { key, host, port });
            return;
        };
        tracing::debug!(broker = node, %address, "connecting");
        let tls = match self.authenticator.create_tls_session(&connection.host) {
            Ok(tls) => tls,
            Err(reason) => {
                let kind = DisconnectKind::AuthenticationFailed;
                return self.fail_connection_with_kind(node, &reason, kind, now);
            }
        };
        match self.selector.connect(address, tls, now) {
            Ok(channel) => {
                self.connections.connecting(node, channel, now, random);
            }
            Err(e) => {
                self.fail_connect(node, &format!("{address}: {e}"), random, now);
            }
        }
    }

    /// Handles a channel that has connected and finished its TLS handshake.
    pub(super) fn handle_connection(&mut self, key: ChannelKey, now: Tick) {
        let Some(connection) = self.connections.by_channel(key) else { return };
        let node = connection.id;
        if let ConnectionState::Connecting { deadline, .. } = connection.state {
            if self.authenticator.uses_sasl() {
                return self.begin_authentication(node, now);
            }
            if self.authenticator.uses_tls() {
                self.observer.authenticated_by_tls(now);
            }
            let Some(connection) = self.connections.get_mut(node) else { return };
            connection.state = ConnectionState::CheckingApiVersions { channel: key, deadline };
            self.send_api_versions_request(node, INITIAL_API_VERSIONS_VERSION, now);
        }
    }

    /// Handles the result of a name resolution or a preparation.
    pub(super) fn handle_job_result(&mut self, job_result: JobResult, now: Tick) {
        match job_result {
            JobResult::Resolved { key, result } => self.handle_resolved(key, result, now),
            JobResult::CanonicalNames { key, names } => {
                let Some(connection) = self.find_resolving(key) else { return };
                let node = connection.id;
                // Without addresses, the next step resolves the canonical name.
                connection.set_addresses(Vec::new());
                connection.authentication.prepared = true;
                self.use_canonical_names(node, names);
                self.connect(node, now);
            }
            JobResult::Prepared { key, result } => self.handle_prepared(key, result, now),
        }
    }

    /// Returns the connection that waits for this job of the resolver.
    ///
    /// The node may have been removed, or may have got a new address since the job started. Then
    /// no node has this connection number, and the result is ignored.
    fn find_resolving(&mut self, key: u64) -> Option<&mut NodeConnection> {
        let found = self.connections.find(|c| u64::from(c.connection_number) == key);
        found.filter(|c| matches!(c.state, ConnectionState::Resolving { .. }))
    }

    fn handle_resolved(&mut self, key: u64, result: io::Result<Vec<SocketAddr>>, now: Tick) {
        let random = self.env.random();
        let family = self.connections.settings().address_family;
        let Some(node) = self.find_resolving(key).map(|connection| connection.id) else { return };
        let Some(connection) = self.connections.get_mut(node) else { return };
        match allowed_addresses(result, family) {
            Ok(addresses) if self.bootstrap.is_alias(node) => {
                self.selector.start_job(Job::LookUpNames { key, addresses });
            }
            Ok(addresses) => {
                connection.set_addresses(addresses);
                connection.authentication.prepared = true;
                self.connect(node, now);
            }
            Err(cause) => {
                let reason =
                    format!("the host name {} cannot be resolved: {cause}", connection.host);
                self.observer.not_resolved(node, &reason, now);
                self.fail_connect(node, &reason, random, now);
            }
        }
    }

    /// Handles an attempt that failed before there was a connection.
    ///
    /// It requests metadata, as Java's `initiateConnect` does: a broker whose name is gone may be
    /// removed, and its partitions have new leaders.
    fn fail_connect(&mut self, node: i32, reason: &str, random: u64, now: Tick) {
        if let Some(connection) = self.connections.get(node) {
            self.observer.health.failed(&connection.name(), reason);
        }
        if let Some(connection) = self.connections.get_mut(node) {
            connection.clear_misconfigured_attempts();
        }
        self.connections.disconnected(node, now, random);
        self.metadata.request_update(now);
    }
}
