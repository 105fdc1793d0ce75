//! Certificates and keys out of files and settings: PEM, PKCS#12, JKS, told by content, whatever type was
//! named (Java's default type is JKS, and what `keytool` makes by default is PKCS#12).

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

/// Who we are.
pub(super) struct ClientIdentity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 16 << 20;

fn read_file(setting: &str, path: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let wrong = |why: String| Error::config(format!("{setting}={path} cannot be read: {why}"));
    let size = fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(wrong(format!("it has {size} bytes, which no store has")));
    }
    fs::read(path).map(Zeroizing::new).map_err(|e| wrong(e.to_string()))
}

enum StoreFormat {
    Pem,
    Jks,
    Jceks,
    Pkcs12,
    Unknown,
}

fn detect_format(bytes: &[u8]) -> StoreFormat {
    match bytes {
        [0xfe, 0xed, 0xfe, 0xed, ..] => StoreFormat::Jks,
        [0xce, 0xce, 0xce, 0xce, ..] => StoreFormat::Jceks,
        _ if bytes.windows(11).any(|w| w == b"-----BEGIN ") => StoreFormat::Pem,
        [0x30, ..] => StoreFormat::Pkcs12,
        _ => StoreFormat::Unknown,
    }
}

/// The certificates that are to be trusted.
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
            let place = format!("{setting}={path}");
            match detect_format(&bytes) {
                StoreFormat::Pem => parse_pem_certificates(&place, &to_text(&bytes)),
                StoreFormat::Jks => parse_jks_certificates(&place, &bytes, password.as_ref()),
                StoreFormat::Jceks => Err(unsupported_format_error(&place, path, "JCEKS")),
                StoreFormat::Pkcs12 => {
                    Ok(open_pkcs12(&place, "ssl.truststore.password", &bytes, password)?
                        .entries()
                        .flat_map(|(_, entry)| match entry {
                            KeyStoreEntry::Certificate(c) => vec![c.as_der().to_vec()],
                            // Of a key's chain, the first is trusted, as Java has it.
                            KeyStoreEntry::PrivateKeyChain(k) => {
                                k.certs().iter().take(1).map(|c| c.as_der().to_vec()).collect()
                            }
                            _ => Vec::new(),
                        })
                        .map(CertificateDer::from)
                        .collect())
                }
                StoreFormat::Unknown => Err(unknown_format_error(&place)),
            }
        }
    }
}

fn unknown_format_error(place: &str) -> Error {
    Error::config(format!("{place} is neither PEM nor PKCS#12 nor JKS"))
}

fn unsupported_format_error(place: &str, path: &str, what: &str) -> Error {
    Error::config(format!(
        "{place} is a {what} store, whose keys only Java reads; convert it: keytool -importkeystore \
         -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"
    ))
}

/// Our certificate and key.
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
            let place = format!("{setting}={path}");
            match detect_format(&bytes) {
                StoreFormat::Pem => {
                    let own = to_text(&bytes);
                    let chain = parse_pem_certificates(&place, &own)?;
                    // The key's password may be the file's (librdkafka has but one).
                    let password = key_password.or(password.as_ref());
                    let key = match key_path {
                        Some(at) => {
                            let other = read_file("ssl.key.location", at)?;
                            parse_pem_key(
                                &format!("ssl.key.location={at}"),
                                &to_text(&other),
                                password,
                            )?
                        }
                        None => parse_pem_key(&place, &own, password)?,
                    };
                    Ok(ClientIdentity { chain, key })
                }
                StoreFormat::Jks => Err(unsupported_format_error(&place, path, "JKS")),
                StoreFormat::Jceks => Err(unsupported_format_error(&place, path, "JCEKS")),
                StoreFormat::Pkcs12 => {
                    let store = open_pkcs12(&place, "ssl.keystore.password", &bytes, password)?;
                    let Some((_, found)) = store.private_key_chain() else {
                        return Err(Error::config(format!("{place} has no key")));
                    };
                    let certs = found.certs().iter().map(|c| c.as_der().to_vec().into());
                    let key = PrivateKeyDer::try_from(found.key().as_der().to_vec());
                    let key = key.map_err(|e| {
                        Error::config(format!("{place}: the key is of no use: {e}"))
                    })?;
                    Ok(ClientIdentity { chain: certs.collect(), key })
                }
                StoreFormat::Unknown => Err(unknown_format_error(&place)),
            }
        }
    }
}

fn open_pkcs12(
    place: &str,
    setting: &str,
    bytes: &[u8],
    password: &Option<Secret>,
) -> Result<KeyStore, Error> {
    let given = password.as_ref().map_or("", Secret::reveal);
    KeyStore::from_pkcs12(bytes, given, Pkcs12ImportPolicy::Relaxed).map_err(|e| {
        let hint = match password {
            Some(_) => format!("is {setting} the right one?"),
            None => format!("{setting} is not set"),
        };
        Error::config(format!("{place} cannot be opened as PKCS#12: {e}; {hint}"))
    })
}

fn to_text(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(String::from_utf8_lossy(bytes).into_owned())
}

/// What a part of a PEM text is, and its bytes.
type PemBlock = (String, Zeroizing<Vec<u8>>);

/// The parts of a PEM text: what each is, and its bytes. Blanks may stand for line ends, as in a properties file.
fn parse_pem(place: &str, text: &str) -> Result<Vec<PemBlock>, Error> {
    let wrong = |why: &str| Error::config(format!("{place}: {why}"));
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((_, from)) = rest.split_once("-----BEGIN ") {
        let (label, from) =
            from.split_once("-----").ok_or_else(|| wrong("a PEM part has half a heading"))?;
        let end = format!("-----END {label}-----");
        let (body, after) = from.split_once(&end).ok_or_else(|| wrong("a PEM part has no end"))?;
        if body.contains("Proc-Type:") {
            return Err(wrong(
                "the key is encrypted in the old way of OpenSSL; convert it: openssl pkcs8 -topk8 -in key.pem \
                 -out key8.pem",
            ));
        }
        // With room for all of it, so that no copy stays behind where it grew.
        let mut packed = Zeroizing::new(String::with_capacity(body.len()));
        packed.extend(body.chars().filter(|c| !c.is_whitespace()));
        let body = packed;
        let bytes = BASE64_STANDARD.decode(body.as_bytes());
        let bytes = bytes.map_err(|_| wrong(&format!("the PEM part {label} is not base64")))?;
        out.push((label.to_owned(), Zeroizing::new(bytes)));
        rest = after;
    }
    Ok(out)
}

fn parse_pem_certificates(place: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Vec<CertificateDer<'static>> = parse_pem(place, text)?
        .into_iter()
        .filter(|(label, _)| {
            matches!(label.as_str(), "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE")
        })
        .map(|(_, der)| der.to_vec().into())
        .collect();
    if all.is_empty() {
        return Err(Error::config(format!(
            "{place} has no certificate (-----BEGIN CERTIFICATE-----)"
        )));
    }
    Ok(all)
}

const DSA_NOT_SUPPORTED: &str = "a DSA key is not spoken in TLS here; use RSA, ECDSA or Ed25519";

/// Whether a PKCS#8 key is one of DSA, by the name of its algorithm near its beginning.
fn is_dsa_key(der: &[u8]) -> bool {
    const OID: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
    der.iter().take(40).copied().collect::<Vec<u8>>().windows(9).any(|w| w == OID)
}

fn parse_pem_key(
    place: &str,
    text: &str,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, Error> {
    let wrong = |why: String| Error::config(format!("{place}: {why}"));
    for (label, der) in parse_pem(place, text)? {
        return match label.as_str() {
            "PRIVATE KEY" if is_dsa_key(&der) => Err(wrong(DSA_NOT_SUPPORTED.to_owned())),
            "PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs8(der.to_vec().into())),
            "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.to_vec().into())),
            "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(der.to_vec().into())),
            "ENCRYPTED PRIVATE KEY" => {
                let password = password.ok_or_else(|| {
                    wrong("the key is encrypted and ssl.key.password is not set".to_owned())
                })?;
                let info = EncryptedPrivateKeyInfoRef::try_from(&der[..])
                    .map_err(|e| wrong(format!("the encrypted key cannot be read: {e}")))?;
                let open = info.decrypt(password.reveal().as_bytes()).map_err(|e| {
                    wrong(format!(
                        "the key cannot be decrypted ({e}); is ssl.key.password the right one?"
                    ))
                })?;
                Ok(PrivateKeyDer::Pkcs8(open.as_bytes().to_vec().into()))
            }
            "DSA PRIVATE KEY" => Err(wrong(DSA_NOT_SUPPORTED.to_owned())),
            _ => continue,
        };
    }
    Err(wrong("there is no key (-----BEGIN PRIVATE KEY-----)".to_owned()))
}

/// The certificates of a JKS store: Java's own format, of which only those of keys are encrypted. The digest at
/// its end is checked where a password is given.
fn parse_jks_certificates(
    place: &str,
    bytes: &[u8],
    password: Option<&Secret>,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = || Error::config(format!("{place} is a JKS store that is cut off or damaged"));
    if let Some(password) = password {
        let (body, digest) = bytes.split_last_chunk::<20>().ok_or_else(wrong)?;
        let mut hash = Sha1::new();
        for unit in password.reveal().encode_utf16() {
            hash.update(unit.to_be_bytes());
        }
        hash.update(b"Mighty Aphrodite");
        hash.update(body);
        if hash.finalize()[..] != digest[..] {
            return Err(Error::config(format!(
                "{place} is not what its digest says: ssl.truststore.password is wrong, or the file is damaged"
            )));
        }
    }
    let mut r = JksReader(bytes.get(4..).ok_or_else(wrong)?);
    let mut out = Vec::new();
    let mut entries = || -> Option<()> {
        let (version, count) = (r.u32()?, r.u32()?);
        for _ in 0..count {
            let tag = r.u32()?;
            let alias = r.u16()?;
            r.take(usize::from(alias) + 8)?;
            if tag == 1 {
                let key = r.u32()?;
                r.take(key as usize)?;
            }
            let certificates = if tag == 1 { r.u32()? } else { 1 };
            for _ in 0..certificates {
                if version == 2 {
                    let kind = r.u16()?;
                    r.take(usize::from(kind))?;
                }
                let size = r.u32()?;
                let der = r.take(size as usize)?;
                if tag == 2 {
                    out.push(der.to_vec().into());
                }
            }
        }
        Some(())
    };
    entries().ok_or_else(wrong)?;
    Ok(out)
}

struct JksReader<'b>(&'b [u8]);

impl<'b> JksReader<'b> {
    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }
}
