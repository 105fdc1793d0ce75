//! Explains TLS errors to the user: the certificate or setting concerned, the reason and a remedy.
//! The text becomes a [`DisconnectReason`](super::DisconnectReason).

use std::net::IpAddr;

use rustls::{AlertDescription as Alert, CertificateError, Error};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

use super::public_key::{PublicKey, SUPPORTED_KEYS};
use super::verifier::CertificateVerifier;
use crate::network::tls_details::CertificateDetails;

/// An explained TLS error.
pub(super) struct TlsDiagnosis {
    /// The reason and what to do about it.
    pub(super) text: String,
    /// Whether client or broker rejected the other, so that a retry cannot succeed until a
    /// certificate or setting changes.
    pub(super) is_rejection: bool,
}

impl TlsDiagnosis {
    fn rejection(text: impl Into<String>) -> TlsDiagnosis {
        TlsDiagnosis { text: text.into(), is_rejection: true }
    }

    fn failure(text: impl Into<String>) -> TlsDiagnosis {
        TlsDiagnosis { text: text.into(), is_rejection: false }
    }
}

/// Explains an error of the connection to `host`. `has_agreed`: client and broker have agreed on a
/// TLS version and a cipher suite.
pub(super) fn explain(
    e: &Error,
    host: &str,
    verifier: &CertificateVerifier,
    has_agreed: bool,
) -> TlsDiagnosis {
    match e {
        Error::InvalidCertificate(e) => {
            let chain = verifier.take_rejected_chain();
            TlsDiagnosis::rejection(explain_certificate_error(e, host, &chain))
        }
        Error::AlertReceived(alert) => explain_alert(*alert, has_agreed),
        Error::InvalidMessage(_) => TlsDiagnosis::failure(
            "the broker's response is not TLS; if this is a plaintext port, set \
             security.protocol to match",
        ),
        Error::PeerIncompatible(e) => TlsDiagnosis::rejection(format!(
            "the broker shares no TLS version or cipher suite with ssl.enabled.protocols and \
             ssl.cipher.suites: {e:?}"
        )),
        Error::NoCertificatesPresented => {
            TlsDiagnosis::rejection("the broker presented no certificate")
        }
        other => TlsDiagnosis::failure(format!("TLS: {other}")),
    }
}

fn explain_alert(alert: Alert, has_agreed: bool) -> TlsDiagnosis {
    let prefix = format!("the broker closed TLS with the alert {alert:?}");
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => TlsDiagnosis::rejection(format!(
            "{prefix}: it requires a client certificate; set ssl.keystore.location"
        )),
        // With TLS 1.2, OpenSSL has no other alert for a certificate that is missing.
        Alert::HandshakeFailure if has_agreed => TlsDiagnosis::rejection(format!(
            "{prefix} after both agreed on version and cipher suite: it probably requires a client \
             certificate, or rejects the one of ssl.keystore.location"
        )),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => TlsDiagnosis::rejection(format!(
            "{prefix}: it rejects the client certificate, or requires one and received none; \
             check ssl.keystore.location and the broker's trust store"
        )),
        Alert::ProtocolVersion => TlsDiagnosis::rejection(format!(
            "{prefix}: it supports no TLS version of ssl.enabled.protocols, or none that this \
             client has (TLSv1.2, TLSv1.3)"
        )),
        Alert::InsufficientSecurity | Alert::HandshakeFailure => TlsDiagnosis::rejection(format!(
            "{prefix}: client and broker share no TLS version, cipher suite or key type; check \
                 ssl.enabled.protocols, ssl.cipher.suites and ssl.keystore.location. The broker's \
                 certificate needs {SUPPORTED_KEYS}"
        )),
        Alert::UnrecognisedName => TlsDiagnosis::rejection(format!(
            "{prefix}: it has no certificate for the host name that the client uses"
        )),
        _ => TlsDiagnosis::failure(prefix),
    }
}

/// Explains why the client rejected the broker's certificate, the first one of `chain`.
fn explain_certificate_error(e: &CertificateError, host: &str, chain: &[Vec<u8>]) -> String {
    let der = chain.first().map(Vec::as_slice);
    let parsed = der.and_then(|der| X509Certificate::from_der(der).ok()).map(|(_, c)| c);
    let Some(c) = parsed else {
        return format!("the broker's certificate is not valid: {e:?}");
    };
    let others = chain[1..].iter().filter_map(|der| X509Certificate::from_der(der).ok());
    let others: Vec<_> = others.map(|(_, c)| c).collect();
    let certificate =
        format!("the broker's certificate ({}, issued by {})", subject_name(&c), c.issuer());
    let kind = der.and_then(|der| Some(PublicKey::from_certificate(der)?.kind()));
    if let Some(kind) = kind
        && !kind.is_supported()
        && !is_about_trust_or_name(e)
    {
        return format!(
            "{certificate} has {}, which this client does not support; issue one for \
             {SUPPORTED_KEYS}",
            kind.describe()
        );
    }
    if let Some(issuer) = issuer_outside_its_dates(e, &c, &others) {
        return format!(
            "{certificate} was issued through the authority {}, whose certificate is valid from {} \
             to {}; renew that one, and check this machine's clock",
            issuer.subject(),
            issuer.validity().not_before,
            issuer.validity().not_after
        );
    }
    match e {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!(
                "{certificate} expired on {}; renew it, and check this machine's clock",
                c.validity().not_after
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!(
                "{certificate} is not valid before {}; check this machine's clock",
                c.validity().not_before
            )
        }
        CertificateError::UnknownIssuer if c.version() == X509Version::V1 => format!(
            "{certificate} is not signed by a trusted authority; add its issuer to \
             ssl.truststore.location. It has X.509 version 1, so its issuer itself must be trusted"
        ),
        CertificateError::UnknownIssuer => match chain_end(&c, &others) {
            Some(last) => format!(
                "{certificate} is not signed by a trusted authority: its chain ends with {}, \
                 issued by {1}; add the certificate of {1}, or the broker's own, to \
                 ssl.truststore.location",
                last.subject(),
                last.issuer()
            ),
            None => format!(
                "{certificate} is not signed by a trusted authority; add its issuer, or the \
                 certificate itself, to ssl.truststore.location"
            ),
        },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            explain_wrong_host(&certificate, host, &c)
        }
        CertificateError::BadSignature => {
            format!("{certificate} has an invalid signature; check ssl.truststore.location")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("{certificate} is not for a server; issue one with the usage serverAuth")
        }
        CertificateError::Revoked => format!("{certificate} was revoked"),
        other => explain_unusual(&certificate, &c, other),
    }
}

/// Returns the authority's certificate that is expired or not valid yet, if the broker's own is
/// valid.
fn issuer_outside_its_dates<'c, 'd>(
    e: &CertificateError,
    own: &X509Certificate<'_>,
    others: &'c [X509Certificate<'d>],
) -> Option<&'c X509Certificate<'d>> {
    let (CertificateError::ExpiredContext { time, .. }
    | CertificateError::NotValidYetContext { time, .. }) = e
    else {
        return None;
    };
    let now = ASN1Time::from_timestamp(i64::try_from(time.as_secs()).ok()?).ok()?;
    own.validity().is_valid_at(now).then_some(())?;
    others.iter().find(|c| !c.validity().is_valid_at(now))
}

/// Returns the last certificate of the chain that begins with `own`; `None` if that is `own`.
fn chain_end<'c, 'd>(
    own: &X509Certificate<'_>,
    others: &'c [X509Certificate<'d>],
) -> Option<&'c X509Certificate<'d>> {
    let issuer_of = |c: &X509Certificate<'_>| {
        let is_self_issued = c.subject().as_raw() == c.issuer().as_raw();
        let is_issuer = |i: &&X509Certificate<'_>| i.subject().as_raw() == c.issuer().as_raw();
        others.iter().find(is_issuer).filter(|_| !is_self_issued)
    };
    let mut last = issuer_of(own)?;
    for _ in others {
        last = issuer_of(last).unwrap_or(last);
    }
    Some(last)
}

/// Whether the error says that the certificate is not trusted, expired or not for the host. Then
/// the kind of its key is not the reason.
fn is_about_trust_or_name(e: &CertificateError) -> bool {
    use CertificateError as E;
    matches!(
        e,
        E::UnknownIssuer
            | E::Expired
            | E::ExpiredContext { .. }
            | E::NotValidYet
            | E::NotValidYetContext { .. }
            | E::NotValidForName
            | E::NotValidForNameContext { .. }
    )
}

/// The errors of the verifier about authorities of the chain, each with reason and remedy.
const CHAIN_ERRORS: [(&str, &str); 3] = [
    (
        "EndEntityUsedAsCa",
        "was issued by a certificate that is no authority's; issue that one again with \
         basicConstraints=CA:TRUE",
    ),
    (
        "PathLenConstraintViolated",
        "has a longer chain than an authority in it permits (pathlen in basicConstraints); issue \
         it by an authority closer to the root",
    ),
    (
        "NameConstraintViolation",
        "has a name that an authority in its chain may not certify (nameConstraints); issue it \
         for a permitted name, or by another authority",
    ),
];

fn signature_name(oid: &str) -> String {
    match oid {
        "1.2.840.113549.1.1.10" => "RSASSA-PSS with unusual parameters".to_owned(),
        "1.2.840.113549.1.1.14" => "SHA-224 with RSA".to_owned(),
        "1.2.840.10045.4.3.1" => "SHA-224 with ECDSA".to_owned(),
        "1.2.840.113549.1.1.2" => "MD2 with RSA".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        other => other.to_owned(),
    }
}

/// Explains the errors of the verifier that concern unusual certificates.
fn explain_unusual(certificate: &str, c: &X509Certificate<'_>, e: &CertificateError) -> String {
    let details = format!("{e:?}");
    let algorithm = c.signature_algorithm.algorithm.to_id_string();
    let old_signature = match algorithm.as_str() {
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => Some("SHA-1"),
        _ => None,
    };
    if let Some(hash) = old_signature {
        return format!(
            "{certificate} is signed with {hash}, which is not secure and not supported; issue it \
             again with SHA-256 (openssl x509 -req -sha256)"
        );
    }
    if details.contains("UnsupportedCertVersion") {
        return format!(
            "{certificate} was issued by an authority whose certificate has X.509 version 1; add \
             that authority to ssl.truststore.location, or issue its certificate again with \
             version 3 (openssl x509 -req -extfile FILE, with basicConstraints=CA:TRUE in FILE)"
        );
    }
    for (error, reason) in CHAIN_ERRORS {
        if details.contains(error) {
            return format!("{certificate} {reason}");
        }
    }
    if details.contains("UnsupportedSignatureAlgorithm") {
        let algorithm = signature_name(&algorithm);
        return format!(
            "the signature of {certificate}, or of an issuer's certificate, has an algorithm that \
             this client does not support ({algorithm}); the issuers need {SUPPORTED_KEYS}, and \
             SHA-256 or better"
        );
    }
    if details.contains("UnsupportedCriticalExtension") {
        return format!(
            "{certificate} has a critical extension that this client does not know; issue it again \
             without it, or add the certificate to ssl.truststore.location with an empty \
             ssl.endpoint.identification.algorithm"
        );
    }
    if c.is_ca() {
        return format!(
            "{certificate} is not valid ({details}): it is an authority's certificate (CA:TRUE) \
             and cannot be a server's; issue one for the server, or add it to \
             ssl.truststore.location"
        );
    }
    format!("{certificate} is not valid: {details}")
}

fn explain_wrong_host(certificate: &str, host: &str, c: &X509Certificate<'_>) -> String {
    if c.version() == X509Version::V1 {
        return format!(
            "{certificate} is not for {host}: it has X.509 version 1, which has no subject \
             alternative name; issue it again with version 3 (openssl x509 -req -extfile FILE, \
             with subjectAltName=DNS:{host} in FILE), or set \
             ssl.endpoint.identification.algorithm to nothing"
        );
    }
    let names = subject_alternative_names(c);
    if names.is_empty() {
        return format!(
            "{certificate} is not for {host}: it has no subject alternative name, and a common \
             name alone does not count (RFC 6125); issue one with the name {host} \
             (subjectAltName=DNS:{host})"
        );
    }
    if host.parse::<IpAddr>().is_ok() && names.iter().any(|name| name == host) {
        return format!(
            "{certificate} is not for {host}: it has this address as a DNS name; issue one with \
             the address as an IP address (subjectAltName=IP:{host})"
        );
    }
    format!(
        "{certificate} is not for {host} but for {}; connect to one of these names, or issue one \
         for {host}",
        names.join(", ")
    )
}

/// Describes a certificate in DER; `None` if it cannot be parsed.
pub(super) fn describe(der: &[u8]) -> Option<CertificateDetails> {
    let (_, c) = X509Certificate::from_der(der).ok()?;
    Some(CertificateDetails {
        subject: subject_name(&c),
        issuer: c.issuer().to_string(),
        names: subject_alternative_names(&c),
        not_after: c.validity().not_after.timestamp(),
        expires: c.validity().not_after.to_string(),
    })
}

fn subject_name(c: &X509Certificate<'_>) -> String {
    let name = c.subject().to_string();
    if name.is_empty() { "without a subject".to_owned() } else { name }
}

/// Returns the host names and IP addresses that the certificate is for.
fn subject_alternative_names(c: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(san)) = c.subject_alternative_name() else { return Vec::new() };
    let to_text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(ip) => match <[u8; 4]>::try_from(*ip) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => {
                <[u8; 16]>::try_from(*ip).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string())
            }
        },
        _ => None,
    };
    san.value.general_names.iter().filter_map(to_text).collect()
}
