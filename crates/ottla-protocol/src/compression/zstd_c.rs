//! zstd (RFC 8878) on the reference library. Every level Kafka has; windows up to 2^27 are read.

use std::io::{self, Read};

pub(super) struct Encoder(zstd::bulk::Compressor<'static>);

impl Encoder {
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        Ok(Encoder(zstd::bulk::Compressor::new(level)?))
    }

    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let at = out.len();
        out.resize(at + zstd::zstd_safe::compress_bound(input.len()), 0);
        let n = self.0.compress_to_buffer(input, &mut out[at..])?;
        out.truncate(at + n);
        Ok(())
    }
}

pub(super) fn decompress(input: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(27)?;
    let mut out = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit {
        return Err(io::Error::other(format!("more than {limit} bytes when decompressed")));
    }
    Ok(out)
}
