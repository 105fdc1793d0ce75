//! Sets up connections: preparation, name resolution, TCP and TLS. ApiVersions and SASL come next.

use std::time::Duration;

use super::NetworkClient;
use super::connection_states::ConnectionState;
use super::disconnect::DisconnectKind;
use super::responses::INITIAL_API_VERSIONS_VERSION;
use crate::metrics::Sensor;
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
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        b.last_connect_attempt = now;
        if !std::mem::take(&mut b.prepared) {
            b.state = ConnectionState::Preparing { deadline: now.after(JOB_TIMEOUT) };
            if self.prepare_connection(node, true) {
                return;
            }
        }
        let Some(b) = self.connection_states.get_mut(&node) else {
            return;
        };
        let Some(address) = b.next_address() else {
            b.state = ConnectionState::Resolving { deadline: now.after(JOB_TIMEOUT) };
            let (host, port) = (b.host.to_string(), b.port);
            tracing::debug!(broker = node, host, port, "resolving the host name");
            let key = u64::from(b.generation);
            self.selector.start_job(Job::Resolve { key, host, port });
            return;
        };
        tracing::debug!(broker = node, %address, "connecting");
        let tls =
            match self.security.tls.as_ref().map(|tls| tls.create_session(&b.host)).transpose() {
                Ok(tls) => tls,
                Err(reason) => {
                    let kind = DisconnectKind::AuthenticationFailed;
                    return self.fail_connection_with_kind(node, &reason, kind, now);
                }
            };
        match self.selector.connect(address, tls, now) {
            Ok(channel) => {
                b.connecting(channel, &self.settings.connect, now, random);
                self.node_by_channel.insert(channel, node);
            }
            Err(e) => {
                b.disconnected(&self.settings.connect, now, random);
                self.health.failed(&b.name(), &format!("{address}: {e}"));
            }
        }
    }

    /// Handles a channel that has connected and finished its TLS handshake.
    pub(super) fn handle_connection(&mut self, key: ChannelKey, now: Tick) {
        let Some(b) = self.connection_by_channel(key) else { return };
        let node = b.id;
        if let ConnectionState::Connecting { deadline, .. } = b.state {
            if self.security.sasl.is_some() {
                return self.begin_authentication(node, now);
            }
            if self.security.tls.is_some() {
                // Without SASL, a TLS client certificate is all the authentication there is.
                let values = [(Sensor::Authentication, 1.0), (Sensor::AuthenticationNoReauth, 1.0)];
                self.counters.sensors.record(&values, now);
            }
            let Some(b) = self.connection_states.get_mut(&node) else { return };
            b.state = ConnectionState::CheckingApiVersions { channel: key, deadline };
            self.send_api_versions_request(node, INITIAL_API_VERSIONS_VERSION, now);
        }
    }

    /// Handles the result of a name resolution or a preparation.
    pub(super) fn handle_job_result(&mut self, job_result: JobResult, now: Tick) {
        let (key, result) = match job_result {
            JobResult::Resolved { key, result } => (key, result),
            JobResult::Prepared { key, result } => return self.handle_prepared(key, result, now),
        };
        let random = self.env.random();
        // The node may have been removed, or may have got another address since the job started.
        // Then no node has this generation, and the result is ignored.
        let Some(b) = self.connection_states.values_mut().find(|b| u64::from(b.generation) == key)
        else {
            return;
        };
        let node = b.id;
        if !matches!(b.state, ConnectionState::Resolving { .. }) {
            return;
        }
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                b.set_addresses(addresses);
                b.prepared = true;
                self.connect(node, now);
            }
            other => {
                let cause = other.map_or_else(|e| e.to_string(), |_| "it has no address".into());
                let reason = format!("the host name {} cannot be resolved: {cause}", b.host);
                b.disconnected(&self.settings.connect, now, random);
                self.health.failed(&b.name(), &reason);
                tracing::warn!(broker = node, "{reason}");
            }
        }
    }
}
