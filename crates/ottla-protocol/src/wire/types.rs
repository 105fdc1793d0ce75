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
    fn arbitrary(g: &mut super::Gen, v: Version) -> Self;
}

/// A tagged field of a number this crate does not know, kept as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTag {
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
            fn arbitrary(g: &mut super::Gen, _: Version) -> Self {
                g.word() as $ty
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
    fn arbitrary(g: &mut super::Gen, _: Version) -> Self {
        g.word() & 1 == 1
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
    fn arbitrary(g: &mut super::Gen, _: Version) -> Self {
        Uuid::from_random(g.word(), g.word())
    }
}

/// A nullable type is `Option` of one of these.
trait Plain: Sized {
    const SHORT: bool;
    fn bytes(&self) -> &[u8];
    fn from_wire(r: &mut Reader<'_>, n: usize) -> Result<Self, DecodeError>;
}

impl Plain for String {
    const SHORT: bool = true;
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

impl Plain for Bytes {
    const SHORT: bool = false;
    fn bytes(&self) -> &[u8] {
        self
    }
    fn from_wire(r: &mut Reader<'_>, n: usize) -> Result<Self, DecodeError> {
        r.take_bytes(n)
    }
}

macro_rules! sized {
    ($($ty:ty, $g:ident => $make:expr;)*) => {$(
        impl Wire for $ty {
            fn encode(&self, w: &mut Writer, v: Version) {
                w.length(Some(self.len()), v.flexible, <$ty>::SHORT);
                w.raw(self.bytes());
            }
            fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
                match r.length(v.flexible, <$ty>::SHORT)? {
                    Some(n) => <$ty>::from_wire(r, n),
                    None => Err(r.error(Kind::UnexpectedNull)),
                }
            }
            #[cfg(any(test, fuzzing, feature = "arbitrary"))]
            fn arbitrary($g: &mut super::Gen, _: Version) -> Self {
                $make
            }
        }
        impl Wire for Option<$ty> {
            fn encode(&self, w: &mut Writer, v: Version) {
                match self {
                    Some(x) => x.encode(w, v),
                    None => w.length(None, v.flexible, <$ty>::SHORT),
                }
            }
            fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
                match r.length(v.flexible, <$ty>::SHORT)? {
                    Some(n) => <$ty>::from_wire(r, n).map(Some),
                    None => Ok(None),
                }
            }
            fn is_null(&self) -> bool {
                self.is_none()
            }
            #[cfg(any(test, fuzzing, feature = "arbitrary"))]
            fn arbitrary(g: &mut super::Gen, v: Version) -> Self {
                (g.below(4) != 0).then(|| Wire::arbitrary(g, v))
            }
        }
    )*};
}
sized! {
    String, g => g.string();
    Bytes, g => g.bytes();
}

impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, w: &mut Writer, v: Version) {
        w.count(Some(self.len()), v.flexible);
        self.iter().for_each(|x| x.encode(w, v));
    }
    fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError> {
        match r.count(v.flexible)? {
            Some(n) => elements(r, v, n),
            None => Err(r.error(Kind::UnexpectedNull)),
        }
    }
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::Gen, v: Version) -> Self {
        (0..g.below(4)).map(|_| T::arbitrary(g, v)).collect()
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
            Some(n) => elements(r, v, n).map(Some),
            None => Ok(None),
        }
    }
    fn is_null(&self) -> bool {
        self.is_none()
    }
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::Gen, v: Version) -> Self {
        (g.below(4) != 0).then(|| Wire::arbitrary(g, v))
    }
}

/// The elements of an array. The vector grows as they are seen: a count says nothing about memory.
fn elements<T: Wire>(r: &mut Reader<'_>, v: Version, n: usize) -> Result<Vec<T>, DecodeError> {
    let mut out = Vec::with_capacity(n.min(16));
    for _ in 0..n {
        out.push(T::decode(r, v)?);
    }
    Ok(out)
}
