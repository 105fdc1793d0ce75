//! Control batches that end a transaction in a partition (KIP-98).
//!
//! The key of the only record has a version and a type; the value of a marker names the epoch of
//! the transaction coordinator that wrote it.

use super::{BATCH_HEADER_LEN, BatchHeader, BatchView, RecordBody, attributes};
use crate::error::DecodeError;

/// How a transaction ended: the type of its control record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRecordType {
    /// The transaction was aborted.
    Abort,
    /// The transaction was committed.
    Commit,
}

/// The marker that ends a transaction in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// How the transaction ended.
    pub control_type: ControlRecordType,
    /// The epoch of the coordinator that wrote the marker.
    pub coordinator_epoch: i32,
}

/// The largest size in bytes to which a control batch is decompressed. Brokers do not compress it.
const MAX_CONTROL_BYTES: usize = 1 << 16;

impl EndTransactionMarker {
    /// Returns the control batch of a producer's transaction, with base offset 0.
    pub fn encode_batch(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        timestamp_ms: i64,
    ) -> Vec<u8> {
        let control_type: u8 = match self.control_type {
            ControlRecordType::Abort => 0,
            ControlRecordType::Commit => 1,
        };
        let key = [0, 0, 0, control_type];
        let value = [&[0, 0][..], &self.coordinator_epoch.to_be_bytes()].concat();
        let no_headers = std::iter::empty::<(&str, Option<&[u8]>)>();
        let body = RecordBody::new(Some(&key), Some(&value), no_headers);
        let mut record = Vec::new();
        body.encode(&mut record, body.measure(0, 0));
        let header = BatchHeader {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: attributes::TRANSACTIONAL_FLAG_MASK | attributes::CONTROL_FLAG_MASK,
            last_offset_delta: 0,
            base_timestamp: timestamp_ms,
            max_timestamp: timestamp_ms,
            producer_id,
            producer_epoch,
            base_sequence: -1,
            record_count: 1,
        };
        let mut out = Vec::with_capacity(BATCH_HEADER_LEN + record.len());
        out.extend_from_slice(&header.encode(&record));
        out.extend_from_slice(&record);
        out
    }

    /// Reads the marker of a control batch; `None` for a control batch of another type.
    ///
    /// # Errors
    /// The batch has no valid records.
    pub fn decode_batch(
        batch: &BatchView<'_>,
    ) -> Result<Option<EndTransactionMarker>, DecodeError> {
        let records = batch.records(MAX_CONTROL_BYTES)?;
        let records = records.to_vec()?;
        let Some((key, value)) = records.first().and_then(|r| Some((r.key?, r.value?))) else {
            return Ok(None);
        };
        // The versions of key and value may grow: fields are only added behind the known ones.
        let control_type = match key.get(2..4) {
            Some([0, 0]) => ControlRecordType::Abort,
            Some([0, 1]) => ControlRecordType::Commit,
            _ => return Ok(None),
        };
        let epoch = value.get(2..6).and_then(|b| b.first_chunk::<4>());
        Ok(epoch.map(|b| EndTransactionMarker {
            control_type,
            coordinator_epoch: i32::from_be_bytes(*b),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_is_read_back_and_its_record_is_as_kafka_writes_it() {
        let marker =
            EndTransactionMarker { control_type: ControlRecordType::Commit, coordinator_epoch: 7 };
        let bytes = marker.encode_batch(1000, 3, 5);
        let batch = BatchView::parse(&bytes).unwrap();
        batch.verify().unwrap();
        assert!(batch.is_control() && batch.is_transactional());
        let header = batch.header();
        assert_eq!((header.producer_id, header.producer_epoch), (1000, 3));
        assert_eq!(header.base_sequence, -1);
        assert_eq!(EndTransactionMarker::decode_batch(&batch), Ok(Some(marker)));
        let records = batch.records(100).unwrap();
        let record = &records.to_vec().unwrap()[0];
        assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
        assert_eq!(record.value, Some(&[0, 0, 0, 0, 0, 7][..]));
    }

    #[test]
    fn control_record_of_another_type_or_without_epoch_is_no_marker() {
        let header = BatchHeader {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: attributes::CONTROL_FLAG_MASK,
            last_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 1,
            producer_epoch: 0,
            base_sequence: -1,
            record_count: 1,
        };
        for (key, value) in [(&[0, 0, 0, 2][..], &[0; 6][..]), (&[0, 0], &[0; 6]), (&[0; 4], &[0])]
        {
            let no_headers = std::iter::empty::<(&str, Option<&[u8]>)>();
            let body = RecordBody::new(Some(key), Some(value), no_headers);
            let mut record = Vec::new();
            body.encode(&mut record, body.measure(0, 0));
            let bytes = [&header.encode(&record)[..], &record].concat();
            let batch = BatchView::parse(&bytes).unwrap();
            assert_eq!(EndTransactionMarker::decode_batch(&batch), Ok(None), "{key:?}");
        }
    }
}
