//! The 32-bit murmur2 hash with which Kafka's clients choose the partition of a key.

/// Returns the hash with Kafka's seed, as Java's signed `int`.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for w in &mut words {
        let mut k = u32::from_le_bytes([w[0], w[1], w[2], w[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, &b) in tail.iter().enumerate() {
            h ^= u32::from(b) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

/// Returns the partition of a key among all partitions of a topic, with or without a leader.
///
/// It equals Java's `BuiltInPartitioner.partitionForKey`.
///
/// ```
/// assert_eq!(ottla_protocol::murmur2::partition_for_key(b"abc", 6), 3);
/// ```
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) as u32 & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    // CASES: B5, BI6.
    #[test]
    fn hashes_and_partitions_equal_those_of_java() {
        let long = "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8";
        for (key, hash, partitions) in [
            ("21", -973_932_308, [0, 0, 0, 40]),
            ("foobar", -790_332_482, [0, 0, 6, 66]),
            ("a-little-bit-long-string", -985_981_536, [2, 2, 2, 12]),
            ("a-little-bit-longer-string", -1_486_304_829, [2, 5, 9, 19]),
            (long, -58_897_971, [2, 5, 7, 77]),
            ("abc", 479_470_107, [0, 3, 7, 7]),
            ("", 275_646_681, [0, 3, 1, 81]),
            ("a", -1_563_381_124, [1, 4, 4, 24]),
            ("ab", 316_155_434, [2, 2, 4, 34]),
            ("abcd", -1_323_649_548, [2, 2, 0, 0]),
            ("key", -1_079_937_367, [1, 1, 1, 81]),
            ("kafka", -798_503_068, [1, 4, 0, 80]),
            ("日本語", 1_431_860_170, [1, 4, 0, 70]),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
            let actual = [3, 6, 10, 100].map(|n| partition_for_key(key.as_bytes(), n));
            assert_eq!(actual, partitions, "{key}");
        }
        for (bytes, hash) in [
            (&[0x00][..], 375_494_588),
            (&[0xff], -311_467_685),
            (&[0xff; 4], 644_171_429),
            (&[0, 0, 0, 1], -173_113_808),
            (&[0xff; 8], 185_950_397),
        ] {
            assert_eq!(murmur2(bytes), hash, "{bytes:x?}");
        }
        for (key, hash) in [
            ("giberish123456789", 0x8f55_2b0c_u32),
            ("1234", 0x9fc9_7b14),
            ("234", 0xe7c0_09ca),
            ("34", 0x8739_30da),
            ("4", 0x5a4b_5ca1),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as u32, hash, "{key}");
        }
    }

    /// Fills `out` as Java's `SplittableRandom.nextBytes` does.
    fn fill_bytes(random: &mut SplitMix64, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = random.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    // CASES: B5. Kafka's `UtilsTest.testMurmur2Checksum`.
    #[test]
    fn sum_of_hashes_of_random_arrays_equals_that_of_java() {
        let mut random = SplitMix64::new(0);
        let mut sum = 0u64;
        for len in 0..=1000 {
            let mut data = vec![0; len];
            for _ in 0..100 {
                fill_bytes(&mut random, &mut data);
                sum += u64::from(murmur2(&data) as u32);
            }
        }
        assert_eq!(sum, 0xc3b8_cf7c_99fc);
    }
}
