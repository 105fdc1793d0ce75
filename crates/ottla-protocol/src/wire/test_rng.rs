//! Random messages from a seed, for round-trip properties and for fuzzing.

use bytes::Bytes;

use crate::random::SplitMix64;

/// A SplitMix64 generator: its seed reproduces a failed case.
#[derive(Debug)]
pub struct TestRng(SplitMix64);

impl TestRng {
    /// Creates a generator from a seed.
    pub fn new(seed: u64) -> TestRng {
        TestRng(SplitMix64::new(seed))
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Returns a number below `n`.
    pub fn next_below(&mut self, n: u64) -> u64 {
        self.next_u64() % n.max(1)
    }

    /// Returns a short string with ASCII and other characters.
    pub fn next_string(&mut self) -> String {
        (0..self.next_below(12))
            .map(|_| ['a', 'Z', '0', '-', '.', 'ß', '日', '🦀'][self.next_below(8) as usize])
            .collect()
    }

    /// Returns a short byte string.
    pub fn next_bytes(&mut self) -> Bytes {
        (0..self.next_below(40)).map(|_| self.next_u64() as u8).collect()
    }
}
