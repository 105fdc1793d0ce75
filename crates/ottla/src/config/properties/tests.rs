use proptest::prelude::*;

use super::*;

fn parse_pairs(content: impl AsRef<[u8]>) -> Vec<(String, String)> {
    parse(content).unwrap()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn comments_continuations_and_escapes_are_parsed_as_in_java() {
    let text = "# a comment\n! another\n\na=1\nb : 2\nc 3\n  d  =  4 5\n\
        e=first \\\n   second\nf\\=g=h\\:i\\\\\nempty=\nt=\\u00e9\\t|\n\
        sasl.jaas.config=x required username=\"a=b\";\n";
    let expected = [
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("d", "4 5"),
        ("e", "first second"),
        ("f=g", "h:i\\"),
        ("empty", ""),
        ("t", "é\t|"),
        ("sasl.jaas.config", "x required username=\"a=b\";"),
    ];
    assert_eq!(parse_pairs(text), pairs(&expected));
}

#[test]
fn line_ends_blanks_and_continued_lines_are_those_of_java() {
    for (text, expected) in [
        ("a=1\rb=2\r\nc=3", &[("a", "1"), ("b", "2"), ("c", "3")][..]),
        // A comment is not continued; a continuation line is no comment.
        ("# x \\\na=1\nb=2\\\n# 3", &[("a", "1"), ("b", "2# 3")]),
        // An empty line ends a continued line.
        ("a=1\\\n\nb=2", &[("a", "1"), ("b", "2")]),
        ("a=1\\\r\n  2\\\r\t3", &[("a", "123")]),
        ("\\\n# a comment, because the line before it is empty\na=1", &[("a", "1")]),
        // The end of the file drops a single backslash.
        ("a=1\\", &[("a", "1")]),
        ("a=1\\\\", &[("a", "1\\")]),
        // Only the first separator counts; a form feed is a blank, other Unicode spaces are not.
        ("a = = b\nc\u{c}:d\n\u{a0}e=f", &[("a", "= b"), ("c", "d"), ("\u{a0}e", "f")]),
        ("a\\ b\\:c\\=d e", &[("a b:c=d", "e")]),
        ("=x\n: y\nz", &[("", "x"), ("", "y"), ("z", "")]),
        // Blanks at the end belong to the value; `Properties::set` trims them.
        ("a=1 \t", &[("a", "1 \t")]),
        // An unknown escape is the character itself.
        ("a=\\q\\#\\!\\\"", &[("a", "q#!\"")]),
    ] {
        assert_eq!(parse_pairs(text), pairs(expected), "{text:?}");
    }
}

#[test]
fn unicode_escapes_may_be_surrogate_pairs_and_are_refused_if_malformed() {
    assert_eq!(parse_pairs("k\\u003d=\\ud83d\\ude00\\u00FC"), pairs(&[("k=", "😀ü")]));
    assert_eq!(parse_pairs("a=\\ud83d\\\n  \\ude00"), pairs(&[("a", "😀")]));
    for (text, line) in [
        ("a=1\nssl.truststore.location=C:\\users\\ca.pem", 2),
        ("a=\\u12", 1),
        ("a=\\u+123", 1),
        ("a=\\ud83d", 1),
        ("a=\\ud83d\\u0041", 1),
        ("a=\\ude00", 1),
        ("# x\r\npass\\u=hunter2\r\n", 2),
        ("sasl.jaas.config=hunter2 \\\n  b \\\n  c\\ud83d", 3),
    ] {
        let e = parse(text).unwrap_err().to_string();
        assert!(e.starts_with(&format!("line {line}: malformed escape")), "{text:?}: {e}");
        assert!(!e.contains("hunter2"), "{e}");
    }
}

#[test]
fn encoding_is_utf_8_utf_16_with_a_mark_or_iso_8859_1() {
    let expected = pairs(&[("a", "ü😀")]);
    assert_eq!(parse_pairs("a=ü😀"), expected);
    assert_eq!(parse_pairs("\u{feff}a=ü😀"), expected);
    let units: Vec<u16> = "\u{feff}a=ü😀\r\n".encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|u| u.to_be_bytes()).collect();
    assert_eq!((parse_pairs(&little), parse_pairs(&big)), (expected.clone(), expected));
    assert_eq!(parse_pairs(b"a=\xfc\xe9"), pairs(&[("a", "üé")]));
    // Valid and invalid UTF-8 in one file: all of it is ISO-8859-1, as in Java.
    assert_eq!(parse_pairs(b"a=\xc3\xbc\xfc"), pairs(&[("a", "Ã¼ü")]));
    for (content, encoding) in [
        (&little[2..], "UTF-16 without"),
        (&big[2..], "UTF-16 without"),
        (&little[..little.len() - 1], "not valid UTF-16"),
        (b"\xff\xfe\x3d\xd8a\0", "not valid UTF-16"),
        (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
    ] {
        let e = parse(content).unwrap_err().to_string();
        assert!(e.contains(encoding), "{content:?}: {e}");
    }
    assert_eq!(parse_pairs(b""), []);
}

/// A character and one of the ways in which a file may contain it.
fn written_char(c: char, choice: u8, is_name: bool, is_first: bool) -> String {
    let unicode_escape = || {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect()
    };
    let short = match c {
        '\n' => Some("\\n"),
        '\r' => Some("\\r"),
        '\t' => Some("\\t"),
        '\u{c}' => Some("\\f"),
        _ => None,
    };
    let must_escape = matches!(c, '\n' | '\r' | '\\')
        || (is_blank(c) && (is_name || is_first))
        || (matches!(c, '=' | ':') && (is_name || is_first))
        || (matches!(c, '#' | '!') && is_name && is_first);
    match (choice % 4, short) {
        (0, _) => unicode_escape(),
        (1, Some(short)) => short.to_owned(),
        (_, Some(short)) if must_escape => short.to_owned(),
        // An escape such as `\\n` or `\\u` would mean something else.
        (2, None) if !c.is_alphanumeric() => format!("\\{c}"),
        _ if must_escape => format!("\\{c}"),
        _ => c.to_string(),
    }
}

/// Writes a text, with a continued line before some characters.
fn written(text: &str, choices: &[u8], is_name: bool) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        let choice = choices[i % choices.len()];
        if choice >= 240 {
            out += ["\\\n", "\\\r", "\\\r\n", "\\\n \t"][usize::from(choice) % 4];
        }
        let after_continuation = choice >= 240;
        out += &written_char(c, choice, is_name, i == 0 || after_continuation);
    }
    out
}

proptest! {
    /// Each way to write names and values that the specification allows is read as it was meant.
    #[test]
    fn written_properties_are_read_back(
        entries in prop::collection::vec(
            (
                "[a-z.=:#! \\\\]{1,8}",
                "[a-c =:#!\t\u{c}\r\n\\\\ü😀u]{0,12}",
                prop::collection::vec(any::<u8>(), 1..20),
            ),
            0..6,
        ),
    ) {
        let mut text = String::new();
        for (name, value, choices) in &entries {
            let choice = usize::from(choices[0]);
            text += ["", "# x=y \\\n", "\n \t\r\n", "!\\u\r"][choice % 4];
            text += ["", "  ", "\t"][choice % 3];
            text += &written(name, choices, true);
            text += ["=", ":", " ", " = ", "\t:\u{c}"][choice % 5];
            text += &written(value, choices, false);
            text += ["\n", "\r", "\r\n"][choice % 3];
        }
        let expected: Vec<_> =
            entries.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect();
        prop_assert_eq!(parse(&text).unwrap(), expected, "{:?}", text);
    }

    #[test]
    fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&content);
    }

    #[test]
    fn no_text_panics(text in "[a=:#!\\\\u0dD8\r\n \u{feff}ü]{0,40}") {
        let _ = parse(&text);
    }
}
