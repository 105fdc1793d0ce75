//! The content of a file counts: not the label of a key, nor the encoding of its text.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::matrix::{fixtures, key, key_error, trust_error};
use super::*;

const CHANGED_LABELS: &[(&str, &str)] = &[
    ("pkcs8.key", "RSA PRIVATE KEY"),
    ("pkcs8.key", "EC PRIVATE KEY"),
    ("pkcs8.key", "ENCRYPTED PRIVATE KEY"),
    ("pkcs8.key", "ANY PRIVATE KEY"),
    ("sec1.key", "PRIVATE KEY"),
    ("sec1.key", "RSA PRIVATE KEY"),
    ("v2-AES192.key", "PRIVATE KEY"),
    ("v1-SHA1-3DES.key", "EC PRIVATE KEY"),
];

// CASES: TL3.
#[test]
fn key_under_the_label_of_another_format_works() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("client.pem"), dir.path().join("client.pem")).unwrap();
    for (file, label) in CHANGED_LABELS {
        let text = fs::read_to_string(fixtures().join(file)).unwrap();
        let block = text.split_once("-----BEGIN ").unwrap().1;
        let (_, body) = block.split_once("-----").unwrap();
        let (body, _) = body.split_once("-----END ").unwrap();
        // SEC 1 may begin with a block for the curve.
        let body = match text.rsplit_once("-----BEGIN EC PRIVATE KEY-----") {
            Some((_, key)) => key.split_once("-----END ").unwrap().0,
            None => body,
        };
        let changed = format!("-----BEGIN {label}-----{body}-----END {label}-----\n");
        fs::write(dir.path().join("changed.key"), changed).unwrap();
        let e = key_error(dir.path(), &key("changed.key", &[]), None);
        assert_eq!(e, "", "{file} as {label}");
    }
}

// CASES: TL3.
#[test]
fn block_without_a_key_is_called_damaged_and_not_a_key_of_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("client.pem"), dir.path().join("client.pem")).unwrap();
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
        let text = format!("-----BEGIN {label}-----\nMAMCAQA=\n-----END {label}-----\n");
        fs::write(dir.path().join("damaged.key"), text).unwrap();
        let e = key_error(dir.path(), &key("damaged.key", &[]), None);
        assert!(e.contains(label) && e.contains("it may be damaged"), "{e}");
    }
}

/// The data of a Kubernetes Secret is base64, also of a store.
// CASES: TL3.
#[test]
fn base64_of_a_store_or_a_setting_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["ca.pem", "trust-openssl.p12", "trust-java.jks", "client.der"] {
        let base64 = BASE64_STANDARD.encode(fs::read(fixtures().join(file)).unwrap());
        let lines: Vec<_> = base64.as_bytes().chunks(76).collect();
        fs::write(dir.path().join("secret"), lines.join(&b'\n')).unwrap();
        let e = trust_error(dir.path(), "secret", "changeit");
        assert!(e.contains("it is base64") && e.contains("base64 -d"), "{file}: {e}");
    }
    let ca = create_authority("A");
    let encode =
        |file| Secret::new(BASE64_STANDARD.encode(fs::read(fixtures().join(file)).unwrap()));
    let trust_store = SecurityStore::Inline { certificates: encode("ca.pem"), key: None };
    let settings = TlsSettings { trust_store: Some(trust_store), ..tls_settings(&ca) };
    let e = new_connector(settings).err().unwrap().to_string();
    assert!(e.contains("ssl.truststore.certificates: it is base64"), "{e}");
    let certificates = Secret::new(fs::read_to_string(fixtures().join("client.pem")).unwrap());
    let key_store = SecurityStore::Inline { certificates, key: Some(encode("pkcs8.key")) };
    let settings = TlsSettings { key_store: Some(key_store), ..tls_settings(&ca) };
    let e = new_connector(settings).err().unwrap().to_string();
    assert!(e.contains("ssl.keystore.key: it is base64"), "{e}");
}

// CASES: TL3.
#[test]
fn utf16_without_a_mark_works() {
    let text = fs::read_to_string(fixtures().join("ca.pem")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for encode in [u16::to_le_bytes, u16::to_be_bytes] {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(encode).collect();
        fs::write(dir.path().join("ca"), bytes).unwrap();
        assert_eq!(trust_error(dir.path(), "ca", "changeit"), "");
    }
}
