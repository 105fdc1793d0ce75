//! SplitMix64, the pseudo-random generator of backoff jitter, simulations and tests. Not for
//! secrets.
//!
//! It is the generator of Java's `SplittableRandom` (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", OOPSLA 2014). Equal seeds give equal sequences.

/// The increment between two states: 2^64 divided by the golden ratio, made odd.
pub const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Maps a generator state to its output. Every bit of the input influences every bit of the output.
pub const fn mix64(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A generator of pseudo-random `u64` values from a seed.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns a generator that starts at `seed`.
    pub const fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// Returns the next value.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that `new SplittableRandom(0).nextLong()` of Java 8 and later returns.
    #[test]
    fn equals_javas_splittable_random() {
        let mut random = SplitMix64::new(0);
        assert_eq!(random.next_u64(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(random.next_u64(), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(random.next_u64(), 0x06C4_5D18_8009_454F);
    }
}
