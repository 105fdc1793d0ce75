//! Confluent's wire format: a zero byte, the schema's id, the value.

/// The first byte of every serialized value.
const MAGIC: u8 = 0;

/// Appends the magic byte and the id.
pub(crate) fn put_schema_id(out: &mut Vec<u8>, id: i32) {
    out.push(MAGIC);
    out.extend_from_slice(&id.to_be_bytes());
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
}
