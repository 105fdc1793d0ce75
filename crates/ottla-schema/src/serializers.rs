//! What all serializers have in common.

use std::sync::Arc;

use ottla::BoxError;
use ottla::serializer::Serializer;

use crate::error::SchemaError;
use crate::topic_schemas::TopicSchemas;

/// Defines a serializer: its documentation and name, the variant of `ParsedSchema`, the type of its
/// values, and the function that encodes one.
#[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
macro_rules! schema_serializer {
    (
        $(#[$doc:meta])*
        $name:ident, $format:ident, [$($generics:tt)*] $value:ty, $encode:expr
    ) => {
        $(#[$doc])*
        ///
        /// It is cheap to clone. The first record of a topic requests the schema's id, which
        /// blocks; [`prepare_async`](Self::prepare_async) does that in async code.
        #[derive(Debug, Clone)]
        pub struct $name {
            schemas: std::sync::Arc<$crate::topic_schemas::TopicSchemas>,
        }

        $crate::serializers::constructors!($name);

        impl $name {
            /// Serializes a value without blocking for the registry.
            ///
            /// # Errors
            /// Those of [`prepare`](Self::prepare);
            /// [`InvalidValue`](crate::SchemaErrorKind::InvalidValue) if the value does not fit
            /// its schema.
            pub async fn serialize_async<$($generics)*>(
                &self,
                topic: &str,
                value: &$value,
            ) -> Result<Vec<u8>, SchemaError> {
                let schema = self.schemas.get_async(topic).await?;
                let mut out = Vec::new();
                schema.serialize(&mut out, |parsed, out| Self::encode(parsed, value, out))?;
                Ok(out)
            }

            fn encode<$($generics)*>(
                parsed: &ParsedSchema,
                value: &$value,
                out: &mut Vec<u8>,
            ) -> Result<(), SchemaError> {
                match parsed {
                    ParsedSchema::$format(format) => $encode(format, value, out),
                    #[allow(unreachable_patterns)]
                    other => Err(TopicSchema::wrong_type(other, stringify!($format))),
                }
            }
        }

        impl<$($generics)*> ottla::serializer::Serializer<$value> for $name {
            fn serialize(
                &self,
                topic: &str,
                value: &$value,
                out: &mut Vec<u8>,
            ) -> Result<bool, ottla::BoxError> {
                let schema = self.schemas.get(topic)?;
                schema.serialize(out, |parsed, out| Self::encode(parsed, value, out))?;
                Ok(true)
            }
        }
    };
}

/// Defines the constructors of a serializer and what prepares it for a topic.
macro_rules! constructors {
    ($name:ident) => {
        impl $name {
            /// Creates a serializer of the application's schema.
            ///
            /// The schema is registered under the subject of each topic. With
            /// `auto.register.schemas=false` it must be registered there. With
            /// `use.latest.version=true` or `use.schema.id`, values are written by the registered
            /// schema instead. If the schema has references, this blocks to request them.
            ///
            /// # Errors
            /// [`InvalidSchema`](crate::SchemaErrorKind::InvalidSchema) if the schema cannot be
            /// parsed; those of the client for its references.
            pub fn new(
                client: &$crate::SchemaRegistryClient,
                part: $crate::RecordPart,
                schema: $crate::Schema,
            ) -> Result<$name, $crate::SchemaError> {
                $crate::topic_schemas::TopicSchemas::own(client, part, schema)
                    .map(|schemas| $name { schemas })
            }

            /// Creates a serializer of a registered schema, which it uses for every topic. If the
            /// schema has references, this blocks to request them.
            ///
            /// # Errors
            /// Those of [`new`](Self::new).
            pub fn with_registered(
                client: &$crate::SchemaRegistryClient,
                part: $crate::RecordPart,
                registered: &$crate::RegisteredSchema,
            ) -> Result<$name, $crate::SchemaError> {
                $crate::topic_schemas::TopicSchemas::registered(client, part, registered)
                    .map(|schemas| $name { schemas })
            }

            /// Creates a serializer that uses the latest version of each topic's subject.
            pub fn with_latest(
                client: &$crate::SchemaRegistryClient,
                part: $crate::RecordPart,
            ) -> $name {
                let schemas = $crate::topic_schemas::TopicSchemas::latest(client, part);
                $name { schemas }
            }

            /// Requests the schema's id for a topic, so that its records cause no request.
            /// Returns the id.
            ///
            /// # Errors
            /// Those of the client; [`InvalidSchema`](crate::SchemaErrorKind::InvalidSchema) if
            /// the registered schema cannot be parsed.
            pub fn prepare(&self, topic: &str) -> Result<i32, $crate::SchemaError> {
                self.schemas.get(topic).map(|schema| schema.id)
            }

            /// Like [`prepare`](Self::prepare), without blocking.
            ///
            /// # Errors
            /// Those of that method.
            pub async fn prepare_async(&self, topic: &str) -> Result<i32, $crate::SchemaError> {
                self.schemas.get_async(topic).await.map(|schema| schema.id)
            }
        }
    };
}

/// Defines how another message of a Protobuf file than the first one is selected.
#[cfg(feature = "protobuf")]
macro_rules! message_selection {
    ($name:ident, $doc:literal) => {
        impl $name {
            /// Selects a message of the Protobuf file. Without this it is the first one.
            ///
            #[doc = $doc]
            ///
            /// The name is the full one, or the one inside the file's package: `shop.Order.Note`
            /// or `Order.Note`.
            ///
            /// # Errors
            /// [`Config`](crate::SchemaErrorKind::Config) if the schema is not Protobuf, or its
            /// file does not define the message. If the schema is that of each topic's subject,
            /// this is found with the first record.
            pub fn with_message(
                self,
                name: impl Into<String>,
            ) -> Result<$name, $crate::SchemaError> {
                self.schemas.with_message(name.into()).map(|schemas| $name { schemas })
            }
        }
    };
}

#[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
pub(crate) use constructors;
#[cfg(feature = "protobuf")]
pub(crate) use message_selection;
#[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
pub(crate) use schema_serializer;

/// Serializes JSON texts by a schema of the registry or of a file: Avro by its JSON encoding,
/// Protobuf by its JSON mapping, JSON Schema as they are.
///
/// It is cheap to clone. The first record of a topic requests the schema's id, which blocks;
/// [`prepare_async`](Self::prepare_async) does that in async code.
///
/// ```no_run
/// use ottla::Properties;
/// use ottla::serializer::Serializer;
/// use ottla_schema::{JsonTextSerializer, RecordPart, SchemaRegistryClient};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let mut properties = Properties::new();
/// properties.set("schema.registry.url", "http://localhost:8081")?;
/// let registry = SchemaRegistryClient::new(&properties)?;
/// let orders = JsonTextSerializer::with_latest(&registry, RecordPart::Value);
/// let mut bytes = Vec::new();
/// orders.serialize("orders", r#"{"item": "apples", "count": 3}"#, &mut bytes)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct JsonTextSerializer {
    schemas: Arc<TopicSchemas>,
}

constructors!(JsonTextSerializer);

#[cfg(feature = "protobuf")]
message_selection!(JsonTextSerializer, "Each text becomes this message.");

impl JsonTextSerializer {
    /// Serializes a text without blocking for the registry.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare);
    /// [`InvalidValue`](crate::SchemaErrorKind::InvalidValue) if the text is not JSON, or does not
    /// fit its schema.
    pub async fn serialize_async(
        &self,
        topic: &str,
        json: impl AsRef<[u8]>,
    ) -> Result<Vec<u8>, SchemaError> {
        let schema = self.schemas.get_async(topic).await?;
        let mut out = Vec::new();
        schema.serialize(&mut out, |parsed, out| parsed.encode_json(json.as_ref(), out))?;
        Ok(out)
    }

    /// Appends a serialized text to `out`, like [`Serializer::serialize`], with this crate's error.
    ///
    /// # Errors
    /// Those of [`serialize_async`](Self::serialize_async).
    pub fn serialize_text(
        &self,
        topic: &str,
        json: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SchemaError> {
        let schema = self.schemas.get(topic)?;
        schema.serialize(out, |parsed, out| parsed.encode_json(json, out))
    }
}

impl<T: AsRef<[u8]> + ?Sized> Serializer<T> for JsonTextSerializer {
    fn serialize(&self, topic: &str, json: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        self.serialize_text(topic, json.as_ref(), out)?;
        Ok(true)
    }
}
