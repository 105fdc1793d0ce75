//! Writes primitive types to a growing buffer.
//!
//! [`Writer::finish`] reports the first value that the format cannot hold. So encoders need no
//! error path of their own.

use super::varint;
use crate::error::EncodeError;

/// An output buffer, with the first error of the values written to it.
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
    /// Creates an empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Creates a writer that appends to `out`.
    pub fn from_vec(out: Vec<u8>) -> Writer {
        Writer { out, error: None }
    }

    fixed! {
        /// Writes a byte.
        u8: u8;
        /// Writes a signed byte.
        i8: i8;
        /// Writes two bytes, big-endian.
        i16: i16;
        /// Writes two bytes, big-endian.
        u16: u16;
        /// Writes four bytes, big-endian.
        i32: i32;
        /// Writes four bytes, big-endian.
        u32: u32;
        /// Writes eight bytes, big-endian.
        i64: i64;
    }

    /// Writes bytes without a length.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes an unsigned varint.
    #[inline]
    pub fn unsigned_varint(&mut self, v: u32) {
        varint::put_u32(&mut self.out, v);
    }

    /// Writes the length of a string or byte string; `None` for null.
    ///
    /// A non-flexible length has two bytes if `short` (a string), else four.
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

    /// Writes the count of an array; `None` for null.
    pub fn count(&mut self, n: Option<usize>, flexible: bool) {
        self.length(n, flexible, false);
    }

    /// Returns the number of bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Returns whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Records an error for [`Writer::finish`], unless there is one already.
    pub fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// Returns the bytes, or the first error.
    pub fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self.error {
            None => Ok(self.out),
            Some(e) => Err(e),
        }
    }
}
