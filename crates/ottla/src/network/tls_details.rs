//! What a TLS handshake has agreed on, for people. The same in builds with and without TLS.

/// A finished TLS handshake.
#[derive(Debug, Clone, Default)]
pub struct TlsDetails {
    /// The version, such as `TLSv1.3`.
    pub protocol: String,
    /// The cipher suite, by its IANA name.
    pub cipher_suite: String,
    /// The broker's certificates, its own first.
    pub certificates: Vec<CertificateDetails>,
}

/// A certificate of the broker's chain.
#[derive(Debug, Clone)]
pub struct CertificateDetails {
    /// Whom it is for.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The host names and IP addresses that it is for.
    pub names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
    /// The same date for people.
    pub expires: String,
}
