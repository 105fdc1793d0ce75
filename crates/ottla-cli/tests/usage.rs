//! Wrong input, each with its message and its status; no broker but the embedded one is needed.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::thread;

use assert_cmd::Command;

fn run_ottla(args: &[&str], input: &[u8]) -> Output {
    let mut c = Command::cargo_bin("ottla").expect("the binary is built");
    c.args(args).write_stdin(input).timeout(std::time::Duration::from_secs(60));
    c.output().expect("it runs")
}

fn assert_fails(args: &[&str], input: &[u8], status: i32, wants: &[&str]) {
    let out = run_ottla(args, input);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
    for want in wants {
        assert!(stderr.contains(want), "{args:?} does not say {want:?}:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

const EMBEDDED_ARGS: [&str; 4] = ["produce", "--embedded", "-t", "t"];

fn embedded_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    EMBEDDED_ARGS.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn no_such_file_is_wrong_usage_before_anything_is_sent() {
    assert_fails(&embedded_args(&["/no/such/file"]), b"", 2, &["/no/such/file", "No such file"]);
    assert_fails(&embedded_args(&["/"]), b"", 2, &["is a directory"]);
}

#[test]
fn settings_that_are_unknown_wrong_or_in_conflict() {
    assert_fails(
        &embedded_args(&["-X", "lingr.ms=5"]),
        b"",
        2,
        &["unknown setting lingr.ms", "linger.ms?"],
    );
    assert_fails(
        &embedded_args(&["-X", "linger.ms=soon"]),
        b"",
        2,
        &["linger.ms=soon", "long, 0 or more"],
    );
    let conflict = ["-X", "enable.idempotence=true", "--request-required-acks", "1"];
    assert_fails(
        &embedded_args(&conflict),
        b"",
        2,
        &["enable.idempotence=true conflicts with acks=1"],
    );
    assert_fails(
        &embedded_args(&["-X", "security.protocol=SASL_SSL"]),
        b"",
        2,
        &["GSSAPI", "PLAIN, SCRAM"],
    );
    assert_fails(&embedded_args(&["-X", "group.id=g"]), b"", 2, &["another client"]);
    assert_fails(
        &embedded_args(&["--property", "parse.kee=true"]),
        b"",
        2,
        &["unknown reader property"],
    );
    assert_fails(&["produce", "-t", "t"], b"", 2, &["--bootstrap-server", "--embedded"]);
    assert_fails(&["produce", "--embedded"], b"", 2, &["--topic"]);
    assert_fails(&["produce", "-b", "nowhere", "-t", "t"], b"", 2, &["no port"]);
    assert_fails(&embedded_args(&["--no-such-option"]), b"", 2, &["--no-such-option"]);
}

#[test]
fn a_broker_that_is_not_there() {
    let args = ["produce", "-b", "127.0.0.1:1", "-t", "t", "--max-block-ms", "2500"];
    let wants =
        ["not connected after 2 s", "127.0.0.1:1: Connection refused", "max.block.ms (2500 ms)"];
    assert_fails(&args, b"x\n", 1, &wants);
}

#[test]
fn a_name_that_does_not_resolve() {
    // A label over 63 letters is refused by the resolver itself: no name server is asked, however slow it is.
    let host = format!("{}.invalid", "a".repeat(64));
    let server = format!("{host}:9092");
    let args = ["produce", "-b", &server, "-t", "t", "--max-block-ms", "1500"];
    assert_fails(&args, b"x\n", 1, &[&format!("{host} cannot be resolved")]);
}

#[test]
fn a_topic_name_that_kafka_refuses() {
    let args = ["produce", "--embedded", "-t", "a b"];
    assert_fails(&args, b"x\n", 2, &["topic name \"a b\"", "only letters"]);
}

#[test]
fn a_record_over_the_limit_fails_alone() {
    let mut input = b"first\n".to_vec();
    input.extend(vec![b'x'; 3_000_000]);
    input.extend(b"\nlast\n");
    assert_fails(
        &embedded_args(&[]),
        &input,
        1,
        &["2 records acknowledged", "line 2 is longer than max.request.size"],
    );
    let nearly = [vec![b'x'; 1_048_570], b"\nlast\n".to_vec()].concat();
    assert_fails(
        &embedded_args(&[]),
        &nearly,
        1,
        &["1 records acknowledged", "larger than max.request.size (1048576)"],
    );
}

#[test]
fn a_line_without_its_key_stops_there_and_what_was_read_is_sent() {
    let args = embedded_args(&["--property", "parse.key=true"]);
    assert_fails(
        &args,
        b"k\tv\nnokey\n",
        1,
        &["1 records acknowledged", "No key separator found on line number 2: 'nokey'"],
    );
}

#[test]
fn an_http_server_at_the_bootstrap_address_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let args = ["produce", "-b", &address, "-t", "t", "--max-block-ms", "1500"];
    assert_fails(&args, b"x\n", 1, &["HTTP server, not a Kafka broker"]);
}

#[test]
fn a_peer_that_answers_nonsense_or_hangs_up_is_an_error_not_a_hang() {
    for answer in [
        &b""[..],
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff....",
        b"\x00\x00\x00\x02\x00\x00",
        b"\x15\x03\x01\x00\x02\x02\x16",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer);
            }
        });
        let args = ["produce", "-b", &address, "-t", "t", "--max-block-ms", "800"];
        assert_fails(&args, b"x\n", 1, &["no broker can be reached", &address]);
    }
}

#[test]
fn all_is_well_with_status_0_and_json_tells_each_record() {
    let out = run_ottla(&embedded_args(&["--json", "-K", ":", "-Z", "-H", "h=1"]), b"a:1\nb:\nc\n");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let stdout = String::from_utf8(out.stdout).unwrap();
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
    assert!(
        stdout.lines().all(|l| l.contains("\"offset\":") && l.contains("\"timestamp\":")),
        "{stdout}"
    );
    assert!(String::from_utf8_lossy(&out.stderr).contains("3 records acknowledged"));
}

/// README's first command, as it stands there.
#[test]
fn the_readmes_first_command_does_what_it_says() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let line = readme.lines().find_map(|l| l.strip_prefix("$ cargo run --release -- ")).unwrap();
    let dir = root.join("target").join(format!("readme-{}", std::process::id()));
    let file = root.join("LICENSE");
    let args: Vec<String> = line
        .split(' ')
        .map(|a| match a {
            "target/lines" => dir.display().to_string(),
            "LICENSE" => file.display().to_string(),
            other => other.to_owned(),
        })
        .collect();
    let out = run_ottla(&args.iter().map(String::as_str).collect::<Vec<_>>(), b"");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && stderr.contains("201 records acknowledged, 10646 bytes"),
        "{stderr}"
    );
    assert!(dir.join("lines-0/00000000000000000000.log").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn acks_0_says_what_it_is() {
    let out = run_ottla(&embedded_args(&["--request-required-acks", "0"]), b"a\nb\n");
    assert!(out.status.success());
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("2 records handed to the socket (acks=0")
    );
}

#[test]
fn count_sync_and_every_codec() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let out = run_ottla(&embedded_args(&["-z", codec, "-c", "2", "--sync"]), b"a\nb\nc\n");
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            out.status.success() && stderr.contains("2 records acknowledged"),
            "{codec}: {stderr}"
        );
    }
}

#[test]
fn help_man_and_completions_come_from_the_same_table() {
    let help = run_ottla(&["produce", "--help"], b"");
    let man = run_ottla(&["man"], b"");
    let bash = run_ottla(&["completions", "bash"], b"");
    for out in [&help, &man, &bash] {
        let text = String::from_utf8_lossy(&out.stdout).replace('\\', "");
        assert!(out.status.success() && text.contains("--compression-codec"), "{text}");
    }
}

/// Reads lines until one contains this; all read so far.
#[cfg(unix)]
fn read_until(from: &mut impl std::io::BufRead, want: &str) -> String {
    let mut all = String::new();
    while !all.contains(want) {
        let before = all.len();
        from.read_line(&mut all).unwrap();
        assert!(all.len() > before, "it ended without saying {want:?}:\n{all}");
    }
    all
}

#[cfg(unix)]
fn send_signal(child: &std::process::Child, name: &str) {
    let done = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(done.unwrap().success());
}

#[cfg(unix)]
fn spawn_ottla(
    args: &[&str],
) -> (std::process::Child, std::process::ChildStdin, std::io::BufReader<std::process::ChildStderr>)
{
    use std::process::{Command, Stdio};
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("ottla"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stderr) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    (child, stdin, std::io::BufReader::new(stderr))
}

#[cfg(unix)]
#[test]
fn a_signal_flushes_what_was_read_and_reports() {
    let (child, mut stdin, mut stderr) =
        spawn_ottla(&embedded_args(&["--timeout", "60000", "--json", "-v"]));
    stdin.write_all(b"one\ntwo\n").unwrap();
    stdin.flush().unwrap();
    // The topic is known: the first line is accepted, the second is behind it in the same read.
    read_until(&mut stderr, "topics=1");
    thread::sleep(std::time::Duration::from_millis(500));
    send_signal(&child, "-TERM");
    let said = read_until(&mut stderr, "records acknowledged");
    assert!(said.contains("2 records acknowledged"), "{said}");
    let out = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 2);
}

#[cfg(unix)]
#[test]
fn a_second_signal_quits() {
    // A peer that never answers: the flush cannot end by itself.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (child, mut stdin, mut stderr) = spawn_ottla(&["produce", "-b", &address, "-t", "t"]);
    stdin.write_all(b"one\n").unwrap();
    let said = read_until(&mut stderr, "not connected after 2 s");
    assert!(said.contains(&address), "it names whom: {said}");
    send_signal(&child, "-INT");
    read_until(&mut stderr, "once more quits");
    send_signal(&child, "-INT");
    let out = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(out.status.code(), Some(130));
}
