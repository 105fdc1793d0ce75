//! Reports tests that cannot run, because the machine lacks a program that they need.
//!
//! Rust's test harness counts a test that returns as passed. So each such test calls [`skip_test`],
//! which adds a line to the file that `cargo xtask test` names. xtask counts these lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::print_line;

/// The variable with the path of the file of skipped tests.
pub const SKIPPED_TESTS_FILE: &str = "TEST_SKIPPED_FILE";

/// Reports that the current test cannot run. The test has to return then.
///
/// `missing` says what the machine lacks, and how to install it.
///
/// # Panics
/// The file of skipped tests cannot be written: the test would count as passed.
pub fn skip_test(missing: &str) {
    let test = current_test();
    print_line(&format!("\n==== SKIPPED {test}: {missing} ====\n"));
    if let Some(path) = std::env::var_os(SKIPPED_TESTS_FILE) {
        let path = Path::new(&path);
        add_skipped_test(path, &test, missing)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Returns whether this is a run of CI, where a test against a real Kafka must not be skipped.
pub fn is_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// Returns the current test's program and name. The harness names each test's thread after it.
fn current_test() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let stem = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // Cargo appends a hash to the name of a test program.
    let program = stem.rsplit_once('-').map_or(stem.as_str(), |(name, _hash)| name);
    let thread = std::thread::current();
    format!("{program}::{}", thread.name().unwrap_or("unnamed thread"))
}

/// Adds a line. Tests of several processes add theirs at the same time, so it is one write.
fn add_skipped_test(path: &Path, test: &str, missing: &str) -> io::Result<()> {
    let line = format!("{test}\t{}\n", missing.replace(['\n', '\t'], " "));
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())
}

/// Reads the file of skipped tests: what each of them lacks, by the test's name.
///
/// # Errors
/// The file exists and cannot be read, or has another format.
pub fn read_skipped_tests(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    let mut tests = BTreeMap::new();
    for line in text.lines() {
        let invalid = || io::Error::other(format!("no skipped test: {line:?}"));
        let (test, missing) = line.split_once('\t').ok_or_else(invalid)?;
        tests.insert(test.to_owned(), missing.to_owned());
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_test_is_in_the_file_under_its_name() {
        let path = std::env::temp_dir().join(format!("ottla-skipped-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        assert_eq!(read_skipped_tests(&path).unwrap(), BTreeMap::new());
        let test = current_test();
        assert_eq!(test, "ottla_testkit::skip::tests::skipped_test_is_in_the_file_under_its_name");
        // A test that lacks two programs is still one test.
        for missing in ["it needs Go", "it needs\na JDK"] {
            add_skipped_test(&path, &test, missing).unwrap();
        }
        add_skipped_test(&path, "other", "it needs Go").unwrap();
        let expected = [(test, "it needs a JDK".into()), ("other".into(), "it needs Go".into())];
        assert_eq!(read_skipped_tests(&path).unwrap(), BTreeMap::from(expected));
        fs::write(&path, "no tab\n").unwrap();
        assert!(read_skipped_tests(&path).is_err());
        fs::remove_file(&path).unwrap();
    }
}
