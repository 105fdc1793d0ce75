//! Host names that a test can add and remove.
//!
//! The test's processes see a hosts file of their own: it is mounted over the system's in a private
//! mount namespace, which ends with the process. Where that is not allowed, as in a container
//! without CAP_SYS_ADMIN, the test edits the system's file and restores it at its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kafka::target_dir;
use crate::skip::skip_test;

const SYSTEM_HOSTS: &str = "/etc/hosts";
/// The end of each line that a test adds. A test that was killed leaves such lines behind.
const MARKER: &str = "# added by ottla-testkit";

/// A hosts file. Dropping it restores the names that there were before.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    /// The lines that every version of the file begins with.
    base: String,
    /// The lock of the system's file, if the test edits that one.
    system_lock: Option<File>,
}

impl HostsFile {
    /// Prepares a file with the system's names. Reports that the test is skipped, and returns
    /// `None`, if the test may neither mount nor edit a hosts file.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn create() -> Option<HostsFile> {
        let system = fs::read_to_string(SYSTEM_HOSTS).unwrap_or_default();
        let base: String =
            system.lines().filter(|l| !l.ends_with(MARKER)).map(|l| format!("{l}\n")).collect();
        let dir = target_dir().join("kafka");
        fs::create_dir_all(&dir).expect("the directory is created");
        let dir = fs::canonicalize(dir).expect("the directory exists");
        let path = dir.join(format!("hosts-{}", std::process::id()));
        let mut hosts = HostsFile { path, base, system_lock: None };
        hosts.set_names(&[]);
        let probe = hosts.command(Path::new("true")).stderr(Stdio::null()).status();
        if probe.is_ok_and(|status| status.success()) {
            return Some(hosts);
        }
        if File::options().append(true).open(SYSTEM_HOSTS).is_err() {
            let _ = fs::remove_file(&hosts.path);
            skip_test(
                "names that vanish need root, or the right to mount a hosts file \
                 (unshare --mount --map-root-user)",
            );
            return None;
        }
        let lock = File::create(std::env::temp_dir().join("ottla-testkit-hosts.lock"));
        let lock = lock.expect("the lock file is created");
        lock.lock().expect("the lock is acquired");
        let _ = fs::remove_file(&hosts.path);
        hosts.path = SYSTEM_HOSTS.into();
        hosts.system_lock = Some(lock);
        Some(hosts)
    }

    /// Replaces the names that resolve to 127.0.0.1, besides those of the system.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn set_names(&self, names: &[String]) {
        let lines = names.iter().map(|name| format!("127.0.0.1 {name} {MARKER}\n"));
        let text = self.base.clone() + &lines.collect::<String>();
        // In place, because a mounted file is an inode and no path.
        fs::write(&self.path, text).expect("the hosts file is written");
    }

    /// Returns the command that runs a program with these names.
    pub fn command(&self, program: &Path) -> Command {
        if self.system_lock.is_some() {
            return Command::new(program);
        }
        const SCRIPT: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", SCRIPT]);
        command.arg(&self.path).arg(program);
        command
    }
}

impl Drop for HostsFile {
    fn drop(&mut self) {
        if self.system_lock.is_some() {
            self.set_names(&[]);
        } else {
            let _ = fs::remove_file(&self.path);
        }
    }
}
