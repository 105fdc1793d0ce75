//! Parses the text of `sasl.jaas.config` as Kafka's `JaasConfig` does, and says which fault a
//! malformed text has.

use std::iter::Peekable;
use std::str::Chars;

use zeroize::Zeroizing;

use super::JaasConfig;
use crate::error::Error;

/// Parses the text of `sasl.jaas.config`. The error names the fault and the option where it is. It
/// never contains a value, which may be a password.
pub(in crate::config) fn parse(text: &str) -> Result<JaasConfig, Error> {
    Parser { tokenizer: Tokenizer::new(text), previous: None }.parse().map_err(|fault| {
        Error::config(format!(
            "sasl.jaas.config {fault}; the form is \
             org.apache.kafka.common.security.plain.PlainLoginModule required \
             username=\"…\" password=\"…\";"
        ))
    })
}

/// An option that was parsed, for the message about a fault behind it.
#[derive(Clone, Copy)]
struct PreviousOption {
    /// The name, if it is one that messages may contain.
    name: &'static str,
    is_quoted: bool,
}

struct Parser<'t> {
    tokenizer: Tokenizer<'t>,
    previous: Option<PreviousOption>,
}

impl Parser<'_> {
    fn parse(mut self) -> Result<JaasConfig, String> {
        let login_module = self.parse_login_module()?;
        let mut options = Vec::new();
        loop {
            match self.tokenizer.next_token() {
                Token::Word(name) => options.push(self.parse_option(name.to_string())?),
                Token::Other(';') => break,
                Token::End => return Err("does not end with a semicolon".to_owned()),
                Token::Other(',') => {
                    return Err("has a comma between options; separate them by blanks".to_owned());
                }
                Token::Quoted(_) | Token::Unclosed | Token::Other(_) => {
                    return Err(self.unexpected_text());
                }
            }
        }
        loop {
            match (self.tokenizer.next_token(), self.previous) {
                (Token::End, _) => return Ok(JaasConfig { login_module, options }),
                (Token::Other(';'), _) => {}
                (_, Some(PreviousOption { name, is_quoted: false })) => {
                    return Err(not_quoted(name, "a semicolon"));
                }
                _ => {
                    return Err("has text behind the semicolon; only one login module is \
                                supported"
                        .to_owned());
                }
            }
        }
    }

    /// Parses the login module and its control flag.
    fn parse_login_module(&mut self) -> Result<String, String> {
        let login_module = match self.tokenizer.next_token() {
            Token::Word(word) => word.to_string(),
            Token::End => return Err("is empty".to_owned()),
            Token::Quoted(_) | Token::Unclosed => {
                return Err("begins with a quotation mark; remove the quotation marks around the \
                            whole text"
                    .to_owned());
            }
            Token::Other(_) => return Err("does not begin with a login module".to_owned()),
        };
        let control = match self.tokenizer.next_token() {
            Token::Word(word) => word,
            Token::Other('=') => {
                return Err("begins with an option; the login module is missing".to_owned());
            }
            Token::Other('{') => {
                return Err(
                    "is the content of a JAAS file; keep only the text between { and }".to_owned()
                );
            }
            _ => Zeroizing::default(),
        };
        let flags = ["required", "requisite", "sufficient", "optional"];
        if flags.iter().any(|flag| control.eq_ignore_ascii_case(flag)) {
            Ok(login_module)
        } else {
            Err("has no \"required\" after the login module".to_owned())
        }
    }

    /// Parses `=` and the value behind the name of an option.
    fn parse_option(&mut self, name: String) -> Result<(String, Zeroizing<String>), String> {
        if !self.tokenizer.consume_char('=') {
            return Err(self.unexpected_text());
        }
        let shown = shown_name(&name);
        self.tokenizer.skip_blanks();
        let (value, is_quoted) = match self.tokenizer.chars.peek() {
            None | Some(';') => return Err(format!("has no value for {shown}")),
            Some('"' | '\'') => (self.parse_quoted(shown)?, true),
            Some(_) => (self.parse_unquoted(shown)?, false),
        };
        self.previous = Some(PreviousOption { name: shown, is_quoted });
        Ok((name, value))
    }

    fn parse_quoted(&mut self, name: &str) -> Result<Zeroizing<String>, String> {
        let Token::Quoted(value) = self.tokenizer.next_token() else {
            return Err(format!(
                "has no closing quotation mark for the value of {name}; inside double quotation \
                 marks write \\\" for one"
            ));
        };
        match self.tokenizer.chars.peek() {
            None | Some(';' | ',' | '/') => Ok(value),
            Some(c) if c.is_whitespace() => Ok(value),
            Some(_) => Err(format!(
                "has text directly behind the value of {name}: its closing quotation mark is \
                 missing, or a quotation mark inside it needs a backslash"
            )),
        }
    }

    /// Parses a value without quotation marks. In Java it may contain only `a` to `z`, `A` to `Z`,
    /// digits and `.-_$`. Here other characters are allowed too, unless they show that a quotation
    /// mark is missing.
    fn parse_unquoted(&mut self, name: &str) -> Result<Zeroizing<String>, String> {
        let mut value = self.tokenizer.new_word();
        let chars = &mut self.tokenizer.chars;
        while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != ';') {
            let fault = match c {
                '“' | '”' | '„' | '‘' | '’' => {
                    return Err(format!(
                        "has a typographic quotation mark at the value of {name}; write \""
                    ));
                }
                '\\' if value.is_empty() && matches!(chars.peek(), Some('"' | '\'')) => {
                    return Err(format!(
                        "has a backslash before the quotation mark of {name}; remove the backslash"
                    ));
                }
                '=' => Some("="),
                ',' => Some("a comma"),
                '"' | '\'' => Some("a quotation mark"),
                _ => None,
            };
            if let Some(fault) = fault {
                return Err(not_quoted(name, fault));
            }
            value.push(c);
        }
        Ok(value)
    }

    /// Returns the fault for text that is not `name=value`.
    fn unexpected_text(&self) -> String {
        match self.previous {
            Some(PreviousOption { name, is_quoted: false }) => not_quoted(name, "a blank"),
            Some(PreviousOption { name, is_quoted: true }) => {
                format!("has text without a value behind the value of {name}; write name=\"value\"")
            }
            None => "has an option without a value; write name=\"value\"".to_owned(),
        }
    }
}

fn not_quoted(name: &str, contained: &str) -> String {
    format!(
        "has a value of {name} that contains {contained} and is not in quotation marks; write \
         name=\"value\""
    )
}

/// Returns the name of an option for a message. If the text is malformed, a part of a password may
/// stand where a name is expected, so messages contain only names of options that exist.
fn shown_name(name: &str) -> &'static str {
    const NAMES: &[&str] = &[
        "username",
        "password",
        "tokenauth",
        "clientId",
        "clientSecret",
        "scope",
        "serviceName",
        "keyTab",
        "principal",
    ];
    NAMES.iter().find(|n| n.eq_ignore_ascii_case(name)).copied().unwrap_or("an option")
}

enum Token {
    /// A text without quotation marks.
    Word(Zeroizing<String>),
    /// A text in quotation marks.
    Quoted(Zeroizing<String>),
    /// A quotation mark without a second one in its line.
    Unclosed,
    /// `=`, `;`, `,`, `{` or `}`.
    Other(char),
    End,
}

/// Splits a text as Java's `StreamTokenizer` does in Kafka's `JaasConfig`.
struct Tokenizer<'t> {
    chars: Peekable<Chars<'t>>,
    /// Length of the whole text, which no word exceeds.
    capacity: usize,
}

impl Tokenizer<'_> {
    fn new(text: &str) -> Tokenizer<'_> {
        Tokenizer { chars: text.chars().peekable(), capacity: text.len() }
    }

    /// Creates a string that never reallocates. It may become a password, and a reallocation would
    /// leave a copy in freed memory.
    fn new_word(&self) -> Zeroizing<String> {
        Zeroizing::new(String::with_capacity(self.capacity))
    }

    /// Skips whitespace and the comments `//` and `/* */`.
    fn skip_blanks(&mut self) {
        loop {
            while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
            let mut ahead = self.chars.clone();
            match (ahead.next(), ahead.next()) {
                (Some('/'), Some('/')) => while self.chars.next_if(|c| *c != '\n').is_some() {},
                (Some('/'), Some('*')) => {
                    let mut last = ' ';
                    while let Some(c) = ahead.next()
                        && (last, c) != ('*', '/')
                    {
                        last = c;
                    }
                    self.chars = ahead;
                }
                _ => return,
            }
        }
    }

    fn consume_char(&mut self, c: char) -> bool {
        self.skip_blanks();
        self.chars.next_if_eq(&c).is_some()
    }

    fn next_token(&mut self) -> Token {
        let is_word = |c: &char| !c.is_whitespace() && !"=;,{}\"'".contains(*c);
        self.skip_blanks();
        let mut word = self.new_word();
        while let Some(c) = self.chars.next_if(is_word) {
            word.push(c);
        }
        if !word.is_empty() {
            return Token::Word(word);
        }
        match self.chars.next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            Some(c) => Token::Other(c),
            None => Token::End,
        }
    }

    /// Returns the text up to the next quotation mark.
    fn quoted(&mut self, quote: char) -> Token {
        let mut out = self.new_word();
        loop {
            match self.chars.next() {
                Some(c) if c == quote => return Token::Quoted(out),
                Some('\\') => match self.escape() {
                    Some(c) => out.push(c),
                    None => return Token::Unclosed,
                },
                // In Java, the end of the line ends the text without a word.
                None | Some('\n' | '\r') => return Token::Unclosed,
                Some(c) => out.push(c),
            }
        }
    }

    /// Returns the character of an escape: one of C's (`\n`), or up to three octal digits (`\377`).
    fn escape(&mut self) -> Option<char> {
        let first = self.chars.next()?;
        let Some(mut code) = first.to_digit(8) else {
            return Some(match first {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                other => other,
            });
        };
        let more = if first <= '3' { 2 } else { 1 };
        for _ in 0..more {
            let Some(digit) = self.chars.peek().and_then(|c| c.to_digit(8)) else { break };
            self.chars.next();
            code = code * 8 + digit;
        }
        char::from_u32(code)
    }
}
