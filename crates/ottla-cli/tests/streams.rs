//! The command among other programs: standard streams that have no reader, do not block, are
//! directories, terminals or closed.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use process::{embedded_args, read_until, run_ottla};

/// Returns a stream that no process reads.
fn without_reader() -> Stdio {
    let (_, writer) = UnixStream::pair().unwrap();
    Stdio::from(OwnedFd::from(writer))
}

fn ottla(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes the input and waits for the end.
fn finish(mut child: Child, input: &[u8]) -> Output {
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes the pipe.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn thousand_lines() -> Vec<u8> {
    (0..1000).map(|i| format!("{i}\n")).collect::<String>().into_bytes()
}

#[test]
fn records_are_sent_although_standard_error_has_no_reader() {
    for more in [
        &[][..],
        &["--property", "parse.key=false"],
        &["-v"],
        // Events of every thread, the sender's and the broker's included.
        &["-d"],
    ] {
        let args = embedded_args(&[&["--json"], more].concat());
        let out = finish(ottla(&args).stderr(without_reader()).spawn().unwrap(), &thousand_lines());
        let results = String::from_utf8_lossy(&out.stdout).matches("offset").count();
        assert_eq!((out.status.code(), results), (Some(0), 1000), "{more:?}");
    }
}

#[test]
fn error_without_a_reader_keeps_its_exit_status() {
    for (args, status) in [
        (embedded_args(&["-X", "lingr.ms=5"]), 2),
        (vec!["produce", "-b", "127.0.0.1:1", "-t", "t", "--max-block-ms", "100"], 1),
        (vec!["perf", "--topic", "t", "--num-records", "1", "--record-size", "1"], 2),
        (vec!["broker", "--listen", "nowhere"], 2),
    ] {
        let out = finish(ottla(&args).stderr(without_reader()).spawn().unwrap(), b"x\n");
        assert_eq!(out.status.code(), Some(status), "{args:?}");
    }
}

#[test]
fn output_without_a_reader_ends_quietly() {
    let mut broker = ottla(&["broker", "--listen", "127.0.0.1:0", "--topic", "t"]).spawn().unwrap();
    let address = read_until(&mut BufReader::new(broker.stdout.take().unwrap()), ":");
    let perf = |more: &[&'static str]| {
        let mut args = vec!["perf", "-b", address.trim(), "--topic", "t", "--record-size", "10"];
        args.extend(more);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let own = |args: &[&str]| args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    for args in [
        own(&["completions", "bash"]),
        own(&["man"]),
        own(&["produce", "--help"]),
        perf(&["--num-records", "1000", "--throughput", "-1", "--json"]),
        perf(&["--num-records", "1000", "--throughput", "-1", "--print-metrics"]),
        // Ends at the first line that it cannot print, not after its billion records.
        perf(&[
            "--num-records",
            "1000000000",
            "--throughput",
            "1000",
            "--reporting-interval",
            "100",
        ]),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = finish(ottla(&args).stdout(without_reader()).spawn().unwrap(), b"");
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", stderr(&out));
        assert_eq!(stderr(&out), "", "{args:?}");
    }
    broker.kill().unwrap();
    broker.wait().unwrap();
}

#[test]
fn produce_continues_although_its_results_have_no_reader() {
    let args = embedded_args(&["--json"]);
    let out = finish(ottla(&args).stdout(without_reader()).spawn().unwrap(), &thousand_lines());
    assert_eq!(out.status.code(), Some(0));
    assert!(stderr(&out).starts_with("1000 records acknowledged"), "{}", stderr(&out));
}

#[cfg(target_os = "linux")]
#[test]
fn output_to_a_full_disk_is_an_error() {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    for args in [&["completions", "zsh"][..], &["man"]] {
        let out = finish(ottla(args).stdout(full()).spawn().unwrap(), b"");
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(stderr(&out).contains("cannot write to standard output: No space"), "{args:?}");
    }
    // The records are sent nevertheless.
    let args = embedded_args(&["--json"]);
    let out = finish(ottla(&args).stdout(full()).spawn().unwrap(), &thousand_lines());
    assert_eq!(out.status.code(), Some(0));
    let stderr = stderr(&out);
    assert_eq!(stderr.matches("cannot write results to standard output").count(), 1, "{stderr}");
    assert!(stderr.contains("1000 records acknowledged"), "{stderr}");
}

#[test]
fn standard_streams_that_do_not_block_are_read_and_written_as_others() {
    let (input, command_input) = UnixStream::pair().unwrap();
    let (output, command_output) = UnixStream::pair().unwrap();
    command_input.set_nonblocking(true).unwrap();
    command_output.set_nonblocking(true).unwrap();
    let mut command = ottla(&embedded_args(&["--json"]));
    command.stdin(Stdio::from(OwnedFd::from(command_input)));
    command.stdout(Stdio::from(OwnedFd::from(command_output)));
    let child = command.spawn().unwrap();
    // The parent's copies of the command's ends would keep the streams open.
    drop(command);
    let reading = thread::spawn(move || {
        let (mut output, mut text) = (BufReader::new(output), String::new());
        // The first line is read late, when the output's buffer is full.
        output.read_to_string(&mut text).unwrap();
        text
    });
    let mut input = input;
    // The command finds its input empty at first, and the input's buffer full later.
    thread::sleep(std::time::Duration::from_millis(300));
    for _ in 0..20 {
        input.write_all(&thousand_lines()).unwrap();
    }
    drop(input);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    assert_eq!(reading.join().unwrap().matches("offset").count(), 20_000);
}

#[test]
fn standard_input_that_cannot_be_read_is_an_error() {
    let directory = File::open("/").unwrap();
    let child = ottla(&embedded_args(&[])).stdin(directory).spawn().unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("cannot read standard input: it is a directory"));

    let write_only = OpenOptions::new().write(true).open("/dev/null").unwrap();
    let child = ottla(&embedded_args(&[])).stdin(write_only).spawn().unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    assert!(stderr(&out).contains("cannot read standard input: Bad file"), "{}", stderr(&out));
}

#[test]
fn closed_standard_streams_do_no_harm() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$0\" produce --embedded -t t --json <&- >&- 2>&-"]);
    let status = command.arg(assert_cmd::cargo::cargo_bin!("ottla")).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn named_pipe_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = pipe.to_str().unwrap().to_owned();
    let command = thread::spawn(move || run_ottla(&embedded_args(&[&path]), b""));
    // A writer whose reader opens, closes and opens again would get SIGPIPE or lose records.
    let mut writer = OpenOptions::new().write(true).open(&pipe).unwrap();
    thread::sleep(std::time::Duration::from_millis(300));
    writer.write_all(&thousand_lines()).unwrap();
    drop(writer);
    let out = command.join().unwrap();
    assert!(stderr(&out).starts_with("1000 records acknowledged"), "{}", stderr(&out));
}

/// A terminal whose other end the test holds.
struct Terminal {
    person: File,
    command_side: OwnedFd,
}

impl Terminal {
    fn open() -> Terminal {
        let pty = nix::pty::openpty(None, None).unwrap();
        Terminal { person: File::from(pty.master), command_side: pty.slave }
    }

    fn stdio(&self) -> Stdio {
        Stdio::from(self.command_side.try_clone().unwrap())
    }

    /// Returns all that the command printed. The command has ended.
    fn read_screen(self) -> String {
        drop(self.command_side);
        let (mut screen, mut person) = (Vec::new(), self.person);
        // On Linux, the end of a terminal is an error.
        let _ = person.read_to_end(&mut screen);
        String::from_utf8_lossy(&screen).into_owned()
    }
}

#[test]
fn terminal_shows_a_prompt_without_a_progress_bar() {
    let terminal = Terminal::open();
    let mut command = ottla(&embedded_args(&[]));
    let child = command.stdin(terminal.stdio()).stderr(terminal.stdio()).spawn().unwrap();
    drop(command);
    let mut person = terminal.person.try_clone().unwrap();
    for text in ["one\n", "two\n", "\u{4}"] {
        // Longer than the time between two drawings of a bar.
        thread::sleep(std::time::Duration::from_millis(300));
        person.write_all(text.as_bytes()).unwrap();
    }
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    drop(person);
    let screen = terminal.read_screen();
    assert!(!screen.contains('\u{1b}'), "control sequences: {screen:?}");
    assert_eq!(screen.matches('>').count(), 3, "{screen:?}");
    assert!(screen.contains("\n2 records acknowledged"), "{screen:?}");
}

#[test]
fn terminal_shows_messages_above_the_progress_bar() {
    let terminal = Terminal::open();
    let mut command = ottla(&embedded_args(&["-v"]));
    let child = command.stderr(terminal.stdio()).spawn().unwrap();
    drop(command);
    let mut child = child;
    let mut stdin = child.stdin.take().unwrap();
    for _ in 0..5 {
        thread::sleep(std::time::Duration::from_millis(200));
        stdin.write_all(&thousand_lines()).unwrap();
    }
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    let screen = terminal.read_screen();
    assert!(screen.contains("B/s"), "no bar: {screen:?}");
    for line in screen.lines().filter(|l| l.contains(" INFO ") || l.contains("acknowledged")) {
        // What stands before the message on its line has been erased.
        let visible = line.rsplit("\u{1b}[2K").next().unwrap();
        let is_whole_line = visible.starts_with(|c: char| c.is_ascii_digit());
        assert!(is_whole_line, "{line:?} in {screen:?}");
    }
}

#[test]
fn output_to_an_input_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.txt");
    std::fs::write(&path, "a\nb\n").unwrap();
    for (option, is_stdout) in [("--json", true), ("-v", false)] {
        for input in [path.to_str().unwrap(), "-"] {
            let output = OpenOptions::new().append(true).open(&path).unwrap();
            let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
            command.args(["produce", "--embedded", "-t", "t", option, input]);
            command.stdin(File::open(&path).unwrap());
            let out = if is_stdout {
                command.stdout(output).output().unwrap()
            } else {
                command.stderr(output).output().unwrap()
            };
            assert_eq!(out.status.code(), Some(2), "{option} {input}");
        }
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().next(), Some("a"));
    assert_eq!(text.matches("standard error goes to the input").count(), 2, "{text}");
}

#[test]
fn terminal_shows_each_file_and_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a.txt", "b.txt"].map(|name| dir.path().join(name));
    for path in &paths {
        std::fs::write(path, "0123456789\n".repeat(40)).unwrap();
    }
    let [a, b] = paths.each_ref().map(|path| path.to_str().unwrap());
    let terminal = Terminal::open();
    // The bars are drawn ten times a second: a file takes longer.
    let mut command = ottla(&embedded_args(&["--rate", "100", a, b]));
    let child = command.stderr(terminal.stdio()).spawn().unwrap();
    drop(command);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    let screen = terminal.read_screen();
    for part in [format!("1/2 {a} "), format!("2/2 {b} "), "/440 B".into(), "total ".into()] {
        assert!(screen.contains(&part), "{part:?} is not in {screen:?}");
    }
    assert!(screen.contains("/880 B"), "{screen:?}");
    let last = screen.rsplit("\u{1b}[2K").next().unwrap();
    assert!(last.contains("80 records acknowledged"), "the bars stay: {screen:?}");
}
