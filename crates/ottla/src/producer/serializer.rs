//! Typed keys and values: a [`Serializer`] turns a value into bytes, and a [`TypedProducer`] holds
//! one for keys and one for values.

use super::{BoxError, Delivery, Producer, Record, SendError};
use crate::error::{Error, ErrorKind};

/// Turns values of a type into bytes (Kafka's `Serializer`).
///
/// A closure is a serializer, too, as a [`FnSerializer`].
///
/// ```
/// use ottla::{BoxError, Serializer};
///
/// struct Order {
///     item: String,
///     count: u32,
/// }
///
/// /// Writes an order as `item;count`.
/// struct OrderSerializer;
///
/// impl Serializer<Order> for OrderSerializer {
///     fn serialize(
///         &self,
///         _topic: &str,
///         order: &Order,
///         out: &mut Vec<u8>,
///     ) -> Result<bool, BoxError> {
///         if order.item.contains(';') {
///             return Err(format!("invalid item {:?}", order.item).into());
///         }
///         out.extend_from_slice(format!("{};{}", order.item, order.count).as_bytes());
///         Ok(true)
///     }
/// }
/// ```
pub trait Serializer<T: ?Sized>: Send + Sync {
    /// Appends the bytes of `value` to `out`. Returns false for null; `out` is then ignored.
    ///
    /// # Errors
    /// Any error. `send` then fails with [`ErrorKind::Serialization`] and sends nothing.
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError>;
}

/// Serializes strings as UTF-8, and byte strings unchanged.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesSerializer;

impl<T: AsRef<[u8]> + ?Sized> Serializer<T> for BytesSerializer {
    fn serialize(&self, _: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        out.extend_from_slice(value.as_ref());
        Ok(true)
    }
}

/// Serializes numbers in big-endian byte order, as Java's `IntegerSerializer`, `LongSerializer`,
/// `ShortSerializer`, `FloatSerializer` and `DoubleSerializer` do.
#[derive(Debug, Clone, Copy, Default)]
pub struct BigEndianSerializer;

macro_rules! impl_big_endian {
    ($($ty:ty),*) => {$(
        impl Serializer<$ty> for BigEndianSerializer {
            fn serialize(&self, _: &str, value: &$ty, out: &mut Vec<u8>) -> Result<bool, BoxError> {
                out.extend_from_slice(&value.to_be_bytes());
                Ok(true)
            }
        }
    )*};
}
impl_big_endian!(i16, i32, i64, f32, f64);

/// Serializes `None` as null, and `Some` with the inner serializer.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullableSerializer<S>(pub S);

impl<T, S: Serializer<T>> Serializer<Option<T>> for NullableSerializer<S> {
    fn serialize(
        &self,
        topic: &str,
        value: &Option<T>,
        out: &mut Vec<u8>,
    ) -> Result<bool, BoxError> {
        match value {
            Some(value) => self.0.serialize(topic, value, out),
            None => Ok(false),
        }
    }
}

/// Serializes with a function. Its arguments and its result are those of [`Serializer::serialize`].
#[derive(Debug, Clone, Copy)]
pub struct FnSerializer<F>(pub F);

impl<F, T: ?Sized> Serializer<T> for FnSerializer<F>
where
    F: Fn(&str, &T, &mut Vec<u8>) -> Result<bool, BoxError> + Send + Sync,
{
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        (self.0)(topic, value, out)
    }
}

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
    ) -> Result<Delivery, SendError>
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
    ) -> Result<Delivery, SendError>
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
