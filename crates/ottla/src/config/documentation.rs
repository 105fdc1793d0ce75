//! The text of `docs/CONFIGURATION.md`, generated from the table of settings.
//!
//! `cargo xtask docs` lets the test of this file write the page.

use super::aliases;
use super::setting::Setting;
use super::setting::Support::{Ignored, Supported, Unsupported};
use super::table::SETTINGS;

const INTRODUCTION: &str = "\
# Configuration

This page is generated from the `settings!` table in `crates/ottla/src/config/table.rs`. Do not
edit it by hand: a test fails if page and table differ. To add a setting:

1. Add a row to `settings!`: support, name, type, default, description.
2. If the setting is supported, add a field to the settings of the part that uses it
   (`crates/ottla/src/config/accumulator_settings.rs`, `sender_settings.rs`, `client_settings.rs`
   or `security.rs`) and read the setting in their `new`.
3. Run `cargo xtask docs`. It writes this page.

Names, types, defaults and ranges are Kafka's; only the default of `send.buffer.bytes` differs.
Names of librdkafka work too and are translated. An unknown name is an error that suggests the
nearest known name. Each entry gives the name, the type and the default of a setting, then its
meaning.
";

const PARTITIONER_WARNING: &str = "\
**A producer that replaces one of librdkafka, or of a client that is built on it, must set \
`partitioner=consistent_random`. Otherwise the same key goes to another partition than before, and \
the order of its records is lost.** This client's default is Java's (`murmur2_random`). It warns \
when names of librdkafka are set and `partitioner` is not.";

/// Returns the text of `docs/CONFIGURATION.md`.
fn configuration_markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for (support, title, introduction) in [
        (Supported, "Supported", "The client implements these settings."),
        (
            Unsupported,
            "Unsupported",
            "The client does not implement these settings. It accepts the default. Any other value \
             is an error, because it would change which records are delivered, where to or how \
             safely.",
        ),
        (
            Ignored,
            "Ignored",
            "These settings have no effect on this client. It accepts any value and warns once if \
             the value is not the default.",
        ),
    ] {
        out += &format!("\n## {title}\n\n");
        push_wrapped(&mut out, introduction, "");
        out.push('\n');
        for s in SETTINGS.iter().filter(|s| s.support == support) {
            push_wrapped(&mut out, &format!("- {}", entry(s)), "  ");
        }
    }
    out += "\n## Names of librdkafka\n\n";
    push_wrapped(&mut out, PARTITIONER_WARNING, "");
    out += "\n| name | meaning |\n|---|---|\n";
    for (name, meaning) in aliases::documentation_rows() {
        out += &format!("| `{name}` | {meaning} |\n");
    }
    out
}

fn entry(s: &Setting) -> String {
    let default = match s.default {
        Some("") => "empty".to_owned(),
        Some(default) => format!("`{default}`"),
        None => "none".to_owned(),
    };
    let value_type = s.value_type.describe();
    format!("**`{}`** ({value_type}; default: {default}). {}", s.name, s.documentation)
}

/// Appends `text` with lines of at most 100 columns; lines after the first begin with `indent`.
pub(crate) fn push_wrapped(out: &mut String, text: &str, indent: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if column > 0 && column + 1 + len > 100 {
            out.push('\n');
            out.push_str(indent);
            column = indent.len();
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out.push('\n');
}

#[test]
fn settings_in_docs_are_up_to_date() {
    let page = configuration_markdown();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/CONFIGURATION.md can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/CONFIGURATION.md is stale: run `cargo xtask docs`");
}
