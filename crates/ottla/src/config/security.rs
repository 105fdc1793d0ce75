//! The settings `security.protocol`, `ssl.*` and `sasl.*`, checked against each other.
//!
//! [`ProducerConfig`](super::ProducerConfig) creates them. `network::tls` reads the TLS settings,
//! `client::sasl` the SASL settings.

use std::time::Duration;

use super::jaas::{self, JaasConfig};
use super::secret::Secret;
use super::{BackoffRange, Properties, SaslMechanism, SecurityProtocol, Support, find_setting};
use crate::error::Error;

/// How the client secures its connections.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SecuritySettings {
    /// The protocol of the brokers' listener (`security.protocol`).
    pub protocol: SecurityProtocol,
    /// How the client authenticates (`sasl.mechanism`); `None` without SASL.
    pub mechanism: Option<SaslMechanism>,
    /// Set for `SSL` and `SASL_SSL`.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) tls: Option<TlsSettings>,
    /// Set for `SASL_PLAINTEXT` and `SASL_SSL`.
    pub(crate) sasl: Option<SaslSettings>,
}

/// The settings of TLS connections.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) struct TlsSettings {
    pub(crate) versions: TlsVersions,
    /// Cipher suites by their IANA names; if empty, all suites of the TLS provider.
    pub(crate) cipher_suites: Vec<String>,
    /// Whether the broker's certificate must name the host that the client connects to.
    pub(crate) verify_hostname: bool,
    /// The trusted certificates; if `None`, those of the operating system.
    pub(crate) trust_store: Option<SecurityStore>,
    /// The client's certificate and key, for brokers that require one.
    pub(crate) key_store: Option<SecurityStore>,
    pub(crate) key_password: Option<Secret>,
}

/// The TLS versions that the client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) struct TlsVersions {
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
}

/// A source of certificates and keys.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) enum SecurityStore {
    /// A file in the format PEM, PKCS#12 or JKS. `key_path` is a second file that holds the key.
    File { path: String, password: Option<Secret>, key_path: Option<String> },
    /// PEM text in the settings themselves.
    Inline { certificates: Secret, key: Option<Secret> },
}

/// The settings of SASL authentication.
#[derive(Debug, Clone)]
pub(crate) struct SaslSettings {
    pub(crate) credentials: SaslCredentials,
    /// Names and values of the SASL extensions that the client sends with an OAUTHBEARER token
    /// (KIP-342).
    pub(crate) extensions: Vec<(String, String)>,
    pub(crate) refresh: LoginRefresh,
}

/// When the client replaces an OAUTHBEARER token, as Kafka's `ExpiringCredentialRefreshConfig`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoginRefresh {
    /// The fraction of its lifetime after which a token is replaced.
    pub(crate) window_factor: f64,
    /// The largest random fraction that is added to `window_factor`.
    pub(crate) window_jitter: f64,
    /// The shortest time between the replacement and the expiry of the token.
    pub(crate) buffer: Duration,
    /// The shortest time between two replacements. If it conflicts with `buffer`, neither applies.
    pub(crate) min_period: Duration,
}

/// A SASL mechanism and its credentials.
#[derive(Debug, Clone)]
pub(crate) enum SaslCredentials {
    /// PLAIN (RFC 4616).
    Plain { user: String, password: Secret },
    /// SCRAM (RFC 5802, RFC 7677). `token_auth` authenticates with a delegation token (KIP-48).
    Scram { hash: ScramHash, user: String, password: Secret, token_auth: bool },
    /// OAUTHBEARER (RFC 7628).
    OAuthBearer(TokenSource),
}

/// The hash function of a SCRAM mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScramHash {
    Sha256,
    Sha512,
}

/// The source of OAUTHBEARER tokens.
#[derive(Debug, Clone)]
pub(crate) enum TokenSource {
    /// The application's token provider, which it gives to the builder.
    Provider,
    /// The client creates unsigned tokens with these claims, for tests (RFC 7515, `alg` none).
    Unsecured { claims: Vec<(String, TokenClaim)>, lifetime: Duration },
    /// A token endpoint that accepts client credentials (OpenID Connect, KIP-768).
    #[cfg_attr(not(feature = "oidc"), allow(dead_code))]
    Oidc(Box<OidcSettings>),
}

/// The value of a claim in an unsigned token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenClaim {
    Text(String),
    Number(f64),
    List(Vec<String>),
}

/// A token endpoint and the client credentials for it.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "oidc"), allow(dead_code))]
pub(crate) struct OidcSettings {
    pub(crate) token_endpoint_url: String,
    /// Its `trust_store` holds for an https endpoint too.
    pub(crate) tls: TlsSettings,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    pub(crate) scope: Option<String>,
    /// Whether the client URL-encodes id and secret in the authorization header (RFC 6749, 2.3.1).
    pub(crate) url_encode_header: bool,
    /// Zero means no limit, as in Kafka; `None` means the default.
    pub(crate) connect_timeout: Option<Duration>,
    /// Zero means no limit, as in Kafka; `None` means the default.
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) retry_backoff: BackoffRange,
}

impl SecuritySettings {
    pub(super) fn new(p: &Properties) -> Result<SecuritySettings, Error> {
        let protocol: SecurityProtocol = p.get_str("security.protocol").parse()?;
        if protocol.uses_tls() && cfg!(not(feature = "tls")) {
            return Err(Error::config(format!(
                "security.protocol={protocol} is not supported: this build of ottla has no TLS; \
                 enable its feature tls-graviola, tls-ring or tls-aws-lc-rs"
            )));
        }
        let tls = if protocol.uses_tls() { Some(TlsSettings::new(p)?) } else { None };
        let sasl = if protocol.uses_sasl() { Some(SaslSettings::new(p)?) } else { None };
        let mechanism = sasl.as_ref().map(SaslSettings::mechanism);
        Ok(SecuritySettings { protocol, mechanism, tls, sasl })
    }
}

/// Returns a notice for each TLS or SASL setting that `security.protocol` does not use.
pub(super) fn unused_setting_notices(p: &Properties) -> impl Iterator<Item = String> {
    let protocol = p.get_str("security.protocol").to_ascii_uppercase();
    let uses_sasl = protocol.starts_with("SASL");
    let url = p.value("sasl.oauthbearer.token.endpoint.url").unwrap_or_default();
    // An https token endpoint uses the TLS settings even if the brokers' listener has no TLS.
    let uses_tls = protocol.ends_with("SSL") || (uses_sasl && url.starts_with("https"));
    let is_unused = move |name: &str| {
        (name.starts_with("ssl.") && !uses_tls) || (name.starts_with("sasl.") && !uses_sasl)
    };
    (p.values.keys())
        .filter(move |name| is_unused(name))
        .filter(|name| find_setting(name).is_some_and(|s| s.support == Support::Supported))
        .map(move |name| format!("{name} has no effect with security.protocol={protocol}"))
}

/// Whether a version of TLS or SSL is one that Java knows and TLS libraries do not offer any more.
fn is_old_version(name: &str) -> bool {
    ["TLSv1", "TLSv1.1", "SSLv3", "SSLv2Hello"].iter().any(|old| old.eq_ignore_ascii_case(name))
}

/// Returns a notice if `ssl.enabled.protocols` has old versions, as in Kafka's defaults before 2.6.
pub(super) fn old_version_notice(p: &Properties) -> Option<String> {
    let list = p.value("ssl.enabled.protocols")?;
    let old: Vec<&str> =
        list.split(',').map(str::trim).filter(|name| is_old_version(name)).collect();
    (!old.is_empty()).then(|| {
        format!(
            "ssl.enabled.protocols: {} has no effect: it is not secure, and this client offers \
             TLSv1.2 and TLSv1.3 only",
            old.join(", ")
        )
    })
}

impl TlsSettings {
    pub(super) fn new(p: &Properties) -> Result<TlsSettings, Error> {
        let verify_hostname = match p.get_str("ssl.endpoint.identification.algorithm").trim() {
            "" => false,
            name if name.eq_ignore_ascii_case("none") => false,
            name if name.eq_ignore_ascii_case("https") => true,
            other => {
                return Err(Error::config(format!(
                    "ssl.endpoint.identification.algorithm={other} is neither https nor empty"
                )));
            }
        };
        let cipher_suites = p.get_str("ssl.cipher.suites").split(',').map(str::trim);
        Ok(TlsSettings {
            versions: TlsVersions::new(p)?,
            cipher_suites: cipher_suites.filter(|c| !c.is_empty()).map(str::to_owned).collect(),
            verify_hostname,
            trust_store: parse_trust_store(p)?,
            key_store: parse_key_store(p)?,
            key_password: p.get_secret("ssl.key.password"),
        })
    }
}

impl TlsVersions {
    fn new(p: &Properties) -> Result<TlsVersions, Error> {
        let mut versions = TlsVersions { tls12: false, tls13: false };
        let list = p.get_str("ssl.enabled.protocols");
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match name.to_ascii_lowercase().as_str() {
                "tlsv1.2" => versions.tls12 = true,
                "tlsv1.3" => versions.tls13 = true,
                // A notice names it; an error, if it is the only one.
                _ if is_old_version(name) => {}
                _ => {
                    return Err(Error::config(format!(
                        "ssl.enabled.protocols={list}: {name} is not a TLS version; use TLSv1.2 \
                         or TLSv1.3"
                    )));
                }
            }
        }
        if !versions.tls12 && !versions.tls13 && !list.is_empty() {
            return Err(Error::config(format!(
                "ssl.enabled.protocols={list} is not secure and not supported; use TLSv1.2 or \
                 TLSv1.3"
            )));
        }
        let protocol = p.get_str("ssl.protocol");
        match protocol.to_ascii_lowercase().as_str() {
            "tlsv1.3" | "tls" | "ssl" | "" => {}
            // As in Java, this is the highest version that may be negotiated.
            "tlsv1.2" => versions.tls13 = false,
            _ => {
                return Err(Error::config(format!(
                    "ssl.protocol={protocol} is not supported; use TLSv1.2 or TLSv1.3"
                )));
            }
        }
        if !versions.tls12 && !versions.tls13 {
            return Err(Error::config(
                "ssl.protocol and ssl.enabled.protocols together allow no TLS version; allow \
                 TLSv1.2 or TLSv1.3",
            ));
        }
        Ok(versions)
    }
}

fn parse_trust_store(p: &Properties) -> Result<Option<SecurityStore>, Error> {
    match (p.get_non_empty("ssl.truststore.location"), p.get_secret("ssl.truststore.certificates"))
    {
        (Some(_), Some(_)) => Err(Error::config(
            "ssl.truststore.location and ssl.truststore.certificates are both set; keep one",
        )),
        (Some(path), None) => {
            let password = p.get_secret("ssl.truststore.password");
            Ok(Some(SecurityStore::File { path: path.to_owned(), password, key_path: None }))
        }
        (None, Some(certificates)) => Ok(Some(SecurityStore::Inline { certificates, key: None })),
        (None, None) => Ok(None),
    }
}

fn parse_key_store(p: &Properties) -> Result<Option<SecurityStore>, Error> {
    let (chain, key) =
        (p.get_secret("ssl.keystore.certificate.chain"), p.get_secret("ssl.keystore.key"));
    match (p.get_non_empty("ssl.keystore.location"), chain, key) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(Error::config(
            "ssl.keystore.location is set together with ssl.keystore.certificate.chain or \
             ssl.keystore.key; keep the file or the values",
        )),
        (Some(path), None, None) => Ok(Some(SecurityStore::File {
            path: path.to_owned(),
            password: p.get_secret("ssl.keystore.password"),
            key_path: p.get_non_empty("ssl.key.location").map(str::to_owned),
        })),
        (None, Some(certificates), Some(key)) => {
            Ok(Some(SecurityStore::Inline { certificates, key: Some(key) }))
        }
        (None, None, None) => match p.get_non_empty("ssl.key.location") {
            Some(_) => Err(Error::config(
                "ssl.key.location is set without ssl.keystore.location, the certificate's file",
            )),
            None => Ok(None),
        },
        (None, Some(_), None) => {
            Err(Error::config("ssl.keystore.certificate.chain is set without ssl.keystore.key"))
        }
        (None, None, Some(_)) => {
            Err(Error::config("ssl.keystore.key is set without ssl.keystore.certificate.chain"))
        }
    }
}

impl SaslSettings {
    fn new(p: &Properties) -> Result<SaslSettings, Error> {
        let name = p.get_str("sasl.mechanism").trim().to_ascii_uppercase();
        let login = match p.get_secret("sasl.jaas.config") {
            Some(text) => jaas::parse(text.reveal())?,
            None => JaasConfig::default(),
        };
        login.check_mechanism(&name)?;
        let seconds =
            |name| Duration::from_secs(u64::try_from(p.get_i64(name)).unwrap_or_default());
        Ok(SaslSettings {
            credentials: SaslCredentials::new(p, parse_mechanism(&name)?, &login)?,
            extensions: extensions(p, &login)?,
            refresh: LoginRefresh {
                window_factor: p.get_f64("sasl.login.refresh.window.factor"),
                window_jitter: p.get_f64("sasl.login.refresh.window.jitter"),
                buffer: seconds("sasl.login.refresh.buffer.seconds"),
                min_period: seconds("sasl.login.refresh.min.period.seconds"),
            },
        })
    }

    /// Returns the name of the mechanism in the SaslHandshake request.
    pub(crate) fn mechanism_name(&self) -> &'static str {
        self.mechanism().as_str()
    }

    pub(crate) fn mechanism(&self) -> SaslMechanism {
        match &self.credentials {
            SaslCredentials::Plain { .. } => SaslMechanism::Plain,
            SaslCredentials::Scram { hash: ScramHash::Sha256, .. } => SaslMechanism::ScramSha256,
            SaslCredentials::Scram { hash: ScramHash::Sha512, .. } => SaslMechanism::ScramSha512,
            SaslCredentials::OAuthBearer(_) => SaslMechanism::OAuthBearer,
        }
    }
}

fn parse_mechanism(name: &str) -> Result<SaslMechanism, Error> {
    if name == "GSSAPI" {
        return Err(Error::config(
            "sasl.mechanism=GSSAPI (Kerberos, the default) is not supported: there is no Kerberos \
             library in pure Rust; use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        ));
    }
    name.parse()
}

impl SaslCredentials {
    fn new(
        p: &Properties,
        mechanism: SaslMechanism,
        login: &JaasConfig,
    ) -> Result<SaslCredentials, Error> {
        let hash = match mechanism {
            SaslMechanism::Plain => {
                let (user, password) = parse_user(p, mechanism, login)?;
                if user.contains('\0') || password.reveal().contains('\0') {
                    return Err(Error::config(
                        "sasl.mechanism=PLAIN: username or password contains a NUL character, \
                         which PLAIN uses as separator",
                    ));
                }
                return Ok(SaslCredentials::Plain { user, password });
            }
            SaslMechanism::OAuthBearer => {
                return Ok(SaslCredentials::OAuthBearer(parse_token_source(p, login)?));
            }
            SaslMechanism::ScramSha256 => ScramHash::Sha256,
            SaslMechanism::ScramSha512 => ScramHash::Sha512,
        };
        let (user, password) = parse_user(p, mechanism, login)?;
        let token_auth = login.option("tokenauth").is_some_and(|v| v == "true");
        Ok(SaslCredentials::Scram { hash, user, password, token_auth })
    }
}

/// Returns the SASL extensions of `sasl.jaas.config` and of `sasl.oauthbearer.extensions`.
fn extensions(p: &Properties, login: &JaasConfig) -> Result<Vec<(String, String)>, Error> {
    let mut extensions = login.extensions()?;
    let list = p.get_str("sasl.oauthbearer.extensions").split(',').map(str::trim);
    for entry in list.filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        let (name, value) = (name.trim(), value.trim());
        jaas::check_extension("sasl.oauthbearer.extensions: ", name, value)?;
        extensions.push((name.to_owned(), value.to_owned()));
    }
    Ok(extensions)
}

/// Returns user name and password, from their settings or else from `sasl.jaas.config`.
fn parse_user(
    p: &Properties,
    mechanism: SaslMechanism,
    login: &JaasConfig,
) -> Result<(String, Secret), Error> {
    let user = p.get_non_empty("sasl.username").or_else(|| login.option("username"));
    let password =
        p.get_secret("sasl.password").or_else(|| login.option("password").map(Secret::new));
    match (user, password) {
        (Some(user), Some(password)) => Ok((user.to_owned(), password)),
        (user, _) => Err(Error::config(format!(
            "sasl.mechanism={mechanism} needs a {}; set sasl.username and sasl.password, or \
             sasl.jaas.config",
            if user.is_none() { "username" } else { "password" }
        ))),
    }
}

fn parse_token_source(p: &Properties, login: &JaasConfig) -> Result<TokenSource, Error> {
    if let Some(url) = p.get_non_empty("sasl.oauthbearer.token.endpoint.url") {
        return Ok(TokenSource::Oidc(Box::new(OidcSettings::new(p, login, url)?)));
    }
    let unsecured = login.unsecured_token()?;
    if unsecured.claims.is_empty() {
        return Ok(TokenSource::Provider);
    }
    Ok(TokenSource::Unsecured { claims: unsecured.claims, lifetime: unsecured.lifetime })
}

impl OidcSettings {
    fn new(p: &Properties, login: &JaasConfig, url: &str) -> Result<OidcSettings, Error> {
        if cfg!(not(feature = "oidc")) {
            return Err(Error::config(
                "sasl.oauthbearer.token.endpoint.url is not supported: this build of ottla has no \
                 HTTP client; enable its feature oidc",
            ));
        }
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(Error::config(format!(
                "sasl.oauthbearer.token.endpoint.url={url} is not an http or https URL"
            )));
        }
        // Errors and logs show the URL, so it must not contain credentials.
        if url.split('/').nth(2).is_some_and(|host| host.contains('@')) {
            return Err(Error::config(
                "sasl.oauthbearer.token.endpoint.url contains a user name or password; set \
                 sasl.oauthbearer.client.credentials.client.id and .client.secret instead",
            ));
        }
        // Kafka before KIP-1139 has the credentials in `sasl.jaas.config`.
        let required = |name: &str, jaas_option: &str| {
            let value = p.get_non_empty(name).or_else(|| login.option(jaas_option));
            value.map(str::to_owned).ok_or_else(|| {
                Error::config(format!(
                    "sasl.mechanism=OAUTHBEARER with a token endpoint needs {name}"
                ))
            })
        };
        let scope = p.get_non_empty("sasl.oauthbearer.scope").or_else(|| login.option("scope"));
        let duration_ms = |name| p.value(name).map(|_| p.get_duration_ms(name));
        Ok(OidcSettings {
            token_endpoint_url: url.to_owned(),
            tls: TlsSettings::new(p)?,
            client_id: required("sasl.oauthbearer.client.credentials.client.id", "clientid")?,
            client_secret: Secret::new(required(
                "sasl.oauthbearer.client.credentials.client.secret",
                "clientsecret",
            )?),
            scope: scope.map(str::to_owned),
            url_encode_header: p.get_bool("sasl.oauthbearer.header.urlencode"),
            connect_timeout: duration_ms("sasl.login.connect.timeout.ms"),
            read_timeout: duration_ms("sasl.login.read.timeout.ms"),
            retry_backoff: BackoffRange {
                initial: p.get_duration_ms("sasl.login.retry.backoff.ms"),
                max: p.get_duration_ms("sasl.login.retry.backoff.max.ms"),
            },
        })
    }
}
