//! The arrows between modules, as ARCHITECTURE.md draws them: every path expression in `src` is walked, and
//! one that points the wrong way fails with its file.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Modules anyone may use.
const SHARED_MODULES: [&str; 8] =
    ["time", "sync", "collections", "error", "log_limiter", "metrics", "config", "injected_bugs"];

/// Who may use whom, beyond the leaves and itself. `producer::builder` puts all parts together, and with it
/// `producer` may name them; what else of it may is narrowed below.
fn allowed_dependencies(module: &str) -> &'static [&'static str] {
    match module {
        "producer" => &["accumulator", "cluster", "client", "network", "sender"],
        "accumulator" => &["cluster", "producer"],
        "sender" => &["accumulator", "client", "cluster", "network"],
        "client" => &["cluster", "network"],
        "config" => &["accumulator"],
        "sim" => &["accumulator", "producer", "network", "sender"],
        _ => &[],
    }
}

/// Where an arrow is narrower than the whole module.
fn is_path_allowed(file: &str, from: &str, to: &str, path: &str) -> bool {
    match (from, to) {
        // A record as it was measured, and who listens to its end.
        ("accumulator", "producer") => {
            path.starts_with("producer::PreparedRecord")
                || path.starts_with("producer::Interceptors")
        }
        // The types of batches, for doctests of what they forbid.
        ("sim", "accumulator") => {
            path.starts_with("accumulator::batch") || path.starts_with("accumulator::buffer_pool")
        }
        // What a setting means.
        ("config", "accumulator") => path.starts_with("accumulator::builtin_partitioner"),
        ("producer", "network" | "sender") => file.ends_with("builder.rs"),
        ("client" | "sender", "network") => !path.contains("::real"),
        _ => true,
    }
}

struct PathCollector(Vec<String>);

impl<'ast> Visit<'ast> for PathCollector {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let all: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if all.len() > 1 && all[0] == "crate" {
            self.0.push(all[1..].join("::"));
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        flatten_use_tree(&item.tree, String::new(), &mut self.0);
    }
}

fn flatten_use_tree(tree: &syn::UseTree, before: String, out: &mut Vec<String>) {
    let join = |name: &str| {
        if before.is_empty() { name.to_owned() } else { format!("{before}::{name}") }
    };
    match tree {
        syn::UseTree::Path(p) => flatten_use_tree(&p.tree, join(&p.ident.to_string()), out),
        syn::UseTree::Group(g) => {
            g.items.iter().for_each(|t| flatten_use_tree(t, before.clone(), out));
        }
        syn::UseTree::Name(n) => push_crate_path(join(&n.ident.to_string()), out),
        syn::UseTree::Rename(r) => push_crate_path(join(&r.ident.to_string()), out),
        syn::UseTree::Glob(_) => push_crate_path(before, out),
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

#[test]
fn every_path_points_the_way_the_design_draws_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    collect_rust_files(&src, &mut all);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in all {
        let inside = file.strip_prefix(&src).unwrap();
        let name = inside.to_str().unwrap();
        let module =
            inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        // Tests may use any part to try another by.
        let is_test = inside.iter().any(|part| part == "tests" || part == "tests.rs");
        if module == "lib" || is_test {
            continue;
        }
        let mut paths = PathCollector(Vec::new());
        paths.visit_file(&syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap());
        for path in paths.0 {
            seen += 1;
            let to = path.split("::").next().unwrap();
            let fine = to == module
                || SHARED_MODULES.contains(&to)
                || (allowed_dependencies(&module).contains(&to)
                    && is_path_allowed(name, &module, to, &path));
            // Public names re-exported at the crate's root are anybody's.
            let public = to.chars().next().is_some_and(char::is_uppercase);
            if !fine && !public {
                wrong.push(format!("{name}: {module} uses crate::{path}"));
            }
        }
    }
    assert!(seen > 100, "the walk found only {seen} paths");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_source_file_is_longer_than_its_idea() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = Vec::new();
    for part in ["crates", "xtask"] {
        collect_rust_files(&root.join(part), &mut all);
    }
    let long: Vec<String> = (all.into_iter())
        .map(|f| (fs::read_to_string(&f).unwrap().lines().count(), f))
        .filter(|(lines, _)| *lines > 600)
        .map(|(lines, f)| format!("{}: {lines} lines", f.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
