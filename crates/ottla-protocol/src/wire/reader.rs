//! Reads primitive types from one frame. A read past the frame's end is an error.

use bytes::Bytes;

use super::varint;
use crate::error::{DecodeError, DecodeErrorKind};

/// A cursor over one frame. It returns byte fields as slices that share the frame's memory.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    frame: &'a Bytes,
    position: usize,
    end: usize,
}

macro_rules! fixed {
    ($($(#[$m:meta])* $name:ident: $ty:ty;)*) => {$(
        $(#[$m])*
        #[inline]
        pub fn $name(&mut self) -> Result<$ty, DecodeError> {
            const N: usize = size_of::<$ty>();
            let bytes = self.take(N)?;
            let mut raw = [0; N];
            raw.copy_from_slice(bytes);
            Ok(<$ty>::from_be_bytes(raw))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Creates a reader at the start of `frame`.
    pub fn new(frame: &'a Bytes) -> Reader<'a> {
        Reader { frame, position: 0, end: frame.len() }
    }

    /// Returns the number of bytes that are not read yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    /// Returns the reader's position in the frame, in bytes.
    #[inline]
    pub fn offset(&self) -> usize {
        self.position
    }

    /// Creates an error at the reader's position.
    pub fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::new(kind, self.position)
    }

    /// Reads the next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        if n > self.remaining() {
            return Err(
                self.error(DecodeErrorKind::Truncated { needed: n, remaining: self.remaining() })
            );
        }
        let start = self.position;
        self.position += n;
        Ok(&self.frame[start..self.position])
    }

    /// Reads the next `n` bytes without a copy: they share the frame's memory.
    #[inline]
    pub fn take_bytes(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        let start = self.position;
        self.take(n)?;
        Ok(self.frame.slice(start..start + n))
    }

    fixed! {
        /// Reads a byte.
        u8: u8;
        /// Reads a signed byte.
        i8: i8;
        /// Reads two bytes, big-endian.
        i16: i16;
        /// Reads two bytes, big-endian.
        u16: u16;
        /// Reads four bytes, big-endian.
        i32: i32;
        /// Reads four bytes, big-endian.
        u32: u32;
        /// Reads eight bytes, big-endian.
        i64: i64;
    }

    /// Reads an unsigned varint of at most 32 bits.
    #[inline]
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let (v, n) = varint::get_u32(&self.frame[self.position..self.end])
            .map_err(|kind| self.error(kind))?;
        self.position += n;
        Ok(v)
    }

    /// Reads the length of a string or byte string: `None` for null.
    ///
    /// A non-flexible length has two bytes if `short` (a string), else four.
    #[inline]
    pub fn length(&mut self, flexible: bool, short: bool) -> Result<Option<usize>, DecodeError> {
        let start = self.position;
        let n = match (flexible, short) {
            (true, _) => i64::from(self.unsigned_varint()?) - 1,
            (false, true) => i64::from(self.i16()?),
            (false, false) => i64::from(self.i32()?),
        };
        match n {
            -1 => Ok(None),
            n if n < 0 => Err(DecodeError::new(DecodeErrorKind::NegativeLength(n), start)),
            n if n as u64 > self.remaining() as u64 => Err(DecodeError::new(
                DecodeErrorKind::Truncated { needed: n as usize, remaining: self.remaining() },
                start,
            )),
            n => Ok(Some(n as usize)),
        }
    }

    /// Reads the count of an array: `None` for null.
    ///
    /// Each element takes at least one byte. So a count above the remaining bytes is an error,
    /// before anything is allocated for it.
    #[inline]
    pub fn count(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let start = self.position;
        let n =
            if flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(self.i32()?) };
        match n {
            -1 => Ok(None),
            n if n < 0 => Err(DecodeError::new(DecodeErrorKind::NegativeLength(n), start)),
            n if n as u64 > self.remaining() as u64 => Err(DecodeError::new(
                DecodeErrorKind::CountExceedsBytes { count: n as u64, remaining: self.remaining() },
                start,
            )),
            n => Ok(Some(n as usize)),
        }
    }

    /// Returns a reader of the next `n` bytes; this reader skips them.
    pub fn sub_reader(&mut self, n: usize) -> Result<Reader<'a>, DecodeError> {
        let start = self.position;
        self.take(n)?;
        Ok(Reader { frame: self.frame, position: start, end: start + n })
    }

    /// Fails if bytes remain.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            n => Err(self.error(DecodeErrorKind::TrailingBytes(n))),
        }
    }
}
