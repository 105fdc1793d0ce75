//! Reads certificates and keys from files and settings, for the connector.
//!
//! The content decides the format of a file; `ssl.*.type` does not. Java's default type is JKS,
//! while `keytool` creates PKCS#12 files by default, so the setting is often wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::asn1::{Element, Elements, SEQUENCE};
use super::decryption::{StoreError, decrypt_traditional};
use super::pem::{PemBlock, decode_text, parse_pem};
use super::private_key::{KeyEntry, parse_der_key};
use super::public_key::is_certificate;
use super::store_format::{StoreFormat, detect_format, is_base64_of_store};
use super::{jks, pkcs12};
use crate::config::files;
use crate::config::secret::Secret;
use crate::config::security::SecurityStore;
use crate::error::Error;

fn read_file(setting: &str, path: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let content = files::read_file(path)
        .map_err(|e| Error::config(format!("{setting}={path} cannot be read: {e}")))?;
    if content.trim_ascii().is_empty() {
        return Err(Error::config(format!("{setting}={path}: the file is empty")));
    }
    Ok(content)
}

/// A store's setting and value for messages, and the setting of its password.
struct Source {
    /// Such as `ssl.keystore.location=client.p12`.
    location: String,
    path: String,
    password_setting: &'static str,
}

impl Source {
    fn error(&self, reason: impl AsRef<str>) -> Error {
        Error::config(format!("{}: {}", self.location, reason.as_ref()))
    }

    /// Explains why a store or a key in it cannot be decrypted with this password.
    fn store_error(&self, e: StoreError, password: Option<&Secret>, conversion: &str) -> Error {
        let setting = self.password_setting;
        match e {
            StoreError::WrongPassword if password.is_none() => {
                self.error(format!("it is encrypted and {setting} is not set"))
            }
            StoreError::WrongPassword => {
                self.error(format!("the password is wrong; check {setting}"))
            }
            StoreError::Unsupported(algorithm) => self.error(format!(
                "its encryption, {algorithm}, is not supported; convert it: {conversion}"
            )),
            StoreError::Malformed(reason) => self.error(reason),
        }
    }

    /// The command that converts a PKCS#12 file to PEM.
    fn pkcs12_conversion(&self) -> String {
        let path = &self.path;
        format!(
            "openssl pkcs12 -legacy -in {path} -out {path}.pem (before OpenSSL 3 without -legacy), \
             then use {path}.pem"
        )
    }

    /// The command that encrypts a key with a supported cipher.
    fn key_conversion(&self) -> String {
        format!(
            "openssl pkcs8 -topk8 -v2 aes-256-cbc -in {0} -out {0}.pk8 (for old ciphers, OpenSSL 3 \
             needs -provider legacy -provider default)",
            self.path
        )
    }

    fn unsupported_format(&self, format: StoreFormat) -> Error {
        let path = &self.path;
        let to_pkcs12 =
            format!("-srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12");
        match format {
            StoreFormat::Jceks => self.error(format!(
                "it is a JCEKS file, which this client cannot read; convert it: keytool \
                 -importkeystore -srcstoretype JCEKS {to_pkcs12}"
            )),
            StoreFormat::Bks => self.error(format!(
                "it is a BKS file of Bouncy Castle, which this client cannot read; convert it: \
                 keytool -importkeystore -srcstoretype BKS {to_pkcs12} -providerclass \
                 org.bouncycastle.jce.provider.BouncyCastleProvider -providerpath bcprov.jar"
            )),
            StoreFormat::Pkcs7 => self.error(format!(
                "it is a PKCS#7 file, which this client cannot read; convert it: openssl pkcs7 \
                 -print_certs -inform DER -in {path} -out {path}.pem"
            )),
            StoreFormat::Base64 => self.error(format!(
                "it is base64, as in the data of a Kubernetes Secret; decode it: base64 -d {path}"
            )),
            StoreFormat::DamagedDer => self.error(
                "it begins like a file in DER (PKCS#12, certificate or key), but is truncated or \
                 damaged",
            ),
            StoreFormat::KeyDer | StoreFormat::EncryptedKeyDer => self.error(
                "it is a private key in DER, without a certificate; the file with the key is \
                 ssl.key.location",
            ),
            _ => self.error("it is not a PEM, DER, PKCS#12 or JKS file"),
        }
    }
}

/// Returns the certificates of a trust store.
///
/// The path may also be a directory with PEM files, or `probe` for the operating system's store, as
/// for librdkafka's `ssl.ca.location`.
pub(super) fn load_certificates(
    store: &SecurityStore,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let path = match store {
        SecurityStore::Inline { certificates, .. } => {
            let location = "ssl.truststore.certificates".to_owned();
            let source = Source { location, path: "FILE".into(), password_setting: "" };
            return parse_pem_certificates(&source, certificates.reveal());
        }
        SecurityStore::File { path, .. } if is_probe(path) => return Ok(load_system_certificates()),
        SecurityStore::File { path, .. } => path,
    };
    if Path::new(path).is_dir() {
        return load_directory(path);
    }
    let SecurityStore::File { password, .. } = store else { return Ok(Vec::new()) };
    let setting = "ssl.truststore.location";
    let bytes = read_file(setting, path)?;
    let source = Source {
        location: format!("{setting}={path}"),
        path: path.clone(),
        password_setting: "ssl.truststore.password",
    };
    let text = password.as_ref().map(Secret::reveal);
    let trusted: Vec<Vec<u8>> = match detect_format(&bytes) {
        StoreFormat::Pem => return parse_pem_certificates(&source, &decode_text(&bytes)),
        StoreFormat::CertificateDer => return Ok(parse_der_certificates(&bytes)),
        StoreFormat::Jks => {
            let store = jks::parse(&bytes, text);
            let store = store.map_err(|e| source.store_error(e, password.as_ref(), ""))?;
            store.into_trusted()
        }
        StoreFormat::Pkcs12 => {
            let store = pkcs12::parse(&bytes, text.unwrap_or_default()).map_err(|e| {
                source.store_error(e, password.as_ref(), &source.pkcs12_conversion())
            })?;
            store.into_trusted()
        }
        format => return Err(source.unsupported_format(format)),
    };
    Ok(trusted.into_iter().map(CertificateDer::from).collect())
}

/// Whether a path means the operating system's store. A file with this name wins.
pub(super) fn is_probe(path: &str) -> bool {
    path == "probe" && !Path::new(path).exists()
}

/// Returns the certificates that the operating system trusts, from its usual paths.
pub(super) fn load_system_certificates() -> Vec<CertificateDer<'static>> {
    let loaded = rustls_native_certs::load_native_certs();
    for e in &loaded.errors {
        tracing::warn!(
            name: "ottla.certificates_ignored",
            target: "ottla::connection",
            "some certificates of the operating system cannot be read: {e}"
        );
    }
    loaded.certs
}

/// Returns the certificates of all PEM files in a directory. Other files are ignored, as OpenSSL
/// ignores those whose name is no hash. Several names often lead to one file, so a certificate may
/// occur more than once.
fn load_directory(path: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let setting = "ssl.truststore.location";
    let mut certificates = Vec::new();
    for file in directory_files(path)
        .map_err(|e| Error::config(format!("{setting}={path} cannot be read: {e}")))?
    {
        let name = file.display().to_string();
        let source =
            Source { location: format!("{setting}={name}"), path: name, password_setting: "" };
        let loaded =
            read_file(setting, &source.path).and_then(|bytes| match detect_format(&bytes) {
                StoreFormat::Pem => parse_pem_certificates(&source, &decode_text(&bytes)),
                StoreFormat::CertificateDer => Ok(parse_der_certificates(&bytes)),
                _ => Ok(Vec::new()),
            });
        match loaded {
            Ok(loaded) => certificates.extend(loaded),
            Err(e) => tracing::debug!("ignoring a file: {e}"),
        }
    }
    if certificates.is_empty() {
        return Err(Error::config(format!(
            "{setting}={path} is a directory without a PEM file that has a certificate"
        )));
    }
    Ok(certificates)
}

/// Returns the files of a directory, sorted. Links to files count.
pub(super) fn directory_files(path: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the client's key with its certificate and the issuers of it.
pub(super) fn load_identity(
    store: &SecurityStore,
    key_password: Option<&Secret>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    let (location, entries) = match store {
        SecurityStore::Inline { certificates, key } => {
            let source = |name: &str| Source {
                location: name.to_owned(),
                path: "FILE".to_owned(),
                password_setting: "ssl.key.password",
            };
            let chain = source("ssl.keystore.certificate.chain");
            let certificates = parse_pem_certificates(&chain, certificates.reveal())?;
            let key = key.as_ref().map_or("", Secret::reveal);
            let key = parse_pem_key(&source("ssl.keystore.key"), key, key_password)?;
            ("ssl.keystore.key".to_owned(), vec![KeyEntry { key, certificates }])
        }
        SecurityStore::File { path, password, key_path } => {
            let location = format!("ssl.keystore.location={path}");
            let passwords = Passwords { store: password.as_ref(), key: key_password };
            (location, load_key_entries(path, passwords, key_path.as_deref())?)
        }
    };
    let mut error = "it contains no key".to_owned();
    // Java picks the key that fits the broker's request; this client uses the first usable one.
    for entry in &entries {
        match entry.certify(provider) {
            Ok(certified) => return Ok(certified),
            Err(e) => error = e,
        }
    }
    Err(Error::config(format!("{location}: {error}")))
}

/// The passwords of a key store.
#[derive(Clone, Copy)]
struct Passwords<'p> {
    store: Option<&'p Secret>,
    key: Option<&'p Secret>,
}

impl<'p> Passwords<'p> {
    /// The passwords that may open a key: its own, or else the store's.
    fn for_key(self) -> impl Iterator<Item = &'p str> {
        [self.key, self.store].into_iter().flatten().map(Secret::reveal)
    }
}

/// Reads the keys of a key store, each with the certificates that may belong to it.
fn load_key_entries(
    path: &str,
    passwords: Passwords<'_>,
    key_path: Option<&str>,
) -> Result<Vec<KeyEntry>, Error> {
    let setting = "ssl.keystore.location";
    let bytes = read_file(setting, path)?;
    let source = Source {
        location: format!("{setting}={path}"),
        path: path.to_owned(),
        password_setting: "ssl.keystore.password",
    };
    let store_password = passwords.store.map(Secret::reveal);
    match detect_format(&bytes) {
        StoreFormat::Pem => {
            let text = decode_text(&bytes);
            let certificates = parse_pem_certificates(&source, &text)?;
            let key = load_pem_key(source, &text, passwords, key_path)?;
            Ok(vec![KeyEntry { key, certificates }])
        }
        StoreFormat::CertificateDer => {
            let certificates = parse_der_certificates(&bytes);
            let key = load_pem_key(source, "", passwords, key_path)?;
            Ok(vec![KeyEntry { key, certificates }])
        }
        StoreFormat::Jks => {
            let store = jks::parse(&bytes, store_password)
                .map_err(|e| source.store_error(e, passwords.store, ""))?;
            let entry = |key: &jks::JksKey| {
                let der =
                    decrypt_store_key(&source, passwords, true, |password| key.decrypt(password))?;
                Ok(key_entry(der, key.certificates.clone()))
            };
            store.keys.iter().map(entry).collect()
        }
        StoreFormat::Pkcs12 => {
            let store = pkcs12::parse(&bytes, store_password.unwrap_or_default())
                .map_err(|e| source.store_error(e, passwords.store, &source.pkcs12_conversion()))?;
            let entry = |key: &pkcs12::Pkcs12Key| {
                let der =
                    decrypt_store_key(&source, passwords, store.is_password_checked, |password| {
                        key.decrypt(password)
                    })?;
                Ok(key_entry(der, store.chain_of(key)))
            };
            store.keys.iter().map(entry).collect()
        }
        format => Err(source.unsupported_format(format)),
    }
}

fn key_entry(der: Zeroizing<Vec<u8>>, certificates: Vec<Vec<u8>>) -> KeyEntry {
    let key = PrivateKeyDer::Pkcs8(der.to_vec().into());
    KeyEntry { key, certificates: certificates.into_iter().map(CertificateDer::from).collect() }
}

/// Decrypts a key of a store with the first password that fits. `is_checked`: the store's own
/// password is known to be right.
fn decrypt_store_key(
    source: &Source,
    passwords: Passwords<'_>,
    is_checked: bool,
    decrypt: impl Fn(&str) -> Result<Zeroizing<Vec<u8>>, StoreError>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    for password in passwords.for_key().chain([""]) {
        match decrypt(password) {
            Err(StoreError::WrongPassword) => {}
            Err(e) => return Err(source.store_error(e, None, &source.pkcs12_conversion())),
            Ok(key) => return Ok(key),
        }
    }
    Err(source.error(match (passwords.key, passwords.store) {
        (Some(_), _) => "the key's password is wrong; check ssl.key.password",
        (None, Some(_)) if !is_checked => "the password is wrong; check ssl.keystore.password",
        (None, Some(_)) => {
            "the key has another password than the store; set ssl.key.password to the key's \
             password"
        }
        (None, None) => "the key is encrypted; set ssl.keystore.password, or ssl.key.password",
    }))
}

/// Returns the key from the file `key_path`, or else from the text of the key store itself.
fn load_pem_key(
    source: Source,
    text: &str,
    passwords: Passwords<'_>,
    key_path: Option<&str>,
) -> Result<PrivateKeyDer<'static>, Error> {
    // A file with one password for everything has it in `ssl.keystore.password`.
    let password = passwords.key.or(passwords.store);
    let source = Source { password_setting: "ssl.key.password", ..source };
    let Some(key_path) = key_path else {
        if !text.contains("PRIVATE KEY-----") {
            return Err(source.error(
                "it contains no private key; add the key to the file, or set ssl.key.location",
            ));
        }
        return parse_pem_key(&source, text, password);
    };
    let setting = "ssl.key.location";
    let bytes = read_file(setting, key_path)?;
    let source = Source {
        location: format!("{setting}={key_path}"),
        path: key_path.to_owned(),
        password_setting: "ssl.key.password",
    };
    match detect_format(&bytes) {
        StoreFormat::Pem => parse_pem_key(&source, &decode_text(&bytes), password),
        StoreFormat::EncryptedKeyDer => decrypt_pkcs8(&source, &bytes, password),
        StoreFormat::KeyDer => parse_der_key(&bytes)
            .ok_or_else(|| source.error("the key is not in PKCS#8, PKCS#1 or SEC 1")),
        StoreFormat::CertificateDer => Err(source.error("it is a certificate, not a private key")),
        StoreFormat::Pkcs12 | StoreFormat::Jks => Err(source.error(
            "it is a store with key and certificate; set it as ssl.keystore.location, without \
             ssl.key.location",
        )),
        format => Err(source.unsupported_format(format)),
    }
}

fn parse_der_certificates(bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    let certificates = Elements { remaining: bytes }.filter(is_certificate);
    certificates.map(|c| c.raw().to_vec().into()).collect()
}

fn parse_pem_certificates(
    source: &Source,
    text: &str,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let blocks = parse_pem(text).map_err(|reason| source.error(reason))?;
    let certificates: Vec<CertificateDer<'static>> = blocks
        .iter()
        .filter(|block| {
            let label = block.label.as_str();
            matches!(label, "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE")
        })
        // A trusted certificate of OpenSSL has settings of OpenSSL behind the certificate.
        .filter_map(|block| Some(Element::parse(&block.der)?.raw().to_vec().into()))
        .collect();
    if certificates.is_empty() {
        let path = &source.path;
        return Err(match blocks.iter().map(|block| block.label.as_str()).next() {
            Some("PKCS7" | "CMS") => source.error(format!(
                "it is a PKCS#7 file, which this client cannot read; convert it: openssl pkcs7 \
                 -print_certs -in {path} -out {path}.pem"
            )),
            Some(label) => source.error(format!(
                "it contains no certificate (-----BEGIN CERTIFICATE-----) but {label}"
            )),
            None if is_base64_of_store(text) => source.unsupported_format(StoreFormat::Base64),
            None => source.error("it contains no certificate (-----BEGIN CERTIFICATE-----)"),
        });
    }
    Ok(certificates)
}

/// Returns the first private key of a PEM text, decrypted.
fn parse_pem_key(
    source: &Source,
    text: &str,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, Error> {
    let blocks = parse_pem(text).map_err(|reason| source.error(reason))?;
    match blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")) {
        Some(block) => parse_key_block(source, block, password),
        None if is_base64_of_store(text) => Err(source.unsupported_format(StoreFormat::Base64)),
        None => Err(source.error("there is no key (-----BEGIN PRIVATE KEY-----)")),
    }
}

fn parse_key_block(
    source: &Source,
    block: &PemBlock,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, Error> {
    let label = block.label.as_str();
    if label == "OPENSSH PRIVATE KEY" {
        return Err(source.error(format!(
            "it is a key of OpenSSH; convert it: ssh-keygen -p -m PKCS8 -f {}",
            source.path
        )));
    }
    let der = decrypt_block(source, block, password)?;
    // People change the label so that another program accepts the file. The content counts.
    if let Some(key) = parse_der_key(&der) {
        return Ok(key);
    }
    if label == "ENCRYPTED PRIVATE KEY" || detect_format(&der) == StoreFormat::EncryptedKeyDer {
        return decrypt_pkcs8(source, &der, password);
    }
    Err(match label {
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => source.error(format!(
            "the PEM block {label} has no key in PKCS#8, PKCS#1 or SEC 1; it may be damaged"
        )),
        _ => source.error(format!(
            "the PEM block {label} is not supported; use {}",
            super::public_key::SUPPORTED_KEYS
        )),
    })
}

fn decrypt_pkcs8(
    source: &Source,
    der: &[u8],
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, Error> {
    let key = pkcs12::decrypt_key(der, password.map(Secret::reveal).unwrap_or_default());
    let key = key.map_err(|e| source.store_error(e, password, &source.key_conversion()))?;
    Ok(PrivateKeyDer::Pkcs8(key.to_vec().into()))
}

/// Decrypts a block with OpenSSL's traditional encryption; any other is returned as it is.
fn decrypt_block(
    source: &Source,
    block: &PemBlock,
    password: Option<&Secret>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Some(encryption) = &block.encryption else { return Ok(block.der.clone()) };
    let text = password.map(Secret::reveal).unwrap_or_default();
    let der = decrypt_traditional(&encryption.cipher, &encryption.iv, &block.der, text);
    // A wrong password yields a valid padding once in 256 times, and then no sequence.
    let der = der.and_then(|der| match Element::parse(&der) {
        Some(key) if key.is(SEQUENCE) && key.raw().len() == der.len() => Ok(der),
        _ => Err(StoreError::WrongPassword),
    });
    der.map_err(|e| source.store_error(e, password, &source.key_conversion()))
}
