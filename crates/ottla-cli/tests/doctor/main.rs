//! `ottla doctor` with the embedded broker and with servers that are none: each fault is found by
//! the check that it belongs to, and the checks that depend on it are not made.
#![allow(missing_docs, clippy::disallowed_methods)]

mod connections;
mod kafka;
mod network;
mod topics;
mod walk;

use std::process::Command;

use ottla_broker::EmbeddedBroker;
use serde_json::Value;

/// The output of a run.
struct Diagnosis {
    status: i32,
    stdout: String,
    stderr: String,
}

/// A check in the output of `--json`.
struct Check {
    outcome: String,
    text: String,
    notes: String,
    change: String,
}

fn run_doctor(args: &[&str], locale: &str) -> Diagnosis {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
    command.arg("doctor").args(args).env("LC_ALL", locale);
    let out = command.output().expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
    let status = out.status.code().unwrap_or(-1);
    Diagnosis { status, stdout: text(out.stdout), stderr: text(out.stderr) }
}

impl Diagnosis {
    /// Runs the command with `--json`.
    fn json(args: &[&str]) -> Diagnosis {
        let diagnosis = run_doctor(&[args, &["--json"]].concat(), "C");
        assert_eq!(diagnosis.stdout.lines().count(), 1, "{}", diagnosis.stderr);
        diagnosis
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.stdout).expect("the output is JSON")
    }

    /// Returns the first check whose name begins like this.
    fn check(&self, name: &str) -> Check {
        let value = self.value();
        let checks = value["checks"].as_array().expect("there are checks");
        let found = checks.iter().find(|c| c["name"].as_str().is_some_and(|n| n.starts_with(name)));
        let found = found.unwrap_or_else(|| panic!("no check {name} in {}", self.stdout));
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        let notes = found["notes"].as_array().expect("there are notes").iter();
        Check {
            outcome: text("outcome"),
            text: text("text"),
            notes: notes.filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
            change: text("change"),
        }
    }

    /// Checks that only this check fails, with these words in the text and in what to change.
    fn assert_only_failure(&self, name: &str, text: &str, change: &str) {
        let check = self.check(name);
        assert_eq!((self.status, check.outcome.as_str()), (1, "failed"), "{}", self.stdout);
        assert!(check.text.contains(text), "no {text:?} in {:?}", check.text);
        assert!(check.change.contains(change), "no {change:?} in {:?}", check.change);
        let failed = self.stdout.matches("\"outcome\":\"failed\"").count();
        assert_eq!(failed, 1, "{}", self.stdout);
    }

    fn assert_not_checked(&self, names: &[&str]) {
        for name in names {
            assert_eq!(self.check(name).outcome, "not_checked", "{name}: {}", self.stdout);
        }
    }
}

#[test]
fn healthy_cluster_passes_all_checks() {
    let broker = EmbeddedBroker::builder().node_count(2).topic("orders", 3).start().unwrap();
    let servers = broker.bootstrap_servers();
    let args = ["-b", &servers, "-t", "orders", "-X", "linger.ms=5"];
    let diagnosis = Diagnosis::json(&args);
    assert_eq!(diagnosis.status, 0, "{}{}", diagnosis.stdout, diagnosis.stderr);
    assert_eq!(diagnosis.value()["passed"], true);
    assert_eq!(diagnosis.value()["settings"]["linger.ms"], "5");
    for (name, text) in [
        ("settings", "linger.ms=5"),
        ("resolve 127.0.0.1", "127.0.0.1"),
        ("connect 127.0.0.1", "127.0.0.1:"),
        ("versions 127.0.0.1", "features: transaction.version 2"),
        ("cluster", "2 brokers, controller"),
        ("broker 1 at 127.0.0.1", "round trip"),
        ("broker 2 at 127.0.0.1", "round trip"),
        ("topic orders", "3 partitions, 2 replicas"),
        ("partitions of orders", "all have a leader"),
        ("settings of orders", "max.message.bytes=1048588"),
        ("idempotent producer", "assigns producer ids"),
    ] {
        let check = diagnosis.check(name);
        assert_eq!(check.outcome, "passed", "{name}");
        assert!(check.text.contains(text), "{name}: no {text:?} in {:?}", check.text);
    }
    assert_eq!(
        broker.records("orders").unwrap().len(),
        0,
        "no record is sent without --test-record"
    );
    let with_record = Diagnosis::json(&[&args[..], &["--test-record"]].concat());
    assert_eq!(with_record.check("test record").outcome, "passed", "{}", with_record.stdout);
    assert_eq!(broker.records("orders").unwrap().len(), 1);
}

#[test]
fn output_is_ascii_unless_the_locale_is_utf8() {
    let broker = EmbeddedBroker::start().unwrap();
    let servers = format!("{},127.0.0.1:1", broker.bootstrap_servers());
    let ascii = run_doctor(&["-b", &servers], "C");
    assert!(ascii.stdout.is_ascii(), "{}", ascii.stdout);
    assert!(ascii.stdout.contains("ok     cluster"), "{}", ascii.stdout);
    assert!(ascii.stdout.contains("FAILED connect 127.0.0.1:1 "), "{}", ascii.stdout);
    assert!(ascii.stdout.contains("-      versions 127.0.0.1:1 "), "{}", ascii.stdout);
    assert!(ascii.stdout.contains("    change: check that a broker runs there"));
    assert!(ascii.stdout.ends_with("1 check failed, 2 not checked\n"), "{}", ascii.stdout);
    let utf8 = run_doctor(&["-b", &servers], "C.UTF-8");
    assert!(utf8.stdout.contains("✓ cluster") && utf8.stdout.contains("✗ connect 127.0.0.1:1 "));
    assert!(!utf8.stdout.contains('\u{1b}'), "no colours without a terminal");
}

#[test]
fn all_wrong_settings_are_named_at_once() {
    let broker = EmbeddedBroker::start().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let content = "lingr.ms=5\nacks=2\ngroup.id=g\nbatch.size=100\n";
    std::fs::write(file.path(), content).unwrap();
    let path = file.path().display().to_string();
    let diagnosis = Diagnosis::json(&["-b", &broker.bootstrap_servers(), "-F", &path]);
    let check = diagnosis.check("settings");
    assert_eq!((diagnosis.status, check.outcome.as_str()), (1, "failed"));
    assert!(check.text.starts_with("2 faults: "), "{}", check.text);
    for text in ["unknown setting lingr.ms", "did you mean linger.ms?", "acks=2", &path] {
        assert!(check.text.contains(text), "no {text:?} in {:?}", check.text);
    }
    assert!(check.notes.contains("group.id"), "{}", check.notes);
    // The others are enough to go on.
    assert_eq!(diagnosis.check("cluster").outcome, "passed");
    assert_eq!(diagnosis.value()["settings"]["batch.size"], "100");
}

#[test]
fn settings_are_those_that_produce_accepts() {
    let broker = EmbeddedBroker::start().unwrap();
    // kcat marks topic settings with a prefix. A value may refer to a provider behind it.
    let settings = [
        "-X",
        "topic.acks=1",
        "-X",
        "client.id=${env:LC_ALL}",
        "-X",
        "config.providers=env",
        "-X",
        "config.providers.env.class=org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    ];
    let diagnosis =
        Diagnosis::json(&[&["-b", &broker.bootstrap_servers()][..], &settings].concat());
    assert_eq!(diagnosis.check("settings").outcome, "passed", "{}", diagnosis.stdout);
    assert_eq!(diagnosis.value()["settings"]["acks"], "1");
    assert_eq!(diagnosis.value()["settings"]["client.id"], "[hidden]", "it may be a secret");
}

#[test]
fn settings_that_contradict_each_other_end_the_checks() {
    let contradiction = ["-X", "acks=1", "-X", "enable.idempotence=true"];
    let diagnosis = Diagnosis::json(&[&["-b", "127.0.0.1:1"][..], &contradiction].concat());
    diagnosis.assert_only_failure("settings", "enable.idempotence=true conflicts with acks=1", "");
    diagnosis.assert_not_checked(&["bootstrap servers", "cluster", "authorization"]);
}

#[test]
fn missing_broker_and_wrong_topic_name_are_usage_errors() {
    for (args, text) in [
        (&["-t", "orders"][..], "no broker is given"),
        (&["-b", "127.0.0.1:1", "-t", "a b"], "topic name"),
        (&["-b", "127.0.0.1:1", "-F", "/no/such/file"], "cannot read /no/such/file"),
        (&["-b", "127.0.0.1:1", "-X", "linger"], "is not key=value"),
    ] {
        let diagnosis = run_doctor(args, "C");
        assert_eq!(diagnosis.status, 2, "{args:?}: {}", diagnosis.stderr);
        assert!(diagnosis.stderr.contains(text), "{args:?}: {}", diagnosis.stderr);
        assert_eq!(diagnosis.stdout, "", "{args:?}");
    }
}

#[test]
fn secrets_are_never_printed() {
    const SECRET: &str = "correct-horse-battery";
    let broker = EmbeddedBroker::start().unwrap();
    let jaas = format!("a.PlainLoginModule required username=\"u\" password=\"{SECRET}\";");
    let settings = [
        "security.protocol=SASL_PLAINTEXT",
        "sasl.mechanism=PLAIN",
        &format!("sasl.jaas.config={jaas}"),
        &format!("ssl.keystore.password={SECRET}"),
    ]
    .map(|setting| ["-X".to_owned(), setting.to_owned()])
    .concat();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let servers = broker.bootstrap_servers();
    let args = [&["-b", servers.as_str()][..], &settings].concat();
    for extra in ["--json", "--verbose"] {
        let diagnosis = run_doctor(&[&args[..], &[extra]].concat(), "C");
        let all = diagnosis.stdout + &diagnosis.stderr;
        assert!(!all.contains(SECRET), "{all}");
        assert!(all.contains("sasl.jaas.config=[hidden]"), "{all}");
    }
}
