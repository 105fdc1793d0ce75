//! The place of a value inside another, for messages: `items[2].price`.

#[cfg(any(feature = "avro", feature = "protobuf"))]
use std::fmt;

/// A step from a value to one inside it.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

/// Returns a path as it stands in a message: `field items[2].price`.
pub(crate) fn field_path<'a>(steps: impl IntoIterator<Item = Step<'a>>) -> String {
    let mut out = String::from("field ");
    let mut is_whole = true;
    for step in steps {
        match step {
            Step::Index(index) => out += &format!("[{index}]"),
            Step::Field(name) if is_whole => out += name,
            Step::Field(name) => out += &format!(".{name}"),
        }
        is_whole = false;
    }
    if is_whole { "the whole value".to_owned() } else { out }
}

/// A place, and those around it. The path lives on the stack of the recursion.
#[cfg(any(feature = "avro", feature = "protobuf"))]
#[derive(Clone, Copy)]
pub(crate) enum ValuePath<'a> {
    Root,
    Field(&'a ValuePath<'a>, &'a str),
    Index(&'a ValuePath<'a>, usize),
}

#[cfg(any(feature = "avro", feature = "protobuf"))]
impl ValuePath<'_> {
    /// Returns the error of a value at this place.
    pub(crate) fn misfit(&self, expected: &str, found: &str) -> String {
        format!("{self}: expected {expected}, found {found}")
    }
}

#[cfg(any(feature = "avro", feature = "protobuf"))]
impl fmt::Display for ValuePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut steps, mut path) = (Vec::new(), self);
        loop {
            let (parent, step) = match path {
                ValuePath::Root => break,
                ValuePath::Field(parent, name) => (*parent, Step::Field(name)),
                ValuePath::Index(parent, index) => (*parent, Step::Index(*index)),
            };
            steps.push(step);
            path = parent;
        }
        f.write_str(&field_path(steps.into_iter().rev()))
    }
}

/// Returns a JSON value as it stands in a message: its start, if it is long.
pub(crate) fn excerpt(value: &serde_json::Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = match value {
        // The content may be large: writing all of it would be slow.
        serde_json::Value::Array(items) => return format!("an array of {}", items.len()),
        serde_json::Value::Object(fields) => {
            let names: Vec<&str> = fields.keys().take(5).map(String::as_str).collect();
            format!(
                "an object with {}",
                if names.is_empty() { "no field".into() } else { names.join(", ") }
            )
        }
        other => other.to_string(),
    };
    start_of(text, MAX_CHARS)
}

/// Returns the start of a long text. An ellipsis stands for the rest.
pub(crate) fn start_of(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.replace_range(end.., "…");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_steps_is_written_alike() {
        let steps = [Step::Field("items"), Step::Index(2), Step::Field("price")];
        assert_eq!(field_path(steps), "field items[2].price");
        assert_eq!(field_path([Step::Index(0)]), "field [0]");
        assert_eq!(field_path([]), "the whole value");
    }

    #[cfg(any(feature = "avro", feature = "protobuf"))]
    #[test]
    fn path_is_written_as_in_javascript() {
        let root = ValuePath::Root;
        let items = ValuePath::Field(&root, "items");
        let item = ValuePath::Index(&items, 2);
        assert_eq!(ValuePath::Field(&item, "price").to_string(), "field items[2].price");
        assert_eq!(ValuePath::Index(&root, 0).to_string(), "field [0]");
        assert_eq!(root.misfit("int", "1.5"), "the whole value: expected int, found 1.5");
        let long = serde_json::Value::from("é".repeat(100));
        assert!(excerpt(&long).ends_with("é…"));
    }
}
