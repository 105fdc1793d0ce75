//! Reads certificates and keys from files and settings, for the connector.
//!
//! The content decides whether a file is PEM, PKCS#12 or JKS; `ssl.*.type` does not. Java's default
//! type is JKS, while `keytool` creates PKCS#12 files by default, so the setting is often wrong.

use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use crate::config::secret::Secret;
use crate::config::security::SecurityStore;
use crate::error::Error;

/// The client's certificate and key.
pub(super) struct ClientIdentity {
    /// The client's certificate, then its intermediate certificates.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Largest file in bytes. Certificate stores are much smaller; a larger file is a mistake.
const MAX_FILE_BYTES: u64 = 16 << 20;

fn read_file(setting: &str, path: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let error =
        |reason: String| Error::config(format!("{setting}={path} cannot be read: {reason}"));
    let len = fs::metadata(path).map_err(|e| error(e.to_string()))?.len();
    if len > MAX_FILE_BYTES {
        return Err(error(format!("it has {len} bytes; at most {MAX_FILE_BYTES} are read")));
    }
    fs::read(path).map(Zeroizing::new).map_err(|e| error(e.to_string()))
}

/// The format of a file with certificates or keys.
enum StoreFormat {
    Pem,
    Jks,
    Jceks,
    Pkcs12,
    Unknown,
}

fn detect_format(bytes: &[u8]) -> StoreFormat {
    match bytes {
        // The first two are Java's magic numbers; PKCS#12 begins with an ASN.1 sequence.
        [0xfe, 0xed, 0xfe, 0xed, ..] => StoreFormat::Jks,
        [0xce, 0xce, 0xce, 0xce, ..] => StoreFormat::Jceks,
        _ if bytes.windows(11).any(|w| w == b"-----BEGIN ") => StoreFormat::Pem,
        [0x30, ..] => StoreFormat::Pkcs12,
        _ => StoreFormat::Unknown,
    }
}

/// Returns the certificates of a trust store.
pub(super) fn load_certificates(
    store: &SecurityStore,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    match store {
        SecurityStore::Inline { certificates, .. } => {
            parse_pem_certificates("ssl.truststore.certificates", certificates.reveal())
        }
        SecurityStore::File { path, password, .. } => {
            let setting = "ssl.truststore.location";
            let bytes = read_file(setting, path)?;
            let location = format!("{setting}={path}");
            match detect_format(&bytes) {
                StoreFormat::Pem => parse_pem_certificates(&location, &to_text(&bytes)),
                StoreFormat::Jks => parse_jks_certificates(&location, &bytes, password.as_ref()),
                StoreFormat::Jceks => Err(unsupported_format_error(&location, path, "JCEKS")),
                StoreFormat::Pkcs12 => {
                    Ok(open_pkcs12(&location, "ssl.truststore.password", &bytes, password)?
                        .entries()
                        .flat_map(|(_, entry)| match entry {
                            KeyStoreEntry::Certificate(c) => vec![c.as_der().to_vec()],
                            // As in Java, an entry with a key makes the first certificate of its
                            // chain trusted.
                            KeyStoreEntry::PrivateKeyChain(k) => {
                                k.certs().iter().take(1).map(|c| c.as_der().to_vec()).collect()
                            }
                            _ => Vec::new(),
                        })
                        .map(CertificateDer::from)
                        .collect())
                }
                StoreFormat::Unknown => Err(unknown_format_error(&location)),
            }
        }
    }
}

fn unknown_format_error(location: &str) -> Error {
    Error::config(format!("{location} is not a PEM, PKCS#12 or JKS file"))
}

fn unsupported_format_error(location: &str, path: &str, format: &str) -> Error {
    Error::config(format!(
        "{location} is a {format} file, which this client cannot read; convert it: keytool \
         -importkeystore -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"
    ))
}

/// Returns the client's certificate and key from a key store.
pub(super) fn load_identity(
    store: &SecurityStore,
    key_password: Option<&Secret>,
) -> Result<ClientIdentity, Error> {
    match store {
        SecurityStore::Inline { certificates, key } => {
            let chain =
                parse_pem_certificates("ssl.keystore.certificate.chain", certificates.reveal())?;
            let key = key.as_ref().map_or("", Secret::reveal);
            let key = parse_pem_key("ssl.keystore.key", key, key_password)?;
            Ok(ClientIdentity { chain, key })
        }
        SecurityStore::File { path, password, key_path } => {
            let setting = "ssl.keystore.location";
            let bytes = read_file(setting, path)?;
            let location = format!("{setting}={path}");
            match detect_format(&bytes) {
                StoreFormat::Pem => {
                    let text = to_text(&bytes);
                    let chain = parse_pem_certificates(&location, &text)?;
                    // A file with one password for everything has it in `ssl.keystore.password`.
                    let password = key_password.or(password.as_ref());
                    let key = match key_path {
                        Some(key_path) => {
                            let setting = "ssl.key.location";
                            let text = to_text(&read_file(setting, key_path)?);
                            parse_pem_key(&format!("{setting}={key_path}"), &text, password)?
                        }
                        None => parse_pem_key(&location, &text, password)?,
                    };
                    Ok(ClientIdentity { chain, key })
                }
                StoreFormat::Jks => Err(unsupported_format_error(&location, path, "JKS")),
                StoreFormat::Jceks => Err(unsupported_format_error(&location, path, "JCEKS")),
                StoreFormat::Pkcs12 => {
                    let store = open_pkcs12(&location, "ssl.keystore.password", &bytes, password)?;
                    let Some((_, entry)) = store.private_key_chain() else {
                        return Err(Error::config(format!("{location} contains no key")));
                    };
                    let chain = entry.certs().iter().map(|c| c.as_der().to_vec().into()).collect();
                    let key = PrivateKeyDer::try_from(entry.key().as_der().to_vec());
                    let key = key.map_err(|e| {
                        Error::config(format!("{location}: the key cannot be parsed: {e}"))
                    })?;
                    Ok(ClientIdentity { chain, key })
                }
                StoreFormat::Unknown => Err(unknown_format_error(&location)),
            }
        }
    }
}

fn open_pkcs12(
    location: &str,
    setting: &str,
    bytes: &[u8],
    password: &Option<Secret>,
) -> Result<KeyStore, Error> {
    let password_text = password.as_ref().map_or("", Secret::reveal);
    KeyStore::from_pkcs12(bytes, password_text, Pkcs12ImportPolicy::Relaxed).map_err(|e| {
        let hint = match password {
            Some(_) => format!("check {setting}"),
            None => format!("{setting} is not set"),
        };
        Error::config(format!("{location} cannot be opened as PKCS#12: {e}; {hint}"))
    })
}

fn to_text(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(String::from_utf8_lossy(bytes).into_owned())
}

/// A block of a PEM text: the label between `BEGIN` and the dashes, and the decoded bytes.
struct PemBlock {
    label: String,
    der: Zeroizing<Vec<u8>>,
}

/// Parses all blocks of a PEM text. Spaces may replace line breaks, since the text may be a value
/// in a properties file.
fn parse_pem(location: &str, text: &str) -> Result<Vec<PemBlock>, Error> {
    let error = |reason: &str| Error::config(format!("{location}: {reason}"));
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after_begin)) = rest.split_once("-----BEGIN ") {
        let (label, after_label) = after_begin
            .split_once("-----")
            .ok_or_else(|| error("a BEGIN line of the PEM text is incomplete"))?;
        let end = format!("-----END {label}-----");
        let (body, after) = after_label
            .split_once(&end)
            .ok_or_else(|| error(&format!("the PEM block {label} has no END line")))?;
        if body.contains("Proc-Type:") {
            return Err(error(
                "the key has OpenSSL's traditional encryption, which is not supported; convert it: \
                 openssl pkcs8 -topk8 -in key.pem -out key8.pem",
            ));
        }
        // The body may be a key. With full capacity the string never reallocates, which would leave
        // a copy in freed memory.
        let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
        base64.extend(body.chars().filter(|c| !c.is_whitespace()));
        let der = BASE64_STANDARD.decode(base64.as_bytes());
        let der = der.map_err(|_| error(&format!("the PEM block {label} is not base64")))?;
        blocks.push(PemBlock { label: label.to_owned(), der: Zeroizing::new(der) });
        rest = after;
    }
    Ok(blocks)
}

fn parse_pem_certificates(
    location: &str,
    text: &str,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<CertificateDer<'static>> = parse_pem(location, text)?
        .into_iter()
        .filter(|block| {
            let label = block.label.as_str();
            matches!(label, "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE")
        })
        .map(|block| block.der.to_vec().into())
        .collect();
    if certificates.is_empty() {
        return Err(Error::config(format!(
            "{location} contains no certificate (-----BEGIN CERTIFICATE-----)"
        )));
    }
    Ok(certificates)
}

const DSA_NOT_SUPPORTED: &str = "DSA keys are not supported; use RSA, ECDSA or Ed25519";

/// Returns whether a PKCS#8 key is a DSA key: the identifier of the algorithm is in its first
/// bytes.
fn is_dsa_key(der: &[u8]) -> bool {
    const OID: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
    der.iter().take(40).copied().collect::<Vec<u8>>().windows(9).any(|w| w == OID)
}

/// Returns the first private key of a PEM text, decrypted.
fn parse_pem_key(
    location: &str,
    text: &str,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, Error> {
    let error = |reason: String| Error::config(format!("{location}: {reason}"));
    for PemBlock { label, der } in parse_pem(location, text)? {
        return match label.as_str() {
            "PRIVATE KEY" if is_dsa_key(&der) => Err(error(DSA_NOT_SUPPORTED.to_owned())),
            "PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs8(der.to_vec().into())),
            "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.to_vec().into())),
            "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(der.to_vec().into())),
            "ENCRYPTED PRIVATE KEY" => {
                let password = password.ok_or_else(|| {
                    error("the key is encrypted and ssl.key.password is not set".to_owned())
                })?;
                let encrypted = EncryptedPrivateKeyInfoRef::try_from(&der[..])
                    .map_err(|e| error(format!("the encrypted key cannot be parsed: {e}")))?;
                let key = encrypted.decrypt(password.reveal().as_bytes()).map_err(|e| {
                    error(format!("the key cannot be decrypted: {e}; check ssl.key.password"))
                })?;
                Ok(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into()))
            }
            "DSA PRIVATE KEY" => Err(error(DSA_NOT_SUPPORTED.to_owned())),
            _ => continue,
        };
    }
    Err(error("there is no key (-----BEGIN PRIVATE KEY-----)".to_owned()))
}

/// Returns the trusted certificates of a JKS file, Java's own format. Only the keys in it are
/// encrypted, so the certificates need no password. With a password, the digest at the end of the
/// file is checked too.
fn parse_jks_certificates(
    location: &str,
    bytes: &[u8],
    password: Option<&Secret>,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let damaged = || Error::config(format!("{location} is a truncated or damaged JKS file"));
    if let Some(password) = password {
        let (body, digest) = bytes.split_last_chunk::<20>().ok_or_else(damaged)?;
        if jks_digest(body, password) != *digest {
            return Err(Error::config(format!(
                "{location} does not match its digest: ssl.truststore.password is wrong, or the \
                 file is damaged"
            )));
        }
    }
    // The first four bytes are the magic number.
    let remaining = bytes.get(4..).ok_or_else(damaged)?;
    JksReader { remaining }.trusted_certificates().ok_or_else(damaged)
}

/// Computes the digest of a JKS file over the password in UTF-16, a constant text and the body, as
/// `sun.security.provider.JavaKeyStore` does.
fn jks_digest(body: &[u8], password: &Secret) -> [u8; 20] {
    let mut hash = Sha1::new();
    for unit in password.reveal().encode_utf16() {
        hash.update(unit.to_be_bytes());
    }
    hash.update(b"Mighty Aphrodite");
    hash.update(body);
    hash.finalize().into()
}

/// Reads a JKS file from its version on. All methods return `None` at the end of the bytes.
struct JksReader<'b> {
    remaining: &'b [u8],
}

impl<'b> JksReader<'b> {
    fn trusted_certificates(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        /// Tag of an entry with a private key and its certificates.
        const PRIVATE_KEY: u32 = 1;
        /// Tag of an entry with one trusted certificate.
        const TRUSTED_CERTIFICATE: u32 = 2;

        let mut trusted = Vec::new();
        let (version, entries) = (self.read_u32()?, self.read_u32()?);
        for _ in 0..entries {
            let tag = self.read_u32()?;
            let alias_len = self.read_u16()?;
            // The alias and the creation date, 8 bytes.
            self.take(usize::from(alias_len) + 8)?;
            let mut certificates = 1;
            if tag == PRIVATE_KEY {
                let key_len = self.read_u32()?;
                self.take(key_len as usize)?;
                certificates = self.read_u32()?;
            }
            for _ in 0..certificates {
                // Version 1 has no certificate type ("X.509").
                if version == 2 {
                    let type_len = self.read_u16()?;
                    self.take(usize::from(type_len))?;
                }
                let der_len = self.read_u32()?;
                let der = self.take(der_len as usize)?;
                if tag == TRUSTED_CERTIFICATE {
                    trusted.push(der.to_vec().into());
                }
            }
        }
        Some(trusted)
    }

    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, remaining) = self.remaining.split_at_checked(n)?;
        self.remaining = remaining;
        Some(head)
    }

    fn read_u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn read_u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }
}
