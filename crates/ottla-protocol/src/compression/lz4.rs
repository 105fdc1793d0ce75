//! The LZ4 frame format as Java writes it: independent blocks of 64 KiB, no checksums, an end mark.
//!
//! Level 9 is Kafka's default and stands for the fast compressor. Any other level stands for
//! LZ4-HC, which only the C library has (feature `lz4-hc`).

use std::io::{Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

pub(super) fn compress(input: &[u8], level: i32, out: &mut Vec<u8>) -> std::io::Result<()> {
    #[cfg(feature = "lz4-hc")]
    if level != super::Codec::Lz4.default_level() {
        return compress_hc(input, level, out);
    }
    let _ = level;
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(input)?;
    encoder.finish().map_err(std::io::Error::other)?;
    Ok(())
}

/// Writes the same frame with blocks from the C library's HC compressor.
#[cfg(feature = "lz4-hc")]
fn compress_hc(input: &[u8], level: i32, out: &mut Vec<u8>) -> std::io::Result<()> {
    use lz4_c::block::{CompressionMode, compress};
    out.extend_from_slice(&[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    for block in input.chunks(64 * 1024) {
        let compressed = compress(block, Some(CompressionMode::HIGHCOMPRESSION(level)), false)?;
        // The top bit of the length marks a block that is stored uncompressed.
        const UNCOMPRESSED: u32 = 1 << 31;
        let (flag, bytes) = if compressed.len() < block.len() {
            (0, compressed.as_slice())
        } else {
            (UNCOMPRESSED, block)
        };
        out.extend_from_slice(&(bytes.len() as u32 | flag).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

pub(super) fn decoder(input: &[u8]) -> impl Read + '_ {
    FrameDecoder::new(input)
}
