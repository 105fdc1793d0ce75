//! Keeps the list of the library's public items, which a change of the public API has to change.
//!
//! rustdoc's JSON output has the items, also those that macros generate. The output is unstable:
//! a new rustc may change its format, which the crate `public-api` then cannot read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::checks::Check;
use super::{cargo_command, workspace_root};

const LIST: &str = "crates/ottla/public-api.txt";
/// The features that docs.rs documents: without C code and without `unstable-sim`.
const FEATURES: &str = "bytes,prometheus,metrics,opentelemetry,tls-graviola,oidc";
/// The start of the list's first line, before the format of the JSON that the list came from.
const HEADER: &str = "# Written by `cargo xtask public-api` from rustdoc JSON of format ";
/// Set for the process that cargo runs as rustdoc.
const AS_RUSTDOC: &str = "OTTLA_XTASK_AS_RUSTDOC";

/// Compares the public items with the checked-in list. Skips that if the toolchain writes JSON of
/// another format than the list's.
pub(super) fn check() -> Result<Check, String> {
    let path = workspace_root().join(LIST);
    let list = std::fs::read_to_string(&path)
        .map_err(|e| format!("{LIST}: {e}; `cargo xtask public-api` writes it"))?;
    let expected = listed_format(&list)?;
    let json = document()?;
    let format = json_format(&json)?;
    if format != expected {
        return Ok(Check::Skipped(format!(
            "this toolchain writes rustdoc JSON of format {format}; {LIST} came from format \
             {expected}"
        )));
    }
    match difference(&list, &public_items(&json)?) {
        None => Ok(Check::Passed),
        Some(lines) => Err(format!(
            "the public items differ from {LIST} (- only in the list, + only in the code):\n\
             {lines}\nif the change is intended, run `cargo xtask public-api` and commit the list"
        )),
    }
}

/// Writes the list and returns the number of its items.
pub(super) fn write() -> Result<usize, String> {
    let json = document()?;
    let items = public_items(&json)?;
    let text = format!("{HEADER}{}\n{}\n", json_format(&json)?, items.join("\n"));
    std::fs::write(workspace_root().join(LIST), text).map_err(|e| format!("{LIST}: {e}"))?;
    Ok(items.len())
}

/// Runs rustdoc with its unstable options enabled, if cargo started this process as rustdoc.
///
/// With `RUSTC_BOOTSTRAP` set for cargo itself, build scripts would see it too, and half of the
/// dependencies would be built again.
pub(super) fn run_as_rustdoc() -> Option<ExitCode> {
    let rustdoc = std::env::var_os(AS_RUSTDOC)?;
    let status = Command::new(rustdoc)
        .args(std::env::args_os().skip(1))
        .env_remove(AS_RUSTDOC)
        .env("RUSTC_BOOTSTRAP", "1")
        .status();
    Some(match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("xtask: rustdoc: {e}");
            ExitCode::FAILURE
        }
    })
}

/// Documents the library as JSON and returns the file.
fn document() -> Result<PathBuf, String> {
    let rustdoc = std::env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into());
    let this_program = std::env::current_exe().map_err(|e| format!("xtask's own path: {e}"))?;
    let mut command =
        cargo_command(&["rustdoc", "-q", "-p", "ottla", "--lib", "--features", FEATURES]);
    command
        .args(["--target-dir", "target", "--"])
        .args(["-Zunstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .env("RUSTDOC", this_program)
        .env(AS_RUSTDOC, rustdoc);
    let status = command.status().map_err(|e| format!("cargo rustdoc: {e}"))?;
    if !status.success() {
        return Err(format!("rustdoc wrote no JSON: {command:?}"));
    }
    Ok(workspace_root().join("target/doc/ottla.json"))
}

/// Returns the format of a JSON file of rustdoc.
fn json_format(json: &Path) -> Result<u64, String> {
    let text = std::fs::read(json).map_err(|e| format!("{}: {e}", json.display()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", json.display()))?;
    value["format_version"]
        .as_u64()
        .ok_or_else(|| format!("{}: no format_version in rustdoc's JSON", json.display()))
}

/// Returns the format of the JSON that the list came from.
fn listed_format(list: &str) -> Result<u64, String> {
    let header = list.lines().next().unwrap_or_default();
    header.strip_prefix(HEADER).and_then(|n| n.parse().ok()).ok_or_else(|| {
        format!("{LIST}: no format in line 1 ({header:?}); `cargo xtask public-api` writes it")
    })
}

/// Returns the public items, sorted by path.
fn public_items(json: &Path) -> Result<Vec<String>, String> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .sorted(true)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()
        .map_err(|e| {
            format!(
                "{}: {e}; the crate public-api in xtask/Cargo.toml has to match this toolchain",
                json.display()
            )
        })?;
    let mut items: Vec<String> = api.items().map(ToString::to_string).collect();
    // An `impl From<A> for B` is listed under both types.
    let mut seen = BTreeSet::new();
    items.retain(|item| seen.insert(item.clone()));
    Ok(items)
}

/// Returns the items that only the list or only the code has, or `None`.
fn difference(list: &str, items: &[String]) -> Option<String> {
    let listed: BTreeSet<&str> = list.lines().skip(1).collect();
    let found: BTreeSet<&str> = items.iter().map(String::as_str).collect();
    let removed = listed.difference(&found).map(|item| format!("- {item}"));
    let added = found.difference(&listed).map(|item| format!("+ {item}"));
    let lines: Vec<String> = removed.chain(added).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn difference_lists_removed_and_added_items() {
        let list = format!("{HEADER}57\npub fn a()\npub fn b()\n");
        assert_eq!(difference(&list, &items(&["pub fn a()", "pub fn b()"])), None);
        let lines = difference(&list, &items(&["pub fn b()", "pub fn c()"]));
        assert_eq!(lines.as_deref(), Some("- pub fn a()\n+ pub fn c()"));
    }

    #[test]
    fn list_without_a_format_is_refused() {
        assert_eq!(listed_format(&format!("{HEADER}57\npub fn a()\n")), Ok(57));
        let error = listed_format("pub fn a()\n").unwrap_err();
        assert!(error.contains("cargo xtask public-api"), "{error}");
    }
}
