//! The LZ4 frame format as Java writes it: independent blocks of 64 KiB, no checksums, an end mark.
//!
//! Level 9 is Kafka's default and means the fast compressor; any other level means LZ4-HC, which only the
//! C library has (feature `lz4-hc`).

use std::io::{Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

pub(super) fn compress(input: &[u8], level: i32, out: &mut Vec<u8>) -> std::io::Result<()> {
    #[cfg(feature = "lz4-hc")]
    if level != super::Codec::Lz4.default_level() {
        return high(input, level, out);
    }
    let _ = level;
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(input)?;
    encoder.finish().map_err(std::io::Error::other)?;
    Ok(())
}

/// The same frame around blocks from the C library's HC compressor.
#[cfg(feature = "lz4-hc")]
fn high(input: &[u8], level: i32, out: &mut Vec<u8>) -> std::io::Result<()> {
    use lz4_c::block::{CompressionMode, compress};
    out.extend_from_slice(&[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    for block in input.chunks(64 * 1024) {
        let packed = compress(block, Some(CompressionMode::HIGHCOMPRESSION(level)), false)?;
        // The top bit says "stored as it is": a block must not grow.
        let (mark, bytes) =
            if packed.len() < block.len() { (0, packed.as_slice()) } else { (1 << 31, block) };
        out.extend_from_slice(&(bytes.len() as u32 | mark).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

pub(super) fn decoder(input: &[u8]) -> impl Read + '_ {
    FrameDecoder::new(input)
}
