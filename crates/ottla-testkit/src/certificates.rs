//! Certificates for tests, made when they are needed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// Who signs.
#[derive(Debug)]
pub struct CertificateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, and its authority's.
    pub chain: String,
    /// The key, PKCS#8.
    pub key: String,
}

impl CertificateAuthority {
    /// A new one of this name.
    ///
    /// # Panics
    /// Never on a machine with randomness.
    pub fn new(name: &str) -> CertificateAuthority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        CertificateAuthority { issuer }
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these hosts (by name or address), which ended in the year given, or has not.
    ///
    /// # Panics
    /// If a host is not a name.
    pub fn issue(&self, name: &str, hosts: &[&str], ended: Option<i32>) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = hosts
            .iter()
            .map(|h| match h.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*h).try_into().expect("a host name")),
            })
            .collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(year) = ended {
            params.not_before = date_time_ymd(year - 1, 1, 1);
            params.not_after = date_time_ymd(year, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let chain = format!("{}{}", certificate.pem(), self.pem());
        Identity { chain, key: key.serialize_pem() }
    }

    /// A certificate for this machine's loopback.
    pub fn issue_local(&self, name: &str) -> Identity {
        self.issue(name, &["localhost", &Ipv4Addr::LOCALHOST.to_string()], None)
    }
}

impl Identity {
    /// Key and certificates in one file, as Java wants a PEM key store.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_pem(&self, path: &Path) -> PathBuf {
        fs::write(path, format!("{}{}", self.key, self.chain)).expect("a key store");
        path.to_owned()
    }
}
