//! Where sessions come from: settings and files become a configuration, which is made anew when a file changes.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, SupportedProtocolVersion, version,
};

use super::keystore::{self, ClientIdentity};
use super::{CIPHERTEXT_BUFFER_LIMIT, TlsSession};
use crate::config::security::{SecurityStore, TlsSettings};
use crate::error::Error;
use crate::sync::Mutex;
use crate::time::Env;

/// Makes sessions.
pub(crate) struct TlsConnector {
    settings: TlsSettings,
    env: Arc<dyn Env>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<LoadedConfig>,
}

struct LoadedConfig {
    config: Arc<ClientConfig>,
    verifier: Arc<CertificateVerifier>,
    /// What the files were like when they were read.
    file_stamps: Vec<Option<(SystemTime, u64)>>,
}

impl TlsConnector {
    /// Reads all files.
    ///
    /// # Errors
    /// Whatever is wrong with them, by the setting's name.
    pub(crate) fn new(settings: TlsSettings, env: Arc<dyn Env>) -> Result<TlsConnector, Error> {
        let provider = restrict_cipher_suites(crypto_provider()?, &settings)?;
        let current = ArcSwap::from_pointee(load_config(&settings, &provider, &env)?);
        Ok(TlsConnector { settings, env, provider, current })
    }

    /// Whether there are files that may change.
    pub(crate) fn has_files(&self) -> bool {
        !self.current.load().file_stamps.is_empty()
    }

    /// Reads the files again if they are not what they were; may take a while. What cannot be used leaves the
    /// sessions as they are.
    pub(crate) fn reload_if_changed(&self) {
        if file_stamps(&self.settings) == self.current.load().file_stamps {
            return;
        }
        match load_config(&self.settings, &self.provider, &self.env) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                tracing::info!("certificates were changed and read again");
            }
            Err(e) => tracing::warn!("changed certificates cannot be used: {e}; the old ones stay"),
        }
    }

    /// A session with this host.
    ///
    /// # Errors
    /// When it has no name that TLS can check.
    pub(crate) fn create_session(&self, host: &str) -> Result<TlsSession, String> {
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned());
        let name = name.map_err(|_| format!("{host} is not a host name that TLS can check"))?;
        let current = self.current.load();
        let mut conn = ClientConnection::new(current.config.clone(), name)
            .map_err(|e| format!("TLS cannot begin: {e}"))?;
        conn.set_buffer_limit(Some(CIPHERTEXT_BUFFER_LIMIT));
        let verifier = current.verifier.clone();
        Ok(TlsSession { conn, verifier, host: host.to_owned(), has_received_data: false })
    }

    /// Certificates that are trusted, for others who speak TLS on this producer's behalf.
    #[cfg(feature = "oidc")]
    pub(crate) fn load_root_certificates(
        settings: &TlsSettings,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        load_trusted_certificates(settings)
    }
}

/// The cryptography: what the application installed, else what this build has.
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
            "TLS cannot be had: the provider of this build, graviola, needs a CPU with AES, AVX2, BMI1, ADX and \
             PCLMULQDQ (or an AArch64 with AES, PMULL and SHA-2); build with the feature tls-ring instead",
        )),
    };
    #[cfg(not(any(feature = "tls-graviola", feature = "tls-ring", feature = "tls-aws-lc-rs")))]
    return Err(Error::config(
        "TLS cannot be had: this build has no provider of its cryptography; enable one of the features \
         tls-graviola, tls-ring, tls-aws-lc-rs, or install a rustls provider before the producer is built",
    ));
}

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

/// The provider, with the suites that are wanted.
fn restrict_cipher_suites(
    provider: Arc<CryptoProvider>,
    settings: &TlsSettings,
) -> Result<Arc<CryptoProvider>, Error> {
    if settings.cipher_suites.is_empty() {
        return Ok(provider);
    }
    let mut some = (*provider).clone();
    let name = |s: &rustls::SupportedCipherSuite| {
        // As IANA and Java have them; rustls marks those of 1.3.
        s.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_")
    };
    some.cipher_suites.retain(|s| settings.cipher_suites.contains(&name(s)));
    if some.cipher_suites.is_empty() {
        let all: Vec<String> = provider.cipher_suites.iter().map(name).collect();
        return Err(Error::config(format!(
            "ssl.cipher.suites={} names none that can be spoken; there are {}",
            settings.cipher_suites.join(","),
            all.join(", ")
        )));
    }
    Ok(Arc::new(some))
}

fn load_config(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    env: &Arc<dyn Env>,
) -> Result<LoadedConfig, Error> {
    // Before they are read: a change in between is seen the next time.
    let marks = file_stamps(settings);
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(load_trusted_certificates(settings)?);
    if added == 0 {
        let from = match &settings.trust_store {
            Some(SecurityStore::File { path, .. }) => format!("ssl.truststore.location={path}"),
            Some(SecurityStore::Inline { .. }) => "ssl.truststore.certificates".to_owned(),
            None => "the system's store (ssl.truststore.location is not set)".to_owned(),
        };
        return Err(Error::config(format!("{from} has no certificate that can be trusted")));
    }
    if ignored > 0 {
        tracing::warn!(ignored, "certificates to be trusted cannot be read and are left out");
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let inner = inner
        .build()
        .map_err(|e| Error::config(format!("the trusted certificates cannot be used: {e}")))?;
    let verify_name = settings.verify_hostname;
    let verifier = Arc::new(CertificateVerifier {
        inner,
        verify_hostname: verify_name,
        rejected_certificate: Mutex::new(None),
    });
    let versions: Vec<&SupportedProtocolVersion> =
        [(settings.versions.1, &version::TLS13), (settings.versions.0, &version::TLS12)]
            .into_iter()
            .filter_map(|(spoken, version)| spoken.then_some(version))
            .collect();
    let clock = Arc::new(EnvTimeProvider(env.clone()));
    let builder = ClientConfig::builder_with_details(provider.clone(), clock)
        .with_protocol_versions(&versions)
        .map_err(|e| {
            Error::config(format!(
                "ssl.enabled.protocols and ssl.cipher.suites leave nothing to speak: {e}"
            ))
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let identity = match &settings.key_store {
        Some(store) => Some(keystore::load_identity(store, settings.key_password.as_ref())?),
        None => None,
    };
    let config = match identity {
        Some(ClientIdentity { chain, key }) => {
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                Error::config(format!(
                    "ssl.keystore: certificate and key cannot be used together: {e}"
                ))
            })?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(LoadedConfig { config: Arc::new(config), verifier, file_stamps: marks })
}

fn load_trusted_certificates(
    settings: &TlsSettings,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    match &settings.trust_store {
        Some(store) => keystore::load_certificates(store),
        None => {
            let found = rustls_native_certs::load_native_certs();
            for e in &found.errors {
                tracing::warn!("of the system's certificates, some cannot be read: {e}");
            }
            Ok(found.certs)
        }
    }
}

/// Time and length of every file there is in the settings; nothing where there are none.
fn file_stamps(settings: &TlsSettings) -> Vec<Option<(SystemTime, u64)>> {
    let mut out = Vec::new();
    for store in [&settings.trust_store, &settings.key_store].into_iter().flatten() {
        let SecurityStore::File { path, key_path, .. } = store else { continue };
        for path in [Some(path), key_path.as_ref()].into_iter().flatten() {
            let meta = fs::metadata(path).ok();
            out.push(meta.and_then(|m| Some((m.modified().ok()?, m.len()))));
        }
    }
    out
}

/// The producer's wall clock.
struct EnvTimeProvider(Arc<dyn Env>);

impl std::fmt::Debug for EnvTimeProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for EnvTimeProvider {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = u64::try_from(self.0.wall_clock_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

/// Judges certificates, and keeps the one it refused, so that the error can say what it was.
#[derive(Debug)]
pub(super) struct CertificateVerifier {
    inner: Arc<WebPkiServerVerifier>,
    verify_hostname: bool,
    rejected_certificate: Mutex<Option<Vec<u8>>>,
}

impl CertificateVerifier {
    /// The certificate that was refused last, once.
    pub(super) fn take_rejected_certificate(&self) -> Option<Vec<u8>> {
        self.rejected_certificate.lock().take()
    }
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last, when all else is well.
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) if !self.verify_hostname => Ok(ServerCertVerified::assertion()),
            Err(e) => {
                *self.rejected_certificate.lock() = Some(end_entity.to_vec());
                Err(e)
            }
            ok => ok,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
