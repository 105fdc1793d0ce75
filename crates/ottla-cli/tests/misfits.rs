//! Servers that are no Kafka brokers, or need other settings: the command names the setting and
//! ends by itself, with a line to send and also while its input is idle.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

mod process;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ottla_broker::{EmbeddedBroker, ResponseAction};
use ottla_protocol::ApiKey;
use ottla_testkit::{CertificateAuthority, is_ci, reserve_ports, skip_test};

use process::broker::ChildGuard;
use process::{RunningOttla, spawn_ottla};

/// Starts a server that handles each connection with `handle`. Returns its address.
fn start_server(handle: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
    address
}

/// Waits until the command ends by itself; fails if it still runs after half a minute, when the
/// longest case needs 4 s.
fn wait_for_end(mut child: Child) -> (i32, String) {
    for _ in 0..300 {
        if let Some(status) = child.try_wait().unwrap() {
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            return (status.code().unwrap(), stderr);
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    panic!("the command still runs: {:?}", child.wait_with_output());
}

/// Checks that the command ends with an error that contains `expected`: first with a line to send,
/// then while its input stays open and empty.
fn assert_ends(address: &str, settings: &[&str], expected: &[&str]) {
    let mut args = vec!["produce", "-b", address, "-t", "t"];
    args.extend(settings.iter().flat_map(|setting| ["-X", *setting]));
    for input in [&b"one\n"[..], b""] {
        let RunningOttla { mut child, mut stdin, stderr } = spawn_ottla(&args);
        stdin.write_all(input).unwrap();
        child.stderr = Some(stderr.into_inner());
        let (status, output) = wait_for_end(child);
        drop(stdin);
        assert_eq!(status, 1, "{settings:?}: {output}");
        for text in expected {
            assert!(output.contains(text), "{settings:?}: {text:?} is missing in: {output}");
        }
        let (at, count) = if input.is_empty() { ("after record 0", 0) } else { ("at line 1", 1) };
        assert!(output.contains(&format!("reading stopped {at}")), "{output}");
        assert!(output.contains(&format!("{count} failed")) || count == 0, "{output}");
    }
}

const MISFIT: &str = "no bootstrap server is a Kafka broker that these settings fit";
const SSL: &str = "security.protocol=SSL";

#[test]
fn http_server() {
    let address = start_server(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    assert_ends(&address, &[], &[MISFIT, "this is an HTTP server", "check the port"]);
    assert_ends(&address, &[SSL], &[MISFIT, "the broker's response is not TLS"]);
}

#[test]
fn tls_port_that_responds_to_plaintext_with_an_alert() {
    let address = start_server(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 10]);
    });
    assert_ends(&address, &[], &[MISFIT, "TLS alert", "set security.protocol"]);
}

/// A server that closes with unread bytes in its socket resets the connection.
#[test]
fn port_of_another_protocol_that_closes_the_connection() {
    for (bytes_read, end) in [(16_384, "closed"), (4, "reset")] {
        let address = start_server(move |mut stream| {
            // The client's first message has arrived as a whole when this read returns.
            let _ = stream.peek(&mut [0; 64]);
            let _ = stream.read(&mut [0; 16_384][..bytes_read]);
        });
        assert_ends(&address, &[], &[MISFIT, end, "if this is a TLS port, set security.protocol"]);
        let plaintext = "if this is a plaintext port, set security.protocol";
        assert_ends(&address, &[SSL], &[MISFIT, end, plaintext]);
    }
}

#[test]
fn plaintext_port_of_a_broker() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    let plaintext = "if this is a plaintext port, set security.protocol";
    assert_ends(&broker.bootstrap_servers(), &[SSL], &[MISFIT, plaintext]);
}

/// They take the start of the handshake for the length of a request, and wait for the rest.
#[test]
fn plaintext_ports_that_never_respond_to_a_tls_handshake() {
    let start = || {
        start_server(|mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    let addresses = [start(), start(), start()];
    let mut expected = vec![MISFIT, "no response to the TLS handshake", "plaintext port"];
    expected.extend(addresses.iter().map(|address| &**address));
    assert_ends(&addresses.join(","), &[SSL], &expected);
}

/// A listener with SASL serves ApiVersions, and closes the connection at any other request.
#[test]
fn listener_that_requires_sasl() {
    let broker = EmbeddedBroker::builder().topic("t", 1).start().unwrap();
    let _guard = broker.intercept_responses(|call, frame| match call.api {
        ApiKey::API_VERSIONS => ResponseAction::Send(frame),
        _ => ResponseAction::SendAndClose(Vec::new()),
    });
    let expected = [MISFIT, "if it requires SASL, set security.protocol and sasl.mechanism"];
    assert_ends(&broker.bootstrap_servers(), &[], &expected);
}

#[test]
fn certificate_that_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let identity = CertificateAuthority::new("a")
        .issue_local("broker")
        .write_pem(&dir.path().join("broker.pem"));
    let other = dir.path().join("other.pem");
    fs::write(&other, CertificateAuthority::new("b").pem()).unwrap();
    let server = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-naccept", "1000", "-cert"])
        .arg(&identity)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(server) = server else {
        assert!(!is_ci(), "openssl is missing");
        return skip_test("openssl is not installed");
    };
    let mut server = ChildGuard(server);
    let lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let accept =
        lines.map_while(Result::ok).find_map(|l| l.strip_prefix("ACCEPT ").map(str::to_owned));
    let truststore = format!("ssl.truststore.location={}", other.display());
    let expected = ["not signed by a trusted authority", "ssl.truststore.location"];
    assert_ends(&accept.unwrap(), &[SSL, &truststore], &expected);
}

/// A broker that starts may refuse connections, or send no response yet: its records wait.
#[test]
fn servers_that_may_become_brokers_are_waited_for() {
    let [port] = reserve_ports();
    let unused = format!("127.0.0.1:{port}");
    let silent = start_server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    for address in [&*unused, &silent, "name-that-does-not-exist.invalid:9092"] {
        let RunningOttla { mut child, mut stdin, mut stderr } =
            spawn_ottla(&["produce", "-b", address, "-t", "t"]);
        stdin.write_all(b"one\n").unwrap();
        process::read_until(&mut stderr, "not connected after 2 s");
        thread::sleep(Duration::from_secs(3));
        assert_eq!(child.try_wait().unwrap(), None, "{address}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
