//! A producer of typed keys and values.

use super::{Delivery, Producer};
use crate::error::{Error, ErrorKind};
use crate::record::Record;
use crate::record::serializer::Serializer;

/// A serialized key or value; `None` for null.
type SerializedBytes = Option<Vec<u8>>;

/// A producer with a serializer for keys and one for values. [`Producer::typed`] creates it.
///
/// ```no_run
/// use ottla::{BigEndianSerializer, BytesSerializer, NullableSerializer, Producer};
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let customers = producer.typed(BigEndianSerializer, NullableSerializer(BytesSerializer));
/// customers.send("customers", &7_i64, &Some("Ada"))?;
/// let tombstone = customers.send("customers", &8_i64, &None::<&str>)?;
/// tombstone.wait()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct TypedProducer<KS, VS> {
    producer: Producer,
    key_serializer: KS,
    value_serializer: VS,
}

impl Producer {
    /// Returns a producer with a serializer for keys and one for values. It shares everything with
    /// this one.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ottla::Error> {
    /// use ottla::{BigEndianSerializer, BytesSerializer, Producer};
    /// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
    /// let typed = producer.typed(BigEndianSerializer, BytesSerializer);
    /// typed.send("orders", &7_i64, "3 apples")?.wait()?;
    /// # Ok(()) }
    /// ```
    pub fn typed<KS, VS>(&self, key_serializer: KS, value_serializer: VS) -> TypedProducer<KS, VS> {
        TypedProducer { producer: self.clone(), key_serializer, value_serializer }
    }
}

impl<KS, VS> TypedProducer<KS, VS> {
    /// Serializes the key and the value, and sends them; see [`Producer::send`].
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`] if a serializer fails, and the errors of [`Producer::send`].
    pub fn send<K: ?Sized, V: ?Sized>(
        &self,
        topic: &str,
        key: &K,
        value: &V,
    ) -> Result<Delivery, Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let (k, v) = self.serialize(topic, key, value)?;
        self.producer.send(Record::to(topic).maybe_key(k.as_deref()).maybe_value(v.as_deref()))
    }

    /// Like [`send`](Self::send), without blocking; see [`Producer::send_async`].
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_async<K: ?Sized, V: ?Sized>(
        &self,
        topic: &str,
        key: &K,
        value: &V,
    ) -> Result<Delivery, Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let (k, v) = self.serialize(topic, key, value)?;
        let record = Record::to(topic).maybe_key(k.as_deref()).maybe_value(v.as_deref());
        self.producer.send_async(record).await
    }

    /// Returns the producer without serializers.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    fn serialize<K: ?Sized, V: ?Sized>(
        &self,
        topic: &str,
        key: &K,
        value: &V,
    ) -> Result<(SerializedBytes, SerializedBytes), Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let key_bytes = serialize_with(&self.key_serializer, "key", topic, key);
        let value_bytes = || serialize_with(&self.value_serializer, "value", topic, value);
        let both = key_bytes.and_then(|key_bytes| Ok((key_bytes, value_bytes()?)));
        both.inspect_err(|e| self.producer.notify_interceptors(topic, None, e))
    }
}

/// Serializes a key or a value; `part` says which, for the error.
fn serialize_with<T: ?Sized>(
    serializer: &impl Serializer<T>,
    part: &str,
    topic: &str,
    value: &T,
) -> Result<SerializedBytes, Error> {
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
