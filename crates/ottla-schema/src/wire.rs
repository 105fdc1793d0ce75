//! Confluent's wire format: a zero byte, the schema's id, for Protobuf the message's index, the
//! value.

/// The first byte of every serialized value.
const MAGIC: u8 = 0;

/// Appends the magic byte and the id.
pub(crate) fn put_schema_id(out: &mut Vec<u8>, id: i32) {
    out.push(MAGIC);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Appends where a message stands in its file: its index, or for a nested one the indices from the
/// outermost message to it. The first message of a file has a short form.
#[cfg(feature = "protobuf")]
pub(crate) fn put_message_indexes(out: &mut Vec<u8>, indexes: &[i32]) {
    if indexes == [0] {
        out.push(0);
        return;
    }
    put_zigzag(out, indexes.len() as i64);
    for index in indexes {
        put_zigzag(out, i64::from(*index));
    }
}

#[cfg(feature = "protobuf")]
fn put_zigzag(out: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_big_endian_after_the_magic_byte() {
        let mut out = Vec::new();
        put_schema_id(&mut out, 0x0102_0304);
        assert_eq!(out, [0, 1, 2, 3, 4]);
    }

    #[cfg(feature = "protobuf")]
    #[test]
    fn first_message_has_a_short_form() {
        let of = |indexes: &[i32]| {
            let mut out = Vec::new();
            put_message_indexes(&mut out, indexes);
            out
        };
        assert_eq!(of(&[0]), [0]);
        assert_eq!(of(&[1]), [2, 2]);
        assert_eq!(of(&[0, 0]), [4, 0, 0]);
        assert_eq!(of(&[2, 100]), [4, 4, 200, 1]);
    }
}
