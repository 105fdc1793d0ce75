//! What went wrong with TLS, in words: which certificate, why, and what to do.

use rustls::{AlertDescription as Alert, CertificateError, Error};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::connector::CertificateVerifier;

/// In words, and whether one side refuses the other (so that trying again is no use until something is changed).
pub(super) fn explain(e: &Error, host: &str, verifier: &CertificateVerifier) -> (String, bool) {
    match e {
        Error::InvalidCertificate(why) => {
            let der = verifier.take_rejected_certificate();
            (explain_certificate_error(why, host, der.as_deref()), true)
        }
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::InvalidMessage(_) => (
            "what it answers is not TLS; if this is a plaintext port, set security.protocol to match"
                .to_owned(),
            false,
        ),
        Error::PeerIncompatible(why) => (
            format!(
                "it has no TLS version or cipher suite in common with ssl.enabled.protocols and \
                 ssl.cipher.suites: {why:?}"
            ),
            true,
        ),
        Error::NoCertificatesPresented => ("it shows no certificate".to_owned(), true),
        other => (format!("TLS: {other}"), false),
    }
}

fn explain_alert(alert: Alert) -> (String, bool) {
    let said = format!("it ended TLS with the alert {alert:?}");
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            (format!("{said}: it wants a certificate of ours; set ssl.keystore.location"), true)
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => (
            format!(
                "{said}: it does not accept our certificate, or wants one and got none; see \
                 ssl.keystore.location and what the broker trusts"
            ),
            true,
        ),
        Alert::ProtocolVersion | Alert::InsufficientSecurity | Alert::HandshakeFailure => (
            format!(
                "{said}: there is no version, cipher suite or kind of key that both sides have; see \
                 ssl.enabled.protocols, ssl.cipher.suites and ssl.keystore.location"
            ),
            true,
        ),
        Alert::UnrecognisedName => {
            (format!("{said}: it has no certificate for the name it was asked by"), true)
        }
        _ => (said, false),
    }
}

/// Which certificate, and why it is not taken.
fn explain_certificate_error(why: &CertificateError, host: &str, der: Option<&[u8]>) -> String {
    let parsed = der.and_then(|der| X509Certificate::from_der(der).ok()).map(|(_, c)| c);
    let Some(c) = parsed else {
        return format!("its certificate is refused: {why:?}");
    };
    let which = format!("its certificate ({}, issued by {})", subject_name(&c), c.issuer());
    if c.public_key().algorithm.algorithm.to_id_string() == DSA_OID {
        return format!(
            "{which} is refused: it has a DSA key, which TLS 1.3 and this client do not speak; issue one with an \
             RSA, ECDSA or Ed25519 key"
        );
    }
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!(
                "{which} expired on {}; renew it, and check this machine's clock",
                c.validity().not_after
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!(
                "{which} is not valid before {}; check this machine's clock",
                c.validity().not_before
            )
        }
        CertificateError::UnknownIssuer => format!(
            "{which} is signed by nobody who is trusted here; add its issuer to ssl.truststore.location"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = subject_alternative_names(&c);
            if names.is_empty() {
                return format!(
                    "{which} is not for {host}: it has no subject alternative name, and a common name alone does \
                     not count (RFC 6125); issue one with the name {host}"
                );
            }
            format!(
                "{which} is not for {host} but for {}; connect by one of these names, or issue one for {host}",
                names.join(", ")
            )
        }
        CertificateError::BadSignature => {
            format!("{which} has a signature that is not its issuer's; see ssl.truststore.location")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("{which} is not meant for a server; issue one with the usage serverAuth")
        }
        CertificateError::Revoked => format!("{which} was revoked"),
        other if c.is_ca() => format!(
            "{which} is refused ({other:?}): it is marked as an authority's own (CA:TRUE) and used as a \
             server's; issue one for the server"
        ),
        other => format!("{which} is refused: {other:?}"),
    }
}

const DSA_OID: &str = "1.2.840.10040.4.1";

fn subject_name(c: &X509Certificate<'_>) -> String {
    let name = c.subject().to_string();
    if name.is_empty() { "without a subject".to_owned() } else { name }
}

/// The names it is for.
fn subject_alternative_names(c: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(san)) = c.subject_alternative_name() else { return Vec::new() };
    let name = |n: &GeneralName<'_>| match n {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(ip) => match <[u8; 4]>::try_from(*ip) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => {
                <[u8; 16]>::try_from(*ip).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string())
            }
        },
        _ => None,
    };
    san.value.general_names.iter().filter_map(name).collect()
}
