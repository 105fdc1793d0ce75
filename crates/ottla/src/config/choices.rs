//! The settings whose value is one of a few words, as enums.

use crate::error::Error;

/// Defines an enum from the words of a setting. The first word of a variant is the one that it is
/// shown as; the others are accepted as well.
macro_rules! choice {
    (
        $(#[$doc:meta])* $vis:vis $name:ident: $setting:literal, $eq:ident;
        $($(#[$variant_doc:meta])* $variant:ident: $word:literal $(| $other:literal)*,)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every word that the setting accepts.
            pub(crate) const WORDS: &'static [&'static str] = &[$($word $(, $other)*,)*];

            /// Returns the value as the setting's word.
            $vis fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<$name, Error> {
                let word = text.trim();
                $(if word.$eq($word) $(|| word.$eq($other))* {
                    return Ok($name::$variant);
                })*
                Err(Error::config(format!(
                    "{}={word} is not valid; expected one of {}",
                    $setting,
                    $name::WORDS.join(", "),
                )))
            }
        }
    };
}
pub(super) use choice;

choice! {
    /// Which replicas must have a record before the broker acknowledges it (`acks`).
    pub Acks: "acks", eq_ignore_ascii_case;
    /// All in-sync replicas (`all` or `-1`), the default.
    All: "all" | "-1",
    /// None (`0`): a record counts as delivered once the socket has taken it.
    None: "0",
    /// The leader only (`1`).
    Leader: "1",
}

impl Acks {
    /// Returns the number in a Produce request.
    pub(crate) fn to_wire(self) -> i16 {
        match self {
            Acks::All => -1,
            Acks::None => 0,
            Acks::Leader => 1,
        }
    }
}

choice! {
    /// The protocol of the brokers' listener (`security.protocol`). The names ignore case.
    pub SecurityProtocol: "security.protocol", eq_ignore_ascii_case;
    /// No encryption and no authentication, the default.
    Plaintext: "PLAINTEXT",
    /// TLS.
    Ssl: "SSL",
    /// SASL without encryption.
    SaslPlaintext: "SASL_PLAINTEXT",
    /// SASL over TLS.
    SaslSsl: "SASL_SSL",
}

impl SecurityProtocol {
    /// Returns whether connections use TLS.
    pub fn uses_tls(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    /// Returns whether connections authenticate with SASL.
    pub fn uses_sasl(self) -> bool {
        matches!(self, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl)
    }
}

choice! {
    /// How the client authenticates to brokers (`sasl.mechanism`). The names ignore case.
    #[non_exhaustive]
    pub SaslMechanism: "sasl.mechanism", eq_ignore_ascii_case;
    /// User name and password in the clear (RFC 4616).
    Plain: "PLAIN",
    /// SCRAM with SHA-256 (RFC 7677).
    ScramSha256: "SCRAM-SHA-256",
    /// SCRAM with SHA-512.
    ScramSha512: "SCRAM-SHA-512",
    /// Bearer tokens (RFC 7628, KIP-255).
    OAuthBearer: "OAUTHBEARER",
}

choice! {
    /// The names that the client connects to (`client.dns.lookup`).
    pub ClientDnsLookup: "client.dns.lookup", eq_ignore_ascii_case;
    /// The names of `bootstrap.servers`, the default. All their addresses are tried (KIP-602).
    UseAllDnsIps: "use_all_dns_ips",
    /// For bootstrap servers the canonical name of each address: the result of the reverse lookup
    /// (KIP-235). TLS verifies that name.
    ResolveCanonicalBootstrapServersOnly: "resolve_canonical_bootstrap_servers_only",
}

choice! {
    /// The addresses that the client connects to (`broker.address.family`, librdkafka's name).
    pub AddressFamily: "broker.address.family", eq_ignore_ascii_case;
    /// IPv4 and IPv6 addresses alternately, the default.
    Any: "any",
    /// IPv4 addresses only.
    V4: "v4",
    /// IPv6 addresses only.
    V6: "v6",
}

choice! {
    /// What the client does when no known broker is reachable (`metadata.recovery.strategy`,
    /// KIP-899). The names ignore case.
    pub(crate) MetadataRecoveryStrategy: "metadata.recovery.strategy", eq_ignore_ascii_case;
    /// It connects to the bootstrap servers again, the default.
    Rebootstrap: "rebootstrap",
    /// It only tries the brokers that it knows.
    None: "none",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parsed_as_they_are_shown_and_errors_name_setting_value_and_words() {
        for acks in [Acks::All, Acks::None, Acks::Leader] {
            assert_eq!(acks.to_string().parse::<Acks>().unwrap(), acks);
            assert_eq!(acks.to_wire().to_string().parse::<Acks>().unwrap(), acks);
        }
        assert_eq!("ALL".parse::<Acks>().unwrap(), Acks::All);
        let e = "most".parse::<Acks>().unwrap_err().to_string();
        assert_eq!(e, "acks=most is not valid; expected one of all, -1, 0, 1");
        assert_eq!("Sasl_ssl".parse::<SecurityProtocol>().unwrap(), SecurityProtocol::SaslSsl);
        let e = "QUIC".parse::<SecurityProtocol>().unwrap_err().to_string();
        assert!(e.contains("security.protocol=QUIC") && e.contains("SASL_PLAINTEXT"), "{e}");
        assert_eq!(" scram-sha-512 ".parse::<SaslMechanism>().unwrap(), SaslMechanism::ScramSha512);
    }
}
