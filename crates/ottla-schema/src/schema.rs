//! Schemas as a registry has them: a text, its type and references to other subjects.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::SchemaError;
use crate::subject::Subject;

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum SchemaType {
    /// Apache Avro.
    #[default]
    Avro,
    /// Protocol Buffers.
    Protobuf,
    /// JSON Schema.
    Json,
}

impl SchemaType {
    /// Returns the registry's name: `AVRO`, `PROTOBUF` or `JSON`.
    pub fn as_str(self) -> &'static str {
        match self {
            SchemaType::Avro => "AVRO",
            SchemaType::Protobuf => "PROTOBUF",
            SchemaType::Json => "JSON",
        }
    }

    /// Returns the type of the registry's name; without a name it is Avro.
    pub(crate) fn from_name(name: Option<&str>) -> Result<SchemaType, SchemaError> {
        match name {
            None | Some("AVRO") => Ok(SchemaType::Avro),
            Some("PROTOBUF") => Ok(SchemaType::Protobuf),
            Some("JSON") => Ok(SchemaType::Json),
            Some(other) => Err(SchemaError::schema(format!(
                "the schema type {other} is not supported; expected AVRO, PROTOBUF or JSON"
            ))),
        }
    }
}

impl fmt::Display for SchemaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A schema that another schema uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SchemaReference {
    /// The name by which the schema uses it: a full name in Avro, a path in Protobuf (`import`), a
    /// URI in JSON Schema (`$ref`).
    pub name: String,
    /// The subject under which it is registered.
    pub subject: String,
    /// The version of the subject.
    pub version: i32,
}

/// A schema with its type and references. It is cheap to clone.
///
/// ```
/// use ottla_schema::{Schema, SchemaType};
///
/// let schema = Schema::new(SchemaType::Avro, r#"{"type": "string"}"#);
/// assert_eq!(schema.text(), r#"{"type": "string"}"#);
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Schema(Arc<Inner>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Inner {
    schema_type: SchemaType,
    text: String,
    references: Vec<SchemaReference>,
}

impl Schema {
    /// Creates a schema without references. The text is not parsed.
    pub fn new(schema_type: SchemaType, text: impl Into<String>) -> Schema {
        Schema(Arc::new(Inner { schema_type, text: text.into(), references: Vec::new() }))
    }

    /// Sets the schemas that this one uses.
    #[must_use]
    pub fn with_references(mut self, references: Vec<SchemaReference>) -> Schema {
        Arc::make_mut(&mut self.0).references = references;
        self
    }

    /// Returns the type.
    pub fn schema_type(&self) -> SchemaType {
        self.0.schema_type
    }

    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Returns the schemas that this one uses.
    pub fn references(&self) -> &[SchemaReference] {
        &self.0.references
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { schema_type, text, references } = &*self.0;
        write!(f, "Schema({schema_type}, {text:?}, {references:?})")
    }
}

/// A version of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The newest one.
    Latest,
    /// The one of this number; the first is 1.
    Number(i32),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Latest => f.write_str("latest"),
            Version::Number(number) => write!(f, "{number}"),
        }
    }
}

/// A schema that a registry knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredSchema {
    /// The id, which stands before each serialized value.
    pub id: i32,
    /// The subject; `None` if the schema was requested by its id.
    pub subject: Option<Subject>,
    /// The version of the subject, if the registry has named it.
    pub version: Option<i32>,
    /// The schema.
    pub schema: Schema,
}
