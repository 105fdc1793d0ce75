//! The codec with which a batch is compressed when it is closed, and its buffers.

#![allow(unreachable_pub, reason = "the doctests of `sim::types` use this type")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use ottla_protocol::compression::{Codec, Compressor};

use super::buffer_pool::PooledBuf;
use crate::log_limiter::LogEvent;
use crate::wakeup::caller_context::CallerContext;

/// The capacity in bytes that each buffer of a cached encoder may keep.
const MAX_RETAINED_CAPACITY: usize = 256 * 1024;

/// A codec's state and its buffers. The accumulator caches a few encoders for all threads.
#[derive(Debug)]
pub struct BatchEncoder {
    compressor: Compressor,
    output: Vec<u8>,
    /// A copy of a chain's buffers in one piece, because codecs take one slice.
    contiguous_input: Vec<u8>,
    /// Whether the codec has panicked. Its state is then unknown, so the encoder is not reused.
    pub(crate) poisoned: bool,
}

impl BatchEncoder {
    pub(crate) fn new(compressor: Compressor) -> BatchEncoder {
        BatchEncoder {
            compressor,
            output: Vec::new(),
            contiguous_input: Vec::new(),
            poisoned: false,
        }
    }

    pub(super) fn codec(&self) -> Codec {
        self.compressor.codec()
    }

    /// Returns the result of the last compression.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Compresses the buffers into `output`. Returns the length of the output, or `None` if the
    /// records stay uncompressed.
    pub(super) fn compress(
        &mut self,
        full: &[PooledBuf],
        last: &PooledBuf,
        caller_context: &CallerContext,
    ) -> Option<usize> {
        if self.compressor.codec() == Codec::None {
            return None;
        }
        self.output.clear();
        self.contiguous_input.clear();
        let input: &[u8] = if full.is_empty() {
            &last.bytes
        } else {
            full.iter()
                .chain([last])
                .for_each(|b| self.contiguous_input.extend_from_slice(&b.bytes));
            &self.contiguous_input
        };
        let (compressor, output) = (&mut self.compressor, &mut self.output);
        let result = catch_unwind(AssertUnwindSafe(|| compressor.compress(input, output)));
        if matches!(result, Ok(Ok(()))) {
            return Some(self.output.len());
        }
        self.poisoned = result.is_err();
        if let Some(suppressed) = caller_context.check_log_event(LogEvent::CompressionFailed) {
            log_failed_compression(result, suppressed);
        }
        None
    }

    /// Frees the capacity that only a large batch needed.
    pub(crate) fn shrink_buffers(&mut self) {
        self.output.clear();
        self.output.shrink_to(MAX_RETAINED_CAPACITY);
        self.contiguous_input.clear();
        self.contiguous_input.shrink_to(MAX_RETAINED_CAPACITY);
    }
}

/// Logs why the codec returned an error. An outer error means that it panicked.
fn log_failed_compression(result: std::thread::Result<std::io::Result<()>>, suppressed: u64) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(
            name: "ottla.compression_failed",
            target: "ottla::delivery",
            suppressed,
            "compression failed: {e}; the batch is sent uncompressed"
        ),
        Err(_) => tracing::error!(
            name: "ottla.compression_failed",
            target: "ottla::delivery",
            suppressed,
            "compression failed: the codec panicked; the batch is sent uncompressed"
        ),
    }
}
