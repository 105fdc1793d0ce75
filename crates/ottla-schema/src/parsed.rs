//! A schema of any type, parsed for serializing.

#[cfg(feature = "avro")]
use crate::avro::AvroFormat;
use crate::error::SchemaError;
#[cfg(feature = "json-schema")]
use crate::json_schema::JsonFormat;
#[cfg(feature = "protobuf")]
use crate::protobuf::ProtobufFormat;
use crate::schema::{Schema, SchemaType};

/// A parsed schema. Without a feature for a type of schemas, there is none.
pub(crate) enum ParsedSchema {
    #[cfg(feature = "avro")]
    Avro(Box<AvroFormat>),
    #[cfg(feature = "json-schema")]
    Json(Box<JsonFormat>),
    #[cfg(feature = "protobuf")]
    Protobuf(Box<ProtobufFormat>),
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
            #[cfg(feature = "json-schema")]
            SchemaType::Json => {
                Ok(ParsedSchema::Json(Box::new(JsonFormat::new(schema, references)?)))
            }
            #[cfg(feature = "protobuf")]
            SchemaType::Protobuf => {
                Ok(ParsedSchema::Protobuf(Box::new(ProtobufFormat::new(schema, references)?)))
            }
            #[allow(unreachable_patterns)]
            other => Err(SchemaError::config(format!(
                "{other} schemas are not supported by this build of ottla-schema; enable its \
                 feature for them"
            ))),
        }
    }

    pub(crate) fn schema_type(&self) -> SchemaType {
        match *self {
            #[cfg(feature = "avro")]
            ParsedSchema::Avro(_) => SchemaType::Avro,
            #[cfg(feature = "json-schema")]
            ParsedSchema::Json(_) => SchemaType::Json,
            #[cfg(feature = "protobuf")]
            ParsedSchema::Protobuf(_) => SchemaType::Protobuf,
        }
    }

    /// Returns the same schema with another message of its Protobuf file.
    #[allow(unused_variables)]
    pub(crate) fn with_message(&self, name: &str) -> Result<ParsedSchema, SchemaError> {
        match *self {
            #[cfg(feature = "protobuf")]
            ParsedSchema::Protobuf(ref format) => {
                Ok(ParsedSchema::Protobuf(Box::new(format.with_message(name)?)))
            }
            #[allow(unreachable_patterns)]
            _ => Err(SchemaError::config(format!(
                "the message {name} cannot be selected: the schema has the type {}, not PROTOBUF",
                self.schema_type()
            ))),
        }
    }

    /// Returns the name for the strategies RecordName and TopicRecordName.
    pub(crate) fn record_name(&self) -> Option<&str> {
        match *self {
            #[cfg(feature = "avro")]
            ParsedSchema::Avro(ref format) => format.record_name(),
            #[cfg(feature = "json-schema")]
            ParsedSchema::Json(ref format) => format.record_name(),
            #[cfg(feature = "protobuf")]
            ParsedSchema::Protobuf(ref format) => format.record_name(),
        }
    }

    /// Appends a JSON text as a value of this schema.
    #[allow(unused_variables)]
    pub(crate) fn encode_json(&self, json: &[u8], out: &mut Vec<u8>) -> Result<(), SchemaError> {
        match *self {
            #[cfg(feature = "avro")]
            ParsedSchema::Avro(ref format) => format.encode_json_text(json, out),
            #[cfg(feature = "json-schema")]
            ParsedSchema::Json(ref format) => format.encode_json_text(json, out),
            #[cfg(feature = "protobuf")]
            ParsedSchema::Protobuf(ref format) => format.encode_json_text(json, out),
        }
    }
}

/// Parses a JSON text.
#[cfg(any(feature = "avro", feature = "json-schema"))]
pub(crate) fn parse_json(json: &[u8]) -> Result<serde_json::Value, SchemaError> {
    serde_json::from_slice(json).map_err(|e| not_json(&e))
}

/// Returns the error of a text that is not JSON.
#[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
pub(crate) fn not_json(e: &serde_json::Error) -> SchemaError {
    let (text, line, column) = (e.to_string(), e.line(), e.column());
    let place = format!(" at line {line} column {column}");
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    SchemaError::value(format!("the value is not JSON: {reason} (column {column})"))
}
