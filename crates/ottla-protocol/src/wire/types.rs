//! The encoding of each field type at a version.

use bytes::Bytes;

use super::{Reader, Version, Writer};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::uuid::Uuid;

/// The type of a message or of a field in a message.
pub trait Wire: Sized {
    /// Appends the value.
    fn encode(&self, w: &mut Writer, v: Version);
    /// Reads a value.
    fn decode(r: &mut Reader<'_>, v: Version) -> Result<Self, DecodeError>;
    /// Returns whether the value is null. The message checks whether its version allows null.
    fn is_null(&self) -> bool {
        false
    }
    /// Returns a random value that can be encoded at version `v`.
    #[cfg(any(test, fuzzing, feature = "arbitrary"))]
    fn arbitrary(g: &mut super::TestRng, v: Version) -> Self;
}

/// A tagged field whose tag this crate does not know, not decoded (KIP-482).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTaggedField {
    /// The field's tag.
    pub tag: u32,
    /// The field's bytes.
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

/// A field type with a length and bytes. Its nullable form is an `Option`.
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
        let start = r.offset();
        let bytes = r.take(n)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(e) => Err(DecodeError::new(DecodeErrorKind::InvalidUtf8, start + e.valid_up_to())),
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
                    None => Err(r.error(DecodeErrorKind::UnexpectedNull)),
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
            None => Err(r.error(DecodeErrorKind::UnexpectedNull)),
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

/// Reads the elements of an array.
///
/// The vector grows with the elements. The count alone, which may be false, reserves little memory.
fn read_elements<T: Wire>(r: &mut Reader<'_>, v: Version, n: usize) -> Result<Vec<T>, DecodeError> {
    let mut out = Vec::with_capacity(n.min(16));
    for _ in 0..n {
        out.push(T::decode(r, v)?);
    }
    Ok(out)
}
