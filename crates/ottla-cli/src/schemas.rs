//! Schemas of keys and values: `--value-schema`, `--key-schema` and their registry.
//!
//! The texts of keys and values are JSON then. The send loop has them serialized after it has
//! parsed a record.

use std::path::Path;

use ottla::Properties;
use ottla_schema::{
    JsonTextSerializer, RecordPart, Schema, SchemaError, SchemaErrorKind, SchemaReference,
    SchemaRegistryClient, SchemaType, Version,
};

use crate::CliError;
use crate::args::{InputFormat, ProduceArgs};
use crate::input::{InputError, InputRecord, JsonParts};

/// The serializers of keys and values. Without one, the bytes are sent as they are.
pub(crate) struct Schemas {
    key: Option<JsonTextSerializer>,
    value: Option<JsonTextSerializer>,
}

/// A record that cannot be serialized.
pub(crate) enum SchemaFailure {
    /// It does not fit its schema.
    Record(InputError),
    /// No record of its topic can be serialized.
    Topic(String),
    /// No record of any topic can be serialized.
    Load(String),
}

impl Schemas {
    /// Requests the schemas that the options name. For a single topic, its schemas are registered
    /// or looked up, so that a wrong one is found before the first record.
    pub(crate) fn new(args: &ProduceArgs, properties: &Properties) -> Result<Schemas, CliError> {
        let options = &args.schemas;
        if options.key_schema.is_none() && options.value_schema.is_none() {
            let unused = [
                ("--schema-registry", options.schema_registry.is_some()),
                ("--schema-reference", !options.schema_reference.is_empty()),
            ];
            if let Some((option, _)) = unused.iter().find(|(_, is_given)| *is_given) {
                return Err(CliError::usage(format!(
                    "{option} has no effect without --value-schema or --key-schema"
                )));
            }
            return Ok(Schemas { key: None, value: None });
        }
        if args.input.format == InputFormat::Raw {
            return Err(CliError::usage(
                "--value-schema and --key-schema read JSON; use --format lines, json or csv",
            ));
        }
        let mut properties = properties.clone();
        if args.load.dry_run {
            // It finds out the schema's id, and changes nothing.
            let set = properties.set("auto.register.schemas", "false");
            set.map_err(|e| CliError::usage(e.to_string()))?;
        }
        let registry = SchemaRegistryClient::new(&properties).map_err(cli_error)?;
        let references = parse_references(&registry, &options.schema_reference)?;
        let create = |part, text: Option<&str>, message: Option<&str>, name| {
            let create = |text| serializer(&registry, part, text, references.clone(), message);
            text.map(create).transpose().map_err(|e: CliError| e.with_option(name))
        };
        let (key, value) = (options.key_schema.as_deref(), options.value_schema.as_deref());
        let (key_message, value_message) =
            (options.key_message.as_deref(), options.value_message.as_deref());
        let schemas = Schemas {
            key: create(RecordPart::Key, key, key_message, "--key-schema")?,
            value: create(RecordPart::Value, value, value_message, "--value-schema")?,
        };
        if let Some(topic) = &args.topic {
            for (serializer, name) in
                [(&schemas.key, "--key-schema"), (&schemas.value, "--value-schema")]
            {
                if let Some(serializer) = serializer {
                    serializer.prepare(topic).map_err(|e| cli_error(e).with_option(name))?;
                }
            }
        }
        Ok(schemas)
    }

    /// Returns which parts of a record are JSON texts.
    pub(crate) fn json_parts(&self) -> JsonParts {
        JsonParts { key: self.key.is_some(), value: self.value.is_some() }
    }

    /// Replaces the texts of key and value by their serialized bytes. `place` is that of the record
    /// in the input.
    pub(crate) fn serialize(
        &self,
        topic: &str,
        record: &mut InputRecord<'_>,
        place: impl Fn() -> String,
    ) -> Result<(), SchemaFailure> {
        let serialized = record.serialized;
        for (serializer, part, bytes, is_serialized) in [
            (&self.key, "key", &mut record.key, serialized.key),
            (&self.value, "value", &mut record.value, serialized.value),
        ] {
            let (Some(serializer), Some(json), false) = (serializer, &*bytes, is_serialized) else {
                continue;
            };
            let mut out = Vec::with_capacity(json.len() + 5);
            serializer.serialize_text(topic, json, &mut out).map_err(|e| match e.kind() {
                SchemaErrorKind::InvalidValue => {
                    SchemaFailure::Record(InputError::from(format!("{}, {part}: {e}", place())))
                }
                SchemaErrorKind::Config | SchemaErrorKind::Unavailable => {
                    SchemaFailure::Load(e.to_string())
                }
                _ => SchemaFailure::Topic(e.to_string()),
            })?;
            *bytes = Some(out.into());
        }
        Ok(())
    }
}

fn cli_error(e: SchemaError) -> CliError {
    match e.kind() {
        SchemaErrorKind::Unavailable | SchemaErrorKind::InvalidResponse => {
            CliError::failed(e.to_string())
        }
        _ => CliError::usage(e.to_string()),
    }
}

/// Creates the serializer of a file or of a subject.
fn serializer(
    registry: &SchemaRegistryClient,
    part: RecordPart,
    text: &str,
    references: Vec<SchemaReference>,
    message: Option<&str>,
) -> Result<JsonTextSerializer, CliError> {
    let serializer = if is_file(text) {
        let schema = read_schema(text)?.with_references(references);
        JsonTextSerializer::new(registry, part, schema)
            .map_err(|e| CliError::usage(format!("{text}: {e}")))?
    } else {
        let (subject, version) = parse_subject(text);
        let found = registry.version(subject, version).map_err(cli_error)?;
        JsonTextSerializer::with_registered(registry, part, &found).map_err(cli_error)?
    };
    match message {
        Some(name) => serializer.with_message(name).map_err(cli_error),
        None => Ok(serializer),
    }
}

/// Returns whether an argument is a file, and not a subject.
fn is_file(text: &str) -> bool {
    let path = Path::new(text);
    schema_type(path).is_some() || path.is_file()
}

fn read_schema(text: &str) -> Result<Schema, CliError> {
    let path = Path::new(text);
    let Some(schema_type) = schema_type(path) else {
        return Err(CliError::usage(format!(
            "{text} does not say its language; rename it to .avsc (Avro), .proto (Protobuf) or \
             .json (JSON Schema)"
        )));
    };
    let content = std::fs::read_to_string(path)
        .map_err(|e| CliError::usage(format!("cannot read {text}: {e}")))?;
    Ok(Schema::new(schema_type, content))
}

/// Returns the language of a file by the ending of its name.
fn schema_type(path: &Path) -> Option<SchemaType> {
    match path.extension()?.to_str()? {
        "avsc" => Some(SchemaType::Avro),
        "proto" => Some(SchemaType::Protobuf),
        "json" => Some(SchemaType::Json),
        _ => None,
    }
}

/// Splits `SUBJECT:VERSION`. A subject may contain colons.
fn parse_subject(text: &str) -> (&str, Version) {
    match text.rsplit_once(':') {
        Some((subject, "latest")) => (subject, Version::Latest),
        Some((subject, version)) => match version.parse::<i32>() {
            Ok(number) if number > 0 => (subject, Version::Number(number)),
            _ => (text, Version::Latest),
        },
        None => (text, Version::Latest),
    }
}

/// Parses `NAME=SUBJECT:VERSION` and `NAME=FILE`. The registry needs the number of the latest
/// version. A file is registered under its name, and may use the references before it.
fn parse_references(
    registry: &SchemaRegistryClient,
    texts: &[String],
) -> Result<Vec<SchemaReference>, CliError> {
    let mut references = Vec::new();
    for text in texts {
        let Some((name, target)) = text.split_once('=') else {
            return Err(CliError::usage(format!(
                "--schema-reference {text:?} is not NAME=SUBJECT, NAME=SUBJECT:VERSION or NAME=FILE"
            )));
        };
        if is_file(target) {
            let schema = read_schema(target).map_err(|e| e.with_option("--schema-reference"))?;
            let schema = schema.with_references(references.clone());
            let reference = registry.reference(name, name, &schema);
            references.push(reference.map_err(|e| cli_error(e).with_option("--schema-reference"))?);
            continue;
        }
        let (subject, version) = parse_subject(target);
        let version = match version {
            Version::Number(number) => number,
            Version::Latest => {
                let found = registry.version(subject, version).map_err(cli_error)?;
                found.version.ok_or_else(|| {
                    CliError::failed(format!("the registry named no version of {subject}"))
                })?
            }
        };
        let (name, subject) = (name.to_owned(), subject.to_owned());
        references.push(SchemaReference { name, subject, version });
    }
    Ok(references)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_may_contain_colons() {
        assert_eq!(parse_subject("orders-value"), ("orders-value", Version::Latest));
        assert_eq!(parse_subject("orders-value:3"), ("orders-value", Version::Number(3)));
        assert_eq!(parse_subject("orders:latest"), ("orders", Version::Latest));
        assert_eq!(parse_subject(":.ctx:orders"), (":.ctx:orders", Version::Latest));
        assert_eq!(parse_subject(":.ctx:orders:2"), (":.ctx:orders", Version::Number(2)));
    }
}
