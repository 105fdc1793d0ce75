//! Private keys: their formats, the kinds that TLS supports, and the certificate that belongs to a
//! key.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::asn1::{BIT_STRING, Element, OCTET_STRING};
use super::public_key::{EC_KEY, KeyKind, PublicKey, SUPPORTED_KEYS, rsa_modulus_bits};

/// A private key and the certificates that were with it, in any order.
pub(super) struct KeyEntry {
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

impl KeyEntry {
    /// Loads the key and finds its certificate and their issuers.
    ///
    /// The version of the certificate does not matter. rustls would reject version 1, although only
    /// the broker has to accept the certificate.
    ///
    /// # Errors
    /// The key is not supported, or no certificate belongs to it.
    pub(super) fn certify(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
        let key = self.load_key(provider)?;
        let is_own = |c: &CertificateDer<'_>| belongs_together(&*key, c, provider);
        let Some(own) = self.certificates.iter().position(is_own) else {
            if self.certificates.is_empty() {
                return Err("it contains a key without its certificate".to_owned());
            }
            let names: Vec<_> = self.certificates.iter().map(subject_name).collect();
            return Err(format!(
                "certificate and key do not belong together: the key is not the one of {}",
                names.join(", ")
            ));
        };
        Ok(Arc::new(CertifiedKey::new(self.chain_from(own), key)))
    }

    fn load_key(&self, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
        // Java writes EC keys without their public key, which the provider ring demands.
        let completed = self.certificates.iter().filter_map(|c| complete_ec_key(&self.key, c));
        let candidates = completed.chain([self.key.clone_key()]);
        let mut error = String::new();
        for key in candidates {
            match provider.key_provider.load_private_key(key) {
                Ok(key) => return Ok(key),
                Err(e) => error = e.to_string(),
            }
        }
        Err(explain_key_error(&self.key, &error))
    }

    /// The certificate number `own`, and then each time the issuer of the one before.
    fn chain_from(&self, own: usize) -> Vec<CertificateDer<'static>> {
        let parse = |der| X509Certificate::from_der(der).ok().map(|(_, c)| c);
        let mut chain = vec![self.certificates[own].clone()];
        let mut last = parse(&self.certificates[own]);
        while let Some(c) = &last
            && c.issuer() != c.subject()
            && chain.len() <= self.certificates.len()
        {
            let issuer = self.certificates.iter().find(|candidate| {
                parse(candidate).is_some_and(|i| i.subject().as_raw() == c.issuer().as_raw())
            });
            let Some(issuer) = issuer else { break };
            chain.push(issuer.clone());
            last = parse(issuer);
        }
        chain
    }
}

fn subject_name(der: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(der)
        .map_or("an unreadable certificate".to_owned(), |(_, c)| c.subject().to_string())
}

/// Whether a signature of the key verifies with the certificate. This holds for every provider,
/// while comparing public keys needs one that reveals them.
fn belongs_together(
    key: &dyn SigningKey,
    certificate: &CertificateDer<'_>,
    provider: &CryptoProvider,
) -> bool {
    const MESSAGE: &[u8] = b"Does this key belong to this certificate?";
    let algorithms = provider.signature_verification_algorithms;
    let Some(signer) = key.choose_scheme(&algorithms.supported_schemes()) else { return false };
    let (Ok(signature), Some(public_key)) =
        (signer.sign(MESSAGE), PublicKey::from_certificate(certificate))
    else {
        return false;
    };
    let of_scheme = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signer.scheme());
    of_scheme.is_some_and(|(_, list)| public_key.verifies(list, MESSAGE, &signature))
}

/// Detects the format of a key from its structure; `None` if it is none of the three.
pub(super) fn parse_der_key(der: &[u8]) -> Option<PrivateKeyDer<'static>> {
    let fields = Element::parse(der)?.fields();
    match &fields[..] {
        [version, _, key, ..] if version.small_integer() <= Some(1) && key.is(OCTET_STRING) => {
            Some(PrivateKeyDer::Pkcs8(der.to_vec().into()))
        }
        [version, key, ..] if version.small_integer() == Some(1) && key.is(OCTET_STRING) => {
            Some(PrivateKeyDer::Sec1(der.to_vec().into()))
        }
        // The tenth field has the other primes of a key with more than two.
        [version, _, _, _, _, _, _, _, _] | [version, _, _, _, _, _, _, _, _, _]
            if version.small_integer() <= Some(1) =>
        {
            Some(PrivateKeyDer::Pkcs1(der.to_vec().into()))
        }
        _ => None,
    }
}

/// Explains why the TLS provider rejects a key.
fn explain_key_error(key: &PrivateKeyDer<'_>, error: &str) -> String {
    let kind = key_kind(key);
    let Some(kind) = kind else { return format!("the key is damaged: {error}") };
    let description = kind.describe();
    match kind {
        KeyKind::EcExplicit => format!(
            "{description} is not supported; convert it: openssl pkey -in key.pem -ec_param_enc \
             named_curve -out named.pem"
        ),
        KeyKind::Ec(curve) if curve == "P-521" => format!(
            "{description} is not supported by the TLS provider of this build; use \
             {SUPPORTED_KEYS} (openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384), \
             or build with the feature tls-aws-lc-rs"
        ),
        KeyKind::Rsa { .. } if has_more_than_two_primes(key) => {
            format!("an RSA key with more than two primes is not supported; use {SUPPORTED_KEYS}")
        }
        kind if kind.is_supported() => format!(
            "{description} cannot be used: {error}; check it: openssl pkey -check -noout -in \
             key.pem"
        ),
        _ => format!(
            "{description} is not supported; use {SUPPORTED_KEYS}, and request a certificate for \
             it: openssl req -newkey rsa:3072 -keyout key.pem -out request.pem"
        ),
    }
}

fn key_kind(key: &PrivateKeyDer<'_>) -> Option<KeyKind> {
    let fields = Element::parse(key.secret_der())?.fields();
    match key {
        PrivateKeyDer::Pkcs1(_) => {
            Some(KeyKind::Rsa { bits: rsa_modulus_bits(key.secret_der(), 1) })
        }
        PrivateKeyDer::Sec1(_) => {
            let curve = fields.iter().find(|f| f.is_context(0)).and_then(|f| f.children().next());
            let has_parameters = curve.is_some();
            let curve = curve.and_then(|c| c.oid());
            Some(match (curve, has_parameters) {
                (Some(oid), _) => KeyKind::Ec(super::public_key::curve_name(&oid)),
                (None, true) => KeyKind::EcExplicit,
                (None, false) => KeyKind::Other("EC without its curve".to_owned()),
            })
        }
        _ => {
            let (algorithm, inner) = (fields.get(1)?, fields.get(2)?);
            Some(KeyKind::new(algorithm.content(), || rsa_modulus_bits(&inner.octets(), 1)))
        }
    }
}

/// Whether an RSA key has the version of keys with more than two primes (RFC 8017, A.1.2).
fn has_more_than_two_primes(key: &PrivateKeyDer<'_>) -> bool {
    let version = |der: &[u8]| Element::parse(der)?.fields().first()?.small_integer();
    match key {
        PrivateKeyDer::Pkcs1(_) => version(key.secret_der()) == Some(1),
        _ => {
            let fields = Element::parse(key.secret_der()).map(|key| key.fields());
            fields.is_some_and(|f| f.get(2).and_then(|inner| version(&inner.octets())) == Some(1))
        }
    }
}

/// Adds the public key of a certificate to an EC key that has none. Returns `None` if it has one,
/// or is no EC key on the certificate's curve.
fn complete_ec_key(
    key: &PrivateKeyDer<'_>,
    certificate: &CertificateDer<'_>,
) -> Option<PrivateKeyDer<'static>> {
    let public_key = PublicKey::from_certificate(certificate)?;
    let curve = public_key.curve()?;
    let fields = Element::parse(key.secret_der())?.fields();
    let ec_key = match key {
        PrivateKeyDer::Sec1(_) => key.secret_der(),
        PrivateKeyDer::Pkcs8(_) => {
            let algorithm = fields.get(1)?.all_oids();
            (algorithm == [EC_KEY, &curve]).then_some(())?;
            fields.get(2)?.content()
        }
        _ => return None,
    };
    let fields = Element::parse(ec_key)?.fields();
    let of_other_curve = |f: &Element<'_>| f.is_context(0) && f.all_oids() != [curve.clone()];
    if fields.iter().any(|f| f.is_context(1) || of_other_curve(f)) {
        return None;
    }
    let scalar = fields.get(1).filter(|f| f.is(OCTET_STRING))?.content();
    // An uncompressed point has a byte and two coordinates, each as long as the private key.
    let len = public_key.key.len() / 2;
    let scalar = &scalar[scalar.len().saturating_sub(len)..];
    let mut padded = zeroize::Zeroizing::new(vec![0; len - scalar.len()]);
    padded.extend_from_slice(scalar);
    let bit_string = encode(BIT_STRING as u8, &[&[0], public_key.key]);
    let ec_key = encode(
        SEQUENCE_TAG,
        &[&[2, 1, 1], &encode(OCTET_STRING as u8, &[&padded]), &encode(0xa1, &[&bit_string])],
    );
    let pkcs8 = encode(
        SEQUENCE_TAG,
        &[
            &[2, 1, 0],
            &encode(SEQUENCE_TAG, &[public_key.algorithm]),
            &encode(OCTET_STRING as u8, &[&ec_key]),
        ],
    );
    Some(PrivateKeyDer::Pkcs8(pkcs8.to_vec().into()))
}

const SEQUENCE_TAG: u8 = 0x30;

/// Encodes an element of DER with at most 65,535 bytes of content.
fn encode(tag: u8, parts: &[&[u8]]) -> zeroize::Zeroizing<Vec<u8>> {
    let content_len: usize = parts.iter().map(|p| p.len()).sum();
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(content_len + 4));
    bytes.push(tag);
    match content_len {
        0..=0x7f => bytes.push(content_len as u8),
        0x80..=0xff => bytes.extend([0x81, content_len as u8]),
        _ => bytes.extend([0x82, (content_len >> 8) as u8, content_len as u8]),
    }
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}
