//! Reads JKS files, the store format of Java before version 9.
//!
//! Certificates in it are not encrypted. Each key has an encryption of Java's own, with a password
//! that may differ from the one of the store.

use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::asn1::Element;
use super::decryption::StoreError;

/// The content of a JKS file.
#[derive(Default)]
pub(super) struct JksStore {
    pub(super) trusted: Vec<Vec<u8>>,
    pub(super) keys: Vec<JksKey>,
}

/// An entry with a key. `encrypted` is an `EncryptedPrivateKeyInfo`.
pub(super) struct JksKey {
    pub(super) encrypted: Vec<u8>,
    pub(super) certificates: Vec<Vec<u8>>,
}

impl JksStore {
    /// The certificates that the file makes trusted. As in Java, an entry with a key makes the
    /// first certificate of its chain trusted.
    pub(super) fn into_trusted(self) -> Vec<Vec<u8>> {
        let own = self.keys.into_iter().filter_map(|key| key.certificates.into_iter().next());
        self.trusted.into_iter().chain(own).collect()
    }
}

const DIGEST_LEN: usize = 20;
const DAMAGED: StoreError = StoreError::Malformed("the JKS file is truncated or damaged");

/// Parses a JKS file. With a password, the digest at the end of the file is checked too.
pub(super) fn parse(bytes: &[u8], password: Option<&str>) -> Result<JksStore, StoreError> {
    // The first four bytes are the magic number.
    let remaining = bytes.get(4..).ok_or(DAMAGED)?;
    let store = JksReader { remaining }.read_store().ok_or(DAMAGED)?;
    if let Some(password) = password {
        let (body, digest) = bytes.split_last_chunk::<DIGEST_LEN>().ok_or(DAMAGED)?;
        if store_digest(body, password) != *digest {
            return Err(StoreError::WrongPassword);
        }
    }
    Ok(store)
}

fn utf16(password: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(password.encode_utf16().flat_map(u16::to_be_bytes).collect())
}

/// Computes the digest of a JKS file over the password in UTF-16, a constant text and the body, as
/// `sun.security.provider.JavaKeyStore` does.
fn store_digest(body: &[u8], password: &str) -> [u8; DIGEST_LEN] {
    let hash = Sha1::new().chain_update(utf16(password)).chain_update(b"Mighty Aphrodite");
    hash.chain_update(body).finalize().into()
}

impl JksKey {
    /// Decrypts the key to PKCS#8, as `sun.security.provider.KeyProtector` does: a chain of SHA-1
    /// hashes is the key stream, and a digest at the end detects a wrong password.
    pub(super) fn decrypt(&self, password: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        const KEY_PROTECTOR: &str = "1.3.6.1.4.1.42.2.17.1.1";
        let damaged = || StoreError::Malformed("the key in the JKS file is damaged");
        let fields = Element::parse(&self.encrypted).ok_or_else(damaged)?.fields();
        let [algorithm, protected] = &fields[..] else { return Err(damaged()) };
        let oid = algorithm.children().next().and_then(|oid| oid.oid()).ok_or_else(damaged)?;
        if oid != KEY_PROTECTOR {
            return Err(StoreError::Unsupported(super::decryption::algorithm_name(&oid)));
        }
        let protected = protected.octets();
        let (salt, rest) = protected.split_at_checked(DIGEST_LEN).ok_or_else(damaged)?;
        let (encrypted, digest) = rest.split_last_chunk::<DIGEST_LEN>().ok_or_else(damaged)?;
        let password = utf16(password);
        let mut key = Zeroizing::new(encrypted.to_vec());
        let mut block: [u8; DIGEST_LEN] = salt.try_into().map_err(|_| damaged())?;
        for chunk in key.chunks_mut(DIGEST_LEN) {
            block = Sha1::new().chain_update(&password).chain_update(block).finalize().into();
            chunk.iter_mut().zip(block).for_each(|(byte, mask)| *byte ^= mask);
        }
        let actual: [u8; DIGEST_LEN] =
            Sha1::new().chain_update(&password).chain_update(&key).finalize().into();
        if actual == *digest { Ok(key) } else { Err(StoreError::WrongPassword) }
    }
}

/// Reads a JKS file from its version on. All methods return `None` at the end of the bytes.
struct JksReader<'b> {
    remaining: &'b [u8],
}

impl<'b> JksReader<'b> {
    fn read_store(&mut self) -> Option<JksStore> {
        /// Tag of an entry with a private key and its certificates.
        const PRIVATE_KEY: u32 = 1;
        /// Tag of an entry with one trusted certificate.
        const TRUSTED_CERTIFICATE: u32 = 2;

        let mut store = JksStore::default();
        let (version, entries) = (self.read_u32()?, self.read_u32()?);
        for _ in 0..entries {
            let tag = self.read_u32()?;
            let alias_len = self.read_u16()?;
            // The alias and the creation date, 8 bytes.
            self.take(usize::from(alias_len) + 8)?;
            match tag {
                PRIVATE_KEY => {
                    let key_len = self.read_u32()?;
                    let encrypted = self.take(key_len as usize)?.to_vec();
                    let count = self.read_u32()?;
                    let certificates: Option<Vec<_>> =
                        (0..count).map(|_| self.read_certificate(version)).collect();
                    store.keys.push(JksKey { encrypted, certificates: certificates? });
                }
                TRUSTED_CERTIFICATE => store.trusted.push(self.read_certificate(version)?),
                _ => return None,
            }
        }
        (self.remaining.len() == DIGEST_LEN).then_some(store)
    }

    fn read_certificate(&mut self, version: u32) -> Option<Vec<u8>> {
        // Version 1 has no certificate type ("X.509").
        if version == 2 {
            let type_len = self.read_u16()?;
            self.take(usize::from(type_len))?;
        }
        let len = self.read_u32()?;
        self.take(len as usize).map(<[u8]>::to_vec)
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
