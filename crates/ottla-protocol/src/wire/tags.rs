//! The tagged fields that end every structure of a flexible version (KIP-482).

use super::{RawTaggedField, Reader, Writer};
use crate::error::{DecodeError, DecodeErrorKind};

/// Writes known and unknown tagged fields in ascending order of their tags.
pub(crate) fn write_tagged_fields(
    w: &mut Writer,
    known: Vec<(u32, Vec<u8>)>,
    unknown: &[RawTaggedField],
) {
    w.unsigned_varint((known.len() + unknown.len()) as u32);
    if known.is_empty() && unknown.is_empty() {
        return;
    }
    let mut all: Vec<(u32, &[u8])> = known.iter().map(|(t, b)| (*t, b.as_slice())).collect();
    all.extend(unknown.iter().map(|t| (t.tag, t.bytes.as_ref())));
    all.sort_by_key(|(tag, _)| *tag);
    for (tag, bytes) in all {
        w.unsigned_varint(tag);
        w.unsigned_varint(bytes.len() as u32);
        w.raw(bytes);
    }
}

/// Reads tagged fields and stores the unknown ones.
///
/// `decode_known` decodes a field and returns true, or returns false for an unknown tag.
pub(crate) fn read_tagged_fields(
    r: &mut Reader<'_>,
    unknown: &mut Vec<RawTaggedField>,
    mut decode_known: impl FnMut(u32, &mut Reader<'_>) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    let count = r.unsigned_varint()?;
    // A tagged field takes at least two bytes: tag and size.
    if count as usize > r.remaining() / 2 {
        return Err(r.error(DecodeErrorKind::CountExceedsBytes {
            count: u64::from(count),
            remaining: r.remaining(),
        }));
    }
    let mut last = None;
    for _ in 0..count {
        let tag = r.unsigned_varint()?;
        if last.is_some_and(|last| tag <= last) {
            return Err(r.error(DecodeErrorKind::TagOutOfOrder(tag)));
        }
        last = Some(tag);
        let size = r.unsigned_varint()? as usize;
        let mut sub = r.sub_reader(size)?;
        if decode_known(tag, &mut sub)? {
            sub.finish()?;
        } else {
            let remaining = sub.remaining();
            unknown.push(RawTaggedField { tag, bytes: sub.take_bytes(remaining)? });
        }
    }
    Ok(())
}
