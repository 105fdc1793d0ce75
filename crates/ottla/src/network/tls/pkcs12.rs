//! Reads PKCS#12 files (RFC 7292): their integrity check, their certificates and their keys.

use hmac::{Hmac, KeyInit, Mac};
use pkcs12::kdf::{self, Pkcs12KeyType};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::asn1::{Element, Elements, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE};
use super::decryption::{MAX_ITERATIONS, StoreError, algorithm_name, decrypt, pkcs12_passwords};

/// The content of a PKCS#12 file.
#[derive(Default)]
pub(super) struct Pkcs12Store {
    pub(super) keys: Vec<Pkcs12Key>,
    pub(super) certificates: Vec<Pkcs12Certificate>,
    /// Whether something besides the keys needed the password, so that it is known to be right.
    pub(super) is_password_checked: bool,
}

/// A key: PKCS#8, or an `EncryptedPrivateKeyInfo`.
pub(super) struct Pkcs12Key {
    der: Zeroizing<Vec<u8>>,
    is_encrypted: bool,
    local_key_id: Option<Vec<u8>>,
}

pub(super) struct Pkcs12Certificate {
    pub(super) der: Vec<u8>,
    local_key_id: Option<Vec<u8>>,
    /// Whether Java's attribute marks the certificate as trusted.
    pub(super) is_marked_trusted: bool,
}

impl Pkcs12Store {
    /// The certificates of a key: first those with its id, then all others.
    pub(super) fn chain_of(&self, key: &Pkcs12Key) -> Vec<Vec<u8>> {
        let has_its_id =
            |c: &&Pkcs12Certificate| c.local_key_id.is_some() && c.local_key_id == key.local_key_id;
        let (own, others): (Vec<_>, Vec<_>) = self.certificates.iter().partition(has_its_id);
        own.into_iter().chain(others).map(|c| c.der.clone()).collect()
    }

    /// The certificates that the file makes trusted. As in Java, these are the marked ones and the
    /// first one of each key. OpenSSL marks none; then all are trusted.
    pub(super) fn into_trusted(self) -> Vec<Vec<u8>> {
        let has_marks = self.certificates.iter().any(|c| c.is_marked_trusted);
        let is_trusted =
            |c: &Pkcs12Certificate| !has_marks || c.is_marked_trusted || c.local_key_id.is_some();
        self.certificates.into_iter().filter(is_trusted).map(|c| c.der).collect()
    }
}

const DAMAGED: StoreError = StoreError::Malformed("the PKCS#12 file is truncated or damaged");

/// Parses a PKCS#12 file and decrypts all but its keys.
pub(super) fn parse(bytes: &[u8], password: &str) -> Result<Pkcs12Store, StoreError> {
    let fields = Element::parse(bytes).ok_or(DAMAGED)?.fields();
    let [_version, auth_safe, mac @ ..] = &fields[..] else { return Err(DAMAGED) };
    let content = data_content(auth_safe)?;
    if let Some(mac) = mac.first() {
        verify_mac(mac, &content, password)?;
    }
    let mut store = Pkcs12Store { is_password_checked: !mac.is_empty(), ..Pkcs12Store::default() };
    for content_info in Element::parse(&content).ok_or(DAMAGED)?.children() {
        let contents = read_content_info(&content_info, password).map_err(|e| match e {
            // The integrity check has passed, so the password is right.
            StoreError::WrongPassword if !mac.is_empty() => DAMAGED,
            e => e,
        })?;
        store.is_password_checked |= is_encrypted(&content_info);
        let bags = Element::parse(&contents).ok_or(DAMAGED)?;
        store.read_bags(bags.children())?;
    }
    Ok(store)
}

const CONTENT_DATA: &str = "1.2.840.113549.1.7.1";
const CONTENT_ENCRYPTED: &str = "1.2.840.113549.1.7.6";

/// Returns the octets of a `ContentInfo` of the type data.
fn data_content(content_info: &Element<'_>) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let (kind, content) = split_content_info(content_info)?;
    if kind != CONTENT_DATA {
        return Err(StoreError::Unsupported(
            "a public key in place of a password (SignedData or EnvelopedData)".to_owned(),
        ));
    }
    Ok(content.octets())
}

fn split_content_info<'b>(info: &Element<'b>) -> Result<(String, Element<'b>), StoreError> {
    let fields = info.fields();
    let [kind, content] = &fields[..] else { return Err(DAMAGED) };
    let content = content.children().next().ok_or(DAMAGED)?;
    Ok((kind.oid().ok_or(DAMAGED)?, content))
}

fn is_encrypted(content_info: &Element<'_>) -> bool {
    split_content_info(content_info).is_ok_and(|(kind, _)| kind == CONTENT_ENCRYPTED)
}

fn read_content_info(
    content_info: &Element<'_>,
    password: &str,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let (kind, content) = split_content_info(content_info)?;
    if kind != CONTENT_ENCRYPTED {
        return data_content(content_info);
    }
    let encrypted = content.fields().get(1).ok_or(DAMAGED)?.fields();
    let [_kind, algorithm, data] = &encrypted[..] else { return Err(DAMAGED) };
    decrypt_checked(algorithm, &data.octets(), password)
}

/// Decrypts a structure. A wrong password yields a valid padding once in 256 times, and then no
/// valid structure.
fn decrypt_checked(
    algorithm: &Element<'_>,
    data: &[u8],
    password: &str,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let plaintext = decrypt(algorithm, data, password)?;
    match Element::parse(&plaintext) {
        Some(element) if element.is(SEQUENCE) && element.raw().len() == plaintext.len() => {
            Ok(plaintext)
        }
        _ => Err(StoreError::WrongPassword),
    }
}

/// Checks the message authentication code of the file.
fn verify_mac(mac_data: &Element<'_>, content: &[u8], password: &str) -> Result<(), StoreError> {
    let fields = mac_data.fields();
    let [digest_info, salt, iterations @ ..] = &fields[..] else { return Err(DAMAGED) };
    let digest_fields = digest_info.fields();
    let [algorithm, digest] = &digest_fields[..] else { return Err(DAMAGED) };
    let algorithm = algorithm.children().next().and_then(|a| a.oid()).ok_or(DAMAGED)?;
    // RFC 7292: one iteration if there is no number.
    let iterations = iterations.first().map_or(Some(1), Element::small_integer);
    let iterations = iterations.filter(|n| (1..=MAX_ITERATIONS).contains(n)).ok_or(DAMAGED)?;
    let (salt, digest) = (salt.octets(), digest.octets());
    macro_rules! is_valid {
        ($digest:ty, $len:literal) => {
            |password: &[u8]| {
                let key = Zeroizing::new(kdf::derive_key::<$digest>(
                    password,
                    &salt,
                    Pkcs12KeyType::Mac,
                    iterations as i32,
                    $len,
                ));
                let mac = Hmac::<$digest>::new_from_slice(&key);
                mac.is_ok_and(|mac| mac.chain_update(content).verify_slice(&digest).is_ok())
            }
        };
    }
    let is_valid: &dyn Fn(&[u8]) -> bool = match algorithm.as_str() {
        "1.3.14.3.2.26" => &is_valid!(Sha1, 20),
        "2.16.840.1.101.3.4.2.4" => &is_valid!(Sha224, 28),
        "2.16.840.1.101.3.4.2.1" => &is_valid!(Sha256, 32),
        "2.16.840.1.101.3.4.2.2" => &is_valid!(Sha384, 48),
        "2.16.840.1.101.3.4.2.3" => &is_valid!(Sha512, 64),
        other => {
            return Err(StoreError::Unsupported(format!(
                "the integrity check {}",
                algorithm_name(other)
            )));
        }
    };
    match pkcs12_passwords(password).iter().any(|p| is_valid(p)) {
        true => Ok(()),
        false => Err(StoreError::WrongPassword),
    }
}

impl Pkcs12Key {
    /// Returns the key in PKCS#8. Some programs give it another password than the file.
    pub(super) fn decrypt(&self, password: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        if !self.is_encrypted {
            return Ok(self.der.clone());
        }
        decrypt_key(&self.der, password)
    }
}

/// Decrypts an `EncryptedPrivateKeyInfo` to PKCS#8.
pub(super) fn decrypt_key(der: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let damaged = || StoreError::Malformed("the encrypted key is truncated or damaged");
    let fields = Element::parse(der).ok_or_else(damaged)?.fields();
    let [algorithm, data] = &fields[..] else { return Err(damaged()) };
    decrypt_checked(algorithm, &data.octets(), password)
}

impl Pkcs12Store {
    /// Reads the bags and those nested in them, in their order.
    fn read_bags(&mut self, bags: Elements<'_>) -> Result<(), StoreError> {
        // A stack of its own: the file decides the depth, and the thread's stack is small.
        let mut levels = vec![bags];
        while let Some(level) = levels.last_mut() {
            match level.next() {
                Some(bag) => levels.extend(self.read_bag(&bag)?),
                None => drop(levels.pop()),
            }
        }
        Ok(())
    }

    /// Reads one bag. Returns the bags that are nested in it, if that is its kind.
    fn read_bag<'b>(&mut self, bag: &Element<'b>) -> Result<Option<Elements<'b>>, StoreError> {
        const KEY: &str = "1.2.840.113549.1.12.10.1.1";
        const ENCRYPTED_KEY: &str = "1.2.840.113549.1.12.10.1.2";
        const CERTIFICATE: &str = "1.2.840.113549.1.12.10.1.3";
        const NESTED: &str = "1.2.840.113549.1.12.10.1.6";
        let fields = bag.fields();
        let [kind, value, attributes @ ..] = &fields[..] else { return Err(DAMAGED) };
        let value = value.children().next().ok_or(DAMAGED)?;
        let attributes = Attributes::read(attributes.first());
        let local_key_id = attributes.local_key_id;
        match kind.oid().ok_or(DAMAGED)?.as_str() {
            kind @ (KEY | ENCRYPTED_KEY) => {
                let is_encrypted = kind == ENCRYPTED_KEY;
                let der = Zeroizing::new(value.raw().to_vec());
                self.keys.push(Pkcs12Key { der, is_encrypted, local_key_id });
            }
            CERTIFICATE => {
                let der = value.children().nth(1).and_then(|v| v.children().next());
                self.certificates.push(Pkcs12Certificate {
                    der: der.ok_or(DAMAGED)?.octets().to_vec(),
                    local_key_id,
                    is_marked_trusted: attributes.is_marked_trusted,
                });
            }
            NESTED => return Ok(Some(value.children())),
            // Revocation lists and secret keys.
            _ => {}
        }
        Ok(None)
    }
}

/// The attributes of a bag that matter.
#[derive(Default)]
struct Attributes {
    local_key_id: Option<Vec<u8>>,
    is_marked_trusted: bool,
}

impl Attributes {
    fn read(set: Option<&Element<'_>>) -> Attributes {
        const LOCAL_KEY_ID: &str = "1.2.840.113549.1.9.21";
        const JAVA_TRUSTED: &str = "2.16.840.1.113894.746875.1.1";
        let mut attributes = Attributes::default();
        for attribute in set.map(Element::fields).unwrap_or_default() {
            let fields = attribute.fields();
            let [kind, values] = &fields[..] else { continue };
            match kind.oid().as_deref() {
                Some(LOCAL_KEY_ID) => {
                    let id = values.children().find(|v| v.is(OCTET_STRING));
                    attributes.local_key_id = id.map(|id| id.octets().to_vec());
                }
                Some(JAVA_TRUSTED) => {
                    attributes.is_marked_trusted =
                        values.children().any(|v| v.is(OBJECT_IDENTIFIER));
                }
                _ => {}
            }
        }
        attributes
    }
}
