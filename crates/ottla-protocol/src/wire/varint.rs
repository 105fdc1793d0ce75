//! Base-128 varints, unsigned and zigzag, as in protobuf.
//!
//! A varint has at most 5 bytes for 32 bits and 10 bytes for 64 bits. Records and flexible messages
//! use them.

use crate::error::DecodeErrorKind;

/// Encodes a signed number as unsigned, so that numbers near zero stay small.
#[inline]
pub const fn zigzag32(v: i32) -> u32 {
    ((v << 1) ^ (v >> 31)) as u32
}

/// Encodes a signed number as unsigned, so that numbers near zero stay small.
#[inline]
pub const fn zigzag64(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// Returns the number of bytes that [`put_u32`] writes.
#[inline]
pub const fn len_u32(v: u32) -> usize {
    len_u64(v as u64)
}

/// Returns the number of bytes that [`put_u64`] writes.
#[inline]
pub const fn len_u64(v: u64) -> usize {
    // The same as (bits + 6) / 7 for 1 to 64 bits, without a division: 9/64 is just above 1/7.
    ((v | 1).ilog2() as usize * 9 + 73) / 64
}

/// Returns the number of bytes that [`put_i32`] writes.
#[inline]
pub const fn len_i32(v: i32) -> usize {
    len_u32(zigzag32(v))
}

/// Returns the number of bytes that [`put_i64`] writes.
#[inline]
pub const fn len_i64(v: i64) -> usize {
    len_u64(zigzag64(v))
}

/// Appends an unsigned varint.
#[inline]
pub fn put_u32(out: &mut Vec<u8>, v: u32) {
    put_u64(out, u64::from(v));
}

/// Appends an unsigned varint.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a zigzag varint.
#[inline]
pub fn put_i32(out: &mut Vec<u8>, v: i32) {
    put_u32(out, zigzag32(v));
}

/// Appends a zigzag varlong.
#[inline]
pub fn put_i64(out: &mut Vec<u8>, v: i64) {
    put_u64(out, zigzag64(v));
}

/// Reads an unsigned varint of at most 32 bits; returns the value and the number of bytes read.
#[inline]
pub fn get_u32(bytes: &[u8]) -> Result<(u32, usize), DecodeErrorKind> {
    let (v, n) = get(bytes, 5)?;
    u32::try_from(v).map(|v| (v, n)).map_err(|_| DecodeErrorKind::VarintTooLong)
}

/// Reads an unsigned varint of at most 64 bits.
#[inline]
pub fn get_u64(bytes: &[u8]) -> Result<(u64, usize), DecodeErrorKind> {
    get(bytes, 10)
}

/// Reads a zigzag varint.
#[inline]
pub fn get_i32(bytes: &[u8]) -> Result<(i32, usize), DecodeErrorKind> {
    let (v, n) = get_u32(bytes)?;
    Ok(((v >> 1) as i32 ^ -((v & 1) as i32), n))
}

/// Reads a zigzag varlong.
#[inline]
pub fn get_i64(bytes: &[u8]) -> Result<(i64, usize), DecodeErrorKind> {
    let (v, n) = get_u64(bytes)?;
    Ok(((v >> 1) as i64 ^ -((v & 1) as i64), n))
}

#[inline]
fn get(bytes: &[u8], max: usize) -> Result<(u64, usize), DecodeErrorKind> {
    let mut value = 0u64;
    for (i, &b) in bytes.iter().take(max).enumerate() {
        let low = u64::from(b & 0x7f);
        // Nine bytes hold 63 bits: the tenth may hold only one.
        if i == 9 && b > 1 {
            return Err(DecodeErrorKind::VarintTooLong);
        }
        value |= low << (7 * i);
        if b < 0x80 {
            return Ok((value, i + 1));
        }
    }
    if bytes.len() >= max {
        Err(DecodeErrorKind::VarintTooLong)
    } else {
        Err(DecodeErrorKind::Truncated { needed: bytes.len() + 1, remaining: bytes.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    // CASES: B2.
    #[test]
    fn zigzag_varints_have_the_bytes_of_java() {
        for (v, expected) in [
            (0i32, "00"),
            (-1, "01"),
            (1, "02"),
            (63, "7e"),
            (-64, "7f"),
            (64, "8001"),
            (-65, "8101"),
            (8191, "fe7f"),
            (8192, "808001"),
            (134_217_728, "8080808001"),
            (i32::MAX, "feffffff0f"),
            (i32::MIN, "ffffffff0f"),
        ] {
            let mut out = Vec::new();
            put_i32(&mut out, v);
            assert_eq!(to_hex(&out), expected, "{v}");
            assert_eq!(len_i32(v), out.len());
            assert_eq!(get_i32(&out), Ok((v, out.len())));
        }
        for (v, expected) in
            [(i64::MAX, "feffffffffffffffff01"), (i64::MIN, "ffffffffffffffffff01")]
        {
            let mut out = Vec::new();
            put_i64(&mut out, v);
            assert_eq!(to_hex(&out), expected, "{v}");
            assert_eq!(len_i64(v), out.len());
            assert_eq!(get_i64(&out), Ok((v, out.len())));
        }
    }

    // CASES: B2.
    #[test]
    fn length_of_a_varint_is_one_byte_for_each_seven_bits() {
        for bits in 1..=64 {
            let (smallest, largest) = (1 << (bits - 1), u64::MAX >> (64 - bits));
            let expected = (bits as usize).div_ceil(7);
            assert_eq!((len_u64(smallest), len_u64(largest)), (expected, expected), "{bits} bits");
        }
        assert_eq!(len_u64(0), 1);
    }

    #[test]
    fn unsigned_varints_have_the_bytes_of_java_and_too_long_ones_fail() {
        for (v, expected) in [
            (0u32, "00"),
            (127, "7f"),
            (8192, "8040"),
            (i32::MAX as u32, "ffffffff07"),
            (u32::MAX, "ffffffff0f"),
        ] {
            let mut out = Vec::new();
            put_u32(&mut out, v);
            assert_eq!(to_hex(&out), expected, "{v}");
            assert_eq!(get_u32(&out), Ok((v, out.len())));
            for len in 0..out.len() {
                assert!(matches!(get_u32(&out[..len]), Err(DecodeErrorKind::Truncated { .. })));
            }
        }
        assert_eq!(get_u32(&[0xff; 6]), Err(DecodeErrorKind::VarintTooLong));
        assert_eq!(get_u32(&[0xff, 0xff, 0xff, 0xff, 0x10]), Err(DecodeErrorKind::VarintTooLong));
        assert_eq!(get_u64(&[0xff; 11]), Err(DecodeErrorKind::VarintTooLong));
    }
}
