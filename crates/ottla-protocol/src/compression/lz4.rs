//! The LZ4 frame format as Java writes it: independent blocks of 64 KiB, no checksums, an end mark.
//!
//! Level 9 is Kafka's default and stands for the fast compressor. Any other level stands for
//! LZ4-HC, which only the C library has (feature `lz4-hc`).

use std::io::{self, Read};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use lz4_flex::frame::FrameDecoder;

/// The magic number, then the descriptor: version 1, independent blocks, no checksums, blocks of at
/// most 64 KiB, and the descriptor's own check byte.
const FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const END_MARK: [u8; 4] = [0; 4];
const BLOCK_LEN: usize = 64 * 1024;
/// The bit of a block's length that marks a block as stored uncompressed.
const UNCOMPRESSED: u32 = 1 << 31;

/// The fast compressor's hash table and output, which are reused.
///
/// The library's own frame encoder copies its input. It also allocates 150 KB for each frame, which
/// the allocator returns to the system each time.
pub(super) struct Encoder {
    level: i32,
    table: CompressTable,
    /// A compressed block; as long as the largest one was.
    block: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(level: i32) -> Encoder {
        Encoder { level, table: CompressTable::large(), block: Vec::new() }
    }

    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        #[cfg(feature = "lz4-hc")]
        if self.level != super::Codec::Lz4.default_level() {
            return compress_hc(input, self.level, out);
        }
        let _ = self.level;
        out.extend_from_slice(&FRAME_HEADER);
        for input in input.chunks(BLOCK_LEN) {
            let max_len = get_maximum_output_size(input.len());
            if self.block.len() < max_len {
                self.block.resize(max_len, 0);
            }
            let len = compress_into_with_table(input, &mut self.block, &mut self.table)
                .map_err(io::Error::other)?;
            append_block(input, &self.block[..len], out);
        }
        out.extend_from_slice(&END_MARK);
        Ok(())
    }
}

/// Appends a block to a frame: compressed, or as it was if that is not shorter.
fn append_block(input: &[u8], compressed: &[u8], out: &mut Vec<u8>) {
    let (flag, bytes) =
        if compressed.len() < input.len() { (0, compressed) } else { (UNCOMPRESSED, input) };
    out.extend_from_slice(&(bytes.len() as u32 | flag).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Writes the same frame with blocks from the C library's HC compressor.
#[cfg(feature = "lz4-hc")]
fn compress_hc(input: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    use lz4_c::block::{CompressionMode, compress};
    out.extend_from_slice(&FRAME_HEADER);
    for block in input.chunks(BLOCK_LEN) {
        let compressed = compress(block, Some(CompressionMode::HIGHCOMPRESSION(level)), false)?;
        append_block(block, &compressed, out);
    }
    out.extend_from_slice(&END_MARK);
    Ok(())
}

pub(super) fn decoder(input: &[u8]) -> impl Read + '_ {
    FrameDecoder::new(input)
}
