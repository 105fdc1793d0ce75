//! Tests of trust stores and key stores: formats, passwords, damaged files and reloading.

use super::*;

fn write_store(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> SecurityStore {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    SecurityStore::File { path: path.display().to_string(), password: None, key_path: None }
}

pub(super) fn with_password(store: SecurityStore, password: &str) -> SecurityStore {
    let SecurityStore::File { path, key_path, .. } = store else { panic!() };
    SecurityStore::File { path, key_path, password: Some(Secret::new(password)) }
}

/// Returns a file that keytool or openssl created; the password of all is "changeit".
fn read_fixture(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/tls/fixtures");
    fs::read(dir.join(name)).unwrap()
}

/// Returns the error text of a connector with these settings; empty if there is no error.
pub(super) fn connector_error(settings: TlsSettings) -> String {
    new_connector(settings).err().map_or(String::new(), |e| e.to_string())
}

// CASES: TL3.
#[test]
fn pem_stores_work_in_one_file_in_two_files_and_on_one_line() {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["b"], None);
    let client = issue_certificate(&ca, &["client"], None);
    let config = server_config(&certificate, Some(&ca));
    let dir = tempfile::tempdir().unwrap();
    let ca_on_one_line = ca.pem().replace('\n', " ");
    let key_file = dir.path().join("key.pem");
    fs::write(&key_file, client.key.serialize_pem()).unwrap();
    let cert_file = dir.path().join("cert.pem");
    fs::write(&cert_file, client.cert.pem()).unwrap();
    let two_files = SecurityStore::File {
        path: cert_file.display().to_string(),
        password: None,
        key_path: Some(key_file.display().to_string()),
    };
    for key_store in [write_store(dir.path(), "both.pem", client.pem()), two_files] {
        let trust_store =
            SecurityStore::Inline { certificates: Secret::new(&*ca_on_one_line), key: None };
        let connector = new_connector(TlsSettings {
            trust_store: Some(trust_store),
            key_store: Some(key_store),
            ..tls_settings(&ca)
        })
        .unwrap();
        assert!(run_echo(&connector, "b", &config, FRAGMENTED).is_ok());
    }
}

// CASES: TL3.
#[test]
fn format_of_a_store_is_detected_and_a_wrong_password_names_its_setting() {
    let ca = create_authority("A");
    let dir = tempfile::tempdir().unwrap();
    let store = |name: &str| write_store(dir.path(), name, read_fixture(name));
    let trust_error = |trust_store| {
        connector_error(TlsSettings { trust_store: Some(trust_store), ..tls_settings(&ca) })
    };
    let key_error = |key_store, key_password: Option<&str>| {
        connector_error(TlsSettings {
            key_store: Some(key_store),
            key_password: key_password.map(Secret::new),
            ..tls_settings(&ca)
        })
    };
    for name in ["trust.jks", "trust.p12"] {
        assert_eq!(trust_error(with_password(store(name), "changeit")), "");
        let e = trust_error(with_password(store(name), "hunter2"));
        assert!(e.contains("ssl.truststore.password") && !e.contains("hunter2"), "{e}");
    }
    assert_eq!(key_error(with_password(store("key.p12"), "changeit"), None), "");
    assert_eq!(key_error(store("encrypted.pem"), Some("changeit")), "");
    let e = key_error(store("encrypted.pem"), Some("hunter2"));
    assert!(e.contains("ssl.key.password") && !e.contains("hunter2"), "{e}");
    let e = key_error(store("encrypted.pem"), None);
    assert!(e.contains("encrypted and ssl.key.password is not set"), "{e}");
    let e = key_error(store("trust.jks"), None);
    assert!(e.contains("contains no key"), "{e}");
}

// CASES: TL3.
#[test]
fn error_of_a_damaged_store_names_file_setting_and_reason() {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["b"], None);
    let client = issue_certificate(&ca, &["client"], None);
    let dir = tempfile::tempdir().unwrap();
    let trust_error = |trust_store| {
        connector_error(TlsSettings { trust_store: Some(trust_store), ..tls_settings(&ca) })
    };
    for (bytes, expected) in [
        (&b"rubbish"[..], "not a PEM, DER, PKCS#12 or JKS file"),
        (&b"-----BEGIN CERTIFICATE-----\nAAAA"[..], "no END line"),
        (&b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"[..], "not base64"),
        (&b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"[..], "no certificate"),
        (&b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"[..], "no certificate"),
        (&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff][..], "truncated or damaged"),
        (&b" \n"[..], "the file is empty"),
        (&b"0 certificates"[..], "not a PEM, DER, PKCS#12 or JKS file"),
        (&[0x30, 0x82, 0xff][..], "begins like a file in DER"),
        (&[0x30, 0x07, 2, 1, 3, 0x30, 2, 6, 0][..], "PKCS#12 file is truncated or damaged"),
    ] {
        let e = trust_error(write_store(dir.path(), "bad", bytes));
        assert!(e.contains(expected) && e.contains("ssl.truststore.location"), "{expected}: {e}");
    }
    let at = |path: &str| SecurityStore::File { path: path.into(), password: None, key_path: None };
    let e = trust_error(at("/no/such"));
    assert!(e.contains("/no/such cannot be read"), "{e}");
    let key_of_another = format!("{}{}", certificate.key.serialize_pem(), client.cert.pem());
    let key_store = Some(write_store(dir.path(), "mixed.pem", key_of_another.as_bytes()));
    let e = connector_error(TlsSettings { key_store, ..tls_settings(&ca) });
    assert!(e.contains("do not belong together"), "{e}");
}

#[test]
fn changed_files_are_reloaded_and_damaged_files_keep_the_old_certificates() {
    let (ca_a, ca_b) = (create_authority("A"), create_authority("B"));
    let dir = tempfile::tempdir().unwrap();
    let store = write_store(dir.path(), "ca.pem", ca_a.pem());
    let settings = TlsSettings { trust_store: Some(store), ..tls_settings(&ca_a) };
    let connector = new_connector(settings).unwrap();
    assert!(connector.has_files());
    let server_a = server_config(&issue_certificate(&ca_a, &["h"], None), None);
    let server_b = server_config(&issue_certificate(&ca_b, &["h"], None), None);
    assert!(run_echo(&connector, "h", &server_a, FRAGMENTED).is_ok());
    assert_rejected(run_echo(&connector, "h", &server_b, FRAGMENTED), &["CN=B"]);
    write_store(dir.path(), "ca.pem", "half a fi");
    connector.reload_if_changed();
    assert!(run_echo(&connector, "h", &server_a, FRAGMENTED).is_ok(), "the old certificates stay");
    write_store(dir.path(), "ca.pem", format!("{}\n\n{}", ca_a.pem(), ca_b.pem()));
    connector.reload_if_changed();
    assert!(run_echo(&connector, "h", &server_a, FRAGMENTED).is_ok());
    assert!(run_echo(&connector, "h", &server_b, FRAGMENTED).is_ok());
    assert!(new_connector(tls_settings(&ca_a)).is_ok_and(|c| !c.has_files()));
}

/// The file system reports the length 0 for a device and a pipe.
#[cfg(unix)]
#[test]
fn file_without_an_end_is_read_up_to_a_limit() {
    let ca = create_authority("A");
    let zero = || {
        let path = "/dev/zero".to_owned();
        Some(SecurityStore::File { path, password: None, key_path: None })
    };
    let of_the_broker = TlsSettings { trust_store: zero(), ..tls_settings(&ca) };
    let of_the_client = TlsSettings { key_store: zero(), ..tls_settings(&ca) };
    for (settings, setting) in
        [(of_the_broker, "ssl.truststore.location"), (of_the_client, "ssl.keystore.location")]
    {
        let e = connector_error(settings);
        let expected = format!("{setting}=/dev/zero cannot be read: it has more than 16777216");
        assert!(e.contains(&expected), "{e}");
    }
}
