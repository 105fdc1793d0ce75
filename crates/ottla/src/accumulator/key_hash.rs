//! The hash of a record's key by which it is assigned to a partition: Java's murmur2, and the
//! others that librdkafka's `partitioner` offers.
//!
//! [`builtin_partitioner`](super::builtin_partitioner) takes it modulo the number of partitions.

use ottla_protocol::murmur2::murmur2;

use crate::config::PartitioningStrategy;

/// Returns the hash that decides the partition, or `None` if the key does not.
///
/// A key that is missing counts as empty where the strategy has no `_random` in its name. With
/// `consistent_random` an empty key counts as missing, unlike with the other two.
pub(crate) fn key_hash(strategy: PartitioningStrategy, key: Option<&[u8]>) -> Option<u32> {
    match strategy {
        PartitioningStrategy::Default | PartitioningStrategy::Murmur2Random => {
            key.map(positive_murmur2)
        }
        PartitioningStrategy::Murmur2 => Some(positive_murmur2(key.unwrap_or_default())),
        PartitioningStrategy::Consistent => Some(crc32(key.unwrap_or_default())),
        PartitioningStrategy::ConsistentRandom => key.filter(|k| !k.is_empty()).map(crc32),
        PartitioningStrategy::Fnv1a => Some(fnv1a(key.unwrap_or_default())),
        PartitioningStrategy::Fnv1aRandom => key.map(fnv1a),
        PartitioningStrategy::UniformSticky
        | PartitioningStrategy::RoundRobin
        | PartitioningStrategy::Random => None,
    }
}

/// Java clears the sign instead of taking the absolute value.
fn positive_murmur2(key: &[u8]) -> u32 {
    murmur2(key) as u32 & 0x7fff_ffff
}

/// The CRC-32 of zlib and gzip (the polynomial of ISO 3309, reflected).
fn crc32(key: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    let step = |crc: u32, byte: &u8| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
    !key.iter().fold(u32::MAX, step)
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut entry, mut bit) = (i as u32, 0);
        while bit < 8 {
            entry = if entry & 1 == 1 { (entry >> 1) ^ 0xedb8_8320 } else { entry >> 1 };
            bit += 1;
        }
        table[i] = entry;
        i += 1;
    }
    table
}

/// FNV-1a with 32 bits. librdkafka takes the absolute value of the signed result, as Sarama does.
fn fnv1a(key: &[u8]) -> u32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let hash = key.iter().fold(OFFSET, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(PRIME));
    (hash as i32).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes in librdkafka's unit tests of `rdmurmur2.c` and `rdfnv1a.c`.
    #[test]
    fn hashes_equal_those_of_librdkafkas_unit_tests() {
        for (key, murmur, fnv) in [
            ("kafka", 0xd067_cf64_u32, 0x0d33_c4e1),
            ("giberish123456789", 0x8f55_2b0c, 0x77a5_8295),
            ("1234", 0x9fc9_7b14, 0x023b_dd03),
            ("234", 0xe7c0_09ca, 0x2dea_3cd2),
            ("34", 0x8739_30da, 0x740f_a83e),
            ("4", 0x5a4b_5ca1, 0x310c_a263),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c, 0x65cb_d69c),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4a62_b377, 0x6e49_c79a),
            ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xe0e4_e09e, 0x69ee_d356),
            ("AmbleWillBeRemoved,ThePrePartThatIs", 0x62b8_b43f, 0x6abc_c023),
            ("", 0x106e_08d9, 0x7ee3_623b),
        ] {
            assert_eq!(positive_murmur2(key.as_bytes()), murmur & 0x7fff_ffff, "murmur2 of {key}");
            assert_eq!(fnv1a(key.as_bytes()), fnv, "FNV-1a of {key}");
        }
    }

    /// The keys and hashes of librdkafka's test of its partitioners (0048-partitioner.c): a missing
    /// key, an empty one and three others. `None`: the partition is random.
    #[test]
    fn strategies_hash_the_keys_that_librdkafka_hashes() {
        let long = "this is another string with more length to it perhaps";
        let keys = [None, Some(""), Some("23456"), Some(long), Some("hejsan")];
        let crc = [0xb1b4_51d7, 0xb015_0df7, 0xd077_037e].map(Some);
        let murmur = [0x106e_08d9, 0x058d_780f, 0x4f77_03da, 0x5ec1_9395].map(Some);
        let fnv = [0x7ee3_623b, 0x27e6_f469, 0x155e_3e5f, 0x17b1_e27a].map(Some);
        let zero = Some(0);
        for (name, expected) in [
            ("random", [None; 5]),
            ("consistent", [zero, zero, crc[0], crc[1], crc[2]]),
            ("consistent_random", [None, None, crc[0], crc[1], crc[2]]),
            ("murmur2", [murmur[0], murmur[0], murmur[1], murmur[2], murmur[3]]),
            ("murmur2_random", [None, murmur[0], murmur[1], murmur[2], murmur[3]]),
            ("fnv1a", [fnv[0], fnv[0], fnv[1], fnv[2], fnv[3]]),
            ("fnv1a_random", [None, fnv[0], fnv[1], fnv[2], fnv[3]]),
        ] {
            let strategy = name.parse().unwrap();
            let hashes = keys.map(|key| key_hash(strategy, key.map(str::as_bytes)));
            assert_eq!(hashes, expected, "{name}");
        }
    }
}
