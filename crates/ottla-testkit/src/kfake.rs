//! A cluster of franz-go's `kfake`, a broker that shares no code with Ottla or Kafka.
//!
//! The Go program in `kfake/` serves it and reads back records with franz-go's consumer.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use ottla_protocol::{ApiKey, ErrorCode};

use crate::kafka::target_dir;
use crate::skip::skip_test;

/// Go's installer puts it there and leaves `PATH` to the user.
const GO_PROGRAMS: [&str; 2] = ["go", "/usr/local/go/bin/go"];

/// Three brokers. Dropping it ends the process.
#[derive(Debug)]
pub struct Kfake {
    process: Child,
    commands: ChildStdin,
    responses: BufReader<ChildStdout>,
    /// The cluster's `bootstrap.servers`.
    pub bootstrap: String,
}

/// A record as franz-go's consumer returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KfakeRecord {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The value, which contains no line break.
    pub value: String,
}

impl Kfake {
    /// Builds the program the first time, and starts it.
    ///
    /// Without Go it reports that the test is skipped, and returns `None`.
    ///
    /// # Panics
    /// The program cannot be built or started.
    pub fn start() -> Option<Kfake> {
        let mut process = Command::new(find_or_build_program()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kfake starts");
        let commands = process.stdin.take().expect("its input is a pipe");
        let responses = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        let mut kfake = Kfake { process, commands, responses, bootstrap: String::new() };
        kfake.bootstrap = kfake.read_line();
        Some(kfake)
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.responses.read_line(&mut line).expect("its output can be read");
        assert_eq!(line.pop(), Some('\n'), "kfake has ended");
        line
    }

    /// Runs a command and returns the lines of its response.
    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.commands, "{command}").expect("it reads its input");
        let mut lines = Vec::new();
        loop {
            let line = self.read_line();
            assert!(!line.starts_with("error"), "kfake {command}: {line}");
            if line == "ok" {
                return lines;
            }
            lines.push(line);
        }
    }

    fn run_for_number<T: std::str::FromStr>(&mut self, command: &str) -> T {
        let response = self.run(command);
        let number = response.first().and_then(|line| line.parse().ok());
        number.unwrap_or_else(|| panic!("kfake {command}: no number in {response:?}"))
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, topic: &str, partitions: i32) {
        self.run(&format!("create {topic} {partitions}"));
    }

    /// Returns the node that leads a partition.
    pub fn leader(&mut self, topic: &str, partition: i32) -> i32 {
        self.run_for_number(&format!("leader {topic} {partition}"))
    }

    /// Makes a node the leader of a partition.
    pub fn move_leader(&mut self, topic: &str, partition: i32, node: i32) {
        self.run(&format!("move {topic} {partition} {node}"));
    }

    /// Elects a random leader for each partition of all topics.
    pub fn shuffle_leaders(&mut self) {
        self.run("shuffle");
    }

    /// Removes a node from the cluster. Others lead its partitions.
    pub fn remove_node(&mut self, node: i32) {
        self.run(&format!("remove {node}"));
    }

    /// Fails the next requests of an API. Some codes say that the request has had its effect:
    /// REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    pub fn fail_requests(&mut self, api: ApiKey, code: ErrorCode, count: u32) {
        self.run(&format!("fail {} {} {count}", api.0, code.0));
    }

    /// Closes the connection of each of the next requests of an API instead of responding.
    pub fn disconnect_requests(&mut self, api: ApiKey, count: u32) {
        self.run(&format!("disconnect {} {count}", api.0));
    }

    /// Returns the number of requests that got an error or no response so far.
    pub fn fault_count(&mut self) -> u64 {
        self.run_for_number("count")
    }

    /// Reads the records of a topic. It waits for `count` records, and a short time for more.
    pub fn read_topic(&mut self, topic: &str, count: usize) -> Vec<KfakeRecord> {
        self.read(&format!("read {topic} {count}"))
    }

    /// Like [`read_topic`](Self::read_topic), without records of open and aborted transactions.
    pub fn read_committed(&mut self, topic: &str, count: usize) -> Vec<KfakeRecord> {
        self.read(&format!("committed {topic} {count}"))
    }

    fn read(&mut self, command: &str) -> Vec<KfakeRecord> {
        let lines = self.run(command);
        lines.iter().map(|line| parse_record(line).expect("a record")).collect()
    }
}

fn parse_record(line: &str) -> Option<KfakeRecord> {
    let (partition, rest) = line.split_once(' ')?;
    let (offset, value) = rest.split_once(' ')?;
    let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
    Some(KfakeRecord { partition, offset, value: value.to_owned() })
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kfake")
}

/// Returns a Go that is new enough for the `go.mod` in a directory, or can fetch one that is.
pub(crate) fn find_go(source_dir: &Path) -> Option<&'static str> {
    let is_new_enough = |go: &&str| {
        let out = Command::new(go).args(["list", "-m"]).current_dir(source_dir).output();
        out.is_ok_and(|out| out.status.success())
    };
    GO_PROGRAMS.into_iter().find(is_new_enough)
}

/// Returns the program, which it builds the first time. The tests of a process run at the same
/// time, and need it once.
fn find_or_build_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let Some(go) = find_go(&source_dir()) else {
        skip_test("franz-go needs Go 1.26 (https://go.dev/doc/install)");
        return None;
    };
    Some(PROGRAM.get_or_init(|| build_go_program(go, &source_dir(), "kfake")))
}

/// Runs franz-go's producer, consumers and transactions against brokers with the topics `in`, of
/// four partitions, and `out`. Returns the output of `kfake/client.go`.
///
/// Without Go it reports that the test is skipped, and returns `None`.
///
/// # Panics
/// The program cannot be built, or it fails.
pub fn run_franz_go_client(bootstrap: &str) -> Option<String> {
    let out = Command::new(find_or_build_program()?).arg(bootstrap).output().expect("it runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "franz-go: {stdout}{stderr}");
    Some(stdout.into_owned())
}

/// Builds the Go program of a directory, and returns its path under `target/`.
pub(crate) fn build_go_program(go: &str, source_dir: &Path, name: &str) -> PathBuf {
    let dir = target_dir().join(name);
    std::fs::create_dir_all(&dir).expect("the directory is created");
    let dir = std::fs::canonicalize(dir).expect("the directory exists");
    let program = dir.join(name);
    let out = Command::new(go)
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source_dir)
        .output()
        .expect("go runs");
    assert!(out.status.success(), "go build: {}", String::from_utf8_lossy(&out.stderr));
    program
}

impl Drop for Kfake {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
