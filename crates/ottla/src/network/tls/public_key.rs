//! Public keys of certificates: verification of signatures with them, and their description for
//! messages.

use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::asn1::{BIT_STRING, Element, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};

/// The public key of a certificate.
pub(super) struct PublicKey<'c> {
    /// The content of the `AlgorithmIdentifier`.
    pub(super) algorithm: &'c [u8],
    pub(super) key: &'c [u8],
}

impl<'c> PublicKey<'c> {
    pub(super) fn from_certificate(der: &'c [u8]) -> Option<PublicKey<'c>> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let spki: &'c [u8] = certificate.tbs_certificate.subject_pki.raw;
        PublicKey::from_spki(Element::parse(spki)?.content())
    }

    /// Parses the content of a `SubjectPublicKeyInfo`.
    pub(super) fn from_spki(content: &'c [u8]) -> Option<PublicKey<'c>> {
        let algorithm = Element::parse(content)?;
        let key = Element::parse(&content[algorithm.raw().len()..])?;
        // The first byte of a bit string is the number of unused bits.
        let [0, key @ ..] = key.content() else { return None };
        Some(PublicKey { algorithm: algorithm.content(), key })
    }

    /// Whether one of the algorithms is for this key and accepts the signature.
    pub(super) fn verifies(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        algorithms.iter().any(|a| {
            a.public_key_alg_id().as_ref() == self.algorithm
                && a.verify_signature(self.key, message, signature).is_ok()
        })
    }

    /// The object identifier of the key's named curve.
    pub(super) fn curve(&self) -> Option<String> {
        let kind = Element::parse(self.algorithm)?;
        (kind.oid()? == EC_KEY).then_some(())?;
        Element::parse(&self.algorithm[kind.raw().len()..])?.oid()
    }

    pub(super) fn kind(&self) -> KeyKind {
        KeyKind::new(self.algorithm, || rsa_modulus_bits(self.key, 0))
    }
}

/// Object identifier of keys for ECDSA (RFC 5480).
pub(super) const EC_KEY: &str = "1.2.840.10045.2.1";

/// The kind of a public or private key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa {
        bits: usize,
    },
    RsaPss,
    /// On a named curve, by its usual name.
    Ec(String),
    EcExplicit,
    Ed25519,
    Dsa,
    Other(String),
}

impl KeyKind {
    /// Derives the kind from the content of an `AlgorithmIdentifier`.
    pub(super) fn new(algorithm: &[u8], rsa_bits: impl FnOnce() -> usize) -> KeyKind {
        let kind = Element::parse(algorithm);
        let oid = kind.as_ref().and_then(Element::oid).unwrap_or_default();
        let parameters = kind.and_then(|kind| Element::parse(algorithm.get(kind.raw().len()..)?));
        match oid.as_str() {
            "1.2.840.113549.1.1.1" => KeyKind::Rsa { bits: rsa_bits() },
            "1.2.840.113549.1.1.10" => KeyKind::RsaPss,
            EC_KEY => match parameters {
                Some(curve) if curve.is(OBJECT_IDENTIFIER) => {
                    KeyKind::Ec(curve_name(&curve.oid().unwrap_or_default()))
                }
                _ => KeyKind::EcExplicit,
            },
            "1.3.101.112" => KeyKind::Ed25519,
            "1.3.101.113" => KeyKind::Other("Ed448".to_owned()),
            "1.3.101.110" => KeyKind::Other("X25519".to_owned()),
            "1.3.101.111" => KeyKind::Other("X448".to_owned()),
            "1.2.840.113549.1.3.1" => KeyKind::Other("Diffie-Hellman".to_owned()),
            "1.2.840.10040.4.1" => KeyKind::Dsa,
            "1.2.643.7.1.1.1.1" | "1.2.643.2.2.19" => KeyKind::Other("GOST".to_owned()),
            "1.2.156.10197.1.301" => KeyKind::Other("SM2".to_owned()),
            other if other.starts_with("2.16.840.1.101.3.4.3.") => {
                KeyKind::Other("post-quantum (ML-DSA or SLH-DSA)".to_owned())
            }
            other => KeyKind::Other(format!("unknown ({other})")),
        }
    }

    /// Returns the kind for a message, such as `an RSA key of 1024 bits`.
    pub(super) fn describe(&self) -> String {
        match self {
            KeyKind::Rsa { bits } => format!("an RSA key of {bits} bits"),
            KeyKind::RsaPss => "an RSASSA-PSS key".to_owned(),
            KeyKind::Ec(curve) => format!("an EC key on the curve {curve}"),
            KeyKind::EcExplicit => "an EC key with explicit curve parameters".to_owned(),
            KeyKind::Ed25519 => "an Ed25519 key".to_owned(),
            KeyKind::Dsa => "a DSA key".to_owned(),
            KeyKind::Other(name) => format!("a key of the kind {name}"),
        }
    }

    /// Whether every TLS provider of this client supports keys of this kind.
    pub(super) fn is_supported(&self) -> bool {
        match self {
            KeyKind::Rsa { bits } => (2048..=4096).contains(bits),
            KeyKind::Ec(curve) => curve == "P-256" || curve == "P-384",
            KeyKind::Ed25519 => true,
            _ => false,
        }
    }
}

/// Which keys to use in place of one that is not supported.
pub(super) const SUPPORTED_KEYS: &str =
    "an RSA key of 2048 to 4096 bits, an EC key on P-256 or P-384, or an Ed25519 key";

pub(super) fn curve_name(oid: &str) -> String {
    let name = match oid {
        "1.2.840.10045.3.1.7" => "P-256",
        "1.3.132.0.34" => "P-384",
        "1.3.132.0.35" => "P-521",
        "1.3.132.0.33" => "P-224",
        "1.2.840.10045.3.1.1" => "P-192",
        "1.3.132.0.10" => "secp256k1",
        "1.3.36.3.3.2.8.1.1.7" => "brainpoolP256r1",
        "1.3.36.3.3.2.8.1.1.11" => "brainpoolP384r1",
        "1.3.36.3.3.2.8.1.1.13" => "brainpoolP512r1",
        "1.2.156.10197.1.301" => "SM2",
        other => other,
    };
    name.to_owned()
}

/// Returns the size of the modulus, which is the integer number `index` of an RSA key; 0 if there
/// is none.
pub(super) fn rsa_modulus_bits(key: &[u8], index: usize) -> usize {
    let modulus = Element::parse(key).and_then(|key| key.children().nth(index));
    let Some(modulus) = modulus.filter(|m| m.is(INTEGER)) else { return 0 };
    let mut digits = modulus.content();
    while let [0, rest @ ..] = digits {
        digits = rest;
    }
    digits.first().map_or(0, |first| digits.len() * 8 - first.leading_zeros() as usize)
}

/// Whether `element` looks like a certificate: a sequence of two sequences and a bit string.
pub(super) fn is_certificate(element: &Element<'_>) -> bool {
    let fields = element.fields();
    matches!(&fields[..], [a, b, c] if a.is(SEQUENCE) && b.is(SEQUENCE) && c.is(BIT_STRING))
}
