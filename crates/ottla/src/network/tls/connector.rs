//! Creates TLS sessions from the settings and their files.
//!
//! The producer's builder creates the [`TlsConnector`], which reads all files. The client's
//! `Authenticator` reloads changed files before each connection and then creates its session.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion, version};

use super::keystore;
use super::verifier::{CertificateVerifier, TrustedCertificates};
use super::{Received, TLS_BUFFER_LIMIT, TlsSession};
use crate::config::security::{SecurityStore, TlsSettings, TlsVersions};
use crate::env::Env;
use crate::error::Error;

/// Creates the TLS sessions of a producer's connections.
pub(crate) struct TlsConnector {
    settings: TlsSettings,
    env: Arc<dyn Env>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<LoadedConfig>,
}

/// The configuration of new sessions, read from settings and files.
struct LoadedConfig {
    config: Arc<ClientConfig>,
    verifier: Arc<CertificateVerifier>,
    /// Of each file in the settings when it was read; `None` for a file that did not exist.
    file_stamps: Vec<Option<FileStamp>>,
}

/// The part of a file's metadata that changes with its content.
#[derive(PartialEq, Eq)]
struct FileStamp {
    modified: SystemTime,
    len: u64,
}

impl FileStamp {
    fn read(path: &str) -> Option<FileStamp> {
        // A pipe can be read only once, so it does not change.
        let metadata = fs::metadata(path).ok().filter(|m| m.is_file() || m.is_dir())?;
        Some(FileStamp { modified: metadata.modified().ok()?, len: metadata.len() })
    }
}

impl TlsConnector {
    /// Creates a connector and reads all files.
    ///
    /// # Errors
    /// A file or setting is not usable, or this build has no TLS provider. The error names the
    /// setting.
    pub(crate) fn new(settings: TlsSettings, env: Arc<dyn Env>) -> Result<TlsConnector, Error> {
        let provider = restrict_cipher_suites(crypto_provider()?, &settings)?;
        let current = ArcSwap::from_pointee(load_config(&settings, &provider, &env)?);
        Ok(TlsConnector { settings, env, provider, current })
    }

    /// Returns whether the settings name files, which may change.
    pub(crate) fn has_files(&self) -> bool {
        !self.current.load().file_stamps.is_empty()
    }

    /// Reads all files again if one has changed, for the sessions that are created afterwards. If a
    /// file is not usable, the connector logs a warning and keeps the old configuration. Reads
    /// files, so it may block; a worker thread calls it.
    pub(crate) fn reload_if_changed(&self) {
        if file_stamps(&self.settings) == self.current.load().file_stamps {
            return;
        }
        match load_config(&self.settings, &self.provider, &self.env) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                tracing::info!(
                    name: "ottla.certificates_reloaded",
                    target: "ottla::connection",
                    "reloaded changed certificate files"
                );
            }
            Err(e) => {
                tracing::warn!(
                    name: "ottla.certificates_not_reloaded",
                    target: "ottla::connection",
                    "reloading certificate files failed, the old ones stay: {e}"
                );
            }
        }
    }

    /// Creates a session with this host.
    ///
    /// # Errors
    /// `host` is neither a host name nor an IP address, so no certificate can name it.
    pub(crate) fn create_session(&self, host: &str) -> Result<TlsSession, String> {
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|_| format!("{host} is not a host name that a certificate can name"))?;
        let current = self.current.load();
        let mut conn = ClientConnection::new(current.config.clone(), name)
            .map_err(|e| format!("TLS session cannot be created: {e}"))?;
        conn.set_buffer_limit(Some(TLS_BUFFER_LIMIT));
        let verifier = current.verifier.clone();
        Ok(TlsSession { conn, verifier, host: host.to_owned(), received: Received::Nothing })
    }

    /// Returns the configuration of new sessions, for a client that creates its own.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        self.current.load().config.clone()
    }

    /// Returns the trusted certificates, for the HTTP client of the token endpoint.
    #[cfg(feature = "oidc")]
    pub(crate) fn load_root_certificates(
        settings: &TlsSettings,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        load_trusted_certificates(settings)
    }
}

/// Returns the cryptography for TLS: the rustls provider that the application installed, or else
/// the one of this build.
pub(crate) fn crypto_provider() -> Result<Arc<CryptoProvider>, Error> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Ok(installed.clone());
    }
    #[cfg(feature = "tls-aws-lc-rs")]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc-rs")))]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(
        feature = "tls-graviola",
        not(any(feature = "tls-ring", feature = "tls-aws-lc-rs"))
    ))]
    return match is_graviola_supported() {
        true => Ok(Arc::new(rustls_graviola::default_provider())),
        false => Err(Error::config(
            "TLS is not available: this build's provider, graviola, needs a CPU with AES, AVX2, \
             BMI1, ADX and PCLMULQDQ (or an AArch64 with AES, PMULL and SHA-2); build with the \
             feature tls-ring instead",
        )),
    };
    #[cfg(not(any(feature = "tls-graviola", feature = "tls-ring", feature = "tls-aws-lc-rs")))]
    return Err(Error::config(
        "TLS is not available: this build has no TLS provider; enable one of the features \
         tls-graviola, tls-ring and tls-aws-lc-rs, or install a rustls provider before the \
         producer is built",
    ));
}

/// Returns whether this CPU has the instructions that graviola needs. Graviola panics without them.
#[cfg(all(feature = "tls-graviola", not(any(feature = "tls-ring", feature = "tls-aws-lc-rs"))))]
fn is_graviola_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("adx")
        && std::arch::is_x86_feature_detected!("avx")
        && std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("ssse3");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Returns the provider with only the cipher suites in `ssl.cipher.suites`. Empty allows all.
fn restrict_cipher_suites(
    provider: Arc<CryptoProvider>,
    settings: &TlsSettings,
) -> Result<Arc<CryptoProvider>, Error> {
    if settings.cipher_suites.is_empty() {
        return Ok(provider);
    }
    // IANA and Java have no own prefix for the suites of TLS 1.3; rustls has.
    let iana_name = |s: &rustls::SupportedCipherSuite| {
        s.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_")
    };
    let mut restricted = (*provider).clone();
    restricted.cipher_suites.retain(|s| settings.cipher_suites.contains(&iana_name(s)));
    if restricted.cipher_suites.is_empty() {
        let available: Vec<String> = provider.cipher_suites.iter().map(iana_name).collect();
        return Err(Error::config(format!(
            "ssl.cipher.suites={} names no available suite; use one of {}",
            settings.cipher_suites.join(","),
            available.join(", ")
        )));
    }
    Ok(Arc::new(restricted))
}

fn load_config(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    env: &Arc<dyn Env>,
) -> Result<LoadedConfig, Error> {
    // Taken before the files are read: a change in between differs from the stamps and is found the
    // next time.
    let file_stamps = file_stamps(settings);
    let verifier = create_verifier(settings, provider)?;
    let clock = Arc::new(EnvTimeProvider(env.clone()));
    let builder = ClientConfig::builder_with_details(provider.clone(), clock)
        .with_protocol_versions(&protocol_versions(settings.versions))
        .map_err(|e| {
            Error::config(format!(
                "ssl.enabled.protocols and ssl.cipher.suites fit no TLS version together: {e}"
            ))
        })?
        // "Dangerous" is any verifier but rustls's own; ours calls it.
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let config = match &settings.key_store {
        Some(store) => {
            let key_password = settings.key_password.as_ref();
            let key = keystore::load_identity(store, key_password, provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    Ok(LoadedConfig { config: Arc::new(config), verifier, file_stamps })
}

fn create_verifier(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<CertificateVerifier>, Error> {
    let trusted = TrustedCertificates::new(load_trusted_certificates(settings)?);
    if trusted.is_empty() {
        let source = match &settings.trust_store {
            Some(SecurityStore::File { path, .. }) => format!("ssl.truststore.location={path}"),
            Some(SecurityStore::Inline { .. }) => "ssl.truststore.certificates".to_owned(),
            None => "the system's store (ssl.truststore.location is not set)".to_owned(),
        };
        return Err(Error::config(format!("{source} contains no certificate that can be trusted")));
    }
    if trusted.unusable > 0 {
        tracing::warn!(
            name: "ottla.certificates_ignored",
            target: "ottla::connection",
            ignored = trusted.unusable,
            "ignoring trusted certificates that cannot be parsed"
        );
    }
    Ok(Arc::new(CertificateVerifier::new(trusted, provider, settings.verify_hostname)))
}

fn protocol_versions(versions: TlsVersions) -> Vec<&'static SupportedProtocolVersion> {
    [(versions.tls13, &version::TLS13), (versions.tls12, &version::TLS12)]
        .into_iter()
        .filter_map(|(is_enabled, version)| is_enabled.then_some(version))
        .collect()
}

fn load_trusted_certificates(
    settings: &TlsSettings,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    match &settings.trust_store {
        Some(store) => keystore::load_certificates(store),
        None => Ok(keystore::load_system_certificates()),
    }
}

/// Returns a stamp for each file in the settings, in a fixed order; empty if there are no files.
fn file_stamps(settings: &TlsSettings) -> Vec<Option<FileStamp>> {
    let mut stamps = Vec::new();
    for store in [&settings.trust_store, &settings.key_store].into_iter().flatten() {
        let SecurityStore::File { path, key_path, .. } = store else { continue };
        for path in [Some(path), key_path.as_ref()].into_iter().flatten() {
            stamps.push(FileStamp::read(path));
        }
        // Files may change without a change of their directory.
        if let Ok(files) = keystore::directory_files(path) {
            stamps.extend(files.iter().map(|f| FileStamp::read(&f.display().to_string())));
        }
    }
    stamps
}

/// Gives rustls the producer's wall clock, which a simulation controls.
struct EnvTimeProvider(Arc<dyn Env>);

impl std::fmt::Debug for EnvTimeProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnvTimeProvider")
    }
}

impl TimeProvider for EnvTimeProvider {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = u64::try_from(self.0.wall_clock_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// With `<(command)` in a shell, the file is a pipe: the second read would find it empty.
    #[test]
    fn pipe_counts_as_a_file_that_does_not_change() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(FileStamp::read(&format!("/dev/fd/{}", reader.as_raw_fd())).is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(FileStamp::read(&file.path().display().to_string()).is_some());
    }
}
