//! gzip (RFC 1952) with zlib-rs. The decoder reads concatenated members as one stream.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

pub(super) fn compress(input: &[u8], level: i32, out: &mut Vec<u8>) -> std::io::Result<()> {
    // -1 is zlib's own default.
    let level = u32::try_from(level)
        .map_or_else(|_| Compression::default(), |l| Compression::new(l.min(9)));
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(input)?;
    encoder.finish()?;
    Ok(())
}

pub(super) fn decoder(input: &[u8]) -> impl Read + '_ {
    MultiGzDecoder::new(input)
}
