//! A schema of any type, parsed for serializing.

#[cfg(feature = "avro")]
use crate::avro::AvroFormat;
use crate::error::SchemaError;
use crate::schema::{Schema, SchemaType};

/// A parsed schema.
pub(crate) enum ParsedSchema {
    #[cfg(feature = "avro")]
    Avro(Box<AvroFormat>),
}

impl ParsedSchema {
    /// Parses a schema. `references` are the schemas that it uses, each before its users.
    #[allow(unused_variables)]
    pub(crate) fn new(
        schema: &Schema,
        references: &[(String, Schema)],
    ) -> Result<ParsedSchema, SchemaError> {
        match schema.schema_type() {
            #[cfg(feature = "avro")]
            SchemaType::Avro => {
                Ok(ParsedSchema::Avro(Box::new(AvroFormat::new(schema, references)?)))
            }
            #[allow(unreachable_patterns)]
            other => Err(SchemaError::config(format!(
                "{other} schemas are not supported by this build of ottla-schema"
            ))),
        }
    }

    pub(crate) fn schema_type(&self) -> SchemaType {
        match *self {
            #[cfg(feature = "avro")]
            ParsedSchema::Avro(_) => SchemaType::Avro,
        }
    }

    /// Returns the name for the strategies RecordName and TopicRecordName.
    pub(crate) fn record_name(&self) -> Option<&str> {
        match *self {
            #[cfg(feature = "avro")]
            ParsedSchema::Avro(ref format) => format.record_name(),
        }
    }

    /// Appends a JSON text as a value of this schema.
    #[allow(unused_variables)]
    pub(crate) fn encode_json(&self, json: &[u8], out: &mut Vec<u8>) -> Result<(), SchemaError> {
        match *self {
            #[cfg(feature = "avro")]
            ParsedSchema::Avro(ref format) => format.encode_json_text(json, out),
        }
    }
}

/// Parses a JSON text.
#[cfg(feature = "avro")]
pub(crate) fn parse_json(json: &[u8]) -> Result<serde_json::Value, SchemaError> {
    serde_json::from_slice(json).map_err(|e| not_json(&e))
}

#[cfg(feature = "avro")]
/// Returns the error of a text that is not JSON.
pub(crate) fn not_json(e: &serde_json::Error) -> SchemaError {
    let (text, line, column) = (e.to_string(), e.line(), e.column());
    let place = format!(" at line {line} column {column}");
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    SchemaError::value(format!("the value is not JSON: {reason} (column {column})"))
}
