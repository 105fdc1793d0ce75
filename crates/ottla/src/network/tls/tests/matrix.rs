//! The matrix of formats and tools in docs/SECURITY.md: stores and keys that openssl and keytool
//! wrote. The files are checked in; where both programs are installed, the test also writes new
//! ones and reads those.

use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::stores::{connector_error, with_password};
use super::*;

/// A key store, or a key with the certificate beside it.
pub(super) struct KeyCase {
    file: &'static str,
    /// `None` if the client's certificate is in the same file.
    certificate: Option<&'static str>,
    /// The passwords of the store and of the key.
    passwords: (Option<&'static str>, Option<&'static str>),
    /// Parts of the error; empty if the file works.
    error: &'static [&'static str],
}

const CHANGEIT: Option<&str> = Some("changeit");
const NO_PASSWORD: (Option<&str>, Option<&str>) = (None, None);

/// A store with both.
pub(super) const fn store(file: &'static str, error: &'static [&'static str]) -> KeyCase {
    KeyCase { file, certificate: None, passwords: (CHANGEIT, None), error }
}

/// A key with a password, for the certificate client.pem.
pub(super) const fn key(file: &'static str, error: &'static [&'static str]) -> KeyCase {
    KeyCase { file, certificate: Some("client.pem"), passwords: (None, CHANGEIT), error }
}

const KEY_CASES: &[KeyCase] = &[
    key("pkcs8.key", &[]),
    key("pkcs8.der", &[]),
    key("sec1.key", &[]),
    key("sec1.der", &[]),
    KeyCase { certificate: Some("client.der"), ..key("pkcs8.der", &[]) },
    KeyCase { certificate: Some("trusted.pem"), ..key("pkcs8.key", &[]) },
    // Only the broker has to accept version 1.
    KeyCase { certificate: Some("client-v1.pem"), ..key("pkcs8.key", &[]) },
    KeyCase {
        certificate: Some("ca.pem"),
        ..key("pkcs8.key", &["do not belong together", "CN=ca"])
    },
    key("v1-MD5-DES.key", &[]),
    key("v1-SHA1-DES.key", &[]),
    key("v1-MD5-RC2-64.key", &[]),
    key("v1-SHA1-RC2-64.key", &[]),
    key("v1-SHA1-3DES.key", &[]),
    key("v1-SHA1-2DES.key", &[]),
    key("v1-SHA1-RC2-128.key", &[]),
    key("v1-SHA1-RC2-40.key", &[]),
    key("v1-SHA1-RC4-128.key", &["PBE-SHA1-RC4-128", "openssl pkcs8 -topk8"]),
    key("v2-3DES.key", &[]),
    key("v2-DES.key", &[]),
    key("v2-RC2.key", &["RC2-CBC", "openssl pkcs8 -topk8"]),
    key("v2-CAMELLIA.key", &["CAMELLIA-256-CBC", "openssl pkcs8 -topk8"]),
    key("v2-AES-SHA1.key", &[]),
    key("v2-AES128-SHA512.key", &[]),
    key("v2-AES192.key", &[]),
    key("v2-scrypt.key", &[]),
    key("encrypted.der", &[]),
    key("traditional-des.key", &[]),
    key("traditional-des3.key", &[]),
    key("traditional-aes128.key", &[]),
    key("traditional-aes192.key", &[]),
    key("traditional-aes256.key", &[]),
    key("traditional-camellia128.key", &["CAMELLIA-128-CBC", "openssl pkcs8 -topk8"]),
    key("openssh.key", &["OpenSSH", "ssh-keygen -p -m PKCS8"]),
    key("client.pem", &["no key"]),
    key("client.der", &["it is a certificate"]),
    key("default.p12", &["set it as ssl.keystore.location"]),
    store("default.p12", &[]),
    store("RC2-40.p12", &[]),
    store("RC2-128.p12", &[]),
    store("3DES.p12", &[]),
    store("2DES.p12", &[]),
    store("SHA512.p12", &[]),
    store("plain.p12", &[]),
    store("nomac.p12", &[]),
    store("RC4.p12", &["PBE-SHA1-RC4-128", "openssl pkcs12"]),
    store("CAMELLIA.p12", &["CAMELLIA-256-CBC", "openssl pkcs12"]),
    store("SHA512-256.p12", &["SHA-512/256", "openssl pkcs12"]),
    store("key-only.p12", &["a key without its certificate"]),
    KeyCase { passwords: NO_PASSWORD, ..store("no-password.p12", &[]) },
    store("java.p12", &[]),
    store("java.jks", &[]),
    // Java writes EC keys without their public key.
    store("genkey-ec.jks", &[]),
    store("genkey-ec.pkcs12", &[]),
    KeyCase { passwords: (CHANGEIT, Some("keypassword")), ..store("java-key-password.jks", &[]) },
    KeyCase { passwords: (None, Some("keypassword")), ..store("java-key-password.jks", &[]) },
    store("java-key-password.jks", &["another password than the store", "ssl.key.password"]),
    store("java.jceks", &["JCEKS", "keytool -importkeystore"]),
    store("trust-java.jks", &["contains no key"]),
    store("certificates.p7b", &["PKCS#7", "openssl pkcs7 -print_certs"]),
    store("client.pem", &["no private key", "ssl.key.location"]),
    store("pkcs8.der", &["private key", "ssl.key.location"]),
    store("P-384.key", &[]),
    store("ED25519.key", &[]),
    store("P-521.key", &["P-521", "tls-aws-lc-rs"]),
    store("RSA-1024.key", &["RSA key of 1024 bits", "openssl req"]),
    store("RSA-primes.key", &["more than two primes", "RSA key of 2048"]),
    store("secp256k1.key", &["secp256k1", "openssl req"]),
    store("brainpoolP256r1.key", &["brainpoolP256r1", "openssl req"]),
    store("explicit.key", &["explicit curve parameters", "named_curve"]),
    store("ED448.key", &["Ed448", "openssl req"]),
    store("DSA.key", &["DSA", "RSA key of 2048"]),
];

/// Trust stores with the password "changeit", and parts of the error.
const TRUST_CASES: &[(&str, &[&str])] = &[
    ("ca.pem", &[]),
    ("client.der", &[]),
    ("trusted.pem", &[]),
    ("trust-openssl.p12", &[]),
    ("trust-java.pkcs12", &[]),
    ("trust-java.jks", &[]),
    ("java.p12", &[]),
    ("java-key-password.jks", &[]),
    ("trust-java.jceks", &["JCEKS", "keytool -importkeystore"]),
    ("certificates.p7b", &["PKCS#7", "openssl pkcs7 -print_certs"]),
    ("certificates-der.p7b", &["PKCS#7", "-inform DER"]),
    ("pkcs8.key", &["no certificate", "PRIVATE KEY"]),
];

pub(super) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/tls/fixtures/matrix")
}

fn file_store(path: &Path, key_path: Option<&Path>) -> SecurityStore {
    let text = |path: &Path| path.display().to_string();
    SecurityStore::File { path: text(path), password: None, key_path: key_path.map(text) }
}

/// Returns the error of a key store; empty if it works.
pub(super) fn key_error(dir: &Path, case: &KeyCase, wrong_password: Option<&str>) -> String {
    let ca = create_authority("A");
    let file = dir.join(case.file);
    let store = match case.certificate {
        Some(certificate) => file_store(&dir.join(certificate), Some(&file)),
        None => file_store(&file, None),
    };
    let (store_password, key_password) = match wrong_password {
        Some(wrong) => (case.passwords.0.map(|_| wrong), case.passwords.1.map(|_| wrong)),
        None => case.passwords,
    };
    let store = match store_password {
        Some(password) => with_password(store, password),
        None => store,
    };
    connector_error(TlsSettings {
        key_store: Some(store),
        key_password: key_password.map(Secret::new),
        ..tls_settings(&ca)
    })
}

pub(super) fn trust_error(dir: &Path, file: &str, password: &str) -> String {
    let store = with_password(file_store(&dir.join(file), None), password);
    let trust_store = Some(store);
    connector_error(TlsSettings { trust_store, ..tls_settings(&create_authority("A")) })
}

fn check(file: &str, error: &str, expected: &[&str]) {
    assert!(expected.is_empty() == error.is_empty(), "{file}: {error:?}, not {expected:?}");
    for part in expected {
        assert!(error.contains(part), "{file}: {part:?} is not in: {error}");
    }
    assert!(!error.contains("changeit"), "{file}: {error}");
    let blames_password = error.contains("password is wrong");
    assert!(!blames_password, "{file}: the password is right, but: {error}");
}

/// Reads every file of a directory that `generate.sh` wrote.
fn check_directory(dir: &Path) {
    for case in KEY_CASES {
        check(case.file, &key_error(dir, case, None), case.error);
    }
    for (file, expected) in TRUST_CASES {
        check(file, &trust_error(dir, file, "changeit"), expected);
    }
}

// CASES: TL3.
#[test]
fn stores_and_keys_of_every_tool_work_or_the_error_has_the_conversion() {
    check_directory(&fixtures());
}

// CASES: TL3.
#[test]
fn stores_and_keys_that_openssl_and_keytool_write_now_work_too() {
    let is_missing = |program: &&&str| {
        let mut command = Command::new(**program);
        command.arg("-help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_err()
    };
    if let Some(program) = ["bash", "openssl", "keytool", "ssh-keygen"].iter().find(is_missing) {
        ottla_testkit::skip_test(&format!("generating new stores and keys needs {program}"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = fixtures().join("generate.sh");
    let output = Command::new("bash").arg(script).arg(dir.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "generate.sh: {error}");
    check_directory(dir.path());
}

/// Encrypted files report a wrong password, each with the setting; one that is not supported
/// anyway may report its algorithm.
// CASES: TL3.
#[test]
fn wrong_password_is_reported_as_one_with_its_setting() {
    let dir = fixtures();
    let mut encrypted = 0;
    for case in KEY_CASES.iter().filter(|case| case.error.is_empty()) {
        let e = key_error(&dir, case, Some("hunter2"));
        let is_plain = case.file.starts_with("pkcs8") || case.file.starts_with("sec1");
        if is_plain || case.file.starts_with("P-") || case.file.starts_with("ED") {
            assert_eq!(e, "", "{}", case.file);
        } else if case.passwords != NO_PASSWORD {
            encrypted += 1;
            let setting = if case.certificate.is_none() { "ssl.key" } else { "ssl.key.password" };
            assert!(e.contains("password is wrong") && e.contains(setting), "{}: {e}", case.file);
            assert!(!e.contains("hunter2"), "{e}");
        }
    }
    assert!(encrypted > 25, "only {encrypted} files were tried");
    for file in ["trust-openssl.p12", "trust-java.pkcs12", "trust-java.jks"] {
        let e = trust_error(&dir, file, "hunter2");
        assert!(e.contains("password is wrong; check ssl.truststore.password"), "{file}: {e}");
    }
}

/// Truncated and altered files never panic, and never load a key that is not the certificate's.
#[test]
fn damaged_stores_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for case in KEY_CASES.iter().filter(|c| c.certificate.is_none() && c.error.is_empty()) {
        let bytes = fs::read(fixtures().join(case.file)).unwrap();
        for len in (0..bytes.len()).step_by(41) {
            fs::write(dir.path().join(case.file), &bytes[..len]).unwrap();
            let e = key_error(dir.path(), case, None);
            assert!(!e.is_empty(), "{} with {len} bytes", case.file);
        }
    }
}

/// Puts an element's tag and length before its content; all bytes are in reverse order.
fn wrap_reversed(reversed: &mut Vec<u8>, tag: u8) {
    reversed.extend((reversed.len() as u32).to_le_bytes());
    reversed.extend([0x84, tag]);
}

/// The depth of elements in a file is outside input, and a thread's stack has an end.
// CASES: TL3.
#[test]
fn deeply_nested_elements_are_an_error() {
    const DATA: [u8; 11] = [6, 9, 42, 134, 72, 134, 247, 13, 1, 7, 1];
    const NESTED_BAGS: [u8; 13] = [6, 11, 42, 134, 72, 134, 247, 13, 1, 12, 10, 1, 6];
    const PBES2: [u8; 11] = [6, 9, 42, 134, 72, 134, 247, 13, 1, 5, 13];
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, mut reversed: Vec<u8>| {
        reversed.reverse();
        fs::write(dir.path().join(name), reversed).unwrap();
    };

    let mut store_file = Vec::new();
    for _ in 0..100_000 {
        // A list of bags, in a bag whose kind is such a list.
        wrap_reversed(&mut store_file, 0x30);
        wrap_reversed(&mut store_file, 0xa0);
        store_file.extend(NESTED_BAGS.iter().rev());
        wrap_reversed(&mut store_file, 0x30);
    }
    for _ in 0..2 {
        // The content of the file is a list of contents, here of one.
        for tag in [0x30, 0x04, 0xa0] {
            wrap_reversed(&mut store_file, tag);
        }
        store_file.extend(DATA.iter().rev());
        wrap_reversed(&mut store_file, 0x30);
    }
    store_file.extend([3, 1, 2]);
    wrap_reversed(&mut store_file, 0x30);
    write("nested.p12", store_file);
    let e = key_error(dir.path(), &store("nested.p12", &[]), None);
    assert!(e.contains("no key"), "{e}");

    // The parameters of the key's encryption.
    let mut key_file = Vec::new();
    for _ in 0..100_000 {
        wrap_reversed(&mut key_file, 0x30);
    }
    key_file.extend(PBES2.iter().rev());
    wrap_reversed(&mut key_file, 0x30);
    let parameters = key_file;
    let mut key_file = vec![0, 1, 4];
    key_file.extend(parameters);
    wrap_reversed(&mut key_file, 0x30);
    write("nested.der", key_file);
    fs::copy(fixtures().join("client.pem"), dir.path().join("client.pem")).unwrap();
    let e = key_error(dir.path(), &key("nested.der", &[]), None);
    assert!(e.contains("PBES2"), "{e}");
}

/// Encodes with an indefinite length, as BER permits.
fn indefinite(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag, 0x80], parts.concat().as_slice(), &[0, 0]].concat()
}

/// Some exporters write PKCS#12 in BER, with split octet strings.
// CASES: TL3.
#[test]
fn pkcs12_in_ber_works() {
    use crate::network::tls::asn1::Element;
    let bytes = fs::read(fixtures().join("default.p12")).unwrap();
    let fields = Element::parse(&bytes).unwrap().fields();
    let [version, auth_safe, mac] = &fields[..] else { panic!() };
    let auth_safe = auth_safe.fields();
    let content = auth_safe[1].children().next().unwrap().octets();
    let chunks: Vec<Vec<u8>> =
        content.chunks(100).map(|c| [&[4, c.len() as u8], c].concat()).collect();
    let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
    let octets = indefinite(0x24, &chunks);
    let content = indefinite(0xa0, &[&octets]);
    let auth_safe = indefinite(0x30, &[auth_safe[0].raw(), &content]);
    let ber = indefinite(0x30, &[version.raw(), &auth_safe, mac.raw()]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ber.p12"), ber).unwrap();
    assert_eq!(key_error(dir.path(), &store("ber.p12", &[]), None), "");
    let wrong = key_error(dir.path(), &store("ber.p12", &[]), Some("hunter2"));
    assert!(wrong.contains("password is wrong"), "{wrong}");
}

// CASES: TL3.
#[test]
fn pem_texts_of_editors_shells_and_settings_work() {
    let ca = create_authority("A");
    let dir = tempfile::tempdir().unwrap();
    let read = |file| fs::read_to_string(fixtures().join(file)).unwrap();
    let bundle = format!("{}{}{}", read("ca.pem"), read("client.pem"), read("v1-SHA1-3DES.key"));
    let crlf = bundle.replace('\n', "\r\n");
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(crlf.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let attributes = "Bag Attributes\n    friendlyName: a-----b\nKey Attributes: <No Attributes>\n";
    for bytes in [
        format!("\u{feff}{crlf}").into_bytes(),
        utf16,
        bundle.replace("-----BEGIN", &format!("{attributes}-----BEGIN")).into_bytes(),
        bundle.replace('\n', "\\n").into_bytes(),
        bundle.replace('\n', "\\r\\n").into_bytes(),
        bundle.replace('\n', " ").into_bytes(),
        bundle.replace('\n', " \\\n  ").into_bytes(),
        read("traditional-aes256.key")
            .replace('\n', "\\n")
            .into_bytes()
            .into_iter()
            .chain(read("client.pem").into_bytes())
            .collect(),
    ] {
        fs::write(dir.path().join("bundle.pem"), &bytes).unwrap();
        let case = KeyCase { passwords: (None, CHANGEIT), ..store("bundle.pem", &[]) };
        let e = key_error(dir.path(), &case, None);
        assert_eq!(e, "", "{}", String::from_utf8_lossy(&bytes));
    }
    let inline = SecurityStore::Inline {
        certificates: Secret::new(read("client.pem").replace('\n', "\\n")),
        key: Some(Secret::new(read("traditional-des3.key").replace('\n', " "))),
    };
    let key_password = Some(Secret::new("changeit"));
    let settings = TlsSettings { key_store: Some(inline), key_password, ..tls_settings(&ca) };
    assert_eq!(connector_error(settings), "");
    let base64 = BASE64_STANDARD.encode(read("ca.pem"));
    fs::write(dir.path().join("secret"), base64).unwrap();
    let e = trust_error(dir.path(), "secret", "changeit");
    assert!(e.contains("base64 -d"), "{e}");
    fs::write(dir.path().join("bks"), [0, 0, 0, 2, 0, 0, 0, 20, 1, 2, 3]).unwrap();
    let e = trust_error(dir.path(), "bks", "changeit");
    assert!(e.contains("BKS") && e.contains("BouncyCastleProvider"), "{e}");
}
