//! Checks the dependencies between the modules of `src`, as ARCHITECTURE.md lists them.
//!
//! The test parses every source file and visits every path. A path from a module to one that it
//! must not use fails the test, with its file. Another test limits the length of source files.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Modules that every module may use.
const SHARED_MODULES: [&str; 11] = [
    "time",
    "env",
    "sync",
    "collections",
    "error",
    "log_limiter",
    "consumer_offsets",
    "metrics",
    "snapshot",
    "config",
    "injected_bugs",
];

/// The modules that a module may use, besides itself and the shared ones.
///
/// No two modules use each other: no import cycle crosses a folder. `producer/builder.rs` creates
/// all parts of a producer, so it alone of `producer/` may use the network and the sender.
fn allowed_dependencies(module: &str) -> &'static [&'static str] {
    match module {
        "delivery" => &["record", "wakeup"],
        "accumulator" => &["record", "wakeup", "delivery", "cluster"],
        "client" => &["cluster", "network"],
        "sender" => {
            &["record", "wakeup", "delivery", "cluster", "accumulator", "client", "network"]
        }
        "producer" => &[
            "record",
            "wakeup",
            "delivery",
            "cluster",
            "accumulator",
            "client",
            "sender",
            "network",
        ],
        "probe" => &["client", "network"],
        "registry_access" => &["network"],
        "exporters" => &["record", "delivery"],
        "sim" => &["producer", "delivery", "record", "accumulator", "sender", "network"],
        _ => &[],
    }
}

/// Returns whether a file may use this path of a module that its own module may use in part.
fn is_path_allowed(file: &str, from: &str, to: &str, path: &str) -> bool {
    match (from, to) {
        ("producer", "network" | "sender") => file.ends_with("builder.rs"),
        // The client and the sender run on a simulated machine, too.
        ("client" | "sender", "network") => !path.contains("::real"),
        _ => true,
    }
}

/// Collects the paths that start with `crate::`, without that prefix.
#[derive(Default)]
struct PathCollector {
    paths: Vec<String>,
}

impl<'ast> Visit<'ast> for PathCollector {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 && segments[0] == "crate" {
            self.paths.push(segments[1..].join("::"));
        }
        syn::visit::visit_path(self, path);
    }

    /// Skips unit tests: they may use every module.
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
        });
        if !is_test {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        flatten_use_tree(&item.tree, String::new(), &mut self.paths);
    }
}

/// Adds each path of a `use` item.
fn flatten_use_tree(tree: &syn::UseTree, prefix: String, out: &mut Vec<String>) {
    let join = |name: &str| {
        if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") }
    };
    match tree {
        syn::UseTree::Path(p) => flatten_use_tree(&p.tree, join(&p.ident.to_string()), out),
        syn::UseTree::Group(g) => {
            g.items.iter().for_each(|t| flatten_use_tree(t, prefix.clone(), out));
        }
        syn::UseTree::Name(n) => push_crate_path(join(&n.ident.to_string()), out),
        syn::UseTree::Rename(r) => push_crate_path(join(&r.ident.to_string()), out),
        syn::UseTree::Glob(_) => push_crate_path(prefix, out),
    }
}

fn push_crate_path(path: String, out: &mut Vec<String>) {
    if let Some(rest) = path.strip_prefix("crate::") {
        out.push(rest.to_owned());
    }
}

fn collect_rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Returns a module's name: the first part of the file's path below `src`.
fn module_of(relative: &Path) -> String {
    let first = relative.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the paths that each file of `src` uses, without tests.
fn paths_by_file() -> Vec<(PathBuf, Vec<String>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_rust_files(&src, &mut files);
    let mut paths_by_file = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap().to_path_buf();
        // Tests may use every module, to test one with the help of another.
        let is_test = relative.iter().any(|part| part == "tests" || part == "tests.rs");
        if module_of(&relative) == "lib" || is_test {
            continue;
        }
        let mut collector = PathCollector::default();
        collector.visit_file(&syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap());
        paths_by_file.push((relative, collector.paths));
    }
    paths_by_file
}

/// Repeatedly removes the modules that use no remaining module. What is left is in a cycle, or uses
/// one that is.
#[test]
fn no_import_cycle_crosses_a_folder() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, paths) in paths_by_file() {
        let module = module_of(&file);
        let targets = paths.iter().map(|path| path.split("::").next().unwrap().to_owned());
        let targets = targets.filter(|to| *to != module && !to.starts_with(char::is_uppercase));
        uses.entry(module.clone()).or_default().extend(targets);
    }
    assert!(uses.len() > 10, "found only {} modules", uses.len());
    loop {
        let remaining: BTreeSet<String> = uses.keys().cloned().collect();
        uses.retain(|_, targets| targets.iter().any(|to| remaining.contains(to)));
        if uses.len() == remaining.len() {
            break;
        }
    }
    assert!(uses.is_empty(), "these modules use each other: {uses:?}");
}

#[test]
fn modules_use_only_the_modules_they_are_allowed_to() {
    let (mut violations, mut path_count) = (Vec::new(), 0);
    for (file, paths) in paths_by_file() {
        let (name, module) = (file.to_str().unwrap(), module_of(&file));
        for path in paths {
            path_count += 1;
            let to = path.split("::").next().unwrap();
            let is_allowed = to == module
                || SHARED_MODULES.contains(&to)
                || (allowed_dependencies(&module).contains(&to)
                    && is_path_allowed(name, &module, to, &path));
            // Every module may use the public types, which `lib.rs` re-exports.
            let is_public_type = to.chars().next().is_some_and(char::is_uppercase);
            if !is_allowed && !is_public_type {
                violations.push(format!("{name}: {module} uses crate::{path}"));
            }
        }
    }
    assert!(path_count > 100, "found only {path_count} paths");
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Checks the tables of "A record's way" in ARCHITECTURE.md: each function is in its file.
#[test]
fn each_step_of_a_records_way_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = page.split_once("## A record's way").unwrap();
    let (walk, _) = rest.split_once("\n## ").unwrap();
    let mut steps = 0;
    for line in walk.lines().filter(|line| line.starts_with('|') && line.contains(".rs`")) {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let (file, function) = (cells[2], cells[3]);
        let source = fs::read_to_string(root.join("crates/ottla/src").join(file))
            .unwrap_or_else(|e| panic!("ARCHITECTURE.md: {file}: {e}"));
        let has_function =
            ["(", "<"].iter().any(|next| source.contains(&format!("fn {function}{next}")));
        assert!(has_function, "ARCHITECTURE.md: {file} has no function {function}");
        steps += 1;
    }
    assert!(steps > 30, "found only {steps} steps");
}

/// The largest number of lines of a source file.
const MAX_FILE_LINES: usize = 600;

#[test]
fn no_source_file_has_more_than_600_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for dir in ["crates", "xtask"] {
        collect_rust_files(&root.join(dir), &mut files);
    }
    let too_long: Vec<String> = (files.into_iter())
        .map(|file| (fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > MAX_FILE_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}
