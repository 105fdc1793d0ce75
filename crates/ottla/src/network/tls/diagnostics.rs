//! Explains TLS errors to the user: the certificate or setting concerned, the reason and a remedy.
//! The text becomes a [`DisconnectReason`](super::DisconnectReason).

use rustls::{AlertDescription as Alert, CertificateError, Error};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::connector::CertificateVerifier;

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

/// Explains an error of the connection to `host`.
pub(super) fn explain(e: &Error, host: &str, verifier: &CertificateVerifier) -> TlsDiagnosis {
    match e {
        Error::InvalidCertificate(e) => {
            let der = verifier.take_rejected_certificate();
            TlsDiagnosis::rejection(explain_certificate_error(e, host, der.as_deref()))
        }
        Error::AlertReceived(alert) => explain_alert(*alert),
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

fn explain_alert(alert: Alert) -> TlsDiagnosis {
    let prefix = format!("the broker closed TLS with the alert {alert:?}");
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => TlsDiagnosis::rejection(format!(
            "{prefix}: it requires a client certificate; set ssl.keystore.location"
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
        Alert::ProtocolVersion | Alert::InsufficientSecurity | Alert::HandshakeFailure => {
            TlsDiagnosis::rejection(format!(
                "{prefix}: client and broker share no TLS version, cipher suite or key type; check \
                 ssl.enabled.protocols, ssl.cipher.suites and ssl.keystore.location"
            ))
        }
        Alert::UnrecognisedName => TlsDiagnosis::rejection(format!(
            "{prefix}: it has no certificate for the host name that the client uses"
        )),
        _ => TlsDiagnosis::failure(prefix),
    }
}

/// Explains why the client rejected the broker's certificate, which is `der`.
fn explain_certificate_error(e: &CertificateError, host: &str, der: Option<&[u8]>) -> String {
    let parsed = der.and_then(|der| X509Certificate::from_der(der).ok()).map(|(_, c)| c);
    let Some(c) = parsed else {
        return format!("the broker's certificate is not valid: {e:?}");
    };
    let certificate =
        format!("the broker's certificate ({}, issued by {})", subject_name(&c), c.issuer());
    if c.public_key().algorithm.algorithm.to_id_string() == DSA_OID {
        return format!(
            "{certificate} has a DSA key, which TLS 1.3 and this client do not support; issue one \
             with an RSA, ECDSA or Ed25519 key"
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
        CertificateError::UnknownIssuer => format!(
            "{certificate} is not signed by a trusted authority; add its issuer to \
             ssl.truststore.location"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            explain_wrong_host(&certificate, host, &subject_alternative_names(&c))
        }
        CertificateError::BadSignature => {
            format!("{certificate} has an invalid signature; check ssl.truststore.location")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("{certificate} is not for a server; issue one with the usage serverAuth")
        }
        CertificateError::Revoked => format!("{certificate} was revoked"),
        other if c.is_ca() => format!(
            "{certificate} is not valid ({other:?}): it is an authority's certificate (CA:TRUE) \
             and cannot be a server's; issue one for the server"
        ),
        other => format!("{certificate} is not valid: {other:?}"),
    }
}

fn explain_wrong_host(certificate: &str, host: &str, names: &[String]) -> String {
    if names.is_empty() {
        return format!(
            "{certificate} is not for {host}: it has no subject alternative name, and a common \
             name alone does not count (RFC 6125); issue one with the name {host}"
        );
    }
    format!(
        "{certificate} is not for {host} but for {}; connect to one of these names, or issue one \
         for {host}",
        names.join(", ")
    )
}

/// Object identifier of DSA public keys (RFC 3279).
const DSA_OID: &str = "1.2.840.10040.4.1";

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
