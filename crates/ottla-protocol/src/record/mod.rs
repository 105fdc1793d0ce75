//! The record batch, format v2 (KIP-98): sizes, the encoder that writes records in place, the 61-byte
//! header made apart, and views over borrowed bytes.

mod encode;
mod header;
mod view;

pub use encode::{Measured, RecordBody, upper_bound};
pub use header::{BatchHeader, HEADER_LEN, attributes};
pub use view::{BatchView, Batches, HeaderView, RecordView, Records};

#[cfg(test)]
mod tests;
