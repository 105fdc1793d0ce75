//! Typed keys and values: a [`Serializer`] turns a value into bytes.

use super::BoxError;

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
