//! Decrypts data that a password protects, with the schemes of keys and PKCS#12 files.
//!
//! PBES2 is the work of the crate `pkcs5`. The older schemes (PBES1 of PKCS#5, those of PKCS#12
//! and the one of OpenSSL's traditional PEM files) are a key derivation in front of a block cipher.

use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, InnerIvInit, KeyInit};
use des::{Des, TdesEde2, TdesEde3};
use md5::Md5;
use pkcs5::der::Decode;
use pkcs5::pbes2;
use pkcs12::kdf::{self, Pkcs12KeyType};
use rc2::Rc2;
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::asn1::{Element, SEQUENCE};

/// Why encrypted data cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreError {
    /// The password does not open the data.
    WrongPassword,
    /// The data needs an algorithm that this client does not have.
    Unsupported(String),
    /// The data is not what its format demands.
    Malformed(&'static str),
}

type Plaintext = Result<Zeroizing<Vec<u8>>, StoreError>;

/// Most iterations of a key derivation. A file with more would block the client for minutes.
pub(super) const MAX_ITERATIONS: u32 = 10_000_000;
/// Most memory in bytes that scrypt may use.
const MAX_SCRYPT_BYTES: u64 = 1 << 30;

/// Decrypts `data` with the scheme of `algorithm`, an `AlgorithmIdentifier`.
pub(super) fn decrypt(algorithm: &Element<'_>, data: &[u8], password: &str) -> Plaintext {
    let fields = algorithm.fields();
    let oid = fields.first().and_then(Element::oid);
    let (Some(oid), Some(parameters)) = (oid, fields.get(1)) else {
        return Err(StoreError::Malformed("the encryption has no algorithm"));
    };
    if oid == PBES2 {
        return decrypt_pbes2(parameters, data, password);
    }
    let Some(scheme) = PasswordScheme::find(&oid) else {
        return Err(StoreError::Unsupported(algorithm_name(&oid)));
    };
    let fields = parameters.fields();
    let [salt, iterations] = &fields[..] else {
        return Err(StoreError::Malformed("the encryption has no salt or no iteration count"));
    };
    let iterations = iterations.small_integer().filter(|n| (1..=MAX_ITERATIONS).contains(n));
    let iterations = iterations.ok_or(StoreError::Malformed("the iteration count is too large"))?;
    scheme.decrypt(&salt.octets(), iterations, data, password)
}

fn decrypt_pbes2(parameters: &Element<'_>, data: &[u8], password: &str) -> Plaintext {
    let unsupported = || {
        let names: Vec<_> = parameters.all_oids().iter().map(|oid| algorithm_name(oid)).collect();
        StoreError::Unsupported(format!("PBES2 with {}", names.join(", ")))
    };
    if !parameters.is(SEQUENCE) {
        return Err(StoreError::Malformed("the parameters of PBES2 are missing"));
    }
    let parsed = pbes2::Parameters::from_der(parameters.raw()).map_err(|_| unsupported())?;
    match &parsed.kdf {
        pbes2::Kdf::Pbkdf2(p) if p.iteration_count > MAX_ITERATIONS => {
            return Err(StoreError::Malformed("the iteration count is too large"));
        }
        pbes2::Kdf::Scrypt(p) => {
            let bytes = p.cost_parameter.checked_mul(128 * u64::from(p.block_size));
            if bytes.is_none_or(|n| n > MAX_SCRYPT_BYTES) || p.parallelization > 16 {
                return Err(StoreError::Malformed("scrypt's parameters are too large"));
            }
        }
        _ => {}
    }
    parsed.decrypt(password, data).map(Zeroizing::new).map_err(|e| match e {
        pkcs5::Error::DecryptFailed => StoreError::WrongPassword,
        _ => unsupported(),
    })
}

/// A cipher in CBC mode.
#[derive(Clone, Copy)]
enum CbcCipher {
    Des,
    TripleDes,
    TripleDesTwoKeys,
    Rc2 { key_bits: usize },
    Aes { key_bits: usize },
}

impl CbcCipher {
    /// The lengths of key and initialization vector in bytes.
    fn lengths(self) -> (usize, usize) {
        match self {
            CbcCipher::Des => (8, 8),
            CbcCipher::TripleDes => (24, 8),
            CbcCipher::TripleDesTwoKeys => (16, 8),
            CbcCipher::Rc2 { key_bits } => (key_bits / 8, 8),
            CbcCipher::Aes { key_bits } => (key_bits / 8, 16),
        }
    }

    /// Decrypts with a key and an initialization vector of the right lengths.
    fn decrypt(self, key: &[u8], iv: &[u8], data: &[u8]) -> Plaintext {
        match self {
            CbcCipher::Des => unpad(Des::new_from_slice(key).ok(), iv, data),
            CbcCipher::TripleDes => unpad(TdesEde3::new_from_slice(key).ok(), iv, data),
            CbcCipher::TripleDesTwoKeys => unpad(TdesEde2::new_from_slice(key).ok(), iv, data),
            CbcCipher::Rc2 { key_bits } => {
                unpad(Some(Rc2::new_with_eff_key_len(key, key_bits)), iv, data)
            }
            CbcCipher::Aes { key_bits: 128 } => unpad(Aes128::new_from_slice(key).ok(), iv, data),
            CbcCipher::Aes { key_bits: 192 } => unpad(Aes192::new_from_slice(key).ok(), iv, data),
            CbcCipher::Aes { .. } => unpad(Aes256::new_from_slice(key).ok(), iv, data),
        }
    }
}

/// Decrypts in CBC mode and removes the padding. Another key leaves another padding, so a wrong
/// password shows here.
fn unpad<C: BlockCipherDecrypt>(cipher: Option<C>, iv: &[u8], data: &[u8]) -> Plaintext {
    let decryptor = cipher.and_then(|c| Decryptor::inner_iv_slice_init(c, iv).ok());
    let decryptor = decryptor.ok_or(StoreError::Malformed("the initialization vector is short"))?;
    let plaintext = decryptor.decrypt_padded_vec::<Pkcs7>(data);
    plaintext.map(Zeroizing::new).map_err(|_| StoreError::WrongPassword)
}

/// A scheme that derives key and initialization vector from the password.
#[derive(Clone, Copy)]
enum PasswordScheme {
    /// PBES1 (RFC 8018) with MD5.
    Md5(CbcCipher),
    /// PBES1 (RFC 8018) with SHA-1.
    Sha1(CbcCipher),
    /// The schemes of PKCS#12 (RFC 7292), which all use SHA-1.
    Pkcs12(CbcCipher),
}

impl PasswordScheme {
    fn find(oid: &str) -> Option<PasswordScheme> {
        use CbcCipher::{Des, Rc2, TripleDes, TripleDesTwoKeys};
        Some(match oid {
            "1.2.840.113549.1.5.3" => PasswordScheme::Md5(Des),
            "1.2.840.113549.1.5.6" => PasswordScheme::Md5(Rc2 { key_bits: 64 }),
            "1.2.840.113549.1.5.10" => PasswordScheme::Sha1(Des),
            "1.2.840.113549.1.5.11" => PasswordScheme::Sha1(Rc2 { key_bits: 64 }),
            "1.2.840.113549.1.12.1.3" => PasswordScheme::Pkcs12(TripleDes),
            "1.2.840.113549.1.12.1.4" => PasswordScheme::Pkcs12(TripleDesTwoKeys),
            "1.2.840.113549.1.12.1.5" => PasswordScheme::Pkcs12(Rc2 { key_bits: 128 }),
            "1.2.840.113549.1.12.1.6" => PasswordScheme::Pkcs12(Rc2 { key_bits: 40 }),
            _ => return None,
        })
    }

    fn decrypt(self, salt: &[u8], iterations: u32, data: &[u8], password: &str) -> Plaintext {
        let (cipher, derived) = match self {
            PasswordScheme::Md5(c) => (c, pbkdf1::<Md5>(password, salt, iterations)),
            PasswordScheme::Sha1(c) => (c, pbkdf1::<Sha1>(password, salt, iterations)),
            PasswordScheme::Pkcs12(c) => {
                return decrypt_pkcs12_scheme(c, salt, iterations, data, password);
            }
        };
        cipher.decrypt(&derived[..8], &derived[8..16], data)
    }
}

/// PBKDF1 of RFC 8018: the first 16 bytes of the repeated hash.
fn pbkdf1<D: Digest>(password: &str, salt: &[u8], iterations: u32) -> Zeroizing<Vec<u8>> {
    let mut hash =
        Zeroizing::new(D::new().chain_update(password).chain_update(salt).finalize().to_vec());
    for _ in 1..iterations {
        hash = Zeroizing::new(D::digest(&hash[..]).to_vec());
    }
    hash.truncate(16);
    hash
}

fn decrypt_pkcs12_scheme(
    cipher: CbcCipher,
    salt: &[u8],
    iterations: u32,
    data: &[u8],
    password: &str,
) -> Plaintext {
    let (key_len, iv_len) = cipher.lengths();
    let mut result = Err(StoreError::WrongPassword);
    for password in pkcs12_passwords(password) {
        let derive = |kind, len| {
            Zeroizing::new(kdf::derive_key::<Sha1>(&password, salt, kind, iterations as i32, len))
        };
        let key = derive(Pkcs12KeyType::EncryptionKey, key_len);
        result = cipher.decrypt(&key, &derive(Pkcs12KeyType::Iv, iv_len), data);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Returns the encodings of a password that programs use in PKCS#12 files: UTF-16 with a zero at
/// the end (RFC 7292). Without a password, some programs encode nothing at all.
pub(super) fn pkcs12_passwords(password: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let utf16 = password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect();
    let mut encodings = vec![Zeroizing::new(utf16)];
    if password.is_empty() {
        encodings.push(Zeroizing::new(Vec::new()));
    }
    encodings
}

/// Decrypts a block of OpenSSL's traditional encryption (`Proc-Type: 4,ENCRYPTED`). Its key is the
/// MD5 of the password and of the first 8 bytes of the initialization vector.
pub(super) fn decrypt_traditional(
    cipher_name: &str,
    iv: &[u8],
    data: &[u8],
    password: &str,
) -> Plaintext {
    let cipher = match cipher_name {
        "DES-CBC" => CbcCipher::Des,
        "DES-EDE3-CBC" => CbcCipher::TripleDes,
        "DES-EDE-CBC" => CbcCipher::TripleDesTwoKeys,
        "RC2-CBC" => CbcCipher::Rc2 { key_bits: 128 },
        "RC2-64-CBC" => CbcCipher::Rc2 { key_bits: 64 },
        "RC2-40-CBC" => CbcCipher::Rc2 { key_bits: 40 },
        "AES-128-CBC" => CbcCipher::Aes { key_bits: 128 },
        "AES-192-CBC" => CbcCipher::Aes { key_bits: 192 },
        "AES-256-CBC" => CbcCipher::Aes { key_bits: 256 },
        other => return Err(StoreError::Unsupported(other.to_owned())),
    };
    let (key_len, iv_len) = cipher.lengths();
    if iv.len() != iv_len {
        return Err(StoreError::Malformed("the DEK-Info line has no valid initialization vector"));
    }
    let mut key = Zeroizing::new(Vec::with_capacity(key_len + 16));
    let mut hash = Vec::new();
    while key.len() < key_len {
        hash = Md5::new()
            .chain_update(&hash)
            .chain_update(password)
            .chain_update(&iv[..8])
            .finalize()
            .to_vec();
        key.extend_from_slice(&hash);
    }
    cipher.decrypt(&key[..key_len], iv, data)
}

const PBES2: &str = "1.2.840.113549.1.5.13";

/// Returns the usual name of an algorithm, or the object identifier if it is not in the table.
pub(super) fn algorithm_name(oid: &str) -> String {
    let name = match oid {
        "1.2.840.113549.1.5.1" => "PBE-MD2-DES",
        "1.2.840.113549.1.5.4" => "PBE-MD2-RC2-64",
        "1.2.840.113549.1.5.12" => "PBKDF2",
        PBES2 => "PBES2",
        "1.2.840.113549.1.5.14" => "PBMAC1",
        "1.2.840.113549.1.12.1.1" => "PBE-SHA1-RC4-128",
        "1.2.840.113549.1.12.1.2" => "PBE-SHA1-RC4-40",
        "1.2.840.113549.2.5" => "MD5",
        "1.2.840.113549.2.7" => "HMAC-SHA1",
        "1.2.840.113549.2.8" => "HMAC-SHA224",
        "1.2.840.113549.2.9" => "HMAC-SHA256",
        "1.2.840.113549.2.10" => "HMAC-SHA384",
        "1.2.840.113549.2.11" => "HMAC-SHA512",
        "1.2.840.113549.2.12" => "HMAC-SHA512/224",
        "1.2.840.113549.2.13" => "HMAC-SHA512/256",
        "1.2.840.113549.3.2" => "RC2-CBC",
        "1.2.840.113549.3.7" => "DES-EDE3-CBC",
        "1.3.14.3.2.7" => "DES-CBC",
        "1.3.14.3.2.26" => "SHA-1",
        "1.3.6.1.4.1.11591.4.11" => "scrypt",
        "1.2.392.200011.61.1.1.1.2" => "CAMELLIA-128-CBC",
        "1.2.392.200011.61.1.1.1.3" => "CAMELLIA-192-CBC",
        "1.2.392.200011.61.1.1.1.4" => "CAMELLIA-256-CBC",
        "1.2.410.200004.1.4" => "SEED-CBC",
        "1.3.6.1.4.1.3029.1.2" => "BF-CBC",
        "1.2.643.2.2.21" => "GOST 28147-89",
        "1.2.840.113533.7.66.10" => "CAST5-CBC",
        "1.2.410.200046.1.1.2" => "ARIA-128-CBC",
        "1.2.410.200046.1.1.7" => "ARIA-192-CBC",
        "1.2.410.200046.1.1.12" => "ARIA-256-CBC",
        "1.2.840.113549.2.6" => "HMAC-MD5",
        "2.16.840.1.101.3.4.1.3" => "AES-128-OFB",
        "2.16.840.1.101.3.4.1.4" => "AES-128-CFB",
        "2.16.840.1.101.3.4.1.23" => "AES-192-OFB",
        "2.16.840.1.101.3.4.1.24" => "AES-192-CFB",
        "2.16.840.1.101.3.4.1.43" => "AES-256-OFB",
        "2.16.840.1.101.3.4.1.44" => "AES-256-CFB",
        "2.16.840.1.101.3.4.2.5" => "SHA-512/224",
        "2.16.840.1.101.3.4.2.6" => "SHA-512/256",
        "2.16.840.1.101.3.4.2.7" => "SHA3-224",
        "2.16.840.1.101.3.4.2.8" => "SHA3-256",
        "2.16.840.1.101.3.4.2.9" => "SHA3-384",
        "2.16.840.1.101.3.4.2.10" => "SHA3-512",
        "2.16.840.1.101.3.4.1.2" => "AES-128-CBC",
        "2.16.840.1.101.3.4.1.22" => "AES-192-CBC",
        "2.16.840.1.101.3.4.1.42" => "AES-256-CBC",
        other => other,
    };
    name.to_owned()
}
