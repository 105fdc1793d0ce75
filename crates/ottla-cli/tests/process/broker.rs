//! `ottla broker` in another process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a test waits for a broker before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A process that ends when this is dropped, also if an assertion has failed.
#[derive(Debug)]
pub(crate) struct ChildGuard(pub(crate) Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker in another process. Dropping it ends the process by SIGKILL.
#[derive(Debug)]
pub(crate) struct BrokerProcess {
    /// The address at which it listens.
    pub(crate) server: String,
    _child: ChildGuard,
}

impl BrokerProcess {
    /// Starts a broker at a free port, with further arguments.
    pub(crate) fn start(args: &[&str]) -> BrokerProcess {
        let child = Command::new(env!("CARGO_BIN_EXE_ottla"))
            .args(["broker", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = ChildGuard(child);
        let stdout = child.0.stdout.take().unwrap();
        let (sender, first_line) = mpsc::channel();
        // A pipe has no read timeout. The thread ends with the process at the latest.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            sender.send(read.map(|_| line))
        });
        let line = first_line.recv_timeout(DEADLINE).expect("the broker starts in time").unwrap();
        BrokerProcess { server: line.trim().to_owned(), _child: child }
    }
}
