//! Avro, Protobuf and JSON Schema with a schema registry, for the Kafka producer [`ottla`].
//!
//! A [`SchemaRegistryClient`] registers schemas, or finds them. A serializer writes values in
//! Confluent's wire format: a zero byte, the schema's id in 4 bytes, the value. It is for keys or
//! for values of a [`TypedProducer`](ottla::TypedProducer); [`RecordPart`] says which.
//!
//! | type | values |
//! |---|---|
//! | [`AvroSerializer`] | any type with serde's `Serialize`, as Avro |
//! | [`AvroJsonSerializer`] | JSON values, as Avro |
//! | [`ProtobufSerializer`] | messages of `prost` or `prost-reflect`, as Protobuf |
//! | [`JsonSchemaSerializer`] | any type with serde's `Serialize`, as JSON of a schema |
//! | [`JsonTextSerializer`] | JSON texts, by a schema of any type |
//!
//! Settings have Confluent's names, and are read from [`Properties`](ottla::Properties), where
//! those of the producer are: `schema.registry.url`, `basic.auth.user.info`,
//! `auto.register.schemas`, `use.latest.version`, `value.subject.name.strategy` and others.
//! docs/SCHEMAS.md lists them.
//!
//! # Features
//!
//! - `avro`, `protobuf`, `json-schema` (on by default).
//! - `tls-graviola` (on by default), `tls-ring`, `tls-aws-lc-rs`: https registries, with the
//!   settings `schema.registry.ssl.*` and `ssl.*`. `tls` needs a rustls provider that the
//!   application installs.

#![forbid(unsafe_code)]

mod error;
mod schema;
mod subject;
mod settings;
mod registry;
mod wire;
#[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
mod value_path;
#[cfg(all(test, any(feature = "avro", feature = "protobuf", feature = "json-schema")))]
mod test_json;
mod parsed;
mod topic_schemas;
mod serializers;
#[cfg(feature = "avro")]
mod avro;
#[cfg(feature = "json-schema")]
mod json_schema;
#[cfg(feature = "protobuf")]
mod protobuf;

#[cfg(feature = "avro")]
pub use avro::{AvroJsonSerializer, AvroSerializer};
pub use error::{SchemaError, SchemaErrorKind};
#[cfg(feature = "json-schema")]
pub use json_schema::JsonSchemaSerializer;
#[cfg(feature = "protobuf")]
pub use protobuf::ProtobufSerializer;
pub use registry::SchemaRegistryClient;
pub use schema::{RegisteredSchema, Schema, SchemaReference, SchemaType, Version};
pub use serializers::JsonTextSerializer;
pub use subject::{RecordPart, Subject, SubjectNameStrategy};
