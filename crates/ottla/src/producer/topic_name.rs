//! Kafka's rule for topic names.

use crate::error::{Error, ErrorKind};

/// The longest topic name, in characters.
const MAX_TOPIC_NAME_LEN: usize = 249;

/// Checks a topic's name by Kafka's rule.
///
/// A name has 1 to 249 characters: `a` to `z`, `A` to `Z`, `0` to `9`, `.`, `_` and `-`. The names
/// `.` and `..` are not allowed.
///
/// # Errors
/// [`ErrorKind::InvalidTopic`]; the message says which part of the rule the name breaks.
pub fn validate_topic_name(name: &str) -> Result<(), Error> {
    let invalid = |reason: &str| {
        // The start of a name shows what it is. All of it may be megabytes.
        let start: String = name.chars().take(MAX_TOPIC_NAME_LEN).collect();
        let rest = if start.len() < name.len() { "…" } else { "" };
        let message = format!("the topic name {start:?}{rest} {reason}");
        Err(Error::new(ErrorKind::InvalidTopic, message))
    };
    if name.is_empty() {
        return invalid("is empty");
    }
    if name.len() > MAX_TOPIC_NAME_LEN {
        return invalid("is longer than 249 characters");
    }
    if name == "." || name == ".." {
        return invalid("is not allowed");
    }
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(c) = name.chars().find(|c| !is_legal(*c)) {
        return invalid(&format!(
            "contains {c:?}; only a-z, A-Z, 0-9, '.', '_' and '-' are allowed"
        ));
    }
    Ok(())
}
