//! The place of a value inside another, for messages: `items[2].price`.

#[cfg(any(feature = "avro", feature = "protobuf"))]
use std::fmt;

/// A step from a value to one inside it.
#[cfg(any(feature = "protobuf", feature = "json-schema"))]
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

/// Returns a path as it stands in a message: `field items[2].price`.
#[cfg(any(feature = "protobuf", feature = "json-schema"))]
pub(crate) fn field_path<'a>(steps: impl Iterator<Item = Step<'a>>) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Index(index) => out.push_str(&format!("[{index}]")),
            Step::Field(name) if out.is_empty() => out.push_str(name),
            Step::Field(name) => {
                out.push('.');
                out.push_str(name);
            }
        }
    }
    if out.is_empty() { "the whole value".to_owned() } else { format!("field {out}") }
}

/// A step from a value to one inside it. The path lives on the stack of the recursion.
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
        match self {
            ValuePath::Root => f.write_str("the whole value"),
            path => write!(f, "field {}", Steps(path)),
        }
    }
}

#[cfg(any(feature = "avro", feature = "protobuf"))]
struct Steps<'a>(&'a ValuePath<'a>);

#[cfg(any(feature = "avro", feature = "protobuf"))]
impl fmt::Display for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ValuePath::Root => Ok(()),
            ValuePath::Field(ValuePath::Root, name) => f.write_str(name),
            ValuePath::Field(parent, name) => write!(f, "{}.{name}", Steps(parent)),
            ValuePath::Index(parent, index) => write!(f, "{}[{index}]", Steps(parent)),
        }
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
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "protobuf", feature = "json-schema"))]
    #[test]
    fn path_of_steps_is_written_alike() {
        let steps = [Step::Field("items"), Step::Index(2), Step::Field("price")];
        assert_eq!(field_path(steps.into_iter()), "field items[2].price");
        assert_eq!(field_path([Step::Index(0)].into_iter()), "field [0]");
        assert_eq!(field_path([].into_iter()), "the whole value");
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
