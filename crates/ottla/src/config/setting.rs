//! What a row of the table of settings consists of, and how a row is found by its name.

use super::table::SETTINGS;

/// A setting: a row of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value_type: Type,
    /// The default as Kafka prints it; `None` if there is none.
    pub(crate) default: Option<&'static str>,
    pub(crate) support: Support,
    /// The description for users, in Markdown.
    pub(crate) documentation: &'static str,
}

/// The type and range of a setting's value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    /// A 32-bit integer from the first to the second number.
    Int(i64, i64),
    /// A 64-bit integer of at least this number.
    Long(i64),
    /// Milliseconds, 0 or more, with at most three decimals.
    Millis,
    /// `true` or `false`.
    Bool,
    /// Exactly one of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// Any text; messages and `Debug` output never contain it.
    Password,
    /// Words separated by commas.
    List,
    /// A decimal number from the first to the second number.
    Double(f64, f64),
}

/// Whether the client implements a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// The client implements it.
    Supported,
    /// It has no effect on this client. Any value is accepted, with a warning.
    Ignored,
    /// It would change which records are delivered, where to or how safely, and the client does not
    /// implement it. Any value but the default is an error.
    Unsupported,
}

/// Upper limit of Java's `int`.
pub(super) const INT_MAX: i64 = i32::MAX as i64;

/// Returns the setting with this name.
pub(crate) fn find_setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}

/// Returns the names of all settings.
pub(crate) fn setting_names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|s| s.name)
}

/// Returns the setting or alias whose name has the smallest edit distance to `name`, for a hint in
/// an error. Returns `None` if even that distance is more than 2 plus a quarter of the length.
pub(crate) fn nearest_name(name: &str) -> Option<&'static str> {
    let all = SETTINGS.iter().map(|s| s.name).chain(super::aliases::alias_names());
    let (distance, nearest) = all.map(|n| (edit_distance(name, n), n)).min()?;
    (distance <= 2 + name.len() / 4).then_some(nearest)
}

/// Returns the Levenshtein distance of two texts.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Type {
    /// Returns the type and range as text for errors, without Java's names of types.
    pub(crate) fn describe_for_errors(self) -> String {
        match self {
            Type::Int(min, INT_MAX) | Type::Long(min) if min != i64::MIN => {
                format!("a whole number, {min} or more")
            }
            Type::Int(min, max) => format!("a whole number, {min} to {max}"),
            Type::Long(_) => "a whole number".to_owned(),
            Type::Double(min, max) => format!("a number, {min} to {max}"),
            Type::Millis => "milliseconds, 0 or more, with at most 3 decimals".to_owned(),
            Type::Bool | Type::Choice(_) | Type::Text | Type::Password | Type::List => {
                self.describe()
            }
        }
    }

    /// Returns the type and range as text for the documentation, with Kafka's names of types.
    pub(crate) fn describe(self) -> String {
        match self {
            Type::Int(min, INT_MAX) => format!("int, {min} or more"),
            Type::Int(min, max) => format!("int, {min} to {max}"),
            Type::Long(i64::MIN) => "long".to_owned(),
            Type::Long(min) => format!("long, {min} or more"),
            Type::Millis => "number, 0 or more, at most 3 decimals".to_owned(),
            Type::Bool => "true or false".to_owned(),
            Type::Choice(all) => format!("one of {}", all.join(", ")),
            Type::Text => "text".to_owned(),
            Type::Password => "secret text".to_owned(),
            Type::List => "list".to_owned(),
            Type::Double(min, max) => format!("number, {min} to {max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_close_or_none() {
        assert_eq!(nearest_name("linger.msec"), Some("linger.ms"));
        assert_eq!(nearest_name("bootstrap.server"), Some("bootstrap.servers"));
        assert_eq!(nearest_name("weather.in.prague"), None);
    }
}
