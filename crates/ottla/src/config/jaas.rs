//! `sasl.jaas.config` as Java writes it: `a.b.SomeLoginModule required name="value" …;`. The module says which
//! mechanism is meant, the options who one is. Values may be quoted, by one or two ticks, with backslashes in
//! them.

use std::time::Duration;

use zeroize::Zeroizing;

use super::security::TokenClaim;
use crate::error::Error;

/// What it says.
#[derive(Default)]
pub(super) struct JaasConfig {
    login_module: String,
    /// Names as they are written.
    options: Vec<(String, Zeroizing<String>)>,
}

fn syntax_error(why: &str) -> Error {
    // Its text holds a password and is not repeated.
    Error::config(format!(
        "sasl.jaas.config {why}; it is written like \
         org.apache.kafka.common.security.plain.PlainLoginModule required username=\"…\" password=\"…\";"
    ))
}

/// Reads it.
pub(super) fn parse(text: &str) -> Result<JaasConfig, Error> {
    let mut words = Tokenizer(text.chars().peekable(), text.len());
    let module = words.next_word()?.ok_or_else(|| syntax_error("is empty"))?;
    let control = words.next_word()?.unwrap_or_default();
    if !["required", "requisite", "sufficient", "optional"]
        .iter()
        .any(|c| control.eq_ignore_ascii_case(c))
    {
        return Err(syntax_error("has no \"required\" behind the module"));
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
        return Err(syntax_error("has more than one module"));
    }
    Ok(JaasConfig { login_module: module.to_string(), options })
}

/// The rest of a text, and the length of the whole.
struct Tokenizer<'t>(std::iter::Peekable<std::str::Chars<'t>>, usize);

impl Tokenizer<'_> {
    fn skip_whitespace(&mut self) {
        while self.0.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn consume_char(&mut self, c: char) -> bool {
        self.skip_whitespace();
        self.0.next_if_eq(&c).is_some()
    }

    /// The next word or quoted text; `None` before a sign and at the end.
    fn next_word(&mut self) -> Result<Option<Zeroizing<String>>, Error> {
        self.skip_whitespace();
        // With room for the longest there can be, so that no copy stays behind where it grew.
        let mut out = Zeroizing::new(String::with_capacity(self.1));
        match self.0.peek().copied() {
            None | Some('=' | ';') => return Ok(None),
            Some(quote @ ('"' | '\'')) => {
                self.0.next();
                loop {
                    match self.0.next() {
                        None => {
                            return Err(syntax_error("has a quotation mark that nothing closes"));
                        }
                        Some(c) if c == quote => return Ok(Some(out)),
                        Some('\\') => out.push(match self.0.next() {
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
        while let Some(c) = self.0.next_if(|c| !c.is_whitespace() && !matches!(c, '=' | ';')) {
            out.push(c);
        }
        Ok(Some(out))
    }
}

impl JaasConfig {
    /// An option's value; names as Java has them, but for case.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether the module is the mechanism's.
    pub(super) fn check_mechanism(&self, mechanism: &str) -> Result<(), Error> {
        let class = self.login_module.rsplit('.').next().unwrap_or_default();
        let of = match class {
            "" => return Ok(()),
            "PlainLoginModule" => "PLAIN",
            "ScramLoginModule" => "SCRAM",
            "OAuthBearerLoginModule" => "OAUTHBEARER",
            "Krb5LoginModule" => "GSSAPI",
            _ => {
                return Err(Error::config(format!(
                    "sasl.jaas.config names {}, a Java class that is not known here; PlainLoginModule, \
                     ScramLoginModule and OAuthBearerLoginModule are",
                    self.login_module
                )));
            }
        };
        if mechanism.starts_with(of) {
            return Ok(());
        }
        Err(Error::config(format!(
            "sasl.jaas.config names {class}, which is for {of}, and sasl.mechanism is {mechanism}"
        )))
    }

    /// SASL extensions of OAUTHBEARER (KIP-342): `extension_name="value"`.
    pub(super) fn extensions(&self) -> Result<Vec<(String, String)>, Error> {
        let mut out = Vec::new();
        for (name, value) in &self.options {
            let Some(name) = name.strip_prefix("extension_") else { continue };
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
            let is_value = value.bytes().all(|b| matches!(b, 0x20..=0x7e | b'\t' | b'\r' | b'\n'));
            if !is_name || name == "auth" || !is_value {
                return Err(Error::config(format!(
                    "sasl.jaas.config: extension_{name} is not an extension: names are letters (not \"auth\"), \
                     values printable ASCII"
                )));
            }
            out.push((name.to_owned(), value.to_string()));
        }
        Ok(out)
    }

    /// Claims of a token that is made here, and how long it lives.
    pub(super) fn unsecured_claims(&self) -> Result<(Vec<(String, TokenClaim)>, Duration), Error> {
        let mut claims = Vec::new();
        let mut lifetime = Duration::from_secs(3600);
        for (name, value) in &self.options {
            let bad = |what: &str| Error::config(format!("sasl.jaas.config: {name} is not {what}"));
            if let Some(claim) = name.strip_prefix("unsecuredLoginStringClaim_") {
                claims.push((claim.to_owned(), TokenClaim::Text(value.to_string())));
            } else if let Some(claim) = name.strip_prefix("unsecuredLoginNumberClaim_") {
                let n = value.parse::<f64>().ok().filter(|n| n.is_finite());
                claims.push((
                    claim.to_owned(),
                    TokenClaim::Number(n.ok_or_else(|| bad("a number"))?),
                ));
            } else if let Some(claim) = name.strip_prefix("unsecuredLoginListClaim_") {
                // The first character parts the others.
                let mut chars = value.chars();
                let list = match chars.next() {
                    Some(mark) => chars.as_str().split(mark).map(str::to_owned).collect(),
                    None => Vec::new(),
                };
                claims.push((claim.to_owned(), TokenClaim::List(list)));
            } else if name == "unsecuredLoginLifetimeSeconds" {
                let seconds = value.parse::<u64>().ok().filter(|n| (1..=1 << 31).contains(n));
                lifetime = Duration::from_secs(seconds.ok_or_else(|| bad("a number of seconds"))?);
            }
        }
        Ok((claims, lifetime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_java_writes_it() {
        let l = parse(
            "org.apache.kafka.common.security.scram.ScramLoginModule required\n  username=\"al=ice;\" \
             password='se \\'cret\\\\' tokenauth=true;",
        )
        .unwrap();
        assert_eq!(l.option("username"), Some("al=ice;"));
        assert_eq!(l.option("password"), Some("se 'cret\\"));
        assert_eq!(l.option("tokenauth"), Some("true"));
        assert!(l.check_mechanism("SCRAM-SHA-512").is_ok() && l.check_mechanism("PLAIN").is_err());
        let l = parse("x.PlainLoginModule  REQUIRED username = bob password=\"\" ;").unwrap();
        assert_eq!((l.option("username"), l.option("password")), (Some("bob"), None));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for bad in [
            "",
            "x.PlainLoginModule username=\"u\" password=\"hunter2\";",
            "x.PlainLoginModule required username=\"u\" password=\"hunter2\"",
            "x.PlainLoginModule required username=\"u\" password=\"hunter2;",
            "x.PlainLoginModule required password=hunter2; y.Other required;",
            "x.PlainLoginModule required hunter2;",
        ] {
            let Err(e) = parse(bad) else { panic!("{bad}") };
            assert!(!e.to_string().contains("hunter2"), "{e}");
        }
    }

    #[test]
    fn claims_and_extensions() {
        let l = parse(
            "a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"alice\" \
             unsecuredLoginListClaim_scope=\",a,b\" unsecuredLoginNumberClaim_n=\"1.5\" \
             unsecuredLoginLifetimeSeconds=60 extension_logicalCluster=\"lkc-1\";",
        )
        .unwrap();
        let (claims, life) = l.unsecured_claims().unwrap();
        assert_eq!(claims[0], ("sub".to_owned(), TokenClaim::Text("alice".to_owned())));
        assert_eq!(claims[1].1, TokenClaim::List(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((claims[2].1.clone(), life), (TokenClaim::Number(1.5), Duration::from_secs(60)));
        assert_eq!(l.extensions().unwrap(), [("logicalCluster".to_owned(), "lkc-1".to_owned())]);
        let l = parse("a.OAuthBearerLoginModule required extension_auth=\"x\";").unwrap();
        assert!(l.extensions().is_err());
    }
}
