//! A schema registry of franz-go's `srfake`, which shares no code with Ottla or Confluent.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::kfake::{build_go_program, find_go};
use crate::skip::skip_test;

/// A registry. Dropping it ends the process.
#[derive(Debug)]
pub struct FakeSchemaRegistry {
    process: Child,
    /// The registry's URL.
    pub url: String,
}

impl FakeSchemaRegistry {
    /// Builds the program the first time, and starts it. Requests need `authorization` as their
    /// header of this name, if it is given.
    ///
    /// Without Go it reports that the test is skipped, and returns `None`.
    ///
    /// # Panics
    /// The program cannot be built or started.
    pub fn start(authorization: Option<&str>) -> Option<FakeSchemaRegistry> {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let source_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("srfake");
        let Some(go) = find_go(&source_dir) else {
            skip_test("franz-go's srfake needs Go 1.24 (https://go.dev/doc/install)");
            return None;
        };
        let program = PROGRAM.get_or_init(|| build_go_program(go, &source_dir, "srfake"));
        let mut process = Command::new(program)
            .args(authorization)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("srfake starts");
        let mut url = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        output.read_line(&mut url).expect("its output can be read");
        assert!(url.starts_with("http://"), "srfake printed {url:?}");
        Some(FakeSchemaRegistry { process, url: url.trim().to_owned() })
    }
}

impl Drop for FakeSchemaRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
