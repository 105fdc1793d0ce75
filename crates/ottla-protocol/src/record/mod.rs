//! The record batch, format v2 (KIP-98): sizes, the encoder that writes records in place, the 61-byte
//! header made apart, and views over borrowed bytes.

mod encode;
mod header;
mod view;

pub use encode::{RecordBody, RecordLayout, size_upper_bound};
pub use header::{BATCH_HEADER_LEN, BatchHeader, attributes};
pub use view::{BatchHeaderView, BatchView, Batches, RecordView, Records};

#[cfg(test)]
mod tests;
