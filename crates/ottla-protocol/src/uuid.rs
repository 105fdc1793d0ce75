//! Kafka's UUID (KIP-516: topic ids): 16 bytes, displayed in URL-safe base64 without padding.

use std::fmt;

/// A topic id or cluster id. [`Uuid::ZERO`] stands for an unknown id.
///
/// ```
/// use ottla_protocol::Uuid;
///
/// let id = Uuid::parse("4tMUuKBfTDmVXqDwnKdpbA").expect("22 characters of base64");
/// assert_eq!(id.to_string(), "4tMUuKBfTDmVXqDwnKdpbA");
/// assert_eq!(Uuid::parse("too short"), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// The zero UUID, which stands for an unknown id.
    pub const ZERO: Uuid = Uuid([0; 16]);

    /// Creates a version 4 UUID from 128 random bits.
    pub fn from_random(high: u64, low: u64) -> Uuid {
        let mut b = [0; 16];
        b[..8].copy_from_slice(&high.to_be_bytes());
        b[8..].copy_from_slice(&low.to_be_bytes());
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        Uuid(b)
    }

    /// Returns whether this is [`Uuid::ZERO`].
    pub fn is_zero(&self) -> bool {
        *self == Uuid::ZERO
    }

    /// Parses the 22 characters that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Uuid> {
        if text.len() != 22 {
            return None;
        }
        let mut n: u128 = 0;
        for (i, c) in text.bytes().enumerate() {
            let six = ALPHABET.iter().position(|&a| a == c)? as u128;
            // 128 bits are 21 characters of 6 bits, and 2 bits in the last character.
            n = if i < 21 { (n << 6) | six } else { (n << 2) | (six >> 4) };
        }
        Some(Uuid(n.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = u128::from_be_bytes(self.0);
        let mut out = [0u8; 22];
        for (i, o) in out.iter_mut().enumerate() {
            let six = if i < 21 { (n >> (122 - 6 * i)) & 63 } else { (n & 3) << 4 };
            *o = ALPHABET[six as usize];
        }
        f.write_str(std::str::from_utf8(&out).unwrap_or_default())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trips_for_each_bit() {
        for bit in 0..128 {
            let id = Uuid((1u128 << bit).to_be_bytes());
            assert_eq!(Uuid::parse(&id.to_string()), Some(id), "bit {bit}");
        }
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid::parse("too short"), None);
    }
}
