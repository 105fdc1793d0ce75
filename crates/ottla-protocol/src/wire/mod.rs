//! The encoding of primitive types: a bounded [`Reader`], a [`Writer`] and the [`Wire`] trait.
//!
//! The macro `message!` builds the messages in [`crate::messages`] from them.

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

/// The version at which a message is encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The API version.
    pub number: i16,
    /// Whether the version has compact lengths and tagged fields (KIP-482).
    pub flexible: bool,
}

impl Version {
    /// Returns whether a field with this range of versions is present.
    #[inline]
    pub fn is_in_range(self, range: &impl std::ops::RangeBounds<i16>) -> bool {
        range.contains(&self.number)
    }
}
