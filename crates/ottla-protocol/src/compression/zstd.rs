//! zstd (RFC 8878) in pure Rust without unsafe code: levels -7 to 4.
//!
//! Each frame has a checksum of its content, so that a decoder detects an error of this encoder.

use std::io;
use std::ops::RangeInclusive;

/// The supported levels. The C library has the others (feature `zstd-c`).
pub(super) const LEVELS: RangeInclusive<i32> = -7..=4;

pub(super) struct Encoder(zrip::CompressContext);

impl Encoder {
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        // Level 0 stands for the default in the C library, but for level 1 in this one.
        let level = if level == 0 { super::Codec::Zstd.default_level() } else { level };
        let mut context = zrip::CompressContext::new(level).map_err(io::Error::other)?;
        context.set_content_checksum(true);
        Ok(Encoder(context))
    }

    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + zrip::compress_bound(input.len()), 0);
        let n = self.0.compress_into(input, &mut out[start..]).map_err(io::Error::other)?;
        out.truncate(start + n);
        Ok(())
    }
}

pub(super) fn decompress(input: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    zrip::decompress_with_limit(input, limit).map_err(|e| match e {
        zrip::DecompressError::OutputTooSmall => {
            io::Error::other(format!("the decompressed size exceeds {limit} bytes"))
        }
        e => io::Error::other(e),
    })
}
