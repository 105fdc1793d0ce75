//! How records without a partition are distributed (`partitioner.class`).

use super::Properties;
use super::choices::choice;
use crate::error::Error;

choice! {
    /// How records without a partition are distributed over the partitions of their topic
    /// (`partitioner.class`).
    #[non_exhaustive]
    #[derive(Default)]
    pub PartitioningStrategy: "partitioner.class", eq;
    /// By the murmur2 hash of the key. A record without a key goes to the sticky partition, which
    /// stays the same until one batch of bytes went to it (KIP-794).
    #[default]
    Default: "DefaultPartitioner",
    /// To the sticky partition, with or without a key (`partitioner.ignore.keys`).
    UniformSticky: "UniformStickyPartitioner",
    /// To one partition after the other, with or without a key.
    RoundRobin: "RoundRobinPartitioner",
    /// librdkafka's default: by the CRC-32 of the key. A record whose key is missing or empty goes
    /// to the sticky partition.
    ConsistentRandom: "consistent_random",
    /// librdkafka's: by the CRC-32 of the key. All records whose key is missing or empty go to
    /// partition 0.
    Consistent: "consistent",
    /// librdkafka's name of Java's way, [`Default`](Self::Default).
    Murmur2Random: "murmur2_random",
    /// librdkafka's: by the murmur2 hash of the key. A missing key counts as an empty one.
    Murmur2: "murmur2",
    /// librdkafka's and Sarama's: by the FNV-1a hash of the key. A record without a key goes to the
    /// sticky partition.
    Fnv1aRandom: "fnv1a_random",
    /// librdkafka's: by the FNV-1a hash of the key. A missing key counts as an empty one.
    Fnv1a: "fnv1a",
    /// librdkafka's: a record with a key goes to a random partition, one without a key to the
    /// sticky partition.
    Random: "random",
}

impl PartitioningStrategy {
    pub(super) fn new(p: &Properties) -> Result<PartitioningStrategy, Error> {
        match PartitioningStrategy::from_class(p.get_str("partitioner.class"))? {
            PartitioningStrategy::Default if p.get_bool("partitioner.ignore.keys") => {
                Ok(PartitioningStrategy::UniformSticky)
            }
            strategy => Ok(strategy),
        }
    }

    /// Parses the value of `partitioner.class`, which may have Kafka's package before the name.
    pub(super) fn from_class(class: &str) -> Result<PartitioningStrategy, Error> {
        let name = class.trim();
        let name = name.strip_prefix("org.apache.kafka.clients.producer.").unwrap_or(name);
        match name.strip_prefix("internals.").unwrap_or(name) {
            // Kafka's default since KIP-794 is no class at all.
            "" | "null" => Ok(PartitioningStrategy::Default),
            name => name.parse().map_err(|e: Error| {
                Error::config(format!(
                    "{e}; other Java classes do not run in this client: give a `Partitioner` to \
                     the builder or set the partition of each record"
                ))
            }),
        }
    }
}
