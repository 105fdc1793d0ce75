//! Why a value does not fit its JSON Schema: the path, what was expected and what was found.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value;

use crate::value_path::{Step, excerpt, field_path, start_of};

/// Returns the message for a value that the validator has refused.
pub(super) fn explain(e: &ValidationError<'_>, root: &Value) -> String {
    match e.kind() {
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            explain_alternatives(e, context, root)
        }
        _ => explain_one(e, root),
    }
}

/// Explains the alternative that fits best: the one whose error is deepest. If only the types of
/// the alternatives do not fit, all of them are named.
fn explain_alternatives(
    e: &ValidationError<'_>,
    context: &[Vec<ValidationError<'static>>],
    root: &Value,
) -> String {
    let first_errors = || context.iter().filter_map(|errors| errors.first());
    let mut types = Vec::new();
    for alternative in first_errors() {
        match alternative.kind() {
            Kind::Type { kind } if depth(alternative) == depth(e) => types.push(type_names(kind)),
            _ => {}
        }
    }
    if types.len() == context.len() && !types.is_empty() {
        let place = Place::new(e, root);
        return place.misfit(&format!("expected {}, found {}", types.join(" or "), place.found));
    }
    // Of several, the first one, unless its type does not even fit.
    let mut closest: Option<&ValidationError<'static>> = None;
    for alternative in first_errors() {
        let rank = |e: &ValidationError<'_>| (depth(e), !matches!(e.kind(), Kind::Type { .. }));
        if closest.is_none_or(|known| rank(alternative) > rank(known)) {
            closest = Some(alternative);
        }
    }
    match closest {
        Some(closest) => {
            format!("{} (the closest of {} alternatives)", explain(closest, root), context.len())
        }
        None => explain_one(e, root),
    }
}

fn depth(e: &ValidationError<'_>) -> usize {
    e.instance_path().as_str().matches('/').count()
}

fn explain_one(e: &ValidationError<'_>, root: &Value) -> String {
    let place = Place::new(e, root);
    let found = &place.found;
    match e.kind() {
        Kind::Type { kind } => {
            place.misfit(&format!("expected {}, found {found}", type_names(kind)))
        }
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            place.misfit_inside(name, "expected a value, found nothing; the field is required")
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let name = unexpected.first().map_or("", String::as_str);
            place.misfit_inside(name, "the schema has no such field")
        }
        Kind::Enum { options } => {
            let options = options.as_array().map_or(&[][..], Vec::as_slice);
            let mut names: Vec<String> = options.iter().take(MAX_NAMES).map(excerpt).collect();
            if options.len() > MAX_NAMES {
                names.push("…".to_owned());
            }
            place.misfit(&format!("expected one of {}, found {found}", names.join(", ")))
        }
        Kind::Constant { expected_value } => {
            place.misfit(&format!("expected {}, found {found}", excerpt(expected_value)))
        }
        Kind::Format { format } => {
            place.misfit(&format!("expected the format {format}, found {found}"))
        }
        Kind::Pattern { pattern } => {
            place.misfit(&format!("expected a match of {pattern}, found {found}"))
        }
        Kind::FalseSchema => place.misfit(&format!("expected nothing, found {found}")),
        _ => place.misfit(&shorten(e.masked_with(&**found).to_string())),
    }
}

/// Most values of an enumeration in a message.
const MAX_NAMES: usize = 20;

/// The place of a value, and its start.
struct Place {
    /// The names on the path, and the index if the name is one of an array.
    names: Vec<(String, Option<usize>)>,
    found: String,
}

impl Place {
    fn new(e: &ValidationError<'_>, root: &Value) -> Place {
        let mut names = Vec::new();
        let mut value = Some(root);
        for segment in e.instance_path().as_str().split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            // Only the value says whether digits are an index or a name.
            let index = name.parse::<usize>().ok().filter(|_| value.is_some_and(Value::is_array));
            value = match index {
                Some(index) => value.and_then(|value| value.get(index)),
                None => value.and_then(|value| value.get(&name)),
            };
            names.push((name, index));
        }
        Place { names, found: value.map_or_else(|| "nothing".to_owned(), excerpt) }
    }

    fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        self.names.iter().map(|(name, index)| index.map_or(Step::Field(name), Step::Index))
    }

    fn misfit(&self, reason: &str) -> String {
        format!("{}: {reason}", field_path(self.steps()))
    }

    /// Returns the message for a field inside this place.
    fn misfit_inside(&self, name: &str, reason: &str) -> String {
        format!("{}: {reason}", field_path(self.steps().chain([Step::Field(name)])))
    }
}

fn type_names(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(name) => name.to_string(),
        TypeKind::Multiple(names) => {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            names.join(" or ")
        }
    }
}

/// Returns the start of a long message.
pub(super) fn shorten(text: String) -> String {
    const MAX_CHARS: usize = 300;
    start_of(text, MAX_CHARS)
}
