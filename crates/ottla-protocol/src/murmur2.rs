//! The 32-bit murmur2 hash by which Kafka's clients spread keys over partitions.

/// The hash, with Kafka's seed, as Java's signed `int`.
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

/// The partition of a key among `partitions`, online or not.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) as u32 & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b5_vectors_and_bi6_partitions() {
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
            let got = [3, 6, 10, 100].map(|n| partition_for_key(key.as_bytes(), n));
            assert_eq!(got, partitions, "{key}");
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

    /// Java's `SplittableRandom`, as far as the checksum needs it.
    struct SplittableRandom(u64);

    impl SplittableRandom {
        fn next_u64(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = self.0;
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn fill_bytes(&mut self, out: &mut [u8]) {
            let mut words = out.chunks_exact_mut(8);
            for w in &mut words {
                w.copy_from_slice(&self.next_u64().to_le_bytes());
            }
            let rest = words.into_remainder();
            if !rest.is_empty() {
                let w = self.next_u64().to_le_bytes();
                let n = rest.len();
                rest.copy_from_slice(&w[..n]);
            }
        }
    }

    #[test]
    fn b5_sum_over_a_hundred_thousand_arrays() {
        let mut random = SplittableRandom(0);
        let mut sum = 0u64;
        for len in 0..=1000 {
            let mut data = vec![0; len];
            for _ in 0..100 {
                random.fill_bytes(&mut data);
                sum += u64::from(murmur2(&data) as u32);
            }
        }
        assert_eq!(sum, 0xc3b8_cf7c_99fc);
    }
}
