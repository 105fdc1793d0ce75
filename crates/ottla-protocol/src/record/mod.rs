//! The record batch, format v2 (KIP-98): record encoder, batch header, views of encoded batches.
//!
//! ```
//! use ottla_protocol::record::{BatchHeader, BatchView, RecordBody};
//!
//! let no_headers = std::iter::empty::<(&str, Option<&[u8]>)>();
//! let record = RecordBody::new(Some(b"key"), Some(b"value"), no_headers);
//! let mut records = Vec::new();
//! record.encode(&mut records, record.measure(0, 0));
//!
//! let header = BatchHeader {
//!     base_offset: 0,
//!     partition_leader_epoch: -1,
//!     attributes: 0,
//!     last_offset_delta: 0,
//!     base_timestamp: 1_000,
//!     max_timestamp: 1_000,
//!     producer_id: -1,
//!     producer_epoch: -1,
//!     base_sequence: -1,
//!     record_count: 1,
//! };
//! let bytes = [&header.encode(&records)[..], &records].concat();
//!
//! let batch = BatchView::parse(&bytes)?;
//! batch.verify()?;
//! let records = batch.records(1 << 20)?;
//! assert_eq!(records.to_vec()?[0].value, Some(&b"value"[..]));
//! # Ok::<(), ottla_protocol::DecodeError>(())
//! ```

mod encode;
mod header;
mod view;
mod control;

pub use control::{ControlRecordType, EndTransactionMarker};
pub use encode::{RecordBody, RecordLayout, size_upper_bound};
pub use header::{BATCH_HEADER_LEN, BatchHeader, attributes};
pub use view::{BatchHeaderView, BatchView, Batches, RecordView, Records};

#[cfg(test)]
mod tests;
