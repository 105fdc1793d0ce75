//! Writes docs/DOCTOR.md: ten causes why a cluster takes no records, each with the output of a run.

use std::fmt::Write as _;

use ottla_broker::{EmbeddedBroker, InterceptorGuard, NewTopic, ResponseAction};
use ottla_protocol::ApiKey;
use ottla_protocol::messages::MetadataRequest;
use ottla_testkit::CertificateAuthority;

use super::network::{start_fake_server, start_tls_server};
use super::run_doctor;
use super::topics::edit;

const INTRODUCTION: &str = "\
# Why a cluster does not take my records

`ottla doctor` checks one thing after the other, in the order in which a producer depends on them:
settings, name, connection, TLS, login, versions, cluster, brokers, topic, rights, clock, quotas.
The first line with a ✗ is the cause, unless it is `settings`: a misspelt setting has no effect, and
the checks go on with the others. Below the line stands what to change; what depends on it is not
checked. Nothing is changed and no record is sent, unless you add `--test-record`.

```console
$ ottla doctor -b kafka.example.org:9093 -F client.properties --topic orders
```

`--json` prints the same for programs, with all effective settings. The exit status is 0 if no check
failed and 1 if one failed. With a locale other than UTF-8 the marks are `ok`, `FAILED` and `-`.
[ERRORS.md](ERRORS.md) explains each error code.

A test writes the screens below: each is the output of a run against a broker or a server with this
fault. Long lines are wrapped, and ports are replaced by 19092.
";

/// A cause, with what has to live while the doctor runs.
struct Cause {
    title: &'static str,
    explanation: &'static str,
    broker: Option<EmbeddedBroker>,
    guard: Option<InterceptorGuard>,
    servers: String,
    settings: Vec<String>,
    topic: Option<&'static str>,
    /// The start of the line that has to fail.
    failed: &'static str,
}

impl Cause {
    fn new(title: &'static str, explanation: &'static str, failed: &'static str) -> Cause {
        Cause {
            title,
            explanation,
            broker: None,
            guard: None,
            servers: String::new(),
            settings: Vec::new(),
            topic: None,
            failed,
        }
    }

    fn servers(mut self, servers: impl Into<String>) -> Cause {
        self.servers = servers.into();
        self
    }

    fn broker(mut self, broker: EmbeddedBroker) -> Cause {
        self.servers = broker.bootstrap_servers();
        self.broker = Some(broker);
        self
    }

    fn guard(mut self, install: impl FnOnce(&EmbeddedBroker) -> InterceptorGuard) -> Cause {
        self.guard = self.broker.as_ref().map(install);
        self
    }

    fn set(mut self, setting: impl Into<String>) -> Cause {
        self.settings.push(setting.into());
        self
    }

    fn topic(mut self, topic: &'static str) -> Cause {
        self.topic = Some(topic);
        self
    }

    /// Runs the doctor and returns the section of the page.
    fn section(&self, number: usize) -> String {
        let mut args = vec!["-b", &self.servers];
        args.extend(self.settings.iter().flat_map(|setting| ["-X", setting]));
        args.extend(self.topic.iter().flat_map(|topic| ["-t", topic]));
        let diagnosis = run_doctor(&args, "C.UTF-8");
        let failed = format!("✗ {}", self.failed);
        let first = diagnosis.stdout.lines().find(|line| line.starts_with('✗'));
        assert!(
            first.is_some_and(|line| line.starts_with(&failed)),
            "{}: {}",
            self.title,
            diagnosis.stdout
        );
        let output: String = diagnosis.stdout.lines().map(wrapped).collect();
        let output = with_one_port(&output);
        let mut section = format!("\n## {number}. {}\n\n", self.title);
        let _ = write!(section, "{}\n\n```text\n{output}```\n", self.explanation);
        section
    }
}

/// Returns a line in lines of at most 98 columns, each with its end.
fn wrapped(line: &str) -> String {
    const COLUMNS: usize = 98;
    let (mut out, mut column) = (String::new(), 0);
    for (i, word) in line.split(' ').enumerate() {
        let len = word.chars().count();
        if column > 0 && column + 1 + len > COLUMNS {
            out += "\n      ";
            column = 6;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += len;
    }
    out + "\n"
}

/// Replaces the port of each address by 19092, except port 1.
fn with_one_port(text: &str) -> String {
    const ADDRESS: &str = "127.0.0.1:";
    let mut parts = text.split(ADDRESS);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let port = &part[..part.len() - rest.len()];
        out += ADDRESS;
        out += if port.len() > 1 { "19092" } else { port };
        out += rest;
    }
    out
}

/// Returns the text without what differs in each run: times, ids and the spaces beside them.
fn without_measurements(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| {
        let is_number = word.chars().all(|c| c.is_ascii_digit() || c == '.');
        !is_number && word.len() != "5blzibTcREOpAKa95ToXJA,".len()
    });
    words.collect::<Vec<_>>().join(" ")
}

fn causes_of_connections(trust: &str) -> Vec<Cause> {
    let authority = CertificateAuthority::new("Another authority");
    let behind_tls = EmbeddedBroker::start().unwrap();
    let identity = authority.issue_local("broker");
    let tls_server = start_tls_server(&identity, &behind_tls.bootstrap_servers());
    vec![
        Cause::new(
            "A setting is misspelt",
            "All wrong settings are named at once, and the others are used for the rest.",
            "settings",
        )
        .broker(EmbeddedBroker::start().unwrap())
        .set("lingr.ms=5"),
        Cause::new(
            "The name of the broker does not resolve",
            "Here it has a dot too many. A name from a network with other name servers looks the \
             same.",
            "resolve",
        )
        // An empty label: the resolver refuses it without a query to a slow name server.
        .servers("kafka..example.org:9092"),
        Cause::new(
            "No broker listens there",
            "The broker is down, or the port is another one.",
            "connect",
        )
        .servers("127.0.0.1:1"),
        Cause::new(
            "The port speaks TLS, and the settings do not",
            "`security.protocol` is `PLAINTEXT` unless it is set.",
            "versions",
        )
        .servers(start_fake_server(b"\x15\x03\x03\x00\x02\x02\x28")),
        Cause::new(
            "The certificate of the broker is not trusted here",
            "A company's own authority is in no system's store.",
            "TLS",
        )
        .broker(behind_tls)
        .servers(tls_server)
        .set("security.protocol=SSL")
        .set(trust),
        Cause::new(
            "The broker wants a login",
            "A listener with SASL reports its versions to everyone and closes the connection at \
             the next\nrequest.",
            "cluster",
        )
        .broker(EmbeddedBroker::start().unwrap())
        .guard(|broker| {
            broker.intercept_responses(|response, frame| match response.api {
                ApiKey::METADATA => ResponseAction::SendAndClose(Vec::new()),
                _ => ResponseAction::Send(frame),
            })
        }),
    ]
}

fn causes_of_topics() -> Vec<Cause> {
    let replicated =
        NewTopic::new("orders", 2).replication_factor(2).config("min.insync.replicas", "2");
    let two_nodes = EmbeddedBroker::builder().node_count(2).new_topic(replicated).start().unwrap();
    let servers = two_nodes.bootstrap_servers();
    let first = servers.split(',').next().unwrap_or_default().to_owned();
    two_nodes.stop_node(2);
    vec![
        Cause::new(
            "The broker advertises an address that is not reachable from here",
            "The bootstrap server responds, but a producer then connects to the addresses in the \
             metadata.",
            "broker 1",
        )
        .broker(EmbeddedBroker::builder().advertised_listener("127.0.0.1", 1).start().unwrap()),
        Cause::new(
            "The topic does not exist",
            "Or the principal may not see it: some brokers do not tell the difference.",
            "topic",
        )
        .broker(
            EmbeddedBroker::builder().topic("orders", 1).auto_create_topics(false).start().unwrap(),
        )
        .topic("order"),
        Cause::new(
            "Too few replicas are in sync",
            "With `acks=all` the broker refuses every record, and the producer retries until\n\
             `delivery.timeout.ms` ends.",
            "partitions of orders",
        )
        .broker(two_nodes)
        .servers(first)
        .topic("orders"),
        Cause::new(
            "The principal may not write to the topic",
            "The login works, and an ACL is missing.",
            "right to write to orders",
        )
        .broker(EmbeddedBroker::builder().topic("orders", 1).start().unwrap())
        .guard(|broker| {
            edit::<MetadataRequest>(broker, |r| {
                const DESCRIBE: i32 = 1 << 8;
                r.topics.iter_mut().for_each(|t| t.topic_authorized_operations = DESCRIBE);
            })
        })
        .topic("orders"),
    ]
}

/// Compares docs/DOCTOR.md with real runs. `OTTLA_WRITE_DOCS=1` writes the page.
#[test]
fn ten_causes_in_docs_are_up_to_date() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CertificateAuthority::new("Our authority").pem()).unwrap();
    let trust = format!("ssl.truststore.location={}", file.path().display());
    let mut page = INTRODUCTION.to_owned();
    let causes = causes_of_connections(&trust).into_iter().chain(causes_of_topics());
    for (i, cause) in causes.enumerate() {
        page += &cause.section(i + 1);
    }
    let page = page.replace(&file.path().display().to_string(), "ca.pem");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/DOCTOR.md");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/DOCTOR.md can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let (written, expected) = (without_measurements(&written), without_measurements(&page));
    assert!(written == expected, "docs/DOCTOR.md is out of date: run `cargo xtask docs`\n{page}");
}
