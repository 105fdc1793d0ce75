//! Compares instruction counts with the table in docs/PERFORMANCE.md, and writes that table.
//!
//! `cargo xtask test` fails when a count has grown by more than 3 %. Without this check the append
//! once grew by a quarter unnoticed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::checks::Check;
use super::instructions::{self, Row};
use super::workspace_root;

/// The line above the table. Another compiler, or another processor, counts differently.
const COMPILER_PREFIX: &str = "Counted with ";
const TABLE_HEADER: &str = "| what | instructions |\n|---|---:|\n";
/// How much a count may grow, in percent.
const MAX_GROWTH: f64 = 3.0;
const HOW_TO_WRITE: &str = "`cargo xtask instructions --write` writes the table";

fn document_path() -> PathBuf {
    workspace_root().join("docs/PERFORMANCE.md")
}

fn read_document() -> Result<String, String> {
    let path = document_path();
    std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Returns the compiler's version and target, for example
/// `rustc 1.95.0 for x86_64-unknown-linux-gnu`.
fn installed_compiler() -> Result<String, String> {
    let out = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    match (field("release:"), field("host:")) {
        (Some(release), Some(host)) => Ok(format!("rustc {release} for {host}")),
        _ => Err(format!("rustc -vV prints neither release nor host: {text}")),
    }
}

/// Counts, prints the table, and fails if a count has grown too much.
pub(super) fn print_and_check() -> Result<(), String> {
    let document = read_document()?;
    let counted = instructions::measure()?;
    print!("{}", table(&counted));
    let (listed, installed) = (listed_compiler(&document)?, installed_compiler()?);
    if listed != installed {
        println!("\nNot compared: docs/PERFORMANCE.md was counted with {listed}, not {installed}.");
        return Ok(());
    }
    compare(&listed_rows(&document)?, &counted)
}

/// Counts and compares, unless this machine cannot count what the table says.
pub(super) fn check() -> Result<Check, String> {
    let document = read_document()?;
    let (listed, installed) = (listed_compiler(&document)?, installed_compiler()?);
    if listed != installed {
        return Ok(Check::Skipped(format!(
            "docs/PERFORMANCE.md was counted with {listed}; this is {installed}"
        )));
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Ok(Check::Skipped("valgrind is not installed".to_owned()));
    }
    compare(&listed_rows(&document)?, &instructions::measure()?)?;
    Ok(Check::Passed)
}

/// Counts, and writes the counts into the document.
pub(super) fn write() -> Result<(), String> {
    let document = read_document()?;
    // Counting takes minutes, so the document is checked before.
    find_parts(&document)?;
    let counted = instructions::measure()?;
    let text = with_table(&document, &installed_compiler()?, &counted)?;
    let path = document_path();
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    print!("{}", table(&counted));
    println!("wrote {}", path.display());
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut out = TABLE_HEADER.to_owned();
    for (name, count) in rows {
        let _ = writeln!(out, "| {name} | {} |", with_separators(*count));
    }
    out
}

/// Formats 36883 as `36,883`.
fn with_separators(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Returns where the line of the compiler and the table begin and end.
fn find_parts(document: &str) -> Result<(std::ops::Range<usize>, std::ops::Range<usize>), String> {
    let missing = |what: &str| {
        format!(
            "docs/PERFORMANCE.md has no {what}. It needs a line that begins with \
             \"{COMPILER_PREFIX}rustc\", and after it a table that begins with:\n{TABLE_HEADER}"
        )
    };
    let line = document.find(&format!("\n{COMPILER_PREFIX}rustc")).map(|i| i + 1);
    let line = line.ok_or_else(|| missing("line of the compiler"))?;
    let line_end = line + document[line..].find('\n').unwrap_or(document.len() - line);
    let start = document[line_end..].find(TABLE_HEADER).map(|i| line_end + i);
    let start = start.ok_or_else(|| missing("table of instructions"))?;
    let end = document[start..].find("\n\n").map_or(document.len(), |i| start + i + 1);
    Ok((line..line_end, start..end))
}

fn listed_compiler(document: &str) -> Result<String, String> {
    let line = &document[find_parts(document)?.0];
    Ok(line[COMPILER_PREFIX.len()..].trim_end_matches([':', '.']).to_owned())
}

fn listed_rows(document: &str) -> Result<Vec<Row>, String> {
    let table = &document[find_parts(document)?.1];
    let parse = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (name, count) = (cells.next()?, cells.next()?);
        Some((name.to_owned(), count.replace(',', "").parse().ok()?))
    };
    let row = |line| parse(line).ok_or_else(|| format!("not a row of instructions: {line:?}"));
    table.lines().skip(TABLE_HEADER.lines().count()).map(row).collect()
}

fn with_table(document: &str, compiler: &str, rows: &[Row]) -> Result<String, String> {
    let (line, old) = find_parts(document)?;
    let mut out = document.to_owned();
    out.replace_range(old, &table(rows));
    // The line stands before the table, so its place has not moved.
    out.replace_range(line, &format!("{COMPILER_PREFIX}{compiler}:"));
    Ok(out)
}

/// Fails if a count has grown by more than 3 %, or if the rows differ.
fn compare(listed: &[Row], counted: &[Row]) -> Result<(), String> {
    let names = |rows: &[Row]| rows.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(listed) != names(counted) {
        return Err(format!("the table in docs/PERFORMANCE.md has other rows; {HOW_TO_WRITE}"));
    }
    let mut grown = String::new();
    for ((name, before), (_, now)) in listed.iter().zip(counted) {
        // A count of 0 in the table has no percentage: any other count has grown.
        let change = (*now - *before) as f64 * 100.0 / (*before).max(1) as f64;
        let (before, now) = (with_separators(*before), with_separators(*now));
        if change > MAX_GROWTH {
            let _ = write!(grown, "\n  {name}: {before} to {now} ({change:+.1} %)");
        } else if change < -MAX_GROWTH {
            println!("{name}: {before} to {now} ({change:+.1} %): {HOW_TO_WRITE}");
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "instructions grew by more than {MAX_GROWTH} % since docs/PERFORMANCE.md:{grown}\n\
         Make it cheaper; if the cost has a reason, {HOW_TO_WRITE}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(counts: [i64; 2]) -> Vec<Row> {
        vec![("append".to_owned(), counts[0]), ("— round".to_owned(), counts[1])]
    }

    const DOCUMENT: &str = "# Performance\n\nCounted with rustc 1.2.3 for a-b:\n\n\
        | what | instructions |\n|---|---:|\n| append | 500 |\n| — round | 11,604 |\n\nMore.\n";

    #[test]
    fn count_that_grew_by_more_than_3_percent_fails() {
        let listed = listed_rows(DOCUMENT).unwrap();
        assert_eq!(listed, rows([500, 11_604]));
        assert_eq!(compare(&listed, &rows([515, 9_000])), Ok(()));
        let error = compare(&listed, &rows([516, 11_604])).unwrap_err();
        assert!(error.contains("append: 500 to 516 (+3.2 %)"), "{error}");
        assert!(!error.contains("round"), "{error}");
    }

    #[test]
    fn table_without_a_row_fails() {
        let error = compare(&rows([500, 11_604])[..1], &rows([500, 11_604])).unwrap_err();
        assert!(error.contains("--write"), "{error}");
    }

    #[test]
    fn written_table_is_read_back() {
        assert_eq!(listed_compiler(DOCUMENT).unwrap(), "rustc 1.2.3 for a-b");
        let text = with_table(DOCUMENT, "rustc 1.3.0 for a-b", &rows([1_234_567, 12])).unwrap();
        assert_eq!(listed_compiler(&text).unwrap(), "rustc 1.3.0 for a-b");
        assert_eq!(listed_rows(&text).unwrap(), rows([1_234_567, 12]));
        assert!(text.contains("| append | 1,234,567 |\n| — round | 12 |\n\nMore."), "{text}");
    }
}
