//! Serializers of JSON values that a JSON Schema validates.

mod misfit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error as StdError;

use jsonschema::{Draft, Retrieve, Uri, Validator};
use serde::Serialize;
use serde_json::Value;

use crate::error::SchemaError;
use crate::parsed::{ParsedSchema, parse_json};
use crate::schema::Schema;
use crate::serializers::schema_serializer;
use crate::topic_schemas::TopicSchema;
use misfit::explain;

/// The base of references without a scheme, such as `item.json`.
const BASE_URI: &str = "json-schema:///";

/// A compiled JSON Schema.
pub(crate) struct JsonFormat {
    validator: Validator,
    title: Option<String>,
}

/// Finds referenced schemas among those of the registry, and nowhere else.
struct References(BTreeMap<String, Value>);

impl Retrieve for References {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn StdError + Send + Sync>> {
        let uri = uri.as_str();
        let name = uri.strip_prefix(BASE_URI).unwrap_or(uri);
        let exact = self.0.get(uri).or_else(|| self.0.get(name));
        // `item.json` in a schema with an `$id` is a name beside it.
        let relative = || {
            let mut known = self.0.iter();
            known.find(|(known, _)| uri.strip_suffix(&***known).is_some_and(|b| b.ends_with('/')))
        };
        let found = exact.or_else(|| relative().map(|(_, schema)| schema));
        found.cloned().ok_or_else(|| not_referenced(name).into())
    }
}

fn not_referenced(name: &str) -> String {
    format!("the schema has no reference of the name {name}; nothing else is requested")
}

impl JsonFormat {
    pub(crate) fn new(
        schema: &Schema,
        references: &[(String, Schema)],
    ) -> Result<JsonFormat, SchemaError> {
        let parse = |schema: &Schema, name: &str| -> Result<Value, SchemaError> {
            serde_json::from_str(schema.text())
                .map_err(|e| SchemaError::schema(format!("JSON Schema: {name} is not JSON: {e}")))
        };
        let json = parse(schema, "it")?;
        let mut known = BTreeMap::new();
        for (name, schema) in references {
            known.insert(name.clone(), parse(schema, name)?);
        }
        let mut options =
            jsonschema::options().with_base_uri(BASE_URI).with_retriever(References(known));
        // The version that Confluent's serializers assume.
        if json.get("$schema").is_none() {
            options = options.with_draft(Draft::Draft7);
        }
        let validator = options.build(&json).map_err(|e| {
            let place = match e.instance_path().as_str() {
                "" => String::new(),
                pointer => format!(" (at {pointer})"),
            };
            let mut reason = e.to_string();
            // The crate gives up on a relative reference without a request.
            if reason.ends_with("No base URI is available")
                && let Some(name) = reason.split('\'').nth(1)
            {
                reason = not_referenced(name);
            }
            SchemaError::schema(format!("JSON Schema: {}{place}", misfit::shorten(reason)))
        })?;
        let title = json.get("title").and_then(Value::as_str).map(str::to_owned);
        Ok(JsonFormat { validator, title })
    }

    pub(crate) fn record_name(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Appends a JSON text as it is, after it was validated.
    pub(crate) fn encode_json_text(
        &self,
        json: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SchemaError> {
        self.validate(&parse_json(json)?)?;
        out.extend_from_slice(json.trim_ascii());
        Ok(())
    }

    /// Appends a value of the application as JSON.
    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), SchemaError> {
        let invalid = |e| SchemaError::value(format!("the value cannot be written as JSON: {e}"));
        let json = serde_json::to_value(value).map_err(invalid)?;
        self.validate(&json)?;
        serde_json::to_writer(out, &json).map_err(invalid)
    }

    fn validate(&self, value: &Value) -> Result<(), SchemaError> {
        self.validator.validate(value).map_err(|e| SchemaError::value(explain(&e, value)))
    }
}

schema_serializer! {
    /// Serializes values as JSON that a JSON Schema validates: any type that implements serde's
    /// `Serialize`.
    ///
    /// A schema without `$schema` is one of draft 7. Drafts 4, 6, 7, 2019-09 and 2020-12 are
    /// supported. Schemas that it refers to (`$ref`) are those of its references; nothing is
    /// requested from the web.
    ///
    /// ```no_run
    /// use ottla::Properties;
    /// use ottla::serializer::Serializer;
    /// use ottla_schema::{
    ///     JsonSchemaSerializer, RecordPart, Schema, SchemaRegistryClient, SchemaType,
    /// };
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let mut properties = Properties::new();
    /// properties.set("schema.registry.url", "http://localhost:8081")?;
    /// let registry = SchemaRegistryClient::new(&properties)?;
    /// let text = r#"{"type": "object", "properties": {"count": {"type": "integer"}}}"#;
    /// let schema = Schema::new(SchemaType::Json, text);
    /// let orders = JsonSchemaSerializer::new(&registry, RecordPart::Value, schema)?;
    /// let mut bytes = Vec::new();
    /// orders.serialize("orders", &serde_json::json!({"count": 3}), &mut bytes)?;
    /// # Ok(()) }
    /// ```
    JsonSchemaSerializer, Json, [T: Serialize + ?Sized] T, JsonFormat::encode
}
