//! The four compression codecs of record batches.
//!
//! Encoders write the framing that Java's client writes and append it to the caller's buffer.
//! Decoders read every framing that Java reads. They stop at the caller's limit, regardless of the
//! size that the compressed bytes declare.
//!
//! ```
//! use ottla_protocol::compression::{Codec, Compressor, decompress};
//!
//! let mut compressor = Compressor::new(Codec::Gzip, Codec::Gzip.default_level())?;
//! let mut compressed = Vec::new();
//! compressor.compress(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &mut compressed)?;
//! assert!(compressed.len() < 40);
//! assert_eq!(decompress(Codec::Gzip, &compressed, 40), Ok(vec![b'a'; 40]));
//! assert!(decompress(Codec::Gzip, &compressed, 39).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
    /// No compression.
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// Snappy in the stream framing of xerial's Java library.
    Snappy = 2,
    /// The LZ4 frame format with independent blocks of 64 KiB.
    Lz4 = 3,
    /// Zstandard (RFC 8878, KIP-110).
    Zstd = 4,
}

impl Codec {
    /// All codecs, in order of their numbers.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Returns the codec of a batch with these attributes; `None` for an unknown number.
    pub fn from_attributes(attributes: i16) -> Option<Codec> {
        Codec::ALL.get((attributes & 7) as usize).copied()
    }

    /// Returns Kafka's name of the codec, as in `compression.type`.
    pub fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }

    /// Returns the codec with Kafka's name.
    pub fn from_name(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Returns Kafka's default level; 0 for a codec without levels.
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

/// A codec or level that this build cannot write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; build with the feature `{feature}`")]
pub struct UnavailableCodec {
    /// The missing codec or level.
    pub problem: String,
    /// The cargo feature that provides it.
    pub feature: &'static str,
}

/// An encoder of one codec at one level.
///
/// It owns the codec's state, which is expensive to create. Reuse it for many batches.
pub struct Compressor {
    codec: Codec,
    level: i32,
    #[cfg(feature = "lz4")]
    lz4: Option<lz4::Encoder>,
    #[cfg(feature = "snappy")]
    snappy: Option<snappy::Encoder>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Encoder>,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressor({} level {})", self.codec, self.level)
    }
}

impl Compressor {
    /// Creates an encoder.
    ///
    /// # Errors
    /// This build does not have the codec or the level.
    pub fn new(codec: Codec, level: i32) -> Result<Compressor, UnavailableCodec> {
        check_available(codec, level)?;
        Ok(Compressor {
            codec,
            level,
            #[cfg(feature = "lz4")]
            lz4: None,
            #[cfg(feature = "snappy")]
            snappy: None,
            #[cfg(feature = "zstd")]
            zstd: None,
        })
    }

    /// Returns the codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Compresses `input` and appends the result to `out`.
    ///
    /// # Errors
    /// The codec's library failed.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        match self.codec {
            Codec::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Codec::Gzip => gzip::compress(input, self.level, out),
            #[cfg(feature = "snappy")]
            Codec::Snappy => {
                self.snappy.get_or_insert_with(snappy::Encoder::new).compress(input, out)
            }
            #[cfg(feature = "lz4")]
            Codec::Lz4 => {
                let level = self.level;
                self.lz4.get_or_insert_with(|| lz4::Encoder::new(level)).compress(input, out)
            }
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
            other => Err(std::io::Error::other(format!("this build does not have {other}"))),
        }
    }
}

#[allow(unused_variables)]
fn check_available(codec: Codec, level: i32) -> Result<(), UnavailableCodec> {
    let missing = |feature| UnavailableCodec {
        problem: format!("this build does not have {codec}"),
        feature,
    };
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
            problem: format!("this build has lz4 only at level 9, not {level}"),
            feature: "lz4-hc",
        }),
        #[cfg(all(feature = "zstd", not(feature = "zstd-c")))]
        Codec::Zstd if !zstd::LEVELS.contains(&level) => Err(UnavailableCodec {
            problem: format!("this build has zstd only at levels -7 to 4, not {level}"),
            feature: "zstd-c",
        }),
        _ => Ok(()),
    }
}

/// Decompresses `input` to at most `limit` bytes.
///
/// # Errors
/// The input is invalid, the result exceeds `limit` bytes, or this build does not have the codec.
pub fn decompress(codec: Codec, input: &[u8], limit: usize) -> Result<Vec<u8>, DecodeErrorKind> {
    let to_kind = |e: std::io::Error| DecodeErrorKind::Compression(format!("{codec}: {e}"));
    match codec {
        Codec::None if input.len() <= limit => Ok(input.to_vec()),
        Codec::None => Err(limit_exceeded(codec, limit)),
        #[cfg(feature = "gzip")]
        Codec::Gzip => read_to_limit(codec, gzip::decoder(input), limit),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::decompress(input, limit).map_err(to_kind),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => read_to_limit(codec, lz4::decoder(input), limit),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decompress(input, limit).map_err(to_kind),
        #[allow(unreachable_patterns)]
        _ => Err(to_kind(std::io::Error::other("this build does not have the codec"))),
    }
}

fn limit_exceeded(codec: Codec, limit: usize) -> DecodeErrorKind {
    DecodeErrorKind::Compression(format!("{codec}: the decompressed size exceeds {limit} bytes"))
}

/// Reads a decoder to its end, or to one byte past the limit.
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
