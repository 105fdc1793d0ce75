//! One connection after the other, step by step, for `ottla doctor`.
//!
//! A [`Probe`] takes the same steps as the client, with the same parts (selector, TLS, SASL), but
//! one at a time and blocking, so that its caller can time each one and say which one failed. It
//! has no producer and no sender thread.

mod error;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::header::{decode_correlation_id, decode_response, encode_request};
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, SaslAuthenticateRequest};
use ottla_protocol::{ApiKey, ErrorCode, Request};

use crate::client::api_versions::{
    ApiVersionsResult, INITIAL_API_VERSIONS_VERSION, decode_api_versions,
};
use crate::client::authenticator::{
    AuthenticationStep, Authenticator, ConnectionSecurity, ExchangeError,
};
use crate::collections::HashMap;
use crate::config::ProducerConfig;
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::metrics::Counters;
use crate::network::channel::DisconnectReason;
use crate::network::io::real::{RealEnv, RealIo};
use crate::network::io::{ChannelKey, Job, JobResult};
use crate::network::selector::{PollResult, Selector};
pub use crate::network::tls_details::{CertificateDetails, TlsDetails};
use crate::time::Tick;
pub use error::ProbeError;

/// The longest time that a step may take. A person waits for the result.
const MAX_STEP_TIME: Duration = Duration::from_secs(10);

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
    /// Why channels have ended, until the step that finds it out.
    ended: HashMap<ChannelKey, DisconnectReason>,
}

/// A connection of a [`Probe`].
#[derive(Debug)]
pub struct ProbeConnection {
    channel: ChannelKey,
    host: String,
    address: SocketAddr,
    /// The lowest and highest version of each API; empty before [`Probe::api_versions`].
    versions: HashMap<ApiKey, (i16, i16)>,
    /// When the broker ends the SASL session (KIP-368).
    session_end: Tick,
    /// Why the probe has closed the connection.
    closed: Option<String>,
    /// Whether the connection ended while a request waited for its response.
    ended_at_request: bool,
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
        let security = ConnectionSecurity::new(&config.security, None, &env)
            .map_err(|e| config.use_written_names(e))?;
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
            ended: HashMap::default(),
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

    /// Connects to an address; TLS comes next. `host` is the name that the certificate must have.
    ///
    /// # Errors
    /// The operating system's reason, or that the connection was not established in time.
    pub fn connect(&mut self, host: &str, address: SocketAddr) -> Result<ProbeConnection, String> {
        let tls = self.authenticator.create_tls_session(host)?;
        let now = self.env.now();
        let deadline = now.after(self.setup_timeout);
        let channel = self.selector.connect(address, tls, now).map_err(|e| e.to_string())?;
        while !self.selector.is_connected(channel) {
            self.poll(deadline)
                .map_err(|()| timeout("no connection", self.setup_timeout))
                .inspect_err(|_| self.selector.close(channel, deadline))?;
            if let Some(DisconnectReason::Io(e)) = self.ended.get(&channel) {
                return Err(e.to_string());
            }
            if self.ended.contains_key(&channel) {
                // TCP has connected; the next step reports what came after it.
                break;
            }
        }
        Ok(ProbeConnection {
            channel,
            host: host.to_owned(),
            address,
            versions: HashMap::default(),
            session_end: Tick::NEVER,
            closed: None,
            ended_at_request: false,
        })
    }

    /// Returns whether the connection can still be used: neither side has closed it, and its SASL
    /// session has not expired.
    pub fn is_open(&mut self, connection: &ProbeConnection) -> bool {
        let now = self.env.now();
        // A poll that does not wait, to see what has happened since the last one.
        let _ = self.poll_for(Duration::ZERO);
        now < connection.session_end && self.selector.can_send(connection.channel)
    }

    /// Finishes the TLS handshake. Returns `None` without TLS.
    ///
    /// # Errors
    /// One side rejected the other, or the other side does not speak TLS.
    pub fn finish_tls(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<Option<TlsDetails>, ProbeError> {
        if !self.authenticator.uses_tls() {
            return Ok(None);
        }
        let deadline = self.env.now().after(self.setup_timeout);
        loop {
            if let Some(reason) = self.ended.remove(&connection.channel) {
                return Err((&reason).into());
            }
            if self.selector.can_send(connection.channel) {
                return Ok(self.selector.tls_details(connection.channel));
            }
            self.poll(deadline).map_err(|()| {
                let waited = timeout("no response to the TLS handshake", self.setup_timeout);
                ProbeError::new(
                    waited,
                    "if this is a plaintext port, set security.protocol to match",
                )
            })?;
        }
    }

    /// Authenticates with SASL. Returns `None` without SASL.
    ///
    /// # Errors
    /// There is no token, the broker rejected the credentials or the mechanism, or the exchange
    /// failed.
    pub fn authenticate(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<Option<SaslDetails>, ProbeError> {
        if !self.authenticator.uses_sasl() {
            return Ok(None);
        }
        let mechanism = self.authenticator.mechanism_name().to_owned();
        let named = |e: ProbeError| ProbeError::new(format!("{mechanism}: {}", e.reason), e.advice);
        self.fetch_token(connection.channel).map_err(named)?;
        let versions: ApiVersionsResponse =
            self.call_at(connection, &ApiVersionsRequest::default(), 0)?;
        connection.set_versions(&versions);
        let start = self.env.now();
        let session_lifetime = self.exchange(connection).map_err(named)?;
        if let Some(lifetime) = session_lifetime {
            connection.session_end = start.after(lifetime);
        }
        Ok(Some(SaslDetails { mechanism, session_lifetime }))
    }

    /// Fetches a token if the mechanism needs one and there is no valid one, as the client does
    /// before it connects.
    fn fetch_token(&mut self, key: ChannelKey) -> Result<(), ProbeError> {
        let Some(work) = self.authenticator.preparation(false) else { return Ok(()) };
        let deadline = self.env.now().after(MAX_STEP_TIME);
        // A token endpoint that does not respond blocks its thread for a long time.
        self.selector.start_job(Job::Prepare { key, work });
        loop {
            self.poll(deadline).map_err(|()| timeout("no token", MAX_STEP_TIME))?;
            for result in self.events.job_results.drain(..) {
                match result {
                    JobResult::Prepared { key: of, result } if of == key => {
                        return result.map_err(|e| e.reason.into());
                    }
                    // The late result of a connection that has been given up.
                    _ => {}
                }
            }
        }
    }

    /// Runs the exchange. Returns how long the session lasts, if it expires.
    fn exchange(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Result<Option<Duration>, ProbeError> {
        let version = |connection: &ProbeConnection, api: ApiKey, min, max| {
            connection.version(api, min, max).ok_or_else(|| {
                ProbeError::new(
                    format!("the broker does not support {}", api.name()),
                    "if this port does not use SASL, set security.protocol to match",
                )
            })
        };
        let handshake = version(connection, ApiKey::SASL_HANDSHAKE, 1, 1)?;
        let request = self.authenticator.handshake_request();
        let frame = self.request(connection, &request, handshake)?;
        let (mut exchange, mut token) = self.authenticator.begin_exchange(&frame, handshake)?;
        let version = version(connection, ApiKey::SASL_AUTHENTICATE, 0, 2)?;
        loop {
            let auth_bytes = Bytes::from_owner(token);
            let request = SaslAuthenticateRequest { auth_bytes, ..Default::default() };
            let frame = self.request(connection, &request, version)?;
            match self.authenticator.continue_exchange(&mut exchange, &frame, version)? {
                AuthenticationStep::SendToken(next) => token = next,
                AuthenticationStep::Compute(work) => {
                    work().map_err(ExchangeError::from)?;
                    let computed = exchange.take_computed();
                    token = computed.ok_or_else(|| "no token was computed".to_owned())?;
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
    ) -> Result<ApiVersionsResponse, ProbeError> {
        let request = ApiVersionsRequest {
            client_software_name: "ottla".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: -1,
            ..Default::default()
        };
        let mut version = INITIAL_API_VERSIONS_VERSION;
        let response = loop {
            let frame = self.request(connection, &request, version)?;
            match decode_api_versions(&frame, version)
                .map_err(|e| format!("cannot decode the response: {e}"))?
            {
                ApiVersionsResult::Response(response) => break response,
                ApiVersionsResult::TryVersion(next) => version = next,
            }
        };
        let code = ErrorCode(response.error_code);
        if !code.is_none() {
            return Err(format!("{code}: {}", code.description()).into());
        }
        self.add_throttle(response.throttle_time_ms);
        connection.set_versions(&response);
        Ok(response)
    }

    /// Sends a request and waits for its response, at the highest of these versions that the broker
    /// supports.
    ///
    /// # Errors
    /// The broker supports none of the versions, the connection ended, or there was no response in
    /// time.
    pub fn call<R: Request>(
        &mut self,
        connection: &mut ProbeConnection,
        request: &R,
        versions: RangeInclusive<i16>,
    ) -> Result<R::Response, ProbeError> {
        let name = R::KEY.name();
        let (min, max) = versions.into_inner();
        let version = connection.version(R::KEY, min, max).ok_or_else(|| {
            match connection.versions.get(&R::KEY) {
                Some((lowest, highest)) => format!(
                    "the broker supports {name} version {lowest} to {highest}, and this needs \
                     {min} to {max}"
                ),
                None => format!("the broker does not support {name}"),
            }
        })?;
        self.call_at(connection, request, version)
    }

    fn call_at<R: Request>(
        &mut self,
        connection: &mut ProbeConnection,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ProbeError> {
        let frame = self.request(connection, request, version)?;
        let decoded = decode_response::<R>(&frame, version);
        Ok(decoded.map_err(|e| format!("cannot decode the response to {}: {e}", R::KEY.name()))?)
    }

    /// Sends a request and returns the frame of its response.
    ///
    /// Without a response in time the connection is closed, as the client does: the late response
    /// would else be taken for the next request's.
    fn request<R: Request>(
        &mut self,
        connection: &mut ProbeConnection,
        request: &R,
        version: i16,
    ) -> Result<Bytes, ProbeError> {
        let channel = connection.channel;
        self.correlation_id += 1;
        let id = self.correlation_id;
        // The frame may hold a password.
        let frame = encode_request(request, version, id, Some(&self.client_id))
            .map(|frame| Bytes::from_owner(zeroize::Zeroizing::new(frame)))
            .map_err(|e| format!("cannot encode the request: {e}"))?;
        if let Some(reason) = &connection.closed {
            return Err(format!("the connection is closed: {reason}").into());
        }
        let now = self.env.now();
        if self.selector.can_send(channel) {
            self.selector.send(channel, vec![frame], now);
        } else if !self.ended.contains_key(&channel) {
            return Err("the connection has ended".to_owned().into());
        }
        let deadline = now.after(self.request_timeout);
        loop {
            if let Some(reason) = self.ended.remove(&channel) {
                let error = self.explain(R::KEY, connection, &reason);
                connection.closed = Some(error.reason.clone());
                connection.ended_at_request = true;
                return Err(error);
            }
            if self.poll(deadline).is_err() {
                let text = format!("no response to {}", R::KEY.name());
                let reason = timeout(&text, self.request_timeout);
                self.close(connection);
                connection.closed = Some(reason.clone());
                return Err(reason.into());
            }
            if let Some(frame) = self.take_frame(channel) {
                if decode_correlation_id(&frame) != Ok(id) {
                    let reason = "the response is not Kafka's";
                    self.close(connection);
                    connection.closed = Some(reason.to_owned());
                    return Err(ProbeError::new(reason, "is this a Kafka broker?"));
                }
                return Ok(frame);
            }
        }
    }

    /// Returns why a request got no response, with the setting that is probably wrong.
    fn explain(
        &self,
        api: ApiKey,
        connection: &ProbeConnection,
        reason: &DisconnectReason,
    ) -> ProbeError {
        let is_first = api == ApiKey::API_VERSIONS && connection.versions.is_empty();
        let advice = match reason {
            DisconnectReason::Eof if is_first && !self.authenticator.uses_tls() => {
                "if this is a TLS port, set security.protocol to match"
            }
            DisconnectReason::Eof if !self.authenticator.uses_sasl() => {
                "if it requires SASL, set security.protocol and sasl.mechanism"
            }
            _ => return reason.into(),
        };
        ProbeError::new(format!("{reason} instead of responding"), advice)
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
        if now >= deadline { Err(()) } else { self.poll_for(deadline.since(now)) }
    }

    /// Waits for events for this time at most.
    ///
    /// # Errors
    /// The operating system's poll failed.
    fn poll_for(&mut self, timeout: Duration) -> Result<(), ()> {
        let env = self.env.clone();
        self.events.connected.clear();
        self.events.completed_sends.clear();
        let polled = self.selector.poll(Some(timeout), || env.now(), &mut self.events);
        self.ended.extend(self.events.disconnected.drain(..));
        polled.map_err(|_| ())
    }

    /// Takes the response on this channel. No request is in flight on any other.
    fn take_frame(&mut self, channel: ChannelKey) -> Option<Bytes> {
        let frames = std::mem::take(&mut self.events.completed_receives);
        frames.into_iter().find(|(key, _)| *key == channel).map(|(_, frame)| frame)
    }
}

impl ProbeConnection {
    /// Returns the host that the connection was made to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the address of the broker.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns whether the connection ended while a request waited for its response. A time-out is
    /// no such end.
    pub fn ended_at_request(&self) -> bool {
        self.ended_at_request
    }

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
