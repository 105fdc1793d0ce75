//! The settings of the registry's client and of the serializers, by Confluent's names.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla::Properties;
use zeroize::Zeroizing;

use crate::error::SchemaError;
use crate::registry::retry::RetryPolicy;
use crate::subject::SubjectNameStrategy;

const PREFIX: &str = "schema.registry.";

/// Every setting that is read here, without the prefix; `ssl.*` is read by `ottla`.
const NAMES: [&str; 21] = [
    "auto.register.schemas",
    "basic.auth.credentials.source",
    "basic.auth.user.info",
    "bearer.auth.credentials.source",
    "bearer.auth.identity.pool.id",
    "bearer.auth.logical.cluster",
    "bearer.auth.token",
    "http.connect.timeout.ms",
    "http.read.timeout.ms",
    "json.fail.invalid.schema",
    "key.subject.name.strategy",
    "latest.cache.ttl.sec",
    "latest.compatibility.strict",
    "max.retries",
    "normalize.schemas",
    "retries.max.wait.ms",
    "retries.wait.ms",
    "url",
    "use.latest.version",
    "use.schema.id",
    "value.subject.name.strategy",
];

/// How the client authenticates to the registry.
#[derive(Clone, Default)]
pub(crate) enum RegistryAuth {
    /// By the user name and password in the URL, if it has them.
    #[default]
    Url,
    /// `user:password`.
    Basic(Zeroizing<String>),
    /// A token, and the further headers of Confluent Cloud.
    Bearer { token: Zeroizing<String>, headers: Vec<(&'static str, String)> },
}

/// The settings of connections and requests.
#[derive(Clone)]
pub(crate) struct RegistrySettings {
    pub(crate) urls: Vec<String>,
    pub(crate) auth: RegistryAuth,
    pub(crate) connect_timeout: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) retry: RetryPolicy,
}

/// The settings of the serializers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SerializerSettings {
    pub(crate) auto_register: bool,
    pub(crate) use_latest_version: bool,
    /// How long the latest version is used before the registry is asked again; `None` forever.
    pub(crate) latest_ttl: Option<Duration>,
    pub(crate) normalize: bool,
    pub(crate) use_schema_id: Option<i32>,
    pub(crate) key_strategy: SubjectNameStrategy,
    pub(crate) value_strategy: SubjectNameStrategy,
    pub(crate) validate_json: bool,
}

/// Values by name, without the prefix.
struct Values<'a>(BTreeMap<&'a str, &'a str>);

/// Reads the settings of the schema registry out of the properties.
pub(crate) fn read(
    properties: &Properties,
) -> Result<(RegistrySettings, SerializerSettings), SchemaError> {
    let values = Values::new(properties)?;
    let auth = values.auth(properties)?;
    let registry = RegistrySettings {
        urls: values.urls()?,
        auth,
        connect_timeout: values.millis("http.connect.timeout.ms", 60_000)?,
        read_timeout: values.millis("http.read.timeout.ms", 60_000)?,
        retry: RetryPolicy {
            max_retries: values.number("max.retries", 0, 3)?,
            wait: values.millis("retries.wait.ms", 1_000)?,
            max_wait: values.millis("retries.max.wait.ms", 20_000)?,
        },
    };
    let ttl: i64 = values.number("latest.cache.ttl.sec", -1, -1)?;
    let id: i32 = values.number("use.schema.id", -1, -1)?;
    let serializer = SerializerSettings {
        auto_register: values.bool("auto.register.schemas", true)?,
        use_latest_version: values.bool("use.latest.version", false)?,
        latest_ttl: u64::try_from(ttl).ok().map(Duration::from_secs),
        normalize: values.bool("normalize.schemas", false)?,
        use_schema_id: (id >= 0).then_some(id),
        key_strategy: values.strategy("key.subject.name.strategy")?,
        value_strategy: values.strategy("value.subject.name.strategy")?,
        validate_json: values.bool("json.fail.invalid.schema", true)?,
    };
    if serializer.use_schema_id.is_some() && serializer.use_latest_version {
        return Err(SchemaError::config("use.schema.id and use.latest.version=true: keep one"));
    }
    Ok((registry, serializer))
}

impl<'a> Values<'a> {
    fn new(properties: &'a Properties) -> Result<Values<'a>, SchemaError> {
        let mut values = BTreeMap::new();
        for (full_name, value) in ottla::tools::schema_registry_settings(properties) {
            let name = full_name.strip_prefix(PREFIX).unwrap_or(full_name);
            match name {
                _ if name.starts_with("ssl.") => continue,
                "key.schema.id.serializer" | "value.schema.id.serializer"
                    if value.ends_with("PrefixSchemaIdSerializer") =>
                {
                    continue;
                }
                "key.schema.id.serializer" | "value.schema.id.serializer" => {
                    return Err(SchemaError::config(format!(
                        "{full_name}={value} is not supported: the schema id stands before the \
                         value (PrefixSchemaIdSerializer), not in a header"
                    )));
                }
                "proxy.host" | "proxy.port" | "reference.subject.name.strategy" => {
                    return Err(SchemaError::config(format!(
                        "{full_name} is not supported; remove it"
                    )));
                }
                _ if !NAMES.contains(&name) => {
                    return Err(SchemaError::config(format!(
                        "unknown setting {full_name}; expected one of schema.registry.url, \
                         schema.registry.ssl.* and {}",
                        NAMES
                            .iter()
                            .filter(|n| **n != "url")
                            .copied()
                            .collect::<Vec<_>>()
                            .join(", ")
                    )));
                }
                _ => {}
            }
            // A name with the prefix takes precedence, as in Confluent's client.
            if full_name != name || !values.contains_key(name) {
                values.insert(name, value);
            }
        }
        Ok(Values(values))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied().filter(|value| !value.is_empty())
    }

    fn urls(&self) -> Result<Vec<String>, SchemaError> {
        let list = self.get("url").unwrap_or_default();
        let urls: Vec<String> = (list.split(',').map(str::trim).filter(|url| !url.is_empty()))
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        if urls.is_empty() {
            return Err(SchemaError::config(
                "schema.registry.url is not set; set it to the registry's URL, such as \
                 http://localhost:8081",
            ));
        }
        for url in &urls {
            let is_http = url.starts_with("http://") || url.starts_with("https://");
            if !is_http {
                return Err(SchemaError::config(format!(
                    "schema.registry.url={} is not an http or https URL",
                    without_userinfo(url)
                )));
            }
            if url.starts_with("https://") && cfg!(not(feature = "tls")) {
                return Err(SchemaError::config(
                    "schema.registry.url is an https URL, and this build of ottla-schema has no \
                     TLS; enable its feature tls-graviola, tls-ring or tls-aws-lc-rs",
                ));
            }
        }
        Ok(urls)
    }

    fn auth(&self, properties: &Properties) -> Result<RegistryAuth, SchemaError> {
        let source = self.get("basic.auth.credentials.source");
        let user_info = self.get("basic.auth.user.info");
        if let Some(token) = self.get("bearer.auth.token") {
            if user_info.is_some() {
                return Err(SchemaError::config(
                    "bearer.auth.token and basic.auth.user.info are both set; keep one",
                ));
            }
            return self.bearer(token);
        }
        match self.get("bearer.auth.credentials.source") {
            None => {}
            Some("STATIC_TOKEN") => {
                return Err(SchemaError::config(
                    "bearer.auth.credentials.source=STATIC_TOKEN needs bearer.auth.token",
                ));
            }
            Some(other) => return Err(unsupported_bearer(other)),
        }
        match (source, user_info) {
            (None | Some("USER_INFO"), Some(info)) => {
                if !info.contains(':') {
                    return Err(SchemaError::config("basic.auth.user.info is not user:password"));
                }
                Ok(RegistryAuth::Basic(Zeroizing::new(info.to_owned())))
            }
            (Some("USER_INFO"), None) => Err(SchemaError::config(
                "basic.auth.credentials.source=USER_INFO needs basic.auth.user.info",
            )),
            (None | Some("URL"), _) => Ok(RegistryAuth::Url),
            (Some("SASL_INHERIT"), _) => {
                let get = |name| properties.get(name).filter(|value| !value.is_empty());
                let (Some(user), Some(password)) = (get("sasl.username"), get("sasl.password"))
                else {
                    return Err(SchemaError::config(
                        "basic.auth.credentials.source=SASL_INHERIT needs sasl.username and \
                         sasl.password",
                    ));
                };
                Ok(RegistryAuth::Basic(Zeroizing::new(format!("{user}:{password}"))))
            }
            (Some(other), _) => Err(SchemaError::config(format!(
                "basic.auth.credentials.source={other} is not supported; use URL, USER_INFO or \
                 SASL_INHERIT"
            ))),
        }
    }

    fn bearer(&self, token: &str) -> Result<RegistryAuth, SchemaError> {
        if let Some(other) = self.get("bearer.auth.credentials.source")
            && other != "STATIC_TOKEN"
        {
            return Err(unsupported_bearer(other));
        }
        let header = |setting, name| Some((name, self.get(setting)?.to_owned()));
        let headers = [
            header("bearer.auth.logical.cluster", "target-sr-cluster"),
            header("bearer.auth.identity.pool.id", "Confluent-Identity-Pool-Id"),
        ];
        let token = Zeroizing::new(token.to_owned());
        Ok(RegistryAuth::Bearer { token, headers: headers.into_iter().flatten().collect() })
    }

    fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        min: T,
        default: T,
    ) -> Result<T, SchemaError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().ok().filter(|number| *number >= min).ok_or_else(|| {
            SchemaError::config(format!("{name}={text}: expected a whole number from {min}"))
        })
    }

    fn millis(&self, name: &str, default: u64) -> Result<Duration, SchemaError> {
        self.number(name, 0, default).map(Duration::from_millis)
    }

    fn bool(&self, name: &str, default: bool) -> Result<bool, SchemaError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => {
                Err(SchemaError::config(format!("{name}={text}: expected true or false")))
            }
        }
    }

    fn strategy(&self, name: &str) -> Result<SubjectNameStrategy, SchemaError> {
        let Some(text) = self.get(name) else { return Ok(SubjectNameStrategy::TopicName) };
        SubjectNameStrategy::from_class(text).ok_or_else(|| {
            SchemaError::config(format!(
                "{name}={text}: expected TopicNameStrategy, RecordNameStrategy or \
                 TopicRecordNameStrategy"
            ))
        })
    }
}

fn unsupported_bearer(source: &str) -> SchemaError {
    SchemaError::config(format!(
        "bearer.auth.credentials.source={source} is not supported; use STATIC_TOKEN with \
         bearer.auth.token"
    ))
}

/// Removes the user name and the password from a URL, for messages.
pub(crate) fn without_userinfo(url: &str) -> String {
    split_userinfo(url).0
}

/// Splits a URL into the URL without user name and password, and these.
pub(crate) fn split_userinfo(url: &str) -> (String, Option<Zeroizing<String>>) {
    let Some((scheme, address)) = url.split_once("://") else { return (url.to_owned(), None) };
    let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
    match authority.rsplit_once('@') {
        Some((userinfo, host)) => {
            (format!("{scheme}://{host}{path}"), Some(percent_decode(userinfo)))
        }
        None => (url.to_owned(), None),
    }
}

fn percent_decode(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let hex = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = hex.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                bytes = &rest[2..];
            }
            _ => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    Zeroizing::new(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_settings(
        settings: &[(&str, &str)],
    ) -> Result<(RegistrySettings, SerializerSettings), SchemaError> {
        let mut p = Properties::new();
        for (name, value) in settings {
            p.set(name, value).unwrap();
        }
        read(&p)
    }

    const URL: (&str, &str) = ("schema.registry.url", "http://a:8081/, https://b");

    #[test]
    fn defaults_are_those_of_confluent() {
        let (registry, serializer) = read_settings(&[("schema.registry.url", "http://a")]).unwrap();
        assert_eq!(registry.retry.max_retries, 3);
        assert_eq!(registry.read_timeout.as_secs(), 60);
        assert!(serializer.auto_register && !serializer.use_latest_version);
        assert_eq!(serializer.value_strategy, SubjectNameStrategy::TopicName);
        assert_eq!((serializer.latest_ttl, serializer.use_schema_id), (None, None));
    }

    #[test]
    fn wrong_settings_are_named() {
        for (settings, expected) in [
            (vec![], "schema.registry.url is not set"),
            (vec![("schema.registry.url", "ftp://u:hunter2@a")], "ftp://a is not an http"),
            (vec![URL, ("basic.auth.credentials.source", "USER_INFO")], "needs basic.auth.user"),
            (vec![URL, ("basic.auth.credentials.source", "X")], "use URL, USER_INFO"),
            (vec![URL, ("basic.auth.user.info", "hunter2")], "is not user:password"),
            (vec![URL, ("basic.auth.credentials.source", "SASL_INHERIT")], "needs sasl.username"),
            (vec![URL, ("bearer.auth.credentials.source", "CUSTOM")], "use STATIC_TOKEN"),
            (vec![URL, ("auto.register.schemas", "yes")], "expected true or false"),
            (vec![URL, ("max.retries", "-1")], "a whole number from 0"),
            (vec![URL, ("value.subject.name.strategy", "Mine")], "expected TopicNameStrategy"),
            (vec![URL, ("schema.registry.urls", "x")], "unknown setting schema.registry.urls"),
            (vec![URL, ("use.schema.id", "7"), ("use.latest.version", "true")], "keep one"),
            (
                vec![URL, ("value.schema.id.serializer", "x.HeaderSchemaIdSerializer")],
                "not in a header",
            ),
        ] {
            if cfg!(not(feature = "tls")) && settings.contains(&URL) {
                continue;
            }
            let Err(e) = read_settings(&settings) else { panic!("{settings:?}") };
            let e = e.to_string();
            assert!(e.contains(expected) && !e.contains("hunter2"), "{settings:?}: {e}");
        }
    }

    #[test]
    fn credentials_come_from_their_source() {
        let url = ("schema.registry.url", "http://a");
        let basic = |settings: &[(&str, &str)]| match read_settings(settings).unwrap().0.auth {
            RegistryAuth::Basic(info) => info.to_string(),
            _ => panic!("no basic authentication"),
        };
        assert_eq!(basic(&[url, ("schema.registry.basic.auth.user.info", "u:p")]), "u:p");
        let sasl = [("sasl.username", "s"), ("sasl.password", "q")];
        let inherit = ("basic.auth.credentials.source", "SASL_INHERIT");
        assert_eq!(basic(&[url, inherit, sasl[0], sasl[1]]), "s:q");
        let (url, userinfo) = split_userinfo("http://me:p%40ss@host:1/x@y");
        assert_eq!((url.as_str(), userinfo.unwrap().as_str()), ("http://host:1/x@y", "me:p@ss"));
        assert_eq!(percent_decode("100%").as_str(), "100%");
        assert_eq!(percent_decode("%+1%é").as_str(), "%+1%é");
    }
}
