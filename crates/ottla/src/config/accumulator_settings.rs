//! The settings of the record accumulator: how records become batches.

use std::sync::Arc;
use std::time::Duration;

use super::Properties;
use super::compression::Compression;
use super::partitioning_strategy::PartitioningStrategy;
use super::timeouts::Timeouts;
use crate::error::Error;

/// The settings that decide how records become batches.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AccumulatorSettings {
    /// The largest size of a batch in bytes (`batch.size`); with 0, each record is sent alone.
    pub batch_size: usize,
    /// The largest size of a batch in bytes while its node cannot take a request, or other batches
    /// wait before it (`batch.size.max`, at most `max.request.size`).
    pub max_batch_size: usize,
    /// The bytes that all unacknowledged records may occupy (`buffer.memory`).
    pub buffer_memory: u64,
    /// How long a batch waits for more records (`linger.ms`).
    pub linger: Duration,
    /// Whether a batch lingers while a caller waits for one of its records; if false, it does not
    /// (`linger.awaited`).
    pub linger_awaited: bool,
    /// The time from a batch's first record until the batch is acknowledged or fails
    /// (`delivery.timeout.ms`, KIP-91).
    pub delivery_timeout: Duration,
    /// The codec of batches and its level (`compression.type`, `compression.*.level`).
    pub compression: Compression,
    /// How records without a partition are distributed (`partitioner.class`,
    /// `partitioner.ignore.keys`).
    pub partitioning: PartitioningStrategy,
    /// Whether partitions with short queues are chosen more often
    /// (`partitioner.adaptive.partitioning.enable`, KIP-794).
    pub adaptive_partitioning: bool,
    /// How long a node may leave its batches undrained before its partitions are no longer chosen;
    /// zero means no limit (`partitioner.availability.timeout.ms`).
    pub availability_timeout: Duration,
    /// The rack whose leaders are preferred (`client.rack`); `None` unless
    /// `partitioner.rack.aware` is true (KIP-1123).
    pub rack: Option<Arc<str>>,
}

impl AccumulatorSettings {
    pub(super) fn new(p: &Properties) -> Result<AccumulatorSettings, Error> {
        let partitioning = PartitioningStrategy::new(p)?;
        Ok(AccumulatorSettings {
            batch_size: p.get_usize("batch.size"),
            max_batch_size: p.get_usize("batch.size.max").min(p.get_usize("max.request.size")),
            buffer_memory: u64::try_from(p.get_i64("buffer.memory")).unwrap_or_default(),
            linger: Timeouts::new(p)?.linger,
            linger_awaited: p.get_bool("linger.awaited"),
            delivery_timeout: Timeouts::new(p)?.delivery,
            compression: Compression::new(p)?,
            partitioning,
            adaptive_partitioning: p.get_bool("partitioner.adaptive.partitioning.enable"),
            availability_timeout: p.get_duration_ms("partitioner.availability.timeout.ms"),
            rack: rack(p, partitioning)?,
        })
    }
}

/// Returns the rack whose partitions are preferred. Rack-aware partitioning without a rack is an
/// error (CASES BI5); the round-robin partitioner ignores racks.
fn rack(p: &Properties, partitioning: PartitioningStrategy) -> Result<Option<Arc<str>>, Error> {
    if !p.get_bool("partitioner.rack.aware") || partitioning == PartitioningStrategy::RoundRobin {
        return Ok(None);
    }
    match p.get_str("client.rack") {
        "" => Err(Error::config("partitioner.rack.aware=true needs client.rack, which is empty")),
        rack => Ok(Some(rack.into())),
    }
}
