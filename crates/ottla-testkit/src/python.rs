//! Packages of Python: librdkafka itself, in confluent-kafka, and Prometheus's own reader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use crate::kafka::target_dir;
use crate::skip::skip_test;

/// The version of the package, which contains the same version of librdkafka.
const PACKAGE: &str = "confluent-kafka==2.16.1";

/// The same with the packages that its deserializers of schemas need.
const PACKAGE_WITH_SCHEMAS: &str = "confluent-kafka[schemaregistry,avro,protobuf,json]==2.16.1";

/// Prometheus's client for Python, with a parser of its text format.
const PROMETHEUS_PACKAGE: &str = "prometheus-client==0.26.0";

/// Held while a package is installed: several tests of a program may need it at once.
static INSTALLATION: Mutex<()> = Mutex::new(());

/// A Python interpreter that can import `confluent_kafka`.
#[derive(Debug)]
pub struct Librdkafka(PythonPackage);

impl Librdkafka {
    /// Finds the package, or installs it under `target/` with pip the first time.
    ///
    /// `TEST_PYTHON` names another interpreter than `python3`. Without Python or the package it
    /// reports that the test is skipped, and returns `None`.
    pub fn find_or_install() -> Option<Librdkafka> {
        PythonPackage::find_or_install(PACKAGE, "confluent_kafka").map(Librdkafka)
    }

    /// Like [`find_or_install`](Self::find_or_install), with the client of schema registries and
    /// the deserializers of Avro, Protobuf and JSON Schema.
    pub fn find_or_install_with_schemas() -> Option<Librdkafka> {
        let modules = "confluent_kafka.schema_registry.avro, \
                       confluent_kafka.schema_registry.protobuf, \
                       confluent_kafka.schema_registry.json_schema";
        PythonPackage::find_or_install(PACKAGE_WITH_SCHEMAS, modules).map(Librdkafka)
    }

    /// Returns the command that runs a script.
    pub fn command(&self, script: &Path) -> Command {
        self.0.command(script)
    }
}

/// A Python interpreter that can import the modules of a package.
#[derive(Debug)]
pub struct PythonPackage {
    python: String,
    /// The directory with the package, if the interpreter had none.
    packages: Option<PathBuf>,
    /// What pip installs.
    package: &'static str,
    /// What is imported: modules, separated by commas.
    modules: &'static str,
}

impl PythonPackage {
    /// Finds Prometheus's client with its parser, or installs it as
    /// [`Librdkafka::find_or_install`] does.
    pub fn prometheus_client() -> Option<PythonPackage> {
        PythonPackage::find_or_install(PROMETHEUS_PACKAGE, "prometheus_client.parser")
    }

    fn find_or_install(package: &'static str, modules: &'static str) -> Option<PythonPackage> {
        let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut found = PythonPackage { python, packages: None, package, modules };
        if found.can_import() {
            return Some(found);
        }
        match found.install() {
            Ok(()) => Some(found),
            Err(reason) => {
                skip_test(&format!(
                    "it needs Python with {package}, or with pip to install it: {reason}"
                ));
                None
            }
        }
    }

    /// Returns the command that runs a script.
    pub fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.python);
        if let Some(packages) = &self.packages {
            command.env("PYTHONPATH", packages);
        }
        command.arg(script);
        command
    }

    fn can_import(&self) -> bool {
        let done = self.command(Path::new("-c")).arg(format!("import {}", self.modules)).output();
        done.is_ok_and(|out| out.status.success())
    }

    /// Installs the package for this interpreter alone: another version of Python needs another
    /// build of it.
    fn install(&mut self) -> Result<(), String> {
        const NAME: &str = "import sys; print(sys.implementation.cache_tag)";
        let out = self.run(&["-c", NAME])?;
        let name = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let dir = target_dir().join("python");
        let packages = dir.join(format!("{name}-{}", self.package));
        let _installation = INSTALLATION.lock().unwrap_or_else(PoisonError::into_inner);
        if !packages.exists() {
            // It gets its name last: an interrupted installation is repeated.
            let unfinished =
                dir.join(format!("unfinished-{}-{}", self.package, std::process::id()));
            let target = unfinished.display().to_string();
            let pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check"];
            self.run(&[&pip[..], &["--target", &target, self.package]].concat())?;
            if let Err(e) = fs::rename(&unfinished, &packages) {
                let _ = fs::remove_dir_all(&unfinished);
                // Another test program may have installed the package meanwhile.
                if !packages.exists() {
                    return Err(e.to_string());
                }
            }
        }
        self.packages = Some(packages);
        if self.can_import() { Ok(()) } else { Err(format!("import {} fails", self.modules)) }
    }

    /// Runs Python. Returns the last line of its error output if it fails.
    fn run(&self, args: &[&str]) -> Result<Output, String> {
        let out = Command::new(&self.python).args(args).output();
        let out = out.map_err(|e| format!("{}: {e}", self.python))?;
        if out.status.success() {
            return Ok(out);
        }
        let stderr = String::from_utf8_lossy(&out.stderr);
        Err(stderr.trim().lines().last().unwrap_or("it failed").to_owned())
    }
}
