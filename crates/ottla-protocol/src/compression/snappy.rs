//! Snappy in xerial's stream framing: a 16-byte header, then length-prefixed blocks of 32 KiB.
//!
//! The decoder also reads raw snappy without framing, which librdkafka and old clients write.

use std::io;

use snap::raw::{Decoder, decompress_len, max_compress_len};

const MAGIC: &[u8; 8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_LEN: usize = 16;
const BLOCK_LEN: usize = 32 * 1024;

/// The compressor's hash table and output, which are reused.
pub(super) struct Encoder {
    snappy: snap::raw::Encoder,
    /// A compressed block; as long as the largest one was.
    block: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder { snappy: snap::raw::Encoder::new(), block: Vec::new() }
    }

    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&1i32.to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
        for input in input.chunks(BLOCK_LEN) {
            let max_len = max_compress_len(input.len());
            if self.block.len() < max_len {
                self.block.resize(max_len, 0);
            }
            let n = self.snappy.compress(input, &mut self.block).map_err(io::Error::other)?;
            out.extend_from_slice(&(n as i32).to_be_bytes());
            out.extend_from_slice(&self.block[..n]);
        }
        Ok(())
    }
}

pub(super) fn decompress(input: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if !input.starts_with(MAGIC) || input.len() < HEADER_LEN {
        decompress_block(input, &mut out, limit)?;
        return Ok(out);
    }
    let mut rest = &input[HEADER_LEN..];
    while !rest.is_empty() {
        let (size, tail) =
            rest.split_at_checked(4).ok_or_else(|| io::Error::other("truncated block length"))?;
        let size = u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let (bytes, tail) = tail.split_at_checked(size).ok_or_else(|| {
            io::Error::other(format!("truncated block: {size} bytes needed, {} remain", tail.len()))
        })?;
        decompress_block(bytes, &mut out, limit)?;
        rest = tail;
    }
    Ok(out)
}

fn decompress_block(input: &[u8], out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let size = decompress_len(input).map_err(io::Error::other)?;
    let start = out.len();
    if size > limit - start.min(limit) {
        return Err(io::Error::other(format!("the decompressed size exceeds {limit} bytes")));
    }
    // A copy element of two or three bytes yields at most 64 bytes. So a larger declared size is
    // false, and is rejected before memory is allocated for it.
    if size > input.len().saturating_mul(64) {
        let len = input.len();
        return Err(io::Error::other(format!("{len} bytes cannot decompress to {size} bytes")));
    }
    out.resize(start + size, 0);
    Decoder::new().decompress(input, &mut out[start..]).map_err(io::Error::other)?;
    Ok(())
}
