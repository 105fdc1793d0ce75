//! The consumed offsets that a transaction commits, and the consumer group that they belong to.

use crate::error::{Error, ErrorKind};

/// The consumer group whose offsets a transaction commits, and the member that commits them
/// (Kafka's `ConsumerGroupMetadata`, KIP-447).
///
/// With the member's generation and id, the group's coordinator rejects offsets of a member that
/// has lost its partitions. Without them it accepts the offsets of any client.
///
/// ```
/// use ottla::ConsumerGroupMetadata;
///
/// let group = ConsumerGroupMetadata::new("billing").member(5, "consumer-1-9a7b");
/// assert_eq!((group.group_id(), group.generation_id()), ("billing", 5));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerGroupMetadata {
    group_id: String,
    generation_id: i32,
    member_id: String,
    group_instance_id: Option<String>,
}

impl ConsumerGroupMetadata {
    /// Returns the metadata of a group, without a member.
    pub fn new(group_id: impl Into<String>) -> ConsumerGroupMetadata {
        ConsumerGroupMetadata {
            group_id: group_id.into(),
            generation_id: -1,
            member_id: String::new(),
            group_instance_id: None,
        }
    }

    /// Sets the member that commits the offsets, and the group's generation that it belongs to.
    #[must_use]
    pub fn member(mut self, generation_id: i32, member_id: impl Into<String>) -> Self {
        self.generation_id = generation_id;
        self.member_id = member_id.into();
        self
    }

    /// Sets the instance id of a static member (`group.instance.id`, KIP-345).
    #[must_use]
    pub fn instance(mut self, group_instance_id: impl Into<String>) -> Self {
        self.group_instance_id = Some(group_instance_id.into());
        self
    }

    /// Returns the group's id.
    pub fn group_id(&self) -> &str {
        &self.group_id
    }

    /// Returns the generation; −1 if no member is set.
    pub fn generation_id(&self) -> i32 {
        self.generation_id
    }

    /// Returns the member's id; empty if no member is set.
    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    /// Returns the instance id of a static member.
    pub fn group_instance_id(&self) -> Option<&str> {
        self.group_instance_id.as_deref()
    }

    /// Fails if the group cannot be right.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let reason = if self.group_id.is_empty() {
            "the group id is empty"
        } else if self.generation_id > 0 && self.member_id.is_empty() {
            "the group has a generation but no member id"
        } else {
            return Ok(());
        };
        let message = format!("the offsets were not added to the transaction: {reason}");
        Err(Error::new(ErrorKind::InvalidTransactionState, message))
    }
}

/// The offset of the next record that a consumer group reads from a partition (Kafka's
/// `OffsetAndMetadata`).
///
/// ```
/// use ottla::OffsetAndMetadata;
///
/// // The record at offset 41 was the last one that this transaction has processed.
/// let offset = OffsetAndMetadata::new("orders", 0, 42).leader_epoch(7);
/// assert_eq!(offset.offset, 42);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetAndMetadata {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The offset of the next record to read.
    pub offset: i64,
    /// The leader epoch of the last record that was read (KIP-320).
    pub leader_epoch: Option<i32>,
    /// Text that the group stores with the offset.
    pub metadata: String,
}

impl OffsetAndMetadata {
    /// Returns the offset of the next record to read from a partition.
    pub fn new(topic: impl Into<String>, partition: i32, offset: i64) -> OffsetAndMetadata {
        OffsetAndMetadata {
            topic: topic.into(),
            partition,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }
    }

    /// Sets the leader epoch of the last record that was read.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: i32) -> Self {
        self.leader_epoch = Some(epoch);
        self
    }

    /// Sets text that the group stores with the offset.
    #[must_use]
    pub fn metadata(mut self, text: impl Into<String>) -> Self {
        self.metadata = text.into();
        self
    }
}

/// Offsets that the transaction manager adds to a transaction.
#[derive(Debug, Clone)]
pub(crate) struct ConsumedOffsets {
    pub(crate) group: ConsumerGroupMetadata,
    pub(crate) offsets: Vec<OffsetAndMetadata>,
}

#[cfg(test)]
mod tests {
    use super::*;

    // CASES: KP12.
    #[test]
    fn group_without_id_and_generation_without_member_are_refused() {
        assert!(ConsumerGroupMetadata::new("g").check().is_ok());
        assert!(ConsumerGroupMetadata::new("g").member(1, "m").check().is_ok());
        for group in [ConsumerGroupMetadata::new(""), ConsumerGroupMetadata::new("g").member(1, "")]
        {
            let e = group.check().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidTransactionState, "{e}");
        }
    }
}
