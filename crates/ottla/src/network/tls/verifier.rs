//! Verifies the broker's certificate. rustls's verifier does most of it; this module adds what Java
//! accepts and rustls does not.
//!
//! - A certificate that is itself in the trust store is accepted as it is, like in Java's
//!   `PKIXValidator`, with any issuer and any expiry. Its name is still checked.
//! - A certificate of X.509 version 1 is accepted if a trusted authority signed it. It names no
//!   host, so `ssl.endpoint.identification.algorithm` must be empty.

use std::collections::BTreeSet;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, Der, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

use super::asn1::Element;
use super::public_key::PublicKey;
use crate::sync::Mutex;

/// The certificates of a trust store.
#[derive(Debug)]
pub(super) struct TrustedCertificates {
    /// Each certificate in DER, to recognize one that a broker presents.
    all: BTreeSet<Vec<u8>>,
    /// Those that may have signed others.
    authorities: RootCertStore,
    /// How many could not be parsed.
    pub(super) unusable: usize,
}

impl TrustedCertificates {
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> TrustedCertificates {
        let mut trusted = TrustedCertificates {
            all: BTreeSet::new(),
            authorities: RootCertStore::empty(),
            unusable: 0,
        };
        for der in certificates {
            trusted.add(&der);
        }
        trusted
    }

    fn add(&mut self, der: &CertificateDer<'static>) {
        let parsed = X509Certificate::from_der(der).ok().map(|(_, c)| c);
        // A certificate that says it is no authority may be a broker's, but signs no others.
        let is_leaf = parsed
            .as_ref()
            .is_some_and(|c| c.basic_constraints().is_ok_and(|b| b.is_some_and(|b| !b.value.ca)));
        if is_leaf || self.authorities.add(der.clone()).is_ok() {
            self.all.insert(der.to_vec());
            return;
        }
        // rustls parses all of an authority's certificate, although only name and key matter.
        match parsed.as_ref().and_then(trust_anchor) {
            Some(anchor) => {
                self.authorities.roots.push(anchor);
                self.all.insert(der.to_vec());
            }
            None => self.unusable += 1,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// Returns the trust anchor of a certificate without name constraints.
fn trust_anchor(certificate: &X509Certificate<'_>) -> Option<TrustAnchor<'static>> {
    if !certificate.name_constraints().is_ok_and(|c| c.is_none()) {
        return None;
    }
    let content = |raw| Element::parse(raw).map(|e| Der::from(e.content().to_vec()));
    Some(TrustAnchor {
        subject: content(certificate.subject().as_raw())?,
        subject_public_key_info: content(certificate.public_key().raw)?,
        name_constraints: None,
    })
}

/// Verifies the broker's certificate, and keeps a rejected one for the error message.
#[derive(Debug)]
pub(super) struct CertificateVerifier {
    trusted: TrustedCertificates,
    algorithms: WebPkiSupportedAlgorithms,
    verify_hostname: bool,
    /// In DER, followed by the other certificates that the broker sent. All sessions share it; only
    /// one thread, the sender's, verifies certificates.
    rejected_chain: Mutex<Vec<Vec<u8>>>,
}

impl CertificateVerifier {
    pub(super) fn new(
        trusted: TrustedCertificates,
        provider: &CryptoProvider,
        verify_hostname: bool,
    ) -> CertificateVerifier {
        CertificateVerifier {
            trusted,
            algorithms: provider.signature_verification_algorithms,
            verify_hostname,
            rejected_chain: Mutex::new(Vec::new()),
        }
    }

    /// Removes and returns the certificate that was rejected last, in DER, and those that the
    /// broker sent with it.
    pub(super) fn take_rejected_chain(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.rejected_chain.lock())
    }

    fn verify_trust(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.trusted.all.contains(&certificate[..]) {
            return Ok(());
        }
        if let Some(version1) = parse_version1(certificate) {
            return self.verify_version1(certificate, &version1, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &self.trusted.authorities,
            intermediates,
            now,
            self.algorithms.all,
        )
    }

    /// Checks a certificate of version 1: it is valid now, and a trusted authority signed it. An
    /// authority in between is not possible; checking its extensions is the work of rustls.
    fn verify_version1(
        &self,
        der: &CertificateDer<'_>,
        certificate: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let validity = certificate.validity();
        let now = ASN1Time::from_timestamp(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let now = now.map_err(|_| CertificateError::BadEncoding)?;
        if now < validity.not_before {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after {
            return Err(CertificateError::Expired.into());
        }
        let fields = Element::parse(der).map(|c| c.fields()).unwrap_or_default();
        let [signed, algorithm, _] = &fields[..] else {
            return Err(CertificateError::BadEncoding.into());
        };
        // RFC 5280, 4.1.1.2: both must be the same, since only the inner one is signed.
        if certificate.signature_algorithm != certificate.tbs_certificate.signature {
            return Err(CertificateError::BadSignature.into());
        }
        let Some(issuer) = Element::parse(certificate.issuer().as_raw()) else {
            return Err(CertificateError::BadEncoding.into());
        };
        let of_algorithm: Vec<_> = (self.algorithms.all.iter().copied())
            .filter(|a| a.signature_alg_id().as_ref() == algorithm.content())
            .collect();
        let mut anchors = self.trusted.authorities.roots.iter().filter(|anchor| {
            anchor.subject.as_ref() == issuer.content() && anchor.name_constraints.is_none()
        });
        let is_signed = anchors.any(|anchor| {
            PublicKey::from_spki(&anchor.subject_public_key_info).is_some_and(|key| {
                key.verifies(&of_algorithm, signed.raw(), &certificate.signature_value.data)
            })
        });
        if is_signed { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) }
    }

    fn verify_name(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<(), Error> {
        if !self.verify_hostname {
            return Ok(());
        }
        if parse_version1(certificate).is_some() {
            return Err(CertificateError::NotValidForName.into());
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
    }

    /// Verifies a signature of a TLS 1.2 handshake with a certificate of version 1.
    fn verify_version1_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let mapping = self.algorithms.mapping.iter();
        let algorithms =
            mapping.filter(|(s, _)| *s == signature.scheme).flat_map(|(_, list)| *list);
        let algorithms: Vec<_> = algorithms.copied().collect();
        let key = PublicKey::from_certificate(certificate);
        let is_valid =
            key.is_some_and(|key| key.verifies(&algorithms, message, signature.signature()));
        match is_valid {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    /// Keeps the certificate and the others of its chain if it was rejected.
    fn keep_rejected<T>(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        if result.is_err() {
            let chain = std::iter::once(certificate).chain(others);
            *self.rejected_chain.lock() = chain.map(|c| c.to_vec()).collect();
        }
        result
    }
}

/// Returns the certificate if its version is 1.
fn parse_version1<'c>(der: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    (certificate.version() == X509Version::V1).then_some(certificate)
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self
            .verify_trust(end_entity, intermediates, now)
            .and_then(|()| self.verify_name(end_entity, name));
        self.keep_rejected(end_entity, intermediates, result)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = match parse_version1(cert) {
            Some(_) => self.verify_version1_tls12_signature(message, cert, dss),
            None => verify_tls12_signature(message, cert, dss, &self.algorithms),
        };
        self.keep_rejected(cert, &[], result)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = match parse_version1(cert) {
            Some(version1) => {
                let key = SubjectPublicKeyInfoDer::from(version1.public_key().raw);
                verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
            }
            None => verify_tls13_signature(message, cert, dss, &self.algorithms),
        };
        self.keep_rejected(cert, &[], result)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
