//! Reads primitives from one frame, never past its end and never more than it holds.

use bytes::Bytes;

use super::varint;
use crate::error::{DecodeError, DecodeErrorKind as Kind};

/// A cursor over one frame. Byte fields are handed out as slices of it that share its memory.
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
    /// Starts at the front of `frame`.
    pub fn new(frame: &'a Bytes) -> Reader<'a> {
        Reader { frame, position: 0, end: frame.len() }
    }

    /// Bytes not read yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    /// Bytes from the start of the frame to here.
    #[inline]
    pub fn offset(&self) -> usize {
        self.position
    }

    /// An error of this kind, here.
    pub fn error(&self, kind: Kind) -> DecodeError {
        DecodeError::new(kind, self.position)
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        if n > self.remaining() {
            return Err(self.error(Kind::Truncated { needed: n, remaining: self.remaining() }));
        }
        let from = self.position;
        self.position += n;
        Ok(&self.frame[from..self.position])
    }

    /// The next `n` bytes, sharing the frame's memory.
    #[inline]
    pub fn take_bytes(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        let from = self.position;
        self.take(n)?;
        Ok(self.frame.slice(from..from + n))
    }

    fixed! {
        /// A byte.
        u8: u8;
        /// A signed byte.
        i8: i8;
        /// Two bytes, big-endian.
        i16: i16;
        /// Two bytes, big-endian.
        u16: u16;
        /// Four bytes, big-endian.
        i32: i32;
        /// Four bytes, big-endian.
        u32: u32;
        /// Eight bytes, big-endian.
        i64: i64;
    }

    /// An unsigned varint of at most 32 bits.
    #[inline]
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let (v, n) = varint::get_u32(&self.frame[self.position..self.end])
            .map_err(|kind| self.error(kind))?;
        self.position += n;
        Ok(v)
    }

    /// The length of a string or byte string: `None` for null.
    #[inline]
    pub fn length(&mut self, flexible: bool, short: bool) -> Result<Option<usize>, DecodeError> {
        let before = self.position;
        let n = match (flexible, short) {
            (true, _) => i64::from(self.unsigned_varint()?) - 1,
            (false, true) => i64::from(self.i16()?),
            (false, false) => i64::from(self.i32()?),
        };
        match n {
            -1 => Ok(None),
            n if n < 0 => Err(DecodeError::new(Kind::NegativeLength(n), before)),
            n if n as u64 > self.remaining() as u64 => Err(DecodeError::new(
                Kind::Truncated { needed: n as usize, remaining: self.remaining() },
                before,
            )),
            n => Ok(Some(n as usize)),
        }
    }

    /// The count of an array: `None` for null. Each element takes at least a byte, so a count over the
    /// bytes that are left is refused before anything is allocated for it.
    #[inline]
    pub fn count(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let before = self.position;
        let n =
            if flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(self.i32()?) };
        match n {
            -1 => Ok(None),
            n if n < 0 => Err(DecodeError::new(Kind::NegativeLength(n), before)),
            n if n as u64 > self.remaining() as u64 => Err(DecodeError::new(
                Kind::CountExceedsBytes { count: n as u64, remaining: self.remaining() },
                before,
            )),
            n => Ok(Some(n as usize)),
        }
    }

    /// A reader over the next `n` bytes only; this one goes on behind them.
    pub fn sub_reader(&mut self, n: usize) -> Result<Reader<'a>, DecodeError> {
        let at = self.position;
        self.take(n)?;
        Ok(Reader { frame: self.frame, position: at, end: at + n })
    }

    /// Refuses bytes that nothing has read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            n => Err(self.error(Kind::TrailingBytes(n))),
        }
    }
}
