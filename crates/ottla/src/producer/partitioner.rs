//! Partitioners of the application's own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use super::Record;
use crate::accumulator::builtin_partitioner::unknown_partition_error;
use crate::accumulator::topics;
use crate::error::{Error, ErrorKind};

/// Chooses the partition of records that name none. Runs on the caller's thread, once a record, under no lock.
///
/// ```
/// use ottla::{Partitioner, Partitions, Record};
/// /// Loud customers get a partition of their own.
/// struct Loud;
/// impl Partitioner for Loud {
///     fn partition(&self, record: &Record<'_>, partitions: &Partitions<'_>) -> Option<i32> {
///         (record.key_bytes() == Some(b"loud")).then_some(partitions.count() - 1)
///     }
/// }
/// let builder = ottla::Producer::builder().partitioner(Loud);
/// ```
pub trait Partitioner: Send + Sync {
    /// The record's partition, from 0 to one less than their count; `None` leaves it to the built-in
    /// partitioner. Any other number, and a panic, refuses the record (`InvalidRecord`).
    fn partition(&self, record: &Record<'_>, partitions: &Partitions<'_>) -> Option<i32>;
}

/// A topic's partitions, as a [`Partitioner`] sees them.
#[derive(Debug)]
pub struct Partitions<'a> {
    topic: &'a topics::TopicInfo,
    count: i32,
}

impl Partitions<'_> {
    /// How many there are.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The node that leads a partition, if any does.
    pub fn leader(&self, partition: i32) -> Option<i32> {
        let all = &self.topic.partitions;
        let leader = all.get(usize::try_from(partition).ok()?)?.leader.load(Relaxed);
        (leader != -1).then_some(leader)
    }
}

/// Asks; what the built-in partitioner takes where there is no answer is -1, never handed on.
pub(super) fn call_partitioner(
    custom: &dyn Partitioner,
    record: &Record<'_>,
    topic: &topics::TopicInfo,
) -> Result<Option<i32>, Error> {
    let count = topic.partitions.len();
    let partitions = Partitions { topic, count: count as i32 };
    let answer = catch_unwind(AssertUnwindSafe(|| custom.partition(record, &partitions)));
    match answer {
        Ok(Some(p)) if usize::try_from(p).is_ok_and(|p| p < count) => Ok(Some(p)),
        Ok(None) => Ok(None),
        Ok(Some(p)) => {
            let e = unknown_partition_error(&topic.name, p, count);
            Err(Error::new(ErrorKind::InvalidRecord, format!("the partitioner chose wrongly: {e}")))
        }
        Err(_) => Err(Error::new(ErrorKind::InvalidRecord, "the partitioner panicked")),
    }
}
