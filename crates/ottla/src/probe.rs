//! One connection after the other, step by step, for `ottla doctor`.
//!
//! A [`Probe`] takes the same steps as the client, with the same parts (selector, TLS, SASL), but
//! one at a time and blocking, so that its caller can time each one and say which one failed. It
//! has no producer and no thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::{decode_response, encode_request};
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, SaslAuthenticateRequest};
use ottla_protocol::{ApiKey, ErrorCode, Request};

use crate::client::authenticator::{
    AuthenticationStep, Authenticator, ConnectionSecurity, ExchangeError,
};
use crate::collections::HashMap;
use crate::config::ProducerConfig;
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::metrics::Counters;
use crate::network::channel::DisconnectReason;
use crate::network::io::PrepareError;
use crate::network::io::real::{RealEnv, RealIo};
use crate::network::selector::{PollResult, Selector};
pub use crate::network::tls_details::{CertificateDetails, TlsDetails};
use crate::time::Tick;

/// The longest time that a step may take. A person waits for the result.
const MAX_STEP_TIME: Duration = Duration::from_secs(10);

/// The ApiVersions version that the probe tries first.
const API_VERSIONS_VERSION: i16 = 4;

/// Connects to brokers step by step.
pub struct Probe {
    env: Arc<dyn Env>,
    selector: Selector<RealIo>,
    authenticator: Authenticator,
    client_id: String,
    setup_timeout: Duration,
    request_timeout: Duration,
    correlation_id: i32,
    longest_throttle: Duration,
    events: PollResult,
}

/// A connection of a [`Probe`].
#[derive(Debug)]
pub struct ProbeConnection {
    channel: u64,
    /// The lowest and highest version of each API; empty before [`Probe::api_versions`].
    versions: HashMap<ApiKey, (i16, i16)>,
    /// Why the connection ended before the step that finds it out.
    end_reason: Option<DisconnectReason>,
}

/// A SASL exchange that has succeeded.
#[derive(Debug, Clone)]
pub struct SaslDetails {
    /// The mechanism.
    pub mechanism: String,
    /// How long the session lasts, if it expires (KIP-368).
    pub session_lifetime: Option<Duration>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl Probe {
    /// Creates a probe, and reads the key and trust stores.
    ///
    /// # Errors
    /// A store is not usable, or the operating system provides no poll.
    pub fn new(config: &ProducerConfig) -> Result<Probe, Error> {
        let env: Arc<dyn Env> = Arc::new(RealEnv::new());
        let io = RealIo::new(config.network)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot create a poll: {e}")))?;
        let security = ConnectionSecurity::new(&config.security, None, &env)?;
        let max_bytes = config.network.receive_message_max_bytes;
        Ok(Probe {
            selector: Selector::new(io, max_bytes, None, Arc::new(Counters::default())),
            authenticator: Authenticator::new(security, env.clone()),
            env,
            client_id: config.client.client_id.clone(),
            setup_timeout: config.client.connect.setup_timeout.min(MAX_STEP_TIME),
            request_timeout: config.client.request_timeout.min(MAX_STEP_TIME),
            correlation_id: 0,
            longest_throttle: Duration::ZERO,
            events: PollResult::default(),
        })
    }

    /// Returns the time since an arbitrary start.
    pub fn now(&self) -> Duration {
        self.env.now().since(Tick(0))
    }

    /// Returns the wall clock in milliseconds since 1970.
    pub fn wall_clock_ms(&self) -> i64 {
        self.env.wall_clock_ms()
    }

    /// Reads changed certificate files and fetches a token, as the client does before it connects.
    ///
    /// # Errors
    /// No token could be fetched.
    pub fn prepare(&self) -> Result<(), String> {
        let work = self.authenticator.preparation(true);
        work.map_or(Ok(()), |work| work()).map_err(|e| e.reason)
    }

    /// Connects to an address; TLS comes next. `host` is the name that the certificate must have.
    ///
    /// # Errors
    /// The operating system's reason, or that the connection was not established in time.
    pub fn connect(&mut self, host: &str, address: SocketAddr) -> Result<ProbeConnection, String> {
        let tls = self.authenticator.create_tls_session(host)?;
        let now = self.env.now();
        let deadline = now.after(self.setup_timeout);
        let channel = self.selector.connect(address, tls, now).map_err(|e| e.to_string())?;
        let mut connection =
            ProbeConnection { channel, versions: HashMap::default(), end_reason: None };
        while !self.selector.is_connected(channel) {
            self.poll(deadline)
                .map_err(|()| timeout("no connection", self.setup_timeout))
                .inspect_err(|_| self.selector.close(channel, deadline))?;
            match self.take_end(channel) {
                Some(DisconnectReason::Io(e)) => return Err(e.to_string()),
                // TCP has connected; the next step reports what came after it.
                Some(reason) => {
                    connection.end_reason = Some(reason);
                    break;
                }
                None => {}
            }
        }
        Ok(connection)
    }

    /// Finishes the TLS handshake. Returns `None` without TLS.
    ///
    /// # Errors
    /// One side rejected the other, or the other side does not speak TLS.
    pub fn finish_tls(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<Option<TlsDetails>, String> {
        if !self.authenticator.uses_tls() {
            return Ok(None);
        }
        let deadline = self.env.now().after(self.setup_timeout);
        loop {
            if let Some(reason) = connection.end_reason.take() {
                return Err(reason.to_string());
            }
            if self.selector.can_send(connection.channel) {
                return Ok(self.selector.tls_details(connection.channel));
            }
            self.poll(deadline).map_err(|()| {
                let waited = timeout("no response to the TLS handshake", self.setup_timeout);
                format!("{waited}; if this is a plaintext port, set security.protocol to match")
            })?;
            connection.end_reason = self.take_end(connection.channel);
        }
    }

    /// Authenticates with SASL. Returns `None` without SASL.
    ///
    /// # Errors
    /// The broker rejected the credentials or the mechanism, or the exchange failed.
    pub fn authenticate(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<Option<SaslDetails>, String> {
        if !self.authenticator.uses_sasl() {
            return Ok(None);
        }
        let mechanism = self.authenticator.mechanism_name().to_owned();
        let versions: ApiVersionsResponse =
            self.call_at(connection, &ApiVersionsRequest::default(), 0)?;
        connection.set_versions(&versions);
        let exchanged = self.exchange(connection);
        let session_lifetime = exchanged.map_err(|e| format!("{mechanism}: {}", e.error.reason))?;
        Ok(Some(SaslDetails { mechanism, session_lifetime }))
    }

    /// Runs the exchange. Returns how long the session lasts, if it expires.
    fn exchange(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<Option<Duration>, ExchangeError> {
        let failed = |reason| ExchangeError::from(PrepareError { reason, fatal: true });
        let version = |connection: &ProbeConnection, api: ApiKey, min, max| {
            connection.version(api, min, max).ok_or_else(|| {
                failed(format!(
                    "the broker does not support {}; if this port does not use SASL, set \
                     security.protocol to match",
                    api.name()
                ))
            })
        };
        let handshake = version(connection, ApiKey::SASL_HANDSHAKE, 1, 1)?;
        let request = self.authenticator.handshake_request();
        let frame = self.request(connection, &request, handshake).map_err(failed)?;
        let (mut exchange, mut token) = self.authenticator.begin_exchange(&frame, handshake)?;
        let version = version(connection, ApiKey::SASL_AUTHENTICATE, 0, 2)?;
        loop {
            let auth_bytes = Bytes::from_owner(token);
            let request = SaslAuthenticateRequest { auth_bytes, ..Default::default() };
            let frame = self.request(connection, &request, version).map_err(failed)?;
            match self.authenticator.continue_exchange(&mut exchange, &frame, version)? {
                AuthenticationStep::SendToken(next) => token = next,
                AuthenticationStep::Compute(work) => {
                    work()?;
                    let computed = exchange.take_computed();
                    token = computed.ok_or_else(|| failed("no token was computed".to_owned()))?;
                }
                AuthenticationStep::Complete { lifetime } => return Ok(lifetime),
            }
        }
    }

    /// Requests the API versions and features of the broker.
    ///
    /// # Errors
    /// The other side is no Kafka broker, or not with these settings.
    pub fn api_versions(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<ApiVersionsResponse, String> {
        let request = ApiVersionsRequest {
            client_software_name: "ottla".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        let mut version = API_VERSIONS_VERSION;
        let response = loop {
            let frame = self.request(connection, &request, version)?;
            // A broker that does not support the version responds at version 0 (KIP-511).
            let unsupported =
                frame.get(4..6) == Some(&ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes());
            let decoded_at = if unsupported { 0 } else { version };
            let response: ApiVersionsResponse =
                decode_response::<ApiVersionsRequest>(&frame, decoded_at)
                    .map_err(|e| format!("cannot decode the response: {e}"))?;
            if !unsupported || version == 0 {
                break response;
            }
            version = 0;
        };
        let code = ErrorCode(response.error_code);
        if !code.is_none() {
            return Err(format!("{code}: {}", code.description()));
        }
        connection.set_versions(&response);
        Ok(response)
    }

    /// Sends a request and waits for its response, at the highest version up to `max_version` that
    /// the broker supports.
    ///
    /// # Errors
    /// The broker does not support the API, the connection ended, or there was no response in time.
    pub fn call<R: Request>(
        &mut self,
        connection: &mut ProbeConnection,
        request: &R,
        max_version: i16,
    ) -> Result<R::Response, String> {
        let api = R::KEY;
        let min = api.api().map_or(0, |api| api.min_version);
        let version = connection
            .version(api, min, max_version)
            .ok_or_else(|| format!("the broker does not support {}", api.name()))?;
        self.call_at(connection, request, version)
    }

    fn call_at<R: Request>(
        &mut self,
        connection: &mut ProbeConnection,
        request: &R,
        version: i16,
    ) -> Result<R::Response, String> {
        let frame = self.request(connection, request, version)?;
        decode_response::<R>(&frame, version)
            .map_err(|e| format!("cannot decode the response to {}: {e}", R::KEY.name()))
    }

    /// Sends a request and returns the frame of its response.
    fn request<R: Request>(
        &mut self,
        connection: &mut ProbeConnection,
        request: &R,
        version: i16,
    ) -> Result<Bytes, String> {
        let channel = connection.channel;
        self.correlation_id += 1;
        let id = self.correlation_id;
        // The frame may hold a password.
        let frame = encode_request(request, version, id, Some(&self.client_id))
            .map(|frame| Bytes::from_owner(zeroize::Zeroizing::new(frame)))
            .map_err(|e| format!("cannot encode the request: {e}"))?;
        let now = self.env.now();
        if let Some(reason) = connection.end_reason.take() {
            return Err(self.explain(R::KEY, &reason));
        }
        if !self.selector.can_send(channel) {
            return Err("the connection has ended".to_owned());
        }
        self.selector.send(channel, vec![frame], now);
        let deadline = now.after(self.request_timeout);
        loop {
            self.poll(deadline).map_err(|()| {
                timeout(&format!("no response to {}", R::KEY.name()), self.request_timeout)
            })?;
            if let Some(frame) = self.take_frame(channel) {
                let found = frame.get(..4).map(<[u8]>::to_vec);
                if found != Some(id.to_be_bytes().to_vec()) {
                    return Err("the response is not Kafka's; is this a Kafka broker?".to_owned());
                }
                return Ok(frame);
            }
            if let Some(reason) = self.take_end(channel) {
                return Err(self.explain(R::KEY, &reason));
            }
        }
    }

    /// Returns why a request got no response, with the setting that is probably wrong.
    fn explain(&self, api: ApiKey, reason: &DisconnectReason) -> String {
        let is_first = api == ApiKey::API_VERSIONS;
        let hint = match reason {
            DisconnectReason::Eof if is_first && !self.authenticator.uses_tls() => {
                " instead of responding; if this is a TLS port, set security.protocol to match"
            }
            DisconnectReason::Eof if !self.authenticator.uses_sasl() => {
                " instead of responding; if it requires SASL, set security.protocol and \
                 sasl.mechanism"
            }
            _ => "",
        };
        format!("{reason}{hint}")
    }

    /// Notes the throttle of a response, in milliseconds.
    pub fn add_throttle(&mut self, ms: i32) {
        let throttle = Duration::from_millis(u64::try_from(ms).unwrap_or_default());
        self.longest_throttle = self.longest_throttle.max(throttle);
    }

    /// Returns the longest throttle of all responses; zero if no quota was exceeded.
    pub fn longest_throttle(&self) -> Duration {
        self.longest_throttle
    }

    /// Closes a connection.
    pub fn close(&mut self, connection: &ProbeConnection) {
        self.selector.close(connection.channel, self.env.now());
    }

    /// Waits for events until the deadline.
    ///
    /// # Errors
    /// The deadline has passed, or the operating system's poll failed.
    fn poll(&mut self, deadline: Tick) -> Result<(), ()> {
        let now = self.env.now();
        if now >= deadline {
            return Err(());
        }
        let env = self.env.clone();
        self.events.connected.clear();
        self.events.completed_sends.clear();
        self.selector
            .poll(Some(deadline.since(now)), || env.now(), &mut self.events)
            .map_err(|_| ())
    }

    /// Returns why the channel has ended, if it has. Drops what is known of other channels.
    fn take_end(&mut self, channel: u64) -> Option<DisconnectReason> {
        let ends = std::mem::take(&mut self.events.disconnected);
        ends.into_iter().find(|(key, _)| *key == channel).map(|(_, reason)| reason)
    }

    fn take_frame(&mut self, channel: u64) -> Option<Bytes> {
        let frames = std::mem::take(&mut self.events.completed_receives);
        frames.into_iter().find(|(key, _)| *key == channel).map(|(_, frame)| frame)
    }
}

impl ProbeConnection {
    fn set_versions(&mut self, response: &ApiVersionsResponse) {
        let range = |k: &ottla_protocol::messages::ApiVersion| {
            (ApiKey(k.api_key), (k.min_version, k.max_version))
        };
        self.versions = response.api_keys.iter().map(range).collect();
    }

    /// Returns the highest version in `min..=max` that the broker supports.
    pub fn version(&self, api: ApiKey, min: i16, max: i16) -> Option<i16> {
        let (lowest, highest) = *self.versions.get(&api)?;
        let version = max.min(highest);
        (version >= min && version >= lowest).then_some(version)
    }
}

fn timeout(what: &str, limit: Duration) -> String {
    format!("{what} within {} ms", limit.as_millis())
}
