//! Serializers of typed keys and values.
//!
//! [`Producer::typed`](crate::Producer::typed) takes one for keys and one for values.
//!
//! | type | bytes |
//! |---|---|
//! | [`BytesSerializer`] | text as UTF-8, byte strings unchanged |
//! | [`BigEndianSerializer`] | numbers, as Java's serializers write them |
//! | [`NullableSerializer`] | null for `None` |
//! | [`VoidSerializer`] | always null, for records without a key |
//! | [`from_fn`] | what a function returns |
//! | [`FnSerializer`] | what a function appends to a buffer |

use super::BoxError;
#[cfg(doc)]
use crate::ErrorKind;

/// Turns values of a type into bytes (Kafka's `Serializer`).
///
/// [`from_fn`] and [`FnSerializer`] make serializers of closures.
///
/// ```
/// use ottla::BoxError;
/// use ottla::serializer::Serializer;
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
///
/// A Java consumer reads an unsigned number with the signed type of the same size.
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
impl_big_endian!(i8, i16, i32, i64, i128, u8, u16, u32, u64, u128, f32, f64);

/// Serializes `()` as null, for records without a key or a value (Java's `VoidSerializer`).
#[derive(Debug, Clone, Copy, Default)]
pub struct VoidSerializer;

impl Serializer<()> for VoidSerializer {
    fn serialize(&self, _: &str, _: &(), _: &mut Vec<u8>) -> Result<bool, BoxError> {
        Ok(false)
    }
}

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
///
/// ```
/// use ottla::serializer::FnSerializer;
///
/// let numbers = FnSerializer::new(|_topic, number: &u32, out| {
///     out.extend_from_slice(number.to_string().as_bytes());
///     Ok(true)
/// });
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FnSerializer<F> {
    function: F,
}

impl<F> FnSerializer<F> {
    /// Creates a serializer of `T`. Of a closure's arguments, only the value needs a type.
    pub fn new<T: ?Sized>(function: F) -> FnSerializer<F>
    where
        F: Fn(&str, &T, &mut Vec<u8>) -> Result<bool, BoxError> + Send + Sync,
    {
        FnSerializer { function }
    }
}

impl<F, T: ?Sized> Serializer<T> for FnSerializer<F>
where
    F: Fn(&str, &T, &mut Vec<u8>) -> Result<bool, BoxError> + Send + Sync,
{
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        (self.function)(topic, value, out)
    }
}

/// Returns a serializer that calls a function for the bytes of each value.
///
/// ```no_run
/// use ottla::serializer::{VoidSerializer, from_fn};
/// use ottla::{Producer, TypedRecord};
///
/// struct Order {
///     item: String,
/// }
///
/// # fn main() -> Result<(), ottla::Error> {
/// let producer = Producer::builder().bootstrap_servers("localhost:9092").build()?;
/// let orders = from_fn(|order: &Order| match order.item.as_str() {
///     "" => Err("an order without an item"),
///     item => Ok(item.as_bytes().to_vec()),
/// });
/// let typed = producer.typed(VoidSerializer, orders);
/// typed.send(TypedRecord::new("orders", &(), &Order { item: "apples".into() }))?.wait()?;
/// # Ok(()) }
/// ```
///
/// With `serde_json`, `from_fn(|order: &Order| serde_json::to_vec(order))` is enough. A struct that
/// holds the producer needs a serializer with a name: [`TypedTopic`](crate::TypedTopic) has an
/// example.
pub fn from_fn<T: ?Sized, E: Into<BoxError>>(
    function: impl Fn(&T) -> Result<Vec<u8>, E> + Send + Sync,
) -> impl Serializer<T> {
    FnSerializer::new(move |_: &str, value: &T, out: &mut Vec<u8>| {
        *out = function(value).map_err(Into::into)?;
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serialized<T: ?Sized>(serializer: &impl Serializer<T>, value: &T) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        serializer.serialize("t", value, &mut out).unwrap().then_some(out)
    }

    #[test]
    fn numbers_of_every_type_are_big_endian() {
        assert_eq!(serialized(&BigEndianSerializer, &7_u64), Some(vec![0, 0, 0, 0, 0, 0, 0, 7]));
        assert_eq!(serialized(&BigEndianSerializer, &-2_i16), Some(vec![0xff, 0xfe]));
        assert_eq!(serialized(&BigEndianSerializer, &1.0_f32), Some(vec![0x3f, 0x80, 0, 0]));
    }

    #[test]
    fn closures_infer_their_types() {
        let lengths = FnSerializer::new(|topic, value: &str, out| {
            out.push((topic.len() + value.len()) as u8);
            Ok(true)
        });
        assert_eq!(serialized(&lengths, "abc"), Some(vec![4]));
        let text = from_fn(|n: &u64| if *n == 0 { Err("zero") } else { Ok(vec![*n as u8]) });
        assert_eq!(serialized(&text, &9), Some(vec![9]));
        assert_eq!(text.serialize("t", &0, &mut Vec::new()).unwrap_err().to_string(), "zero");
    }

    #[test]
    fn null_differs_from_empty() {
        assert_eq!(serialized(&VoidSerializer, &()), None);
        assert_eq!(serialized(&NullableSerializer(BytesSerializer), &None::<&str>), None);
        assert_eq!(serialized(&NullableSerializer(BytesSerializer), &Some("")), Some(vec![]));
    }
}
