//! An invariant of runs, as code and as text for docs/SIMULATION.md.

use crate::scenario::Scenario;

/// An invariant. `C` is the function that checks it.
pub(crate) struct Invariant<C> {
    pub(crate) statement: &'static str,
    /// The settings under which it applies, as text for docs/SIMULATION.md.
    #[cfg_attr(not(test), allow(dead_code, reason = "only the documentation needs it"))]
    pub(crate) condition: &'static str,
    /// The same as code.
    pub(crate) applies: fn(&Scenario) -> bool,
    pub(crate) check: C,
}

pub(crate) const ALWAYS: fn(&Scenario) -> bool = |_| true;

/// Returns the invariants as a list in docs/SIMULATION.md.
#[cfg(test)]
pub(crate) fn to_markdown<C>(invariants: &[Invariant<C>]) -> String {
    const MAX_COLUMNS: usize = 100;
    let mut out = String::new();
    let mut add = |first: &str, text: &str| {
        let mut line = first.to_owned();
        for word in text.split(' ') {
            if line.len() + 1 + word.len() > MAX_COLUMNS {
                out.push_str(&format!("{line}\n"));
                line = " ".to_owned();
            }
            line.push_str(&format!(" {word}"));
        }
        out.push_str(&format!("{line}\n"));
    };
    for i in invariants {
        add("-", i.statement);
        if i.condition != "always" {
            add(" ", &format!("({})", i.condition));
        }
    }
    out
}
