//! How each field type stands on the wire, at a version.

use bytes::Bytes;

use super::{Reader, Version, Writer};
use crate::error::{DecodeError, DecodeErrorKind as Kind};
use crate::uuid::Uuid;

/// A value that a message can hold in a field.
pub trait Wire: Sized {
    /// Appends the value.
    fn encode(&self, w: &mut Writer, v: Version);
    /// Reads a value.
    fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError>;
    /// Whether the value is null; checked against the versions at which the field may be.
    fn is_null(&self) -> bool {
        false
    }
    /// A random value that `v` can carry.
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::TestRng, v: Version) -> Self;
}

/// A tagged field of a number this crate does not know, kept as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTaggedField {
    /// Its number.
    pub tag: u32,
    /// Its bytes.
    pub bytes: Bytes,
}

macro_rules! primitive {
    ($($ty:ident),*) => {$(
        impl Wire for $ty {
            #[inline]
            fn encode(&self, w: &mut Writer, _: Version) {
                w.$ty(*self);
            }
            #[inline]
            fn decode(r: &mut Reader<'_>, _: Version) -> Result<Self, DecodeError> {
                r.$ty()
            }
            #[cfg(any(test, fuzzing, feature = "arbitrary"))]
            fn arbitrary(g: &mut super::TestRng, _: Version) -> Self {
                g.next_u64() as $ty
            }
        }
    )*};
}
primitive!(i8, i16, i32, i64);

impl Wire for bool {
    fn encode(&self, w: &mut Writer, _: Version) {
        w.u8(u8::from(*self));
    }
    fn decode(r: &mut Reader<'_>, _: Version) -> Result<Self, DecodeError> {
        Ok(r.u8()? != 0)
    }
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::TestRng, _: Version) -> Self {
        g.next_u64() & 1 == 1
    }
}

impl Wire for Uuid {
    fn encode(&self, w: &mut Writer, _: Version) {
        w.raw(&self.0);
    }
    fn decode(r: &mut Reader<'_>, _: Version) -> Result<Self, DecodeError> {
        let mut id = [0; 16];
        id.copy_from_slice(r.take(16)?);
        Ok(Uuid(id))
    }
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::TestRng, _: Version) -> Self {
        Uuid::from_random(g.next_u64(), g.next_u64())
    }
}

/// A nullable type is `Option` of one of these.
trait ByteSequence: Sized {
    const HAS_SHORT_LENGTH: bool;
    fn bytes(&self) -> &[u8];
    fn from_wire(r: &mut Reader<'_>, n: usize) -> Result<Self, DecodeError>;
}

impl ByteSequence for String {
    const HAS_SHORT_LENGTH: bool = true;
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
    fn from_wire(r: &mut Reader<'_>, n: usize) -> Result<Self, DecodeError> {
        let at = r.offset();
        let bytes = r.take(n)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(e) => Err(DecodeError::new(Kind::InvalidUtf8, at + e.valid_up_to())),
        }
    }
}

impl ByteSequence for Bytes {
    const HAS_SHORT_LENGTH: bool = false;
    fn bytes(&self) -> &[u8] {
        self
    }
    fn from_wire(r: &mut Reader<'_>, n: usize) -> Result<Self, DecodeError> {
        r.take_bytes(n)
    }
}

macro_rules! byte_sequence {
    ($($ty:ty, $g:ident => $make:expr;)*) => {$(
        impl Wire for $ty {
            fn encode(&self, w: &mut Writer, v: Version) {
                w.length(Some(self.len()), v.flexible, <$ty>::HAS_SHORT_LENGTH);
                w.raw(self.bytes());
            }
            fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
                match r.length(v.flexible, <$ty>::HAS_SHORT_LENGTH)? {
                    Some(n) => <$ty>::from_wire(r, n),
                    None => Err(r.error(Kind::UnexpectedNull)),
                }
            }
            #[cfg(any(test, fuzzing, feature = "arbitrary"))]
            fn arbitrary($g: &mut super::TestRng, _: Version) -> Self {
                $make
            }
        }
        impl Wire for Option<$ty> {
            fn encode(&self, w: &mut Writer, v: Version) {
                match self {
                    Some(x) => x.encode(w, v),
                    None => w.length(None, v.flexible, <$ty>::HAS_SHORT_LENGTH),
                }
            }
            fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
                match r.length(v.flexible, <$ty>::HAS_SHORT_LENGTH)? {
                    Some(n) => <$ty>::from_wire(r, n).map(Some),
                    None => Ok(None),
                }
            }
            fn is_null(&self) -> bool {
                self.is_none()
            }
            #[cfg(any(test, fuzzing, feature = "arbitrary"))]
            fn arbitrary(g: &mut super::TestRng, v: Version) -> Self {
                (g.next_below(4) != 0).then(|| Wire::arbitrary(g, v))
            }
        }
    )*};
}
byte_sequence! {
    String, g => g.next_string();
    Bytes, g => g.next_bytes();
}

impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, w: &mut Writer, v: Version) {
        w.count(Some(self.len()), v.flexible);
        self.iter().for_each(|x| x.encode(w, v));
    }
    fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
        match r.count(v.flexible)? {
            Some(n) => read_elements(r, v, n),
            None => Err(r.error(Kind::UnexpectedNull)),
        }
    }
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::TestRng, v: Version) -> Self {
        (0..g.next_below(4)).map(|_| T::arbitrary(g, v)).collect()
    }
}

impl<T: Wire> Wire for Option<Vec<T>> {
    fn encode(&self, w: &mut Writer, v: Version) {
        match self {
            Some(x) => x.encode(w, v),
            None => w.count(None, v.flexible),
        }
    }
    fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
        match r.count(v.flexible)? {
            Some(n) => read_elements(r, v, n).map(Some),
            None => Ok(None),
        }
    }
    fn is_null(&self) -> bool {
        self.is_none()
    }
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::TestRng, v: Version) -> Self {
        (g.next_below(4) != 0).then(|| Wire::arbitrary(g, v))
    }
}

/// The elements of an array. The vector grows as they are seen: a count says nothing about memory.
fn read_elements<T: Wire>(r: &mut Reader<'_>, v: Version, n: usize) -> Result<Vec<T>, DecodeError> {
    let mut out = Vec::with_capacity(n.min(16));
    for _ in 0..n {
        out.push(T::decode(r, v)?);
    }
    Ok(out)
}
