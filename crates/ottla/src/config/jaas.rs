//! Parses `sasl.jaas.config` in Java's form: `a.b.SomeLoginModule required name="value" …;`.
//!
//! The login module must fit `sasl.mechanism`; the options hold the credentials. `config::security`
//! calls it.

mod parser;
#[cfg(test)]
mod tests;

use std::time::Duration;

use zeroize::Zeroizing;

use super::security::TokenClaim;
use crate::error::Error;
pub(super) use parser::parse;

/// The login module and its options.
#[derive(Default)]
pub(super) struct JaasConfig {
    /// The Java class; empty if `sasl.jaas.config` is not set.
    login_module: String,
    /// Names and values, in the order of the text.
    options: Vec<(String, Zeroizing<String>)>,
}

/// A token that the client creates without a signature, for tests.
pub(super) struct UnsecuredToken {
    /// Claims by name; empty if the options have none.
    pub(super) claims: Vec<(String, TokenClaim)>,
    pub(super) lifetime: Duration,
}

/// Checks a SASL extension (KIP-342). `place` stands before its name in the error.
pub(super) fn check_extension(place: &str, name: &str, value: &str) -> Result<(), Error> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
    let is_value = value.bytes().all(|b| matches!(b, 0x20..=0x7e | b'\t' | b'\r' | b'\n'));
    if is_name && name != "auth" && is_value {
        return Ok(());
    }
    Err(Error::config(format!(
        "{place}{name} is not valid: a name must consist of ASCII alphabetic characters and not be \
         \"auth\", a value of printable ASCII"
    )))
}

impl JaasConfig {
    /// Returns the value of an option, if it is not empty. The case of the name does not matter.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        // As in Java, the last one counts.
        let found = self.options.iter().rfind(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Checks that the login module belongs to the mechanism. No login module fits all of them.
    pub(super) fn check_mechanism(&self, mechanism: &str) -> Result<(), Error> {
        let class = self.login_module.rsplit('.').next().unwrap_or_default();
        let module_mechanism = match class {
            "" => return Ok(()),
            "PlainLoginModule" => "PLAIN",
            "ScramLoginModule" => "SCRAM",
            "OAuthBearerLoginModule" => "OAUTHBEARER",
            "Krb5LoginModule" => "GSSAPI",
            "IAMLoginModule" => {
                return Err(Error::config(
                    "sasl.jaas.config names IAMLoginModule: IAM authentication of Amazon MSK is \
                     not supported as SASL mechanism AWS_MSK_IAM; use SCRAM-SHA-512 (port 9096), \
                     a client certificate (port 9094), or OAUTHBEARER with a token provider that \
                     signs MSK's IAM tokens",
                ));
            }
            _ => {
                // The text may be anything, even a password in the wrong place.
                let is_class = class.ends_with("Module")
                    && self.login_module.chars().all(|c| c.is_alphanumeric() || c == '.');
                let name = if is_class { &self.login_module } else { "a login module" };
                return Err(Error::config(format!(
                    "sasl.jaas.config names {name}, which is not supported; use PlainLoginModule, \
                     ScramLoginModule or OAuthBearerLoginModule"
                )));
            }
        };
        if self.options.iter().any(|(name, _)| name.starts_with("oauth.")) {
            return Err(Error::config(
                "sasl.jaas.config has options of Strimzi's login handler (oauth.…), which is not \
                 supported; set sasl.oauthbearer.token.endpoint.url, \
                 sasl.oauthbearer.client.credentials.client.id and .client.secret instead",
            ));
        }
        // ScramLoginModule serves both SCRAM mechanisms.
        if mechanism.starts_with(module_mechanism) {
            return Ok(());
        }
        Err(Error::config(format!(
            "sasl.jaas.config names {class}, which is for {module_mechanism}, but \
             sasl.mechanism={mechanism}; change one of them"
        )))
    }

    /// Returns the SASL extensions for OAUTHBEARER (KIP-342): options `extension_name="value"`.
    pub(super) fn extensions(&self) -> Result<Vec<(String, String)>, Error> {
        let mut out = Vec::new();
        for (name, value) in &self.options {
            let Some(name) = name.strip_prefix("extension_") else { continue };
            check_extension("sasl.jaas.config: extension_", name, value)?;
            out.push((name.to_owned(), value.to_string()));
        }
        Ok(out)
    }

    /// Returns the unsecured token that the options describe, as in Java's
    /// `OAuthBearerUnsecuredLoginCallbackHandler`. Its default lifetime is one hour.
    pub(super) fn unsecured_token(&self) -> Result<UnsecuredToken, Error> {
        let mut claims = Vec::new();
        let mut lifetime = Duration::from_secs(3600);
        for (name, value) in &self.options {
            let error = |expected: &str| {
                Error::config(format!("sasl.jaas.config: {name} is not {expected}"))
            };
            if let Some(claim) = name.strip_prefix("unsecuredLoginStringClaim_") {
                claims.push((claim.to_owned(), TokenClaim::Text(value.to_string())));
            } else if let Some(claim) = name.strip_prefix("unsecuredLoginNumberClaim_") {
                let n = value.parse::<f64>().ok().filter(|n| n.is_finite());
                claims.push((
                    claim.to_owned(),
                    TokenClaim::Number(n.ok_or_else(|| error("a number"))?),
                ));
            } else if let Some(claim) = name.strip_prefix("unsecuredLoginListClaim_") {
                // The first character is the separator, as in ",a,b".
                let mut chars = value.chars();
                let list = match chars.next() {
                    Some(separator) => chars.as_str().split(separator).map(str::to_owned).collect(),
                    None => Vec::new(),
                };
                claims.push((claim.to_owned(), TokenClaim::List(list)));
            } else if name == "unsecuredLoginLifetimeSeconds" {
                let seconds = value.parse::<u64>().ok().filter(|n| (1..=1 << 31).contains(n));
                let seconds = seconds.ok_or_else(|| error("1 to 2147483648 seconds"))?;
                lifetime = Duration::from_secs(seconds);
            }
        }
        Ok(UnsecuredToken { claims, lifetime })
    }
}
