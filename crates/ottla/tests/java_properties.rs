//! Compares the parser of properties files with `java.util.Properties`, where a JDK is installed.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

const FILES: usize = 4000;

/// The separators, blanks, escapes and line ends of the format, with few other characters, so that
/// they meet often.
const PIECES: &[&[u8]] = &[
    b"a",
    b"b",
    b"u",
    b"0041",
    b"=",
    b":",
    b" ",
    b"\t",
    b"\x0c",
    b"#",
    b"!",
    b"\\",
    b"\\",
    b"\\u",
    b"\\u00fc",
    b"\\ud83d\\ude00",
    b"\n",
    b"\n",
    b"\r",
    b"\r\n",
    b"\\\n",
    b"\xc3\xbc",
    b"\"",
    b"\xfc",
    b"\xc2\xa0",
    b"\0",
];

fn hex(text: &str) -> String {
    text.encode_utf16().map(|unit| format!("{unit:04x}")).collect()
}

/// Returns what `PropertiesDump.java` prints for this content. Both leave out the empty name: Java
/// returns it for a single backslash at the end of the file, the producer does not.
fn dump(content: &[u8]) -> String {
    match ottla::tools::parse_properties(content) {
        Ok(pairs) => {
            let named = pairs.iter().filter(|(name, _)| !name.is_empty());
            let sorted: BTreeMap<_, _> = named.map(|(n, v)| (hex(n), hex(v))).collect();
            let entries: Vec<_> = sorted.iter().map(|(n, v)| format!("{n}={v}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Err(e) if e.to_string().contains("malformed escape") => "malformed".to_owned(),
        Err(e) => panic!("{content:?}: {e}"),
    }
}

#[test]
fn properties_are_parsed_as_by_java() {
    let is_java_missing = Command::new("java").arg("-version").output().is_err();
    if is_java_missing {
        let missing = "the comparison with java.util.Properties needs a JDK";
        assert!(!ottla_testkit::is_ci(), "{missing}");
        ottla_testkit::skip_test(missing);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let piece = proptest::sample::select(PIECES);
    let file = proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat());
    let contents: Vec<Vec<u8>> =
        (0..FILES).map(|_| file.new_tree(&mut runner).unwrap().current()).collect();
    // The differences from Java: unmarked UTF-16 and half a surrogate pair are errors.
    let contents: Vec<_> = contents
        .into_iter()
        .filter(|content| {
            let result = ottla::tools::parse_properties(content);
            !result.is_err_and(|e| {
                let e = e.to_string();
                e.contains("UTF-16") || e.contains("surrogate pair")
            })
        })
        .collect();
    assert!(contents.len() > FILES * 9 / 10);
    for (i, content) in contents.iter().enumerate() {
        std::fs::write(dir.path().join(i.to_string()), content).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java/PropertiesDump.java");
    let out = Command::new("java").arg(source).arg(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let java = String::from_utf8(out.stdout).unwrap();
    assert_eq!(java.lines().count(), contents.len());
    for (content, expected) in contents.iter().zip(java.lines()) {
        let content_text = String::from_utf8_lossy(content);
        assert_eq!(dump(content), expected, "{content_text:?}");
    }
    let malformed = java.lines().filter(|l| *l == "malformed").count();
    assert!((100..FILES / 2).contains(&malformed), "{malformed} files are malformed");
}
