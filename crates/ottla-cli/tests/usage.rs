//! The command line of `ottla produce`: messages and exit statuses, with the embedded broker or
//! with none.
#![allow(missing_docs, clippy::disallowed_methods)]

mod process;

use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use process::{
    RunningOttla, assert_fails, embedded_args, read_until, run_ottla, send_signal, spawn_ottla,
};

#[test]
fn missing_file_is_a_usage_error() {
    assert_fails(&embedded_args(&["/no/such/file"]), b"", 2, &["/no/such/file", "No such file"]);
    assert_fails(&embedded_args(&["/"]), b"", 2, &["is a directory"]);
}

#[test]
fn unknown_wrong_and_conflicting_settings_are_usage_errors() {
    assert_fails(
        &embedded_args(&["-X", "lingr.ms=5"]),
        b"",
        2,
        &["unknown setting lingr.ms", "linger.ms?"],
    );
    assert_fails(
        &embedded_args(&["-X", "transactional.id=t-1"]),
        b"",
        2,
        &["transactional.id=t-1", "sends no transactions"],
    );
    assert_fails(
        &embedded_args(&["-X", "linger.ms=soon"]),
        b"",
        2,
        &[
            "linger.ms=soon (from the command line)",
            "milliseconds, 0 or more, with at most 3 decimals",
        ],
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
    assert_fails(&embedded_args(&["-X", "group.id=g"]), b"", 2, &["another Kafka client"]);
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
fn refused_connection_is_reported_with_the_broker() {
    let args = ["produce", "-b", "127.0.0.1:1", "-t", "t", "--max-block-ms", "2500"];
    let expected =
        ["not connected after 2 s", "127.0.0.1:1: Connection refused", "max.block.ms (2500 ms)"];
    assert_fails(&args, b"x\n", 1, &expected);
}

#[test]
fn unknown_host_name_is_reported() {
    // The resolver refuses a label over 63 characters without a query to a slow name server.
    let host = format!("{}.invalid", "a".repeat(64));
    let server = format!("{host}:9092");
    let args = ["produce", "-b", &server, "-t", "t", "--max-block-ms", "1500"];
    assert_fails(&args, b"x\n", 1, &[&format!("{host} cannot be resolved")]);
}

#[test]
fn invalid_topic_name_is_a_usage_error() {
    let args = ["produce", "--embedded", "-t", "a b"];
    assert_fails(&args, b"x\n", 2, &["topic name \"a b\"", "only a-z"]);
}

#[test]
fn record_over_the_limit_fails_alone() {
    let mut input = b"first\n".to_vec();
    input.extend(vec![b'x'; 3_000_000]);
    input.extend(b"\nlast\n");
    assert_fails(
        &embedded_args(&[]),
        &input,
        1,
        &["2 records acknowledged", "line 2 is longer than max.request.size"],
    );
    // The value is below the limit, the record with its overhead is not.
    let nearly = [vec![b'x'; 1_048_570], b"\nlast\n".to_vec()].concat();
    assert_fails(
        &embedded_args(&[]),
        &nearly,
        1,
        &["1 records acknowledged", "more than max.request.size (1048576)"],
    );
}

#[test]
fn errors_name_their_section_of_the_documentation() {
    let conflict = ["-X", "enable.idempotence=true", "--request-required-acks", "1"];
    assert_fails(&embedded_args(&conflict), b"", 2, &["; see docs/ERRORS.md#config\n"]);
    let args = ["produce", "-b", "127.0.0.1:1", "-t", "t", "--max-block-ms", "300"];
    assert_fails(&args, b"x\n", 1, &["; see docs/ERRORS.md#metadatatimeout\n"]);
    let too_large = [vec![b'x'; 1_048_570], b"\n".to_vec()].concat();
    assert_fails(&embedded_args(&[]), &too_large, 1, &["; see docs/ERRORS.md#recordtoolarge\n"]);
}

#[test]
fn line_without_a_key_separator_stops_the_reading() {
    let args = embedded_args(&["--property", "parse.key=true"]);
    assert_fails(
        &args,
        b"k\tv\nnokey\n",
        1,
        &[
            "1 records acknowledged",
            "No key separator found on line number 2: 'nokey'; reading stopped at this record",
        ],
    );
}

#[test]
fn http_server_at_the_bootstrap_address_is_recognised() {
    let address = start_fake_server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let args = ["produce", "-b", &address, "-t", "t", "--max-block-ms", "1500"];
    assert_fails(&args, b"x\n", 1, &["HTTP server, not a Kafka broker"]);
}

/// Starts a server that sends these bytes after each request and closes the connection. Returns
/// its address.
fn start_fake_server(response: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(response);
        }
    });
    address
}

#[test]
fn invalid_response_is_an_error_and_not_a_hang() {
    for response in [
        &b""[..],
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff....",
        b"\x00\x00\x00\x02\x00\x00",
        b"\x15\x03\x01\x00\x02\x02\x16",
    ] {
        let address = start_fake_server(response);
        let args = ["produce", "-b", &address, "-t", "t", "--max-block-ms", "800"];
        // A server whose responses cannot be Kafka's is reported as such after two attempts.
        let out = run_ottla(&args, b"x\n");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&address), "{stderr}");
    }
}

#[test]
fn json_reports_each_acknowledged_record() {
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

#[test]
fn json_reports_a_failed_record_with_its_status() {
    let args = ["produce", "-b", "127.0.0.1:1", "-t", "t", "--max-block-ms", "100", "--json"];
    let out = run_ottla(&args, b"x\n");
    assert_eq!(out.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["possibly_persisted"], false, "{json}");
    assert!(json["error"].as_str().unwrap().contains("max.block.ms"), "{json}");
}

/// Runs the first command of the README, in another directory, and compares the output.
#[test]
fn first_command_of_the_readme_prints_what_the_readme_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut lines =
        readme.lines().skip_while(|l| !l.starts_with("$ cargo run --release -- produce"));
    let command = lines.next().unwrap().strip_prefix("$ cargo run --release -- ").unwrap();
    let (summary, log_line) = (lines.next().unwrap(), lines.next().unwrap());
    let dir = root.join("target").join(format!("readme-{}", std::process::id()));
    let replace_paths = |text: &str| {
        let license = root.join("LICENSE").display().to_string();
        text.replace("target/lines", &dir.display().to_string()).replace("LICENSE", &license)
    };
    let args: Vec<String> = command.split(' ').map(replace_paths).collect();
    let out = run_ottla(&args.iter().map(String::as_str).collect::<Vec<_>>(), b"");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    // The rest of the README's line are times, which differ in each run.
    let (counts, _) = summary.split_once(" in ").unwrap();
    let failed = summary.rsplit("; ").next().unwrap();
    assert!(stderr.contains(counts), "{counts:?} is missing in:\n{stderr}");
    assert!(stderr.contains(failed), "{failed:?} is missing in:\n{stderr}");
    assert!(stderr.contains(&replace_paths(log_line)), "{log_line:?} is missing in:\n{stderr}");
    assert!(dir.join("lines-0/00000000000000000000.log").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn summary_with_acks_0_does_not_claim_an_acknowledgement() {
    let out = run_ottla(&embedded_args(&["--request-required-acks", "0"]), b"a\nb\n");
    assert!(out.status.success());
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(stderr.contains("2 records written to the socket (acks=0"), "{stderr}");
}

#[test]
fn each_codec_works_with_sync_and_a_record_limit() {
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
fn help_man_page_and_completions_contain_the_options() {
    let help = run_ottla(&["produce", "--help"], b"");
    let man = run_ottla(&["man"], b"");
    let bash = run_ottla(&["completions", "bash"], b"");
    for out in [&help, &man, &bash] {
        let text = String::from_utf8_lossy(&out.stdout).replace('\\', "");
        assert!(out.status.success() && text.contains("--compression-codec"), "{text}");
    }
}

#[test]
fn signal_sends_the_records_read_so_far() {
    for signal in ["-TERM", "-INT", "-HUP", "-QUIT"] {
        let RunningOttla { child, mut stdin, mut stderr } =
            spawn_ottla(&embedded_args(&["--timeout", "60000", "--json", "-v"]));
        stdin.write_all(b"one\ntwo\n").unwrap();
        stdin.flush().unwrap();
        // With the topic's metadata, the producer accepts both lines of the read.
        read_until(&mut stderr, "topics=1");
        thread::sleep(Duration::from_millis(500));
        send_signal(&child, signal);
        let output = read_until(&mut stderr, "records acknowledged");
        assert!(output.contains("2 records acknowledged"), "{signal}: {output}");
        let out = child.wait_with_output().unwrap();
        // The pipe is open until here, so only the signal can have ended the command.
        drop(stdin);
        assert_eq!(out.status.code(), Some(0), "{signal}: {output}");
        assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 2);
    }
}

#[test]
fn ignored_hangup_stays_ignored() {
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", "trap '' HUP; exec \"$0\" produce --embedded -t t -v --json"])
        .arg(assert_cmd::cargo::cargo_bin!("ottla"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"one\n").unwrap();
    // The handlers are installed before the first record is sent.
    read_until(&mut stdout, "offset");
    send_signal(&child, "-HUP");
    stdin.write_all(b"two\n").unwrap();
    read_until(&mut stdout, "\"offset\":1");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signal_ends_perf_with_its_results_and_the_broker_in_order() {
    let start = |args: &[&str]| {
        let mut child = spawn_ottla(args).child;
        let stdout = BufReader::new(child.stdout.take().unwrap());
        (child, stdout)
    };
    for signal in ["-TERM", "-INT", "-HUP", "-QUIT"] {
        let (mut broker, mut address) =
            start(&["broker", "--listen", "127.0.0.1:0", "--topic", "t"]);
        let address = read_until(&mut address, ":").trim().to_owned();
        let (mut perf, mut output) = start(&[
            "perf",
            "-b",
            &address,
            "--topic",
            "t",
            "--num-records",
            "1000000000",
            "--record-size",
            "10",
            "--throughput",
            "1000",
            "--reporting-interval",
            "100",
        ]);
        read_until(&mut output, "max latency");
        send_signal(&perf, signal);
        read_until(&mut output, "99.9th");
        assert_eq!(perf.wait().unwrap().code(), Some(0), "{signal}");
        send_signal(&broker, signal);
        assert_eq!(broker.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn second_signal_quits() {
    // A server that accepts no connection and sends nothing, so that the flush cannot complete.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let RunningOttla { child, mut stdin, mut stderr } =
        spawn_ottla(&["produce", "-b", &address, "-t", "t"]);
    stdin.write_all(b"one\n").unwrap();
    let output = read_until(&mut stderr, "not connected after 2 s");
    assert!(output.contains(&address), "the broker is missing in: {output}");
    send_signal(&child, "-INT");
    read_until(&mut stderr, "interrupt again to quit");
    send_signal(&child, "-INT");
    let out = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(out.status.code(), Some(130));
}
