//! Reads the elements of ASN.1 structures, for the parts of stores and keys that the decoders of
//! `pkcs5` and `x509-parser` do not cover.
//!
//! It accepts BER as well as DER: some exporters of PKCS#12 files write indefinite lengths.

use x509_parser::asn1_rs::{Any, Class, FromBer, Oid};
use zeroize::Zeroizing;

pub(super) const INTEGER: u32 = 2;
pub(super) const BIT_STRING: u32 = 3;
pub(super) const OCTET_STRING: u32 = 4;
pub(super) const OBJECT_IDENTIFIER: u32 = 6;
pub(super) const SEQUENCE: u32 = 16;

/// One element: its tag and its content.
#[derive(Clone)]
pub(super) struct Element<'b> {
    any: Any<'b>,
    /// The element with its header.
    raw: &'b [u8],
}

impl<'b> Element<'b> {
    /// Parses the element at the start of `bytes` and ignores what follows.
    pub(super) fn parse(bytes: &'b [u8]) -> Option<Element<'b>> {
        Elements { remaining: bytes }.next()
    }

    /// Whether the element has this universal tag.
    pub(super) fn is(&self, tag: u32) -> bool {
        self.any.header.class() == Class::Universal && self.any.header.tag().0 == tag
    }

    /// Whether the element has this context-specific tag.
    pub(super) fn is_context(&self, tag: u32) -> bool {
        self.any.header.class() == Class::ContextSpecific && self.any.header.tag().0 == tag
    }

    pub(super) fn content(&self) -> &'b [u8] {
        self.any.data
    }

    pub(super) fn raw(&self) -> &'b [u8] {
        self.raw
    }

    /// The elements in this one; none if it is not constructed.
    pub(super) fn children(&self) -> Elements<'b> {
        let content = if self.any.header.is_constructed() { self.any.data } else { &[] };
        Elements { remaining: content }
    }

    /// The children of a sequence, as a list.
    pub(super) fn fields(&self) -> Vec<Element<'b>> {
        self.children().collect()
    }

    /// The bytes of an octet string. BER may split it into several.
    pub(super) fn octets(&self) -> Zeroizing<Vec<u8>> {
        if !self.any.header.is_constructed() {
            return Zeroizing::new(self.any.data.to_vec());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.any.data.len()));
        for part in self.children() {
            bytes.extend_from_slice(part.any.data);
        }
        bytes
    }

    /// The object identifier in dotted form; `None` if the element is none.
    pub(super) fn oid(&self) -> Option<String> {
        self.is(OBJECT_IDENTIFIER).then(|| Oid::new(self.any.data.into()).to_id_string())
    }

    /// The value of a small non-negative integer.
    pub(super) fn small_integer(&self) -> Option<u32> {
        if !self.is(INTEGER) || self.any.data.first()? & 0x80 != 0 {
            return None;
        }
        let digits = self.any.data;
        let significant =
            digits.iter().position(|b| *b != 0).map_or(&digits[..0], |n| &digits[n..]);
        if significant.len() > 4 {
            return None;
        }
        Some(significant.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// Object identifiers of this element and of all elements in it, in their order.
    pub(super) fn all_oids(&self) -> Vec<String> {
        let mut oids = Vec::new();
        // A stack of its own: the file decides the depth, and the thread's stack is small.
        let mut pending = vec![self.clone()];
        while let Some(element) = pending.pop() {
            oids.extend(element.oid());
            pending.extend(element.fields().into_iter().rev());
        }
        oids
    }
}

/// Iterates over consecutive elements. It ends at the first byte that begins no element.
pub(super) struct Elements<'b> {
    pub(super) remaining: &'b [u8],
}

impl<'b> Iterator for Elements<'b> {
    type Item = Element<'b>;

    fn next(&mut self) -> Option<Element<'b>> {
        let (after, any) = Any::from_ber(self.remaining).ok()?;
        let (raw, _) = self.remaining.split_at(self.remaining.len() - after.len());
        self.remaining = after;
        // The mark at the end of an element of indefinite length.
        if any.header.class() == Class::Universal && any.header.tag().0 == 0 {
            return None;
        }
        Some(Element { any, raw })
    }
}
