//! Custom partitioners: the application's own choice of a record's partition.
//!
//! `send` calls the partitioner on the caller's thread. The built-in one is
//! `accumulator::builtin_partitioner`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use crate::accumulator::builtin_partitioner::unknown_partition_error;
use crate::accumulator::topics;
use crate::error::{Error, ErrorKind};
use crate::record::Record;

/// Chooses the partition of each record that does not name one (Kafka's `Partitioner`).
///
/// Set it with [`ProducerBuilder::partitioner`](crate::ProducerBuilder::partitioner). The producer
/// calls it once per record, on the thread that calls `send`, and holds no lock meanwhile.
///
/// ```
/// use ottla::{Partitioner, Partitions, Producer, Record};
///
/// /// Sends the records of one customer to the last partition.
/// struct VipPartitioner;
///
/// impl Partitioner for VipPartitioner {
///     fn partition(&self, record: &Record<'_>, partitions: &Partitions<'_>) -> Option<i32> {
///         (record.key_bytes() == Some(b"vip")).then_some(partitions.count() - 1)
///     }
/// }
///
/// let builder = Producer::builder().partitioner(VipPartitioner);
/// ```
pub trait Partitioner: Send + Sync {
    /// Returns the record's partition, from 0 to `partitions.count() - 1`. `None` leaves the choice
    /// to the built-in partitioner.
    ///
    /// With any other number, or after a panic, `send` fails with
    /// [`ErrorKind::InvalidRecord`](crate::ErrorKind::InvalidRecord).
    fn partition(&self, record: &Record<'_>, partitions: &Partitions<'_>) -> Option<i32>;
}

/// The partitions of a record's topic, for a [`Partitioner`].
#[derive(Debug)]
pub struct Partitions<'a> {
    topic: &'a topics::TopicInfo,
    count: i32,
}

impl Partitions<'_> {
    /// Returns the number of partitions.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Returns the node id of a partition's leader; `None` if it has no leader.
    pub fn leader(&self, partition: i32) -> Option<i32> {
        let all = &self.topic.partitions;
        let leader = all.get(usize::try_from(partition).ok()?)?.leader.load(Relaxed);
        (leader != -1).then_some(leader)
    }
}

/// Calls the application's partitioner and checks the number that it returns.
pub(super) fn call_partitioner(
    custom: &dyn Partitioner,
    record: &Record<'_>,
    topic: &topics::TopicInfo,
) -> Result<Option<i32>, Error> {
    let count = topic.partitions.len();
    let partitions = Partitions { topic, count: count as i32 };
    let choice = catch_unwind(AssertUnwindSafe(|| custom.partition(record, &partitions)));
    match choice {
        Ok(Some(p)) if usize::try_from(p).is_ok_and(|p| p < count) => Ok(Some(p)),
        Ok(None) => Ok(None),
        Ok(Some(p)) => {
            let e = unknown_partition_error(&topic.name, p, count);
            let message = format!("the partitioner returned an invalid partition: {e}");
            Err(Error::new(ErrorKind::InvalidRecord, message))
        }
        Err(_) => {
            let message = format!("the partitioner panicked on a record for {}", topic.name);
            Err(Error::new(ErrorKind::InvalidRecord, message))
        }
    }
}
