//! Counts passed, failed and skipped tests, and knows why tests were skipped.
//!
//! Rust's test harness counts a test that cannot run on this machine as passed. Such a test adds a
//! line to a file (`ottla_testkit::skip_test`), and is moved from the passed to the skipped ones.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ottla_testkit::read_skipped_tests;

/// The reason of tests with `#[ignore]`.
const IGNORED: &str = "marked with #[ignore]";

/// The results of all test runs, summed over their binaries.
pub(super) struct TestCounts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    skipped: u64,
    /// The skipped tests and checks by what they lack.
    missing: BTreeMap<String, Vec<String>>,
    skipped_file: PathBuf,
}

impl TestCounts {
    /// Begins without results, and with an empty file of skipped tests in this directory.
    pub(super) fn new(dir: &Path) -> Result<TestCounts, String> {
        // Another run at the same time has its own file.
        let skipped_file = dir.join(format!("skipped-tests-{}.txt", std::process::id()));
        match fs::remove_file(&skipped_file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: {e}", skipped_file.display()));
            }
            _ => {}
        }
        // The tests run in the directories of their packages.
        let skipped_file = std::path::absolute(&skipped_file).map_err(|e| e.to_string())?;
        let (passed, failed, skipped) = (0, 0, 0);
        Ok(TestCounts { passed, failed, skipped, missing: BTreeMap::new(), skipped_file })
    }

    /// Returns the file to which tests add themselves that cannot run.
    pub(super) fn skipped_file(&self) -> &Path {
        &self.skipped_file
    }

    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub(super) fn add_result(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in rest.split(['.', ';']).map(str::trim) {
            let Some((n, outcome)) = part.split_once(' ') else {
                continue;
            };
            let Ok(n) = n.parse::<u64>() else { continue };
            match outcome {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                "ignored" if n > 0 => {
                    self.skipped += n;
                    self.missing.entry(IGNORED.to_owned()).or_default().push(format!("{n} tests"));
                }
                _ => {}
            }
        }
    }

    /// Adds a check that cannot run, and is none of the harness's tests.
    pub(super) fn skip_check(&mut self, check: &str, missing: String) {
        eprintln!("{check}: SKIPPED: {missing}");
        self.skipped += 1;
        self.missing.entry(missing).or_default().push(check.to_owned());
    }

    /// Moves the tests that could not run from the passed to the skipped ones.
    pub(super) fn add_skipped_tests(&mut self) -> Result<(), String> {
        let path = &self.skipped_file;
        let in_file = |e: io::Error| format!("{}: {e}", path.display());
        let tests = read_skipped_tests(path).map_err(in_file)?;
        if !tests.is_empty() {
            fs::remove_file(path).map_err(in_file)?;
        }
        for (test, missing) in tests {
            self.passed = self.passed.saturating_sub(1);
            self.skipped += 1;
            self.missing.entry(missing).or_default().push(test);
        }
        Ok(())
    }
}

/// Lists what was skipped, and ends with a line of the three counts.
impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.skipped > 0 {
            writeln!(f, "\n==== {} SKIPPED:", self.skipped)?;
            for (missing, tests) in &self.missing {
                writeln!(f, "  {missing}")?;
                for test in tests {
                    writeln!(f, "    {test}")?;
                }
            }
            writeln!(f)?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
