//! Producers and topic handles of typed keys and values.

use std::fmt;
use std::sync::Arc;

use super::{Producer, Topic};
use crate::delivery::result::{Delivery, RecordMetadata};
use crate::error::{Error, ErrorKind};
use crate::record::serializer::Serializer;
use crate::record::{Header, Record};

/// A record with a typed key and a typed value, for a [`TypedProducer`] or a [`TypedTopic`].
///
/// ```
/// use ottla::{Header, TypedRecord};
///
/// let headers = [Header::new("trace-id", "42")];
/// let record = TypedRecord::new("orders", &7_u64, "3 apples").headers(&headers).partition(0);
/// ```
#[derive(Debug)]
pub struct TypedRecord<'a, K: ?Sized, V: ?Sized> {
    /// Everything except the key and the value.
    record: Record<'a>,
    key: &'a K,
    value: &'a V,
}

impl<K: ?Sized, V: ?Sized> Clone for TypedRecord<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized, V: ?Sized> Copy for TypedRecord<'_, K, V> {}

impl<'a, K: ?Sized, V: ?Sized> TypedRecord<'a, K, V> {
    /// Creates a record. Its key or value is null if its serializer says so, as
    /// [`NullableSerializer`](crate::serializer::NullableSerializer) does for `None` and
    /// [`VoidSerializer`](crate::serializer::VoidSerializer) does for `()`.
    pub fn new(topic: &'a str, key: &'a K, value: &'a V) -> TypedRecord<'a, K, V> {
        TypedRecord { record: Record::to(topic), key, value }
    }

    /// Sets the headers; see [`Record::headers`].
    #[must_use]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.record = self.record.headers(headers);
        self
    }

    /// Sets the partition; see [`Record::partition`].
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.record = self.record.partition(partition);
        self
    }

    /// Sets the timestamp in milliseconds since the Unix epoch; see [`Record::timestamp`].
    #[must_use]
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.record = self.record.timestamp(ms);
        self
    }

    /// Sets the number that identifies this record in the delivery handler; see
    /// [`Record::token`].
    #[must_use]
    pub fn token(mut self, token: u64) -> Self {
        self.record = self.record.token(token);
        self
    }
}

/// A key and a value as bytes; `None` for null.
struct SerializedPair {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl SerializedPair {
    /// Returns the record that is sent.
    fn record<'r, K: ?Sized, V: ?Sized>(&'r self, typed: &TypedRecord<'r, K, V>) -> Record<'r> {
        typed.record.maybe_key(self.key.as_ref()).maybe_value(self.value.as_ref())
    }
}

struct Serializers<KS, VS> {
    key: KS,
    value: VS,
}

impl<KS, VS> Serializers<KS, VS> {
    fn serialize<K: ?Sized, V: ?Sized>(
        &self,
        record: &TypedRecord<'_, K, V>,
    ) -> Result<SerializedPair, Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let topic = record.record.topic;
        Ok(SerializedPair {
            key: serialize_with(&self.key, "key", topic, record.key)?,
            value: serialize_with(&self.value, "value", topic, record.value)?,
        })
    }
}

/// Serializes a key or a value; `part` says which, for the error.
fn serialize_with<T: ?Sized>(
    serializer: &impl Serializer<T>,
    part: &str,
    topic: &str,
    value: &T,
) -> Result<Option<Vec<u8>>, Error> {
    let mut out = Vec::new();
    match serializer.serialize(topic, value, &mut out) {
        Ok(true) => Ok(Some(out)),
        Ok(false) => Ok(None),
        Err(e) => {
            let message = format!("the {part} serializer failed for a record for topic {topic}");
            Err(Error::new(ErrorKind::Serialization, message).with_source(e))
        }
    }
}

/// A producer with a serializer for keys and one for values. [`Producer::typed`] creates it.
///
/// Its methods are those of [`Producer`], for [`TypedRecord`]s. They fail with
/// [`ErrorKind::Serialization`] if a serializer fails. It is cheap to clone.
///
/// ```no_run
/// use ottla::serializer::{BigEndianSerializer, BytesSerializer, NullableSerializer};
/// use ottla::{Producer, TypedRecord};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let customers = producer.typed(BigEndianSerializer, NullableSerializer(BytesSerializer));
/// customers.send(TypedRecord::new("customers", &7_u64, &Some("Ada")))?;
/// let tombstone = TypedRecord::new("customers", &8_u64, &None::<&str>);
/// customers.send(tombstone)?.wait()?;
/// # Ok(()) }
/// ```
pub struct TypedProducer<KS, VS> {
    producer: Producer,
    serializers: Arc<Serializers<KS, VS>>,
}

/// A handle of a topic, with a serializer for keys and one for values. [`TypedProducer::topic`]
/// creates it.
///
/// Its methods are those of [`Topic`], for [`TypedRecord`]s. It is cheap to clone.
///
/// A struct that holds a handle names the types of both serializers. The serializer of a closure
/// ([`from_fn`](crate::serializer::from_fn)) has no name, so use a type of your own there:
///
/// ```
/// use ottla::serializer::{BigEndianSerializer, Serializer};
/// use ottla::{BoxError, TypedTopic};
///
/// /// Writes a value as JSON.
/// struct Json;
///
/// impl<T: serde::Serialize> Serializer<T> for Json {
///     fn serialize(&self, _: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
///         serde_json::to_writer(out, value)?;
///         Ok(true)
///     }
/// }
///
/// struct Orders {
///     topic: TypedTopic<BigEndianSerializer, Json>,
/// }
/// ```
///
/// ```no_run
/// use ottla::Producer;
/// use ottla::serializer::{BigEndianSerializer, BytesSerializer};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let orders = producer.typed(BigEndianSerializer, BytesSerializer).topic("orders")?;
/// for number in 0..1000_u64 {
///     orders.enqueue(orders.record(&number, "3 apples").token(number))?;
/// }
/// # Ok(()) }
/// ```
pub struct TypedTopic<KS, VS> {
    topic: Topic,
    serializers: Arc<Serializers<KS, VS>>,
}

impl Producer {
    /// Returns a producer with a serializer for keys and one for values. It shares everything with
    /// this one. The module [`serializer`](crate::serializer) has an overview.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ottla::Error> {
    /// use ottla::serializer::{BigEndianSerializer, BytesSerializer};
    /// use ottla::{Producer, TypedRecord};
    ///
    /// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
    /// let typed = producer.typed(BigEndianSerializer, BytesSerializer);
    /// typed.send(TypedRecord::new("orders", &7_u64, "3 apples"))?.wait()?;
    /// # Ok(()) }
    /// ```
    pub fn typed<KS, VS>(&self, key_serializer: KS, value_serializer: VS) -> TypedProducer<KS, VS> {
        let serializers = Serializers { key: key_serializer, value: value_serializer };
        TypedProducer { producer: self.clone(), serializers: Arc::new(serializers) }
    }
}

impl<KS, VS> TypedProducer<KS, VS> {
    /// Returns the producer without serializers.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Returns a handle of a topic with the same serializers.
    ///
    /// # Errors
    /// The errors of [`Producer::topic`].
    pub fn topic(&self, name: impl AsRef<str>) -> Result<TypedTopic<KS, VS>, Error> {
        let topic = self.producer.topic(name)?;
        Ok(TypedTopic { topic, serializers: self.serializers.clone() })
    }
}

impl<KS, VS> TypedTopic<KS, VS> {
    /// Returns the handle without serializers.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Creates a record for this topic.
    pub fn record<'a, K: ?Sized, V: ?Sized>(
        &'a self,
        key: &'a K,
        value: &'a V,
    ) -> TypedRecord<'a, K, V> {
        TypedRecord::new(self.topic.name(), key, value)
    }
}

/// Defines the `send` methods of a typed type by those of its untyped one.
macro_rules! typed_send_methods {
    ($typed:ident, $untyped:ident, $field:ident) => {
        impl<KS, VS> Clone for $typed<KS, VS> {
            fn clone(&self) -> Self {
                $typed { $field: self.$field.clone(), serializers: self.serializers.clone() }
            }
        }

        impl<KS, VS> fmt::Debug for $typed<KS, VS> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($typed)).field(&self.$field).finish()
            }
        }

        impl<KS, VS> $typed<KS, VS> {
            fn serialize<K: ?Sized, V: ?Sized>(
                &self,
                record: &TypedRecord<'_, K, V>,
            ) -> Result<SerializedPair, Error>
            where
                KS: Serializer<K>,
                VS: Serializer<V>,
            {
                let pair = self.serializers.serialize(record);
                pair.inspect_err(|e| self.$field.notify_interceptors(&record.record, e))
            }

            typed_send_methods! { @delivery $untyped, $field,
                #[doc = concat!("Like [`", stringify!($untyped), "::send`].")]
                send;
                #[doc = concat!("Like [`", stringify!($untyped), "::try_send`].")]
                try_send;
                #[doc = concat!("Like [`", stringify!($untyped), "::send_async`].")]
                send_async, async, await;
            }
            typed_send_methods! { @unit $untyped, $field,
                #[doc = concat!("Like [`", stringify!($untyped), "::enqueue`].")]
                enqueue;
                #[doc = concat!("Like [`", stringify!($untyped), "::try_enqueue`].")]
                try_enqueue;
                #[doc = concat!("Like [`", stringify!($untyped), "::enqueue_async`].")]
                enqueue_async, async, await;
            }
            typed_send_methods! { @callback $untyped, $field,
                #[doc = concat!("Like [`", stringify!($untyped), "::send_with_callback`].")]
                send_with_callback;
                #[doc = concat!("Like [`", stringify!($untyped), "::try_send_with_callback`].")]
                try_send_with_callback;
                #[doc = concat!("Like [`", stringify!($untyped), "::send_with_callback_async`].")]
                send_with_callback_async, async, await;
            }
        }
    };
    (@delivery $untyped:ident, $field:ident, $($rest:tt)*) => {
        typed_send_methods! { @plain Delivery, $untyped, $field, $($rest)* }
    };
    (@unit $untyped:ident, $field:ident, $($rest:tt)*) => {
        typed_send_methods! { @plain (), $untyped, $field, $($rest)* }
    };
    (@plain $output:ty, $untyped:ident, $field:ident,
        $(#[$doc:meta] $method:ident $(, $async:ident, $await:ident)?;)*
    ) => {$(
        #[$doc]
        ///
        /// # Errors
        /// The errors of that method; [`ErrorKind::Serialization`] if a serializer fails.
        pub $($async)? fn $method<K: ?Sized, V: ?Sized>(
            &self,
            record: TypedRecord<'_, K, V>,
        ) -> Result<$output, Error>
        where
            KS: Serializer<K>,
            VS: Serializer<V>,
        {
            let pair = self.serialize(&record)?;
            self.$field.$method(pair.record(&record))$(.$await)?
        }
    )*};
    (@callback $untyped:ident, $field:ident,
        $(#[$doc:meta] $method:ident $(, $async:ident, $await:ident)?;)*
    ) => {$(
        #[$doc]
        ///
        /// # Errors
        /// The errors of that method; [`ErrorKind::Serialization`] if a serializer fails. The
        /// callback receives them, too.
        pub $($async)? fn $method<K: ?Sized, V: ?Sized>(
            &self,
            record: TypedRecord<'_, K, V>,
            callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
        ) -> Result<(), Error>
        where
            KS: Serializer<K>,
            VS: Serializer<V>,
        {
            match self.serialize(&record) {
                Ok(pair) => self.$field.$method(pair.record(&record), callback)$(.$await)?,
                Err(e) => {
                    callback(Err(e.clone()));
                    Err(e)
                }
            }
        }
    )*};
}

typed_send_methods!(TypedProducer, Producer, producer);
typed_send_methods!(TypedTopic, Topic, topic);
