//! Detects the format of a file with certificates or keys from its content.

use super::asn1::{Element, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE};
use super::pem::{decode_base64, decode_text};
use super::public_key::is_certificate;

/// The format of a file with certificates or keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreFormat {
    Pem,
    Jks,
    Jceks,
    Bks,
    Pkcs12,
    Pkcs7,
    CertificateDer,
    EncryptedKeyDer,
    KeyDer,
    /// The base64 of one of these formats, as in the data of a Kubernetes Secret.
    Base64,
    DamagedDer,
    Unknown,
}

/// Detects the format of a file from its content.
pub(super) fn detect_format(bytes: &[u8]) -> StoreFormat {
    match bytes {
        // The first two are Java's magic numbers, the third is the version of Bouncy Castle's.
        [0xfe, 0xed, 0xfe, 0xed, ..] => StoreFormat::Jks,
        [0xce, 0xce, 0xce, 0xce, ..] => StoreFormat::Jceks,
        [0, 0, 0, 0..=2, 0, 0, 0, 20, ..] => StoreFormat::Bks,
        [0x30, ..] => detect_der_format(bytes),
        _ => {
            let text = decode_text(bytes);
            if text.contains("-----BEGIN ") {
                StoreFormat::Pem
            } else if is_base64_of_store(&text) {
                StoreFormat::Base64
            } else {
                StoreFormat::Unknown
            }
        }
    }
}

/// Whether a text is the base64 of a PEM text or of a store in another known format.
pub(super) fn is_base64_of_store(text: &str) -> bool {
    let decoded = decode_base64(text.split_whitespace());
    decoded.is_some_and(|bytes| {
        !matches!(detect_format(&bytes), StoreFormat::Unknown | StoreFormat::Base64)
    })
}

fn detect_der_format(bytes: &[u8]) -> StoreFormat {
    let Some(element) = Element::parse(bytes) else {
        // The length of a store or a key takes more than one byte.
        let is_der = bytes.get(1).is_some_and(|length| (0x81..=0x84).contains(length));
        return if is_der { StoreFormat::DamagedDer } else { StoreFormat::Unknown };
    };
    match &element.fields()[..] {
        [version, content, ..]
            if version.small_integer() == Some(3)
                && content.fields().first().is_some_and(|f| f.is(OBJECT_IDENTIFIER)) =>
        {
            StoreFormat::Pkcs12
        }
        [kind, ..] if kind.is(OBJECT_IDENTIFIER) => StoreFormat::Pkcs7,
        [algorithm, data] if algorithm.is(SEQUENCE) && data.is(OCTET_STRING) => {
            StoreFormat::EncryptedKeyDer
        }
        [version, ..] if version.is(INTEGER) => StoreFormat::KeyDer,
        _ if is_certificate(&element) => StoreFormat::CertificateDer,
        _ => StoreFormat::Unknown,
    }
}
