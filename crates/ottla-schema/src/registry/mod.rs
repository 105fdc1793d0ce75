//! The client of a schema registry.

mod lookups;
mod request;
pub(crate) mod retry;
#[cfg(feature = "tls")]
mod tls;
pub(crate) mod transport;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ottla::Properties;
use zeroize::Zeroizing;

use crate::error::{SchemaError, SchemaErrorKind};
use crate::schema::{RegisteredSchema, Schema, SchemaReference, Version};
use crate::settings::{self, RegistryAuth, RegistrySettings, SerializerSettings};
pub(crate) use crate::subject::Subject;
pub(crate) use lookups::Lookups;
pub(crate) use request::Request;
use retry::{Attempts, NextAttempt};
use transport::{HttpRequest, RealTransport, Transport};

/// Most schemas that one schema may refer to, directly or not.
const MAX_REFERENCES: usize = 1_000;
/// The media type of the registry's API.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// A client of a schema registry with Confluent's REST API. It is cheap to clone; clones share
/// connections and cache.
///
/// Results are cached without a limit of time, except for the latest version, for which
/// `latest.cache.ttl.sec` holds. Callers that need the same at the same time cause one request.
/// Errors are not cached. A request that gets no response, or a status from 500 up, 429 or 408,
/// goes to the next URL of `schema.registry.url`. After all of them it is repeated `max.retries`
/// times (3), after a pause of `retries.wait.ms` (1000) that doubles up to `retries.max.wait.ms`
/// (20000).
///
/// Each method blocks; those that end in `_async` return a future, which works with any runtime: a
/// thread of its own sends the request.
///
/// ```no_run
/// use ottla::Properties;
/// use ottla_schema::{Schema, SchemaRegistryClient, SchemaType};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut properties = Properties::new();
/// properties.set("schema.registry.url", "http://localhost:8081")?;
/// properties.set("basic.auth.user.info", "me:secret")?;
/// let registry = SchemaRegistryClient::new(&properties)?;
/// let schema = Schema::new(SchemaType::Avro, r#"{"type": "string"}"#);
/// let registered = registry.register("greetings-value", &schema)?;
/// println!("the schema has id {}", registered.id);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SchemaRegistryClient(Arc<Inner>);

struct Inner {
    urls: Vec<BaseUrl>,
    settings: RegistrySettings,
    serializer: SerializerSettings,
    transport: Box<dyn Transport>,
    cache: Arc<Lookups<Request, CachedSchema>>,
    /// The index of the URL that responded last.
    current_url: AtomicUsize,
}

/// A URL without user name and password, and the header of these.
struct BaseUrl {
    url: String,
    authorization: Option<Zeroizing<String>>,
}

#[derive(Clone)]
struct CachedSchema {
    schema: Arc<RegisteredSchema>,
    at: Duration,
}

impl SchemaRegistryClient {
    /// Creates a client from the settings of Confluent's names: docs/SCHEMAS.md lists them. It
    /// sends nothing yet.
    ///
    /// # Errors
    /// [`SchemaErrorKind::Config`] if `schema.registry.url` is not set, or a setting is wrong.
    pub fn new(properties: &Properties) -> Result<SchemaRegistryClient, SchemaError> {
        let (settings, serializer) = settings::read(properties)?;
        let transport = Box::new(RealTransport::new(&settings, properties)?);
        Ok(SchemaRegistryClient::with_transport(settings, serializer, transport))
    }

    pub(crate) fn with_transport(
        settings: RegistrySettings,
        serializer: SerializerSettings,
        transport: Box<dyn Transport>,
    ) -> SchemaRegistryClient {
        let urls = settings.urls.iter().map(|url| BaseUrl::new(url, &settings.auth)).collect();
        let (cache, current_url) = (Arc::default(), AtomicUsize::new(0));
        let inner = Inner { urls, settings, serializer, transport, cache, current_url };
        SchemaRegistryClient(Arc::new(inner))
    }

    pub(crate) fn serializer_settings(&self) -> &SerializerSettings {
        &self.0.serializer
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.transport.now()
    }

    /// Registers a schema under a subject, or finds it there.
    ///
    /// # Errors
    /// [`SchemaErrorKind::Rejected`] if the schema is invalid or not compatible with the subject's
    /// versions, or the credentials are wrong; [`SchemaErrorKind::Unavailable`] if no registry
    /// responds.
    pub fn register(
        &self,
        subject: impl Into<String>,
        schema: &Schema,
    ) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get(&self.register_request(Subject::new(subject), schema))
    }

    /// Like [`register`](Self::register), without blocking.
    ///
    /// # Errors
    /// Those of that method.
    pub async fn register_async(
        &self,
        subject: impl Into<String>,
        schema: &Schema,
    ) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get_async(&self.register_request(Subject::new(subject), schema)).await
    }

    pub(crate) fn register_request(&self, subject: Subject, schema: &Schema) -> Request {
        let normalize = self.0.serializer.normalize;
        Request::Register { subject, schema: schema.clone(), normalize }
    }

    /// Finds a schema under a subject, and changes nothing.
    ///
    /// # Errors
    /// [`SchemaErrorKind::Rejected`] if the subject does not have it; otherwise those of
    /// [`register`](Self::register).
    pub fn look_up(
        &self,
        subject: impl Into<String>,
        schema: &Schema,
    ) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get(&self.look_up_request(Subject::new(subject), schema))
    }

    /// Like [`look_up`](Self::look_up), without blocking.
    ///
    /// # Errors
    /// Those of that method.
    pub async fn look_up_async(
        &self,
        subject: impl Into<String>,
        schema: &Schema,
    ) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get_async(&self.look_up_request(Subject::new(subject), schema)).await
    }

    pub(crate) fn look_up_request(&self, subject: Subject, schema: &Schema) -> Request {
        let normalize = self.0.serializer.normalize;
        Request::LookUp { subject, schema: schema.clone(), normalize }
    }

    /// Returns a version of a subject.
    ///
    /// # Errors
    /// [`SchemaErrorKind::Rejected`] if the subject does not have it; otherwise those of
    /// [`register`](Self::register).
    pub fn version(
        &self,
        subject: impl Into<String>,
        version: Version,
    ) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get(&Request::Version { subject: Subject::new(subject), version })
    }

    /// Like [`version`](Self::version), without blocking.
    ///
    /// # Errors
    /// Those of that method.
    pub async fn version_async(
        &self,
        subject: impl Into<String>,
        version: Version,
    ) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get_async(&Request::Version { subject: Subject::new(subject), version }).await
    }

    /// Returns the schema of an id.
    ///
    /// # Errors
    /// [`SchemaErrorKind::Rejected`] if the registry does not know the id; otherwise those of
    /// [`register`](Self::register).
    pub fn schema_by_id(&self, id: i32) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get(&Request::Id(id))
    }

    /// Like [`schema_by_id`](Self::schema_by_id), without blocking.
    ///
    /// # Errors
    /// Those of that method.
    pub async fn schema_by_id_async(&self, id: i32) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.get_async(&Request::Id(id)).await
    }

    /// Registers a schema for others to use it by `name`, and returns the reference. With
    /// `auto.register.schemas=false` it must be registered already.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ottla_schema::{Schema, SchemaRegistryClient, SchemaType};
    ///
    /// # let registry = SchemaRegistryClient::new(&ottla::Properties::new())?;
    /// let text = r#"syntax = "proto3"; package shop; message Item { double price = 1; }"#;
    /// let item = Schema::new(SchemaType::Protobuf, text);
    /// let reference = registry.reference("shop/item.proto", "item", &item)?;
    /// let text = r#"syntax = "proto3"; package shop; import "shop/item.proto";
    ///     message Order { repeated Item items = 1; }"#;
    /// let order = Schema::new(SchemaType::Protobuf, text).with_references(vec![reference]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`register`](Self::register) and [`look_up`](Self::look_up).
    pub fn reference(
        &self,
        name: impl Into<String>,
        subject: impl Into<String>,
        schema: &Schema,
    ) -> Result<SchemaReference, SchemaError> {
        let subject = subject.into();
        if self.0.serializer.auto_register {
            self.register(&*subject, schema)?;
        }
        // Only a lookup returns the version.
        let version = self.look_up(&*subject, schema)?.version.ok_or_else(|| {
            SchemaError::new(
                SchemaErrorKind::InvalidResponse,
                format!("subject {subject}: the registry named no version of the schema"),
            )
        })?;
        Ok(SchemaReference { name: name.into(), subject, version })
    }

    /// Returns the schemas that a schema uses, directly or not, each with its name and before
    /// those that use it.
    ///
    /// # Errors
    /// Those of [`version`](Self::version); [`SchemaErrorKind::InvalidSchema`] if two schemas of
    /// one name differ, or there are too many.
    pub fn resolve_references(
        &self,
        schema: &Schema,
    ) -> Result<Vec<(String, Schema)>, SchemaError> {
        let mut resolved = Vec::new();
        self.add_references(schema, &mut resolved, &mut BTreeSet::new())?;
        Ok(resolved)
    }

    fn add_references(
        &self,
        schema: &Schema,
        resolved: &mut Vec<(String, Schema)>,
        visited: &mut BTreeSet<(String, String, i32)>,
    ) -> Result<(), SchemaError> {
        // Each level of the recursion adds to `visited`, so this limits its depth, too.
        if visited.len() > MAX_REFERENCES {
            return Err(SchemaError::schema(format!(
                "the schema has more than {MAX_REFERENCES} references"
            )));
        }
        for reference in schema.references() {
            let key = (reference.name.clone(), reference.subject.clone(), reference.version);
            if !visited.insert(key) {
                continue;
            }
            let version = Version::Number(reference.version);
            let found = self.version(&reference.subject, version)?.schema.clone();
            self.add_references(&found, resolved, visited)?;
            match resolved.iter().find(|(name, _)| *name == reference.name) {
                Some((_, known)) if known.text() != found.text() => {
                    return Err(SchemaError::schema(format!(
                        "two references have the name {} and different schemas; refer to one \
                         version of {}",
                        reference.name, reference.subject
                    )));
                }
                Some(_) => {}
                None => resolved.push((reference.name.clone(), found)),
            }
        }
        Ok(())
    }

    /// Returns the result of a request, from the cache or from a registry.
    pub(crate) fn get(&self, request: &Request) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.forget_if_expired(request);
        let cached = self.0.cache.get_or_look_up(request, || self.0.request(request))?;
        Ok(cached.schema)
    }

    async fn get_async(&self, request: &Request) -> Result<Arc<RegisteredSchema>, SchemaError> {
        self.forget_if_expired(request);
        let (inner, owned) = (self.0.clone(), request.clone());
        let look_up = move || inner.request(&owned);
        Ok(self.0.cache.get_or_look_up_async(request, look_up).await?.schema)
    }

    fn forget_if_expired(&self, request: &Request) {
        if let Request::Version { version: Version::Latest, .. } = request
            && let Some(ttl) = self.0.serializer.latest_ttl
            && let Some(cached) = self.0.cache.get(request)
            && self.now().saturating_sub(cached.at) >= ttl
        {
            self.0.cache.remove_known(request);
        }
    }
}

impl Inner {
    /// Sends a request until a registry responds, or all attempts have failed.
    fn request(&self, request: &Request) -> Result<CachedSchema, SchemaError> {
        let mut url = self.current_url.load(Ordering::Relaxed);
        let mut attempts = Attempts::new(self.settings.retry, self.urls.len(), url);
        loop {
            let failure = match self.send(request, &self.urls[url]) {
                Ok(result) => {
                    self.current_url.store(url, Ordering::Relaxed);
                    return result;
                }
                Err(failure) => failure,
            };
            match attempts.after_failure(self.transport.random()) {
                NextAttempt::GiveUp => {
                    let (failed, s) = (attempts.failed(), plural(attempts.failed()));
                    return Err(SchemaError::new(
                        SchemaErrorKind::Unavailable,
                        format!(
                            "cannot {request}: no registry responded in {failed} attempt{s}: \
                             {failure}; check schema.registry.url and whether the registry runs"
                        ),
                    ));
                }
                NextAttempt::Url(next, pause) => {
                    tracing::debug!(target: "ottla::schema_registry", "retrying: {failure}");
                    if pause > Duration::ZERO {
                        self.transport.sleep(pause);
                    }
                    url = next;
                }
            }
        }
    }

    /// Sends a request once. The outer error is a failure that another attempt may not meet.
    fn send(
        &self,
        request: &Request,
        base: &BaseUrl,
    ) -> Result<Result<CachedSchema, SchemaError>, String> {
        let http = self.http_request(request, base);
        let response = match self.transport.send(&http) {
            Ok(response) => response,
            Err(e) if e.is_final => {
                let message = format!(
                    "cannot {request}: {}: {}; check schema.registry.url and \
                     schema.registry.ssl.*",
                    base.url, e.reason
                );
                return Ok(Err(SchemaError::config(message)));
            }
            Err(e) => return Err(format!("{}: {}", base.url, e.reason)),
        };
        if response.status >= 500 || matches!(response.status, 408 | 429) {
            let text = String::from_utf8_lossy(&response.body);
            let text: String = text.chars().take(200).collect();
            return Err(format!("{}: HTTP status {}: {}", base.url, response.status, text.trim()));
        }
        let result = request.parse(&response, &base.url);
        let at = self.transport.now();
        Ok(result.map(|schema| CachedSchema { schema: Arc::new(schema), at }))
    }

    fn http_request(&self, request: &Request, base: &BaseUrl) -> HttpRequest {
        let mut headers = vec![("Accept", Zeroizing::new(MEDIA_TYPE.to_owned()))];
        if let Some(authorization) = &base.authorization {
            headers.push(("Authorization", authorization.clone()));
        }
        if let RegistryAuth::Bearer { headers: more, .. } = &self.settings.auth {
            headers.extend(more.iter().map(|(name, value)| (*name, Zeroizing::new(value.clone()))));
        }
        let body = request.body();
        if body.is_some() {
            headers.push(("Content-Type", Zeroizing::new(MEDIA_TYPE.to_owned())));
        }
        HttpRequest { url: format!("{}{}", base.url, request.path()), headers, body }
    }
}

impl BaseUrl {
    fn new(url: &str, auth: &RegistryAuth) -> BaseUrl {
        let (url, userinfo) = settings::split_userinfo(url);
        let basic = |info: &str| Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(info)));
        let authorization = match auth {
            RegistryAuth::Url => userinfo.map(|info| basic(&info)),
            RegistryAuth::Basic(info) => Some(basic(info)),
            RegistryAuth::Bearer { token, .. } => {
                Some(Zeroizing::new(format!("Bearer {}", **token)))
            }
        };
        BaseUrl { url, authorization }
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

impl fmt::Debug for SchemaRegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<&str> = self.0.urls.iter().map(|base| base.url.as_str()).collect();
        f.debug_struct("SchemaRegistryClient").field("urls", &urls).finish_non_exhaustive()
    }
}
