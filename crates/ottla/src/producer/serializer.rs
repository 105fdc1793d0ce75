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
pub struct Plain;

impl<T: AsRef<[u8]> + ?Sized> Serializer<T> for Plain {
    fn serialize(&self, _: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        out.extend_from_slice(value.as_ref());
        Ok(true)
    }
}

/// Integers as Java's `IntegerSerializer` and `LongSerializer` write them: big-endian.
#[derive(Debug, Clone, Copy, Default)]
pub struct BigEndian;

macro_rules! big_endian {
    ($($ty:ty),*) => {$(
        impl Serializer<$ty> for BigEndian {
            fn serialize(&self, _: &str, value: &$ty, out: &mut Vec<u8>) -> Result<bool, BoxError> {
                out.extend_from_slice(&value.to_be_bytes());
                Ok(true)
            }
        }
    )*};
}
big_endian!(i16, i32, i64, f32, f64);

/// `None` is null, everything else as the inner serializer has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nullable<S>(pub S);

impl<T, S: Serializer<T>> Serializer<Option<T>> for Nullable<S> {
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
pub struct With<F>(pub F);

impl<F, T: ?Sized> Serializer<T> for With<F>
where
    F: Fn(&str, &T, &mut Vec<u8>) -> Result<bool, BoxError> + Send + Sync,
{
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        (self.0)(topic, value, out)
    }
}

/// What a serializer made; `None` for null.
type Bytes = Option<Vec<u8>>;

/// A producer of typed records. Made by [`Producer::typed`].
#[derive(Debug, Clone)]
pub struct TypedProducer<KS, VS> {
    producer: Producer,
    key: KS,
    value: VS,
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
        TypedProducer { producer: self.clone(), key, value }
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
    ) -> Result<(Bytes, Bytes), Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let key = one(&self.key, "key", topic, key);
        let both = key.and_then(|k| Ok((k, one(&self.value, "value", topic, value)?)));
        both.inspect_err(|e| self.producer.refused(topic, None, e))
    }
}

fn one<T: ?Sized>(
    s: &impl Serializer<T>,
    what: &str,
    topic: &str,
    value: &T,
) -> Result<Bytes, Error> {
    let mut out = Vec::new();
    match s.serialize(topic, value, &mut out) {
        Ok(true) => Ok(Some(out)),
        Ok(false) => Ok(None),
        Err(e) => {
            let message = format!("the {what} serializer refused a record for {topic}: {e}");
            Err(Error::new(ErrorKind::Serialization, message).caused_by(e))
        }
    }
}
