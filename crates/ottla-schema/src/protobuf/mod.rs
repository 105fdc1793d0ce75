//! Serializers of Protobuf.

mod misfit;
mod sources;
#[cfg(test)]
mod tests;

use prost_reflect::prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FileDescriptor, MessageDescriptor, ReflectMessage,
};

use crate::error::SchemaError;
use crate::parsed::{ParsedSchema, not_json};
use crate::schema::Schema;
use crate::serializers::{message_selection, schema_serializer};
use crate::topic_schemas::TopicSchema;
use crate::value_path::ValuePath;
use crate::wire::put_message_indexes;
use misfit::{explain, missing_required};
use sources::{FILE_NAME, compile};

/// A compiled .proto file, and the message of it that JSON texts become.
pub(crate) struct ProtobufFormat {
    pool: DescriptorPool,
    message: MessageDescriptor,
    /// The index of `message` as it stands before each value.
    prefix: Vec<u8>,
    /// Whether a message can lack a field that proto2 requires.
    has_required: bool,
}

impl ProtobufFormat {
    /// Compiles a schema. Its message is the first one of the file.
    pub(crate) fn new(
        schema: &Schema,
        references: &[(String, Schema)],
    ) -> Result<ProtobufFormat, SchemaError> {
        let pool = compile(schema, references)?;
        let file = pool.get_file_by_name(FILE_NAME);
        let message = file.and_then(|file| file.messages().next());
        let message = message.ok_or_else(|| {
            SchemaError::schema("Protobuf schema: the file defines no message; add one")
        })?;
        let own = pool.files().filter(|file| !file.name().starts_with("google/protobuf/"));
        let has_required = own.flat_map(|file| all_messages(&file)).any(|message| {
            message.fields().any(|field| field.cardinality() == Cardinality::Required)
        });
        let prefix = prefix(&message);
        Ok(ProtobufFormat { pool, message, prefix, has_required })
    }

    /// Selects another message of the file, by its full name or its name in the file's package.
    pub(crate) fn with_message(&self, name: &str) -> Result<ProtobufFormat, SchemaError> {
        let file = self.message.parent_file();
        let full_name = format!("{}.{name}", file.package_name());
        let known = all_messages(&file);
        let message = known.iter().find(|message| message.full_name() == name);
        let message = message.or_else(|| known.iter().find(|m| m.full_name() == full_name));
        let Some(message) = message.cloned() else {
            let names: Vec<&str> = known.iter().map(MessageDescriptor::full_name).collect();
            return Err(SchemaError::config(format!(
                "the schema's file does not define the message {name}, only {}",
                names.join(", ")
            )));
        };
        let (pool, prefix) = (self.pool.clone(), prefix(&message));
        Ok(ProtobufFormat { pool, message, prefix, has_required: self.has_required })
    }

    pub(crate) fn record_name(&self) -> Option<&str> {
        Some(self.message.full_name())
    }

    /// Appends the message of a JSON text in Protobuf's JSON mapping.
    pub(crate) fn encode_json_text(
        &self,
        json: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SchemaError> {
        let mut parser = serde_json::Deserializer::from_slice(json);
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut parser, &mut track);
        let message = DynamicMessage::deserialize(self.message.clone(), tracked).map_err(|e| {
            if e.is_syntax() || e.is_eof() {
                return not_json(&e);
            }
            SchemaError::value(explain(&self.message, &track.path(), json, &e))
        })?;
        parser.end().map_err(|e| not_json(&e))?;
        if self.has_required {
            missing_required(&message, &ValuePath::Root).map_err(SchemaError::value)?;
        }
        out.extend_from_slice(&self.prefix);
        append(&message, out)
    }

    /// Appends a message of the application. The schema's file has to define its type.
    fn encode<M: ReflectMessage>(&self, message: &M, out: &mut Vec<u8>) -> Result<(), SchemaError> {
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        if name == self.message.full_name() {
            out.extend_from_slice(&self.prefix);
            return append(message, out);
        }
        let known = self.pool.get_message_by_name(name);
        let known = known.filter(|known| known.parent_file().name() == FILE_NAME);
        let known = known.ok_or_else(|| {
            SchemaError::value(format!("the schema's file does not define the message {name}"))
        })?;
        out.extend_from_slice(&prefix(&known));
        append(message, out)
    }
}

fn append(message: &impl Message, out: &mut Vec<u8>) -> Result<(), SchemaError> {
    message.encode(out).map_err(|e| SchemaError::value(format!("the message is too large: {e}")))
}

/// Returns the index of a message as it stands in the wire format.
fn prefix(message: &MessageDescriptor) -> Vec<u8> {
    let mut indexes = Vec::new();
    let mut current = message.clone();
    loop {
        let parent = current.parent_message();
        let siblings: Vec<MessageDescriptor> = match &parent {
            Some(parent) => parent.child_messages().collect(),
            None => current.parent_file().messages().collect(),
        };
        // As in Java, only messages of the text count, not the entries of maps.
        let siblings = siblings.iter().filter(|sibling| !sibling.is_map_entry());
        let before = siblings.take_while(|sibling| **sibling != current).count();
        indexes.insert(0, i32::try_from(before).unwrap_or(i32::MAX));
        match parent {
            Some(parent) => current = parent,
            None => break,
        }
    }
    let mut out = Vec::new();
    put_message_indexes(&mut out, &indexes);
    out
}

/// Returns the messages that a file defines, with those inside others.
fn all_messages(file: &FileDescriptor) -> Vec<MessageDescriptor> {
    let mut messages: Vec<MessageDescriptor> = file.messages().collect();
    let mut next = 0;
    while let Some(message) = messages.get(next) {
        let children: Vec<_> = message.child_messages().filter(|m| !m.is_map_entry()).collect();
        messages.extend(children);
        next += 1;
    }
    messages
}

schema_serializer! {
    /// Serializes Protobuf messages: types of `prost` with `prost-reflect`'s `ReflectMessage`, and
    /// its `DynamicMessage`.
    ///
    /// The schema is the text of the .proto file that defines the message, or the file of a
    /// registered schema. Each import except Google's and Confluent's own types is a reference of
    /// the schema, by the path of the import. Before each message stands its index in the file.
    ///
    /// ```no_run
    /// use ottla::serializer::VoidSerializer;
    /// use ottla::{Producer, Properties, TypedRecord};
    /// use ottla_schema::{
    ///     ProtobufSerializer, RecordPart, Schema, SchemaRegistryClient, SchemaType,
    /// };
    ///
    /// // `order` implements `ReflectMessage`, for example by prost-reflect-build.
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let order = prost_reflect::DescriptorPool::global();
    /// # let order = order.get_message_by_name("google.protobuf.Timestamp").unwrap();
    /// # let order = prost_reflect::DynamicMessage::new(order);
    /// let mut properties = Properties::new();
    /// properties.set("bootstrap.servers", "localhost:9092")?;
    /// properties.set("schema.registry.url", "http://localhost:8081")?;
    /// let registry = SchemaRegistryClient::new(&properties)?;
    /// let text = r#"syntax = "proto3"; package shop; message Order { int64 id = 1; }"#;
    /// let schema = Schema::new(SchemaType::Protobuf, text);
    /// let orders = ProtobufSerializer::new(&registry, RecordPart::Value, schema)?;
    /// let producer = Producer::builder().properties(properties).build()?;
    /// let typed = producer.typed(VoidSerializer, orders);
    /// typed.send(TypedRecord::new("orders", &(), &order))?.wait()?;
    /// # Ok(()) }
    /// ```
    ProtobufSerializer, Protobuf, [M: ReflectMessage] M, ProtobufFormat::encode
}

message_selection!(
    ProtobufSerializer,
    "Messages of any type in the file can be serialized. The selected one gives the name of \
     the subject for the strategies `RecordNameStrategy` and `TopicRecordNameStrategy`."
);
