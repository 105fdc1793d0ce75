//! Writes primitives into a growing buffer. A value the format cannot hold is remembered and reported
//! once, by [`Writer::finish`], so that encoders need no error path of their own.

use super::varint;
use crate::error::EncodeError;

/// An output buffer and the first error met while filling it.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    error: Option<EncodeError>,
}

macro_rules! fixed {
    ($($(#[$m:meta])* $name:ident: $ty:ty;)*) => {$(
        $(#[$m])*
        #[inline]
        pub fn $name(&mut self, v: $ty) {
            self.out.extend_from_slice(&v.to_be_bytes());
        }
    )*};
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Goes on behind what `out` holds.
    pub fn from_vec(out: Vec<u8>) -> Writer {
        Writer { out, error: None }
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

    /// Bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// An unsigned varint.
    #[inline]
    pub fn unsigned_varint(&mut self, v: u32) {
        varint::put_u32(&mut self.out, v);
    }

    /// The length of a string (`short`) or byte string; `None` for null.
    pub fn length(&mut self, n: Option<usize>, flexible: bool, short: bool) {
        let limit = if short && !flexible { i16::MAX as usize } else { i32::MAX as usize - 1 };
        let n = match n {
            Some(n) if n > limit => {
                self.fail(EncodeError::TooLong { length: n });
                0
            }
            Some(n) => n as i32,
            None => -1,
        };
        match (flexible, short) {
            (true, _) => self.unsigned_varint((n + 1) as u32),
            (false, true) => self.i16(n as i16),
            (false, false) => self.i32(n),
        }
    }

    /// The count of an array; `None` for null.
    pub fn count(&mut self, n: Option<usize>, flexible: bool) {
        self.length(n, flexible, false);
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Remembers the first error.
    pub fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// The bytes, or the first error.
    pub fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self.error {
            None => Ok(self.out),
            Some(e) => Err(e),
        }
    }
}
