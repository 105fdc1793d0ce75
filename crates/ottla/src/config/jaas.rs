//! Parses `sasl.jaas.config` in Java's form: `a.b.SomeLoginModule required name="value" …;`.
//!
//! The login module must fit `sasl.mechanism`; the options hold the credentials. Values may be
//! in single or double quotes, with backslash escapes. `config::security` calls it.

use std::iter::Peekable;
use std::str::Chars;
use std::time::Duration;

use zeroize::Zeroizing;

use super::security::TokenClaim;
use crate::error::Error;

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

fn syntax_error(reason: &str) -> Error {
    // The error does not repeat the text, which holds a password.
    Error::config(format!(
        "sasl.jaas.config {reason}; the form is \
         org.apache.kafka.common.security.plain.PlainLoginModule required \
         username=\"…\" password=\"…\";"
    ))
}

/// Parses the text of `sasl.jaas.config`. The error never contains a part of the text.
pub(super) fn parse(text: &str) -> Result<JaasConfig, Error> {
    let mut words = Tokenizer { chars: text.chars().peekable(), capacity: text.len() };
    let login_module = words.next_word()?.ok_or_else(|| syntax_error("is empty"))?;
    let control = words.next_word()?.unwrap_or_default();
    if !["required", "requisite", "sufficient", "optional"]
        .iter()
        .any(|c| control.eq_ignore_ascii_case(c))
    {
        return Err(syntax_error("has no \"required\" after the login module"));
    }
    let mut options: Vec<(String, Zeroizing<String>)> = Vec::new();
    loop {
        match words.next_word()? {
            Some(name) => {
                if !words.consume_char('=') {
                    return Err(syntax_error("has an option without a value"));
                }
                let value = words
                    .next_word()?
                    .ok_or_else(|| syntax_error("has an option without a value"))?;
                options.push((name.to_string(), value));
            }
            None if words.consume_char(';') => break,
            None => return Err(syntax_error("does not end with a semicolon")),
        }
    }
    if words.next_word()?.is_some() {
        return Err(syntax_error("has more than one login module"));
    }
    Ok(JaasConfig { login_module: login_module.to_string(), options })
}

/// Splits a text into words, quoted texts, `=` and `;`.
struct Tokenizer<'t> {
    chars: Peekable<Chars<'t>>,
    /// Length of the whole text, which no word exceeds.
    capacity: usize,
}

impl Tokenizer<'_> {
    fn skip_whitespace(&mut self) {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn consume_char(&mut self, c: char) -> bool {
        self.skip_whitespace();
        self.chars.next_if_eq(&c).is_some()
    }

    /// Returns the next word or quoted text; `None` before `=` and `;` and at the end of the text.
    fn next_word(&mut self) -> Result<Option<Zeroizing<String>>, Error> {
        self.skip_whitespace();
        // The word may be a password. With full capacity the string never reallocates, which would
        // leave a copy in freed memory.
        let mut out = Zeroizing::new(String::with_capacity(self.capacity));
        match self.chars.peek().copied() {
            None | Some('=' | ';') => return Ok(None),
            Some(quote @ ('"' | '\'')) => {
                self.chars.next();
                loop {
                    match self.chars.next() {
                        None => {
                            return Err(syntax_error("has an unclosed quotation mark"));
                        }
                        Some(c) if c == quote => return Ok(Some(out)),
                        Some('\\') => out.push(match self.chars.next() {
                            Some('n') => '\n',
                            Some('t') => '\t',
                            Some('r') => '\r',
                            Some(c) => c,
                            None => return Err(syntax_error("ends with a backslash")),
                        }),
                        Some(c) => out.push(c),
                    }
                }
            }
            Some(_) => {}
        }
        while let Some(c) = self.chars.next_if(|c| !c.is_whitespace() && !matches!(c, '=' | ';')) {
            out.push(c);
        }
        Ok(Some(out))
    }
}

impl JaasConfig {
    /// Returns the value of an option, if it is not empty. The case of the name does not matter.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
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
            _ => {
                return Err(Error::config(format!(
                    "sasl.jaas.config names {}, which is not supported; use PlainLoginModule, \
                     ScramLoginModule or OAuthBearerLoginModule",
                    self.login_module
                )));
            }
        };
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
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
            let is_value = value.bytes().all(|b| matches!(b, 0x20..=0x7e | b'\t' | b'\r' | b'\n'));
            if !is_name || name == "auth" || !is_value {
                return Err(Error::config(format!(
                    "sasl.jaas.config: extension_{name} is not valid: a name must consist of ASCII \
                     alphabetic characters and not be \"auth\", a value of printable ASCII"
                )));
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_option_names_are_parsed_as_in_java() {
        let login = parse(
            "org.apache.kafka.common.security.scram.ScramLoginModule required\n  \
             username=\"al=ice;\" password='se \\'cret\\\\' tokenauth=true;",
        )
        .unwrap();
        assert_eq!(login.option("username"), Some("al=ice;"));
        assert_eq!(login.option("password"), Some("se 'cret\\"));
        assert_eq!(login.option("tokenauth"), Some("true"));
        assert!(login.check_mechanism("SCRAM-SHA-512").is_ok());
        assert!(login.check_mechanism("PLAIN").is_err());
        let login = parse("x.PlainLoginModule  REQUIRED username = bob password=\"\" ;").unwrap();
        assert_eq!(login.option("username"), Some("bob"));
        assert_eq!(login.option("password"), None, "an empty value counts as not set");
    }

    #[test]
    fn syntax_errors_do_not_contain_the_password() {
        for text in [
            "",
            "x.PlainLoginModule username=\"u\" password=\"hunter2\";",
            "x.PlainLoginModule required username=\"u\" password=\"hunter2\"",
            "x.PlainLoginModule required username=\"u\" password=\"hunter2;",
            "x.PlainLoginModule required password=hunter2; y.Other required;",
            "x.PlainLoginModule required hunter2;",
        ] {
            let Err(e) = parse(text) else { panic!("{text}") };
            assert!(!e.to_string().contains("hunter2"), "{e}");
        }
    }

    #[test]
    fn unsecured_token_and_extensions_are_parsed() {
        let login = parse(
            "a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"alice\" \
             unsecuredLoginListClaim_scope=\",a,b\" unsecuredLoginNumberClaim_n=\"1.5\" \
             unsecuredLoginLifetimeSeconds=60 extension_logicalCluster=\"lkc-1\";",
        )
        .unwrap();
        let UnsecuredToken { claims, lifetime } = login.unsecured_token().unwrap();
        assert_eq!(claims[0], ("sub".to_owned(), TokenClaim::Text("alice".to_owned())));
        assert_eq!(claims[1].1, TokenClaim::List(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(claims[2].1, TokenClaim::Number(1.5));
        assert_eq!(lifetime, Duration::from_secs(60));
        let extension = ("logicalCluster".to_owned(), "lkc-1".to_owned());
        assert_eq!(login.extensions().unwrap(), [extension]);
        let login = parse("a.OAuthBearerLoginModule required extension_auth=\"x\";").unwrap();
        assert!(login.extensions().is_err());
    }
}
