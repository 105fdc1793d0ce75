//! The four codecs of a record batch, in the framing Java writes and every framing Java reads.
//!
//! Encoders append to a buffer the caller gives; decoders stop at a bound the caller gives, whatever the
//! compressed bytes claim about themselves.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(all(feature = "zstd", not(feature = "zstd-c")))]
mod zstd;
#[cfg(feature = "zstd-c")]
#[path = "zstd_c.rs"]
mod zstd;

use std::fmt;
#[allow(unused_imports)]
use std::io::Read;

use crate::error::DecodeErrorKind;

/// A codec, numbered as in the attributes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// Records as they are.
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy in xerial's stream framing.
    Snappy = 2,
    /// The LZ4 frame format, independent blocks of 64 KiB.
    Lz4 = 3,
    /// RFC 8878 (KIP-110).
    Zstd = 4,
}

impl Codec {
    /// All of them, in order of their number.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec of a batch with these attributes.
    pub fn from_attributes(attributes: i16) -> Option<Codec> {
        Codec::ALL.get((attributes & 7) as usize).copied()
    }

    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }

    /// By Kafka's name.
    pub fn from_name(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Kafka's default level; 0 where the codec has none.
    pub fn default_level(self) -> i32 {
        match self {
            Codec::None | Codec::Snappy => 0,
            Codec::Gzip => -1,
            Codec::Lz4 => 9,
            Codec::Zstd => 3,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A codec or level this build cannot write, with the feature that can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; build with the feature `{feature}`")]
pub struct UnavailableCodec {
    /// What was asked for.
    pub problem: String,
    /// The feature that would have it.
    pub feature: &'static str,
}

/// An encoder of one codec at one level. It holds the codec's state, which is worth keeping from batch to
/// batch, and needs no lock: whoever compresses owns it.
pub struct Compressor {
    codec: Codec,
    level: i32,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Encoder>,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressor({} level {})", self.codec, self.level)
    }
}

impl Compressor {
    /// An encoder; refused where this build has none for the codec or the level.
    pub fn new(codec: Codec, level: i32) -> Result<Compressor, UnavailableCodec> {
        check_available(codec, level)?;
        Ok(Compressor {
            codec,
            level,
            #[cfg(feature = "zstd")]
            zstd: None,
        })
    }

    /// Its codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Appends `input`, compressed, to `out`. Fails only where the codec's library does.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        match self.codec {
            Codec::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Codec::Gzip => gzip::compress(input, self.level, out),
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::compress(input, out),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::compress(input, self.level, out),
            #[cfg(feature = "zstd")]
            Codec::Zstd => {
                let level = self.level;
                let encoder = match &mut self.zstd {
                    Some(e) => e,
                    none => none.insert(zstd::Encoder::new(level)?),
                };
                encoder.compress(input, out)
            }
            #[allow(unreachable_patterns)]
            other => Err(std::io::Error::other(format!("{other} is not in this build"))),
        }
    }
}

#[allow(unused_variables)]
fn check_available(codec: Codec, level: i32) -> Result<(), UnavailableCodec> {
    let missing =
        |feature| UnavailableCodec { problem: format!("no {codec} in this build"), feature };
    match codec {
        #[cfg(not(feature = "gzip"))]
        Codec::Gzip => Err(missing("gzip")),
        #[cfg(not(feature = "snappy"))]
        Codec::Snappy => Err(missing("snappy")),
        #[cfg(not(feature = "lz4"))]
        Codec::Lz4 => Err(missing("lz4")),
        #[cfg(not(feature = "zstd"))]
        Codec::Zstd => Err(missing("zstd")),
        #[cfg(all(feature = "lz4", not(feature = "lz4-hc")))]
        Codec::Lz4 if level != Codec::Lz4.default_level() => Err(UnavailableCodec {
            problem: format!("no lz4 at level {level} in this build, only 9 (the fast one)"),
            feature: "lz4-hc",
        }),
        #[cfg(all(feature = "zstd", not(feature = "zstd-c")))]
        Codec::Zstd if !zstd::LEVELS.contains(&level) => Err(UnavailableCodec {
            problem: format!("no zstd at level {level} in this build, only -7 to 4"),
            feature: "zstd-c",
        }),
        _ => Ok(()),
    }
}

/// Decompresses `input` to at most `limit` bytes.
///
/// # Errors
/// Damaged input, more than `limit` bytes, or a codec that is not in this build.
pub fn decompress(codec: Codec, input: &[u8], limit: usize) -> Result<Vec<u8>, DecodeErrorKind> {
    let what = |e: std::io::Error| DecodeErrorKind::Compression(format!("{codec}: {e}"));
    match codec {
        Codec::None if input.len() <= limit => Ok(input.to_vec()),
        Codec::None => Err(limit_exceeded(codec, limit)),
        #[cfg(feature = "gzip")]
        Codec::Gzip => read_to_limit(codec, gzip::decoder(input), limit),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::decompress(input, limit).map_err(what),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => read_to_limit(codec, lz4::decoder(input), limit),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decompress(input, limit).map_err(what),
        #[allow(unreachable_patterns)]
        _ => Err(what(std::io::Error::other("not in this build"))),
    }
}

fn limit_exceeded(codec: Codec, limit: usize) -> DecodeErrorKind {
    DecodeErrorKind::Compression(format!("{codec}: more than {limit} bytes when decompressed"))
}

/// Reads to the end of a decoder, or to one byte past the bound.
#[allow(dead_code)]
fn read_to_limit(codec: Codec, from: impl Read, limit: usize) -> Result<Vec<u8>, DecodeErrorKind> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|e| DecodeErrorKind::Compression(format!("{codec}: {e}")))?;
    if out.len() > limit { Err(limit_exceeded(codec, limit)) } else { Ok(out) }
}

#[cfg(test)]
mod tests;
