//! Serializers of Avro.

mod compiled;
mod decimal;
mod encode;
#[cfg(test)]
mod tests;

use apache_avro::Schema as AvroSchema;
use apache_avro::schema::ResolvedSchema;
use serde::Serialize;

use crate::error::SchemaError;
use crate::parsed::{ParsedSchema, parse_json};
use crate::schema::Schema;
use crate::serializers::schema_serializer;
use crate::topic_schemas::TopicSchema;
use crate::value_path::ValuePath;
use compiled::{CompiledSchema, compile};
use encode::encode_json;

/// A parsed Avro schema.
pub(crate) struct AvroFormat {
    schema: AvroSchema,
    compiled: CompiledSchema,
    record_name: Option<String>,
    /// As in Java, a value whose whole schema is `bytes` has no length before it.
    is_plain_bytes: bool,
}

impl AvroFormat {
    pub(crate) fn new(
        schema: &Schema,
        references: &[(String, Schema)],
    ) -> Result<AvroFormat, SchemaError> {
        let invalid = |e: apache_avro::Error| SchemaError::schema(format!("Avro schema: {e}"));
        let parsed = if references.is_empty() {
            AvroSchema::parse_str(schema.text()).map_err(invalid)?
        } else {
            let texts = references.iter().map(|(_, schema)| schema.text());
            let (mut parsed, others) =
                AvroSchema::parse_str_with_list(schema.text(), texts).map_err(invalid)?;
            parsed.denormalize(&others).map_err(invalid)?;
            parsed
        };
        let compiled = compile(&parsed)?;
        let record_name = parsed.name().map(|name| name.fullname(None));
        let is_plain_bytes = matches!(parsed, AvroSchema::Bytes);
        Ok(AvroFormat { schema: parsed, compiled, record_name, is_plain_bytes })
    }

    pub(crate) fn record_name(&self) -> Option<&str> {
        self.record_name.as_deref()
    }

    pub(crate) fn encode_json_text(
        &self,
        json: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SchemaError> {
        self.encode_json(&parse_json(json)?, out)
    }

    /// Appends a JSON value by Avro's JSON encoding.
    fn encode_json(&self, value: &serde_json::Value, out: &mut Vec<u8>) -> Result<(), SchemaError> {
        let (start, path) = (out.len(), ValuePath::Root);
        encode_json(&self.compiled, self.compiled.root, value, &path, out)
            .map_err(SchemaError::value)?;
        self.remove_length(out, start);
        Ok(())
    }

    /// Appends a value of the application.
    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), SchemaError> {
        let start = out.len();
        let invalid = |e: apache_avro::Error| {
            let reason = end_of(&e.to_string());
            SchemaError::value(format!("the value does not fit its Avro schema: {reason}"))
        };
        let resolved;
        let no_names = Default::default();
        // Collecting the named types for each value is slow, and only references need them.
        let names = if self.compiled.has_references {
            resolved = ResolvedSchema::new(&self.schema).map_err(invalid)?;
            resolved.get_names()
        } else {
            &no_names
        };
        apache_avro::write_avro_datum_ref(&self.schema, names, &value, out).map_err(invalid)?;
        self.remove_length(out, start);
        Ok(())
    }

    fn remove_length(&self, out: &mut Vec<u8>, start: usize) {
        if self.is_plain_bytes {
            let length = out[start..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
            out.drain(start..start + length);
        }
    }
}

/// Returns the end of a long message. `apache-avro` prints the schemas from the outermost one, and
/// the reason last.
fn end_of(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let skipped = text.chars().count().saturating_sub(MAX_CHARS);
    let end: String = text.chars().skip(skipped).collect();
    if skipped == 0 { end } else { format!("…{end}") }
}

schema_serializer! {
    /// Serializes values of the application as Avro: any type that implements serde's `Serialize`.
    ///
    /// A struct is a record whose fields have the names of the schema, an `Option` a union with
    /// null. The crate `apache-avro` describes the mapping.
    ///
    /// ```no_run
    /// use ottla::serializer::VoidSerializer;
    /// use ottla::{Producer, Properties, TypedRecord};
    /// use ottla_schema::{AvroSerializer, RecordPart, Schema, SchemaRegistryClient, SchemaType};
    ///
    /// #[derive(serde::Serialize)]
    /// struct Order {
    ///     item: String,
    ///     count: i32,
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut properties = Properties::new();
    /// properties.set("bootstrap.servers", "localhost:9092")?;
    /// properties.set("schema.registry.url", "http://localhost:8081")?;
    /// let registry = SchemaRegistryClient::new(&properties)?;
    /// let schema = Schema::new(
    ///     SchemaType::Avro,
    ///     r#"{"type": "record", "name": "Order", "fields": [
    ///         {"name": "item", "type": "string"}, {"name": "count", "type": "int"}]}"#,
    /// );
    /// let orders = AvroSerializer::new(&registry, RecordPart::Value, schema)?;
    /// let producer = Producer::builder().properties(properties).build()?;
    /// let typed = producer.typed(VoidSerializer, orders);
    /// let order = Order { item: "apples".into(), count: 3 };
    /// typed.send(TypedRecord::new("orders", &(), &order))?.wait()?;
    /// # Ok(()) }
    /// ```
    AvroSerializer, Avro, [T: Serialize + ?Sized] T, AvroFormat::encode
}

schema_serializer! {
    /// Serializes JSON values as Avro, by Avro's JSON encoding.
    ///
    /// A value of a union is tagged with its type (`{"string": "a"}`); it may be plain if only one
    /// type of the union fits. Bytes and `fixed` are strings of characters up to U+00FF. A field
    /// that is missing gets its default. A `decimal` may also be a number, a `uuid` in a `fixed`
    /// its text. docs/SCHEMAS.md has all rules.
    AvroJsonSerializer, Avro, [] serde_json::Value, AvroFormat::encode_json
}
