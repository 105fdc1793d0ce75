//! Runs each command of docs/RECIPES.md and compares what it prints.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::Path;
use std::process::{Command, Stdio};

use ottla_broker::EmbeddedBroker;
use ottla_testkit::{FakeSchemaRegistry, skip_test};

/// A command of the page and the lines that it is said to print.
#[derive(Debug, Default)]
struct Example {
    command: String,
    expected: Vec<String>,
}

/// Returns the commands in the blocks of type `console`. A line that ends in `\` continues, and so
/// does one after which a line begins with `> `.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut is_console, mut continues) = (false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
            continue;
        }
        if !is_console {
            continue;
        }
        let rest = line.strip_prefix("> ").filter(|_| !examples.is_empty());
        if let Some(command) = line.strip_prefix("$ ") {
            examples.push(Example { command: command.to_owned(), expected: Vec::new() });
        } else if let Some(rest) = rest.or(continues.then_some(line)) {
            let last = examples.last_mut().unwrap();
            last.command += &format!("\n{rest}");
        } else {
            examples.last_mut().unwrap().expected.push(line.to_owned());
        }
        continues = line.ends_with('\\');
    }
    examples
}

/// Returns whether a text is the pattern, in which `…` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut tail) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return tail.is_empty() };
    for part in middle {
        let Some(found) = tail.find(part) else { return false };
        tail = &tail[found + part.len()..];
    }
    tail.ends_with(last)
}

/// Runs a command with the shell, and returns standard error, then standard output.
fn run(command: &str, dir: &Path) -> String {
    let program = Path::new(assert_cmd::cargo::cargo_bin!("ottla"));
    let path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let out = Command::new("timeout")
        .args(["-s", "KILL", "60", "sh", "-c", command])
        .current_dir(dir)
        .env("PATH", path.unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("-h").output().is_ok()
}

#[test]
fn recipes_do_what_the_page_says() {
    let broker = EmbeddedBroker::builder().topic("orders", 3).topic("customers", 1);
    let broker = broker.start().unwrap();
    let registry = FakeSchemaRegistry::start(None);
    let dir = tempfile::tempdir().unwrap();
    let page = include_str!("../../../docs/RECIPES.md");
    assert_eq!(page.matches("\n### ").count(), 20);
    for example in examples(page) {
        let mut command = example.command.replace("localhost:9092", &broker.bootstrap_servers());
        if command.contains("http://localhost:8081") {
            let Some(registry) = &registry else {
                skip_test("the recipe with a schema needs Go for a registry");
                continue;
            };
            command = command.replace("http://localhost:8081", &registry.url);
        }
        if command.starts_with("kcat") && !is_installed("kcat") {
            skip_test("the recipe with kcat needs kcat (apt-get install kcat)");
            continue;
        }
        let printed = run(&command, dir.path());
        let expected = example.expected.join("\n");
        assert!(
            matches(&expected, printed.trim_end()),
            "{}\nprinted:\n{printed}\nthe page says:\n{expected}",
            example.command
        );
    }
}

#[test]
fn ellipsis_stands_for_any_text() {
    assert!(matches("3 records, … failed", "3 records, 12 bytes; 0 failed"));
    assert!(matches("a\n…\nb", "a\nx\ny\nb") && matches("", ""));
    assert!(!matches("3 records, … failed", "3 records, 12 bytes; 0 failed\nmore"));
    assert!(!matches("a…b…c", "acb") && !matches("a", "ab") && !matches("", "x"));
}
