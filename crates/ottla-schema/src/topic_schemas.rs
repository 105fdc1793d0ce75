//! The schema that a serializer uses for a topic: registered, looked up or the latest version.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::SchemaError;
#[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
use crate::error::SchemaErrorKind;
use crate::parsed::ParsedSchema;
use crate::registry::{Lookups, SchemaRegistryClient, Subject};
use crate::schema::{RegisteredSchema, Schema, Version};
use crate::subject::RecordPart;
use crate::wire::put_schema_id;

/// Where the schema comes from.
enum SchemaSource {
    /// The application's schema: it is registered or looked up under the subject of each topic.
    /// With `use.latest.version` or `use.schema.id`, only its name matters.
    Own { schema: Schema, parsed: Arc<ParsedSchema> },
    /// A version that is the same for each topic.
    Registered(TopicSchema),
    /// The latest version of each topic's subject.
    Latest,
}

/// The schema for a topic.
#[derive(Clone)]
pub(crate) struct TopicSchema {
    pub(crate) id: i32,
    pub(crate) parsed: Arc<ParsedSchema>,
    /// When the registry is to be asked again.
    expires_at: Option<Duration>,
}

/// The schemas of a serializer. Serializers share it with the threads of their lookups.
pub(crate) struct TopicSchemas {
    client: SchemaRegistryClient,
    part: RecordPart,
    source: SchemaSource,
    /// The message of a Protobuf file, if it is not the first one.
    message: Option<String>,
    by_topic: Arc<Lookups<String, TopicSchema>>,
}

impl TopicSchemas {
    /// Parses the application's schema. Its references are requested from the registry.
    pub(crate) fn own(
        client: &SchemaRegistryClient,
        part: RecordPart,
        schema: Schema,
    ) -> Result<Arc<TopicSchemas>, SchemaError> {
        let parsed = Arc::new(parse(client, &schema)?);
        Ok(TopicSchemas::new(client, part, SchemaSource::Own { schema, parsed }))
    }

    /// Uses a registered schema for every topic.
    pub(crate) fn registered(
        client: &SchemaRegistryClient,
        part: RecordPart,
        registered: &RegisteredSchema,
    ) -> Result<Arc<TopicSchemas>, SchemaError> {
        let parsed = Arc::new(parse(client, &registered.schema)?);
        let schema = TopicSchema { id: registered.id, parsed, expires_at: None };
        Ok(TopicSchemas::new(client, part, SchemaSource::Registered(schema)))
    }

    /// Uses the latest version of each topic's subject.
    pub(crate) fn latest(client: &SchemaRegistryClient, part: RecordPart) -> Arc<TopicSchemas> {
        TopicSchemas::new(client, part, SchemaSource::Latest)
    }

    fn new(
        client: &SchemaRegistryClient,
        part: RecordPart,
        source: SchemaSource,
    ) -> Arc<TopicSchemas> {
        let by_topic = Arc::default();
        Arc::new(TopicSchemas { client: client.clone(), part, source, message: None, by_topic })
    }

    /// Returns the same with another message of the Protobuf file.
    #[cfg(feature = "protobuf")]
    pub(crate) fn with_message(&self, name: String) -> Result<Arc<TopicSchemas>, SchemaError> {
        let source = match &self.source {
            SchemaSource::Own { schema, parsed } => {
                let parsed = Arc::new(parsed.with_message(&name)?);
                SchemaSource::Own { schema: schema.clone(), parsed }
            }
            SchemaSource::Registered(TopicSchema { id, parsed, expires_at }) => {
                let parsed = Arc::new(parsed.with_message(&name)?);
                SchemaSource::Registered(TopicSchema { id: *id, parsed, expires_at: *expires_at })
            }
            SchemaSource::Latest => SchemaSource::Latest,
        };
        let (client, by_topic) = (self.client.clone(), Arc::default());
        Ok(Arc::new(TopicSchemas {
            client,
            part: self.part,
            source,
            message: Some(name),
            by_topic,
        }))
    }

    /// Returns the schema of a topic. Blocks for the registry the first time.
    pub(crate) fn get(&self, topic: &str) -> Result<TopicSchema, SchemaError> {
        if let Some(known) = self.get_known(topic) {
            return Ok(known);
        }
        self.by_topic.get_or_look_up(&topic.to_owned(), || self.look_up(topic))
    }

    /// Like [`get`](Self::get), without blocking.
    pub(crate) async fn get_async(
        self: &Arc<Self>,
        topic: &str,
    ) -> Result<TopicSchema, SchemaError> {
        if let Some(known) = self.get_known(topic) {
            return Ok(known);
        }
        let (this, owned) = (self.clone(), topic.to_owned());
        let look_up = move || this.look_up(&owned);
        self.by_topic.get_or_look_up_async(&topic.to_owned(), look_up).await
    }

    fn get_known(&self, topic: &str) -> Option<TopicSchema> {
        if let SchemaSource::Registered(schema) = &self.source {
            return Some(schema.clone());
        }
        let known = self.by_topic.get(topic)?;
        if known.expires_at.is_some_and(|at| self.client.now() >= at) {
            self.by_topic.remove_known(&topic.to_owned());
            return None;
        }
        Some(known)
    }

    fn look_up(&self, topic: &str) -> Result<TopicSchema, SchemaError> {
        let settings = self.client.serializer_settings();
        let own = match &self.source {
            SchemaSource::Own { schema, parsed } => Some((schema, parsed)),
            SchemaSource::Registered(schema) => return Ok(schema.clone()),
            SchemaSource::Latest => None,
        };
        if let Some(id) = settings.use_schema_id {
            return self.parsed(&*self.client.schema_by_id(id)?);
        }
        let record_name = own.and_then(|(_, parsed)| parsed.record_name());
        let subject = self.subject(topic, record_name.or(self.message.as_deref()))?;
        let Some((schema, parsed)) = own.filter(|_| !settings.use_latest_version) else {
            let latest = self.client.version(subject.as_str(), Version::Latest)?;
            let mut schema = self.parsed(&latest).map_err(|e| e.of_subject(&subject))?;
            schema.expires_at = settings.latest_ttl.map(|ttl| self.client.now() + ttl);
            return Ok(schema);
        };
        let request = match settings.auto_register {
            true => self.client.register_request(subject, schema),
            false => self.client.look_up_request(subject, schema),
        };
        let id = self.client.get(&request)?.id;
        Ok(TopicSchema { id, parsed: parsed.clone(), expires_at: None })
    }

    fn subject(&self, topic: &str, record_name: Option<&str>) -> Result<Subject, SchemaError> {
        let settings = self.client.serializer_settings();
        let (strategy, name) = match self.part {
            RecordPart::Key => (settings.key_strategy, "key.subject.name.strategy"),
            RecordPart::Value => (settings.value_strategy, "value.subject.name.strategy"),
        };
        strategy.subject(topic, self.part, record_name).ok_or_else(|| {
            SchemaError::config(format!(
                "{name}={strategy:?} needs a schema of the application with a name: an Avro \
                 record, a Protobuf message or a JSON Schema with a title"
            ))
        })
    }

    fn parsed(&self, registered: &RegisteredSchema) -> Result<TopicSchema, SchemaError> {
        let mut parsed = parse(&self.client, &registered.schema)?;
        if let Some(message) = &self.message {
            parsed = parsed.with_message(message)?;
        }
        Ok(TopicSchema { id: registered.id, parsed: Arc::new(parsed), expires_at: None })
    }
}

impl TopicSchema {
    /// Appends the schema's id and a value. `encode` gets what follows the id.
    pub(crate) fn serialize(
        &self,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&ParsedSchema, &mut Vec<u8>) -> Result<(), SchemaError>,
    ) -> Result<(), SchemaError> {
        put_schema_id(out, self.id);
        encode(&self.parsed, out)
    }

    /// Returns the error of a schema that has another type than the serializer needs.
    #[cfg(any(feature = "avro", feature = "protobuf", feature = "json-schema"))]
    #[cfg_attr(not(all(feature = "avro", feature = "protobuf")), allow(dead_code))]
    pub(crate) fn wrong_type(parsed: &ParsedSchema, expected: &str) -> SchemaError {
        SchemaError::new(
            SchemaErrorKind::InvalidSchema,
            format!(
                "the registered schema has the type {}; this serializer needs {expected}",
                parsed.schema_type()
            ),
        )
    }
}

fn parse(client: &SchemaRegistryClient, schema: &Schema) -> Result<ParsedSchema, SchemaError> {
    ParsedSchema::new(schema, &client.resolve_references(schema)?)
}

impl fmt::Debug for TopicSchemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            SchemaSource::Own { schema, .. } => format!("{schema:?}"),
            SchemaSource::Registered(schema) => format!("schema with id {}", schema.id),
            SchemaSource::Latest => "the latest version".to_owned(),
        };
        f.debug_struct("TopicSchemas")
            .field("client", &self.client)
            .field("part", &self.part)
            .field("source", &source)
            .finish_non_exhaustive()
    }
}
