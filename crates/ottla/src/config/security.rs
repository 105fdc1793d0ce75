//! How connections are secured: what `security.protocol`, `ssl.*` and `sasl.*` mean together.

use std::time::Duration;

use super::jaas::{self, JaasConfig};
use super::secret::Secret;
use super::{Properties, Support, find_setting};
use crate::error::Error;

/// The meaning of all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SecuritySettings {
    /// Set for `SSL` and `SASL_SSL`.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) tls: Option<TlsSettings>,
    /// Set for `SASL_PLAINTEXT` and `SASL_SSL`.
    pub(crate) sasl: Option<SaslSettings>,
}

/// TLS, as the settings have it.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) struct TlsSettings {
    /// Whether 1.2 and 1.3 may be spoken.
    pub(crate) versions: (bool, bool),
    /// Cipher suites by their IANA names; all of the provider's where empty.
    pub(crate) cipher_suites: Vec<String>,
    /// Whether the certificate must be for the host that is spoken to.
    pub(crate) verify_hostname: bool,
    /// Who is trusted; the system's roots where `None`.
    pub(crate) trust_store: Option<SecurityStore>,
    /// Who we are, where brokers want to know.
    pub(crate) key_store: Option<SecurityStore>,
    pub(crate) key_password: Option<Secret>,
}

/// Where certificates or keys are.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) enum SecurityStore {
    /// In a file (PEM, PKCS#12 or JKS, told by content); the key in another one, perhaps.
    File { path: String, password: Option<Secret>, key_path: Option<String> },
    /// In the settings themselves, as PEM.
    Inline { certificates: Secret, key: Option<Secret> },
}

/// SASL, as the settings have it.
#[derive(Debug, Clone)]
pub(crate) struct SaslSettings {
    pub(crate) mechanism: SaslMechanism,
    /// Names and values that go along with an OAUTHBEARER token (KIP-342).
    pub(crate) extensions: Vec<(String, String)>,
    pub(crate) refresh: LoginRefresh,
}

/// When a token is fetched anew.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoginRefresh {
    /// After this part of its life …
    pub(crate) window_factor: f64,
    /// … and up to this part more, by chance.
    pub(crate) window_jitter: f64,
    /// But so long before its end at least,
    pub(crate) buffer: Duration,
    /// and so long after it was fetched, which weighs more.
    pub(crate) min_period: Duration,
}

/// How a client shows who it is.
#[derive(Debug, Clone)]
pub(crate) enum SaslMechanism {
    /// RFC 4616.
    Plain { user: String, password: Secret },
    /// RFC 5802 and 7677.
    Scram { hash: ScramHash, user: String, password: Secret, token_auth: bool },
    /// RFC 7628.
    OAuthBearer(TokenSource),
}

/// Which SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScramHash {
    Sha256,
    Sha512,
}

/// Where OAUTHBEARER tokens come from.
#[derive(Debug, Clone)]
pub(crate) enum TokenSource {
    /// The application's own, given to the builder.
    Provider,
    /// Made here and signed by nobody, for tests (RFC 7515 with `alg` none): claims as JSON members.
    Unsecured { claims: Vec<(String, TokenClaim)>, lifetime: Duration },
    /// Client credentials at a token endpoint (OpenID Connect).
    #[cfg_attr(not(feature = "oidc"), allow(dead_code))]
    Oidc(Box<OidcSettings>),
}

/// A claim of a token that is made here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenClaim {
    Text(String),
    Number(f64),
    List(Vec<String>),
}

/// Where and as whom tokens are fetched.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "oidc"), allow(dead_code))]
pub(crate) struct OidcSettings {
    pub(crate) token_endpoint_url: String,
    /// Who is trusted there.
    pub(crate) tls: TlsSettings,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    pub(crate) scope: Option<String>,
    /// Whether id and secret are URL-encoded before they go into the header (RFC 6749, 2.3.1).
    pub(crate) url_encode_header: bool,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) retry_backoff: (Duration, Duration),
}

impl SecuritySettings {
    pub(super) fn new(p: &Properties) -> Result<SecuritySettings, Error> {
        let protocol = p.get_str("security.protocol").to_ascii_uppercase();
        let (tls, sasl) = (protocol.ends_with("SSL"), protocol.starts_with("SASL"));
        if tls && cfg!(not(feature = "tls")) {
            return Err(Error::config(format!(
                "security.protocol={protocol} cannot be honoured: this build of ottla has no TLS; enable its \
                 feature tls-graviola, tls-ring or tls-aws-lc-rs"
            )));
        }
        Ok(SecuritySettings {
            tls: if tls { Some(TlsSettings::new(p)?) } else { None },
            sasl: if sasl { Some(SaslSettings::new(p)?) } else { None },
        })
    }
}

/// What was set for a protocol that is not spoken.
pub(super) fn unused_setting_warnings(p: &Properties) -> impl Iterator<Item = String> {
    let protocol = p.get_str("security.protocol").to_ascii_uppercase();
    let (tls, sasl) = (protocol.ends_with("SSL"), protocol.starts_with("SASL"));
    let url = p.get("sasl.oauthbearer.token.endpoint.url").unwrap_or_default();
    // A token endpoint is spoken to by TLS, whatever the brokers are.
    let tls = tls || (sasl && url.starts_with("https"));
    let idle = move |name: &str| {
        (name.starts_with("ssl.") && !tls) || (name.starts_with("sasl.") && !sasl)
    };
    (p.values.keys())
        .filter(move |name| idle(name))
        .filter(|name| find_setting(name).is_some_and(|s| s.support == Support::Supported))
        .map(move |name| format!("{name} has no effect with security.protocol={protocol}"))
}

impl TlsSettings {
    fn new(p: &Properties) -> Result<TlsSettings, Error> {
        let mut versions = (false, false);
        let list = p.get_str("ssl.enabled.protocols");
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match name {
                "TLSv1.2" => versions.0 = true,
                "TLSv1.3" => versions.1 = true,
                old @ ("TLSv1" | "TLSv1.1" | "SSLv3" | "SSLv2Hello") => {
                    return Err(Error::config(format!(
                        "ssl.enabled.protocols={list}: {old} is broken and not spoken here; TLSv1.2 and \
                         TLSv1.3 are"
                    )));
                }
                other => {
                    return Err(Error::config(format!(
                        "ssl.enabled.protocols={list}: {other} is not a protocol; TLSv1.2 and TLSv1.3 are"
                    )));
                }
            }
        }
        match p.get_str("ssl.protocol") {
            "TLSv1.3" | "TLS" | "SSL" | "" => {}
            // Java: the highest that may be spoken.
            "TLSv1.2" => versions.1 = false,
            other => {
                return Err(Error::config(format!(
                    "ssl.protocol={other} is not spoken here; TLSv1.2 and TLSv1.3 are"
                )));
            }
        }
        if versions == (false, false) {
            return Err(Error::config(
                "ssl.protocol and ssl.enabled.protocols leave no protocol to speak; allow TLSv1.2 or TLSv1.3",
            ));
        }
        let verify_name = match p.get_str("ssl.endpoint.identification.algorithm").trim() {
            "" | "none" => false,
            name if name.eq_ignore_ascii_case("https") => true,
            other => {
                return Err(Error::config(format!(
                    "ssl.endpoint.identification.algorithm={other} is neither https nor empty"
                )));
            }
        };
        let ciphers = p.get_str("ssl.cipher.suites").split(',').map(str::trim);
        Ok(TlsSettings {
            versions,
            cipher_suites: ciphers.filter(|c| !c.is_empty()).map(str::to_owned).collect(),
            verify_hostname: verify_name,
            trust_store: parse_trust_store(p)?,
            key_store: parse_key_store(p)?,
            key_password: p.get_secret("ssl.key.password"),
        })
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
            "ssl.keystore.location is set together with ssl.keystore.certificate.chain or ssl.keystore.key; \
             keep the file or the values",
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
                "ssl.key.location is set and ssl.keystore.location, its certificate, is not",
            )),
            None => Ok(None),
        },
        (None, Some(_), None) => {
            Err(Error::config("ssl.keystore.certificate.chain is set and ssl.keystore.key is not"))
        }
        (None, None, Some(_)) => {
            Err(Error::config("ssl.keystore.key is set and ssl.keystore.certificate.chain is not"))
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
        let user = || {
            let user = p.get_non_empty("sasl.username").or_else(|| login.option("username"));
            let password =
                p.get_secret("sasl.password").or_else(|| login.option("password").map(Secret::new));
            match (user, password) {
                (Some(user), Some(password)) => Ok((user.to_owned(), password)),
                (user, _) => Err(Error::config(format!(
                    "sasl.mechanism={name} needs a {}; set sasl.username and sasl.password, or sasl.jaas.config",
                    if user.is_none() { "username" } else { "password" }
                ))),
            }
        };
        let mechanism = match name.as_str() {
            "PLAIN" => {
                let (user, password) = user()?;
                if user.contains('\0') || password.reveal().contains('\0') {
                    return Err(Error::config(
                        "sasl.mechanism=PLAIN: a NUL cannot be in a name or password",
                    ));
                }
                SaslMechanism::Plain { user, password }
            }
            "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                let (user, password) = user()?;
                let hash =
                    if name.ends_with("256") { ScramHash::Sha256 } else { ScramHash::Sha512 };
                let token_auth = login.option("tokenauth").is_some_and(|v| v == "true");
                SaslMechanism::Scram { hash, user, password, token_auth }
            }
            "OAUTHBEARER" => SaslMechanism::OAuthBearer(parse_token_source(p, &login)?),
            "GSSAPI" => {
                return Err(Error::config(
                    "sasl.mechanism=GSSAPI (Kerberos; Kafka's default) cannot be honoured: there is no Kerberos \
                     in Rust alone; use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
                ));
            }
            other => {
                return Err(Error::config(format!(
                    "sasl.mechanism={other} is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"
                )));
            }
        };
        let extensions = login.extensions()?;
        let seconds =
            |name| Duration::from_secs(u64::try_from(p.get_i64(name)).unwrap_or_default());
        let refresh = LoginRefresh {
            window_factor: p.get_f64("sasl.login.refresh.window.factor"),
            window_jitter: p.get_f64("sasl.login.refresh.window.jitter"),
            buffer: seconds("sasl.login.refresh.buffer.seconds"),
            min_period: seconds("sasl.login.refresh.min.period.seconds"),
        };
        Ok(SaslSettings { mechanism, extensions, refresh })
    }

    /// As the handshake names it.
    pub(crate) fn mechanism_name(&self) -> &'static str {
        match &self.mechanism {
            SaslMechanism::Plain { .. } => "PLAIN",
            SaslMechanism::Scram { hash: ScramHash::Sha256, .. } => "SCRAM-SHA-256",
            SaslMechanism::Scram { hash: ScramHash::Sha512, .. } => "SCRAM-SHA-512",
            SaslMechanism::OAuthBearer(_) => "OAUTHBEARER",
        }
    }
}

fn parse_token_source(p: &Properties, login: &JaasConfig) -> Result<TokenSource, Error> {
    if let Some(url) = p.get_non_empty("sasl.oauthbearer.token.endpoint.url") {
        if cfg!(not(feature = "oidc")) {
            return Err(Error::config(
                "sasl.oauthbearer.token.endpoint.url cannot be honoured: this build of ottla has no HTTP client; \
                 enable its feature oidc",
            ));
        }
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(Error::config(format!(
                "sasl.oauthbearer.token.endpoint.url={url} is not an http or https address"
            )));
        }
        if url.split('/').nth(2).is_some_and(|host| host.contains('@')) {
            return Err(Error::config(
                "sasl.oauthbearer.token.endpoint.url has a name or password in it; set \
                 sasl.oauthbearer.client.credentials.client.id and .client.secret instead",
            ));
        }
        let pick = |name: &str, old: &str| {
            p.get_non_empty(name).or_else(|| login.option(old)).map(str::to_owned).ok_or_else(
                || {
                    Error::config(format!(
                        "sasl.mechanism=OAUTHBEARER with a token endpoint needs {name}"
                    ))
                },
            )
        };
        let ms = |name| p.get(name).map(|_| p.get_duration_ms(name));
        return Ok(TokenSource::Oidc(Box::new(OidcSettings {
            token_endpoint_url: url.to_owned(),
            tls: TlsSettings::new(p)?,
            client_id: pick("sasl.oauthbearer.client.credentials.client.id", "clientid")?,
            client_secret: Secret::new(pick(
                "sasl.oauthbearer.client.credentials.client.secret",
                "clientsecret",
            )?),
            scope: p
                .get_non_empty("sasl.oauthbearer.scope")
                .or_else(|| login.option("scope"))
                .map(str::to_owned),
            url_encode_header: p.get_bool("sasl.oauthbearer.header.urlencode"),
            connect_timeout: ms("sasl.login.connect.timeout.ms"),
            read_timeout: ms("sasl.login.read.timeout.ms"),
            retry_backoff: (
                p.get_duration_ms("sasl.login.retry.backoff.ms"),
                p.get_duration_ms("sasl.login.retry.backoff.max.ms"),
            ),
        })));
    }
    let (claims, lifetime) = login.unsecured_claims()?;
    if claims.is_empty() {
        return Ok(TokenSource::Provider);
    }
    Ok(TokenSource::Unsecured { claims, lifetime })
}
