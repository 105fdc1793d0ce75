//! zstd (RFC 8878) with the C reference library: all levels of Kafka, windows up to 2^27 bytes.

use std::io::{self, Read};

pub(super) struct Encoder(zstd::bulk::Compressor<'static>);

impl Encoder {
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        Ok(Encoder(zstd::bulk::Compressor::new(level)?))
    }

    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + zstd::zstd_safe::compress_bound(input.len()), 0);
        let n = self.0.compress_to_buffer(input, &mut out[start..])?;
        out.truncate(start + n);
        Ok(())
    }
}

pub(super) fn decompress(input: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(27)?;
    let mut out = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit {
        return Err(io::Error::other(format!("the decompressed size exceeds {limit} bytes")));
    }
    Ok(out)
}
