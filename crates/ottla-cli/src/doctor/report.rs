//! The checks that have run: prints each one as it ends, and all of them as JSON.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ottla::tools::ProbeError;
use serde_json::json;

use crate::console::{OutputStyle, print_line};

/// The width of the column of names.
const NAME_COLUMNS: usize = 34;

/// A check that has passed.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// What was found, on the line of the check.
    pub(super) text: String,
    /// What deserves attention but stops no record, one a line.
    pub(super) notes: Vec<String>,
}

/// A check that has failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) text: String,
    /// What to change; empty if the text says it.
    pub(super) change: String,
    pub(super) notes: Vec<String>,
}

pub(super) type CheckResult = Result<Passed, Failed>;

impl Passed {
    pub(super) fn new(text: impl Into<String>) -> Passed {
        Passed { text: text.into(), notes: Vec::new() }
    }
}

impl Failed {
    pub(super) fn new(text: impl Into<String>, change: impl Into<String>) -> Failed {
        Failed { text: text.into(), change: change.into(), notes: Vec::new() }
    }

    /// Splits an error about the settings: its last part says what to do. An error that may contain
    /// texts of a broker must not be split.
    pub(super) fn from_error(text: impl Into<String>) -> Failed {
        let text = text.into();
        match text.split_once("; ") {
            Some((reason, change)) => Failed::new(reason, change),
            None => Failed::new(text, ""),
        }
    }

    /// Returns what failed and what to change, on one line.
    pub(super) fn into_text(self) -> String {
        match self.change.as_str() {
            "" => self.text,
            change => format!("{}; {change}", self.text),
        }
    }

    /// Sets what to change, unless the error says it.
    pub(super) fn or_change(mut self, change: &str) -> Failed {
        if self.change.is_empty() {
            change.clone_into(&mut self.change);
        }
        self
    }
}

impl From<ProbeError> for Failed {
    fn from(e: ProbeError) -> Failed {
        Failed::new(e.reason, e.advice)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    NotChecked,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::NotChecked => "not_checked",
        }
    }
}

/// A check that has ended.
#[derive(Debug)]
struct Check {
    name: String,
    outcome: Outcome,
    elapsed: Duration,
    text: String,
    notes: Vec<String>,
    change: String,
}

impl OutputStyle {
    fn mark(self, outcome: Outcome) -> String {
        let (mark, colour) = match (outcome, self.unicode) {
            (Outcome::Passed, true) => ("✓", "32"),
            (Outcome::Passed, false) => ("ok    ", "32"),
            (Outcome::Failed, true) => ("✗", "31"),
            (Outcome::Failed, false) => ("FAILED", "31"),
            (Outcome::NotChecked, true) => ("–", "2"),
            (Outcome::NotChecked, false) => ("-     ", "2"),
        };
        if self.colours { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() }
    }

    /// Returns the text of a check. Texts of others may contain control characters.
    fn lines(self, check: &Check) -> String {
        let clean = |text: &str| -> String {
            text.chars()
                .map(|c| match c {
                    c if c.is_control() => ' ',
                    c if !self.unicode && !c.is_ascii() => '?',
                    c => c,
                })
                .collect()
        };
        let time = match check.outcome {
            Outcome::NotChecked => String::new(),
            _ => format!("{} ms", check.elapsed.as_millis()),
        };
        let (mark, name) = (self.mark(check.outcome), clean(&check.name));
        let mut out = format!("{mark} {name:<NAME_COLUMNS$} {time:>8}  {}", clean(&check.text));
        out.truncate(out.trim_end().len());
        for note in &check.notes {
            out += &format!("\n    note: {}", clean(note));
        }
        if !check.change.is_empty() {
            out += &format!("\n    change: {}", clean(&check.change));
        }
        out
    }
}

/// The checks in their order.
#[derive(Debug)]
pub(super) struct Report {
    checks: Vec<Check>,
    style: OutputStyle,
    json: bool,
    output: io::Result<()>,
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report {
            checks: Vec::new(),
            style: OutputStyle::new(io::stdout().is_terminal()),
            json,
            output: Ok(()),
        }
    }

    /// Runs a check. Returns what it has found for the checks that depend on it.
    pub(super) fn check<T>(
        &mut self,
        name: impl Into<String>,
        run: impl FnOnce() -> Result<(T, Passed), Failed>,
    ) -> Option<T> {
        self.check_since(Instant::now(), name, run)
    }

    /// Runs a check that has begun before.
    pub(super) fn check_since<T>(
        &mut self,
        start: Instant,
        name: impl Into<String>,
        run: impl FnOnce() -> Result<(T, Passed), Failed>,
    ) -> Option<T> {
        let result = run();
        let elapsed = start.elapsed();
        let (outcome, text, notes, change, found) = match result {
            Ok((found, p)) => (Outcome::Passed, p.text, p.notes, String::new(), Some(found)),
            Err(f) => (Outcome::Failed, f.text, f.notes, f.change, None),
        };
        self.add(Check { name: name.into(), outcome, elapsed, text, notes, change });
        found
    }

    /// Runs a check on which no other depends.
    pub(super) fn check_last(
        &mut self,
        name: impl Into<String>,
        run: impl FnOnce() -> CheckResult,
    ) {
        self.check(name, || run().map(|passed| ((), passed)));
    }

    /// Adds a check that cannot run.
    pub(super) fn not_checked(&mut self, name: impl Into<String>, reason: &str) {
        self.add(Check {
            name: name.into(),
            outcome: Outcome::NotChecked,
            elapsed: Duration::ZERO,
            text: format!("not checked: {reason}"),
            notes: Vec::new(),
            change: String::new(),
        });
    }

    fn add(&mut self, check: Check) {
        if !self.json && self.output.is_ok() {
            self.output = print_line!("{}", self.style.lines(&check));
        }
        self.checks.push(check);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.checks.iter().any(|c| c.outcome == Outcome::Failed)
    }

    /// Prints the end: a summary, or with `--json` everything. Returns whether it was written.
    pub(super) fn finish(mut self, settings: &[(String, String)]) -> (bool, io::Result<()>) {
        let count = |outcome| self.checks.iter().filter(|c| c.outcome == outcome).count();
        let (failed, skipped) = (count(Outcome::Failed), count(Outcome::NotChecked));
        if self.json {
            let checks: Vec<_> = self.checks.iter().map(to_json).collect();
            let settings: serde_json::Map<_, _> =
                settings.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let all = json!({
                "passed": failed == 0,
                "checks": checks,
                "settings": settings,
            });
            self.output = print_line!("{all}");
        } else if self.output.is_ok() {
            let mut summary = match failed {
                0 => format!("no fault found in {} checks", count(Outcome::Passed)),
                1 => "1 check failed".to_owned(),
                n => format!("{n} checks failed"),
            };
            if skipped > 0 {
                summary += &format!(", {skipped} not checked");
            }
            self.output = print_line!("{summary}");
        }
        (failed == 0, self.output)
    }
}

fn to_json(check: &Check) -> serde_json::Value {
    json!({
        "name": check.name,
        "outcome": check.outcome.name(),
        "ms": check.elapsed.as_secs_f64() * 1e3,
        "text": check.text,
        "notes": check.notes,
        "change": check.change,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome) -> Check {
        Check {
            name: "connect".into(),
            outcome,
            elapsed: Duration::from_millis(7),
            text: "refused \u{1b}[2J– gone".into(),
            notes: vec!["a note".into()],
            change: "start it".into(),
        }
    }

    #[test]
    fn without_utf8_and_colours_all_output_is_printable_ascii() {
        let style = OutputStyle { unicode: false, colours: false };
        for outcome in [Outcome::Passed, Outcome::Failed, Outcome::NotChecked] {
            let lines = style.lines(&check(outcome));
            let is_printable = |c: char| c == '\n' || c == ' ' || c.is_ascii_graphic();
            assert!(lines.chars().all(is_printable), "{lines:?}");
            assert!(lines.ends_with("\n    note: a note\n    change: start it"), "{lines:?}");
        }
        let utf8 = OutputStyle { unicode: true, colours: true };
        assert!(utf8.lines(&check(Outcome::Failed)).starts_with("\u{1b}[31m✗\u{1b}[0m connect"));
    }

    #[test]
    fn error_is_split_into_reason_and_change() {
        let failed = Failed::from_error("refused; start it; or not").or_change("unused");
        assert_eq!((failed.text.as_str(), failed.change.as_str()), ("refused", "start it; or not"));
        assert_eq!(Failed::from_error("refused").or_change("start it").change, "start it");
    }
}
