//! How the command reads its settings: files, pipes and environment variables.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;

fn ottla(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("ottla").expect("the binary is built");
    command.args(["produce", "--embedded", "-t", "t"]).args(args);
    command.timeout(Duration::from_secs(60));
    command
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Writes a file that lives as long as the returned directory.
fn temporary_file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("settings.properties");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

/// A settings file that is a pipe, such as `-F <(command)`, can be read only once.
#[cfg(unix)]
#[test]
fn settings_from_a_pipe_are_read_once_and_warned_of_once() {
    let (_dir, records) = temporary_file(b"one\ntwo\n");
    let records = records.to_str().unwrap();
    let settings = "linger.ms=7\ncompression.type=gzip\nstatistics.interval.ms=1000\n";
    for name in ["/dev/stdin", "-"] {
        let out = ottla(&["-F", name, "-v", records]).write_stdin(settings).output().unwrap();
        let text = stderr(&out);
        assert!(out.status.success() && text.contains("2 records acknowledged"), "{text}");
        assert_eq!(text.matches("statistics.interval.ms (from").count(), 1, "{text}");
        // An error in the last line shows that all of the pipe is read.
        let wrong = format!("{settings}acks=9\n");
        let out = ottla(&["-F", name, records]).write_stdin(wrong).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    }
    let reader = "parse.key=true\nkey.separator=:\n";
    let args = ["--reader-config", "/dev/stdin", records];
    let out = ottla(&args).write_stdin(reader).output().unwrap();
    assert!(stderr(&out).contains("No key separator found on line number 1"), "{}", stderr(&out));
}

/// A device has no length and no end.
#[cfg(unix)]
#[test]
fn settings_without_an_end_are_refused() {
    let (_dir, records) = temporary_file(b"one\n");
    let records = records.to_str().unwrap();
    for option in ["-F", "--reader-config"] {
        for name in ["/dev/zero", "-"] {
            let zeros = std::fs::File::open("/dev/zero").unwrap();
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ottla"));
            command.args(["produce", "--embedded", "-t", "t", option, name, records]);
            let out = command.stdin(zeros).output().unwrap();
            let expected = format!("cannot read {name}: it has more than 16777216 bytes");
            assert!(stderr(&out).contains(&expected), "{}", stderr(&out));
            assert_eq!(out.status.code(), Some(2));
        }
    }
}

/// TLS settings from a pipe must not be lost: the broker here has no TLS, so the command fails.
#[cfg(unix)]
#[test]
fn settings_from_a_fifo_keep_tls() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("settings");
    let status = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(status.success());
    let writer_path = fifo.clone();
    let writer = std::thread::spawn(move || {
        std::fs::write(writer_path, "security.protocol=SSL\nmax.block.ms=1500\n")
    });
    let out = ottla(&["-F", fifo.to_str().unwrap()]).write_stdin("x\n").output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    assert!(stderr(&out).contains("TLS"), "{}", stderr(&out));
}

#[test]
fn standard_input_cannot_be_settings_and_records() {
    for (args, expected) in [
        (&["-F", "-"][..], "both settings and records"),
        (&["-F", "/dev/stdin", "a.txt", "-"], "both settings and records"),
        (&["-F", "-", "--reader-config", "/dev/stdin", "a.txt"], "two files of settings"),
    ] {
        let out = ottla(args).write_stdin("linger.ms=7\n").output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(expected), "{args:?}: {}", stderr(&out));
    }
}

#[test]
fn variables_that_are_no_settings_are_ignored_and_settings_are_read() {
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = ottla(args);
        command.envs(variables.iter().copied()).write_stdin("x\n").output().unwrap()
    };
    let kubernetes = [
        ("OTTLA_SERVICE_HOST", "10.96.14.7"),
        ("OTTLA_PORT", "tcp://10.96.14.7:9092"),
        ("OTTLA_PORT_9092_TCP_ADDR", "10.96.14.7"),
        ("OTTLA_BROKER_SERVICE_PORT", "9092"),
    ];
    let out = run(&kubernetes, &[]);
    assert!(out.status.success() && !stderr(&out).contains("note"), "{}", stderr(&out));
    let out = run(&kubernetes, &["-d"]);
    assert!(stderr(&out).contains("OTTLA_SERVICE_HOST"), "{}", stderr(&out));
    let out = run(&[("OTTLA_LINGER_MS", "abc")], &[]);
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    assert!(stderr(&out).contains("linger.ms=abc (from the environment)"), "{}", stderr(&out));
}

#[test]
fn encodings_and_escapes_of_properties_files_are_those_of_java() {
    let settings = "# für die Übergabe\r\nlinger.ms=5\r\nacks=\\\r\n  all";
    let latin1: Vec<u8> = settings.chars().map(|c| c as u8).collect();
    let utf16: Vec<u8> =
        format!("\u{feff}{settings}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = format!("\u{feff}{settings}").into_bytes();
    for content in [latin1, utf16, with_mark] {
        let (_dir, path) = temporary_file(&content);
        let out = ottla(&["-F", path.to_str().unwrap()]).write_stdin("x\n").output().unwrap();
        assert!(out.status.success(), "{content:?}: {}", stderr(&out));
    }
    let (_dir, path) = temporary_file(b"acks=all\rssl.truststore.location=C:\\users\\ca.pem\r");
    let out = ottla(&["-F", path.to_str().unwrap()]).write_stdin("x\n").output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    let expected = format!("cannot read {}: line 2: malformed escape", path.display());
    assert!(stderr(&out).contains(&expected), "{}", stderr(&out));
    let (_dir, path) = temporary_file(b"parse.key=true\rkey.separator=\\ud83d\\ude00\r");
    let args = ["--reader-config", path.to_str().unwrap(), "--json"];
    let out = ottla(&args).write_stdin("k😀v\n").output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
}

#[test]
fn store_that_cannot_be_read_is_named_by_the_setting_that_the_user_wrote() {
    for setting in ["ssl.ca.location", "ssl.certificate.location", "ssl.truststore.location"] {
        let value = format!("{setting}=/no/such/file");
        let out = ottla(&["-X", "security.protocol=SSL", "-X", &value]).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
        assert!(stderr(&out).contains(&format!("{value} cannot be read")), "{}", stderr(&out));
    }
}

/// A secret in a file or a variable reaches the connection. The broker has no SASL, so that the
/// command fails; the reason never contains the secret.
#[test]
fn secrets_come_from_files_and_variables() {
    let (dir, path) = temporary_file(b"password=hunter2\nlinger=7\n");
    let (file, dir) = (path.display(), dir.path().display());
    let run = |args: &[&str]| {
        let mut command = ottla(args);
        command.env("PASSWORD", "hunter2").env("LINGER", "9").write_stdin("x\n").output().unwrap()
    };
    let linger = format!("linger.ms=${{file:{file}:linger}}");
    for args in [
        &["-X", "linger.ms=${env:LINGER}"][..],
        &["-X", &linger],
        // The provider stands behind the reference.
        &[
            "-X",
            "linger.ms=${x:LINGER}",
            "-X",
            "config.providers=x",
            "-X",
            "config.providers.x.class=org.apache.kafka.common.config.provider.EnvVarConfigProvider",
        ],
    ] {
        let out = run(args);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
    }
    for (setting, expected) in [
        ("linger.ms=${env:PASSWORD}".to_owned(), "linger.ms=${env:PASSWORD} (from the command"),
        ("sasl.password=${env:NO_SUCH}".to_owned(), "variable NO_SUCH is not set"),
        (format!("sasl.password=${{file:{file}:user}}"), "has no key user"),
        (format!("sasl.password=${{directory:{dir}:user}}"), "cannot read"),
    ] {
        let out = run(&["-X", &setting]);
        assert_eq!(out.status.code(), Some(2), "{setting}: {}", stderr(&out));
        assert!(stderr(&out).contains(expected), "{setting}: {}", stderr(&out));
        assert!(!stderr(&out).contains("hunter2"), "{setting}: {}", stderr(&out));
    }
}
