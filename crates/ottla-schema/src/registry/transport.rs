//! The I/O seam: requests to a registry, the clock, pauses and randomness.
//!
//! Everything above it takes these as arguments, so tests need neither a socket nor time.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::SchemaError;
use crate::settings::RegistrySettings;

/// A request. A body makes it a POST.
pub(crate) struct HttpRequest {
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, Zeroizing<String>)>,
    pub(crate) body: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransportError {
    pub(crate) reason: String,
    /// A further attempt would fail in the same way.
    pub(crate) is_final: bool,
}

/// What the client needs of the machine.
pub(crate) trait Transport: Send + Sync {
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, TransportError>;
    /// Returns the time since any fixed moment.
    fn now(&self) -> Duration;
    fn sleep(&self, duration: Duration);
    fn random(&self) -> u64;
}

/// Largest response of a registry in bytes.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// Requests by sockets of the operating system.
pub(crate) struct RealTransport {
    agent: ureq::Agent,
    #[allow(clippy::disallowed_types)]
    random: std::hash::RandomState,
    started: std::time::Instant,
}

impl RealTransport {
    /// Creates the HTTP client, and reads the files of the TLS settings if a URL is https.
    #[cfg_attr(not(feature = "tls"), allow(unused_variables))]
    pub(crate) fn new(
        settings: &RegistrySettings,
        properties: &ottla::Properties,
    ) -> Result<RealTransport, SchemaError> {
        // 0 means no limit, as in Java.
        let limit = |timeout: Duration| (timeout > Duration::ZERO).then_some(timeout);
        let read = limit(settings.read_timeout);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            // A redirect would send credentials to a different server.
            .max_redirects(0)
            .timeout_connect(limit(settings.connect_timeout))
            .timeout_recv_response(read)
            .timeout_recv_body(read)
            .build();
        #[cfg(feature = "tls")]
        let agent = if settings.urls.iter().any(|url| url.starts_with("https://")) {
            super::tls::agent(config, properties)?
        } else {
            config.new_agent()
        };
        #[cfg(not(feature = "tls"))]
        let agent = config.new_agent();
        #[allow(clippy::disallowed_methods, clippy::disallowed_types)]
        let (random, started) = (std::hash::RandomState::new(), std::time::Instant::now());
        Ok(RealTransport { agent, random, started })
    }
}

impl Transport for RealTransport {
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, TransportError> {
        let response = match &request.body {
            None => {
                let mut get = self.agent.get(&request.url);
                for (name, value) in &request.headers {
                    get = get.header(*name, value.as_str());
                }
                get.call()
            }
            Some(body) => {
                let mut post = self.agent.post(&request.url);
                for (name, value) in &request.headers {
                    post = post.header(*name, value.as_str());
                }
                post.send(&body[..])
            }
        };
        let mut response = response.map_err(|e| transport_error(&e))?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_RESPONSE_BYTES).read_to_vec();
        Ok(HttpResponse { status, body: body.map_err(|e| transport_error(&e))? })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    #[allow(clippy::disallowed_methods)]
    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn random(&self) -> u64 {
        use std::hash::BuildHasher;
        self.random.hash_one(self.started.elapsed())
    }
}

fn transport_error(e: &ureq::Error) -> TransportError {
    let is_final = match e {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::BodyExceedsLimit(_) => true,
        #[cfg(feature = "tls")]
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        // An error of the handshake is inside an I/O error.
        #[cfg(feature = "tls")]
        ureq::Error::Io(e) => e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    };
    TransportError { reason: e.to_string(), is_final }
}
