//! The records in which coordinators keep their state: `__transaction_state` and
//! `__consumer_offsets`.
//!
//! A record's key begins with its type, its value with the version of the value.

use bytes::Bytes;

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::wire::{Reader, Version, Wire, Writer, message};

/// A value of a coordinator's records: its versions, and the version that is written.
pub trait CoordinatorValue: Wire {
    /// The highest version that can be read.
    const MAX_VERSION: i16;
    /// The first flexible version (KIP-482).
    const FIRST_FLEXIBLE: i16;
    /// The version that is written.
    const WRITTEN_VERSION: i16;
}

/// The types of a record: the number with which its key begins.
pub mod key_type {
    /// [`TransactionLogKey`](super::TransactionLogKey), in `__transaction_state`.
    pub const TRANSACTION_LOG: i16 = 0;
    /// [`OffsetCommitKey`](super::OffsetCommitKey), as brokers before Kafka 0.9 wrote it.
    pub const LEGACY_OFFSET_COMMIT: i16 = 0;
    /// [`OffsetCommitKey`](super::OffsetCommitKey), in `__consumer_offsets`.
    pub const OFFSET_COMMIT: i16 = 1;
    /// [`GroupMetadataKey`](super::GroupMetadataKey), in `__consumer_offsets`.
    pub const GROUP_METADATA: i16 = 2;
}

message! {
    /// The key of a transactional id's state.
    pub struct TransactionLogKey {
        /// The transactional id.
        transactional_id: String [0..];
    }
}

message! {
    /// The state of a transactional id.
    pub struct TransactionLogValue {
        /// The producer id.
        producer_id: i64 [0..];
        /// The producer id before the current one, −1 for none.
        previous_producer_id: i64 [1..] tag 0 = -1;
        /// The producer id after the transaction that ends, −1 for no change.
        next_producer_id: i64 [1..] tag 1 = -1;
        /// The producer's epoch.
        producer_epoch: i16 [0..];
        /// The epoch for the next producer id, −1 for none (KIP-939).
        next_producer_epoch: i16 [1..] tag 3 = -1;
        /// The transaction's time-out in milliseconds.
        transaction_timeout_ms: i32 [0..];
        /// The number of the state.
        transaction_status: i8 [0..];
        /// The partitions of the transaction.
        transaction_partitions: Option<Vec<TransactionLogPartitions>> [0..] nullable [0..];
        /// When the state was changed, in milliseconds since the epoch.
        transaction_last_update_timestamp_ms: i64 [0..];
        /// When the transaction was begun, in milliseconds since the epoch; −1 for never.
        transaction_start_timestamp_ms: i64 [0..];
        /// The transaction version of the client that changed the state last.
        client_transaction_version: i16 [1..] tag 2;
    }
}

message! {
    /// The partitions of a topic in a transaction.
    pub struct TransactionLogPartitions {
        /// The topic.
        topic: String [0..];
        /// The partitions.
        partition_ids: Vec<i32> [0..];
    }
}

message! {
    /// The key of a group's offset of a partition.
    pub struct OffsetCommitKey {
        /// The group.
        group: String [0..];
        /// The topic.
        topic: String [0..];
        /// The partition.
        partition: i32 [0..];
    }
}

message! {
    /// A group's offset of a partition.
    pub struct OffsetCommitValue {
        /// The offset of the next record to read.
        offset: i64 [0..];
        /// The leader epoch of the last record read, −1 if unknown.
        leader_epoch: i32 [3..] = -1;
        /// The metadata that the client added.
        metadata: String [0..];
        /// When the offset was committed, in milliseconds since the epoch.
        commit_timestamp: i64 [0..];
        /// When the offset expires, −1 for the broker's default.
        expire_timestamp: i64 [1..=1] = -1;
    }
}

message! {
    /// The key of a classic group's state.
    pub struct GroupMetadataKey {
        /// The group.
        group: String [0..];
    }
}

message! {
    /// The state of a classic group.
    pub struct GroupMetadataValue {
        /// The type of the group's protocol, such as `consumer`.
        protocol_type: String [0..];
        /// The generation.
        generation: i32 [0..];
        /// The assignor.
        protocol: Option<String> [0..] nullable [0..];
        /// The member that leads the group.
        leader: Option<String> [0..] nullable [0..];
        /// When the state was entered, in milliseconds since the epoch; −1 if unknown.
        current_state_timestamp: i64 [2..] = -1;
        /// The members.
        members: Vec<GroupMetadataMember> [0..];
    }
}

message! {
    /// A member of a classic group.
    pub struct GroupMetadataMember {
        /// The member's id.
        member_id: String [0..];
        /// The id of a static member.
        group_instance_id: Option<String> [3..] nullable [3..];
        /// The client's id.
        client_id: String [0..];
        /// The client's host.
        client_host: String [0..];
        /// The rebalance time-out in milliseconds.
        rebalance_timeout: i32 [1..];
        /// The session time-out in milliseconds.
        session_timeout: i32 [0..];
        /// The member's subscription.
        subscription: Bytes [0..];
        /// The member's assignment.
        assignment: Bytes [0..];
    }
}

impl CoordinatorValue for TransactionLogValue {
    const MAX_VERSION: i16 = 1;
    const FIRST_FLEXIBLE: i16 = 1;
    const WRITTEN_VERSION: i16 = 1;
}

impl CoordinatorValue for OffsetCommitValue {
    const MAX_VERSION: i16 = 4;
    const FIRST_FLEXIBLE: i16 = 4;
    const WRITTEN_VERSION: i16 = 3;
}

impl CoordinatorValue for GroupMetadataValue {
    const MAX_VERSION: i16 = 4;
    const FIRST_FLEXIBLE: i16 = 4;
    const WRITTEN_VERSION: i16 = 3;
}

/// The keys have one version, which is not flexible.
const KEY_VERSION: Version = Version { number: 0, flexible: false };

/// Encodes a key behind its type.
///
/// # Errors
/// A string is too long.
pub fn encode_key(key_type: i16, key: &impl Wire) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::new();
    w.i16(key_type);
    key.encode(&mut w, KEY_VERSION);
    w.finish()
}

/// Reads the type of a key.
///
/// # Errors
/// The key is too short.
pub fn decode_key_type(r: &mut Reader<'_>) -> Result<i16, DecodeError> {
    r.i16().map_err(|e| e.with_location("coordinator key", "type"))
}

/// Decodes a key whose type has been read. No bytes may follow it.
///
/// # Errors
/// The key is not valid.
pub fn decode_key<T: Wire>(r: &mut Reader<'_>) -> Result<T, DecodeError> {
    let key = T::decode(r, KEY_VERSION)?;
    r.finish().map_err(|e| e.with_location("coordinator key", "end"))?;
    Ok(key)
}

/// Encodes a value behind its version.
///
/// # Errors
/// A string or list is too long.
pub fn encode_value<T: CoordinatorValue>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::new();
    w.i16(T::WRITTEN_VERSION);
    value.encode(&mut w, to_version::<T>(T::WRITTEN_VERSION));
    w.finish()
}

/// Decodes a value. Bytes behind it are ignored: later versions may append fields.
///
/// # Errors
/// The value is not valid, or its version is not known.
pub fn decode_value<T: CoordinatorValue>(bytes: &Bytes) -> Result<T, DecodeError> {
    let mut r = Reader::new(bytes);
    let number = r.i16().map_err(|e| e.with_location("coordinator value", "version"))?;
    if !(0..=T::MAX_VERSION).contains(&number) {
        let kind = DecodeErrorKind::UnsupportedVersion(number);
        return Err(DecodeError::new(kind, 0).with_location("coordinator value", "version"));
    }
    T::decode(&mut r, to_version::<T>(number))
}

fn to_version<T: CoordinatorValue>(number: i16) -> Version {
    Version { number, flexible: number >= T::FIRST_FLEXIBLE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TestRng;

    fn check_versions<T: CoordinatorValue + PartialEq + std::fmt::Debug>() {
        for number in 0..=T::MAX_VERSION {
            for seed in 0..200 {
                let version = to_version::<T>(number);
                let value = T::arbitrary(&mut TestRng::new(seed), version);
                let mut w = Writer::new();
                w.i16(number);
                value.encode(&mut w, version);
                let bytes = Bytes::from(w.finish().unwrap());
                assert_eq!(decode_value::<T>(&bytes).unwrap(), value, "version {number}");
                for len in 0..bytes.len() {
                    assert!(decode_value::<T>(&bytes.slice(..len)).is_err(), "{len} bytes");
                }
            }
        }
        let unknown = Bytes::copy_from_slice(&(T::MAX_VERSION + 1).to_be_bytes());
        assert!(decode_value::<T>(&unknown).unwrap_err().to_string().contains("version"));
    }

    #[test]
    fn values_are_read_back_in_every_version_and_never_from_a_part() {
        check_versions::<TransactionLogValue>();
        check_versions::<OffsetCommitValue>();
        check_versions::<GroupMetadataValue>();
    }

    #[test]
    fn key_begins_with_its_type() {
        let key = OffsetCommitKey {
            group: "g".into(),
            topic: "t".into(),
            partition: 7,
            ..Default::default()
        };
        let bytes = Bytes::from(encode_key(key_type::OFFSET_COMMIT, &key).unwrap());
        assert_eq!(&bytes[..], &[0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 7]);
        let mut r = Reader::new(&bytes);
        assert_eq!(decode_key_type(&mut r), Ok(key_type::OFFSET_COMMIT));
        assert_eq!(decode_key::<OffsetCommitKey>(&mut r), Ok(key));
        let longer = Bytes::from([&bytes[2..], &[0]].concat());
        let mut r = Reader::new(&longer);
        assert!(decode_key::<OffsetCommitKey>(&mut r).is_err());
    }
}
