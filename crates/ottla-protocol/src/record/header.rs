//! The 61-byte header of a record batch.
//!
//! It is encoded separately from the records. So a new producer epoch or sequence needs a new
//! header, but no change to the records, which may be in a socket's queue.

/// Bytes of a batch header.
pub const BATCH_HEADER_LEN: usize = 61;

/// The offset of the attributes, where the checksum begins.
///
/// It does not cover base offset, length, leader epoch and magic: brokers change them.
const ATTRIBUTES_OFFSET: usize = 21;

/// The bits of a batch's attributes.
pub mod attributes {
    /// The compression codec.
    pub const COMPRESSION_CODEC_MASK: i16 = 0x07;
    /// Set for LogAppendTime: the broker sets the timestamps.
    pub const TIMESTAMP_TYPE_MASK: i16 = 0x08;
    /// Set if the batch is part of a transaction.
    pub const TRANSACTIONAL_FLAG_MASK: i16 = 0x10;
    /// Set for a control batch, such as a transaction marker.
    pub const CONTROL_FLAG_MASK: i16 = 0x20;
}

/// The fields of a batch header, without length, magic and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first record's offset; 0 from a producer.
    pub base_offset: i64,
    /// The leader's epoch when it was appended; −1 from a producer.
    pub partition_leader_epoch: i32,
    /// The codec and flags; see [`attributes`].
    pub attributes: i16,
    /// The last record's offset minus the base offset.
    pub last_offset_delta: i32,
    /// The first record's timestamp, in milliseconds since the epoch.
    pub base_timestamp: i64,
    /// The highest timestamp, in milliseconds since the epoch.
    pub max_timestamp: i64,
    /// The producer's id (KIP-98), −1 for none.
    pub producer_id: i64,
    /// The producer's epoch, −1 for none.
    pub producer_epoch: i16,
    /// The first record's sequence number, −1 for none.
    pub base_sequence: i32,
    /// The number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Encodes the header of `records`, with length and checksum (CRC32C from byte 21 on).
    pub fn encode(&self, records: &[u8]) -> [u8; BATCH_HEADER_LEN] {
        self.encode_for_pieces(records.len(), std::iter::once(records))
    }

    /// Encodes the header of records that are in several pieces, with `len` bytes together.
    pub fn encode_for_pieces<'a>(
        &self,
        len: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> [u8; BATCH_HEADER_LEN] {
        let mut h = [0; BATCH_HEADER_LEN];
        h[..8].copy_from_slice(&self.base_offset.to_be_bytes());
        h[8..12].copy_from_slice(&((BATCH_HEADER_LEN - 12 + len) as i32).to_be_bytes());
        h[12..16].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        h[16] = 2;
        h[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        h[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        h[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        h[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        h[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        h[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        h[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        h[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        let header_crc = crc32c::crc32c(&h[ATTRIBUTES_OFFSET..]);
        let crc = pieces.fold(header_crc, crc32c::crc32c_append);
        h[17..21].copy_from_slice(&crc.to_be_bytes());
        h
    }
}

/// Returns the checksum of a whole batch, from the attributes on.
pub(super) fn compute_checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(ATTRIBUTES_OFFSET..).unwrap_or_default())
}
