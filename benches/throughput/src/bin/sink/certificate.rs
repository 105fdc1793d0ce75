//! The certificate of the sink.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;

/// Generates an authority and a certificate for 127.0.0.1, and writes the PEM of the authority.
///
/// The only cipher suite is `TLS_AES_256_GCM_SHA384`, which Java clients and brokers prefer.
/// Otherwise the clients would compare different ciphers: Go prefers AES-128.
pub(crate) fn server_config(ca_path: &Path) -> Arc<ServerConfig> {
    let mut params = CertificateParams::new(Vec::new()).expect("describe the authority");
    params.distinguished_name.push(DnType::CommonName, "throughput CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().expect("generate a key");
    let ca = CertifiedIssuer::self_signed(params, ca_key).expect("sign the authority");
    fs::write(ca_path, ca.pem()).expect("write the PEM of the authority");

    let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut params = CertificateParams::new(hosts).expect("describe the certificate");
    params.distinguished_name.push(DnType::CommonName, "throughput sink");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("generate a key");
    let certificate = params.signed_by(&key, &ca).expect("sign the certificate");

    let provider = CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384],
        ..ring::default_provider()
    };
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])
        .expect("use TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .expect("use the certificate");
    Arc::new(config)
}
