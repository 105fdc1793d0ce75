//! Random messages from a seed, for round-trip properties and for fuzzing.

use bytes::Bytes;

/// A small generator (SplitMix64), so that a failing case is one number.
#[derive(Debug)]
pub struct TestRng(u64);

impl TestRng {
    /// Starts from a seed.
    pub fn new(seed: u64) -> TestRng {
        TestRng(seed)
    }

    /// The next word.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn next_below(&mut self, n: u64) -> u64 {
        self.next_u64() % n.max(1)
    }

    /// A short string, some of it beyond ASCII.
    pub fn next_string(&mut self) -> String {
        (0..self.next_below(12))
            .map(|_| ['a', 'Z', '0', '-', '.', 'ß', '日', '🦀'][self.next_below(8) as usize])
            .collect()
    }

    /// A short byte string.
    pub fn next_bytes(&mut self) -> Bytes {
        (0..self.next_below(40)).map(|_| self.next_u64() as u8).collect()
    }
}
