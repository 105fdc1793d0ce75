//! zstd (RFC 8878) in Rust alone, without unsafe code: levels -7 to 4. A checksum of the content goes along
//! with every frame, so that whoever reads it would notice were it wrong.

use std::io;
use std::ops::RangeInclusive;

/// Levels there are; of others, the C library has them (feature `zstd-c`).
pub(super) const LEVELS: RangeInclusive<i32> = -7..=4;

pub(super) struct Encoder(zrip::CompressContext);

impl Encoder {
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        // 0 is the library's default, as in C; this one takes it for 1.
        let level = if level == 0 { super::Codec::Zstd.default_level() } else { level };
        let mut context = zrip::CompressContext::new(level).map_err(io::Error::other)?;
        context.set_content_checksum(true);
        Ok(Encoder(context))
    }

    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let at = out.len();
        out.resize(at + zrip::compress_bound(input.len()), 0);
        let n = self.0.compress_into(input, &mut out[at..]).map_err(io::Error::other)?;
        out.truncate(at + n);
        Ok(())
    }
}

pub(super) fn decompress(input: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    zrip::decompress_with_limit(input, limit).map_err(|e| match e {
        zrip::DecompressError::OutputTooSmall => {
            io::Error::other(format!("more than {limit} bytes when decompressed"))
        }
        e => io::Error::other(e),
    })
}
