//! Typed keys and values: a serializer turns them into bytes, a [`TypedProducer`] holds two of them.

use super::{BoxError, Delivery, Producer, Record, SendError};
use crate::error::{Error, ErrorKind};

/// Turns a value into bytes.
pub trait Serializer<T: ?Sized>: Send + Sync {
    /// Appends the bytes of `value` to `out`; false for null.
    ///
    /// # Errors
    /// Anything; `send` fails with it, and nothing is sent.
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError>;
}

/// Strings as UTF-8, byte strings as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesSerializer;

impl<T: AsRef<[u8]> + ?Sized> Serializer<T> for BytesSerializer {
    fn serialize(&self, _: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        out.extend_from_slice(value.as_ref());
        Ok(true)
    }
}

/// Integers as Java's `IntegerSerializer` and `LongSerializer` write them: big-endian.
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

/// `None` is null, everything else as the inner serializer has it.
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

/// A function as a serializer.
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

/// What a serializer made; `None` for null.
type SerializedBytes = Option<Vec<u8>>;

/// A producer of typed records. Made by [`Producer::typed`].
#[derive(Debug, Clone)]
pub struct TypedProducer<KS, VS> {
    producer: Producer,
    key_serializer: KS,
    value_serializer: VS,
}

impl Producer {
    /// This producer, with serializers for keys and values.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ottla::Error> {
    /// use ottla::{BigEndian, Plain, Producer};
    /// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
    /// let typed = producer.typed(BigEndian, Plain);
    /// typed.send("orders", &7_i64, "3 apples")?.wait()?;
    /// # Ok(()) }
    /// ```
    pub fn typed<KS, VS>(&self, key: KS, value: VS) -> TypedProducer<KS, VS> {
        TypedProducer { producer: self.clone(), key_serializer: key, value_serializer: value }
    }
}

impl<KS, VS> TypedProducer<KS, VS> {
    /// Serializes key and value and sends them; see [`Producer::send`].
    ///
    /// # Errors
    /// A serializer's, as [`ErrorKind::Serialization`], or those of [`Producer::send`].
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

    /// As [`send`](Self::send), without blocking; see [`Producer::send_async`].
    ///
    /// # Errors
    /// As [`send`](Self::send).
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

    /// The untyped producer.
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
        let key = serialize_with(&self.key_serializer, "key", topic, key);
        let both = key
            .and_then(|k| Ok((k, serialize_with(&self.value_serializer, "value", topic, value)?)));
        both.inspect_err(|e| self.producer.notify_interceptors(topic, None, e))
    }
}

fn serialize_with<T: ?Sized>(
    s: &impl Serializer<T>,
    what: &str,
    topic: &str,
    value: &T,
) -> Result<SerializedBytes, Error> {
    let mut out = Vec::new();
    match s.serialize(topic, value, &mut out) {
        Ok(true) => Ok(Some(out)),
        Ok(false) => Ok(None),
        Err(e) => {
            let message = format!("the {what} serializer refused a record for {topic}: {e}");
            Err(Error::new(ErrorKind::Serialization, message).with_source(e))
        }
    }
}
