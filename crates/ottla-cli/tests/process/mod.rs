//! Runs the built command for tests.
// Each test binary compiles this file and uses a part of it.
#![allow(dead_code)]

pub(crate) mod broker;

use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;

pub(crate) fn run_ottla(args: &[&str], input: &[u8]) -> Output {
    let mut c = Command::cargo_bin("ottla").expect("the binary is built");
    c.args(args).write_stdin(input).timeout(Duration::from_secs(60));
    c.output().expect("the command runs")
}

/// Runs the command with a file as its standard input.
pub(crate) fn run_ottla_with_stdin(args: &[&str], stdin: std::fs::File) -> Output {
    // `assert_cmd` can only pipe bytes. `timeout` ends a command that does not end by itself.
    let mut c = std::process::Command::new("timeout");
    c.args(["-s", "KILL", "60"]).arg(assert_cmd::cargo::cargo_bin!("ottla")).args(args);
    c.stdin(stdin).output().expect("the command runs")
}

/// Checks that the command fails with this status, and with these texts on standard error.
pub(crate) fn assert_fails(args: &[&str], input: &[u8], status: i32, expected: &[&str]) {
    let out = run_ottla(args, input);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
    for text in expected {
        assert!(stderr.contains(text), "{args:?}: {text:?} is missing in:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

const EMBEDDED_ARGS: [&str; 4] = ["produce", "--embedded", "-t", "t"];

pub(crate) fn embedded_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    EMBEDDED_ARGS.iter().copied().chain(more.iter().copied()).collect()
}

/// Reads lines until one contains `text`, and returns all of them.
pub(crate) fn read_until(input: &mut impl std::io::BufRead, text: &str) -> String {
    let mut output = String::new();
    while !output.contains(text) {
        let len = output.len();
        input.read_line(&mut output).unwrap();
        assert!(output.len() > len, "the output ended without {text:?}:\n{output}");
    }
    output
}

pub(crate) fn send_signal(child: &std::process::Child, name: &str) {
    let status = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// A running command with open pipes.
pub(crate) struct RunningOttla {
    pub(crate) child: std::process::Child,
    pub(crate) stdin: std::process::ChildStdin,
    pub(crate) stderr: std::io::BufReader<std::process::ChildStderr>,
}

pub(crate) fn spawn_ottla(args: &[&str]) -> RunningOttla {
    use std::process::{Command, Stdio};
    // A shell may run the tests with SIGHUP ignored (`nohup`), which a child would inherit.
    let mut child = Command::new("env")
        .arg("--default-signal=HUP,INT,QUIT,TERM")
        .arg(assert_cmd::cargo::cargo_bin!("ottla"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stderr) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    RunningOttla { child, stdin, stderr: std::io::BufReader::new(stderr) }
}
