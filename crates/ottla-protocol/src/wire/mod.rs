//! Primitives of the wire: a bounded [`Reader`], a [`Writer`], and the [`Wire`] trait that the messages
//! declared with `message!` are made of.

mod reader;
mod writer;
mod types;
mod message;
mod tags;
pub mod varint;
#[cfg(any(test, fuzzing, feature = "arbitrary"))]
mod test_rng;

pub(crate) use message::message;
pub use reader::Reader;
pub(crate) use tags::{read_tagged_fields, write_tagged_fields};
#[cfg(any(test, fuzzing, feature = "arbitrary"))]
pub use test_rng::TestRng;
pub use types::{RawTaggedField, Wire};
pub use writer::Writer;

/// The version a message is read or written at, and whether that version is flexible (KIP-482: compact
/// lengths and tagged fields).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The API version.
    pub number: i16,
    /// Compact lengths and tagged fields.
    pub flexible: bool,
}

impl Version {
    /// Whether a field with this range of versions is present.
    #[inline]
    pub fn is_in_range(self, range: &impl std::ops::RangeBounds<i16>) -> bool {
        range.contains(&self.number)
    }
}
